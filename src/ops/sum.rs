//! Sums along dimensions.

use super::{Case, CaseInput, Family, Inputs, Launch, LowerContext, Lowered, Operand, Operation, Variant};
use super::{expect_float, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Backward, Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = Σ f(x)` over the neighbouring dimensions `start .. end`, which become 1; f is the identity or the square.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    /// First dimension of the sum.
    pub start: usize,
    /// The dimension behind its last.
    pub end: usize,
    /// Whether the squares are summed.
    pub squared: bool,
}

/// A sum over more rows than this is taken in parts.
const LONG: usize = 32;

impl Sum {
    /// Elements before, along and behind the sum.
    fn dims(&self, context: &LowerContext<'_>) -> [usize; 3] {
        let shape = &context.input(0).shape;
        [0..self.start, self.start..self.end, self.end..shape.len()].map(|dims| shape[dims].iter().product())
    }
}

/// Sums of `length` rows each, `[outer, rows, inner]` → `[outer, parts, inner]`.
pub(super) fn launch([outer, rows, inner]: [usize; 3], length: usize, squared: bool) -> Launch {
    let parts = rows.div_ceil(length).max(1);
    let elements = outer * parts * inner;
    Launch::new("sum/naive")
        .flag("SQUARED", squared)
        .flag("VECTORS", inner.is_multiple_of(4))
        .param("elements", elements)
        .param("rows", rows)
        .param("inner", inner)
        .param("parts", parts)
        .param("length", length)
        .cover(elements.div_ceil(4), 64)
}

/// `launch`, which computes `parts` results of `elements` each, and behind it the sum of these where there are several.
pub(super) fn in_parts(launch: Launch, parts: usize, elements: usize) -> Lowered {
    if parts == 1 {
        return launch.into();
    }
    let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
    let between = lowered.add_scratch([parts, elements]);
    let sum = self::launch([1, parts, elements], parts, false).bind("x", between).bind("y", Operand::Output);
    lowered.launches.extend([launch.bind("y", between), sum]);
    lowered
}

impl Operation for Sum {
    const NAME: &'static str = "sum";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let Self { start, end, .. } = *self;
        if start > end || end > x.shape.len() || x.elements() == 0 {
            return Err(Error::Shape(format!("x {:?} has no dimensions {start} to {end} to sum over", x.shape)));
        }
        let mut shape = x.shape.clone();
        shape[start..end].fill(1);
        Ok(x.with_shape(shape))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        (1 + u64::from(self.squared)) * inputs.get(0).elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let f: fn(f64) -> f64 = if self.squared { |v| v * v } else { |v| v };
        reference::sum(inputs.get(0), self.start, self.end, f)
    }

    /// dx = dy, or 2 x dy of squares, repeated along what was summed.
    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let name = back.name("x");
        if self.squared {
            let (x, twice) = (back.input(0)?, back.graph.scale(format!("{name}.twice"), back.dy, 2.0, 0.0)?);
            return Ok(vec![Some(back.graph.mul(name, x, twice)?)]);
        }
        let (mut shape, dtype) = (back.shape(0), back.dtype(0));
        shape[..self.start].fill(1);
        shape[self.end..].fill(1);
        let elements = shape.iter().product();
        let ones = HostTensor { shape, data: vec![1.0; elements] };
        let ones = back.graph.constant(format!("{name}.ones"), ones);
        let ones = back.graph.cast(format!("{name}.ones.cast"), ones, dtype)?;
        Ok(vec![Some(back.graph.mul(name, back.dy, ones)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "parts",
                family: Family::Any,
                legal: |op, context| {
                    let [_, rows, _] = op.dims(context);
                    if rows > LONG { Ok(()) } else { Err(format!("{rows} rows are too few to sum them in parts")) }
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let [outer, mut rows, inner] = op.dims(context);
                    let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
                    let (mut from, mut squared) = (Operand::Input(0), op.squared);
                    while rows > 1 {
                        let length = if rows > LONG * LONG { 2 * LONG } else { rows.isqrt().max(LONG).min(rows) };
                        let parts = rows.div_ceil(length);
                        let last = parts == 1;
                        let to = if last { Operand::Output } else { lowered.add_scratch([outer, parts, inner]) };
                        let sums = launch([outer, rows, inner], length, squared);
                        lowered.launches.push(sums.bind("x", from).bind("y", to));
                        (from, squared, rows) = (to, false, parts);
                    }
                    lowered
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |op, context| context.can_loop(4 * op.dims(context)[1]),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let dims = op.dims(context);
                    launch(dims, dims[1], op.squared).into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        format!("dims={}..{}{}", self.start, self.end, if self.squared { " squared" } else { "" })
    }

    fn cases() -> Vec<Case> {
        // Sums of values around 0 cancel; what is summed here is not centred, so that a wrong part shows as an error.
        let case = |label, [start, end]: [usize; 2], squared, x: &[usize]| {
            let x = CaseInput { fill: super::Fill::Uniform(-0.5, 1.5), ..CaseInput::normal(x).expect("it is some") };
            Case::new(label, Sum { start, end, squared }, vec![Some(x)])
        };
        vec![
            case("rows, 7 columns", [0, 1], false, &[5, 7]),
            case("rows, 8 columns", [0, 1], false, &[9, 8]),
            case("rows and images, 12 columns", [0, 3], false, &[2, 5, 7, 12]),
            case("positions of each image, 6 channels", [1, 3], false, &[3, 5, 7, 6]),
            case("positions of each image, 20 channels", [1, 3], false, &[3, 9, 11, 20]),
            case("columns", [1, 2], false, &[7, 37]),
            case("everything", [0, 3], false, &[3, 5, 41]),
            case("nothing to sum", [1, 1], false, &[3, 5]),
            case("squares of everything", [0, 2], true, &[13, 29]),
            case("squares of columns, whole vectors behind", [1, 2], true, &[3, 35, 8]),
            case("two whole workgroups", [0, 1], false, &[3, 512]),
            case("a long sum, 3 columns", [0, 1], false, &[70_001, 3]).large(),
            case("a bias of 64 channels", [0, 3], false, &[16, 64, 64, 64]).perf(),
        ]
    }
}

impl Graph {
    /// Sums over the dimensions `start .. end`, which become 1.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are none such.
    pub fn sum(&mut self, name: impl Into<String>, x: ValueId, start: usize, end: usize) -> Result<ValueId> {
        self.push(name, Sum { start, end, squared: false }, &[Some(x)])
    }

    /// The sum of all squares, `[1]`.
    ///
    /// # Errors
    /// None for a valid `x`; the signature is that of all operations.
    pub fn sum_of_squares(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let rank = self.shape(x).len();
        let sum = self.push(name, Sum { start: 0, end: rank, squared: true }, &[Some(x)])?;
        self.reshape(format!("{name}.number"), sum, [1])
    }
}
