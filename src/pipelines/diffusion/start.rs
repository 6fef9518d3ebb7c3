//! Where a run begins: noise, a noised picture, another model's latents; and what it sees of a picture along the way.

use super::options::{MaskReduction, SampleOptions};
use super::{DiffusionPipeline, Kind, Runtime};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc};
use crate::pipelines::denoise::Changing;
use crate::refusal::{Refusal, Remedy};
use crate::rng::{NoiseSource, randn_tensor};
use crate::schedulers::{Frame, Noising, Schedule};
use crate::tensor::HostTensor;

/// What the denoise loop starts from.
pub(super) struct Start {
    /// `[N, C, h, w]` at the noise level of the first step.
    pub latents: HostTensor,
    /// Inputs of the step's graph, by name: `condition`, what the U-Net takes besides the latents of all branches;
    /// `original`, `original_noise` and `mask`, for putting back what does not change.
    pub inputs: Vec<(&'static str, HostTensor)>,
    /// Such inputs as change during the run.
    pub changing: Changing,
}

impl Start {
    pub(super) fn plain(latents: HostTensor) -> Self {
        Self::with(latents, Vec::new())
    }

    fn with(latents: HostTensor, inputs: Vec<(&'static str, HostTensor)>) -> Self {
        Self { latents, inputs, changing: Changing::default() }
    }
}

impl DiffusionPipeline {
    /// Draws and encodes what the run starts from, in the order in which diffusers does.
    pub(super) fn start<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<Start> {
        let level = schedule.steps[0].add_noise;
        if let Some(latents) = &options.latents {
            if latents.shape != shape {
                let why = format!("expected a tensor {shape:?}, found {:?}", latents.shape);
                return Err(Refusal::of("latents", why).into());
            }
            if options.sampling.denoising_start.is_some() {
                return Ok(Start::plain(latents.clone()));
            }
            let noise = self.start_noise(options, shape, sources)?;
            return Ok(Start::plain(add_noise(runtime, latents, &noise, level)?));
        }
        let Some(image) = &options.image else {
            let mut latents = scaled(self.start_noise(options, shape, sources)?, schedule.init_noise_sigma);
            latents.data.iter_mut().for_each(|v| *v += schedule.init_mean as f32);
            return Ok(Start::plain(latents));
        };
        match (self.traits.kind, &options.mask) {
            (Kind::Edit, _) => {
                let latents = scaled(self.start_noise(options, shape, sources)?, schedule.init_noise_sigma);
                let shown = self.autoencoder()?.mode(runtime, image)?;
                let condition = HostTensor::new(*shape, shown.data.repeat(shape[0]))?;
                Ok(Start::with(latents, vec![self.condition(options, &condition)?]))
            }
            (Kind::Upscale, _) => self.start_upscale(runtime, options, image, shape, schedule, sources),
            (Kind::SuperResolution, _) => {
                let latents = scaled(self.start_noise(options, shape, sources)?, schedule.init_noise_sigma);
                let small = HostTensor::new([&[shape[0]], &image.shape[1..]].concat(), image.data.repeat(shape[0]))?;
                Ok(Start::with(latents, vec![self.condition(options, &small)?]))
            }
            (Kind::Pixels, Some(mask)) => self.start_repaint(options, (image, mask), shape, schedule, sources),
            (Kind::Pixels, None) => {
                let noise = self.start_noise(options, shape, sources)?;
                Ok(Start::plain(add_noise(runtime, &self.shown(image, shape)?, &noise, level)?))
            }
            (_, Some(mask)) => self.start_inpaint(runtime, options, (image, mask), shape, schedule, sources),
            (_, None) => {
                let original = self.encode(runtime, image, shape, sources)?;
                let noise = self.start_noise(options, shape, sources)?;
                Ok(Start::plain(add_noise(runtime, &original, &noise, level)?))
            }
        }
    }

