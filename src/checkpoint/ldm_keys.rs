//! The key map of single-file checkpoints: names of the original code (`ldm`, `sgm`, OpenCLIP) → names of diffusers and
//! transformers. Tables first; below them the numbering of blocks, which no table can hold.
//!
//! Source: the modules of CompVis/stable-diffusion (`openaimodel.py`, `diffusionmodules/model.py`) and
//! mlfoundations/open_clip (`transformer.py`), matched with those of diffusers; checked against diffusers' own
//! conversion by the tests.

use std::collections::BTreeMap;

/// Outside the numbered blocks of the U-Net.
const UNET_PARTS: &[(&str, &str)] = &[
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("time_embed.cond_proj.", "time_embedding.cond_proj."), // LCM
    ("input_blocks.0.0.", "conv_in."),
    ("middle_block.1.", "mid_block.attentions.0."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
    ("label_emb.weight", "class_embedding.weight"), // x4 upscaler: noise level
    ("label_emb.0.0.", "add_embedding.linear_1."),  // XL: pooled text and sizes
    ("label_emb.0.2.", "add_embedding.linear_2."),
];

/// Inside a residual block of the U-Net.
const UNET_RESNET: &[(&str, &str)] = &[
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
];

/// Inside the encoder or decoder of the autoencoder, outside the numbered blocks.
const VAE_PARTS: &[(&str, &str)] = &[
    ("conv_in.", "conv_in."),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("norm_out.", "conv_norm_out."),
    ("conv_out.", "conv_out."),
];

/// Inside a residual block of the autoencoder; everything else keeps its name.
const VAE_RESNET: &[(&str, &str)] = &[("nin_shortcut.", "conv_shortcut."), ("", "")];

/// Inside an attention of the autoencoder.
const VAE_ATTENTION: &[(&str, &str)] = &[
    ("norm.", "group_norm."),
    ("q.", "to_q."),
    ("k.", "to_k."),
    ("v.", "to_v."),
    ("proj_out.", "to_out.0."),
    // diffusers' conversion scripts left today's names of the attention as they are.
    ("to_q.", "to_q."),
    ("to_k.", "to_k."),
    ("to_v.", "to_v."),
    ("to_out.0.", "to_out.0."),
];

/// OpenCLIP's text tower outside its layers.
const OPEN_CLIP_PARTS: &[(&str, &str)] = &[
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    // An early conversion script for XL wrote transformers' matrix, not transposed.
    ("text_projection.weight", "text_projection.weight"),
];

/// Inside a layer of OpenCLIP's text tower. `attn.in_proj_*` holds query, key and value stacked and is split.
const OPEN_CLIP_LAYER: &[(&str, &str)] = &[
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// Which part of a stored tensor a new one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// One third of its rows: 0 query, 1 key, 2 value.
    Third(usize),
    /// Its transpose (OpenCLIP multiplies by `text_projection` from the right).
    Transposed,
}

/// How many residual blocks each level has, which is what the numbering of the original blocks depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels(pub Vec<usize>);

impl Levels {
    /// Counted from the names of a U-Net (without prefix): a level ends where the pictures are made smaller.
    pub fn of<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        let mut blocks = BTreeMap::<usize, bool>::new();
        for (block, part, rest) in keys.filter_map(|key| numbered(key, "input_blocks.")) {
            if part == 0 && block > 0 {
                *blocks.entry(block).or_default() |= rest.starts_with("op.");
            }
        }
        let mut levels = vec![0];
        for ends in blocks.into_values() {
            if ends { levels.push(0) } else { *levels.last_mut().expect("there is always one") += 1 }
        }
        Self(levels)
    }

    /// Counted from the names that a U-Net has in diffusers.
    pub fn of_ours(names: &[String]) -> Self {
        let mut layers = BTreeMap::<usize, usize>::new();
        for name in names {
            let Some((level, rest)) = name.strip_prefix("down_blocks.").and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            let Some((layer, _)) = rest.strip_prefix("resnets.").and_then(|rest| rest.split_once('.')) else {
                continue;
            };
            if let (Ok(level), Ok(layer)) = (level.parse(), layer.parse::<u16>()) {
                let count = layers.entry(level).or_default();
                *count = (*count).max(usize::from(layer) + 1);
            }
        }
        Self(layers.into_values().collect())
    }

    /// Level and position in it of `input_blocks.N`; position = the level's number of layers for its downsampler.
    fn input(&self, block: usize) -> Option<(usize, usize)> {
        let mut first = 1;
        for (level, layers) in self.0.iter().enumerate() {
            if (first..=first + layers).contains(&block) {
                return Some((level, block - first));
            }
            first += layers + 1;
        }
        None
    }

    /// Up block and position in it of `output_blocks.N`; an up block has one layer more than its level.
    fn output(&self, block: usize) -> Option<(usize, usize)> {
        let mut first = 0;
        for (up, layers) in self.0.iter().rev().enumerate() {
            if (first..=first + layers).contains(&block) {
                return Some((up, block - first));
            }
            first += layers + 1;
        }
        None
    }
}

