//! `unmist train`: runs from pictures to a folder that draws, goes on to the bit, and what it refuses.

use std::path::Path;

use serde_json::Value;
use unmist::checkpoint::Tensors;
use unmist::image_io::{Picture, write_png};

use crate::commands::usage::{succeeds, unmist};
use crate::common::stable_diffusion;

/// A folder of 12 x 8 pictures: `per_class` in each of the subfolders 0 to 3.
fn pictures(folder: &Path, per_class: usize) -> String {
    for class in 0..4usize {
        let subfolder = folder.join(class.to_string());
        std::fs::create_dir_all(&subfolder).expect("can be made");
        for i in 0..per_class {
            let value = |at: usize| {
                (if (at / 12 + class).is_multiple_of(3) { 220 } else { 30 }) as u8 + (7 * i + at % 12) as u8
            };
            let picture = Picture { width: 12, height: 8, channels: 1, data: (0..96).map(value).collect() };
            write_png(subfolder.join(format!("{i}.png")), &picture, &[]).expect("can be written");
        }
    }
    text(folder)
}

/// A folder of `tests/fixtures`.
fn fixture(path: &str) -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path))
}

/// What a command that fails says.
fn fails(args: &[&str]) -> String {
    let output = unmist(args);
    assert!(!output.status.success(), "{args:?} succeeded");
    String::from_utf8(output.stderr).expect("messages are UTF-8")
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// A run on those pictures, with more arguments.
fn arguments<'a>(model: &'a str, data: &'a str, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = ["train", "--model", model, "--train-data", data, "--output", output, "--train-batch-size", "4"];
    own.iter().chain(more).copied().collect()
}

fn weights(output: &str) -> Vec<u8> {
    std::fs::read(Path::new(output).join("unet/diffusion_pytorch_model.safetensors")).expect("the run wrote it")
}

/// Step, name and value of the first number of each summary in the only event file of a folder, read field by field.
fn scalars(logs: &Path) -> Vec<(u64, String, f32)> {
    let files: Vec<_> = std::fs::read_dir(logs).expect("there are logs").map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = std::fs::read(&files[0]).expect("is read");
    fn varint(rest: &mut &[u8]) -> u64 {
        let length = 1 + rest.iter().position(|byte| byte & 0x80 == 0).expect("it ends");
        let (number, after) = rest.split_at(length);
        *rest = after;
        number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
    }
    /// The fields of a message: number, and a number or bytes.
    fn fields(mut rest: &[u8]) -> Vec<(u64, u64, &[u8])> {
        let mut all = Vec::new();
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let value = if key & 7 == 0 { varint(&mut rest) } else { 0 };
            let length = match key & 7 {
                0 => 0,
                1 => 8,
                2 => varint(&mut rest) as usize,
                _ => 4,
            };
            let (bytes, after) = rest.split_at(length);
            all.push((key >> 3, value, bytes));
            rest = after;
        }
        all
    }
    fn of<'a>(message: &[(u64, u64, &'a [u8])], number: u64) -> Option<(u64, &'a [u8])> {
        message.iter().find(|field| field.0 == number).map(|field| (field.1, field.2))
    }
    let (mut rest, mut found) = (&file[..], Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let event = fields(&rest[12..12 + length]);
        rest = &rest[12 + length + 4..];
        let Some((_, summary)) = of(&event, 5) else { continue };
        let value = fields(fields(summary)[0].2);
        let Some((_, number)) = of(&value, 2) else { continue };
        let step = of(&event, 2).expect("a step").0;
        let name = String::from_utf8(of(&value, 1).expect("a name").1.to_vec()).unwrap();
        found.push((step, name, f32::from_le_bytes(number.try_into().unwrap())));
    }
    found
}

