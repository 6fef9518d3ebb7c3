//! What a model makes of a picture that it sees noised: where the picture is unlike what the model knows, it comes back
//! changed (AnoDDPM, Wyatt et al. 2022).

use super::start::{Start, add_noise};
use super::{DiffusionPipeline, Kind, Runtime, SampleOptions};
use crate::error::{Error, Result};
use crate::pipelines::Progress;
use crate::refusal::{Refusal, Remedy};
use crate::rng::{NoiseSource, Simplex};
use crate::schedulers::{Frame, Sampling, Schedule, SchedulerClass};
use crate::tensor::HostTensor;

/// What pictures are noised with. The steps back draw Gaussian noise in any case, as the authors' code does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseShape {
    /// Independent from pixel to pixel.
    Gaussian,
    /// [`Simplex`] in octaves, in the plane whose height is the timestep; one for all channels.
    Simplex,
}

impl DiffusionPipeline {
    /// The run that takes noise away from the first timestep at or below `timestep`, of the steps that `options` ask
    /// for; and that timestep.
    ///
    /// # Errors
    /// A refusal of `model` where it is not one on pixels, of `scheduler` where it is neither DDPM nor DDIM, of
    /// `steps` where none is left; [`Error::Usage`] for a timestep that was not trained.
    pub fn schedule_from(&self, options: &SampleOptions, timestep: usize) -> Result<(Schedule, usize)> {
        if self.vae.is_some() || self.traits.kind != Kind::Pixels {
            let why = "it works on latents, and anomalies are looked for by models on pixels";
            return Err(Refusal::of("model", why).into());
        }
        let class = self.scheduler.config.class;
        if !matches!(class, SchedulerClass::Ddpm | SchedulerClass::Ddim) {
            let why = "anomalies are looked for by the steps of DDPM and DDIM";
            let refusal = Refusal::of_value("scheduler", class.name(), why);
            let helps = class.frame() == Frame::Timesteps;
            let ddim = Remedy::Set("scheduler", "ddim".into());
            return Err(if helps { refusal.instead(ddim) } else { refusal }.into());
        }
        let last = self.scheduler.config.num_train_timesteps - 1;
        if timestep > last {
            return Err(Error::Usage(format!("timestep {timestep}: this model was trained on 0 to {last}")));
        }
        let all = self.scheduler.schedule(&options.sampling)?.steps;
        let Some(begin) = all.iter().position(|step| step.timestep <= timestep as f64) else {
            let why = format!("none of them is at timestep {timestep} or closer to the picture");
            return Err(Refusal::of_value("steps", all.len(), why).instead(Remedy::Raise(&["steps"])).into());
        };
        let schedule = self.scheduler.schedule(&Sampling { begin: Some(begin), ..options.sampling.clone() })?;
        Ok((schedule, all[begin].timestep as usize))
    }

    /// Noises pictures `[N, C, H, W]` in [−1, 1] to `timestep` and takes the noise away again: what the model makes of
    /// them, `[N, C, H, W]` in [−1, 1]. `sources` holds one source for each picture, which draws the noise of the start
    /// as `[1, C, H, W]` (or the simplex noise's permutation), and then that of the steps.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::schedule_from`] and [`DiffusionPipeline::sample`]; [`Error::Shape`] if the pictures have
    /// other channels than the model.
    pub fn reconstruct<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        pictures: &HostTensor,
        (timestep, noise): (usize, NoiseShape),
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let (schedule, first) = self.schedule_from(options, timestep)?;
        let &[batch_size, channels, height, width] = pictures.shape.as_slice() else {
            return Err(Error::Shape(format!("expected pictures [N, C, H, W], found {:?}", pictures.shape)));
        };
        let (height, width) = (Some(height), Some(width));
        let options = &SampleOptions { batch_size, height, width, image: None, latents: None, ..options.clone() };
        self.check(options)?;
        let shape = self.latent_shape(options)?;
        if pictures.shape != shape || sources.len() != batch_size {
            let found = (&pictures.shape, sources.len());
            return Err(Error::Shape(format!("expected {shape:?} and a source for each picture, found {found:?}")));
        }
        let start = |sources: &mut [S]| {
            let [_, _, height, width] = shape;
            let draw = |source: &mut S| match noise {
                NoiseShape::Gaussian => source.randn(&[1, channels, height, width]).data,
                NoiseShape::Simplex => Simplex::new(source).octaves(height, width, first as f64).repeat(channels),
            };
            let noise = HostTensor::new(shape, sources.iter_mut().flat_map(draw).collect())?;
            Ok(Start::plain(add_noise(runtime, pictures, &noise, schedule.steps[0].add_noise)?))
        };
        let mut made = self.run(runtime, options, &schedule, sources, start, observe)?;
        if let Some(at) = made.data.iter().position(|x| !x.is_finite()) {
            let found = made.data[at];
            return Err(Error::Checkpoint(format!(
                "what the model makes of a picture holds {found}: the scheduler's config does not belong to the U-Net, \
                 or its weights are damaged"
            )));
        }
        made.data.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        Ok(made)
    }
}

/// The squared difference of two pictures of `[1, C, H, W]` by pixel, the mean over the channels, `[H · W]`.
pub fn squared_difference(picture: &HostTensor, made: &HostTensor) -> Vec<f64> {
    let channels = picture.shape[1];
    let plane = picture.len() / channels;
    let at = |i: usize| (f64::from(picture.data[i]) - f64::from(made.data[i])).powi(2);
    (0..plane).map(|i| (0..channels).map(|c| at(c * plane + i)).sum::<f64>() / channels as f64).collect()
}
