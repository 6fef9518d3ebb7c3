//! Noise levels for the schedulers that work in σ = √((1 − ᾱ)/ᾱ), the noise-to-signal ratio of x_t.
//!
//! Two families share these: those of k-diffusion (Euler, Heun, LMS, …), whose sample is x_0 + σ ε, and the exponential
//! integrators (DPM-Solver, UniPC, DEIS), whose sample is the usual √ᾱ x_0 + √(1−ᾱ) ε. They visit slightly different
//! timesteps.

use super::beta_quantile::beta_quantile;
use super::betas::stored;
use super::config::SchedulerConfig;
use super::options::{FinalSigmasType, InterpolationType, SchedulerClass, SigmaSpacing, TimestepSpacing};
use super::step::equal_levels;
use super::timesteps::{check_steps, custom, linspace, trailing};
use super::{Sampling, Scheduler};
use crate::{Error, Result};

/// The noise levels of a run: `sigmas` has one entry more than `timesteps`, the level after the last step.
#[derive(Clone, Debug)]
pub struct Sigmas {
    pub timesteps: Vec<f64>,
    pub sigmas: Vec<f64>,
}

impl Sigmas {
    /// The levels rounded to float32.
    ///
    /// # Errors
    /// [`Error::Config`] if they rise.
    fn checked(timesteps: Vec<f64>, sigmas: Vec<f64>) -> Result<Self> {
        let sigmas: Vec<f64> = sigmas.into_iter().map(stored).collect();
        let (first, last) = (sigmas[0], sigmas[timesteps.len() - 1]);
        if !sigmas[..timesteps.len()].is_sorted_by(|a, b| a >= b) {
            return Err(Error::Config(format!(
                "scheduler: noise levels must fall, but go from {first} to {last}; see \"sigma_min\", \"sigma_max\""
            )));
        }
        Ok(Self { timesteps, sigmas })
    }
}

/// σ of every training timestep, and the way back.
pub struct SigmaTable {
    sigmas: Vec<f64>,
    log_sigmas: Vec<f64>,
}

impl SigmaTable {
    pub fn new(scheduler: &Scheduler) -> Self {
        let mut alphas_cumprod = scheduler.noise_schedule.alphas_cumprod.clone();
        if scheduler.config.rescale_betas_zero_snr {
            // Pure noise has no finite σ; diffusers takes the smallest step of float32 below 1 for its ᾱ, so σ = 4096.
            *alphas_cumprod.last_mut().expect("num_train_timesteps is at least 1") = 2.0_f64.powi(-24);
        }
        let sigmas: Vec<f64> = alphas_cumprod.into_iter().map(|a| stored(stored(stored(1.0 - a) / a).sqrt())).collect();
        let log_sigmas = sigmas.iter().map(|sigma| stored(sigma.ln())).collect();
        Self { sigmas, log_sigmas }
    }

    /// σ at timestep 0.
    pub fn first(&self) -> f64 {
        self.sigmas[0]
    }

