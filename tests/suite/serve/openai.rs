//! OpenAI's API.

use serde_json::json;
use unmist::image_io::text_of;

use super::{PROMPT, Running, ask, by_command, events, form, from_base64, mask, options, pixels, start};

#[test]
fn pictures_are_those_of_the_command_line() {
    let server = Running::new(options());
    let body = json!({
        "prompt": PROMPT, "model": "emoji-64", "n": 2, "size": "64x64", "num_inference_steps": 3, "seed": 7,
        "guidance_scale": 2.0, "scheduler": "Euler", "response_format": "b64_json", "user": "me", "quality": "hd"
    });
    let answer = server.post("/v1/images/generations", &body).good().json();
    let data = answer["data"].as_array().expect("a list");
    assert_eq!(
        (data.len(), answer["size"].as_str(), answer["output_format"].as_str()),
        (2, Some("64x64"), Some("png"))
    );
    for (picture, seed) in data.iter().zip([7, 8]) {
        assert_eq!(picture["seed"], seed);
        let file = from_base64(picture["b64_json"].as_str().expect("a text"));
        let seed = seed.to_string();
        let own = ["--steps", "3", "--seed", &seed, "--guidance-scale", "2", "--scheduler", "Euler"];
        assert_eq!(pixels(&file), by_command(&[&[PROMPT][..], &own].concat()), "seed {seed}");
    }

    // As another kind of file, by URL; the settings are inside, and no path of this machine.
    let body = json!({
        "prompt": PROMPT, "num_inference_steps": 2, "response_format": "url", "output_format": "webp"
    });
    let answer = server.post("/v1/images/generations", &body).good().json();
    let url = answer["data"][0]["url"].as_str().expect("a URL");
    let file = from_base64(url.strip_prefix("data:image/webp;base64,").expect("its data"));
    let texts = text_of(std::path::Path::new("answer"), &file).expect("settings");
    let record = &texts.iter().find(|(name, _)| name == "unmist").expect("a record").1;
    assert!(record.contains(r#""model":"emoji-64""#) && !record.contains(env!("CARGO_MANIFEST_DIR")), "{record}");
    let seed = answer["data"][0]["seed"].to_string();
    assert_eq!(pixels(&file), by_command(&[PROMPT, "--steps", "2", "--seed", &seed]), "the seed that is told");

    let models = server.get("/v1/models").good().json();
    let names: Vec<_> = models["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(names, ["ddpm-fashion-32", "emoji-64", "tissue-32"]);
}

#[test]
fn unfinished_pictures_are_streamed() {
    let server = Running::new(options());
    let body = json!({
        "prompt": PROMPT, "num_inference_steps": 8, "seed": 1, "stream": true, "partial_images": 2
    });
    let answer = server.post("/v1/images/generations", &body).good();
    let all = events(&answer);
    let (last, partial) = all.split_last().expect("events");
    assert!(!partial.is_empty() && partial.len() <= 2, "{} partial pictures", partial.len());
    for (i, (name, data)) in partial.iter().enumerate() {
        assert_eq!((name.as_str(), &data["partial_image_index"]), ("image_generation.partial_image", &json!(i)));
        assert_eq!(data["type"], name.as_str());
        assert_eq!(pixels(&from_base64(data["b64_json"].as_str().unwrap())).width, 64);
    }
    assert_eq!(last.0, "image_generation.completed");
    let file = from_base64(last.1["b64_json"].as_str().unwrap());
    assert_eq!(pixels(&file), by_command(&[PROMPT, "--steps", "8", "--seed", "1"]));

    let wrong = json!({"prompt": PROMPT, "num_inference_steps": 2, "stream": true, "scheduler": "no such"});
    let all = events(&server.post("/v1/images/generations", &wrong).good());
    assert_eq!((all[0].0.as_str(), &all[0].1["error"]["param"]), ("error", &json!("scheduler")));
}

#[test]
fn a_mask_is_painted_where_it_is_transparent() {
    let server = Running::new(options());
    let folder = tempfile::tempdir().expect("a folder");
    let ((start, start_file), (mask, mask_file)) = (start(&folder), mask(&folder));
    let texts = [("prompt", PROMPT), ("num_inference_steps", "4"), ("seed", "3"), ("strength", "0.75"), ("n", "1")];
    let edit = |files: &[(&str, &[u8])]| {
        let (kind, body) = form(&texts, files);
        let answer = ask(server.address, "POST", "/v1/images/edits", &[("content-type", &kind)], &body).good().json();
        pixels(&from_base64(answer["data"][0]["b64_json"].as_str().expect("a picture")))
    };
    let common = [PROMPT, "--steps", "4", "--seed", "3", "--strength", "0.75", "--image", start.to_str().unwrap()];
    assert_eq!(edit(&[("image[]", &start_file)]), by_command(&common), "image to image");
    let masked = [&common[..], &["--mask", mask.to_str().unwrap(), "--mask-reading", "erased"]].concat();
    let painted = edit(&[("image", &start_file), ("mask", &mask_file)]);
    assert_eq!(painted, by_command(&masked));
    assert_ne!(painted, by_command(&common), "the mask counts");
    // A picture's own transparent parts are its mask.
    let own = edit(&[("image", &mask_file)]);
    let itself = [
        PROMPT,
        "--steps",
        "4",
        "--seed",
        "3",
        "--strength",
        "0.75",
        "--image",
        mask.to_str().unwrap(),
        "--mask",
        mask.to_str().unwrap(),
        "--mask-reading",
        "erased",
    ];
    assert_eq!(own, by_command(&itself));
}

#[test]
fn what_cannot_be_done_names_the_field() {
    let server = Running::new(options());
    for (body, field, part) in [
        (json!({}), "prompt", "missing"),
        (json!({"prompt": 3}), "prompt", "string"),
        (json!({"prompt": "a", "n": 11}), "n", "1 to 10"),
        (json!({"prompt": "a", "size": "big"}), "size", "WIDTHxHEIGHT"),
        (json!({"prompt": "a", "size": "9000x9000"}), "size", "pixels"),
        (json!({"prompt": "a", "size": "60x64"}), "size", "multiple"),
        (json!({"prompt": "a", "model": "../emoji-64"}), "model", "emoji-64"),
        (json!({"prompt": "a", "model": "/etc/passwd"}), "model", "this server has"),
        (json!({"prompt": "a", "model": "ddpm-fashion-32"}), "prompt", "text encoder"),
        (json!({"prompt": "a", "num_inference_steps": 0}), "num_inference_steps", "1"),
        (json!({"prompt": "a", "num_inference_steps": 501}), "num_inference_steps", "500"),
        (json!({"prompt": "a", "output_format": "gif"}), "output_format", "png"),
        (json!({"prompt": "a", "background": "transparent"}), "background", "transparent"),
        (json!({"prompt": "a", "partial_images": 4}), "partial_images", "0 to 3"),
        (json!({"prompt": "a", "loras": ["none:0.5"]}), "loras", "none"),
        (json!({"prompt": "a", "scheduler": "no such"}), "scheduler", "no such"),
    ] {
        let answer = server.post("/v1/images/generations", &body);
        assert!((400..500).contains(&answer.status), "{body}: {} {}", answer.status, answer.text());
        let error = &answer.json()["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert!(error["param"] == field && message.contains(part), "{body}: {error}");
        assert!(!message.contains(env!("CARGO_MANIFEST_DIR")), "{message}");
    }
}