    /// RePaint: noise, and the picture whose part outside the mask is put back after every step.
    fn start_repaint<S: NoiseSource>(
        &self,
        options: &SampleOptions,
        (image, mask): (&HostTensor, &HostTensor),
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<Start> {
        let [_, _, height, width] = *shape;
        check_mask(mask, (height, width))?;
        let original = self.shown(image, shape)?;
        let latents = scaled(self.start_noise(options, shape, sources)?, schedule.init_noise_sigma);
        let changes = HostTensor::from_fn([1, 1, height, width], |i| f32::from(u8::from(mask.data[i] >= 0.5)));
        Ok(Start::with(latents, vec![("original", original.channels_last()), ("mask", changes.channels_last())]))
    }

    /// A picture as a model on pixels sees it, `shape`. SDEdit noises it from there: Meng et al. 2022
    /// (arXiv:2108.01073), algorithm 1.
    fn shown(&self, image: &HostTensor, shape: &[usize; 4]) -> Result<HostTensor> {
        let [_, channels, height, width] = *shape;
        if image.shape != [1, channels, height, width] {
            let why = format!("expected [1, {channels}, {height}, {width}], found {:?}", image.shape);
            return Err(Refusal::of("image", why).into());
        }
        let mut data = image.data.repeat(shape[0]);
        if self.scheduler.config.class.frame() == Frame::Score {
            data.iter_mut().for_each(|v| *v = 0.5 * *v + 0.5); // from 0 to 1
        }
        HostTensor::new(*shape, data)
    }

    fn start_inpaint<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        (image, mask): (&HostTensor, &HostTensor),
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<Start> {
        let (height, width) = (image.shape[2], image.shape[3]);
        let vae = self.autoencoder()?;
        let small = self.small_mask(options, (image, mask), shape)?;
        let from_noise = options.sampling.strength >= 1.0;
        let original = match self.traits.kind {
            Kind::Inpaint if from_noise => None,
            _ => Some(self.encode(runtime, image, shape, sources)?),
        };
        let noise = self.start_noise(options, shape, sources)?;
        let latents = match &original {
            Some(original) if !from_noise => add_noise(runtime, original, &noise, schedule.steps[0].add_noise)?,
            _ => scaled(noise.clone(), schedule.init_noise_sigma),
        };
        if self.traits.kind == Kind::Plain {
            // diffusers draws for the masked picture too, although only the other kind of model sees it.
            draw_each(sources, shape, |source, one| vae.draw(source, one));
            let original = original.expect("it was encoded above for every other kind");
            let inputs = [("original", original), ("original_noise", noise), ("mask", small)];
            let inputs = inputs.map(|(name, tensor)| (name, tensor.channels_last()));
            return Ok(Start::with(latents, inputs.to_vec()));
        }
        let visible = HostTensor::from_fn(image.shape.as_slice(), |i| {
            let pixel = i % (height * width);
            if mask.data[pixel] >= 0.5 { 0.0 } else { image.data[i] }
        });
        let masked = self.encode(runtime, &visible, shape, sources)?;
        let mask = HostTensor::new([shape[0], 1, shape[2], shape[3]], small.data.repeat(shape[0]))?;
        let condition = HostTensor::concat(&[&mask, &masked], 1)?;
        Ok(Start::with(latents, vec![self.condition(options, &condition)?]))
    }

    /// Which latents a mask of the picture changes: `[1, 1, h, w]`, 1 or 0.
    ///
    /// # Errors
    /// A refusal of a mask that is not of the picture's size, or of which nothing is left.
    pub(super) fn small_mask(
        &self,
        options: &SampleOptions,
        (image, mask): (&HostTensor, &HostTensor),
        shape: &[usize; 4],
    ) -> Result<HostTensor> {
        let (height, width) = (image.shape[2], image.shape[3]);
        check_mask(mask, (height, width))?;
        let changes = |y: usize, x: usize| mask.data[y * width + x] >= 0.5;
        let scale = self.autoencoder()?.downscale();
        let side = match options.mask_reduction {
            MaskReduction::Nearest => 1,
            MaskReduction::Largest => scale,
        };
        let small = HostTensor::from_fn([1, 1, shape[2], shape[3]], |i| {
            let (top, left) = (i / shape[3] * scale, i % shape[3] * scale);
            let any = (0..side * side).any(|j| changes(top + j / side, left + j % side));
            f32::from(u8::from(any))
        });
        let nothing = |tensor: &HostTensor| tensor.data.iter().all(|v| *v < 0.5);
        if nothing(&small) && !nothing(mask) {
            let why =
                format!("what it paints over lies between the pixels that are looked at, one in {scale} x {scale}");
            return Err(Refusal::of("mask", why).instead(Remedy::Set("mask_reading", "auto".into())).into());
        }
        Ok(small)
    }

    fn start_upscale<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        image: &HostTensor,
        shape: &[usize; 4],
        schedule: &Schedule,
        sources: &mut [S],
    ) -> Result<Start> {
        let scheduler = self.low_res.as_ref().expect("load reads it for this kind");
        let small = [shape[0], image.shape[1], image.shape[2], image.shape[3]];
        let noise = draw_each(sources, &small, |source, one| source.randn(one));
        let noise = HostTensor::new(small, noise.data.repeat(shape[0] / sources.len()))?;
        let image = HostTensor::new(small, image.data.repeat(shape[0]))?;
        let condition = add_noise(runtime, &image, &noise, scheduler.noise_schedule.noising(options.noise_level)?)?;
        let latents = scaled(self.start_noise(options, shape, sources)?, schedule.init_noise_sigma);
        Ok(Start::with(latents, vec![self.condition(options, &condition)?]))
    }

