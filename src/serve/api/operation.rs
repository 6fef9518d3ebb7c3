//! For those who run the server: is it alive, is it ready, what has it done.

use std::sync::Arc;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::serve::App;
use crate::serve::failure::{Dialect, Failure};

/// Alive: it answers.
pub async fn live() -> &'static str {
    "live\n"
}

/// Ready: it takes jobs.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let (_, waiting) = app.jobs.counts();
    let why = match () {
        () if app.metrics.is_lost() => "the device was lost",
        () if app.jobs.is_draining() => "about to end",
        () if waiting >= app.jobs.capacity() => "as many requests wait as may",
        () => return "ready\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
}

/// Counters.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(&app.jobs);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The description of all routes.
pub async fn openapi() -> Json<Value> {
    Json(super::openapi::description())
}

/// What there is not.
pub async fn unknown(OriginalUri(uri): OriginalUri) -> Failure {
    let dialect = if uri.path().starts_with("/sdapi/") { Dialect::WebUi } else { Dialect::OpenAi };
    let message = "there is nothing of this name; /openapi.json lists what there is";
    Failure::new(dialect, StatusCode::NOT_FOUND, "not_found", message)
}

/// A method that a route does not have.
pub async fn other_method(method: Method) -> Failure {
    let message = format!("{method} is not for this; /openapi.json lists what there is");
    Failure::new(Dialect::Own, StatusCode::METHOD_NOT_ALLOWED, "method", message)
}
