//! Which variant and setting is the fastest for one instance on one device.
//!
//! Candidates come from the rules outwards: first what the rules choose, then the other variants as the rules would set
//! them, then, of one variant after the other, the fastest first, neighbours of its best setting so far, one knob at a
//! time. Each is compared with the reference before it
//! is timed. The best few then run in turns, so that whatever disturbs the device disturbs all of them alike, until one
//! is left; and that one replaces the rules' choice only if it wins a duel that is counted by itself: the best of many
//! looks better than it is in the samples that made it the best.

use std::collections::BTreeSet;
use std::time::Instant;

use super::instance::{Instance, PreparedInstance};
use super::samples::{Samples, Verdict};
use super::timing::{Effort, time_program};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::gpu::{GpuDevice, GpuSession};
use crate::kernel::texts_id;
use crate::ops::Knobs;
use crate::parallel::*;
use crate::plan::{Choice, Forced, PlanOptions, Program, Trial, TunedEntry, choose};

/// Candidates whose first samples take this many times the best's are dropped, and with them the other settings of
/// their variant if it was the one that the rules would set.
const HOPELESS: f64 = 3.0;
/// How many of the best run against each other.
const FINALISTS: usize = 4;
/// Candidates that are compiled side by side.
const WAVE: usize = 8;
/// Seconds that are spent on samples in one go, if more than one is taken.
const AT_ONCE: f64 = 1.0;
/// Fewer samples of each in a duel decide nothing.
const DUEL: usize = 8;

/// How much to spend on one instance.
#[derive(Clone, Copy, Debug)]
pub struct TuneEffort {
    /// Samples of each candidate before the best few are chosen; fewer of one that takes long.
    pub first: usize,
    /// Rounds of the best few against each other, as many samples each.
    pub rounds: usize,
    /// Samples of each in the duel at most.
    pub duel: usize,
    /// Whether every setting of a variant is tried that is not hopeless, instead of neighbours of the best.
    pub every_setting: bool,
    /// Nothing new is tried after this.
    pub deadline: Option<Instant>,
}

impl TuneEffort {
    /// Everything that is worth while.
    pub const FULL: Self = Self { first: 5, rounds: 3, duel: 24, every_setting: false, deadline: None };
    /// For a first look.
    pub const QUICK: Self = Self { first: 3, rounds: 1, duel: DUEL, every_setting: false, deadline: None };

    /// Samples to take in one go of what takes so many seconds: fewer of what takes long, which disturbances change
    /// less.
    fn at_once(&self, seconds: f64) -> usize {
        ((AT_ONCE / seconds) as usize).clamp(1, self.first.max(1))
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// A variant in one setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    variant: &'static str,
    knobs: Knobs,
}

/// The variants that can compute an instance on a device, with all their settings: the rules' choice first, every
/// variant's setting by the rules before its others. `naive`, which is there to be read, takes part only if the rules
/// choose it.
struct Field {
    variants: Vec<(Candidate, Vec<Candidate>)>,
}

impl Field {
    fn of(instance: &Instance, caps: &Caps) -> Result<Self> {
        instance.with_context(caps, |context| {
            let op = &instance.op;
            let rules = choose(op, "", context, &Choice::default())?;
            let names = op.variant_names();
            let naive = names.len() - 1;
            let others = (0..names.len()).filter(|index| *index != rules.index && *index != naive);
            let legal = [rules.index].into_iter().chain(others).filter(|index| op.legal(*index, context).is_ok());
            let variant = |index: usize| -> Result<_> {
                let variant = names[index];
                let knobs = if index == rules.index {
                    rules.knobs.clone()
                } else {
                    choose(op, "", context, &Choice::of_variant(op.name(), variant))?.knobs
                };
                let settings = op.knobs(index, context).into_iter().filter(|other| *other != knobs);
                let settings = settings.map(|knobs| Candidate { variant, knobs }).collect();
                Ok((Candidate { variant, knobs }, settings))
            };
            Ok(Self { variants: legal.map(variant).collect::<Result<_>>()? })
        })
    }

