//! The probability flow: the ODE whose x has the distribution of an SDE's at every time, dx/dt = f(x, t) −
//! ½ g(t)² ∇ log p_t(x) (Song et al. 2021, arXiv:2011.13456, eq. 13). Along it a picture becomes noise and noise a
//! picture, and the likelihood of the picture follows from that of the noise (section 4.3).

use super::betas::Noising;
use super::combination::Combination;
use super::config::SchedulerConfig;
use super::options::{BetaSchedule, Clip, Frame, PredictionType, SchedulerClass};
use super::runge_kutta::RungeKutta;
use super::score_sde::{range, score_step};
use super::step::{Adaptive, Schedule, Step, X0, pred_epsilon};
use super::timesteps::linspace;
use super::{Sampling, Scheduler};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// The time of a picture whose likelihood is measured, as the authors choose it: its noise is not quite 0.
const PICTURE: f64 = 1e-5;

/// The ODE of a model, from pictures at the time `end` to noise at the time 1.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbabilityFlow {
    process: Process,
    /// The time of pictures.
    pub end: f64,
    /// The distribution of the noise at the time 1: the mean and the deviation of each element.
    pub prior: (f64, f64),
    /// Whether pictures lie in [0, 1], and not in [−1, 1].
    pub from_zero: bool,
}

/// The SDE that made noise of the model's pictures.
#[derive(Clone, Debug, PartialEq)]
enum Process {
    /// σ(t) = low (high / low)^t; the model returns the score of x_0 + σ ε when it is told σ.
    Exploding { low: f64, high: f64 },
    /// dx = −½ β(t) x dt + √β(t) dw.
    Preserving {
        beta: Beta,
        /// The model is told the first times t and the second.
        told: (f64, f64),
        prediction_type: PredictionType,
    },
}

/// β(t) = (from + t (to − from))^power: linear, or of a linear root.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Beta {
    from: f64,
    to: f64,
    power: i32,
}

impl Beta {
    fn at(self, t: f64) -> f64 {
        (self.from + t * (self.to - self.from)).powi(self.power)
    }

    /// Σ of all β up to t.
    fn integral(self, t: f64) -> f64 {
        let (from, rise) = (self.from, self.to - self.from);
        match self.power {
            1 => from * t + 0.5 * rise * t * t,
            _ => from * from * t + from * rise * t * t + rise * rise * t.powi(3) / 3.0,
        }
    }
}

impl ProbabilityFlow {
    /// The ODE along which the likelihood of pictures is measured, of the model that a config belongs to.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models that are trained on neither scores nor timesteps, and for timesteps whose β
    /// has no continuous form here: neither `linear` nor `scaled_linear`, or a table; as the config's noise levels.
    pub fn of_likelihood(config: &SchedulerConfig) -> Result<Self> {
        match config.class.frame() {
            Frame::Score | Frame::VariancePreserving => Ok(Self { end: PICTURE, ..Self::of(config)? }),
            _ => Self::of(config),
        }
    }

    /// The ODE that ends where the config says.
    fn of(config: &SchedulerConfig) -> Result<Self> {
        let preserving = |beta, told, prediction_type, end| {
            let process = Process::Preserving { beta, told, prediction_type };
            Ok(Self { process, end, prior: (0.0, 1.0), from_zero: false })
        };
        let trained = config.num_train_timesteps as f64;
        match config.class.frame() {
            Frame::Score => {
                let (low, high) = range(config)?;
                if low == high {
                    let found = format!("\"sigma_min\" and \"sigma_max\" are both {low}");
                    return Err(Error::Config(format!("scheduler: {found}, which leaves no way between them")));
                }
                // As `KarrasVeScheduler` here: its levels are of pictures from −1 to 1, the model sees [0, 1].
                let halved = config.class == SchedulerClass::KarrasVe;
                let (low, high) = if halved { (low / 2.0, high / 2.0) } else { (low, high) };
                let prior = (if halved { 0.5 } else { 0.0 }, high);
                Ok(Self { process: Process::Exploding { low, high }, end: config.sampling_eps, prior, from_zero: true })
            }
            Frame::VariancePreserving => {
                let beta = Beta { from: config.beta_min, to: config.beta_max, power: 1 };
                preserving(beta, (999.0, 0.0), PredictionType::Epsilon, config.sampling_eps)
            }
            Frame::Timesteps => {
                let power = match config.beta_schedule {
                    _ if config.trained_betas.is_some() => return Err(no_continuous("\"trained_betas\"")),
                    _ if config.rescale_betas_zero_snr => return Err(no_continuous("\"rescale_betas_zero_snr\"")),
                    BetaSchedule::Linear => 1,
                    BetaSchedule::ScaledLinear => 2,
                    _ => return Err(no_continuous("this \"beta_schedule\"")),
                };
                // β(t) = T β_i, and t = (i + 1) / T is the time of timestep i.
                let [from, to] = [config.beta_start, config.beta_end].map(|beta| {
                    let beta = trained * beta;
                    if power == 2 { beta.sqrt() } else { beta }
                });
                preserving(Beta { from, to, power }, (trained, -1.0), config.prediction_type, 1.0 / trained)
            }
            _ => Err(Error::Unsupported(format!(
                "the probability flow of a model whose scheduler is {}: there are those of models of the score, and of \
                 models that count timesteps",
                config.class.name()
            ))),
        }
    }

