//! Attention blocks.

use super::layers::Layers;
use super::resnet::divide;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::ops::attention::Attention;

/// diffusers' `Attention` as autoencoders and U-Nets without text use it: norm, self-attention over all pixels,
/// projection, shortcut.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention2D {
    /// Number of heads.
    pub heads: usize,
    /// Channels of each head.
    pub head_dim: usize,
    /// Groups of the norm; `None` leaves the norm out.
    pub groups: Option<usize>,
    /// Epsilon of the norm.
    pub eps: f64,
    /// The sum of shortcut and result is divided by this.
    pub rescale_output_factor: f64,
}

impl SelfAttention2D {
    /// The heads for `channels` by diffusers' `attention_head_dim`; null means one head over all channels.
    ///
    /// # Errors
    /// [`Error::Config`] if a head would be wider than the channels.
    pub fn new(
        channels: usize,
        attention_head_dim: Option<usize>,
        groups: Option<usize>,
        eps: f64,
        rescale_output_factor: f64,
    ) -> Result<Self> {
        let head_dim = attention_head_dim.unwrap_or(channels);
        if head_dim > channels {
            return Err(Error::Config(format!(
                "attention_head_dim {head_dim} is larger than the {channels} channels it divides into heads"
            )));
        }
        Ok(Self { heads: channels / head_dim, head_dim, groups, eps, rescale_output_factor })
    }

    /// `x [N, H, W, C]` → same shape.
    ///
    /// # Errors
    /// [`Error::Config`] if the channels cannot be divided into the groups.
    pub fn build(&self, m: &mut Layers<'_>, path: &str, x: ValueId) -> Result<ValueId> {
        let at = |name: &str| format!("{path}.{name}");
        let (channels, inner) = (m.graph.desc(x).channels(), self.heads * self.head_dim);
        let h = match self.groups {
            Some(groups) => m.group_norm(&at("group_norm"), x, groups, self.eps)?,
            None => x,
        };
        let q = m.linear(&at("to_q"), h, inner, true)?;
        let k = m.linear(&at("to_k"), h, inner, true)?;
        let v = m.linear(&at("to_v"), h, inner, true)?;
        let attention = Attention { heads: self.heads, ..Attention::default() };
        let h = m.graph.attention(at("attention"), q, Some(k), Some(v), attention)?;
        let h = m.linear(&at("to_out.0"), h, channels, true)?;
        let y = m.graph.add(at("add_residual"), x, h)?;
        divide(m, &at("rescale"), y, self.rescale_output_factor)
    }
}
