//! The steps of a training run.

use std::collections::{BTreeMap, HashMap};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::data::Item;
use super::output::{self, Log, Progress};
use super::settings::{Crop, LoraFormat, Precision, ReportTo, Settings};
use super::word::Word;
use crate::checkpoint::Weights;
use crate::cli::{folder, say};
use crate::error::{Error, Result};
use crate::graph::{WeightSource, WeightSources};
use crate::image_io::{Picture, Range};
use crate::pipelines::{DiffusionPipeline, Example, Noised, Prepared, Runtime, TrainingProcess};
use crate::rng::{NoiseSource, TorchCpu};
use crate::tensor::{DType, HostTensor};
use crate::training::{
    Keeps, LORA, StepSettings, TEXT_ENCODER, Trainer, TrainingGraph, VECTORS, WORD, checkpoints_at, with_word,
};

/// What a gradient is multiplied with at first in f16, and after how many steps without an overflow it doubles: as
/// torch's GradScaler.
const LOSS_SCALE: f64 = 65_536.0;
const STEADY: usize = 2000;

/// A run.
pub struct Run<'a> {
    pub settings: &'a Settings,
    pub pipeline: &'a DiffusionPipeline,
    pub runtime: Runtime<'a>,
    pub items: &'a [Item],
    pub output: &'a Path,
    /// Rows and columns of the pictures.
    pub size: (usize, usize),
}

/// Pictures as the U-Net sees them, and how to draw batches of them.
struct Batches<'a> {
    run: &'a Run<'a>,
    process: TrainingProcess,
    seed: u64,
    batch: usize,
    /// What goes with a picture without class or text.
    nothing: Prepared,
    dropout: f64,
    /// Latents and texts of pictures, which take long to make; by picture and whether it is mirrored.
    cache: HashMap<(usize, bool), Prepared>,
    /// The word that is learned.
    word: Option<Word>,
    /// The order of the pictures in this round.
    order: Vec<usize>,
    round: Option<usize>,
}

/// A batch: inputs of the step, and the weight of each sample.
struct Batch {
    inputs: Vec<(&'static str, HostTensor)>,
    weights: Vec<f64>,
}

impl<'a> Batches<'a> {
    fn new(run: &'a Run<'a>) -> Result<Self> {
        let settings = run.settings;
        let process = TrainingProcess::new(
            &run.pipeline.scheduler,
            settings.timestep_sampling.unwrap_or_default(),
            settings.snr_gamma,
        )?;
        let first = run.items.first().expect("there is a picture");
        let image = run.image(first, false, [0.5, 0.5]);
        let caption = run.pipeline.traits.kind.has_text().then(String::new);
        let nothing = Example { name: "nothing".into(), image, class: None, caption };
        let nothing = run.pipeline.prepare(&run.runtime, nothing)?;
        let conditional = !nothing.condition.is_empty();
        // Where pictures are of the last class too, it does not stand for "no class".
        let last = run.pipeline.traits.classes.map(|classes| classes - 1);
        let taken = last.is_some() && run.items.iter().any(|item| item.class == last);
        let dropout = settings.conditioning_dropout.unwrap_or(if conditional && !taken { 0.1 } else { 0.0 });
        if dropout > 0.0 && (!conditional || taken) {
            let why = if taken {
                "there are pictures of the last class, which else stands for none"
            } else {
                "this model has neither classes nor a text"
            };
            return Err(Error::Usage(format!("--conditioning-dropout {dropout}: {why}")));
        }
        Ok(Self {
            run,
            process,
            seed: settings.seed.unwrap_or(0),
            batch: settings.train_batch_size.unwrap_or(16),
            nothing,
            dropout,
            cache: HashMap::new(),
            word: Word::of(run)?,
            order: Vec::new(),
            round: None,
        })
    }

    /// The picture whose turn it is when `number` others were there before.
    fn picture(&mut self, number: usize) -> usize {
        let count = self.run.items.len();
        let round = number / count;
        if self.round != Some(round) {
            let mut random = TorchCpu::new(mixed(self.seed, round as u64, 1));
            self.order = (0..count).collect();
            // Fisher and Yates.
            let draws = random.rand(&[count]).data;
            for last in (1..count).rev() {
                let other = ((f64::from(draws[last]) * (last + 1) as f64) as usize).min(last);
                self.order.swap(last, other);
            }
            self.round = Some(round);
        }
        self.order[number % count]
    }

