//! Views: the same elements in another shape. They cost no launch, and keep the value they show alive.

use std::collections::HashMap;

use unmist::backend::Session;
use unmist::gpu::GpuSession;
use unmist::graph::{Graph, TensorDesc, ValueId};
use unmist::ops::Fill;
use unmist::ops::activation::ActivationKind;
use unmist::plan::{PlanOptions, Program};
use unmist::reference::ReferenceSession;
use unmist::verify::{Tolerance, compare};
use unmist::{DType, HostTensor};

use crate::device::gpu;

/// Checks that the results of `graph`, with and without shared memory, are those of the reference. Returns the number
/// of launches.
fn check(graph: &Graph) -> usize {
    let no_weights: HashMap<String, HostTensor> = HashMap::new();
    let x = Fill::Normal.tensor(graph.shape(graph.find_input("x").expect("is there")), 1);
    let mut reference = ReferenceSession::new(graph.clone(), &no_weights).expect("no weights");
    reference.write("x", &x).expect("fits");
    reference.run().expect("runs");
    let mut launches = 0;
    for reuse_memory in [true, false] {
        let options = PlanOptions { reuse_memory, ..PlanOptions::default() };
        let program = Program::new(graph, gpu().caps(), &options).expect("fits");
        launches = program.launches().count();
        let mut session = GpuSession::with_guard_bands(gpu(), program, &no_weights).expect("loads");
        session.write("x", &x).expect("fits");
        session.run().expect("runs");
        session.check_guard_bands().expect("no kernel writes out of bounds");
        for (name, _) in graph.outputs() {
            let (found, expected) = (session.read(name).expect("is read"), reference.read(name).expect("is read"));
            compare(&found, &expected, Tolerance::l2(1e-6)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    launches
}

fn silu(graph: &mut Graph, name: &str, x: ValueId) -> ValueId {
    graph.activation(name, x, ActivationKind::Silu).expect("floats")
}

#[test]
fn a_view_costs_no_launch_and_keeps_its_value_alive() {
    let mut graph = Graph::new();
    let g = &mut graph;
    let x = g.input("x", TensorDesc::f32([2, 3, 20]));
    let a = silu(g, "a", x);
    // Heads of five channels before the tokens, and back.
    let heads = g.reshape("heads", a, [2, 3, 4, 5]).expect("fits");
    // Other values of its size come and go while the view waits.
    let b = silu(g, "b", x);
    let c = silu(g, "c", b);
    let d = silu(g, "d", c);
    let turned = g.transpose("turned", heads, &[0, 2, 1, 3]).expect("fits");
    let flat = g.reshape("flat", turned, [2, 60]).expect("fits");
    let flat = g.reshape("flat_again", flat, [2, 3, 20]).expect("fits");
    let y = g.add("y", flat, d).expect("fits");
    g.output("y", y);
    assert_eq!(check(&graph), 6, "a, b, c, d, turned and y:\n{graph}");
}

#[test]
fn views_may_be_outputs_of_values_inputs_and_constants() {
    let mut graph = Graph::new();
    let g = &mut graph;
    let x = g.input("x", TensorDesc::f32([3, 7]));
    let a = silu(g, "a", x);
    let of_value = g.reshape("of_value", a, [21]).expect("fits");
    let of_input = g.reshape("of_input", x, [7, 3]).expect("fits");
    let table = g.constant("table", Fill::Normal.tensor(&[2, 5], 9));
    let of_table = g.reshape("of_table", table, [10, 1]).expect("fits");
    for (name, value) in [("of_value", of_value), ("of_input", of_input), ("of_table", of_table), ("a", a)] {
        g.output(name, value);
    }
    check(&graph);
}

#[test]
fn reshape_takes_the_shortest_way() {
    let mut graph = Graph::new();
    let g = &mut graph;
    let x = g.input("x", TensorDesc { shape: vec![4, 6], dtype: DType::F32 });
    assert_eq!(g.reshape("same", x, [4, 6]).expect("fits"), x);
    let view = g.reshape("view", x, [24]).expect("fits");
    assert_eq!(g.reshape("back", view, [4, 6]).expect("fits"), x);
    let moved = g.transpose("nothing moves", view, &[0]).expect("fits");
    assert_eq!(moved, view);
    let error = g.reshape("wrong", x, [5, 5]).expect_err("25 elements are not 24").to_string();
    assert!(error.contains("wrong (reshape): x [4, 6] has 24 elements, [5, 5] has not"), "{error}");
    let error = g.concat("wrong", x, view, -3).expect_err("two dimensions").to_string();
    assert!(error.contains("has no dimension -3"), "{error}");
    let error = g.add("wrong", x, view).expect_err("24 against 6").to_string();
    assert!(error.contains("do not broadcast"), "{error}");
}