/// The diffusers name of a U-Net key (without prefix). The vector condition is called `add_embedding`, as in XL.
pub fn unet(key: &str, levels: &Levels) -> Option<String> {
    if let Some(name) = translate(key, UNET_PARTS) {
        return Some(name);
    }
    for (middle, resnet) in [("middle_block.0.", "mid_block.resnets.0."), ("middle_block.2.", "mid_block.resnets.1.")] {
        if let Some(rest) = key.strip_prefix(middle) {
            return Some(format!("{resnet}{}", translate(rest, UNET_RESNET)?));
        }
    }
    if let Some((block, part, rest)) = numbered(key, "input_blocks.") {
        let (level, position) = levels.input(block)?;
        let is_layer = position < levels.0[level];
        return Some(match (part, rest.strip_prefix("op.")) {
            (0, Some(conv)) if !is_layer => format!("down_blocks.{level}.downsamplers.0.conv.{conv}"),
            _ if !is_layer => return None,
            (0, None) => format!("down_blocks.{level}.resnets.{position}.{}", translate(rest, UNET_RESNET)?),
            (1, None) => format!("down_blocks.{level}.attentions.{position}.{rest}"),
            _ => return None,
        });
    }
    let (block, part, rest) = numbered(key, "output_blocks.")?;
    let (up, position) = levels.output(block)?;
    let is_last = levels.0.iter().rev().nth(up) == Some(&position);
    // The upsampler follows the attention of the last layer, or its residual block where there is none: part 2 or 1.
    Some(match (part, rest.strip_prefix("conv.")) {
        (0, None) => format!("up_blocks.{up}.resnets.{position}.{}", translate(rest, UNET_RESNET)?),
        (1 | 2, Some(conv)) if is_last => format!("up_blocks.{up}.upsamplers.0.conv.{conv}"),
        (1, None) => format!("up_blocks.{up}.attentions.{position}.{rest}"),
        _ => return None,
    })
}

/// Beginnings of names in the U-Net: diffusers' and the original one of the same modules.
pub fn unet_aliases(levels: &Levels) -> Vec<(String, String)> {
    let blocks = levels.0.iter().map(|layers| layers + 1).sum();
    let mut stems: Vec<String> = UNET_PARTS.iter().map(|(old, _)| old.to_string()).collect();
    let mut add_block = |place: String, own: &[&str]| {
        stems.extend(UNET_RESNET.iter().map(|(old, _)| format!("{place}.0.{old}")));
        stems.extend(own.iter().map(|part| format!("{place}.{part}")));
    };
    for block in 0..blocks {
        add_block(format!("input_blocks.{}", block + 1), &["0.op.", "1."]);
        add_block(format!("output_blocks.{block}"), &["1.", "1.conv.", "2.conv."]);
    }
    stems.extend(
        ["middle_block.0.", "middle_block.2."]
            .iter()
            .flat_map(|place| UNET_RESNET.iter().map(move |(old, _)| format!("{place}{old}"))),
    );
    stems.into_iter().filter_map(|old| Some((unet(&old, levels)?, old))).collect()
}

/// Levels of an autoencoder, counted from the names of its tensors (without prefix).
pub fn vae_levels<'a>(keys: impl Iterator<Item = &'a str>) -> usize {
    let level = |key: &str| {
        let rest = key.strip_prefix("decoder.up.").or_else(|| key.strip_prefix("encoder.down."))?;
        rest.split('.').next()?.parse::<u16>().ok()
    };
    keys.filter_map(level).max().map_or(0, |last| usize::from(last) + 1)
}

