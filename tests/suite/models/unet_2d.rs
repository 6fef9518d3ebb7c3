//! UNet2DModel against diffusers in float32: random models of every block type and option, on the device and on the
//! reference.

use std::path::{Path, PathBuf};

use unmist::backend::{Device, LoadOptions, Session};
use unmist::checkpoint::{Folder, Tensors, Weights};
use unmist::gpu::GpuSession;
use unmist::graph::Graph;
use unmist::models::UNet2DModel;
use unmist::ops::Family;
use unmist::plan::{Choice, PlanOptions, Program};
use unmist::reference::ReferenceSession;
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

const MODELS: [&str; 12] = [
    "attention_resnet_types",
    "bfloat16",
    "class_table",
    "flat_old_names",
    "ncsnpp",
    "no_mid_block",
    "odd_channels",
    "one_level_odd",
    "pipeline",
    "resnet_resampling",
    "sharded_mixed",
    "skip_blocks_mixed",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/unet2d").join(name)
}

struct Fixture {
    model: UNet2DModel,
    weights: Weights,
    io: Tensors,
}

impl Fixture {
    fn load(name: &str) -> Self {
        let component =
            Folder::open(folder(name)).and_then(|f| f.component("unet")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let model = UNet2DModel::from_json(&component.config).unwrap_or_else(|e| panic!("{name}: {e}"));
        let parameters = model.parameters().expect("the config is sound");
        let weights = Weights::new(component.tensors, &parameters).unwrap_or_else(|e| panic!("{name}: {e}"));
        let io = Tensors::open(folder(name).join("io.safetensors")).expect("the fixture is there");
        Self { model, weights, io }
    }

    fn tensor(&self, name: &str) -> HostTensor {
        self.io.read_f32(name).expect("the fixture has this tensor")
    }

    fn graph(&self, dtype: DType) -> Graph {
        let shape = self.tensor("sample").shape;
        self.model.graph(shape[0], shape[2], shape[3], dtype).expect("the fixture fits its model")
    }

    fn write_inputs(&self, session: &mut dyn Session) {
        session.write("sample", &self.tensor("sample").channels_last()).expect("fits");
        session.write("timestep", &self.tensor("timestep")).expect("fits");
        if self.io.info("class_labels").is_some() {
            session.write("class_labels", &self.tensor("class_labels")).expect("fits");
        }
    }

    fn check(&self, name: &str, session: &mut dyn Session, bound: f64) {
        self.write_inputs(session);
        session.run().expect("runs");
        let out = session.read("sample").expect("is read").channels_first();
        let difference =
            compare(&out, &self.tensor("out"), Tolerance::l2(bound)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            difference.max_abs > 0.0,
            "{name}: bit-equal to diffusers, as no two programs are: is the fixture compared with itself?"
        );
    }
}

#[test]
fn the_list_of_models_is_complete() {
    let mut found: Vec<_> = std::fs::read_dir(folder(""))
        .expect("fixtures are there")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, MODELS);
}

#[test]
fn reference_agrees_with_diffusers() {
    for name in MODELS {
        let fixture = Fixture::load(name);
        let mut session = Device::Reference
            .load(fixture.graph(DType::F32), &fixture.weights, &LoadOptions::default())
            .expect("loads");
        fixture.check(name, session.as_mut(), 1e-5);
    }
}

#[test]
fn device_agrees_with_diffusers_in_f32_and_f16() {
    for name in MODELS {
        let fixture = Fixture::load(name);
        for (dtype, bound) in [(DType::F32, 1e-4), (DType::F16, 1e-2)] {
            let device = Device::Gpu(gpu().clone());
            let mut session =
                device.load(fixture.graph(dtype), &fixture.weights, &LoadOptions::default()).expect("loads");
            fixture.check(&format!("{name} in {}", dtype.name()), session.as_mut(), bound);
        }
    }
}

