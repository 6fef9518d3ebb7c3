//! Modulation of channels by an embedding: the scale-and-shift form of a time embedding.

use super::activation::{self, ActivationKind};
use super::{
    Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, expect_float, expect_shape, in_fours,
    no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = f(x · (1 + scale) + shift)` with one scale and one shift a channel of an image: the first and the last C of its
/// `embedding`. Perez et al. 2018, "FiLM"; Dhariwal and Nichol 2021, section 3.
///
/// Inputs: `x [N, .., C]`, `embedding [N, 2 C]`; output as `x`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScaleShift {
    /// Applied to the result.
    pub activation: Option<ActivationKind>,
}

impl ScaleShift {
    /// The constants that all variants share.
    fn launch(&self, kernel: &'static str) -> Launch {
        Launch::new(kernel).constant("ACTIVATION", self.activation.map_or(activation::NONE, ActivationKind::code))
    }
}

/// Elements of one image: pixels · C.
fn elements_of_an_image(context: &LowerContext<'_>) -> usize {
    context.output.elements() / context.output.shape[0]
}

impl Operation for ScaleShift {
    const NAME: &'static str = "scale_shift";
    const INPUTS: &'static [&'static str] = &["x", "embedding"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, embedding) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("embedding", embedding.dtype)?;
        if x.shape.len() < 2 {
            return Err(Error::Shape(format!("x: expected [N, .., C], found shape {:?}", x.shape)));
        }
        expect_shape("embedding", &embedding.shape, &[x.shape[0], 2 * x.channels()])?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        (3 + self.activation.map_or(0, |_| 10)) * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::scale_shift(inputs.get(0), inputs.get(1), self.activation.map(ActivationKind::reference))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let vectors = context.output.elements() / 4;
                    op.launch("scale_shift/vec4")
                        .param("vectors", vectors)
                        .param("image_vectors", elements_of_an_image(context) / 4)
                        .param("channel_vectors", context.output.channels() / 4)
                        .cover(vectors, 64)
                        .into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let elements = context.output.elements();
                    op.launch("scale_shift/naive")
                        .param("elements", elements)
                        .param("image", elements_of_an_image(context))
                        .param("C", context.output.channels())
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        self.activation.map_or(String::new(), |a| a.name().into())
    }

    fn cases() -> Vec<Case> {
        let case = |label, activation, x: &[usize]| {
            let embedding = [x[0], 2 * x[x.len() - 1]];
            Case::new(label, ScaleShift { activation }, vec![CaseInput::normal(x), CaseInput::normal(embedding)])
        };
        vec![
            case("7 channels", None, &[3, 3, 5, 7]),
            case("6 channels, silu", Some(ActivationKind::Silu), &[3, 5, 3, 6]),
            case("20 channels, silu", Some(ActivationKind::Silu), &[3, 5, 7, 20]),
            case("tokens of 68 channels", None, &[2, 33, 68]),
            case("one pixel an image, gelu", Some(ActivationKind::Gelu), &[3, 12]),
        ]
    }
}

impl Graph {
    /// `f(x · (1 + scale) + shift)` for `x [N, .., C]`; scale and shift are the first and the last C columns of
    /// `embedding [N, 2 C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree.
    pub fn scale_shift(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        embedding: ValueId,
        activation: Option<ActivationKind>,
    ) -> Result<ValueId> {
        self.push(name, ScaleShift { activation }, &[Some(x), Some(embedding)])
    }
}
