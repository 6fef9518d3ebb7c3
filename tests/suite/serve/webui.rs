//! AUTOMATIC1111's API, with what its clients send.

use serde_json::{Value, json};

use super::{PROMPT, Running, by_command, from_base64, mask, options, pixels, receive, send, start, to_base64};

fn made(answer: &Value) -> unmist::image_io::Picture {
    pixels(&from_base64(answer["images"][0].as_str().expect("a picture without a data: prefix")))
}

#[test]
fn pictures_from_prompts() {
    let server = Running::new(options());
    // As Open WebUI sends it.
    let body = json!({"prompt": PROMPT, "batch_size": 1, "width": 64, "height": 64, "steps": 3});
    let answer = server.post("/sdapi/v1/txt2img", &body).good().json();
    let info: Value = serde_json::from_str(answer["info"].as_str().expect("a text")).expect("JSON in a text");
    let seed = info["seed"].to_string();
    assert_eq!(made(&answer), by_command(&[PROMPT, "--steps", "3", "--seed", &seed]), "the seed that is told");
    assert_eq!(answer["parameters"], body);
    assert!(info["infotexts"][0].as_str().unwrap().starts_with(PROMPT), "{info}");
    // As SillyTavern sends it.
    let body = json!({
        "prompt": format!("({PROMPT}:1.2)"), "negative_prompt": "fog", "sampler_name": "DPM++ 2M",
        "scheduler": "Karras", "steps": 3, "cfg_scale": 2, "width": 64, "height": 64,
        "restore_faces": false, "enable_hr": false, "hr_upscaler": "Latent", "hr_scale": 2,
        "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": 5,
        "override_settings": {"sd_model_checkpoint": "emoji-64", "CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "override_settings_restore_afterwards": true, "clip_skip": 1, "save_images": true, "send_images": true,
        "do_not_save_grid": false, "do_not_save_samples": false, "n_iter": 2,
        "alwayson_scripts": {"other": {"args": []}}
    });
    let answer = server.post("/sdapi/v1/txt2img", &body).good().json();
    assert_eq!(answer["images"].as_array().unwrap().len(), 2);
    let weighted = format!("({PROMPT}:1.2)");
    let own = [
        &weighted,
        "--weighting",
        "--negative-prompt",
        "fog",
        "--scheduler",
        "DPM++ 2M Karras",
        "--steps",
        "3",
        "--guidance-scale",
        "2",
        "--seed",
        "5",
    ];
    assert_eq!(made(&answer), by_command(&own));
}

#[test]
fn pictures_from_pictures() {
    let server = Running::new(options());
    let folder = tempfile::tempdir().expect("a folder");
    let ((start, start_file), _) = (start(&folder), mask(&folder));
    let white = image::GrayImage::from_fn(64, 64, |x, _| image::Luma([if x < 32 { 255 } else { 0 }]));
    let (left, right) = (folder.path().join("left.png"), folder.path().join("right.png"));
    white.save(&left).expect("writes");
    image::imageops::flip_horizontal(&white).save(&right).expect("writes");
    let file = |path: &std::path::Path| to_base64(&std::fs::read(path).unwrap());
    let image = format!("data:image/png;base64,{}", to_base64(&start_file));
    let common = [PROMPT, "--steps", "4", "--seed", "3", "--strength", "0.6", "--image", start.to_str().unwrap()];
    let body = json!({
        "init_images": [image], "prompt": PROMPT, "steps": 4, "seed": 3, "denoising_strength": 0.6, "resize_mode": 0
    });
    let answer = server.post("/sdapi/v1/img2img", &body).good().json();
    assert_eq!(made(&answer), by_command(&common));
    assert!(answer["parameters"].get("init_images").is_none(), "not sent back");
    let masked = [&common[..], &["--mask", left.to_str().unwrap()]].concat();
    let with = |fields: Value, more: &[&str]| {
        let mut body = body.clone();
        fields.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
        let answer = server.post("/sdapi/v1/img2img", &body).good().json();
        assert_eq!(made(&answer), by_command(&[&masked[..], more].concat()), "{more:?}");
    };
    with(json!({"mask": file(&left), "inpaint_full_res": false}), &["--mask-blur", "0"]);
    let right = json!({"mask": file(&right), "inpainting_mask_invert": 1, "mask_blur": 3, "inpaint_full_res": 0});
    with(right, &["--mask-blur", "3"]);
    // As webuiapi sends it, of a part of the picture.
    let dot = image::GrayImage::from_fn(64, 64, |x, y| image::Luma([if x < 12 && y > 50 { 255 } else { 0 }]));
    dot.save(&left).expect("writes");
    with(
        json!({"mask": file(&left), "mask_blur": 4, "inpaint_full_res": true, "inpaint_full_res_padding": 8}),
        &["--mask-blur", "4", "--padding-mask-crop", "8"],
    );
}

#[test]
fn progress_and_interruption() {
    let server = Running::new(options());
    let idle = server.get("/sdapi/v1/progress").good().json();
    assert_eq!((&idle["progress"], &idle["state"]["job_count"]), (&json!(0.0), &json!(0)));
    let body = json!({"prompt": PROMPT, "steps": 400, "seed": 1}).to_string();
    let headers = [("content-type", "application/json")];
    let running = send(server.address, "POST", "/sdapi/v1/txt2img", &headers, body.as_bytes());
    server.until("a picture to see", |server| !server.get("/sdapi/v1/progress").json()["current_image"].is_null());
    let seen = server.get("/sdapi/v1/progress").good().json();
    assert!(seen["progress"].as_f64() > Some(0.0) && seen["state"]["sampling_steps"] == 400, "{}", seen["state"]);
    let seen = server.get("/sdapi/v1/progress?skip_current_image=true").good().json();
    assert!(seen["current_image"].is_null());
    server.post("/sdapi/v1/interrupt", &json!({})).good();
    let answer = receive(running).good().json();
    assert_eq!(made(&answer).width, 64, "what there was by then");
    assert!(server.counter("unmist_steps_total") < 400.0);
    server.until("idle", |server| server.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0);
}

#[test]
fn what_clients_look_up() {
    let server = Running::new(options());
    let options = server.get("/sdapi/v1/options").good().json();
    assert_eq!(options["sd_model_checkpoint"], "emoji-64");
    // Open WebUI sends all of it back.
    let mut chosen = options.clone();
    chosen["sd_model_checkpoint"] = "ddpm-fashion-32".into();
    server.post("/sdapi/v1/options", &chosen).good();
    assert_eq!(server.get("/sdapi/v1/options").json()["sd_model_checkpoint"], "ddpm-fashion-32");
    let refused = server.post("/sdapi/v1/txt2img", &json!({"prompt": "a"}));
    assert!(
        refused.status == 400 && refused.json()["detail"].as_str().unwrap().contains("prompt"),
        "{}",
        refused.text()
    );
    assert_eq!(server.post("/sdapi/v1/options", &json!({"sd_model_checkpoint": "none"})).status, 400);
    server.post("/sdapi/v1/options", &options).good();
    for (path, field) in [
        ("sd-models", "title"),
        ("samplers", "name"),
        ("schedulers", "label"),
        ("upscalers", "name"),
        ("latent-upscale-modes", "name"),
    ] {
        let list = server.get(&format!("/sdapi/v1/{path}")).good().json();
        assert!(list[0][field].is_string(), "{path}: {list}");
    }
    for path in ["sd-vae", "loras", "face-restorers", "hypernetworks", "prompt-styles"] {
        assert_eq!(server.get(&format!("/sdapi/v1/{path}")).good().json(), json!([]), "{path}");
    }
    for path in ["embeddings", "memory", "scripts", "cmd-flags"] {
        assert!(server.get(&format!("/sdapi/v1/{path}")).good().json().is_object(), "{path}");
    }
    // Every sampler that is offered is one that can be asked for.
    for sampler in server.get("/sdapi/v1/samplers").json().as_array().unwrap() {
        let body = json!({"prompt": PROMPT, "steps": 2, "sampler_name": sampler["name"]});
        server.post("/sdapi/v1/txt2img", &body).good();
    }
    let body = json!({"prompt": PROMPT, "steps": 2, "seed": 3});
    let answer = server.post("/sdapi/v1/txt2img", &body).good().json();
    let told = server.post("/sdapi/v1/png-info", &json!({"image": answer["images"][0]})).good().json();
    assert!(told["info"].as_str().unwrap().contains("Seed: 3") && told["items"]["unmist"].is_string(), "{told}");
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let server = Running::new(options());
    for (body, field, status) in [
        (json!({"enable_hr": true}), "enable_hr", 422),
        (json!({"script_name": "x/y/z plot"}), "script_name", 422),
        (json!({"alwayson_scripts": {"controlnet": {"args": [{"enabled": true}]}}}), "controlnet", 422),
        (json!({"restore_faces": true}), "restore_faces", 422),
        (json!({"tiling": true}), "tiling", 422),
        (json!({"styles": ["x"]}), "styles", 422),
        (json!({"subseed_strength": 0.5}), "subseed_strength", 422),
        (json!({"sampler_name": "no such"}), "Sampler not found", 404),
        (json!({"steps": "x"}), "steps", 400),
        (json!({"steps": 100_000}), "steps", 400),
        (json!({"width": 63}), "width", 400),
        (json!({"cfg_scale": "x"}), "cfg_scale", 400),
        (json!({"override_settings": {"sd_model_checkpoint": "none"}}), "sd_model_checkpoint", 400),
        (json!({"prompt": "<lora:none:1>"}), "none", 400),
    ] {
        let answer = server.post("/sdapi/v1/txt2img", &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(field), "{body}: {detail}");
    }
    for (body, part) in [
        (json!({}), "init_images: it is missing"),
        (json!({"init_images": ["http://127.0.0.1/x.png"]}), "not fetched"),
        (json!({"init_images": [to_base64(b"no picture")]}), "expected a PNG"),
    ] {
        let answer = server.post("/sdapi/v1/img2img", &body);
        assert!(answer.status == 400 && answer.text().contains(part), "{body}: {}", answer.text());
    }
    assert_eq!(server.post("/sdapi/v1/extra-single-image", &json!({})).status, 422);
}
