//! The denoise loop that all pipelines share: one graph does a whole step, and its state stays on the device from the
//! first step to the last.

use super::Cancel;
use super::activations::{Activation, Activations};
use super::attention::CrossAttention;
use super::classifier::{ClassifierGuidance, Moved, moved_mean, moved_noise, scaled_gradient};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::models::Layers;
use crate::ops::scale_noise::LearnedVariance;
use crate::overflow::MAGNITUDE;
use crate::rng::{NoiseSource, StepNoise};
use crate::schedulers::{Clip, NoiseScale, Repaint, Schedule, Step};
use crate::session::Session;
use crate::tensor::{DType, HostTensor};
use crate::trace;

/// Everything that shapes the graph of one denoise step.
#[derive(Clone, Debug)]
pub struct DenoiseSpec<'a> {
    /// The run.
    pub schedule: &'a Schedule,
    /// Shape of the sample, channels last, `[N, .., C]`: a picture's `[N, H, W, C]`, a sound's `[N, L, C]`, a film's
    /// `[N, F, H, W, C]`.
    pub shape: Vec<usize>,
    /// How often the model sees every sample, under different conditions: 1 without guidance, 2 for classifier-free
    /// guidance (Ho and Salimans 2022; the unconditional half first).
    pub branches: usize,
    /// Guidance rescale (Lin et al. 2023): its factor, and the branch whose deviation is restored.
    pub rescale: Option<(f64, usize)>,
    /// Whether parts of the sample are put back after every step ([`crate::ops::masked_latents`]), as a run of RePaint
    /// must.
    pub masked: bool,
    /// Whether self-attention of the model's up blocks takes its queries and keys from the samples that the input
    /// `self_attention_rows` names ([`crate::graph::gather_rows`]).
    pub lends_self_attention: bool,
    /// Classifier guidance.
    pub classifier: Option<ClassifierGuidance<'a>>,
}

/// u32 `[model_batch]`: for each sample that the model sees, the one whose queries and keys it has in self-attention.
pub const SELF_ATTENTION_ROWS: &str = "self_attention_rows";

impl DenoiseSpec<'_> {
    /// Pictures made at once.
    pub fn batch(&self) -> usize {
        self.shape[0]
    }

    /// Channels of the sample.
    pub fn channels(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Pictures the model sees in one call.
    pub fn model_batch(&self) -> usize {
        self.batch() * self.branches
    }
}

/// What a model gets in one step.
#[derive(Clone, Copy, Debug)]
pub struct ModelCall {
    /// `[model_batch, .., C]`, scaled as the scheduler asks.
    pub sample: ValueId,
    /// `[model_batch]` f32.
    pub timestep: ValueId,
    /// The factor that the sample was scaled with is the first of these numbers; without them it is 1.
    pub coefficients: Option<ValueId>,
}

