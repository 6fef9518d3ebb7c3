//! The forward process.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_shape, no_knobs};
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y[n] = a[n] · original[n] + b[n] · noise[n]`: q(x_t | x_0), Ho et al. 2020, eq. 4, with a = √ᾱ_t and b = √(1 −
/// ᾱ_t).
///
/// Inputs: `original [N, ..]`, `noise [N, ..]`, `coefficients [N, 2]`; output like `original`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct AddNoise;

impl Operation for AddNoise {
    const NAME: &'static str = "add_noise";
    const INPUTS: &'static [&'static str] = &["original", "noise", "coefficients"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let original = inputs.required(0)?;
        expect_shape("noise", &inputs.required(1)?.shape, &original.shape)?;
        let batch = original.shape.first().copied().unwrap_or(1);
        expect_shape("coefficients", &inputs.required(2)?.shape, &[batch, 2])?;
        Ok(original.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        3 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::add_noise(inputs.get(0), inputs.get(1), inputs.get(2))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| {
                let elements = context.output.elements();
                Launch::new("add_noise/naive")
                    .param("elements", elements)
                    .param("image", elements / context.output.shape[0])
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize]| {
            let inputs = vec![
                CaseInput::f32(shape, Fill::Normal),
                CaseInput::f32(shape, Fill::Normal),
                CaseInput::f32([shape[0], 2], Fill::Uniform(0.05, 1.0)),
            ];
            Case::new(label, AddNoise, inputs)
        };
        vec![
            case("odd number of elements", &[3, 5, 7, 3]),
            case("latents", &[2, 3, 5, 4]),
            case("one image", &[1, 9, 7, 1]),
            case("two whole workgroups", &[2, 4, 8, 8]),
        ]
    }
}

impl Graph {
    /// `original` noised to the level that `coefficients` give each image.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the shapes do not agree.
    pub fn add_noise(
        &mut self,
        name: impl Into<String>,
        original: ValueId,
        noise: ValueId,
        coefficients: ValueId,
    ) -> Result<ValueId> {
        self.push(name, AddNoise, &[Some(original), Some(noise), Some(coefficients)])
    }
}
