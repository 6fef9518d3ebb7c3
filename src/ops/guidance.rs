//! Guidance: several predictions of the model for one sample, combined.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_dtype, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[n] = Σ_b weights[b, n] · model_output[b, n]` over the B branches of a prediction.
///
/// Classifier-free guidance (Ho and Salimans 2022, eq. 6, with diffusers' meaning of the scale s: 1 is no guidance) has
/// the branches unconditional and conditional with weights 1 − s and s; instruction-based editing (Brooks et al. 2023,
/// eq. 3) has three branches.
///
/// Inputs: `model_output [B·N, ..]`, branch after branch; `weights [B, N]`; output `[N, ..]`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance;

impl Operation for Guidance {
    const NAME: &'static str = "guidance";
    const INPUTS: &'static [&'static str] = &["model_output", "weights"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (output, weights) = (inputs.required(0)?, inputs.required(1)?);
        expect_dtype("model_output", output.dtype, DType::F32)?;
        expect_dtype("weights", weights.dtype, DType::F32)?;
        let mut shape = output.shape.clone();
        match (shape.first_mut(), weights.shape.as_slice()) {
            (Some(batch), &[branches, n]) if *batch > 0 && *batch == branches * n => *batch = n,
            _ => {
                return Err(Error::Shape(format!(
                    "expected model_output [B·N, ..] and weights [B, N], found {:?} and {:?}",
                    output.shape, weights.shape
                )));
            }
        }
        Ok(TensorDesc::f32(shape))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        2 * inputs.get(0).elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::guidance(inputs.get(0), inputs.get(1))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| {
                let (elements, n) = (context.output.elements(), context.output.shape[0]);
                Launch::new("guidance/naive")
                    .param("elements", elements)
                    .param("image", elements / n)
                    .param("N", n)
                    .param("B", context.input(0).shape[0] / n)
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, branches, shape: &[usize]| {
            let mut output = shape.to_vec();
            output[0] *= branches;
            let inputs = vec![
                CaseInput::f32(output, Fill::Normal),
                CaseInput::f32([branches, shape[0]], Fill::Uniform(-7.0, 8.0)),
            ];
            Case::new(label, Guidance, inputs)
        };
        vec![
            case("odd number of elements", 2, &[3, 5, 7, 3]),
            case("latents", 2, &[2, 3, 5, 4]),
            case("three branches", 3, &[2, 5, 3, 1]),
            case("one branch", 1, &[3, 5, 3]),
            case("two whole workgroups", 2, &[2, 4, 8, 8]),
        ]
    }
}

impl Graph {
    /// The branches of the model's output `[B·N, ..]`, combined with `weights` `[B, N]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not agree.
    pub fn guidance(&mut self, name: impl Into<String>, model_output: ValueId, weights: ValueId) -> Result<ValueId> {
        self.push(name, Guidance, &[Some(model_output), Some(weights)])
    }
}
