//! What other networks add inside a U-Net, and what it attends to besides the text, against diffusers
//! (`tests/fixtures/stable_diffusion/sd1/unet_ports.safetensors`), on the device and on the reference.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::Checkpoint;
use unmist::graph::{Graph, TensorDesc, WeightSources};
use unmist::models::{
    Additional, AdditionalContext, AdditionalResiduals, Layers, LoadedModel, Sizes, UNet2DConditionInputs,
    UNet2DConditionModel,
};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::Fixture;
use crate::device::gpu;

const PROMPTS: &str = "ip_adapter";

struct UNet {
    model: UNet2DConditionModel,
    loaded: LoadedModel,
    fixture: Fixture,
}

fn open() -> UNet {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stable_diffusion/sd1");
    let loaded = LoadedModel::open(&Checkpoint::open(folder).expect("opens"), "unet").expect("opens");
    let model = UNet2DConditionModel::from_json(&loaded.config).expect("is sound");
    UNet { model, loaded, fixture: Fixture::read("stable_diffusion/sd1/unet_ports") }
}

impl UNet {
    /// How many tensors of the fixture are called NAME.0, NAME.1 ….
    fn count(&self, name: &str) -> usize {
        (0..).take_while(|i| self.fixture.find(&format!("{name}.{i}")).is_some()).count()
    }

    /// A graph of the model, with what `extend` adds to its inputs.
    fn graph(&self, dtype: DType, extend: impl Fn(&mut Graph, &mut UNet2DConditionInputs)) -> unmist::Result<Graph> {
        let sample = self.fixture.tensor("sample");
        let text = &self.fixture.tensor("encoder_hidden_states").shape;
        let [batch, channels, height, width] = <[usize; 4]>::try_from(&sample.shape[..]).expect("[N, C, H, W]");
        let sizes = Sizes { batch, height, width, tokens: text[1], time_ids: 0 };
        let mut graph = Graph::new();
        let sample = graph.input("sample", TensorDesc::f32([batch, height, width, channels]));
        let timestep = graph.input("timestep", TensorDesc::f32([batch]));
        let mut inputs = self.model.inputs(&mut graph, &sizes, sample, timestep)?;
        extend(&mut graph, &mut inputs);
        let out = self.model.build(&mut Layers::new(&mut graph, dtype), inputs)?;
        graph.output("out", out);
        Ok(graph)
    }

    /// The fixture's tensor for the graph input `name`, in the graph's layout.
    fn input(&self, name: &str) -> HostTensor {
        let tensor = self.fixture.tensor(name);
        if tensor.shape.len() == 4 { tensor.channels_last() } else { tensor.clone() }
    }

