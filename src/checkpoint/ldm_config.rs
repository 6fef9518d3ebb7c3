//! Configurations of a single-file checkpoint, inferred from the shapes of its tensors.
//!
//! Shapes do not tell everything: not the number of attention heads (8 in SD 1 and the upscaler, 64 channels a head in
//! SD 2 and XL), the groups of the norms (32), what the U-Net predicts, the noise schedule, the scale of the latents
//! and the size of the pictures it was trained on. These are the values that the published models of each family have.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Tensors;
use super::ldm_keys::{self, Levels, TEXT_TOWERS, Tower};
use crate::error::{Error, Result};

/// What a file was found to be.
#[derive(Debug)]
pub struct Inferred {
    /// `model_index.json`.
    pub index: Value,
    /// Component → its `config.json` or `scheduler_config.json`.
    pub configs: BTreeMap<String, Value>,
    /// Residual blocks a level of the U-Net.
    pub levels: Levels,
    /// Levels of the autoencoder.
    pub vae_levels: usize,
    /// The name of the vector condition's embedding.
    pub vector: &'static str,
    /// Layers of the text encoder that are kept.
    pub text_layers: usize,
    /// What was assumed, one sentence each.
    pub assumptions: Vec<String>,
}

/// The families, which differ in what the shapes do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// SD 1.x: CLIP text tower, 1×1 convolutions round the transformers, 8 heads.
    Sd1,
    /// SD 2.x: OpenCLIP text tower, 64 channels a head.
    Sd2,
    /// SD 2's 4× upscaler: noise level as a class, 8 heads.
    Upscaler,
    /// XL: vector condition; two text towers, or one in the refiner.
    Xl,
}

/// Shapes by name, read with messages that name the file.
struct Shapes<'a>(&'a Tensors);

impl Shapes<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.info(name).is_some()
    }

    /// Dimension `axis` of a tensor that must be there.
    fn dim(&self, name: &str, axis: usize) -> Result<usize> {
        let shape = self.0.info(name).map(|info| info.shape);
        shape.and_then(|shape| shape.get(axis).copied()).ok_or_else(|| {
            Error::Checkpoint(format!(
                "{}: a model is recognised by its tensor `{name}` of at least {} dimensions, found {}; fetch the file \
                again",
                self.0.path().display(),
                axis + 1,
                shape.map_or("none".into(), |shape| format!("shape {shape:?}"))
            ))
        })
    }

    /// Numbers N for which there is a tensor `PREFIX N.…`, counted from 0 without a gap.
    fn count(&self, prefix: &str) -> usize {
        let mut numbers: Vec<usize> =
            self.0.names().filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().zip(0..).take_while(|&(&number, i)| number == i).count()
    }
}

/// Infers all configurations of `file`.
pub fn infer(file: &Tensors) -> Result<Inferred> {
    let shapes = Shapes(file);
    let towers: Vec<_> =
        TEXT_TOWERS.iter().filter(|(prefix, ..)| file.names().any(|name| name.starts_with(prefix))).collect();
    let text_time = shapes.has("model.diffusion_model.label_emb.0.0.weight")
        && towers.iter().any(|(prefix, ..)| prefix.starts_with("conditioner."));
    let family = if text_time {
        Family::Xl
    } else if shapes.has("model.diffusion_model.label_emb.weight") {
        Family::Upscaler
    } else if towers.iter().any(|(_, tower, _)| *tower == Tower::OpenClipPenultimate) {
        Family::Sd2
    } else {
        Family::Sd1
    };
    let mut found = Inferred {
        index: Value::Null,
        configs: BTreeMap::new(),
        levels: Levels(vec![]),
        vae_levels: 0,
        vector: if text_time { "add_embedding" } else { "class_embedding" },
        text_layers: 0,
        assumptions: vec![],
    };
    for &&(prefix, tower, name) in &towers {
        let (config, layers) = text_encoder(&shapes, prefix, tower)?;
        found.text_layers = layers;
        found.configs.insert(name.into(), config);
    }
    unet(&shapes, family, &mut found)?;
    if shapes.has("first_stage_model.decoder.conv_in.weight") {
        vae(&shapes, family, &mut found)?;
    }
    scheduler(file, family, &mut found)?;
    found.index = index(family, &found);
    Ok(found)
}

