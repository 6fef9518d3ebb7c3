//! Averages that an optimizer keeps from step to step.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_dtype, expect_shape};
use super::{lower::in_place, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y = keep · state + take · v` with `v = factor · value + decay · parameter`, or its square. All f32.
///
/// Inputs: `state` and `value` of one shape, `coefficients [K]`, `norm [1]`?, `parameter`? as they. The coefficients
/// are what changes from step to step: 0 is 1 / the loss scale, 1 the largest norm that all gradients together may
/// have, 2 is 0 if gradients are only collected; the fields of this operation say where the others are. With `norm`,
/// the sum of the squares of all gradients, the factor undoes the loss scale and shortens what is too long (Pascanu et
/// al. 2013, "On the difficulty of training recurrent neural networks"); if that is no finite number, or if gradients
/// are only collected, y is the state. Without it the factor is 1.
#[derive(Clone, Debug, PartialEq)]
pub struct MovingAverage {
    /// Where the factor on the state is among the coefficients.
    pub keep: usize,
    /// Where that on the value is.
    pub take: usize,
    /// Where that on the parameter is, if there is one.
    pub decay: usize,
    /// Whether the value is squared.
    pub squared: bool,
}

impl Operation for MovingAverage {
    const NAME: &'static str = "moving_average";
    const INPUTS: &'static [&'static str] = &["state", "value", "coefficients", "norm", "parameter"];

    const IN_PLACE: bool = true;

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let state = inputs.required(0)?;
        for (position, name) in [(0, "state"), (1, "value"), (4, "parameter")] {
            let Some(input) = inputs.optional(position) else { continue };
            expect_dtype(name, input.dtype, DType::F32)?;
            expect_shape(name, &input.shape, &state.shape)?;
        }
        inputs.required(1)?;
        let coefficients = inputs.required(2)?;
        let last = self.keep.max(self.take).max(self.decay).max(2);
        if coefficients.shape.len() != 1 || coefficients.elements() <= last {
            return Err(Error::Shape(format!(
                "coefficients: expected [more than {last}], found {:?}",
                coefficients.shape
            )));
        }
        inputs.optional(3).map_or(Ok(()), |norm| expect_shape("norm", &norm.shape, &[1]))?;
        Ok(state.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        5 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::moving_average(
            [0, 1, 2].map(|i| inputs.get(i)),
            inputs.optional(3),
            inputs.optional(4),
            [self.keep, self.take, self.decay],
            self.squared,
        )
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                let launch = Launch::new("moving_average/naive")
                    .flag("HAS_NORM", context.has(3))
                    .flag("HAS_DECAY", context.has(4))
                    .flag("SQUARED", op.squared)
                    .constant("KEEP", op.keep)
                    .constant("TAKE", op.take)
                    .constant("DECAY", op.decay)
                    .param("vectors", vectors)
                    .cover(vectors, 64);
                in_place(launch, 0, context)
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("{}{}", self.keep, if self.squared { " squared" } else { "" })
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], norm: Option<f32>, decay: bool, squared| {
            let op = MovingAverage { keep: 3, take: 4, decay: 5, squared };
            let tensor = || CaseInput::f32(shape, Fill::Normal);
            let norm = norm.and_then(|least| CaseInput::f32([1], Fill::Uniform(least, 2.0 * least)));
            let inputs = vec![
                tensor(),
                tensor(),
                CaseInput::f32([8], Fill::Uniform(0.3, 1.0)),
                norm,
                if decay { tensor() } else { None },
            ];
            Case::new(label, op, inputs)
        };
        vec![
            case("105 elements, a long gradient", &[3, 5, 7], Some(100.0), false, false),
            case("squares, a short gradient", &[13, 4], Some(0.01), false, true),
            case("with the parameter itself", &[37], Some(3.0), true, false),
            case("of parameters, without a norm", &[5, 9], None, false, false),
            case("no finite norm", &[5, 9], Some(f32::INFINITY), false, false),
            case("two whole workgroups", &[8, 64], Some(1.0), true, true),
        ]
    }
}
