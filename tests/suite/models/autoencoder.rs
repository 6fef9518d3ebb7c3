//! The autoencoder as pipelines use it: both classes, in tiles, and where f16 overflows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors, safetensors};
use unmist::models::{LoadedModel, NamedTensors, prepare};
use unmist::pipelines::{Autoencoder, Runtime, Tiling};
use unmist::plan::PlanOptions;
use unmist::verify::{Tolerance, compare};
use unmist::{DType, Error, HostTensor};

use crate::common::one;
use crate::device::gpu;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stable_diffusion")
}

fn devices() -> [Device; 2] {
    [Device::Gpu(gpu().clone()), Device::Reference]
}

fn vae(folder: &Path, tiling: Tiling) -> Autoencoder {
    let mut vae =
        Autoencoder::load(&Checkpoint::open(folder).expect("the model is there"), "vae", false).expect("loads");
    vae.tiling = tiling;
    vae
}

fn read(folder: &str, file: &str) -> NamedTensors {
    let file = Tensors::open(fixtures().join(folder).join(file)).expect("the fixture is there");
    file.names().map(|name| (name.to_owned(), file.read_f32(name).expect("sound"))).collect()
}

fn each(tensor: &HostTensor, f: impl Fn(f32) -> f32) -> HostTensor {
    HostTensor { shape: tensor.shape.clone(), data: tensor.data.iter().map(|v| f(*v)).collect() }
}

