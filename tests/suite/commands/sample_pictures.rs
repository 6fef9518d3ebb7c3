//! `unmist sample` with several prompts, input pictures, and SDXL's base and refiner: options reach the pipeline, and
//! what does not fit is refused.

use std::path::Path;
use std::process::Command;

use unmist::HostTensor;
use unmist::checkpoint::Tensors;
use unmist::image_io::{Picture, read, write_png};

use crate::commands::sample::Folder;
use crate::commands::usage::{copy, fails, shipped, stable_diffusion, succeeds, text, unmist};
use crate::common::{distance, one};

/// Samples from a tiny model in two steps; `more` may set other sizes.
fn sample(folder: &Folder, model: &str, more: &[&str]) -> HostTensor {
    let (model, out) = (stable_diffusion(model), folder.path("out.safetensors"));
    let common = ["sample", "--model", model.to_str().unwrap(), "--steps", "2", "--output", &out];
    succeeds(&[&common[..], more].concat());
    Tensors::open(&out).and_then(|file| file.read_f32("images")).expect("written")
}

fn refused(model: &str, more: &[&str], parts: &[&str]) {
    let results = tempfile::tempdir().expect("a temporary folder");
    let (model, out) = (stable_diffusion(model), results.path().join("out.png"));
    let common = ["sample", "--model", model.to_str().unwrap(), "--steps", "2", "--output", out.to_str().unwrap()];
    fails(&[&common[..], more].concat(), parts, results.path());
}

const SIZE: [&str; 4] = ["--width", "24", "--height", "16"];

#[test]
fn each_prompt_has_its_own_seed_and_guidance() {
    let folder = Folder::new();
    let sd1 = |more: &[&str]| sample(&folder, "sd1", &[&SIZE, more].concat());
    let both = sd1(&[
        "a fox",
        "a red apple",
        "--seed",
        "3,4",
        "--guidance-scale",
        "2,6",
        "--negative-prompt",
        "fog",
        "--negative-prompt",
        "snow",
    ]);
    assert_eq!(both.shape, [2, 3, 16, 24]);
    for (i, alone) in [
        ["a fox", "--seed", "3", "--guidance-scale", "2", "--negative-prompt", "fog"],
        ["a red apple", "--seed", "4", "--guidance-scale", "6", "--negative-prompt", "snow"],
    ]
    .iter()
    .enumerate()
    {
        // Different batch sizes may round differently.
        let difference = distance(&one(&both, i), &sd1(alone));
        assert!(difference < 1e-3, "picture {i}: {difference}");
    }
    assert!(distance(&one(&both, 0), &one(&both, 1)) > 0.05, "they are different pictures");

    // Two pictures of each prompt, each with its own settings recorded.
    let (model, out) = (stable_diffusion("sd1"), folder.path("out.png"));
    let common = ["sample", "--model", model.to_str().unwrap(), "--steps", "2", "--output", &out, "--separate"];
    succeeds(&[&common[..], &SIZE, &["a fox", "a red apple", "--seed", "1,2,3,4", "--guidance-scale", "2,6"]].concat());
    for (name, parts) in [
        ("out-0001.png", ["a fox\n", "CFG scale: 2,", "Seed: 1,", "Batch pos: 0"]),
        ("out-0004.png", ["a red apple\n", "CFG scale: 6,", "Seed: 4,", "Batch pos: 3"]),
    ] {
        let text = folder.text(name, "parameters");
        parts.iter().for_each(|part| assert!(text.contains(part), "{name}: no {part:?} in {text}"));
    }

    let refused = |more: &[&str], parts: &[&str]| refused("sd1", &[&SIZE, more].concat(), parts);
    refused(&["a", "b", "--seed", "1,2,3"], &["--seed", "3 seeds for 2 pictures"]);
    refused(&["a", "b", "--guidance-scale", "1,2,3"], &["--guidance-scale", "3 for 2 prompts"]);
    refused(
        &["a", "b", "--negative-prompt", "x", "--negative-prompt", "y", "--negative-prompt", "z"],
        &["--negative-prompt"],
    );
    refused(&["a", "--batch-size", "0"], &["--batch-size 0"]);
    refused(&["a", "--batch-size", "18446744073709551615"], &["--batch-size"]);
}

