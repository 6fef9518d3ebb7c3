//! A range of entries along one dimension.

use super::{
    Backward, Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, axis_of, expect_float,
    in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// The entries `start .. start + length` of `x` along `axis`.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The dimension that is sliced.
    pub axis: usize,
    /// First entry.
    pub start: usize,
    /// Number of entries.
    pub length: usize,
}

/// Numbers of consecutive elements: in a row of `x` (all dimensions from the axis on), skipped at its start, and taken.
fn runs(op: &Slice, context: &LowerContext<'_>) -> (usize, usize, usize) {
    let x = context.input(0);
    let entry: usize = x.shape[op.axis + 1..].iter().product();
    (x.shape[op.axis] * entry, op.start * entry, op.length * entry)
}

impl Operation for Slice {
    const NAME: &'static str = "slice";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let mut shape = x.shape.clone();
        let size = shape.get(self.axis).copied().unwrap_or(0);
        if self.length == 0 || self.start.checked_add(self.length).is_none_or(|end| end > size) {
            return Err(Error::Shape(format!(
                "cannot take {} entries from entry {} on along dimension {} of x {:?}",
                self.length, self.start, self.axis, x.shape
            )));
        }
        shape[self.axis] = self.length;
        Ok(x.with_shape(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::slice(inputs.get(0), self.axis, self.start, self.length)
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (shape, name) = (back.shape(0), back.name("x"));
        let zeros = |back: &mut Backward<'_>, what: &str, length: usize| {
            let mut shape = shape.clone();
            shape[self.axis] = length;
            back.graph.constant(format!("{name}.{what}"), HostTensor::zeros(shape))
        };
        let mut gradient = back.dy;
        if self.start > 0 {
            let before = zeros(back, "before", self.start);
            gradient = back.graph.concat(format!("{name}.from_start"), before, gradient, self.axis as isize)?;
        }
        let behind = shape[self.axis] - self.start - self.length;
        if behind > 0 {
            let after = zeros(back, "after", behind);
            gradient = back.graph.concat(format!("{name}.to_end"), gradient, after, self.axis as isize)?;
        }
        Ok(vec![Some(gradient)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |op, context| {
                    let (row, start, length) = runs(op, context);
                    in_fours("x", row).and(in_fours("start", start)).and(in_fours("length", length))
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let (row, start, length) = runs(op, context);
                    let vectors = context.output.elements() / 4;
                    Launch::new("slice/vec4")
                        .param("vectors", vectors)
                        .param("row_vectors", row / 4)
                        .param("start_vectors", start / 4)
                        .param("length_vectors", length / 4)
                        .cover(vectors, 64)
                        .into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let (row, start, length) = runs(op, context);
                    let elements = context.output.elements();
                    Launch::new("slice/naive")
                        .param("elements", elements)
                        .param("C", row)
                        .param("start", start)
                        .param("length", length)
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        format!("axis={} {}..{}", self.axis, self.start, self.start + self.length)
    }

    fn cases() -> Vec<Case> {
        let case = |label, axis, start, length, x: &[usize]| {
            Case::new(label, Slice { axis, start, length }, vec![CaseInput::normal(x)])
        };
        vec![
            case("3 of 7 channels from the second on", 3, 1, 3, &[2, 3, 5, 7]),
            case("last 4 of 6 channels", 3, 2, 4, &[2, 5, 3, 6]),
            case("first 5 of 12 channels", 2, 0, 5, &[3, 7, 12]),
            case("8 of 20 channels", 3, 4, 8, &[2, 5, 7, 20]),
            case("last 64 of 128 channels", 3, 64, 64, &[2, 9, 7, 128]),
            case("second of 3 images, 15 elements each", 0, 1, 1, &[3, 5, 3]),
            case("last 2 of 3 images, whole vectors", 0, 1, 2, &[3, 5, 12]),
            case("4 of 9 tokens", 1, 3, 4, &[3, 9, 5]),
            case("2 of 5 rows of a film, whole vectors", 2, 2, 2, &[2, 3, 5, 2, 4]),
            case("one dimension", 0, 2, 3, &[7]),
            case("two whole workgroups of vectors", 3, 4, 8, &[2, 4, 8, 16]),
            case("two whole workgroups, odd start", 3, 3, 8, &[2, 4, 8, 13]),
        ]
    }
}

impl Graph {
    /// The entries `start .. start + length` of `x` along `axis`, which counts from the last dimension if it is
    /// negative.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has no such entries.
    pub fn slice(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        axis: isize,
        start: usize,
        length: usize,
    ) -> Result<ValueId> {
        let axis = axis_of(self.shape(x), axis)?;
        self.push(name, Slice { axis, start, length }, &[Some(x)])
    }
}
