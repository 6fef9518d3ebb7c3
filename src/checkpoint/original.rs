//! Names of the original code for tensors that have diffusers' names: the key map of `ldm_keys` backwards. Every name
//! found here is translated there again, and must come back.

use std::collections::BTreeSet;

use super::ldm_keys::{self, Levels};

/// How a tensor of the original code is made of those of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Made {
    /// It is this one.
    Of(String),
    /// It is this matrix `[C_out, C_in]` as a 1×1 convolution `[C_out, C_in, 1, 1]`.
    Convolution(String),
    /// It is this one's transpose.
    Transposed(String),
    /// It is these, one below the other.
    Stacked([String; 3]),
}

/// The original code's name, and what it is made of.
pub type Renamed = (String, Made);

/// All tensors of a U-Net, without prefix.
///
/// # Errors
/// The first name that the original code has none for.
pub fn unet(names: &[String]) -> Result<Vec<Renamed>, String> {
    let levels = Levels::of_ours(names);
    let aliases = ldm_keys::unet_aliases(&levels);
    // The upsampler's number follows from whether an attention stands before it.
    let attends = |up: &str| names.iter().any(|name| name.starts_with(&format!("{up}.attentions.")));
    let sampler = |name: &str, original: &str| match name.split_once(".upsamplers.") {
        Some((up, _)) if attends(up) => original.contains(".2.conv."),
        Some(_) => original.contains(".1.conv."),
        None => true,
    };
    names
        .iter()
        .map(|name| {
            // SD 2's unCLIP models have XL's condition under another name.
            let ours = match name.strip_prefix("class_embedding.linear_") {
                Some(rest) => format!("add_embedding.linear_{rest}"),
                None => name.clone(),
            };
            let fitting = aliases.iter().filter_map(|(new, old)| Some(format!("{old}{}", ours.strip_prefix(new)?)));
            let back = |original: &String| ldm_keys::unet(original, &levels).as_deref() == Some(ours.as_str());
            let original = fitting.filter(back).find(|original| sampler(name, original));
            original.map(|original| (original, Made::Of(name.clone()))).ok_or_else(|| name.clone())
        })
        .collect()
}

/// All tensors of an autoencoder, without prefix.
///
/// # Errors
/// The first name that the original code has none for.
pub fn vae(names: &[String]) -> Result<Vec<Renamed>, String> {
    let number = |name: &String, side: &str| name.strip_prefix(side)?.split('.').next()?.parse::<usize>().ok();
    let counted = |side: &str| names.iter().filter_map(|name| number(name, side)).max().map_or(0, |last| last + 1);
    let levels = counted("decoder.up_blocks.").max(counted("encoder.down_blocks."));
    let aliases = ldm_keys::vae_aliases(levels);
    names
        .iter()
        .map(|name| {
            let fitting = aliases.iter().filter_map(|(new, old)| Some(format!("{old}{}", name.strip_prefix(new)?)));
            let back = |original: &String| ldm_keys::vae(original, levels).as_deref() == Some(name.as_str());
            let original = fitting
                .map(|original| original.replace(".conv_shortcut.", ".nin_shortcut."))
                .chain([name.clone()])
                .find(back)
                .ok_or_else(|| name.clone())?;
            // The original code's attention consists of 1x1 convolutions.
            let convolution = name.contains(".attentions.") && name.ends_with(".weight") && !name.contains("norm");
            Ok((original, if convolution { Made::Convolution(name.clone()) } else { Made::Of(name.clone()) }))
        })
        .collect()
}

/// All tensors of a text tower in OpenCLIP's names, without prefix. `names` are transformers', with `text_model.`
/// before the tower's own.
///
/// # Errors
/// The first name that OpenCLIP has none for.
pub fn open_clip(names: &[String]) -> Result<Vec<Renamed>, String> {
    let aliases = ldm_keys::open_clip_aliases(names);
    let mut renamed = Vec::new();
    let mut stacked = BTreeSet::new();
    for name in names {
        let third = ["q", "k", "v"].iter().find_map(|part| name.split_once(&format!("self_attn.{part}_proj.")));
        if let Some((layer, kind)) = third {
            let number = layer.trim_start_matches("text_model.encoder.layers.");
            let original = format!("transformer.resblocks.{number}attn.in_proj_{kind}");
            if stacked.insert(original.clone()) {
                let of = ["q", "k", "v"].map(|part| format!("{layer}self_attn.{part}_proj.{kind}"));
                renamed.push((original, Made::Stacked(of)));
            }
            continue;
        }
        if name == "text_projection.weight" {
            renamed.push(("text_projection".to_owned(), Made::Transposed(name.clone())));
            continue;
        }
        let fitting = aliases.iter().filter_map(|(new, old)| Some(format!("{old}{}", name.strip_prefix(new)?)));
        let back = |original: &String| ldm_keys::open_clip(original).iter().any(|(new, _)| new == name);
        let original = fitting.into_iter().find(back).ok_or_else(|| name.clone())?;
        renamed.push((original, Made::Of(name.clone())));
    }
    Ok(renamed)
}
