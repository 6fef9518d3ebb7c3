//! The down, mid and up blocks of [`super::UNet2DConditionModel`].

use super::layers::Layers;
use super::resnet::{Resample, ResnetBlock2D, downsample_2d, upsample_2d};
use super::transformer_2d::{AdditionalContext, Transformer2DModel};
use super::unet_2d_condition::Additional;
use super::unet_2d_condition_config::{ConditionBlock, ConditionBlockType, UNet2DConditionConfig};
use crate::error::Result;
use crate::graph::ValueId;

/// What conditions the blocks.
#[derive(Clone, Copy)]
pub(super) struct Conditions<'a> {
    /// The time embedding `[N, E]`, with class and the like added.
    pub emb: ValueId,
    /// The same, activated: most residual blocks activate it before they project it, and once is enough.
    pub temb: ValueId,
    /// The text `[N, S, D]`.
    pub text: ValueId,
    /// What is looked at besides the text.
    pub contexts: &'a [AdditionalContext],
}

impl UNet2DConditionConfig {
    fn resnet(&self, out_channels: usize) -> ResnetBlock2D {
        ResnetBlock2D {
            out_channels,
            groups: self.norm_num_groups,
            groups_out: self.norm_num_groups,
            eps: self.norm_eps,
            activation: self.act_fn,
            time_scale_shift: self.resnet_time_scale_shift,
            output_scale_factor: 1.0,
            resample: Resample::None,
        }
    }

    /// A residual block of `block`, and the form of the time embedding that it takes.
    fn resnet_of(&self, block: &ConditionBlock, conditions: Conditions<'_>) -> (ResnetBlock2D, Option<ValueId>) {
        let resnet = self.resnet(block.channels);
        match block.kind {
            ConditionBlockType::Plain | ConditionBlockType::CrossAttn => (resnet, Some(conditions.temb)),
            ConditionBlockType::Resnet => {
                let emb = if self.resnet_skip_time_act { conditions.emb } else { conditions.temb };
                (ResnetBlock2D { output_scale_factor: self.resnet_out_scale_factor, ..resnet }, Some(emb))
            }
        }
    }

    fn transformer(&self, block: &ConditionBlock, layers: usize) -> Transformer2DModel {
        Transformer2DModel {
            heads: block.heads,
            layers,
            groups: self.norm_num_groups,
            use_linear_projection: self.use_linear_projection,
            only_cross_attention: block.only_cross_attention,
        }
    }

    /// Down block `level`: appends what the up blocks will need to `skips`. `additional` (see
    /// [`super::unet_2d_condition::AdditionalResiduals::down_intrablock`]) is added where diffusers adds it: in a block
    /// with attention to what its last attention gives, in others to their result, which the up blocks see too.
    pub(super) fn down_block(
        &self,
        m: &mut Layers<'_>,
        level: usize,
        x: ValueId,
        conditions: Conditions<'_>,
        additional: &Additional,
        skips: &mut Vec<ValueId>,
    ) -> Result<ValueId> {
        let (path, block) = (format!("down_blocks.{level}"), &self.down_blocks[level]);
        let has_attention = block.kind == ConditionBlockType::CrossAttn;
        let last = block.transformer_layers.len() - 1;
        let (resnet, emb) = self.resnet_of(block, conditions);
        let mut h = x;
        for (i, layers) in block.transformer_layers.iter().enumerate() {
            h = resnet.build(m, &format!("{path}.resnets.{i}"), h, emb)?;
            if has_attention {
                let path = format!("{path}.attentions.{i}");
                h = self.transformer(block, *layers).build(m, &path, h, conditions.text, conditions.contexts)?;
                if i == last {
                    h = additional.add_to(m, level, h)?;
                }
            }
            skips.push(h);
        }
        if level + 1 < self.down_blocks.len() {
            let sampler = format!("{path}.downsamplers.0");
            h = match block.kind {
                ConditionBlockType::Resnet => {
                    ResnetBlock2D { resample: Resample::Down, ..resnet }.build(m, &sampler, h, emb)?
                }
                _ => downsample_2d(m, &sampler, h, block.channels, self.downsample_padding)?,
            };
            skips.push(h);
        }
        if !has_attention {
            h = additional.add_to(m, level, h)?;
            *skips.last_mut().expect("every block has pushed some") = h;
        }
        Ok(h)
    }

    /// The block at the lowest resolution: a residual block; with text, a transformer and a second residual block.
    pub(super) fn build_mid_block(
        &self,
        m: &mut Layers<'_>,
        block: &ConditionBlock,
        x: ValueId,
        conditions: Conditions<'_>,
    ) -> Result<ValueId> {
        let resnet = ResnetBlock2D { output_scale_factor: self.mid_block_scale_factor, ..self.resnet(block.channels) };
        let h = resnet.build(m, "mid_block.resnets.0", x, Some(conditions.temb))?;
        if block.kind != ConditionBlockType::CrossAttn {
            return Ok(h);
        }
        let transformer = self.transformer(block, block.transformer_layers[0]);
        let h = transformer.build(m, "mid_block.attentions.0", h, conditions.text, conditions.contexts)?;
        resnet.build(m, "mid_block.resnets.1", h, Some(conditions.temb))
    }

    /// Up block `level` (0 at the lowest resolution): takes its skips from the end of `skips`.
    pub(super) fn up_block(
        &self,
        m: &mut Layers<'_>,
        level: usize,
        x: ValueId,
        conditions: Conditions<'_>,
        skips: &mut Vec<ValueId>,
    ) -> Result<ValueId> {
        let (path, block) = (format!("up_blocks.{level}"), &self.up_blocks[level]);
        let (resnet, emb) = self.resnet_of(block, conditions);
        let mut h = x;
        for (i, layers) in block.transformer_layers.iter().enumerate() {
            let skip = skips.pop().expect("the down blocks pushed one skip for every residual block of the up blocks");
            h = m.graph.concat(format!("{path}.resnets.{i}.concat"), h, skip, -1)?;
            h = resnet.build(m, &format!("{path}.resnets.{i}"), h, emb)?;
            if block.kind == ConditionBlockType::CrossAttn {
                h = self.transformer(block, *layers).build(
                    m,
                    &format!("{path}.attentions.{i}"),
                    h,
                    conditions.text,
                    conditions.contexts,
                )?;
            }
        }
        let Some(next) = skips.last() else { return Ok(h) };
        let sampler = format!("{path}.upsamplers.0");
        match block.kind {
            ConditionBlockType::Resnet => ResnetBlock2D { resample: Resample::Up, ..resnet }.build(m, &sampler, h, emb),
            // Up to the size of the next skip: twice this one, or one less where an odd size was halved.
            _ => {
                let (height, width) = (m.graph.shape(*next)[1], m.graph.shape(*next)[2]);
                upsample_2d(m, &sampler, h, block.channels, height, width)
            }
        }
    }
}
