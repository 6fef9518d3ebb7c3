//! The config of [`super::UNet2DConditionModel`].

use serde_json::{Value, json};

use super::config::ConfigReader;
use super::resnet::TimeScaleShift;
use super::unet_2d_config::{downsample_padding, time_scale_shift};
use crate::checkpoint::Json;
use crate::error::{Error, Result};
use crate::ops::activation::ActivationKind;

/// Kinds of blocks, the same on the way down and on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionBlockType {
    /// `DownBlock2D`, `UpBlock2D`: residual blocks.
    Plain,
    /// `CrossAttnDownBlock2D`, `CrossAttnUpBlock2D`: residual blocks, each followed by a transformer that sees the
    /// text.
    CrossAttn,
    /// `ResnetDownsampleBlock2D`, `ResnetUpsampleBlock2D`: residual blocks, the last of which changes the resolution.
    Resnet,
}

/// One block of the U-Net, every per-level list resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionBlock {
    /// Its kind.
    pub kind: ConditionBlockType,
    /// Channels of its output.
    pub channels: usize,
    /// Number of heads of its transformers' attention.
    pub heads: usize,
    /// One entry for each residual block: the layers of the transformer that follows it (if the kind has transformers).
    pub transformer_layers: Vec<usize>,
    /// Whether the first attention of each transformer layer looks at the text.
    pub only_cross_attention: bool,
}

/// Where the class embedding, which is added to the time embedding, comes from (`class_embed_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionClassEmbedding {
    /// The model takes no class.
    None,
    /// A table of this many rows (`num_class_embeds`).
    Table(usize),
    /// Embedded like the timestep, by an MLP of its own.
    Timestep,
    /// The caller gives the embedding.
    Identity,
    /// The caller gives vectors of this width, which an MLP embeds.
    Projection(usize),
    /// The caller gives vectors of this width, which one linear layer embeds.
    SimpleProjection(usize),
}

/// What Stable Diffusion XL adds to the time embedding (`addition_embed_type` "text_time"): pooled text, and numbers
/// about the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTime {
    /// Width of the sinusoidal embedding of each number (`addition_time_embed_dim`).
    pub time_embed_dim: usize,
    /// Width of the pooled text and all embedded numbers together (`projection_class_embeddings_input_dim`).
    pub input_dim: usize,
}

/// The fields of `config.json` that say what a `UNet2DConditionModel` computes; see `UNet2DConditionModel` in diffusers
/// for their meaning.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are diffusers' own, under diffusers' names")]
pub struct UNet2DConditionConfig {
    /// Height and width the model was trained at.
    pub sample_size: Option<(usize, usize)>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub conv_in_kernel: usize,
    pub conv_out_kernel: usize,
    pub time_embedding_dim: usize,
    pub freq_shift: f64,
    pub flip_sin_to_cos: bool,
    pub time_embedding_act_fn: Option<ActivationKind>,
    pub timestep_post_act: Option<ActivationKind>,
    pub time_cond_proj_dim: Option<usize>,
    pub class_embedding: ConditionClassEmbedding,
    pub class_embeddings_concat: bool,
    /// `addition_embed_type`
    pub text_time: Option<TextTime>,
    /// Width of the text if it is projected to `cross_attention_dim` first.
    pub encoder_hid_dim: Option<usize>,
    pub cross_attention_dim: usize,
    pub down_blocks: Vec<ConditionBlock>,
    /// `UNetMidBlock2DCrossAttn`, or `UNetMidBlock2D` (here without attention: one residual block).
    pub mid_block: Option<ConditionBlock>,
    /// From the lowest resolution upwards.
    pub up_blocks: Vec<ConditionBlock>,
    pub act_fn: ActivationKind,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub mid_block_scale_factor: f64,
    pub downsample_padding: usize,
    pub use_linear_projection: bool,
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Of [`ConditionBlockType::Resnet`] blocks only, as in diffusers.
    pub resnet_skip_time_act: bool,
    /// Of [`ConditionBlockType::Resnet`] blocks only, as in diffusers.
    pub resnet_out_scale_factor: f64,
}

/// Fields that change nothing here: for training only; a trainer's notes about its moving average; options of blocks
/// and embeddings that are refused anyway; the precision of attention's softmax, which is always f32.
const NO_EFFECT: &[&str] = &[
    "dropout",
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
    "addition_embed_type_num_heads",
    "mid_block_only_cross_attention",
    "upcast_attention",
];

