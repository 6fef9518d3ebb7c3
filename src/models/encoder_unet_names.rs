//! A classifier from guided-diffusion's files: what its tensors' names and shapes say of it, and its tensors under
//! diffusers' names.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::config::ConfigReader;
use super::encoder_unet::EncoderUNetModel;
use super::unet_2d_config::{ClassEmbedding, DownBlockType, ResampleType, TimeEmbedding, TimeScaleShift, UNet2DConfig};
use crate::checkpoint::{Json, TensorSource};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::graph::Stored;
use crate::ops::activation::ActivationKind;
use crate::tensor::HostTensor;

/// Channels of a head, of all published classifiers (`num_head_channels`).
const HEAD_CHANNELS: usize = 64;
/// Groups of every norm (`GroupNorm32`).
const GROUPS: usize = 32;

impl EncoderUNetModel {
    /// The model in `source`, and its tensors under the names of [`EncoderUNetModel::parameters`]. What names and
    /// shapes do not say, `config` may: `num_head_channels`, `norm_num_groups`, and `classifier_depth` if several fit.
    /// Its other fields, guided-diffusion's options, must agree with the tensors.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a tensor is missing that all such classifiers have, [`Error::Unsupported`] for a pool
    /// other than `attention`, [`Error::Config`] if the config contradicts the tensors.
    pub fn read(source: Arc<dyn TensorSource>, config: Option<&Json>) -> Result<(Self, Arc<dyn TensorSource>)> {
        let nothing = Json::parse("no config.json", "{}".into())?;
        let reader = ConfigReader::new(config.unwrap_or(&nothing))?;
        if reader.class_name()?.is_some_and(|class| class != "EncoderUNetModel") {
            return Err(reader.unsupported("_class_name", "\"EncoderUNetModel\""));
        }
        let head_dim = reader.count("num_head_channels", HEAD_CHANNELS)?;
        let groups = reader.count("norm_num_groups", GROUPS)?;
        let found = Found { label: source.label(), source: &*source };
        let (blocks, depth) = found.blocks(reader.optional_count("classifier_depth")?)?;
        let model = found.model(&blocks, depth, head_dim, groups)?;
        model.agree(&reader, depth)?;
        reader.finish()?;

        let wide = blocks.iter().filter(|block| block.attends).map(|block| block.channels);
        for channels in wide.chain(blocks.last().map(|block| block.channels)) {
            if !channels.is_multiple_of(head_dim) {
                return Err(Error::Config(format!(
                    "{}: attention over {channels} channels cannot have heads of {head_dim}; say how wide they are as \
                     \"num_head_channels\" in the config.json of a folder",
                    found.label
                )));
            }
        }
        let names = source.names().into_iter().flat_map(|name| ours(&name, depth, head_dim, &blocks));
        let names: BTreeMap<_, _> = names.collect();
        Ok((model, Arc::new(Renamed { source, names })))
    }

    /// Compares what a config says with what the tensors say.
    fn agree(&self, r: &ConfigReader<'_>, depth: usize) -> Result<()> {
        let body = &self.body;
        let by_resnet = body.downsample_type == ResampleType::Resnet;
        r.only("image_size", &[json!(self.image_size)])?;
        r.only("out_channels", &[json!(self.classes)])?;
        r.only("classifier_width", &[json!(self.model_channels)])?;
        r.only("classifier_depth", &[json!(depth)])?;
        let scale_shift = body.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        r.only("classifier_use_scale_shift_norm", &[json!(scale_shift)])?;
        if body.block_out_channels.len() > 1 {
            r.only("classifier_resblock_updown", &[json!(by_resnet)])?;
        }
        r.only("classifier_pool", &[json!("attention")])?;
        r.ignore(&["classifier_use_fp16", "classifier_resblock_updown"]);
        if let Some(text) = r.text("classifier_attention_resolutions")? {
            let resolutions: Vec<&str> = text.split(',').map(str::trim).collect();
            for (level, kind) in body.down_block_types.iter().enumerate() {
                let attends = resolutions.contains(&(self.image_size >> level).to_string().as_str());
                if attends != (*kind == DownBlockType::AttnDown) {
                    return Err(r.wrong("classifier_attention_resolutions", "those of the tensors"));
                }
            }
        }
        Ok(())
    }
}