    /// How much of the picture, and how much noise, there is at a time.
    pub fn noising(&self, t: f64) -> Noising {
        match &self.process {
            Process::Exploding { low, high } => Noising { signal: 1.0, noise: low * (high / low).powf(t) },
            Process::Preserving { beta, .. } => {
                let integral = beta.integral(t);
                Noising { signal: (-0.5 * integral).exp(), noise: (-(-integral).exp_m1()).sqrt() }
            }
        }
    }

    /// A call of the model at a time, as a step that keeps the sample and writes dx/dt to the first memory slot:
    /// a combination of sample and model output alone.
    pub fn at(&self, t: f64) -> Step {
        let Noising { signal, noise } = self.noising(t);
        let (step, slope) = match &self.process {
            Process::Exploding { low, high } => {
                // g² = dσ²/dt = 2 σ² log(high / low).
                (score_step(noise), -(noise * noise) * (high / low).ln() * Combination::model_output())
            }
            Process::Preserving { beta, told: (times, plus), prediction_type } => {
                let x0 = X0::new(*prediction_type, signal, noise, Clip::None);
                let epsilon = pred_epsilon(*prediction_type, signal, noise);
                let half = 0.5 * beta.at(t);
                let step = Step::new(times * t + plus, x0, Noising { signal, noise });
                (step, (half / noise) * epsilon - half * Combination::sample())
            }
        };
        Step { memory: vec![slope], ..step }
    }
}

fn no_continuous(what: &str) -> Error {
    Error::Unsupported(format!(
        "the probability flow of a model trained with {what}: β must be known between the timesteps too, as it is for \
         \"beta_schedule\" linear and scaled_linear"
    ))
}

