//! The commands as a user runs them: results, and a clear error and no output file for everything that can go wrong.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use unmist::checkpoint::Tensors;
use unmist::verify::{Tolerance, compare};

pub use crate::common::stable_diffusion;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/unet2d").join(name)
}

pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/ddpm-fashion-32")
}

pub fn unmist(args: &[&str]) -> Output {
    program().args(args).output().expect("the binary runs")
}

/// The binary as users start it. `tools/test` has lavapipe leave out its optimisation, which pays where kernels are
/// compiled to run once; runs of many steps are faster with it.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unmist"));
    command.env_remove("GALLIVM_PERF");
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed; returns what it printed.
pub fn succeeds(args: &[&str]) -> String {
    let output = unmist(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must fail with an ordinary error that contains all of `parts`, and must leave nothing in
/// `folder`.
pub fn fails(args: &[&str], parts: &[&str], folder: &Path) {
    let output = unmist(args);
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(!message.contains("panicked"), "{args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{args:?}: expected «{part}» in: {message}");
    }
    let left: Vec<_> =
        std::fs::read_dir(folder).expect("the folder is there").flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{args:?} left {left:?}");
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a temporary folder");
    for entry in std::fs::read_dir(from).expect("the model is there").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

#[test]
fn run_agrees_with_diffusers_on_every_device() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.safetensors");
    for (model, device) in [
        ("odd_channels", "auto"),
        ("resnet_resampling", "reference"),
        ("class_table", "auto"),
        ("flat_old_names", "auto"),
    ] {
        let model = fixture(model);
        let input = folder.path().join("in.safetensors");
        // The fixture's file also holds the expected `out`, which `run` refuses as an unknown input: write only the
        // inputs.
        let io = Tensors::open(model.join("io.safetensors")).expect("the fixture is there");
        let inputs: Vec<_> = io.names().filter(|n| *n != "out").map(|n| (n, io.read_f32(n).expect("sound"))).collect();
        let listed: Vec<_> = inputs.iter().map(|(n, t)| (*n, t)).collect();
        let mut file = std::fs::File::create(&input).expect("writable");
        unmist::checkpoint::safetensors::write(&mut file, &listed, &Default::default()).expect("writes");
        succeeds(&[
            "run",
            "--model",
            model.to_str().unwrap(),
            "--component",
            "unet",
            "--input",
            input.to_str().unwrap(),
            "--output",
            out.to_str().unwrap(),
            "--device",
            device,
        ]);
        let found = Tensors::open(&out).and_then(|t| t.read_f32("sample")).expect("written");
        compare(&found, &io.read_f32("out").expect("sound"), Tolerance::l2(1e-4))
            .unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    }
}

/// Writes tensors of a fixture as the input of `run`: those with this prefix, which is removed.
fn write_input(path: &Path, io: &Tensors, prefix: &str, names: &[&str]) {
    let tensors: Vec<_> = names.iter().map(|n| (*n, io.read_f32(&format!("{prefix}{n}")).expect("sound"))).collect();
    let listed: Vec<_> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    let mut file = std::fs::File::create(path).expect("writable");
    unmist::checkpoint::safetensors::write(&mut file, &listed, &Default::default()).expect("writes");
}

#[test]
fn run_knows_every_component_of_stable_diffusion() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    const SDXL: &[&str] = &["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"];
    // folder, component, prefix of the fixture's tensors, inputs, outputs and their names in the fixture
    type Run =
        (&'static str, &'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);
    let runs: [Run; 6] = [
        ("sdxl", "unet", "", SDXL, &[("sample", "out")]),
        ("sd1", "vae.encoder", "encoder/", &["sample"], &[("mean", "mean"), ("logvar", "logvar")]),
        ("sd1", "vae.decoder", "decoder/", &["latent"], &[("sample", "out")]),
        ("taesd", "vae.encoder", "encoder/", &["sample"], &[("latents", "latents")]),
        ("sd1", "text_encoder", "", &["input_ids"], &[("pooler_output", "pooler_output")]),
        (
            "sdxl",
            "text_encoder_2",
            "",
            &["input_ids"],
            &[
                ("text_embeds", "text_embeds"),
                ("hidden_states.1", "hidden_states.1"),
                ("last_hidden_state", "last_hidden_state"),
            ],
        ),
    ];
    for (model, component, prefix, inputs, outputs) in runs {
        let model = stable_diffusion(model);
        let stem = component.split('.').next().expect("a name");
        let io = Tensors::open(model.join(format!("{stem}_io.safetensors"))).expect("the fixture is there");
        write_input(&input, &io, prefix, inputs);
        let [model, input, out] = [&model, &input, &out].map(|p| p.to_str().unwrap());
        succeeds(&["run", "--model", model, "--component", component, "--input", input, "--output", out]);
        let found = Tensors::open(out).expect("written");
        for (name, truth) in outputs {
            let truth = io.read_f32(&format!("{prefix}{truth}")).expect("sound");
            compare(&found.read_f32(name).expect("written"), &truth, Tolerance::l2(1e-4))
                .unwrap_or_else(|e| panic!("{model} {component} {name}: {e}"));
        }
    }
}

