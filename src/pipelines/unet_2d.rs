//! `DDPMPipeline` and `DDIMPipeline`: pictures from noise, with a U-Net that works on pixels and may know classes.

use super::Runtime;
use super::denoise::{DenoiseLoop, DenoiseSpec, Progress, guidance_weights, step_graph};
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::models::{ClassEmbedding, UNet2DInputs, UNet2DModel};
use crate::overflow::F32Fallback;
use crate::rng::{NoiseSource, randn_tensor};
use crate::schedulers::{Sampling, Schedule, Scheduler};
use crate::tensor::HostTensor;

/// What to sample.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// Number of pictures.
    pub batch_size: usize,
    /// Rows; the model's own size if none.
    pub height: Option<usize>,
    /// Columns; the model's own size if none.
    pub width: Option<usize>,
    /// Steps, η and the like.
    pub sampling: Sampling,
    /// The class of each picture, repeated in turn; none: no class.
    pub classes: Vec<usize>,
    /// The row of the class table that stands for "no class"; none: the last.
    pub null_class: Option<usize>,
    /// ε = ε(∅) + w·(ε(class) − ε(∅)); 1 is plain conditional sampling.
    pub guidance_scale: f64,
}

/// A U-Net on pixels and its scheduler.
pub struct UNet2DPipeline {
    /// The model.
    pub model: UNet2DModel,
    /// Its parameters.
    pub weights: Weights,
    /// The scheduler.
    pub scheduler: Scheduler,
    fallback: F32Fallback,
}

impl UNet2DPipeline {
    /// Loads `unet` from a checkpoint and pairs it with `scheduler`.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Unsupported`] for configs, [`Error::Checkpoint`] for weights.
    pub fn load(checkpoint: &Checkpoint, scheduler: Scheduler) -> Result<Self> {
        let component = checkpoint.component("unet")?;
        let model = UNet2DModel::from_json(&component.config)?;
        let weights = Weights::new(component.tensors, &model.parameters()?)?;
        Ok(Self { model, weights, scheduler, fallback: F32Fallback::new("U-Net") })
    }

    /// What the user should hear about the runs so far, such as that f16 overflowed; each is returned once.
    pub fn take_notes(&self) -> Vec<String> {
        self.fallback.take_notes()
    }

    /// Rows and columns of the pictures.
    ///
    /// # Errors
    /// [`Error::Usage`] if neither the options nor the config say, [`Error::Shape`] if the model cannot halve them.
    pub fn size(&self, options: &SampleOptions) -> Result<(usize, usize)> {
        let own = self.model.config.sample_size;
        let missing = || Error::Usage("the model's config has no sample_size: give --height and --width".into());
        let height = options.height.or(own.map(|s| s.0)).ok_or_else(missing)?;
        let width = options.width.or(own.map(|s| s.1)).ok_or_else(missing)?;
        if height > 1 << 14 || width > 1 << 14 {
            return Err(Error::Usage(format!("--width {width} --height {height}: at most {} each", 1 << 14)));
        }
        self.model.check_size(height, width)?;
        Ok((height, width))
    }

    /// Whether the model is called with and without the class.
    fn guided(&self, options: &SampleOptions) -> bool {
        options.guidance_scale != 1.0 && !options.classes.is_empty()
    }