/// The graph of one step. `model` adds the model to it and returns its output `[model_batch, .., C or 2C]`.
///
/// Inputs: `state` `[1 + slots, N, .., C]` (row 0 the sample, the others the scheduler's memory), `timestep`,
/// `coefficients` ([`coefficients`]), `noise` if any step draws some, `guidance_weights` `[B, N]` if there are several
/// branches ([`guidance_weights`]), `original`, `original_noise` `[N, .., C]`, `mask` `[1, .., 1]` and `original_level`
/// `[2]` if masked, and what `model` adds. RePaint takes `noise` in place of `original_noise`, and where it goes back
/// to more noise, `back_noise` like `noise` and `back_level` `[N, 2]`. A classifier takes `classifier_labels` `[N,
/// classes]`, with 1 at each picture's class, and `classifier_factor` `[1]`, [`Moved`]'s. Outputs: `state`, carried to
/// the next step, and `pred_original_sample` `[N, .., C]`.
///
/// # Errors
/// What `model` returns; [`Error::Shape`] if its output does not fit, or if the sample has fewer than two dimensions.
pub fn step_graph(
    spec: &DenoiseSpec<'_>,
    dtype: DType,
    model: impl FnOnce(&mut Layers<'_>, ModelCall) -> Result<ValueId>,
) -> Result<Graph> {
    let shape = &spec.shape;
    if shape.len() < 2 {
        return Err(Error::Shape(format!("a sample must be [N, .., C], found {shape:?}")));
    }
    let slots = spec.schedule.memory_slots;
    let mut graph = Graph::new();
    let g = &mut graph;
    let state = g.input("state", TensorDesc::f32([&[1 + slots], &shape[..]].concat()));
    let timestep = g.input("timestep", TensorDesc::f32([spec.model_batch()]));
    let coefficients = g.input("coefficients", TensorDesc::f32([coefficient_count(slots)]));
    let draws_noise = spec.schedule.steps.iter().any(Step::draws_noise);
    let noise = draws_noise.then(|| g.input("noise", TensorDesc::f32(shape.clone())));

    // 1. the model's prediction, with and without the condition if guided
    let sample = g.model_input("model_input", state, coefficients, spec.branches)?;
    let mut model_output =
        model(&mut Layers::new(g, dtype), ModelCall { sample, timestep, coefficients: Some(coefficients) })?;
    if spec.branches > 1 {
        let weights = g.condition("guidance_weights", TensorDesc::f32([spec.branches, spec.batch()]));
        let guided = g.guidance("guidance", model_output, weights)?;
        model_output = match spec.rescale {
            Some((factor, branch)) => g.guidance_rescale("guidance_rescale", guided, model_output, factor, branch)?,
            None => guided,
        };
    }
    check_model_output(g.shape(model_output), spec)?;
    let gradient = match &spec.classifier {
        Some(guidance) => {
            // Once for each sample, whatever guides it besides.
            let mut seen = (sample, timestep);
            if spec.branches > 1 {
                let sample = g.model_input("classifier_input", state, coefficients, 1)?;
                seen = (sample, g.slice("classifier_timestep", timestep, 0, 0, spec.batch())?);
            }
            Some((guidance.moved, scaled_gradient(g, guidance.model, seen.0, seen.1)?))
        }
        None => None,
    };
    if let Some((Moved::Noise, gradient)) = gradient {
        model_output = moved_noise(g, model_output, gradient)?;
    }

    // 2. the estimate of the clean picture
    let mut x0 = g.pred_original_sample("pred_original_sample", state, model_output, coefficients)?;
    if let Some(Clip::Dynamic { ratio, max }) = spec.schedule.steps.first().map(|s| s.x0.clip) {
        x0 = g.dynamic_threshold("dynamic_threshold", x0, ratio, max)?;
    }

    // 3. the sample before the step, from the estimate, the prediction and fresh noise
    let noise = match (noise, learned_variance(spec.schedule)) {
        (Some(noise), Some(kind)) => Some(g.scale_noise("scale_noise", noise, model_output, coefficients, kind)?),
        (Some(noise), None) if corrects(spec.schedule) => {
            Some(g.langevin_noise("langevin_noise", noise, model_output, coefficients)?)
        }
        (noise, _) => noise,
    };
    let mut next = g.scheduler_step("scheduler_step", state, model_output, x0, noise, coefficients)?;
    if let Some((Moved::Mean, gradient)) = gradient {
        let learned = learned_variance(spec.schedule).map(|kind| (kind, model_output, coefficients));
        next = moved_mean(g, spec, next, gradient, learned)?;
    }

    // 4. for inpainting, what stays as it was
    if spec.masked {
        let mask = [&[1], &shape[1..shape.len() - 1], &[1]].concat();
        let original = g.condition("original", TensorDesc::f32(shape.clone()));
        let original_noise = match noise {
            Some(noise) if spec.schedule.repaints() => noise,
            _ => g.condition("original_noise", TensorDesc::f32(shape.clone())),
        };
        let mask = g.condition("mask", TensorDesc::f32(mask));
        let level = g.input("original_level", TensorDesc::f32([2]));
        next = g.masked_latents("masked_latents", next, original, original_noise, mask, level)?;
    }
    if spec.schedule.goes_back() {
        let batch = shape[0];
        let noise = g.input("back_noise", TensorDesc::f32(shape.clone()));
        let level = g.input("back_level", TensorDesc::f32([batch, 2]));
        let sample = g.reshape("sample_of_state", next, shape.clone())?;
        let noised = g.add_noise("back_to_noise", sample, noise, level)?;
        next = g.reshape("state_of_sample", noised, [&[1], &shape[..]].concat())?;
    }
    g.output("state", next);
    g.output("pred_original_sample", x0);
    let magnitude = g.max_abs("state_magnitude", next)?;
    g.output(MAGNITUDE, magnitude);
    g.carry("state", "state")?;
    Ok(graph)
}

/// The weights of classifier-free guidance's two branches for each of N pictures: 1 − s of the unconditional, s of the
/// conditional prediction.
pub fn guidance_weights(scales: &[f64]) -> HostTensor {
    let data = scales.iter().map(|s| (1.0 - s) as f32).chain(scales.iter().map(|s| *s as f32)).collect();
    HostTensor { shape: vec![2, scales.len()], data }
}

fn learned_variance(schedule: &Schedule) -> Option<LearnedVariance> {
    schedule.steps.iter().find_map(|s| match s.noise_scale {
        NoiseScale::One | NoiseScale::Ignored | NoiseScale::Langevin { .. } => None,
        NoiseScale::Learned => Some(LearnedVariance::Direct),
        NoiseScale::LearnedRange { .. } => Some(LearnedVariance::Range),
    })
}

/// Whether any step is one of Langevin dynamics.
fn corrects(schedule: &Schedule) -> bool {
    schedule.steps.iter().any(|step| matches!(step.noise_scale, NoiseScale::Langevin { .. }))
}

fn check_model_output(shape: &[usize], spec: &DenoiseSpec<'_>) -> Result<()> {
    let learned = learned_variance(spec.schedule).is_some();
    let channels = if learned { 2 * spec.channels() } else { spec.channels() };
    if shape.last() == Some(&channels) || (!learned && shape.last() == Some(&(2 * spec.channels()))) {
        return Ok(());
    }
    let why = if learned {
        " (the scheduler's variance_type is learned: the model must return a mean and a variance for each channel)"
    } else {
        ""
    };
    Err(Error::Config(format!(
        "the model returns {:?} channels for samples of {}, expected {channels}{why}",
        shape.last(),
        spec.channels()
    )))
}

/// Numbers in the `coefficients` input of a schedule with `slots` memory slots.
fn coefficient_count(slots: usize) -> usize {
    6 + (1 + slots) * (4 + slots)
}

/// One step's numbers in the order in which the kernels take them: input scale; x_0's coefficients of sample and model
/// output, its clip; the bounds of a learned log variance, or a corrector's ratio and 0; then one row of coefficients
/// for the new sample and each memory slot.
pub fn coefficients(step: &Step, slots: usize) -> HostTensor {
    let clip = match step.x0.clip {
        Clip::Range(range) => range,
        Clip::None | Clip::Dynamic { .. } => f64::from(f32::MAX),
    };
    let (min_log, max_log) = match step.noise_scale {
        NoiseScale::LearnedRange { min_log, max_log } => (min_log, max_log),
        NoiseScale::Langevin { snr } => (snr, 0.0),
        NoiseScale::One | NoiseScale::Learned | NoiseScale::Ignored => (0.0, 0.0),
    };
    let mut numbers = vec![step.input_scale, step.x0.sample, step.x0.model_output, clip, min_log, max_log];
    numbers.extend(step.prev_sample.coefficients(slots));
    step.memory.iter().for_each(|row| numbers.extend(row.coefficients(slots)));
    HostTensor { shape: vec![coefficient_count(slots)], data: numbers.into_iter().map(|v| v as f32).collect() }
}

/// Inputs of a step's graph whose values change during a run, as those of a prompt that does.
#[derive(Clone, Debug, Default)]
pub struct Changing {
    /// Every different set of them, by name.
    pub values: Vec<Vec<(&'static str, HostTensor)>>,
    /// The set that each call of the model sees, by its place in `values`; none if no inputs change.
    pub of_calls: Vec<usize>,
}

impl Changing {
    /// What a call of the model sees that the one before it did not.
    pub(super) fn at(&self, call: usize) -> &[(&'static str, HostTensor)] {
        let set = |call: usize| self.of_calls.get(call);
        match set(call) {
            Some(place) if call == 0 || set(call - 1) != Some(place) => &self.values[*place],
            _ => &[],
        }
    }
}

/// What a step's graph shows of itself besides its results, for those who want to see inside.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Where the picture looks at the text.
    pub attention: CrossAttention,
    /// How large the numbers inside are.
    pub activations: Activations,
}

/// What the observer of a run sees after each step.
pub struct Progress<'a> {
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// The timestep of the last step.
    pub timestep: f64,
    /// When the first step began: the model was loaded, its inputs were there, and the device had nothing left to do.
    pub loaded: Instant,
    /// The sample before the first step, `[N, C, ..]`.
    pub start: &'a HostTensor,
    /// The run.
    pub schedule: &'a Schedule,
    pub(super) shown: &'a Shown,
    pub(super) session: &'a mut dyn Session,
}

impl Progress<'_> {
    /// Waits until this step is done: but for the first, it may still run when the observer is called.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn wait(&mut self) -> Result<()> {
        self.session.wait()
    }

    /// The sample after this step, `[N, C, ..]`. Reads from the device, which then waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn sample(&mut self) -> Result<HostTensor> {
        Ok(sample_of(&self.session.read("state")?))
    }

    /// How much each place of the first picture looks at each token of its text in this step: `[tokens, h, w]`, 1 in
    /// sum over the tokens; the mean of the heads of all coarse layers. `None` without text, or without
    /// [`super::Runtime::with_attention`]. Reads from the device, which then waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn attention(&mut self) -> Result<Option<HostTensor>> {
        self.shown.attention.read(self.session)
    }

    /// How large the numbers are that each block of the model returned in this step, for all that it saw in one call;
    /// nothing without [`super::Runtime::with_activations`]. Reads from the device, which then waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn activations(&mut self) -> Result<Vec<Activation>> {
        self.shown.activations.read(self.session)
    }

    /// √(mean of squares) of what the model predicted in this step, after guidance; `None` without
    /// [`super::Runtime::with_activations`]. Reads from the device, which then waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn prediction_rms(&mut self) -> Result<Option<f64>> {
        self.shown.activations.prediction(self.session)
    }

    /// The current estimate of the clean picture, `[N, C, ..]`. Reads from the device, which then waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn pred_original_sample(&mut self) -> Result<HostTensor> {
        Ok(self.session.read("pred_original_sample")?.channels_first())
    }
}

