//! The page: files that the program carries, without anything from elsewhere.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::serve::failure::{Dialect, Failure};

/// The page's files: name, media type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("index.html", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("page.css", "text/css; charset=utf-8", include_str!("../page/page.css")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("../page/page.js")),
];

/// Scripts, styles and pictures of this server alone.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The page itself.
pub async fn index() -> Response {
    give("index.html")
}

/// What it needs.
pub async fn file(Path(name): Path<String>) -> Response {
    give(&name)
}

fn give(name: &str) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(file, ..)| *file == name) else {
        return Failure::new(Dialect::Own, StatusCode::NOT_FOUND, "not_found", "there is no such file").into_response();
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CONTENT_SECURITY_POLICY, POLICY)], *content)
        .into_response()
}