    /// Batch `number` of the run: the same for the same seed, whatever went before.
    fn draw(&mut self, number: usize) -> Result<Batch> {
        let mut random = TorchCpu::new(mixed(self.seed, number as u64, 0));
        let levels = self.process.draw(&mut random, self.batch)?;
        let shape = [&[self.batch], &self.nothing.original.shape[1..]].concat();
        let noise = random.randn(&shape).channels_last();
        let mut chances = || random.rand(&[self.batch]).data;
        let (drops, flips, rows, columns) = (chances(), chances(), chances(), chances());
        let mut prepared = Vec::with_capacity(self.batch);
        let mut captions = Vec::with_capacity(self.batch);
        for i in 0..self.batch {
            let index = self.picture(number * self.batch + i);
            let item = &self.run.items[index];
            let flip = self.run.flips(item) && flips[i] < 0.5;
            let mut one = self.prepared(index, flip, [rows[i], columns[i]])?;
            let mut caption = item.caption.clone().unwrap_or_default();
            if f64::from(drops[i]) < self.dropout {
                caption.clear();
                one.condition.clone_from(&self.nothing.condition);
            }
            captions.push(caption);
            prepared.push(one);
        }
        let stack = |of: &dyn Fn(&Prepared) -> HostTensor| -> Result<HostTensor> {
            let rows: Vec<HostTensor> = prepared.iter().map(of).collect();
            HostTensor::concat(&rows.iter().collect::<Vec<_>>(), 0)
        };
        let original = stack(&|one| one.original.channels_last())?;
        let elements = original.len() as f64;
        let weights = levels.iter().map(|level| level.weight / elements).collect();
        let mut inputs = vec![("original", original), ("noise", noise)];
        inputs.extend(Noised::inputs(&levels));
        if let Some(word) = &self.word {
            let captions = captions.iter().map(String::as_str).collect::<Vec<_>>();
            inputs.extend(word.inputs(self.run.pipeline, &captions)?);
        }
        for (i, (name, _)) in self.nothing.condition.iter().enumerate() {
            if self.word.is_some() && *name == "encoder_hidden_states" {
                continue; // the text encoder is a part of the step
            }
            inputs.push((name, stack(&|one| one.condition[i].1.clone())?));
        }
        Ok(Batch { inputs, weights })
    }

    /// A picture as the U-Net sees it. Latents are made once; pictures that are cropped anywhere, each time.
    fn prepared(&mut self, index: usize, flip: bool, place: [f32; 2]) -> Result<Prepared> {
        if let Some(known) = self.cache.get(&(index, flip)) {
            return Ok(known.clone());
        }
        let item = &self.run.items[index];
        let prepared = self.run.pipeline.prepare(
            &self.run.runtime,
            Example {
                name: item.name.clone(),
                image: self.run.image(item, flip, place),
                class: item.class,
                caption: item.caption.clone(),
            },
        )?;
        if prepared.original.shape[1..] != self.nothing.original.shape[1..] {
            let (name, found) = (&item.name, &prepared.original.shape[1..]);
            let expected = &self.nothing.original.shape[1..];
            return Err(Error::Usage(format!(
                "{name}: {found:?} in place of {expected:?}; give --resolution and --crop"
            )));
        }
        if self.run.pipeline.vae.is_some() && self.run.settings.crop != Some(Crop::Random) {
            self.cache.insert((index, flip), prepared.clone());
        }
        Ok(prepared)
    }
}

/// A seed for draw `number` of `kind` (0 to 3), by the output function of SplitMix64 (Steele et al. 2014): the seeds of
/// a run are unrelated to those of a run with the next seed.
fn mixed(seed: u64, number: u64, kind: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (4 * number + kind);
    for _ in 0..2 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    z
}

impl Run<'_> {
    fn flips(&self, item: &Item) -> bool {
        let of_class = |classes: &Vec<usize>| item.class.is_some_and(|class| classes.contains(&class));
        self.settings.random_flip == Some(true) && self.settings.flip_classes.as_ref().is_none_or(of_class)
    }

    /// A picture as a tensor, cropped at `place` (0 to 1 of what is left over) if it is larger.
    fn image(&self, item: &Item, flip: bool, place: [f32; 2]) -> HostTensor {
        let cropped;
        let mut picture: &Picture = &item.picture;
        if (picture.height, picture.width) != self.size {
            cropped = folder::crop(picture, self.size, place.map(f64::from));
            picture = &cropped;
        }
        let tensor = picture.to_tensor(Range::MinusOneToOne);
        if !flip {
            return tensor;
        }
        let width = picture.width;
        let data = tensor.data.chunks_exact(width).flat_map(|row| row.iter().rev().copied()).collect();
        HostTensor { shape: tensor.shape, data }
    }

