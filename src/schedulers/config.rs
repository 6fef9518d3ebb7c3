//! `scheduler_config.json`, typed: every field of diffusers' schedulers is honoured or refused by name.
//!
//! A config may carry the keys of another scheduler class, because diffusers' `from_config` switches classes over one
//! file; keys that only another class knows are left alone, keys that no class knows are refused.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::karras_heun::Churn;
use super::keys::keys;
use super::options::{
    AlgorithmType, BetaSchedule, Clip, FinalSigmasType, InterpolationType, PredictionType, SaAlgorithmType,
    SchedulerClass, SigmaSchedule, SigmaSpacing, SolverType, TimestepSpacing, TimestepType, VarianceType,
};
use super::runge_kutta::RungeKutta;
use crate::{Error, Result};

/// The fields of a scheduler's config, with the class's defaults where the file says nothing. Fields that the class
/// does not have hold a default that it does not read.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Which scheduler.
    pub class: SchedulerClass,

    /// Number of timesteps of the forward process that the model was trained with, T.
    pub num_train_timesteps: usize,
    /// First β of the schedules that have one.
    pub beta_start: f64,
    /// Last β of the schedules that have one.
    pub beta_end: f64,
    /// How β goes from first to last.
    pub beta_schedule: BetaSchedule,
    /// All T values of β, in place of a schedule.
    pub trained_betas: Option<Vec<f64>>,
    /// Shift √ᾱ to end at exactly 0 (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,

    /// What the model returns.
    pub prediction_type: PredictionType,
    /// What is done to the estimate of x_0 (`thresholding`, else `clip_sample`).
    pub clip: Clip,
    /// DDPM's variance of p(x_{t-1} | x_t). Other classes drop the channels of a learned variance.
    pub variance_type: VarianceType,

    /// Which timesteps a run visits.
    pub timestep_spacing: TimestepSpacing,
    /// Added to the timesteps of `leading` spacing.
    pub steps_offset: usize,
    /// Where the noise levels come from, if not from the timesteps.
    pub sigma_spacing: SigmaSpacing,
    /// Euler: how noise levels follow from timesteps.
    pub interpolation_type: InterpolationType,
    /// Euler: what the model is told.
    pub timestep_type: TimestepType,
    /// Euler and UniPC: smallest σ of Karras, exponential and beta spacing. EDM, consistency models: smallest σ.
    pub sigma_min: Option<f64>,
    /// Euler and UniPC: largest σ of Karras, exponential and beta spacing. EDM, consistency models: largest σ.
    pub sigma_max: Option<f64>,
    /// EDM: how the noise levels are spaced.
    pub sigma_schedule: SigmaSchedule,
    /// EDM, consistency models: standard deviation of the data.
    pub sigma_data: f64,
    /// EDM, probability flow, consistency models: exponent of Karras spacing.
    pub rho: f64,
    /// Flow matching: s in σ ↦ sσ / (1 + (s − 1)σ), which keeps a run longer where there is more noise.
    pub shift: f64,
    /// Flow matching: each step goes to x_0 and noises it afresh.
    pub stochastic_sampling: bool,
    /// Flow matching: the noise level of the last step, to which all are stretched.
    pub shift_terminal: Option<f64>,
    /// Flow matching: the model is told 1 − σ and returns the velocity toward the picture.
    pub invert_sigmas: bool,
    /// Consistency models: factor on the noise between jumps.
    pub s_noise: f64,
    /// The noise level after the last step.
    pub final_sigmas_type: FinalSigmasType,
    /// DPM-Solvers, SA-Solver: timesteps with a log SNR (λ) below this are not visited.
    pub lambda_min_clipped: f64,
    /// DDIM, PNDM, LCM: whether ᾱ after the last step is 1, or that of timestep 0; of DDIM's inverse, before the first.
    pub set_alpha_to_one: bool,

    /// PNDM: start with multistep at once, without Runge–Kutta steps.
    pub skip_prk_steps: bool,
    /// Order of the DPM-Solvers, UniPC and DEIS.
    pub solver_order: usize,
    /// SA-Solver: order of the steps.
    pub predictor_order: usize,
    /// SA-Solver: order of their correction.
    pub corrector_order: usize,
    /// DPM-Solvers: which equation is solved.
    pub algorithm_type: AlgorithmType,
    /// DPM-Solvers, UniPC: which variant of the solver.
    pub solver_type: SolverType,
    /// Take the last steps of a short run with a lower order.
    pub lower_order_final: bool,
    /// DPM-Solver: take the last step with order 1.
    pub euler_at_final: bool,
    /// UniPC, SA-Solver (`algorithm_type`): solve in terms of x_0, not ε.
    pub predict_x0: bool,
    /// UniPC: indices of the steps that are not corrected.
    pub disable_corrector: Vec<usize>,
    /// DPM-Solver SDE: seed of the Brownian path. Without it, each picture's path has the picture's own seed.
    pub noise_sampler_seed: Option<u64>,
    /// LCM, TCD: number of steps of the schedule that the model was distilled with.
    pub original_inference_steps: usize,
    /// LCM: factor on timesteps in the boundary condition.
    pub timestep_scaling: f64,
    /// EDM's Euler and Heun, probability flow, Karras VE: the noise that is added before each step.
    pub churn: Churn,
    /// VE: the corrector's ratio of signal and noise.
    pub snr: f64,
    /// VE: the corrector's steps at each level.
    pub correct_steps: usize,
    /// The ODE by steps of its own choice: the error of a step, relative to the sample.
    pub rtol: f64,
    /// The same, absolute.
    pub atol: f64,
    /// VE, VP: the time at which a run ends.
    pub sampling_eps: f64,
    /// VP: β at time 0.
    pub beta_min: f64,
    /// VP: β at time 1.
    pub beta_max: f64,
    /// Annealed Langevin dynamics: T, steps at each level.
    pub langevin_steps: usize,
    /// Annealed Langevin dynamics: ε, the step at the smallest level.
    pub langevin_epsilon: f64,

    /// The keys that the file gave, from which [`SchedulerConfig::with_class`] starts.
    given: Map<String, Value>,
}

