//! `unmist edit` and `unmist style`: a picture of yours, changed by words.

mod job;
mod style;

use std::path::PathBuf;

use serde_json::json;

pub use style::{Args as StyleArgs, run as run_style};

use super::say;
use crate::error::{Error, Result};
use crate::generate::Overlay;
use crate::image_io::{Picture, write_png};
use crate::output::check_writable;
use crate::pipelines::{EditMask, Runtime, SampleOptions, thresholded};
use crate::request::Request;
use job::Job;

/// Options of `unmist edit`: a request for one picture made of another, and what that one shows.
#[derive(clap::Args)]
#[command(mut_args(|arg| job::hidden(arg, &NOT_HERE)))]
pub struct Args {
    #[command(flatten)]
    pub request: Request,
    /// What the picture shows; PROMPT is what it shall show
    #[arg(long, value_name = "WORDS")]
    pub source: String,
    /// Draws of noise that the mask is averaged over, without --mask [default: 10]
    #[arg(long, value_name = "N", conflicts_with = "mask")]
    pub num_maps_per_mask: Option<usize>,
    /// How much the picture is noised to find the mask, as --strength [default: 0.5]
    #[arg(long, value_name = "S", conflicts_with = "mask")]
    pub mask_encode_strength: Option<f64>,
    /// More is a smaller mask: what changes differs by more than half of this many times the mean [default: 3]
    #[arg(long, value_name = "R", conflicts_with = "mask")]
    pub mask_thresholding_ratio: Option<f64>,
    /// Also writes the mask that was found, white where the picture changes; --mask takes it
    #[arg(long, value_name = "FILE.png", conflicts_with = "mask")]
    pub mask_output: Option<PathBuf>,
    /// FILE.png, FILE.jpg, FILE.webp (without loss), or FILE.safetensors for the values before rounding
    #[arg(long, short, default_value = "edited.png", value_name = "FILE")]
    pub output: PathBuf,
}

/// Fields that have no meaning for one picture made of another by DDIM.
const NOT_HERE: [&str; 12] = [
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
    let usual = EditMask::default();
    let how = EditMask {
        num_maps_per_mask: args.num_maps_per_mask.unwrap_or(usual.num_maps_per_mask),
        mask_encode_strength: args.mask_encode_strength.unwrap_or(usual.mask_encode_strength),
        mask_thresholding_ratio: args.mask_thresholding_ratio.unwrap_or(usual.mask_thresholding_ratio),
    };
    job::check(&args.request, &NOT_HERE)?;
    args.mask_output.iter().try_for_each(check_writable)?;
    let written = [("output", Some(&args.output)), ("mask-output", args.mask_output.as_ref())];
    let job = Job::open(args.request, &written)?;
    let pipeline = &job.models.model.pipeline;
    let mut options = job.resolved.options.clone();
    let given = options.mask.is_some();
    if !given {
        how.check(options.sampling.num_inference_steps).map_err(in_flags)?;
    }

    let load = job.load()?;
    let runtime = Runtime::new(&job.device, &load, job.dtype());
    let steps = 2 * pipeline.steps(&options)? + if given { 0 } else { how.num_maps_per_mask };
    let mut reporter = job.reporter(steps);
    let mut observe = |progress: crate::pipelines::Progress<'_>| {
        reporter.step(&progress);
        Ok(())
    };
    let mut noise = job.resolved.noise_sources().swap_remove(0);
    if !given {
        let map = pipeline.difference_map(&runtime, &options, &args.source, &how, &mut noise, &mut observe)?;
        let mask = thresholded(&map, how.mask_thresholding_ratio, pipeline.traits.scale);
        let share = mask.data.iter().sum::<f32>() / mask.len() as f32;
        say(format_args!("mask: {:.0} % of the picture change", 100.0 * share));
        if share == 0.0 {
            let ratio = how.mask_thresholding_ratio;
            say(format_args!("note: no place differs enough; less than --mask-thresholding-ratio {ratio} finds more"));
        }
        if let Some(path) = &args.mask_output {
            write_png(path, &Picture::from_tensor(&mask)?[0], &[])?;
        }
        options.mask = Some(mask);
    }
    let without = SampleOptions { mask: None, ..options.clone() };
    let path = pipeline.inverted_path(&runtime, &without, &args.source, &mut noise, &mut observe)?;
    let latents = pipeline.edit(&runtime, &options, &path, &mut observe)?;
    reporter.decode();
    let images = Overlay::apply(job.overlay.as_ref(), pipeline.decode(&runtime, &latents)?)?;
    reporter.finish(1);
    let mut account = json!({"source": args.source});
    if !given {
        account["num_maps_per_mask"] = how.num_maps_per_mask.into();
        account["mask_encode_strength"] = how.mask_encode_strength.into();
        account["mask_thresholding_ratio"] = how.mask_thresholding_ratio.into();
    }
    job.write(&images, "edit", account)
}

/// The library's words for numbers that are no fields of a request, as flags.
fn in_flags(error: Error) -> Error {
    match error {
        Error::Usage(why) => Error::Usage(
            ["num_maps_per_mask", "mask_encode_strength", "mask_thresholding_ratio"]
                .iter()
                .fold(why, |why, name| why.replace(name, &super::words::flag(name))),
        ),
        other => other,
    }
}