fn check(what: &str, found: &HostTensor, expected: &HostTensor) {
    compare(found, expected, Tolerance::l2(2e-5)).unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// Checks encoding and decoding against the fixture of a component, whose latents are not scaled.
fn check_truth(truth: &NamedTensors, vae: &Autoencoder, device: &Device, scale: f32) {
    let load = LoadOptions::default();
    let runtime = Runtime::new(device, &load, DType::F32);
    let latent = each(&truth["decoder/latent"], |v| v * scale);
    let pictures = vae.decode(&runtime, &latent).expect("decodes");
    let expected = each(&truth["decoder/out"], |v| (v / 2.0 + 0.5).clamp(0.0, 1.0));
    check("decode", &pictures, &expected);

    let samples = &truth["encoder/sample"];
    for i in 0..samples.shape[0] {
        let image = one(samples, i);
        let (mean, deviation) = match truth.get("encoder/mean") {
            Some(mean) => (one(mean, i), each(&one(&truth["encoder/logvar"], i), |v| (0.5 * v).exp())),
            None => (one(&truth["encoder/latents"], i), each(&one(&truth["encoder/latents"], i), |_| 0.0)),
        };
        let draw = HostTensor::from_fn(mean.shape.as_slice(), |i| [0.5, -1.0, 0.25, 2.0, -0.125][i % 5]);
        let drawn =
            HostTensor::from_fn(mean.shape.as_slice(), |i| (mean.data[i] + deviation.data[i] * draw.data[i]) * scale);
        check("encode", &vae.encode(&runtime, &image, &draw).expect("encodes"), &drawn);
        check("mode", &vae.mode(&runtime, &image).expect("encodes"), &mean);
    }
}

#[test]
fn both_classes_agree_with_diffusers() {
    for device in devices() {
        check_truth(&read("sd1", "vae_io.safetensors"), &vae(&fixtures().join("sd1"), Tiling::Auto), &device, 0.18215);
        check_truth(&read("taesd", "vae_io.safetensors"), &vae(&fixtures().join("taesd"), Tiling::Auto), &device, 1.0);
    }
}

/// A folder with an autoencoder of `attn_autoencoders`, which is another one with attentions on top, and its file.
fn with_attentions(class: &str) -> (tempfile::TempDir, Tensors) {
    let all = fixtures().parent().expect("a folder").to_owned();
    let file = Tensors::open(all.join(format!("attn_autoencoders/{class}.safetensors"))).expect("the fixture is there");
    let base = all.join(&file.metadata()["base"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("vae");
    std::fs::create_dir(&place).expect("a folder");
    let config = std::fs::read_to_string(base.join("config.json")).expect("is there");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    for key in ["down_block_types", "up_block_types"] {
        config[key] = serde_json::from_str(&file.metadata()[key]).expect("a list");
    }
    std::fs::write(place.join("config.json"), config.to_string()).expect("writes");
    let own = Tensors::open(base.join("diffusion_pytorch_model.safetensors")).expect("is there");
    let added = file.names().filter(|name| name.contains(".attentions.")).map(|name| (name, &file));
    let tensors = own.names().map(|name| (name, &own)).chain(added);
    let tensors: NamedTensors =
        tensors.map(|(name, of)| (name.to_owned(), of.read_f32(name).expect("sound"))).collect();
    let list: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = std::fs::File::create(place.join("diffusion_pytorch_model.safetensors")).expect("writable");
    safetensors::write(&mut out, &list, &BTreeMap::new()).expect("writes");
    (folder, file)
}

#[test]
fn attention_at_the_levels_is_that_of_diffusers() {
    for class in ["AutoencoderKL", "VQModel"] {
        let (folder, truth) = with_attentions(class);
        let checkpoint = Checkpoint::open(folder.path()).expect("the model is there");
        let halves = [
            ("vae.encoder", "sample", &["mean", "logvar", "latents"][..]),
            ("vae.decoder", "latent", &["out", "indices"]),
        ];
        let mut compared = 0;
        for (device, (half, input, outputs)) in devices().iter().flat_map(|device| halves.map(|half| (device, half))) {
            let loaded = LoadedModel::open(&checkpoint, half).expect("loads");
            let given = NamedTensors::from([(input.to_owned(), truth.read_f32(input).expect("sound"))]);
            let (graph, inputs) = prepare(&*loaded.model, given, DType::F32).expect("fits");
            let mut session = device.load(graph, &loaded.weights, &LoadOptions::default()).expect("loads");
            inputs.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("its input"));
            session.run().expect("runs");
            for output in outputs.iter().filter(|output| truth.info(output).is_some()) {
                let expected = truth.read_f32(output).expect("sound");
                let found = session.read(if *output == "out" { "sample" } else { output }).expect("its output");
                compared += 1;
                if *output == "indices" {
                    assert_eq!(found.data, expected.data, "every index is the one that torch finds");
                } else {
                    check(&format!("{class} {half} {output}"), &found.channels_first(), &expected);
                }
            }
        }
        assert_eq!(compared, 2 * 3, "{class}: every output on both devices");
    }
}

#[test]
fn tiles_agree_with_diffusers() {
    let truth = read("inpaint", "vae_tiled_io.safetensors");
    let tiled = vae(&fixtures().join("inpaint"), Tiling::Pixels(16));
    for device in devices() {
        check_truth(&truth, &tiled, &device, 0.18215);
    }
    // The picture is larger than one tile, and tiles show: without them, or with others, the result differs.
    for tiling in [Tiling::Off, Tiling::Pixels(24)] {
        let other = vae(&fixtures().join("inpaint"), tiling);
        let load = LoadOptions::default();
        let runtime = Runtime::new(&Device::Reference, &load, DType::F32);
        let latent = each(&truth["decoder/latent"], |v| v * 0.18215);
        let pictures = other.decode(&runtime, &latent).expect("decodes");
        let expected = each(&truth["decoder/out"], |v| (v / 2.0 + 0.5).clamp(0.0, 1.0));
        assert!(compare(&pictures, &expected, Tolerance::l2(1e-3)).is_err(), "{tiling:?}");
    }
}

#[test]
fn tiles_of_the_tiny_autoencoder_hide_their_seams() {
    let folder = fixtures().join("taesd");
    let latent = HostTensor::from_fn([2, 4, 20, 28], |i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0);
    let device = Device::Gpu(gpu().clone());
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let whole = vae(&folder, Tiling::Off).decode(&runtime, &latent).expect("decodes");
    let tiled = vae(&folder, Tiling::Pixels(64)).decode(&runtime, &latent).expect("decodes");
    assert_ne!(whole, tiled);
    // It has no norms, so tiles differ only near their edges, and the first pixels are far from any edge.
    let corner = |t: &HostTensor| HostTensor::from_fn([12, 12], |i| t.data[i / 12 * t.shape[3] + i % 12]);
    check("far from every seam", &corner(&tiled), &corner(&whole));
    compare(&tiled, &whole, Tolerance::l2(0.2)).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn tiles_are_taken_where_the_whole_does_not_fit() {
    let folder = fixtures().join("inpaint");
    let latent = HostTensor::from_fn([2, 4, 24, 40], |i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0);
    for device in devices() {
        let decode = |tiling, max_memory_bytes| {
            let plan = PlanOptions { max_memory_bytes, ..PlanOptions::default() };
            let load = LoadOptions { plan, ..LoadOptions::default() };
            let vae = vae(&folder, tiling);
            (vae.decode(&Runtime::new(&device, &load, DType::F32), &latent), vae.take_notes())
        };
        let (whole, notes) = decode(Tiling::Auto, None);
        assert_eq!((whole.expect("decodes"), notes), (decode(Tiling::Off, None).0.expect("decodes"), vec![]));

        // Room for a tile of 32 x 32 pixels, but not for the whole.
        let little = Some(300 << 10);
        let refused = decode(Tiling::Off, little).0;
        assert!(matches!(refused, Err(Error::Limits(_))), "{}: {refused:?}", device.describe());
        let (tiled, notes) = decode(Tiling::Auto, little);
        assert_eq!(tiled.expect("decodes"), decode(Tiling::Pixels(32), None).0.expect("decodes"));
        assert!(notes.len() == 1 && notes[0].contains("tiles of 32 x 32 pixels"), "{notes:?}");

        let nothing = decode(Tiling::Auto, Some(1 << 10)).0;
        assert!(matches!(nothing, Err(Error::Limits(_))), "{}: {nothing:?}", device.describe());
    }
}

/// A copy of `sd1/COMPONENT` in its own folder, with one tensor scaled.
pub fn scaled_copy(component: &str, tensor: &str, factor: f32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let from = fixtures().join("sd1");
    let to = folder.path().join(component);
    std::fs::create_dir(&to).expect("a folder");
    std::fs::copy(from.join("model_index.json"), folder.path().join("model_index.json")).expect("copies");
    std::fs::copy(from.join(component).join("config.json"), to.join("config.json")).expect("copies");
    let file = Tensors::open(from.join(component).join("diffusion_pytorch_model.safetensors")).expect("is there");
    let mut tensors: NamedTensors =
        file.names().map(|name| (name.to_owned(), file.read_f32(name).expect("sound"))).collect();
    let scaled = tensors.get_mut(tensor).expect("the model has this tensor");
    scaled.data.iter_mut().for_each(|v| *v *= factor);
    let listed: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = std::fs::File::create(to.join("diffusion_pytorch_model.safetensors")).expect("a file");
    safetensors::write(&mut out, &listed, &BTreeMap::new()).expect("writes");
    folder
}

#[test]
fn what_overflows_f16_is_stored_in_f32() {
    // After the first convolution the residual stream exceeds 65504, as in SDXL's autoencoder; the norms make it small
    // again. With the larger factor, the weights exceed it too.
    for (factor, wide_weights) in [(5e4, false), (3e6, true)] {
        check_overflow(&scaled_copy("vae", "decoder.conv_in.weight", factor), wide_weights);
    }
}

fn check_overflow(folder: &tempfile::TempDir, wide_weights: bool) {
    let latent = HostTensor::from_fn([1, 4, 6, 10], |i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0);
    for device in devices() {
        // The case is real: on its own, the decoder returns no picture in f16.
        let loaded = LoadedModel::open(&Checkpoint::open(folder.path()).expect("opens"), "vae.decoder").expect("loads");
        let given = NamedTensors::from([("latent".to_owned(), each(&latent, |v| v / 0.18215))]);
        let (graph, inputs) = prepare(loaded.model.as_ref(), given, DType::F16).expect("fits");
        let mut session = device.load(graph, &loaded.weights, &LoadOptions::default()).expect("loads");
        session.write("latent", &inputs["latent"]).expect("fits");
        session.run().expect("runs");
        assert!(session.read("sample").expect("is read").data.iter().any(|v| !v.is_finite()));

        let decode = |dtype| {
            let vae = vae(folder.path(), Tiling::Auto);
            let picture = vae.decode(&Runtime::new(&device, &LoadOptions::default(), dtype), &latent);
            (picture.expect("decodes"), vae.take_notes())
        };
        let (half, full) = (decode(DType::F16), decode(DType::F32));
        // The bound allows for f16's rounding.
        compare(&half.0, &full.0, Tolerance::l2(5e-3)).unwrap_or_else(|e| panic!("{}: {e}", device.describe()));
        assert!(full.1.is_empty(), "{:?}", full.1);
        let says = |note: &str, name: &str| note.contains("decoder overflows f16") && note.contains(name);
        assert_eq!(half.1.len(), if wide_weights { 2 } else { 1 }, "{:?}", half.1);
        assert_eq!(says(&half.1[0], "decoder.conv_in.weight"), wide_weights, "{:?}", half.1);
        assert!(says(half.1.last().expect("counted above"), "decoder.conv_in"), "{:?}", half.1);
    }
}

#[test]
fn what_overflows_f32_too_is_refused() {
    let folder = scaled_copy("vae", "decoder.conv_in.weight", 3e38);
    let vae = vae(folder.path(), Tiling::Auto);
    let device = Device::Gpu(gpu().clone());
    let load = LoadOptions::default();
    let runtime = Runtime::new(&device, &load, DType::F32);
    let result = vae.decode(&runtime, &HostTensor::from_fn([1, 4, 6, 10], |i| i as f32));
    assert!(matches!(&result, Err(Error::Checkpoint(m)) if m.contains("decoder")), "{result:?}");
}
