//! The noise schedule β_t and its products: how much of the picture and how much noise x_t holds.
//!
//! Ho et al. 2020 (arXiv:2006.11239), eq. 4: q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I) with α_t = 1 − β_t, ᾱ_t = ∏ α_s.
//!
//! Tables are f64, but the values that diffusers *stores* in float32 are rounded to f32 here too ([`stored`]). It
//! matters: 1 − ᾱ_t is as small as 1e-4, so that rounding ᾱ_t changes it by up to 3 parts in 10 000, and x_0 near the
//! end of sampling with it.

use super::config::SchedulerConfig;
use super::options::BetaSchedule;
use crate::{Error, Result};

/// Rounds to what an f32 holds, as diffusers does wherever it keeps a value that is later subtracted from one close to
/// it.
pub fn stored(value: f64) -> f64 {
    f64::from(value as f32)
}

/// The forward process of a trained model: ᾱ_t for every training timestep.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    /// β_t.
    pub betas: Vec<f64>,
    /// ᾱ_t, descending from nearly 1 to nearly 0.
    pub alphas_cumprod: Vec<f64>,
}

/// Coefficients of the forward process: x_t = `signal`·x_0 + `noise`·ε.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noising {
    /// √ᾱ_t (1 for schedulers that work in σ).
    pub signal: f64,
    /// √(1 − ᾱ_t) (σ_t for schedulers that work in σ).
    pub noise: f64,
}

impl NoiseSchedule {
    /// The schedule that a config describes.
    ///
    /// # Errors
    /// [`Error::Config`] if a β leaves (0, 1].
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        let n = config.num_train_timesteps;
        let (start, end) = (config.beta_start, config.beta_end);
        let betas: Vec<f64> = match (&config.trained_betas, config.beta_schedule) {
            (Some(betas), _) => betas.clone(),
            (None, BetaSchedule::Linear) => linspace(start, end, n),
            (None, BetaSchedule::ScaledLinear) => {
                linspace(start.sqrt(), end.sqrt(), n).into_iter().map(|root| root * root).collect()
            }
            (None, BetaSchedule::SquaredcosCapV2) => from_alpha_bar(n, cosine_alpha_bar),
            (None, BetaSchedule::Exp) => from_alpha_bar(n, |t| (-12.0 * t).exp()),
            (None, BetaSchedule::Laplace) => from_alpha_bar(n, laplace_alpha_bar),
            (None, BetaSchedule::Sigmoid) => {
                linspace(-6.0, 6.0, n).into_iter().map(|x| sigmoid(x) * (end - start) + start).collect()
            }
        };
        let betas = betas.into_iter().map(stored).collect();
        let betas = if config.rescale_betas_zero_snr { rescale_zero_terminal_snr(betas) } else { betas };
        if let Some(t) = betas.iter().position(|b| !(*b > 0.0 && *b <= 1.0)) {
            let name = if config.trained_betas.is_some() { "trained_betas" } else { "beta_start, beta_end" };
            return Err(Error::Config(format!(
                "scheduler: {name} give β = {} at timestep {t}; every β must lie in (0, 1]",
                betas[t]
            )));
        }
        let alphas_cumprod = alphas_cumprod(&betas);
        Ok(Self { betas, alphas_cumprod })
    }

    /// q(x_t | x_0), eq. 4.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model was not trained at this timestep.
    pub fn noising(&self, timestep: usize) -> Result<Noising> {
        let Some(alpha_prod_t) = self.alphas_cumprod.get(timestep) else {
            let last = self.alphas_cumprod.len() - 1;
            return Err(Error::Usage(format!(
                "timestep {timestep} is out of range: this model has timesteps 0 to {last}"
            )));
        };
        Ok(Noising { signal: alpha_prod_t.sqrt(), noise: (1.0 - alpha_prod_t).sqrt() })
    }
}

/// `n` values from `start` to `end`, with the roundings of `torch.linspace` in float32: counted from the nearer end.
pub fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let (start, end) = (stored(start), stored(end));
    let step = if n > 1 { stored(stored(end - start) / (n - 1) as f64) } else { 0.0 };
    let from_nearer_end = |i| if i < n / 2 { start + i as f64 * step } else { end - (n - 1 - i) as f64 * step };
    (0..n).map(from_nearer_end).map(stored).collect()
}

/// The logistic function, rounded as a float32 tensor of it.
fn sigmoid(x: f64) -> f64 {
    stored(1.0 / (1.0 + (-x).exp()))
}

/// ᾱ_t = ∏_{s ≤ t} (1 − β_s).
fn alphas_cumprod(betas: &[f64]) -> Vec<f64> {
    let product = |product: &mut f64, beta: &f64| {
        *product *= stored(1.0 - beta);
        Some(stored(*product))
    };
    betas.iter().scan(1.0, product).collect()
}

/// β_t = min(1 − ᾱ(t+1)/ᾱ(t), 0.999), with ᾱ a function of time in [0, 1].
fn from_alpha_bar(n: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f64> {
    let at = |i: usize| alpha_bar(i as f64 / n as f64);
    (0..n).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999)).collect()
}

/// Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17, s = 0.008.
fn cosine_alpha_bar(t: f64) -> f64 {
    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
}

/// Hang et al. 2024 (arXiv:2407.03297), the Laplace noise schedule; as in diffusers, ᾱ is the *root* of SNR/(1 + SNR).
fn laplace_alpha_bar(t: f64) -> f64 {
    let lambda = -0.5 * 1.0_f64.copysign(0.5 - t) * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
    let snr = lambda.exp();
    (snr / (1.0 + snr)).sqrt()
}

/// Lin et al. 2023 (arXiv:2305.08891), algorithm 1: shifts and scales √ᾱ so that its first value stays and its last is
/// 0.
fn rescale_zero_terminal_snr(betas: Vec<f64>) -> Vec<f64> {
    let root: Vec<f64> = alphas_cumprod(&betas).into_iter().map(|a| stored(a.sqrt())).collect();
    let (first, last) = (root[0], root[root.len() - 1]);
    let scale = stored(first / stored(first - last));
    let root = root.into_iter().map(|r| stored(stored(r - last) * scale));
    let alphas_bar: Vec<f64> = root.map(|r| stored(r * r)).collect();
    let previous = std::iter::once(1.0).chain(alphas_bar.iter().copied());
    alphas_bar.iter().zip(previous).map(|(now, before)| stored(1.0 - stored(now / before))).collect()
}
