//! Residual blocks and resampling: the body of every U-Net (He et al. 2015, in the pre-activation form of Ho et al.
//! 2020).

use super::layers::Layers;
use crate::error::Result;
use crate::graph::ValueId;
use crate::ops::activation::ActivationKind;
use crate::ops::contraction::Conv2d;
use crate::ops::fir_resample::FirResample;

/// How a `ResnetBlock2D` takes the time embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeScaleShift {
    /// Added to the first convolution's output.
    Default,
    /// Scales and shifts the second norm's output (Dhariwal and Nichol 2021, AdaGN).
    ScaleShift,
}

/// Whether a [`ResnetBlock2D`] also changes the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Same size.
    None,
    /// Half the size, by averaging 2×2 pixels.
    Down,
    /// Twice the size, by repeating pixels.
    Up,
    /// Half or twice the size, through a filter.
    Fir(FirResample),
}

/// `ResnetBlock2D` of diffusers.
#[derive(Clone, Copy, Debug)]
pub struct ResnetBlock2D {
    /// Channels of the output.
    pub out_channels: usize,
    /// Groups of the first norm.
    pub groups: usize,
    /// Groups of the second norm.
    pub groups_out: usize,
    /// Epsilon of both norms.
    pub eps: f64,
    /// Activation function.
    pub activation: ActivationKind,
    /// How the time embedding enters.
    pub time_scale_shift: TimeScaleShift,
    /// The sum of shortcut and residual is divided by this.
    pub output_scale_factor: f64,
    /// Whether the block changes the resolution.
    pub resample: Resample,
}

impl ResnetBlock2D {
    /// `x [N, H, W, C]` → `[N, H', W', out_channels]`. `temb` is the activated time embedding `[N, E]` (the same for
    /// all blocks, so the caller applies the activation once); a decoder's blocks have none.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the channels cannot be divided into the groups.
    pub fn build(&self, m: &mut Layers<'_>, path: &str, x: ValueId, temb: Option<ValueId>) -> Result<ValueId> {
        let at = |name: &str| format!("{path}.{name}");

        // 1. norm, activation, resampling (of the shortcut too)
        let h = m.group_norm(&at("norm1"), x, self.groups, self.eps)?;
        let h = m.activation(&at("norm1.act"), h, self.activation)?;
        let (h, x) = (self.resample(m, &at("resample"), h)?, self.resample(m, &at("resample_shortcut"), x)?);

        // 2. first convolution, time embedding, second norm
        let mut h = m.conv3x3(&at("conv1"), h, self.out_channels)?;
        let norm2 = |m: &mut Layers<'_>, h| m.group_norm(&at("norm2"), h, self.groups_out, self.eps);
        h = match (temb, self.time_scale_shift) {
            (None, _) => {
                let h = norm2(m, h)?;
                m.activation(&at("norm2.act"), h, self.activation)?
            }
            (Some(temb), TimeScaleShift::Default) => {
                let temb = m.linear(&at("time_emb_proj"), temb, self.out_channels, true)?;
                // One vector an image, the same for all its pixels.
                let images = m.graph.shape(temb)[0];
                let temb = m.graph.reshape(at("time_emb_proj.per_image"), temb, [images, 1, 1, self.out_channels])?;
                let h = m.graph.add(at("add_temb"), h, temb)?;
                let h = norm2(m, h)?;
                m.activation(&at("norm2.act"), h, self.activation)?
            }
            (Some(temb), TimeScaleShift::ScaleShift) => {
                let temb = m.linear(&at("time_emb_proj"), temb, 2 * self.out_channels, true)?;
                let h = m.modulated_group_norm(&at("norm2"), h, temb, self.groups_out, self.eps)?;
                m.activation(&at("norm2.act"), h, self.activation)?
            }
        };

        // 3. second convolution, shortcut
        let h = m.conv3x3(&at("conv2"), h, self.out_channels)?;
        // A block that filters has a convolution in its shortcut, whatever the channels.
        let filters = matches!(self.resample, Resample::Fir(_));
        let x = if m.graph.desc(x).channels() == self.out_channels && !filters {
            x
        } else {
            m.conv2d(&at("conv_shortcut"), x, self.out_channels, 1, Conv2d::default())?
        };
        let y = m.graph.add(at("add_shortcut"), x, h)?;
        divide(m, &at("output_scale"), y, self.output_scale_factor)
    }

    fn resample(&self, m: &mut Layers<'_>, path: &str, x: ValueId) -> Result<ValueId> {
        match self.resample {
            Resample::None => Ok(x),
            Resample::Down => m.graph.avg_pool(path, x),
            Resample::Up => {
                let (h, w) = (m.graph.shape(x)[1], m.graph.shape(x)[2]);
                m.graph.upsample_nearest(path, x, 2 * h, 2 * w)
            }
            Resample::Fir(filter) => m.graph.fir_resample(path, x, filter),
        }
    }
}

/// `x / factor`; adds no operation for 1.
pub(super) fn divide(m: &mut Layers<'_>, path: &str, x: ValueId, factor: f64) -> Result<ValueId> {
    if factor == 1.0 { Ok(x) } else { m.graph.scale(path, x, 1.0 / factor, 0.0) }
}

/// `Downsample2D` with a convolution of stride 2. `padding` 0 means one row below and one column to the right, like
/// TensorFlow's "same".
///
/// # Errors
/// None for pictures of at least 2×2.
pub fn downsample_2d(
    m: &mut Layers<'_>,
    path: &str,
    x: ValueId,
    out_channels: usize,
    padding: usize,
) -> Result<ValueId> {
    let padding = if padding == 0 { [0, 1, 0, 1] } else { [padding; 4] };
    m.conv2d(&format!("{path}.conv"), x, out_channels, 3, Conv2d { stride: [2, 2], padding, ..Conv2d::default() })
}

/// `Upsample2D` with a convolution: nearest neighbour to `out_h` × `out_w`, then 3×3.
///
/// # Errors
/// None; the signature is that of all layers.
pub fn upsample_2d(
    m: &mut Layers<'_>,
    path: &str,
    x: ValueId,
    out_channels: usize,
    out_h: usize,
    out_w: usize,
) -> Result<ValueId> {
    let x = m.graph.upsample_nearest(format!("{path}.nearest"), x, out_h, out_w)?;
    m.conv3x3(&format!("{path}.conv"), x, out_channels)
}
