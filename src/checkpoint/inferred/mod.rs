//! Configurations of a single-file checkpoint, inferred from the names and shapes of its tensors.
//!
//! The family comes from the U-Net, the text towers follow from it. Shapes do not tell everything: not the number of
//! attention heads (8 in SD 1 and the upscaler, 64 channels a head in SD 2 and XL), the groups of the norms (32), what
//! the U-Net predicts, the noise schedule, the scale of the latents and the size of the pictures it was trained on.
//! These are the values that the published models of each family have.

mod scheduler;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Tensors;
use super::layout::Names;
use super::single_file::Pieces;
use crate::error::{Error, Result};

/// What a file was found to be.
#[derive(Debug)]
pub struct Inferred {
    /// `model_index.json`.
    pub index: Value,
    /// Component → its `config.json` or `scheduler_config.json`.
    pub configs: BTreeMap<String, Value>,
    /// Component → its tensors in diffusers' names, without those that its model does not have.
    pub pieces: BTreeMap<String, Pieces>,
    /// What was assumed, one sentence each.
    pub assumptions: Vec<String>,
    /// What kind of model it is.
    pub family: Family,
}

/// What a file holds: the pieces of each model, in diffusers' names.
#[derive(Default)]
pub struct Models {
    /// The denoiser.
    pub unet: Option<Pieces>,
    /// The autoencoder.
    pub vae: Option<Pieces>,
    /// The text towers, and whose names they have.
    pub towers: Vec<(Names, Pieces)>,
}

/// The families, which differ in what the shapes do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// SD 1.x: CLIP text tower, 1×1 convolutions round the transformers, 8 heads.
    Sd1,
    /// SD 2.x: OpenCLIP text tower, 64 channels a head.
    Sd2,
    /// SD 2's 4× upscaler: noise level as a class, 8 heads.
    Upscaler,
    /// XL: vector condition, two text towers.
    Xl,
    /// XL's refiner: vector condition, the second text tower alone.
    Refiner,
}

impl Family {
    fn is_xl(self) -> bool {
        matches!(self, Self::Xl | Self::Refiner)
    }

    /// The family of a U-Net with this `config.json`.
    pub fn of_config(unet: &Value) -> Self {
        if unet["addition_embed_type"] == "text_time" {
            if unet["cross_attention_dim"] == 1280 { Self::Refiner } else { Self::Xl }
        } else if !unet["num_class_embeds"].is_null() {
            Self::Upscaler
        } else if unet["use_linear_projection"] == true {
            Self::Sd2
        } else {
            Self::Sd1
        }
    }

    /// The family as the U-Net shows it; `towers` are the widths of the text towers beside it.
    fn of(unet: &Shapes<'_>, towers: &[usize]) -> Result<Self> {
        let context = unet.context()?;
        let matrices = unet.any("attentions.0.proj_in.weight").is_some_and(|shape| shape.len() == 2);
        if unet.has("class_embedding.weight") {
            return Ok(Self::Upscaler);
        }
        // SD 2's unCLIP models have a vector condition too; XL has no attention at the finest level.
        if unet.has("add_embedding.linear_1.weight") && unet.count("down_blocks.0.attentions.") == 0 {
            let alone = matches!(*towers, [width] if width == context);
            return Ok(if alone || (towers.is_empty() && context == 1280) { Self::Refiner } else { Self::Xl });
        }
        Ok(match context {
            768 => Self::Sd1,
            1024 => Self::Sd2,
            _ if matrices => Self::Sd2,
            _ => Self::Sd1,
        })
    }
}

/// The shapes of one model by diffusers' names, read with messages that name the file.
struct Shapes<'a> {
    file: &'a Tensors,
    pieces: &'a Pieces,
}

