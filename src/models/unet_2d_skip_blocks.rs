//! The blocks of NCSN++ in [`super::UNet2DModel`] (Song et al. 2021, arXiv:2011.13456, appendix H; the skips are those
//! of StyleGAN2, Karras et al. 2019). The picture goes down beside the features, halved through a filter, and is added
//! to them at each level; on the way up, each level adds what it made to a picture that is doubled from level to level.

use std::f64::consts::SQRT_2;

use super::attention::SelfAttention2D;
use super::layers::Layers;
use super::resnet::{Resample, ResnetBlock2D};
use super::unet_2d_config::{DownBlockType, UNet2DConfig, UpBlockType};
use crate::error::Result;
use crate::graph::ValueId;
use crate::ops::activation::ActivationKind;
use crate::ops::contraction::Conv2d;
use crate::ops::fir_resample::FirResample;

/// Groups of these blocks' norms, whatever the config says.
fn groups(channels: usize) -> usize {
    (channels / 4).clamp(1, 32)
}

impl UNet2DConfig {
    fn skip_resnet(&self, in_groups: usize, out_channels: usize, resample: Resample) -> ResnetBlock2D {
        ResnetBlock2D {
            out_channels,
            groups: in_groups,
            groups_out: groups(out_channels),
            eps: self.norm_eps,
            activation: self.act_fn,
            time_scale_shift: self.resnet_time_scale_shift,
            output_scale_factor: SQRT_2,
            resample,
        }
    }

    fn skip_attention(&self, channels: usize) -> Result<SelfAttention2D> {
        SelfAttention2D::new(channels, self.attention_head_dim, Some(32), self.norm_eps, SQRT_2)
    }

    /// Down block `level`, which halves `picture` too.
    pub(super) fn skip_down_block(
        &self,
        m: &mut Layers<'_>,
        level: usize,
        x: ValueId,
        temb: ValueId,
        picture: &mut ValueId,
        skips: &mut Vec<ValueId>,
    ) -> Result<ValueId> {
        let (path, channels) = (format!("down_blocks.{level}"), self.block_out_channels[level]);
        let mut h = x;
        for i in 0..self.layers_per_block {
            let resnet = self.skip_resnet(groups(m.graph.desc(h).channels()), channels, Resample::None);
            h = resnet.build(m, &format!("{path}.resnets.{i}"), h, Some(temb))?;
            if self.down_block_types[level] == DownBlockType::AttnSkipDown {
                h = self.skip_attention(channels)?.build(m, &format!("{path}.attentions.{i}"), h)?;
            }
            skips.push(h);
        }
        if level + 1 < self.block_out_channels.len() {
            let resnet = self.skip_resnet(groups(channels), channels, Resample::Fir(FirResample::Down));
            h = resnet.build(m, &format!("{path}.resnet_down"), h, Some(temb))?;
            *picture = m.graph.fir_resample(format!("{path}.downsamplers.0"), *picture, FirResample::Down)?;
            let features = m.conv2d(&format!("{path}.skip_conv"), *picture, channels, 1, Conv2d::default())?;
            h = m.graph.add(format!("{path}.add_skip"), features, h)?;
            skips.push(h);
        }
        Ok(h)
    }

    /// Up block `level` (0 at the lowest resolution): takes its skips from the end of `skips`, and adds to `picture`,
    /// of which there is none before the first of these blocks.
    pub(super) fn skip_up_block(
        &self,
        m: &mut Layers<'_>,
        level: usize,
        x: ValueId,
        temb: ValueId,
        picture: &mut Option<ValueId>,
        skips: &mut Vec<ValueId>,
    ) -> Result<ValueId> {
        let (path, attends) = (format!("up_blocks.{level}"), self.up_block_types[level] == UpBlockType::AttnSkipUp);
        let channels = self.block_out_channels[self.block_out_channels.len() - 1 - level];
        let mut h = x;
        for i in 0..self.layers_per_block + 1 {
            let skip = skips.pop().expect("the down blocks pushed one skip for every residual block of the up blocks");
            let [before, beside] = [h, skip].map(|value| m.graph.desc(value).channels());
            // diffusers divides only the skip's channels by four where there is attention, so that 32 is what remains.
            let in_groups = if attends { (before + beside / 4).min(32) } else { groups(before + beside) };
            h = m.graph.concat(format!("{path}.resnets.{i}.concat"), h, skip, -1)?;
            let resnet = self.skip_resnet(in_groups, channels, Resample::None);
            h = resnet.build(m, &format!("{path}.resnets.{i}"), h, Some(temb))?;
        }
        if attends {
            h = self.skip_attention(channels)?.build(m, &format!("{path}.attentions.0"), h)?;
        }
        if let Some(small) = *picture {
            *picture = Some(m.graph.fir_resample(format!("{path}.upsampler"), small, FirResample::Up)?);
        }
        if level + 1 < self.block_out_channels.len() {
            let made = m.group_norm(&format!("{path}.skip_norm"), h, groups(channels), self.norm_eps)?;
            let made = m.activation(&format!("{path}.act"), made, ActivationKind::Silu)?;
            let made = m.conv3x3(&format!("{path}.skip_conv"), made, 3)?;
            *picture = Some(match *picture {
                Some(picture) => m.graph.add(format!("{path}.add_skip"), picture, made)?,
                None => made,
            });
            let resnet = self.skip_resnet(groups(channels), channels, Resample::Fir(FirResample::Up));
            h = resnet.build(m, &format!("{path}.resnet_up"), h, Some(temb))?;
        }
        Ok(h)
    }
}
