//! The denoiser's configuration.

use serde_json::{Value, json};

use super::shapes::Shapes;
use super::text::heads;
use super::{Family, sample_size};
use crate::error::{Error, Result};

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
        let channels = shapes.field("block_out_channels", &name("resnets.0.conv2.weight"), 0)?;
        let depths = depths(shapes, &name("attentions."));
        // Self-attention takes as many channels as it gives; where it takes the text's instead, it crosses.
        let only_cross_attention = !depths.is_empty()
            && shapes.dim(&name("attentions.0.transformer_blocks.0.attn1.to_k.weight"), 1)? != channels;
        Ok(Self {
            channels,
            layers: shapes.counted("layers_per_block", &name("resnets.")),
            depths,
            only_cross_attention,
        })
    }

    /// The class of its block: one of these, without and with attention.
    fn block_type(&self, [plain, attending]: [&str; 2]) -> Value {
        (if self.depths.is_empty() { plain } else { attending }).into()
    }
}

/// Transformer layers of each attention below `prefix`.
fn depths(shapes: &Shapes<'_>, prefix: &str) -> Vec<usize> {
    (0..shapes.count(prefix))
        .map(|i| shapes.counted("transformer_layers_per_block", &format!("{prefix}{i}.transformer_blocks.")))
        .collect()
}

/// The U-Net's `config.json`. `pooled` is the width of the pooled text, where a tower beside the U-Net shows it.
pub(super) fn config(shapes: &Shapes<'_>, family: Family, pooled: Option<usize>) -> Result<Value> {
    let count = shapes.counted("block_out_channels", "down_blocks.").max(1); // the first must be there
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
    let matrix = shapes.any("use_linear_projection", "attentions.0.proj_in.weight").is_some_and(|s| s.len() == 2);
    let linear_projection = matches!(family, Family::Sd2 | Family::Xl | Family::Refiner) || matrix;
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size(family),
        "in_channels": shapes.field("in_channels", "conv_in.weight", 1)?,
        "out_channels": shapes.field("out_channels", "conv_out.weight", 0)?,
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
    let time_embedding_dim = shapes.field("time_embedding_dim", "time_embedding.linear_1.weight", 0)?;
    if time_embedding_dim != 4 * first.channels {
        config["time_embedding_dim"] = time_embedding_dim.into();
    }
    if shapes.has("time_embedding.cond_proj.weight") {
        config["time_cond_proj_dim"] = shapes.field("time_cond_proj_dim", "time_embedding.cond_proj.weight", 1)?.into();
    }
    if family == Family::Upscaler {
        config["num_class_embeds"] = shapes.field("num_class_embeds", "class_embedding.weight", 0)?.into();
    } else if family.is_xl() {
        let width = shapes.field("projection_class_embeddings_input_dim", "add_embedding.linear_1.weight", 1)?;
        config["projection_class_embeddings_input_dim"] = width.into();
        config["addition_embed_type"] = "text_time".into();
        config["addition_time_embed_dim"] = size_embedding_width(width, family, pooled.unwrap_or(1280))?.into();
    } else if shapes.has("class_embedding.linear_1.weight") {
        let width = shapes.field("projection_class_embeddings_input_dim", "class_embedding.linear_1.weight", 1)?;
        config["projection_class_embeddings_input_dim"] = width.into();
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
