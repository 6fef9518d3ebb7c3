//! `Transformer2DModel`: where a picture looks at itself and at the text (Rombach et al. 2022, appendix E.2.1; Vaswani
//! et al. 2017).

use super::layers::Layers;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::ops::activation::ActivationKind;
use crate::ops::attention::Attention;
use crate::ops::contraction::Conv2d;

/// Epsilon of the group norm before the blocks, which no config changes.
const GROUP_NORM_EPS: f64 = 1e-6;
/// Epsilon of the layer norms.
const LAYER_NORM_EPS: f64 = 1e-5;
/// The feed-forward layer is this many times as wide as the tokens.
const FEED_FORWARD: usize = 4;

/// A stack of transformer blocks over the pixels of an activation, each pixel a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transformer2DModel {
    /// Number of heads of every attention.
    pub heads: usize,
    /// Number of `BasicTransformerBlock`s.
    pub layers: usize,
    /// Groups of the norm before the blocks.
    pub groups: usize,
    /// The projections around the blocks are stored as matrices; otherwise as 1×1 convolutions. They compute the same.
    pub use_linear_projection: bool,
    /// The first attention of each block looks at the text too, instead of at the picture.
    pub only_cross_attention: bool,
}

/// Something besides the text that every second attention looks at, with keys and values of its own: the pictures of an
/// IP-Adapter (Ye et al. 2023). What it finds is added to what the text gave.
#[derive(Clone, Debug)]
pub struct AdditionalContext {
    /// `[N, S, D]`.
    pub hidden_states: ValueId,
    /// Factor on what is added; of a shape that broadcasts to `[N, T, C]`.
    pub scale: ValueId,
    /// The checkpoint that its projections come from. They are called as diffusers calls them when it has loaded an
    /// adapter: `….attn2.processor.to_k_ip.INDEX.weight`, INDEX being the context's position in the list.
    pub source: String,
}

impl Transformer2DModel {
    /// `x [N, H, W, C]`, `text [N, S, D]` → `[N, H, W, C]`.
    ///
    /// # Errors
    /// [`Error::Config`] if the channels cannot be divided into the heads or groups.
    pub fn build(
        &self,
        m: &mut Layers<'_>,
        path: &str,
        x: ValueId,
        text: ValueId,
        contexts: &[AdditionalContext],
    ) -> Result<ValueId> {
        let at = |name: &str| format!("{path}.{name}");
        let channels = m.graph.desc(x).channels();
        if self.heads > channels {
            return Err(Error::Config(format!(
                "{path}: {channels} channels cannot be divided into {} heads (attention_head_dim, here the number of \
                heads)",
                self.heads
            )));
        }
        // diffusers rounds the width of a head down: 10 channels in 4 heads give tokens of 8.
        let inner = channels / self.heads * self.heads;

        let h = m.group_norm(&at("norm"), x, self.groups, GROUP_NORM_EPS)?;
        let mut h = self.projection(m, &at("proj_in"), h, inner)?;
        for i in 0..self.layers {
            h = self.block(m, &at(&format!("transformer_blocks.{i}")), h, text, contexts)?;
        }
        let h = self.projection(m, &at("proj_out"), h, channels)?;
        m.graph.add(at("add_residual"), x, h)
    }

    fn projection(&self, m: &mut Layers<'_>, path: &str, x: ValueId, channels: usize) -> Result<ValueId> {
        if self.use_linear_projection {
            m.linear(path, x, channels, true)
        } else {
            m.conv2d(path, x, channels, 1, Conv2d::default())
        }
    }

    /// `BasicTransformerBlock`: attention over the picture, attention over the text, feed-forward; each normalises its
    /// input and is added to it.
    fn block(
        &self,
        m: &mut Layers<'_>,
        path: &str,
        x: ValueId,
        text: ValueId,
        contexts: &[AdditionalContext],
    ) -> Result<ValueId> {
        let at = |name: &str| format!("{path}.{name}");

        // 1. self-attention
        let h = m.layer_norm(&at("norm1"), x, LAYER_NORM_EPS)?;
        let source = if self.only_cross_attention { text } else { h };
        let h = self.attention(m, &at("attn1"), h, source, &[])?;
        let x = m.graph.add(at("attn1.add"), x, h)?;

        // 2. cross-attention
        let h = m.layer_norm(&at("norm2"), x, LAYER_NORM_EPS)?;
        let h = self.attention(m, &at("attn2"), h, text, contexts)?;
        let x = m.graph.add(at("attn2.add"), x, h)?;

        // 3. feed-forward, gated (Shazeer 2020, GEGLU)
        let h = m.layer_norm(&at("norm3"), x, LAYER_NORM_EPS)?;
        let channels = m.graph.desc(h).channels();
        let h = m.linear(&at("ff.net.0.proj"), h, 2 * FEED_FORWARD * channels, true)?;
        let h = m.graph.gated(at("ff.net.0"), h, ActivationKind::Gelu)?;
        let h = m.linear(&at("ff.net.2"), h, channels, true)?;
        m.graph.add(at("ff.add"), x, h)
    }

    /// Queries from `x`, keys and values from `source`; then the same queries over each of `contexts`.
    fn attention(
        &self,
        m: &mut Layers<'_>,
        path: &str,
        x: ValueId,
        source: ValueId,
        contexts: &[AdditionalContext],
    ) -> Result<ValueId> {
        let at = |name: &str| format!("{path}.{name}");
        let channels = m.graph.desc(x).channels();
        let q = m.linear(&at("to_q"), x, channels, false)?;
        let k = m.linear(&at("to_k"), source, channels, false)?;
        let v = m.linear(&at("to_v"), source, channels, false)?;
        let attention = Attention { heads: self.heads, ..Attention::default() };
        let mut h = m.graph.attention(at("attention"), q, Some(k), Some(v), attention.clone())?;
        for (i, context) in contexts.iter().enumerate() {
            let projection = |name: &str| at(&format!("processor.{name}.{i}"));
            let states = context.hidden_states;
            let [k, v] = m.from_source(&context.source, |m| {
                Ok([
                    m.linear(&projection("to_k_ip"), states, channels, false)?,
                    m.linear(&projection("to_v_ip"), states, channels, false)?,
                ])
            })?;
            let seen = m.graph.attention(projection("attention"), q, Some(k), Some(v), attention.clone())?;
            let seen = m.graph.mul(projection("scaled"), seen, context.scale)?;
            h = m.graph.add(projection("add"), h, seen)?;
        }
        m.linear(&at("to_out.0"), h, channels, true)
    }
}
