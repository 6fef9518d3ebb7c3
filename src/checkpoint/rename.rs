//! Key names that changed over the years, in one table.
//!
//! Models in this crate use today's diffusers names. Files written by older versions use the names below; they are
//! looked up only for a stored tensor that the model does not know under its own name.

/// `(old, new)`: one dot-separated part of a key, and what replaces it.
///
/// diffusers before 0.18 gave the attention of `UNet2DModel` and `AutoencoderKL` its own class (`AttentionBlock`) and
/// names.
const PARTS: &[(&str, &str)] = &[("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// Leading parts that one version writes and another does not.
///
/// transformers before 5 wrapped the CLIP text tower as `text_model.…`; version 5 does not.
const OPTIONAL_PREFIXES: &[&str] = &["text_model."];

/// Dot-separated parts of names that files hold but no model here reads.
const HARMLESS: &[&str] = &[
    "position_ids",      // CLIP: simply 0, 1, 2, …
    "logit_scale",       // a whole CLIP model: its temperature in training,
    "text_projection",   // … the projection of its text, where the encoder is read without it,
    "vision_model",      // … and its other half
    "visual_projection", // …
    "visual",            // the same in OpenCLIP's names,
    "attn_mask",         // … whose tower stores its causal mask
    "scale_weight",      // scales of 8-bit weights, which are multiplied in as these are read, and of activations
    "weight_scale",
    "scale_input",
    "input_scale",
    "scaled_fp8",   // a mark
    "fuser",        // GLIGEN: attention to boxes, which are not given
    "position_net", // … and their embedding
];

/// Names that the tensor stored as `name` may have today, most likely first.
pub fn current_names(name: &str) -> Vec<String> {
    let renamed = name.split('.').map(|part| PARTS.iter().find(|(old, _)| *old == part).map_or(part, |(_, new)| new));
    let renamed = renamed.collect::<Vec<_>>().join(".");
    let mut names = Vec::new();
    if renamed != name {
        names.push(renamed.clone());
    }
    for prefix in OPTIONAL_PREFIXES {
        names.push(match renamed.strip_prefix(prefix) {
            Some(bare) => bare.to_owned(),
            None => format!("{prefix}{renamed}"),
        });
    }
    names
}

/// True for a stored tensor that a model may ignore.
pub fn is_harmless(name: &str) -> bool {
    name.split('.').any(|part| HARMLESS.contains(&part))
}

/// True if a tensor of shape `stored` is the weight `name` of shape `expected` in another shape, element for element:
/// the attention projections of the first autoencoders were 1×1 convolutions `[C_out, C_in, 1, 1]`, now linear `[C_out,
/// C_in]`; stable-diffusion.cpp writes the matrices round a transformer so.
pub fn same_weight(name: &str, stored: &[usize], expected: &[usize]) -> bool {
    let linear = ["to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "proj_in.weight", "proj_out.weight"];
    linear.iter().any(|suffix| name.ends_with(suffix))
        && expected.len() == 2
        && stored.strip_suffix(&[1, 1]).is_some_and(|matrix| matrix == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_attention_names() {
        for (old, new) in [
            ("mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"),
            ("down_blocks.1.attentions.0.key.bias", "down_blocks.1.attentions.0.to_k.bias"),
            ("encoder.mid_block.attentions.0.value.weight", "encoder.mid_block.attentions.0.to_v.weight"),
            ("up_blocks.2.attentions.1.proj_attn.bias", "up_blocks.2.attentions.1.to_out.0.bias"),
        ] {
            assert_eq!(current_names(old)[0], new);
        }
        assert!(current_names("conv_in.weight").iter().all(|name| name.ends_with(".conv_in.weight")));
    }

    #[test]
    fn text_model_prefix_either_way() {
        assert_eq!(current_names("text_model.final_layer_norm.bias"), ["final_layer_norm.bias"]);
        assert_eq!(current_names("final_layer_norm.bias"), ["text_model.final_layer_norm.bias"]);
        assert!(is_harmless("text_model.embeddings.position_ids"));
        assert!(is_harmless("vision_model.post_layernorm.weight") && is_harmless("logit_scale"));
        assert!(is_harmless("down_blocks.0.attentions.0.transformer_blocks.0.fuser.alpha_attn"));
        assert!(!is_harmless("text_model.embeddings.position_embedding.weight"));
    }

    #[test]
    fn only_attention_projections_change_shape() {
        assert!(same_weight("mid_block.attentions.0.to_q.weight", &[8, 4, 1, 1], &[8, 4]));
        assert!(!same_weight("mid_block.attentions.0.to_q.weight", &[4, 8, 1, 1], &[8, 4]));
        assert!(!same_weight("mid_block.attentions.0.to_q.weight", &[8, 4, 3, 3], &[8, 4]));
        assert!(!same_weight("conv_shortcut.weight", &[8, 4, 1, 1], &[8, 4]));
    }
}
