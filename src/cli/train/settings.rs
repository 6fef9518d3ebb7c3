//! What a training run is asked for, by flags and by a file; flags go before.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pipelines::TimestepSampling;
use crate::training::{ATTENTION, Lora, Optimizer, OptimizerKind, RateSchedule, RateScheduleKind};

/// Declares the settings once: as flags, as fields of the file, and how one goes before the other.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $(#[arg($($arg:tt)*)])? $name:ident: $Type:ty,)*) => {
        /// Every setting of a run, as given: `--config FILE.toml` takes the same names, with `_` for `-`.
        #[derive(clap::Args, Clone, Debug, Default, Deserialize, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            $($(#[doc = $doc])+
            #[arg(long $(, $($arg)*)?)]
            #[serde(skip_serializing_if = "Option::is_none")]
            pub $name: Option<$Type>,)*
        }

        impl Settings {
            /// These settings, with those of `other` where there are none.
            pub fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name)),* }
            }
        }
    };
}

settings! {
    /// The model to train: a folder or single file. With --from-scratch, only its configs are read
    #[arg(value_name = "DIR|FILE")]
    model: PathBuf,
    /// Begins with random parameters (those that torch's layers begin with) in place of the model's
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    from_scratch: bool,
    /// Folder of PNG, JPEG or WebP pictures: classes by subfolders, captions by .txt files or metadata.jsonl; or an IDX
    /// file of pictures (..-images-idx3-ubyte, also .gz; its labels are found beside it); or a .npz file with `images`
    /// and `labels`
    #[arg(value_name = "DIR|FILE")]
    train_data: PathBuf,
    /// Folder of the trained model, which diffusers loads too; must be new, or a run's to go on with --resume
    #[arg(value_name = "DIR")]
    output: PathBuf,
    /// Goes on from the last checkpoint in --output
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    resume: bool,
    /// Rows and columns of the pictures [default: the model's]
    #[arg(value_name = "N")]
    resolution: usize,
    /// Scales pictures of other sizes so that they cover it, and crops them: in the middle, or anywhere
    #[arg(value_name = "center|random")]
    crop: Crop,
    /// Mirrors half of the pictures
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    random_flip: bool,
    /// The classes whose pictures --random-flip mirrors [default: all]
    #[arg(value_name = "N,N,..", value_delimiter = ',', num_args = 1)]
    flip_classes: Vec<usize>,
    /// Pictures of one step [default: 16]
    #[arg(value_name = "N")]
    train_batch_size: usize,
    /// Batches whose gradients make one step together [default: 1]
    #[arg(value_name = "N")]
    gradient_accumulation_steps: usize,
    /// Steps of the whole run
    #[arg(value_name = "N")]
    max_train_steps: usize,
    /// Rounds through all pictures, in place of --max-train-steps
    #[arg(value_name = "N")]
    num_train_epochs: usize,
    /// adamw, adam, sgd or muon [default: adamw]
    #[arg(value_name = "NAME", value_parser = optimizer_kind)]
    optimizer: OptimizerKind,
    /// [default: 1e-4]
    #[arg(value_name = "X")]
    learning_rate: f64,
    /// constant, linear, cosine or polynomial [default: constant]
    #[arg(value_name = "NAME", value_parser = rate_kind)]
    lr_scheduler: RateScheduleKind,
    /// Steps in which the rate rises from 0 [default: 0]
    #[arg(value_name = "N")]
    lr_warmup_steps: usize,
    /// [default: 0.9]
    #[arg(value_name = "X")]
    adam_beta1: f64,
    /// [default: 0.999]
    #[arg(value_name = "X")]
    adam_beta2: f64,
    /// [default: 1e-8]
    #[arg(value_name = "X")]
    adam_epsilon: f64,
    /// [default: 0.01]
    #[arg(value_name = "X")]
    weight_decay: f64,
    /// Of sgd and muon [default: 0.95]
    #[arg(value_name = "X")]
    momentum: f64,
    /// Rate of the matrices that muon updates, as a multiple of the learning rate [default: 1]
    #[arg(value_name = "X")]
    muon_rate: f64,
    /// Gradients are shortened to this length; 0: never [default: 1]
    #[arg(value_name = "X")]
    max_grad_norm: f64,
    /// Writes an exponential moving average of the parameters as the model [default: none]
    #[arg(value_name = "X")]
    ema_decay: f64,
    /// no or fp16: what the model computes with; parameters stay f32 [default: no]
    #[arg(value_name = "no|fp16")]
    mixed_precision: Precision,
    /// Weighs noise levels by min-SNR-γ [default: all alike]
    #[arg(value_name = "γ")]
    snr_gamma: f64,
    /// uniform, stratified or logit_normal [default: uniform]
    #[arg(value_name = "NAME", value_parser = timestep_sampling)]
    timestep_sampling: TimestepSampling,
    /// How many of the pictures go without class or text, for classifier-free guidance [default: 0.1 where the model
    /// has "no class" or a text]
    #[arg(value_name = "0..1")]
    conditioning_dropout: f64,
    /// Trains a LoRA of this rank beside the U-Net's attention in place of the U-Net itself; --output gets
    /// pytorch_lora_weights.safetensors
    #[arg(value_name = "N")]
    lora_rank: usize,
    /// The LoRA's part is multiplied by alpha / rank [default: the rank]
    #[arg(value_name = "X")]
    lora_alpha: f64,
    /// Ends of the names of the linear layers that get a LoRA [default: to_q,to_k,to_v,to_out.0]
    #[arg(value_name = "NAME,..", value_delimiter = ',', num_args = 1)]
    lora_targets: Vec<String>,
    /// Names of the LoRA's tensors: diffusers or kohya [default: diffusers]
    #[arg(value_name = "diffusers|kohya")]
    lora_format: LoraFormat,
    /// Teaches the text encoder this word (textual inversion) in place of training the U-Net; --output gets
    /// learned_embeds.safetensors. Captions say it, or without captions each picture is "a picture of WORD"
    #[arg(value_name = "WORD")]
    placeholder_token: String,
    /// The word whose vector the new one begins as; must be one token
    #[arg(value_name = "WORD")]
    initializer_token: String,
    /// Vectors that stand for the new word [default: 1]
    #[arg(value_name = "N")]
    num_vectors: usize,
    /// Computes the inside of blocks a second time instead of keeping it: less memory, a third more work
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    gradient_checkpointing: bool,
    /// Seed of everything that is drawn [default: 0]
    #[arg(value_name = "N")]
    seed: u64,
    /// Writes model and state every N steps [default: 500; always at the end]
    #[arg(value_name = "N")]
    checkpointing_steps: usize,
    /// Also draws pictures then, into samples/ of --output
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    sample: bool,
    /// Steps between two lines of log.csv [default: 10]
    #[arg(value_name = "N")]
    logging_steps: usize,
    /// Also writes event files for TensorBoard, into logs/ of --output [default: csv, log.csv alone]
    #[arg(value_name = "csv|tensorboard")]
    report_to: ReportTo,
}

