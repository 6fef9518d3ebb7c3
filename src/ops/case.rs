//! Parity cases: instances of an operation with generated inputs, used by tests, `verify` and `bench` alike.

use crate::error::Result;
use crate::graph::{Graph, NodeKind, TensorDesc, ValueId};
use crate::ops::Op;
use crate::tensor::{DType, HostTensor};

/// How the values of a case's input are made. All are reproducible: a hash of the seed and the flat index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Standard normal values.
    Normal,
    /// Uniform in `[low, high)`.
    Uniform(f32, f32),
    /// Whole numbers in `0..bound`.
    Index(u32),
}

impl Fill {
    /// A tensor of `shape`; different seeds give unrelated values.
    pub fn tensor(self, shape: &[usize], seed: u64) -> HostTensor {
        let uniform = |index: usize, lane: u64| {
            let bits = splitmix64(splitmix64(seed) ^ (2 * index as u64 + lane));
            ((bits >> 40) as f64 + 0.5) / (1u64 << 24) as f64
        };
        HostTensor::from_fn(shape, |i| match self {
            Fill::Normal => ((-2.0 * uniform(i, 0).ln()).sqrt() * (std::f64::consts::TAU * uniform(i, 1)).cos()) as f32,
            Fill::Uniform(low, high) => low + (high - low) * uniform(i, 0) as f32,
            Fill::Index(bound) => (uniform(i, 0) * f64::from(bound)).floor() as f32,
        })
    }
}

/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": the output function.
fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One generated input.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseInput {
    /// Shape and element type.
    pub desc: TensorDesc,
    /// Values.
    pub fill: Fill,
    /// Whether it stays f32 when the case is run in f16 (one-dimensional parameters, tables, sampler state).
    pub always_f32: bool,
}

impl CaseInput {
    /// An activation or weight matrix of normal values, f16 when the case runs in f16.
    pub fn normal(shape: impl Into<Vec<usize>>) -> Option<Self> {
        Some(Self { desc: TensorDesc::f32(shape), fill: Fill::Normal, always_f32: false })
    }

    /// An input with chosen values that stays f32.
    pub fn f32(shape: impl Into<Vec<usize>>, fill: Fill) -> Option<Self> {
        Some(Self { desc: TensorDesc::f32(shape), fill, always_f32: true })
    }

    /// Indices below `bound`.
    pub fn index(shape: impl Into<Vec<usize>>, bound: u32) -> Option<Self> {
        Some(Self { desc: TensorDesc::u32(shape), fill: Fill::Index(bound), always_f32: true })
    }
}

/// An operation with generated inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What the case is for, unique within the operation.
    pub label: &'static str,
    /// The operation.
    pub op: Op,
    /// Its inputs by position.
    pub inputs: Vec<Option<CaseInput>>,
    /// Bound on the relative L2 error against the reference in f32.
    pub tolerance: f64,
}

impl Case {
    /// A case with the usual bound of 1e-5.
    pub fn new(label: &'static str, op: impl Into<Op>, inputs: Vec<Option<CaseInput>>) -> Self {
        Self { label, op: op.into(), inputs, tolerance: 1e-5 }
    }

    /// The same case with another bound; say why where it is used.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// A graph of this one operation, its inputs named as the operation names them and its output `y`, and values for
    /// the inputs (already rounded to f16 where they are stored so).
    ///
    /// # Errors
    /// If the case's shapes do not fit the operation, which the tests exclude.
    pub fn graph(&self, dtype: DType) -> Result<(Graph, Vec<(&'static str, HostTensor)>)> {
        let mut graph = Graph::new();
        let mut values = Vec::new();
        let mut ids: Vec<Option<ValueId>> = Vec::new();
        for (position, (input, name)) in self.inputs.iter().zip(self.op.input_names()).enumerate() {
            let Some(input) = input else {
                ids.push(None);
                continue;
            };
            let stored = if input.always_f32 { input.desc.dtype } else { dtype };
            let mut tensor = input.fill.tensor(&input.desc.shape, position as u64 + 1);
            if stored == DType::F16 {
                tensor.data.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
            }
            ids.push(Some(graph.input(*name, TensorDesc { shape: input.desc.shape.clone(), dtype: stored })));
            values.push((*name, tensor));
        }
        let y = graph.push(self.label, self.op.clone(), &ids)?;
        graph.output("y", y);
        debug_assert!(matches!(graph.node(y).kind, NodeKind::Op(..)));
        Ok((graph, values))
    }
}