impl Shapes<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.pieces.get(name).map(|piece| piece.shape.as_slice())
    }

    fn has(&self, name: &str) -> bool {
        self.pieces.contains_key(name)
    }

    /// The shape of some tensor whose name ends so.
    fn any(&self, end: &str) -> Option<&[usize]> {
        self.pieces.iter().find(|(name, _)| name.ends_with(end)).map(|(_, piece)| piece.shape.as_slice())
    }

    /// Dimension `axis` of a tensor that must be there.
    fn dim(&self, name: &str, axis: usize) -> Result<usize> {
        self.shape(name).and_then(|shape| shape.get(axis).copied()).ok_or_else(|| {
            Error::Checkpoint(format!(
                "{}: a model is recognised by its tensor `{name}` (in diffusers' names) of at least {} dimensions, \
                found {}; the file is incomplete",
                self.file.path().display(),
                axis + 1,
                self.shape(name).map_or("none".into(), |shape| format!("shape {shape:?}"))
            ))
        })
    }

    /// Numbers N for which there is a tensor `PREFIX N.…`, counted from 0 without a gap.
    fn count(&self, prefix: &str) -> usize {
        let below = self.pieces.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let mut numbers: Vec<usize> =
            below.filter_map(|(name, _)| name[prefix.len()..].split('.').next()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().zip(0..).take_while(|&(&number, i)| number == i).count()
    }

    /// The width of the text that a U-Net attends to.
    fn context(&self) -> Result<usize> {
        let width = self.any("attn2.to_k.weight").and_then(|shape| shape.get(1).copied());
        width.ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: the U-Net has no attention over a text; only Stable Diffusion is read from single files",
                self.file.path().display()
            ))
        })
    }
}

