//! Parity cases: instances of an operation with generated inputs, used by tests, `verify` and `bench` alike.

use crate::parallel::*;

use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::{Op, concat::Concat};
use crate::reference::{self, stored};
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
    /// Of growing magnitude and random sign, so that the largest is the last.
    Rising,
}

impl Fill {
    /// A tensor of `shape`; different seeds give unrelated values.
    pub fn tensor(self, shape: &[usize], seed: u64) -> HostTensor {
        let uniform = |index: usize, lane: u64| {
            let bits = splitmix64(splitmix64(seed) ^ (2 * index as u64 + lane));
            ((bits >> 40) as f64 + 0.5) / (1u64 << 24) as f64
        };
        let value = |i| match self {
            Fill::Normal => ((-2.0 * uniform(i, 0).ln()).sqrt() * (std::f64::consts::TAU * uniform(i, 1)).cos()) as f32,
            Fill::Uniform(low, high) => low + (high - low) * uniform(i, 0) as f32,
            Fill::Index(bound) => (uniform(i, 0) * f64::from(bound)).floor() as f32,
            Fill::Rising => (i + 1) as f32 * if uniform(i, 0) < 0.5 { -1.0 / 1024.0 } else { 1.0 / 1024.0 },
        };
        let elements = shape.iter().product::<usize>();
        HostTensor { shape: shape.to_vec(), data: (0..elements).into_par_iter().map(value).collect() }
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
    /// How its values are made.
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

/// What a case is for, by the size of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// Odd, asymmetric, one more or less than a tile: every path of a kernel, in milliseconds.
    Small,
    /// What the headers of kernels promise: the longest sums, more workgroups than one dimension of a dispatch holds.
    Large,
    /// Shapes of real models (Stable Diffusion 1.5, XL, their autoencoder), for timing.
    Perf,
}

/// Some of a result's `elements`: the first and last ones, and those that a hash picks; `None` if they are so few that
/// all can be compared.
pub(crate) fn sample(elements: usize) -> Option<Vec<usize>> {
    if elements <= SAMPLE {
        return None;
    }
    let hashed = (0..SAMPLE as u64).map(|i| (splitmix64(i) % elements as u64) as usize);
    Some((0..64).chain(hashed).chain(elements - 64..elements).collect())
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
    /// The size class of its tensors.
    pub size: Size,
    /// If its first input is the concatenation of two tensors along the channels, how many the first of them has.
    pub joined: Option<usize>,
}

/// How many elements of a large result are compared, where the operation can compute single ones.
const SAMPLE: usize = 4096;

impl Case {
    /// A case with the usual bound of 1e-5.
    pub fn new(label: &'static str, op: impl Into<Op>, inputs: Vec<Option<CaseInput>>) -> Self {
        Self { label, op: op.into(), inputs, tolerance: 1e-5, size: Size::Small, joined: None }
    }

    /// The same case with another bound; say why where it is used.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// The same case, as one of [`Size::Large`].
    pub fn large(mut self) -> Self {
        self.size = Size::Large;
        self
    }

    /// The same case, as one of [`Size::Perf`].
    pub fn perf(mut self) -> Self {
        self.size = Size::Perf;
        self
    }

    /// The same case, its first input two tensors to be joined, the first of them with `channels` channels.
    pub fn joined(mut self, channels: usize) -> Self {
        self.joined = Some(channels);
        self
    }

    /// Which of the result's `elements` are compared with the reference; `None`: all.
    pub(crate) fn sample(&self, elements: usize) -> Option<Vec<usize>> {
        if self.size == Size::Small { None } else { sample(elements) }
    }

    /// A graph of this one operation, with the operation's names for its inputs and `y` for its output, and values for
    /// the inputs (already rounded where they are stored as f16). A first input that is joined is two inputs,
    /// `first` and `second`.
    ///
    /// # Errors
    /// If the case's shapes do not fit the operation, which the tests exclude.
    pub fn graph(&self, dtype: DType) -> Result<(Graph, Vec<(&'static str, HostTensor)>)> {
        let graph = self.structure(dtype)?;
        let mut values = self.values(&graph);
        if let Some(parts) = self.parts(&values) {
            values.splice(..1, parts);
        }
        Ok((graph, values))
    }

    /// The graph alone.
    ///
    /// # Errors
    /// As [`Case::graph`].
    pub fn structure(&self, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let mut ids: Vec<Option<ValueId>> = Vec::new();
        for (input, name) in self.inputs.iter().zip(self.op.input_names()) {
            let Some(input) = input else {
                ids.push(None);
                continue;
            };
            let dtype = if input.always_f32 { input.desc.dtype } else { dtype };
            let desc = TensorDesc { shape: input.desc.shape.clone(), dtype };
            ids.push(Some(match self.joined.filter(|_| ids.is_empty()) {
                None => graph.input(*name, desc),
                Some(channels) => {
                    let all = desc.channels();
                    let mut part = |name: &str, channels| {
                        let mut desc = desc.clone();
                        *desc.shape.last_mut().expect("what is joined has channels") = channels;
                        graph.input(name, desc)
                    };
                    let [first, second] = [part("first", channels), part("second", all - channels)];
                    let axis = desc.shape.len() - 1;
                    graph.push(*name, Concat { axis }, &[Some(first), Some(second)])?
                }
            }));
        }
        let y = graph.push(self.label, self.op.clone(), &ids)?;
        graph.output("y", y);
        Ok(graph)
    }

    /// The two tensors of a first input that is joined.
    pub(crate) fn parts(&self, values: &[(&'static str, HostTensor)]) -> Option<[(&'static str, HostTensor); 2]> {
        let (channels, x) = (self.joined?, &values[0].1);
        let all = *x.shape.last().expect("what is joined has channels");
        Some([
            ("first", reference::slice_columns(x, 0, channels)),
            ("second", reference::slice_columns(x, channels, all - channels)),
        ])
    }

    /// Values for the operation's inputs in `graph`, which [`Case::structure`] made: names and tensors, by position.
    pub(crate) fn values(&self, graph: &Graph) -> Vec<(&'static str, HostTensor)> {
        let mut values = Vec::new();
        for (position, (input, name)) in self.inputs.iter().zip(self.op.input_names()).enumerate() {
            let Some(input) = input else { continue };
            let of = if position == 0 && self.joined.is_some() { "first" } else { *name };
            let id = graph.find_input(of).expect("the graph is this case's");
            let tensor = input.fill.tensor(&input.desc.shape, position as u64 + 1);
            values.push((*name, stored(tensor, graph.desc(id).dtype)));
        }
        values
    }
}
