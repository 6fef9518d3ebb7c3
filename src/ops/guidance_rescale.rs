//! Restoring the standard deviation of a prediction after guidance.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operand, Operation, Variant, expect_dtype,
    no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[n] = guided[n] · (φ · std(prediction[n]) / std(guided[n]) + 1 − φ)`: guidance makes the standard deviation of a
/// prediction larger than that of the model's own, which overexposes the picture. Lin et al. 2023, arXiv:2305.08891,
/// eq. 15 and 16.
///
/// Inputs: `guided [N, ..]`; `model_output [B·N, ..]`, of which branch `branch` is the conditional prediction; output
/// as `guided`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct GuidanceRescale {
    /// φ, 0 (nothing changes) to 1.
    pub factor: f64,
    /// Which branch of the model's output holds the conditional prediction.
    pub branch: usize,
}

impl GuidanceRescale {
    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let elements = context.output.elements();
        let n = context.output.shape[0];
        let deviations = Launch::new("guidance_rescale/naive_factor")
            .bind("factor", Operand::Scratch(0))
            .param("E", elements / n)
            .param("prediction", self.branch * elements)
            .param_f32("phi", self.factor as f32)
            .workgroups(n, 1, 1);
        let apply = Launch::new("guidance_rescale/naive")
            .bind("factor", Operand::Scratch(0))
            .param("elements", elements)
            .param("E", elements / n)
            .cover(elements.div_ceil(4), 64);
        Lowered { launches: vec![deviations, apply], scratch: vec![TensorDesc::f32([n]).into()] }
    }
}

impl Operation for GuidanceRescale {
    const NAME: &'static str = "guidance_rescale";
    const INPUTS: &'static [&'static str] = &["guided", "model_output"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (guided, output) = (inputs.required(0)?, inputs.required(1)?);
        expect_dtype("guided", guided.dtype, DType::F32)?;
        expect_dtype("model_output", output.dtype, DType::F32)?;
        let fits = guided.elements() > 0
            && output.shape.get(1..) == guided.shape.get(1..)
            && output.shape[0] % guided.shape[0] == 0
            && self.branch < output.shape[0] / guided.shape[0];
        if !fits {
            return Err(Error::Shape(format!(
                "expected guided [N, ..] and model_output [B·N, ..] with more than {} branches, found {:?} and {:?}",
                self.branch, guided.shape, output.shape
            )));
        }
        if !(0.0..=1.0).contains(&self.factor) {
            return Err(Error::Usage(format!("factor {}: expected a number from 0 to 1", self.factor)));
        }
        Ok(guided.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        9 * output.elements() as u64 // two means, two sums of squares, one product
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::guidance_rescale(inputs.get(0), inputs.get(1), self.factor, self.branch)
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

    fn attributes(&self) -> String {
        format!("factor={} branch={}", self.factor, self.branch)
    }

    fn cases() -> Vec<Case> {
        let case_of = |label, factor, branch, branches, shape: &[usize], fill| {
            let mut output = shape.to_vec();
            output[0] *= branches;
            let inputs = vec![CaseInput::f32(shape, Fill::Uniform(-3.0, 9.0)), CaseInput::f32(output, fill)];
            Case::new(label, GuidanceRescale { factor, branch }, inputs)
        };
        let case = |label, factor, branch, branches, shape: &[usize]| {
            case_of(label, factor, branch, branches, shape, Fill::Normal)
        };
        vec![
            case("odd number of elements", 0.7, 1, 2, &[3, 5, 7, 3]),
            case("latents", 0.5, 1, 2, &[2, 24, 20, 4]),
            case("first of three branches", 1.0, 0, 3, &[2, 5, 3, 1]),
            // Counting an element twice shifts the mean, and with it every deviation from it.
            case_of("mean far from zero", 1.0, 0, 1, &[3, 11, 37, 3], Fill::Uniform(90.0, 102.0)),
            case("nothing changes", 0.0, 1, 2, &[1, 5, 3]),
            case("two whole workgroups", 0.6, 1, 2, &[2, 4, 8, 8]),
        ]
    }
}

impl Graph {
    /// `guided` `[N, ..]` with its deviation brought towards that of branch `branch` of `model_output` `[B·N, ..]`, by
    /// `factor`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not agree; [`Error::Usage`] if `factor` is not in 0 to 1.
    pub fn guidance_rescale(
        &mut self,
        name: impl Into<String>,
        guided: ValueId,
        model_output: ValueId,
        factor: f64,
        branch: usize,
    ) -> Result<ValueId> {
        self.push(name, GuidanceRescale { factor, branch }, &[Some(guided), Some(model_output)])
    }
}