#[test]
fn inspect_and_verify_know_every_component_of_stable_diffusion() {
    let model = stable_diffusion("sdxl");
    let model = model.to_str().unwrap();
    for component in ["unet", "vae.encoder", "vae.decoder", "text_encoder", "text_encoder_2"] {
        let printed = succeeds(&["inspect", "--model", model, "--component", component]);
        assert!(printed.contains("parameters") && printed.contains("plan for"), "{component}: {printed}");
        let bound = ["--model", model, "--component", component, "--batch-size", "0"];
        fails(&[&["inspect"], &bound[..]].concat(), &["--batch-size"], tempfile::tempdir().expect("a folder").path());
    }
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&["inspect", "--model", model, "--component", "vae.decoder", "--json"]))
            .expect("JSON");
    assert_eq!(json["class"], "AutoencoderKL");
    let printed = succeeds(&["verify", "--op", "clamp"]);
    assert!(printed.contains("everything agrees"), "{printed}");
}

#[test]
fn components_and_inputs_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let inputs = tempfile::tempdir().expect("a temporary folder");
    let (input, out) = (inputs.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let model = stable_diffusion("sdxl");
    let io = Tensors::open(model.join("text_encoder_io.safetensors")).expect("the fixture is there");
    write_input(&input, &io, "", &["input_ids"]);
    let [model, input, out] = [&model, &input, &out].map(|p| p.to_str().unwrap());
    let refused = |component: &str, parts: &[&str]| {
        fails(
            &["run", "--model", model, "--component", component, "--input", input, "--output", out],
            parts,
            folder.path(),
        );
    };
    refused("vae", &["vae.encoder", "vae.decoder"]);
    refused("vae.middle", &["vae.encoder", "vae.decoder"]);
    refused("unet.encoder", &["unet.encoder", "no halves"]);
    refused("vae.decoder", &["in.safetensors", "`input_ids` is not an input", "latent"]);
    refused("safety_checker", &["safety_checker", "unet"]);
    refused("tokenizer", &["tokenizer"]);
}

#[test]
fn sample_writes_a_grid_with_its_settings_and_the_values_before_rounding() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let png = folder.path().join("clothes.png");
    let raw = folder.path().join("clothes.safetensors");
    let model = shipped();
    let common = [
        "sample",
        "--model",
        model.to_str().unwrap(),
        "--scheduler",
        "ddim",
        "--steps",
        "3",
        "--batch-size",
        "4",
        "--class",
        "0,1",
        "--seed",
        "7",
        "--guidance-scale",
        "1.5",
    ];
    fn with<'a>(common: &[&'a str], out: &'a Path) -> Vec<&'a str> {
        [common, &["--output", out.to_str().unwrap()]].concat()
    }
    succeeds(&with(&common, &png));
    succeeds(&with(&common, &raw));
    let settings = unmist::image_io::read_text(&png).expect("a PNG");
    let (_, line) = settings.iter().find(|(k, _)| k == "parameters").expect("the settings are there");
    for part in
        ["Steps: 3", "Sampler: DDIM", "Seed: 7", "CFG scale: 1.5", "Size: 32x32", "Class: 0,", "Model: ddpm-fashion-32"]
    {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    let images = Tensors::open(&raw).and_then(|t| t.read_f32("images")).expect("written");
    assert_eq!(images.shape, [4, 1, 32, 32]);
    assert!(images.data.iter().all(|v| (0.0..=1.0).contains(v)));
    let grid = unmist::image_io::read(&png, 1).expect("a picture");
    let expected = unmist::image_io::grid(&unmist::image_io::Picture::from_tensor(&images).expect("pictures"), None)
        .expect("a grid");
    assert_eq!(grid, expected);

    let separate = folder.path().join("one.png");
    succeeds(&[&with(&common, &separate)[..], &["--separate"]].concat());
    for i in 1..=4 {
        assert!(folder.path().join(format!("one-000{i}.png")).is_file(), "picture {i} of 4");
    }
}

