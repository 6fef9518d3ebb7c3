//! What the U-Net sees besides the picture: text or class, SDXL's numbers about the picture, a distilled model's
//! guidance scale.

use super::options::each;
use super::texts::Choice;
use super::{DiffusionPipeline, Kind, Runtime, SampleOptions};
use crate::error::{Error, Result};
use crate::pipelines::denoise::Changing;
use crate::pipelines::text::{TextConditioning, TextEncoders};
use crate::tensor::HostTensor;

/// Inputs of the step's graph, by name.
pub(super) type Inputs = Vec<(&'static str, HostTensor)>;

/// The condition of a run.
pub(super) struct Condition {
    /// What stays the same in every step.
    pub constant: Inputs,
    /// The text, which may change.
    pub text: Changing,
}

impl DiffusionPipeline {
    /// Encodes the condition in `options` for each branch of the prediction.
    pub(super) fn encode_condition(&self, runtime: &Runtime<'_>, options: &SampleOptions) -> Result<Condition> {
        let guidance = self.guidance(options);
        let (branches, mut constant) = (guidance.branches, guidance.inputs);
        let mut text = Changing::default();
        if let Some(encoders) = &self.text {
            text = self.encode_text(encoders, runtime, options, branches)?;
            if self.unet.has_text_time() {
                constant.push(("time_ids", self.time_ids(options, branches)?));
            }
        }
        constant.extend(self.class_labels(options, branches).map(|labels| ("class_labels", labels)));
        constant.extend(self.classifier_labels(options));
        Ok(Condition { constant, text })
    }

    /// The class of each sample of each branch ("no class" first), or for enlarging how noisy the small picture is;
    /// `None` if the U-Net takes neither.
    fn class_labels(&self, options: &SampleOptions, branches: usize) -> Option<HostTensor> {
        let labels = |labels: Vec<usize>| {
            let data: Vec<f32> = labels.into_iter().map(|label| label as f32).collect();
            Some(HostTensor { shape: vec![data.len()], data })
        };
        let batch = options.batch_size;
        if self.traits.kind == Kind::Upscale {
            return labels(vec![options.noise_level; branches * batch]);
        }
        self.traits.classes?;
        // `Traits::check` sees that there is either a class or one that stands for none.
        let none = options.null_class.or(self.traits.null_class()).map(|null| vec![null; batch]).unwrap_or_default();
        let asked = if options.classes.is_empty() { none.clone() } else { each(&options.classes, batch) };
        labels(if branches == 2 { [none, asked].concat() } else { asked })
    }

    /// The text of each step for each branch of the prediction: the prompts alone; the negative ones, then the prompts;
    /// or, for editing, the prompts and then the negative ones twice. Each text is encoded once, with all of its kind.
    fn encode_text(
        &self,
        encoders: &TextEncoders,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        branches: usize,
    ) -> Result<Changing> {
        let texts = self.texts(options)?;
        let windows = self.windows_of(encoders, &texts, options.weighting)?;
        let encode = |pairs: &[[String; 2]], clip_skip: usize| {
            // As many of one kind as of the other, so that both share a program.
            let pairs = pairs.iter().chain(std::iter::repeat(&pairs[0])).take(texts.most());
            let lists = [0, 1].map(|encoder| pairs.clone().map(|pair| pair[encoder].clone()).collect::<Vec<_>>());
            encoders.encode(runtime, &[&lists[0], &lists[1]], options.weighting, windows, clip_skip)
        };
        let positive = encode(&texts.positive, options.clip_skip)?;
        let none = options.negative_prompts.is_empty() && options.negative_prompts_2.is_empty();
        let negative = match branches {
            1 => None,
            _ if none && self.zero_negative => Some(positive.zeroed()),
            // diffusers skips layers for the prompt alone.
            _ => Some(encode(&texts.negative, 0)?),
        };
        let inputs = |choice: &Choice| -> Result<Inputs> {
            let positive = positive.rows(&choice.positive);
            let text = match negative.as_ref().map(|negative| negative.rows(&choice.negative)) {
                None => positive,
                Some(negative) if self.traits.kind == Kind::Edit => {
                    TextConditioning::join(&[&positive, &negative, &negative])?
                }
                Some(negative) => TextConditioning::join(&[&negative, &positive])?,
            };
            let mut inputs = vec![("encoder_hidden_states", text.hidden_states)];
            if self.unet.has_text_time() {
                let missing = || Error::Config("the U-Net needs pooled text, but the text encoders return none".into());
                inputs.push(("text_embeds", text.pooled.ok_or_else(missing)?));
            }
            Ok(inputs)
        };
        Ok(Changing { values: texts.choices.iter().map(inputs).collect::<Result<_>>()?, of_calls: texts.of_calls })
    }

    /// SDXL's numbers about a picture, for each sample of each branch: original height and width, top and left of the
    /// crop, then target height and width, or for the refiner an aesthetic score.
    fn time_ids(&self, options: &SampleOptions, branches: usize) -> Result<HostTensor> {
        let size = self.size(options)?;
        let (original, target) = (options.original_size.unwrap_or(size), options.target_size.unwrap_or(size));
        let place = [original.0, original.1, options.crop.0, options.crop.1].map(|v| v as f32);
        let (positive, negative) = options.aesthetic_scores;
        let mut data = Vec::new();
        for branch in 0..branches {
            let score = if branch + 1 == branches { positive } else { negative };
            let rest = if self.traits.aesthetic { vec![score as f32] } else { vec![target.0 as f32, target.1 as f32] };
            data.extend([place.as_slice(), &rest].concat().repeat(options.batch_size));
        }
        let rows = branches * options.batch_size;
        HostTensor::new([rows, data.len() / rows], data)
    }
}
