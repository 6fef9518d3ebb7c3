//! `AutoencoderKL`: turns pictures into the latents that Stable Diffusion works on, and back (Rombach et al. 2022,
//! appendix G).

use super::attention::SelfAttention2D;
use super::config::ConfigReader;
use super::layers::Layers;
use super::model::{Model, Sizes, parameters_of};
use super::resnet::{Resample, ResnetBlock2D, TimeScaleShift, downsample_2d, upsample_2d};
use crate::checkpoint::Json;
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::activation::ActivationKind;
use crate::ops::contraction::Conv2d;
use crate::tensor::DType;

/// Epsilon of every norm, which no config changes.
const EPS: f64 = 1e-6;
/// Bounds of the logarithm of the variance, which no config changes.
const LOGVAR: (f64, f64) = (-30.0, 20.0);

/// Kinds of blocks, the same in the encoder and in the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoencoderBlockType {
    /// `DownEncoderBlock2D`, `UpDecoderBlock2D`: residual blocks.
    Plain,
    /// `AttnDownEncoderBlock2D`, `AttnUpDecoderBlock2D`: residual blocks, each followed by self-attention with one
    /// head.
    Attn,
}

/// The fields of `config.json` that say what an `AutoencoderKL` computes, and how its latents are scaled for the U-Net;
/// see `AutoencoderKL` in diffusers.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are diffusers' own, under diffusers' names")]
pub struct AutoencoderKLConfig {
    /// Height and width of the pictures the model was trained on.
    pub sample_size: (usize, usize),
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    /// From the finest resolution to the coarsest.
    pub down_block_types: Vec<AutoencoderBlockType>,
    /// From the coarsest resolution to the finest.
    pub up_block_types: Vec<AutoencoderBlockType>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: ActivationKind,
    pub norm_num_groups: usize,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    /// What a U-Net sees is `(latent − shift_factor) · scaling_factor`, or with means and deviations `(latent − mean) ·
    /// scaling_factor / std`.
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    /// One for each latent channel.
    pub latents_mean: Option<Vec<f64>>,
    /// One for each latent channel.
    pub latents_std: Option<Vec<f64>>,
    /// The activations of this model overflow f16.
    pub force_upcast: bool,
}