    /// A picture's latents for each picture of the batch, `shape`: one sample for all with one source, or one for each
    /// with several.
    fn encode<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        image: &HostTensor,
        shape: &[usize; 4],
        sources: &mut [S],
    ) -> Result<HostTensor> {
        let vae = self.autoencoder()?;
        let draws = draw_each(sources, shape, |source, one| vae.draw(source, one));
        let latents = vae.encode(runtime, image, &draws)?;
        HostTensor::new(*shape, latents.data.repeat(shape[0] / draws.shape[0]))
    }

    /// The noise of the start: the given one, or what the sources draw.
    fn start_noise<S: NoiseSource>(
        &self,
        options: &SampleOptions,
        shape: &[usize; 4],
        sources: &mut [S],
    ) -> Result<HostTensor> {
        match &options.noise {
            None => Ok(randn_tensor(sources, shape)),
            Some(noise) if noise.shape == shape => Ok(noise.clone()),
            Some(noise) => {
                Err(Error::Shape(format!("noise to begin with: expected {shape:?}, found {:?}", noise.shape)))
            }
        }
    }

    /// The noise `[N, C, h, w]` that a run of `options` begins with, as `sources` draw it.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::size`].
    ///
    /// # Panics
    /// As [`randn_tensor`].
    pub fn noise<S: NoiseSource>(&self, options: &SampleOptions, sources: &mut [S]) -> Result<HostTensor> {
        Ok(randn_tensor(sources, &self.latent_shape(options)?))
    }

    /// What the U-Net sees besides the latents, `[N, C, h, w]`, in all its branches. Editing has one branch without a
    /// picture.
    fn condition(&self, options: &SampleOptions, condition: &HostTensor) -> Result<(&'static str, HostTensor)> {
        let branches = self.guidance(options).branches;
        let mut data = condition.data.repeat(branches);
        if self.traits.kind == Kind::Edit && branches == 3 {
            data[2 * condition.len()..].fill(0.0);
        }
        let mut shape = condition.shape.clone();
        shape[0] *= branches;
        Ok(("condition", HostTensor::new(shape, data)?.channels_last()))
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

/// Checks that a mask is of the picture's size.
fn check_mask(mask: &HostTensor, (height, width): (usize, usize)) -> Result<()> {
    if mask.shape == [1, 1, height, width] {
        return Ok(());
    }
    let [wide, high] = [1, 2].map(|i| mask.shape.iter().rev().nth(i - 1).unwrap_or(&0));
    let why = format!("it is {wide} x {high} pixels, the picture {width} x {height}; they must be of one size");
    Err(Refusal::of("mask", why).into())
}

fn scaled(mut noise: HostTensor, sigma: f64) -> HostTensor {
    noise.data.iter_mut().for_each(|v| *v *= sigma as f32);
    noise
}

/// `original` noised to a level: the forward process, on the device.
pub(super) fn add_noise(
    runtime: &Runtime<'_>,
    original: &HostTensor,
    noise: &HostTensor,
    level: Noising,
) -> Result<HostTensor> {
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
