//! AUTOMATIC1111's API, as Open WebUI, SillyTavern and plugins of painting programs call it.
//!
//! What a field leaves open is the model's own choice here, not the web UI's: 512 pixels and 50 steps suit few models.

use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{body, finished, in_base64, submit, unfinished};
use crate::generate::find_sampler;
use crate::image_io::{Picture, PictureFormat, decode, encode, text_of};
use crate::request::Request;
use crate::schedulers::{samplers as all_samplers, schedules};
use crate::serve::App;
use crate::serve::failure::{Answer, Dialect, Failure};
use crate::serve::jobs::State as JobState;
use crate::serve::order::{Order, Pictures, seeds};

const WEBUI: Dialect = Dialect::WebUi;

/// What stays chosen between requests, as the web UI has it.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    model: Option<String>,
    vae: Option<String>,
    clip_skip: Option<usize>,
}

/// Shared by all clients.
pub type Options = Mutex<Chosen>;

/// What is asked for. Every field may be missing; those that are not known are ignored, as clients expect.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Asked {
    prompt: Option<String>,
    negative_prompt: Option<String>,
    styles: Option<Vec<String>>,
    seed: Option<f64>,
    subseed_strength: Option<f64>,
    sampler_name: Option<String>,
    sampler_index: Option<String>,
    scheduler: Option<String>,
    batch_size: Option<usize>,
    n_iter: Option<usize>,
    steps: Option<usize>,
    cfg_scale: Option<f64>,
    width: Option<usize>,
    height: Option<usize>,
    restore_faces: Option<bool>,
    tiling: Option<bool>,
    eta: Option<f64>,
    denoising_strength: Option<f64>,
    override_settings: Option<Map<String, Value>>,
    enable_hr: Option<bool>,
    refiner_checkpoint: Option<String>,
    refiner_switch_at: Option<f64>,
    script_name: Option<String>,
    alwayson_scripts: Option<Map<String, Value>>,
    send_images: Option<bool>,
    clip_skip: Option<usize>,
    // img2img
    init_images: Option<Vec<String>>,
    mask: Option<String>,
    resize_mode: Option<u32>,
    inpainting_mask_invert: Option<u32>,
    mask_blur: Option<f64>,
    inpaint_full_res: Option<Value>,
    inpaint_full_res_padding: Option<usize>,
}

fn bad(field: &str, why: &str) -> Failure {
    Failure::bad(WEBUI, format!("{field}: {why}")).of(field)
}

