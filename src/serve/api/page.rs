//! The page: files that the program carries, without anything from elsewhere.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::serve::failure::{Dialect, Failure};

macro_rules! files {
    ($($name:literal),*) => { &[$(($name, include_str!(concat!("../page/", $name)))),*] };
}

/// The page's files: name and content.
const FILES: &[(&str, &str)] = files![
    "index.html",
    "icon.svg",
    "page.css",
    "parts.css",
    // What happens when something is pressed; it uses the others.
    "page.js",
    "api.js",
    "brush.js",
    "dom.js",
    "errors.js",
    "form.js",
    "gallery.js",
    "inside.js",
    "loras.js",
    "models.js",
    "plot.js",
    "run.js",
    "start.js",
    "tabs.js"
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
    let Some((_, content)) = FILES.iter().find(|(file, _)| *file == name) else {
        return Failure::new(Dialect::Own, StatusCode::NOT_FOUND, "not_found", "there is no such file").into_response();
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CONTENT_SECURITY_POLICY, POLICY)], *content)
        .into_response()
}
