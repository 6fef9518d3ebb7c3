//! What was measured, as table, JSON and plot.

use std::f64::consts::LN_2;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::Args;
use crate::cli::folder::Found;
use crate::cli::panels::{self, Panel};
use crate::generate::places;
use crate::pipelines::{Bound, ExampleLoss};
use crate::schedulers::{LossWeights, Objective, Scheduler};

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    model: PathBuf,
    /// The scheduler's config, with its class.
    scheduler: Value,
    /// What the model predicts, and `mse` is the error of: epsilon, v_prediction or sample.
    prediction_type: String,
    trained_timesteps: usize,
    snr_gamma: f64,
    seed: u64,
    /// Width, height, channels.
    size: [usize; 3],
    /// The mean over the timesteps.
    mean: Losses,
    timesteps: Vec<AtTimestep>,
    bound: Option<BitsPerDim>,
    pictures: Vec<OfPicture>,
}

/// An error of the prediction, and what weightings make of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Losses {
    mse: f64,
    simple: f64,
    vlb: f64,
    min_snr: f64,
}

/// The mean over the pictures.
#[derive(Debug, Serialize)]
struct AtTimestep {
    timestep: usize,
    signal: f64,
    noise: f64,
    snr: f64,
    #[serde(flatten)]
    losses: Losses,
    weights: Weights,
    /// L_{t−1}, or L_0 at the first, in bits per dimension.
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<f64>,
}

/// Factors on `mse`.
#[derive(Debug, Serialize)]
struct Weights {
    simple: f64,
    vlb: f64,
    min_snr: f64,
}

/// The variational bound, in bits per dimension.
#[derive(Debug, Serialize)]
struct BitsPerDim {
    /// L_T.
    prior: f64,
    /// Σ L_{t−1}.
    transitions: f64,
    /// L_0.
    decoder: f64,
    total: f64,
}

/// The mean over the timesteps.
#[derive(Debug, Serialize)]
struct OfPicture {
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caption: Option<String>,
    #[serde(flatten)]
    losses: Losses,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<BitsPerDim>,
}

impl Losses {
    fn weighted(mse: f64, weights: &LossWeights) -> Self {
        let LossWeights { simple, vlb, min_snr } = weights;
        Self { mse, simple: mse * simple, vlb: mse * vlb, min_snr: mse * min_snr }
    }

    fn mean(all: impl ExactSizeIterator<Item = Self>) -> Self {
        let count = all.len() as f64;
        all.fold(Self::default(), |sum, one| Self {
            mse: sum.mse + one.mse / count,
            simple: sum.simple + one.simple / count,
            vlb: sum.vlb + one.vlb / count,
            min_snr: sum.min_snr + one.min_snr / count,
        })
    }
}

impl BitsPerDim {
    fn of(bound: &Bound) -> Self {
        let (decoder, transitions) = (bound.terms[0] / LN_2, bound.terms[1..].iter().sum::<f64>() / LN_2);
        let prior = bound.prior / LN_2;
        Self { prior, transitions, decoder, total: prior + transitions + decoder }
    }

    fn mean(all: &[&Bound]) -> Self {
        let count = all.len() as f64;
        let mut mean = Self { prior: 0.0, transitions: 0.0, decoder: 0.0, total: 0.0 };
        for one in all.iter().map(|bound| Self::of(bound)) {
            mean.prior += one.prior / count;
            mean.transitions += one.transitions / count;
            mean.decoder += one.decoder / count;
            mean.total += one.total / count;
        }
        mean
    }
}