/// A run along the ODE, by [`RungeKutta`].
pub(super) fn adaptive(scheduler: &Scheduler, sampling: &Sampling) -> Result<Schedule> {
    let config = &scheduler.config;
    sampling.refuse_custom(config.class, &["timesteps", "sigmas"])?;
    if sampling.strength < 1.0 || sampling.begin.is_some() {
        let why = format!("{} begins with noise alone", config.class.name());
        return Err(Refusal::of("strength", why).into());
    }
    let flow = ProbabilityFlow::of(config)?;
    if flow.end >= 1.0 {
        return Err(Error::Config("scheduler: \"sampling_eps\" is 1, where the run begins; expected less".into()));
    }
    let solver = RungeKutta { rtol: config.rtol, atol: config.atol };
    let steps = linspace(1.0, flow.end, Adaptive::PARTS + 1).into_iter().take(Adaptive::PARTS);
    let steps = steps.map(|t| flow.at(t)).collect();
    let (init_mean, init_noise_sigma) = flow.prior;
    let adaptive = Some(Adaptive { flow, solver });
    Ok(Schedule { init_mean, memory_slots: 1, steps, adaptive, ..Schedule::new(init_noise_sigma) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(config: &str) -> Result<ProbabilityFlow> {
        ProbabilityFlow::of_likelihood(&SchedulerConfig::from_json(config)?)
    }

    /// Of pictures that are N(m, s²) pixel by pixel, whose score is known, the flow keeps (x − signal·m) in proportion
    /// to the deviation, and the likelihood by the change of variables is that of the normal distribution.
    #[test]
    fn a_normal_distribution_flows_as_it_must_and_has_its_likelihood() {
        let (mean, deviation) = (0.3, 0.4);
        let vp = r#"{"_class_name": "ScoreSdeVpScheduler"}"#;
        let ve = r#"{"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 50}"#;
        let ddpm = |more: &str| format!(r#"{{"_class_name": "DDPMScheduler"{more}}}"#);
        for config in [
            vp.to_owned(),
            ve.to_owned(),
            r#"{"_class_name": "KarrasVeScheduler"}"#.to_owned(),
            ddpm(""),
            ddpm(r#", "prediction_type": "v_prediction""#),
            ddpm(r#", "prediction_type": "sample""#),
            ddpm(r#", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012"#),
        ] {
            let flow = flow(&config).expect("it has one");
            let variance = |t: f64| {
                let Noising { signal, noise } = flow.noising(t);
                (signal * deviation).powi(2) + noise * noise
            };
            let mut derivative = |t: f64, y: &[f64]| {
                let (step, Noising { signal, noise }) = (flow.at(t), flow.noising(t));
                // What a perfect model returns is linear in x: a + b x.
                let score = [signal * mean / variance(t), -1.0 / variance(t)];
                let output = match &flow.process {
                    Process::Exploding { .. } => score,
                    Process::Preserving { prediction_type, .. } => {
                        let epsilon = score.map(|s| -noise * s);
                        let x0 = [-noise * epsilon[0] / signal, (1.0 - noise * epsilon[1]) / signal];
                        match prediction_type {
                            PredictionType::Epsilon => epsilon,
                            PredictionType::Sample => x0,
                            PredictionType::VPrediction => [0, 1].map(|i| signal * epsilon[i] - noise * x0[i]),
                        }
                    }
                };
                let (of_x, of_output) = (step.memory[0].sample, step.memory[0].model_output);
                let slope = |x: f64| of_x * x + of_output * (output[0] + output[1] * x);
                Ok(vec![slope(y[0]), of_x + of_output * output[1]])
            };
            let solver = RungeKutta { rtol: 1e-8, atol: 1e-8 };
            for x in [-0.5, 0.1, 0.9] {
                let y = vec![x, 0.0];
                let found = solver.solve((flow.end, 1.0), y, &mut derivative, &mut |_| Ok(())).expect("smooth").y;
                let [from, to] = [flow.end, 1.0].map(|t| (flow.noising(t).signal * mean, variance(t).sqrt()));
                let expected = to.0 + (x - from.0) * to.1 / from.1;
                assert!(
                    (found[0] - expected).abs() < 1e-5 * expected.abs().max(1.0),
                    "{config}: {found:?}, {expected}"
                );
                let log = |x: f64, (mean, deviation): (f64, f64)| {
                    -0.5 * ((x - mean) / deviation).powi(2) - deviation.ln() - 0.5 * std::f64::consts::TAU.ln()
                };
                // The true distribution of the noise, of which the prior is the limit.
                let likelihood = log(found[0], to) + found[1];
                assert!((likelihood - log(x, from)).abs() < 1e-5, "{config}: {likelihood}, {}", log(x, from));
                let prior = log(found[0], flow.prior) + found[1];
                // A beta of Stable Diffusion leaves 7 % of the picture at the end.
                assert!((prior - log(x, from)).abs() < 0.06, "{config}: {prior}, {}", log(x, from));
            }
        }
    }

    /// At the time (i + 1) / T it is the noise of timestep i of the table, and the model is told i.
    #[test]
    fn continuous_levels_meet_those_of_the_table() {
        for beta in ["linear", "scaled_linear"] {
            let config = format!(r#"{{"_class_name": "DDPMScheduler", "beta_schedule": "{beta}"}}"#);
            let config = SchedulerConfig::from_json(&config).expect("sound");
            let flow = ProbabilityFlow::of_likelihood(&config).expect("it has one");
            let table = Scheduler::new(config).expect("sound").noise_schedule;
            for i in [0, 10, 100, 500, 900, 999] {
                let t = (i + 1) as f64 / 1000.0;
                let (ours, theirs) = (flow.noising(t), table.noising(i).expect("there is one"));
                assert!((flow.at(t).timestep - i as f64).abs() < 1e-9);
                // A sum of β_i is not quite the integral up to there: by half of a timestep.
                assert!((ours.noise - theirs.noise).abs() < 2e-3, "{beta} {i}: {ours:?} {theirs:?}");
                assert!((ours.signal / theirs.signal).ln().abs() < 0.05, "{beta} {i}: {ours:?} {theirs:?}");
            }
        }
    }

    #[test]
    fn what_has_no_such_flow_is_refused_by_name() {
        for (config, part) in [
            (r#"{"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}"#, "beta_schedule"),
            (r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true}"#, "rescale_betas_zero_snr"),
            (
                r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 2, "trained_betas": [0.1, 0.2]}"#,
                "trained_betas",
            ),
            (r#"{"_class_name": "EDMEulerScheduler"}"#, "EDMEulerScheduler"),
            (r#"{"_class_name": "ScoreSdeVeScheduler", "sigma_min": 1, "sigma_max": 1}"#, "sigma_min"),
        ] {
            let message = flow(config).expect_err(config).to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