/// One of `input_blocks`, or the end of the middle block.
#[derive(Clone, Copy, Debug)]
struct Block {
    channels: usize,
    attends: bool,
    /// A convolution that halves the resolution.
    halves: bool,
    widens: bool,
}

/// The tensors of a file.
struct Found<'a> {
    label: String,
    source: &'a dyn TensorSource,
}

impl Found<'_> {
    fn shape(&self, name: &str, rank: usize) -> Result<Vec<usize>> {
        let shape = self.source.shape(name).ok_or_else(|| {
            let what = "this is no classifier of guided-diffusion (EncoderUNetModel)";
            Error::Checkpoint(format!("{}: there is no tensor `{name}`: {what}", self.label))
        })?;
        if shape.len() != rank || shape.contains(&0) {
            let expected = format!("expected {rank} dimensions, found shape {shape:?}");
            return Err(Error::Checkpoint(format!("{}: tensor `{name}`: {expected}", self.label)));
        }
        Ok(shape)
    }

    fn has(&self, name: &str) -> bool {
        self.source.shape(name).is_some()
    }

    /// All of `input_blocks`, and the residual blocks of each level that they fit.
    fn blocks(&self, asked: Option<usize>) -> Result<(Vec<Block>, usize)> {
        let channels = self.shape("input_blocks.0.0.weight", 4)?[0];
        let mut blocks = vec![Block { channels, attends: false, halves: false, widens: false }];
        for i in 1.. {
            let path = format!("input_blocks.{i}");
            let halves = self.has(&format!("{path}.0.op.weight"));
            let name = format!("{path}.0.{}", if halves { "op.weight" } else { "out_layers.3.weight" });
            if !self.has(&name) {
                break;
            }
            blocks.push(Block {
                channels: self.shape(&name, 4)?[0],
                attends: self.has(&format!("{path}.1.qkv.weight")),
                halves,
                widens: self.has(&format!("{path}.0.skip_connection.weight")),
            });
        }
        let fits = |depth: &usize| {
            let by_convolution = blocks.iter().any(|block| block.halves);
            blocks.len().is_multiple_of(depth + 1)
                && (1..blocks.len()).all(|i| {
                    let (block, before) = (blocks[i], blocks[i - 1]);
                    match i % (depth + 1) {
                        0 => block.halves == by_convolution && !block.attends && !block.widens,
                        1 => !block.halves,
                        // Within a level all are alike.
                        _ => !block.halves && !block.widens && block.attends == before.attends,
                    }
                })
        };
        let depths: Vec<usize> = (1..blocks.len()).filter(fits).filter(|d| asked.is_none_or(|a| a == *d)).collect();
        match depths.as_slice() {
            [depth] => Ok((blocks, *depth)),
            [] => Err(Error::Checkpoint(format!(
                "{}: {} input_blocks that make no levels of equal depth{}",
                self.label,
                blocks.len(),
                asked.map_or(String::new(), |depth| format!(" {depth} (\"classifier_depth\")"))
            ))),
            several => Err(Error::Config(format!(
                "{}: levels may have a depth of {several:?}; say which as \"classifier_depth\" in the config.json of a \
                 folder",
                self.label
            ))),
        }
    }

    fn model(&self, blocks: &[Block], depth: usize, head_dim: usize, groups: usize) -> Result<EncoderUNetModel> {
        if !self.has("out.2.positional_embedding") && self.has("middle_block.0.in_layers.0.weight") {
            return Err(Error::Unsupported(format!(
                "{}: a classifier without `out.2.positional_embedding`: of guided-diffusion's pools (classifier_pool) \
                 \"attention\" is read",
                self.label
            )));
        }
        let positions = self.shape("out.2.positional_embedding", 2)?[1];
        let side = (positions - 1).isqrt();
        let levels = blocks.len() / (depth + 1);
        if side == 0 || side * side + 1 != positions || levels > 12 {
            let found = format!("{positions} positions after {levels} levels, which belong to no square picture");
            return Err(Error::Checkpoint(format!("{}: out.2.positional_embedding: {found}", self.label)));
        }
        let time = self.shape("time_embed.0.weight", 2)?;
        let emb = self.shape("middle_block.0.emb_layers.1.weight", 2)?[0];
        let out = self.shape("middle_block.0.out_layers.3.weight", 4)?[0];
        let by_resnet = !blocks.iter().any(|block| block.halves);
        let scale_shift = emb == 2 * out;
        let each_level = || (0..levels).map(|level| blocks[level * (depth + 1) + 1]);
        let kind = |block: Block| match (block.attends, by_resnet) {
            (true, _) => DownBlockType::AttnDown,
            (false, true) => DownBlockType::ResnetDownsample,
            (false, false) => DownBlockType::Down,
        };
        let resample = if by_resnet { ResampleType::Resnet } else { ResampleType::Conv };
        let body = UNet2DConfig {
            sample_size: None,
            in_channels: self.shape("input_blocks.0.0.weight", 4)?[1],
            out_channels: 1,
            center_input_sample: false,
            time_embedding_dim: time[0],
            time_embedding_type: TimeEmbedding::Positional,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: each_level().map(kind).collect(),
            mid_block: true,
            up_block_types: Vec::new(),
            block_out_channels: each_level().map(|block| block.channels).collect(),
            layers_per_block: depth,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: resample,
            upsample_type: resample,
            act_fn: ActivationKind::Silu,
            attention_head_dim: Some(head_dim),
            norm_num_groups: Some(groups),
            attn_norm_num_groups: Some(groups),
            norm_eps: 1e-5,
            resnet_time_scale_shift: if scale_shift { TimeScaleShift::ScaleShift } else { TimeScaleShift::Default },
            add_attention: true,
            class_embedding: ClassEmbedding::None,
        };
        let classes = self.shape("out.2.c_proj.weight", 3)?[0];
        Ok(EncoderUNetModel { image_size: side << (levels - 1), classes, model_channels: time[1], body })
    }
}