impl UNet2DConditionConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] if a value makes no sense, [`Error::Unsupported`] for a value or a field that the
    /// engine does not know, by name.
    pub fn from_json(json: &Json) -> Result<Self> {
        let r = ConfigReader::new(json)?;
        if r.class_name()?.is_some_and(|c| c != "UNet2DConditionModel") {
            return Err(r.unsupported("_class_name", "\"UNet2DConditionModel\""));
        }
        r.ignore(NO_EFFECT);
        r.only("time_embedding_type", &[json!("positional")])?;
        r.only("dual_cross_attention", &[json!(false)])?;
        r.only("attention_type", &[json!("default")])?;
        r.only("cross_attention_norm", &[])?;
        // diffusers refuses it too: `attention_head_dim` means the number of heads.
        r.only("num_attention_heads", &[])?;
        for key in ["norm_num_groups", "attention_head_dim", "cross_attention_dim"] {
            if r.is_null(key) {
                return Err(r.unsupported(key, "a value: null belongs to kinds of blocks that are not supported"));
            }
        }

        let blocks = Blocks::read(&r)?;
        let first_channels = blocks.channels[0];
        let config = Self {
            sample_size: r.size("sample_size")?,
            in_channels: r.count("in_channels", 4)?,
            out_channels: r.count("out_channels", 4)?,
            center_input_sample: r.boolean("center_input_sample", false)?,
            conv_in_kernel: odd_kernel(&r, "conv_in_kernel")?,
            conv_out_kernel: odd_kernel(&r, "conv_out_kernel")?,
            time_embedding_dim: r.count("time_embedding_dim", 4 * first_channels)?,
            freq_shift: r.number("freq_shift", 0.0)?,
            flip_sin_to_cos: r.boolean("flip_sin_to_cos", true)?,
            time_embedding_act_fn: r.activation("time_embedding_act_fn")?,
            timestep_post_act: r.activation("timestep_post_act")?,
            time_cond_proj_dim: r.optional_count("time_cond_proj_dim")?,
            class_embedding: class_embedding(&r)?,
            class_embeddings_concat: r.boolean("class_embeddings_concat", false)?,
            text_time: text_time(&r)?,
            encoder_hid_dim: encoder_hid_dim(&r)?,
            cross_attention_dim: cross_attention_dim(&r, blocks.down_kinds.len())?,
            down_blocks: blocks.down(),
            mid_block: blocks.mid(&r)?,
            up_blocks: blocks.up(),
            act_fn: r.activation("act_fn")?.unwrap_or(ActivationKind::Silu),
            norm_num_groups: r.count("norm_num_groups", 32)?,
            norm_eps: r.positive("norm_eps", 1e-5)?,
            mid_block_scale_factor: r.positive("mid_block_scale_factor", 1.0)?,
            downsample_padding: downsample_padding(&r)?,
            use_linear_projection: r.boolean("use_linear_projection", false)?,
            resnet_time_scale_shift: time_scale_shift(&r)?,
            resnet_skip_time_act: r.boolean("resnet_skip_time_act", false)?,
            resnet_out_scale_factor: r.positive("resnet_out_scale_factor", 1.0)?,
        };
        r.finish()?;
        Ok(config)
    }
}

/// Layers of the transformers of one level: the same for all of its residual blocks, or each its own.
#[derive(Clone)]
enum TransformerLayers {
    Same(usize),
    Each(Vec<usize>),
}

/// The lists with an entry for each level, in the order of the down blocks unless said otherwise.
struct Blocks {
    down_kinds: Vec<ConditionBlockType>,
    /// In the order of the up blocks, as `up_layers`.
    up_kinds: Vec<ConditionBlockType>,
    channels: Vec<usize>,
    heads: Vec<usize>,
    only_cross_attention: Vec<bool>,
    down_layers: Vec<Vec<usize>>,
    mid_layers: usize,
    up_layers: Vec<Vec<usize>>,
}

impl Blocks {
    fn read(r: &ConfigReader<'_>) -> Result<Self> {
        let channels = r.counts("block_out_channels")?.unwrap_or(vec![320, 640, 1280, 1280]);
        let cross = |n: usize, name: &'static str| vec![name; n];
        let down = r.texts("down_block_types")?;
        let down = down.unwrap_or_else(|| [cross(3, "CrossAttnDownBlock2D"), vec!["DownBlock2D"]].concat());
        let up = r.texts("up_block_types")?;
        let up = up.unwrap_or_else(|| [vec!["UpBlock2D"], cross(3, "CrossAttnUpBlock2D")].concat());
        let levels = channels.len();
        if down.len() != levels || up.len() != levels {
            return Err(Error::Config(format!(
                "{}: block_out_channels has {levels} entries, down_block_types {} and up_block_types {}; they need the \
                same number",
                r.file(),
                down.len(),
                up.len()
            )));
        }
        let layers = r.count_for_each("layers_per_block", levels, 2)?;
        if layers.iter().any(|l| *l > 64) {
            return Err(r.wrong("layers_per_block", "whole numbers from 1 to 64"));
        }
        let (down_layers, up_layers, mid_layers) = transformer_layers(r, &layers)?;
        Ok(Self {
            down_kinds: down.iter().map(|t| down_block(r, t)).collect::<Result<_>>()?,
            up_kinds: up.iter().map(|t| up_block(r, t)).collect::<Result<_>>()?,
            heads: r.count_for_each("attention_head_dim", levels, 8)?,
            only_cross_attention: r.boolean_for_each("only_cross_attention", levels)?,
            channels,
            down_layers,
            mid_layers,
            up_layers,
        })
    }