impl Asked {
    /// Refuses what would change the picture and is not there.
    fn check(&self) -> Answer<()> {
        let unsupported = |field: &str, why: &str| Err(Failure::unsupported(WEBUI, field, why));
        let none = "there is no such thing here; leave it out";
        let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty() && name != "None");
        if self.enable_hr == Some(true) {
            return unsupported("enable_hr", "pictures are made in one pass; send the result to img2img, larger");
        }
        if named(&self.script_name) {
            return unsupported("script_name", none);
        }
        // Scripts that are always on come along even where they do nothing: with no arguments.
        let active = |script: &Value| {
            script.get("args").and_then(Value::as_array).is_some_and(|args| {
                args.iter().any(|arg| {
                    arg.get("enabled").map_or(!arg.is_null() && *arg != json!(false), |on| *on == json!(true))
                })
            })
        };
        let scripts = self.alwayson_scripts.iter().flatten();
        if let Some((name, _)) = scripts.into_iter().find(|(_, script)| active(script)) {
            return unsupported("alwayson_scripts", &format!("there is no {name} here; leave it out"));
        }
        if self.restore_faces == Some(true) {
            return unsupported("restore_faces", none);
        }
        if self.tiling == Some(true) {
            return unsupported("tiling", none);
        }
        if self.styles.as_ref().is_some_and(|styles| !styles.is_empty()) {
            return unsupported("styles", "there are none here; write their words into the prompt");
        }
        if self.subseed_strength.is_some_and(|strength| strength > 0.0) {
            return unsupported("subseed_strength", none);
        }
        if self.resize_mode.is_some_and(|mode| mode != 0) {
            return unsupported("resize_mode", "pictures are only resized (0)");
        }
        Ok(())
    }

    fn scheduler(&self) -> Answer<Option<String>> {
        let Some(sampler) = self.sampler_name.as_ref().or(self.sampler_index.as_ref()).filter(|name| !name.is_empty())
        else {
            return Ok(None);
        };
        let schedule = self.scheduler.as_deref().filter(|name| {
            !name.is_empty() && !name.eq_ignore_ascii_case("automatic") && !name.eq_ignore_ascii_case("normal")
        });
        match find_sampler(sampler, schedule) {
            (Some(name), None) => Ok(Some(name)),
            (Some(_), Some(_)) => Err(bad("scheduler", "there is no such schedule for this sampler")),
            (None, _) => {
                let failure = Failure::new(WEBUI, StatusCode::NOT_FOUND, "HTTPException", "Sampler not found");
                Err(failure.of("sampler_name"))
            }
        }
    }

    fn request(&self, chosen: &Chosen) -> Answer<Request> {
        self.check()?;
        let setting = |name: &str| self.override_settings.as_ref().and_then(|settings| settings.get(name));
        let named = |name: &str| setting(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let model = named("sd_model_checkpoint").map(str::to_owned).or_else(|| chosen.model.clone());
        let vae = named("sd_vae").map(str::to_owned).or_else(|| chosen.vae.clone());
        let stop = setting("CLIP_stop_at_last_layers").and_then(Value::as_u64).map(|layers| layers as usize);
        // The web UI counts from 1, the last layer.
        let clip_skip = stop.or(self.clip_skip).map(|layers| layers.saturating_sub(1)).or(chosen.clip_skip);
        let pictures = self.batch_size.unwrap_or(1).max(1).saturating_mul(self.n_iter.unwrap_or(1).max(1));
        let prompt = self.prompt.clone().unwrap_or_default();
        let negative = self.negative_prompt.clone().filter(|text| !text.is_empty());
        // Without any of the syntax, prompts are the same text with and without.
        let syntax = |text: &String| text.contains(['(', ')', '[', ']', '\\', '<']) || text.contains("BREAK");
        let weighting = syntax(&prompt) || negative.as_ref().is_some_and(syntax);
        Ok(Request {
            prompt: vec![prompt],
            negative_prompt: negative.into_iter().collect(),
            weighting,
            model: model.map(Into::into),
            vae: vae.filter(|name| name != "Automatic" && name != "None").map(Into::into),
            clip_skip: clip_skip.filter(|layers| *layers > 0),
            refiner: self.refiner_checkpoint.clone().filter(|name| !name.is_empty() && name != "None").map(Into::into),
            denoising_end: self.refiner_switch_at.filter(|_| self.refiner_checkpoint.is_some()),
            batch_size: Some(pictures),
            seed: match self.seed {
                Some(seed) if seed >= 0.0 => seeds(seed as u64, pictures.min(1 << 16)),
                _ => vec![],
            },
            scheduler: self.scheduler()?,
            steps: self.steps,
            guidance_scale: self.cfg_scale.into_iter().collect(),
            eta: self.eta.filter(|eta| *eta != 0.0),
            width: self.width,
            height: self.height,
            ..Request::default()
        })
    }

    /// Whether only what the mask paints over is worked on, at full size.
    fn only_masked(&self) -> bool {
        self.inpaint_full_res.as_ref().is_some_and(|only| *only == json!(true) || *only == json!(1))
    }
}

fn chosen(app: &App) -> Chosen {
    app.webui.lock().expect("no holder of this lock panics").clone()
}

/// Pictures from a prompt.
pub async fn txt2img(State(app): State<Arc<App>>, request: axum::extract::Request) -> Answer<Json<Value>> {
    let fields: Map<String, Value> = body::json(&app, WEBUI, request).await?;
    let asked: Asked = body::understood(WEBUI, serde_path_to_error::deserialize(Value::from(fields.clone())))?;
    let request = asked.request(&chosen(&app))?;
    answer(&app, asked, fields, request, Pictures::default()).await
}

