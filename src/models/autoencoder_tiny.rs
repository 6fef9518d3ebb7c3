//! `AutoencoderTiny`: a small and fast stand-in for [`super::AutoencoderKL`], for previews (madebyollin's TAESD).
//!
//! Its latents are those that the U-Net works on: they are not scaled, and the encoder returns them without a
//! distribution.

use serde_json::json;

use super::config::ConfigReader;
use super::layers::Layers;
use super::model::{Model, Sizes, parameters_of};
use crate::checkpoint::Json;
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::activation::ActivationKind;
use crate::ops::contraction::Conv2d;
use crate::tensor::DType;

/// The decoder bends latents smoothly into ±3 before it looks at them.
const LATENT_RANGE: f64 = 3.0;

/// The fields of `config.json` that say what an `AutoencoderTiny` computes; see `AutoencoderTiny` in diffusers for
/// their meaning.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are diffusers' own, under diffusers' names")]
pub struct AutoencoderTinyConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    pub encoder_block_out_channels: Vec<usize>,
    pub decoder_block_out_channels: Vec<usize>,
    pub num_encoder_blocks: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    pub act_fn: ActivationKind,
    pub upsampling_scaling_factor: usize,
    /// What a U-Net sees is `latent · scaling_factor`.
    pub scaling_factor: f64,
}

impl AutoencoderTinyConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if a value makes no sense, [`crate::Error::Unsupported`] for a value or a
    /// field that the engine does not know, by name.
    pub fn from_json(json: &Json) -> Result<Self> {
        let r = ConfigReader::new(json)?;
        if r.class_name()?.is_some_and(|c| c != "AutoencoderTiny") {
            return Err(r.unsupported("_class_name", "\"AutoencoderTiny\""));
        }
        r.only("upsample_fn", &[json!("nearest")])?;
        r.only("shift_factor", &[json!(0), json!(0.0)])?;
        // A copy of decoder_block_out_channels; how to store latents as 8-bit pictures, which nothing here does; and
        // that f16 is enough.
        r.ignore(&["block_out_channels", "latent_magnitude", "latent_shift", "force_upcast"]);
        let list =
            |key: &str, default: [usize; 4]| -> Result<Vec<usize>> { Ok(r.counts(key)?.unwrap_or(default.to_vec())) };
        let config = Self {
            in_channels: r.count("in_channels", 3)?,
            out_channels: r.count("out_channels", 3)?,
            latent_channels: r.count("latent_channels", 4)?,
            encoder_block_out_channels: list("encoder_block_out_channels", [64; 4])?,
            decoder_block_out_channels: list("decoder_block_out_channels", [64; 4])?,
            num_encoder_blocks: list("num_encoder_blocks", [1, 3, 3, 3])?,
            num_decoder_blocks: list("num_decoder_blocks", [3, 3, 3, 1])?,
            act_fn: r.activation("act_fn")?.unwrap_or(ActivationKind::Relu),
            upsampling_scaling_factor: r.count("upsampling_scaling_factor", 2)?,
            scaling_factor: r.positive("scaling_factor", 1.0)?,
        };
        let levels = [
            (
                "encoder_block_out_channels",
                &config.encoder_block_out_channels,
                "num_encoder_blocks",
                &config.num_encoder_blocks,
            ),
            (
                "decoder_block_out_channels",
                &config.decoder_block_out_channels,
                "num_decoder_blocks",
                &config.num_decoder_blocks,
            ),
        ];
        for (channels_key, channels, blocks_key, blocks) in levels {
            if channels.len() > 10 {
                return Err(r.wrong(channels_key, "a list of at most 10 levels"));
            }
            if channels.len() != blocks.len() {
                return Err(r.wrong(blocks_key, &format!("as long as {channels_key} ({})", channels.len())));
            }
            // A level's first convolution has as many inputs as outputs.
            if channels.iter().any(|c| *c != channels[0]) {
                return Err(r.wrong(channels_key, "the same number for every level"));
            }
            if blocks.iter().any(|b| *b > 64) {
                return Err(r.wrong(blocks_key, "whole numbers from 1 to 64"));
            }
        }
        if config.upsampling_scaling_factor > 4 {
            return Err(r.unsupported("upsampling_scaling_factor", "a whole number from 1 to 4"));
        }
        r.finish()?;
        Ok(config)
    }

    /// How many pixels one latent covers in each direction.
    pub fn downscale(&self) -> usize {
        1 << (self.encoder_block_out_channels.len() - 1)
    }
}

/// An autoencoder of plain convolutions.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderTiny {
    /// What it computes.
    pub config: AutoencoderTinyConfig,
}

/// Counts the layers, which checkpoints number from 0.
struct Sequential<'a> {
    path: &'a str,
    next: usize,
}

impl Sequential<'_> {
    fn next(&mut self) -> String {
        self.next += 1;
        format!("{}.layers.{}", self.path, self.next - 1)
    }
}

