//! The config of [`super::UNet2DModel`].

use super::config::ConfigReader;
pub use super::resnet::TimeScaleShift;
use crate::checkpoint::Json;
use crate::error::{Error, Result};
use crate::ops::activation::ActivationKind;

/// Kinds of down blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownBlockType {
    /// `DownBlock2D`: residual blocks.
    Down,
    /// `AttnDownBlock2D`: residual blocks, each followed by self-attention.
    AttnDown,
    /// `ResnetDownsampleBlock2D`: residual blocks, the last of which halves the resolution.
    ResnetDownsample,
    /// `SkipDownBlock2D`: NCSN++'s, which also takes the picture itself, halved as often.
    SkipDown,
    /// `AttnSkipDownBlock2D`: the same, each residual block followed by self-attention.
    AttnSkipDown,
}

/// Kinds of up blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpBlockType {
    /// `UpBlock2D`: residual blocks.
    Up,
    /// `AttnUpBlock2D`: residual blocks, each followed by self-attention.
    AttnUp,
    /// `ResnetUpsampleBlock2D`: residual blocks, the last of which doubles the resolution.
    ResnetUpsample,
    /// `SkipUpBlock2D`: NCSN++'s, which adds what it makes to a picture that grows from block to block.
    SkipUp,
    /// `AttnSkipUpBlock2D`: the same, with self-attention after the residual blocks.
    AttnSkipUp,
}

impl DownBlockType {
    /// Whether the block takes the picture itself.
    pub(super) fn skips(self) -> bool {
        matches!(self, Self::SkipDown | Self::AttnSkipDown)
    }
}

impl UpBlockType {
    /// Whether the block adds to the picture.
    pub(super) fn skips(self) -> bool {
        matches!(self, Self::SkipUp | Self::AttnSkipUp)
    }
}

/// How the model is told the noise (`time_embedding_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeEmbedding {
    /// Sines and cosines of the timestep at fixed frequencies (Ho et al. 2020).
    Positional,
    /// Sines and cosines of the logarithm of σ at frequencies that the checkpoint holds; the output is divided by σ
    /// (Song et al. 2021, arXiv:2011.13456).
    Fourier,
}

/// How attention blocks change the resolution (`downsample_type`, `upsample_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResampleType {
    /// A convolution.
    Conv,
    /// A residual block.
    Resnet,
}

/// Where the class embedding comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbedding {
    /// The model takes no class.
    None,
    /// A table of this many rows (`num_class_embeds`).
    Table(usize),
    /// Numbers embedded like the timestep, by an MLP of its own: of this many classes, if `num_class_embeds` says so.
    Timestep(Option<usize>),
    /// The caller gives the embedding.
    Identity,
}

/// The fields of `config.json` that say what a `UNet2DModel` computes; see `UNet2DModel` in diffusers for their
/// meaning.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are diffusers' own, under diffusers' names")]
pub struct UNet2DConfig {
    /// Height and width the model was trained at.
    pub sample_size: Option<(usize, usize)>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub time_embedding_dim: usize,
    pub time_embedding_type: TimeEmbedding,
    pub freq_shift: f64,
    pub flip_sin_to_cos: bool,
    pub down_block_types: Vec<DownBlockType>,
    /// Whether there is a `UNetMidBlock2D`.
    pub mid_block: bool,
    pub up_block_types: Vec<UpBlockType>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub mid_block_scale_factor: f64,
    pub downsample_padding: usize,
    pub downsample_type: ResampleType,
    pub upsample_type: ResampleType,
    pub act_fn: ActivationKind,
    pub attention_head_dim: Option<usize>,
    /// None: a quarter of the channels, at most 32.
    pub norm_num_groups: Option<usize>,
    pub attn_norm_num_groups: Option<usize>,
    pub norm_eps: f64,
    pub resnet_time_scale_shift: TimeScaleShift,
    pub add_attention: bool,
    pub class_embedding: ClassEmbedding,
}

/// Levels of a U-Net: at 12, pictures must be multiples of 2048 pixels.
const MAX_LEVELS: usize = 12;

