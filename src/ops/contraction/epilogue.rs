//! What happens to a sum before it is stored.

use std::fmt;

use super::{BIAS, RESIDUAL, SUMMAND, WEIGHT};
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
    /// The summand is the columns of its input from here on; a multiple of four. More than 0 only where the input has
    /// one row for each image: vectors for several operations, side by side.
    pub summand_first: usize,
}

impl Default for Epilogue {
    /// No activation, no gate, scale 1, the summand as it is.
    fn default() -> Self {
        Self { activation: None, gate: false, scale: 1.0, summand_first: 0 }
    }
}

impl Epilogue {
    /// The composition of the unfused operations.
    pub(super) fn reference(&self, sums: HostTensor, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let mut y = sums;
        if let Some(bias) = inputs.optional(BIAS) {
            y = reference::add_rows(&y, bias);
        }
        if let Some(summand) = inputs.optional(SUMMAND) {
            let columns = y.shape.last().copied().unwrap_or(1);
            y = reference::add_rows(&y, &reference::columns(summand, self.summand_first, columns));
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
        let summand = context.inputs.get(SUMMAND).copied().flatten();
        let one_of_many = summand.is_some_and(|desc| desc.channels() != context.input(WEIGHT).shape[0]);
        launch
            .param("summand_columns", summand.map_or(0, |desc| desc.channels()))
            .param("summand_first", self.summand_first)
            .flag("HAS_BIAS", here && context.has(BIAS))
            .constant(
                "SUMMAND",
                if !here {
                    0
                } else if one_of_many {
                    1
                } else {
                    added(context, SUMMAND)
                },
            )
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
        if self.summand_first > 0 {
            parts.push(format!("summand_first={}", self.summand_first));
        }
        f.write_str(&parts.join(" "))
    }
}