#[test]
fn sample_paints_a_prompt_and_refuses_what_does_not_fit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = stable_diffusion("sd1");
    let (model, out) = (model.to_str().unwrap(), folder.path().join("out.png"));
    let common = ["sample", "--model", model, "--steps", "2", "--height", "16", "--output", out.to_str().unwrap()];
    let refused = |more: &[&'static str], parts: &[&str]| fails(&[&common[..], more].concat(), parts, folder.path());
    refused(&["a fox", "--class", "3"], &["--class", "prompt"]);
    refused(&["a fox", "--width", "33"], &["multiples of"]);
    let common = [&common[..], &["--width", "24"]].concat();
    let refused = |more: &[&'static str], parts: &[&str]| fails(&[&common[..], more].concat(), parts, folder.path());
    refused(&["a fox", "--clip-skip", "40"], &["--clip-skip 40"]);
    refused(&["a fox", "--image", "/no/such/picture.png"], &["/no/such/picture.png"]);
    refused(&["a fox", "--batch-size", "0"], &["--batch-size 0"]);

    succeeds(
        &[
            &common[..],
            &["a fox in the forest", "--negative-prompt", "fog", "--scheduler", "DPM++ 2M Karras", "--seed", "5"],
        ]
        .concat(),
    );
    let first = unmist::image_io::read(&out, 3).expect("a picture");
    assert_eq!((first.width, first.height), (24, 16));
    let start = folder.path().join("start.png");
    std::fs::rename(&out, &start).expect("renames");
    succeeds(
        &[&common[..], &["a fox in the forest", "--image", start.to_str().unwrap(), "--strength", "0.5"]].concat(),
    );
    assert!(unmist::image_io::read(&out, 3).expect("a picture") != first);
}

#[test]
fn noise_writes_a_strip() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (picture, strip) = (folder.path().join("in.png"), folder.path().join("strip.png"));
    let data = (0..24 * 20).map(|i| (i * 7 % 256) as u8).collect();
    unmist::image_io::write_png(&picture, &unmist::image_io::Picture { width: 24, height: 20, channels: 1, data }, &[])
        .expect("writes");
    succeeds(&[
        "noise",
        "--model",
        shipped().to_str().unwrap(),
        "--image",
        picture.to_str().unwrap(),
        "--timestep",
        "0,250,999",
        "--output",
        strip.to_str().unwrap(),
    ]);
    let found = unmist::image_io::read(&strip, 1).expect("a picture");
    assert_eq!((found.width, found.height), (3 * 24 + 2 * 2, 20));
    // At timestep 0 the picture is almost unchanged: √ᾱ_0 is 0.99995.
    let original = unmist::image_io::read(&picture, 1).expect("a picture");
    let error =
        |x: usize, y: usize| (i32::from(found.data[y * found.width + x]) - i32::from(original.data[y * 24 + x])).abs();
    let worst = (0..20).flat_map(|y| (0..24).map(move |x| (x, y))).map(|(x, y)| error(x, y)).max();
    assert!(worst <= Some(6), "the first picture's noise stays within four standard deviations: {worst:?}");

    // A model whose noise levels have no numbers.
    let model = folder.path().join("model");
    copy(&shipped(), &model);
    let config = r#"{"_class_name": "IPNDMScheduler"}"#;
    std::fs::write(model.join("scheduler/scheduler_config.json"), config).expect("writes");
    let empty = tempfile::tempdir().expect("a temporary folder");
    let output = empty.path().join("strip.png");
    let [model, picture, output] = [&model, &picture, &output].map(|path| path.to_str().unwrap());
    let asked = ["noise", "--model", model, "--image", picture, "--timestep", "0", "--output", output];
    fails(&asked, &["IPNDMScheduler", "no numbered timesteps"], empty.path());
}

