//! Going through the inputs, and saying what became of them.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{self, Clock, KeptPanics, LIMITS};
use crate::kinds::{self, Kind};
use crate::random::Random;

/// Inputs that `cargo test` makes.
const INPUTS: u64 = 20_000;

/// Failures after which the run ends: there is something to mend.
const ENOUGH: usize = 20;

/// What to run.
pub struct Options {
    pub inputs: u64,
    pub seed: u64,
    /// How the names of the kinds begin.
    pub kind: String,
    /// The number of the only input.
    pub only: Option<u64>,
}

impl Options {
    pub fn from_environment() -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a whole number")))
        };
        Self {
            inputs: number("UNMIST_FUZZ_INPUTS").unwrap_or(INPUTS),
            seed: number("UNMIST_FUZZ_SEED").unwrap_or(1),
            kind: std::env::var("UNMIST_FUZZ_KIND").unwrap_or_default(),
            only: number("UNMIST_FUZZ_ONLY"),
        }
    }
}

/// What became of the inputs of one kind.
#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    slowest: Duration,
    memory: usize,
}

/// What became of all.
pub struct Report {
    seed: u64,
    time: Duration,
    tallies: Vec<(String, Tally)>,
    /// Kind and number of each input that did harm, what it did, and where it is kept.
    pub failures: Vec<String>,
    /// Kinds whose inputs are nearly all read, or nearly all refused.
    pub one_sided: Vec<String>,
}

/// Runs all inputs, or those that the options ask for.
pub fn run(options: &Options) -> Report {
    let kinds: Vec<Kind> = kinds::all();
    // Whichever kinds are chosen, an input keeps its number and what it is.
    let turns: Vec<usize> = (0..kinds.len()).flat_map(|kind| vec![kind; kinds[kind].share]).collect();
    let chosen = |number: u64| {
        // In steps that have no divisor in common with the number of turns, so that kinds are mixed.
        let turn = (number % turns.len() as u64 * step(turns.len()) % turns.len() as u64) as usize;
        let kind = turns[turn];
        kinds[kind].name.starts_with(&options.kind).then_some(kind)
    };
    let numbers = match options.only {
        Some(only) => only..only + 1,
        None => 0..options.inputs,
    };
    let watch = Watch::start();
    let start = Instant::now();
    let mut tallies: Vec<Tally> = kinds.iter().map(|_| Tally::default()).collect();
    let mut failures = Vec::new();
    let kept = KeptPanics::new();
    for number in numbers {
        let Some(at) = chosen(number) else { continue };
        let (kind, tally) = (&kinds[at], &mut tallies[at]);
        let input = (kind.make)(&mut Random::of(options.seed, &kind.name, number));
        watch.begins(&kind.name, number, &input);
        let again = input.clone();
        match harness::watched(input.len(), LIMITS, || (kind.read)(input)) {
            Ok(outcome) => {
                *(if outcome.accepted { &mut tally.accepted } else { &mut tally.refused }) += 1;
                tally.slowest = tally.slowest.max(outcome.time);
                tally.memory = tally.memory.max(outcome.memory);
            }
            Err(harm) => {
                let place = keep(&format!("{}-{}-{number}", kind.name.replace('/', "-"), options.seed), &again);
                let failure = format!("{} {number}: {harm} (the input: {})", kind.name, place.display());
                eprintln!("harm: {failure}");
                failures.push(failure);
            }
        }
        if failures.len() >= ENOUGH {
            break;
        }
        if number > 0 && number % 50_000 == 0 {
            eprintln!("{number} inputs in {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    drop(watch);
    drop(kept);
    let tallies: Vec<_> = kinds.iter().map(|kind| kind.name.clone()).zip(tallies).collect();
    let one_sided = kinds.iter().zip(&tallies).filter(|(kind, (_, tally))| {
        let all = tally.accepted + tally.refused;
        let few = |found: u64, expected: u64| found * 1000 < all * expected;
        all >= 200 && (few(tally.accepted, kind.expected[0]) || few(tally.refused, kind.expected[1]))
    });
    let one_sided = one_sided.map(|(kind, _)| kind.name.clone()).collect();
    Report { seed: options.seed, time: start.elapsed(), tallies, failures, one_sided }
}

/// About 0.618 of `turns`, without a common divisor.
fn step(turns: usize) -> u64 {
    let divides = |a: u64, b: u64| (2..=a.min(b)).any(|d| a.is_multiple_of(d) && b.is_multiple_of(d));
    let first = turns as u64 * 618 / 1000 + 1;
    (first..).find(|step| !divides(*step, turns as u64)).expect("a prime beyond the number of turns")
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, input).expect("written");
    path
}

/// Ends the process if an input takes longer than it may: what hangs does not come back to be measured.
struct Watch {
    now: Arc<Mutex<Now>>,
    stop: Arc<AtomicBool>,
}

/// The input that is being read, and since when.
struct Now {
    name: String,
    input: Vec<u8>,
    computed: Duration,
    since: Instant,
    clock: Clock,
}

impl Watch {
    fn start() -> Self {
        let clock = Clock::new();
        let now = Now { name: String::new(), input: vec![], computed: clock.now(), since: Instant::now(), clock };
        let watch = Self { now: Arc::new(Mutex::new(now)), stop: Arc::default() };
        let (now, stop) = (watch.now.clone(), watch.stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(500));
                let Ok(now) = now.lock() else { return };
                // Some more than it may, so that what comes back late is told by the measurement; or it only waits.
                let computed = now.clock.now().saturating_sub(now.computed);
                if !now.name.is_empty() && (computed > 2 * LIMITS.time || now.since.elapsed() > 60 * LIMITS.time) {
                    let place = keep(&now.name.replace(['/', ' '], "-"), &now.input);
                    eprintln!("harm: {} hangs (the input: {})", now.name, place.display());
                    std::process::exit(101);
                }
            }
        });
        watch
    }

    fn begins(&self, kind: &str, number: u64, input: &[u8]) {
        let mut now = self.now.lock().expect("the watch does not panic");
        now.name.clear();
        fmt::Write::write_fmt(&mut now.name, format_args!("{kind} {number}")).expect("a string takes everything");
        now.input.clear();
        now.input.extend_from_slice(input);
        now.computed = now.clock.now();
        now.since = Instant::now();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:34} {:>9} {:>9} {:>9} {:>9}", "kind", "read", "refused", "slowest", "memory")?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, tally: &Tally| {
            let (time, memory) = (tally.slowest.as_secs_f64() * 1e3, tally.memory as f64 / f64::from(1 << 20));
            writeln!(f, "{name:34} {:9} {:9} {time:6.0} ms {memory:5.0} MiB", tally.accepted, tally.refused)
        };
        let mut all = Tally::default();
        for (name, tally) in self.tallies.iter().filter(|(_, tally)| tally.accepted + tally.refused > 0) {
            line(f, name, tally)?;
            all.accepted += tally.accepted;
            all.refused += tally.refused;
            all.slowest = all.slowest.max(tally.slowest);
            all.memory = all.memory.max(tally.memory);
        }
        line(f, "all", &all)?;
        let (inputs, seconds) = (all.accepted + all.refused, self.time.as_secs_f64());
        writeln!(f, "{inputs} inputs of seed {} in {seconds:.0} s; {} did harm", self.seed, self.failures.len())?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "harm: {failure}"))
    }
}
