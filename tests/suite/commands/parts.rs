//! `unmist sample`: components taken from elsewhere, and what is said where one is missing.

use std::path::Path;

use unmist::checkpoint::Tensors;

use crate::commands::sample::Folder;
use crate::commands::usage::{fails, stable_diffusion, succeeds};
use crate::common::distance;

/// The pictures before rounding of two steps of the tiny Stable Diffusion 1, with these options.
fn images(folder: &Folder, more: &[&str]) -> unmist::HostTensor {
    let (model, out) = (stable_diffusion("sd1"), folder.path("out.safetensors"));
    let common = ["sample", "a fox", "--steps", "2", "--width", "24", "--height", "16", "--output", &out];
    let model = if more.contains(&"--model") { vec![] } else { vec!["--model", model.to_str().unwrap()] };
    succeeds(&[&common[..], &model, more].concat());
    Tensors::open(out).and_then(|file| file.read_f32("images")).expect("pictures")
}

#[test]
fn a_component_may_come_from_elsewhere() {
    let folder = Folder::new();
    let sd1 = stable_diffusion("sd1");
    let part = |name: &str| sd1.join(name).to_str().unwrap().to_owned();
    let (unet, vae) = (part("unet"), part("vae"));
    let file = |name: &str| part(&format!("{name}/diffusion_pytorch_model.safetensors"));
    let (unet_file, vae_file) = (file("unet"), file("vae"));
    let plain = images(&folder, &[]);
    for same in [
        &["--vae", &vae][..],
        &["--vae", &vae_file],
        &["--unet", &unet_file],
        &["--vae", sd1.to_str().unwrap(), "--unet", &unet],
        &["--text-encoder", &part("text_encoder")],
        &["--model", sd1.join("model_index.json").to_str().unwrap()],
    ] {
        assert!(images(&folder, same) == plain, "{same:?}");
    }

    // Another autoencoder makes other pictures, which know where it came from and can be made again.
    let other = folder.path("other.safetensors");
    let tensors = Tensors::open(&vae_file).expect("sound");
    let changed: Vec<_> = tensors
        .names()
        .map(|name| {
            let mut tensor = tensors.read_f32(name).expect("sound");
            tensor.data.iter_mut().for_each(|v| *v *= if name.starts_with("decoder.conv_out") { 0.5 } else { 1.0 });
            (name, tensor)
        })
        .collect();
    let list: Vec<_> = changed.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut out = std::fs::File::create(&other).expect("writable");
    unmist::checkpoint::safetensors::write(&mut out, &list, &Default::default()).expect("writes");
    assert!(distance(&images(&folder, &["--vae", &other]), &plain) > 1e-3);
    let (first, again) = (folder.path("first.png"), folder.path("again.png"));
    let run = ["sample", "a fox", "--steps", "2", "--width", "24", "--height", "16"];
    succeeds(&[&run[..], &["--model", sd1.to_str().unwrap(), "--vae", &other, "--output", &first]].concat());
    let record = folder.record("first.png");
    assert_eq!(record["options"]["vae"], other.as_str());
    assert!(record["files"]["model"].as_object().expect("files").keys().any(|name| name.starts_with("vae: ")));
    succeeds(&["sample", "--from", &first, "--output", &again]);
    assert!(folder.bytes("first.png") == folder.bytes("again.png"), "made again bit for bit");
}

#[test]
fn what_is_missing_is_named_with_the_option_that_gives_it() {
    let results = tempfile::tempdir().expect("a temporary folder");
    let sd1 = stable_diffusion("sd1");
    let unet = sd1.join("unet/diffusion_pytorch_model.safetensors");
    let vae = sd1.join("vae/diffusion_pytorch_model.safetensors");
    let out = results.path().join("out.png");
    let refused = |model: &Path, more: &[&str], parts: &[&str]| {
        let run = ["sample", "a fox", "--model", model.to_str().unwrap(), "--output", out.to_str().unwrap()];
        fails(&[&run[..], more].concat(), parts, results.path());
    };
    refused(&unet, &[], &["`vae`", "give --vae"]);
    refused(&unet, &["--vae", vae.to_str().unwrap()], &["text encoder", "give --text-encoder"]);
    refused(&vae, &[], &["`unet`", "give --unet"]);
    refused(&sd1, &["--vae", unet.to_str().unwrap()], &["`vae`", "unet/diffusion_pytorch_model.safetensors"]);
    refused(&sd1, &["--vae", "/no/such/vae.safetensors"], &["/no/such/vae.safetensors"]);
}

