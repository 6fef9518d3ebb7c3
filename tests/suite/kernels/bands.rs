//! Winograd's form on a device whose bindings are so small that it runs in bands.

use std::collections::HashMap;

use unmist::backend::Session;
use unmist::gpu::GpuSession;
use unmist::ops::contraction::{Contraction, Conv2d, Gather};
use unmist::ops::{Case, CaseInput};
use unmist::plan::{Choice, PlanOptions, Program};
use unmist::reference::ReferenceSession;
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// Tiles of 2 and of 4 pixels, in bands that begin and end within pictures; the last one is lower than the others.
#[test]
fn bands_do_not_show_in_the_result() {
    let conv = Conv2d { padding: [1; 4], ..Conv2d::default() };
    let inputs = vec![CaseInput::normal([4, 25, 39, 8]), CaseInput::normal([12, 3, 3, 8]), None, None, None];
    let case = Case::new("bands", Contraction::new(Gather::Windows(conv.into())), inputs);
    let (graph, inputs) = case.graph(DType::F32).expect("sound");
    let weights = HashMap::<String, HostTensor>::new();
    let mut reference = ReferenceSession::new(graph.clone(), &weights).expect("loads");
    inputs.iter().for_each(|(name, tensor)| reference.write(name, tensor).expect("fits"));
    reference.run().expect("runs");
    let expected = reference.read("y").expect("there");

    // The largest tensor is the result, with 4 * 25 * 39 * 12 f32.
    let mut caps = gpu().caps().clone();
    caps.max_binding_bytes = 4 * 4 * 25 * 39 * 12;
    for (tile, bands) in [("", 5), ("4", 3)] {
        for family in ["shuffle", "registers"] {
            let variant = format!("winograd{tile}_{family}");
            let choice = Choice::of_variant("contraction", &variant);
            let options = PlanOptions { choice, ..PlanOptions::default() };
            let program = Program::new(&graph, &caps, &options).expect("fits in bands");
            let named = |kernel: &str| program.step.iter().filter(|l| program.kernels[l.kernel].name == kernel).count();
            assert_eq!(named("contraction/winograd_output"), bands, "{variant}");
            assert_eq!(named("contraction/winograd_weight"), 1, "{variant}: the filters are transformed once");
            let mut device = GpuSession::with_guard_bands(gpu(), program, &weights).expect("loads");
            inputs.iter().for_each(|(name, tensor)| device.write(name, tensor).expect("fits"));
            device.run().expect("runs");
            device.check_guard_bands().unwrap_or_else(|e| panic!("{variant}: {e}"));
            let found = device.read("y").expect("there");
            compare(&found, &expected, Tolerance::l2(1e-5)).unwrap_or_else(|e| panic!("{variant}: {e}"));
        }
    }
}