    fn down(&self) -> Vec<ConditionBlock> {
        let block = |level: usize| ConditionBlock {
            kind: self.down_kinds[level],
            channels: self.channels[level],
            heads: self.heads[level],
            transformer_layers: self.down_layers[level].clone(),
            only_cross_attention: self.only_cross_attention[level],
        };
        (0..self.channels.len()).map(block).collect()
    }

    /// An up block has one residual block more than its down block.
    fn up(&self) -> Vec<ConditionBlock> {
        let last = self.channels.len() - 1;
        let block = |i: usize| ConditionBlock {
            kind: self.up_kinds[i],
            channels: self.channels[last - i],
            heads: self.heads[last - i],
            transformer_layers: self.up_layers[i].clone(),
            only_cross_attention: self.only_cross_attention[last - i],
        };
        (0..=last).map(block).collect()
    }

    /// An explicit `null` means no mid block; a missing field means the usual one.
    fn mid(&self, r: &ConfigReader<'_>) -> Result<Option<ConditionBlock>> {
        let kind = match r.text("mid_block_type")? {
            None if r.is_null("mid_block_type") => return Ok(None),
            None | Some("UNetMidBlock2DCrossAttn") => ConditionBlockType::CrossAttn,
            Some("UNetMidBlock2D") => ConditionBlockType::Plain,
            Some(_) => {
                return Err(r.unsupported("mid_block_type", "\"UNetMidBlock2DCrossAttn\", \"UNetMidBlock2D\" or null"));
            }
        };
        let last = self.channels.len() - 1;
        Ok(Some(ConditionBlock {
            kind,
            channels: self.channels[last],
            heads: self.heads[last],
            transformer_layers: vec![self.mid_layers],
            only_cross_attention: false,
        }))
    }
}

/// `transformer_layers_per_block` and its reverse: a number, or for each level a number or a list with an entry for
/// each residual block. Returns the layers of the down blocks, of the up blocks, and of the mid block.
#[allow(clippy::type_complexity, reason = "taken apart where it is called")]
fn transformer_layers(r: &ConfigReader<'_>, layers: &[usize]) -> Result<(Vec<Vec<usize>>, Vec<Vec<usize>>, usize)> {
    const DOWN: &str = "transformer_layers_per_block";
    const UP: &str = "reverse_transformer_layers_per_block";
    let levels = layers.len();
    let read = |key: &str| -> Result<Option<Vec<TransformerLayers>>> {
        let wrong = || r.wrong(key, &format!("a whole number from 1 to 64, or {levels} of them or of lists of them"));
        let count = |v: &Value| v.as_u64().filter(|v| (1..=64).contains(v)).map(|v| v as usize);
        let level = |v: &Value| match v.as_array() {
            Some(list) => list.iter().map(count).collect::<Option<_>>().map(TransformerLayers::Each),
            None => count(v).map(TransformerLayers::Same),
        };
        let Some(value) = r.get(key) else { return Ok(None) };
        let list = match value.as_array() {
            Some(list) => list.iter().map(level).collect::<Option<Vec<_>>>(),
            None => count(value).map(|c| vec![TransformerLayers::Same(c); levels]),
        };
        list.filter(|l| l.len() == levels).ok_or_else(wrong).map(Some)
    };
    let expand = |key: &str, level: &TransformerLayers, blocks: usize| match level {
        TransformerLayers::Same(layers) => Ok(vec![*layers; blocks]),
        TransformerLayers::Each(each) if each.len() >= blocks => Ok(each[..blocks].to_vec()),
        TransformerLayers::Each(_) => {
            Err(r.wrong(key, &format!("lists with an entry for each residual block ({blocks} in one level)")))
        }
    };

    let down = read(DOWN)?.unwrap_or(vec![TransformerLayers::Same(1); levels]);
    let nested = down.iter().any(|l| matches!(l, TransformerLayers::Each(_)));
    let (up_key, up) = match read(UP)? {
        Some(up) => (UP, up),
        None if nested => return Err(r.wrong(UP, "given, because transformer_layers_per_block holds lists")),
        None => (DOWN, down.iter().rev().cloned().collect()),
    };
    let mid = expand(DOWN, &down[levels - 1], 1)?[0];
    let down = down.iter().zip(layers).map(|(l, n)| expand(DOWN, l, *n)).collect::<Result<_>>()?;
    let up = up.iter().zip(layers.iter().rev()).map(|(l, n)| expand(up_key, l, n + 1)).collect::<Result<_>>()?;
    Ok((down, up, mid))
}

