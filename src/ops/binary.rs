//! Sums, products and quotients of two tensors.

use super::{
    Backward, Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Operation, Variant, expect_float, in_fours,
    no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// Which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryKind {
    /// `a + b`
    Add,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
}

/// `y = a + b`, `y = a · b` or `y = a / b`, elementwise. Shapes broadcast by numpy's rules: they are aligned at their
/// last dimension, and an operand is repeated along dimensions where it has size 1 or none. The result has the element
/// type of `a`.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// Which operation.
    pub kind: BinaryKind,
}

/// The most dimensions that `wgsl/include/broadcast.wgsl` handles.
const MAX_RANK: usize = 6;

/// A dimension of the result, or several neighbours that broadcast alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dim {
    size: usize,
    /// Whether `a` and `b` have it; an operand without it is repeated along it.
    of: [bool; 2],
}

/// The shape that both broadcast to, if they do.
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], d: usize| (d + shape.len()).checked_sub(rank).map_or(1, |d| shape[d]);
    (0..rank)
        .map(|d| match (size(a, d), size(b, d)) {
            (a, b) if a == b => Some(a),
            (1, other) | (other, 1) => Some(other),
            _ => None,
        })
        .collect()
}

/// The dimensions of the result, outermost first, with neighbours that broadcast alike merged; at least one.
fn dims(a: &[usize], b: &[usize], y: &[usize]) -> Vec<Dim> {
    let has = |shape: &[usize], d: usize| (d + shape.len()).checked_sub(y.len()).is_some_and(|d| shape[d] != 1);
    let mut dims: Vec<Dim> = Vec::new();
    for (d, size) in y.iter().enumerate().filter(|(_, size)| **size != 1) {
        let of = [has(a, d), has(b, d)];
        match dims.last_mut() {
            Some(last) if last.of == of => last.size *= size,
            _ => dims.push(Dim { size: *size, of }),
        }
    }
    if dims.is_empty() { vec![Dim { size: 1, of: [true, true] }] } else { dims }
}

fn dims_of(context: &LowerContext<'_>) -> Vec<Dim> {
    dims(&context.input(0).shape, &context.input(1).shape, &context.output.shape)
}

/// Whether neither operand is repeated.
fn elementwise(dims: &[Dim]) -> bool {
    matches!(dims, [Dim { of: [true, true], .. }])
}

/// Sets `RANK`, the sizes and the strides, innermost first, as `wgsl/include/broadcast.wgsl` takes them. An operand
/// that has the innermost dimension is counted in vectors of `per` elements.
fn with_dims(mut launch: Launch, dims: &[Dim], per: usize) -> Launch {
    const NAMES: [[&str; 3]; MAX_RANK] = [
        ["size_0", "a_0", "b_0"],
        ["size_1", "a_1", "b_1"],
        ["size_2", "a_2", "b_2"],
        ["size_3", "a_3", "b_3"],
        ["size_4", "a_4", "b_4"],
        ["size_5", "a_5", "b_5"],
    ];
    let innermost = dims.last().expect("there is at least one").of;
    let mut strides = [1, 1];
    for (i, [size, a, b]) in NAMES.into_iter().enumerate() {
        let dim = dims.len().checked_sub(i + 1).map_or(Dim { size: 1, of: [false, false] }, |d| dims[d]);
        launch = launch.param(size, if i == 0 { dim.size / per } else { dim.size });
        for (operand, name) in [a, b].into_iter().enumerate() {
            let per = if innermost[operand] && i > 0 { per } else { 1 };
            launch = launch.param(name, if dim.of[operand] { strides[operand] / per } else { 0 });
            if dim.of[operand] {
                strides[operand] *= dim.size;
            }
        }
    }
    launch.constant("RANK", dims.len())
}

