//! What happens inside a run, for those who want to understand it: the sample and the estimate of x_0 after each step,
//! the noise levels that the run visits, and the time that each kernel takes; where the picture looks at its text and
//! how large the numbers in the model are, if the [`Runtime`] shows it.
//!
//! All of it costs time, so that only a run that is to be looked into is recorded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use base64::Engine;

use super::Step;
use crate::backend::Device;
use crate::error::Result;
use crate::image_io::{Picture, PictureFormat, encode, resize_lanczos};
use crate::pipelines::{Activation, Runtime, SampleOptions};
use crate::schedulers::{self, Noising, Schedule};
use crate::tensor::HostTensor;
use crate::trace;

/// Steps of which pictures are kept; of longer runs every second, third … one.
const MOST_FRAMES: usize = 64;
/// Pixels of a picture's longer side.
const SIDE: usize = 128;
/// Up to this side, a picture is small enough to be kept as it is.
const EXACT: usize = 64;
/// Without it, x_t = signal · x_0 + noise · ε is x_0.
const CLEAN: Noising = Noising { signal: 1.0, noise: 0.0 };

/// What was recorded of a job so far.
#[derive(Default)]
pub struct Inside(Mutex<Seen>);

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// Steps in all.
    pub total: usize,
    /// The timestep of each step, and the noise level before it.
    pub levels: Vec<(f64, Noising)>,
    /// The words of the first picture's prompt whose attention is shown, and their tokens.
    pub words: Vec<(String, Range<usize>)>,
    /// After some of the steps, and before the first.
    pub frames: Vec<Frame>,
    /// Launches and seconds of each kernel, in the steps so far.
    pub kernels: BTreeMap<String, (usize, f64)>,
    /// Why there are no kernels, if so.
    pub untimed: Option<String>,
}

/// The first picture's sample after some steps.
pub struct Frame {
    /// Steps that were done.
    pub done: usize,
    /// The sample, divided by √(signal² + noise²) so that it can be shown; its `rms` is as it was before.
    pub sample: View,
    /// The estimate of x_0; none before the first step.
    pub x0: Option<View>,
    /// √(mean of squares) of the model's prediction, after guidance; none where that is not shown.
    pub prediction_rms: Option<f64>,
    /// Of each word.
    pub attention: Vec<Map>,
    /// What the blocks of the model returned, after the first and the last step; nothing where that is not shown.
    pub activations: Vec<Activation>,
}

/// Where the picture looks at a word.
pub struct Map {
    /// The largest share of a place's attention, 0 to 1.
    pub peak: f64,
    /// As a `data:` URL, grey: white is `peak`.
    pub picture: String,
}

/// A tensor as it is shown.
pub struct View {
    /// √(mean of squares): 1 for pure noise of N(0, 1).
    pub rms: f64,
    /// As a `data:` URL.
    pub picture: String,
}

impl Inside {
    /// Records a run on `device`, until the answer is dropped.
    pub fn watch<'a>(&'a self, device: &'a Device, options: &'a SampleOptions) -> Watch<'a> {
        let watch = Watch { inside: self, device, options, timing: false };
        watch.time()
    }

    /// Bytes of its pictures.
    pub fn bytes(&self) -> usize {
        let seen = self.lock();
        let of_frame = |frame: &Frame| {
            let views = [Some(&frame.sample), frame.x0.as_ref()].into_iter().flatten();
            let maps = frame.attention.iter().map(|map| map.picture.len());
            views.map(|view| view.picture.len()).chain(maps).sum::<usize>()
        };
        seen.frames.iter().map(of_frame).sum()
    }

    /// What was recorded until now.
    ///
    /// # Panics
    /// Never: no holder of the lock panics.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// Looks into a run.
pub struct Watch<'a> {
    inside: &'a Inside,
    device: &'a Device,
    options: &'a SampleOptions,
    /// Whether kernels are timed: by a recording, of which a process has one.
    timing: bool,
}