#[test]
fn weights_are_read_only_on_request() {
    let folder = Folder::new();
    let sd1 = |more: &[&str]| sample(&folder, "sd1", &[&SIZE, more].concat());
    let plain = sd1(&["a fox in the forest"]);
    assert!(sd1(&["a fox in the forest", "--weighting"]) == plain, "a prompt without brackets");
    let weighted = sd1(&["a (fox:1.6) in the forest", "--weighting"]);
    assert!(distance(&weighted, &plain) > 1e-3);
    let text = sd1(&["a (fox:1.6) in the forest"]);
    assert!(distance(&weighted, &text) > 1e-3, "without --weighting brackets are text");
    refused("sd1", &["a fox", "--guidance-rescale", "1.5"], &["--guidance-rescale 1.5"]);
    assert!(distance(&sd1(&["a fox in the forest", "--guidance-rescale", "0.7"]), &plain) > 1e-4);
}

#[test]
fn long_prompts_are_said_and_other_tokenizers_refused() {
    let folder = Folder::new();
    let (model, out) = (folder.path("model"), folder.path("out.png"));
    copy(&stable_diffusion("sd1"), Path::new(&model));
    let long = vec!["a fox and a red apple,"; 20].join(" ");
    let run = |prompt: &str| {
        let run = ["sample", prompt, "--model", &model, "--steps", "1", "--width", "24", "--height", "16"];
        let run = Command::new(env!("CARGO_BIN_EXE_unmist")).args(run).args(["--output", &out]).output();
        String::from_utf8(run.expect("the binary runs").stderr).expect("UTF-8")
    };
    assert!(run(&long).contains("longer than the text encoder's window"));
    assert!(!run("a fox").contains("longer"));

    let tokenizer = Path::new(&model).join("tokenizer");
    std::fs::remove_dir_all(&tokenizer).expect("there");
    copy(&shipped().with_file_name("emoji-64").join("tokenizer"), &tokenizer);
    let message = run("a fox");
    assert!(message.contains("tokenizer has 4295 tokens") && message.contains("714"), "{message}");
}

#[test]
fn the_autoencoder_tiles_on_request() {
    let folder = Folder::new();
    let sd1 = |more: &[&str]| sample(&folder, "sd1", &[&["a fox", "--width", "96", "--height", "64"], more].concat());
    let whole = sd1(&["--vae-tiling", "off"]);
    assert!(sd1(&["--vae-tiling", "auto"]) == whole, "it fits without tiles");
    let tiled = sd1(&["--vae-tiling", "32"]);
    let difference = distance(&tiled, &whole);
    assert!(difference > 0.0 && difference < 0.5, "{difference}");
    refused("sd1", &["a fox", "--vae-tiling", "maybe"], &["--vae-tiling", "auto, on, off"]);
    refused("sd1", &["a fox", "--vae-tiling", "0"], &["--vae-tiling"]);
}

