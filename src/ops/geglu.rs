//! The gated activation of transformer blocks.

use super::activation::ActivationKind;
use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, in_fours, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = x[.., ..C] · gelu(x[.., C..])`; input `[.., 2 C]`, output `[.., C]`. Shazeer 2020, "GLU Variants Improve
/// Transformer", with the exact gelu.
#[derive(Clone, Debug, PartialEq)]
pub struct Geglu;

impl Operation for Geglu {
    const NAME: &'static str = "geglu";
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
        11 * output.elements() as u64 // gelu as in `activation`, and the product
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::geglu(inputs.get(0))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: no_knobs,
                lower: |_, context, _| {
                    let vectors = context.output.elements() / 4;
                    Launch::new("geglu/vec4")
                        .constant("ACTIVATION", ActivationKind::Gelu.code())
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
                lower: |_, context, _| {
                    let elements = context.output.elements();
                    Launch::new("geglu/naive")
                        .constant("ACTIVATION", ActivationKind::Gelu.code())
                        .param("elements", elements)
                        .param("C", context.output.channels())
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize]| Case::new(label, Geglu, vec![CaseInput::normal(shape)]);
        vec![
            case("7 channels", &[2, 3, 5, 14]),
            case("6 channels", &[2, 9, 12]),
            case("20 channels", &[2, 9, 40]),
            case("132 channels", &[2, 33, 264]),
        ]
    }
}

impl Graph {
    /// `x[.., ..C] · gelu(x[.., C..])` for `x [.., 2 C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of channels is odd.
    pub fn geglu(&mut self, name: impl Into<String>, x: ValueId) -> Result<ValueId> {
        self.push(name, Geglu, &[Some(x)])
    }
}