impl Watch<'_> {
    /// Begins to time kernels.
    fn time(mut self) -> Self {
        self.begin();
        self
    }

    fn begin(&mut self) {
        if !trace::is_on() {
            trace::begin();
            self.timing = true;
        }
    }

    /// Adds up what the kernels took since [`Watch::begin`].
    fn end(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.timing) {
            return Ok(());
        }
        let ended = self.device.end_trace();
        let Some(recording) = trace::finish() else { return ended };
        let mut seen = self.inside.lock();
        for (kernel, seconds) in recording.launches() {
            let sum = seen.kernels.entry(kernel.to_owned()).or_default();
            *sum = (sum.0 + 1, sum.1 + seconds);
        }
        if seen.kernels.is_empty() {
            let why = recording.notes().first().map_or("this device does not time kernels", String::as_str);
            seen.untimed = Some(why.to_owned());
        }
        ended
    }

    /// The words of the first picture's prompt. One that changes, or is weighted, has other tokens than its text.
    fn words(&self, step: &Step<'_, '_>) -> Result<Vec<(String, Range<usize>)>> {
        let prompt = self.options.prompts.first().filter(|_| !self.options.weighting);
        prompt.map_or(Ok(vec![]), |prompt| step.pipeline.words(prompt))
    }

    /// Records a step that was done.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device was lost; as [`crate::pipelines::DiffusionPipeline::decode`].
    pub fn step(&mut self, runtime: &Runtime<'_>, step: &mut Step<'_, '_>) -> Result<()> {
        step.progress.wait()?;
        // Looking costs time that is not the run's.
        self.end()?;
        let schedule = step.progress.schedule;
        if step.progress.done == 1 {
            let levels = schedule.steps.iter().map(|step| (step.timestep, step.add_noise));
            self.inside.lock().levels.extend(levels);
        }
        let words = self.words(step)?;
        let mut frames = Vec::new();
        if step.done == 1 {
            let sample = view(runtime, step, step.progress.start, level(schedule, 0))?;
            let (attention, activations) = (vec![], vec![]);
            frames.push(Frame { done: 0, sample, x0: None, prediction_rms: None, attention, activations });
        }
        let every = step.total.div_ceil(MOST_FRAMES);
        if step.done.is_multiple_of(every) || step.done == step.total {
            let (x, x0) = (step.progress.sample()?, step.progress.pred_original_sample()?);
            let sample = view(runtime, step, &x, level(schedule, step.progress.done))?;
            let x0 = Some(view(runtime, step, &x0, CLEAN)?);
            let attention = step.progress.attention()?.map_or(Ok(vec![]), |weights| maps(&weights, &words))?;
            let prediction_rms = step.progress.prediction_rms()?;
            let ends = step.done == 1 || step.done == step.total;
            let activations = if ends { step.progress.activations()? } else { vec![] };
            frames.push(Frame { done: step.done, sample, x0, prediction_rms, attention, activations });
        }
        let mut seen = self.inside.lock();
        (seen.total, seen.words) = (step.total, words);
        seen.frames.extend(frames);
        drop(seen);
        self.begin();
        Ok(())
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // What the run itself says of a lost device counts.
        let _ = self.end();
    }
}

/// The noise level after so many steps.
fn level(schedule: &Schedule, done: usize) -> Noising {
    schedule.steps.get(done).map_or(CLEAN, |step: &schedulers::Step| step.add_noise)
}

/// The first of some samples `[N, C, ..]` at a noise level, as it is shown.
fn view(runtime: &Runtime<'_>, step: &Step<'_, '_>, samples: &HostTensor, level: Noising) -> Result<View> {
    let elements = samples.len() / samples.shape[0];
    let mut first = samples.data[..elements].to_vec();
    let rms = (first.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / elements as f64).sqrt();
    let scale = level.signal.hypot(level.noise) as f32;
    first.iter_mut().for_each(|v| *v /= scale);
    let shape = [&[1], &samples.shape[1..]].concat();
    let images = step.pipeline.decode(runtime, &HostTensor::new(shape, first)?)?;
    let picture = Picture::from_tensor(&images)?.swap_remove(0);
    let longer = picture.width.max(picture.height);
    let (small, format, kind) = if longer <= EXACT {
        (picture, PictureFormat::Png, "png")
    } else {
        let side = |side: usize| (side * SIDE.min(longer) / longer).max(1);
        let small = resize_lanczos(&picture, side(picture.width), side(picture.height));
        (small, PictureFormat::Jpeg(90), "jpeg")
    };
    Ok(View { rms, picture: url(&small, format, kind)? })
}

/// Where the picture looks at each word, by the `weights` `[tokens, h, w]`.
fn maps(weights: &HostTensor, words: &[(String, Range<usize>)]) -> Result<Vec<Map>> {
    let (height, width) = (weights.shape[1], weights.shape[2]);
    let places = height * width;
    let map = |tokens: &Range<usize>| {
        let at = |place: usize| tokens.clone().map(|token| weights.data[token * places + place]).sum::<f32>();
        let map: Vec<f32> = (0..places).map(at).collect();
        let peak = map.iter().copied().fold(0.0, f32::max);
        let data = map.iter().map(|v| (255.0 * v / peak.max(f32::MIN_POSITIVE)).round() as u8).collect();
        let picture = Picture { width, height, channels: 1, data };
        Ok(Map { peak: f64::from(peak), picture: url(&picture, PictureFormat::Png, "png")? })
    };
    words.iter().map(|(_, tokens)| map(tokens)).collect()
}

/// A picture as a `data:` URL of `image/kind`.
///
/// # Errors
/// As [`encode`].
pub fn url(picture: &Picture, format: PictureFormat, kind: &str) -> Result<String> {
    let bytes = encode(std::path::Path::new("the picture"), picture, &[], format)?;
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    Ok(format!("data:image/{kind};base64,{data}"))
}
