//! What a model was trained to minimise, by timestep, and the bound on the likelihood of pictures that follows from it.
//!
//! Ho et al. 2020 (arXiv:2006.11239): a model that is good at its own regression (eq. 14, L_simple) makes the bound
//! L = L_T + Σ L_{t−1} + L_0 (eq. 5) small, which weighs the same errors differently (eq. 12). Of a run that visits
//! only some timesteps, "t − 1" is the one visited before t, and α_t, β_t are those of the whole stride, as in
//! `ddpm.rs`: such a run is a model too, with a bound of its own. All tables are diffusers', in f32; all sums are f64.

use super::options::{Frame, PredictionType, VarianceType};
use super::step::X0;
use super::{Noising, Scheduler};
use crate::reference::log_level_probability;
use crate::tensor::HostTensor;
use crate::{Error, Result};

/// Factors on the mean squared error of the model's own prediction (of ε, v or x_0, as its config says).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossWeights {
    /// To the mean squared error of ε: L_simple (Ho et al. 2020, eq. 14).
    pub simple: f64,
    /// To L_{t−1}, in nats per element (eq. 12), with σ_t² = β_t for `fixed_large` and β̃_t else, and x̂_0 unclipped.
    /// At the first timestep, of which eq. 12 says nothing, with the deviation that L_0 is computed with.
    pub vlb: f64,
    /// To min-SNR-γ: min(SNR, γ) times the mean squared error of x_0 (Hang et al. 2023, arXiv:2303.09556, section 3.4).
    pub min_snr: f64,
}

/// One of the visited timesteps.
#[derive(Clone, Debug)]
pub struct ObjectiveLevel {
    /// What the model is told.
    pub timestep: usize,
    /// x_t = `signal`·x_0 + `noise`·ε.
    pub noising: Noising,
    /// ᾱ_t / (1 − ᾱ_t).
    pub snr: f64,
    /// Factors on the error at this timestep.
    pub weights: LossWeights,
    /// Of x_0 in the mean of q(x_{t−1} | x_t, x_0), eq. 7.
    posterior: f64,
    /// log β̃_t and log β_t, the bounds of the variance of p(x_{t−1} | x_t).
    log_variance: [f64; 2],
    /// x_0 by the model's output.
    x0: X0,
}

/// The training objective of a model at some of its timesteps.
#[derive(Clone, Debug)]
pub struct Objective {
    /// What the model returns, and so what its error is of.
    pub prediction_type: PredictionType,
    /// The variance of p(x_{t−1} | x_t).
    pub variance_type: VarianceType,
    /// The timesteps, ascending.
    pub levels: Vec<ObjectiveLevel>,
    /// ᾱ_T.
    last: f64,
}

impl ObjectiveLevel {
    /// What the bound at this level depends on: x_0 as the model sees it is `[0]` · x_t + `[1]` · prediction, and the
    /// mean of p(x_{t−1} | x_t) is off by `[2]` times its error; log β̃_t and log β_t.
    pub(crate) fn bound_parts(&self) -> ([f64; 3], [f64; 2]) {
        ([self.x0.sample, self.x0.model_output, self.posterior], self.log_variance)
    }
}