impl AutoencoderKLConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if a value makes no sense, [`crate::Error::Unsupported`] for a value or a
    /// field that the engine does not know, by name.
    pub fn from_json(json: &Json) -> Result<Self> {
        let r = ConfigReader::new(json)?;
        if r.class_name()?.is_some_and(|c| c != "AutoencoderKL") {
            return Err(r.unsupported("_class_name", "\"AutoencoderKL\""));
        }
        let blocks = Self::blocks(&r, 4)?;
        let latent_channels = blocks.latent_channels;
        let for_each_channel = |key: &str| match r.numbers(key)? {
            Some(list) if list.len() != latent_channels => {
                Err(r.wrong(key, &format!("a list of {latent_channels} numbers (latent_channels)")))
            }
            list => Ok(list),
        };
        let config = Self {
            use_quant_conv: r.boolean("use_quant_conv", true)?,
            use_post_quant_conv: r.boolean("use_post_quant_conv", true)?,
            scaling_factor: r.positive("scaling_factor", 0.18215)?,
            shift_factor: r.get("shift_factor").map(|_| r.number("shift_factor", 0.0)).transpose()?,
            latents_mean: for_each_channel("latents_mean")?,
            latents_std: for_each_channel("latents_std")?,
            force_upcast: r.boolean("force_upcast", true)?,
            ..blocks
        };
        if config.latents_std.as_ref().is_some_and(|std| std.iter().any(|s| *s <= 0.0)) {
            return Err(r.wrong("latents_std", "a list of positive numbers"));
        }
        if config.latents_mean.is_some() != config.latents_std.is_some() {
            return Err(r.wrong("latents_std", "given if, and only if, latents_mean is"));
        }
        r.finish()?;
        Ok(config)
    }

    /// The fields of encoder and decoder, which a `VQModel` has too; the others at what such a model has.
    ///
    /// # Errors
    /// As [`AutoencoderKLConfig::from_json`].
    pub(super) fn blocks(r: &ConfigReader<'_>, latent_channels: usize) -> Result<Self> {
        let block_out_channels = r.counts("block_out_channels")?.unwrap_or(vec![64]);
        let levels = block_out_channels.len();
        let down_block_types =
            block_types(r, "down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], levels)?;
        let up_block_types = block_types(r, "up_block_types", ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"], levels)?;
        if levels > 10 {
            return Err(r.wrong("block_out_channels", "a list of at most 10 levels"));
        }
        let layers_per_block = r.count("layers_per_block", 1)?;
        if layers_per_block > 64 {
            return Err(r.wrong("layers_per_block", "a whole number from 1 to 64"));
        }
        Ok(Self {
            sample_size: r.size("sample_size")?.unwrap_or((32, 32)),
            in_channels: r.count("in_channels", 3)?,
            out_channels: r.count("out_channels", 3)?,
            latent_channels: r.count("latent_channels", latent_channels)?,
            act_fn: r.activation("act_fn")?.unwrap_or(ActivationKind::Silu),
            norm_num_groups: r.count("norm_num_groups", 32)?,
            mid_block_add_attention: r.boolean("mid_block_add_attention", true)?,
            layers_per_block,
            down_block_types,
            up_block_types,
            block_out_channels,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scaling_factor: 1.0,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: false,
        })
    }

    fn resnet(&self, out_channels: usize) -> ResnetBlock2D {
        ResnetBlock2D {
            out_channels,
            groups: self.norm_num_groups,
            groups_out: self.norm_num_groups,
            eps: EPS,
            activation: self.act_fn,
            time_scale_shift: TimeScaleShift::Default,
            output_scale_factor: 1.0,
            resample: Resample::None,
        }
    }

    /// Self-attention over all pixels, with one head.
    fn attention(&self, m: &mut Layers<'_>, path: &str, x: ValueId) -> Result<ValueId> {
        let channels = m.graph.desc(x).channels();
        SelfAttention2D::new(channels, None, Some(self.norm_num_groups), EPS, 1.0)?.build(m, path, x)
    }

    /// All of a block but its sampler.
    fn layers(
        &self,
        m: &mut Layers<'_>,
        path: &str,
        kind: AutoencoderBlockType,
        layers: usize,
        channels: usize,
        x: ValueId,
    ) -> Result<ValueId> {
        let mut h = x;
        for i in 0..layers {
            h = self.resnet(channels).build(m, &format!("{path}.resnets.{i}"), h, None)?;
            if kind == AutoencoderBlockType::Attn {
                h = self.attention(m, &format!("{path}.attentions.{i}"), h)?;
            }
        }
        Ok(h)
    }

    /// The block at the lowest resolution: residual block, attention, residual block.
    fn mid_block(&self, m: &mut Layers<'_>, path: &str, x: ValueId) -> Result<ValueId> {
        let resnet = self.resnet(m.graph.desc(x).channels());
        let mut h = resnet.build(m, &format!("{path}.resnets.0"), x, None)?;
        if self.mid_block_add_attention {
            h = self.attention(m, &format!("{path}.attentions.0"), h)?;
        }
        resnet.build(m, &format!("{path}.resnets.1"), h, None)
    }

    fn post_process(&self, m: &mut Layers<'_>, path: &str, x: ValueId, out_channels: usize) -> Result<ValueId> {
        let h = m.group_norm(&format!("{path}.conv_norm_out"), x, self.norm_num_groups, EPS)?;
        let h = m.activation(&format!("{path}.conv_act"), h, ActivationKind::Silu)?;
        m.conv3x3(&format!("{path}.conv_out"), h, out_channels)
    }

    /// The encoder: from pictures to `[N, h, w, out_channels]`.
    pub(super) fn encoder(&self, m: &mut Layers<'_>, x: ValueId, out_channels: usize) -> Result<ValueId> {
        // 1. down to the lowest resolution
        let mut h = m.conv3x3("encoder.conv_in", x, self.block_out_channels[0])?;
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            let path = format!("encoder.down_blocks.{level}");
            h = self.layers(m, &path, self.down_block_types[level], self.layers_per_block, *channels, h)?;
            if level + 1 < self.block_out_channels.len() {
                h = downsample_2d(m, &format!("{path}.downsamplers.0"), h, *channels, 0)?;
            }
        }

        // 2. mid, post-process
        h = self.mid_block(m, "encoder.mid_block", h)?;
        self.post_process(m, "encoder", h, out_channels)
    }

    /// The decoder: from `[N, h, w, latent_channels]` to pictures.
    pub(super) fn decoder(&self, m: &mut Layers<'_>, latent: ValueId) -> Result<ValueId> {
        // 1. mid
        let lowest = *self.block_out_channels.last().expect("the config has at least one level");
        let mut h = m.conv3x3("decoder.conv_in", latent, lowest)?;
        h = self.mid_block(m, "decoder.mid_block", h)?;

        // 2. up to the picture's resolution
        for (level, channels) in self.block_out_channels.iter().rev().enumerate() {
            let path = format!("decoder.up_blocks.{level}");
            h = self.layers(m, &path, self.up_block_types[level], self.layers_per_block + 1, *channels, h)?;
            if level + 1 < self.block_out_channels.len() {
                let (height, width) = (m.graph.shape(h)[1], m.graph.shape(h)[2]);
                h = upsample_2d(m, &format!("{path}.upsamplers.0"), h, *channels, 2 * height, 2 * width)?;
            }
        }

        // 3. post-process
        self.post_process(m, "decoder", h, self.out_channels)
    }

    /// How many pixels one latent covers in each direction.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// The kinds of the blocks that a list names, of these two without and with attention: one for each of `levels`.
fn block_types(
    r: &ConfigReader<'_>,
    key: &str,
    [plain, attending]: [&str; 2],
    levels: usize,
) -> Result<Vec<AutoencoderBlockType>> {
    let names = r.texts(key)?.unwrap_or(vec![plain]);
    if names.len() != levels {
        return Err(r.wrong(key, &format!("as long as block_out_channels ({levels})")));
    }
    let kind = |name: &str| match name {
        _ if name == plain => Ok(AutoencoderBlockType::Plain),
        _ if name == attending => Ok(AutoencoderBlockType::Attn),
        _ => Err(r.unsupported(key, &format!("a list of {plain} and {attending}"))),
    };
    names.into_iter().map(kind).collect()
}

/// An autoencoder whose encoder returns a normal distribution of latents.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderKL {
    /// What it computes.
    pub config: AutoencoderKLConfig,
}

