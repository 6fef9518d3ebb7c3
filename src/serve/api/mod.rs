//! What can be asked, over HTTP.

mod body;
mod events;
mod openai;
mod openapi;
mod operation;
mod own;
mod page;
mod web;
mod webui;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::App;
use super::failure::{Answer, Dialect, Failure};
use super::guard::guard;
use super::jobs::{Job, Made, State};
use super::order::Order;
use crate::image_io::{PictureFormat, encode};

pub use body::random_id;
pub use web::{Files as WebFiles, list as web_files};
pub use webui::Options as Chosen;

/// Every route: the one list of them.
pub fn routes(app: Arc<App>) -> Router {
    Router::new()
        // people
        .route("/", get(page::index))
        .route("/page/{file}", get(page::file))
        .route("/web/", get(web::index))
        .route("/web/{*path}", get(web::file))
        // this server's own
        .route("/v1/server", get(own::server))
        .route("/v1/jobs", post(own::create))
        .route("/v1/jobs/{id}", get(own::show).delete(own::forget))
        .route("/v1/jobs/{id}/events", get(own::events))
        .route("/v1/jobs/{id}/inside", get(own::inside))
        .route("/v1/jobs/{id}/pictures/{index}", get(own::picture))
        .route("/v1/settings", post(own::settings))
        // OpenAI
        .route("/v1/models", get(openai::models))
        .route("/v1/images/generations", post(openai::generations))
        .route("/v1/images/edits", post(openai::edits))
        // AUTOMATIC1111
        .route("/sdapi/v1/txt2img", post(webui::txt2img))
        .route("/sdapi/v1/img2img", post(webui::img2img))
        .route("/sdapi/v1/extra-single-image", post(webui::extras))
        .route("/sdapi/v1/png-info", post(webui::png_info))
        .route("/sdapi/v1/progress", get(webui::progress))
        .route("/sdapi/v1/interrupt", post(webui::interrupt))
        .route("/sdapi/v1/skip", post(webui::interrupt))
        .route("/sdapi/v1/options", get(webui::options).post(webui::set_options))
        .route("/sdapi/v1/sd-models", get(webui::models))
        .route("/sdapi/v1/sd-vae", get(webui::vaes))
        .route("/sdapi/v1/samplers", get(webui::samplers))
        .route("/sdapi/v1/schedulers", get(webui::schedulers))
        .route("/sdapi/v1/loras", get(webui::loras))
        .route("/sdapi/v1/embeddings", get(webui::embeddings))
        .route("/sdapi/v1/upscalers", get(webui::upscalers))
        .route("/sdapi/v1/latent-upscale-modes", get(webui::latent_upscale_modes))
        .route("/sdapi/v1/cmd-flags", get(webui::nothing))
        .route("/sdapi/v1/memory", get(webui::memory))
        .route("/sdapi/v1/scripts", get(webui::scripts))
        .route("/sdapi/v1/face-restorers", get(webui::none))
        .route("/sdapi/v1/hypernetworks", get(webui::none))
        .route("/sdapi/v1/prompt-styles", get(webui::none))
        // operators
        .route("/health/live", get(operation::live))
        .route("/health/ready", get(operation::ready))
        .route("/v2/health/live", get(operation::live))
        .route("/v2/health/ready", get(operation::ready))
        .route("/metrics", get(operation::metrics))
        .route("/openapi.json", get(operation::openapi))
        .fallback(operation::unknown)
        .method_not_allowed_fallback(operation::other_method)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Puts a job among those that wait.
fn submit(app: &App, dialect: Dialect, mut order: Order) -> Answer<Arc<Job>> {
    order.request.precision = order.request.precision.or(app.options.precision);
    let job = Job::new(random_id(), order);
    app.jobs.add(&job).map_err(|turned| Failure::turned(dialect, turned, app.jobs.capacity()))?;
    Ok(job)
}

/// Stops a job when its client leaves: when the handler that holds this is dropped before its end.
struct Abandon {
    app: Arc<App>,
    job: Option<Arc<Job>>,
}

impl Abandon {
    fn new(app: &Arc<App>, job: &Arc<Job>) -> Self {
        Self { app: app.clone(), job: Some(job.clone()) }
    }

    /// The job is over.
    fn done(mut self) {
        if let Some(job) = self.job.take() {
            self.app.jobs.forget(&job);
        }
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.app.jobs.forget(&job);
        }
    }
}

/// Waits for the end of a job; a client that leaves meanwhile stops it.
async fn finished(app: &Arc<App>, dialect: Dialect, job: &Arc<Job>) -> Answer<State> {
    let abandon = Abandon::new(app, job);
    let state = job.over().await;
    abandon.done();
    match Failure::of_job(dialect, &state, &app.catalogue, app.jobs.is_draining()) {
        Some(failure) => Err(failure),
        None => Ok(state),
    }
}

/// The bytes of a picture's file with its settings inside.
async fn encoded(made: Made, format: PictureFormat) -> Result<Vec<u8>, crate::Error> {
    let encode = move || {
        let name = std::path::Path::new("the picture");
        let with_texts = encode(name, &made.picture, &made.texts, format);
        // Settings that a format cannot hold do not cost the picture.
        with_texts.or_else(|_| encode(name, &made.picture, &[], format))
    };
    tokio::task::spawn_blocking(encode).await.expect("pictures of a run can be encoded without a panic")
}

/// A picture's file in base64.
async fn in_base64(app: &App, dialect: Dialect, made: Made, format: PictureFormat) -> Answer<String> {
    use base64::Engine;
    let bytes = encoded(made, format).await.map_err(|error| Failure::from_error(dialect, &error, &app.catalogue))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// An unfinished picture, as one without settings.
fn unfinished(picture: &Arc<crate::image_io::Picture>) -> Made {
    Made { picture: picture.clone(), texts: Arc::default(), seed: 0 }
}