/// How a tensor is made of a stored one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Made {
    /// It is the same.
    AsIs,
    /// Without the last dimension, which is 1: convolutions over sequences are matrices.
    Matrix,
    /// Of every three runs of `dim` rows, one for each of q, k and v, the one at `part`; then as [`Made::Matrix`].
    Rows { part: usize, dim: usize },
    /// Its transpose.
    Transposed,
}

/// Our names for a stored tensor, and how each is made; its own name, if it is none of such a classifier.
fn ours(name: &str, depth: usize, head_dim: usize, blocks: &[Block]) -> Vec<(String, (String, Made))> {
    let named = |of: String, made| (of, (name.to_owned(), made));
    let thirds = |path: &str, kind: &str, dim: usize| -> Vec<_> {
        let parts = ["to_q", "to_k", "to_v"].into_iter().enumerate();
        parts.map(|(part, to)| named(format!("{path}.{to}.{kind}"), Made::Rows { part, dim })).collect()
    };
    let unknown = || vec![named(name.to_owned(), Made::AsIs)];
    let parts: Vec<&str> = name.split('.').collect();
    let (path, rest, is_middle) = match parts.as_slice() {
        ["time_embed", "0", kind] => return vec![named(format!("time_embedding.linear_1.{kind}"), Made::AsIs)],
        ["time_embed", "2", kind] => return vec![named(format!("time_embedding.linear_2.{kind}"), Made::AsIs)],
        ["out", "0", kind] => return vec![named(format!("conv_norm_out.{kind}"), Made::AsIs)],
        ["out", "2", "positional_embedding"] => {
            return vec![named("pool.positional_embedding".into(), Made::Transposed)];
        }
        ["out", "2", "qkv_proj", kind] => {
            // The new order of guided-diffusion's QKVAttention: q, k and v of all heads.
            return thirds("pool", kind, blocks.last().map_or(1, |block| block.channels));
        }
        ["out", "2", "c_proj", kind] => return vec![named(format!("pool.to_out.{kind}"), Made::Matrix)],
        ["input_blocks", "0", "0", kind] => return vec![named(format!("conv_in.{kind}"), Made::AsIs)],
        ["input_blocks", number, place, rest @ ..] => {
            let Ok(i) = number.parse::<usize>() else { return unknown() };
            let (level, at) = (i.saturating_sub(1) / (depth + 1), i.saturating_sub(1) % (depth + 1));
            let path = match (*place, at == depth) {
                ("0", false) => format!("down_blocks.{level}.resnets.{at}"),
                ("1", false) => format!("down_blocks.{level}.attentions.{at}"),
                ("0", true) => format!("down_blocks.{level}.downsamplers.0"),
                _ => return unknown(),
            };
            (path, rest, false)
        }
        ["middle_block", place, rest @ ..] => {
            let path = match *place {
                "0" => "resnets.0",
                "1" => "attentions.0",
                "2" => "resnets.1",
                _ => return unknown(),
            };
            (format!("mid_block.{path}"), rest, true)
        }
        _ => return unknown(),
    };
    let as_is = |part: &str, kind: &str| vec![named(format!("{path}.{part}.{kind}"), Made::AsIs)];
    match rest {
        ["in_layers", "0", kind] => as_is("norm1", kind),
        ["in_layers", "2", kind] => as_is("conv1", kind),
        ["emb_layers", "1", kind] => as_is("time_emb_proj", kind),
        ["out_layers", "0", kind] => as_is("norm2", kind),
        ["out_layers", "3", kind] => as_is("conv2", kind),
        ["skip_connection", kind] if !is_middle => as_is("conv_shortcut", kind),
        ["op", kind] if !is_middle => as_is("conv", kind),
        ["norm", kind] => as_is("group_norm", kind),
        // The old order: q, k and v of each head.
        ["qkv", kind] => thirds(&path, kind, head_dim),
        ["proj_out", kind] => vec![named(format!("{path}.to_out.0.{kind}"), Made::Matrix)],
        _ => unknown(),
    }
}

