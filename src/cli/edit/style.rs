//! `unmist style`: a picture in the style of a prompt.

use std::path::PathBuf;

use serde_json::json;

use super::job::{self, Job};
use crate::error::{Error, Result};
use crate::pipelines::{Runtime, Style};
use crate::request::Request;
use crate::tensor::HostTensor;

/// Options of `unmist style`: a request for one picture made of another, and how much of that one stays.
#[derive(clap::Args)]
#[command(mut_args(|arg| job::hidden(arg, &NOT_HERE)))]
pub struct Args {
    #[command(flatten)]
    pub request: Request,
    /// What the picture shows; PROMPT is what the styled one shall show
    #[arg(long, value_name = "WORDS", default_value = "")]
    pub source: String,
    /// The share of the steps whose self-attention is the original's, 0 to 1: more keeps more of its layout
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    pub attention_share: f64,
    /// Begins with the picture and noise of --seed, as `unmist sample` does, in place of the noise that it is made of
    #[arg(long)]
    pub fresh_noise: bool,
    /// FILE.png, FILE.jpg, FILE.webp (without loss), or FILE.safetensors for the values before rounding
    #[arg(long, short, default_value = "styled.png", value_name = "FILE")]
    pub output: PathBuf,
}

/// Fields that have no meaning for one whole picture made of another by DDIM.
const NOT_HERE: [&str; 15] = [
    "mask",
    "mask_reading",
    "mask_blur",
    "padding_mask_crop",
    "noise_level",
    "latents",
    "denoising_start",
    "denoising_end",
    "jump_length",
    "jump_n_sample",
    "image_guidance_scale",
    "batch_size",
    "separate",
    "refiner",
    "refiner_lora",
];

/// Runs the command.
///
/// # Errors
/// As the library.
pub fn run(args: Args) -> Result<()> {
    let share = args.attention_share;
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::Usage(format!("--attention-share {share}: expected a number from 0 to 1")));
    }
    job::check(&args.request, &NOT_HERE)?;
    let job = Job::open(args.request, &[("output", Some(&args.output))])?;
    let pipeline = &job.models.model.pipeline;
    let options = &job.resolved.options;
    let load = job.load()?;
    let runtime = Runtime::new(&job.device, &load, job.dtype());
    let mut reporter = job.reporter(2 * pipeline.steps(options)?);
    let style = Style { source: args.source, attention_share: share, fresh_noise: args.fresh_noise };
    let both = pipeline.restyle(&runtime, options, &style, &mut job.resolved.noise_sources(), &mut |progress| {
        reporter.step(&progress);
        Ok(())
    })?;
    reporter.decode();
    let [_, channels, height, width] = both.shape[..] else { unreachable!("latents have four dimensions") };
    let styled = HostTensor::new([1, channels, height, width], both.data[both.len() / 2..].to_vec())?;
    let images = pipeline.decode(&runtime, &styled)?;
    reporter.finish(1);
    let account = json!({"source": style.source, "attention_share": share, "fresh_noise": style.fresh_noise});
    job.write(&images, "style", account)
}