/// Mesa's search for a Wayland compositor complains if the session has no runtime folder (SSH, containers).
#[test]
fn drivers_do_not_complain_on_the_terminal() {
    for folder in [None, Some("not/absolute")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unmist"));
        command.arg("devices").env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY");
        folder.map(|folder| command.env("XDG_RUNTIME_DIR", folder));
        let output = command.output().expect("the binary runs");
        assert!(output.status.success());
        assert_eq!(text(&output.stderr), "", "XDG_RUNTIME_DIR {folder:?}");
    }
}

#[test]
fn devices_inspect_and_verify_tell_what_they_should() {
    assert!(succeeds(&["devices"]).contains("auto takes"));
    let devices: serde_json::Value = serde_json::from_str(&succeeds(&["devices", "--json"])).expect("JSON");
    assert!(devices["adapters"].as_array().is_some_and(|a| !a.is_empty()));

    let model = shipped();
    let printed = succeeds(&["inspect", "--model", model.to_str().unwrap()]);
    for part in ["parameters 1806529", "UNet2DConfig", "down_blocks.0.resnets.0.conv1", "MFLOP", "memory"] {
        assert!(printed.contains(part), "{part}");
    }
    let json: serde_json::Value = serde_json::from_str(&succeeds(&[
        "inspect",
        "--model",
        model.to_str().unwrap(),
        "--json",
        "--batch-size",
        "2",
    ]))
    .expect("JSON");
    let launches = ["once_launches", "condition_launches", "launches"];
    let launches: Option<u64> = launches.iter().map(|name| json["summary"][name].as_u64()).sum();
    assert_eq!(launches, json["plan"].as_array().map(|p| p.len() as u64));
    assert!(json["summary"]["flops"].as_u64() > Some(100_000_000));

    let printed = succeeds(&["verify", "--op", "activation"]);
    assert!(printed.contains("everything agrees"), "{printed}");
}

#[test]
fn bad_options_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.png");
    let out = out.to_str().unwrap();
    let model = shipped();
    let model = model.to_str().unwrap();
    let sample = |more: &[&'static str], parts: &[&str]| {
        fails(
            &[&["sample", "--model", model, "--output", out, "--device", "reference"], more].concat(),
            parts,
            folder.path(),
        )
    };
    sample(&["--steps", "0"], &["steps", "0"]);
    sample(&["--steps", "2000"], &["2000", "1000"]);
    sample(&["--class", "11"], &["--class 11", "0 to 10"]);
    sample(&["--batch-size", "0"], &["--batch-size 0"]);
    sample(&["--width", "30"], &["30", "multiples of 4"]);
    sample(&["--height", "0"], &["multiples of 4"]);
    sample(&["--width", "4000000000"], &["4000000000"]);
    sample(&["--eta=-1"], &["--eta"]);
    sample(&["--guidance-scale", "NaN"], &["--guidance-scale"]);
    sample(&["--scheduler", "magic"], &["magic", "DDIM"]);
    sample(&["a prompt"], &["PROMPT", "no text encoder", "--class"]);
    sample(&["--negative-prompt", "fog"], &["--negative-prompt", "no text encoder"]);
    sample(&["--seed", "1,2", "--batch-size", "3"], &["--seed", "2 seeds for 3"]);
    sample(&["--force", "conv2d=warp"], &["conv2d", "warp", "naive"]);
    sample(&["--force", "mid_block.resnets.7.conv1=naive"], &["--force", "mid_block.resnets.7", "mid_block.resnets."]);
    fails(
        &["sample", "--model", model, "--output", out, "--device", "no such device"],
        &["device:", "no such device"],
        folder.path(),
    );
    fails(&["sample", "--model", model, "--output", out, "--device", "99"], &["no adapter 99"], folder.path());
    fails(&["sample", "--model", "/no/such/model", "--output", out], &["/no/such/model"], folder.path());
    let elsewhere = folder.path().join("missing/out.png");
    fails(&["sample", "--model", model, "--output", elsewhere.to_str().unwrap()], &["missing"], folder.path());
    let text = folder.path().join("out.txt");
    let run = ["sample", "--model", model, "--output", text.to_str().unwrap()];
    fails(&run, &[".png, .jpg, .webp or .safetensors"], folder.path());
}

