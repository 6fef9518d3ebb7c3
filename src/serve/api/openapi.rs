//! The description of all routes, for people and programs: OpenAPI 3.1. What a request may hold is read from the types
//! that requests are read into.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{openai, webui};
use crate::request::Request;

/// What a route is sent.
#[derive(Clone, Copy)]
enum Body {
    None,
    /// JSON of this schema.
    Json(&'static str),
    /// A form: OpenAI's fields, and files.
    Form,
    /// A picture's file.
    Picture,
}

/// What a route answers when all is well.
#[derive(Clone, Copy)]
enum Reply {
    Json(u16),
    /// Pictures, as JSON or as events.
    Events,
    Text,
    Page,
    File,
    Nothing,
}

/// A route: path, method, what it does, what it is sent, what it answers, how else it can end.
type Route = (&'static str, &'static str, &'static str, Body, Reply, &'static [u16]);

/// Ends of a request that makes pictures.
const MAKES: &[u16] = &[400, 404, 408, 409, 413, 415, 422, 429, 500, 503];
/// Ends of a request with a body.
const READS: &[u16] = &[400, 408, 413, 415];

const ROUTES: &[Route] = &[
    ("/", "get", "The page", Body::None, Reply::Page, &[]),
    ("/page/{file}", "get", "What the page needs", Body::None, Reply::Page, &[404]),
    ("/web/", "get", "The engine for visitors' own GPUs", Body::None, Reply::Page, &[404]),
    ("/web/{path}", "get", "What it needs", Body::None, Reply::Page, &[404]),
    ("/v1/server", "get", "Models, samplers, LoRAs, limits", Body::None, Reply::Json(200), &[]),
    ("/v1/jobs", "post", "Asks for pictures; answers at once", Body::Json("Request"), Reply::Json(202), MAKES),
    ("/v1/jobs/{id}", "get", "What has become of a job", Body::None, Reply::Json(200), &[404]),
    ("/v1/jobs/{id}", "delete", "Stops a job and forgets it", Body::None, Reply::Nothing, &[404]),
    (
        "/v1/jobs/{id}/events",
        "get",
        "A job's steps, unfinished pictures and end, as they happen",
        Body::None,
        Reply::Events,
        &[400, 404],
    ),
    ("/v1/jobs/{id}/inside", "get", "What was recorded of a job", Body::None, Reply::Json(200), &[404]),
    (
        "/v1/jobs/{id}/pictures/{index}",
        "get",
        "A finished picture with its settings inside",
        Body::None,
        Reply::File,
        &[400, 404],
    ),
    (
        "/v1/settings",
        "post",
        "The request that made a picture",
        Body::Picture,
        Reply::Json(200),
        &[400, 408, 413, 415, 500],
    ),
    ("/v1/models", "get", "OpenAI: the models", Body::None, Reply::Json(200), &[]),
    (
        "/v1/images/generations",
        "post",
        "OpenAI: pictures from a prompt",
        Body::Json("Generation"),
        Reply::Events,
        MAKES,
    ),
    (
        "/v1/images/edits",
        "post",
        "OpenAI: pictures from a picture, and perhaps a mask",
        Body::Form,
        Reply::Events,
        MAKES,
    ),
    (
        "/sdapi/v1/txt2img",
        "post",
        "AUTOMATIC1111: pictures from a prompt",
        Body::Json("WebUi"),
        Reply::Json(200),
        MAKES,
    ),
    (
        "/sdapi/v1/img2img",
        "post",
        "AUTOMATIC1111: pictures from a picture",
        Body::Json("WebUi"),
        Reply::Json(200),
        MAKES,
    ),
    (
        "/sdapi/v1/extra-single-image",
        "post",
        "AUTOMATIC1111: there are no upscalers",
        Body::None,
        Reply::Nothing,
        &[422],
    ),
    (
        "/sdapi/v1/png-info",
        "post",
        "AUTOMATIC1111: a picture's settings",
        Body::Json("PngInfo"),
        Reply::Json(200),
        READS,
    ),
    ("/sdapi/v1/progress", "get", "AUTOMATIC1111: how far the job is that runs", Body::None, Reply::Json(200), &[400]),
    (
        "/sdapi/v1/interrupt",
        "post",
        "AUTOMATIC1111: ends what runs, with what there is",
        Body::None,
        Reply::Json(200),
        &[],
    ),
    ("/sdapi/v1/skip", "post", "AUTOMATIC1111: as interrupt", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/options", "get", "AUTOMATIC1111: what is chosen", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/options", "post", "AUTOMATIC1111: chooses", Body::Json("Options"), Reply::Json(200), READS),
    ("/sdapi/v1/sd-models", "get", "AUTOMATIC1111: the models", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/sd-vae", "get", "AUTOMATIC1111: autoencoders", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/samplers", "get", "AUTOMATIC1111: samplers", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/schedulers", "get", "AUTOMATIC1111: schedules", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/loras", "get", "AUTOMATIC1111: LoRAs", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/embeddings", "get", "AUTOMATIC1111: textual inversions", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/upscalers", "get", "AUTOMATIC1111: upscalers (none)", Body::None, Reply::Json(200), &[]),
    (
        "/sdapi/v1/latent-upscale-modes",
        "get",
        "AUTOMATIC1111: upscalers of latents (none)",
        Body::None,
        Reply::Json(200),
        &[],
    ),
    ("/sdapi/v1/cmd-flags", "get", "AUTOMATIC1111: flags (none)", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/memory", "get", "AUTOMATIC1111: memory (not told)", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/scripts", "get", "AUTOMATIC1111: scripts (none)", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/face-restorers", "get", "AUTOMATIC1111: (none)", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/hypernetworks", "get", "AUTOMATIC1111: (none)", Body::None, Reply::Json(200), &[]),
    ("/sdapi/v1/prompt-styles", "get", "AUTOMATIC1111: (none)", Body::None, Reply::Json(200), &[]),
    ("/health/live", "get", "Whether the server lives", Body::None, Reply::Text, &[]),
    ("/health/ready", "get", "Whether it takes jobs", Body::None, Reply::Text, &[503]),
    ("/v2/health/live", "get", "Whether the server lives", Body::None, Reply::Text, &[]),
    ("/v2/health/ready", "get", "Whether it takes jobs", Body::None, Reply::Text, &[503]),
    ("/metrics", "get", "Counters for Prometheus", Body::None, Reply::Text, &[]),
    ("/openapi.json", "get", "This description", Body::None, Reply::Json(200), &[]),
];

/// The whole description.
pub fn description() -> Value {
    let mut generator = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    generator.meta_schema = None;
    let mut generator = generator.into_generator();
    let mut schemas = Map::new();
    for (name, schema) in [
        ("Request", generator.root_schema_for::<Request>()),
        ("Generation", generator.root_schema_for::<openai::Asked>()),
        ("WebUi", generator.root_schema_for::<webui::Asked>()),
        ("PngInfo", generator.root_schema_for::<webui::PngInfo>()),
    ] {
        schemas.insert(name.into(), schema.to_value());
    }
    for schema in schemas.values_mut().filter_map(Value::as_object_mut) {
        ["$schema", "components"].iter().for_each(|key| drop(schema.remove(*key)));
    }
    schemas.insert("Options".into(), json!({"type": "object"}));
    schemas.extend(generator.take_definitions(true));
    let mut paths = Map::new();
    for (path, method, summary, body, reply, ends) in ROUTES {
        let mut operation = json!({"summary": summary, "responses": responses(*reply, ends)});
        if let Some(body) = sent(*body) {
            operation["requestBody"] = json!({"required": true, "content": body});
        }
        let parameters = parameters(path, method);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        let place = paths.entry(*path).or_insert_with(|| json!({}));
        place[*method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "unmist", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"}
            }
        }
    })
}

