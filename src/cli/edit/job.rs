//! What both commands share: a picture, a model like Stable Diffusion 1 and 2, DDIM; and a result with its account.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::backend::{Device, LoadOptions};
use crate::cli::sample::{Failures, Output, Reporter};
use crate::cli::{load_options, say, tell, words};
use crate::error::{Error, Result};
use crate::files::Disk;
use crate::generate::{
    Hashes, Models, Notes, Overlay, Record, hash, in_folder_of, named_paths, parameters, places, read_inputs,
    take_from_prompts,
};
use crate::output::is_same_file;
use crate::refusal::Refusal;
use crate::request::{Request, Resolved};
use crate::tensor::{DType, HostTensor};

/// The share of the noise that is added and taken away, unless asked for: that of diffusers' DiffEdit.
const STRENGTH: f64 = 0.8;

/// A picture that is to be changed, with all that changes it.
pub struct Job {
    pub models: Models,
    pub resolved: Resolved,
    pub device: Device,
    /// What the result is laid over.
    pub overlay: Option<Overlay>,
    output: Output,
}

/// An option, without help if it is one of the fields that are `not_here`.
pub fn hidden(arg: clap::Arg, not_here: &[&str]) -> clap::Arg {
    let hide = not_here.contains(&arg.get_id().as_str());
    if hide { arg.hide(true) } else { arg }
}

/// Refuses fields that have no meaning here.
///
/// # Errors
/// A refusal of the field.
pub fn check(request: &Request, not_here: &[&'static str]) -> Result<()> {
    let given = request.to_json()?;
    match not_here.iter().find(|field| given.get(field).is_some()) {
        Some(field) => Err(Refusal::of(field, "one picture becomes one other, and no run has this part").into()),
        None => Ok(()),
    }
}

impl Job {
    /// Opens the models and the device, and reads the picture. `written` are the options that name files to write, with
    /// these, the result first.
    ///
    /// # Errors
    /// As the library.
    pub fn open(mut request: Request, written: &[(&str, Option<&PathBuf>)]) -> Result<Self> {
        let mut notes = Notes::default();
        let given = request.clone();
        let find = |name: &str| in_folder_of(&given, name);
        take_from_prompts(&mut request, &find, given.weighting, &mut notes, &mut Err)?;
        tell(&mut notes);
        request.scheduler.get_or_insert("ddim".to_owned());
        let path = written.iter().find_map(|(_, path)| *path).expect("a result is written");
        let output = Output::new(path, false, None)?;
        output.check(1)?;
        // What `fits` says of a strength without a picture would not be what is missing.
        if request.image.is_some() {
            request.strength.get_or_insert(STRENGTH);
        }

        let models = Models::open(&request, &mut notes);
        tell(&mut notes);
        let mut models = models?;
        let mut resolved = models.resolve(&request.into(), None)?;
        check_distinct(written, &resolved.request)?;
        // Whoever gives a config has chosen.
        if resolved.request.scheduler_config.is_none() && models.unclip(&mut resolved)? {
            say(format_args!("note: the estimate of x_0 is not clipped, so that the way back is the way there"));
        }
        resolved.notes.iter().for_each(|note| say(format_args!("note: {}", words::in_flags(note))));
        resolved.request.model = Some(places::remembered(models.model.checkpoint.path()));
        let channels = models.model.pipeline.picture_channels();
        let overlay = read_inputs(&mut resolved.options, &resolved.request, channels, &Disk, &mut notes)?;
        tell(&mut notes);
        models.model.pipeline.check_editable(&resolved.options)?;
        let device = resolved.request.device.open()?;
        say(format_args!("device: {}", device.describe()));
        Ok(Self { models, resolved, device, overlay, output })
    }

    /// How graphs are prepared.
    ///
    /// # Errors
    /// As [`load_options`].
    pub fn load(&self) -> Result<LoadOptions> {
        load_options(&self.resolved.request.device, &self.device)
    }

    /// What values are stored as.
    pub fn dtype(&self) -> DType {
        self.resolved.request.precision.unwrap_or_default().dtype()
    }

    /// Tells of so many calls of the model.
    pub fn reporter(&self, steps: usize) -> Reporter {
        Reporter::new(steps, matches!(self.device, Device::Reference))
    }

    /// Writes the result with its settings: `account` is what they are besides those of a request, under the name of
    /// the command.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn write(&self, images: &HostTensor, command: &str, account: Value) -> Result<()> {
        let mut notes = Notes::default();
        self.models.take_notes(&mut notes);
        tell(&mut notes);
        let (scheduler, refiner_scheduler) = self.models.schedulers();
        let record = Record {
            version: Record::version(),
            device: self.device.describe(),
            tuned: self.load()?.plan.choice.tuned.id(),
            options: self.resolved.request.clone(),
            scheduler,
            refiner_scheduler,
            files: hash(&self.models.paths(&self.resolved.request)?, &Hashes::default())?,
        };
        let size = (images.shape[3], images.shape[2]);
        // No words can end the value.
        let source = account["source"].as_str().unwrap_or_default().replace(['"', ',', ':', '\n'], "_");
        let text = format!("{}, Command: {command}, Source: {source}", parameters(&record, None, size));
        let mut json: Value = serde_json::from_str(&record.to_json()?).expect("a record writes JSON");
        json[command] = account;
        let texts = [("parameters".to_owned(), text), (format!("unmist-{command}"), json.to_string())];
        let failures = Failures::default();
        self.output.write(images, &|_| texts.to_vec(), &failures)?;
        failures.finish()
    }
}

/// Refuses a run that would overwrite one of its own results, or a file that it reads.
fn check_distinct(written: &[(&str, Option<&PathBuf>)], request: &Request) -> Result<()> {
    let written: Vec<(&str, &Path)> =
        written.iter().filter_map(|(option, path)| Some((*option, path.as_ref()?.as_path()))).collect();
    let mut read = named_paths(request);
    read.extend(request.model.iter().map(|path| ("model", path.clone())));
    for (i, (option, path)) in written.iter().enumerate() {
        let later = written[i + 1..].iter().map(|(other, path)| (*other, path.to_path_buf()));
        if let Some((other, _)) = later.chain(read.iter().cloned()).find(|(_, other)| is_same_file(path, other)) {
            return Err(Error::Usage(format!(
                "{} and {} name the same file, {}, which would be overwritten; give another name",
                words::flag(option),
                words::flag(other),
                path.display()
            )));
        }
    }
    Ok(())
}
