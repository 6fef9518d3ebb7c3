//! The classifier that leads a pipeline's pictures to a class.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::each;
use super::traits::ClassifierTraits;
use super::{DiffusionPipeline, Kind, SampleOptions};
use crate::checkpoint::{Folder, Tensors, Weights};
use crate::error::Result;
use crate::models::EncoderUNetModel;
use crate::pipelines::classifier::{ClassifierGuidance, FACTOR, LABELS, Moved, factor};
use crate::pipelines::denoise::Changing;
use crate::refusal::Refusal;
use crate::schedulers::Schedule;
use crate::tensor::HostTensor;

/// A classifier of noised pictures with its parameters.
#[derive(Debug)]
pub struct Classifier {
    /// The model.
    pub model: EncoderUNetModel,
    /// Its parameters, none of them read yet.
    pub weights: Weights,
    /// The files that it was read from.
    pub files: Vec<PathBuf>,
    path: PathBuf,
}

impl Classifier {
    /// Opens a file of guided-diffusion's tensors, or a folder with one and a `config.json`.
    ///
    /// # Errors
    /// As [`Tensors::open`], [`Folder::open`], [`EncoderUNetModel::read`] and [`Weights::new`].
    pub fn open(path: &Path) -> Result<Self> {
        let (model, source, files) = if path.is_dir() {
            let folder = Folder::open(path)?;
            let component = folder.component("classifier")?;
            let (model, source) = EncoderUNetModel::read(component.tensors, Some(&component.config))?;
            (model, source, folder.component_files("classifier")?)
        } else {
            let (model, source) = EncoderUNetModel::read(Arc::new(Tensors::open(path)?), None)?;
            (model, source, vec![path.to_owned()])
        };
        let weights = Weights::new(source, &model.parameters()?)?;
        Ok(Self { model, weights, files, path: path.to_owned() })
    }
}

impl DiffusionPipeline {
    /// Sets the classifier that leads to [`SampleOptions::classes`], or none.
    ///
    /// # Errors
    /// A refusal of one that sees other channels, or knows other classes, than the U-Net.
    pub fn set_classifier(&mut self, classifier: Option<Classifier>) -> Result<()> {
        self.traits.classifier = None;
        if let Some(Classifier { model, path, .. }) = &classifier {
            let refuse = |why: String| Refusal::of_value("classifier", path.display(), why);
            let (seen, made) = (model.body.in_channels, self.unet.in_channels());
            // `check_fits` refuses it with models that are not on pixels.
            if self.traits.kind == Kind::Pixels && seen != made {
                return Err(refuse(format!("it sees pictures of {seen} channels, and the U-Net makes {made}")).into());
            }
            let (classes, null) = (self.traits.classes, self.traits.null_class());
            if let Some(rows) = classes.filter(|rows| model.classes != *rows && Some(model.classes) != null) {
                let why = format!("it knows {} classes, and the model {rows}", model.classes);
                return Err(refuse(why).into());
            }
            self.traits.classifier = Some(ClassifierTraits { classes: model.classes, size: model.image_size });
        }
        self.classifier = classifier;
        Ok(())
    }

    /// The classifier, if there is one.
    pub fn classifier(&self) -> Option<&Classifier> {
        self.classifier.as_ref()
    }

    /// The classifier, and what the scheduler lets it move.
    ///
    /// # Errors
    /// As [`Moved::by`].
    pub(super) fn classifier_guidance(&self) -> Result<Option<ClassifierGuidance<'_>>, Refusal> {
        let Some(Classifier { model, .. }) = &self.classifier else { return Ok(None) };
        Ok(Some(ClassifierGuidance { model, moved: Moved::by(&self.scheduler.config)? }))
    }

    /// The class of each picture as the classifier's graph takes it.
    pub(super) fn classifier_labels(&self, options: &SampleOptions) -> Option<(&'static str, HostTensor)> {
        let classes = self.classifier.as_ref()?.model.classes;
        let asked = each(&options.classes, options.batch_size);
        let mut labels = HostTensor::zeros([asked.len(), classes]);
        asked.iter().enumerate().for_each(|(i, class)| labels.data[i * classes + class] = 1.0);
        Some((LABELS, labels))
    }

    /// What the classifier's gradient is multiplied with in each step.
    pub(super) fn classifier_factors(&self, options: &SampleOptions, schedule: &Schedule) -> Result<Option<Changing>> {
        let Some(guidance) = self.classifier_guidance()? else { return Ok(None) };
        let factors = guidance.moved.factors(schedule, options.classifier_scale);
        let values: Vec<_> = factors.into_iter().map(|value| vec![(FACTOR, factor(value))]).collect();
        Ok(Some(Changing { of_calls: (0..values.len()).collect(), values }))
    }
}
