//! What went wrong, as the three APIs say it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::catalogue::Catalogue;
use super::jobs::{State, Status, Turned};
use crate::error::Error;
use crate::refusal::Refusal;

/// An API, with its words for fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// This server's own: fields have the names that they have in a [`Request`](crate::request::Request).
    Own,
    /// OpenAI's pictures.
    OpenAi,
    /// AUTOMATIC1111's web UI.
    WebUi,
}

impl Dialect {
    /// The name of a field.
    pub fn name(self, field: &str) -> String {
        let name = match (self, field) {
            (Dialect::OpenAi, "steps") => "num_inference_steps",
            (Dialect::OpenAi, "batch_size") => "n",
            (Dialect::OpenAi, "width" | "height") => "size",
            (Dialect::OpenAi, "lora") => "loras",
            (Dialect::WebUi, "guidance_scale") => "cfg_scale",
            (Dialect::WebUi, "scheduler") => "sampler_name",
            (Dialect::WebUi, "strength") => "denoising_strength",
            (Dialect::WebUi, "image") => "init_images",
            (Dialect::WebUi, "model") => "sd_model_checkpoint",
            (Dialect::WebUi, "vae") => "sd_vae",
            (Dialect::WebUi, "clip_skip") => "CLIP_stop_at_last_layers",
            (_, field) => field,
        };
        name.to_owned()
    }

    /// Whether a field can be given.
    fn takes(self, field: &str) -> bool {
        const COMMON: [&str; 12] = [
            "prompt",
            "negative_prompt",
            "model",
            "seed",
            "steps",
            "scheduler",
            "guidance_scale",
            "strength",
            "width",
            "height",
            "batch_size",
            "lora",
        ];
        match self {
            Dialect::Own => field != "device" && field != "max_memory",
            Dialect::OpenAi => COMMON.contains(&field) || field == "image" || field == "mask",
            Dialect::WebUi => COMMON.contains(&field) || ["image", "mask", "eta", "clip_skip", "vae"].contains(&field),
        }
    }
}

/// What a client is told of a failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The status code.
    pub status: StatusCode,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
    /// The field at fault, in the words of the API.
    pub field: Option<String>,
    /// The API.
    pub dialect: Dialect,
}

impl Failure {
    /// Of one kind.
    pub fn new(dialect: Dialect, status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None, dialect }
    }

    /// A request that is not understood.
    pub fn bad(dialect: Dialect, message: impl Into<String>) -> Self {
        Self::new(dialect, StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// About a field.
    #[must_use]
    pub fn of(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// What is asked for and not there.
    pub fn unsupported(dialect: Dialect, field: &str, why: &str) -> Self {
        Self::new(dialect, StatusCode::UNPROCESSABLE_ENTITY, "unsupported", format!("{field}: {why}")).of(field)
    }

    /// An error of the engine.
    pub fn from_error(dialect: Dialect, error: &Error, catalogue: &Catalogue) -> Self {
        let name = |field: &str| dialect.name(field);
        let message = |error: &Error| catalogue.without_paths(&error.in_words(&name));
        let (status, code) = match error {
            Error::Refused(_) | Error::Usage(_) | Error::Shape(_) => (StatusCode::BAD_REQUEST, "invalid_value"),
            Error::Unsupported(_) => (StatusCode::BAD_REQUEST, "unsupported"),
            Error::Limits(_) => (StatusCode::BAD_REQUEST, "too_large"),
            Error::Cancelled => (StatusCode::CONFLICT, "cancelled"),
            Error::Device(_) => (StatusCode::INTERNAL_SERVER_ERROR, "device"),
            Error::Checkpoint(_) | Error::Config(_) | Error::Unused(_) | Error::Io { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "model")
            }
            Error::Kernel(_) => (StatusCode::INTERNAL_SERVER_ERROR, "kernel"),
        };
        let field = match error {
            Error::Refused(refusal) => Some(dialect.name(refusal.field)),
            Error::Limits(_) => Some(dialect.name("width")),
            _ => None,
        };
        let message = match error {
            // What it is about stands in front.
            Error::Refused(Refusal { field, found, why, instead }) => {
                let can = |field: &str| dialect.takes(field);
                let instead = crate::refusal::offered(instead.clone(), &can);
                let refusal = Refusal { field, found: found.clone(), why: why.clone(), instead };
                catalogue.without_paths(&refusal.in_words(&name))
            }
            error => message(error),
        };
        Self { status, code, message, field, dialect }
    }

    /// Why a job was not taken.
    pub fn turned(dialect: Dialect, turned: Turned, waiting: usize) -> Self {
        match turned {
            Turned::Full => Self::new(
                dialect,
                StatusCode::TOO_MANY_REQUESTS,
                "queue_full",
                format!("{waiting} requests wait already; try again later"),
            ),
            Turned::Draining => {
                let message = "this server is about to end; try again later, or another one";
                Self::new(dialect, StatusCode::SERVICE_UNAVAILABLE, "draining", message)
            }
        }
    }

    /// Why a job that is over has no pictures; `None` if it has.
    pub fn of_job(dialect: Dialect, state: &State, catalogue: &Catalogue, draining: bool) -> Option<Self> {
        match (state.status, &state.error) {
            (Status::Failed, Some(error)) => Some(Self::from_error(dialect, error, catalogue)),
            (Status::Cancelled, _) if draining && state.started.is_none() => {
                Some(Self::turned(dialect, Turned::Draining, 0))
            }
            (Status::Cancelled, _) => Some(Self::from_error(dialect, &Error::Cancelled, catalogue)),
            _ => None,
        }
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        match self.dialect {
            Dialect::Own => json!({"error": {"code": self.code, "message": self.message, "field": self.field}}),
            Dialect::OpenAi => {
                let kind = match self.status {
                    status if status.is_server_error() => "server_error",
                    StatusCode::UNAUTHORIZED => "authentication_error",
                    StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
                    _ => "invalid_request_error",
                };
                json!({"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}})
            }
            Dialect::WebUi => {
                json!({"error": self.code, "detail": self.message, "body": "", "errors": self.message})
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.json())).into_response();
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"unmist\""));
        }
        response
    }
}

/// A result of a handler.
pub type Answer<T> = Result<T, Failure>;