/// How pictures of other sizes are cropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// In the middle.
    Center,
    /// Anywhere.
    Random,
}

/// What a model computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32.
    #[default]
    No,
    /// f16, with f32 parameters and a loss scale.
    Fp16,
}

/// Where losses are written, besides the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportTo {
    /// log.csv.
    Csv,
    /// That, and event files.
    Tensorboard,
}

/// By whose names a LoRA is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraFormat {
    /// diffusers' and PEFT's.
    #[default]
    Diffusers,
    /// kohya-ss's.
    Kohya,
}

fn optimizer_kind(name: &str) -> std::result::Result<OptimizerKind, String> {
    named(name, &OptimizerKind::ALL, OptimizerKind::name)
}

fn rate_kind(name: &str) -> std::result::Result<RateScheduleKind, String> {
    named(name, &RateScheduleKind::ALL, RateScheduleKind::name)
}

fn timestep_sampling(name: &str) -> std::result::Result<TimestepSampling, String> {
    named(name, &TimestepSampling::ALL, TimestepSampling::name)
}

fn named<T: Copy>(name: &str, all: &[T], of: fn(T) -> &'static str) -> std::result::Result<T, String> {
    let names = || all.iter().map(|kind| of(*kind)).collect::<Vec<_>>().join(", ");
    all.iter().copied().find(|kind| of(*kind) == name).ok_or_else(|| format!("expected one of {}", names()))
}