#[test]
fn a_run_from_nothing_learns_and_draws() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = pictures(&folder.path().join("data"), 3);
    let [out, config, drawn] = ["out", "train.toml", "drawn.png"].map(|name| text(&folder.path().join(name)));
    std::fs::write(
        &config,
        "learning_rate = 3e-3\nmax_train_steps = 30\nlogging_steps = 5\nrandom_flip = true\nema_decay = 0.5\n\
         lr_scheduler = \"cosine\"\nsample = true\nreport_to = \"tensorboard\"\n",
    )
    .expect("can be written");
    let model = fixture("unet2d/class_table");
    let said = succeeds(&arguments(&model, &data, &out, &["--config", &config, "--from-scratch"]));
    assert!(said.contains("loss") && said.contains(&out), "{said}");

    let log = std::fs::read_to_string(Path::new(&out).join("log.csv")).expect("there is a log");
    let rows: Vec<Vec<f64>> =
        log.lines().skip(1).map(|line| line.split(',').map(|n| n.parse().expect("a number")).collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), [5.0, 10.0, 15.0, 20.0, 25.0, 30.0]);
    assert!(rows[5][1] < 0.8 * rows[0][1], "it learned nothing: {log}");
    assert!(rows[5][3] < rows[1][3], "the rate does not fall: {log}");
    let events = scalars(&Path::new(&out).join("logs"));
    for (row, line) in rows.iter().zip(&events) {
        assert_eq!((row[0], "loss"), (line.0 as f64, line.1.as_str()));
        assert!((row[1] / f64::from(line.2) - 1.0).abs() < 1e-4, "{row:?} {line:?}");
    }
    assert_eq!(events.len(), rows.len());
    for file in ["README.md", "model_index.json", "unet/config.json", "samples/step-000030.png"] {
        assert!(Path::new(&out).join(file).is_file(), "{file}");
    }
    succeeds(&[
        "sample", "--model", &out, "--class", "1", "--steps", "2", "--height", "8", "--width", "12", "--output", &drawn,
    ]);
    let index: Value =
        serde_json::from_str(&std::fs::read_to_string(Path::new(&out).join("model_index.json")).unwrap()).unwrap();
    assert_eq!(index["_class_name"], "DDPMPipeline");
}

