//! What every request passes before it is read: who is called, from where, with which key; and what every answer
//! carries.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use sha2::{Digest, Sha256};

use super::App;
use super::api::random_id;
use super::failure::{Dialect, Failure};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Lets a request through, or says why not; and logs it.
pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request.headers().get(REQUEST_ID).filter(|id| is_plain(id)).cloned();
    let id = id.unwrap_or_else(|| HeaderValue::from_str(&random_id()).expect("hexadecimal digits are a header's"));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed =
        origin.filter(|origin| app.options.cors_origins.iter().any(|one| one.as_bytes() == origin.as_bytes()));

    let mut response = match check(&app, &request, allowed.is_some()) {
        Err(failure) => failure.into_response(),
        Ok(()) if method == Method::OPTIONS && allowed.is_some() => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => next.run(request).await,
    };

    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static(if allowed.is_some() { "cross-origin" } else { "same-origin" }),
    );
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = allowed {
        // Named origins only, and never with what a browser remembers of a user.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let methods = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = HeaderValue::from_static("authorization, content-type, x-request-id");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    let status = response.status().as_u16();
    app.metrics.answered(&route, status);
    app.options.log.line(
        "request",
        &[
            ("id", id.to_str().unwrap_or_default().into()),
            ("method", method.as_str().into()),
            ("path", path.into()),
            ("status", status.into()),
            ("ms", (began.elapsed().as_millis() as u64).into()),
        ],
    );
    response
}

/// Of letters, digits and hyphens, and not long: what may be repeated in a log.
fn is_plain(id: &HeaderValue) -> bool {
    id.len() <= 128
        && !id.is_empty()
        && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn check(app: &App, request: &Request, from_allowed: bool) -> Result<(), Failure> {
    let path = request.uri().path();
    let dialect = match path {
        _ if path.starts_with("/sdapi/") => Dialect::WebUi,
        _ if path.starts_with("/v1/images/") || path == "/v1/models" => Dialect::OpenAi,
        _ => Dialect::Own,
    };
    let refuse = |status, code, message: String| Err(Failure::new(dialect, status, code, message));
    // Probes come from anywhere, and learn nothing.
    if path.starts_with("/health/") || path.starts_with("/v2/health/") {
        return Ok(());
    }
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_own(host, &app.options.allowed_hosts) {
        let message =
            format!("this server is not {host:?}; it is called by its address, localhost, or an allowed host");
        return refuse(StatusCode::FORBIDDEN, "host", message);
    }
    // A page from elsewhere may make a browser send what needs no permission: a form, a picture.
    if !from_allowed && is_foreign(headers, host) {
        let message = "requests of pages from elsewhere are not taken; see cors-origin".to_owned();
        return refuse(StatusCode::FORBIDDEN, "origin", message);
    }
    if request.method() == Method::OPTIONS && from_allowed {
        return Ok(()); // a browser asks without a key
    }
    if let Some(key) = &app.options.api_key
        && !given_key(headers).is_some_and(|given| is_same(&given, key))
    {
        return refuse(
            StatusCode::UNAUTHORIZED,
            "api_key",
            "give the server's key: as Bearer, or as a password".into(),
        );
    }
    Ok(())
}

/// Whether a host header names this server: by an address, which no name server can give away, as localhost, or by an
/// allowed name.
fn is_own(host: &str, allowed: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok()
        || allowed.iter().any(|one| one.eq_ignore_ascii_case(name) || one.eq_ignore_ascii_case(host))
}

/// Whether a browser says that another page sends this.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let mode = text(HeaderName::from_static("sec-fetch-mode"));
    // A link to the page is no request of another page.
    let from_elsewhere = matches!(site, Some("cross-site" | "same-site")) && mode != Some("navigate");
    from_elsewhere || text(header::ORIGIN).is_some_and(|origin| !own(origin))
}

/// The key that a client gives: a token, or the password of a user of any name; or both as AUTOMATIC1111 has them.
fn given_key(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = given.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = base64::engine::general_purpose::STANDARD.decode(rest.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        return Some(text.split_once(':').map_or(text.as_str(), |(_, password)| password).to_owned());
    }
    None
}

/// Compares in a time that does not depend on where texts differ: their hashes, every byte.
fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(&b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_others_give_is_not_ones_own() {
        for host in ["localhost", "LOCALHOST:7860", "127.0.0.1:7860", "[::1]:7860", "192.168.0.7", "fox.example:80"] {
            assert!(is_own(host, &["fox.example".into()]), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7860", "fox.example.evil"] {
            assert!(!is_own(host, &["fox.example".into()]), "{host}");
        }
    }

    #[test]
    fn keys_come_as_tokens_and_passwords() {
        let key = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            given_key(&headers)
        };
        assert_eq!(key("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(key("basic dXNlcjphYmM=").as_deref(), Some("abc"));
        assert_eq!(key("Basic not-base64"), None);
        assert_eq!(key("Digest abc"), None);
        assert!(is_same("abc", "abc") && !is_same("abc", "abd") && !is_same("", "abc"));
    }

    #[test]
    fn pages_from_elsewhere_are_known() {
        let foreign = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
            is_foreign(&headers, "localhost:7860")
        };
        assert!(!foreign(&[]) && !foreign(&[("origin", "http://localhost:7860"), ("sec-fetch-site", "same-origin")]));
        assert!(!foreign(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]));
        assert!(foreign(&[("origin", "http://evil.example")]) && foreign(&[("origin", "null")]));
        assert!(foreign(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]));
        assert!(foreign(&[("origin", "http://localhost:8000")]), "another port is another page");
    }
}
