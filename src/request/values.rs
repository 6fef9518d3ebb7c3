//! Values that requests choose by name.

use serde::{Deserialize, Serialize};

use crate::pipelines::MaskReduction;
use crate::tensor::DType;

/// Element type of weights and activations.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "serve", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit
    #[default]
    F32,
    /// 16-bit storage, 32-bit arithmetic
    F16,
}

impl Precision {
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
        }
    }
}

/// A switch. Not a flag, because a model's default may be either.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "serve", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// Done.
    On,
    /// Not done.
    Off,
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// Whose random numbers a seed starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "serve", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Rng {
    /// `torch.Generator("cpu")`
    #[default]
    TorchCpu,
    /// `torch.Generator("cuda")`
    TorchCuda,
}

/// What of a mask's file is painted over.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "serve", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MaskReading {
    /// What is opaque, if parts are; else what is bright in red, green or blue. A latent is painted over if any of its
    /// pixels is
    #[default]
    Auto,
    /// What is opaque, as in AUTOMATIC1111's web UI
    Alpha,
    /// What is transparent, as in ComfyUI and OpenAI's API
    Erased,
    /// As diffusers: grey of one half and more, without transparency; a latent is painted over if its upper left pixel
    /// is
    Diffusers,
}

impl MaskReading {
    /// How it comes to the size of the latents.
    pub fn reduction(self) -> MaskReduction {
        match self {
            Self::Diffusers => MaskReduction::Nearest,
            Self::Auto | Self::Alpha | Self::Erased => MaskReduction::Largest,
        }
    }
}

/// Kinds of machines that kernels are written for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "serve", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FamilyName {
    /// Tiles in workgroup memory
    Gpu,
    /// Subgroup shuffles, no barriers
    Cpu,
}