/// `<lora:NAME:SCALE>` in a prompt is the LoRA of that name, found beside the model or in `--lora-dir`.
#[test]
fn a_prompt_may_name_loras() {
    let folder = Folder::new();
    let loras = folder.path("loras");
    std::fs::create_dir(&loras).expect("a folder");
    let fixture = crate::commands::sample::lora("sd1_kohya.safetensors");
    std::fs::copy(&fixture, Path::new(&loras).join("style.safetensors")).expect("copies");
    let sd1 = stable_diffusion("sd1");
    let made = |name: &str, prompt: &str, more: &[&str]| {
        let out = folder.path(name);
        let run = ["sample", prompt, "--steps", "2", "--width", "24", "--height", "16", "--output", &out];
        succeeds(&[&run[..], &["--model", sd1.to_str().unwrap()], more].concat());
        Tensors::open(out).and_then(|file| file.read_f32("images")).expect("pictures")
    };
    let given = |scale: &str| made("a.safetensors", "a fox", &["--lora", &format!("{fixture}:{scale}"), "--weighting"]);
    let named = |prompt: &str| made("b.safetensors", prompt, &["--lora-dir", &loras, "--weighting"]);
    assert_eq!(named("a fox <lora:style:0.8>"), given("0.8"));
    assert_eq!(named("<lora:style> a fox"), given("1"));
    // The text encoder's scale comes first there, and last here.
    assert_eq!(named("a fox <lora:style:0.2:0.9>"), given("0.9:0.2"));

    let results = tempfile::tempdir().expect("a temporary folder");
    let out = results.path().join("out.png");
    let refused = |prompt: &str, parts: &[&str]| {
        let run = ["sample", prompt, "--model", sd1.to_str().unwrap(), "--weighting", "--lora-dir", &loras];
        fails(&[&run[..], &["--output", out.to_str().unwrap()]].concat(), parts, results.path());
    };
    refused("a <lora:none:0.8> fox", &["<lora:none:0.8>", "none.safetensors", "--lora"]);
    refused("a <lora:../style:0.8> fox", &["<lora:../style:0.8>"]);
    refused("a <lora:style:much> fox", &["<lora:style:much>", "numbers"]);
    refused("a <hypernet:x:1> fox", &["hypernetworks"]);
}

/// A name on Hugging Face is looked up in the cache; nothing is downloaded.
#[test]
fn a_model_may_be_named_as_in_the_cache() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let model = cache.path().join("models--someone--tiny.sd");
    crate::commands::usage::copy(&stable_diffusion("sd1"), &model.join("snapshots/aaaa"));
    std::fs::create_dir_all(model.join("snapshots/bbbb")).expect("a folder");
    std::fs::create_dir_all(model.join("refs")).expect("a folder");
    std::fs::write(model.join("refs/main"), "aaaa").expect("writes");
    let out = cache.path().join("out.png");
    let run = |name: &str| {
        let arguments = ["sample", "a fox", "--steps", "1", "--width", "24", "--height", "16", "--model", name];
        std::process::Command::new(env!("CARGO_BIN_EXE_unmist"))
            .args(arguments)
            .args(["--device", "reference", "--output", out.to_str().unwrap()])
            .env("HF_HUB_CACHE", cache.path())
            .output()
            .expect("the binary runs")
    };
    let output = run("someone/tiny.sd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(run(model.to_str().unwrap()).status.success(), "the folder itself means the same");
    let output = run("someone/else");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("`hf download someone/else`"), "{message}");
}

/// A copy of the tiny Stable Diffusion 1 that can be changed.
fn copied(folder: &Folder, name: &str) -> std::path::PathBuf {
    let to = std::path::PathBuf::from(folder.path(name));
    crate::commands::usage::copy(&stable_diffusion("sd1"), &to);
    to
}

/// Changes a JSON file in place.
fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).expect("there")).expect("JSON");
    change(&mut value);
    std::fs::write(path, value.to_string()).expect("writes");
}