fn text_encoder(shapes: &Shapes, prefix: &str, tower: Tower) -> Result<(Value, usize)> {
    let clip = tower == Tower::Clip;
    // Early files lack the `text_model.` between.
    let inner = if clip && shapes.has(&format!("{prefix}text_model.embeddings.token_embedding.weight")) {
        "text_model."
    } else {
        ""
    };
    let (tokens, positions, layers, mlp) = if clip {
        (
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.",
            "encoder.layers.0.mlp.fc1.weight",
        )
    } else {
        (
            "token_embedding.weight",
            "positional_embedding",
            "transformer.resblocks.",
            "transformer.resblocks.0.mlp.c_fc.weight",
        )
    };
    let name = |part: &str| format!("{prefix}{inner}{part}");
    let hidden_size = shapes.dim(&name(tokens), 1)?;
    let dropped = usize::from(tower == Tower::OpenClipPenultimate);
    let num_hidden_layers = shapes.count(&name(layers)).saturating_sub(dropped);
    let class = if tower == Tower::OpenClip { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    let mut config = json!({
        "architectures": [class],
        "model_type": "clip_text_model",
        "vocab_size": shapes.dim(&name(tokens), 0)?,
        "max_position_embeddings": shapes.dim(&name(positions), 0)?,
        "hidden_size": hidden_size,
        "intermediate_size": shapes.dim(&name(mlp), 0)?,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": heads(hidden_size, "text encoder")?,
        "hidden_act": if clip { "quick_gelu" } else { "gelu" },
        "layer_norm_eps": 1e-5,
        // The published configurations have these; 2 means: pool at the largest id.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    });
    if tower == Tower::OpenClip {
        config["projection_dim"] = shapes.dim(&format!("{prefix}text_projection"), 1)?.into();
    }
    Ok((config, num_hidden_layers))
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

/// What the tensors of one level of the U-Net tell.
struct Level {
    channels: usize,
    layers: usize,
    /// Transformer layers; 0 without attention.
    depth: usize,
    only_cross_attention: bool,
}

impl Level {
    /// The class of its block: one of these, without and with attention.
    fn block_type(&self, [plain, attending]: [&str; 2]) -> Value {
        (if self.depth > 0 { attending } else { plain }).into()
    }
}

fn unet(shapes: &Shapes, family: Family, found: &mut Inferred) -> Result<()> {
    let name = |part: &str| format!("{}{part}", ldm_keys::UNET);
    let blocks = shapes.count(&name("input_blocks."));
    let mut levels = vec![];
    let mut level = Level { channels: 0, layers: 0, depth: 0, only_cross_attention: false };
    let (mut cross_attention_dim, mut linear) = (None, false);
    for block in 1..blocks {
        let part = |part: &str| name(&format!("input_blocks.{block}.{part}"));
        if shapes.has(&part("0.op.weight")) {
            levels.push(std::mem::replace(
                &mut level,
                Level { channels: 0, layers: 0, depth: 0, only_cross_attention: false },
            ));
            continue;
        }
        level.channels = shapes.dim(&part("0.out_layers.3.weight"), 0)?;
        level.layers += 1;
        level.depth = shapes.count(&part("1.transformer_blocks."));
        if level.depth > 0 {
            let context = shapes.dim(&part("1.transformer_blocks.0.attn2.to_k.weight"), 1)?;
            cross_attention_dim = Some(context);
            // Self-attention takes as many channels as it gives; where it takes the text's instead, it crosses.
            level.only_cross_attention =
                shapes.dim(&part("1.transformer_blocks.0.attn1.to_k.weight"), 1)? != level.channels;
            linear = shapes.0.info(&part("1.proj_in.weight")).is_some_and(|info| info.shape.len() == 2);
        }
    }
    levels.push(level);
    found.levels = Levels(levels.iter().map(|level| level.layers).collect());
    let Some(cross_attention_dim) = cross_attention_dim.filter(|_| levels.iter().all(|level| level.layers > 0)) else {
        return Err(Error::Unsupported(format!(
            "{}: the U-Net has no attention over a text, or a level without layers; only Stable Diffusion checkpoints \
            are read as single files",
            shapes.0.path().display()
        )));
    };
    let middle_depth = shapes.count(&name("middle_block.1.transformer_blocks."));
    let of_levels = |value: fn(&Level) -> Value| Value::Array(levels.iter().map(value).collect());
    let up_block_types = levels.iter().rev().map(|level| level.block_type(["UpBlock2D", "CrossAttnUpBlock2D"]));
    let uniform = levels.iter().all(|level| level.layers == levels[0].layers);
    let in_channels = shapes.dim(&name("input_blocks.0.0.weight"), 1)?;
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size(family),
        "in_channels": in_channels,
        "out_channels": shapes.dim(&name("out.2.weight"), 0)?,
        "block_out_channels": of_levels(|level| level.channels.into()),
        "down_block_types": of_levels(|level| level.block_type(["DownBlock2D", "CrossAttnDownBlock2D"])),
        "up_block_types": up_block_types.collect::<Value>(),
        "mid_block_type": if middle_depth > 0 { json!("UNetMidBlock2DCrossAttn") } else { Value::Null },
        "layers_per_block": if uniform { levels[0].layers.into() } else { of_levels(|level| level.layers.into()) },
        "cross_attention_dim": cross_attention_dim,
        "use_linear_projection": linear,
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
    if levels.iter().all(|level| !level.only_cross_attention) {
        config["only_cross_attention"] = false.into();
    }
    // A level without attention has no number of its own; the last one's counts for the middle.
    let depths = levels.iter().map(|level| if level.depth > 0 { level.depth } else { middle_depth.max(1) });
    config["transformer_layers_per_block"] =
        if levels.iter().all(|level| level.depth <= 1) { 1.into() } else { depths.collect() };
    config["attention_head_dim"] = match family {
        Family::Sd1 | Family::Upscaler => 8.into(),
        Family::Sd2 | Family::Xl => {
            levels.iter().map(|level| heads(level.channels, "U-Net")).collect::<Result<Value>>()?
        }
    };
    let time_embedding_dim = shapes.dim(&name("time_embed.0.weight"), 0)?;
    if time_embedding_dim != 4 * levels[0].channels {
        config["time_embedding_dim"] = time_embedding_dim.into();
    }
    if shapes.has(&name("time_embed.cond_proj.weight")) {
        config["time_cond_proj_dim"] = shapes.dim(&name("time_embed.cond_proj.weight"), 1)?.into();
    }
    if family == Family::Upscaler {
        config["num_class_embeds"] = shapes.dim(&name("label_emb.weight"), 0)?.into();
    } else if shapes.has(&name("label_emb.0.0.weight")) {
        let width = shapes.dim(&name("label_emb.0.0.weight"), 1)?;
        config["projection_class_embeddings_input_dim"] = width.into();
        if family == Family::Xl {
            config["addition_embed_type"] = "text_time".into();
            config["addition_time_embed_dim"] = size_embedding_width(width, found)?.into();
        } else {
            config["class_embed_type"] = "projection".into();
        }
    }
    found.configs.insert("unet".into(), config);
    Ok(())
}

/// The width of an embedded number in XL's vector condition, which is the pooled text and then 6 such numbers (sizes,
/// crop, target); in the refiner 5, with an aesthetic score for the target.
fn size_embedding_width(width: usize, found: &Inferred) -> Result<usize> {
    let pooled =
        found.configs.get("text_encoder_2").and_then(|config| config["projection_dim"].as_u64()).unwrap_or(0) as usize;
    let numbers = if found.configs.contains_key("text_encoder") { 6 } else { 5 };
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
        Family::Upscaler | Family::Xl => 128,
    }
}

fn vae(shapes: &Shapes, family: Family, found: &mut Inferred) -> Result<()> {
    let name = |part: &str| format!("{}{part}", ldm_keys::VAE);
    let levels = shapes.count(&name("encoder.down."));
    let channels: Vec<usize> = (0..levels)
        .map(|level| shapes.dim(&name(&format!("encoder.down.{level}.block.0.conv1.weight")), 0))
        .collect::<Result<_>>()?;
    found.vae_levels = levels;
    let mut config = json!({
        "_class_name": "AutoencoderKL",
        "in_channels": shapes.dim(&name("encoder.conv_in.weight"), 1)?,
        "out_channels": shapes.dim(&name("decoder.conv_out.weight"), 0)?,
        "latent_channels": shapes.dim(&name("decoder.conv_in.weight"), 1)?,
        "block_out_channels": channels,
        "layers_per_block": shapes.count(&name("encoder.down.0.block.")),
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "mid_block_add_attention": shapes.has(&name("encoder.mid.attn_1.q.weight")),
        "use_quant_conv": shapes.has(&name("quant_conv.weight")),
        "use_post_quant_conv": shapes.has(&name("post_quant_conv.weight")),
        "act_fn": "silu",
        "norm_num_groups": 32,
        "sample_size": 8 * sample_size(family),
        "force_upcast": true,
        "scaling_factor": match family {
            Family::Sd1 | Family::Sd2 => 0.18215,
            Family::Upscaler => 0.08333,
            Family::Xl => 0.13025,
        },
    });
    // Playground 2.5 stores the statistics of its latents beside the weights.
    if shapes.has("edm_mean") && shapes.has("edm_std") {
        config["latents_mean"] = shapes.0.read_f32("edm_mean")?.data.into_iter().collect();
        config["latents_std"] = shapes.0.read_f32("edm_std")?.data.into_iter().collect();
        config["scaling_factor"] = 0.5.into();
    }
    found.configs.insert("vae".into(), config);
    Ok(())
}

/// What the U-Net predicts, and the scheduler that the family's folders have.
fn scheduler(file: &Tensors, family: Family, found: &mut Inferred) -> Result<()> {
    let unet = &found.configs["unet"];
    let marked = file.info("v_pred").is_some();
    let (prediction_type, why) = match family {
        _ if marked => ("v_prediction", "the file is marked so (`v_pred`)"),
        Family::Sd1 | Family::Xl => ("epsilon", "as most models of its family"),
        Family::Upscaler => ("v_prediction", "as the published model"),
        Family::Sd2 if unet["in_channels"] != 4 => ("epsilon", "as the published model"),
        Family::Sd2 if last_norm_spread(file)? > 0.09 => {
            ("v_prediction", "a wide spread of the last norm's biases, as in 2.0 and 2.1")
        }
        Family::Sd2 => ("epsilon", "a narrow spread of the last norm's biases, as in the base models"),
    };
    found.assumptions.push(format!("the U-Net predicts {prediction_type} ({why}); `prediction_type` says otherwise"));
    if family == Family::Sd2 && prediction_type == "epsilon" {
        found.configs.get_mut("unet").expect("it was indexed above")["sample_size"] = 64.into();
    }
    let class = match family {
        _ if file.info("edm_mean").is_some() => "EDMDPMSolverMultistepScheduler",
        Family::Sd1 => "PNDMScheduler",
        Family::Sd2 | Family::Upscaler => "DDIMScheduler",
        Family::Xl => "EulerDiscreteScheduler",
    };
    let (beta_start, beta_end) = if family == Family::Upscaler { (0.0001, 0.02) } else { (0.00085, 0.012) };
    let mut config = json!({
        "_class_name": class,
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": beta_start,
        "beta_end": beta_end,
        "prediction_type": prediction_type,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    });
    match class {
        "EDMDPMSolverMultistepScheduler" => {
            config = json!({
                "_class_name": class, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
                "prediction_type": prediction_type,
            });
        }
        "PNDMScheduler" => {
            config["skip_prk_steps"] = true.into();
            config["set_alpha_to_one"] = false.into();
        }
        "DDIMScheduler" => {
            config["clip_sample"] = false.into();
            config["set_alpha_to_one"] = false.into();
        }
        _ => {}
    }
    if file.info("ztsnr").is_some() {
        config["rescale_betas_zero_snr"] = true.into();
        config["timestep_spacing"] = "trailing".into();
    }
    if family == Family::Upscaler {
        let low_res = json!({
            "_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear",
            "beta_start": beta_start, "beta_end": beta_end, "prediction_type": "epsilon",
            "variance_type": "fixed_small",
        });
        found.configs.insert("low_res_scheduler".into(), low_res);
    }
    found.configs.insert("scheduler".into(), config);
    Ok(())
}

/// Standard deviation of the biases of the last attention's first norm. ComfyUI tells the v-predicting SD 2 models from
/// the others by it: above 0.09 they predict v.
fn last_norm_spread(file: &Tensors) -> Result<f64> {
    let numbered = |name: &str| -> Option<usize> {
        let rest = name.strip_prefix("model.diffusion_model.output_blocks.")?;
        rest.strip_suffix(".1.transformer_blocks.0.norm1.bias")?.parse().ok()
    };
    let Some(last) = file.names().filter_map(numbered).max() else { return Ok(0.0) };
    let bias =
        file.read_f32(&format!("model.diffusion_model.output_blocks.{last}.1.transformer_blocks.0.norm1.bias"))?;
    let n = bias.len() as f64;
    let mean = bias.data.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    Ok((bias.data.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
}

fn index(family: Family, found: &Inferred) -> Value {
    let in_channels = found.configs["unet"]["in_channels"].as_u64();
    let refiner = family == Family::Xl && !found.configs.contains_key("text_encoder");
    let class = match (family, in_channels) {
        (Family::Upscaler, _) => "StableDiffusionUpscalePipeline",
        (Family::Xl, Some(9)) => "StableDiffusionXLInpaintPipeline",
        (Family::Xl, Some(8)) => "StableDiffusionXLInstructPix2PixPipeline",
        (Family::Xl, _) if refiner => "StableDiffusionXLImg2ImgPipeline",
        (Family::Xl, _) => "StableDiffusionXLPipeline",
        (_, Some(9)) => "StableDiffusionInpaintPipeline",
        (_, Some(8)) => "StableDiffusionInstructPix2PixPipeline",
        (_, Some(5)) => "StableDiffusionDepth2ImgPipeline",
        _ => "StableDiffusionPipeline",
    };
    let mut index = json!({"_class_name": class});
    for (name, config) in &found.configs {
        let class = config["_class_name"].as_str().or_else(|| config["architectures"][0].as_str());
        let library = if name.starts_with("text_encoder") { "transformers" } else { "diffusers" };
        index[name] = json!([library, class]);
    }
    if family == Family::Xl {
        index["force_zeros_for_empty_prompt"] = (!refiner).into();
    }
    if refiner {
        index["requires_aesthetics_score"] = true.into();
    }
    if family == Family::Upscaler {
        index["max_noise_level"] = 350.into();
    }
    index
}
