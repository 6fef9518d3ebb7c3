//! What can be said of training real models without a GPU: memory, work and launches of a step, as they are planned.
//! The figures stand in benches/results/training.md.

use unmist::DType;
use unmist::backend::LoadOptions;
use unmist::caps::Caps;
use unmist::graph::{Graph, Kept, Node, NodeKind, Rate, passes};
use unmist::models::{Preset, Sizes};
use unmist::plan::{BufferRole, PlanOptions, Program};
use unmist::training::{ATTENTION, Keeps, Lora, Optimizer, TrainingGraph, checkpoints_at};

/// A GPU of which nothing is known but that its bindings are large.
fn gpu() -> Caps {
    Caps { max_binding_bytes: 2 << 30, max_buffer_bytes: 2 << 30, ..Caps::webgpu_minimum() }
}

/// A preset's graph, with its result for the difference that training makes small.
fn model(preset: Preset, batch: usize, dtype: DType) -> Graph {
    let model = preset.model().expect("sound");
    let mut graph = model.graph(&Sizes { batch, ..model.default_sizes() }, dtype).expect("fits");
    let result = graph.find_output("sample").expect("a U-Net has one");
    graph.output("difference", result);
    graph
}

fn program(graph: &Graph) -> Program {
    let graph = passes::optimize(graph, &LoadOptions::default().disabled_passes).expect("rewrites");
    Program::of_any_size(&graph, &gpu(), &PlanOptions::default()).expect("can be planned")
}

/// A step of the optimizer for this model: all of it, or a LoRA.
fn training(model: &Graph, lora: Option<&Lora>, kept: fn(&Graph) -> Kept) -> Program {
    let keeps = Keeps::default();
    let optimizer = Optimizer::default();
    let step = match lora {
        None => TrainingGraph::new(model, |_| true, &optimizer, keeps, kept),
        Some(lora) => {
            let (model, _) = lora.add_to(model).expect("it has such layers");
            TrainingGraph::new(&model, |name| name.contains("lora_"), &optimizer, keeps, kept)
        }
    };
    program(&step.expect("has gradients").graph)
}

/// The bytes that a step must move if nothing but products and attention went through memory: each of them reads its
/// inputs and writes its output once, and its gradients as much again for what goes into it and for its weights;
/// AdamW reads parameter, moments and gradient, and writes all but the last.
fn least_bytes(model: &Graph) -> u64 {
    let graph = passes::optimize(model, &LoadOptions::default().disabled_passes).expect("rewrites");
    let is_product = |node: &Node| node.op().is_some_and(|op| ["contraction", "attention"].contains(&op.name()));
    let of = |node: &Node| node.desc.bytes() + node.inputs().map(|v| graph.desc(v).bytes()).sum::<u64>();
    let products: u64 = graph.values().filter(|(_, node)| is_product(node)).map(|(_, node)| of(node)).sum();
    let is_weight = |node: &Node| matches!(node.kind, NodeKind::Weight(_));
    let weights: u64 = model.values().filter(|(_, node)| is_weight(node)).map(|(_, node)| node.desc.bytes()).sum();
    3 * products + 7 * weights
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Memory in MiB: everything, what is carried from step to step, what shares memory within one; GFLOP; launches.
fn figures(name: &str, program: &Program) -> [f64; 5] {
    let all = mebibytes(program.memory_bytes());
    let [states, slots] = [BufferRole::Input, BufferRole::Slot].map(|role| mebibytes(program.role_bytes(role)));
    let work = program.cost(Rate::Step).flops as f64 / 1e9;
    let launches = program.step.len() as f64;
    println!("{name}: {all:.0} MiB, states {states:.0}, slots {slots:.0}; {work:.0} GFLOP, {launches} launches");
    [all, states, slots, work, launches]
}

#[test]
fn a_lora_of_stable_diffusion_fits_small_gpus() {
    let lora = Lora { rank: 16, alpha: 16.0, targets: ATTENTION.map(str::to_owned).to_vec() };
    let model = model(Preset::Sd15, 1, DType::F16);
    let forward = figures("SD 1.5, f16, 512 x 512, forward", &program(&model));
    let whole = figures("a LoRA of rank 16", &training(&model, Some(&lora), |_| Kept::All));
    let few = figures("the same, blocks computed twice", &training(&model, Some(&lora), checkpoints_at));
    // Parameters take 1.6 GiB; the rest is the adapter's, and what the backward pass finds.
    assert!(whole[0] < 8192.0, "{} MiB", whole[0]);
    assert!(few[2] < 0.7 * whole[2], "recomputation saves {} of {} MiB", whole[2] - few[2], whole[2]);
    assert!(few[0] < 4096.0, "{} MiB", few[0]);
    // Backward through frozen layers is one product for each, as much as the forward pass; attention computes its
    // scores anew for each of its three gradients and for their sums, four and a half times the forward pass.
    assert!(whole[3] < 2.8 * forward[3], "{} GFLOP of {} forward", whole[3], forward[3]);
}

#[test]
fn a_step_takes_three_times_the_work_of_a_forward_pass() {
    let model = model(Preset::Ddpm, 4, DType::F32);
    let forward = figures("DDPM for CIFAR-10, f32, batch 4, forward", &program(&model));
    let step = training(&model, None, |_| Kept::All);
    let whole = figures("a step of training", &step);
    // Each product and convolution has two gradients of its size. Strided ones are taken over pixels moved apart, and
    // Winograd's form, which takes fewer multiplications, cannot take gradients of filters.
    assert!(whole[3] < 3.6 * forward[3], "{} GFLOP of {} forward", whole[3], forward[3]);
    // Products are half of the traffic: norms, activations and sums read and write the rest.
    let (planned, least) = (step.cost(Rate::Step).bytes, least_bytes(&model));
    let [planned, least] = [planned, least].map(mebibytes);
    println!("{planned:.0} MiB are moved, {least:.0} at least: {:.2}", planned / least);
    assert!(planned < 3.0 * least, "{planned} MiB are moved, {least} at least");
    // Parameters and both moments are where they were: one copy of each.
    let parameters = 35.7e6 * 4.0 / f64::from(1 << 20);
    assert!((whole[1] / parameters - 3.0).abs() < 0.05, "states take {} MiB, parameters {parameters}", whole[1]);
    assert!(step.carries.iter().all(|carry| carry.bytes < 1024), "a state is copied from one place to another");
}
