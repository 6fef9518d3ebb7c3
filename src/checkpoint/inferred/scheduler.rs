//! What the U-Net of a single file predicts, and on which noise levels: from markers that writers left, else from the
//! family.

use serde_json::{Value, json};

use super::stated::Stated;
use super::{Assumption, Family, Inferred};
use crate::checkpoint::Tensors;
use crate::checkpoint::single_file::Pieces;
use crate::error::Result;

/// What the U-Net predicts, and the scheduler that the family's folders have.
pub(super) fn infer(file: &Tensors, family: Family, stated: &Stated, found: &mut Inferred) -> Result<()> {
    let unet = &found.configs["unet"];
    let marked = file.info("v_pred").is_some();
    let cosine = file.info("edm_vpred.sigma_max").is_some() && file.info("edm_vpred.sigma_min").is_some();
    let told: String;
    let (prediction_type, why) = match family {
        _ if marked => ("v_prediction", "as the file is marked (`v_pred`)"),
        _ if cosine => ("v_prediction", "as the file is marked (`edm_vpred.sigma_max`)"),
        _ if stated.prediction_type.is_some() => {
            let (prediction_type, by) = stated.prediction_type.expect("it was just asked");
            told = format!("as the file says (`{by}`)");
            (prediction_type, told.as_str())
        }
        Family::Sd1 | Family::Xl | Family::Refiner => ("epsilon", "as most models of its family"),
        Family::Upscaler => ("v_prediction", "as the published model"),
        Family::Sd2 if unet["in_channels"] != 4 => ("epsilon", "as the published model"),
        Family::Sd2 if last_norm_spread(file, &found.pieces["unet"])? > 0.09 => {
            ("v_prediction", "as a wide spread of the last norm's biases shows, which 2.0 and 2.1 have")
        }
        Family::Sd2 => ("epsilon", "as a narrow spread of the last norm's biases shows, which the base models have"),
    };
    let what = format!("the U-Net predicts {prediction_type}, {why}");
    found.assumptions.push(Assumption { what, field: Some("prediction_type") });
    let consistency = found.is_consistency_model();
    // Pixels a latent, by the halvings of the autoencoder; 8 in all published models.
    let levels = found.configs.get("vae").and_then(|vae| vae["block_out_channels"].as_array()).map_or(4, Vec::len);
    let scale = 1_usize << levels.saturating_sub(1).min(6);
    let unet = found.configs.get_mut("unet").expect("it was indexed above");
    if family == Family::Sd2 && prediction_type == "epsilon" {
        unet["sample_size"] = 64.into();
    }
    match stated.resolution {
        Some((width, height)) if width == height => unet["sample_size"] = (width / scale).into(),
        Some((width, height)) => unet["sample_size"] = json!([height / scale, width / scale]),
        None => {}
    }
    let class = match family {
        _ if consistency => "LCMScheduler",
        _ if cosine => "EDMEulerScheduler",
        _ if file.info("edm_mean").is_some() => "EDMDPMSolverMultistepScheduler",
        Family::Sd1 => "PNDMScheduler",
        Family::Sd2 | Family::Upscaler => "DDIMScheduler",
        Family::Xl | Family::Refiner => "EulerDiscreteScheduler",
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
        // CosXL
        "EDMEulerScheduler" => {
            let level = |name: &str| -> Result<Value> { Ok(file.read_f32(name)?.data.first().copied().into()) };
            config = json!({
                "_class_name": class, "sigma_min": level("edm_vpred.sigma_min")?,
                "sigma_max": level("edm_vpred.sigma_max")?, "sigma_data": 1.0, "sigma_schedule": "exponential",
                "prediction_type": prediction_type,
            });
        }
        "LCMScheduler" => {
            config["steps_offset"] = 0.into();
            config["original_inference_steps"] = 50.into();
            // The pipeline of SD 1 has these for all of its models; XL's is everybody's.
            if family.is_xl() {
                found.generation = Some(json!({ "num_inference_steps": 4, "guidance_scale": 8.0 }));
            }
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
    let what = format!("the scheduler is {class}");
    found.assumptions.push(Assumption { what, field: Some("scheduler") });
    let edm = class.starts_with("EDM");
    if file.info("ztsnr").is_some() && !edm {
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
fn last_norm_spread(file: &Tensors, unet: &Pieces) -> Result<f64> {
    // The names of attentions sort as their blocks do: there are fewer than ten of each.
    let ends = |name: &str| name.starts_with("up_blocks.") && name.ends_with(".transformer_blocks.0.norm1.bias");
    let Some((_, last)) = unet.iter().rfind(|(name, _)| ends(name)) else { return Ok(0.0) };
    let bias = file.read_f32(&last.stored)?;
    let n = bias.len() as f64;
    let mean = bias.data.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    Ok((bias.data.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
}
