//! Concatenation of two tensors, as in `torch.cat`.

use super::{
    Backward, Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, axis_of, expect_float,
    expect_shape, in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `a` followed by `b` along `axis`; all other dimensions are equal. The result has the element type of `a`.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// The dimension along which they are joined.
    pub axis: usize,
}

/// Lengths of the runs of `a` and of `b` that alternate in the output: all dimensions from the axis on.
fn runs(op: &Concat, context: &LowerContext<'_>) -> (usize, usize) {
    let run = |desc: &TensorDesc| desc.shape[op.axis..].iter().product();
    (run(context.input(0)), run(context.input(1)))
}

impl Operation for Concat {
    const NAME: &'static str = "concat";
    const INPUTS: &'static [&'static str] = &["a", "b"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("a", a.dtype)?;
        expect_float("b", b.dtype)?;
        let axis = self.axis;
        if axis >= a.shape.len() || b.shape.len() != a.shape.len() {
            return Err(Error::Shape(format!(
                "a {:?} and b {:?} must have the same number of dimensions, more than {axis}",
                a.shape, b.shape
            )));
        }
        let mut expected = a.shape.clone();
        expected[axis] = b.shape[axis];
        expect_shape("b", &b.shape, &expected)?;
        let mut shape = a.shape.clone();
        shape[axis] += b.shape[axis];
        Ok(a.with_shape(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::concat(inputs.get(0), inputs.get(1), self.axis)
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let mut gradients = vec![None; 2];
        let mut start = 0;
        for (position, what) in ["a", "b"].into_iter().enumerate() {
            let (length, name) = (back.shape(position)[self.axis], back.name(what));
            if back.wants(position) {
                gradients[position] = Some(back.graph.slice(name, back.dy, self.axis as isize, start, length)?);
            }
            start += length;
        }
        Ok(gradients)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |op, context| {
                    let (a, b) = runs(op, context);
                    in_fours("a", a).and(in_fours("b", b))
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let (a, b) = runs(op, context);
                    let vectors = context.output.elements() / 4;
                    Launch::new("concat/vec4")
                        .param("vectors", vectors)
                        .param("a_vectors", a / 4)
                        .param("b_vectors", b / 4)
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
                    let (a, b) = runs(op, context);
                    let elements = context.output.elements();
                    Launch::new("concat/naive")
                        .param("elements", elements)
                        .param("A", a)
                        .param("B", b)
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        format!("axis={}", self.axis)
    }

    fn cases() -> Vec<Case> {
        let case = |label, axis, a: &[usize], b: &[usize]| {
            Case::new(label, Concat { axis }, vec![CaseInput::normal(a), CaseInput::normal(b)])
        };
        vec![
            case("channels 5 and 3", 3, &[2, 3, 7, 5], &[2, 3, 7, 3]),
            case("channels 8 and 3", 3, &[2, 3, 5, 8], &[2, 3, 5, 3]),
            case("channels 1 and 1, odd number of elements", 2, &[3, 5, 1], &[3, 5, 1]),
            case("channels 20 and 8", 3, &[2, 5, 7, 20], &[2, 5, 7, 8]),
            case("channels 64 and 128", 3, &[2, 9, 6, 64], &[2, 9, 6, 128]),
            case("batches of 1 and 2, 15 elements each", 0, &[1, 5, 3], &[2, 5, 3]),
            case("batches of 3 and 2, whole vectors", 0, &[3, 5, 12], &[2, 5, 12]),
            case("tokens, 7 and 2", 1, &[3, 7, 5], &[3, 2, 5]),
            case("frames of a film, whole vectors", 1, &[2, 3, 5, 2, 4], &[2, 1, 5, 2, 4]),
            case("one dimension", 0, &[7], &[5]),
            case("two whole workgroups of vectors", 3, &[2, 4, 4, 4], &[2, 4, 4, 12]),
            case("two whole workgroups, channels 3 and 5", 3, &[2, 4, 8, 3], &[2, 4, 8, 5]),
        ]
    }
}

impl Graph {
    /// `a` followed by `b` along `axis`, which counts from the last dimension if it is negative, as in torch; their
    /// other dimensions must be equal. The result has the element type of `a`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no such dimension or another one differs.
    pub fn concat(&mut self, name: impl Into<String>, a: ValueId, b: ValueId, axis: isize) -> Result<ValueId> {
        let axis = axis_of(self.shape(a), axis)?;
        self.push(name, Concat { axis }, &[Some(a), Some(b)])
    }
}
