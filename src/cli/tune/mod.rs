//! `unmist tune`: measures which variants and settings of kernels are the fastest on this device.

mod jobs;
mod report;
mod whole;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::unused::Unused;
use super::{print, say};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::measure::{self, TuneEffort};
use crate::models::Preset;
use crate::output::check_writable;
use crate::plan::{Table, Tuned};
use crate::request::Precision;
use jobs::Part;
use report::Report;

/// Options of `unmist tune`.
#[derive(clap::Args)]
pub struct Args {
    /// Model folder in diffusers' layout, or a single file in the original layout [default: a model from weights/]
    #[arg(long, value_name = "DIR|FILE")]
    model: Option<PathBuf>,
    /// One component alone: unet, vae.encoder, vae.decoder, text_encoder, text_encoder_2 [default: all that make a
    /// picture]
    #[arg(long, value_name = "NAME")]
    component: Option<String>,
    /// A well-known model with random parameters in place of one from a file
    #[arg(long, value_enum, conflicts_with_all = ["model", "component"])]
    preset: Option<Preset>,
    /// Pictures or texts at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch_size: usize,
    /// Columns of the finished picture; with --component or --preset, of the picture or latent that goes in [default:
    /// the model's own]
    #[arg(long, value_name = "PIXELS")]
    width: Option<usize>,
    /// Rows, likewise [default: the model's own]
    #[arg(long, value_name = "PIXELS")]
    height: Option<usize>,
    /// Storage of weights and activations
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// A first look in at most two minutes: fewer samples, and what takes most of the time first
    #[arg(long)]
    quick: bool,
    /// Stop after about this many seconds; what takes most of the time comes first [default: when all is measured; with
    /// --quick 120]
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Try every setting of a variant that is not hopeless, instead of neighbours of its best
    #[arg(long)]
    every_setting: bool,
    /// Measure again what is in the table already
    #[arg(long)]
    again: bool,
    /// Measure nothing; show what the table has
    #[arg(long, conflicts_with_all = ["export", "import"])]
    report: bool,
    /// Measure nothing; write the table to a file, for other machines with this device
    #[arg(long, value_name = "FILE", conflicts_with = "import")]
    export: Option<PathBuf>,
    /// Measure nothing; take over from such a file what the table does not have
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Take over what was measured on another device or with another driver, too
    #[arg(long, requires = "import")]
    any_device: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    unused: Unused,
    /// auto (the best adapter), an adapter's index or part of its name: see `unmist devices`
    #[arg(long, default_value = "auto", value_name = "INDEX|NAME")]
    device: String,
    /// The table to read and to write, which other commands then take with --tuned FILE [default: this device's in the
    /// user's cache folder, which they find themselves]
    #[arg(long, value_name = "FILE")]
    tuned: Option<PathBuf>,
    /// Switch a graph rewrite off (activation, gate, epilogue, qkv); may be repeated
    #[arg(long, value_name = "PASS")]
    disable_pass: Vec<String>,
}

/// Seconds of `--quick`.
const QUICK: f64 = 120.0;

/// Runs the command.
///
/// # Errors
/// As the library; [`Error::Device`] without an adapter. What was measured until then is in the table.
pub fn run(args: Args) -> Result<()> {
    let Device::Gpu(gpu) = Device::open(&args.device)? else {
        return Err(Error::Device("tune measures kernels, but there is no adapter, or it was not asked for".into()));
    };
    let seconds = args.seconds.or(args.quick.then_some(QUICK));
    if seconds.is_some_and(|seconds| !(seconds > 0.0 && seconds.is_finite())) {
        return Err(Error::Usage("--seconds: expected a number above 0".into()));
    }
    let (path, mut table) = open_table(&args, &gpu)?;
    if args.report {
        print(&Report::of_table(&table, &path).text(args.json));
        return Ok(());
    }
    if let Some(file) = &args.export {
        return export(&table, &path, file);
    }
    if let Some(file) = &args.import {
        return import(&mut table, &path, file, &gpu, args.any_device);
    }
    // Instants cannot hold any number of seconds.
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.min(1e8)));
    check_writable(&path)?;
    let parts = jobs::parts(&args, &gpu)?;
    let mut report = Report::new(&table, &path, &parts);
    // A tenth of the time is for the whole.
    let singly =
        seconds.zip(deadline).map(|(seconds, deadline)| deadline - Duration::from_secs_f64(seconds.min(1e8) / 10.0));
    measure(&args, &gpu, &parts, singly, (&path, &mut table), &mut report)?;
    let tuned = Tuned::new(table.usable());
    for (index, part) in parts.iter().enumerate() {
        if deadline.is_none_or(|deadline| Instant::now() < deadline) {
            report.whole(index, whole::compare(&gpu, part, &tuned, deadline)?);
        }
    }
    print(&report.text(args.json));
    Ok(())
}

