//! One operation on the GPU, compared with the same operation in plain loops on the CPU.
//!
//!     cargo run --release --example one_op

use std::collections::HashMap;

use unmist::backend::{Device, LoadOptions};
use unmist::graph::{Graph, TensorDesc};
use unmist::verify::{Tolerance, compare};
use unmist::{HostTensor, Result};

fn main() -> Result<()> {
    let gpu = Device::open("auto")?;
    println!("{} and the CPU reference", gpu.describe());
    let (found, expected) = (softmax(&gpu)?, softmax(&Device::Reference)?);
    // Elementwise, and as a whole by relative L2.
    match compare(&found, &expected, Tolerance::l2(1e-5)) {
        Ok(difference) => println!("they agree: {difference:?}"),
        Err(why) => println!("they differ: {why}"),
    }
    Ok(())
}

/// The softmax of 300 rows of 77 numbers.
pub fn softmax(device: &Device) -> Result<HostTensor> {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorDesc::f32([300, 77]));
    let y = graph.softmax("softmax", x)?;
    graph.output("y", y);

    let no_weights = HashMap::new();
    let mut session = device.load(graph, &no_weights, &LoadOptions::default())?;
    session.write("x", &HostTensor::from_fn([300, 77], |i| ((i * 7919) % 1009) as f32 / 100.0))?;
    session.run()?;
    session.read("y")
}
