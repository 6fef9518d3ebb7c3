//! What was measured, as table and JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::auroc::auroc;
use super::{Args, NoiseName, of};
use crate::cli::folder::Found;
use crate::generate::places;
use crate::schedulers::SchedulerConfig;
use crate::tensor::HostTensor;

/// A picture's map.
pub struct Measured {
    /// The mean over the repetitions of the squared difference by pixel, of pictures in [−1, 1].
    pub map: Vec<f64>,
    /// What the model made of it the first time, `[1, C, H, W]` in [−1, 1].
    pub made: HostTensor,
    count: usize,
}

impl Measured {
    /// Nothing yet.
    pub fn nothing(original: &HostTensor) -> Self {
        let map = vec![0.0; original.len() / original.shape[1]];
        Self { map, made: original.clone(), count: 0 }
    }

    /// One of `repeats` repetitions.
    pub fn add(&mut self, made: &HostTensor, difference: &[f64], repeats: usize) {
        if self.count == 0 {
            self.made = made.clone();
        }
        self.count += 1;
        self.map.iter_mut().zip(difference).for_each(|(sum, one)| *sum += one / repeats as f64);
    }

    fn mean(&self) -> f64 {
        self.map.iter().sum::<f64>() / self.map.len() as f64
    }

    /// As numpy's `percentile`: linear between the two nearest.
    fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.map.clone();
        sorted.sort_by(f64::total_cmp);
        let at = percent / 100.0 * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    model: PathBuf,
    /// The scheduler's config, with its class.
    scheduler: Value,
    /// The timestep that pictures were noised to.
    timestep: usize,
    /// Steps from there to the picture.
    steps: usize,
    noise: &'static str,
    class: Option<usize>,
    repeats: usize,
    seed: u64,
    percentile: f64,
    /// Width, height, channels.
    size: [usize; 3],
    /// Of the maps, against the masks.
    pixel_auroc: Option<f64>,
    /// Of the scores, anomalous against normal pictures.
    picture_auroc: Option<Scores>,
    pictures: Vec<OfPicture>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Scores {
    mean: f64,
    percentile: f64,
}

#[derive(Debug, Serialize)]
struct OfPicture {
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    anomalous: Option<bool>,
    #[serde(flatten)]
    scores: Scores,
    /// Pixels of its mask, and how well its map finds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    masked: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pixel_auroc: Option<f64>,
}

impl Report {
    /// `steps`: the first timestep, and how many there are.
    pub fn new(
        args: &Args,
        model: &Path,
        scheduler: &SchedulerConfig,
        (timestep, steps): (usize, usize),
        found: &[Found],
        measured: &[Measured],
        masks: Option<&[Vec<bool>]>,
    ) -> Self {
        let pixels = |i: usize| {
            let mask = masks.map(|masks| &masks[i]);
            mask.map(|mask| measured[i].map.iter().copied().zip(mask.iter().copied()).collect::<Vec<_>>())
        };
        let pictures: Vec<OfPicture> = (0..found.len())
            .map(|i| OfPicture {
                file: of(args, &found[i]),
                anomalous: label(args, &found[i]),
                scores: Scores { mean: measured[i].mean(), percentile: measured[i].percentile(args.percentile) },
                masked: masks.map(|masks| masks[i].iter().filter(|masked| **masked).count()),
                pixel_auroc: pixels(i).and_then(auroc),
            })
            .collect();
        let by = |score: fn(&Scores) -> f64| {
            let labelled = pictures.iter().filter_map(|one| Some((score(&one.scores), one.anomalous?)));
            auroc(labelled.collect())
        };
        let picture = &found[0].picture;
        Self {
            model: places::remembered(model),
            scheduler: scheduler.to_json(),
            timestep,
            steps,
            noise: match args.noise {
                NoiseName::Gaussian => "gaussian",
                NoiseName::Simplex => "simplex",
            },
            class: args.class,
            repeats: args.repeats,
            seed: args.seed,
            percentile: args.percentile,
            size: [picture.width, picture.height, picture.channels],
            pixel_auroc: auroc((0..found.len()).filter_map(pixels).flatten().collect()),
            picture_auroc: by(|scores| scores.mean)
                .zip(by(|scores| scores.percentile))
                .map(|(mean, percentile)| Scores { mean, percentile }),
            pictures,
        }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts can be written") + "\n"
    }

    /// What a file of maps remembers.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("unmist-anomaly".to_owned(), serde_json::to_string(self).expect("as `json`"))])
    }

    pub fn table(&self) -> String {
        let percentile = format!("{}th percentile", self.percentile);
        let mut text = format!(
            "{}: squared differences after timestep {} with {} noise\n{} steps of {}, {} repeats from seed {}\n\n\
             {:>12} {percentile:>18}  picture\n",
            self.model.display(),
            self.timestep,
            self.noise,
            self.steps,
            self.scheduler["_class_name"].as_str().unwrap_or_default(),
            self.repeats,
            self.seed,
            "mean"
        );
        for one in &self.pictures {
            let found = one.pixel_auroc.map(|auroc| format!(", AUROC of its pixels {auroc:.3}")).unwrap_or_default();
            let Scores { mean, percentile } = one.scores;
            text += &format!("{mean:>12.6} {percentile:>18.6}  {}{found}\n", one.file.display());
        }
        if self.pixel_auroc.is_some() || self.picture_auroc.is_some() {
            text += "\nAUROC (0.5 is chance, 1 is never wrong):\n";
        }
        if let Some(auroc) = self.pixel_auroc {
            text += &format!("{auroc:>12.4}  of pixels, by map\n");
        }
        if let Some(Scores { mean, percentile: high }) = self.picture_auroc {
            text += &format!("{mean:>12.4}  of pictures, by mean\n{high:>12.4}  of pictures, by {percentile}\n");
        }
        text
    }
}

/// Whether it is anomalous, where its subfolder says.
pub fn label(args: &Args, found: &Found) -> Option<bool> {
    let folder = of(args, found).parent()?.to_str()?.to_owned();
    [("normal", false), ("anomalous", true)].into_iter().find(|(name, _)| *name == folder).map(|(_, label)| label)
}
