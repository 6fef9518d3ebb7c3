//! Well-known models without anyone's weights: real configurations and random numbers, for timing and planning.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::autoencoder_kl::{AutoencoderKL, DecoderKL};
use super::model::Model;
use super::unet_2d::UNet2DModel;
use super::unet_2d_condition::UNet2DConditionModel;
use crate::checkpoint::Json;
use crate::content::ContentId;
use crate::error::Result;
use crate::graph::{WeightPart, WeightSource, expect_own};
use crate::ops::Fill;
use crate::tensor::HostTensor;

/// A well-known model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Preset {
    /// U-Net of Stable Diffusion 1.5 (860 M parameters), 64 x 64 latents: pictures of 512 x 512
    Sd15,
    /// U-Net of Stable Diffusion XL (2.6 G parameters), 128 x 128 latents: pictures of 1024 x 1024
    Sdxl,
    /// Decoder of their autoencoder, 64 x 64 latents to a picture of 512 x 512
    Vae,
    /// U-Net of DDPM for CIFAR-10 (36 M parameters), 32 x 32 pixels
    Ddpm,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 4] = [Self::Sd15, Self::Sdxl, Self::Vae, Self::Ddpm];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sd15 => "sd15",
            Self::Sdxl => "sdxl",
            Self::Vae => "vae",
            Self::Ddpm => "ddpm",
        }
    }

    /// The model. Its parameters can be [`RandomWeights`].
    ///
    /// # Errors
    /// None that a test does not find.
    pub fn model(self) -> Result<Box<dyn Model>> {
        let json = Json::parse(format!("preset {}", self.name()), self.config().to_string())?;
        Ok(match self {
            Self::Sd15 | Self::Sdxl => Box::new(UNet2DConditionModel::from_json(&json)?),
            Self::Vae => Box::new(DecoderKL(AutoencoderKL::from_json(&json)?)),
            Self::Ddpm => Box::new(UNet2DModel::from_json(&json)?),
        })
    }

    /// What the configuration published with the model says beyond the defaults of its class.
    fn config(self) -> Value {
        match self {
            Self::Sd15 => json!({
                "_class_name": "UNet2DConditionModel",
                "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280],
                "attention_head_dim": 8, "cross_attention_dim": 768,
                "down_block_types":
                    ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            }),
            Self::Sdxl => json!({
                "_class_name": "UNet2DConditionModel",
                "sample_size": 128, "block_out_channels": [320, 640, 1280],
                "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": true,
                "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            }),
            Self::Vae => json!({
                "_class_name": "AutoencoderKL",
                "sample_size": 512, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
                "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215,
                "down_block_types":
                    ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
                "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
            }),
            Self::Ddpm => json!({
                "_class_name": "UNet2DModel",
                "sample_size": 32, "in_channels": 3, "out_channels": 3, "block_out_channels": [128, 256, 256, 256],
                "layers_per_block": 2, "attention_head_dim": null, "norm_eps": 1e-6, "norm_num_groups": 32,
                "freq_shift": 1, "flip_sin_to_cos": false, "downsample_padding": 0,
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            }),
        }
    }
}

/// Random parameters of any name and shape, scaled so that activations stay near one: matrices and filters normal with
/// a variance of one over the terms of a sum, norms' scales near 1 and everything else of one dimension near 0.
/// Always the same for a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomWeights;

/// Normal numbers that are repeated from an offset which depends on the name; a prime length, so that no row of a
/// matrix is like another.
static NORMAL: LazyLock<Vec<f32>> = LazyLock::new(|| Fill::Normal.tensor(&[65_521], 1).data);

impl WeightSource for RandomWeights {
    fn read(&self, part: &WeightPart) -> Result<HostTensor> {
        expect_own(part)?;
        let hash = self.content(part)?;
        let offset = u64::from_le_bytes(hash.bytes()[..8].try_into().expect("ids are longer")) as usize % NORMAL.len();
        let terms = part.shape.get(1..).map_or(1, |rest| rest.iter().product::<usize>());
        let (middle, spread) = match part.shape.len() {
            0 | 1 if part.name.ends_with("weight") => (1.0, 0.1),
            0 | 1 => (0.0, 0.05),
            _ => (0.0, (terms.max(1) as f32).sqrt().recip()),
        };
        let numbers = NORMAL.iter().cycle().skip(offset).map(|v| middle + spread * v);
        HostTensor::new(part.shape.as_slice(), numbers.take(part.shape.iter().product()).collect())
    }

    fn content(&self, part: &WeightPart) -> Result<ContentId> {
        Ok(ContentId::of(&[b"random", part.name.as_bytes(), format!("{:?}", part.shape).as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_the_published_models() {
        // Parameters as `sum(p.numel() for p in model.parameters())` of diffusers counts them.
        let published = [(Preset::Sd15, 859_520_964), (Preset::Sdxl, 2_567_463_684), (Preset::Ddpm, 35_746_307)];
        for (preset, count) in published {
            let parameters = preset.model().expect("a sound config").parameters().expect("a sound config");
            let elements: usize = parameters.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert_eq!(elements, count, "{}", preset.name());
        }
        let decoder = Preset::Vae.model().expect("a sound config");
        assert_eq!((decoder.default_sizes().height, decoder.default_sizes().width), (64, 64));
    }

    #[test]
    fn random_weights_differ_by_name_and_have_the_scale_they_should() {
        let part = |name: &str, shape: &[usize]| WeightPart { source: None, name: name.into(), shape: shape.into() };
        let read = |name: &str, shape: &[usize]| RandomWeights.read(&part(name, shape)).expect("any name").data;
        let matrix = read("a.weight", &[300, 100]);
        let mean = matrix.iter().sum::<f32>() / matrix.len() as f32;
        let square = matrix.iter().map(|v| v * v).sum::<f32>() / matrix.len() as f32;
        assert!(mean.abs() < 0.01 && (square - 0.01).abs() < 1e-3, "{mean} {square}");
        assert_ne!(read("b.weight", &[300, 100]), matrix);
        assert_eq!(read("a.weight", &[300, 100]), matrix);
        assert!(read("norm.weight", &[640]).iter().all(|v| (v - 1.0).abs() < 0.6));
    }
}