#[test]
fn a_run_goes_on_to_the_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = pictures(&folder.path().join("data"), 2);
    let [whole, parts] = ["whole", "parts"].map(|name| text(&folder.path().join(name)));
    let model = fixture("unet2d/class_table");
    let settings = ["--seed", "5", "--gradient-accumulation-steps", "2", "--logging-steps", "1"];
    let run = |output: &str, more: &[&str]| {
        succeeds(&arguments(&model, &data, output, &[&settings[..], more].concat()));
    };
    run(&whole, &["--max-train-steps", "4"]);
    run(&parts, &["--max-train-steps", "2"]);
    let half = weights(&parts);
    run(&parts, &["--max-train-steps", "4", "--resume"]);
    assert!(half != weights(&parts), "nothing was trained after the first half");
    assert!(weights(&whole) == weights(&parts), "a run in two parts ends with other parameters");
    let lines = |output: &str| -> Vec<String> {
        let log = std::fs::read_to_string(Path::new(output).join("log.csv")).expect("there is a log");
        // Without the speed.
        log.lines().map(|line| line.rsplit_once(',').expect("columns").0.to_owned()).collect()
    };
    assert_eq!(lines(&whole), lines(&parts));

    // What must not change, what is finished.
    let error = fails(&arguments(&model, &data, &parts, &["--resume", "--max-train-steps", "9", "--seed", "6"]));
    assert!(error.contains("--resume"), "{error}");
    let error =
        fails(&arguments(&model, &data, &parts, &[&settings[..], &["--resume", "--max-train-steps", "4"]].concat()));
    assert!(error.contains("4 steps already"), "{error}");
    let more = pictures(&folder.path().join("more"), 3);
    let error =
        fails(&arguments(&model, &more, &parts, &[&settings[..], &["--resume", "--max-train-steps", "9"]].concat()));
    assert!(error.contains("8 pictures") && error.contains("12"), "{error}");
    let other = fixture("unet2d/odd_channels");
    let go_on = [&settings[..], &["--resume", "--max-train-steps", "9"]].concat();
    let error = fails(&arguments(&other, &data, &parts, &go_on));
    for part in ["--resume", "odd_channels", "has \"", "the model that it began with"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // The architecture in the run's own folder, changed since.
    let config = Path::new(&parts).join("unet/config.json");
    let text = std::fs::read_to_string(&config).expect("there is a config");
    let mut wider: Value = serde_json::from_str(&text).expect("sound");
    wider["block_out_channels"] = serde_json::json!([8, 24]);
    std::fs::write(&config, wider.to_string()).expect("writes");
    let error = fails(&arguments(&model, &data, &parts, &go_on));
    assert!(error.contains(r#""block_out_channels" [8,16]"#) && error.contains("[8,24]"), "{error}");
    std::fs::write(&config, text).expect("writes");
    // What the run began with may be gone: its own folder stands for it.
    let more = ["--max-train-steps", "5", "--resume"];
    succeeds(&arguments(&parts, &data, &parts, &[&settings[..], &more].concat()));
}

/// A disk that is full when a checkpoint is written costs that checkpoint, not the one before it.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = pictures(&folder.path().join("data"), 2);
    let output = text(&folder.path().join("out"));
    let model = fixture("unet2d/class_table");
    succeeds(&arguments(&model, &data, &output, &["--max-train-steps", "2"]));
    let state = Path::new(&output).join("training/state.safetensors");
    let [before, parameters] = [std::fs::read(&state).expect("it ends with a checkpoint"), weights(&output)];
    assert!(before.len() > 20 << 10, "{} bytes", before.len());

    // Files of more than 16 blocks of 1 KiB cannot be written, as on a full disk.
    let more = ["--resume", "--max-train-steps", "6", "--checkpointing-steps", "1"];
    let line = "trap '' XFSZ; ulimit -f 16; exec \"$@\"";
    let found = std::process::Command::new("bash")
        .args(["-c", line, "bash", env!("CARGO_BIN_EXE_unmist")])
        .args(arguments(&model, &data, &output, &more))
        .output()
        .expect("bash runs");
    let error = String::from_utf8(found.stderr).expect("messages are UTF-8");
    assert!(!found.status.success() && error.contains("state.safetensors"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    assert!(std::fs::read(&state).expect("it is still there") == before, "the last checkpoint is another");
    assert!(weights(&output) == parameters, "the parameters are others");
    for part in ["training", "unet", ""] {
        for entry in std::fs::read_dir(Path::new(&output).join(part)).expect("a run has these folders").flatten() {
            let name = entry.file_name().into_string().expect("UTF-8");
            assert!(!name.ends_with(".tmp"), "{part}/{name}: something half written is left");
        }
    }
    succeeds(&arguments(&model, &data, &output, &more));
    assert!(weights(&output) != parameters, "it went on");
}

#[test]
fn a_lora_is_trained_and_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let mut listed = String::new();
    for i in 0..3usize {
        let value = |at: usize| (at * (i + 3) % 251) as u8;
        let picture = Picture { width: 24, height: 16, channels: 3, data: (0..24 * 16 * 3).map(value).collect() };
        write_png(data.join(format!("{i}.png")), &picture, &[]).expect("can be written");
        listed += &format!("{{\"file_name\": \"{i}.png\", \"text\": \"a picture\"}}\n");
    }
    std::fs::write(data.join("metadata.jsonl"), listed).unwrap();
    let model = stable_diffusion("sd1");
    let model = text(&model);
    for (format, key) in [("diffusers", "unet.down_blocks.0"), ("kohya", "lora_unet_down_blocks_0")] {
        let out = text(&folder.path().join(format));
        let more = ["--lora-rank", "2", "--lora-alpha", "4", "--lora-format", format, "--max-train-steps", "2"];
        let crop = ["--crop", "center", "--learning-rate", "1e-2"];
        succeeds(&arguments(&model, &text(&data), &out, &[&more[..], &crop].concat()));
        let file = Path::new(&out).join("pytorch_lora_weights.safetensors");
        let tensors = Tensors::open(&file).expect("it is whole");
        assert!(tensors.names().any(|name| name.starts_with(key)), "{format}");
        let lora = text(&file);
        let [plain, with] = ["plain.png", "with.png"].map(|name| text(&folder.path().join(name)));
        let sample = ["sample", "a picture", "--model", &model, "--steps", "2", "--output"];
        succeeds(&[&sample[..], &[&plain]].concat());
        succeeds(&[&sample[..], &[&with, "--lora", &lora]].concat());
        assert!(std::fs::read(&plain).unwrap() != std::fs::read(&with).unwrap(), "{format}: the LoRA changes nothing");
    }
}

#[test]
fn a_word_is_learned() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    for i in 0..2usize {
        let value = |at: usize| (at * (i + 3) % 251) as u8;
        let picture = Picture { width: 24, height: 16, channels: 3, data: (0..24 * 16 * 3).map(value).collect() };
        write_png(data.join(format!("{i}.png")), &picture, &[]).expect("can be written");
    }
    let model = text(&stable_diffusion("sd1"));
    let out = text(&folder.path().join("out"));
    let word = ["--crop", "center", "--placeholder-token", "<thing>", "--num-vectors", "2", "--learning-rate", "1e-1"];
    let steps = ["--max-train-steps", "2", "--conditioning-dropout", "0"];
    let all = |from: &'static str| [&word[..], &steps, &["--initializer-token", from]].concat();
    // Which words are one token depends on the vocabulary.
    let error = fails(&arguments(&model, &text(&data), &out, &all("an unlikely sentence")));
    assert!(error.contains("tokens of this model"), "{error}");
    succeeds(&arguments(&model, &text(&data), &out, &all("a")));
    let file = Path::new(&out).join("learned_embeds.safetensors");
    let learned = Tensors::open(&file).expect("it is whole").read_f32("<thing>").expect("the word is there");
    assert_eq!(learned.shape[0], 2);
    let rows: Vec<&[f32]> = learned.data.chunks(learned.shape[1]).collect();
    // Both began as the same vector.
    assert!(rows[0] != rows[1], "the vectors did not move apart");
    let [plain, with] = ["plain.png", "with.png"].map(|name| text(&folder.path().join(name)));
    let sample = ["--model", &model, "--steps", "2", "--output"];
    succeeds(&[&["sample", "a thing"][..], &sample, &[&plain]].concat());
    succeeds(&[&["sample", "a <thing>"][..], &sample, &[&with, "--embedding", &text(&file)]].concat());
    assert!(std::fs::read(&plain).unwrap() != std::fs::read(&with).unwrap(), "the word changes nothing");
}

#[test]
fn bad_input_is_refused_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = pictures(&folder.path().join("data"), 1);
    let out = text(&folder.path().join("out"));
    let model = fixture("unet2d/class_table");
    let steps = ["--max-train-steps", "2"];
    let refused = |data: &str, more: &[&str], parts: &[&str]| {
        let error = fails(&arguments(&model, data, &out, &[&steps[..], more].concat()));
        for part in parts {
            assert!(error.contains(part), "{more:?}: {error}");
        }
        assert!(!Path::new(&out).exists(), "{more:?} left a folder behind");
    };

    let at = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.join("0")).unwrap();
        path
    };
    refused(&text(&at("empty")), &[], &["no picture", "--train-data"]);
    let broken = at("broken");
    std::fs::write(broken.join("0/1.png"), b"no picture").unwrap();
    refused(&text(&broken), &[], &["1.png"]);
    let mixed = at("mixed");
    for (name, width) in [("a", 12), ("b", 14)] {
        let picture = Picture { width, height: 8, channels: 1, data: vec![9; 8 * width] };
        write_png(mixed.join(format!("0/{name}.png")), &picture, &[]).unwrap();
    }
    refused(&text(&mixed), &[], &["b.png", "14 x 8", "--crop"]);
    let many = at("many");
    std::fs::create_dir_all(many.join("9")).unwrap();
    refused(&text(&many), &[], &["9", "classes 0 to 4"]);
    refused(&text(&folder.path().join("nowhere")), &[], &["no such folder"]);
    let idx = folder.path().join("x-images-idx3-ubyte");
    std::fs::write(&idx, [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3]).unwrap();
    refused(&text(&idx), &[], &["cut off"]);
    std::fs::write(&idx, [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4]).unwrap();
    refused(&text(&idx), &[], &["by class", "labels"]);
    std::fs::write(folder.path().join("x-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 77]).unwrap();
    refused(&text(&idx), &[], &["label 77", "classes 0 to 4"]);
    for (more, parts) in [
        (&["--learning-rate", "0"][..], &["--learning-rate 0", "above 0"][..]),
        (&["--adam-beta1", "1"], &["--adam-beta1 1", "below 1"]),
        (&["--gradient-accumulation-steps", "0"], &["--gradient-accumulation-steps 0"]),
        (&["--num-train-epochs", "2"], &["expected one of them"]),
        (&["--lora-alpha", "2"], &["--lora-rank"]),
        (&["--resume"], &["--output"]),
        (&["--snr-gamma", "-1"], &["--snr-gamma"]),
    ] {
        let error = fails(&arguments(&model, &data, &out, &[&steps[..], more].concat()));
        parts.iter().for_each(|part| assert!(error.contains(part), "{more:?}: {error}"));
    }
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "learning_rat = 1\n").unwrap();
    refused(&data, &["--config", &text(&config)], &["learning_rat", "c.toml"]);

    // A run that diverges keeps its last checkpoint.
    let wild = ["--learning-rate", "1e18", "--checkpointing-steps", "1", "--logging-steps", "1", "--optimizer", "sgd"];
    let error = fails(&arguments(&model, &data, &out, &[&["--max-train-steps", "9"][..], &wild].concat()));
    assert!(error.contains("diverged") && error.contains("--learning-rate"), "{error}");
    let kept = Tensors::open(Path::new(&out).join("training/state.safetensors")).expect("the last checkpoint is whole");
    assert!(kept.names().count() > 10);
    // Nothing is written over.
    let error = fails(&arguments(&model, &data, &out, &steps));
    assert!(error.contains("something already") && error.contains("--resume"), "{error}");
}
