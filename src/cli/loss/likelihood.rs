//! How likely a model finds pictures, as table and JSON.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::Args;
use crate::cli::folder::Found;
use crate::generate::places;
use crate::pipelines::Likelihood;
use crate::schedulers::Scheduler;

/// Everything. Numbers are bits per dimension.
#[derive(Debug, Serialize)]
pub struct Report {
    model: PathBuf,
    /// The scheduler's config, with its class.
    scheduler: Value,
    seed: u64,
    rtol: f64,
    atol: f64,
    /// Width, height, channels.
    size: [usize; 3],
    /// Draws of noise for each picture.
    draws: usize,
    /// What 256 levels add to the density.
    levels: f64,
    /// The mean over pictures and draws.
    mean: Bits,
    pictures: Vec<OfPicture>,
}

/// The mean over some draws.
#[derive(Debug, Serialize)]
struct Bits {
    bits_per_dim: f64,
    prior: f64,
    volume: f64,
    /// How often the model was asked for one draw.
    evaluations: f64,
}

#[derive(Debug, Serialize)]
struct OfPicture {
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<usize>,
    #[serde(flatten)]
    mean: Bits,
    /// `bits_per_dim` of each draw.
    each: Vec<f64>,
}

impl Bits {
    fn mean<'a>(draws: impl Iterator<Item = &'a Likelihood> + Clone) -> Self {
        let count = draws.clone().count() as f64;
        let mean = |of: fn(&Likelihood) -> f64| draws.clone().map(of).sum::<f64>() / count;
        Self {
            bits_per_dim: mean(Likelihood::bits),
            prior: mean(|draw| draw.prior),
            volume: mean(|draw| draw.volume),
            evaluations: mean(|draw| draw.evaluations as f64),
        }
    }

    fn columns(&self) -> String {
        let Self { bits_per_dim, prior, volume, evaluations } = self;
        format!("{bits_per_dim:>10.4} {prior:>10.4} {volume:>10.4} {evaluations:>12.1}")
    }
}

impl Report {
    pub fn new(args: &Args, model: &Path, scheduler: &Scheduler, found: &[Found], all: &[Vec<Likelihood>]) -> Self {
        let picture = &found[0].picture;
        let pictures = found.iter().zip(all).map(|(found, draws)| OfPicture {
            file: found.path.strip_prefix(&args.images).unwrap_or(&found.path).to_owned(),
            class: found.class,
            mean: Bits::mean(draws.iter()),
            each: draws.iter().map(Likelihood::bits).collect(),
        });
        Self {
            model: places::remembered(model),
            scheduler: scheduler.config.to_json(),
            seed: args.seed,
            rtol: args.rtol,
            atol: args.atol,
            size: [picture.width, picture.height, picture.channels],
            draws: args.draws,
            levels: all[0][0].levels,
            mean: Bits::mean(all.iter().flatten()),
            pictures: pictures.collect(),
        }
    }

    pub fn table(&self) -> String {
        let [width, height, _] = self.size;
        let (count, draws) = (self.pictures.len(), self.draws);
        let mut text = format!(
            "{}: bits per dimension along the probability flow\n{count} pictures of {width} x {height}, draws of noise \
             for each: {draws}, seed {}, rtol {}, atol {}\n\n",
            self.model.display(),
            self.seed,
            self.rtol,
            self.atol
        );
        let files: Vec<_> = self.pictures.iter().map(|picture| picture.file.display().to_string()).collect();
        let wide = files.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(7);
        text += &format!(
            "{:<wide$} {:>10} {:>10} {:>10} {:>12}\n",
            "picture", "bits/dim", "prior", "volume", "evaluations"
        );
        for (file, picture) in files.iter().zip(&self.pictures) {
            text += &format!("{file:<wide$} {}\n", picture.mean.columns());
        }
        text += &format!("{:<wide$} {}\n", "mean", self.mean.columns());
        text + &format!("\nbits/dim = prior + volume + {}, of the 256 levels\n", self.levels)
    }
}
