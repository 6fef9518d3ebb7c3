//! Which models a single file holds, in whose names and behind which prefix: read from the names of its tensors alone.
//!
//! Programs put the same models behind different prefixes (`model.diffusion_model.`, `state_dict.…`, none at all) and
//! write them in different names. Each model is found by tensors that every copy of it has, one row of [`SIGNS`] for
//! each way to name them; whatever precedes such a tensor's name is the prefix.

use super::Tensors;

/// Whose names the tensors of a model have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// The original code's: CompVis `ldm`, Stability's `sgm`.
    Ldm,
    /// diffusers' and transformers': those of our models.
    Diffusers,
    /// OpenCLIP's.
    OpenClip,
}

impl Names {
    /// Whose they are, for people.
    pub fn owner(self) -> &'static str {
        match self {
            Self::Ldm => "the original code's",
            Self::Diffusers => "diffusers'",
            Self::OpenClip => "OpenCLIP's",
        }
    }
}

/// A kind of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The denoiser.
    UNet,
    /// The autoencoder.
    Vae,
    /// A text tower.
    Text,
}

impl Kind {
    /// What it is, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::UNet => "a U-Net",
            Self::Vae => "an autoencoder",
            Self::Text => "a text tower",
        }
    }
}

/// One model of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// Whose names it has.
    pub names: Names,
    /// What stands before them.
    pub prefix: String,
}

/// `(kind, names, tensors that a copy has behind one prefix)`. A ControlNet has a U-Net's beginning, but not its end.
const SIGNS: &[(Kind, Names, [&str; 2])] = &[
    (Kind::UNet, Names::Ldm, ["input_blocks.0.0.weight", "out.2.weight"]),
    (Kind::UNet, Names::Diffusers, ["time_embedding.linear_1.weight", "conv_out.weight"]),
    (Kind::Vae, Names::Ldm, ["decoder.conv_in.weight", "decoder.mid.block_1.norm1.weight"]),
    (Kind::Vae, Names::Diffusers, ["decoder.conv_in.weight", "decoder.mid_block.resnets.0.norm1.weight"]),
    (Kind::Text, Names::Diffusers, ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight"]),
    (Kind::Text, Names::OpenClip, ["token_embedding.weight", "positional_embedding"]),
];

/// Finds the models of `file`: at most one denoiser and one autoencoder, and any number of text towers, each kind in
/// the order of the prefixes.
pub fn find(file: &Tensors) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for &(kind, names, [first, second]) in SIGNS {
        let mut prefixes: Vec<&str> = file
            .names()
            .filter_map(|name| name.strip_suffix(first))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .filter(|prefix| file.info(&format!("{prefix}{second}")).is_some())
            .collect();
        // transformers before 5 wrote `text_model.` between the prefix and the tower.
        for prefix in &mut prefixes {
            *prefix = prefix.strip_suffix("text_model.").filter(|_| kind == Kind::Text).unwrap_or(prefix);
        }
        prefixes.sort_unstable();
        // Averages of the weights that training kept beside them.
        if kind != Kind::Text && prefixes.len() > 1 {
            prefixes.retain(|prefix| !prefix.contains("ema"));
            prefixes.truncate(1);
        }
        let known = |prefix: &str| places.iter().any(|place| place.kind == kind && place.prefix == prefix);
        let new: Vec<_> = prefixes.into_iter().filter(|prefix| !known(prefix)).collect();
        places.extend(new.into_iter().map(|prefix| Place { kind, names, prefix: prefix.into() }));
    }
    places
}

/// The model of `places` that `name` belongs to, and its name there: the one with the longest prefix.
pub fn owner<'a>(places: &[Place], name: &'a str) -> Option<(usize, &'a str)> {
    let fitting =
        places.iter().enumerate().filter_map(|(i, place)| Some((i, name.strip_prefix(place.prefix.as_str())?)));
    fitting.min_by_key(|(_, key)| key.len())
}
