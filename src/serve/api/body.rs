//! Bodies: read with a limit and a patience, and understood with the field named that is not.

use std::hash::BuildHasher;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Multipart, Query, Request};
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use serde::de::DeserializeOwned;

use crate::serve::App;
use crate::serve::failure::{Answer, Dialect, Failure};

/// How long a client may take to send a body.
const PATIENCE: Duration = Duration::from_secs(60);

/// 32 hexadecimal digits that cannot be guessed: the hash functions of the standard library begin with random numbers
/// of the system.
pub fn random_id() -> String {
    let half = || std::hash::RandomState::new().hash_one(std::time::Instant::now());
    format!("{:016x}{:016x}", half(), half())
}

fn too_slow(dialect: Dialect) -> Failure {
    Failure::new(dialect, StatusCode::REQUEST_TIMEOUT, "timeout", "the request's body did not come in time")
}

/// All bytes of a body.
pub async fn bytes(app: &App, dialect: Dialect, request: Request) -> Answer<Bytes> {
    let limit = app.options.limits.body;
    let body = tokio::time::timeout(PATIENCE, to_bytes(request.into_body(), limit)).await;
    body.map_err(|_| too_slow(dialect))?.map_err(|_| {
        let message = format!("the body has more than {limit} bytes, or was cut off");
        Failure::new(dialect, StatusCode::PAYLOAD_TOO_LARGE, "body", message)
    })
}

fn media_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// JSON. Only as `application/json`: pages from elsewhere cannot send that unasked.
pub async fn json<T: DeserializeOwned>(app: &App, dialect: Dialect, request: Request) -> Answer<T> {
    let found = media_type(request.headers());
    if found != "application/json" {
        let message = format!("content-type: expected application/json, found {found:?}");
        return Err(Failure::new(dialect, StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    let bytes = bytes(app, dialect, request).await?;
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    let value = understood(dialect, serde_path_to_error::deserialize(&mut reader))?;
    reader.end().map_err(|error| Failure::bad(dialect, format!("not JSON: {error}")))?;
    Ok(value)
}

/// A value of a type, or the field that does not fit it.
pub fn understood<T>(dialect: Dialect, read: Result<T, serde_path_to_error::Error<serde_json::Error>>) -> Answer<T> {
    read.map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        if why.is_syntax() || why.is_eof() {
            return Failure::bad(dialect, format!("not JSON: {why}"));
        }
        let why = why.to_string();
        // serde's own sentence about a field that there is not names all that there are.
        if let Some(field) = why.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
            let message = format!("there is no field {field}");
            return Failure::new(dialect, StatusCode::BAD_REQUEST, "unknown_field", message).of(field);
        }
        let field = path.split(['.', '[']).find(|part| !part.is_empty());
        let why = why.split(" at line ").next().unwrap_or_default().to_owned();
        match field {
            Some(field) => Failure::bad(dialect, format!("{path}: {why}")).of(field),
            None => Failure::bad(dialect, why),
        }
    })
}

/// What stands behind the question mark.
pub fn query<T>(dialect: Dialect, read: Result<Query<T>, QueryRejection>) -> Answer<T> {
    read.map(|Query(value)| value).map_err(|error| {
        let text = error.body_text();
        let why = text.trim_start_matches("Failed to deserialize query string: ");
        match why.split_once(": ") {
            Some((field, _)) => Failure::bad(dialect, why).of(field),
            None => Failure::bad(dialect, why),
        }
    })
}

/// A form's fields: texts by name, and files.
pub struct Form {
    /// Every text.
    pub texts: Vec<(String, String)>,
    /// Every file: the name of its field, and its bytes.
    pub files: Vec<(String, Vec<u8>)>,
}

/// `multipart/form-data`.
pub async fn form(app: &App, dialect: Dialect, request: Request) -> Answer<Form> {
    let found = media_type(request.headers());
    if found != "multipart/form-data" {
        let message = format!("content-type: expected multipart/form-data, found {found:?}");
        return Err(Failure::new(dialect, StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    // Read whole, and within the limit, before it is taken apart.
    let headers = request.headers().clone();
    let body = bytes(app, dialect, request).await?;
    let mut request = Request::new(body.into());
    *request.headers_mut() = headers;
    let bad = |error: &dyn std::fmt::Display| Failure::bad(dialect, format!("multipart/form-data: {error}"));
    let mut parts = Multipart::from_request(request, &()).await.map_err(|error| bad(&error))?;
    let mut form = Form { texts: Vec::new(), files: Vec::new() };
    while let Some(part) = parts.next_field().await.map_err(|error| bad(&error))? {
        let name = part.name().unwrap_or_default().to_owned();
        if part.file_name().is_some() {
            form.files.push((name, part.bytes().await.map_err(|error| bad(&error))?.to_vec()));
        } else {
            form.texts.push((name, part.text().await.map_err(|error| bad(&error))?));
        }
    }
    Ok(form)
}

/// The bytes of a picture in base64, perhaps as a `data:` URL. Other URLs are not fetched.
pub fn picture(dialect: Dialect, field: &str, text: &str) -> Answer<Vec<u8>> {
    let data = match text.split_once(',') {
        Some((head, data)) if head.starts_with("data:") => data,
        _ => text,
    };
    let data: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let engine = base64::engine::general_purpose::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    engine.decode(data).ok().filter(|bytes| !bytes.is_empty()).ok_or_else(|| {
        let message = format!("{field}: expected a picture in base64, as such or as a data: URL; URLs are not fetched");
        Failure::bad(dialect, message).of(field)
    })
}
