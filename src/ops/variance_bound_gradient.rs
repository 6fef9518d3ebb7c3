//! What a learned variance gets back.

use super::variance_bound::{at_an_end, check, inputs, launch};
use super::{Case, CaseInput, Family, Fill, Inputs, Operation, Variant, expect_dtype, expect_shape, no_knobs};
use crate::error::Result;
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `dv = dy · scale · dL / dv`, elementwise, with L as [`super::variance_bound::VarianceBound`] says; its inputs and
/// `dy [N, ..]`.
#[derive(Clone, Debug, PartialEq)]
pub struct VarianceBoundGradient;

impl Operation for VarianceBoundGradient {
    const NAME: &'static str = "variance_bound_gradient";
    const INPUTS: &'static [&'static str] =
        &["variance", "original", "sample", "prediction", "coefficients", "log_variances", "dy"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let variance = check(inputs)?;
        let dy = inputs.required(6)?;
        expect_dtype("dy", dy.dtype, DType::F32)?;
        expect_shape("dy", &dy.shape, &variance.shape)?;
        Ok(variance)
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        20 * output.elements() as u64 // and more at the first timestep
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::variance_bound_gradient([0, 1, 2, 3, 4, 5].map(|i| inputs.get(i)), inputs.get(6))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| launch("variance_bound_gradient/naive", context).into(),
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], error, variances| {
            let mut inputs = inputs(shape, error, variances);
            inputs.push(CaseInput::f32(shape, Fill::Normal));
            Case::new(label, Self, inputs)
        };
        vec![
            case("odd number of elements", &[5, 5, 7, 3], 1.0, (-8.0, -4.0)),
            case("far off for so small a variance", &[4, 3, 5, 4], 2.0, (-9.5, -7.0)),
            case("large variances", &[3, 9, 7, 1], 1.0, (-4.0, -1.0)),
            case("two whole workgroups", &[2, 4, 8, 8], 1.0, (-8.0, -4.0)),
            at_an_end(case("at the dark end", &[4, 5, 3, 3], 1.0, (-3.0, -1.0)), -1.02, -0.98),
            at_an_end(case("at the bright end", &[4, 5, 3, 3], 1.0, (-3.0, -1.0)), 0.98, 1.02),
        ]
    }
}