/// Tensors under our names.
struct Renamed {
    source: Arc<dyn TensorSource>,
    /// Our name → stored name, and how ours is made of it.
    names: BTreeMap<String, (String, Made)>,
}

impl Made {
    fn shape(self, mut shape: Vec<usize>) -> Vec<usize> {
        match self {
            Self::AsIs => return shape,
            Self::Transposed => shape.reverse(),
            Self::Matrix | Self::Rows { .. } => {
                if shape.len() == 3 && shape[2] == 1 {
                    shape.pop();
                }
            }
        }
        if let (Self::Rows { .. }, Some(rows)) = (self, shape.first_mut()) {
            *rows /= 3;
        }
        shape
    }

    fn of(self, stored: &HostTensor) -> Result<HostTensor> {
        let shape = self.shape(stored.shape.clone());
        let width: usize = stored.shape.iter().skip(1).product();
        let data = match self {
            Self::AsIs | Self::Matrix => stored.data.clone(),
            Self::Transposed => (0..width).flat_map(|c| stored.data.iter().skip(c).step_by(width)).copied().collect(),
            Self::Rows { part, dim } => {
                let runs = stored.data.chunks(dim * width).skip(part).step_by(3);
                runs.flatten().copied().collect()
            }
        };
        HostTensor::new(shape, data)
    }
}

impl TensorSource for Renamed {
    fn label(&self) -> String {
        self.source.label()
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (stored, made) = self.names.get(name)?;
        Some(made.shape(self.source.shape(stored)?))
    }

    fn read_f32(&self, name: &str) -> Result<HostTensor> {
        let missing = || Error::Checkpoint(format!("{}: there is no tensor `{name}`", self.label()));
        let (stored, made) = self.names.get(name).ok_or_else(missing)?;
        made.of(&self.source.read_f32(stored)?)
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let (stored, made) = self.names.get(name)?;
        if matches!(made, Made::AsIs | Made::Matrix) { self.source.stored(stored) } else { None }
    }

    fn content(&self, name: &str) -> Result<ContentId> {
        match self.names.get(name) {
            Some((stored, Made::AsIs | Made::Matrix)) => self.source.content(stored),
            _ => Ok(crate::graph::content_of(&self.read_f32(name)?)),
        }
    }
}
