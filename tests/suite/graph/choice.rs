//! Choosing kernels: the rules, what the user forces, a tuned table; and that every setting a kernel lists computes the
//! same.

use std::collections::HashMap;

use unmist::backend::Session;
use unmist::caps::Caps;
use unmist::gpu::GpuSession;
use unmist::graph::{Graph, NodeKind, TensorDesc};
use unmist::ops::activation::ActivationKind;
use unmist::ops::attention::Attention;
use unmist::ops::norm::{Norm, NormKind};
use unmist::ops::{Case, Knobs, LowerContext, Size, registry};
use unmist::plan::{Choice, Decision, Forced, PlanOptions, Program, Table, Tuned, TunedEntry, explain};
use unmist::reference::ReferenceSession;
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::common::thorough;
use crate::device::gpu;

/// Two products of different widths.
fn graph() -> Graph {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([70, 1024]));
    let (wide, narrow) =
        (graph.input("wide", TensorDesc::f32([260, 1024])), graph.input("narrow", TensorDesc::f32([8, 260])));
    let wide = graph.linear("block.wide", x, wide, None).expect("sound");
    let act = graph.activation("act", wide, ActivationKind::Silu).expect("sound");
    let narrow = graph.linear("block.narrow", act, narrow, None).expect("sound");
    graph.output("y", narrow);
    graph
}

fn decisions(caps: &Caps, choice: &Choice) -> HashMap<String, Decision> {
    explain(&graph(), caps, choice).expect("can run").into_iter().collect()
}

fn forced(texts: &[&str]) -> Choice {
    Choice { forced: texts.iter().map(|text| Forced::parse(text).expect("sound")).collect(), ..Choice::default() }
}

fn cpu() -> Caps {
    Caps { is_cpu: true, subgroup_sizes: Some([8; 2]), ..Caps::webgpu_minimum() }
}

