//! Pictures on the way from one to another: noises that a run can begin with, and what is between them.

use super::{Event, Models, Step};
use crate::error::Result;
use crate::pipelines::{Runtime, SampleOptions};
use crate::refusal::{Refusal, Remedy};
use crate::request::{Request, Resolved, Switch};
use crate::rng::slerp;
use crate::schedulers::{Clip, Sampling, Scheduler, samplers_of, scheduler_by_name};
use crate::tensor::HostTensor;

/// A way through noises of one shape, in frames at even distances: from each to the next along a great circle
/// ([`slerp`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Noises that it goes through, with the first and the last; two or more.
    pub stops: usize,
    /// Frames, with those at the first and the last stop; no fewer than there are stops.
    pub frames: usize,
}

impl Way {
    /// The stop that a frame has passed, and how much, from 0 to 1, of the way to the next is behind it. At stops it is
    /// 0 or 1 exactly.
    ///
    /// # Panics
    /// If there are fewer than two stops or frames.
    pub fn place(self, frame: usize) -> (usize, f64) {
        let (legs, last) = (self.stops - 1, self.frames - 1);
        let (leg, rest) = (frame * legs / last, frame * legs % last);
        if leg < legs { (leg, rest as f64 / last as f64) } else { (legs - 1, 1.0) }
    }

    /// The stop at which a frame is, if it is at one.
    pub fn stop(self, frame: usize) -> Option<usize> {
        match self.place(frame) {
            (leg, 0.0) => Some(leg),
            (leg, 1.0) => Some(leg + 1),
            _ => None,
        }
    }

    /// A frame's noise, between those of the `stops`.
    ///
    /// # Errors
    /// As [`slerp`].
    pub fn noise(self, stops: &[HostTensor], frame: usize) -> Result<HostTensor> {
        let (leg, share) = self.place(frame);
        slerp(&stops[leg], &stops[leg + 1], share)
    }
}

impl Models {
    /// Checks that the noise that a run begins with decides its picture: that no step draws more. With noise of its own
    /// in every step, frames would jump; and what is between two seeds' noises would say little of the picture.
    ///
    /// # Errors
    /// A refusal of the scheduler, which names those that draw none, or of `eta`; as
    /// [`DiffusionPipeline::steps`](crate::pipelines::DiffusionPipeline::steps).
    pub fn check_deterministic(&self, options: &SampleOptions) -> Result<()> {
        let draws = |scheduler: &Scheduler, sampling: &Sampling| -> Result<bool> {
            Ok(scheduler.schedule(sampling)?.draws_noise())
        };
        for model in [Some(&self.model), self.refiner.as_ref()].into_iter().flatten() {
            let scheduler = &model.pipeline.scheduler;
            let class = scheduler.config.class;
            // The refiner's part of the steps draws as the whole does.
            let sampling = Sampling { denoising_end: None, ..model.pipeline.traits.sampling(options, class) };
            if !draws(scheduler, &sampling)? {
                continue;
            }
            let calm = Sampling { eta: 0.0, ..sampling.clone() };
            if !draws(scheduler, &calm)? {
                let why = "with fresh noise in its steps, the noise of the start does not decide the picture";
                let refusal = Refusal::of_value("eta", sampling.eta, why);
                return Err(refusal.instead(Remedy::LeaveOut(&["eta"])).into());
            }
            let fits = |name: &&str| -> bool {
                let config = scheduler_by_name(name, &model.scheduler);
                let scheduler = config.and_then(Scheduler::new);
                scheduler.and_then(|scheduler| draws(&scheduler, &calm)).is_ok_and(|draws| !draws)
            };
            let names: Vec<&str> = samplers_of(class.frame()).into_iter().filter(fits).collect();
            let mut why = "it draws fresh noise in its steps, so that the noise of the start does not decide the \
                           picture"
                .to_owned();
            match names.as_slice() {
                [] => {}
                [only] => why += &format!("; {only} draws none"),
                [others @ .., last] => why += &format!("; {} and {last} draw none", others.join(", ")),
            }
            let refusal = Refusal::of_value("scheduler", class.name(), why);
            let ddim = names.contains(&"DDIM");
            return Err(if ddim { refusal.instead(Remedy::Set("scheduler", "ddim".into())) } else { refusal }.into());
        }
        Ok(())
    }

    /// The noise `[1, C, h, w]` that a run with this seed begins with.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::noise`](crate::pipelines::DiffusionPipeline::noise).
    pub fn noise_of_seed(&self, resolved: &Resolved, seed: u64) -> Result<HostTensor> {
        let request = Request { seed: vec![seed], ..resolved.request.clone() };
        let mut sources = Resolved { request, ..resolved.clone() }.noise_sources();
        self.model.pipeline.noise(&resolved.options, &mut sources)
    }

    /// Switches clipping of the estimate of x_0 off, of model and run: a run that clips leaves the ODE, and more steps
    /// do not bring it nearer to the way back. Returns whether it was on.
    ///
    /// # Errors
    /// As [`SchedulerConfig::with_class`](crate::schedulers::SchedulerConfig::with_class).
    pub fn unclip(&mut self, resolved: &mut Resolved) -> Result<bool> {
        let config = &self.model.pipeline.scheduler.config;
        if config.clip == Clip::None {
            return Ok(false);
        }
        let off = [("clip_sample", false.into()), ("thresholding", false.into())];
        self.model.pipeline.scheduler = Scheduler::new(config.with_class(config.class, &off)?)?;
        resolved.scheduler = self.model.pipeline.scheduler.clone();
        // Without clipping there is but one noise; this would only round it once more.
        resolved.options.sampling.use_clipped_model_output = false;
        if let Some(switch) = &mut resolved.request.use_clipped_model_output {
            *switch = Switch::Off;
        }
        Ok(true)
    }

    /// The noise `[1, C, h, w]` that a run makes `picture` `[1, C, H, W]` of, in [−1, 1].
    ///
    /// # Errors
    /// As [`DiffusionPipeline::invert`](crate::pipelines::DiffusionPipeline::invert).
    pub fn invert(
        &self,
        runtime: &Runtime<'_>,
        resolved: &Resolved,
        picture: &HostTensor,
        observe: &mut dyn FnMut(Event<'_, '_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let pipeline = &self.model.pipeline;
        let noise = pipeline.invert(runtime, &resolved.options, picture, &mut |progress| {
            let (done, total) = (progress.done, progress.total);
            observe(Event::Step(Step { pipeline, progress, done, total }))
        })?;
        observe(Event::Done)?;
        Ok(noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_at_even_distances_and_meet_the_stops() {
        let way = Way { stops: 2, frames: 5 };
        let places: Vec<_> = (0..5).map(|frame| way.place(frame)).collect();
        assert_eq!(places, [(0, 0.0), (0, 0.25), (0, 0.5), (0, 0.75), (0, 1.0)]);
        assert_eq!([0, 1, 4].map(|frame| way.stop(frame)), [Some(0), None, Some(1)]);
        let way = Way { stops: 3, frames: 7 };
        assert_eq!([0, 3, 6].map(|frame| way.stop(frame)), [Some(0), Some(1), Some(2)]);
        assert_eq!([2, 4].map(|frame| way.place(frame)), [(0, 4.0 / 6.0), (1, 2.0 / 6.0)]);
        // The stop in the middle lies between two frames.
        let way = Way { stops: 3, frames: 4 };
        assert_eq!([0, 1, 2, 3].map(|frame| way.stop(frame)), [Some(0), None, None, Some(2)]);
    }
}