    /// Takes all steps; returns the last loss. `begun` is called when everything is ready for the first one.
    ///
    /// # Errors
    /// As the library; what the last checkpoint holds stays.
    pub fn run(&self, begun: &mut dyn FnMut()) -> Result<f64> {
        let settings = self.settings;
        let mut batches = Batches::new(self)?;
        let accumulation = settings.gradient_accumulation_steps.unwrap_or(1);
        let of_step = batches.batch * accumulation;
        let total = match (settings.max_train_steps, settings.num_train_epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => (epochs * self.items.len()).div_ceil(of_step),
            (None, None) => return Err(Error::Usage("expected --max-train-steps or --num-train-epochs".into())),
        };
        let half = settings.mixed_precision == Some(Precision::Fp16);
        let dtype = if half { DType::F16 } else { DType::F32 };
        let keeps = Keeps { ema: settings.ema_decay.is_some(), collected: accumulation > 1 };
        let optimizer = settings.optimizer();
        let model = self.pipeline.training_model(dtype, batches.batch, &batches.nothing)?;
        let checkpointing = settings.gradient_checkpointing == Some(true);
        let kept = |graph: &_| if checkpointing { checkpoints_at(graph) } else { crate::graph::Kept::All };
        let lora = settings.lora();
        let mut adapters = HashMap::new();
        let mut vectors = HashMap::new();
        let mut text_weights: Option<&Weights> = None;
        let step = match (&lora, &batches.word) {
            (None, Some(word)) => {
                let encoders = self.pipeline.text_encoders().expect("it was asked for its tokens");
                let (text, of_text, states) = encoders.trained(batches.batch, dtype)?;
                text_weights = Some(of_text);
                vectors.insert(VECTORS.to_owned(), encoders.vectors(&word.tokens)?);
                let model = with_word(&text, &states, &model, word.tokens.len())?;
                TrainingGraph::new(&model, |name| name == VECTORS, &optimizer, keeps, kept)?
            }
            (Some(lora), _) => {
                let (model, parameters) = lora.add_to(&model)?;
                adapters = lora.initial(&parameters, &mut TorchCpu::new(mixed(batches.seed, 0, 2)));
                TrainingGraph::new(&model, |name| adapters.contains_key(name), &optimizer, keeps, kept)?
            }
            (None, None) => TrainingGraph::new(&model, |_| true, &optimizer, keeps, kept)?,
        };
        let mut parameters = step.trainable.iter().map(|p| p.shape.iter().product::<usize>()).sum::<usize>() as f64;
        let unit = if parameters >= 1e6 { " M" } else { "" };
        parameters /= if parameters >= 1e6 { 1e6 } else { 1.0 };
        say(format_args!(
            "{} pictures, {parameters:.2}{unit} parameters, {total} steps of {of_step}",
            self.items.len()
        ));
        let mut others: BTreeMap<&str, &dyn WeightSource> =
            BTreeMap::from([(LORA, &adapters as _), (WORD, &vectors as _)]);
        others.extend(text_weights.map(|weights| (TEXT_ENCODER, weights as &dyn WeightSource)));
        let weights = WeightSources { own: self.pipeline.unet_weights(), others };
        let mut trainer =
            Trainer::new(self.runtime.device, self.runtime.load, step, &weights, optimizer, settings.ema_decay)?;

        let mut progress = Progress {
            step: 0,
            updates: 0,
            loss_scale: if half { LOSS_SCALE } else { 1.0 },
            steady: 0,
            identity: settings.identity(),
            pictures: self.items.len(),
        };
        if settings.resume == Some(true) {
            let (state, before) = output::read_state(self.output)?;
            check_same(&before, &progress)?;
            trainer.restore(|name| state.read_f32(name))?;
            progress = before;
            say(format_args!("going on after step {}", progress.step));
        }
        if progress.step >= total {
            return Err(Error::Usage(format!(
                "the run in {} has {} steps already; expected more than that for --max-train-steps",
                self.output.display(),
                progress.step
            )));
        }
        let events = settings.report_to == Some(ReportTo::Tensorboard);
        let mut log = Log::open(self.output, progress.step, events)?;
        begun();
        let rate = settings.rate(total);
        let (checkpoints, logging) =
            (settings.checkpointing_steps.unwrap_or(500), settings.logging_steps.unwrap_or(10));
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left")
                .expect("the template is constant");
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            bar.with_style(style).with_position(progress.step as u64)
        });
        let (mut since, mut unreported, mut last) = (Instant::now(), 0, f64::NAN);
        while progress.step < total {
            let mut step = StepSettings {
                step: progress.updates,
                learning_rate: rate.at(progress.step),
                loss_scale: progress.loss_scale,
                add_to_earlier: false,
                update: accumulation == 1,
                new_report: unreported == 0,
            };
            for micro in 0..accumulation {
                self.runtime.check_cancelled()?;
                let batch = batches.draw(progress.step * accumulation + micro)?;
                batch.inputs.iter().try_for_each(|(name, tensor)| trainer.write(name, tensor))?;
                let weights: Vec<f64> = batch.weights.iter().map(|w| w / accumulation as f64).collect();
                step.update = micro + 1 == accumulation;
                trainer.step(&step, &weights)?;
                (step.add_to_earlier, step.new_report) = (true, false);
            }
            progress.step += 1;
            progress.updates += 1;
            unreported += 1;
            let checkpoint = progress.step.is_multiple_of(checkpoints) || progress.step == total;
            if half || checkpoint || progress.step.is_multiple_of(logging) {
                let report = trainer.report(&step)?;
                // A smaller scale may help, unless there is none.
                let overflow_may_be = half && progress.loss_scale > 1.0;
                check_finite(&report, progress.step, overflow_may_be)?;
                if half {
                    // A step that was left out does not count for the optimizer.
                    progress.updates -= usize::from(!report.gradient_norm.is_finite());
                    rescale(&mut progress, report.gradient_norm.is_finite());
                }
                let due = checkpoint || progress.step.is_multiple_of(logging);
                if due {
                    last = report.losses / unreported as f64;
                    let speed = (unreported * of_step) as f64 / since.elapsed().as_secs_f64();
                    log.line(progress.step, last, report.gradient_norm, step.learning_rate, speed)?;
                    bar.iter().for_each(|bar| {
                        bar.set_message(format!("loss {last:.4}, {speed:.1} pictures/s"));
                        bar.set_position(progress.step as u64);
                    });
                    if bar.is_none() {
                        say(format_args!("step {}: loss {last:.5}, {speed:.1} pictures/s", progress.step));
                    }
                    (since, unreported) = (Instant::now(), 0);
                }
            }
            if checkpoint {
                output::write_state(self.output, &trainer.state()?, &progress)?;
                let parameters = trainer.parameters(settings.ema_decay.is_some())?;
                match &lora {
                    None if batches.word.is_some() => {
                        let word = settings.placeholder_token.clone().expect("its tokens were asked for");
                        let vectors = parameters.into_values().next().expect("a word's vectors are one parameter");
                        output::write_weights(&self.output.join(output::WORD), &BTreeMap::from([(word, vectors)]))?;
                    }
                    None => output::write_weights(&self.output.join(output::WEIGHTS), &parameters)?,
                    Some(lora) => {
                        let named = match settings.lora_format.unwrap_or_default() {
                            LoraFormat::Diffusers => lora.diffusers(&parameters),
                            LoraFormat::Kohya => lora.kohya(&parameters),
                        };
                        output::write_weights(&self.output.join(output::LORA), &named)?;
                    }
                }
                let shown = toml::to_string(settings).expect("numbers and names can be written");
                output::write_card(self.output, &shown, self.items.len(), progress.step, last)?;
                if settings.sample == Some(true) {
                    log.pictures(progress.step, &super::draw(self, progress.step)?)?;
                }
                since = Instant::now();
            }
        }
        bar.iter().for_each(ProgressBar::finish_and_clear);
        Ok(last)
    }
}