fn down_block(r: &ConfigReader<'_>, name: &str) -> Result<ConditionBlockType> {
    match name {
        "DownBlock2D" => Ok(ConditionBlockType::Plain),
        "CrossAttnDownBlock2D" => Ok(ConditionBlockType::CrossAttn),
        "ResnetDownsampleBlock2D" => Ok(ConditionBlockType::Resnet),
        _ => Err(r.unsupported("down_block_types", "DownBlock2D, CrossAttnDownBlock2D or ResnetDownsampleBlock2D")),
    }
}

fn up_block(r: &ConfigReader<'_>, name: &str) -> Result<ConditionBlockType> {
    match name {
        "UpBlock2D" => Ok(ConditionBlockType::Plain),
        "CrossAttnUpBlock2D" => Ok(ConditionBlockType::CrossAttn),
        "ResnetUpsampleBlock2D" => Ok(ConditionBlockType::Resnet),
        _ => Err(r.unsupported("up_block_types", "UpBlock2D, CrossAttnUpBlock2D or ResnetUpsampleBlock2D")),
    }
}

/// Even kernels would change the size of the picture.
fn odd_kernel(r: &ConfigReader<'_>, key: &str) -> Result<usize> {
    match r.count(key, 3)? {
        size @ (1 | 3 | 5 | 7) => Ok(size),
        _ => Err(r.unsupported(key, "1, 3, 5 or 7")),
    }
}

/// A number, or one for each level; the text has one width, so they must be equal.
fn cross_attention_dim(r: &ConfigReader<'_>, levels: usize) -> Result<usize> {
    let dims = r.count_for_each("cross_attention_dim", levels, 1280)?;
    if dims.iter().any(|d| *d != dims[0]) {
        return Err(r.unsupported("cross_attention_dim", "the same width for every level"));
    }
    Ok(dims[0])
}

fn class_embedding(r: &ConfigReader<'_>) -> Result<ConditionClassEmbedding> {
    let rows = r.optional_count("num_class_embeds")?;
    let width = || {
        let width = r.optional_count("projection_class_embeddings_input_dim")?;
        width.ok_or_else(|| {
            r.wrong("projection_class_embeddings_input_dim", "given, because class_embed_type is a projection")
        })
    };
    match (r.text("class_embed_type")?, rows) {
        (None, None) => Ok(ConditionClassEmbedding::None),
        (None, Some(rows)) => Ok(ConditionClassEmbedding::Table(rows)),
        (Some("timestep"), _) => Ok(ConditionClassEmbedding::Timestep),
        (Some("identity"), _) => Ok(ConditionClassEmbedding::Identity),
        (Some("projection"), _) => Ok(ConditionClassEmbedding::Projection(width()?)),
        (Some("simple_projection"), _) => Ok(ConditionClassEmbedding::SimpleProjection(width()?)),
        (Some(_), _) => Err(r.unsupported(
            "class_embed_type",
            "\"timestep\", \"identity\", \"projection\", \"simple_projection\" or null",
        )),
    }
}

fn text_time(r: &ConfigReader<'_>) -> Result<Option<TextTime>> {
    let given = |key: &str| -> Result<usize> {
        r.optional_count(key)?.ok_or_else(|| r.wrong(key, "given, because addition_embed_type is text_time"))
    };
    r.ignore(&["addition_time_embed_dim", "projection_class_embeddings_input_dim"]);
    match r.text("addition_embed_type")? {
        None => Ok(None),
        Some("text_time") => {
            let time_embed_dim = given("addition_time_embed_dim")?;
            let input_dim = given("projection_class_embeddings_input_dim")?;
            if input_dim <= time_embed_dim {
                return Err(r.wrong(
                    "projection_class_embeddings_input_dim",
                    &format!(
                        "the width of pooled text and all time_ids together, so above addition_time_embed_dim \
                        {time_embed_dim}"
                    ),
                ));
            }
            Ok(Some(TextTime { time_embed_dim, input_dim }))
        }
        Some(_) => Err(r.unsupported("addition_embed_type", "\"text_time\" or null")),
    }
}

/// `encoder_hid_dim` alone means "text_proj", as in diffusers.
fn encoder_hid_dim(r: &ConfigReader<'_>) -> Result<Option<usize>> {
    let dim = r.optional_count("encoder_hid_dim")?;
    match r.text("encoder_hid_dim_type")? {
        None => Ok(dim),
        Some("text_proj") if dim.is_some() => Ok(dim),
        Some("text_proj") => Err(r.wrong("encoder_hid_dim", "given, because encoder_hid_dim_type is")),
        Some(_) => Err(r.unsupported("encoder_hid_dim_type", "\"text_proj\" or null")),
    }
}
