//! A parameter's step.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_dtype, expect_shape};
use super::{lower::in_place, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y = (1 − decay) · parameter − rate · u` with `u = first`, or with a second moment
/// `u = first · correction_1 / (√(second · correction_2) + eps)`. Loshchilov and Hutter 2019, "Decoupled Weight Decay
/// Regularization", algorithm 2. All f32.
///
/// Inputs: `parameter`, `first` and `second`? of one shape, `coefficients [K]` and `norm [1]` as in
/// [`super::moving_average::MovingAverage`]: if there is no step, y is the parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterStep {
    /// Where rate, decay, correction_1, correction_2 and eps begin among the coefficients.
    pub at: usize,
}

impl Operation for ParameterStep {
    const NAME: &'static str = "parameter_step";
    const INPUTS: &'static [&'static str] = &["parameter", "first", "second", "coefficients", "norm"];

    const IN_PLACE: bool = true;

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let parameter = inputs.required(0)?;
        inputs.required(1)?;
        for (position, name) in Self::INPUTS.iter().enumerate().take(3) {
            let Some(input) = inputs.optional(position) else { continue };
            expect_dtype(name, input.dtype, DType::F32)?;
            expect_shape(name, &input.shape, &parameter.shape)?;
        }
        let coefficients = inputs.required(3)?;
        if coefficients.shape.len() != 1 || coefficients.elements() < self.at + 5 {
            let least = self.at + 5;
            return Err(Error::Shape(format!(
                "coefficients: expected [{least} or more], found {:?}",
                coefficients.shape
            )));
        }
        expect_shape("norm", &inputs.required(4)?.shape, &[1])?;
        Ok(parameter.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        8 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::parameter_step([0, 1, 3, 4].map(|i| inputs.get(i)), inputs.optional(2), self.at)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                let launch = Launch::new("parameter_step/naive")
                    .flag("HAS_NORM", true)
                    .flag("HAS_SECOND", context.has(2))
                    .constant("AT", op.at)
                    .param("vectors", vectors)
                    .cover(vectors, 64);
                in_place(launch, 0, context)
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("at={}", self.at)
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], second: bool, norm: f32| {
            let tensor = |fill| CaseInput::f32(shape, fill);
            let inputs = vec![
                tensor(Fill::Normal),
                tensor(Fill::Normal),
                if second { tensor(Fill::Uniform(0.01, 2.0)) } else { None },
                CaseInput::f32([9], Fill::Uniform(0.1, 0.9)),
                CaseInput::f32([1], Fill::Uniform(norm, 2.0 * norm)),
            ];
            Case::new(label, ParameterStep { at: 4 }, inputs)
        };
        vec![
            case("105 elements, two moments", &[3, 5, 7], true, 1.0),
            case("one moment", &[13, 4], false, 1.0),
            case("no finite norm", &[5, 9], true, f32::INFINITY),
            case("two whole workgroups", &[8, 64], true, 4.0),
        ]
    }
}