    fn run(&self, graph: &Graph, device: &Device, more: &HashMap<String, HostTensor>) -> HostTensor {
        let prompts: HashMap<String, HostTensor> = self.prompt_weights();
        let others = BTreeMap::from([(PROMPTS, &prompts as &dyn unmist::graph::WeightSource)]);
        let weights = WeightSources { own: &self.loaded.weights, others };
        let mut session = device.load(graph.clone(), &weights, &LoadOptions::default()).expect("loads");
        let of_fixture = self.fixture.under("").map(|(name, _)| (name.to_owned(), self.input(name)));
        let given = of_fixture.chain(more.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        for (name, tensor) in given.filter(|(name, _)| graph.find_input(name).is_some()) {
            session.write(&name, &tensor).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        session.run().expect("runs");
        session.read("out").expect("is read").channels_first()
    }

    fn prompt_weights(&self) -> HashMap<String, HostTensor> {
        self.fixture.under("weights/").map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
    }

    fn check(&self, case: &str, graph: &Graph, more: &HashMap<String, HostTensor>) {
        let expected = self.fixture.tensor(&format!("{case}/out"));
        for device in [Device::Reference, Device::Gpu(gpu().clone())] {
            let found = self.run(graph, &device, more);
            compare(&found, expected, Tolerance::l2(2e-5)).unwrap_or_else(|e| panic!("{case}: {e}"));
        }
    }
}

#[test]
fn residuals_of_other_networks_agree_with_diffusers() {
    let unet = open();
    let skips = unet.count("down_block_additional_residuals");
    let blocks = unet.count("down_intrablock_additional_residuals");
    assert!(skips > blocks && blocks == unet.model.config.down_blocks.len());
    let (controlnet, adapter) =
        (AdditionalResiduals::controlnet_ports(skips), AdditionalResiduals::adapter_ports(blocks));
    let both = AdditionalResiduals { down_intrablock: adapter.down_intrablock.clone(), ..controlnet.clone() };
    for (case, residuals) in [("controlnet", controlnet), ("adapter", adapter), ("both", both)] {
        let graph = unet.graph(DType::F32, |_, inputs| inputs.additional_residuals = residuals.clone());
        unet.check(case, &graph.expect("fits"), &HashMap::new());
    }
}

#[test]
fn residuals_may_be_values_of_the_same_graph() {
    // A network in the same graph would compute them; here they are inputs under other names.
    let unet = open();
    let blocks = unet.count("down_intrablock_additional_residuals");
    let name = |i: usize| format!("down_intrablock_additional_residuals.{i}");
    let graph = unet.graph(DType::F32, |graph, inputs| {
        let values =
            (0..blocks).map(|i| graph.input(format!("feature.{i}"), TensorDesc::f32(unet.input(&name(i)).shape)));
        inputs.additional_residuals.down_intrablock = Additional::Values(values.collect());
    });
    let more = (0..blocks).map(|i| (format!("feature.{i}"), unet.input(&name(i)))).collect();
    unet.check("adapter", &graph.expect("fits"), &more);
}

/// Inputs for both image prompts of the fixture.
fn prompts(unet: &UNet, graph: &mut Graph) -> Vec<AdditionalContext> {
    let context = |i: usize, graph: &mut Graph| {
        let name = format!("{PROMPTS}.{i}.hidden_states");
        let desc = TensorDesc::f32(unet.fixture.tensor(&name).shape.clone());
        AdditionalContext {
            hidden_states: graph.condition(name, desc),
            scale: graph.condition(format!("{PROMPTS}.{i}.scale"), TensorDesc::f32([1])),
            source: PROMPTS.into(),
        }
    };
    [0, 1].map(|i| context(i, graph)).to_vec()
}

#[test]
fn image_prompts_beside_the_text_agree_with_diffusers() {
    let unet = open();
    let graph =
        unet.graph(DType::F32, |graph, inputs| inputs.additional_contexts = prompts(&unet, graph)).expect("fits");
    let scales: Vec<f32> = serde_json::from_str(unet.fixture.text("scales")).expect("a list");
    let more = scales.iter().enumerate().map(|(i, scale)| {
        let scale = HostTensor { shape: vec![1], data: vec![*scale] };
        (format!("{PROMPTS}.{i}.scale"), scale)
    });
    unet.check("ip_adapter", &graph, &more.collect());

    // Without their checkpoint the error names the tensor and the source.
    let error = Device::Reference.load(graph, &unet.loaded.weights, &LoadOptions::default()).err().expect("refused");
    assert!(error.to_string().contains("to_k_ip.0.weight belongs to ip_adapter"), "{error}");
}

#[test]
fn residuals_that_do_not_fit_are_refused_by_name() {
    let unet = open();
    let refused = |residuals: AdditionalResiduals, parts: &[&str]| {
        let graph = unet.graph(DType::F32, |_, inputs| inputs.additional_residuals = residuals.clone());
        let error = graph.expect_err("does not fit").to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{error} lacks {part}"));
    };
    refused(AdditionalResiduals::controlnet_ports(3), &["down_block_additional_residuals", "found 3"]);
    let graph = unet.graph(DType::F32, |graph, inputs| {
        let wrong = graph.input("wrong", TensorDesc::f32([2, 3, 4, 5]));
        inputs.additional_residuals.mid = Additional::Values(vec![wrong]);
    });
    let error = graph.expect_err("does not fit").to_string();
    assert!(error.contains("wrong: expected [2, "), "{error}");
}
