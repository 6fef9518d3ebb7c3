//! The down, mid and up blocks of [`super::UNet2DModel`], but for those of NCSN++ (`unet_2d_skip_blocks.rs`).

use super::attention::SelfAttention2D;
use super::layers::Layers;
use super::resnet::{Resample, ResnetBlock2D, downsample_2d, upsample_2d};
use super::unet_2d_config::{DownBlockType, ResampleType, TimeScaleShift, UNet2DConfig, UpBlockType};
use crate::error::Result;
use crate::graph::ValueId;

impl UNet2DConfig {
    fn resnet(&self, out_channels: usize, resample: Resample, output_scale_factor: f64) -> ResnetBlock2D {
        let groups = self.groups(out_channels);
        ResnetBlock2D {
            out_channels,
            groups,
            groups_out: groups,
            eps: self.norm_eps,
            activation: self.act_fn,
            time_scale_shift: self.resnet_time_scale_shift,
            output_scale_factor,
            resample,
        }
    }

    fn attention(&self, channels: usize) -> Result<SelfAttention2D> {
        let groups = Some(self.groups(channels));
        SelfAttention2D::new(channels, self.attention_head_dim, groups, self.norm_eps, 1.0)
    }

    /// Down block `level`: appends what the up blocks will need to `skips`.
    pub(super) fn down_block(
        &self,
        m: &mut Layers<'_>,
        level: usize,
        x: ValueId,
        temb: ValueId,
        skips: &mut Vec<ValueId>,
    ) -> Result<ValueId> {
        let (path, kind, channels) =
            (format!("down_blocks.{level}"), self.down_block_types[level], self.block_out_channels[level]);
        let mut h = x;
        for i in 0..self.layers_per_block {
            h = self.resnet(channels, Resample::None, 1.0).build(m, &format!("{path}.resnets.{i}"), h, Some(temb))?;
            if kind == DownBlockType::AttnDown {
                h = self.attention(channels)?.build(m, &format!("{path}.attentions.{i}"), h)?;
            }
            skips.push(h);
        }
        if level + 1 < self.block_out_channels.len() {
            let sampler = format!("{path}.downsamplers.0");
            let by_resnet = match kind {
                DownBlockType::Down => false,
                DownBlockType::AttnDown => self.downsample_type == ResampleType::Resnet,
                _ => true,
            };
            h = if by_resnet {
                self.resnet(channels, Resample::Down, 1.0).build(m, &sampler, h, Some(temb))?
            } else {
                downsample_2d(m, &sampler, h, channels, self.downsample_padding)?
            };
            skips.push(h);
        }
        Ok(h)
    }

    /// The block at the lowest resolution: residual block, attention, residual block.
    pub(super) fn mid_block(&self, m: &mut Layers<'_>, x: ValueId, temb: ValueId) -> Result<ValueId> {
        let channels = m.graph.desc(x).channels();
        let scale = self.mid_block_scale_factor;
        let mut h = self.resnet(channels, Resample::None, scale).build(m, "mid_block.resnets.0", x, Some(temb))?;
        if self.add_attention {
            // diffusers: without attn_norm_num_groups there is a norm only if the time embedding is added.
            let groups = match self.resnet_time_scale_shift {
                TimeScaleShift::Default => Some(self.attn_norm_num_groups.unwrap_or(self.groups(channels))),
                TimeScaleShift::ScaleShift => self.attn_norm_num_groups,
            };
            let attention = SelfAttention2D::new(channels, self.attention_head_dim, groups, self.norm_eps, scale)?;
            h = attention.build(m, "mid_block.attentions.0", h)?;
        }
        self.resnet(channels, Resample::None, scale).build(m, "mid_block.resnets.1", h, Some(temb))
    }

    /// Up block `level` (0 at the lowest resolution): takes its skips from the end of `skips`.
    pub(super) fn up_block(
        &self,
        m: &mut Layers<'_>,
        level: usize,
        x: ValueId,
        temb: ValueId,
        skips: &mut Vec<ValueId>,
    ) -> Result<ValueId> {
        let (path, kind) = (format!("up_blocks.{level}"), self.up_block_types[level]);
        let channels = self.block_out_channels[self.block_out_channels.len() - 1 - level];
        let mut h = x;
        for i in 0..self.layers_per_block + 1 {
            let skip = skips.pop().expect("the down blocks pushed one skip for every residual block of the up blocks");
            h = m.graph.concat(format!("{path}.resnets.{i}.concat"), h, skip, -1)?;
            h = self.resnet(channels, Resample::None, 1.0).build(m, &format!("{path}.resnets.{i}"), h, Some(temb))?;
            if kind == UpBlockType::AttnUp {
                h = self.attention(channels)?.build(m, &format!("{path}.attentions.{i}"), h)?;
            }
        }
        if level + 1 < self.block_out_channels.len() {
            let sampler = format!("{path}.upsamplers.0");
            let by_resnet = match kind {
                UpBlockType::Up => false,
                UpBlockType::AttnUp => self.upsample_type == ResampleType::Resnet,
                _ => true,
            };
            h = if by_resnet {
                self.resnet(channels, Resample::Up, 1.0).build(m, &sampler, h, Some(temb))?
            } else {
                let (height, width) = (m.graph.shape(h)[1], m.graph.shape(h)[2]);
                upsample_2d(m, &sampler, h, channels, 2 * height, 2 * width)?
            };
        }
        Ok(h)
    }
}