impl SchedulerConfig {
    /// The same trained model under another scheduler, as diffusers' `OtherScheduler.from_config(config, **overrides)`:
    /// the keys given in the file stay, the rest are `class`'s defaults, `overrides` win over both.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn with_class(&self, class: SchedulerClass, overrides: &[(&str, Value)]) -> Result<Self> {
        let mut given = self.given.clone();
        given.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Self::new(class, given)
    }

    /// The config as a JSON object that [`SchedulerConfig::from_json`] reads back: the class and the keys that were
    /// given.
    pub fn to_json(&self) -> Value {
        let mut object = self.given.clone();
        object.insert("_class_name".into(), self.class.name().into());
        Value::Object(object)
    }

    /// The same config with what a Stable Diffusion pipeline sets: `steps_offset` 1 and no `clip_sample`, both of which
    /// its first published configs had wrong. Latents do not lie in [−1, 1].
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn for_stable_diffusion(&self) -> Result<Self> {
        self.with_class(self.class, &[("steps_offset", 1.into()), ("clip_sample", false.into())])
    }

    pub(super) fn new(class: SchedulerClass, given: Map<String, Value>) -> Result<Self> {
        use SchedulerClass::*;
        let known = keys(class);
        let fields = Fields::of(&given, &known);
        refuse_unsupported_values(class, &fields)?;

        // The classes of k-diffusion's authors and of distilled models start from Stable Diffusion's betas.
        let latent = matches!(class, HeunDiscrete | Kdpm2Discrete | Kdpm2AncestralDiscrete | DpmSolverSde | Lcm | Tcd);
        let (beta_start, beta_end) = if latent { (0.00085, 0.012) } else { (0.0001, 0.02) };
        let distilled = matches!(class, Lcm | Tcd);
        let beta_schedule = if distilled { BetaSchedule::ScaledLinear } else { BetaSchedule::Linear };
        let leading = matches!(class, Ddpm | Ddim | DdimInverse | Pndm | Lcm | Tcd);
        let timestep_spacing = if leading { TimestepSpacing::Leading } else { TimestepSpacing::Linspace };

        let prediction_type = if class == Ipndm { PredictionType::VPrediction } else { PredictionType::Epsilon };

        // One key, with values of its own in each family of solvers.
        let (algorithm_type, predict_x0) = if class == SaSolver {
            let given = fields.one_of("algorithm_type", Some(SaAlgorithmType::DataPrediction))?;
            (AlgorithmType::DpmSolverPlusPlus, given == SaAlgorithmType::DataPrediction)
        } else {
            let given = fields.one_of("algorithm_type", Some(AlgorithmType::DpmSolverPlusPlus))?;
            (given, fields.boolean("predict_x0", true)?)
        };

        let trained = match class {
            CmStochasticIterative => 40,
            ScoreSdeVe | ScoreSdeVp => 2000,
            _ => 1000,
        };
        let sampling_eps = if matches!(class, ScoreSdeVp | ScoreSdeVpRk45) { 1e-3 } else { 1e-5 };
        let num_train_timesteps = fields.integer("num_train_timesteps", trained, 1..=1_000_000)?;
        let config = Self {
            class,
            num_train_timesteps,
            beta_start: fields.number("beta_start", beta_start, 0.0..=1.0)?,
            beta_end: fields.number("beta_end", beta_end, 0.0..=1.0)?,
            beta_schedule: fields.one_of("beta_schedule", Some(beta_schedule))?,
            trained_betas: fields.numbers("trained_betas", num_train_timesteps)?,
            rescale_betas_zero_snr: fields.boolean("rescale_betas_zero_snr", false)?,
            prediction_type: fields.one_of("prediction_type", Some(prediction_type))?,
            clip: if class == CmStochasticIterative {
                if fields.boolean("clip_denoised", true)? { Clip::Range(1.0) } else { Clip::None }
            } else {
                clip(&fields, matches!(class, Ddpm | Ddim | DdimInverse | RePaint))?
            },
            variance_type: fields.one_of("variance_type", Some(VarianceType::FixedSmall))?,
            timestep_spacing: fields.one_of("timestep_spacing", Some(timestep_spacing))?,
            steps_offset: fields.integer("steps_offset", 0, 0..=num_train_timesteps)?,
            sigma_spacing: sigma_spacing(&fields)?,
            interpolation_type: fields.one_of("interpolation_type", Some(InterpolationType::Linear))?,
            timestep_type: fields.one_of("timestep_type", Some(TimestepType::Discrete))?,
            sigma_min: fields.positive("sigma_min")?,
            sigma_max: fields.positive("sigma_max")?,
            final_sigmas_type: fields.one_of("final_sigmas_type", Some(FinalSigmasType::Zero))?,
            sigma_schedule: fields.one_of("sigma_schedule", Some(SigmaSchedule::Karras))?,
            sigma_data: fields.positive("sigma_data")?.unwrap_or(0.5),
            rho: fields.positive("rho")?.unwrap_or(7.0),
            shift: fields.positive("shift")?.unwrap_or(1.0),
            stochastic_sampling: fields.boolean("stochastic_sampling", false)?,
            shift_terminal: match fields.number("shift_terminal", 0.0, 0.0..=0.999)? {
                0.0 => None,
                terminal => Some(terminal),
            },
            invert_sigmas: fields.boolean("invert_sigmas", false)?,
            s_noise: fields.number("s_noise", 1.0, 0.0..=f64::MAX)?,
            lambda_min_clipped: fields.number("lambda_min_clipped", f64::NEG_INFINITY, -1e9..=1e9)?,
            set_alpha_to_one: fields.boolean("set_alpha_to_one", class != Pndm)?,
            skip_prk_steps: fields.boolean("skip_prk_steps", false)?,
            solver_order: fields.integer("solver_order", 2, 1..=3)?,
            predictor_order: fields.integer("predictor_order", 2, 1..=4)?,
            corrector_order: fields.integer("corrector_order", 2, 1..=4)?,
            algorithm_type,
            solver_type: fields.one_of("solver_type", Some(SolverType::Midpoint))?,
            lower_order_final: fields.boolean("lower_order_final", class != DpmSolverSinglestep)?,
            euler_at_final: fields.boolean("euler_at_final", false)?,
            predict_x0,
            disable_corrector: fields.integers("disable_corrector")?,
            noise_sampler_seed: fields.seed("noise_sampler_seed")?,
            original_inference_steps: fields.integer("original_inference_steps", 50, 1..=num_train_timesteps)?,
            timestep_scaling: fields.number("timestep_scaling", 10.0, 0.0..=f64::MAX)?,
            churn: churn(&fields, class == KarrasVe)?,
            snr: fields.number("snr", 0.15, f64::MIN_POSITIVE..=1e3)?,
            correct_steps: fields.integer("correct_steps", 1, 0..=1000)?,
            rtol: fields.number("rtol", 1e-5, RungeKutta::LEAST_RTOL..=1.0)?,
            atol: fields.number("atol", 1e-5, 0.0..=1e9)?,
            sampling_eps: fields.number("sampling_eps", sampling_eps, 1e-9..=1.0)?,
            beta_min: fields.number("beta_min", 0.1, f64::MIN_POSITIVE..=1e6)?,
            beta_max: fields.number("beta_max", 20.0, f64::MIN_POSITIVE..=1e6)?,
            langevin_steps: fields.integer("langevin_steps", 100, 1..=100_000)?,
            langevin_epsilon: fields.positive("langevin_epsilon")?.unwrap_or(2e-5),
            given: given.clone(),
        };
        config.resolved()
    }

    /// The config with the solver variants of other classes replaced by this class's default, as diffusers does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for combinations that diffusers refuses.
    fn resolved(mut self) -> Result<Self> {
        use AlgorithmType::*;
        let unsupported =
            |message: String| Err(Error::Unsupported(format!("scheduler config: {}: {message}", self.class.name())));
        match self.class {
            SchedulerClass::Ipndm if self.prediction_type != PredictionType::VPrediction => {
                return unsupported("\"prediction_type\" must be \"v_prediction\", which its models return".into());
            }
            SchedulerClass::Ipndm if self.trained_betas.is_some() => {
                return unsupported(
                    "\"trained_betas\" would be the noise levels of one run here, whatever the number of steps; remove \
                    them, the levels follow from the number of steps"
                        .into(),
                );
            }
            SchedulerClass::EdmDpmSolverMultistep if matches!(self.algorithm_type, DpmSolver | SdeDpmSolver) => {
                return unsupported("\"algorithm_type\" must be dpmsolver++ or sde-dpmsolver++".into());
            }
            SchedulerClass::DpmSolverMultistep
            | SchedulerClass::DpmSolverSinglestep
            | SchedulerClass::EdmDpmSolverMultistep => {
                if self.algorithm_type == Deis {
                    self.algorithm_type = DpmSolverPlusPlus;
                }
                if self.solver_type != SolverType::Heun {
                    self.solver_type = SolverType::Midpoint;
                }
                let in_epsilon = matches!(self.algorithm_type, DpmSolver | SdeDpmSolver);
                if in_epsilon && self.final_sigmas_type == FinalSigmasType::Zero {
                    return unsupported("this \"algorithm_type\" needs \"final_sigmas_type\": \"sigma_min\"".into());
                }
                let singlestep = self.class == SchedulerClass::DpmSolverSinglestep;
                if self.algorithm_type == SdeDpmSolver && (singlestep || self.solver_order == 3) {
                    return unsupported(
                        "\"algorithm_type\": \"sde-dpmsolver\" exists only for multistep of order 1 and 2".into(),
                    );
                }
            }
            SchedulerClass::DeisMultistep if matches!(self.algorithm_type, SdeDpmSolver | SdeDpmSolverPlusPlus) => {
                return unsupported("\"algorithm_type\" must be \"deis\"".into());
            }
            SchedulerClass::UniPcMultistep => {
                if self.solver_type != SolverType::Bh1 {
                    self.solver_type = SolverType::Bh2;
                }
                if !self.predict_x0 && self.final_sigmas_type == FinalSigmasType::Zero {
                    return unsupported("\"predict_x0\": false needs \"final_sigmas_type\": \"sigma_min\"".into());
                }
            }
            SchedulerClass::Pndm
            | SchedulerClass::EulerAncestralDiscrete
            | SchedulerClass::Kdpm2Discrete
            | SchedulerClass::Kdpm2AncestralDiscrete
            | SchedulerClass::DpmSolverSde
            | SchedulerClass::EdmEuler
            | SchedulerClass::EdmHeun
                if self.prediction_type == PredictionType::Sample =>
            {
                return unsupported("\"prediction_type\": \"sample\" is not defined for this scheduler".into());
            }
            _ => {}
        }
        Ok(self)
    }

    /// Whether the model returns a learned variance beside its prediction.
    pub fn learns_variance(&self) -> bool {
        matches!(self.variance_type, VarianceType::Learned | VarianceType::LearnedRange)
    }
}

