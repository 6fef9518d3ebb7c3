//! A small network built by hand: a residual block with made-up weights. Shows the graph before and after the passes
//! rewrite it, and how much memory it takes.
//!
//!     cargo run --release --example graph_by_hand

use std::collections::HashMap;

use unmist::backend::{Device, LoadOptions};
use unmist::graph::{Graph, TensorDesc, passes};
use unmist::models::Layers;
use unmist::ops::activation::ActivationKind;
use unmist::{DType, HostTensor, Result};

const CHANNELS: usize = 16;

fn main() -> Result<()> {
    let graph = residual_block()?;
    show("as written", &graph);
    show("after the passes", &passes::optimize(&graph, &[])?);
    let device = Device::open("auto")?;
    println!("{:?}", device.memory(&graph, &LoadOptions::default())?);
    let y = run(&device)?;
    println!("{:?}, the first elements {:?}", y.shape, &y.data[..4]);
    Ok(())
}

/// y = x + conv2(silu(norm(conv1(x)))), with its weights named as diffusers would name them.
pub fn residual_block() -> Result<Graph> {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([1, 12, 20, CHANNELS])); // channels last
    let mut m = Layers::new(&mut graph, DType::F32);
    let h = m.conv3x3("conv1", x, CHANNELS)?;
    let h = m.group_norm("norm", h, 4, 1e-5)?;
    let h = m.activation("silu", h, ActivationKind::Silu)?;
    let h = m.conv3x3("conv2", h, CHANNELS)?;
    let y = m.graph.add("y", x, h)?;
    graph.output("y", y);
    Ok(graph)
}

/// Runs the block once. Every weight is asked for by name and shape.
pub fn run(device: &Device) -> Result<HostTensor> {
    let graph = residual_block()?;
    let made_up = |shape: &[usize]| HostTensor::from_fn(shape, |i| ((i * 37) % 23) as f32 / 200.0 - 0.05);
    let weights: HashMap<_, _> =
        graph.weight_parts().into_iter().map(|part| (part.name.clone(), made_up(&part.shape))).collect();
    let mut session = device.load(graph, &weights, &LoadOptions::default())?;
    session.write("x", &HostTensor::from_fn([1, 12, 20, CHANNELS], |i| (i as f32 * 0.1).sin()))?;
    session.run()?;
    session.read("y")
}

fn show(what: &str, graph: &Graph) {
    println!("{what}:");
    for (_, node) in graph.values().filter(|(_, node)| node.op().is_some()) {
        println!("    {:<12} {}", node.name, node.desc.label());
    }
}
