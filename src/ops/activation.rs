//! Elementwise activation functions.

use super::activation_gradient::ActivationGradient;
use super::{Backward, Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_float, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// The kernels' number for "no activation".
pub(crate) const NONE: usize = 99;

/// Which activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// `x · σ(x)`; Ramachandran et al. 2017 (also called swish).
    Silu,
    /// `x · Φ(x)`, exact with erf; Hendrycks and Gimpel 2016.
    Gelu,
    /// `x · σ(1.702 x)`, the approximation CLIP was trained with.
    QuickGelu,
    /// `x · tanh(ln(1 + eˣ))`; Misra 2019.
    Mish,
    /// `max(x, 0)`.
    Relu,
    /// `(eˣ − e⁻ˣ) / (eˣ + e⁻ˣ)`; not in any config, but small autoencoders squash their latents with it.
    Tanh,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, the gelu that T5 and most later transformers were trained with.
    GeluTanh,
    /// `1 / (1 + e⁻ˣ)`, the gate of the original gated linear units.
    Sigmoid,
}

impl ActivationKind {
    /// All kinds; the position is the kernels' number for it (wgsl/include/activation.wgsl).
    pub const ALL: [ActivationKind; 8] =
        [Self::Silu, Self::Gelu, Self::QuickGelu, Self::Mish, Self::Relu, Self::Tanh, Self::GeluTanh, Self::Sigmoid];

    /// Name as in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::QuickGelu => "quick_gelu",
            Self::Mish => "mish",
            Self::Relu => "relu",
            Self::Tanh => "tanh",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::Sigmoid => "sigmoid",
        }
    }

    /// The kind called `name` in a config's `act_fn` or `hidden_act`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the value.
    pub fn from_config(name: &str) -> Result<Self> {
        match name {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "quick_gelu" => Ok(Self::QuickGelu),
            "mish" => Ok(Self::Mish),
            "relu" => Ok(Self::Relu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Self::GeluTanh),
            other => Err(Error::Unsupported(format!(
                "activation function \"{other}\"; known are silu, swish, gelu, gelu_new, gelu_pytorch_tanh, \
                 quick_gelu, mish and relu"
            ))),
        }
    }

    /// The function in f64, as the reference takes it.
    pub(crate) fn reference(self) -> fn(f64) -> f64 {
        reference::activation_function(self.name()).expect("the reference knows every kind by its name")
    }

    /// Its derivative in f64, as the reference takes it.
    pub(crate) fn derivative(self) -> fn(f64) -> f64 {
        reference::activation_derivative(self.name()).expect("the reference knows every kind by its name")
    }

    /// The kernels' number for this kind; [`NONE`] stands for no activation.
    pub(crate) fn code(self) -> usize {
        Self::ALL.iter().position(|k| *k == self).expect("ALL lists every kind")
    }
}

/// `y = f(x)`, elementwise; any shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Which function.
    pub kind: ActivationKind,
}

impl Operation for Activation {
    const NAME: &'static str = "activation";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        10 * output.elements() as u64 // an exponential, a division and a few multiplications
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::activation(inputs.get(0), self.kind.reference())
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (x, name) = (back.input(0)?, back.name("x"));
        let gradient = ActivationGradient { kind: self.kind };
        Ok(vec![Some(back.graph.push(name, gradient, &[Some(x), Some(back.dy)])?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                Launch::new("activation/naive")
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
        let case = |label, kind| Case::new(label, Activation { kind }, vec![CaseInput::normal([2, 3, 5, 7])]);
        // Far from zero, where powers of e overflow and tails matter.
        let far = |label, kind| {
            let x =
                CaseInput { desc: TensorDesc::f32([2, 4, 8, 8]), fill: Fill::Uniform(-90.0, 90.0), always_f32: false };
            Case::new(label, Activation { kind }, vec![Some(x)])
        };
        vec![
            case("silu, 210 elements", ActivationKind::Silu),
            case("gelu, 210 elements", ActivationKind::Gelu),
            case("quick_gelu, 210 elements", ActivationKind::QuickGelu),
            case("mish, 210 elements", ActivationKind::Mish),
            case("relu, 210 elements", ActivationKind::Relu),
            case("tanh, 210 elements", ActivationKind::Tanh),
            case("gelu by tanh, 210 elements", ActivationKind::GeluTanh),
            case("sigmoid, 210 elements", ActivationKind::Sigmoid),
            far("silu far from zero, two whole workgroups", ActivationKind::Silu),
            far("gelu far from zero, two whole workgroups", ActivationKind::Gelu),
            far("quick_gelu far from zero, two whole workgroups", ActivationKind::QuickGelu),
            far("mish far from zero, two whole workgroups", ActivationKind::Mish),
            far("tanh far from zero, two whole workgroups", ActivationKind::Tanh),
            far("gelu by tanh far from zero, two whole workgroups", ActivationKind::GeluTanh),
        ]
    }
}

impl Graph {
    /// Applies an activation function to every element of `x`.
    ///
    /// # Errors
    /// None for a valid `x`; the signature is that of all operations.
    pub fn activation(&mut self, name: impl Into<String>, x: ValueId, kind: ActivationKind) -> Result<ValueId> {
        self.push(name, Activation { kind }, &[Some(x)])
    }
}
