//! What a run writes: a diffusers folder that is whole from the first step on, the state to go on from, and a log.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::events::Events;
use crate::checkpoint::{Checkpoint, Tensors, safetensors};
use crate::error::{Error, Result};
use crate::image_io::Picture;
use crate::models::{LoadedModel, Model, UNet2DModel};
use crate::output::write_atomic;
use crate::rng::{NoiseSource, TorchCpu};
use crate::tensor::HostTensor;

/// The trained U-Net in the folder.
pub const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
/// The trained LoRA in the folder.
pub const LORA: &str = "pytorch_lora_weights.safetensors";
/// The trained word in the folder.
pub const WORD: &str = "learned_embeds.safetensors";
/// Everything that the next step begins with.
const STATE: &str = "training/state.safetensors";
/// One line for each few steps.
pub const LOG: &str = "log.csv";

/// The folder of a run that has not begun: it goes again if that fails.
pub struct Fresh {
    path: PathBuf,
    /// Whether there was nothing before.
    own: bool,
}

impl Fresh {
    /// The folder that will be at `path`.
    pub fn of(path: &Path) -> Self {
        let own = std::fs::read_dir(path).map_or(!path.exists(), |mut entries| entries.next().is_none());
        Self { path: path.to_owned(), own }
    }

    /// The run has begun: what there is stays.
    pub fn keep(&mut self) {
        self.own = false;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.own {
            // There is nobody to tell if even this fails.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// What a run begins with.
pub enum Start {
    /// The model's parameters.
    Trained,
    /// Random ones, from a seed.
    Random(u64),
    /// The model stays where it is, and a LoRA beside it is trained.
    Adapter,
}

/// Makes the folder of a new run: the model's files, with its own parameters or random ones.
///
/// # Errors
/// [`Error::Usage`] if there is something at `output`; as [`crate::export::folder`].
pub fn begin(model: &Path, output: &Path, start: Start) -> Result<()> {
    let there = std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_some());
    if there || output.is_file() {
        return Err(Error::Usage(format!(
            "--output {}: there is something already; expected a new folder, or --resume to go on with the run there",
            output.display()
        )));
    }
    let checkpoint = Checkpoint::open(model)?;
    let seed = match start {
        Start::Adapter => return std::fs::create_dir_all(output).map_err(Error::io(output)),
        Start::Trained => return crate::export::folder(&checkpoint, output, None).map(drop),
        Start::Random(seed) => seed,
    };
    let config = checkpoint.component_config("unet")?;
    if checkpoint.pipeline_class().is_some_and(|class| class.starts_with("StableDiffusion")) {
        // The other parts stay as they are; the U-Net's parameters are replaced.
        crate::export::folder(&checkpoint, output, None)?;
        let loaded = LoadedModel::open(&checkpoint, "unet")?;
        return write_weights(&output.join(WEIGHTS), &random_parameters(loaded.model.as_ref(), seed)?);
    }
    let unet = UNet2DModel::from_json(&config)?;
    let parameters = random_parameters(&unet, seed)?;
    let folder = |name: &str| {
        let path = output.join(name);
        std::fs::create_dir_all(&path).map_err(Error::io(&path)).map(|()| path)
    };
    write_json(&folder("unet")?.join("config.json"), &config.value)?;
    let scheduler = checkpoint.scheduler_config("scheduler")?.value;
    write_json(&folder("scheduler")?.join("scheduler_config.json"), &scheduler)?;
    let class = checkpoint.pipeline_class().unwrap_or("DDPMPipeline");
    let index = serde_json::json!({
        "_class_name": class,
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    });
    if let Some(generation) = checkpoint.json("generation_config.json")? {
        write_json(&output.join("generation_config.json"), &generation.value)?;
    }
    write_weights(&output.join(WEIGHTS), &parameters)?;
    // Last: with it, the folder is a model.
    write_json(&output.join("model_index.json"), &index)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value always prints") + "\n";
    write_atomic(path, |out| out.write_all(text.as_bytes()))
}

/// What torch's layers begin with: matrices and filters, and the biases beside them, uniform within ±1/√fan_in; norms 1
/// and 0; embeddings normal.
fn random_parameters(model: &dyn Model, seed: u64) -> Result<BTreeMap<String, HostTensor>> {
    let parameters = model.parameters()?;
    let shapes: BTreeMap<&str, &[usize]> = parameters.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let mut random = TorchCpu::new(seed);
    let mut values = BTreeMap::new();
    for (name, shape) in &parameters {
        let (path, kind) = name.rsplit_once('.').unwrap_or(("", name));
        let weight = shapes.get(format!("{path}.weight").as_str()).copied().unwrap_or(shape);
        let embedding = weight.len() == 2 && kind == "weight" && !shapes.contains_key(format!("{path}.bias").as_str());
        let table = embedding && path.ends_with("embedding");
        let value = if table {
            random.randn(shape)
        } else if weight.len() < 2 {
            HostTensor::from_fn(shape.clone(), |_| if kind == "weight" { 1.0 } else { 0.0 })
        } else {
            let bound = 1.0 / (weight[1..].iter().product::<usize>() as f32).sqrt();
            let mut uniform = random.rand(shape);
            uniform.data.iter_mut().for_each(|v| *v = bound * (2.0 * *v - 1.0));
            uniform
        };
        values.insert(name.clone(), value);
    }
    Ok(values)
}

/// Writes parameters as diffusers reads them.
///
/// # Errors
/// [`Error::Io`]; the file that was there stays then.
pub fn write_weights(path: &Path, parameters: &BTreeMap<String, HostTensor>) -> Result<()> {
    let tensors: Vec<(&str, &HostTensor)> = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_atomic(path, |out| safetensors::write(out, &tensors, &metadata))
}

/// Where a run stands, besides its tensors.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Progress {
    /// Steps taken.
    pub step: usize,
    /// Steps that the optimizer took: those without an overflow.
    pub updates: usize,
    /// The factor on the loss in mixed precision.
    pub loss_scale: f64,
    /// Steps since it changed.
    pub steady: usize,
    /// The settings that must not change, and how many pictures there are.
    pub identity: String,
    /// How many pictures there are.
    pub pictures: usize,
}

/// Writes the state that a run goes on from.
///
/// # Errors
/// [`Error::Io`]; the state that was there stays then.
pub fn write_state(output: &Path, state: &BTreeMap<String, HostTensor>, progress: &Progress) -> Result<()> {
    let path = output.join(STATE);
    let folder = path.parent().expect("it is in a folder");
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let tensors: Vec<(&str, &HostTensor)> = state.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let progress = serde_json::to_string(progress).expect("numbers and text can be written");
    let metadata = BTreeMap::from([("progress".to_owned(), progress)]);
    write_atomic(&path, |out| safetensors::write(out, &tensors, &metadata))
}

/// The last state of a run.
///
/// # Errors
/// [`Error::Usage`] if there is none; [`Error::Checkpoint`] if it is damaged.
pub fn read_state(output: &Path) -> Result<(Tensors, Progress)> {
    let path: PathBuf = output.join(STATE);
    if !path.is_file() {
        return Err(Error::Usage(format!(
            "--resume: {} does not exist; no run has written a checkpoint to --output {} yet",
            path.display(),
            output.display()
        )));
    }
    let tensors = Tensors::open(&path)?;
    let damaged = || Error::Checkpoint(format!("{}: it is no state of a training run", path.display()));
    let text = tensors.metadata().get("progress").ok_or_else(damaged)?;
    let progress = serde_json::from_str(text).map_err(|_| damaged())?;
    Ok((tensors, progress))
}

/// Refuses to go on with a run whose U-Net is built in another way than the model's with which it is said to have
/// begun.
///
/// # Errors
/// [`Error::Usage`] naming the first field of their configs that differs; as [`Checkpoint::component_config`].
pub fn check_architecture(model: &Checkpoint, run: &Checkpoint) -> Result<()> {
    let [of_model, of_run] = [model.component_config("unet")?.value, run.component_config("unet")?.value];
    let names = |config: &serde_json::Value| -> Vec<String> {
        config.as_object().map_or(vec![], |fields| fields.keys().cloned().collect())
    };
    let fields = [names(&of_model), names(&of_run)].concat();
    // Fields that begin with an underscore say where a model came from.
    let differs = |name: &&String| !name.starts_with('_') && of_model[name.as_str()] != of_run[name.as_str()];
    let Some(name) = fields.iter().find(differs) else { return Ok(()) };
    Err(Error::Usage(format!(
        "--resume: the U-Net of --model {} has \"{name}\" {}, that of the run in --output {} has {}; a run goes on \
         with the model that it began with",
        model.path().display(),
        of_model[name.as_str()],
        run.path().display(),
        of_run[name.as_str()]
    )))
}

/// The log of a run: a table of comma-separated values, and event files if they were asked for.
pub struct Log {
    path: PathBuf,
    file: std::fs::File,
    events: Option<Events>,
}

/// The first line.
const COLUMNS: &str = "step,loss,gradient_norm,learning_rate,pictures_per_second\n";

impl Log {
    /// Opens the log: a new one, or of a run that goes on after `step`, whose later lines are dropped.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(output: &Path, step: usize, events: bool) -> Result<Self> {
        let path = output.join(LOG);
        let before = if step == 0 { String::new() } else { std::fs::read_to_string(&path).unwrap_or_default() };
        let kept = before.lines().skip(1).filter(|line| {
            line.split(',').next().and_then(|number| number.parse::<usize>().ok()).is_some_and(|n| n <= step)
        });
        let text = kept.fold(COLUMNS.to_owned(), |text, line| text + line + "\n");
        let open = || {
            std::fs::write(&path, text)?;
            std::fs::OpenOptions::new().append(true).open(&path)
        };
        let file = open().map_err(Error::io(&path))?;
        let events = if events { Some(Events::open(output, step)?) } else { None };
        Ok(Self { path, file, events })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn line(&mut self, step: usize, loss: f64, norm: f64, rate: f64, speed: f64) -> Result<()> {
        let line = format!("{step},{loss:.8},{norm:.6},{rate:.6e},{speed:.2}\n");
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let names = COLUMNS.trim_end().split(',').skip(1);
        events.scalars(step, &names.zip([loss, norm, rate, speed]).collect::<Vec<_>>())
    }

    /// Adds what was drawn after a step: a PNG file, and what is in it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn pictures(&mut self, step: usize, (path, picture): &(PathBuf, Picture)) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        let file = std::fs::read(path).map_err(Error::io(path))?;
        events.picture(step, "samples", picture, &file)
    }
}

/// The model card.
///
/// # Errors
/// [`Error::Io`].
pub fn write_card(output: &Path, settings: &str, pictures: usize, steps: usize, loss: f64) -> Result<()> {
    let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = format!(
        "---\nlibrary_name: diffusers\ntags:\n- diffusion\n- unmist\n---\n\n# {name}\n\n\
         Trained by `unmist train` for {steps} steps on {pictures} pictures; loss at the end {loss:.5}\n\
         ([{LOG}]({LOG})).\n\
         \n## Settings\n\n```toml\n{settings}```\n"
    );
    write_atomic(output.join("README.md"), |out| out.write_all(text.as_bytes()))
}
