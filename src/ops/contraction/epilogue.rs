//! What happens to a sum before it is stored.

use std::fmt;

use super::{BIAS, RESIDUAL, SUMMAND};
use crate::ops::activation::{ActivationKind, NONE};
use crate::ops::{Inputs, Launch, LowerContext};
use crate::reference;
use crate::tensor::HostTensor;

/// What happens to a sum before it is stored, `wgsl/include/epilogue.wgsl`:
/// `y = scale · (f(sum + bias + summand) + residual)`.
///
/// f is the activation function; with a gate it is `f(h) = h[.., ..N/2] · activation(h[.., N/2..])`.
#[derive(Clone, Debug, PartialEq)]
pub struct Epilogue {
    /// Activation function; with a gate, that of the gates.
    pub activation: Option<ActivationKind>,
    /// Whether the second half of the columns gates the first.
    pub gate: bool,
    /// Factor on the result.
    pub scale: f32,
}

impl Default for Epilogue {
    /// No activation, no gate, scale 1.
    fn default() -> Self {
        Self { activation: None, gate: false, scale: 1.0 }
    }
}

impl Epilogue {
    /// The composition of the unfused operations.
    pub(super) fn reference(&self, sums: HostTensor, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let mut y = sums;
        for position in [BIAS, SUMMAND] {
            y = inputs.optional(position).map_or(y.clone(), |added| reference::add_rows(&y, added));
        }
        y = match (self.gate, self.activation) {
            (false, None) => y,
            (false, Some(kind)) => reference::activation(&y, kind.reference()),
            (true, kind) => reference::gated(&y, kind.map_or(|gate| gate, ActivationKind::reference)),
        };
        if let Some(residual) = inputs.optional(RESIDUAL) {
            y = reference::add_rows(&y, residual);
        }
        y.data.iter_mut().for_each(|v| *v *= self.scale);
        y
    }

    /// Sets the constants and parameters of `include/epilogue.wgsl`; `here` is false for a kernel that stores bare
    /// sums.
    pub(super) fn set(&self, launch: Launch, context: &LowerContext<'_>, here: bool) -> Launch {
        launch
            .flag("HAS_BIAS", here && context.has(BIAS))
            .constant("SUMMAND", if here { added(context, SUMMAND) } else { 0 })
            .constant("RESIDUAL", if here { added(context, RESIDUAL) } else { 0 })
            .constant("ACTIVATION", self.activation.filter(|_| here).map_or(NONE, ActivationKind::code))
            .flag("GATE", here && self.gate)
            .param_f32("scale", if here { self.scale } else { 1.0 })
    }
}

/// How the input at `position` is added: 0 not at all, 1 one row per image, 2 row by row.
fn added(context: &LowerContext<'_>, position: usize) -> usize {
    let output = context.output;
    match context.inputs.get(position).copied().flatten() {
        None => 0,
        Some(desc) if desc.rows() == output.rows() => 2,
        Some(_) => 1,
    }
}

impl fmt::Display for Epilogue {
    /// `silu`, `gate=gelu scale=0.5`; empty for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match (self.gate, self.activation) {
            (false, None) => {}
            (false, Some(kind)) => parts.push(kind.name().to_owned()),
            (true, kind) => parts.push(format!("gate={}", kind.map_or("none", ActivationKind::name))),
        }
        if self.scale != 1.0 {
            parts.push(format!("scale={}", self.scale));
        }
        f.write_str(&parts.join(" "))
    }
}