/// Flow matching by solvers of other frames, or shifted by the picture's size; nested solvers; functions.
fn refuse_unsupported_values(class: SchedulerClass, fields: &Fields) -> Result<()> {
    if fields.boolean("use_flow_sigmas", false)? {
        return Err(Error::Unsupported(
            "scheduler config: \"use_flow_sigmas\": true is not supported; models of flow matching run with \
            FlowMatchEulerDiscreteScheduler"
                .into(),
        ));
    }
    if fields.boolean("use_dynamic_shifting", false)? {
        return Err(Error::Unsupported(
            "scheduler config: \"use_dynamic_shifting\": true is not supported: it shifts the noise levels by the \
            picture's size, for transformers; set it to false, and \"shift\" to the number for your size, which is \
            e^mu where diffusers' pipelines say mu"
                .into(),
        ));
    }
    // diffusers takes both, and computes an x_0 that is none.
    if fields.boolean("invert_sigmas", false)? && fields.boolean("stochastic_sampling", false)? {
        return Err(Error::Unsupported(
            "scheduler config: \"invert_sigmas\" and \"stochastic_sampling\" exclude each other; set one to false"
                .into(),
        ));
    }
    if fields.has("tau_func") {
        return Err(Error::Unsupported(
            "scheduler config: \"tau_func\" is a function of the timestep in diffusers, which JSON cannot hold; only \
            null is supported, which is 1 from timestep 200 to 800 and 0 elsewhere"
                .into(),
        ));
    }
    for key in ["solver_p", "shift_terminal"] {
        if fields.has(key) && class != SchedulerClass::FlowMatchEulerDiscrete {
            return Err(Error::Unsupported(format!("scheduler config: \"{key}\" is not supported; only null is")));
        }
    }
    Ok(())
}