impl Objective {
    /// The objective that a scheduler's config describes, at `timesteps` (ascending, two or more), with γ of min-SNR-γ.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models without numbered timesteps; [`Error::Usage`] for timesteps that are not
    /// ascending or that the model does not have; [`Error::Config`] if the model predicts the noise of a timestep at
    /// which nothing of the picture is left, from which no picture follows.
    pub fn new(scheduler: &Scheduler, timesteps: &[usize], snr_gamma: f64) -> Result<Self> {
        let Scheduler { config, noise_schedule } = scheduler;
        if config.class.frame() != Frame::Timesteps {
            let why =
                format!("the model's scheduler, {}, has noise levels but no numbered timesteps", config.class.name());
            return Err(Error::Unsupported(why));
        }
        if timesteps.len() < 2 || timesteps.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::Usage(format!("expected two or more ascending timesteps, found {timesteps:?}")));
        }
        let noisings = timesteps.iter().map(|t| noise_schedule.noising(*t)).collect::<Result<Vec<_>>>()?;
        let alphas: Vec<f64> = timesteps.iter().map(|t| noise_schedule.alphas_cumprod[*t]).collect();
        if let Some(i) =
            alphas.iter().position(|a| *a == 0.0).filter(|_| config.prediction_type == PredictionType::Epsilon)
        {
            return Err(Error::Config(format!(
                "scheduler: at timestep {} nothing of the picture is left (rescale_betas_zero_snr), so that no picture \
                 follows from the noise; prediction_type must be v_prediction or sample, found epsilon",
                timesteps[i]
            )));
        }
        // β_t and β̃_t of the stride from s to t.
        let variances = |i: usize| {
            let (alpha, before) = (alphas[i], if i == 0 { 1.0 } else { alphas[i - 1] });
            let beta = 1.0 - alpha / before;
            (beta, (1.0 - before) / (1.0 - alpha) * beta)
        };
        let level = |i: usize| {
            let (alpha, before) = (alphas[i], if i == 0 { 1.0 } else { alphas[i - 1] });
            let (beta, small) = variances(i);
            // β̃ is 0 at the first timestep, where the picture is certain. The authors' code takes the next one's
            // there, and so for `fixed_large`.
            let next = variances(1).1;
            let large = match config.variance_type {
                VarianceType::FixedLarge | VarianceType::FixedLargeLog if i == 0 => next,
                _ => beta,
            };
            let small = if i == 0 { next } else { small };
            let (posterior, snr) = (before.sqrt() * beta / (1.0 - alpha), alpha / (1.0 - alpha));
            // What an error of the prediction becomes as one of ε, and of x_0.
            let (to_epsilon, to_x0) = match config.prediction_type {
                PredictionType::Epsilon => (1.0, (1.0 - alpha) / alpha),
                PredictionType::VPrediction => (alpha, 1.0 - alpha),
                PredictionType::Sample => (snr, 1.0),
            };
            let variance = match config.variance_type {
                VarianceType::FixedLarge | VarianceType::FixedLargeLog => large,
                _ => small,
            };
            let Noising { signal, noise } = noisings[i];
            ObjectiveLevel {
                timestep: timesteps[i],
                noising: noisings[i],
                snr,
                weights: LossWeights {
                    simple: to_epsilon,
                    vlb: to_x0 * posterior * posterior / (2.0 * variance),
                    min_snr: to_x0 * snr.min(snr_gamma),
                },
                posterior,
                log_variance: [small.ln(), large.ln()],
                x0: X0::new(config.prediction_type, signal, noise, config.clip),
            }
        };
        Ok(Self {
            prediction_type: config.prediction_type,
            variance_type: config.variance_type,
            levels: (0..timesteps.len()).map(level).collect(),
            last: alphas[alphas.len() - 1],
        })
    }

    /// Whether p(x_{t−1} | x_t) has a variance that the model returns, in as many channels again.
    pub fn learns_variance(&self) -> bool {
        matches!(self.variance_type, VarianceType::Learned | VarianceType::LearnedRange)
    }

    /// The mean squared error of the model's prediction at a level. Tensors are `[1, C, ..]`.
    pub fn mse(&self, level: usize, x0: &HostTensor, noise: &HostTensor, prediction: &HostTensor) -> f64 {
        let noising = self.levels[level].noising;
        let target = |x0: f64, noise: f64| match self.prediction_type {
            PredictionType::Epsilon => noise,
            PredictionType::VPrediction => noising.signal * noise - noising.noise * x0,
            PredictionType::Sample => x0,
        };
        let each = x0.data.iter().zip(&noise.data).zip(&prediction.data);
        mean(each.map(|((x0, noise), found)| (target((*x0).into(), (*noise).into()) - f64::from(*found)).powi(2)))
    }

    /// L_{t−1} of the bound at a level, or L_0 at the first, in nats per element: for x_t = `noisy`, of which the model
    /// returned `prediction`, and `variance` if it learns that. Tensors are `[1, C, ..]`, pictures in [−1, 1].
    ///
    /// L_{t−1} is D_KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) (eq. 5) with x̂_0 clipped as when sampling. L_0 is
    /// −log p(x_0 | x_1) of pictures with 256 levels (eq. 13), without the floor under probabilities that the authors'
    /// code has.
    pub fn bound(
        &self,
        level: usize,
        x0: &HostTensor,
        noisy: &HostTensor,
        prediction: &HostTensor,
        variance: Option<&HostTensor>,
    ) -> f64 {
        let at = &self.levels[level];
        let [small, large] = at.log_variance;
        let estimate = at.x0.apply(noisy, prediction);
        let log_variance = |i: usize| match (self.variance_type, variance) {
            (VarianceType::Learned, Some(v)) => f64::from(v.data[i]).ln(),
            (VarianceType::LearnedRange, Some(v)) => {
                let share = (f64::from(v.data[i]) + 1.0) / 2.0;
                share * large + (1.0 - share) * small
            }
            (VarianceType::FixedLarge | VarianceType::FixedLargeLog, _) => large,
            _ => small,
        };
        let each = x0.data.iter().zip(&estimate.data).enumerate();
        mean(each.map(|(i, (x0, estimate))| {
            let (x0, estimate, log_variance) = (f64::from(*x0), f64::from(*estimate), log_variance(i));
            if level == 0 {
                return -log_level_probability(x0, estimate, (0.5 * log_variance).exp());
            }
            let distance = (at.posterior * (x0 - estimate)).powi(2);
            0.5 * (log_variance - small + (small - log_variance).exp() - 1.0 + distance * (-log_variance).exp())
        }))
    }

    /// L_T of the bound, D_KL(q(x_T | x_0) ‖ N(0, I)), in nats per element: what the noisiest level still tells of the
    /// picture.
    pub fn prior(&self, x0: &HostTensor) -> f64 {
        let (alpha, variance) = (self.last, 1.0 - self.last);
        mean(x0.data.iter().map(|x| 0.5 * (variance + alpha * f64::from(*x).powi(2) - 1.0 - variance.ln())))
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedulers::SchedulerConfig;

    fn objective(config: &str, timesteps: &[usize]) -> Result<Objective> {
        Objective::new(&Scheduler::new(SchedulerConfig::from_json(config)?)?, timesteps, 5.0)
    }

    /// A prediction that is wrong by the same error is weighted alike, whatever the prediction is of: x_0, and so ε and
    /// v, follow from each other.
    #[test]
    fn weighted_losses_do_not_depend_on_what_is_predicted() {
        let of = |prediction: &str, error: f64| {
            let config = format!(
                r#"{{"_class_name": "DDPMScheduler", "clip_sample": false, "prediction_type": "{prediction}"}}"#
            );
            let all = objective(&config, &[0, 7, 400, 999]).unwrap();
            all.levels
                .iter()
                .map(|level| {
                    let Noising { signal, noise } = level.noising;
                    let own = match all.prediction_type {
                        PredictionType::Sample => error,
                        PredictionType::Epsilon => error * signal / noise,
                        PredictionType::VPrediction => error / noise,
                    };
                    let LossWeights { simple, vlb, min_snr } = level.weights;
                    [simple, vlb, min_snr].map(|weight| weight * own * own)
                })
                .collect::<Vec<_>>()
        };
        let sample = of("sample", 0.3);
        for other in [of("epsilon", 0.3), of("v_prediction", 0.3)] {
            for (a, b) in sample.iter().flatten().zip(other.iter().flatten()) {
                assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
            }
        }
        assert!((sample[3][2] / (0.09 * 4.0358e-5) - 1.0).abs() < 1e-3, "below γ it is the SNR: {:?}", sample[3]);
        assert!((sample[0][2] / (0.09 * 5.0) - 1.0).abs() < 1e-9, "above it is γ: {:?}", sample[0]);
    }

    /// Eq. 12 is L_{t−1} where nothing is clipped, and it is β_t² / (2 σ_t² α_t (1 − ᾱ_t)) for ε.
    #[test]
    fn the_weight_of_the_bound_is_that_of_equation_12() {
        for (variance, large) in [("fixed_small", false), ("fixed_large", true)] {
            let config =
                format!(r#"{{"_class_name": "DDPMScheduler", "clip_sample": false, "variance_type": "{variance}"}}"#);
            let all = objective(&config, &(0..1000).collect::<Vec<_>>()).unwrap();
            let schedule = Scheduler::new(SchedulerConfig::from_json(&config).unwrap()).unwrap().noise_schedule;
            let x0 = HostTensor::from_fn([1, 1, 3, 5], |i| (i as f32 * 0.7).sin());
            let noise = HostTensor::from_fn([1, 1, 3, 5], |i| (i as f32 * 1.3).cos());
            let prediction = HostTensor::from_fn([1, 1, 3, 5], |i| (i as f32 * 1.3).cos() * 0.8 + 0.1);
            for t in [1, 30, 500, 999] {
                let (a, before) = (schedule.alphas_cumprod[t], schedule.alphas_cumprod[t - 1]);
                let (alpha, beta) = (a / before, 1.0 - a / before);
                let variance = if large { beta } else { beta * (1.0 - before) / (1.0 - a) };
                let expected = beta * beta / (2.0 * variance * alpha * (1.0 - a));
                let level = &all.levels[t];
                assert!((level.weights.vlb / expected - 1.0).abs() < 1e-9, "{t}: {} {expected}", level.weights.vlb);
                let Noising { signal, noise: b } = level.noising;
                let noisy = HostTensor::from_fn([1, 1, 3, 5], |i| {
                    (signal * f64::from(x0.data[i]) + b * f64::from(noise.data[i])) as f32
                });
                let bound = all.bound(t, &x0, &noisy, &prediction, None);
                // Of two variances that differ, D_KL has a part that no prediction changes.
                let ratio = if large { (1.0 - before) / (1.0 - a) } else { 1.0 };
                let weighted =
                    level.weights.vlb * all.mse(t, &x0, &noise, &prediction) + 0.5 * (ratio - 1.0 - ratio.ln());
                assert!((bound / weighted - 1.0).abs() < 2e-3, "{t}: {bound} {weighted}");
            }
        }
    }

    /// Nichol & Dhariwal 2021, eq. 15: a learned variance between β̃_t and β_t is either of them at its ends.
    #[test]
    fn learned_variances_end_in_the_fixed_ones() {
        let of = |variance: &str| {
            let config = format!(r#"{{"_class_name": "DDPMScheduler", "variance_type": "{variance}"}}"#);
            objective(&config, &[0, 40, 500, 999]).unwrap()
        };
        let [x0, noisy, prediction] =
            [0.3, 0.7, 1.1].map(|k| HostTensor::from_fn([1, 2, 3, 5], |i| (i as f32 * k).sin()));
        let bound = |objective: &Objective, level: usize, variance: Option<f64>| {
            let variance = variance.map(|v| HostTensor::from_fn([1, 2, 3, 5], |_| v as f32));
            objective.bound(level, &x0, &noisy, &prediction, variance.as_ref())
        };
        let [small, large, learned, range] = ["fixed_small", "fixed_large", "learned", "learned_range"].map(of);
        assert!(learned.learns_variance() && range.learns_variance() && !small.learns_variance());
        for level in 1..4 {
            let (least, most) = (bound(&small, level, None), bound(&large, level, None));
            assert!((least / most - 1.0).abs() > 1e-4, "{level}: {least} {most}");
            assert!((bound(&range, level, Some(-1.0)) / least - 1.0).abs() < 1e-9, "{level}");
            assert!((bound(&range, level, Some(1.0)) / most - 1.0).abs() < 1e-9, "{level}");
            let variance = learned.levels[level].log_variance[0].exp();
            assert!((bound(&learned, level, Some(variance)) / least - 1.0).abs() < 1e-5, "{level}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |config: &str, timesteps: &[usize], part: &str| {
            let message = objective(config, timesteps).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        let ddpm = r#"{"_class_name": "DDPMScheduler"}"#;
        refused(ddpm, &[5], "two or more");
        refused(ddpm, &[5, 5], "ascending");
        refused(ddpm, &[5, 1000], "timestep 1000");
        refused(r#"{"_class_name": "EDMEulerScheduler"}"#, &[0, 1], "EDMEulerScheduler");
        let zero = r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true}"#;
        refused(zero, &[0, 999], "timestep 999");
        assert!(objective(zero, &[0, 998]).is_ok());
    }
}
