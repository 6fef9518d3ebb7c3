//! What a gated activation passes back.

use super::activation::ActivationKind;
use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, expect_shape, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// For `y = a · f(b)`, a and b the halves of each row of `x`: `da = dy · f(b)` beside `db = dy · a · f'(b)`. Inputs
/// `x [.., 2 C]`, `dy [.., C]`; output as `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedGradient {
    /// The activation function of the gate.
    pub activation: ActivationKind,
}

impl Operation for GatedGradient {
    const NAME: &'static str = "gated_gradient";
    const INPUTS: &'static [&'static str] = &["x", "dy"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, dy) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("dy", dy.dtype)?;
        if x.shape.is_empty() || !x.channels().is_multiple_of(2) {
            return Err(Error::Shape(format!("x {:?} must end in an even number of channels", x.shape)));
        }
        let mut half = x.shape.clone();
        *half.last_mut().expect("checked above") /= 2;
        expect_shape("dy", &dy.shape, &half)?;
        Ok(dy.with_shape(x.shape.clone()))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        14 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (f, derivative) = (self.activation.reference(), self.activation.derivative());
        reference::gated_gradient(inputs.get(0), inputs.get(1), f, derivative)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let elements = context.output.elements();
                Launch::new("gated_gradient/naive")
                    .constant("ACTIVATION", op.activation.code())
                    .param("elements", elements)
                    .param("C", context.output.channels() / 2)
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        self.activation.name().into()
    }

    fn cases() -> Vec<Case> {
        let case = |label, activation, rows: &[usize], c: usize| {
            let inputs = [2 * c, c].map(|columns| CaseInput::normal([rows, &[columns]].concat()));
            Case::new(label, GatedGradient { activation }, inputs.to_vec())
        };
        vec![
            case("gelu, 7 channels", ActivationKind::Gelu, &[2, 5], 7),
            case("gelu, 20 channels", ActivationKind::Gelu, &[3, 11], 20),
            case("silu, one channel", ActivationKind::Silu, &[37], 1),
            case("sigmoid, 6 channels", ActivationKind::Sigmoid, &[2, 3, 5], 6),
            case("two whole workgroups", ActivationKind::GeluTanh, &[16], 16),
        ]
    }
}