fn clip(fields: &Fields, clip_by_default: bool) -> Result<Clip> {
    if fields.boolean("thresholding", false)? {
        return Ok(Clip::Dynamic {
            ratio: fields.number("dynamic_thresholding_ratio", 0.995, 0.0..=1.0)?,
            max: fields.number("sample_max_value", 1.0, f64::MIN_POSITIVE..=f64::MAX)?,
        });
    }
    if fields.boolean("clip_sample", clip_by_default)? {
        return Ok(Clip::Range(fields.number("clip_sample_range", 1.0, f64::MIN_POSITIVE..=f64::MAX)?));
    }
    Ok(Clip::None)
}

/// How much noise is added before each step; `KarrasVeScheduler` does so by itself and has other names for the range.
fn churn(fields: &Fields, of_karras_ve: bool) -> Result<Churn> {
    let [low, high] = if of_karras_ve { ["s_min", "s_max"] } else { ["s_tmin", "s_tmax"] };
    let [amount, from, to, noise] = if of_karras_ve { [80.0, 0.05, 50.0, 1.007] } else { [0.0, 0.0, f64::MAX, 1.0] };
    Ok(Churn {
        amount: fields.number("s_churn", amount, 0.0..=f64::MAX)?,
        range: [fields.number(low, from, 0.0..=f64::MAX)?, fields.number(high, to, 0.0..=f64::MAX)?],
        noise: fields.number("s_noise", noise, 0.0..=f64::MAX)?,
    })
}

fn sigma_spacing(fields: &Fields) -> Result<SigmaSpacing> {
    let mut spacing = SigmaSpacing::Timesteps;
    let mut chosen_by = "";
    for (key, value) in [
        ("use_karras_sigmas", SigmaSpacing::Karras),
        ("use_exponential_sigmas", SigmaSpacing::Exponential),
        ("use_beta_sigmas", SigmaSpacing::Beta),
        ("use_lu_lambdas", SigmaSpacing::Lu),
    ] {
        if fields.boolean(key, false)? {
            if spacing != SigmaSpacing::Timesteps {
                return Err(Error::Config(format!(
                    "scheduler: \"{chosen_by}\" and \"{key}\" exclude each other; set one to false"
                )));
            }
            (spacing, chosen_by) = (value, key);
        }
    }
    Ok(spacing)
}