/// Pictures from a picture, and perhaps a mask.
pub async fn img2img(State(app): State<Arc<App>>, request: axum::extract::Request) -> Answer<Json<Value>> {
    let mut fields: Map<String, Value> = body::json(&app, WEBUI, request).await?;
    let asked: Asked = body::understood(WEBUI, serde_path_to_error::deserialize(Value::from(fields.clone())))?;
    // Not repeated in the answer.
    fields.remove("init_images");
    fields.remove("mask");
    let image = match asked.init_images.as_deref() {
        Some([image]) => body::picture(WEBUI, "init_images", image)?,
        Some([_, _, ..]) => return Err(bad("init_images", "there are several; give one")),
        _ => return Err(bad("init_images", "it is missing")),
    };
    let mut mask = asked.mask.as_deref().map(|mask| body::picture(WEBUI, "mask", mask)).transpose()?;
    if let Some(bytes) = mask.as_mut().filter(|_| asked.inpainting_mask_invert.unwrap_or(0) == 1) {
        *bytes = inverted(&app, bytes)?;
    }
    let mut request = asked.request(&chosen(&app))?;
    request.strength = Some(asked.denoising_strength.unwrap_or(0.75));
    if mask.is_some() {
        request.mask_blur = Some(asked.mask_blur.unwrap_or(0.0));
        request.padding_mask_crop = asked.only_masked().then_some(asked.inpaint_full_res_padding.unwrap_or(0));
    }
    answer(&app, asked, fields, request, Pictures { image: Some(image), mask }).await
}

/// A mask with black and white exchanged.
fn inverted(app: &App, bytes: &[u8]) -> Answer<Vec<u8>> {
    let name = FilePath::new("mask");
    let invert = || {
        app.options.limits.check_picture("mask", bytes)?;
        let mut mask: Picture = decode(name, bytes, 1)?;
        mask.data.iter_mut().for_each(|level| *level = 255 - *level);
        encode(name, &mask, &[], PictureFormat::Png)
    };
    invert().map_err(|error: crate::Error| Failure::from_error(WEBUI, &error, &app.catalogue))
}

async fn answer(
    app: &Arc<App>,
    asked: Asked,
    fields: Map<String, Value>,
    request: Request,
    pictures: Pictures,
) -> Answer<Json<Value>> {
    let order = Order::new(request, pictures, &app.catalogue, &app.options.limits)
        .map_err(|error| Failure::from_error(WEBUI, &error, &app.catalogue))?;
    let request = order.request.clone();
    let job = submit(app, WEBUI, order)?;
    let state = finished(app, WEBUI, &job).await?;
    let mut images = Vec::new();
    if asked.send_images != Some(false) {
        for made in state.pictures.iter().cloned() {
            images.push(in_base64(app, WEBUI, made, PictureFormat::Png).await?);
        }
    }
    let info = info(&request, &state);
    Ok(Json(json!({"images": images, "parameters": fields, "info": info.to_string()})))
}

/// The account that the web UI gives of its pictures.
fn info(request: &Request, state: &JobState) -> Value {
    let setting = |name: &str| state.settings.get(name).cloned().unwrap_or(Value::Null);
    let first = |value: Value| value.get(0).cloned().unwrap_or(value);
    let text = |texts: &[String]| texts.first().cloned().unwrap_or_default();
    let (prompt, negative) = (text(&request.prompt), text(&request.negative_prompt));
    let seeds: Vec<u64> = state.pictures.iter().map(|made| made.seed).collect();
    let infotexts: Vec<&str> = state
        .pictures
        .iter()
        .filter_map(|made| made.texts.iter().find(|(name, _)| name == "parameters").map(|(_, text)| text.as_str()))
        .collect();
    let size = state.pictures.first().map(|made| (made.picture.width, made.picture.height));
    json!({
        "prompt": prompt,
        "all_prompts": vec![prompt.clone(); seeds.len()],
        "negative_prompt": negative,
        "all_negative_prompts": vec![negative.clone(); seeds.len()],
        "seed": seeds.first(),
        "all_seeds": seeds,
        "subseed": seeds.first(),
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": size.map(|(width, _)| width),
        "height": size.map(|(_, height)| height),
        "sampler_name": setting("scheduler"),
        "cfg_scale": first(setting("guidance_scale")),
        "steps": setting("steps"),
        "batch_size": seeds.len(),
        "restore_faces": false,
        "sd_model_name": state.model,
        "sd_model_hash": null,
        "denoising_strength": setting("strength"),
        "clip_skip": setting("clip_skip").as_u64().unwrap_or(0) + 1,
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": "0",
        "is_using_inpainting_conditioning": false,
        "version": crate::generate::Record::version(),
        "notes": state.notes,
    })
}

