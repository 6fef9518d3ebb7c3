//! From a picture to the noise that it is made of.

use super::start::Start;
use super::{DiffusionPipeline, Kind, Runtime, SampleOptions};
use crate::error::{Error, Result};
use crate::pipelines::Progress;
use crate::refusal::{Refusal, Remedy};
use crate::rng::TorchCpu;
use crate::schedulers::{Scheduler, SchedulerClass};
use crate::tensor::HostTensor;

impl DiffusionPipeline {
    /// The noise `[1, C, h, w]` of which a run of `options` by DDIM, without fresh noise, makes `picture` again,
    /// nearly: that ODE followed in the other direction ([`SchedulerClass::DdimInverse`]; Song et al. 2020, section
    /// 4.3; Mokady et al. 2022, section 3.2), in as many steps. `picture` is `[1, C, H, W]` in [−1, 1]; on latents, it
    /// is those that the autoencoder's mean gives.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::sample`] and [`DiffusionPipeline::check_invertible`]; [`Error::Shape`] if the picture is
    /// not of the size that `options` ask for.
    pub fn invert(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        picture: &HostTensor,
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let latents = |shape| match &self.vae {
            Some(vae) => vae.encode(runtime, picture, &HostTensor::zeros(shape)),
            None => Ok(picture.clone()),
        };
        self.invert_latents(runtime, options, picture, latents, observe)
    }

    /// As [`DiffusionPipeline::invert`], from the `latents` of the picture, `[1, C, h, w]`, whose shape they are told.
    pub(super) fn invert_latents(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        picture: &HostTensor,
        latents: impl FnOnce([usize; 4]) -> Result<HostTensor>,
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        self.check_invertible(options)?;
        // Its size is the picture's; and the memory of the encoder counts.
        let shown = self.vae.as_ref().map(|_| picture.clone());
        let options = &SampleOptions { batch_size: 1, image: shown, mask: None, noise: None, ..options.clone() };
        self.check(options)?;
        let shape = self.latent_shape(options)?;
        if self.vae.is_none() && picture.shape != shape {
            return Err(Error::Shape(format!("a picture to invert: expected {shape:?}, found {:?}", picture.shape)));
        }
        let scheduler = Scheduler::new(self.scheduler.config.with_class(SchedulerClass::DdimInverse, &[])?)?;
        let schedule = scheduler.schedule(&self.traits.sampling(options, scheduler.config.class))?;
        let start = |_: &mut [TorchCpu]| Ok(Start::plain(latents(shape)?));
        self.run(runtime, options, &schedule, &mut [], start, observe)
    }

    /// Whether [`DiffusionPipeline::invert`] finds the way back of runs of `options`.
    ///
    /// # Errors
    /// A refusal of the field that stands in the way.
    pub fn check_invertible(&self, options: &SampleOptions) -> Result<()> {
        let latents_alone = self.traits.kind == Kind::Pixels && self.vae.is_some();
        if latents_alone || !matches!(self.traits.kind, Kind::Pixels | Kind::Plain) {
            let why = "a picture has noise of its own only in a model that makes pictures of noise and text alone";
            return Err(Refusal::of("model", why).into());
        }
        let class = self.scheduler.config.class;
        if class != SchedulerClass::Ddim {
            let why = "the way from a picture to its noise is DDIM's";
            let refusal = Refusal::of_value("scheduler", class.name(), why);
            return Err(refusal.instead(Remedy::Set("scheduler", "ddim".into())).into());
        }
        if options.sampling.eta > 0.0 {
            let why = "with fresh noise in its steps no picture is made of one noise alone";
            let refusal = Refusal::of_value("eta", options.sampling.eta, why);
            return Err(refusal.instead(Remedy::LeaveOut(&["eta"])).into());
        }
        Ok(())
    }
}
