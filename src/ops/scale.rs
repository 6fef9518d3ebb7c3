//! Multiplication and addition of constants.

use super::{Backward, Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, no_knobs};
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = factor · x + offset`, elementwise; any shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Multiplies `x`.
    pub factor: f64,
    /// Added to the product.
    pub offset: f64,
}

impl Operation for Scale {
    const NAME: &'static str = "scale";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        2 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::scale(inputs.get(0), self.factor, self.offset)
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let name = back.name("x");
        Ok(vec![Some(back.graph.scale(name, back.dy, self.factor, 0.0)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                Launch::new("scale/naive")
                    .param("vectors", vectors)
                    .param_f32("factor", op.factor as f32)
                    .param_f32("offset", op.offset as f32)
                    .cover(vectors, 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("{} {:+}", self.factor, self.offset)
    }

    fn cases() -> Vec<Case> {
        let case = |label, factor, offset, shape: &[usize]| {
            Case::new(label, Scale { factor, offset }, vec![CaseInput::normal(shape)])
        };
        vec![
            case("latents of an autoencoder", 1.0 / 0.18215, 0.0, &[2, 7, 9, 4]),
            case("pictures to 0..1", 0.5, 0.5, &[2, 5, 7, 3]),
            case("negative factor, odd number of elements", -3.25, 0.125, &[3, 11, 5]),
            case("two whole workgroups", 0.75, -2.0, &[2, 4, 8, 8]),
            // 65 632 workgroups of 256 elements: more than one row of a dispatch.
            case("more workgroups than a dispatch has in a row", 1.5, 0.25, &[4099, 4099]).large(),
        ]
    }
}

impl Graph {
    /// `factor · x + offset`.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if `x` holds integers.
    pub fn scale(&mut self, name: impl Into<String>, x: ValueId, factor: f64, offset: f64) -> Result<ValueId> {
        self.push(name, Scale { factor, offset }, &[Some(x)])
    }
}
