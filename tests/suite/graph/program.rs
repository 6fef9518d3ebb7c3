//! Programs: what runs when, and that a program is data.

use std::collections::{HashMap, HashSet};

use unmist::backend::Session;
use unmist::caps::Caps;
use unmist::checkpoint::Json;
use unmist::gpu::GpuSession;
use unmist::graph::{Graph, Rate, TensorDesc, passes};
use unmist::kernel::Access;
use unmist::models::{Model, Sizes, UNet2DConditionModel};
use unmist::ops::Fill;
use unmist::plan::{BufferRole, PlanOptions, Program};
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// Stable Diffusion 1.5's U-Net.
const SD15: &str = r#"{
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
}"#;

fn sd15(size: usize) -> Graph {
    let config = Json::parse("unet/config.json", SD15.into()).expect("JSON");
    let model = UNet2DConditionModel::from_json(&config).expect("sound");
    let sizes = Sizes { batch: 2, height: size, width: size, tokens: 77, time_ids: 0 };
    passes::optimize(&model.graph(&sizes, DType::F16).expect("fits"), &[]).expect("rewrites")
}

/// A GPU, and a CPU driver with subgroups of 8; both with large bindings.
fn devices() -> [Caps; 2] {
    let gpu = Caps { max_binding_bytes: 2 << 30, max_buffer_bytes: 2 << 30, ..Caps::webgpu_minimum() };
    let cpu = Caps { is_cpu: true, subgroup_sizes: Some([8, 8]), ..gpu.clone() };
    [gpu, cpu]
}

/// The rate at which each launch's inputs change, found by following the buffers from launch to launch, without the
/// planner's own account of rates.
fn rates_by_replay(program: &Program) -> Vec<(Rate, Rate)> {
    let mut holds: HashMap<usize, Rate> = program.inputs.iter().map(|port| (port.buffer, port.rate)).collect();
    holds.extend(program.parameters.iter().map(|parameter| (parameter.buffer, Rate::Once)));
    let mut found = Vec::new();
    for list in Rate::ALL {
        for launch in program.list(list) {
            let bindings = program.kernels[launch.kernel].reflection.bindings.iter();
            let storage: Vec<_> = bindings.filter(|b| b.access != Access::Uniform).zip(&launch.bindings).collect();
            let read = storage.iter().filter(|(b, _)| b.access == Access::Read);
            let read = read.filter(|(_, (buffer, _))| program.buffers[*buffer].role != BufferRole::Absent);
            let rate = read.map(|(_, (buffer, _))| holds[buffer]).max().expect("every launch reads something");
            for (_, (buffer, _)) in storage.iter().filter(|(b, _)| b.access == Access::ReadWrite) {
                // A buffer that a launch writes in part changes as often as its other parts.
                holds.insert(*buffer, rate.max(list));
            }
            found.push((list, rate));
        }
    }
    found
}

#[test]
fn every_step_of_stable_diffusion_runs_only_what_depends_on_the_step() {
    for caps in devices() {
        let program = Program::new(&sd15(32), &caps, &PlanOptions::default()).expect("fits");
        for (launch, (list, rate)) in program.launches().zip(rates_by_replay(&program)) {
            let node = &program.values[launch.value].name;
            assert_eq!(list, rate, "{node} ({}) reads what changes at another rate", launch.variant);
        }
        // Keys and values of the text, for each of the 16 cross-attentions, are computed once per prompt.
        let mut of_text: HashSet<&str> =
            program.condition.iter().map(|launch| program.values[launch.value].name.as_str()).collect();
        assert!(of_text.remove("encoder_hidden_states.cast"), "{of_text:?}");
        assert!(of_text.iter().all(|name| name.contains("attn2")), "{of_text:?}");
        assert_eq!(of_text.len(), 16, "{of_text:?}");
        assert!(program.role_bytes(BufferRole::Condition) >= 16 * 2 * 2 * 77 * 320 * 2);
        // On CPU drivers, 3 x 3 filters are transformed when the model is loaded.
        if caps.is_cpu {
            assert!(program.role_bytes(BufferRole::Prepared) > 500 << 20, "Winograd's filters");
            assert!(program.memory_bytes() < program.resident_bytes() + (64 << 20), "one source at a time");
        }
    }
}

#[test]
fn where_memory_is_short_smaller_kernels_go_before_faster_ones() {
    let [_, caps] = devices();
    let program = |limit: Option<u64>| {
        Program::new(&sd15(32), &caps, &PlanOptions { max_memory_bytes: limit, ..PlanOptions::default() })
    };
    let fast = program(None).expect("fits");
    let small = program(Some(fast.memory_bytes() - 1)).expect("there is a smaller one");
    assert!(small.memory_bytes() + (500 << 20) < fast.memory_bytes());
    // No filter is transformed; weights in textures are copies in the place of the originals, in whole blocks of rows.
    let copies = small.buffers.iter().filter(|b| b.role == BufferRole::Prepared).count() as u64;
    assert!(small.role_bytes(BufferRole::Prepared) <= small.role_bytes(BufferRole::Source) + copies * (64 << 10));
    let message = program(Some(small.memory_bytes() - 1)).expect_err("it does not fit").to_string();
    assert!(message.contains("device memory"), "{message}");
}

#[test]
fn a_program_is_data() {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([2, 5, 12]));
    let c = graph.condition("c", TensorDesc::f32([2, 1, 12]));
    let scaled = graph.scale("scaled", c, 3.0, 0.5).expect("fits");
    let y = graph.add("sum", x, scaled).expect("fits");
    graph.output("y", y);
    let program = Program::new(&graph, gpu().caps(), &PlanOptions::default()).expect("fits");
    drop(graph);
    let text = serde_json::to_string(&program).expect("writes");
    let read: Program = serde_json::from_str(&text).expect("reads");
    assert_eq!(read, program);

    let mut session = GpuSession::new(gpu(), read, &HashMap::new()).expect("loads");
    let (x, c) = (Fill::Normal.tensor(&[2, 5, 12], 1), Fill::Normal.tensor(&[2, 1, 12], 2));
    session.write("x", &x).expect("fits");
    session.write("c", &c).expect("fits");
    // Sessions can move to other threads.
    let found = std::thread::spawn(move || {
        session.run()?;
        let first = session.read("y")?;
        // A new condition with the same x, then a new x with the same condition.
        session.write("c", &Fill::Normal.tensor(&[2, 1, 12], 3))?;
        session.run()?;
        let second = session.read("y")?;
        session.write("x", &Fill::Normal.tensor(&[2, 5, 12], 4))?;
        session.run()?;
        Ok::<_, unmist::Error>([first, second, session.read("y")?])
    });
    let found = found.join().expect("does not panic").expect("runs");
    for (found, [x_seed, c_seed]) in found.iter().zip([[1, 2], [1, 3], [4, 3]]) {
        let (x, c) = (Fill::Normal.tensor(&[2, 5, 12], x_seed), Fill::Normal.tensor(&[2, 1, 12], c_seed));
        let expected = HostTensor::from_fn([2, 5, 12], |i| x.data[i] + (3.0 * c.data[i / 60 * 12 + i % 12] + 0.5));
        compare(found, &expected, Tolerance::l2(1e-6)).unwrap_or_else(|e| panic!("{e}"));
    }
}