    fn len(&self) -> usize {
        self.variants.iter().map(|(_, settings)| 1 + settings.len()).sum()
    }
}

/// How many candidates there are for an instance on a device; with one there is nothing to choose.
///
/// # Errors
/// As [`choose`].
pub fn candidates(instance: &Instance, caps: &Caps) -> Result<usize> {
    Ok(Field::of(instance, caps)?.len())
}

/// Whether an entry still says all that a new measurement would look at: the rules choose what they chose then, every
/// variant was tried, and none of the kernels has changed.
///
/// # Errors
/// As [`choose`].
pub fn is_known(entry: &TunedEntry, instance: &Instance, caps: &Caps) -> Result<bool> {
    let field = Field::of(instance, caps)?;
    let tried: BTreeSet<&str> = entry.trials.iter().map(|trial| trial.variant.as_str()).collect();
    let rules = field.variants.first().zip(entry.trials.first());
    let same = rules.is_some_and(|((now, _), then)| now.variant == then.variant && now.knobs == then.knobs);
    let all = field.variants.iter().all(|(candidate, _)| tried.contains(candidate.variant));
    Ok(same && all && entry.trials.iter().all(Trial::is_current))
}

/// A candidate in the race.
struct Runner {
    trial: Trial,
    samples: Samples,
    /// While it may still win.
    session: Option<GpuSession>,
}

impl Runner {
    /// The median; infinite if it may not be chosen.
    fn seconds(&self) -> f64 {
        if self.trial.wrong.is_some() || self.samples.is_empty() { f64::INFINITY } else { self.samples.median() }
    }
}

struct Race<'a> {
    gpu: &'a GpuDevice,
    prepared: &'a PreparedInstance,
    operation: &'static str,
    effort: TuneEffort,
    /// What the rules choose comes first.
    runners: Vec<Runner>,
}

/// Measures the candidates of an instance. The entry has all that were tried, with every sample.
///
/// # Errors
/// [`Error::Device`] if the device was lost; [`Error::Kernel`] if no candidate agrees with the reference.
pub fn tune(gpu: &GpuDevice, instance: &Instance, effort: TuneEffort) -> Result<TunedEntry> {
    let field = Field::of(instance, gpu.caps())?;
    let prepared = instance.prepare()?;
    let operation = instance.op.name();
    let mut race = Race { gpu, prepared: &prepared, operation, effort, runners: Vec::new() };
    let (by_rule, settings): (Vec<_>, Vec<_>) = field.variants.into_iter().unzip();
    race.enter(by_rule)?;
    // Time may not suffice for all of them.
    let mut variants: Vec<_> = settings.into_iter().enumerate().filter(|(i, _)| *i < race.runners.len()).collect();
    variants.sort_by(|(a, _), (b, _)| race.runners[*a].seconds().total_cmp(&race.runners[*b].seconds()));
    for (by_rule, settings) in variants {
        race.enter_settings(by_rule, settings)?;
    }
    race.finals()?;
    let winner = race.winner()?;
    let Trial { variant, knobs, .. } = &race.runners[winner].trial;
    let mut entry =
        instance.with_context(gpu.caps(), |context| TunedEntry::new(&instance.op, context, variant, knobs.clone()));
    entry.trials = race.runners.into_iter().map(|runner| runner.trial).collect();
    Ok(entry)
}