/// The diffusers name of a key (without prefix) of an autoencoder with `levels` levels.
pub fn vae(key: &str, levels: usize) -> Option<String> {
    if key.starts_with("quant_conv.") || key.starts_with("post_quant_conv.") {
        return Some(key.to_owned());
    }
    let (side, key) = key.split_once('.').filter(|(side, _)| ["encoder", "decoder"].contains(side))?;
    if let Some(rest) = translate(key, VAE_PARTS) {
        // The middle's residual blocks call their shortcut what the levels' do.
        return Some(format!("{side}.{}", rest.replace(".nin_shortcut.", ".conv_shortcut.")));
    }
    if let Some(rest) = key.strip_prefix("mid.attn_1.") {
        return Some(format!("{side}.mid_block.attentions.0.{}", translate(rest, VAE_ATTENTION)?));
    }
    // `down.LEVEL.block.N.…`, `down.LEVEL.attn.N.…`, `down.LEVEL.downsample.conv.…`; the original counts the decoder's
    // levels from the finest.
    let (kind, key) = key.split_once('.')?;
    let (level, key) = key.split_once('.')?;
    let level: usize = level.parse().ok()?;
    let (blocks, sampler, level) = match (side, kind) {
        ("encoder", "down") => ("down_blocks", "downsample", level),
        ("decoder", "up") => ("up_blocks", "upsample", levels.checked_sub(level + 1)?),
        _ => return None,
    };
    if let Some(conv) = key.strip_prefix(sampler) {
        return Some(format!("{side}.{blocks}.{level}.{sampler}rs.0{conv}"));
    }
    let (kind, key) = key.split_once('.')?;
    let (number, rest) = key.split_once('.')?;
    let (parts, rest) = match kind {
        "block" => ("resnets", translate(rest, VAE_RESNET)?),
        "attn" => ("attentions", translate(rest, VAE_ATTENTION)?),
        _ => return None,
    };
    Some(format!("{side}.{blocks}.{level}.{parts}.{number}.{rest}"))
}

/// Beginnings of names in an autoencoder: diffusers' and the original one of the same modules, the original code's own
/// names first.
pub fn vae_aliases(levels: usize) -> Vec<(String, String)> {
    /// More than any published model has at one level.
    const BLOCKS: usize = 16;
    let mut stems = Vec::new();
    for (side, kind, sampler) in [("encoder", "down", "downsample"), ("decoder", "up", "upsample")] {
        let mut attend = |place: String| {
            VAE_ATTENTION.iter().for_each(|(old, _)| stems.push(format!("{side}.{place}.{old}")));
        };
        attend("mid.attn_1".into());
        for level in 0..levels {
            (0..BLOCKS).for_each(|block| attend(format!("{kind}.{level}.attn.{block}")));
        }
        stems.extend(VAE_PARTS.iter().map(|(old, _)| format!("{side}.{old}")));
        for level in 0..levels {
            stems.push(format!("{side}.{kind}.{level}.{sampler}."));
            stems.extend((0..BLOCKS).map(|block| format!("{side}.{kind}.{level}.block.{block}.")));
        }
    }
    stems.into_iter().filter_map(|old| Some((vae(&old, levels)?, old))).collect()
}

/// Beginnings of names in a text tower: transformers' and OpenCLIP's of the same modules, for those layers that `names`
/// have.
pub fn open_clip_aliases(names: &[String]) -> Vec<(String, String)> {
    let layer = |name: &String| name.strip_prefix("text_model.encoder.layers.")?.split('.').next()?.parse::<u16>().ok();
    let layers = names.iter().filter_map(layer).max().map_or(0, |last| last + 1);
    let parts = OPEN_CLIP_PARTS.iter().map(|(old, new)| ((*new).to_owned(), (*old).to_owned()));
    let of_layer = |layer: u16| {
        OPEN_CLIP_LAYER.iter().map(move |(old, new)| {
            (format!("text_model.encoder.layers.{layer}.{new}"), format!("transformer.resblocks.{layer}.{old}"))
        })
    };
    parts.chain((0..layers).flat_map(of_layer)).collect()
}

