//! Latent diffusion without text: `VQModel` and whole runs of `LDMPipeline`, against diffusers.

use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::generate::{Models, Notes};
use unmist::models::{LoadedModel, Sizes, VQModelConfig};
use unmist::pipelines::Runtime;
use unmist::request::{Asked, Request};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// The accuracy that the project promises: of a component, and of a picture after all steps, in [0, 1].
const COMPONENT: f64 = 1e-4;
const MAX_ABS: f64 = 2e-3;

/// Of the latents. Measured: 3e-7 at most.
const RELATIVE_L2: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/latent")
}

/// One half of the autoencoder on a tensor `[N, C, H, W]`: the outputs of these names.
fn half<const N: usize>(
    device: &Device,
    half: &str,
    input: (&str, &HostTensor),
    outputs: [&str; N],
) -> [HostTensor; N] {
    let checkpoint = Checkpoint::open(fixtures().join("ldm")).expect("opens");
    let loaded = LoadedModel::open(&checkpoint, half).expect("loads");
    let x = input.1.channels_last();
    let sizes = Sizes { batch: x.shape[0], height: x.shape[1], width: x.shape[2], ..Sizes::default() };
    let graph = loaded.model.graph(&sizes, DType::F32).expect("fits");
    let load = LoadOptions::default();
    let mut session = device.load(graph, &loaded.weights, &load).expect("loads");
    session.write(input.0, &x).expect("its input");
    session.run().expect("runs");
    outputs.map(|name| session.read(name).expect("its output"))
}

fn check_autoencoder(device: &Device) {
    let file = Tensors::open(fixtures().join("vq.safetensors")).expect("the fixture is there");
    let tensor = |name: &str| file.read_f32(name).expect("sound");
    let tolerance = Tolerance::l2(COMPONENT);
    let [latents] = half(device, "vqvae.encoder", ("sample", &tensor("sample")), ["latents"]);
    compare(&latents.channels_first(), &tensor("latents"), tolerance).expect("encoder");
    let [out, indices] = half(device, "vqvae.decoder", ("latent", &tensor("latent")), ["sample", "indices"]);
    assert_eq!(indices.data, tensor("indices").data, "every index is the one that torch finds");
    compare(&out.channels_first(), &tensor("out"), tolerance).expect("decoder");
}

#[test]
fn the_autoencoder_is_that_of_diffusers() {
    check_autoencoder(&Device::Reference);
    check_autoencoder(&Device::Gpu(gpu().clone()));
}

/// In its own folder it has any name; a half by itself is none, and the message says those that are.
#[test]
fn the_autoencoder_by_itself_has_two_halves() {
    let checkpoint = Checkpoint::open(fixtures().join("ldm/vqvae")).expect("opens");
    let message = LoadedModel::open(&checkpoint, "decoder").expect_err("no half of anything").to_string();
    assert!(message.contains("vqvae.encoder and vqvae.decoder"), "{message}");
    LoadedModel::open(&checkpoint, "vqvae.decoder").expect("what it says");
}

#[test]
fn a_run_makes_the_pictures_that_diffusers_makes() {
    let file = Tensors::open(fixtures().join("run.safetensors")).expect("the fixture is there");
    let number = |key: &str| file.metadata()[key].parse::<usize>().expect("a number");
    let request = Request {
        model: Some(fixtures().join("ldm")),
        steps: Some(number("num_inference_steps")),
        seed: vec![number("seed") as u64],
        batch_size: Some(2),
        ..Request::default()
    };
    let mut models = Models::open(&request, &mut Notes::default()).expect("opens");
    let resolved = models.resolve(&Asked::from(request), None).expect("fits");
    assert_eq!((resolved.request.width, resolved.request.height), (Some(16), Some(16)), "the picture's");
    let load = LoadOptions::default();
    for device in [Device::Reference, Device::Gpu(gpu().clone())] {
        let runtime = Runtime::new(&device, &load, DType::F32);
        let latents = models.run(&runtime, &resolved, &mut |_| Ok(())).expect("runs");
        let expected = file.read_f32("latents").expect("sound");
        compare(&latents, &expected, Tolerance::l2(RELATIVE_L2)).expect("latents");
        let images = models.decode(&runtime, &latents).expect("decodes");
        let expected = file.read_f32("images").expect("sound");
        compare(&images, &expected, Tolerance::largest(MAX_ABS)).expect("pictures");
    }
}

/// A config without it is older than it; one with it means it.
#[test]
fn the_scaling_factor_is_what_the_config_says() {
    let of = |more: &str| {
        let text = format!(r#"{{"_class_name": "VQModel"{more}}}"#);
        VQModelConfig::from_json(&unmist::checkpoint::Json::parse("config.json", text).expect("JSON"))
    };
    assert_eq!(of("").expect("sound").scaling_factor, 1.0);
    assert_eq!(of(r#", "scaling_factor": 0.18215"#).expect("sound").scaling_factor, 0.18215);
    let config = of(r#", "vq_embed_dim": 5, "latent_channels": 4"#).expect("sound");
    assert_eq!((config.vq_embed_dim, config.blocks.latent_channels, config.num_vq_embeddings), (5, 4, 256));
    for (more, part) in [
        (r#", "norm_type": "spatial""#, "norm_type"),
        (r#", "double_z": true"#, "double_z"),
        (r#", "num_vq_embeddings": 0"#, "num_vq_embeddings"),
    ] {
        assert!(of(more).expect_err(part).to_string().contains(part));
    }
}
