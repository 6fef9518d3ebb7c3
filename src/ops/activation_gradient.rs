//! What an activation function passes back.

use super::activation::ActivationKind;
use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_float, expect_shape, no_knobs};
use crate::error::Result;
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// `dx = dy · f'(x)`, elementwise; inputs `x` and `dy` of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationGradient {
    /// Which function.
    pub kind: ActivationKind,
}

impl Operation for ActivationGradient {
    const NAME: &'static str = "activation_gradient";
    const INPUTS: &'static [&'static str] = &["x", "dy"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, dy) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("dy", dy.dtype)?;
        expect_shape("dy", &dy.shape, &x.shape)?;
        Ok(dy.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        14 * output.elements() as u64 // as the function itself, and some products more
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::activation_gradient(inputs.get(0), inputs.get(1), self.kind.derivative())
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                Launch::new("activation_gradient/naive")
                    .constant("ACTIVATION", op.kind.code())
                    .param("vectors", vectors)
                    .cover(vectors, 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        self.kind.name().into()
    }

    fn cases() -> Vec<Case> {
        let case = |label, kind, shape: &[usize], low, high| {
            let x = CaseInput { fill: Fill::Uniform(low, high), ..CaseInput::normal(shape).expect("it is some") };
            Case::new(label, ActivationGradient { kind }, vec![Some(x), CaseInput::normal(shape)])
        };
        let near = |label, kind| case(label, kind, &[2, 3, 5, 7], -4.0, 4.0);
        let far = |label, kind| case(label, kind, &[2, 4, 8, 8], -90.0, 90.0);
        vec![
            near("silu, 210 elements", ActivationKind::Silu),
            near("gelu, 210 elements", ActivationKind::Gelu),
            near("quick_gelu, 210 elements", ActivationKind::QuickGelu),
            near("mish, 210 elements", ActivationKind::Mish),
            near("relu, 210 elements", ActivationKind::Relu),
            near("tanh, 210 elements", ActivationKind::Tanh),
            near("gelu by tanh, 210 elements", ActivationKind::GeluTanh),
            near("sigmoid, 210 elements", ActivationKind::Sigmoid),
            far("silu far from zero, two whole workgroups", ActivationKind::Silu),
            far("gelu far from zero, two whole workgroups", ActivationKind::Gelu),
            far("quick_gelu far from zero, two whole workgroups", ActivationKind::QuickGelu),
            far("mish far from zero, two whole workgroups", ActivationKind::Mish),
            far("gelu by tanh far from zero, two whole workgroups", ActivationKind::GeluTanh),
        ]
    }
}