/// The transformers names of a key of OpenCLIP's text tower (without prefix), and the part of it that each is.
pub fn open_clip(key: &str) -> Vec<(String, Part)> {
    if key == "text_projection" {
        return vec![("text_projection.weight".into(), Part::Transposed)];
    }
    if let Some(name) = translate(key, OPEN_CLIP_PARTS) {
        return vec![(name, Part::Whole)];
    }
    let Some((layer, rest)) = open_clip_layer(key) else { return vec![] };
    let layer = format!("text_model.encoder.layers.{layer}.");
    if let Some(kind @ ("weight" | "bias")) = rest.strip_prefix("attn.in_proj_") {
        let thirds = ["q_proj", "k_proj", "v_proj"].into_iter().enumerate();
        return thirds.map(|(i, name)| (format!("{layer}self_attn.{name}.{kind}"), Part::Third(i))).collect();
    }
    translate(rest, OPEN_CLIP_LAYER).map(|name| (layer + &name, Part::Whole)).into_iter().collect()
}

/// The transformers names of a key of a text tower (without prefix) that has such names already. stable-diffusion.cpp
/// renames OpenCLIP's towers so, but leaves fused what is fused there, and the projection as a bare matrix.
pub fn clip(key: &str) -> Vec<(String, Part)> {
    if key == "text_model.text_projection" {
        return vec![("text_projection.weight".into(), Part::Transposed)];
    }
    if let Some((layer, kind @ ("weight" | "bias"))) = key.split_once(".in_proj.") {
        let thirds = ["q_proj", "k_proj", "v_proj"].into_iter().enumerate();
        return thirds.map(|(i, name)| (format!("{layer}.{name}.{kind}"), Part::Third(i))).collect();
    }
    vec![(key.to_owned(), Part::Whole)]
}

/// Layer number and the rest of `transformer.resblocks.N.…`.
fn open_clip_layer(key: &str) -> Option<(usize, &str)> {
    let (layer, rest) = key.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// `key` with the first prefix of `table` that it has replaced.
fn translate(key: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(old, new)| key.strip_prefix(old).map(|rest| format!("{new}{rest}")))
}

/// `PREFIX N.M.rest` → (N, M, rest).
fn numbered<'a>(key: &'a str, prefix: &str) -> Option<(usize, usize, &'a str)> {
    let (block, rest) = key.strip_prefix(prefix)?.split_once('.')?;
    let (part, rest) = rest.split_once('.')?;
    Some((block.parse().ok()?, part.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_diffusion_1_numbers_its_blocks_so() {
        let levels = Levels(vec![2; 4]);
        for (old, new) in [
            ("input_blocks.1.0.in_layers.0.weight", "down_blocks.0.resnets.0.norm1.weight"),
            ("input_blocks.3.0.op.bias", "down_blocks.0.downsamplers.0.conv.bias"),
            ("input_blocks.4.0.skip_connection.weight", "down_blocks.1.resnets.0.conv_shortcut.weight"),
            (
                "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight",
                "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight",
            ),
            ("input_blocks.11.0.out_layers.3.bias", "down_blocks.3.resnets.1.conv2.bias"),
            ("middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
            ("middle_block.2.emb_layers.1.weight", "mid_block.resnets.1.time_emb_proj.weight"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.3.1.proj_in.weight", "up_blocks.1.attentions.0.proj_in.weight"),
            ("output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
            ("output_blocks.11.0.out_layers.0.bias", "up_blocks.3.resnets.2.norm2.bias"),
            ("out.2.weight", "conv_out.weight"),
        ] {
            assert_eq!(unet(old, &levels).as_deref(), Some(new), "{old}");
        }
        for unknown in [
            "output_blocks.4.2.conv.weight",
            "input_blocks.12.0.in_layers.0.weight",
            "output_blocks.12.0.in_layers.0.weight",
            "input_blocks.1.0.x.weight",
            "x",
        ] {
            assert_eq!(unet(unknown, &levels), None, "{unknown}");
        }
    }

    #[test]
    fn the_decoder_counts_backwards() {
        for (old, new) in [
            ("decoder.up.3.block.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
            ("decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
            ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("encoder.down.2.downsample.conv.weight", "encoder.down_blocks.2.downsamplers.0.conv.weight"),
            ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
            ("encoder.down.2.attn.1.norm.bias", "encoder.down_blocks.2.attentions.1.group_norm.bias"),
            ("decoder.up.3.attn.0.q.weight", "decoder.up_blocks.0.attentions.0.to_q.weight"),
            ("encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
            ("post_quant_conv.bias", "post_quant_conv.bias"),
        ] {
            assert_eq!(vae(old, 4).as_deref(), Some(new), "{old}");
        }
        assert_eq!(vae("decoder.up.4.block.0.conv1.weight", 4), None);
        assert_eq!(vae("loss.discriminator.weight", 4), None);
    }
}
