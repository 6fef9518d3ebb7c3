//! Classifier-free guidance.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_shape};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y[n] = u[n] + scale[n] · (c[n] − u[n])` (Ho and Salimans 2022, eq. 6, with diffusers' meaning of the scale: 1 is no guidance).
///
/// Inputs: `model_output [2N, ..]`, the unconditional half u first, then the conditional half c; `scale [N]`; output `[N, ..]`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance;

impl Operation for Guidance {
    const NAME: &'static str = "guidance";
    const INPUTS: &'static [&'static str] = &["model_output", "scale"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (output, scale) = (inputs.required(0)?, inputs.required(1)?);
        let mut shape = output.shape.clone();
        match shape.first_mut() {
            Some(batch) if *batch % 2 == 0 => *batch /= 2,
            _ => return Err(Error::Shape(format!("model_output must be [2N, ..], found {:?}", output.shape))),
        }
        expect_shape("scale", &scale.shape, &shape[..1])?;
        Ok(TensorDesc::f32(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        3 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::guidance(inputs.get(0), inputs.get(1))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            supports: |_, _| Ok(()),
            lower: |_, context| {
                let elements = context.output.elements();
                Launch::new("guidance/naive")
                    .param("elements", elements)
                    .param("image", elements / context.output.shape[0])
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, output: &[usize]| {
            let inputs = vec![CaseInput::f32(output, Fill::Normal), CaseInput::f32([output[0] / 2], Fill::Uniform(0.5, 8.0))];
            Case::new(label, Guidance, inputs)
        };
        vec![
            case("odd number of elements", &[6, 5, 7, 3]),
            case("latents", &[4, 3, 5, 4]),
            case("learned variance", &[2, 5, 3, 6]),
        ]
    }
}

impl Graph {
    /// The guided prediction from the unconditional and the conditional half of the model's output.
    ///
    /// # Errors
    /// [`Error::Shape`] if the batch is odd or `scale` is not `[N]`.
    pub fn guidance(&mut self, name: impl Into<String>, model_output: ValueId, scale: ValueId) -> Result<ValueId> {
        self.push(name, Guidance, &[Some(model_output), Some(scale)])
    }
}
