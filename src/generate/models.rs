//! A model and its refiner, from a request to pictures.

use std::sync::Arc;

use super::{Notes, OpenModel, Paths, Record, named_files};
use crate::checkpoint::Ignore;
use crate::error::Result;
use crate::pipelines::{DiffusionPipeline, Progress, Runtime, SampleOptions, Traits};
use crate::request::{self, Asked, Request, Resolved};
use crate::rng::NoiseSource;
use crate::schedulers::{Sampling, Scheduler};
use crate::tensor::HostTensor;

/// The model, and the refiner that goes on after it.
pub struct Models {
    /// The model.
    pub model: OpenModel,
    /// The refiner.
    pub refiner: Option<OpenModel>,
}

/// What a run tells of while it goes on.
pub enum Event<'a, 'p> {
    /// A step is done, or has at least begun.
    Step(Step<'a, 'p>),
    /// All steps of the model, or of its refiner, are done.
    Done,
}

/// A step of a run.
pub struct Step<'a, 'p> {
    /// What makes it.
    pub pipeline: &'a DiffusionPipeline,
    /// The step, among those of the model or of its refiner.
    pub progress: Progress<'p>,
    /// Steps done, of model and refiner.
    pub done: usize,
    /// Steps of both.
    pub total: usize,
}

impl Models {
    /// Opens the model that a request asks for, and its refiner if it asks for one.
    ///
    /// # Errors
    /// As [`OpenModel::open`] and [`OpenModel::open_refiner`].
    pub fn open(request: &Request, notes: &mut Notes) -> Result<Self> {
        let ignore = Arc::new(Ignore::new(&request.ignore_unused));
        let model = OpenModel::open(request, &ignore, notes)?;
        let refiner = OpenModel::open_refiner(request, &ignore, notes)?;
        ignore.account().into_iter().for_each(|note| notes.add(format!("note: {note}")));
        Ok(Self { model, refiner })
    }

    /// Resolves the request, and prepares the pipelines for it. `record` is the picture's that is made again.
    ///
    /// # Errors
    /// As [`request::resolve`] and [`DiffusionPipeline::windows`].
    pub fn resolve(&mut self, asked: &Asked, record: Option<&Record>) -> Result<Resolved> {
        let own = self.model.pipeline.traits;
        let refined = self.refiner.as_ref().is_some_and(|refiner| refiner.pipeline.traits.aesthetic);
        let traits = Traits { aesthetic: own.aesthetic || refined, ..own };
        let mut generation = self.model.generation.clone();
        generation.denoising_end = generation.denoising_end.or_else(|| self.share_of_the_base());
        let facts = request::ModelFacts { traits: &traits, generation: &generation, scheduler: &self.model.scheduler };
        let mut resolved = request::resolve(asked, &facts).map_err(|mut refusal| {
            // "This model" says little to someone who did not choose one.
            if asked.request.model.is_none() && refusal.why.contains("this model") {
                refusal.why += &format!(" (the model is {})", self.model.checkpoint.path().display());
            }
            refusal
        })?;
        self.model.pipeline.scheduler = resolved.scheduler.clone();
        self.model.pipeline.set_tiling(resolved.tiling);
        if let Some(refiner) = &mut self.refiner {
            // The refiner chooses its scheduler as the model does.
            let past = record.and_then(|record| Some((record, record.refiner_scheduler.as_ref()?)));
            let past = past.map(|(record, scheduler)| record.past_with(scheduler)).transpose()?;
            let request = Request { model: asked.request.refiner.clone(), ..asked.request.clone() };
            let asked = Asked { request, past };
            let (config, _) = request::scheduler(&asked, &refiner.scheduler, &refiner.generation)?;
            refiner.pipeline.scheduler = Scheduler::new(config)?;
            refiner.pipeline.set_tiling(resolved.tiling);
        }
        let windows = self.model.pipeline.windows(&resolved.options)?;
        if windows > 1 {
            resolved.notes.push(format!(
                "the prompt is longer than the text encoder's window; it is read in {windows} windows side by side"
            ));
        }
        Ok(resolved)
    }

    /// The share of the noise that the model takes away before its refiner goes on, as their files say on which
    /// timesteps they were trained.
    fn share_of_the_base(&self) -> Option<f64> {
        let refiner = self.refiner.as_ref()?;
        let own = self.model.checkpoint.timestep_range().map(|(first, _)| first);
        let timestep = own.filter(|first| *first > 0).or(refiner.checkpoint.timestep_range().map(|(_, last)| last))?;
        let trained = self.model.scheduler.num_train_timesteps as f64;
        Some(1.0 - timestep as f64 / trained).filter(|share| *share > 0.0 && *share < 1.0)
    }