impl AutoencoderKL {
    /// The model that `config.json` describes.
    ///
    /// # Errors
    /// As [`AutoencoderKLConfig::from_json`].
    pub fn from_json(json: &Json) -> Result<Self> {
        Ok(Self { config: AutoencoderKLConfig::from_json(json)? })
    }

    /// Names and shapes of all parameters, as they are in the checkpoint.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the config contradicts itself.
    pub fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let size = self.config.downscale();
        let mut all = parameters_of(&self.encoder_graph(1, size, size, DType::F32)?);
        all.extend(parameters_of(&self.decoder_graph(1, 1, 1, DType::F32)?));
        Ok(all)
    }

    /// As [`AutoencoderKL::parameters`], of a checkpoint with tensors of these `names`: pruned files keep the decoder
    /// alone, which is all that pictures from noise need.
    ///
    /// # Errors
    /// As [`AutoencoderKL::parameters`].
    pub fn parameters_among(&self, names: &[String]) -> Result<Vec<(String, Vec<usize>)>> {
        let mut all = self.parameters()?;
        if !names.iter().any(|name| name.starts_with("encoder.")) {
            let encodes = |name: &str| name.starts_with("encoder.") || name.starts_with("quant_conv.");
            all.retain(|(name, _)| !encodes(name) || names.iter().any(|there| there == name));
        }
        Ok(all)
    }

    /// A graph of the encoder: input `sample` `[N, H, W, in_channels]` in [−1, 1]; outputs `mean` and `logvar` `[N, h,
    /// w, latent_channels]`, where h = ⌊H / [`downscale`](AutoencoderKLConfig::downscale)⌋. Inputs and outputs are f32,
    /// everything between is stored as `dtype`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the picture is too small, [`crate::Error::Config`] if the config contradicts itself.
    pub fn encoder_graph(&self, batch: usize, height: usize, width: usize, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let sample = graph.input("sample", TensorDesc::f32([batch, height, width, self.config.in_channels]));
        let (mean, logvar) = self.encode(&mut Layers::new(&mut graph, dtype), sample)?;
        graph.output("mean", mean);
        graph.output("logvar", logvar);
        Ok(graph)
    }

    /// A graph of the decoder: input `latent` `[N, h, w, latent_channels]`, not scaled for the U-Net; output `sample`
    /// `[N, H, W, out_channels]`, roughly in [−1, 1]. Inputs and outputs are f32, everything between is stored as
    /// `dtype`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the config contradicts itself.
    pub fn decoder_graph(&self, batch: usize, height: usize, width: usize, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let latent = graph.input("latent", TensorDesc::f32([batch, height, width, self.config.latent_channels]));
        let sample = self.decode(&mut Layers::new(&mut graph, dtype), latent)?;
        graph.output("sample", sample);
        Ok(graph)
    }

    /// Adds the encoder to a graph: mean and logarithm of the variance of the latents, f32.
    ///
    /// # Errors
    /// As [`AutoencoderKL::encoder_graph`].
    pub fn encode(&self, m: &mut Layers<'_>, sample: ValueId) -> Result<(ValueId, ValueId)> {
        let moments = self.moments(m, sample)?;
        self.distribution(m.graph, moments)
    }

    /// Adds the encoder to a graph: `[N, h, w, 2 · latent_channels]`, f32, what [`AutoencoderKL::distribution`] takes.
    ///
    /// # Errors
    /// As [`AutoencoderKL::encoder_graph`].
    pub fn moments(&self, m: &mut Layers<'_>, sample: ValueId) -> Result<ValueId> {
        let c = &self.config;
        let x = m.graph.cast("sample.cast", sample, m.dtype)?;
        let mut h = c.encoder(m, x, 2 * c.latent_channels)?;
        if c.use_quant_conv {
            h = m.conv2d("quant_conv", h, 2 * c.latent_channels, 1, Conv2d::default())?;
        }
        m.graph.cast("moments.cast", h, DType::F32)
    }

    /// Mean and logarithm of the variance of the latents from the encoder's moments.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if `moments` does not have two channels for each of the latents'.
    pub fn distribution(&self, g: &mut Graph, moments: ValueId) -> Result<(ValueId, ValueId)> {
        let channels = self.config.latent_channels;
        let mean = g.slice("mean", moments, -1, 0, channels)?;
        let logvar = g.slice("logvar.slice", moments, -1, channels, channels)?;
        let logvar = g.clamp("logvar", logvar, LOGVAR.0, LOGVAR.1)?;
        Ok((mean, logvar))
    }

    /// Adds the decoder to a graph: the picture, f32.
    ///
    /// # Errors
    /// As [`AutoencoderKL::decoder_graph`].
    pub fn decode(&self, m: &mut Layers<'_>, latent: ValueId) -> Result<ValueId> {
        let c = &self.config;
        let mut h = m.graph.cast("latent.cast", latent, m.dtype)?;
        if c.use_post_quant_conv {
            h = m.conv2d("post_quant_conv", h, c.latent_channels, 1, Conv2d::default())?;
        }
        h = c.decoder(m, h)?;
        m.graph.cast("out.cast", h, DType::F32)
    }
}

/// The encoder of an [`AutoencoderKL`] as a model of its own: `sample` → `mean`, `logvar`.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderKL(pub AutoencoderKL);

/// The decoder of an [`AutoencoderKL`] as a model of its own: `latent` → `sample`.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderKL(pub AutoencoderKL);

impl Model for EncoderKL {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["sample"]
    }

    fn default_sizes(&self) -> Sizes {
        let (height, width) = self.0.config.sample_size;
        Sizes { height, width, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        self.0.encoder_graph(sizes.batch, sizes.height, sizes.width, dtype)
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.0.parameters()
    }
}

impl Model for DecoderKL {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["latent"]
    }

    fn default_sizes(&self) -> Sizes {
        let (size, downscale) = (self.0.config.sample_size, self.0.config.downscale());
        Sizes { height: size.0.div_ceil(downscale), width: size.1.div_ceil(downscale), ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        self.0.decoder_graph(sizes.batch, sizes.height, sizes.width, dtype)
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.0.parameters()
    }
}
