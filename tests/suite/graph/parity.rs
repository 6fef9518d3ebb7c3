//! Passes and memory planning change how a graph runs, never what it computes.

use std::collections::HashMap;
use std::path::Path;

use unmist::backend::Session;
use unmist::checkpoint::{Checkpoint, Folder, Weights};
use unmist::gpu::GpuSession;
use unmist::graph::{Graph, NodeKind, TensorDesc, passes};
use unmist::models::{LoadedModel, Sizes, UNet2DModel};
use unmist::ops::Family;
use unmist::ops::Fill;
use unmist::ops::activation::ActivationKind;
use unmist::ops::contraction::Conv2d;
use unmist::plan::{BufferRole, Choice, Forced, PlanOptions, Program};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

fn model() -> (Graph, Weights) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/unet2d/pipeline");
    let component = Folder::open(path).and_then(|f| f.component("unet")).expect("the fixture is there");
    let model = UNet2DModel::from_json(&component.config).expect("sound");
    let weights = Weights::new(component.tensors, &model.parameters().expect("sound")).expect("complete");
    (model.graph(2, 8, 12, DType::F32).expect("fits"), weights)
}

/// A model conditioned on text, and so with the transformer blocks that the other lacks.
fn model_with_text() -> (Graph, Weights) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stable_diffusion/sd1");
    let loaded = LoadedModel::open(&Checkpoint::open(folder).expect("opens"), "unet").expect("opens");
    let sizes = Sizes { batch: 2, height: 8, width: 12, tokens: 7, time_ids: 0 };
    (loaded.model.graph(&sizes, DType::F32).expect("fits"), loaded.weights)
}

fn run(graph: &Graph, weights: &Weights, options: &PlanOptions) -> HostTensor {
    let plan = Program::new(graph, gpu().caps(), options).expect("fits");
    let mut session = GpuSession::with_guard_bands(gpu(), plan, weights).expect("loads");
    for node in graph.nodes().iter().filter(|node| matches!(node.kind, NodeKind::Input(_))) {
        let value = match node.name.as_str() {
            "timestep" => HostTensor { shape: vec![2], data: vec![900.0, 3.0] },
            _ => Fill::Normal.tensor(&node.desc.shape, 1),
        };
        session.write(&node.name, &value).expect("fits");
    }
    session.run().expect("runs");
    session.check_guard_bands().expect("no kernel writes out of bounds");
    session.read(&graph.outputs()[0].0).expect("is read")
}

#[test]
fn each_pass_keeps_the_result_and_does_something() {
    let (graph, weights) = model_with_text();
    let plain = run(&graph, &weights, &PlanOptions::default());
    let mut before = graph.clone();
    for pass in passes::PASSES {
        // Each after those before it, which may make what it looks for.
        let rewritten = (pass.run)(&before).expect("rewrites");
        assert!(rewritten.nodes().len() < before.nodes().len(), "pass {} changed nothing", pass.name);
        let found = run(&rewritten, &weights, &PlanOptions::default());
        // Not bit-equal: a fused sum is rounded one time fewer.
        compare(&found, &plain, Tolerance::l2(1e-5)).unwrap_or_else(|e| panic!("pass {}: {e}", pass.name));
        before = rewritten;
    }
    let all = passes::optimize(&graph, &[]).expect("rewrites");
    compare(&run(&all, &weights, &PlanOptions::default()), &plain, Tolerance::l2(1e-5)).expect("all passes together");
    let names: Vec<String> = passes::PASSES.iter().map(|p| p.name.to_owned()).collect();
    assert_eq!(passes::optimize(&graph, &names).expect("no pass left").to_string(), graph.to_string());
    assert!(passes::optimize(&graph, &["no_such_pass".to_owned()]).is_err());
}

#[test]
fn passes_leave_no_op_they_exist_to_remove() {
    for graph in [model().0, model_with_text().0] {
        let all = passes::optimize(&graph, &[]).expect("rewrites").to_string();
        let count = |what: &str| all.lines().filter(|l| l.contains(&format!("= {what}"))).count();
        assert_eq!(count("binary"), 0, "all sums are epilogues:\n{all}");
        assert_eq!(count("activation"), 0, "all activations are part of a norm or a product:\n{all}");
        assert_eq!(count("gated"), 0, "all gates are part of a product:\n{all}");
        assert!(all.contains("attention[") && all.contains("qkv"), "{all}");
    }
}

