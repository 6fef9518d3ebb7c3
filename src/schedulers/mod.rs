//! Schedulers: which noise levels a sampling run visits, and how each step goes from one to the next.
//!
//! A [`Scheduler`] is pure host code in f64. It turns a config and a number of steps into a [`Schedule`]: a list of
//! [`Step`]s in which every number is worked out, so that nothing is left to decide while sampling. Reading order:
//! `combination.rs` (how a step is written down), `ddpm.rs`, `ddim.rs` and the others (one paper a file), then the
//! tables they share.

mod beta_quantile;
mod betas;
mod combination;
mod config;
mod consistency;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod deis_multistep;
mod dpmsolver_multistep;
mod dpmsolver_sde;
mod dpmsolver_singlestep;
mod edm;
mod euler_discrete;
mod exponential;
mod fields;
mod flow_match;
mod heun_discrete;
mod ipndm;
mod karras_heun;
mod kdpm2_discrete;
mod keys;
mod lcm;
mod lms_discrete;
mod names;
mod objective;
mod options;
mod pndm;
mod probability_flow;
mod read;
mod repaint;
mod runge_kutta;
mod sasolver;
mod score_sde;
mod sigmas;
mod step;
mod tcd;
mod timesteps;
mod unipc_multistep;

pub use betas::{NoiseSchedule, Noising};
pub use combination::Combination;
pub use config::SchedulerConfig;
pub use karras_heun::Churn;
pub use names::{sampler_of, samplers, samplers_of, scheduler_by_name, schedules};
pub use objective::{LossWeights, Objective, ObjectiveLevel};
pub use options::{
    AlgorithmType, BetaSchedule, Clip, FinalSigmasType, Frame, InterpolationType, PredictionType, SchedulerClass,
    SigmaSchedule, SigmaSpacing, SolverType, TimestepSpacing, TimestepType, VarianceType,
};
pub use probability_flow::ProbabilityFlow;
pub use runge_kutta::{Derivative, RungeKutta, Solution};
pub use step::{Adaptive, NoiseScale, Repaint, Schedule, Step, StepNumbers, X0};

use crate::refusal::{Refusal, Remedy};
use crate::{Error, Result};

/// One of diffusers' schedulers, over the noise schedule that a model was trained with.
#[derive(Clone, Debug)]
pub struct Scheduler {
    /// The config that it was made from.
    pub config: SchedulerConfig,
    /// The forward process that the model was trained with, for models of [`Frame::Timesteps`]; for others, it is of no
    /// use.
    pub noise_schedule: NoiseSchedule,
}

impl Scheduler {
    /// The scheduler that a config names.
    ///
    /// # Errors
    /// [`Error::Config`] if the config's numbers make no sense together.
    pub fn new(config: SchedulerConfig) -> Result<Self> {
        Ok(Self { noise_schedule: NoiseSchedule::new(&config)?, config })
    }

    /// Works out a whole sampling run.
    ///
    /// # Errors
    /// [`Error::Usage`] if this scheduler cannot do what is asked; [`Error::Config`] if the config makes a
    /// step impossible.
    pub fn schedule(&self, sampling: &Sampling) -> Result<Schedule> {
        let mut sampling = sampling.clone();
        if let Some(start) = sampling.denoising_start {
            sampling.begin = Some(self.level_below(start, &sampling)?);
        }
        let mut schedule = self.whole(&sampling)?;
        if let Some(end) = sampling.denoising_end {
            let cutoff = self.cutoff("denoising_end", end)?;
            if let Some(start) = sampling.denoising_start.filter(|start| *start >= end) {
                return Err(Refusal::of_value("denoising_end", end, format!("the run begins after that, at {start}"))
                    .instead(Remedy::Raise(&["denoising_end"]))
                    .instead(Remedy::Lower(&["denoising_start"]))
                    .into());
            }
            schedule.steps.retain(|step| step.timestep >= cutoff);
            if schedule.steps.is_empty() {
                let refusal = Refusal::of_value("denoising_end", end, "no step is left to do")
                    .instead(Remedy::Raise(&["denoising_end"]));
                return Err(self.or_more_steps(refusal, &sampling, |timestep| timestep >= cutoff).into());
            }
        }
        schedule.checked()
    }

    /// Which step each call of the model in such a run belongs to, counted by what is done: of 20 steps at a strength
    /// of ½ there are 10. Two runs that share one, by `denoising_end` and `denoising_start`, count on.
    ///
    /// # Errors
    /// As [`Scheduler::schedule`].
    pub fn step_numbers(&self, sampling: &Sampling) -> Result<StepNumbers> {
        let calls = self.schedule(sampling)?.steps.len();
        let Some(start) = sampling.denoising_start else {
            let whole = self.whole(sampling)?.numbers();
            return Ok(StepNumbers { of_calls: whole.of_calls[..calls].to_vec(), ..whole });
        };
        let begin = Some(self.level_below(start, sampling)?);
        let whole = self.whole(&Sampling { strength: 1.0, begin: None, ..sampling.clone() })?.numbers();
        let first = whole.of_calls.len() - self.whole(&Sampling { begin, ..sampling.clone() })?.steps.len();
        Ok(StepNumbers { of_calls: whole.of_calls[first..][..calls].to_vec(), ..whole })
    }

