//! What happens inside a run, for those who want to understand it: the sample and the estimate of x_0 after each step,
//! the noise levels that the run visits, and the time that each kernel takes.
//!
//! All of it costs time, so that only a job that asks for it is recorded: `POST /v1/jobs?inside=true`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use base64::Engine;
use serde_json::{Value, json};

use crate::backend::Device;
use crate::error::Result;
use crate::generate::Step;
use crate::image_io::{Picture, PictureFormat, encode, resize_lanczos};
use crate::pipelines::{Runtime, SampleOptions};
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

#[derive(Default)]
struct Seen {
    /// Steps in all.
    total: usize,
    /// The noise level before each step.
    levels: Vec<(f64, Noising)>,
    /// The words of the first picture's prompt whose attention is shown, and their tokens.
    words: Vec<(String, Range<usize>)>,
    frames: Vec<Frame>,
    /// Launches and seconds of each kernel, in the steps so far.
    kernels: BTreeMap<String, (usize, f64)>,
    /// Why there are no kernels, if so.
    untimed: Option<String>,
}

/// The first picture's sample after some steps.
struct Frame {
    done: usize,
    sample: View,
    /// None before the first step.
    x0: Option<View>,
    /// Of each word.
    attention: Vec<Map>,
}

/// Where the picture looks at a word.
struct Map {
    /// The largest share of a place's attention, 0 to 1.
    peak: f64,
    /// As a `data:` URL, grey: white is `peak`.
    picture: String,
}

/// A tensor as it is shown.
struct View {
    /// √(mean of squares): 1 for pure noise of N(0, 1).
    rms: f64,
    /// As a `data:` URL.
    picture: String,
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// As JSON: `steps`; `schedule`, for each step the `timestep` and the level of the noise before it; `frames`, after
    /// some of the steps (`step` 0 is before the first) the first picture's x_t as `sample`, divided by √(signal² +
    /// noise²) so that it can be shown, and the estimate of x_0 as `pred_original_sample`, each with the root of its
    /// mean square, `sample_rms` as it was before that division; `words` of its prompt, and in each frame its
    /// `attention`: where it looks at each of them, grey, and the share at the `peak`; `kernels`, the longest first.
    pub fn json(&self) -> Value {
        let seen = self.lock();
        let schedule = seen.levels.iter().map(|(timestep, level)| {
            let (signal, noise) = (level.signal, level.noise);
            // Infinite where there is nothing to divide by: JSON has null for that.
            json!({
                "timestep": timestep,
                "alpha_bar": signal.powi(2) / (signal.powi(2) + noise.powi(2)),
                "sigma": noise / signal,
                "snr": (signal / noise).powi(2),
            })
        });
        let frames = seen.frames.iter().map(|frame| {
            let attention = frame.attention.iter().map(|map| json!({"map": map.picture, "peak": map.peak}));
            json!({
                "step": frame.done,
                "sample": frame.sample.picture,
                "sample_rms": frame.sample.rms,
                "pred_original_sample": frame.x0.as_ref().map(|x0| &x0.picture),
                "pred_original_sample_rms": frame.x0.as_ref().map(|x0| x0.rms),
                "attention": attention.collect::<Vec<_>>(),
            })
        });
        let mut kernels: Vec<_> = seen.kernels.iter().collect();
        kernels.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1));
        let kernels = kernels
            .into_iter()
            .map(|(kernel, (launches, seconds))| json!({"kernel": kernel, "launches": launches, "seconds": seconds}));
        json!({
            "steps": seen.total,
            "schedule": schedule.collect::<Vec<_>>(),
            "words": seen.words.iter().map(|(word, _)| word).collect::<Vec<_>>(),
            "frames": frames.collect::<Vec<_>>(),
            "kernels": kernels.collect::<Vec<_>>(),
            "untimed": seen.untimed,
        })
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
    /// [`crate::Error::Device`] if the device was lost; as [`crate::pipelines::DiffusionPipeline::decode`].
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
            frames.push(Frame { done: 0, sample, x0: None, attention: vec![] });
        }
        let every = step.total.div_ceil(MOST_FRAMES);
        if step.done.is_multiple_of(every) || step.done == step.total {
            let (x, x0) = (step.progress.sample()?, step.progress.pred_original_sample()?);
            let sample = view(runtime, step, &x, level(schedule, step.progress.done))?;
            let x0 = Some(view(runtime, step, &x0, CLEAN)?);
            let attention = step.progress.attention()?.map_or(Ok(vec![]), |weights| maps(&weights, &words))?;
            frames.push(Frame { done: step.done, sample, x0, attention });
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

/// A picture as a `data:` URL.
fn url(picture: &Picture, format: PictureFormat, kind: &str) -> Result<String> {
    let bytes = encode(std::path::Path::new("the picture"), picture, &[], format)?;
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    Ok(format!("data:image/{kind};base64,{data}"))
}
