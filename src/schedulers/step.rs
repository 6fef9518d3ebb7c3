//! One sampling step as plain data, and the whole run as a list of them.

use super::betas::Noising;
use super::combination::Combination;
use super::options::{Clip, PredictionType};
use super::probability_flow::ProbabilityFlow;
use super::runge_kutta::RungeKutta;
use crate::refusal::{Refusal, Remedy};
use crate::rng::Draw;
use crate::{Error, HostTensor, Result};

/// A whole sampling run, worked out before it starts. Nothing in it changes while sampling.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The initial noise is N(0, 1) times this.
    pub init_noise_sigma: f64,
    /// Added to every element of the initial noise.
    pub init_mean: f64,
    /// Further noise that is drawn before the first step, and its coefficient in the sample.
    pub start_draw: Draw,
    /// See `start_draw`.
    pub start_noise: f64,
    /// Number of tensors, shaped like the sample, that steps hand on to later steps. Before the first step they hold
    /// zeros.
    pub memory_slots: usize,
    /// One entry for each call of the model.
    pub steps: Vec<Step>,
    /// A run whose steps are chosen while it goes. Then `steps` are hundredths of its way, for who counts them, and
    /// what comes out is x_0 as the model sees it at the end.
    pub adaptive: Option<Adaptive>,
}

/// An ODE, and how exactly it is followed.
#[derive(Clone, Debug)]
pub struct Adaptive {
    /// The ODE.
    pub flow: ProbabilityFlow,
    /// The method.
    pub solver: RungeKutta,
}

impl Adaptive {
    /// The parts of the way that are counted.
    pub const PARTS: usize = 100;
}

/// What happens around one call of the model: 1. the model sees `input_scale`·sample and `timestep`, and returns
/// `model_output`; 2. `pred_original_sample`, x_0, is estimated from sample and `model_output`, and clipped; 3.
/// `prev_sample` and the memory's new values are linear combinations of sample, `model_output`, x_0, noise and the
/// memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What the model is told; not a whole number for some schedulers.
    pub timestep: f64,
    /// Whether this call still belongs to the step of the call before it: of second order, a step has two.
    pub continues: bool,
    /// The model's input is the sample times this (`scale_model_input`).
    pub input_scale: f64,
    /// `pred_original_sample` from sample and `model_output`.
    pub x0: X0,
    /// The sample for the next step.
    pub prev_sample: Combination,
    /// Each memory slot's value for the next step, from the values before this one.
    pub memory: Vec<Combination>,
    /// Which noise is drawn in this step (so that the random stream advances exactly as diffusers').
    pub draw: Draw,
    /// What the noise is multiplied with, element by element, before it enters `prev_sample`.
    pub noise_scale: NoiseScale,
    /// How a clean picture is noised to the level of the sample *before* this step (image-to-image, inpainting).
    pub add_noise: Noising,
    /// What RePaint does to `prev_sample`.
    pub repaint: Option<Repaint>,
}

/// What RePaint does after a step (Lugmayr et al. 2022, algorithm 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Repaint {
    /// Line 5: how the part of the picture that stays is noised, with the noise of the step.
    pub known: Noising,
    /// Line 10: β of each trained step that follows back to more noise, with fresh noise of its own: x ← √(1 − β)·x +
    /// √β·z. None where the run goes on.
    pub back: Vec<f64>,
}

/// x_0 = `clip`(`sample`·x_t + `model_output`·m).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct X0 {
    /// Coefficient of the sample.
    pub sample: f64,
    /// Coefficient of the model's output.
    pub model_output: f64,
    /// What is done to the sum.
    pub clip: Clip,
}