/// Enlarging by other means than a model.
pub async fn extras() -> Failure {
    Failure::unsupported(WEBUI, "upscaler_1", "there are no upscalers here; use img2img with a larger size")
}

/// A picture in base64.
#[derive(Deserialize, JsonSchema)]
pub struct PngInfo {
    image: String,
}

/// What a picture says of itself.
pub async fn png_info(State(app): State<Arc<App>>, request: axum::extract::Request) -> Answer<Json<Value>> {
    let asked: PngInfo = body::json(&app, WEBUI, request).await?;
    let bytes = body::picture(WEBUI, "image", &asked.image)?;
    let texts = text_of(FilePath::new("image"), &bytes)
        .map_err(|error| Failure::from_error(WEBUI, &error, &app.catalogue).of("image"))?;
    let info = texts.iter().find(|(name, _)| name == "parameters").map(|(_, text)| text.clone()).unwrap_or_default();
    let items: Map<String, Value> = texts.into_iter().map(|(name, text)| (name, text.into())).collect();
    Ok(Json(json!({"info": info, "items": items, "parameters": {}})))
}

/// Whether unfinished pictures are wanted.
#[derive(Deserialize)]
pub struct Look {
    skip_current_image: Option<bool>,
}

/// How far the job is that runs.
pub async fn progress(State(app): State<Arc<App>>, look: Result<Query<Look>, QueryRejection>) -> Answer<Json<Value>> {
    let look = body::query(WEBUI, look)?;
    let running = app.jobs.running();
    let Some(job) = running.first() else {
        let state = json!({
            "skipped": false, "interrupted": false, "stopping_generation": false, "job": "", "job_count": 0,
            "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0
        });
        let answer = json!({
            "progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": null, "textinfo": null
        });
        return Ok(Json(answer));
    };
    let state = job.state();
    let mut image = None;
    if look.skip_current_image != Some(true) {
        job.glance(); // for the next time
        if let Some(preview) = state.preview.as_ref() {
            image = Some(in_base64(&app, WEBUI, unfinished(&preview.picture), PictureFormat::Png).await?);
        }
    }
    let progress = if state.steps == 0 { 0.01 } else { state.step as f64 / state.steps as f64 };
    Ok(Json(json!({
        "progress": progress.clamp(0.01, 1.0),
        "eta_relative": state.seconds_left().unwrap_or(0.0),
        "state": {
            "skipped": false, "interrupted": job.ends_early(), "stopping_generation": job.ends_early(),
            "job": job.id, "job_count": running.len(), "job_timestamp": "0", "job_no": 0,
            "sampling_step": state.step, "sampling_steps": state.steps
        },
        "current_image": image,
        "textinfo": null
    })))
}

/// Ends what runs; its pictures are given as they are.
pub async fn interrupt(State(app): State<Arc<App>>) -> Json<Value> {
    app.jobs.running().iter().for_each(|job| job.finish_early());
    Json(json!({}))
}

