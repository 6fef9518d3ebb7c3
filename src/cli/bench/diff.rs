//! `unmist bench diff`: two runs compared, operation by operation.

use std::path::PathBuf;

use super::{table, write};
use crate::cli::{print, say};
use crate::error::{Error, Result};
use crate::measure::{Operation, Report, Samples, Verdict};

/// Options of `unmist bench diff`.
#[derive(clap::Args)]
pub struct Args {
    /// The run before
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The run after
    #[arg(value_name = "B.json")]
    after: PathBuf,
    /// Also of two devices
    #[arg(long)]
    other_device: bool,
    /// Fails if anything is slower
    #[arg(long)]
    fail_on_slower: bool,
    /// Also what is the same
    #[arg(long)]
    all: bool,
}

/// Rows on screen, unless all are asked for.
const MOST: usize = 16;

/// What the first row is called.
const STEP: &str = "whole step";

/// Ceilings that differ by more say that the machine was busy in one of the runs.
const BUSY: f64 = 0.1;

/// One thing in both runs.
struct Row<'a> {
    what: String,
    before: &'a Samples,
    after: &'a Samples,
    /// How often a step does it.
    times: f64,
    /// What else changed.
    note: String,
}

impl Row<'_> {
    fn verdict(&self) -> Verdict {
        self.before.verdict(self.after)
    }

    /// Seconds that a step gains or loses by it.
    fn change(&self) -> f64 {
        self.times * (self.after.median() - self.before.median())
    }

    fn text(&self) -> String {
        let range = |samples: &Samples| {
            let [low, high] = samples.interval();
            format!("{:>10.3} ({:.3} to {:.3})", 1e3 * samples.median(), 1e3 * low, 1e3 * high)
        };
        format!(
            "{:<7} {:>6.3} {} → {} ms  {}{}\n",
            table::verdict(self.verdict()),
            self.after.median() / self.before.median(),
            range(self.before),
            range(self.after),
            self.what,
            self.note
        )
    }
}

/// Runs the command.
///
/// # Errors
/// [`Error::Config`] for files that bench did not write; [`Error::Usage`] for two devices, or runs with nothing in
/// common; [`Error::Kernel`] if something is slower, where that was asked for.
pub fn run(args: &Args) -> Result<()> {
    let (before, after) = (write::read(&args.before)?, write::read(&args.after)?);
    let (a, b) = (args.before.display(), args.after.display());
    if before.device != after.device {
        let devices = format!("{a} is of {}, {b} of {}", before.device, after.device);
        if !args.other_device {
            return Err(Error::Usage(format!(
                "{devices}: what differs may be the device's doing; --other-device compares them all the same"
            )));
        }
        say(format_args!("warning: {devices}: what differs may be the device's doing"));
    }
    print(table::caution(&after));
    let step = match (&before.step, &after.step) {
        (Some(x), Some(y)) if before.subject == after.subject => {
            let (what, note) = (STEP.to_owned(), String::new());
            Some(Row { what, before: &x.seconds, after: &y.seconds, times: 1.0, note })
        }
        _ => None,
    };
    let (mut operations, only_before, only_after) = paired(&before, &after);
    if operations.is_empty() && step.is_none() {
        return Err(Error::Usage(format!("{a} and {b} have no operation with the same shapes in common")));
    }
    operations.sort_by(|x, y| y.change().abs().total_cmp(&x.change().abs()));
    let rows: Vec<Row<'_>> = step.into_iter().chain(operations).collect();
    print(&ceilings(&before, &after));
    print("verdict  ratio   before: median (interval that holds it) → after\n");
    let shown = |row: &&Row<'_>| args.all || row.verdict() != Verdict::Same || row.what == STEP;
    let most = if args.all { rows.len() } else { MOST };
    rows.iter().filter(shown).take(most).for_each(|row| print(&row.text()));
    let more = rows.iter().filter(shown).count().saturating_sub(most);
    if more > 0 {
        print(&format!("and {more} more of less weight (--all shows them)\n"));
    }
    let count = |verdict: Verdict| rows.iter().filter(|row| row.verdict() == verdict).count();
    let [faster, slower, same] = [Verdict::Faster, Verdict::Slower, Verdict::Same].map(count);
    print(&format!("{faster} faster, {slower} slower, {same} the same within noise or 2 %\n"));
    for (file, only) in [(&a, only_before), (&b, only_after)] {
        if !only.is_empty() {
            print(&format!("only in {file}: {}\n", only.join("; ")));
        }
    }
    if args.fail_on_slower && slower > 0 {
        return Err(Error::Kernel(format!("{slower} of {} timings are slower in {b}", rows.len())));
    }
    Ok(())
}

/// How far the device itself differs. Samples of one run know nothing of what the other run had to share the machine
/// with; ceilings do.
fn ceilings(before: &Report, after: &Report) -> String {
    let (a, b) = (&before.ceilings, &after.ceilings);
    let apart = |a: f64, b: f64| (a / b - 1.0).abs().max((b / a - 1.0).abs());
    let most = apart(a.fma_f32.rate(), b.fma_f32.rate()).max(apart(a.copy.rate(), b.copy.rate()));
    if most > BUSY {
        say(format_args!(
            "warning: the ceilings of the two runs are {:.0} % apart: the device was busy in one of them, and \
            differences of that size mean nothing",
            100.0 * most
        ));
    }
    let part = |what: &str, before: f64, after: f64| format!("{what} {:.1} → {:.1}", before / 1e9, after / 1e9);
    format!(
        "ceilings: {} GFLOP/s, {} GB/s\n",
        part("f32", a.fma_f32.rate(), b.fma_f32.rate()),
        part("copy", a.copy.rate(), b.copy.rate())
    )
}

/// Operations of both runs with the same shapes; what only one of them has.
fn paired<'a>(before: &'a Report, after: &'a Report) -> (Vec<Row<'a>>, Vec<String>, Vec<String>) {
    let partner = |of: &Operation, own: &Report, other: &'a Report| -> Option<&'a Operation> {
        let alike: Vec<&Operation> = other.operations.iter().filter(|o| o.key() == of.key()).collect();
        let alone = own.operations.iter().filter(|o| o.key() == of.key()).count() == 1;
        match alike.as_slice() {
            [one] if alone => Some(*one),
            several => several.iter().copied().find(|o| o.variant == of.variant && o.knobs == of.knobs),
        }
    };
    let name = |o: &Operation| format!("{} {}", o.operation, o.shapes);
    let (mut rows, mut only_before) = (Vec::new(), Vec::new());
    for a in &before.operations {
        let Some(b) = partner(a, before, after) else {
            only_before.push(format!("{} by {}", name(a), a.variant));
            continue;
        };
        let way =
            |o: &Operation| if o.knobs.is_empty() { o.variant.clone() } else { format!("{} [{}]", o.variant, o.knobs) };
        let note = match (way(a), way(b)) {
            (a, b) if a == b => format!("  by {a}"),
            (a, b) => format!("  by {a}, now {b}"),
        };
        let times = a.nodes.len().max(1) as f64;
        rows.push(Row { what: name(a), before: &a.seconds, after: &b.seconds, times, note });
    }
    let only_after = after.operations.iter().filter(|b| partner(b, after, before).is_none());
    (rows, only_before, only_after.map(|b| format!("{} by {}", name(b), b.variant)).collect())
}
