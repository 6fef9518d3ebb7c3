//! f16 overflow, value by value: it is found, the value is stored in f32, and the run continues from where it was.

use std::collections::HashMap;

use unmist::backend::{Device, LoadOptions};
use unmist::graph::{Graph, TensorDesc};
use unmist::overflow::F32Fallback;
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

fn device() -> Device {
    Device::Gpu(gpu().clone())
}

/// state · 2 · 200 / 200 + step, carried to the next run, by way of a value that soon overflows. 15 elements, so that
/// the last vector is padded.
fn doubling() -> Graph {
    let mut graph = Graph::new();
    let g = &mut graph;
    let state = g.input("state", TensorDesc::f32([3, 5]));
    let step = g.input("step", TensorDesc::f32([3, 5]));
    let half = g.cast("half", state, DType::F16).expect("fits");
    let doubled = g.scale("doubled", half, 2.0, 0.0).expect("fits");
    let large = g.scale("large", doubled, 200.0, 0.0).expect("fits");
    let small = g.scale("small", large, 1.0 / 200.0, 0.0).expect("fits");
    let next = g.add("next", small, step).expect("fits");
    let next = g.cast("full", next, DType::F32).expect("fits");
    g.output("state", next);
    g.carry("state", "state").expect("fits");
    graph
}

#[test]
fn a_run_goes_on_from_the_step_that_overflowed() {
    let (device, load, weights) = (device(), LoadOptions::default(), HashMap::new());
    let fallback = F32Fallback::new("test");
    let mut session = fallback.load(&device, &doubling(), &weights, &load).expect("loads");
    let mut expected = HostTensor::from_fn([3, 5], |i| 1.0 + i as f32 / 8.0);
    session.write("state", &expected).expect("fits");
    let mut first_note = None;
    for step in 0..12 {
        // A new input each time: a run that is repeated must see this one, not an earlier one.
        let add = HostTensor::from_fn([3, 5], |i| (step * i % 3) as f32);
        session.write("step", &add).expect("fits");
        session.run().expect("runs");
        expected.data.iter_mut().zip(&add.data).for_each(|(v, a)| *v = 2.0 * *v + a);
        let found = session.read("state").expect("is read");
        compare(&found, &expected, Tolerance::l2(2e-3)).unwrap_or_else(|e| panic!("step {step}: {e}"));
        let notes = fallback.take_notes();
        if !notes.is_empty() {
            assert!(first_note.is_none(), "noted twice: {first_note:?}, {notes:?}");
            assert!(notes[0].contains("test overflows f16: large now stored in f32"), "{notes:?}");
            first_note = Some(step);
        }
    }
    // 2.75 · 2^n · 400 exceeds 65504 in the sixth or seventh step; the state itself would not until the fifteenth.
    assert!(matches!(first_note, Some(4..=8)), "{first_note:?}");
    assert_eq!(fallback.values().into_iter().collect::<Vec<_>>(), ["large"]);
}

#[test]
fn what_is_written_for_the_next_run_survives_an_overflow_in_this_one() {
    let (device, load, weights) = (device(), LoadOptions::default(), HashMap::new());
    let fallback = F32Fallback::new("test");
    let mut session = fallback.load(&device, &doubling(), &weights, &load).expect("loads");
    session.write("state", &HostTensor::from_fn([3, 5], |i| 100.0 + i as f32)).expect("fits");
    session.write("step", &HostTensor::zeros([3, 5])).expect("fits");
    session.run().expect("runs"); // 100 · 400 still fits,
    session.run().expect("runs"); // 200 · 400 does not, which shows when the result is read
    session.write("step", &HostTensor::from_fn([3, 5], |_| 8.0)).expect("fits");
    let second = session.read("state").expect("is read");
    assert!(fallback.values().contains("large"));
    session.run().expect("runs");
    let expected = HostTensor::from_fn([3, 5], |i| 2.0 * second.data[i] + 8.0);
    compare(&session.read("state").expect("is read"), &expected, Tolerance::l2(2e-3)).expect("the step was added");
}

#[test]
fn what_is_known_to_overflow_is_stored_in_f32_from_the_start() {
    let (device, load, weights) = (device(), LoadOptions::default(), HashMap::new());
    let fallback = F32Fallback::new("test");
    let run = || {
        let mut session = fallback.load(&device, &doubling(), &weights, &load).expect("loads");
        let wide = fallback.values().contains("large");
        session.write("state", &HostTensor::from_fn([3, 5], |i| 300.0 + i as f32)).expect("fits");
        session.write("step", &HostTensor::zeros([3, 5])).expect("fits");
        session.run().expect("runs");
        (wide, session.read("state").expect("is read"), fallback.take_notes().len())
    };
    let (first, second) = (run(), run());
    assert_eq!((first.0, first.2), (false, 1));
    assert_eq!((second.0, second.2), (true, 0));
    assert_eq!(first.1, second.1);
}

#[test]
fn inputs_that_are_not_finite_are_not_taken_for_overflow() {
    let (device, load, weights) = (device(), LoadOptions::default(), HashMap::new());
    let fallback = F32Fallback::new("test");
    let mut session = fallback.load(&device, &doubling(), &weights, &load).expect("loads");
    session.write("state", &HostTensor::from_fn([3, 5], |_| f32::NAN)).expect("fits");
    session.write("step", &HostTensor::zeros([3, 5])).expect("fits");
    session.run().expect("runs");
    assert!(session.read("state").expect("is read").data.iter().all(|v| v.is_nan()));
    assert!(fallback.take_notes().is_empty());
}

#[test]
fn the_largest_magnitude_is_found_wherever_it_stands() {
    // Two parts and a bit more; the last vector is padded, and what the padding holds must not count.
    let elements = 4096 + 4096 + 3;
    for (position, value) in [(0, -7e4), (4095, 9e30), (4096, f32::INFINITY), (elements - 1, f32::NAN), (5000, -1e-30)]
    {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorDesc::f32([elements]));
        let y = graph.max_abs("y", x).expect("fits");
        graph.output("y", y);
        let mut session = device().load(graph, &HashMap::new(), &LoadOptions::default()).expect("loads");
        let mut x = HostTensor::zeros([elements]);
        x.data[position] = value;
        session.write("x", &x).expect("fits");
        session.run().expect("runs");
        let found = session.read("y").expect("is read").data;
        assert_eq!(found.len(), 3);
        for (part, found) in found.into_iter().enumerate() {
            let expected = if part == position / 4096 { value.abs() } else { 0.0 };
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{position}: {found}, not {expected}");
        }
    }
}
