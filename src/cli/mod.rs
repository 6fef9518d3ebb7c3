//! The command line: one file a command.

mod anomaly;
mod batch;
mod bench;
mod convert;
mod devices;
mod edit;
mod explain;
mod folder;
mod inspect;
mod interpolate;
mod loss;
mod noise;
mod panels;
mod run;
mod sample;
mod schedule;
#[cfg(feature = "serve")]
mod serve;
mod train;
mod tune;
mod unused;
mod verify;
mod words;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::backend::{Device, LoadOptions};
use crate::error::Result;
use crate::generate::Notes;
use crate::output::{check_writable, write_atomic};
use crate::request::DeviceRequest;
use crate::trace;

/// A diffusion engine whose every arithmetic step is a hand-written WGSL kernel.
#[derive(Parser)]
#[command(version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes pictures
    Sample(Box<sample::Args>),
    /// Writes a model again, as a folder of diffusers or as a single file, with LoRAs merged in
    Convert(convert::Args),
    /// Makes the pictures of many requests, a request a line
    Batch(Box<batch::Args>),
    /// Makes pictures for other programs over HTTP, and has a page for people
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
    /// Runs one component of a model once on given tensors
    Run(run::Args),
    /// Shows the forward process: a picture with more and more noise
    Noise(noise::Args),
    /// Makes pictures on the way from one to another: between seeds, or between pictures
    Interpolate(Box<interpolate::Args>),
    /// Changes a picture where its description changes: finds the place by itself, and keeps the rest (DiffEdit)
    Edit(Box<edit::Args>),
    /// Makes a picture again in the style of a prompt, with the layout that it has
    Style(Box<edit::StyleArgs>),
    /// Shows noise levels: those that a model was trained on, and those that a run visits
    Schedule(schedule::Args),
    /// Measures the training objective of a model on pictures, and for models on pixels the likelihood of these
    Loss(loss::Args),
    /// Finds where pictures are unlike those that a model was trained on: noised, made again, and compared
    Anomaly(Box<anomaly::Args>),
    /// Trains a model on pictures, or goes on with a run
    Train(Box<train::Args>),
    /// Makes a picture and a page about it: every step, noise levels, attention, the network's numbers, and each
    /// operation with its formula, kernels, CPU reference, gradient and time
    Explain(Box<explain::Args>),
    /// Lists the adapters, and which one `auto` takes
    Devices(devices::Args),
    /// Shows what unmist understands of a model: config, graph, kernels, memory
    Inspect(inspect::Args),
    /// Checks every kernel, and a model, against the CPU reference on this device
    Verify(verify::Args),
    /// Times a model and each of its operations on this device, against what the device can do at most
    Bench(Box<bench::Args>),
    /// Measures which kernels are the fastest on this device, for all other commands
    Tune(tune::Args),
}

pub use sample::settings_of_others;

/// Parses the command line, runs the command, prints an error if there is one.
pub fn main() -> ExitCode {
    let command = words::with_flags_in_help(Cli::command());
    let matches = command.clone().get_matches();
    let arguments: Vec<String> = matches
        .subcommand_name()
        .and_then(|name| command.find_subcommand(name))
        .map(|command| command.get_arguments().map(|argument| argument.get_id().to_string()).collect())
        .unwrap_or_default();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Sample(args) => sample::run(*args),
        Command::Batch(args) => batch::run(*args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(*args),
        Command::Convert(args) => convert::run(args),
        Command::Run(args) => run::run(args),
        Command::Noise(args) => noise::run(args),
        Command::Interpolate(args) => interpolate::run(*args),
        Command::Edit(args) => edit::run(*args),
        Command::Style(args) => edit::run_style(*args),
        Command::Schedule(args) => schedule::run(args),
        Command::Loss(args) => loss::run(args),
        Command::Anomaly(args) => anomaly::run(*args),
        Command::Train(args) => train::run(*args),
        Command::Explain(args) => explain::run(*args),
        Command::Devices(args) => devices::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(*args),
        Command::Tune(args) => tune::run(args),
    };
    exit_code(result, &arguments)
}

/// Says what went wrong, with advice that the `arguments` of the command can follow.
fn exit_code(result: Result<()>, arguments: &[String]) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = error.offering(&|field| arguments.iter().any(|argument| argument == field));
            say(format_args!("error: {}", error.in_words(&words::flag)));
            ExitCode::FAILURE
        }
    }
}

/// Does `work` and records it into a file, if one is asked for. What the device did is in it if `work` has called
/// [`Device::end_trace`]. Work that fails writes nothing: it may have failed because the file is one that it reads.
///
/// # Errors
/// What `work` returns; as [`check_writable`] before it begins.
fn traced(path: Option<&Path>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(path) = path else { return work() };
    check_writable(path)?;
    trace::begin();
    work()?;
    let recording = trace::finish().expect("it was begun, and nothing else ends it");
    recording.notes().iter().for_each(|note| say(format_args!("trace: {note}")));
    write_atomic(path, |file| file.write_all(recording.to_json().as_bytes()))
}

/// How graphs are prepared for `device`; says what the user should know of it.
///
/// # Errors
/// As [`DeviceRequest::load_options`].
fn load_options(request: &DeviceRequest, device: &Device) -> Result<LoadOptions> {
    let (load, notes) = request.load_options(device)?;
    notes.iter().for_each(|note| say(format_args!("note: {note}")));
    Ok(load)
}

/// Writes a line to standard error. That nobody can read it (a closed pipe, a full disk) is no reason to end a run.
fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says what there is to note, with flags for fields.
fn tell(notes: &mut Notes) {
    notes.take().iter().for_each(|line| say(format_args!("{}", words::in_flags(line))));
}

/// Prints to standard output; a closed pipe (`unmist inspect | head`) ends the program quietly instead of with a panic.
fn print(text: &str) {
    use std::io::Write;
    if std::io::stdout().lock().write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}