    /// σ at the last timestep.
    pub fn last(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// λ = ln(√ᾱ/√(1−ᾱ)) = −ln σ of every training timestep, descending.
    pub fn lambdas(&self) -> impl Iterator<Item = f64> {
        self.sigmas.iter().map(|sigma| -sigma.ln())
    }

    /// σ at a timestep, linear between two trained ones, constant beyond the last.
    pub fn at(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        if timestep >= last as f64 {
            return self.sigmas[last];
        }
        let below = timestep as usize;
        let (low, high) = (self.sigmas[below], self.sigmas[below + 1]);
        (high - low) * (timestep - below as f64) + low
    }

    /// The timestep with this σ, linear in log σ between two trained ones.
    pub fn timestep_of(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.max(1e-10).ln();
        let above = self.log_sigmas.partition_point(|l| *l <= log_sigma);
        let low = above.saturating_sub(1).min(self.log_sigmas.len().saturating_sub(2));
        let high = (low + 1).min(self.log_sigmas.len() - 1);
        let (l, h) = (self.log_sigmas[low], self.log_sigmas[high]);
        let w = if h > l { ((log_sigma - l) / (h - l)).clamp(0.0, 1.0) } else { 0.0 };
        (1.0 - w) * low as f64 + w * high as f64
    }
}

/// The noise levels of a k-diffusion scheduler: n timesteps from T − 1 to 0, not rounded, and σ from them; or σ by
/// another spacing within the range of these, and timesteps from σ.
///
/// # Errors
/// [`Error::Usage`] for a number of steps, custom timesteps or custom sigmas that this scheduler cannot take.
pub fn k_diffusion(scheduler: &Scheduler, sampling: &Sampling) -> Result<Sigmas> {
    let config = &scheduler.config;
    let table = SigmaTable::new(scheduler);
    if let Some(sigmas) = custom_sigmas(scheduler, sampling)? {
        let timesteps = sigmas[..sigmas.len() - 1].iter().map(|sigma| stored(table.timestep_of(*sigma))).collect();
        return Ok(Sigmas { timesteps, sigmas });
    }

    let trained = config.num_train_timesteps;
    let n = sampling.num_inference_steps;
    let mut timesteps: Vec<f64> = if let Some(timesteps) = custom_timesteps(scheduler, sampling)? {
        timesteps
    } else {
        check_steps(config, n)?;
        // One class of diffusers keeps them in float64.
        let kept = if config.class == SchedulerClass::DpmSolverSde { |t| t } else { stored };
        match config.timestep_spacing {
            TimestepSpacing::Linspace => linspace(0.0, (trained - 1) as f64, n).into_iter().rev().map(kept).collect(),
            TimestepSpacing::Leading => {
                (0..n).rev().map(|i| (i * (trained / n) + config.steps_offset) as f64).collect()
            }
            TimestepSpacing::Trailing => trailing(trained, trained, n).into_iter().map(|t| t - 1.0).collect(),
        }
    };
    let n = timesteps.len();
    let mut sigmas: Vec<f64> = match config.interpolation_type {
        InterpolationType::Linear => timesteps.iter().map(|t| table.at(*t)).collect(),
        // One level more than there are steps: the last step ends at the smallest.
        InterpolationType::LogLinear => {
            linspace(table.last().ln(), table.first().ln(), n + 1).into_iter().map(f64::exp).collect()
        }
    };
    if config.sigma_spacing != SigmaSpacing::Timesteps {
        let (first, last) = (sigmas[0], sigmas[sigmas.len() - 1]);
        sigmas = spaced_sigmas(scheduler, last, first, n);
        let midpoint = matches!(config.class, SchedulerClass::Kdpm2Discrete | SchedulerClass::Kdpm2AncestralDiscrete);
        let rounded = midpoint && config.sigma_spacing == SigmaSpacing::Karras;
        let timestep = |sigma: &f64| table.timestep_of(*sigma);
        timesteps =
            sigmas.iter().map(timestep).map(|t| if rounded { t.round_ties_even() } else { stored(t) }).collect();
    }
    if sigmas.len() == n {
        sigmas.push(match config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => table.first(),
        });
    }
    Sigmas::checked(timesteps, sigmas)
}

/// The noise levels of an exponential integrator: whole timesteps, of which timestep 0 is the end, not a step; or σ by
/// another spacing over the whole trained range.
///
/// # Errors
/// [`Error::Usage`] for a number of steps or custom timesteps that this scheduler cannot take.
pub fn exponential_integrator(scheduler: &Scheduler, sampling: &Sampling) -> Result<Sigmas> {
    let config = &scheduler.config;
    let table = SigmaTable::new(scheduler);
    custom_sigmas(scheduler, sampling)?;

    let trained = config.num_train_timesteps;
    let n = sampling.num_inference_steps;
    let mut timesteps: Vec<f64> = if let Some(timesteps) = custom_timesteps(scheduler, sampling)? {
        timesteps
    } else {
        check_steps(config, n)?;
        // Timesteps whose λ is too small are not visited.
        let clipped = table.lambdas().filter(|lambda| *lambda < config.lambda_min_clipped).count();
        let last = trained - clipped;
        if last == 0 {
            return Err(Error::Config(format!(
                "scheduler: \"lambda_min_clipped\" {} leaves no timestep",
                config.lambda_min_clipped
            )));
        }
        match config.timestep_spacing {
            TimestepSpacing::Linspace => {
                linspace(0.0, (last - 1) as f64, n + 1).into_iter().skip(1).rev().map(f64::round_ties_even).collect()
            }
            TimestepSpacing::Leading => {
                (1..=n).rev().map(|i| (i * (last / (n + 1)) + config.steps_offset) as f64).collect()
            }
            TimestepSpacing::Trailing => trailing(last, trained, n).into_iter().map(|t| t - 1.0).collect(),
        }
    };
    let converted = config.sigma_spacing != SigmaSpacing::Timesteps;
    let mut sigmas: Vec<f64> = if converted {
        let n = if sampling.timesteps.is_some() { timesteps.len() } else { n };
        let sigmas = spaced_sigmas(scheduler, table.first(), table.last(), n);
        timesteps = sigmas.iter().map(|sigma| whole_timestep(scheduler, table.timestep_of(*sigma))).collect();
        sigmas
    } else {
        timesteps.iter().map(|t| table.at(*t)).collect()
    };
    let last = sigmas[sigmas.len() - 1];
    sigmas.push(match (config.class, config.final_sigmas_type) {
        (SchedulerClass::DeisMultistep | SchedulerClass::SaSolver, _) => {
            if converted {
                last
            } else {
                table.first()
            }
        }
        (_, FinalSigmasType::Zero) => 0.0,
        (SchedulerClass::UniPcMultistep, FinalSigmasType::SigmaMin) if converted => last,
        (_, FinalSigmasType::SigmaMin) => table.first(),
    });
    let run = Sigmas::checked(timesteps, sigmas)?;
    // The differences between steps are divided by their lengths.
    if !run.sigmas[..run.timesteps.len()].is_sorted_by(|a, b| a > b) {
        return Err(equal_levels(run.timesteps.len()).into());
    }
    Ok(run)
}

