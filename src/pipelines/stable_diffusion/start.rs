//! Where a run begins: noise, a noised picture, another model's latents; and what is shown of a picture along the way.

use super::{Kind, PromptOptions, Runtime, StableDiffusionPipeline};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc};
use crate::rng::{NoiseSource, randn_tensor};
use crate::schedulers::{Noising, Schedule};
use crate::tensor::HostTensor;

/// What the denoise loop starts from; all tensors are NCHW, for the N pictures of the batch.
pub(super) struct Start {
    /// `[N, C, h, w]` at the noise level of the first step.
    pub latents: HostTensor,
    /// What the U-Net takes beside the latents, `[N, C′, h, w]`.
    pub condition: Option<HostTensor>,
    /// What is put back outside of the mask.
    pub kept: Option<Kept>,
}

pub(super) struct Kept {
    /// The picture's latents, `[N, C, h, w]`.
    pub original: HostTensor,
    /// The noise they get, `[N, C, h, w]`.
    pub noise: HostTensor,
    /// 1 where the picture changes, `[1, 1, h, w]`.
    pub mask: HostTensor,
}

impl StableDiffusionPipeline {
    /// Whether `options` make sense for this model.
    pub(super) fn check(&self, options: &PromptOptions) -> Result<()> {
        let batch = options.prompts.len();
        let refuse = |text: String| Err(Error::Usage(text));
        if batch == 0 {
            return refuse("there is no prompt".into());
        }
        let lists = [&options.negative_prompts, &options.prompts_2, &options.negative_prompts_2];
        if lists.into_iter().flatten().any(|list| list.len() != batch) {
            return refuse(format!("{batch} prompts need as many negative and second prompts"));
        }
        let scales = &options.guidance_scale;
        if let Some(scale) = scales.iter().find(|s| !s.is_finite()) {
            return refuse(format!("--guidance-scale {scale}: expected a finite number"));
        }
        if scales.len() != 1 && scales.len() != batch {
            let found = scales.len();
            return refuse(format!(
                "--guidance-scale: {found} numbers for {batch} pictures; give one, or one for each"
            ));
        }
        if !(0.0..=1.0).contains(&options.guidance_rescale) {
            return refuse(format!("--guidance-rescale {}: expected a number from 0 to 1", options.guidance_rescale));
        }
        if !options.image_guidance_scale.is_finite() {
            let found = options.image_guidance_scale;
            return refuse(format!("--image-guidance-scale {found}: expected a finite number"));
        }
        let (image, mask) = (options.image.is_some(), options.mask.is_some());
        match self.kind {
            Kind::Plain if mask && !image => refuse("--mask: there is no --image that it belongs to".into()),
            Kind::Inpaint if !image || !mask => {
                refuse("this model paints into a picture: give --image and --mask".into())
            }
            Kind::Edit if !image => refuse("this model edits a picture as the prompt tells it: give --image".into()),
            Kind::Upscale if !image => refuse("this model enlarges a picture: give --image".into()),
            Kind::Edit | Kind::Upscale if mask => refuse("--mask: this model cannot paint into a picture".into()),
            Kind::Edit | Kind::Upscale if options.sampling.strength < 1.0 => {
                refuse("--strength: this model always starts from noise".into())
            }
            kind if options.latents.is_some() && (kind != Kind::Plain || image) => {
                refuse("--latents: latents cannot be combined with a picture".into())
            }
            _ => Ok(()),
        }
    }

    /// Draws and encodes what the run starts from, in the order in which diffusers does.
    pub(super) fn start<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &PromptOptions,
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<Start> {
        let plain = |latents| Start { latents, condition: None, kept: None };
        let level = schedule.steps[0].add_noise;
        if let Some(latents) = &options.latents {
            if latents.shape != shape {
                return Err(Error::Shape(format!("--latents: expected {shape:?}, found {:?}", latents.shape)));
            }
            if options.sampling.denoising_start.is_some() {
                return Ok(plain(latents.clone()));
            }
            let noise = randn_tensor(sources, shape);
            return Ok(plain(add_noise(runtime, latents, &noise, level)?));
        }
        let Some(image) = &options.image else {
            return Ok(plain(scaled(randn_tensor(sources, shape), schedule.init_noise_sigma)));
        };
        match (self.kind, &options.mask) {
            (Kind::Edit, _) => {
                let latents = scaled(randn_tensor(sources, shape), schedule.init_noise_sigma);
                let shown = self.vae.mode(runtime, image)?;
                let condition = HostTensor::new(*shape, shown.data.repeat(shape[0]))?;
                Ok(Start { latents, condition: Some(condition), kept: None })
            }
            (Kind::Upscale, _) => self.start_upscale(runtime, options, image, shape, schedule, sources),
            (_, Some(mask)) => self.start_inpaint(runtime, options, (image, mask), shape, schedule, sources),
            (_, None) => {
                let original = self.encode(runtime, image, shape, sources)?;
                let noise = randn_tensor(sources, shape);
                Ok(plain(add_noise(runtime, &original, &noise, level)?))
            }
        }
    }