/// Mesa's llvmpipe silently ends loops after 65 535 rounds, so kernels that would loop for longer are refused there.
#[test]
fn no_kernel_loops_longer_than_the_driver_lets_it() {
    let attention = |keys: usize| {
        let mut graph = Graph::new();
        let q = graph.input("q", TensorDesc::f32([1, 8, 512]));
        let [k, v] = ["k", "v"].map(|name| graph.input(name, TensorDesc::f32([1, keys, 512])));
        let op = Attention::default();
        let y = graph.push("mid.attn", op, &[Some(q), Some(k), Some(v), None, None]).expect("sound");
        graph.output("y", y);
        graph
    };
    let caps = Caps { max_loop_rounds: Some(65_535), ..cpu() };
    let chosen = |keys| explain(&attention(keys), &caps, &Choice::default());
    assert_eq!(chosen(4096).expect("can run")[0].1.variant, "flash");
    assert_eq!(chosen(4096).expect("can run")[0].1.candidates[2].settings, 0, "naive takes 4 million rounds");
    let message = Program::new(&attention(16_384), &caps, &PlanOptions::default()).expect_err("too long").to_string();
    for part in ["mid.attn", "no kernel for attention", "ends them after 65535", "`width`"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    explain(&attention(16_384), &cpu(), &Choice::default()).expect("another driver has no such limit");
}

#[test]
fn rules_choose_by_device_and_say_why() {
    let on_gpu = &decisions(&Caps::webgpu_minimum(), &Choice::default())["block.wide"];
    let small = "SPLITS=8 STREAMS=0 TILE_K=16 TILE_M=32 TILE_N=32".to_owned();
    assert_eq!((on_gpu.variant, on_gpu.knobs.to_string()), ("pipelined", small));
    let shuffle = on_gpu.candidates.iter().find(|c| c.variant == "shuffle").expect("is one");
    assert_eq!(shuffle.settings, 0);
    assert!(shuffle.objection.as_ref().is_some_and(|why| why.contains("subgroups")), "{shuffle:?}");

    let on_cpu = &decisions(&cpu(), &Choice::default())["block.wide"];
    assert_eq!((on_cpu.variant, on_cpu.knobs.to_string()), ("shuffle", "QUADS=4 ROWS=4 TEXTURES=1".into()));
    assert!(on_cpu.reason.contains("CPU drivers"), "{}", on_cpu.reason);
    let tiled = on_cpu.candidates.iter().find(|c| c.variant == "pipelined").expect("is one");
    assert_eq!(tiled.objection.as_deref(), Some("written for GPUs"));
    assert!(tiled.settings > 1);
}

#[test]
fn the_most_specific_word_of_the_user_counts() {
    let chosen = |texts: &[&str]| {
        let all = decisions(&cpu(), &forced(texts));
        ["block.wide", "block.narrow"].map(|node| format!("{} {}", all[node].variant, all[node].knobs))
    };
    assert_eq!(chosen(&["contraction=naive"]), ["naive ", "naive "]);
    // Old names keep their meaning: products, not convolutions.
    assert_eq!(chosen(&["conv2d=naive", "linear=naive"]), ["naive ", "naive "]);
    assert_eq!(chosen(&["conv2d=naive"]), chosen(&[]));
    assert_eq!(chosen(&["linear=naive", "linear@70x8=tiled"]), ["naive ", "registers SPLITS=1 TILE=64"]);
    let node = ["block.narrow=shuffle:QUADS=1", "linear@70x8=tiled", "linear=naive"];
    assert_eq!(chosen(&node), ["naive ", "shuffle QUADS=1 ROWS=4 TEXTURES=0"]);
    assert_eq!(chosen(&["linear=tiled:TILE=128"])[0], "registers SPLITS=2 TILE=128");
}

#[test]
fn older_names_mean_their_kind_alone() {
    let mut graph = Graph::new();
    let g = &mut graph;
    let x = g.input("x", TensorDesc::f32([2, 9, 16]));
    let group = g.norm("group", x, [None; 2], None, Norm::new(NormKind::Group { groups: 2 }, 1e-5)).expect("sound");
    let layer = g.norm("layer", group, [None; 2], None, Norm::new(NormKind::Layer, 1e-5)).expect("sound");
    let geglu = g.gated("geglu", layer, ActivationKind::Gelu).expect("sound");
    let swiglu = g.gated("swiglu", geglu, ActivationKind::Silu).expect("sound");
    g.output("y", swiglu);
    let chosen = |texts: &[&str]| {
        let all: HashMap<_, _> = explain(&graph, &cpu(), &forced(texts)).expect("can run").into_iter().collect();
        ["group", "layer", "geglu", "swiglu"].map(|node| all[node].variant)
    };
    assert_eq!(chosen(&[]), ["chunked", "rows", "vec4", "vec4"]);
    assert_eq!(chosen(&["group_norm=naive"]), ["naive", "rows", "vec4", "vec4"]);
    assert_eq!(chosen(&["layer_norm=workgroup", "geglu=naive"]), ["chunked", "workgroup", "naive", "vec4"]);
    assert_eq!(chosen(&["norm=naive", "gated=naive"]), ["naive"; 4]);
}

#[test]
fn what_cannot_be_forced_is_refused_clearly() {
    let parse = |text: &str| Forced::parse(text).expect_err("it is wrong").to_string();
    assert!(parse("convolve=naive").contains("no operation convolve; there are"));
    assert!(parse("linear@70xq=naive").contains("1x64x64x320"));
    assert!(parse("block.wide=warp").contains("no operation has a variant warp"));
    assert!(parse("linear=tiled:TILE").contains("NAME=NUMBER"));
    assert!(parse("linear").contains("OPERATION@SHAPE"));
    assert!(Forced::parse("node:conv_in=naive").is_ok());

    let refuse = |text: &str| explain(&graph(), &cpu(), &forced(&[text])).expect_err("cannot run").to_string();
    let message = refuse("linear=tiled:TILE=96");
    assert!(message.contains("no setting TILE=96; there are [SPLITS=1 TILE=64]"), "{message}");
    assert!(refuse("node:act=flash").contains("activation has no variant"));
    let message = forced(&["block.wild=naive"]).check_nodes(&[graph()]).expect_err("no such node").to_string();
    assert!(message.contains("no node is called block.wild") && message.contains("block.wide"), "{message}");
    forced(&["block.wide=naive", "linear=naive"]).check_nodes(&[graph()]).expect("there is one");
}

#[test]
fn a_tuned_table_goes_before_the_rules() {
    let graph = graph();
    let entry = |name: &str, variant: &str, knobs: Knobs| {
        let node = graph.nodes().iter().find(|n| n.name == name).expect("is there");
        let NodeKind::Op(op, inputs) = &node.kind else { panic!("{name} is an operation") };
        let inputs: Vec<_> = inputs.iter().map(|v| v.map(|v| graph.desc(v))).collect();
        let context =
            LowerContext { inputs: &inputs, output: &node.desc, caps: gpu().caps(), joined: None, in_place: false };
        TunedEntry::new(op, &context, variant, knobs)
    };
    let good = entry("block.wide", "registers", Knobs::of([("TILE", 128), ("SPLITS", 3)]));
    let stale = entry("block.narrow", "registers", Knobs::of([("TILE", 32), ("SPLITS", 1)]));
    let folder = tempfile::tempdir().expect("can be made");
    let path = folder.path().join("tuned.json");
    let table = Table { device: "a test".into(), entries: vec![good, stale], ..Table::default() };
    table.write(&path).expect("can be written");
    let choice = Choice { tuned: Tuned::load(&path).expect("just written"), ..Choice::default() };

    let all = decisions(&cpu(), &choice);
    let wide = &all["block.wide"];
    assert_eq!(
        (wide.variant, wide.knobs.to_string(), wide.reason.as_str()),
        ("registers", "SPLITS=3 TILE=128".into(), "tuned")
    );
    let narrow = &all["block.narrow"];
    assert_eq!(narrow.variant, "shuffle");
    assert!(narrow.reason.contains("the tuned registers cannot run here: no setting"), "{}", narrow.reason);
    let forced = Choice { forced: forced(&["linear=naive"]).forced, ..choice };
    assert_eq!(decisions(&cpu(), &forced)["block.wide"].variant, "naive");
}

/// For each variant with several settings: an even sample of them, on the case that has the most. A larger one with
/// `UNMIST_TEST_THOROUGH=1`.
#[test]
fn every_setting_computes_the_same() {
    let most = if thorough() { 16 } else { 6 };
    let mut failures = Vec::new();
    for info in registry() {
        for variant in &info.variants {
            let cases = info.cases_of(Size::Small);
            let case = cases.max_by_key(|case| settings(case, variant).len()).expect("every op has cases");
            let listed = settings(case, variant);
            if listed.len() < 2 {
                continue;
            }
            let step = listed.len().div_ceil(most);
            for knobs in listed.iter().step_by(step).chain(listed.last()) {
                let forced = Forced { knobs: knobs.clone(), ..Forced::operation(info.name, variant) };
                let choice = Choice { forced: vec![forced], ..Choice::default() };
                if let Err(why) = check(case, &PlanOptions { choice, ..PlanOptions::default() }) {
                    failures.push(format!("{} {variant} [{knobs}] \"{}\": {why}", info.name, case.label));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn settings(case: &Case, variant: &str) -> Vec<Knobs> {
    let graph = case.structure(DType::F32).expect("parity cases fit their operation");
    let node = graph.nodes().last().expect("the operation is the last node");
    let NodeKind::Op(op, inputs) = &node.kind else { panic!("the operation is the last node") };
    let inputs: Vec<_> = inputs.iter().map(|v| v.map(|v| graph.desc(v))).collect();
    let context =
        LowerContext { inputs: &inputs, output: &node.desc, caps: gpu().caps(), joined: None, in_place: false };
    let index = op.variant_names().iter().position(|name| *name == variant).expect("one of its variants");
    if op.legal(index, &context).is_ok() { op.knobs(index, &context) } else { Vec::new() }
}

fn check(case: &Case, options: &PlanOptions) -> unmist::Result<()> {
    let (graph, inputs) = case.graph(DType::F32)?;
    let weights = HashMap::<String, HostTensor>::new();
    let mut device = GpuSession::with_guard_bands(gpu(), Program::new(&graph, gpu().caps(), options)?, &weights)?;
    let mut oracle = ReferenceSession::new(graph, &weights)?;
    for (name, tensor) in &inputs {
        device.write(name, tensor)?;
        oracle.write(name, tensor)?;
    }
    device.run()?;
    oracle.run()?;
    compare(&device.read("y")?, &oracle.read("y")?, Tolerance::l2(case.tolerance))?;
    device.check_guard_bands()
}