/// What is chosen.
pub async fn options(State(app): State<Arc<App>>) -> Answer<Json<Value>> {
    let chosen = chosen(&app);
    let model = match chosen.model {
        Some(model) => model,
        None => {
            let text = Request { prompt: vec![String::new()], ..Request::default() };
            app.catalogue.model(&text).map(str::to_owned).unwrap_or_default()
        }
    };
    Ok(Json(json!({
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": null,
        "sd_vae": chosen.vae.unwrap_or_else(|| "Automatic".into()),
        "CLIP_stop_at_last_layers": chosen.clip_skip.unwrap_or(0) + 1,
        "samples_format": "png",
    })))
}

/// Chooses. Clients send back all that they were given.
pub async fn set_options(State(app): State<Arc<App>>, request: axum::extract::Request) -> Answer<Json<Value>> {
    let given: Map<String, Value> = body::json(&app, WEBUI, request).await?;
    let text = |name: &str| given.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut next = chosen(&app);
    if let Some(model) = text("sd_model_checkpoint").filter(|name| !name.is_empty()) {
        next.model = Some(model);
    }
    if let Some(vae) = text("sd_vae") {
        next.vae = Some(vae).filter(|name| name != "Automatic" && name != "None" && !name.is_empty());
    }
    if let Some(layers) = given.get("CLIP_stop_at_last_layers").and_then(Value::as_u64) {
        next.clip_skip = Some(layers.saturating_sub(1) as usize).filter(|layers| *layers > 0);
    }
    let named = Request {
        model: next.model.as_ref().map(Into::into),
        vae: next.vae.as_ref().map(Into::into),
        ..Request::default()
    };
    let found = app.catalogue.with_paths(&named);
    found.map_err(|refusal| Failure::from_error(WEBUI, &refusal.into(), &app.catalogue))?;
    *app.webui.lock().expect("no holder of this lock panics") = next;
    Ok(Json(Value::Null))
}

/// The models.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let model = |name: &str| {
        json!({
            "title": name, "model_name": name, "hash": null, "sha256": null, "filename": name, "config": null
        })
    };
    Json(app.catalogue.models().map(model).collect())
}

/// Autoencoders.
pub async fn vaes(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.catalogue.vaes.keys().map(|name| json!({"model_name": name, "filename": name})).collect())
}

/// Samplers.
pub async fn samplers() -> Json<Value> {
    Json(all_samplers().map(|(name, aliases)| json!({"name": name, "aliases": aliases, "options": {}})).collect())
}

/// Schedules.
pub async fn schedulers() -> Json<Value> {
    let automatic = json!({"name": "automatic", "label": "Automatic", "aliases": null});
    let own = schedules().map(|name| json!({"name": name.to_lowercase(), "label": name, "aliases": null}));
    Json(std::iter::once(automatic).chain(own).collect())
}

/// LoRAs.
pub async fn loras(State(app): State<Arc<App>>) -> Json<Value> {
    let lora = |name: &String| json!({"name": name, "alias": name, "path": name, "metadata": {}});
    Json(app.catalogue.loras.keys().map(lora).collect())
}

/// Textual inversions.
pub async fn embeddings(State(app): State<Arc<App>>) -> Json<Value> {
    let one = |name: &String| (name.clone(), json!({"step": null, "sd_checkpoint": null, "sd_checkpoint_name": null}));
    let loaded: Map<String, Value> = app.catalogue.embeddings.keys().map(one).collect();
    Json(json!({"loaded": loaded, "skipped": {}}))
}

/// Upscalers: none, by its name. Clients insert theirs behind the first.
pub async fn upscalers() -> Json<Value> {
    Json(json!([{"name": "None", "model_name": null, "model_path": null, "model_url": null, "scale": 4}]))
}

/// As [`upscalers`].
pub async fn latent_upscale_modes() -> Json<Value> {
    Json(json!([{"name": "None"}]))
}

/// Scripts: none.
pub async fn scripts() -> Json<Value> {
    Json(json!({"txt2img": [], "img2img": []}))
}

/// Memory that weights take.
pub async fn memory() -> Json<Value> {
    Json(json!({"ram": {}, "cuda": {}}))
}

/// An empty list.
pub async fn none() -> Json<Value> {
    Json(json!([]))
}

/// An empty object.
pub async fn nothing() -> Json<Value> {
    Json(json!({}))
}
