//! Prompt weights.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operand, Operation, Variant, expect_dtype,
    expect_shape, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[m, s] = x[m, s] · weights[m, s] · mean(x[m]) / mean(weights[m] · x[m])`: each token's vector times its weight,
/// then every window rescaled to its original mean, as in AUTOMATIC1111's web UI.
///
/// Inputs: `x [M, S, D]` (M windows of S tokens), `weights [M, S]`; output as `x`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Emphasis;

impl Emphasis {
    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let shape = &context.output.shape;
        let (m, d) = (shape[0], shape[2]);
        let elements = context.output.elements();
        let means = Launch::new("emphasis/naive_factor")
            .bind("factor", Operand::Scratch(0))
            .param("E", elements / m)
            .param("D", d)
            .workgroups(m, 1, 1);
        let apply = Launch::new("emphasis/naive")
            .bind("factor", Operand::Scratch(0))
            .param("elements", elements)
            .param("E", elements / m)
            .param("D", d)
            .cover(elements.div_ceil(4), 64);
        Lowered { launches: vec![means, apply], scratch: vec![TensorDesc::f32([m]).into()] }
    }
}

impl Operation for Emphasis {
    const NAME: &'static str = "emphasis";
    const INPUTS: &'static [&'static str] = &["x", "weights"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, weights) = (inputs.required(0)?, inputs.required(1)?);
        expect_dtype("x", x.dtype, DType::F32)?;
        expect_dtype("weights", weights.dtype, DType::F32)?;
        if x.shape.len() != 3 || x.elements() == 0 {
            return Err(Error::Shape(format!("x must be [M, S, D], found {:?}", x.shape)));
        }
        expect_shape("weights", &weights.shape, &x.shape[..2])?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        5 * output.elements() as u64 // two sums, three products
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::emphasis(inputs.get(0), inputs.get(1))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| op.naive(context),
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize; 3]| {
            let inputs = vec![
                CaseInput::f32(*shape, Fill::Uniform(-0.5, 1.0)),
                CaseInput::f32(&shape[..2], Fill::Uniform(0.3, 1.7)),
            ];
            Case::new(label, Emphasis, inputs)
        };
        vec![
            case("odd number of elements", &[3, 5, 7]),
            case("two windows", &[2, 77, 12]),
            case("one token", &[1, 1, 3]),
            case("two whole workgroups", &[2, 16, 16]),
        ]
    }
}

impl Graph {
    /// The vectors `x [M, S, D]` of M windows of S tokens, each token weighted by `weights [M, S]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not agree.
    pub fn emphasis(&mut self, name: impl Into<String>, x: ValueId, weights: ValueId) -> Result<ValueId> {
        self.push(name, Emphasis, &[Some(x), Some(weights)])
    }
}