    fn start_inpaint<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &PromptOptions,
        (image, mask): (&HostTensor, &HostTensor),
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<Start> {
        let (height, width) = (image.shape[2], image.shape[3]);
        if mask.shape != [1, 1, height, width] {
            return Err(Error::Usage(format!(
                "--mask: it is {} wide and {} high, the picture {width} and {height}; they must be of one size",
                mask.shape.last().unwrap_or(&0),
                mask.shape.iter().rev().nth(1).unwrap_or(&0)
            )));
        }
        // The mask at the latents' size: the nearest pixel up and left, as torch's `interpolate`.
        let changes = |y: usize, x: usize| mask.data[y * width + x] >= 0.5;
        let scale = self.vae.downscale();
        let small = HostTensor::from_fn([1, 1, shape[2], shape[3]], |i| {
            f32::from(u8::from(changes(i / shape[3] * scale, i % shape[3] * scale)))
        });

        let from_noise = options.sampling.strength >= 1.0;
        let original = match self.kind {
            Kind::Inpaint if from_noise => None,
            _ => Some(self.encode(runtime, image, shape, sources)?),
        };
        let noise = randn_tensor(sources, shape);
        let latents = match &original {
            Some(original) if !from_noise => add_noise(runtime, original, &noise, schedule.steps[0].add_noise)?,
            _ => scaled(noise.clone(), schedule.init_noise_sigma),
        };
        if self.kind == Kind::Plain {
            // diffusers draws for the masked picture, too, though only the other kind of model is shown it.
            draw_each(sources, shape, |source, one| self.vae.draw(source, one));
            let original = original.expect("it was encoded above for every other kind");
            return Ok(Start { latents, condition: None, kept: Some(Kept { original, noise, mask: small }) });
        }
        let visible = HostTensor::from_fn(image.shape.as_slice(), |i| {
            let pixel = i % (height * width);
            if changes(pixel / width, pixel % width) { 0.0 } else { image.data[i] }
        });
        let masked = self.encode(runtime, &visible, shape, sources)?;
        let mask = HostTensor::new([shape[0], 1, shape[2], shape[3]], small.data.repeat(shape[0]))?;
        let condition = HostTensor::concat(&[&mask, &masked], 1)?;
        Ok(Start { latents, condition: Some(condition), kept: None })
    }

    fn start_upscale<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &PromptOptions,
        image: &HostTensor,
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<Start> {
        let (scheduler, max) = self.low_res.as_ref().expect("load reads it for this kind");
        let level = options.noise_level;
        if level > *max {
            return Err(Error::Usage(format!("--noise-level {level}: this model knows levels up to {max}")));
        }
        let small = [shape[0], image.shape[1], image.shape[2], image.shape[3]];
        let noise = draw_each(sources, &small, |source, one| source.randn(one));
        let noise = HostTensor::new(small, noise.data.repeat(shape[0] / sources.len()))?;
        let image = HostTensor::new(small, image.data.repeat(shape[0]))?;
        let condition = add_noise(runtime, &image, &noise, scheduler.noise_schedule.noising(level)?)?;
        let latents = scaled(randn_tensor(sources, shape), schedule.init_noise_sigma);
        Ok(Start { latents, condition: Some(condition), kept: None })
    }

    /// A picture's latents for each picture of the batch, `shape`: with one source all alike, with several each its own
    /// sample.
    fn encode<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        image: &HostTensor,
        shape: &[usize; 4],
        sources: &mut [S],
    ) -> Result<HostTensor> {
        let draws = draw_each(sources, shape, |source, one| self.vae.draw(source, one));
        let latents = self.vae.encode(runtime, image, &draws)?;
        HostTensor::new(*shape, latents.data.repeat(shape[0] / draws.shape[0]))
    }
}

/// Noise for one picture of `shape` from each source, `[sources, ..]`.
fn draw_each<S: NoiseSource>(
    sources: &mut [S],
    shape: &[usize; 4],
    draw: impl Fn(&mut S, &[usize; 4]) -> HostTensor,
) -> HostTensor {
    let [_, c, h, w] = *shape;
    let draws: Vec<f32> = sources.iter_mut().flat_map(|source| draw(source, &[1, c, h, w]).data).collect();
    HostTensor { shape: vec![sources.len(), c, h, w], data: draws }
}

fn scaled(mut noise: HostTensor, sigma: f64) -> HostTensor {
    noise.data.iter_mut().for_each(|v| *v *= sigma as f32);
    noise
}

/// `original` at a noise level: the forward process, on the device.
fn add_noise(runtime: &Runtime<'_>, original: &HostTensor, noise: &HostTensor, level: Noising) -> Result<HostTensor> {
    let batch = original.shape[0];
    let mut graph = Graph::new();
    let x = graph.input("original", TensorDesc::f32(original.shape.clone()));
    let eps = graph.input("noise", TensorDesc::f32(noise.shape.clone()));
    let k = graph.input("coefficients", TensorDesc::f32([batch, 2]));
    let noisy = graph.add_noise("add_noise", x, eps, k)?;
    graph.output("noisy", noisy);
    let mut session = runtime.device.load(graph, &std::collections::HashMap::new(), runtime.load)?;
    session.write("original", original)?;
    session.write("noise", noise)?;
    let coefficients = [level.signal as f32, level.noise as f32].repeat(batch);
    session.write("coefficients", &HostTensor::new([batch, 2], coefficients)?)?;
    session.run()?;
    session.read("noisy")
}