/// The command line that a message advises: what follows "use ", as words.
fn advised(message: &str) -> Vec<String> {
    let advice = message.rsplit_once("; use ").unwrap_or_else(|| panic!("no advice in {message}")).1;
    advice.trim().split(' ').map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// What no model asks for is refused, with what to do; that done, the picture is the one without it and remembers it.
#[test]
fn what_is_unused_may_be_left_unread() {
    let folder = Folder::new();
    let plain = images(&folder, &[]);
    let lora = crate::commands::sample::lora("sd1_kohya.safetensors");
    let with_lora = images(&folder, &["--lora", &lora]);

    // Tensors, in the U-Net and in a LoRA; fields of each config.
    let more = |file: &Path, to: &Path, names: &[&str]| {
        let tensors = Tensors::open(file).expect("sound");
        let mut list: Vec<_> = tensors.names().map(|n| (n.to_owned(), tensors.read_f32(n).expect("sound"))).collect();
        drop(tensors);
        list.extend(names.iter().map(|n| ((*n).to_owned(), unmist::HostTensor::from_fn([2, 2], |i| i as f32))));
        let list: Vec<_> = list.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut out = std::fs::File::create(to).expect("writable");
        unmist::checkpoint::safetensors::write(&mut out, &list, &Default::default()).expect("writes");
    };
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let tensor = copied(&folder, "tensor");
    more(&stable_diffusion("sd1").join(weights), &tensor.join(weights), &["adapter.a.weight", "adapter.b.weight"]);
    let field = |name: &str, file: &str| {
        let model = copied(&folder, name);
        edit(&model.join(file), |config| config["my_flag"] = 1.into());
        model
    };
    let foreign = folder.path("foreign.safetensors");
    let names = ["lora_unet_no_such_block.lora_up.weight", "lora_unet_no_such_block.lora_down.weight"];
    more(Path::new(&lora), Path::new(&foreign), &names);
    let sd1 = stable_diffusion("sd1");
    for (model, options, named, expected) in [
        (tensor, &[][..], "adapter*", &plain),
        (field("unet", "unet/config.json"), &[], "my_flag", &plain),
        (field("vae", "vae/config.json"), &[], "my_flag", &plain),
        (field("text", "text_encoder/config.json"), &[], "my_flag", &plain),
        (field("scheduler", "scheduler/scheduler_config.json"), &[], "my_flag", &plain),
        (sd1, &["--lora", foreign.as_str()], "lora_unet_no_such_block", &with_lora),
    ] {
        let model = model.to_str().unwrap();
        let out = folder.path("ignored.png");
        let run = ["sample", "a fox", "--steps", "2", "--width", "24", "--height", "16", "--model", model];
        let run = [&run[..], options, &["--output", &out]].concat();
        let output = crate::commands::usage::unmist(&run);
        let message = crate::commands::usage::text(&output.stderr);
        assert!(!output.status.success(), "{model}");
        assert!(!message.contains("again"), "the file is sound: {message}");
        let advice = advised(&message);
        assert_eq!(advice, ["--ignore-unused", named], "{message}");

        let advice: Vec<&str> = advice.iter().map(String::as_str).collect();
        assert!(images(&folder, &[&["--model", model], options, &advice].concat()) == *expected, "{model}");
        let output = crate::commands::usage::unmist(&[&run[..], &advice].concat());
        let said = crate::commands::usage::text(&output.stderr);
        assert!(output.status.success() && said.contains("ignored as asked"), "{said}");
        assert_eq!(folder.record("ignored.png")["options"]["ignore_unused"], serde_json::json!([named]));
    }
    // What is missing or of the wrong shape cannot be left out.
    let less = copied(&folder, "less");
    edit(&less.join("unet/config.json"), |config| config["layers_per_block"] = 2.into());
    let empty = tempfile::tempdir().expect("a temporary folder");
    let out = empty.path().join("out.png");
    let run = ["sample", "a fox", "--model", less.to_str().unwrap(), "--ignore-unused", "*"];
    fails(&[&run[..], &["--output", out.to_str().unwrap()]].concat(), &["missing"], empty.path());
}

/// A scheduler's config may come from a file of its own; the model's own may be unknown where another is asked for.
#[test]
fn another_scheduler_may_take_the_place_of_the_models_own() {
    let folder = Folder::new();
    let config = folder.path("config.json");
    let sd1 = stable_diffusion("sd1");
    std::fs::copy(sd1.join("scheduler/scheduler_config.json"), &config).expect("copies");
    assert!(images(&folder, &["--scheduler-config", &config]) == images(&folder, &[]));
    edit(Path::new(&config), |config| config["_class_name"] = "EulerDiscreteScheduler".into());
    let euler = images(&folder, &["--scheduler", "EulerDiscreteScheduler"]);
    assert!(images(&folder, &["--scheduler-config", &config]) == euler);

    let (first, again) = (folder.path("first.png"), folder.path("again.png"));
    let run = ["sample", "a fox", "--steps", "2", "--width", "24", "--height", "16", "--model", sd1.to_str().unwrap()];
    succeeds(&[&run[..], &["--scheduler-config", &config, "--output", &first]].concat());
    assert!(folder.record("first.png")["files"]["scheduler_config"].is_object());
    succeeds(&["sample", "--from", &first, "--output", &again]);
    assert!(folder.bytes("first.png") == folder.bytes("again.png"), "made again bit for bit");

    let unknown = copied(&folder, "unknown");
    let file = unknown.join("scheduler/scheduler_config.json");
    edit(&file, |config| {
        config["_class_name"] = "SomebodysScheduler".into();
        config["my_order"] = 7.into();
    });
    let model = unknown.to_str().unwrap();
    assert!(images(&folder, &["--model", model, "--scheduler", "EulerDiscreteScheduler"]) == euler);
    let results = tempfile::tempdir().expect("a temporary folder");
    let out = results.path().join("out.png");
    let run = ["sample", "a fox", "--model", model, "--output", out.to_str().unwrap()];
    fails(&run, &["SomebodysScheduler", "use another --scheduler"], results.path());
    // Without a schedule of betas nobody knows what the model was trained on.
    edit(&file, |config| {
        *config = serde_json::json!({"_class_name": "SomebodysFlowScheduler", "shift": 3.0});
    });
    let run = [&run[..], &["--scheduler", "Euler"]].concat();
    fails(&run, &["SomebodysFlowScheduler", "another cannot take its place"], results.path());
}

/// An index that names only the base class is read by its components, which is said.
#[test]
fn the_base_class_of_pipelines_is_read_by_its_components() {
    let folder = Folder::new();
    let base = copied(&folder, "base");
    edit(&base.join("model_index.json"), |index| index["_class_name"] = "DiffusionPipeline".into());
    let model = base.to_str().unwrap();
    assert!(images(&folder, &["--model", model]) == images(&folder, &[]));
    let run = ["sample", "a fox", "--steps", "1", "--model", model, "--output", &folder.path("x.png")];
    let said = crate::commands::usage::text(&crate::commands::usage::unmist(&run).stderr);
    assert!(said.contains("assumed: the pipeline is a StableDiffusionPipeline, by its components"), "{said}");
}

/// What a name suggests is said and changes nothing; what is asked for is not suggested.
#[test]
fn a_name_is_a_hint_and_no_more() {
    let folder = Folder::new();
    let named = copied(&folder, "xl_lightning_8step");
    let settings = |model: &Path, more: &[&str]| {
        let run = ["sample", "a fox", "--explain-settings", "--model", model.to_str().unwrap()];
        let output = crate::commands::usage::unmist(&[&run[..], more].concat());
        assert!(output.status.success());
        (crate::commands::usage::text(&output.stdout), crate::commands::usage::text(&output.stderr))
    };
    let plain = settings(&stable_diffusion("sd1"), &[]);
    let hinted = settings(&named, &[]);
    let without_model = |text: &str| text.lines().filter(|l| !l.starts_with("model")).collect::<Vec<_>>().join("\n");
    let words = |text: &str| without_model(text).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&hinted.0), words(&plain.0));
    let hint = "--steps 8 --guidance-scale 1 --scheduler \"Euler Trailing\" would suit";
    assert!(hinted.1.contains(hint) && !plain.1.contains("hint"), "{}", hinted.1);
    let advice = ["--steps", "8", "--guidance-scale", "1", "--scheduler", "Euler Trailing"];
    assert!(!settings(&named, &advice).1.contains("hint"), "it is followed");
}