/// Halves the loss scale after an overflow, and doubles it when all went well for long.
fn rescale(progress: &mut Progress, finite: bool) {
    progress.steady = if finite { progress.steady + 1 } else { 0 };
    if !finite {
        progress.loss_scale = (progress.loss_scale / 2.0).max(1.0);
    } else if progress.steady == STEADY {
        (progress.loss_scale, progress.steady) = (progress.loss_scale * 2.0, 0);
    }
}

/// Refuses to go on when the loss is no number any more.
fn check_finite(report: &crate::training::Report, step: usize, overflow_may_be: bool) -> Result<()> {
    if report.losses.is_finite() && (report.gradient_norm.is_finite() || overflow_may_be) {
        return Ok(());
    }
    Err(Error::Checkpoint(format!(
        "step {step}: the loss is {}, the gradient {}: the run has diverged. The last checkpoint is as it was; a lower \
         --learning-rate or longer --lr-warmup-steps may help",
        report.losses, report.gradient_norm
    )))
}

/// Refuses to go on with other settings.
fn check_same(before: &Progress, now: &Progress) -> Result<()> {
    if before.pictures != now.pictures {
        return Err(Error::Usage(format!(
            "--resume: the run was on {} pictures, --train-data has {}",
            before.pictures, now.pictures
        )));
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (was, is) = (lines(&before.identity), lines(&now.identity));
    if let Some(line) = was.symmetric_difference(&is).next() {
        let name = line.split(' ').next().unwrap_or_default().replace('_', "-");
        let of = |set: &std::collections::BTreeSet<String>| {
            let field = line.split(' ').next().unwrap_or_default();
            let found = set.iter().find(|l| l.split(' ').next() == Some(field));
            found.and_then(|l| l.split(" = ").nth(1)).unwrap_or("not given").to_owned()
        };
        return Err(Error::Usage(format!(
            "--resume: --{name} was {} in the run so far and is {} now; a run goes on with the settings that it began \
             with",
            of(&was),
            of(&is)
        )));
    }
    Ok(())
}
