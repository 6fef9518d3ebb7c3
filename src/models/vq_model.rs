//! `VQModel`: an autoencoder whose latents are rows of a codebook (van den Oord et al. 2017, arXiv:1711.00937; Esser et
//! al. 2021, arXiv:2012.09841), as the first latent diffusion models have it (Rombach et al. 2022, appendix G).

use serde_json::json;

use super::autoencoder_kl::AutoencoderKLConfig;
use super::config::ConfigReader;
use super::layers::Layers;
use super::model::{Model, Sizes, parameters_of};
use crate::checkpoint::Json;
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId, WeightLayout};
use crate::ops::contraction::Conv2d;
use crate::tensor::DType;

/// The fields of `config.json` that say what a `VQModel` computes; see `VQModel` in diffusers.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are diffusers' own, under diffusers' names")]
pub struct VQModelConfig {
    /// Encoder and decoder, which are those of an `AutoencoderKL`.
    pub blocks: AutoencoderKLConfig,
    pub num_vq_embeddings: usize,
    /// Width of the codebook, and channels of the latents that a U-Net sees.
    pub vq_embed_dim: usize,
    /// What a U-Net sees is `latent · scaling_factor`. A config without it is of the time before there was one, when
    /// latents were not scaled: 1. (diffusers takes 0.18215 then, which is that of other models.)
    pub scaling_factor: f64,
}

impl VQModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// As [`AutoencoderKLConfig::from_json`].
    pub fn from_json(json: &Json) -> Result<Self> {
        let r = ConfigReader::new(json)?;
        if r.class_name()?.is_some_and(|c| c != "VQModel") {
            return Err(r.unsupported("_class_name", "\"VQModel\""));
        }
        let blocks = AutoencoderKLConfig::blocks(&r, 3)?;
        r.only("norm_type", &[json!("group")])?;
        // The first is for latents that are indices already, the second for training.
        r.ignore(&["lookup_from_codebook", "force_upcast"]);
        let config = Self {
            num_vq_embeddings: r.count("num_vq_embeddings", 256)?,
            vq_embed_dim: r.optional_count("vq_embed_dim")?.unwrap_or(blocks.latent_channels),
            scaling_factor: r.positive("scaling_factor", 1.0)?,
            blocks,
        };
        r.finish()?;
        Ok(config)
    }
}

/// An autoencoder whose decoder takes each latent to the nearest row of a codebook first.
#[derive(Clone, Debug, PartialEq)]
pub struct VQModel {
    /// What it computes.
    pub config: VQModelConfig,
}

impl VQModel {
    /// The model that `config.json` describes.
    ///
    /// # Errors
    /// As [`VQModelConfig::from_json`].
    pub fn from_json(json: &Json) -> Result<Self> {
        Ok(Self { config: VQModelConfig::from_json(json)? })
    }

    /// Names and shapes of all parameters, as they are in the checkpoint.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the config contradicts itself.
    pub fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let size = self.config.blocks.downscale();
        let mut all = parameters_of(
            &EncoderVQ(self.clone()).graph(&Sizes { height: size, width: size, ..Sizes::default() }, DType::F32)?,
        );
        all.extend(parameters_of(&DecoderVQ(self.clone()).graph(&Sizes::default(), DType::F32)?));
        Ok(all)
    }

    /// Adds the encoder to a graph: from pictures `[N, H, W, in_channels]` in [−1, 1] to latents `[N, h, w,
    /// vq_embed_dim]`, f32, not yet rows of the codebook.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the picture is too small, [`crate::Error::Config`] if the config contradicts itself.
    pub fn encode(&self, m: &mut Layers<'_>, sample: ValueId) -> Result<ValueId> {
        let c = &self.config;
        let x = m.graph.cast("sample.cast", sample, m.dtype)?;
        let h = c.blocks.encoder(m, x, c.blocks.latent_channels)?;
        let h = m.conv2d("quant_conv", h, c.vq_embed_dim, 1, Conv2d::default())?;
        m.graph.cast("latents.cast", h, DType::F32)
    }

    /// Adds the decoder to a graph: the number of each latent's nearest code, u32 `[N, h, w]`, and the picture, f32.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the config contradicts itself.
    pub fn decode(&self, m: &mut Layers<'_>, latent: ValueId) -> Result<(ValueId, ValueId)> {
        let c = &self.config;
        let shape = [c.num_vq_embeddings, c.vq_embed_dim];
        // In f32 whatever the rest is stored in: a latent between two codes must not change sides.
        let codes = m.weight("quantize.embedding.weight".into(), &shape, WeightLayout::AsIs, DType::F32);
        let indices = m.graph.nearest_code("quantize", latent, codes)?;
        let nearest = m.graph.embedding("quantize.embedding", indices, codes)?;
        let h = m.graph.cast("quantize.cast", nearest, m.dtype)?;
        let h = m.conv2d("post_quant_conv", h, c.blocks.latent_channels, 1, Conv2d::default())?;
        let h = c.blocks.decoder(m, h)?;
        Ok((indices, m.graph.cast("out.cast", h, DType::F32)?))
    }
}

/// The encoder of a [`VQModel`] as a model of its own: `sample` → `latents`.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderVQ(pub VQModel);

/// The decoder of a [`VQModel`] as a model of its own: `latent` → `sample`, and `indices` of the codes.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderVQ(pub VQModel);

impl Model for EncoderVQ {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["sample"]
    }

    fn default_sizes(&self) -> Sizes {
        let (height, width) = self.0.config.blocks.sample_size;
        Sizes { height, width, ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let shape = [sizes.batch, sizes.height, sizes.width, self.0.config.blocks.in_channels];
        let sample = graph.input("sample", TensorDesc::f32(shape));
        let latents = self.0.encode(&mut Layers::new(&mut graph, dtype), sample)?;
        graph.output("latents", latents);
        Ok(graph)
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.0.parameters()
    }
}

impl Model for DecoderVQ {
    fn input_names(&self) -> Vec<&'static str> {
        vec!["latent"]
    }

    fn default_sizes(&self) -> Sizes {
        let (size, downscale) = (self.0.config.blocks.sample_size, self.0.config.blocks.downscale());
        Sizes { height: size.0.div_ceil(downscale), width: size.1.div_ceil(downscale), ..Sizes::default() }
    }

    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let shape = [sizes.batch, sizes.height, sizes.width, self.0.config.vq_embed_dim];
        let latent = graph.input("latent", TensorDesc::f32(shape));
        let (indices, sample) = self.0.decode(&mut Layers::new(&mut graph, dtype), latent)?;
        graph.output("sample", sample);
        graph.output("indices", indices);
        Ok(graph)
    }

    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.0.parameters()
    }
}