#[test]
fn a_model_may_bring_its_own_defaults() {
    let folder = Folder::new();
    let model = folder.path("model");
    copy(&stable_diffusion("sd1"), Path::new(&model));
    let file = Path::new(&model).join("generation_config.json");
    std::fs::write(&file, r#"{"num_inference_steps": 3, "guidance_scale": 2.5}"#).expect("writes");
    let out = folder.path("out.png");
    let run = ["sample", "a fox", "--model", &model, "--width", "24", "--height", "16", "--output", &out];
    succeeds(&run);
    let options = |name| folder.record("out.png")["options"][name].clone();
    assert_eq!((options("steps"), options("guidance_scale")), (3.into(), vec![2.5].into()));
    succeeds(&[&run[..], &["--steps", "2", "--guidance-scale", "3"]].concat());
    assert_eq!((options("steps"), options("guidance_scale")), (2.into(), vec![3.0].into()));

    let results = tempfile::tempdir().expect("a temporary folder");
    let none = results.path().join("none.png");
    std::fs::write(&file, r#"{"num_inference_steps": 3, "top_k": 2}"#).expect("writes");
    let run = ["sample", "a fox", "--model", &model, "--output", none.to_str().unwrap()];
    fails(&run, &["generation_config.json", "top_k"], results.path());
}

#[test]
fn a_model_of_classes_may_bring_its_own_defaults() {
    let folder = Folder::new();
    let model = folder.path("model");
    copy(&shipped(), Path::new(&model));
    let file = Path::new(&model).join("generation_config.json");
    let config =
        r#"{"scheduler": "ddim", "num_inference_steps": 3, "guidance_scale": 3, "use_clipped_model_output": true}"#;
    std::fs::write(&file, config).expect("writes");
    let sample = |name: &str, more: &[&str]| {
        succeeds(&[&["sample", "--model", &model, "--class", "5,7", "--output", &folder.path(name)], more].concat());
        read(folder.path(name), 1).expect("a picture")
    };
    let own = sample("own.png", &[]);
    assert_eq!((own.width, own.height), (32 + 2 + 32, 32), "one picture of each class, with a gap");
    let options = |name| folder.record("own.png")["options"][name].clone();
    assert_eq!((options("steps"), options("guidance_scale")), (3.into(), vec![3.0].into()));
    assert_eq!(options("use_clipped_model_output"), "on");
    assert_eq!(folder.record("own.png")["scheduler"]["_class_name"], "DDIMScheduler");

    // Each of them can be requested explicitly, and overridden.
    std::fs::remove_file(&file).expect("was written");
    let asked = ["--scheduler", "ddim", "--steps", "3", "--guidance-scale", "3", "--use-clipped-model-output", "on"];
    assert_eq!(own, sample("asked.png", &asked));
    std::fs::write(&file, config).expect("writes");
    let off = sample("off.png", &["--use-clipped-model-output", "off"]);
    assert_ne!(own, off);
    assert_ne!(own, sample("ddpm.png", &["--scheduler", "ddpm"]));

    // A picture is reproduced as it was, whatever the model's defaults are now: one that overrode them, and one made
    // when there were none.
    std::fs::remove_file(&file).expect("was written");
    assert_eq!(off, sample("none.png", &["--scheduler", "ddim", "--steps", "3", "--guidance-scale", "3"]));
    std::fs::write(&file, r#"{"num_inference_steps": 2, "use_clipped_model_output": true}"#).expect("writes");
    for name in ["off.png", "none.png"] {
        succeeds(&["sample", "--from", &folder.path(name), "--output", &folder.path("again.png")]);
        assert_eq!(folder.bytes(name), folder.bytes("again.png"), "{name}");
    }
}

/// Writes a mask that is white in the left half.
fn mask(folder: &Folder, name: &str, width: usize, height: usize) {
    let data = (0..width * height).map(|i| if i % width < width / 2 { 255 } else { 0 }).collect();
    write_png(folder.path(name), &Picture { width, height, channels: 1, data }, &[]).expect("writes");
}

#[test]
fn inpainting() {
    let folder = Folder::new(); // with start.png, 24 × 16
    mask(&folder, "mask.png", 24, 16);
    mask(&folder, "wide.png", 25, 16);
    folder.picture("odd.png", 25, 17, 5);
    let [start, white, wide, odd] = ["start.png", "mask.png", "wide.png", "odd.png"].map(|name| folder.path(name));
    let both = ["a fox", "--image", &start, "--mask", &white];
    for model in ["inpaint", "sd1"] {
        let painted = sample(&folder, model, &both);
        assert_eq!(painted.shape, [1, 3, 16, 24]);
        let weak = sample(&folder, model, &[&both[..], &["--strength", "0.5"]].concat());
        assert!(distance(&painted, &weak) > 1e-3, "{model}: --strength");
    }
    let resized = ["--width", "32", "--height", "24"];
    assert_eq!(sample(&folder, "inpaint", &[&both[..], &resized].concat()).shape, [1, 3, 24, 32]);

    refused("inpaint", &["a fox"], &["--image and --mask"]);
    refused("inpaint", &["a fox", "--image", &start], &["--mask"]);
    refused("sd1", &["a fox", "--mask", &white], &["--mask", "--image"]);
    refused("inpaint", &["a fox", "--image", &start, "--mask", &wide], &["--mask", "25 x 16", "24 x 16"]);
    refused("sd1", &["a fox", "--image", &odd], &["multiples of 2", "--width and --height"]);
    let text = folder.path("notes.png");
    std::fs::write(&text, "not a picture").expect("writes");
    refused("inpaint", &["a fox", "--image", &text, "--mask", &white], &["notes.png", "PNG, JPEG or WebP"]);
    refused("inpaint", &["a fox", "--image", &start, "--mask", "/no/mask.png"], &["/no/mask.png"]);
    let clothes = shipped();
    let results = tempfile::tempdir().expect("a temporary folder");
    let out = results.path().join("out.png");
    let run = ["sample", "--model", clothes.to_str().unwrap(), "--output", out.to_str().unwrap(), "--mask", &white];
    fails(&run, &["--mask", "give --image"], results.path());
    let run = [&run[..], &["--image", &start]].concat();
    fails(&run, &["--mask", "no text encoder", "--scheduler repaint"], results.path());
}

/// Masks as people draw them; each reading reaches the pictures, and pictures remember it.
#[test]
fn masks_are_read_as_people_draw_them() {
    let folder = Folder::new();
    mask(&folder, "white.png", 24, 16);
    let draw = |name: &str, pixel: &dyn Fn(usize) -> [u8; 4]| {
        let data = (0..24 * 16).flat_map(|i| pixel(i % 24)).collect();
        let picture = image::RgbaImage::from_raw(24, 16, data).expect("the data fill it");
        picture.save(folder.path(name)).expect("writes");
        folder.path(name)
    };
    let (start, white) = (folder.path("start.png"), folder.path("white.png"));
    let blue = draw("blue.png", &|x| [0, 0, if x < 12 { 255 } else { 0 }, 255]);
    let layer = draw("layer.png", &|x| [0, 0, 0, if x < 12 { 255 } else { 0 }]);
    let erased = draw("erased.png", &|x| [90, 90, 90, if x < 12 { 0 } else { 255 }]);
    let line = draw("line.png", &|x| if x == 13 { [255; 4] } else { [0, 0, 0, 255] });
    let faint = draw("faint.png", &|x| if x == 13 { [99, 99, 99, 255] } else { [0, 0, 0, 255] });
    for model in ["sd1", "inpaint"] {
        let with = |mask: &str, more: &[&str]| {
            sample(&folder, model, &[&["a fox", "--image", &start, "--mask", mask], more].concat())
        };
        let half = with(&white, &[]);
        assert!(with(&white, &["--mask-reading", "diffusers"]) == half, "{model}: white on black, in whole latents");
        assert!(with(&blue, &[]) == half && with(&layer, &[]) == half, "{model}: colours and layers");
        assert!(with(&erased, &["--mask-reading", "erased"]) == half, "{model}: holes");
        assert!(with(&erased, &[]) != half, "{model}: what is opaque");
        // A latent is two pixels wide here.
        let pair = draw("pair.png", &|x| if x == 12 || x == 13 { [255; 4] } else { [0, 0, 0, 255] });
        if model == "sd1" {
            assert!(with(&line, &[]) == with(&pair, &[]), "a line paints the latents that it crosses");
        }
        for (mask, reading, parts) in [
            (&line, "diffusers", ["--mask:", "--mask-reading auto"]),
            (&blue, "diffusers", ["29 of 255", "--mask-reading auto"]),
            (&faint, "auto", ["faint.png", "99 of 255"]),
            (&white, "alpha", ["white.png", "transparent"]),
        ] {
            let more = ["a fox", "--image", &start, "--mask", mask, "--mask-reading", reading];
            refused(model, &more, &parts);
        }
    }
    refused("sd1", &["a fox", "--image", &start, "--mask-reading", "auto"], &["--mask-reading", "--mask"]);

    let (model, out, again) = (stable_diffusion("sd1"), folder.path("out.png"), folder.path("again.png"));
    let run = |mask: &str, more: &[&str]| {
        let common = ["sample", "a fox", "--model", model.to_str().unwrap(), "--steps", "2", "--output", &out];
        let output = unmist(&[&common[..], &["--image", &start, "--mask", mask], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    assert!(!run(&white, &[]).contains("note: --mask"), "of shades of grey everyone expects the same");
    assert!(run(&layer, &[]).contains("note: --mask: what is opaque is painted over, 50.0 % of it"));
    assert!(run(&blue, &[]).contains("note: --mask: what is bright in red, green or blue"));
    assert_eq!(folder.record("out.png")["options"]["mask_reading"], "auto");
    let black = draw("black.png", &|_| [0, 0, 0, 255]);
    assert!(run(&black, &[]).contains("it paints over nothing"));
    run(&erased, &["--mask-reading", "erased"]);
    succeeds(&["sample", "--from", &out, "--output", &again]);
    assert!(folder.bytes("out.png") == folder.bytes("again.png"), "made again bit for bit");
}

#[test]
fn what_is_not_painted_over_stays_to_the_pixel() {
    let folder = Folder::new();
    let start = folder.path("start.png");
    let original = image::open(&start).expect("it was written").to_rgb8();
    let painted = |x: u32, y: u32| (4..9).contains(&x) && (3..8).contains(&y);
    let mask = folder.path("part.png");
    let white = |x, y| image::Luma([if painted(x, y) { 255 } else { 0 }]);
    image::GrayImage::from_fn(24, 16, white).save(&mask).expect("writes");
    let with = |more: &[&str]| {
        let images = sample(&folder, "sd1", &[&["a fox", "--image", &start, "--mask", &mask], more].concat());
        assert_eq!(images.shape, [1, 3, 16, 24], "{more:?}");
        let changed = |x: u32, y: u32| {
            let old = original.get_pixel(x, y).0;
            (0..3).any(|c| (images.data[c * 384 + (y * 24 + x) as usize] * 255.0).round() != f32::from(old[c]))
        };
        let all: Vec<(u32, u32)> =
            (0..16).flat_map(|y| (0..24).map(move |x| (x, y))).filter(|at| changed(at.0, at.1)).collect();
        all
    };
    let whole = with(&[]);
    assert!(whole.iter().any(|at| !painted(at.0, at.1)), "the autoencoder changes everything a little");
    let larger = ["--padding-mask-crop", "2", "--width", "32", "--height", "32"];
    for more in [&["--mask-blur", "0"][..], &["--padding-mask-crop", "2"], &larger] {
        let changed = with(more);
        assert!(changed.len() > 12 && changed.iter().all(|at| painted(at.0, at.1)), "{more:?}: {changed:?}");
    }
    let soft = with(&["--mask-blur", "1", "--padding-mask-crop", "4"]);
    assert!(soft.iter().any(|at| !painted(at.0, at.1)), "{soft:?}");
    assert!(soft.iter().all(|at| (0..13).contains(&at.0) && (0..12).contains(&at.1)), "{soft:?}");
    for field in ["--mask-blur", "--padding-mask-crop"] {
        refused("sd1", &["a fox", "--image", &start, field, "2"], &[field, "--mask"]);
    }
    refused("sd1", &["a fox", "--image", &start, "--mask", &mask, "--mask-blur", "999"], &["--mask-blur", "0 to 64"]);
}

#[test]
fn prompts_that_change_are_remembered_as_they_were_written() {
    let folder = Folder::new();
    let model = stable_diffusion("sd1");
    let (out, again) = (folder.path("out.png"), folder.path("again.png"));
    let prompt = "a [red:blue:0.5] [fox|owl]";
    let run = ["sample", prompt, "--model", model.to_str().unwrap(), "--steps", "4", "--weighting", "--output", &out];
    succeeds(&[&run[..], &SIZE].concat());
    assert_eq!(folder.record("out.png")["options"]["prompt"][0], prompt);
    assert!(folder.text("out.png", "parameters").starts_with(prompt));
    succeeds(&["sample", "--from", &out, "--output", &again]);
    assert_eq!(folder.bytes("out.png"), folder.bytes("again.png"));
    succeeds(&["sample", "--from", &out, "--output", &again, "a [red:blue:0.25] [fox|owl]"]);
    assert!(read(&out, 3).expect("a picture") != read(&again, 3).expect("a picture"), "another step");
    refused("sd1", &["a fox AND an owl", "--weighting"], &["PROMPT", "`AND`", "write `and`"]);
    let as_text =
        sample(&folder, "sd1", &[&SIZE[..], &["a fox", "--negative-prompt", "a AND b", "--weighting"]].concat());
    let lower = sample(&folder, "sd1", &[&SIZE[..], &["a fox", "--negative-prompt", "a and b"]].concat());
    assert!(as_text == lower, "what the picture should not show is one text");
}

#[test]
fn editing_and_enlarging() {
    let folder = Folder::new();
    let start = folder.path("start.png");
    let image = ["a fox", "--image", &start];
    let plain = sample(&folder, "instruct_pix2pix", &image);
    let strong = sample(&folder, "instruct_pix2pix", &[&image[..], &["--image-guidance-scale", "3"]].concat());
    assert!(distance(&plain, &strong) > 1e-3);

    let large = sample(&folder, "x4_upscaler", &image);
    assert_eq!(large.shape, [1, 3, 64, 96]);
    let noisy = sample(&folder, "x4_upscaler", &[&image[..], &["--noise-level", "300"]].concat());
    assert!(distance(&large, &noisy) > 1e-3);

    refused("instruct_pix2pix", &["a fox"], &["--image"]);
    refused("x4_upscaler", &["a fox"], &["--image"]);
    refused("x4_upscaler", &[&image[..], &["--noise-level", "400"]].concat(), &["--noise-level 400", "350"]);
    refused("x4_upscaler", &[&image[..], &["--strength", "0.5"]].concat(), &["--strength"]);
    refused("sd1", &[&image[..], &["--noise-level", "3"]].concat(), &["--noise-level", "enlarge"]);
    refused("sd1", &[&image[..], &["--image-guidance-scale", "3"]].concat(), &["--image-guidance-scale", "edit"]);
    for (option, value) in [
        ("--prompt-2", "x"),
        ("--negative-prompt-2", "x"),
        ("--original-size", "64x64"),
        ("--crop", "0,4"),
        ("--target-size", "64x64"),
        ("--refiner", "/no/refiner"),
        ("--aesthetic-score", "7"),
    ] {
        refused("sd1", &["a fox", option, value], &[if option == "--refiner" { "/no/refiner" } else { option }]);
    }
}

#[test]
fn sdxl_and_its_refiner() {
    let folder = Folder::new();
    let size = ["--width", "32", "--height", "48"];
    let base = ["a fox", "--steps", "4", "--seed", "5"];
    let (model, refiner) = (stable_diffusion("sdxl"), stable_diffusion("sdxl_refiner"));
    let (model, refiner) = (model.to_str().unwrap(), refiner.to_str().unwrap());
    let out = folder.path("out.png");
    let run = |model: &str, more: &[&str]| {
        succeeds(&[&["sample", "--model", model, "--output", &out], &base[..], more].concat());
        read(&out, 3).expect("a picture")
    };
    let plain = run(model, &size);
    for more in [
        ["--prompt-2", "in the forest"],
        ["--original-size", "512x256"],
        ["--crop", "64,0"],
        ["--target-size", "16x16"],
        ["--negative-prompt-2", "fog"],
    ] {
        assert!(run(model, &[&size[..], &more].concat()) != plain, "{more:?} changes nothing");
    }

    // The handover in one command, and in two.
    let handed =
        run(model, &[&size[..], &["--refiner", refiner, "--denoising-end", "0.5", "--aesthetic-score", "7"]].concat());
    let again = folder.path("again.png");
    succeeds(&["sample", "--from", &out, "--output", &again]);
    assert_eq!(folder.bytes("out.png"), folder.bytes("again.png"));
    let latents = folder.path("latents.safetensors");
    run(model, &[&size[..], &["--denoising-end", "0.5", "--save-latents", &latents]].concat());
    let second = run(refiner, &["--latents", &latents, "--denoising-start", "0.5", "--aesthetic-score", "7"]);
    assert!(handed == second, "one command and two give the same picture");
    let both = ["--refiner", refiner, "--denoising-end", "0.5", "--device", "reference"];
    let args = [&["sample", "--model", model, "--output", &again], &base[..], &size, &both].concat();
    let message = text(&unmist(&args).stderr);
    let parts = ["\n4 steps for 1 picture in ", " (loading ", ", first step ", ", decoding "];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    assert!(handed != plain);
    succeeds(&["sample", "--from", &out, "--output", &again]);
    assert_eq!(folder.bytes("out.png"), folder.bytes("again.png"));

    // A run split in two gives the same result as the whole run.
    let rest = run(model, &["--latents", &latents, "--denoising-start", "0.5"]);
    assert!(rest == plain, "the second half continues where the first ended");

    // Finished latents, changed a little.
    run(model, &[&size[..], &["--save-latents", &latents]].concat());
    let changed = run(model, &["--latents", &latents, "--strength", "0.4"]);
    assert!(changed != plain && (changed.width, changed.height) == (plain.width, plain.height));

    let results = tempfile::tempdir().expect("a temporary folder");
    let none = results.path().join("none.png");
    let refused = |more: &[&str], parts: &[&str]| {
        let run = ["sample", "--model", model, "--output", none.to_str().unwrap(), "a fox", "--steps", "8"];
        fails(&[&run[..], more].concat(), parts, results.path());
    };
    refused(&["--denoising-start", "0.5"], &["--denoising-start", "--latents"]);
    refused(&["--latents", &latents, "--denoising-start", "1.5"], &["--denoising-start 1.5"]);
    refused(&["--latents", &latents, "--denoising-start", "0.5", "--strength", "0.5"], &["--strength"]);
    refused(&["--latents", &latents, "--width", "32"], &["--latents", "--width"]);
    refused(&["--denoising-end", "2"], &["--denoising-end 2"]);
    refused(&["--refiner", stable_diffusion("sd1").to_str().unwrap()], &["--refiner", "XL"]);
    refused(&["--refiner", Path::new("/no/refiner").to_str().unwrap()], &["/no/refiner"]);
    refused(&["--original-size", "64"], &["--original-size", "1024x768"]);
    refused(&["--aesthetic-score", "7"], &["--aesthetic-score", "refiner"]);
}