/// Row 0 of a state, as `[N, C, ..]`.
fn sample_of(state: &HostTensor) -> HostTensor {
    let shape = state.shape[1..].to_vec();
    let elements = shape.iter().product();
    HostTensor { shape, data: state.data[..elements].to_vec() }.channels_first()
}

/// A loaded step graph and the schedule it runs.
pub struct DenoiseLoop<'a> {
    /// The session of a [`step_graph`], its other inputs already written.
    pub session: Box<dyn Session + 'a>,
    /// The run.
    pub schedule: &'a Schedule,
    /// Inputs that the loop writes when they change.
    pub changing: Vec<Changing>,
    /// What the graph shows of itself.
    pub shown: &'a Shown,
    /// Asked after each step whether to go on.
    pub cancel: Option<&'a Cancel>,
}

impl DenoiseLoop<'_> {
    /// Denoises `sample` `[N, C, ..]` (at the noise level of the first step) through all steps. Noise is drawn from
    /// `sources` in the order in which diffusers draws it. `observe` is called after each step and may read
    /// intermediate results.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost; [`Error::Cancelled`] if the run was asked to stop; what `observe`
    /// returns.
    pub fn run<S: NoiseSource>(
        &mut self,
        sample: &HostTensor,
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let slots = self.schedule.memory_slots;
        let has_noise = self.session.has_input("noise");
        let masked = self.session.has_input("original_level");
        let timestep = self.session.inputs().iter().find(|port| port.name == "timestep");
        let model_batch = timestep.expect("step_graph makes this input").shape[0];
        if let Some(adaptive) = &self.schedule.adaptive {
            return self.follow(adaptive, sample, model_batch, observe);
        }
        let mut noise = StepNoise::new(sources);
        let mut first = sample.channels_last();
        if let Some(drawn) = noise.draw(self.schedule.start_draw, &sample.shape) {
            let (drawn, k) = (drawn.channels_last(), self.schedule.start_noise as f32);
            first.data.iter_mut().zip(&drawn.data).for_each(|(x, z)| *x += k * z);
        }
        let mut state = HostTensor::zeros([&[1 + slots], &first.shape[..]].concat());
        state.data[..first.len()].copy_from_slice(&first.data);
        self.session.write("state", &state)?;
        if has_noise {
            // Steps that draw none multiply it by zero.
            self.session.write("noise", &HostTensor::zeros(first.shape.clone()))?;
        }
        let goes_back = self.session.has_input("back_noise");
        if goes_back {
            self.session.write("back_noise", &HostTensor::zeros(first.shape.clone()))?;
        }
        self.session.wait()?;
        let loaded = Instant::now();
        for (i, step) in self.schedule.steps.iter().enumerate() {
            let _span = trace::span_of("step", || format!("{} of {}", i + 1, self.schedule.steps.len()));
            if let Some(drawn) = noise.draw(step.draw, &sample.shape) {
                self.session.write("noise", &drawn.channels_last())?;
            }
            self.session.write(
                "timestep",
                &HostTensor { shape: vec![model_batch], data: vec![step.timestep as f32; model_batch] },
            )?;
            self.session.write("coefficients", &coefficients(step, slots))?;
            let changed = self.changing.iter().flat_map(|changing| changing.at(i));
            changed.into_iter().try_for_each(|(name, tensor)| self.session.write(name, tensor))?;
            if masked {
                // What is put back has the noise that the next step expects; after the last step it has none.
                let next = || self.schedule.steps.get(i + 1).map(|step| step.add_noise);
                let level = step.repaint.as_ref().map(|repaint| repaint.known).or_else(next);
                let (a, b) = level.map_or((1.0, 0.0), |level| (level.signal, level.noise));
                self.session.write("original_level", &HostTensor::new([2], vec![a as f32, b as f32])?)?;
            }
            if let Some(Repaint { back, .. }) = step.repaint.as_ref().filter(|_| goes_back) {
                let (kept, added) = noise.forward(back, &sample.shape);
                if !back.is_empty() {
                    self.session.write("back_noise", &added.channels_last())?;
                }
                let level = [kept as f32, f32::from(u8::from(!back.is_empty()))].repeat(sample.shape[0]);
                self.session.write("back_level", &HostTensor::new([sample.shape[0], 2], level)?)?;
            }
            self.session.run()?;
            // What overflows does so at once, mostly: the other steps need not be waited for.
            if i == 0 && self.session.read(MAGNITUDE)?.data.iter().any(|v| !v.is_finite()) {
                self.finite_sample(1)?;
            }
            observe(Progress {
                done: i + 1,
                total: self.schedule.steps.len(),
                timestep: step.timestep,
                loaded,
                start: sample,
                schedule: self.schedule,
                shown: self.shown,
                session: self.session.as_mut(),
            })?;
            if self.cancel.is_some_and(Cancel::is_cancelled) {
                return Err(Error::Cancelled);
            }
        }
        self.finite_sample(self.schedule.steps.len())
    }

    /// The sample after `done` steps, `[N, C, ..]`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it holds NaN or infinite numbers. f16 is not the cause:
    /// [`crate::overflow::F32Fallback`] takes care of that.
    fn finite_sample(&mut self, done: usize) -> Result<HostTensor> {
        let sample = sample_of(&self.session.read("state")?);
        let bad = sample.data.iter().filter(|v| !v.is_finite()).count();
        if bad == 0 {
            return Ok(sample);
        }
        let found = format!("{bad} of {} numbers of the sample are NaN or infinite after step {done}", sample.len());
        Err(Error::Checkpoint(format!(
            "{found}, even in f32: the scheduler's config does not belong to the U-Net, or its weights are damaged"
        )))
    }
}
