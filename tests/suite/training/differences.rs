//! The gradient of every operation against central differences of its reference, on the cases of the kernels' own
//! tests.

use std::collections::BTreeMap;

use unmist::backend::{Device, LoadOptions};
use unmist::graph::{Kept, TensorDesc};
use unmist::ops::{Case, Fill, Size, registry};
use unmist::{DType, Error, HostTensor};

/// Operations that have a gradient.
const WITH_GRADIENT: [&str; 19] = [
    "activation",
    "attention",
    "avg_pool",
    "binary",
    "cast",
    "concat",
    "contraction",
    "embedding",
    "fir_resample",
    "gated",
    "norm",
    "reshape",
    "scale",
    "slice",
    "softmax",
    "sum",
    "transpose",
    "upsample_nearest",
    "variance_bound",
];

/// How far inputs are moved, those below 1 by this part of their size. Errors of the difference are its square times
/// the third derivative, about 1e-5, and the rounding of results to f32 divided by it, about 1e-5 too.
const STEP: f32 = 1e-2;

/// The gradients of a case's inputs by the graph, and their values; `None` if the operation has none for such an
/// instance.
fn gradients(case: &Case, cotangent: &HostTensor) -> Option<Vec<(usize, HostTensor)>> {
    let (mut graph, values) = case.graph(DType::F32).expect("the cases fit");
    let y = graph.find_output("y").expect("a case has one");
    let dy = graph.input("dy", TensorDesc::f32(graph.shape(y).to_vec()));
    let wanted: Vec<(usize, _)> = case
        .inputs
        .iter()
        .zip(case.op.input_names())
        .enumerate()
        .filter(|(_, (input, _))| input.as_ref().is_some_and(|input| input.desc.dtype != DType::U32))
        .map(|(position, (_, name))| (position, graph.find_input(name).expect("a case's inputs have their names")))
        .collect();
    if wanted.is_empty() {
        return None;
    }
    let ids: Vec<_> = wanted.iter().map(|(_, id)| *id).collect();
    let found = match graph.differentiate(y, dy, &ids, &Kept::All) {
        Err(Error::Unsupported(_)) => return None,
        other => other.expect("the shapes fit"),
    };
    let mut outputs = Vec::new();
    for ((position, _), gradient) in wanted.iter().zip(found) {
        if let Some(gradient) = gradient {
            graph.output(format!("d{position}"), gradient);
            outputs.push(*position);
        }
    }
    let none: std::collections::HashMap<String, HostTensor> = std::collections::HashMap::new();
    let mut session = Device::Reference.load(graph, &none, &LoadOptions::default()).expect("loads");
    values.iter().for_each(|(name, tensor)| session.write(name, tensor).expect("fits"));
    session.write("dy", cotangent).expect("fits");
    session.run().expect("runs");
    Some(outputs.into_iter().map(|at| (at, session.read(&format!("d{at}")).expect("is read"))).collect())
}

/// Σ cotangent · y.
fn value(case: &Case, inputs: &[Option<HostTensor>], cotangent: &HostTensor) -> f64 {
    let y = case.op.reference(&inputs.iter().map(Option::as_ref).collect::<Vec<_>>());
    y.data.iter().zip(&cotangent.data).map(|(y, c)| f64::from(*y) * f64::from(*c)).sum()
}

#[test]
fn gradients_are_the_limits_of_differences() {
    let (mut checked, mut refused): (BTreeMap<&str, usize>, BTreeMap<&str, usize>) = Default::default();
    for info in registry() {
        for case in info.cases_of(Size::Small).filter(|case| case.joined.is_none()) {
            let (graph, values) = case.graph(DType::F32).expect("the cases fit");
            let shape = graph.shape(graph.find_output("y").expect("a case has one")).to_vec();
            if shape.iter().product::<usize>() > 20_000 || values.iter().any(|(_, v)| v.len() > 20_000) {
                continue; // as small ones, but slow
            }
            // What jumps has no difference; what bends as sharply as a softmax of scores around 40 needs a smaller step
            // than f32 can take.
            if ["far from zero", "relu", "ReGLU", "one-hot", "large negative scores", "so far apart"]
                .iter()
                .any(|part| case.label.contains(part))
            {
                continue;
            }
            let cotangent = Fill::Normal.tensor(&shape, 99);
            let Some(found) = gradients(case, &cotangent) else {
                if WITH_GRADIENT.contains(&info.name) {
                    *refused.entry(info.name).or_default() += 1;
                }
                continue;
            };
            let inputs: Vec<Option<HostTensor>> = case
                .op
                .input_names()
                .iter()
                .map(|name| values.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor.clone()))
                .collect();
            for (position, gradient) in found {
                let direction = Fill::Normal.tensor(&gradient.shape, 7 + position as u64);
                let moved = |by: f32| {
                    let mut inputs = inputs.clone();
                    let input = inputs[position].as_mut().expect("it has a gradient");
                    input.data.iter_mut().zip(&direction.data).for_each(|(v, d)| *v += by * d);
                    value(case, &inputs, &cotangent)
                };
                let values = &inputs[position].as_ref().expect("it has a gradient").data;
                let size = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
                let step = STEP * size.min(1.0);
                let difference = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                let products = gradient.data.iter().zip(&direction.data);
                let along: f64 = products.map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
                let length = gradient.data.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                let error = (difference - along).abs();
                let name = case.op.input_names()[position];
                assert!(
                    error <= 2e-3 * length.max(0.1),
                    "{}, {}: d{name} along a direction is {along}, by differences {difference}; its length is {length}",
                    info.name,
                    case.label
                );
            }
            *checked.entry(info.name).or_default() += 1;
        }
    }
    assert_eq!(checked.keys().copied().collect::<Vec<_>>(), WITH_GRADIENT, "operations with a gradient");
    assert!(checked.values().sum::<usize>() > 100, "{checked:?}");
    // What passes make of several operations, after a graph is differentiated; attention with a bias, a mask or shared
    // heads; odd sides where models have even ones.
    let expected = [
        ("attention", 13),
        ("avg_pool", 3),
        ("contraction", 27),
        ("fir_resample", 2),
        ("norm", 14),
        ("upsample_nearest", 4),
    ];
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), expected, "cases without a gradient");
}