impl Race<'_> {
    /// The best so far.
    fn best(&self) -> Option<usize> {
        let right = (0..self.runners.len()).filter(|i| self.runners[*i].seconds().is_finite());
        right.min_by(|a, b| self.runners[*a].seconds().total_cmp(&self.runners[*b].seconds()))
    }

    /// Tries the other settings of a variant, of which `by_rule` is the runner that the rules would set: those that
    /// differ from its best in one knob, as long as there is a better one among them; or all. Unless another variant
    /// has turned out much faster.
    fn enter_settings(&mut self, by_rule: usize, mut left: Vec<Candidate>) -> Result<()> {
        let best = self.best().map_or(f64::INFINITY, |best| self.runners[best].seconds());
        if self.runners[by_rule].seconds() > HOPELESS * best {
            return Ok(());
        }
        let first = self.runners.len();
        loop {
            let of_variant = [by_rule].into_iter().chain(first..self.runners.len());
            let best = of_variant.min_by(|a, b| self.runners[*a].seconds().total_cmp(&self.runners[*b].seconds()));
            let centre = self.runners[best.expect("there is the first")].trial.knobs.clone();
            let near = |candidate: &Candidate| self.effort.every_setting || candidate.knobs.distance(&centre) <= 1;
            let (next, others): (Vec<_>, Vec<_>) = left.into_iter().partition(near);
            if next.is_empty() {
                return Ok(());
            }
            left = others;
            self.enter(next)?;
            if self.effort.is_over() {
                return Ok(());
            }
        }
    }

    /// Compares candidates with the reference and takes their first samples, in waves: the kernels of a wave are
    /// compiled side by side, and its samples follow each other, so that a GPU has no time to slow down in between.
    fn enter(&mut self, candidates: Vec<Candidate>) -> Result<()> {
        let mut left = candidates.into_iter().peekable();
        while left.peek().is_some() && (self.runners.is_empty() || !self.effort.is_over()) {
            let first = self.runners.len();
            let wave: Vec<Candidate> = left.by_ref().take(WAVE).collect();
            let programs: Vec<Result<Program>> = wave.iter().map(|candidate| self.program(candidate)).collect();
            // What does not compile is told of when it is checked.
            (&programs).into_par_iter().flatten().for_each(|program| drop(self.gpu.compile(program)));
            for (candidate, program) in wave.into_iter().zip(programs) {
                let runner = self.checked(candidate, program)?;
                self.runners.push(runner);
            }
            self.first_samples(first)?;
            self.drop_sessions(FINALISTS);
        }
        Ok(())
    }

    fn program(&self, Candidate { variant, knobs }: &Candidate) -> Result<Program> {
        let forced = Forced { knobs: knobs.clone(), ..Forced::operation(self.operation, variant) };
        let choice = Choice { forced: vec![forced], ..Choice::default() };
        self.prepared.program(self.gpu, &PlanOptions { choice, ..PlanOptions::default() })
    }

    /// A runner with a session if it agrees with the reference, else with what is wrong.
    fn checked(&self, Candidate { variant, knobs }: Candidate, program: Result<Program>) -> Result<Runner> {
        let kernels = program.as_ref().map(kernels_of_step).unwrap_or_default();
        let texts = texts_id(&kernels)?;
        let mut trial = Trial { variant: variant.into(), knobs, kernels, texts, seconds: vec![], wrong: None };
        let session = program.and_then(|program| {
            self.prepared.check(self.gpu, program.clone())?;
            self.prepared.session(self.gpu, program)
        });
        let session = match session {
            Ok(session) => Some(session),
            Err(error @ Error::Device(_)) => return Err(error),
            Err(error) => {
                trial.wrong = Some(error.to_string());
                None
            }
        };
        Ok(Runner { trial, samples: Samples::default(), session })
    }

    /// One sample of each runner from `first` on, and more of those that are not hopeless.
    fn first_samples(&mut self, first: usize) -> Result<()> {
        // While these were compiled and compared, the device had little to do.
        let mut effort = Effort { warm_up: Effort::default().warm_up, ..exactly(1) };
        for Runner { session, samples, .. } in &mut self.runners[first..] {
            if let Some(session) = session {
                *samples = time_program(session, &effort)?;
                effort.warm_up = 0.0;
            }
        }
        let best = self.best().map_or(f64::INFINITY, |best| self.runners[best].seconds());
        for i in first..self.runners.len() {
            let seconds = self.runners[i].seconds();
            if i > 0 && seconds > HOPELESS * best {
                self.runners[i].session = None;
            } else if self.effort.at_once(seconds) > 1 {
                self.sample(i, self.effort.at_once(seconds) - 1)?;
            }
        }
        Ok(())
    }

    /// Keeps the sessions of the best few, and of the rules' choice.
    fn drop_sessions(&mut self, keep: usize) {
        let mut order: Vec<usize> = (1..self.runners.len()).collect();
        order.sort_by(|a, b| self.runners[*a].seconds().total_cmp(&self.runners[*b].seconds()));
        order.into_iter().skip(keep - 1).for_each(|i| self.runners[i].session = None);
    }

    /// The best few against each other, in turns.
    fn finals(&mut self) -> Result<()> {
        for _ in 0..self.effort.rounds {
            let running: Vec<usize> = (0..self.runners.len()).filter(|i| self.runners[*i].session.is_some()).collect();
            if running.len() < 2 || self.effort.is_over() {
                return Ok(());
            }
            for i in running {
                let count = self.effort.at_once(self.runners[i].samples.median());
                self.sample(i, count)?;
            }
            let Some(best) = self.best() else { return Ok(()) };
            let [_, high] = self.runners[best].samples.interval();
            for i in 1..self.runners.len() {
                if i != best && self.runners[i].samples.interval()[0] > high {
                    self.runners[i].session = None;
                }
            }
        }
        Ok(())
    }

    fn sample(&mut self, index: usize, count: usize) -> Result<Samples> {
        let Runner { samples, session, .. } = &mut self.runners[index];
        let session = session.as_mut().expect("only what has a session is sampled");
        take(samples, session, count)
    }

    /// The rules' choice, unless another one is faster, or it is wrong.
    fn winner(&mut self) -> Result<usize> {
        for Runner { trial, samples, .. } in &mut self.runners {
            trial.seconds = samples.seconds().to_vec();
        }
        // Those that were dropped have older samples than those that went on.
        let running = (0..self.runners.len()).filter(|i| self.runners[*i].session.is_some());
        let running = running.min_by(|a, b| self.runners[*a].seconds().total_cmp(&self.runners[*b].seconds()));
        let Some(best) = running else {
            let why =
                self.runners.iter().filter_map(|r| Some(format!("{}: {}", r.trial.label(), r.trial.wrong.as_ref()?)));
            return Err(Error::Kernel(format!(
                "{}: no variant agrees with the reference: {}",
                self.operation,
                why.collect::<Vec<_>>().join("; ")
            )));
        };
        if best == 0 || self.runners[0].trial.wrong.is_some() {
            return Ok(best);
        }
        let (mut before, mut after) = (Samples::default(), Samples::default());
        let known = |samples: &Samples| samples.uncertainty() < 0.01;
        while before.len() < self.effort.duel.max(DUEL) {
            for (index, samples) in [(0, &mut before), (best, &mut after)] {
                self.sample(index, 2)?.seconds().iter().for_each(|seconds| samples.push(*seconds));
            }
            if before.len() >= DUEL && (self.effort.is_over() || known(&before) && known(&after)) {
                break;
            }
        }
        for index in [0, best] {
            self.runners[index].trial.seconds = self.runners[index].samples.seconds().to_vec();
        }
        Ok(if before.verdict(&after) == Verdict::Faster { best } else { 0 })
    }
}

/// Takes samples of a session and adds them to those that there are; returns the new ones.
fn take(samples: &mut Samples, session: &mut GpuSession, count: usize) -> Result<Samples> {
    let new = time_program(session, &exactly(count))?;
    new.seconds().iter().for_each(|seconds| samples.push(*seconds));
    Ok(new)
}

/// As many samples, whatever they take, of a device that has just been busy.
fn exactly(count: usize) -> Effort {
    Effort { least: count, most: count, warm_up: 0.0, ..Effort::default() }
}

/// The kernels that a program launches in every step, sorted.
fn kernels_of_step(program: &Program) -> Vec<String> {
    let kernels: BTreeSet<&str> =
        program.step.iter().map(|launch| program.kernels[launch.kernel].name.as_str()).collect();
    kernels.into_iter().map(str::to_owned).collect()
}