impl AutoencoderTiny {
    /// The model that `config.json` describes.
    ///
    /// # Errors
    /// As [`AutoencoderTinyConfig::from_json`].
    pub fn from_json(json: &Json) -> Result<Self> {
        Ok(Self { config: AutoencoderTinyConfig::from_json(json)? })
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

    /// A graph of the encoder: input `sample` `[N, H, W, in_channels]` in [−1, 1]; output `latents` `[N, h, w,
    /// latent_channels]`. Inputs and outputs are f32, everything between is stored as `dtype`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the picture is empty.
    pub fn encoder_graph(&self, batch: usize, height: usize, width: usize, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let sample = graph.input("sample", TensorDesc::f32([batch, height, width, self.config.in_channels]));
        let latents = self.encode(&mut Layers::new(&mut graph, dtype), sample)?;
        graph.output("latents", latents);
        Ok(graph)
    }

    /// A graph of the decoder: input `latent` `[N, h, w, latent_channels]`; output `sample` `[N, H, W, out_channels]`,
    /// roughly in [−1, 1]. Inputs and outputs are f32, everything between is stored as `dtype`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the latent is empty.
    pub fn decoder_graph(&self, batch: usize, height: usize, width: usize, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let latent = graph.input("latent", TensorDesc::f32([batch, height, width, self.config.latent_channels]));
        let sample = self.decode(&mut Layers::new(&mut graph, dtype), latent)?;
        graph.output("sample", sample);
        Ok(graph)
    }

    /// Adds the encoder to a graph: the latents, f32.
    ///
    /// # Errors
    /// As [`AutoencoderTiny::encoder_graph`].
    pub fn encode(&self, m: &mut Layers<'_>, sample: ValueId) -> Result<ValueId> {
        let c = &self.config;
        let mut layer = Sequential { path: "encoder", next: 0 };

        // from [−1, 1] to [0, 1]
        let x = m.graph.scale("encoder.scale", sample, 0.5, 0.5)?;
        let mut h = m.graph.cast("sample.cast", x, m.dtype)?;
        for (level, (channels, blocks)) in c.encoder_block_out_channels.iter().zip(&c.num_encoder_blocks).enumerate() {
            h = if level == 0 {
                m.conv3x3(&layer.next(), h, *channels)?
            } else {
                m.conv2d_without_bias(
                    &layer.next(),
                    h,
                    *channels,
                    3,
                    Conv2d { stride: [2, 2], padding: [1; 4], ..Conv2d::default() },
                )?
            };
            for _ in 0..*blocks {
                h = self.block(m, &layer.next(), h)?;
            }
        }
        h = m.conv3x3(&layer.next(), h, c.latent_channels)?;
        m.graph.cast("latents.cast", h, DType::F32)
    }

    /// Adds the decoder to a graph: the picture, f32.
    ///
    /// # Errors
    /// As [`AutoencoderTiny::decoder_graph`].
    pub fn decode(&self, m: &mut Layers<'_>, latent: ValueId) -> Result<ValueId> {
        let c = &self.config;
        let mut layer = Sequential { path: "decoder", next: 0 };

        // 3·tanh(latent / 3)
        let x = m.graph.scale("decoder.clamp.divide", latent, 1.0 / LATENT_RANGE, 0.0)?;
        let x = m.graph.activation("decoder.clamp.tanh", x, ActivationKind::Tanh)?;
        let x = m.graph.scale("decoder.clamp.multiply", x, LATENT_RANGE, 0.0)?;
        let mut h = m.graph.cast("latent.cast", x, m.dtype)?;

        h = m.conv3x3(&layer.next(), h, c.decoder_block_out_channels[0])?;
        h = m.activation(&layer.next(), h, c.act_fn)?;
        let levels = c.decoder_block_out_channels.iter().zip(&c.num_decoder_blocks);
        for (level, (channels, blocks)) in levels.enumerate() {
            for _ in 0..*blocks {
                h = self.block(m, &layer.next(), h)?;
            }
            h = if level + 1 < c.decoder_block_out_channels.len() {
                let (height, width) = (m.graph.shape(h)[1], m.graph.shape(h)[2]);
                let factor = c.upsampling_scaling_factor;
                h = m.graph.upsample_nearest(layer.next(), h, factor * height, factor * width)?;
                m.conv2d_without_bias(&layer.next(), h, *channels, 3, Conv2d { padding: [1; 4], ..Conv2d::default() })?
            } else {
                m.conv3x3(&layer.next(), h, c.out_channels)?
            };
        }

        // from [0, 1] to [−1, 1]
        let out = m.graph.cast("out.cast", h, DType::F32)?;
        m.graph.scale("decoder.scale", out, 2.0, -1.0)
    }

    /// `AutoencoderTinyBlock`: three convolutions and a shortcut.
    fn block(&self, m: &mut Layers<'_>, path: &str, x: ValueId) -> Result<ValueId> {
        let channels = m.graph.desc(x).channels();
        let h = m.conv3x3(&format!("{path}.conv.0"), x, channels)?;
        let h = m.activation(&format!("{path}.conv.1"), h, self.config.act_fn)?;
        let h = m.conv3x3(&format!("{path}.conv.2"), h, channels)?;
        let h = m.activation(&format!("{path}.conv.3"), h, self.config.act_fn)?;
        let h = m.conv3x3(&format!("{path}.conv.4"), h, channels)?;
        let y = m.graph.add(format!("{path}.add"), x, h)?;
        m.activation(&format!("{path}.fuse"), y, ActivationKind::Relu)
    }
}

/// The encoder of an [`AutoencoderTiny`] as a model of its own: `sample` → `latents`.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderTiny(pub AutoencoderTiny);

/// The decoder of an [`AutoencoderTiny`] as a model of its own: `latent` → `sample`.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderTiny(pub AutoencoderTiny);

/// The models were trained on pictures of this size; no config says so.
const SAMPLE_SIZE: usize = 512;

impl Model for EncoderTiny {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["sample"]
    }

    fn default_sizes(&self) -> Sizes {
        Sizes { height: SAMPLE_SIZE, width: SAMPLE_SIZE, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        self.0.encoder_graph(sizes.batch, sizes.height, sizes.width, dtype)
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.0.parameters()
    }
}

impl Model for DecoderTiny {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["latent"]
    }

    fn default_sizes(&self) -> Sizes {
        let size = SAMPLE_SIZE.div_ceil(self.0.config.downscale());
        Sizes { height: size, width: size, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        self.0.decoder_graph(sizes.batch, sizes.height, sizes.width, dtype)
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.0.parameters()
    }
}