    /// The class labels of the model's batch (the unconditional half first), if it takes any.
    ///
    /// # Errors
    /// [`Error::Usage`] naming `--class` if the model has no classes, needs another kind of label, or has
    /// fewer classes.
    pub fn class_labels(&self, options: &SampleOptions) -> Result<Option<HostTensor>> {
        let rows = match self.model.config.class_embedding {
            ClassEmbedding::None if options.classes.is_empty() => return Ok(None),
            ClassEmbedding::None => return Err(Error::Usage("--class: this model has no classes".into())),
            ClassEmbedding::Table(rows) => rows,
            ClassEmbedding::Timestep | ClassEmbedding::Identity => {
                return Err(Error::Unsupported(
                    "sampling from a model whose class_embed_type is timestep or identity: only `unmist run` can give it labels".into(),
                ));
            }
        };
        let null = options.null_class.unwrap_or(rows - 1);
        if let Some(class) = options.classes.iter().chain([&null]).find(|c| **c >= rows) {
            return Err(Error::Usage(format!("--class {class}: this model has classes 0 to {}", rows - 1)));
        }
        let unconditional = vec![null; options.batch_size];
        let mut labels = if self.guided(options) { unconditional.clone() } else { Vec::new() };
        match options.classes.as_slice() {
            [] => labels.extend(unconditional),
            classes => labels.extend(classes.iter().copied().cycle().take(options.batch_size)),
        }
        Ok(Some(HostTensor { shape: vec![labels.len()], data: labels.into_iter().map(|l| l as f32).collect() }))
    }

    /// The graph of one denoise step.
    ///
    /// # Errors
    /// As [`UNet2DPipeline::size`] and [`UNet2DModel::build`].
    pub fn step_graph(&self, runtime: &Runtime<'_>, options: &SampleOptions, schedule: &Schedule) -> Result<Graph> {
        let (height, width) = self.size(options)?;
        let config = &self.model.config;
        let spec = DenoiseSpec {
            schedule,
            shape: vec![options.batch_size, height, width, config.in_channels],
            branches: if self.guided(options) { 2 } else { 1 },
            rescale: None,
            masked: false,
        };
        step_graph(&spec, runtime.dtype, |m, call| {
            let class_labels =
                self.model.class_labels_desc(spec.model_batch()).map(|desc| m.graph.input("class_labels", desc));
            self.model.build(m, UNet2DInputs { sample: call.sample, timestep: call.timestep, class_labels })
        })
    }

    /// Makes pictures `[N, C, H, W]` in [0, 1].
    ///
    /// `sources` holds one noise source for the whole batch or one for each picture.
    ///
    /// # Errors
    /// [`Error::Usage`], [`Error::Shape`] and [`Error::Limits`] if the options do not fit the model or the
    /// device, before anything runs; [`Error::Device`] if the device is lost; what `observe` returns.
    pub fn sample<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        options: &SampleOptions,
        sources: &mut [S],
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        if options.batch_size == 0 || options.batch_size > 1 << 16 {
            return Err(Error::Usage(format!("--batch-size {}: expected 1 to {}", options.batch_size, 1 << 16)));
        }
        if !options.guidance_scale.is_finite() {
            return Err(Error::Usage(format!("--guidance-scale {}: expected a finite number", options.guidance_scale)));
        }
        let labels = self.class_labels(options)?;
        let (height, width) = self.size(options)?;
        let schedule = self.scheduler.schedule(&options.sampling)?;

        // 1. one denoise step as a graph, loaded on the device
        let mut session = self.fallback.load(
            runtime.device,
            &self.step_graph(runtime, options, &schedule)?,
            &self.weights,
            runtime.load,
        )?;
        if let Some(labels) = &labels {
            session.write("class_labels", labels)?;
        }
        if self.guided(options) {
            session.write("guidance_weights", &guidance_weights(&vec![options.guidance_scale; options.batch_size]))?;
        }

        // 2. x_T, then every step
        let mut noise = randn_tensor(sources, &[options.batch_size, self.model.config.in_channels, height, width]);
        noise.data.iter_mut().for_each(|v| *v *= schedule.init_noise_sigma as f32);
        let mut sample = DenoiseLoop { session, schedule: &schedule }.run(&noise, sources, observe)?;

        // 3. from [-1, 1] to [0, 1]
        sample.data.iter_mut().for_each(|v| *v = (*v / 2.0 + 0.5).clamp(0.0, 1.0));
        Ok(sample)
    }
}