/// The whole timestep for one found from σ: rounded for Karras and Lu spacing, truncated for the others and for cosine
/// betas in DPM-Solver, as in diffusers. (Truncated, the first of them is T − 1 or T − 2 by the last bit of ln σ in
/// float32, which in numpy depends on the processor.)
fn whole_timestep(scheduler: &Scheduler, timestep: f64) -> f64 {
    use super::options::BetaSchedule::SquaredcosCapV2;
    let config = &scheduler.config;
    let cosine = config.class == SchedulerClass::DpmSolverMultistep && config.beta_schedule == SquaredcosCapV2;
    match config.sigma_spacing {
        SigmaSpacing::Karras | SigmaSpacing::Lu if !cosine => timestep.round_ties_even(),
        _ => timestep.trunc(),
    }
}

/// `n` levels from the largest to the smallest, by the config's spacing.
fn spaced_sigmas(scheduler: &Scheduler, sigma_min: f64, sigma_max: f64, n: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let config = &scheduler.config;
    let min = config.sigma_min.unwrap_or(sigma_min);
    let max = config.sigma_max.unwrap_or(sigma_max);
    let ramp = linspace(0.0, 1.0, n).into_iter();
    match config.sigma_spacing {
        // Karras et al. 2022, eq. 5: (σ_max^(1/ρ) + i/(n−1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ.
        SigmaSpacing::Timesteps | SigmaSpacing::Karras => {
            let (min, max) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
            ramp.map(|i| (max + i * (min - max)).powf(RHO)).collect()
        }
        SigmaSpacing::Exponential | SigmaSpacing::Lu => {
            linspace(max.ln(), min.ln(), n).into_iter().map(f64::exp).collect()
        }
        // Lee et al. 2024: quantiles of Beta(0.6, 0.6), which is dense at both ends.
        SigmaSpacing::Beta => ramp.map(|i| min + beta_quantile(1.0 - i) * (max - min)).collect(),
    }
}

/// The user's timesteps as numbers, if given and if this scheduler takes any.
fn custom_timesteps(scheduler: &Scheduler, sampling: &Sampling) -> Result<Option<Vec<f64>>> {
    use SchedulerClass::*;
    let config = &scheduler.config;
    let Some(timesteps) = &sampling.timesteps else { return Ok(None) };
    let takes_any = matches!(config.class, EulerDiscrete | HeunDiscrete | DpmSolverMultistep | DpmSolverSinglestep);
    if !takes_any || config.sigma_spacing != SigmaSpacing::Timesteps {
        let why = if takes_any { " with sigmas spaced by its config" } else { "" };
        return Err(Error::Usage(format!("{}{why} does not take custom timesteps", config.class.name())));
    }
    Ok(Some(custom(config, timesteps)?.into_iter().map(|t| t as f64).collect()))
}

/// The user's noise levels, the last of them the end of the last step, if given and if this scheduler takes any.
fn custom_sigmas(scheduler: &Scheduler, sampling: &Sampling) -> Result<Option<Vec<f64>>> {
    let Some(sigmas) = &sampling.sigmas else { return Ok(None) };
    let class = scheduler.config.class;
    if class != SchedulerClass::EulerDiscrete {
        return Err(Error::Usage(format!("{} does not take custom sigmas", class.name())));
    }
    if sampling.timesteps.is_some() {
        return Err(Error::Usage("give custom timesteps or custom sigmas, not both".into()));
    }
    let (last, before) = sigmas.split_last().unwrap_or((&f64::NAN, &[]));
    let descends = sigmas.is_sorted_by(|a, b| a > b);
    if before.is_empty() || !descends || !(*last >= 0.0 && sigmas[0].is_finite()) {
        return Err(Error::Usage(format!(
            "custom sigmas must descend strictly to 0 or more and be at least two, found {sigmas:?}"
        )));
    }
    Ok(Some(sigmas.iter().map(|sigma| stored(*sigma)).collect()))
}

/// The scale of the initial noise for a k-diffusion scheduler. Spacings that start at the last timestep start from
/// noise alone; `leading` does not reach it and adds the variance of the picture, 1.
pub fn init_noise_sigma(config: &SchedulerConfig, sigmas: &[f64]) -> f64 {
    let max_sigma = sigmas.iter().copied().fold(0.0, f64::max);
    match config.timestep_spacing {
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => max_sigma,
        TimestepSpacing::Leading => max_sigma.hypot(1.0),
    }
}

/// An ancestral step from `sigma` to `sigma_next`, split into how far to go down and how much fresh noise to add:
/// σ_down² + σ_up² = σ_next², with the variance σ_up² of the posterior of the forward process (k-diffusion).
pub fn ancestral(sigma: f64, sigma_next: f64) -> (f64, f64) {
    let sigma_up = sigma_next * (1.0 - (sigma_next / sigma).powi(2)).max(0.0).sqrt();
    let sigma_down = sigma_next * (sigma_next / sigma);
    (sigma_down, sigma_up)
}
