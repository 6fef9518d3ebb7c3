//! This server's own API: a job is a [`Request`], asked for, watched, fetched.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::events::{Events, stream};
use super::{body, encoded, submit, unfinished};
use crate::generate::{Notes, Source};
use crate::image_io::{PictureFormat, text_of};
use crate::request::Request;
use crate::schedulers::{samplers, schedules};
use crate::serve::App;
use crate::serve::failure::{Answer, Dialect, Failure};
use crate::serve::jobs::{Job, State as JobState, Status};
use crate::serve::order::{Order, Pictures};

const OWN: Dialect = Dialect::Own;

/// What the server has and allows: for a page, or a program that offers choices.
pub async fn server(State(app): State<Arc<App>>) -> Json<Value> {
    let (running, waiting) = app.jobs.counts();
    let for_facts = app.clone();
    // A model is opened the first time it is asked about.
    let facts = move || {
        let catalogue = &for_facts.catalogue;
        catalogue.models().filter_map(|name| catalogue.facts(name)).map(|facts| json!(*facts)).collect::<Vec<_>>()
    };
    let models = tokio::task::spawn_blocking(facts).await.unwrap_or_default();
    let names =
        |names: &std::collections::BTreeMap<String, std::path::PathBuf>| names.keys().cloned().collect::<Vec<_>>();
    let limits = &app.options.limits;
    Json(json!({
        "version": crate::generate::Record::version(),
        "device": app.device,
        "models": models,
        "loras": names(&app.catalogue.loras),
        "embeddings": names(&app.catalogue.embeddings),
        "vaes": names(&app.catalogue.vaes),
        "samplers": samplers().map(|(name, _)| name).collect::<Vec<_>>(),
        "schedules": schedules().collect::<Vec<_>>(),
        "limits": {
            "pixels": limits.pixels,
            "steps": limits.steps,
            "pictures": limits.pictures,
            "prompt": limits.prompt,
            "body": limits.body,
        },
        "running": running,
        "waiting": waiting,
        "capacity": app.jobs.capacity(),
    }))
}

/// How a job is done.
#[derive(Deserialize)]
pub struct How {
    /// Whether the run is recorded, for `inside`.
    #[serde(default)]
    inside: bool,
}

/// A job from a [`Request`] as JSON; `image` and `mask` are pictures in base64.
pub async fn create(
    State(app): State<Arc<App>>,
    how: Result<Query<How>, QueryRejection>,
    request: axum::extract::Request,
) -> Answer<Response> {
    let how = body::query(OWN, how)?;
    let mut fields: Map<String, Value> = body::json(&app, OWN, request).await?;
    let mut picture = |field: &str| -> Answer<Option<Vec<u8>>> {
        match fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => body::picture(OWN, field, &text).map(Some),
            Some(_) => Err(Failure::bad(OWN, format!("{field}: expected a picture in base64")).of(field)),
        }
    };
    let pictures = Pictures { image: picture("image")?, mask: picture("mask")? };
    let request: Request = body::understood(OWN, serde_path_to_error::deserialize(Value::from(fields)))?;
    let mut order = Order::new(request, pictures, &app.catalogue, &app.options.limits)
        .map_err(|error| Failure::from_error(OWN, &error, &app.catalogue))?;
    order.inside = how.inside;
    let job = submit(&app, OWN, order)?;
    let mut response = (StatusCode::ACCEPTED, Json(shown(&app, &job, &job.state()))).into_response();
    let place = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)).expect("an id is of hexadecimal digits");
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

fn find(app: &App, id: &str) -> Answer<Arc<Job>> {
    app.jobs.get(id).ok_or_else(|| {
        let message = "there is no such job; finished ones are kept for ten minutes";
        Failure::new(OWN, StatusCode::NOT_FOUND, "no_job", message)
    })
}

/// A job as JSON.
fn shown(app: &App, job: &Job, state: &JobState) -> Value {
    let pictures: Vec<Value> = state
        .pictures
        .iter()
        .enumerate()
        .map(|(i, made)| {
            json!({
                "url": format!("/v1/jobs/{}/pictures/{i}", job.id),
                "seed": made.seed,
                "width": made.picture.width,
                "height": made.picture.height,
            })
        })
        .collect();
    let failure = Failure::of_job(OWN, state, &app.catalogue, app.jobs.is_draining());
    let error = failure.filter(|_| state.status == Status::Failed).map(|failure| failure.json()["error"].clone());
    let since = |from: std::time::Instant, to: Option<std::time::Instant>| {
        to.map_or_else(|| from.elapsed(), |to| to - from).as_secs_f64()
    };
    json!({
        "id": job.id,
        "status": state.status,
        "position": app.jobs.position(job),
        "step": state.step,
        "steps": state.steps,
        "seconds_left": state.seconds_left(),
        "seconds": state.started.map(|started| since(started, state.over)),
        "model": state.model,
        "settings": state.settings,
        "notes": state.notes,
        "pictures": pictures,
        "error": error,
    })
}

/// What has become of a job.
pub async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Json<Value>> {
    let job = find(&app, &id)?;
    Ok(Json(shown(&app, &job, &job.state())))
}