/// Measures all jobs, those first that take the most time, and writes the table after each.
fn measure(
    args: &Args,
    gpu: &GpuDevice,
    parts: &[Part],
    deadline: Option<Instant>,
    (path, table): (&Path, &mut Table),
    report: &mut Report,
) -> Result<()> {
    let tell = |line: String| if args.json { say(format_args!("{line}")) } else { print(&format!("{line}\n")) };
    let (known, mut left) = jobs::jobs(parts, gpu, table, args.again)?;
    let all = known.len() + left.len();
    tell(report.heading(all, known.len()));
    known.into_iter().for_each(|(job, entry)| report.add(&job, entry));
    jobs::order(&mut left, gpu, deadline)?;
    let effort = if args.quick { TuneEffort::QUICK } else { TuneEffort::FULL };
    let mut rest: f64 = left.iter().map(|job| job.weight).sum();
    let done = all - left.len();
    let mut left = left.into_iter();
    for (number, job) in left.by_ref().enumerate() {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            report.left += 1;
            break;
        }
        // Each has the share of the time that is left which it has of the work that is left, and a second.
        let share = (job.weight / rest.max(f64::MIN_POSITIVE)).min(1.0);
        let own =
            |deadline: Instant| now + ((deadline - now).mul_f64(share) + Duration::from_secs(1)).min(deadline - now);
        rest -= job.weight;
        let effort = TuneEffort { deadline: deadline.map(own), every_setting: args.every_setting, ..effort };
        match measure::tune(gpu, &job.instance, effort) {
            Ok(entry) => {
                table.insert(entry.clone());
                table.write(path)?;
                tell(format!("{:>3}/{all} {}", done + number + 1, report.line(&job, &entry)));
                report.add(&job, entry);
            }
            Err(error @ Error::Device(_)) => return Err(error),
            // Too large for this device, or a broken kernel: the other instances need not suffer.
            Err(error) => tell(format!("{:>3}/{all} {}: {error}", done + number + 1, job.label())),
        }
    }
    report.left += left.count();
    Ok(())
}

/// The table to work on, and where it is.
fn open_table(args: &Args, gpu: &GpuDevice) -> Result<(PathBuf, Table)> {
    let empty = gpu.empty_table();
    if let Some(path) = &args.tuned {
        if !path.exists() {
            return Ok((path.clone(), empty));
        }
        let table = Table::read(path)?;
        table.check(path)?;
        return if table.device == empty.device { Ok((path.clone(), table)) } else { Err(other(path, &table, &empty)) };
    }
    let path = gpu.table_path().ok_or_else(|| {
        Error::Usage(
            "there is no cache folder for the table; give a file with --tuned FILE, or set UNMIST_CACHE".into(),
        )
    })?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    match Table::read(&path) {
        Ok(table) => Ok((path, table)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok((path, empty)),
        Err(error) => {
            say(format_args!("note: {error}; a new table takes its place"));
            Ok((path, empty))
        }
    }
}

/// A table of another device.
fn other(path: &Path, table: &Table, here: &Table) -> Error {
    Error::Usage(format!("{} was measured on {}, this device is {}", path.display(), table.device, here.device))
}

fn export(table: &Table, path: &Path, file: &Path) -> Result<()> {
    let entries = table.usable();
    if entries.is_empty() {
        let why = format!("{} has no measurements of the kernels there are; `unmist tune` makes some", path.display());
        return Err(Error::Usage(why));
    }
    let count = entries.len();
    Table { entries, ..table.clone() }.write(file)?;
    print(&format!("{count} instances measured on {} to {}\n", table.device, file.display()));
    Ok(())
}

fn import(table: &mut Table, path: &Path, file: &Path, gpu: &GpuDevice, any_device: bool) -> Result<()> {
    let given = Table::read(file)?;
    given.check(file)?;
    let here = gpu.empty_table();
    if given.device != here.device && !any_device {
        let Error::Usage(why) = other(file, &given, &here) else { unreachable!("it is made so") };
        return Err(Error::Usage(format!("{why}; give --any-device to take it over all the same")));
    }
    let (usable, all) = (given.usable(), given.entries.len());
    let stale = all - usable.len();
    let new: Vec<_> = usable.into_iter().filter(|entry| table.find(entry).is_none()).collect();
    let (taken, known) = (new.len(), all - stale - new.len());
    new.into_iter().for_each(|entry| table.insert(entry));
    table.write(path)?;
    print(&format!(
        "{taken} of {all} instances from {} to {}; {known} are there already, {stale} are of other kernels than there \
        are now\n",
        file.display(),
        path.display()
    ));
    Ok(())
}