#[test]
fn both_kernel_families_agree_with_diffusers() {
    for family in [Family::Gpu, Family::Cpu] {
        for name in MODELS {
            let fixture = Fixture::load(name);
            let choice = Choice::of_family(family);
            let options =
                LoadOptions { plan: PlanOptions { choice, ..PlanOptions::default() }, ..LoadOptions::default() };
            let mut session =
                Device::Gpu(gpu().clone()).load(fixture.graph(DType::F32), &fixture.weights, &options).expect("loads");
            fixture.check(&format!("{name}, family {family:?}"), session.as_mut(), 1e-4);
        }
    }
}

#[test]
fn every_block_agrees_with_diffusers() {
    let name = "sharded_mixed";
    let fixture = Fixture::load(name);
    let expected = Tensors::open(folder(name).join("activations.safetensors")).expect("the fixture is there");
    let graph = fixture.graph(DType::F32);

    let mut oracle = ReferenceSession::new(graph.clone(), &fixture.weights).expect("loads").keep_all();
    fixture.write_inputs(&mut oracle);
    oracle.run().expect("runs");
    let options = PlanOptions { reuse_memory: false, ..PlanOptions::default() };
    let plan = Program::new(&graph, gpu().caps(), &options).expect("fits");
    let mut device = GpuSession::new(gpu(), plan, &fixture.weights).expect("loads");
    fixture.write_inputs(&mut device);
    device.run().expect("runs");

    let mut compared = 0;
    for module in expected.names() {
        // A module's output is the last value made below its path.
        let below = |node: &str| {
            node == module || node.strip_prefix(module).is_some_and(|rest| rest.starts_with('.') && rest != ".cast")
        };
        let (id, _) = graph
            .values()
            .filter(|(_, n)| n.op().is_some() && below(&n.name))
            .last()
            .unwrap_or_else(|| panic!("no node below {module}"));
        let truth = expected.read_f32(module).expect("the fixture is sound");
        let in_torch_layout = |value: &HostTensor| {
            if value.shape.len() == 4 { value.channels_first() } else { value.clone() }
        };
        let reference = in_torch_layout(oracle.value(id).expect("all values are kept"));
        compare(&reference, &truth, Tolerance::l2(1e-5)).unwrap_or_else(|e| panic!("reference, {module}: {e}"));
        let found = in_torch_layout(&device.value(&device.program().values[id.index()]).expect("all values are kept"));
        compare(&found, &truth, Tolerance::l2(1e-4)).unwrap_or_else(|e| panic!("device, {module}: {e}"));
        compared += 1;
    }
    assert!(compared >= 10, "only {compared} modules in the fixture");
}

#[test]
fn a_wrong_weight_shows() {
    // The control: with one weight tensor replaced by zeros, the comparison must fail.
    struct Damaged<'a>(&'a Weights, &'a str);
    impl unmist::graph::WeightSource for Damaged<'_> {
        fn read(&self, part: &unmist::graph::WeightPart) -> unmist::Result<HostTensor> {
            let tensor = self.0.tensor(&part.name)?;
            Ok(if part.name == self.1 { HostTensor::zeros(tensor.shape) } else { tensor })
        }
    }
    let fixture = Fixture::load("pipeline");
    for name in
        ["down_blocks.1.attentions.0.to_k.bias", "mid_block.resnets.1.norm2.bias", "time_embedding.linear_2.bias"]
    {
        let source = Damaged(&fixture.weights, name);
        let mut session =
            Device::Reference.load(fixture.graph(DType::F32), &source, &LoadOptions::default()).expect("loads");
        fixture.write_inputs(session.as_mut());
        session.run().expect("runs");
        let out = session.read("sample").expect("is read").channels_first();
        let equal = compare(&out, &fixture.tensor("out"), Tolerance::l2(1e-4)).is_ok();
        // Softmax is blind to a bias of the keys, which adds the same to all of a query's logits.
        assert_eq!(equal, name.ends_with("to_k.bias"), "{name}");
    }
}