/// Stops a job and forgets it.
pub async fn forget(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<StatusCode> {
    app.jobs.forget(&*find(&app, &id)?);
    Ok(StatusCode::NO_CONTENT)
}

/// What was recorded inside a job so far.
pub async fn inside(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer<Json<Value>> {
    let job = find(&app, &id)?;
    let inside = job.inside.as_ref().ok_or_else(|| {
        let message = "the job was not recorded: ask for it with POST /v1/jobs?inside=true";
        Failure::new(OWN, StatusCode::NOT_FOUND, "not_recorded", message)
    })?;
    Ok(Json(crate::serve::inside::json(inside)))
}

/// How the events of a job shall be.
#[derive(Deserialize)]
pub struct Watch {
    /// An unfinished picture after every so many steps.
    preview_every: Option<usize>,
}

/// A job's events: `queued`, `step`, `preview`, and at last `finished`, `failed` or `cancelled`.
pub async fn events(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    watch: Result<Query<Watch>, QueryRejection>,
) -> Answer<Response> {
    let watch = body::query(OWN, watch)?;
    let job = find(&app, &id)?;
    Ok(stream(move |events| tell(app, job, watch, events)))
}

async fn tell(app: Arc<App>, job: Arc<Job>, watch: Watch, events: Events) {
    let _previews = watch.preview_every.map(|every| job.preview_every(every));
    let mut changes = job.watch();
    let (mut told, mut previewed, mut place) = (None, 0, None);
    loop {
        changes.borrow_and_update();
        let state = job.state();
        if state.status.is_over() {
            let name = match state.status {
                Status::Finished => "finished",
                Status::Failed => "failed",
                _ => "cancelled",
            };
            events.send(name, &shown(&app, &job, &state)).await;
            return;
        }
        let mut listening = true;
        let position = app.jobs.position(&job);
        if state.status == Status::Queued && place != Some(position) {
            listening &= events.send("queued", &json!({"position": position})).await;
            place = Some(position);
        }
        if state.status == Status::Running && told != Some(state.step) {
            let (step, steps, left) = (state.step, state.steps, state.seconds_left());
            listening &= events.send("step", &json!({"step": step, "steps": steps, "seconds_left": left})).await;
            told = Some(state.step);
        }
        if let Some(preview) = state.preview.filter(|preview| preview.step > previewed) {
            previewed = preview.step;
            if let Ok(bytes) = encoded(unfinished(&preview.picture), PictureFormat::Png).await {
                let data = base64::engine::general_purpose::STANDARD.encode(bytes);
                let url = format!("data:image/png;base64,{data}");
                listening &= events.send("preview", &json!({"step": preview.step, "image": url})).await;
            }
        }
        if !listening {
            return;
        }
        // One that waits is told when those before it are gone.
        let again = tokio::time::sleep(std::time::Duration::from_secs(1));
        tokio::select! {
            _ = changes.changed() => {}
            () = again => {}
            () = events.closed() => return,
        }
    }
}

/// In which form a picture is wanted.
#[derive(Deserialize)]
pub struct Form {
    /// `png`, `jpeg` or `webp`.
    format: Option<String>,
    /// From 1 to 100, of a JPEG.
    quality: Option<u8>,
}

/// A file's format by its name.
pub fn format_of(dialect: Dialect, field: &str, name: Option<&str>, quality: Option<u8>) -> Answer<PictureFormat> {
    match name.unwrap_or("png") {
        "png" => Ok(PictureFormat::Png),
        "jpeg" | "jpg" => Ok(PictureFormat::Jpeg(quality.unwrap_or(90).clamp(1, 100))),
        "webp" => Ok(PictureFormat::WebP),
        other => Err(Failure::bad(dialect, format!("{field} {other:?}: expected png, jpeg or webp")).of(field)),
    }
}

/// The media type of a format.
pub fn media_type(format: PictureFormat) -> &'static str {
    match format {
        PictureFormat::Png => "image/png",
        PictureFormat::Jpeg(_) => "image/jpeg",
        PictureFormat::WebP => "image/webp",
    }
}

/// A finished picture's file.
pub async fn picture(
    State(app): State<Arc<App>>,
    Path((id, index)): Path<(String, String)>,
    form: Result<Query<Form>, QueryRejection>,
) -> Answer<Response> {
    let form = body::query(OWN, form)?;
    let job = find(&app, &id)?;
    let format = format_of(OWN, "format", form.format.as_deref(), form.quality)?;
    let made = index.parse().ok().and_then(|index: usize| job.state().pictures.get(index).cloned());
    let made = made.ok_or_else(|| {
        Failure::new(OWN, StatusCode::NOT_FOUND, "no_picture", "the job has no such picture, or not yet")
    })?;
    let bytes = encoded(made, format).await.map_err(|error| Failure::from_error(OWN, &error, &app.catalogue))?;
    Ok(([(header::CONTENT_TYPE, media_type(format))], bytes).into_response())
}

/// The settings that a picture remembers: its file is the body.
pub async fn settings(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> Answer<Json<Value>> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // What a page from elsewhere cannot send unasked.
    if !kind.starts_with("image/") && kind != "application/octet-stream" {
        let message = format!("content-type: expected image/png, image/jpeg or image/webp, found {kind:?}");
        return Err(Failure::new(OWN, StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    let bytes = body::bytes(&app, OWN, request).await?;
    let read = || -> crate::Result<Value> {
        let name = std::path::Path::new("the picture");
        let source = Source::of(name, &text_of(name, &bytes)?)?;
        let mut notes = Notes::default();
        // A model that is not here is chosen anew.
        let given = Request { model: Some("any".into()), lora: vec!["any".into()], ..Request::default() };
        let past = source.past(name, &given, &mut notes)?;
        Ok(json!({"request": past.request.to_json()?, "notes": notes.take()}))
    };
    read().map(Json).map_err(|error| Failure::from_error(OWN, &error, &app.catalogue))
}
