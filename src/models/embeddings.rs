//! Embeddings of time and class.

use super::layers::Layers;
use crate::error::Result;
use crate::graph::ValueId;
use crate::ops::activation::ActivationKind;

/// `TimestepEmbedding` of diffusers: linear, activation, linear; `x [N, dim]` → `[N, out]`.
///
/// # Errors
/// None for a valid `x`; the signature is that of all layers.
pub fn timestep_embedding(
    m: &mut Layers<'_>,
    path: &str,
    x: ValueId,
    out: usize,
    activation: ActivationKind,
) -> Result<ValueId> {
    let x = m.linear(&format!("{path}.linear_1"), x, out, true)?;
    let x = m.activation(&format!("{path}.act"), x, activation)?;
    m.linear(&format!("{path}.linear_2"), x, out, true)
}