#[test]
fn no_adapter_falls_back_to_the_reference_or_says_so() {
    // A loader that finds no driver, as on a machine without one.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let none = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_unmist"))
            .args(args)
            .env("VK_ICD_FILENAMES", "/nowhere.json")
            .env("VK_DRIVER_FILES", "/nowhere.json")
            .output()
            .expect("runs")
    };
    if !cfg!(target_os = "linux") {
        return; // Metal and DX12 drivers cannot be hidden this way; the Linux leg of CI runs this.
    }
    let input = folder.path().join("in.safetensors");
    let io = Tensors::open(fixture("pipeline").join("io.safetensors")).expect("the fixture is there");
    write_input(&input, &io, "", &["sample", "timestep"]);
    let output = none(&[
        "run",
        "--model",
        fixture("pipeline").to_str().unwrap(),
        "--input",
        input.to_str().unwrap(),
        "--output",
        folder.path().join("o.safetensors").to_str().unwrap(),
        "--device",
        "0",
    ]);
    assert!(!output.status.success() && text(&output.stderr).contains("no adapter 0"), "{}", text(&output.stderr));
    let out = folder.path().join("out.png");
    let output = none(&[
        "sample",
        "--model",
        fixture("pipeline").to_str().unwrap(),
        "--steps",
        "2",
        "--width",
        "8",
        "--height",
        "8",
        "--output",
        out.to_str().unwrap(),
        "--device",
        "0",
    ]);
    let message = text(&output.stderr);
    assert!(
        !output.status.success() && message.contains("no adapter") && message.contains("--device reference"),
        "{message}"
    );
    assert!(!out.exists());
    let output = none(&[
        "sample",
        "--model",
        fixture("pipeline").to_str().unwrap(),
        "--steps",
        "2",
        "--width",
        "8",
        "--height",
        "8",
        "--output",
        out.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("CPU reference") && out.exists());
}

#[test]
fn damaged_models_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = tempfile::tempdir().expect("a temporary folder");
    let out = output.path().join("out.png");
    let model = folder.path().join("model");
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let config = model.join("unet/config.json");
    let expect = |parts: &[&str]| {
        fails(
            &[
                "sample",
                "--model",
                model.to_str().unwrap(),
                "--steps",
                "2",
                "--width",
                "8",
                "--height",
                "8",
                "--device",
                "reference",
                "--output",
                out.to_str().unwrap(),
            ],
            parts,
            output.path(),
        );
    };
    let fresh = || {
        drop(std::fs::remove_dir_all(&model));
        copy(&fixture("pipeline"), &model);
    };
    let edit = |file: &Path, from: &str, to: &str| {
        let old = std::fs::read_to_string(file).expect("there");
        assert!(old.contains(from), "no {from} in {old}");
        std::fs::write(file, old.replacen(from, to, 1)).expect("writes");
    };

    fresh();
    std::fs::remove_file(&weights).expect("there");
    expect(&["checkpoint:", "unet"]);

    fresh();
    let bytes = std::fs::read(&weights).expect("there");
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).expect("writes");
    expect(&["checkpoint:", "diffusion_pytorch_model.safetensors"]);

    fresh();
    let mut bytes = std::fs::read(&weights).expect("there");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&[0, 0x7e, 0, 0x7e]); // two f16 NaNs
    std::fs::write(&weights, bytes).expect("writes");
    expect(&["checkpoint:", "NaN"]);

    fresh();
    edit(&config, "\"AttnDownBlock2D\"", "\"WarpDownBlock2D\"");
    expect(&["unsupported:", "WarpDownBlock2D"]);

    fresh();
    edit(&config, "\"act_fn\": \"silu\"", "\"act_fn\": \"snake\"");
    expect(&["unsupported:", "snake"]);

    fresh();
    edit(&config, "\"layers_per_block\": 1", "\"layers_per_block\": 2");
    expect(&["checkpoint:", "missing"]);

    fresh();
    edit(&config, "\"norm_num_groups\": 4", "\"norm_num_groups\": 7");
    expect(&["config:", "7 groups"]);

    fresh();
    edit(&config, "\"in_channels\": 3", "\"in_channels\": 3, \"quantum_mode\": true");
    expect(&["unknown fields", "quantum_mode", "--ignore-unused quantum_mode"]);

    fresh();
    edit(&model.join("scheduler/scheduler_config.json"), "\"linear\"", "\"spiral\"");
    expect(&["unsupported:", "spiral"]);
}
