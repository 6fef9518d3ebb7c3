//! What can be said of a program's speed on any GPU without one: launches, bytes, memory, submissions. The presets have
//! the real sizes of their models; two pictures at once, as guidance asks for; f16.

use std::collections::HashMap;
use std::time::Instant;

use unmist::DType;
use unmist::caps::{Caps, CooperativeMatrix, MatrixElement};
use unmist::graph::{Graph, Rate, passes};
use unmist::kernel::Access;
use unmist::models::{Preset, Sizes};
use unmist::plan::{BufferRole, Launch, PlanOptions, Program};

/// A GPU of which nothing is known but that its bindings are large.
fn gpu() -> Caps {
    Caps { max_binding_bytes: 2 << 30, max_buffer_bytes: 2 << 30, ..Caps::webgpu_minimum() }
}

/// A preset's graph for one step, rewritten.
fn graph(preset: Preset) -> Graph {
    let model = preset.model().expect("sound");
    let sizes = Sizes { batch: 2, ..model.default_sizes() };
    passes::optimize(&model.graph(&sizes, DType::F16).expect("fits"), &[]).expect("rewrites")
}

fn program(graph: &Graph) -> Program {
    Program::new(graph, &gpu(), &PlanOptions::default()).expect("fits")
}

/// Bytes that the launches of the step list read and write: their bindings once each, or as much of them as they touch.
fn planned_bytes(program: &Program) -> u64 {
    program.cost(Rate::Step).bytes
}

/// The bytes that a step must move if each node of the graph reads its inputs once and writes its output once.
fn least_bytes(graph: &Graph) -> u64 {
    let rates = graph.rates();
    let step = graph.values().filter(|(id, node)| node.op().is_some() && rates[id.index()] == Rate::Step);
    step.map(|(_, node)| node.desc.bytes() + node.inputs().map(|v| graph.desc(v).bytes()).sum::<u64>()).sum()
}

/// The values that live in slots: the first and the last launch that has them, and their bytes.
fn spans(program: &Program) -> Vec<(usize, usize, u64)> {
    let mut current: HashMap<usize, usize> = HashMap::new();
    let mut spans: Vec<(usize, usize, u64)> = Vec::new();
    for (i, launch) in program.step.iter().enumerate() {
        let storage = program.kernels[launch.kernel].reflection.bindings.iter().filter(|b| b.access != Access::Uniform);
        for (binding, (buffer, bytes)) in storage.zip(&launch.bindings) {
            if program.buffers[*buffer].role != BufferRole::Slot {
                continue;
            }
            // Pieces of one launch write parts of one value.
            let piece =
                i > 0 && program.step[i - 1].value == launch.value && program.step[i - 1].kernel == launch.kernel;
            match current.get(buffer) {
                Some(&span) if binding.access == Access::Read || piece => spans[span].1 = i,
                _ => {
                    current.insert(*buffer, spans.len());
                    spans.push((i, i, *bytes));
                }
            }
        }
    }
    spans
}

/// The most bytes that are alive at once, and the least that whole buffers can take: buffers that hold one value at a
/// time are, largest first, never smaller than the values alive at any moment, largest first.
fn live_bytes(program: &Program) -> (u64, u64) {
    let spans = spans(program);
    let mut most = 0;
    let mut ranks: Vec<u64> = Vec::new();
    for i in 0..program.step.len() {
        let alive = spans.iter().filter(|(first, last, _)| (*first..=*last).contains(&i));
        let mut alive: Vec<u64> = alive.map(|(.., bytes)| *bytes).collect();
        alive.sort_unstable_by(|a, b| b.cmp(a));
        most = most.max(alive.iter().sum());
        ranks.resize(ranks.len().max(alive.len()), 0);
        ranks.iter_mut().zip(alive).for_each(|(rank, bytes)| *rank = bytes.max(*rank));
    }
    (most, ranks.iter().sum())
}

#[test]
fn a_step_of_stable_diffusion_takes_few_launches() {
    let launches = |preset| program(&graph(preset)).step.len();
    for (preset, most) in [(Preset::Sd15, 388), (Preset::Sdxl, 1012), (Preset::Ddpm, 199)] {
        let found = launches(preset);
        assert!(found <= most, "{}: {found} launches, at most {most} before", preset.name());
    }
}

