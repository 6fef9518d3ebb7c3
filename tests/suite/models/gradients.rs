//! Gradients of U-Nets against torch's autograd: every parameter of ten random models.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{Checkpoint, Tensors};
use unmist::graph::{Graph, Kept, NodeKind, TensorDesc, ValueId};
use unmist::models::{LoadedModel, NamedTensors, prepare};
use unmist::training::Trainable;
use unmist::{DType, HostTensor};

use crate::device::gpu;

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// A model with the inputs of its own fixture, and what torch says of its gradients.
struct Case {
    name: &'static str,
    loaded: LoadedModel,
    inputs: NamedTensors,
    expected: Tensors,
}

const PIXELS: [&str; 6] =
    ["attention_resnet_types", "class_table", "no_mid_block", "odd_channels", "one_level_odd", "resnet_resampling"];
const LATENTS: [&str; 4] = ["inpaint", "resnet_blocks", "sd2", "sdxl"];

impl Case {
    fn load(name: &'static str) -> Self {
        let (folder, io) = if PIXELS.contains(&name) {
            (fixtures(&format!("unet2d/{name}")), "io.safetensors")
        } else {
            (fixtures(&format!("stable_diffusion/{name}")), "unet_io.safetensors")
        };
        let io = Tensors::open(folder.join(io)).expect("the fixture is there");
        let checkpoint = Checkpoint::open(&folder).expect("the fixture is there");
        let loaded = LoadedModel::open(&checkpoint, "unet").unwrap_or_else(|e| panic!("{name}: {e}"));
        let inputs = io.names().filter(|key| *key != "out");
        let inputs = inputs.map(|key| (key.to_owned(), io.read_f32(key).expect("the fixture is sound"))).collect();
        let expected = Tensors::open(fixtures(&format!("gradients/{name}.safetensors"))).expect("the fixture is there");
        Self { name, loaded, inputs, expected }
    }

    /// The gradient of every parameter, in the checkpoint's layout.
    fn gradients(&self, device: &Device, kept: impl Fn(&Graph) -> Kept) -> HashMap<String, HostTensor> {
        let model = self.loaded.model.as_ref();
        let (graph, inputs) = prepare(model, self.inputs.clone(), DType::F32).expect("the fixture fits its model");
        let (mut graph, trainable) = Trainable::of(&graph, |_| true).expect("every parameter can be trained");
        let kept = kept(&graph);
        let y = graph.find_output("sample").expect("a U-Net has one");
        let cotangent = graph.input("cotangent", TensorDesc::f32(graph.shape(y).to_vec()));
        let wanted: Vec<ValueId> = trainable.iter().map(|parameter| parameter.value).collect();
        let gradients = graph.differentiate(y, cotangent, &wanted, &kept).expect("it has a gradient");
        for (parameter, gradient) in trainable.iter().zip(gradients) {
            let gradient = gradient.unwrap_or_else(|| panic!("{}: {} has no gradient", self.name, parameter.name));
            graph.output(format!("d {}", parameter.name), gradient);
        }
        let mut session = device.load(graph, &self.loaded.weights, &LoadOptions::default()).expect("loads");
        for parameter in &trainable {
            let values = parameter.load(&self.loaded.weights).expect("the fixture is sound");
            session.write(&parameter.input, &values).expect("fits");
        }
        inputs.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("fits"));
        let cotangent = self.expected.read_f32("cotangent").expect("the fixture has it").channels_last();
        session.write("cotangent", &cotangent).expect("fits");
        session.run().expect("runs");
        let mut found = HashMap::new();
        for parameter in &trainable {
            let gradient = session.read(&format!("d {}", parameter.name)).expect("is read");
            found.insert(parameter.name.clone(), parameter.to_checkpoint(gradient));
        }
        found
    }

    /// Compares norm, projection and elements with torch's.
    fn check(&self, found: &HashMap<String, HostTensor>, bound: f64) {
        let names: Vec<_> = self.expected.names().filter(|name| *name != "cotangent").collect();
        assert_eq!(names.len(), found.len(), "{}: not all parameters have a gradient", self.name);
        let tensor = |name: &str| self.expected.read_f32(name).expect("the fixture is sound").data;
        // What cannot matter (the bias of keys, of which a softmax sees only differences; a bias before a norm) has a
        // gradient of rounding errors alone: it is measured by a hundredth of what gradients are on the average.
        let floor = 0.01 * names.iter().map(|name| f64::from(tensor(name)[0])).sum::<f64>() / names.len() as f64;
        let mut worst = 0.0f64;
        for name in names {
            let expected = tensor(name);
            let gradient = &found[name].data;
            let stride = gradient.len().div_ceil(64);
            let norm = gradient.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let projection: f64 = gradient.iter().enumerate().map(|(i, v)| f64::from(*v) * (i as f64).cos()).sum();
            let scale = f64::from(expected[0]).max(floor);
            let errors = [norm - f64::from(expected[0]), projection - f64::from(expected[1])];
            let sampled: f64 = gradient
                .iter()
                .step_by(stride)
                .zip(&expected[2..])
                .map(|(found, expected)| (f64::from(*found) - f64::from(*expected)).powi(2))
                .sum::<f64>()
                .sqrt();
            assert_eq!(gradient.len().div_ceil(stride), expected.len() - 2, "{}: {name}", self.name);
            let error = errors.iter().map(|e| e.abs()).fold(sampled, f64::max) / scale;
            assert!(error <= bound, "{}: {name} is off by {error:.2e} of its norm {scale:.3}", self.name);
            worst = worst.max(error);
        }
        assert!(worst > 0.0, "{}: equal to torch to the bit, as no two programs are", self.name);
    }
}

fn all() -> impl Iterator<Item = Case> {
    PIXELS.into_iter().chain(LATENTS).map(Case::load)
}

#[test]
fn gradients_agree_with_torch_on_the_reference() {
    all().for_each(|case| case.check(&case.gradients(&Device::Reference, |_| Kept::All), 1e-4));
}

#[test]
fn gradients_agree_with_torch_on_the_device() {
    let device = Device::Gpu(gpu().clone());
    all().for_each(|case| case.check(&case.gradients(&device, |_| Kept::All), 1e-4));
}

#[test]
fn what_is_computed_again_gives_the_same_gradients() {
    let device = Device::Gpu(gpu().clone());
    for name in ["class_table", "inpaint"] {
        let case = Case::load(name);
        // Sums and pictures alone are kept; everything between them is computed a second time.
        let few = |graph: &Graph| {
            let sums = graph.values().filter(|(_, node)| node.name.contains(".add_"));
            Kept::Only(sums.map(|(id, _)| id).collect())
        };
        case.check(&case.gradients(&device, few), 1e-4);
    }
}

#[test]
fn what_has_no_gradient_is_refused_by_name() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([2, 6]));
    let y = graph.push("layer.clamp", unmist::ops::clamp::Clamp { low: -1.0, high: 1.0 }, &[Some(x)]).expect("fits");
    let dy = graph.input("dy", TensorDesc::f32([2, 6]));
    let error = graph.differentiate(y, dy, &[x], &Kept::All).expect_err("clamping has none").to_string();
    assert!(error.contains("layer.clamp") && error.contains("(clamp)"), "{error}");
    assert!(matches!(graph.node(x).kind, NodeKind::Input(_)));
}