impl Report {
    pub fn new(
        args: &Args,
        model: &Path,
        scheduler: &Scheduler,
        objective: &Objective,
        found: &[Found],
        losses: &[ExampleLoss],
    ) -> Self {
        let bounds: Option<Vec<&Bound>> = losses.iter().map(|loss| loss.bound.as_ref()).collect();
        let count = losses.len() as f64;
        let timesteps: Vec<AtTimestep> = objective
            .levels
            .iter()
            .enumerate()
            .map(|(i, level)| {
                let LossWeights { simple, vlb, min_snr } = level.weights;
                let mse = losses.iter().map(|loss| loss.mse[i]).sum::<f64>() / count;
                let bound = bounds.as_ref().map(|all| all.iter().map(|one| one.terms[i]).sum::<f64>() / count / LN_2);
                AtTimestep {
                    timestep: level.timestep,
                    signal: level.noising.signal,
                    noise: level.noising.noise,
                    snr: level.snr,
                    losses: Losses::weighted(mse, &level.weights),
                    weights: Weights { simple, vlb, min_snr },
                    bound,
                }
            })
            .collect();
        let pictures = found.iter().zip(losses).map(|(found, loss)| {
            let levels = objective.levels.iter().zip(&loss.mse);
            OfPicture {
                file: found.path.strip_prefix(&args.images).unwrap_or(&found.path).to_owned(),
                class: found.class,
                caption: found.caption.clone(),
                losses: Losses::mean(levels.map(|(level, mse)| Losses::weighted(*mse, &level.weights))),
                bound: loss.bound.as_ref().map(BitsPerDim::of),
            }
        });
        let scheduler = scheduler.config.to_json();
        let picture = &found[0].picture;
        Self {
            model: places::remembered(model),
            prediction_type: scheduler["prediction_type"].as_str().unwrap_or_default().to_owned(),
            trained_timesteps: scheduler["num_train_timesteps"].as_u64().unwrap_or_default() as usize,
            scheduler,
            snr_gamma: args.snr_gamma,
            seed: args.seed,
            size: [picture.width, picture.height, picture.channels],
            mean: Losses::mean(timesteps.iter().map(|at| at.losses)),
            timesteps,
            bound: bounds.as_deref().map(BitsPerDim::mean),
            pictures: pictures.collect(),
        }
    }

    /// One line about what was measured.
    fn heading(&self) -> String {
        let [width, height, _] = self.size;
        format!(
            "{} of {} timesteps, {} pictures of {width} x {height}, seed {}",
            self.timesteps.len(),
            self.trained_timesteps,
            self.pictures.len(),
            self.seed
        )
    }

    pub fn table(&self) -> String {
        let min_snr = format!("min-SNR-{}", self.snr_gamma);
        let mut text = format!(
            "{}: the error of {}\n{}\n\n{:>8} {:>12} {:>12} {:>12} {:>12} {min_snr:>12}{}\n",
            self.model.display(),
            self.prediction_type,
            self.heading(),
            "timestep",
            "SNR",
            "MSE",
            "L_simple",
            "VLB",
            if self.bound.is_some() { "     bits/dim" } else { "" }
        );
        let number = |value: f64| {
            let plain = value == 0.0 || (1e-3..1e5).contains(&value.abs());
            if plain { format!("{value:>12.6}") } else { format!("{value:>12.5e}") }
        };
        let losses = |l: &Losses| [l.mse, l.simple, l.vlb, l.min_snr].map(number).join(" ");
        for at in &self.timesteps {
            let bound = at.bound.map(|bound| format!(" {}", number(bound))).unwrap_or_default();
            text += &format!("{:>8} {} {}{bound}\n", at.timestep, number(at.snr), losses(&at.losses));
        }
        text += &format!("{:>8} {:>12} {}\n", "mean", "", losses(&self.mean));
        let Some(BitsPerDim { prior, transitions, decoder, total }) = &self.bound else {
            return text + "\nno bound: latents have no levels whose probability could be given\n";
        };
        text += &format!(
            "\nbits per dimension, at most: {total:.4} = {prior:.6} (L_T) + {transitions:.4} (sum of L_t-1) + \
             {decoder:.4} (L_0)\n"
        );
        if self.timesteps.len() < self.trained_timesteps {
            text += "of a sampler that visits these timesteps alone; --timesteps all is the model's own bound\n";
        }
        text
    }

    pub fn svg(&self) -> String {
        let panel = |title, of: fn(&AtTimestep) -> Option<f64>| {
            let point = |at: &AtTimestep| Some((at.timestep as f64, of(at)?));
            let line: Vec<_> = self.timesteps.iter().filter_map(point).collect();
            // Of many, dots would hide the line.
            let dots = if line.len() > 100 { vec![] } else { line.clone() };
            Panel { title, logarithmic: true, line, dots }
        };
        let min_snr = format!("min-SNR-{}", self.snr_gamma);
        let mse = format!("mean squared error of {}", self.prediction_type);
        let mut panels = vec![
            panel(&mse, |at| Some(at.losses.mse)),
            panel("L_simple: of the noise", |at| Some(at.losses.simple)),
            panel("VLB: weighted as in the bound (nats per dimension)", |at| Some(at.losses.vlb)),
            panel(&min_snr, |at| Some(at.losses.min_snr)),
        ];
        if self.bound.is_some() {
            panels.push(panel("terms of the bound (bits per dimension)", |at| at.bound));
        }
        panels::svg("Training objective by timestep", &self.heading(), &panels, "timestep")
    }
}