/// What a step's noise is multiplied with. For the learned ones the model returns twice the sample's channels; the
/// second half, v, says how much noise each element gets, and `model_output` is the first half alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoiseScale {
    /// 1: the coefficient says it all.
    One,
    /// 1 too; the model does return v, but this scheduler has no use for it.
    Ignored,
    /// The noise z becomes a step of Langevin dynamics along the model's output s, ε s + √(2ε) z with
    /// ε = 2 (r ‖z‖ / ‖s‖)², norms taken for each picture and averaged over the batch (Song et al. 2021,
    /// arXiv:2011.13456, algorithm 4).
    Langevin {
        /// r, the ratio of the two terms' norms.
        snr: f64,
    },
    /// √v.
    Learned,
    /// exp(½ (f·`max_log` + (1 − f)·`min_log`)) with f = (v + 1)/2 (Nichol & Dhariwal 2021, eq. 15).
    LearnedRange {
        /// log β̃_t.
        min_log: f64,
        /// log β_t.
        max_log: f64,
    },
}

impl X0 {
    /// The estimate for x_t = `alpha`·x_0 + `sigma`·ε.
    pub fn new(prediction_type: PredictionType, alpha: f64, sigma: f64, clip: Clip) -> Self {
        let (sample, model_output) = match prediction_type {
            PredictionType::Epsilon => (1.0 / alpha, -sigma / alpha),
            PredictionType::Sample => (0.0, 1.0),
            PredictionType::VPrediction => {
                // v is defined where α² + σ² = 1; x_t may be a multiple (`radius`) of that.
                let radius = alpha.hypot(sigma);
                (alpha / radius.powi(2), -sigma / radius)
            }
        };
        Self { sample, model_output, clip }
    }
}

/// The noise ε in x_t = `alpha`·x_0 + `sigma`·ε that the model's output implies (before any clipping of x_0), α² + σ² =
/// 1.
pub fn pred_epsilon(prediction_type: PredictionType, alpha: f64, sigma: f64) -> Combination {
    match prediction_type {
        PredictionType::Epsilon => Combination::model_output(),
        PredictionType::Sample => (Combination::sample() - alpha * Combination::model_output()) / sigma,
        PredictionType::VPrediction => alpha * Combination::model_output() + sigma * Combination::sample(),
    }
}

/// The steps that a user counts: what a prompt that changes at "step 5" or "after half of the steps" means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepNumbers {
    /// The step of each call of the model, from 1.
    pub of_calls: Vec<usize>,
    /// The last one.
    pub total: usize,
}

impl Schedule {
    /// No steps yet, no memory, and initial noise of this deviation.
    pub(super) fn new(init_noise_sigma: f64) -> Self {
        Self {
            init_noise_sigma,
            init_mean: 0.0,
            start_draw: Draw::None,
            start_noise: 0.0,
            memory_slots: 0,
            steps: vec![],
            adaptive: None,
        }
    }

    /// Whether the run draws noise besides what it begins with.
    pub fn draws_noise(&self) -> bool {
        self.start_draw != Draw::None || self.steps.iter().any(Step::draws_noise)
    }

    /// Whether this is a run of RePaint, which needs a picture and a mask.
    pub fn repaints(&self) -> bool {
        self.steps.iter().any(|step| step.repaint.is_some())
    }

    /// Whether this run goes back to more noise along the way.
    pub fn goes_back(&self) -> bool {
        self.steps.iter().any(|step| step.repaint.as_ref().is_some_and(|repaint| !repaint.back.is_empty()))
    }

    /// The steps of this schedule.
    pub(super) fn numbers(&self) -> StepNumbers {
        let mut total = 0;
        let mut number = |step: &Step| {
            total += usize::from(total == 0 || !step.continues);
            total
        };
        let of_calls = self.steps.iter().map(&mut number).collect();
        StepNumbers { of_calls, total }
    }

