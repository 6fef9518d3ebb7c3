//! DiffEdit (Couairon et al. 2022, arXiv:2210.11427): a picture changes where its description does. As diffusers'
//! `StableDiffusionDiffEditPipeline` computes it.
//!
//! 1. The picture is noised to a middle level, and the model asked for the noise under the old description and under
//!    the new one. Where the two answers differ is what must change (section 3.2, step 1).
//! 2. The picture goes the way of DDIM to more noise, under the old description (step 2).
//! 3. It comes back under the new one. Outside the mask, every step puts back what the way up was there (step 3).

use super::start::{Start, add_noise};
use super::{DiffusionPipeline, Kind, Runtime, SampleOptions};
use crate::error::{Error, Result};
use crate::pipelines::Progress;
use crate::pipelines::denoise::Changing;
use crate::refusal::{Refusal, Remedy};
use crate::rng::{NoiseSource, TorchCpu};
use crate::schedulers::{Combination, Noising, Repaint, Sampling, Schedule, Step};
use crate::tensor::HostTensor;

/// How DiffEdit finds what must change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EditMask {
    /// Draws of noise whose differences are averaged, 1 or more.
    pub num_maps_per_mask: usize,
    /// The level to which the picture is noised, as the strength of image to image, in (0, 1].
    pub mask_encode_strength: f64,
    /// What changes is what differs by more than half of this many times the mean difference.
    pub mask_thresholding_ratio: f64,
}

impl Default for EditMask {
    fn default() -> Self {
        Self { num_maps_per_mask: 10, mask_encode_strength: 0.5, mask_thresholding_ratio: 3.0 }
    }
}

impl EditMask {
    /// Checks the numbers, for runs of so many `steps`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the one that makes no sense.
    pub fn check(&self, steps: usize) -> Result<()> {
        let Self { num_maps_per_mask, mask_encode_strength: strength, mask_thresholding_ratio: ratio } = *self;
        let most = SampleOptions::MAX_PICTURES;
        if !(1..=most).contains(&num_maps_per_mask) {
            return Err(Error::Usage(format!("num_maps_per_mask {num_maps_per_mask}: expected 1 to {most}")));
        }
        if !(strength > 0.0 && strength <= 1.0 && (steps as f64 * strength) as usize > 0) {
            let why = format!("expected a number up to 1, and one of the {steps} steps at least");
            return Err(Error::Usage(format!("mask_encode_strength {strength}: {why}")));
        }
        if !(ratio.is_finite() && ratio > 0.0) {
            return Err(Error::Usage(format!("mask_thresholding_ratio {ratio}: expected a number above 0")));
        }
        Ok(())
    }
}

impl DiffusionPipeline {
    /// Checks that a picture can be edited by runs of `options`: that they are of one picture, by DDIM, with a model
    /// like Stable Diffusion 1 and 2.
    ///
    /// # Errors
    /// A refusal of the field that stands in the way.
    pub fn check_editable(&self, options: &SampleOptions) -> Result<()> {
        let of = match self.traits {
            traits if traits.xl => Some("Stable Diffusion XL"),
            traits if traits.distilled || traits.consistency => Some("a consistency model"),
            traits if traits.kind != Kind::Plain => Some("one that does not make pictures of noise and text alone"),
            _ => None,
        };
        if let Some(of) = of {
            let why = format!("it is {of}; pictures are edited with models like Stable Diffusion 1 and 2");
            return Err(Refusal::of("model", why).into());
        }
        if options.image.is_none() {
            return Err(Refusal::of("image", "there is none to edit").instead(Remedy::Give(&["image"])).into());
        }
        if options.batch_size != 1 || options.prompts.len() > 1 {
            return Err(Refusal::of("prompt", "a picture is edited by one prompt").into());
        }
        self.check_invertible(options)
    }

    /// How much the predictions for the noised picture of `options` differ between the prompt `source` and that of
    /// `options`, the mean over channels and draws of noise, divided by the mean of all: `[1, 1, h, w]`. `noise` draws
    /// the autoencoder's samples of all maps at once, then their noise.
    ///
    /// diffusers' map is smaller by a factor, (w − 1)/w for a guidance of w, since it takes prompt and negative prompt
    /// for each other; divided by the mean, both are the same.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::check_editable`] and [`DiffusionPipeline::sample`]; a refusal of a prompt that makes no
    /// difference.
    pub fn difference_map<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        source: &str,
        how: &EditMask,
        noise: &mut S,
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        self.check_editable(options)?;
        how.check(options.sampling.num_inference_steps)?;
        let maps = how.num_maps_per_mask;
        let prompts = [&[source.to_owned()], options.prompts.as_slice()].concat();
        let sampling = Sampling { strength: how.mask_encode_strength, ..options.sampling.clone() };
        let options = &SampleOptions { batch_size: 2, prompts, sampling, mask: None, noise: None, ..options.clone() };
        self.check(options)?;
        // One call of the model, whose result is its prediction.
        let first = self.schedule(options)?.steps.swap_remove(0);
        let level = first.add_noise;
        let asked = Step { prev_sample: Combination::model_output(), ..first };
        let schedule = Schedule { steps: vec![asked], ..self.schedule(options)? };
        let shape = self.latent_shape(options)?;
        let [_, channels, height, width] = shape;
        let all = [maps, channels, height, width];
        let starts = |_: &mut [TorchCpu]| {
            let (vae, image) = (self.autoencoder()?, options.image.as_ref().expect("check_editable has seen it"));
            let draws = vae.draw(noise, &all);
            let latents = vae.encode(runtime, image, &draws)?;
            let noised = add_noise(runtime, &latents, &noise.randn(&all), level)?;
            let both = |one: &[f32]| Ok(Start::plain(HostTensor::new(shape, one.repeat(2))?));
            noised.data.chunks(channels * height * width).map(both).collect()
        };
        let spec = self.spec(options, &schedule, &shape)?;
        let predicted = self.run_each(runtime, options, &spec, &mut [], starts, observe)?;

