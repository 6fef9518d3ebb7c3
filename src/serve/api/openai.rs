//! OpenAI's pictures: what programs that speak to it send, and this engine's settings beside.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::events::{Events, stream};
use super::own::{format_of, media_type};
use super::{Abandon, body, finished, in_base64, submit, unfinished};
use crate::image_io::{PictureFormat, decode_with_alpha};
use crate::request::{MaskReading, Request};
use crate::serve::App;
use crate::serve::failure::{Answer, Dialect, Failure};
use crate::serve::jobs::{Job, State as JobState};
use crate::serve::order::{Order, Pictures, seeds};

const OPENAI: Dialect = Dialect::OpenAi;

/// What is asked for. Fields that say nothing about the picture (`user`, `moderation`, `quality`, `style`) are left
/// out: like all others that are not known, they are ignored, as clients expect.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Asked {
    #[schemars(required)]
    prompt: Option<String>,
    model: Option<String>,
    #[schemars(range(min = 1, max = 10))]
    n: Option<usize>,
    #[schemars(regex(pattern = "^([0-9]+x[0-9]+|auto)$"))]
    size: Option<String>,
    response_format: Option<String>,
    output_format: Option<String>,
    output_compression: Option<u8>,
    background: Option<String>,
    stream: Option<bool>,
    #[schemars(range(max = 3))]
    partial_images: Option<usize>,
    negative_prompt: Option<String>,
    #[schemars(range(min = 1))]
    num_inference_steps: Option<usize>,
    guidance_scale: Option<f64>,
    seed: Option<i64>,
    scheduler: Option<String>,
    strength: Option<f64>,
    loras: Vec<Lora>,
}

/// A LoRA: `"name"`, `"name:0.8"` or `{"name": "name", "scale": 0.8}`.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Lora {
    Text(String),
    Object { name: String, scale: Option<f64> },
}

/// What of a request decides the form of the answer.
struct Form {
    format: PictureFormat,
    name: String,
    as_url: bool,
    partial: usize,
    /// `image_generation` or `image_edit`.
    event: &'static str,
}

impl Asked {
    fn request(&self) -> Answer<Request> {
        let bad = |field: &'static str, why: String| Failure::bad(OPENAI, format!("{field}: {why}")).of(field);
        let Some(prompt) = &self.prompt else {
            return Err(bad("prompt", "it is missing".into()));
        };
        let n = self.n.unwrap_or(1);
        if !(1..=10).contains(&n) {
            return Err(bad("n", format!("{n}, expected 1 to 10")));
        }
        let (mut width, mut height) = (None, None);
        if let Some(size) = self.size.as_deref().filter(|size| *size != "auto") {
            let sides = size.split_once('x').map(|(w, h)| (w.parse().ok(), h.parse().ok()));
            let Some((Some(w), Some(h))) = sides else {
                return Err(bad("size", format!("{size:?}, expected WIDTHxHEIGHT, as 512x512, or auto")));
            };
            (width, height) = (Some(w), Some(h));
        }
        if self.background.as_deref() == Some("transparent") {
            return Err(bad("background", "pictures have no transparent parts here".into()));
        }
        let lora = |lora: &Lora| match lora {
            Lora::Text(text) => text.clone(),
            Lora::Object { name, scale } => scale.map_or_else(|| name.clone(), |scale| format!("{name}:{scale}")),
        };
        Ok(Request {
            prompt: vec![prompt.clone()],
            negative_prompt: self.negative_prompt.iter().cloned().collect(),
            model: self.model.as_ref().map(Into::into),
            batch_size: Some(n),
            width,
            height,
            steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale.into_iter().collect(),
            seed: match self.seed {
                Some(seed @ 0..) => seeds(seed as u64, n),
                _ => vec![],
            },
            scheduler: self.scheduler.clone(),
            strength: self.strength,
            lora: self.loras.iter().map(lora).collect(),
            ..Request::default()
        })
    }

    fn form(&self, event: &'static str) -> Answer<Form> {
        let name = self.output_format.clone().unwrap_or_else(|| "png".into());
        let format = format_of(OPENAI, "output_format", Some(&name), self.output_compression)?;
        let partial = self.partial_images.unwrap_or(0);
        if partial > 3 {
            let message = format!("partial_images: {partial}, expected 0 to 3");
            return Err(Failure::bad(OPENAI, message).of("partial_images"));
        }
        let as_url = self.response_format.as_deref() == Some("url");
        Ok(Form { format, name, as_url, partial, event })
    }
}

/// Pictures from a prompt.
pub async fn generations(State(app): State<Arc<App>>, request: axum::extract::Request) -> Answer<Response> {
    let asked: Asked = body::json(&app, OPENAI, request).await?;
    let form = asked.form("image_generation")?;
    let order = order(&app, asked.request()?, Pictures::default())?;
    answer(app, order, form, asked.stream == Some(true)).await
}

