//! A step of Langevin dynamics, the corrector of a score-based sampler.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operand, Operation, Variant, expect_dtype,
    expect_shape, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y = a · s + √(2a) · z` for the noise z and the model's output s, the score, with
/// `a = 2 (r · mean ‖z[n]‖ / mean ‖s[n]‖)²`, means over the batch of the norms of single pictures. Where r is 0, y is
/// the noise. Song et al. 2021, arXiv:2011.13456, algorithm 4.
///
/// Inputs: `noise [N, ..]`, `model_output [N, ..]`, `coefficients` of the step (r is element 4). All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct LangevinNoise;

fn naive(context: &LowerContext<'_>) -> Lowered {
    let (elements, n) = (context.output.elements(), context.output.shape[0]);
    let norms = Launch::new("langevin_noise/naive_norms")
        .bind("norms", Operand::Scratch(0))
        .param("E", elements / n)
        .workgroups(n, 1, 1);
    let apply = Launch::new("langevin_noise/naive")
        .bind("norms", Operand::Scratch(0))
        .param("elements", elements)
        .param("N", n)
        .cover(elements.div_ceil(4), 64);
    Lowered { launches: vec![norms, apply], scratch: vec![TensorDesc::f32([n, 2]).into()] }
}

impl Operation for LangevinNoise {
    const NAME: &'static str = "langevin_noise";
    const INPUTS: &'static [&'static str] = &["noise", "model_output", "coefficients"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (noise, output, coefficients) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?);
        for (name, desc) in Self::INPUTS.iter().zip([noise, output, coefficients]) {
            expect_dtype(name, desc.dtype, DType::F32)?;
        }
        expect_shape("model_output", &output.shape, &noise.shape)?;
        if noise.elements() == 0 || noise.shape.is_empty() || coefficients.elements() < 5 {
            return Err(Error::Shape(format!(
                "expected noise [N, ..] and at least 5 coefficients, found {:?} and {:?}",
                noise.shape, coefficients.shape
            )));
        }
        Ok(noise.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        7 * output.elements() as u64 // two sums of squares, two products and their sum
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::langevin_noise(inputs.get(0), inputs.get(1), inputs.get(2))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| naive(context),
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], ratio: Fill| {
            let inputs = vec![
                CaseInput::f32(shape, Fill::Normal),
                CaseInput::f32(shape, Fill::Uniform(-1.0, 4.0)),
                CaseInput::f32([10], ratio),
            ];
            Case::new(label, LangevinNoise, inputs)
        };
        vec![
            case("odd number of elements", &[3, 5, 7, 3], Fill::Uniform(0.1, 0.9)),
            case("one image, more elements than a workgroup", &[1, 24, 20, 3], Fill::Uniform(0.1, 0.2)),
            case("images of one element", &[5, 1], Fill::Uniform(0.1, 0.2)),
            case("two whole workgroups", &[2, 4, 8, 8], Fill::Uniform(0.1, 0.2)),
            case("without a corrector", &[2, 3, 5, 3], Fill::Uniform(0.0, 0.0)),
        ]
    }
}

impl Graph {
    /// `noise [N, ..]` as the corrector's step along the score `model_output`, where the coefficients say so.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ; [`Error::Unsupported`] for other types than f32.
    pub fn langevin_noise(
        &mut self,
        name: impl Into<String>,
        noise: ValueId,
        model_output: ValueId,
        coefficients: ValueId,
    ) -> Result<ValueId> {
        self.push(name, LangevinNoise, &[Some(noise), Some(model_output), Some(coefficients)])
    }
}