    /// The timestep at which `share` of the noise is gone.
    fn cutoff(&self, field: &'static str, share: f64) -> Result<f64> {
        if self.config.class.frame() != Frame::Timesteps {
            let why = format!("{} counts no trained timesteps, of which this is a share", self.config.class.name());
            return Err(Refusal::of(field, why)
                .instead(Remedy::LeaveOut(&["denoising_start", "denoising_end"]))
                .into());
        }
        if !(share > 0.0 && share < 1.0) {
            return Err(Refusal::of_value(field, share, "expected a number above 0 and below 1").into());
        }
        let trained = self.config.num_train_timesteps as f64;
        Ok((trained - share * trained).round_ties_even())
    }

    /// A refusal of a run in which no step `counts`; if one does where there are many, more steps help.
    fn or_more_steps(&self, refusal: Refusal, sampling: &Sampling, counts: impl Fn(f64) -> bool) -> Refusal {
        let num_inference_steps = (self.config.num_train_timesteps / 2).max(1);
        let many = self.whole(&Sampling { num_inference_steps, strength: 1.0, begin: None, ..sampling.clone() });
        let help = many.is_ok_and(|schedule| schedule.steps.iter().any(|step| counts(step.timestep)));
        if help { refusal.instead(Remedy::Raise(&["steps"])) } else { refusal }
    }

    /// The noise level to begin at, counted in the whole run, when another model has taken away the share `start` of
    /// its noise.
    fn level_below(&self, start: f64, sampling: &Sampling) -> Result<usize> {
        use SchedulerClass::{DpmSolverSde, HeunDiscrete, Kdpm2AncestralDiscrete, Kdpm2Discrete};
        let cutoff = self.cutoff("denoising_start", start)?;
        let steps = self.whole(&Sampling { strength: 1.0, begin: None, ..sampling.clone() })?.steps;
        let mut below = steps.iter().filter(|step| step.timestep < cutoff).count();
        // Every level but the last takes two calls of the model: never begin with the second.
        let calls = match self.config.class {
            HeunDiscrete | Kdpm2Discrete | Kdpm2AncestralDiscrete | DpmSolverSde => 2,
            _ => 1,
        };
        if calls == 2 && below % 2 == 0 {
            below += 1;
        }
        if below == 0 {
            let refusal = Refusal::of_value("denoising_start", start, "no step is left to do")
                .instead(Remedy::Lower(&["denoising_start"]));
            return Err(self.or_more_steps(refusal, sampling, |timestep| timestep < cutoff).into());
        }
        Ok(steps.len().saturating_sub(below) / calls)
    }

    /// The run from its beginning, or from where `strength` or `begin` say, to its end.
    fn whole(&self, sampling: &Sampling) -> Result<Schedule> {
        Ok(match self.config.class {
            SchedulerClass::Ddpm => ddpm::schedule(self, sampling)?,
            SchedulerClass::Ddim => ddim::schedule(self, sampling)?,
            SchedulerClass::DdimInverse => ddim_inverse::schedule(self, sampling)?,
            SchedulerClass::Pndm => pndm::schedule(self, sampling)?,
            SchedulerClass::LmsDiscrete => lms_discrete::schedule(self, sampling)?,
            SchedulerClass::EulerDiscrete | SchedulerClass::EulerAncestralDiscrete => {
                euler_discrete::schedule(self, sampling)?
            }
            SchedulerClass::HeunDiscrete => heun_discrete::schedule(self, sampling)?,
            SchedulerClass::Kdpm2Discrete | SchedulerClass::Kdpm2AncestralDiscrete => {
                kdpm2_discrete::schedule(self, sampling)?
            }
            SchedulerClass::DpmSolverMultistep => dpmsolver_multistep::schedule(self, sampling)?,
            SchedulerClass::DpmSolverSinglestep => dpmsolver_singlestep::schedule(self, sampling)?,
            SchedulerClass::UniPcMultistep => unipc_multistep::schedule(self, sampling)?,
            SchedulerClass::DeisMultistep => deis_multistep::schedule(self, sampling)?,
            SchedulerClass::DpmSolverSde => dpmsolver_sde::schedule(self, sampling)?,
            SchedulerClass::SaSolver => sasolver::schedule(self, sampling)?,
            SchedulerClass::Ipndm => ipndm::schedule(self, sampling)?,
            SchedulerClass::EdmEuler | SchedulerClass::EdmHeun | SchedulerClass::EdmDpmSolverMultistep => {
                edm::schedule(self, sampling)?
            }
            SchedulerClass::KarrasVe => karras_heun::karras_ve(self, sampling)?,
            SchedulerClass::ScoreSdeVe => score_sde::variance_exploding(self, sampling)?,
            SchedulerClass::ProbabilityFlow => karras_heun::probability_flow(self, sampling)?,
            SchedulerClass::ProbabilityFlowRk45 | SchedulerClass::ScoreSdeVpRk45 => {
                probability_flow::adaptive(self, sampling)?
            }
            SchedulerClass::AnnealedLangevin => score_sde::annealed_langevin(self, sampling)?,
            SchedulerClass::ScoreSdeVp => score_sde::variance_preserving(self, sampling)?,
            SchedulerClass::FlowMatchEulerDiscrete | SchedulerClass::FlowMatchHeunDiscrete => {
                flow_match::schedule(self, sampling)?
            }
            SchedulerClass::CmStochasticIterative => consistency::schedule(self, sampling)?,
            SchedulerClass::RePaint => repaint::schedule(self, sampling)?,
            SchedulerClass::Lcm => lcm::schedule(self, sampling)?,
            SchedulerClass::Tcd => tcd::schedule(self, sampling)?,
        })
    }
}