    /// The same schedule, once every number in it is known to be finite.
    ///
    /// # Errors
    /// [`Error::Config`] naming the step, if the config makes a step divide by zero; a refusal of steps at one noise
    /// level.
    pub(super) fn checked(self) -> Result<Self> {
        for step in &self.steps {
            let combinations = step.memory.iter().chain([&step.prev_sample]);
            let mut numbers: Vec<f64> = combinations.flat_map(|c| c.coefficients(self.memory_slots)).collect();
            numbers.extend([
                step.timestep,
                step.input_scale,
                step.x0.sample,
                step.x0.model_output,
                self.init_noise_sigma,
            ]);
            if numbers.iter().any(|n| !n.is_finite()) {
                if self.steps.windows(2).any(|pair| pair[0].add_noise == pair[1].add_noise) {
                    return Err(equal_levels(self.steps.len()).into());
                }
                return Err(Error::Config(format!(
                    "scheduler: the step at timestep {} divides by zero. Either x_t is pure noise there \
                    (rescale_betas_zero_snr, or betas that reach 1) and says nothing of x_0: this needs another \
                    \"prediction_type\" or \"timestep_spacing\"; or the step ends without noise, which its order \
                    cannot: this needs \"lower_order_final\": true",
                    step.timestep
                )));
            }
        }
        Ok(self)
    }
}

/// A refusal of so many steps that two of them fall on one noise level.
pub(super) fn equal_levels(steps: usize) -> Refusal {
    let why = "two of them fall on one noise level, and this scheduler divides by the distance between levels";
    Refusal::of_value("steps", steps, why).instead(Remedy::Lower(&["steps"])).instead(Remedy::Change("scheduler"))
}

impl Step {
    /// A step that goes nowhere, remembers nothing and draws no noise: what schedulers start from.
    pub(super) fn new(timestep: f64, x0: X0, add_noise: Noising) -> Self {
        Self {
            timestep,
            continues: false,
            input_scale: 1.0,
            x0,
            prev_sample: Combination::sample(),
            memory: vec![],
            draw: Draw::None,
            noise_scale: NoiseScale::One,
            add_noise,
            repaint: None,
        }
    }

    /// Whether the step needs noise.
    pub fn draws_noise(&self) -> bool {
        self.draw != Draw::None
    }

    /// The step on host tensors, for loops that keep the sample on the host (`examples/scheduler_loop.rs`), and the
    /// measure of the graph of a step, whose kernels [`crate::reference`] checks one by one. Takes the sample, the
    /// model's output, noise if the step draws any, and the memory, which it replaces. Returns `prev_sample` and
    /// `pred_original_sample`.
    ///
    /// Tensors are `[N, C, …]`, arithmetic is f64.
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes differ; [`Error::Usage`] if noise is needed and missing.
    pub fn apply(
        &self,
        sample: &HostTensor,
        model_output: &HostTensor,
        noise: Option<&HostTensor>,
        memory: &mut Vec<HostTensor>,
    ) -> Result<(HostTensor, HostTensor)> {
        let (model_output, variance) = self.split_model_output(sample, model_output)?;
        let zeros = HostTensor::zeros(sample.shape.as_slice());
        let noise = match (self.draws_noise(), noise) {
            (false, _) => zeros,
            (true, Some(noise)) => self.scaled_noise(noise, &model_output, variance.as_ref()),
            (true, None) => return Err(Error::Usage("this scheduler step needs noise".into())),
        };
        let x0 = self.x0.apply(sample, &model_output);
        let terms: Vec<&HostTensor> = [sample, &model_output, &x0, &noise].into_iter().chain(memory.iter()).collect();
        if let Some(term) = terms.iter().find(|term| term.shape != sample.shape) {
            return Err(Error::Shape(format!(
                "scheduler step: sample is {:?}, another term is {:?}",
                sample.shape, term.shape
            )));
        }
        let combine = |combination: &Combination| {
            let coefficients = combination.coefficients(terms.len() - 4);
            HostTensor::from_fn(sample.shape.as_slice(), |i| {
                let sum: f64 = coefficients.iter().zip(&terms).map(|(k, term)| k * f64::from(term.data[i])).sum();
                sum as f32
            })
        };
        let prev_sample = combine(&self.prev_sample);
        let new_memory = self.memory.iter().map(combine).collect();
        *memory = new_memory;
        Ok((prev_sample, x0))
    }

