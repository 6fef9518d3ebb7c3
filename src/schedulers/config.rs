//! `scheduler_config.json`, typed: every field of diffusers' schedulers is honoured or refused by name.
//!
//! A config may carry the keys of another scheduler class, because diffusers' `from_config` switches classes over one file; keys
//! that only another class knows are left alone, keys that no class knows are refused.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::{Error, Result};

/// The fields of a scheduler's config, with the class's defaults where the file says nothing.
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
    /// Which timesteps a run visits.
    pub timestep_spacing: TimestepSpacing,
    /// Added to the timesteps of `leading` spacing.
    pub steps_offset: usize,
    /// DDPM's variance of p(x_{t-1} | x_t).
    pub variance_type: VarianceType,
    /// DDIM's ᾱ after the last step: 1, or that of timestep 0.
    pub set_alpha_to_one: bool,
    /// The keys that the file gave, from which [`SchedulerConfig::with_class`] starts.
    given: Map<String, Value>,
}

/// Declares an enum whose values are named in config files, with the two conversions.
macro_rules! named_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl Named for $name {
            const ALL: &'static [($name, &'static str)] = &[$(($name::$variant, $text),)+];
        }
    };
}

/// A set of values that config files name by strings.
pub(super) trait Named: Copy + 'static {
    /// Every value with its name.
    const ALL: &'static [(Self, &'static str)];
}

named_values! {
    /// A scheduler class, by its name in diffusers.
    SchedulerClass {
        /// Ho et al. 2020.
        Ddpm = "DDPMScheduler",
        /// Song et al. 2020.
        Ddim = "DDIMScheduler",
    }
}

named_values! {
    /// How β runs over the training timesteps; formulas in `betas.rs`.
    BetaSchedule {
        /// Evenly spaced.
        Linear = "linear",
        /// √β evenly spaced (latent diffusion).
        ScaledLinear = "scaled_linear",
        /// From a cosine-shaped ᾱ.
        SquaredcosCapV2 = "squaredcos_cap_v2",
        /// From a Laplace-shaped distribution of log SNR.
        Laplace = "laplace",
        /// A logistic curve (GeoDiff).
        Sigmoid = "sigmoid",
    }
}

named_values! {
    /// What the model returns, for x_t = √ᾱ x_0 + √(1−ᾱ) ε.
    PredictionType {
        /// ε.
        Epsilon = "epsilon",
        /// x_0.
        Sample = "sample",
        /// v = √ᾱ ε − √(1−ᾱ) x_0 (Salimans & Ho 2022, arXiv:2202.00512).
        VPrediction = "v_prediction",
    }
}

named_values! {
    /// Which of the T trained timesteps a run of n steps visits.
    TimestepSpacing {
        /// Evenly from T − 1 down to 0.
        Linspace = "linspace",
        /// Multiples of T/n rounded down, plus `steps_offset`; never reaches T − 1.
        Leading = "leading",
        /// Multiples of T/n counted down from T, minus 1; never reaches 0.
        Trailing = "trailing",
    }
}

named_values! {
    /// DDPM's choice of the variance of p(x_{t-1} | x_t).
    VarianceType {
        /// β̃_t, the posterior's (Ho et al. 2020, eq. 7).
        FixedSmall = "fixed_small",
        /// The same, through a logarithm.
        FixedSmallLog = "fixed_small_log",
        /// β_t.
        FixedLarge = "fixed_large",
        /// The same, through a logarithm.
        FixedLargeLog = "fixed_large_log",
        /// The model's extra channels are the variance.
        Learned = "learned",
        /// The model's extra channels interpolate between log β̃_t and log β_t (Nichol & Dhariwal 2021, eq. 15).
        LearnedRange = "learned_range",
    }
}

/// What is done to the estimate of x_0 before it is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Nothing.
    None,
    /// Clamped to [−range, range] (`clip_sample`, `clip_sample_range`).
    Range(f64),
    /// Dynamic thresholding (`thresholding`; Saharia et al. 2022, arXiv:2205.11487, section 2.3): for each batch element, s is the
    /// `ratio`-quantile of |x_0|, at least 1 and at most `max`; x_0 is clamped to [−s, s] and divided by s.
    Dynamic {
        /// `dynamic_thresholding_ratio`.
        ratio: f64,
        /// `sample_max_value`.
        max: f64,
    },
}

/// Keys of every class.
const COMMON: &[&str] = &[
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "steps_offset",
];

/// Keys of schedulers elsewhere in diffusers, and of releases long past, that mean nothing to the classes here.
const FOREIGN: &[&str] = &[
    "algorithm_type",
    "base_image_seq_len",
    "base_shift",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "invert_sigmas",
    "lambda_min_clipped",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "noise_sampler_seed",
    "original_inference_steps",
    "predict_x0",
    "rescale_betas_zero_snr",
    "rho",
    "sample_max_value",
    "set_alpha_to_one",
    "shift",
    "shift_terminal",
    "sigma_data",
    "sigma_max",
    "sigma_min",
    "sigma_schedule",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "stochastic_sampling",
    "tensor_format",
    "thresholding",
    "time_shift_type",
    "timestep_scaling",
    "timestep_spacing",
    "timestep_type",
    "timestep_values",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];