        let plane = height * width;
        let difference = |of: &HostTensor, i: usize| {
            let (source, target) = of.data.split_at(of.len() / 2);
            f64::from(target[i] - source[i]).abs()
        };
        let at = |place: usize| {
            let of_one = |one| (0..channels).map(|c| difference(one, c * plane + place)).sum::<f64>();
            predicted.iter().map(of_one).sum::<f64>()
        };
        let sums: Vec<f64> = (0..plane).map(at).collect();
        let mean = sums.iter().sum::<f64>() / plane as f64;
        if mean == 0.0 {
            let why = "the model predicts the same under it and under what the picture shows: nothing would change";
            return Err(Refusal::of("prompt", why).into());
        }
        Ok(HostTensor::from_fn([1, 1, height, width], |i| (sums[i] / mean) as f32))
    }

    /// Leads the picture of `options` to more noise, under the prompt `source` and as far as the strength says: its
    /// latents `[1, C, h, w]` after each step, the noisiest last. `noise` draws the autoencoder's sample.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::check_editable`] and [`DiffusionPipeline::sample`].
    pub fn inverted_path<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        source: &str,
        noise: &mut S,
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<Vec<HostTensor>> {
        self.check_editable(options)?;
        let image = options.image.as_ref().expect("check_editable has seen it");
        let options = &SampleOptions { prompts: vec![source.to_owned()], ..options.clone() };
        let vae = self.autoencoder()?;
        let latents = |shape| vae.encode(runtime, image, &vae.draw(noise, &shape));
        let mut path = Vec::new();
        self.invert_latents(runtime, options, image, latents, &mut |mut progress| {
            path.push(progress.sample()?);
            observe(progress)
        })?;
        Ok(path)
    }

    /// Brings the end of a `path` ([`DiffusionPipeline::inverted_path`] of the same number of steps) back under the
    /// prompt of `options`, and outside their mask along the path: latents `[1, C, h, w]`. As in diffusers, a step is
    /// followed by what the path was one step above it, so that the last one puts back the first of the path.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::check_editable`] and [`DiffusionPipeline::sample`]; [`Error::Shape`] if the path does
    /// not belong to the run; a refusal without a mask.
    pub fn edit(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        path: &[HostTensor],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        self.check_editable(options)?;
        self.check(options)?;
        let (Some(image), Some(mask)) = (&options.image, &options.mask) else {
            return Err(Refusal::of("mask", "there is none").instead(Remedy::Give(&["mask"])).into());
        };
        let mut schedule = self.schedule(options)?;
        let shape = self.latent_shape(options)?;
        if path.len() != schedule.steps.len() || path.iter().any(|latents| latents.shape != shape) {
            let (found, expected) = (path.len(), schedule.steps.len());
            return Err(Error::Shape(format!("a way of {found} latents; expected {expected}, each {shape:?}")));
        }
        // What is put back has its noise already.
        let known = Noising { signal: 1.0, noise: 0.0 };
        schedule.steps.iter_mut().for_each(|step| step.repaint = Some(Repaint { known, back: vec![] }));
        let start = |_: &mut [TorchCpu]| {
            let small = self.small_mask(options, (image, mask), &shape)?.channels_last();
            let none = HostTensor::zeros(shape).channels_last();
            let originals = path.iter().rev().map(|latents| vec![("original", latents.channels_last())]);
            Ok(Start {
                latents: path[path.len() - 1].clone(),
                inputs: vec![("mask", small), ("original_noise", none)],
                changing: Changing { values: originals.collect(), of_calls: (0..path.len()).collect() },
            })
        };
        self.run(runtime, options, &schedule, &mut [], start, observe)
    }
}

/// The mask of a [`DiffusionPipeline::difference_map`]: for each of its places a square of `scale` × `scale` pixels
/// that is 1 where the difference is more than `ratio` halves of the mean, `[1, 1, H, W]`.
pub fn thresholded(map: &HostTensor, ratio: f64, scale: usize) -> HostTensor {
    let (height, width) = (map.shape[2] * scale, map.shape[3] * scale);
    HostTensor::from_fn([1, 1, height, width], |i| {
        let place = i / width / scale * map.shape[3] + i % width / scale;
        f32::from(u8::from(f64::from(map.data[place]) > ratio / 2.0))
    })
}