/// Pictures from a picture, and perhaps a mask that is transparent where it is painted.
pub async fn edits(State(app): State<Arc<App>>, request: axum::extract::Request) -> Answer<Response> {
    let sent = body::form(&app, OPENAI, request).await?;
    let mut fields = Map::new();
    for (name, text) in sent.texts {
        let as_text = ["prompt", "model", "size", "negative_prompt", "scheduler", "output_format", "response_format"];
        let value = if as_text.contains(&name.as_str()) { None } else { serde_json::from_str(&text).ok() };
        fields.insert(name, value.unwrap_or(Value::from(text)));
    }
    let asked: Asked = body::understood(OPENAI, serde_path_to_error::deserialize(Value::from(fields)))?;
    let form = asked.form("image_edit")?;
    let mut pictures = Pictures::default();
    for (name, bytes) in sent.files {
        let place = match name.as_str() {
            "image" | "image[]" => &mut pictures.image,
            "mask" => &mut pictures.mask,
            _ => continue,
        };
        if place.replace(bytes).is_some() {
            let message = format!("{name}: there are several; these models take one");
            return Err(Failure::bad(OPENAI, message).of("image"));
        }
    }
    let Some(image) = &pictures.image else {
        return Err(Failure::bad(OPENAI, "image: it is missing").of("image"));
    };
    let mut request = asked.request()?;
    if pictures.mask.is_none() && has_holes(&app, image)? {
        pictures.mask = Some(image.clone()); // its own transparent parts are painted
    }
    if pictures.mask.is_some() {
        request.mask_reading = Some(MaskReading::Erased);
    }
    let order = order(&app, request, pictures)?;
    answer(app, order, form, asked.stream == Some(true)).await
}

/// Whether a picture has transparent parts.
fn has_holes(app: &App, image: &[u8]) -> Answer<bool> {
    let name = std::path::Path::new("image");
    app.options.limits.check_picture("image", image).and_then(|()| decode_with_alpha(name, image)).map_or_else(
        |error| Err(Failure::from_error(OPENAI, &error, &app.catalogue).of("image")),
        |(_, alpha)| Ok(alpha.is_some_and(|alpha| alpha.data.iter().any(|level| *level < 128))),
    )
}

fn order(app: &App, request: Request, pictures: Pictures) -> Answer<Order> {
    Order::new(request, pictures, &app.catalogue, &app.options.limits)
        .map_err(|error| Failure::from_error(OPENAI, &error, &app.catalogue))
}

async fn answer(app: Arc<App>, order: Order, form: Form, streamed: bool) -> Answer<Response> {
    let job = submit(&app, OPENAI, order)?;
    if streamed {
        return Ok(stream(move |events| tell(app, job, form, events)));
    }
    let state = finished(&app, OPENAI, &job).await?;
    let mut data = Vec::new();
    for made in state.pictures.iter().cloned() {
        let seed = made.seed;
        let text = in_base64(&app, OPENAI, made, form.format).await?;
        data.push(if form.as_url {
            json!({"url": format!("data:{};base64,{text}", media_type(form.format)), "seed": seed})
        } else {
            json!({"b64_json": text, "seed": seed})
        });
    }
    let mut answer = head(&state, &form);
    answer.insert("created".into(), now().into());
    answer.insert("data".into(), data.into());
    Ok(Json(Value::from(answer)).into_response())
}

/// What the answer says of the pictures.
fn head(state: &JobState, form: &Form) -> Map<String, Value> {
    let size = state.pictures.first().map(|made| format!("{}x{}", made.picture.width, made.picture.height));
    let mut head = Map::new();
    head.insert("output_format".into(), form.name.clone().into());
    head.insert("size".into(), size.into());
    head.insert("quality".into(), "auto".into());
    head.insert("background".into(), "opaque".into());
    head.insert("model".into(), state.model.clone().into());
    head
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Partial pictures as they come, then each finished one.
async fn tell(app: Arc<App>, job: Arc<Job>, form: Form, events: Events) {
    let abandon = Abandon::new(&app, &job);
    let mut changes = job.watch();
    let (mut sent, mut previewed) = (0, 0);
    loop {
        changes.borrow_and_update();
        let state = job.state();
        if state.status.is_over() {
            break;
        }
        // Evenly among the steps.
        if sent < form.partial && state.steps > 1 && state.step + 1 >= state.steps * (sent + 1) / (form.partial + 1) {
            job.glance();
        }
        if let Some(preview) = state.preview.filter(|preview| preview.step > previewed && sent < form.partial) {
            previewed = preview.step;
            let (width, height) = (preview.picture.width, preview.picture.height);
            if let Ok(text) = in_base64(&app, OPENAI, unfinished(&preview.picture), form.format).await {
                let name = format!("{}.partial_image", form.event);
                let data = json!({
                    "type": name,
                    "b64_json": text,
                    "partial_image_index": sent,
                    "created_at": now(),
                    "size": format!("{width}x{height}"),
                    "quality": "auto",
                    "background": "opaque",
                    "output_format": form.name,
                });
                if !events.send(&name, &data).await {
                    return;
                }
                sent += 1;
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = events.closed() => return,
        }
    }
    let state = job.state();
    abandon.done();
    if let Some(failure) = Failure::of_job(OPENAI, &state, &app.catalogue, app.jobs.is_draining()) {
        events.send("error", &failure.json()).await;
        return;
    }
    for made in state.pictures.iter().cloned() {
        let seed = made.seed;
        let name = format!("{}.completed", form.event);
        match in_base64(&app, OPENAI, made, form.format).await {
            Ok(text) => {
                let mut data = head(&state, &form);
                data.insert("type".into(), name.clone().into());
                data.insert("b64_json".into(), text.into());
                data.insert("created_at".into(), now().into());
                data.insert("seed".into(), seed.into());
                events.send(&name, &Value::from(data)).await;
            }
            Err(failure) => {
                events.send("error", &failure.json()).await;
            }
        }
    }
}

/// The models' names.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let models = app.catalogue.models();
    let models = models.map(|name| json!({"id": name, "object": "model", "created": 0, "owned_by": "unmist"}));
    Json(json!({"object": "list", "data": models.collect::<Vec<_>>()}))
}