impl SchedulerClass {
    /// The keys that this class reads, besides [`COMMON`].
    fn keys(self) -> &'static [&'static str] {
        match self {
            SchedulerClass::Ddpm => &[
                "clip_sample",
                "clip_sample_range",
                "dynamic_thresholding_ratio",
                "rescale_betas_zero_snr",
                "sample_max_value",
                "thresholding",
                "timestep_spacing",
                "variance_type",
            ],
            SchedulerClass::Ddim => &[
                "clip_sample",
                "clip_sample_range",
                "dynamic_thresholding_ratio",
                "rescale_betas_zero_snr",
                "sample_max_value",
                "set_alpha_to_one",
                "thresholding",
                "timestep_spacing",
            ],
        }
    }

    /// The name in diffusers, which is also the `_class_name` in config files.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(class, _)| *class == self).expect("ALL lists every variant").1
    }
}

impl SchedulerConfig {
    /// Parses the text of a `scheduler_config.json`, whose `_class_name` says which scheduler.
    ///
    /// # Errors
    /// [`Error::Config`] if it is no JSON object or a value makes no sense; [`Error::Unsupported`] for names not known here.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut given: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| Error::Config(format!("scheduler_config.json is not a JSON object: {e}")))?;
        let class = match given.get("_class_name") {
            Some(_) => Fields::of(&given, &["_class_name"]).one_of("_class_name", None)?,
            None => return Err(Error::Config("scheduler_config.json has no \"_class_name\"".into())),
        };
        // diffusers lists here the keys that it wrote without having been given them; another class takes its own defaults for them.
        if let Some(Value::Array(defaulted)) = given.remove("_use_default_values") {
            given.retain(|key, _| !defaulted.iter().any(|d| d.as_str() == Some(key)));
        }
        given.retain(|key, _| !key.starts_with('_'));
        Self::new(class, given)
    }

    /// The same trained model under another scheduler, as diffusers' `OtherScheduler.from_config(config, **overrides)`: the keys
    /// given in the file stay, the rest are `class`'s defaults, `overrides` win over both.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_json`].
    pub fn with_class(&self, class: SchedulerClass, overrides: &[(&str, Value)]) -> Result<Self> {
        let mut given = self.given.clone();
        given.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Self::new(class, given)
    }

    fn new(class: SchedulerClass, given: Map<String, Value>) -> Result<Self> {
        let known = [COMMON, class.keys()].concat();
        // `predict_epsilon: false` once meant what `prediction_type: "sample"` means today; true was, and is, the default.
        let unknown = |key: &&String| !known.contains(&key.as_str()) && !FOREIGN.contains(&key.as_str());
        if let Some(key) = given.keys().filter(|key| *key != "predict_epsilon").find(unknown) {
            return Err(Error::Unsupported(format!(
                "scheduler config: unknown key \"{key}\" (value {}) for {}; remove it if it does not matter",
                given[key],
                class.name()
            )));
        }
        if given.get("predict_epsilon").is_some_and(|value| *value != Value::Bool(true)) {
            return Err(Error::Unsupported(
                "scheduler config: \"predict_epsilon\" is obsolete; write \"prediction_type\": \"sample\" instead"
                    .into(),
            ));
        }

        let fields = Fields::of(&given, &known);
        let num_train_timesteps = fields.integer("num_train_timesteps", 1000, 1..=1_000_000)?;
        let clip = if fields.boolean("thresholding", false)? {
            Clip::Dynamic {
                ratio: fields.number("dynamic_thresholding_ratio", 0.995, 0.0..=1.0)?,
                max: fields.number("sample_max_value", 1.0, f64::MIN_POSITIVE..=f64::MAX)?,
            }
        } else if fields.boolean("clip_sample", true)? && known.contains(&"clip_sample") {
            Clip::Range(fields.number("clip_sample_range", 1.0, f64::MIN_POSITIVE..=f64::MAX)?)
        } else {
            Clip::None
        };
        let config = Self {
            class,
            num_train_timesteps,
            beta_start: fields.number("beta_start", 0.0001, 0.0..=1.0)?,
            beta_end: fields.number("beta_end", 0.02, 0.0..=1.0)?,
            beta_schedule: fields.one_of("beta_schedule", Some(BetaSchedule::Linear))?,
            trained_betas: fields.numbers("trained_betas", num_train_timesteps)?,
            rescale_betas_zero_snr: fields.boolean("rescale_betas_zero_snr", false)?,
            prediction_type: fields.one_of("prediction_type", Some(PredictionType::Epsilon))?,
            clip,
            timestep_spacing: fields.one_of("timestep_spacing", Some(TimestepSpacing::Leading))?,
            steps_offset: fields.integer("steps_offset", 0, 0..=num_train_timesteps)?,
            variance_type: fields.one_of("variance_type", Some(VarianceType::FixedSmall))?,
            set_alpha_to_one: fields.boolean("set_alpha_to_one", true)?,
            given: given.clone(),
        };
        Ok(config)
    }
}