/// Infers all configurations of `file`, which holds these models. `part` is the component that it is wanted for, if it
/// is to be a part of another model, and that model's family.
pub fn infer(file: &Tensors, models: Models, part: Option<(&'static str, Family)>) -> Result<Inferred> {
    let towers = models.towers.iter().map(|(_, pieces)| width(pieces)).collect::<Vec<_>>();
    let family = match &models.unet {
        Some(pieces) => Family::of(&Shapes { file, pieces }, &towers)?,
        // Without a U-Net nobody asks for what only the families tell apart, but for what these two do.
        None => match part {
            Some((_, family)) => family,
            None if towers.contains(&1280) => Family::Xl,
            None => Family::Sd1,
        },
    };
    let mut found =
        Inferred { index: Value::Null, configs: BTreeMap::new(), pieces: BTreeMap::new(), assumptions: vec![], family };
    if let Some(mut pieces) = models.unet {
        if !family.is_xl() {
            rename(&mut pieces, "add_embedding.", "class_embedding.");
        }
        let pooled = models.towers.iter().filter_map(|(_, tower)| tower.get("text_projection.weight")?.shape.first());
        let config = unet(&Shapes { file, pieces: &pieces }, family, pooled.max().copied())?;
        found.configs.insert("unet".into(), config);
        found.pieces.insert("unet".into(), pieces);
    }
    let wanted = part.map(|(component, _)| component).filter(|component| component.starts_with("text_encoder"));
    for (component, names, mut pieces) in assigned(family, models.towers, wanted) {
        let config = text_encoder(&Shapes { file, pieces: &pieces }, family, component, names)?;
        let layers = config["num_hidden_layers"].as_u64().expect("it was written there") as usize;
        let projects = config["architectures"][0] == "CLIPTextModelWithProjection";
        pieces.retain(|name, _| belongs(name, layers, projects));
        found.configs.insert(component.into(), config);
        found.pieces.insert(component.into(), pieces);
    }
    if let Some(pieces) = models.vae {
        let config = vae(&Shapes { file, pieces: &pieces }, family)?;
        found.configs.insert("vae".into(), config);
        found.pieces.insert("vae".into(), pieces);
    }
    if found.configs.contains_key("unet") {
        scheduler::infer(file, family, &mut found)?;
        found.index = index(family, &found);
    } else {
        found.index = components(&found);
    }
    Ok(found)
}

/// Channels of a text tower.
fn width(tower: &Pieces) -> usize {
    let table = tower.iter().find(|(name, _)| name.ends_with("embeddings.token_embedding.weight"));
    table.and_then(|(_, piece)| piece.shape.get(1).copied()).unwrap_or(0)
}

fn projects(tower: &Pieces) -> bool {
    tower.contains_key("text_projection.weight")
}

/// Which component each text tower is: a single one that which is `wanted`.
fn assigned(
    family: Family,
    mut towers: Vec<(Names, Pieces)>,
    wanted: Option<&'static str>,
) -> Vec<(&'static str, Names, Pieces)> {
    if let (1, Some(component)) = (towers.len(), wanted) {
        return towers.into_iter().map(|(names, pieces)| (component, names, pieces)).collect();
    }
    // XL's second tower is the one with a projection; the published one is also the wider, and in OpenCLIP's names.
    towers.sort_by_key(|(names, tower)| (projects(tower), width(tower), *names == Names::OpenClip));
    let components: &[&str] = match (family, towers.as_slice()) {
        (Family::Refiner, _) => &["text_encoder_2"],
        (Family::Xl, [(_, tower)]) if projects(tower) => &["text_encoder_2"],
        (Family::Xl, _) => &["text_encoder", "text_encoder_2"],
        _ => &["text_encoder"],
    };
    components.iter().zip(towers).map(|(component, (names, pieces))| (*component, names, pieces)).collect()
}

/// Whether a text encoder with so many layers reads the tensor. A whole CLIP model is taken for its text tower; SD 2
/// uses its tower's last layer but one, and files from the original code hold the last as well.
fn belongs(name: &str, layers: usize, projects: bool) -> bool {
    let name = name.strip_prefix("text_model.").unwrap_or(name);
    let layer = name.strip_prefix("encoder.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    layer.is_none_or(|layer| layer < layers) && (projects || !name.starts_with("text_projection"))
}

fn text_encoder(shapes: &Shapes<'_>, family: Family, component: &str, names: Names) -> Result<Value> {
    let inner = if shapes.has("text_model.embeddings.token_embedding.weight") { "text_model." } else { "" };
    let name = |part: &str| format!("{inner}{part}");
    let hidden_size = shapes.dim(&name("embeddings.token_embedding.weight"), 1)?;
    let stored = shapes.count(&name("encoder.layers."));
    // The published tower has 24 layers, of which diffusers keeps 23. Others show by their projection that they are
    // whole: it follows the last layer.
    let surplus = match family {
        Family::Sd2 | Family::Upscaler if hidden_size == 1024 => stored.saturating_sub(23),
        Family::Sd2 | Family::Upscaler => usize::from(projects(shapes.pieces)),
        _ => 0,
    };
    let second = component == "text_encoder_2";
    // OpenAI's towers have a fast GELU of their own, OpenCLIP's the exact one, in whosever names they are written.
    let open_clip =
        names == Names::OpenClip || second || matches!(family, Family::Sd2 | Family::Upscaler) || hidden_size >= 1024;
    let class = if second { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    let mut config = json!({
        "architectures": [class],
        "model_type": "clip_text_model",
        "vocab_size": shapes.dim(&name("embeddings.token_embedding.weight"), 0)?,
        "max_position_embeddings": shapes.dim(&name("embeddings.position_embedding.weight"), 0)?,
        "hidden_size": hidden_size,
        "intermediate_size": shapes.dim(&name("encoder.layers.0.mlp.fc1.weight"), 0)?,
        "num_hidden_layers": stored - surplus,
        "num_attention_heads": heads(hidden_size, "text encoder")?,
        "hidden_act": if open_clip { "gelu" } else { "quick_gelu" },
        "layer_norm_eps": 1e-5,
        // The published configurations have these; 2 means: pool at the largest id.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    });
    if second {
        config["projection_dim"] = shapes.dim("text_projection.weight", 0)?.into();
    }
    Ok(config)
}

/// 64 channels a head.
fn heads(channels: usize, what: &str) -> Result<usize> {
    if channels == 0 || !channels.is_multiple_of(64) {
        return Err(Error::Unsupported(format!(
            "the {what} has {channels} channels, not a multiple of 64, the size of an attention head in this family; \
             give the model as a diffusers folder, whose config.json holds the number of heads"
        )));
    }
    Ok(channels / 64)
}

/// What the tensors of one down block tell.
struct Level {
    channels: usize,
    layers: usize,
    /// Transformer layers behind each residual block; empty without attention.
    depths: Vec<usize>,
    only_cross_attention: bool,
}

impl Level {
    fn of(shapes: &Shapes<'_>, level: usize) -> Result<Self> {
        let name = |part: &str| format!("down_blocks.{level}.{part}");
        let channels = shapes.dim(&name("resnets.0.conv2.weight"), 0)?;
        let depths = depths(shapes, &name("attentions."));
        // Self-attention takes as many channels as it gives; where it takes the text's instead, it crosses.
        let only_cross_attention = !depths.is_empty()
            && shapes.dim(&name("attentions.0.transformer_blocks.0.attn1.to_k.weight"), 1)? != channels;
        Ok(Self { channels, layers: shapes.count(&name("resnets.")), depths, only_cross_attention })
    }

    /// The class of its block: one of these, without and with attention.
    fn block_type(&self, [plain, attending]: [&str; 2]) -> Value {
        (if self.depths.is_empty() { plain } else { attending }).into()
    }
}

/// Transformer layers of each attention below `prefix`.
fn depths(shapes: &Shapes<'_>, prefix: &str) -> Vec<usize> {
    (0..shapes.count(prefix)).map(|i| shapes.count(&format!("{prefix}{i}.transformer_blocks."))).collect()
}

/// `pooled` is the width of the pooled text, where a tower beside the U-Net shows it.
fn unet(shapes: &Shapes<'_>, family: Family, pooled: Option<usize>) -> Result<Value> {
    let count = shapes.count("down_blocks.").max(1); // the first must be there
    let levels = (0..count).map(|level| Level::of(shapes, level)).collect::<Result<Vec<_>>>()?;
    let first = &levels[0];
    if levels.iter().any(|level| !level.depths.is_empty() && level.depths.len() != level.layers) {
        return Err(Error::Unsupported(format!(
            "{}: the U-Net has a level that attends after some of its residual blocks only; give the model as a \
            diffusers folder",
            shapes.file.path().display()
        )));
    }
    let middle = depths(shapes, "mid_block.attentions.").first().copied();
    let of_levels = |value: fn(&Level) -> Value| Value::Array(levels.iter().map(value).collect());
    let up_block_types = levels.iter().rev().map(|level| level.block_type(["UpBlock2D", "CrossAttnUpBlock2D"]));
    let uniform = levels.iter().all(|level| level.layers == first.layers);
    // Some writers make 1×1 convolutions of these matrices; some families never have any.
    let linear_projection = matches!(family, Family::Sd2 | Family::Xl | Family::Refiner)
        || shapes.any("attentions.0.proj_in.weight").is_some_and(|shape| shape.len() == 2);
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size(family),
        "in_channels": shapes.dim("conv_in.weight", 1)?,
        "out_channels": shapes.dim("conv_out.weight", 0)?,
        "block_out_channels": of_levels(|level| level.channels.into()),
        "down_block_types": of_levels(|level| level.block_type(["DownBlock2D", "CrossAttnDownBlock2D"])),
        "up_block_types": up_block_types.collect::<Value>(),
        "layers_per_block": if uniform { first.layers.into() } else { of_levels(|level| level.layers.into()) },
        "cross_attention_dim": shapes.context()?,
        "use_linear_projection": linear_projection,
        "only_cross_attention": of_levels(|level| level.only_cross_attention.into()),
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "center_input_sample": false,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
    });
    config["mid_block_type"] = match middle {
        Some(_) => "UNetMidBlock2DCrossAttn".into(),
        None if shapes.count("mid_block.resnets.") > 0 => "UNetMidBlock2D".into(),
        None => Value::Null,
    };
    if levels.iter().all(|level| !level.only_cross_attention) {
        config["only_cross_attention"] = false.into();
    }
    transformer_layers(shapes, &levels, middle.unwrap_or(1), &mut config);
    config["attention_head_dim"] = match family {
        Family::Sd1 | Family::Upscaler => 8.into(),
        Family::Sd2 | Family::Xl | Family::Refiner => {
            levels.iter().map(|level| heads(level.channels, "U-Net")).collect::<Result<Value>>()?
        }
    };
    let time_embedding_dim = shapes.dim("time_embedding.linear_1.weight", 0)?;
    if time_embedding_dim != 4 * first.channels {
        config["time_embedding_dim"] = time_embedding_dim.into();
    }
    if shapes.has("time_embedding.cond_proj.weight") {
        config["time_cond_proj_dim"] = shapes.dim("time_embedding.cond_proj.weight", 1)?.into();
    }
    if family == Family::Upscaler {
        config["num_class_embeds"] = shapes.dim("class_embedding.weight", 0)?.into();
    } else if family.is_xl() {
        let width = shapes.dim("add_embedding.linear_1.weight", 1)?;
        config["projection_class_embeddings_input_dim"] = width.into();
        config["addition_embed_type"] = "text_time".into();
        config["addition_time_embed_dim"] = size_embedding_width(width, family, pooled.unwrap_or(1280))?.into();
    } else if shapes.has("class_embedding.linear_1.weight") {
        config["projection_class_embeddings_input_dim"] = shapes.dim("class_embedding.linear_1.weight", 1)?.into();
        config["class_embed_type"] = "projection".into();
    }
    Ok(config)
}

/// `transformer_layers_per_block`: a number where all levels have one, else one for each level, else (SSD-1B, Vega) a
/// list for each level, and the up blocks' own.
fn transformer_layers(shapes: &Shapes<'_>, levels: &[Level], middle: usize, config: &mut Value) {
    let up: Vec<Vec<usize>> =
        (0..levels.len()).map(|i| depths(shapes, &format!("up_blocks.{i}.attentions."))).collect();
    let one = |depths: &[usize]| depths.first().copied().filter(|first| depths.iter().all(|depth| depth == first));
    let mirrored = levels.iter().rev().zip(&up).all(|(level, up)| one(&level.depths) == one(up));
    let scalar = |level: &Level| level.depths.is_empty() || one(&level.depths).is_some();
    if mirrored && levels.iter().all(scalar) {
        // A level without attention has no number of its own; the last one's counts for the middle.
        let depths: Vec<usize> = levels.iter().map(|level| one(&level.depths).unwrap_or(middle)).collect();
        let plain = depths.iter().all(|depth| *depth == 1);
        config["transformer_layers_per_block"] = if plain { 1.into() } else { depths.into() };
        return;
    }
    let list = |depths: &[usize]| if depths.is_empty() { json!(middle) } else { json!(depths) };
    config["transformer_layers_per_block"] = levels.iter().map(|level| list(&level.depths)).collect();
    config["reverse_transformer_layers_per_block"] = up.iter().map(|depths| list(depths)).collect();
}

/// The width of an embedded number in XL's vector condition, which is the pooled text and then 6 such numbers (sizes,
/// crop, target); in the refiner 5, with an aesthetic score for the target.
fn size_embedding_width(width: usize, family: Family, pooled: usize) -> Result<usize> {
    let numbers = if family == Family::Refiner { 5 } else { 6 };
    let rest = width.saturating_sub(pooled);
    if rest == 0 || !rest.is_multiple_of(numbers) {
        return Err(Error::Unsupported(format!(
            "the U-Net's vector condition has {width} elements, which do not divide into {pooled} of the pooled text \
            and {numbers} embedded sizes; give the model as a diffusers folder"
        )));
    }
    Ok(rest / numbers)
}

fn sample_size(family: Family) -> usize {
    match family {
        Family::Sd1 => 64,
        Family::Sd2 => 96, // set to 64 where it predicts epsilon, as 2.0 base and 2.1 base do
        Family::Upscaler | Family::Xl | Family::Refiner => 128,
    }
}

fn vae(shapes: &Shapes<'_>, family: Family) -> Result<Value> {
    // A decoder by itself does as well: its blocks are the encoder's from the coarsest on, with one layer more.
    let has_encoder = shapes.has("encoder.conv_in.weight");
    let levels = shapes.count("decoder.up_blocks.");
    let channels =
        (0..levels).rev().map(|level| shapes.dim(&format!("decoder.up_blocks.{level}.resnets.0.conv2.weight"), 0));
    let channels = channels.collect::<Result<Vec<usize>>>()?;
    let layers = shapes.count("decoder.up_blocks.0.resnets.").saturating_sub(1);
    let out_channels = shapes.dim("decoder.conv_out.weight", 0)?;
    let mut config = json!({
        "_class_name": "AutoencoderKL",
        "in_channels": if has_encoder { shapes.dim("encoder.conv_in.weight", 1)? } else { out_channels },
        "out_channels": out_channels,
        "latent_channels": shapes.dim("decoder.conv_in.weight", 1)?,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "mid_block_add_attention": shapes.count("decoder.mid_block.attentions.") > 0,
        "use_quant_conv": shapes.has("quant_conv.weight"),
        "use_post_quant_conv": shapes.has("post_quant_conv.weight"),
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 8 * sample_size(family),
        "force_upcast": true,
        "scaling_factor": match family {
            Family::Sd1 | Family::Sd2 => 0.18215,
            Family::Upscaler => 0.08333,
            Family::Xl | Family::Refiner => 0.13025,
        },
    });
    // Playground 2.5 stores the statistics of its latents beside the weights.
    if shapes.file.info("edm_mean").is_some() && shapes.file.info("edm_std").is_some() {
        config["latents_mean"] = shapes.file.read_f32("edm_mean")?.data.into_iter().collect();
        config["latents_std"] = shapes.file.read_f32("edm_std")?.data.into_iter().collect();
        config["scaling_factor"] = 0.5.into();
    }
    Ok(config)
}

fn rename(pieces: &mut Pieces, old: &str, new: &str) {
    let names: Vec<String> = pieces.keys().filter(|name| name.starts_with(old)).cloned().collect();
    for name in names {
        let piece = pieces.remove(&name).expect("it was listed");
        pieces.insert(format!("{new}{}", &name[old.len()..]), piece);
    }
}

fn index(family: Family, found: &Inferred) -> Value {
    let in_channels = found.configs["unet"]["in_channels"].as_u64();
    let class = match (family, in_channels) {
        (Family::Upscaler, _) => "StableDiffusionUpscalePipeline",
        (Family::Xl, Some(9)) => "StableDiffusionXLInpaintPipeline",
        (Family::Xl, Some(8)) => "StableDiffusionXLInstructPix2PixPipeline",
        (Family::Refiner, _) => "StableDiffusionXLImg2ImgPipeline",
        (Family::Xl, _) => "StableDiffusionXLPipeline",
        (_, Some(9)) => "StableDiffusionInpaintPipeline",
        (_, Some(8)) => "StableDiffusionInstructPix2PixPipeline",
        (_, Some(5)) => "StableDiffusionDepth2ImgPipeline",
        _ => "StableDiffusionPipeline",
    };
    let mut index = components(found);
    index["_class_name"] = class.into();
    if family.is_xl() {
        index["force_zeros_for_empty_prompt"] = (family == Family::Xl).into();
    }
    if family == Family::Refiner {
        index["requires_aesthetics_score"] = true.into();
    }
    if family == Family::Upscaler {
        index["max_noise_level"] = 350.into();
    }
    index
}

/// The components with their classes.
fn components(found: &Inferred) -> Value {
    let mut index = json!({});
    for (name, config) in &found.configs {
        let class = config["_class_name"].as_str().or_else(|| config["architectures"][0].as_str());
        let library = if name.starts_with("text_encoder") { "transformers" } else { "diffusers" };
        index[name] = json!([library, class]);
    }
    index
}
