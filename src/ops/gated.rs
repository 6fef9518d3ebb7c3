//! The gated activations of transformer blocks.

use super::activation::ActivationKind;
use super::gated_gradient::GatedGradient;
use super::{Backward, Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, in_fours, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = x[.., ..C] · f(x[.., C..])`; input `[.., 2 C]`, output `[.., C]`. Shazeer 2020, "GLU Variants Improve
/// Transformer": GLU with f = sigmoid, ReGLU with relu, GEGLU with gelu, SwiGLU with silu.
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// The activation function of the gate.
    pub activation: ActivationKind,
}

impl Operation for Gated {
    const NAME: &'static str = "gated";
    const ALIASES: &'static [&'static str] = &["geglu"];
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        if x.shape.is_empty() || !x.channels().is_multiple_of(2) {
            return Err(Error::Shape(format!("x {:?} must end in an even number of channels", x.shape)));
        }
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("checked above") /= 2;
        Ok(x.with_shape(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        11 * output.elements() as u64 // the function as in `activation`, and the product
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::gated(inputs.get(0), self.activation.reference())
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (x, name) = (back.input(0)?, back.name("x"));
        let gradient = GatedGradient { activation: self.activation };
        Ok(vec![Some(back.graph.push(name, gradient, &[Some(x), Some(back.dy)])?)])
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
                    Launch::new("gated/vec4")
                        .constant("ACTIVATION", op.activation.code())
                        .param("vectors", vectors)
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
                    Launch::new("gated/naive")
                        .constant("ACTIVATION", op.activation.code())
                        .param("elements", elements)
                        .param("C", context.output.channels())
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn alias(&self) -> Option<&'static str> {
        (self.activation == ActivationKind::Gelu).then_some("geglu")
    }

    fn attributes(&self) -> String {
        self.activation.name().into()
    }

    fn cases() -> Vec<Case> {
        let case =
            |label, activation, shape: &[usize]| Case::new(label, Gated { activation }, vec![CaseInput::normal(shape)]);
        vec![
            case("7 channels", ActivationKind::Gelu, &[2, 3, 5, 14]),
            case("6 channels", ActivationKind::Gelu, &[2, 9, 12]),
            case("20 channels", ActivationKind::Gelu, &[2, 9, 40]),
            case("132 channels", ActivationKind::Gelu, &[2, 33, 264]),
            case("two whole workgroups", ActivationKind::Silu, &[2, 32, 16]),
            case("GLU, 5 channels", ActivationKind::Sigmoid, &[2, 7, 10]),
            case("ReGLU, 9 channels", ActivationKind::Relu, &[7, 18]),
            case("SwiGLU, 36 channels", ActivationKind::Silu, &[2, 5, 72]),
            case("GEGLU by tanh, 12 channels", ActivationKind::GeluTanh, &[3, 5, 24]),
        ]
    }
}

impl Graph {
    /// `x[.., ..C] · f(x[.., C..])` for `x [.., 2 C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of channels is odd.
    pub fn gated(&mut self, name: impl Into<String>, x: ValueId, activation: ActivationKind) -> Result<ValueId> {
        self.push(name, Gated { activation }, &[Some(x)])
    }
}
