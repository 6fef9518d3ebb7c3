//! Text towers: which component each is, and its configuration.

use serde_json::{Value, json};

use super::shapes::Shapes;
use super::{Family, projects, width};
use crate::checkpoint::layout::Names;
use crate::checkpoint::single_file::Pieces;
use crate::error::{Error, Result};

/// Which component each text tower is: a single one that which is `wanted`.
pub(super) fn assigned(
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
pub(super) fn belongs(name: &str, layers: usize, projects: bool) -> bool {
    let name = name.strip_prefix("text_model.").unwrap_or(name);
    let layer = name.strip_prefix("encoder.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    layer.is_none_or(|layer| layer < layers) && (projects || !name.starts_with("text_projection"))
}

pub(super) fn config(shapes: &Shapes<'_>, family: Family, component: &str, names: Names) -> Result<Value> {
    let inner = if shapes.has("text_model.embeddings.token_embedding.weight") { "text_model." } else { "" };
    let name = |part: &str| format!("{inner}{part}");
    let hidden_size = shapes.field("hidden_size", &name("embeddings.token_embedding.weight"), 1)?;
    let stored = shapes.counted("num_hidden_layers", &name("encoder.layers."));
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
    let positions = shapes.field("max_position_embeddings", &name("embeddings.position_embedding.weight"), 0)?;
    let mut config = json!({
        "architectures": [class],
        "model_type": "clip_text_model",
        "vocab_size": shapes.field("vocab_size", &name("embeddings.token_embedding.weight"), 0)?,
        "max_position_embeddings": positions,
        "hidden_size": hidden_size,
        "intermediate_size": shapes.field("intermediate_size", &name("encoder.layers.0.mlp.fc1.weight"), 0)?,
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
        config["projection_dim"] = shapes.field("projection_dim", "text_projection.weight", 0)?.into();
    }
    Ok(config)
}

/// 64 channels a head.
pub(super) fn heads(channels: usize, what: &str) -> Result<usize> {
    if channels == 0 || !channels.is_multiple_of(64) {
        return Err(Error::Unsupported(format!(
            "the {what} has {channels} channels, not a multiple of 64, the size of an attention head in this family; \
             give the model as a diffusers folder, whose config.json holds the number of heads"
        )));
    }
    Ok(channels / 64)
}