    /// The configs of the schedulers that make the pictures.
    pub fn schedulers(&self) -> (serde_json::Value, Option<serde_json::Value>) {
        let config = |model: &OpenModel| model.pipeline.scheduler.config.to_json();
        (config(&self.model), self.refiner.as_ref().map(config))
    }

    /// The files that decide what the pictures are, by the fields that name them.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if a folder cannot be read.
    pub fn paths(&self, request: &Request) -> Result<Paths> {
        let mut paths = Paths::from([("model".to_owned(), self.model.checkpoint.files()?)]);
        if let Some(refiner) = &self.refiner {
            paths.insert("refiner".to_owned(), refiner.checkpoint.files()?);
        }
        if let Some(classifier) = self.model.pipeline.classifier() {
            let named = classifier.files.iter().map(|path| (path.display().to_string(), path.clone()));
            paths.insert("classifier".to_owned(), named.collect());
        }
        for (option, path) in named_files(request) {
            paths.entry(option.to_owned()).or_default().push((path.display().to_string(), path));
        }
        Ok(paths)
    }

    /// Steps that a run of `options` takes, with the refiner's.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::steps`].
    pub fn steps(&self, options: &SampleOptions) -> Result<usize> {
        let refiner = self.refiner.as_ref().map_or(Ok(0), |refiner| refiner.pipeline.steps(&rest(options)))?;
        Ok(self.model.pipeline.steps(options)? + refiner)
    }

    /// What is made after all steps, `[N, C, h, w]`: latents, or pictures of a model on pixels. `observe` hears of
    /// every step.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::sample_latents`].
    pub fn run(
        &self,
        runtime: &Runtime<'_>,
        resolved: &Resolved,
        observe: &mut dyn FnMut(Event<'_, '_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let options = &resolved.options;
        let mut sources = resolved.noise_sources();
        let total = self.steps(options)?;
        let mut done = 0;
        let mut steps = |pipeline, options: &SampleOptions, sources: &mut [Box<dyn NoiseSource>]| {
            let latents = DiffusionPipeline::sample_latents(pipeline, runtime, options, sources, &mut |progress| {
                done += 1;
                observe(Event::Step(Step { pipeline, progress, done, total }))
            })?;
            observe(Event::Done)?;
            Ok(latents)
        };
        let latents = steps(&self.model.pipeline, options, &mut sources)?;
        match &self.refiner {
            Some(refiner) => {
                let rest = SampleOptions { latents: Some(latents), ..rest(options) };
                steps(&refiner.pipeline, &rest, &mut sources)
            }
            None => Ok(latents),
        }
    }

    /// Pictures `[N, C, H, W]` in [0, 1] of what a run has made.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::decode`].
    pub fn decode(&self, runtime: &Runtime<'_>, latents: &HostTensor) -> Result<HostTensor> {
        self.refiner.as_ref().unwrap_or(&self.model).pipeline.decode(runtime, latents)
    }

    /// What the runs so far have to tell, each once.
    pub fn take_notes(&self, notes: &mut Notes) {
        let models = [Some(&self.model), self.refiner.as_ref()];
        let all = models.into_iter().flatten().flat_map(|model| model.pipeline.take_notes());
        all.for_each(|note| notes.add(format!("note: {note}")));
    }
}

/// What of a request decides which models are opened, and how: requests of the same key share them.
pub fn opening_key(request: &Request) -> String {
    let opened = Request {
        model: request.model.clone(),
        unet: request.unet.clone(),
        vae: request.vae.clone(),
        text_encoder: request.text_encoder.clone(),
        text_encoder_2: request.text_encoder_2.clone(),
        variant: request.variant.clone(),
        classifier: request.classifier.clone(),
        lora: request.lora.clone(),
        embedding: request.embedding.clone(),
        scheduler_config: request.scheduler_config.clone(),
        ignore_unused: request.ignore_unused.clone(),
        prediction_type: request.prediction_type.clone(),
        refiner: request.refiner.clone(),
        refiner_lora: request.refiner_lora.clone(),
        // A scheduler that is asked for is not read from the model's files.
        scheduler: request.scheduler.as_ref().map(|_| String::new()),
        // Without a model, texts and classes have different ones.
        prompt: if request.prompt.is_empty() { vec![] } else { vec![String::new()] },
        ..Request::default()
    };
    opened.to_json().map(|json| json.to_string()).unwrap_or_default()
}

/// The refiner's options, but for the latents, in which the first model ended.
fn rest(options: &SampleOptions) -> SampleOptions {
    SampleOptions {
        sampling: Sampling {
            strength: 1.0,
            denoising_start: options.sampling.denoising_end,
            denoising_end: None,
            ..options.sampling.clone()
        },
        image: None,
        mask: None,
        noise: None,
        // The latents have a size.
        height: None,
        width: None,
        ..options.clone()
    }
}
