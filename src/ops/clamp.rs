//! Clamping to a range.

use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = min(max(x, low), high)`, elementwise; any shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Clamp {
    /// Smallest value of the result.
    pub low: f64,
    /// Largest value of the result.
    pub high: f64,
}

impl Operation for Clamp {
    const NAME: &'static str = "clamp";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        if self.low <= self.high {
            Ok(x.clone())
        } else {
            Err(Error::Shape(format!("low {} must not exceed high {}", self.low, self.high)))
        }
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        2 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::clamp(inputs.get(0), self.low, self.high)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                Launch::new("clamp/naive")
                    .param("vectors", vectors)
                    .param_f32("low", op.low as f32)
                    .param_f32("high", op.high as f32)
                    .cover(vectors, 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("{} to {}", self.low, self.high)
    }

    fn cases() -> Vec<Case> {
        let case =
            |label, low, high, shape: &[usize]| Case::new(label, Clamp { low, high }, vec![CaseInput::normal(shape)]);
        vec![
            case("both bounds, 210 elements", -0.75, 1.25, &[2, 3, 5, 7]),
            case("only the lower bound, odd number of elements", 0.0, 20.0, &[3, 11, 5]),
            case("only the upper bound", -30.0, -0.5, &[2, 7, 9, 4]),
            case("two whole workgroups", -0.5, 0.25, &[2, 4, 8, 8]),
        ]
    }
}

impl Graph {
    /// `x` with every element clamped to `low ..= high`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `low` is above `high`; [`Error::Unsupported`] if `x` holds integers.
    pub fn clamp(&mut self, name: impl Into<String>, x: ValueId, low: f64, high: f64) -> Result<ValueId> {
        self.push(name, Clamp { low, high }, &[Some(x)])
    }
}