impl Settings {
    /// The settings of a TOML file.
    ///
    /// # Errors
    /// [`Error::Usage`] with the line and what is wrong there; [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        toml::from_str(&text).map_err(|error| Error::Usage(format!("--config {}: {error}", path.display())))
    }

    /// Checks every number by itself.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first that makes no sense.
    pub fn check(&self) -> Result<()> {
        let wrong = |flag: &str, value: &dyn std::fmt::Display, expected: &str| {
            Err(Error::Usage(format!("--{flag} {value}: expected {expected}")))
        };
        for (flag, value) in [
            ("resolution", self.resolution),
            ("train-batch-size", self.train_batch_size),
            ("gradient-accumulation-steps", self.gradient_accumulation_steps),
            ("max-train-steps", self.max_train_steps),
            ("num-train-epochs", self.num_train_epochs),
            ("checkpointing-steps", self.checkpointing_steps),
            ("logging-steps", self.logging_steps),
            ("lora-rank", self.lora_rank),
            ("num-vectors", self.num_vectors),
        ] {
            if value == Some(0) {
                return wrong(flag, &0, "1 or more");
            }
        }
        for (flag, value, least, below) in [
            ("learning-rate", self.learning_rate, f64::MIN_POSITIVE, f64::INFINITY),
            ("adam-beta1", self.adam_beta1, 0.0, 1.0),
            ("adam-beta2", self.adam_beta2, 0.0, 1.0),
            ("adam-epsilon", self.adam_epsilon, 0.0, f64::INFINITY),
            ("weight-decay", self.weight_decay, 0.0, f64::INFINITY),
            ("momentum", self.momentum, 0.0, 1.0),
            ("muon-rate", self.muon_rate, f64::MIN_POSITIVE, f64::INFINITY),
            ("max-grad-norm", self.max_grad_norm, 0.0, f64::INFINITY),
            ("ema-decay", self.ema_decay, 0.0, 1.0),
            ("lora-alpha", self.lora_alpha, f64::MIN_POSITIVE, f64::INFINITY),
            ("snr-gamma", self.snr_gamma, f64::MIN_POSITIVE, f64::INFINITY),
            ("conditioning-dropout", self.conditioning_dropout, 0.0, 1.0),
        ] {
            let Some(value) = value else { continue };
            if !(value >= least && value < below) {
                let least = if least > 0.0 { "a number above 0" } else { "a number from 0" };
                let most = if below == 1.0 { " and below 1" } else { "" };
                return wrong(flag, &value, &format!("{least}{most}"));
            }
        }
        if self.lora_rank.is_none() {
            for (flag, given) in [
                ("lora-alpha", self.lora_alpha.is_some()),
                ("lora-targets", self.lora_targets.is_some()),
                ("lora-format", self.lora_format.is_some()),
            ] {
                if given {
                    return Err(Error::Usage(format!(
                        "--{flag} without --lora-rank: the U-Net itself is trained then"
                    )));
                }
            }
        } else if self.from_scratch == Some(true) {
            return Err(Error::Usage(
                "--lora-rank and --from-scratch: a LoRA is trained beside a trained model".into(),
            ));
        }
        if self.placeholder_token.is_some() {
            if self.lora_rank.is_some() || self.from_scratch == Some(true) {
                let why = "--placeholder-token trains a word alone; expected no --lora-rank and no --from-scratch";
                return Err(Error::Usage(why.into()));
            }
            Self::required("initializer-token", &self.initializer_token)?;
        } else if self.initializer_token.is_some() || self.num_vectors.is_some() {
            return Err(Error::Usage("--initializer-token and --num-vectors need --placeholder-token".into()));
        }
        if self.max_train_steps.is_some() && self.num_train_epochs.is_some() {
            let why = "--max-train-steps and --num-train-epochs: expected one of them";
            return Err(Error::Usage(why.into()));
        }
        Ok(())
    }

    /// The value of a setting that must be there.
    ///
    /// # Errors
    /// [`Error::Usage`] naming its flag.
    pub fn required<'a, T>(flag: &str, value: &'a Option<T>) -> Result<&'a T> {
        value.as_ref().ok_or_else(|| Error::Usage(format!("--{flag} is missing, on the command line and in --config")))
    }

    /// The optimizer.
    pub fn optimizer(&self) -> Optimizer {
        let own = Optimizer::default();
        Optimizer {
            kind: self.optimizer.unwrap_or_default(),
            betas: [self.adam_beta1.unwrap_or(own.betas[0]), self.adam_beta2.unwrap_or(own.betas[1])],
            eps: self.adam_epsilon.unwrap_or(own.eps),
            weight_decay: self.weight_decay.unwrap_or(own.weight_decay),
            momentum: self.momentum.unwrap_or(own.momentum),
            muon_rate: self.muon_rate.unwrap_or(own.muon_rate),
            max_grad_norm: self.max_grad_norm.or(own.max_grad_norm).filter(|norm| *norm > 0.0),
        }
    }

    /// Whether the model itself stays as it is, and what is trained goes beside it.
    pub fn beside(&self) -> bool {
        self.lora_rank.is_some() || self.placeholder_token.is_some()
    }

    /// The LoRA, if one is trained.
    pub fn lora(&self) -> Option<Lora> {
        let rank = self.lora_rank?;
        let own = || ATTENTION.map(str::to_owned).to_vec();
        let targets = self.lora_targets.clone().unwrap_or_else(own);
        Some(Lora { rank, alpha: self.lora_alpha.unwrap_or(rank as f64), targets })
    }

    /// The learning rate over `total` steps.
    pub fn rate(&self, total: usize) -> RateSchedule {
        RateSchedule {
            kind: self.lr_scheduler.unwrap_or_default(),
            peak: self.learning_rate.unwrap_or(1e-4),
            warmup: self.lr_warmup_steps.unwrap_or(0),
            total,
        }
    }

    /// What must not change when a run goes on, as text: everything but where it stands and how far it goes.
    pub fn identity(&self) -> String {
        let kept = Self {
            model: None,
            train_data: None,
            output: None,
            resume: None,
            from_scratch: None,
            max_train_steps: None,
            num_train_epochs: None,
            checkpointing_steps: None,
            logging_steps: None,
            report_to: None,
            sample: None,
            gradient_checkpointing: None,
            ..self.clone()
        };
        toml::to_string(&kept).expect("numbers and names can be written")
    }
}
