//! A tensor divided by its own length.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_dtype, expect_shape, no_knobs};
use crate::error::Result;
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y = x / (√squares + eps)`, where the input `squares [1]` is the sum of the squares of `x`. Both f32.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitNorm {
    /// Added to the length.
    pub eps: f64,
}

impl Operation for UnitNorm {
    const NAME: &'static str = "unit_norm";
    const INPUTS: &'static [&'static str] = &["x", "squares"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_dtype("x", x.dtype, DType::F32)?;
        expect_shape("squares", &inputs.required(1)?.shape, &[1])?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::unit_norm(inputs.get(0), inputs.get(1), self.eps)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                let launch = Launch::new("unit_norm/naive").param("vectors", vectors);
                launch.param_f32("eps", op.eps as f32).cover(vectors, 64).into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize]| {
            let inputs = vec![CaseInput::f32(shape, Fill::Normal), CaseInput::f32([1], Fill::Uniform(3.0, 9.0))];
            Case::new(label, UnitNorm { eps: 1e-7 }, inputs)
        };
        vec![case("105 elements", &[3, 5, 7]), case("one element", &[1]), case("two whole workgroups", &[8, 64])]
    }
}