/// What the user asks of a sampling run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Number of steps of the whole run (before `strength` cuts it). Ignored if `timesteps` or `sigmas` are given.
    pub num_inference_steps: usize,
    /// The timesteps to visit, descending, in place of evenly spaced ones.
    pub timesteps: Option<Vec<usize>>,
    /// The noise levels to visit, descending, in place of evenly spaced ones.
    pub sigmas: Option<Vec<f64>>,
    /// Image-to-image: the share of the run that is done, in (0, 1]. 1 starts from pure noise.
    pub strength: f64,
    /// LCM and TCD: the share of the trained timesteps over which the steps are spread, in (0, 1]; latent consistency
    /// models' image-to-image has its strength here, and does all steps.
    pub distilled_strength: f64,
    /// The noise level to begin at, counted from the noisiest, in place of what `strength` gives.
    pub begin: Option<usize>,
    /// The share of the noise, in (0, 1), that has been taken away already, by another model, in place of `strength`.
    pub denoising_start: Option<f64>,
    /// The share of the noise, in (0, 1), after which another model goes on.
    pub denoising_end: Option<f64>,
    /// RePaint: steps that a run goes up again at a time.
    pub jump_length: usize,
    /// RePaint: how often it goes down from where it jumped to, with the first time.
    pub jump_n_sample: usize,
    /// DDIM's and RePaint's η (and TCD's γ): the share of fresh noise in each step.
    pub eta: f64,
    /// DDIM: derive ε anew from the clipped x_0.
    pub use_clipped_model_output: bool,
}

impl Sampling {
    /// A plain run of `num_inference_steps` steps.
    pub fn steps(num_inference_steps: usize) -> Self {
        Self {
            num_inference_steps,
            timesteps: None,
            sigmas: None,
            strength: 1.0,
            distilled_strength: 1.0,
            begin: None,
            denoising_start: None,
            denoising_end: None,
            jump_length: 10,
            jump_n_sample: 10,
            eta: 0.0,
            use_clipped_model_output: false,
        }
    }

    /// Refuses timesteps or noise levels of the user's own, where a class takes none.
    ///
    /// # Errors
    /// A refusal of the field.
    fn refuse_custom(&self, class: SchedulerClass, fields: &[&'static str]) -> Result<()> {
        let given = [("timesteps", self.timesteps.is_some()), ("sigmas", self.sigmas.is_some())];
        let found = given.into_iter().find(|(field, given)| *given && fields.contains(field));
        let Some((field, _)) = found else { return Ok(()) };
        let why = format!("{} has its own noise levels", class.name());
        Err(Refusal::of(field, why).instead(Remedy::Give(&["steps"])).into())
    }

    /// The index of the first of `steps` steps that is done under this strength.
    ///
    /// # Errors
    /// [`Error::Refused`] if the strength is not in (0, 1] or leaves no step, or eta is negative or not a number.
    fn begin(&self, steps: usize) -> Result<usize> {
        let (strength, eta) = (self.strength, self.eta);
        if !(eta.is_finite() && eta >= 0.0) {
            return Err(Refusal::of_value("eta", eta, "expected a number from 0 to 1").into());
        }
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(Refusal::of_value("strength", strength, "expected a number above 0 and up to 1").into());
        }
        if let Some(begin) = self.begin {
            return if begin < steps {
                Ok(begin)
            } else {
                Err(Error::Usage(format!("beginning at noise level {begin} of {steps} leaves no step to do")))
            };
        }
        match (steps as f64 * strength) as usize {
            0 => Err(Refusal::of_value("strength", strength, format!("of {steps} steps none is left to do"))
                .instead(Remedy::Raise(&["strength", "steps"]))
                .into()),
            done => Ok(steps - done),
        }
    }
}