#[test]
fn an_epilogue_takes_all_that_follows_a_sum() {
    // A convolution, an embedding of each image, an activation, a shortcut, a factor: one operation.
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([2, 5, 7, 12]));
    let weight = graph.input("weight", TensorDesc::f32([20, 3, 3, 12]));
    let temb = graph.input("temb", TensorDesc::f32([2, 1, 1, 20]));
    let shortcut = graph.input("shortcut", TensorDesc::f32([2, 5, 7, 20]));
    let conv = Conv2d { padding: [1; 4], ..Conv2d::default() };
    let y = graph.conv2d("conv", x, weight, None, conv).expect("sound");
    let y = graph.add("add_temb", y, temb).expect("sound");
    let y = graph.activation("act", y, ActivationKind::Silu).expect("sound");
    let y = graph.add("add_shortcut", shortcut, y).expect("sound");
    let y = graph.scale("output_scale", y, 0.7, 0.0).expect("sound");
    graph.output("y", y);

    let fused = passes::optimize(&graph, &[]).expect("rewrites");
    let ops: Vec<_> = fused.nodes().iter().filter_map(|n| n.op().map(ToString::to_string)).collect();
    let expected = "contraction[windows stride=1,1 padding=1,1,1,1 silu scale=0.7]";
    assert_eq!(ops, [expected], "{fused}");
    let run = |graph: &Graph| {
        let program = Program::new(graph, gpu().caps(), &PlanOptions::default()).expect("fits");
        let weights = HashMap::<String, HostTensor>::new();
        let mut session = GpuSession::with_guard_bands(gpu(), program, &weights).expect("loads");
        for (seed, name) in ["x", "weight", "temb", "shortcut"].into_iter().enumerate() {
            let shape = graph.shape(graph.find_input(name).expect("is there")).to_vec();
            session.write(name, &Fill::Normal.tensor(&shape, seed as u64)).expect("fits");
        }
        session.run().expect("runs");
        session.read("y").expect("is read")
    };
    compare(&run(&fused), &run(&graph), Tolerance::l2(1e-5)).expect("the same result");
}

#[test]
fn sharing_memory_is_bit_equal_and_saves() {
    let (graph, weights) = model();
    let graph = passes::optimize(&graph, &[]).expect("rewrites");
    let shared = PlanOptions::default();
    let unshared = PlanOptions { reuse_memory: false, ..PlanOptions::default() };
    assert_eq!(run(&graph, &weights, &shared), run(&graph, &weights, &unshared));
    let slots = |options| Program::new(&graph, gpu().caps(), options).expect("fits").role_bytes(BufferRole::Slot);
    assert!(2 * slots(&shared) < slots(&unshared), "{} against {}", slots(&shared), slots(&unshared));
}

#[test]
fn no_value_shares_a_buffer_while_it_is_needed() {
    // Proved on the plan itself: replay the steps and track what each buffer holds.
    let (graph, _) = model();
    for graph in [graph.clone(), passes::optimize(&graph, &[]).expect("rewrites")] {
        let shared = Program::new(&graph, gpu().caps(), &PlanOptions::default()).expect("fits");
        let unshared =
            Program::new(&graph, gpu().caps(), &PlanOptions { reuse_memory: false, ..PlanOptions::default() })
                .expect("fits");
        assert_eq!(shared.launches().count(), unshared.launches().count());
        // Shared buffer → the unshared buffer whose contents it holds.
        let mut holder: HashMap<usize, usize> = HashMap::new();
        for (s, u) in shared.launches().zip(unshared.launches()) {
            let reflection = &shared.kernels[s.kernel].reflection;
            let storage: Vec<_> =
                reflection.bindings.iter().filter(|b| b.access != unmist::kernel::Access::Uniform).collect();
            for ((binding, (a, _)), (b, _)) in storage.iter().zip(&s.bindings).zip(&u.bindings) {
                let reads_before_writing = binding.access == unmist::kernel::Access::Read;
                let role = shared.buffers[*a].role;
                let preset = !matches!(role, BufferRole::Slot | BufferRole::Prepared | BufferRole::Condition);
                if reads_before_writing && !preset {
                    assert_eq!(
                        holder.get(a),
                        Some(b),
                        "{}: {} was overwritten before it was read",
                        shared.values[s.value].name,
                        binding.name
                    );
                }
            }
            for ((binding, (a, _)), (b, _)) in storage.iter().zip(&s.bindings).zip(&u.bindings) {
                if binding.access == unmist::kernel::Access::ReadWrite {
                    assert!(
                        s.bindings.iter().filter(|(other, _)| other == a).count() == 1,
                        "{}: writes a buffer it also reads",
                        shared.values[s.value].name
                    );
                    holder.insert(*a, *b);
                }
            }
        }
    }
}

#[test]
fn long_launches_are_split_and_give_the_same_result() {
    let (graph, weights) = model();
    // Tiled kernels split along the rows of their product; the others are too short to need it.
    let choice = Choice::of_family(Family::Gpu);
    let whole = PlanOptions { choice, ..PlanOptions::default() };
    let split = PlanOptions { max_launch_flops: 20_000, ..whole.clone() };
    let steps = |options| Program::new(&graph, gpu().caps(), options).expect("fits").step.len();
    assert!(steps(&split) > steps(&whole), "nothing was split");
    assert_eq!(run(&graph, &weights, &split), run(&graph, &weights, &whole));
}

