//! The autoencoder's configuration.

use serde_json::{Value, json};

use super::shapes::Shapes;
use super::{Family, sample_size};
use crate::error::Result;

pub(super) fn config(shapes: &Shapes<'_>, family: Family) -> Result<Value> {
    // A decoder by itself does as well: its blocks are the encoder's from the coarsest on, with one layer more.
    let has_encoder = shapes.has("encoder.conv_in.weight");
    let levels = shapes.counted("block_out_channels", "decoder.up_blocks.");
    let channels = (0..levels).rev().map(|level| {
        shapes.field("block_out_channels", &format!("decoder.up_blocks.{level}.resnets.0.conv2.weight"), 0)
    });
    let channels = channels.collect::<Result<Vec<usize>>>()?;
    let layers = shapes.counted("layers_per_block", "decoder.up_blocks.0.resnets.").saturating_sub(1);
    let out_channels = shapes.field("out_channels", "decoder.conv_out.weight", 0)?;
    let in_channels = match has_encoder {
        true => shapes.field("in_channels", "encoder.conv_in.weight", 1)?,
        false => shapes.field("in_channels", "decoder.conv_out.weight", 0)?,
    };
    let attends = |field, at: String| shapes.decides(field, &format!("{at}.attentions.0.to_q.weight"));
    let up_block_types =
        (0..levels).map(|level| match attends("up_block_types", format!("decoder.up_blocks.{level}")) {
            true => "AttnUpDecoderBlock2D",
            false => "UpDecoderBlock2D",
        });
    let down_block_types = (0..levels).map(|level| {
        let attends = match has_encoder {
            true => attends("down_block_types", format!("encoder.down_blocks.{level}")),
            false => attends("down_block_types", format!("decoder.up_blocks.{}", levels - 1 - level)),
        };
        if attends { "AttnDownEncoderBlock2D" } else { "DownEncoderBlock2D" }
    });
    let mut config = json!({
        "_class_name": "AutoencoderKL",
        "in_channels": in_channels,
        "out_channels": out_channels,
        "latent_channels": shapes.field("latent_channels", "decoder.conv_in.weight", 1)?,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": down_block_types.collect::<Vec<_>>(),
        "up_block_types": up_block_types.collect::<Vec<_>>(),
        "mid_block_add_attention": shapes.counted("mid_block_add_attention", "decoder.mid_block.attentions.") > 0,
        "use_quant_conv": shapes.decides("use_quant_conv", "quant_conv.weight"),
        "use_post_quant_conv": shapes.decides("use_post_quant_conv", "post_quant_conv.weight"),
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