impl Operation for Binary {
    const NAME: &'static str = "binary";
    const INPUTS: &'static [&'static str] = &["a", "b"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("a", a.dtype)?;
        expect_float("b", b.dtype)?;
        let shape = broadcast_shape(&a.shape, &b.shape).ok_or_else(|| {
            Error::Shape(format!(
                "a {:?} and b {:?} do not broadcast: aligned at the last dimension, sizes must be equal or 1",
                a.shape, b.shape
            ))
        })?;
        if dims(&a.shape, &b.shape, &shape).len() > MAX_RANK {
            return Err(Error::Unsupported(format!(
                "a {:?} and b {:?} alternate in more than {MAX_RANK} dimensions: broadcast in two steps",
                a.shape, b.shape
            )));
        }
        Ok(a.with_shape(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (a, b) = (inputs.get(0), inputs.get(1));
        match self.kind {
            BinaryKind::Add => reference::binary(a, b, |a, b| a + b),
            BinaryKind::Mul => reference::binary(a, b, |a, b| a * b),
            BinaryKind::Div => reference::binary(a, b, |a, b| a / b),
        }
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let mut gradients = vec![None; 2];
        for (position, what) in ["a", "b"].into_iter().enumerate() {
            if !back.wants(position) {
                continue;
            }
            let (shape, mut gradient, name) = (back.shape(position), back.dy, back.name(what));
            match (self.kind, position) {
                (BinaryKind::Add, _) => {}
                (BinaryKind::Mul, _) => {
                    let other = back.input(1 - position)?;
                    gradient = back.graph.mul(format!("{name}.product"), gradient, other)?;
                }
                (BinaryKind::Div, 0) => {
                    let b = back.input(1)?;
                    gradient = back.graph.div(format!("{name}.quotient"), gradient, b)?;
                }
                // d(a / b) / db = -(a / b) / b
                (BinaryKind::Div, _) => {
                    let (y, b) = (back.output()?, back.input(1)?);
                    let product = back.graph.mul(format!("{name}.product"), gradient, y)?;
                    let quotient = back.graph.div(format!("{name}.quotient"), product, b)?;
                    gradient = back.graph.scale(format!("{name}.negative"), quotient, -1.0, 0.0)?;
                }
            }
            gradients[position] = Some(back.sum_to(what, gradient, &shape)?);
        }
        Ok(gradients)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |_, context| {
                    let dims = dims_of(context);
                    if elementwise(&dims) {
                        return Err("b has the shape of a, so naive reads whole vectors too".into());
                    }
                    in_fours("innermost dimension", dims.last().expect("there is at least one").size)
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let (dims, vectors) = (dims_of(context), context.output.elements() / 4);
                    let [a, b] = dims.last().expect("there is at least one").of;
                    let launch = Launch::new("binary/vec4")
                        .constant("KIND", op.kind as usize)
                        .flag("A_REPEATS", !a)
                        .flag("B_REPEATS", !b)
                        .param("vectors", vectors)
                        .cover(vectors, 64);
                    with_dims(launch, &dims, 4).into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let (dims, elements) = (dims_of(context), context.output.elements());
                    let launch = Launch::new("binary/naive")
                        .constant("KIND", op.kind as usize)
                        .flag("BROADCAST", !elementwise(&dims))
                        .param("elements", elements)
                        .cover(elements.div_ceil(4), 64);
                    with_dims(launch, &dims, 1).into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        match self.kind {
            BinaryKind::Add => "add".into(),
            BinaryKind::Mul => "mul".into(),
            BinaryKind::Div => "div".into(),
        }
    }

    fn cases() -> Vec<Case> {
        let case = |label, kind, a: &[usize], b: &[usize]| {
            Case::new(label, Binary { kind }, vec![CaseInput::normal(a), CaseInput::normal(b)])
        };
        // Divisors near zero would say more of them than of the kernel.
        let divided = |label, a: &[usize], b: &[usize]| {
            let divisor = CaseInput::normal(b).map(|b| CaseInput { fill: Fill::Uniform(0.5, 3.0), ..b });
            Case::new(label, Binary { kind: BinaryKind::Div }, vec![CaseInput::normal(a), divisor])
        };
        vec![
            case("add, 210 elements", BinaryKind::Add, &[2, 3, 5, 7], &[2, 3, 5, 7]),
            case("add, two whole workgroups", BinaryKind::Add, &[2, 4, 8, 8], &[2, 4, 8, 8]),
            case("mul by a vector per image, two whole workgroups", BinaryKind::Mul, &[2, 32, 8], &[2, 1, 8]),
            case("mul, 105 elements", BinaryKind::Mul, &[3, 5, 7], &[3, 5, 7]),
            case("add a vector per image, 7 channels", BinaryKind::Add, &[3, 3, 5, 7], &[3, 1, 1, 7]),
            case("mul by a vector per image, 6 channels", BinaryKind::Mul, &[2, 5, 6], &[2, 1, 6]),
            case("add a vector per image, 20 channels", BinaryKind::Add, &[3, 5, 3, 20], &[3, 1, 1, 20]),
            case("mul by a vector per image, 68 channels", BinaryKind::Mul, &[2, 33, 68], &[2, 1, 68]),
            case("add one vector", BinaryKind::Add, &[2, 9, 12], &[12]),
            case("mul by a number per token, whole vectors", BinaryKind::Mul, &[2, 9, 12], &[2, 9, 1]),
            case("mul by one number", BinaryKind::Mul, &[2, 9, 7], &[1]),
            case("a column and a row, whole vectors", BinaryKind::Mul, &[5, 1], &[8]),
            case("a is the smaller, 7 channels", BinaryKind::Add, &[7], &[3, 2, 7]),
            case("alternating in three dimensions", BinaryKind::Add, &[3, 1, 7], &[1, 5, 1]),
            case("alternating in four dimensions", BinaryKind::Mul, &[3, 1, 2, 1], &[1, 5, 1, 7]),
            case("alternating in six dimensions", BinaryKind::Add, &[2, 1, 3, 1, 2, 1], &[1, 3, 1, 2, 1, 5]),
            case("alternating in five dimensions, whole vectors", BinaryKind::Mul, &[3, 1, 2, 1, 8], &[1, 2, 1, 3, 8]),
            divided("div, 105 elements", &[3, 5, 7], &[3, 5, 7]),
            divided("div by a number per image, 3 channels", &[3, 5, 3], &[3, 1, 1]),
            divided("div by a number per image, whole vectors", &[2, 4, 8], &[2, 1, 1]),
        ]
    }
}

impl Graph {
    /// `a + b`; shapes broadcast by numpy's rules.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not broadcast.
    pub fn add(&mut self, name: impl Into<String>, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push(name, Binary { kind: BinaryKind::Add }, &[Some(a), Some(b)])
    }

    /// `a · b`, elementwise; shapes broadcast by numpy's rules.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn mul(&mut self, name: impl Into<String>, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push(name, Binary { kind: BinaryKind::Mul }, &[Some(a), Some(b)])
    }

    /// `a / b`, elementwise; shapes broadcast by numpy's rules.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn div(&mut self, name: impl Into<String>, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push(name, Binary { kind: BinaryKind::Div }, &[Some(a), Some(b)])
    }
}