/// The same where whole tiles are followed by parts of others, of which a piece may have both.
#[test]
fn long_launches_of_whole_tiles_and_parts_are_split() {
    let mut graph = Graph::new();
    let [x, weight] = [("x", 320), ("weight", 96)].map(|(name, rows)| graph.input(name, TensorDesc::f32([rows, 96])));
    let y = graph.linear("product", x, weight, None).expect("sound");
    graph.output("y", y);
    let forced = Forced::parse("linear=pipelined:TILE_M=32,TILE_N=32,TILE_K=16,SPLITS=3,STREAMS=8").expect("sound");
    let whole = PlanOptions { choice: Choice { forced: vec![forced], ..Choice::default() }, ..PlanOptions::default() };
    let split = PlanOptions { max_launch_flops: 2_000_000, ..whole.clone() };
    let launches = |options| -> Vec<String> {
        let program = Program::new(&graph, gpu().caps(), options).expect("fits");
        program.step.iter().map(|launch| program.kernels[launch.kernel].name.clone()).collect()
    };
    assert_eq!(launches(&whole), ["contraction/5_streams", "contraction/conclude"]);
    assert_eq!(launches(&split).len(), 6, "14 rows of workgroups, 3 at once, and what adds up");
    let weights = model().1;
    assert_eq!(run(&graph, &weights, &split), run(&graph, &weights, &whole));
}

#[test]
fn carried_state_stays_on_the_device() {
    let build = || -> unmist::Result<Graph> {
        let mut g = Graph::new();
        let x = g.input("x", TensorDesc::f32([3, 5]));
        let y = g.scale("double", x, 2.0, 1.0)?;
        g.output("y", y);
        g.carry("y", "x")?;
        Ok(g)
    };
    let graph = build().expect("sound");
    let plan = Program::new(&graph, gpu().caps(), &PlanOptions::default()).expect("fits");
    let mut session = GpuSession::new(gpu(), plan, &HashMap::new()).expect("loads");
    session.write("x", &HostTensor::zeros([3, 5])).expect("fits");
    for _ in 0..4 {
        session.run().expect("runs");
    }
    assert_eq!(session.read("y").expect("is read").data, vec![15.0; 15]);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([1, 1 << 13, 1 << 13, 4]));
    let y = graph.activation("wide", x, ActivationKind::Silu).expect("sound");
    graph.output("y", y);
    let mut caps = gpu().caps().clone();
    caps.max_binding_bytes = 128 << 20;
    let message = Program::new(&graph, &caps, &PlanOptions::default()).expect_err("1 GiB in one binding").to_string();
    assert!(message.contains("1024.0 MiB") && message.contains("128.0 MiB"), "{message}");
    assert!(!message.contains("`precision` f16"), "half of it does not fit either: {message}");
    caps.max_binding_bytes = 512 << 20;
    caps.max_buffer_bytes = 512 << 20;
    let message = Program::new(&graph, &caps, &PlanOptions::default()).expect_err("1 GiB in one binding").to_string();
    assert!(message.contains("`precision` f16"), "{message}");

    let (graph, _) = model();
    caps.memory_bytes = Some(1 << 16);
    let message = Program::new(&graph, &caps, &PlanOptions::default()).expect_err("more than 64 KiB").to_string();
    assert!(message.contains("there are 0.1 MiB"), "{message}");
}

#[test]
fn scratch_that_does_not_fit_is_refused_too() {
    // Three channels are padded to four in a scratch buffer, the only tensor here of more than 60 000 bytes.
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([1, 64, 64, 3]));
    let weight = graph.input("weight", TensorDesc::f32([1, 3, 3, 3]));
    let conv = Conv2d { padding: [1; 4], ..Conv2d::default() };
    let y = graph.conv2d("conv_in", x, weight, None, conv).expect("sound");
    graph.output("y", y);
    let plan = |bytes: u64, variant: &str| {
        let mut caps = gpu().caps().clone();
        caps.max_binding_bytes = bytes;
        let choice = Choice::of_variant("conv2d", variant);
        Program::new(&graph, &caps, &PlanOptions { choice, ..PlanOptions::default() })
    };
    let message = plan(60_000, "registers").expect_err("the padded input takes 64 KiB").to_string();
    assert!(message.contains("conv_in: scratch") && message.contains("`force` contraction=naive"), "{message}");
    plan(60_000, "naive").expect("naive needs less");
    let message = plan(16_000, "registers").expect_err("the picture itself takes 48 KiB").to_string();
    assert!(!message.contains("naive"), "that would not help: {message}");
    plan(128 << 20, "registers").expect("it fits");
}

#[test]
fn a_lost_device_is_an_error_and_not_a_hang() {
    let (_, adapter) = unmist::gpu::select_adapter("auto").expect("lists").expect("there is one");
    let own = unmist::gpu::GpuDevice::open(adapter, unmist::gpu::Checks::On).expect("opens");
    let (graph, weights) = model();
    let plan = Program::new(&graph, own.caps(), &PlanOptions::default()).expect("fits");
    let mut session = GpuSession::new(&own, plan, &weights).expect("loads");
    own.destroy();
    let message = session.run().expect_err("the device is gone").to_string();
    assert!(message.starts_with("device:") && message.contains("lost"), "{message}");
    assert!(session.read("sample").is_err());
}