fn sent(body: Body) -> Option<Value> {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let binary = json!({"type": "string", "format": "binary"});
    Some(match body {
        Body::None => return None,
        Body::Json(name) => json!({"application/json": {"schema": reference(name)}}),
        Body::Picture => json!({"image/png": {"schema": binary}, "image/jpeg": {"schema": binary}}),
        Body::Form => json!({"multipart/form-data": {"schema": {
            "type": "object",
            "required": ["image", "prompt"],
            "properties": {
                "image": binary, "mask": binary, "prompt": {"type": "string"}, "model": {"type": "string"},
                "n": {"type": "integer", "minimum": 1, "maximum": 10}, "size": {"type": "string"},
                "seed": {"type": "integer"}, "strength": {"type": "number"},
                "num_inference_steps": {"type": "integer", "minimum": 1}
            }
        }}}),
    })
}

fn responses(reply: Reply, ends: &[u16]) -> Value {
    let mut all = Map::new();
    let (code, content) = match reply {
        Reply::Json(code) => (code, json!({"application/json": {}})),
        Reply::Events => (200, json!({"application/json": {}, "text/event-stream": {}})),
        Reply::Text => (200, json!({"text/plain": {}})),
        Reply::Page => (200, json!({"text/html": {}, "text/css": {}, "text/javascript": {}})),
        Reply::File => (200, json!({"image/png": {}, "image/jpeg": {}, "image/webp": {}})),
        Reply::Nothing => (204, json!({})),
    };
    let content = if content == json!({}) {
        json!({"description": "Done"})
    } else {
        json!({"description": "Done", "content": content})
    };
    all.insert(code.to_string(), content);
    for code in ends.iter().chain(&[401, 403]) {
        let kind = if matches!(reply, Reply::Text) { "text/plain" } else { "application/json" };
        let why = axum::http::StatusCode::from_u16(*code).ok().and_then(|code| code.canonical_reason());
        all.insert(code.to_string(), json!({"description": why.unwrap_or_default(), "content": {kind: {}}}));
    }
    all.into()
}

fn parameters(path: &str, method: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut add = |name: &str, place: &str, schema: Value| {
        all.push(json!({"name": name, "in": place, "required": place == "path", "schema": schema}));
    };
    if path.contains("{id}") {
        add("id", "path", json!({"type": "string"}));
    }
    if path.contains("{path}") {
        add("path", "path", json!({"type": "string"}));
    }
    if path.contains("{file}") {
        add("file", "path", json!({"type": "string"}));
    }
    if path.contains("{index}") {
        add("index", "path", json!({"type": "integer", "minimum": 0}));
        add("format", "query", json!({"enum": ["png", "jpeg", "webp"]}));
        add("quality", "query", json!({"type": "integer", "minimum": 1, "maximum": 100}));
    }
    if path.ends_with("/events") {
        add("preview_every", "query", json!({"type": "integer", "minimum": 1}));
    }
    if (path, method) == ("/v1/jobs", "post") {
        add("inside", "query", json!({"type": "boolean"}));
    }
    if path.ends_with("/progress") {
        add("skip_current_image", "query", json!({"type": "boolean"}));
    }
    all
}