#[test]
fn a_norm_takes_one_launch() {
    let program = program(&graph(Preset::Sd15));
    let norms = |launch: &&unmist::plan::Launch| program.kernels[launch.kernel].name.starts_with("norm/");
    let nodes: std::collections::BTreeSet<usize> = program.step.iter().filter(norms).map(|l| l.value).collect();
    assert_eq!(program.step.iter().filter(norms).count(), nodes.len());
}

#[test]
fn skip_connections_are_not_copied() {
    for preset in [Preset::Sd15, Preset::Sdxl, Preset::Ddpm] {
        let program = program(&graph(preset));
        let copies = program.step.iter().filter(|launch| program.kernels[launch.kernel].name.starts_with("concat/"));
        assert_eq!(copies.count(), 0, "{}", preset.name());
    }
}

#[test]
fn launches_move_little_more_than_they_must() {
    // Sums that are split into parts, where tiles would be too few for a GPU, are written and read in f32: 0.6 GB of
    // the first, 0.1 GB of the decoder. The decoder's norms read large pictures once more, for their sums.
    for (preset, most) in [(Preset::Sd15, 1.20), (Preset::Sdxl, 1.15), (Preset::Vae, 1.19)] {
        let graph = graph(preset);
        let (planned, least) = (planned_bytes(&program(&graph)), least_bytes(&graph));
        let ratio = planned as f64 / least as f64;
        assert!(ratio <= most, "{}: {planned} bytes planned, {least} at least: {ratio:.3}", preset.name());
    }
}

#[test]
fn slots_are_nearly_as_few_as_whole_buffers_can_be() {
    for preset in Preset::ALL {
        let program = program(&graph(preset));
        let slots = program.role_bytes(BufferRole::Slot);
        let (most, least) = live_bytes(&program);
        let ratio = slots as f64 / least as f64;
        let name = preset.name();
        assert!(slots >= least && least >= most, "{name}: {slots} bytes of slots, {least} and {most} alive");
        assert!(ratio <= 1.1, "{name}: {slots} bytes of slots, {least} at least: {ratio:.3}");
    }
}

#[test]
fn planning_a_step_takes_little_time() {
    let graph = graph(Preset::Sd15);
    let start = Instant::now();
    let program = program(&graph);
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds < 5.0, "{seconds} s to plan {} launches", program.step.len());
}

/// On NVIDIA's GPUs: products by matrix units in f16, Winograd's form in f32, which keeps larger filters, but not much.
#[test]
fn what_nvidias_gpus_run() {
    let product = CooperativeMatrix { m: 16, n: 16, k: 16, factors: MatrixElement::F16, sums: MatrixElement::F32 };
    let nvidia = Caps {
        vendor: Caps::NVIDIA,
        f16: true,
        subgroup_sizes: Some([32; 2]),
        cooperative_matrices: vec![product],
        workgroup_memory_bytes: 48 << 10,
        max_workgroup_invocations: 1024,
        ..gpu()
    };
    let model = Preset::Sd15.model().expect("sound");
    let sizes = Sizes { batch: 2, ..model.default_sizes() };
    let plan = |dtype, caps: &Caps| {
        let graph = passes::optimize(&model.graph(&sizes, dtype).expect("fits"), &[]).expect("rewrites");
        Program::new(&graph, caps, &PlanOptions::default()).expect("fits")
    };
    let share = |program: &Program, kernel: &str| {
        let flops = |all: bool| -> u64 {
            let of = program.step.iter().filter(|launch| all || program.kernels[launch.kernel].name == kernel);
            of.map(|launch| launch.cost.flops).sum()
        };
        flops(false) as f64 / flops(true) as f64
    };
    let half = plan(DType::F16, &nvidia);
    let units = share(&half, "contraction/6_matrix") + share(&half, "attention/matrix");
    assert!(units > 0.98, "{units} of the work is done by matrix units");
    let single = plan(DType::F32, &nvidia);
    let is_winograd = |launch: &&Launch| single.kernels[launch.kernel].name == "contraction/winograd_output";
    assert!(single.step.iter().filter(is_winograd).count() > 15, "3x3 convolutions have Winograd's form");
    let (with, without) = (single.resident_bytes(), plan(DType::F32, &gpu()).resident_bytes());
    let more = with as f64 / without as f64;
    assert!(more < 1.3, "{more} times the memory");
}