    /// The model's output for the mean and, if learned, for the variance: the two halves of each batch element's
    /// channels.
    fn split_model_output(&self, sample: &HostTensor, output: &HostTensor) -> Result<(HostTensor, Option<HostTensor>)> {
        if matches!(self.noise_scale, NoiseScale::One | NoiseScale::Langevin { .. }) {
            return Ok((output.clone(), None));
        }
        if output.len() != 2 * sample.len() {
            return Err(Error::Shape(format!(
                "a learned variance needs twice the sample's channels: sample {:?}, model output {:?}",
                sample.shape, output.shape
            )));
        }
        let element = sample.len() / sample.shape[0];
        let half = |second: usize| HostTensor {
            shape: sample.shape.clone(),
            data: output.data.chunks(element).skip(second).step_by(2).flatten().copied().collect(),
        };
        Ok((half(0), Some(half(1))))
    }

    fn scaled_noise(&self, noise: &HostTensor, output: &HostTensor, variance: Option<&HostTensor>) -> HostTensor {
        if let NoiseScale::Langevin { snr } = self.noise_scale {
            return langevin(noise, output, snr);
        }
        let Some(variance) = variance else { return noise.clone() };
        HostTensor::from_fn(noise.shape.as_slice(), |i| {
            (self.noise_scale.at(f64::from(variance.data[i])) * f64::from(noise.data[i])) as f32
        })
    }
}

impl NoiseScale {
    /// The factor for an element whose learned variance channel holds `v`.
    pub fn at(self, v: f64) -> f64 {
        match self {
            NoiseScale::One | NoiseScale::Ignored | NoiseScale::Langevin { .. } => 1.0,
            NoiseScale::Learned => v.sqrt(),
            NoiseScale::LearnedRange { min_log, max_log } => {
                let fraction = (v + 1.0) / 2.0;
                (0.5 * (fraction * max_log + (1.0 - fraction) * min_log)).exp()
            }
        }
    }
}

impl X0 {
    /// The estimate on host tensors of shape `[N, …]`.
    pub fn apply(&self, sample: &HostTensor, model_output: &HostTensor) -> HostTensor {
        let terms = sample.data.iter().zip(&model_output.data);
        let data =
            terms.map(|(x, m)| (self.sample * f64::from(*x) + self.model_output * f64::from(*m)) as f32).collect();
        let mut x0 = HostTensor { shape: sample.shape.clone(), data };
        match self.clip {
            Clip::None => {}
            Clip::Range(range) => x0.data.iter_mut().for_each(|x| *x = x.clamp(-range as f32, range as f32)),
            Clip::Dynamic { ratio, max } => {
                let element = (x0.len() / x0.shape[0].max(1)).max(1);
                for element in x0.data.chunks_mut(element) {
                    let s = quantile_of_abs(element, ratio).max(1.0).min(max);
                    element.iter_mut().for_each(|x| *x = (f64::from(*x).clamp(-s, s) / s) as f32);
                }
            }
        }
        x0
    }
}

/// [`NoiseScale::Langevin`] of `noise` along `score`, both `[N, …]`.
fn langevin(noise: &HostTensor, score: &HostTensor, snr: f64) -> HostTensor {
    let image = (noise.len() / noise.shape[0].max(1)).max(1);
    // The sum over the batch; its size cancels.
    let norm = |tensor: &HostTensor| -> f64 {
        let square = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        tensor.data.chunks(image).map(|values| square(values).sqrt()).sum()
    };
    let step_size = 2.0 * (snr * norm(noise) / norm(score)).powi(2);
    let terms = score.data.iter().zip(&noise.data);
    let data = terms.map(|(s, z)| (step_size * f64::from(*s) + (2.0 * step_size).sqrt() * f64::from(*z)) as f32);
    HostTensor { shape: noise.shape.clone(), data: data.collect() }
}

/// The `ratio`-quantile of |values|, linear between the two nearest, as in `torch.quantile`.
fn quantile_of_abs(values: &[f32], ratio: f64) -> f64 {
    let mut sorted: Vec<f32> = values.iter().map(|x| x.abs()).collect();
    sorted.sort_by(f32::total_cmp);
    let rank = ratio * (sorted.len() - 1) as f64;
    let below = f64::from(sorted[rank.floor() as usize]);
    let above = f64::from(sorted[rank.ceil() as usize]);
    below + (above - below) * rank.fract()
}