impl UNet2DConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] if a value makes no sense, [`Error::Unsupported`] for a value or a field that the
    /// engine does not know, by name.
    pub fn from_json(json: &Json) -> Result<Self> {
        let r = ConfigReader::new(json)?;
        if r.class_name()?.is_some_and(|c| c != "UNet2DModel") {
            return Err(r.unsupported("_class_name", "\"UNet2DModel\""));
        }
        // Training alone reads the first; the second sizes a table of learned time embeddings, which is refused below.
        r.ignore(&["dropout", "num_train_timesteps"]);

        let block_out_channels = r.counts("block_out_channels")?.unwrap_or(vec![224, 448, 672, 896]);
        let down = r.texts("down_block_types")?.unwrap_or(vec![
            "DownBlock2D",
            "AttnDownBlock2D",
            "AttnDownBlock2D",
            "AttnDownBlock2D",
        ]);
        let up =
            r.texts("up_block_types")?.unwrap_or(vec!["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]);
        if down.len() != block_out_channels.len() || up.len() != block_out_channels.len() {
            return Err(Error::Config(format!(
                "{}: block_out_channels has {} entries, down_block_types {} and up_block_types {}; they need the same \
                number",
                r.file(),
                block_out_channels.len(),
                down.len(),
                up.len()
            )));
        }
        if block_out_channels.len() > MAX_LEVELS {
            return Err(r.unsupported("block_out_channels", &format!("at most {MAX_LEVELS} levels")));
        }
        let num_class_embeds = r.optional_count("num_class_embeds")?;
        let class_embedding = match (r.text("class_embed_type")?, num_class_embeds) {
            (None, None) => ClassEmbedding::None,
            (None, Some(rows)) => ClassEmbedding::Table(rows),
            (Some("timestep"), classes) => ClassEmbedding::Timestep(classes),
            (Some("identity"), _) => ClassEmbedding::Identity,
            _ => return Err(r.unsupported("class_embed_type", "\"timestep\", \"identity\" or null")),
        };
        let config = Self {
            sample_size: r.size("sample_size")?,
            in_channels: r.count("in_channels", 3)?,
            out_channels: r.count("out_channels", 3)?,
            center_input_sample: r.boolean("center_input_sample", false)?,
            time_embedding_dim: r.count("time_embedding_dim", 4 * block_out_channels[0])?,
            time_embedding_type: match r.text("time_embedding_type")? {
                None | Some("positional") => TimeEmbedding::Positional,
                Some("fourier") => TimeEmbedding::Fourier,
                Some(_) => return Err(r.unsupported("time_embedding_type", "\"positional\" or \"fourier\"")),
            },
            freq_shift: r.number("freq_shift", 0.0)?,
            flip_sin_to_cos: r.boolean("flip_sin_to_cos", true)?,
            down_block_types: down.iter().map(|t| down_block(&r, t)).collect::<Result<_>>()?,
            mid_block: mid_block(&r)?,
            up_block_types: up.iter().map(|t| up_block(&r, t)).collect::<Result<_>>()?,
            layers_per_block: r.count("layers_per_block", 2)?,
            mid_block_scale_factor: r.positive("mid_block_scale_factor", 1.0)?,
            downsample_padding: downsample_padding(&r)?,
            downsample_type: resample_type(&r, "downsample_type")?,
            upsample_type: resample_type(&r, "upsample_type")?,
            act_fn: r.activation("act_fn")?.unwrap_or(ActivationKind::Silu),
            attention_head_dim: attention_head_dim(&r)?,
            norm_num_groups: if r.is_null("norm_num_groups") { None } else { Some(r.count("norm_num_groups", 32)?) },
            attn_norm_num_groups: r.optional_count("attn_norm_num_groups")?,
            norm_eps: r.positive("norm_eps", 1e-5)?,
            resnet_time_scale_shift: time_scale_shift(&r)?,
            add_attention: r.boolean("add_attention", true)?,
            class_embedding,
            block_out_channels,
        };
        if config.layers_per_block > 64 {
            return Err(r.wrong("layers_per_block", "a whole number from 1 to 64"));
        }
        r.get("norm_num_groups");
        config.check_skips(&r)?;
        r.finish()?;
        Ok(config)
    }

    /// Checks that NCSN++'s skip blocks are where the picture that they take or add to has their size and channels.
    fn check_skips(&self, r: &ConfigReader<'_>) -> Result<()> {
        let down: Vec<bool> = self.down_block_types.iter().map(|t| t.skips()).collect();
        let up: Vec<bool> = self.up_block_types.iter().map(|t| t.skips()).collect();
        if !down.is_sorted_by(|before, after| before >= after) {
            return Err(r.unsupported("down_block_types", "skip blocks before all others, which halve no picture"));
        }
        if !up.is_sorted() {
            return Err(r.unsupported("up_block_types", "skip blocks after all others, which double no picture"));
        }
        if down[0] && down.len() > 1 && self.in_channels != 3 {
            return Err(r.unsupported("in_channels", "3 where there are skip blocks, which take pictures in colour"));
        }
        if up[up.len() - 1] && up.len() > 1 && self.out_channels != 3 {
            return Err(r.unsupported("out_channels", "3 where there are skip blocks, which add to pictures in colour"));
        }
        if self.norm_num_groups.is_none() && (!down.iter().all(|skips| *skips) || !up.iter().all(|skips| *skips)) {
            return Err(
                r.unsupported("norm_num_groups", "a whole number where there are blocks other than skip blocks")
            );
        }
        Ok(())
    }

    /// Groups of a norm over `channels`, outside of skip blocks.
    pub(super) fn groups(&self, channels: usize) -> usize {
        self.norm_num_groups.unwrap_or((channels / 4).clamp(1, 32))
    }

    /// How many times the resolution is halved; heights and widths must be multiples of two to this power.
    pub fn halvings(&self) -> usize {
        self.block_out_channels.len() - 1
    }
}

fn down_block(r: &ConfigReader<'_>, name: &str) -> Result<DownBlockType> {
    match name {
        "DownBlock2D" => Ok(DownBlockType::Down),
        "AttnDownBlock2D" => Ok(DownBlockType::AttnDown),
        "ResnetDownsampleBlock2D" => Ok(DownBlockType::ResnetDownsample),
        "SkipDownBlock2D" => Ok(DownBlockType::SkipDown),
        "AttnSkipDownBlock2D" => Ok(DownBlockType::AttnSkipDown),
        _ => Err(r.unsupported(
            "down_block_types",
            "DownBlock2D, AttnDownBlock2D, ResnetDownsampleBlock2D, SkipDownBlock2D or AttnSkipDownBlock2D",
        )),
    }
}

fn up_block(r: &ConfigReader<'_>, name: &str) -> Result<UpBlockType> {
    match name {
        "UpBlock2D" => Ok(UpBlockType::Up),
        "AttnUpBlock2D" => Ok(UpBlockType::AttnUp),
        "ResnetUpsampleBlock2D" => Ok(UpBlockType::ResnetUpsample),
        "SkipUpBlock2D" => Ok(UpBlockType::SkipUp),
        "AttnSkipUpBlock2D" => Ok(UpBlockType::AttnSkipUp),
        _ => Err(r.unsupported(
            "up_block_types",
            "UpBlock2D, AttnUpBlock2D, ResnetUpsampleBlock2D, SkipUpBlock2D or AttnSkipUpBlock2D",
        )),
    }
}

/// An explicit `null` means no mid block; a missing field means the usual one.
fn mid_block(r: &ConfigReader<'_>) -> Result<bool> {
    match r.text("mid_block_type")? {
        Some("UNetMidBlock2D") => Ok(true),
        Some(_) => Err(r.unsupported("mid_block_type", "\"UNetMidBlock2D\" or null")),
        None => Ok(!r.is_null("mid_block_type")),
    }
}

/// An explicit `null` means one head; a missing field means heads of 8 channels.
fn attention_head_dim(r: &ConfigReader<'_>) -> Result<Option<usize>> {
    match r.optional_count("attention_head_dim")? {
        None if !r.is_null("attention_head_dim") => Ok(Some(8)),
        given => Ok(given),
    }
}

pub(super) fn downsample_padding(r: &ConfigReader<'_>) -> Result<usize> {
    match r.get("downsample_padding").map(|v| v.as_u64()) {
        None | Some(Some(1)) => Ok(1),
        Some(Some(0)) => Ok(0),
        Some(_) => Err(r.unsupported("downsample_padding", "0 or 1")),
    }
}

fn resample_type(r: &ConfigReader<'_>, key: &str) -> Result<ResampleType> {
    match r.text(key)? {
        None | Some("conv") => Ok(ResampleType::Conv),
        Some("resnet") => Ok(ResampleType::Resnet),
        Some(_) => Err(r.unsupported(key, "\"conv\" or \"resnet\"")),
    }
}

pub(super) fn time_scale_shift(r: &ConfigReader<'_>) -> Result<TimeScaleShift> {
    match r.text("resnet_time_scale_shift")? {
        None | Some("default") => Ok(TimeScaleShift::Default),
        Some("scale_shift") => Ok(TimeScaleShift::ScaleShift),
        Some(_) => Err(r.unsupported("resnet_time_scale_shift", "\"default\" or \"scale_shift\"")),
    }
}
