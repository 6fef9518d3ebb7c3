//! `EncoderUNetModel` of guided-diffusion: the first half of an ADM U-Net, which says of a noised picture what it shows
//! (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4). `encoder_unet_names.rs` reads one from a file.

use super::attention::SelfAttention2D;
use super::embeddings::timestep_embedding;
use super::layers::Layers;
use super::unet_2d_config::UNet2DConfig;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId, WeightLayout};
use crate::ops::activation::ActivationKind;
use crate::ops::attention::Attention;
use crate::ops::timestep_embedding::TimestepEmbedding;
use crate::tensor::DType;

/// A classifier of noised pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderUNetModel {
    /// Rows and columns of the pictures: the attention pool has an embedding for each position.
    pub image_size: usize,
    /// Number of classes.
    pub classes: usize,
    /// Numbers in the embedding of the timestep.
    pub model_channels: usize,
    /// Channels, down blocks and mid block, as a U-Net of diffusers has them.
    pub body: UNet2DConfig,
}

impl EncoderUNetModel {
    /// Names (diffusers', where it has them) and shapes of all parameters.
    ///
    /// # Errors
    /// [`Error::Config`] if the channels divide neither into groups nor into heads.
    pub fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let graph = self.graph(1)?;
        Ok(graph.weight_parts().into_iter().map(|p| (p.name.clone(), p.shape.clone())).collect())
    }

    /// A graph of one pass: inputs `sample` `[N, H, W, C]` and `timestep` `[N]`, output `logits` `[N, classes]`, all
    /// f32.
    ///
    /// # Errors
    /// As [`EncoderUNetModel::parameters`].
    pub fn graph(&self, batch: usize) -> Result<Graph> {
        let mut graph = Graph::new();
        let size = self.image_size;
        let sample = graph.input("sample", TensorDesc::f32([batch, size, size, self.body.in_channels]));
        let timestep = graph.input("timestep", TensorDesc::f32([batch]));
        let logits = self.build(&mut Layers::new(&mut graph, DType::F32), sample, timestep)?;
        graph.output("logits", logits);
        Ok(graph)
    }

    /// Adds the model to a graph: of `sample` `[N, H, W, C]` at `timestep` `[N]` the logits `[N, classes]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the pictures have another size; as [`EncoderUNetModel::parameters`].
    pub fn build(&self, m: &mut Layers<'_>, sample: ValueId, timestep: ValueId) -> Result<ValueId> {
        let (c, size) = (&self.body, self.image_size);
        let shape = m.graph.shape(sample);
        if shape.len() != 4 || shape[1..] != [size, size, c.in_channels] {
            return Err(Error::Shape(format!(
                "the classifier sees pictures [N, {size}, {size}, {}], found {shape:?}",
                c.in_channels
            )));
        }
        // 1. time
        let positional = TimestepEmbedding {
            dim: self.model_channels,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            max_period: 10_000.0,
            scale: 1.0,
        };
        let t = m.graph.timestep_embedding("time_proj", timestep, positional)?;
        let t = m.graph.cast("time_proj.cast", t, m.dtype)?;
        let temb = timestep_embedding(m, "time_embedding", t, c.time_embedding_dim, ActivationKind::Silu)?;
        let temb = m.activation("temb.act", temb, ActivationKind::Silu)?;

        // 2. down, mid
        let sample = m.graph.cast("sample.cast", sample, m.dtype)?;
        let mut h = m.conv3x3("conv_in", sample, c.block_out_channels[0])?;
        for level in 0..c.down_block_types.len() {
            h = c.down_block(m, level, h, temb, &mut Vec::new())?;
        }
        let h = c.mid_block(m, h, temb)?;

        // 3. one vector for each picture, and from it the logits
        let h = m.group_norm("conv_norm_out", h, c.groups(m.graph.desc(h).channels()), c.norm_eps)?;
        let h = m.activation("conv_act", h, ActivationKind::Silu)?;
        let pooled = self.pool(m, h)?;
        let logits = m.linear("pool.to_out", pooled, self.classes, true)?;
        m.graph.cast("logits", logits, DType::F32)
    }

    /// `AttentionPool2d` (Radford et al. 2021, section 2.3): what attention from the mean of all pixels finds; `x
    /// [N, H, W, C]` → `[N, C]`.
    fn pool(&self, m: &mut Layers<'_>, x: ValueId) -> Result<ValueId> {
        let &[batch, height, width, channels] = m.graph.shape(x) else { unreachable!("a picture's features") };
        let pixels = height * width;
        let x = m.graph.reshape("pool.pixels", x, [batch, pixels, channels])?;
        let sum = m.graph.sum("pool.sum", x, 1, 2)?;
        let mean = m.graph.scale("pool.mean", sum, 1.0 / pixels as f64, 0.0)?;
        let tokens = m.graph.concat("pool.tokens", mean, x, 1)?;
        let shape = [pixels + 1, channels];
        let positions = m.weight("pool.positional_embedding".into(), &shape, WeightLayout::AsIs, m.dtype);
        let tokens = m.graph.add("pool.add_positions", tokens, positions)?;
        let query = m.graph.slice("pool.first", tokens, 1, 0, 1)?;

        let heads = SelfAttention2D::new(channels, self.body.attention_head_dim, None, 0.0, 1.0)?.heads;
        let q = m.linear("pool.to_q", query, channels, true)?;
        let k = m.linear("pool.to_k", tokens, channels, true)?;
        let v = m.linear("pool.to_v", tokens, channels, true)?;
        let attention = Attention { heads, ..Attention::default() };
        let y = m.graph.attention("pool.attention", q, Some(k), Some(v), attention)?;
        m.graph.reshape("pool.vector", y, [batch, channels])
    }
}
