//! The memory of a whole run, known before anything is loaded: text encoders, U-Net and autoencoder are loaded, used
//! and freed in turn.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::{DiffusionPipeline, SampleOptions};
use crate::backend::{Device, LoadOptions, MemoryPlan};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::graph::{Graph, passes};
use crate::pipelines::Runtime;
use crate::pipelines::autoencoder::Half;
use crate::plan::{Lack, mib};
use crate::refusal::{Advised, Naming, Remedy, offered, quoted};
use crate::tensor::DType;

/// One component of a run.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name, as `--component` has it.
    pub component: String,
    /// The memory that it takes, or why the device cannot run it, however much memory there is.
    pub memory: std::result::Result<MemoryPlan, Advised>,
    /// For the autoencoder: the pixels of a tile's side, if it runs in tiles.
    pub tiles: Option<usize>,
}

/// The stages of a run, in order.
#[derive(Clone, Debug)]
pub struct PipelinePlan {
    /// The stages.
    pub stages: Vec<Stage>,
    /// The memory there is, bytes, where that is known.
    pub available: Option<u64>,
    /// Whether that is a limit that was asked for.
    pub limited: bool,
    /// Whether the run would take half as much in f16: not if it does already, nor on the reference.
    pub halves: bool,
    /// Whether there are several pictures, whose number could be smaller.
    pub several: bool,
    /// Whether their size could be smaller: that of given latents cannot.
    pub sized: bool,
}

impl DiffusionPipeline {
    /// The graphs that [`DiffusionPipeline::sample`] with these options runs, in order, by their components' names; the
    /// autoencoder's for whole pictures, although it may run in tiles.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::sample`], but not for lack of memory.
    pub fn graphs(&self, runtime: &Runtime<'_>, options: &SampleOptions) -> Result<Vec<(&'static str, Graph)>> {
        let shape = self.latent_shape(options)?;
        let [_, _, latent_height, latent_width] = shape;
        let mut graphs = Vec::new();
        if let Some(text) = &self.text {
            let texts = self.texts(options)?;
            let windows = self.windows_of(text, &texts, options.weighting)?;
            graphs.extend(text.graphs(texts.most(), windows, options.clip_skip, runtime.dtype)?);
        }
        // The U-Net sees the picture to enlarge as it is.
        if let (Some(vae), Some(image)) = (&self.vae, &options.image)
            && !self.traits.kind.enlarges()
        {
            let (height, width) = (image.shape[2], image.shape[3]);
            graphs.push(("vae.encoder", vae.graph(Half::Encoder, height, width, vae.dtype(runtime))?));
        }
        let schedule = self.schedule(options)?;
        let spec = self.spec(options, &schedule, &shape)?;
        graphs.push(("unet", self.graph_of_step(runtime, &spec, self.tokens(options)?)?.0));
        if let Some(vae) = &self.vae {
            graphs.push(("vae.decoder", vae.graph(Half::Decoder, latent_height, latent_width, vae.dtype(runtime))?));
        }
        Ok(graphs)
    }

    /// How to load, so that each picture of a batch has the bits that it has by itself: with the kernels that are
    /// chosen for one picture, where the same ones run for several; `None` where they do not, or where memory is too
    /// short for all at once.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::graphs`].
    pub fn as_alone(&self, runtime: &Runtime<'_>, options: &SampleOptions) -> Result<Option<LoadOptions>> {
        let first = |texts: &[String]| texts.iter().take(1).cloned().collect();
        let single = SampleOptions {
            batch_size: 1,
            prompts: first(&options.prompts),
            negative_prompts: first(&options.negative_prompts),
            prompts_2: first(&options.prompts_2),
            negative_prompts_2: first(&options.negative_prompts_2),
            classes: options.classes.iter().take(1).copied().collect(),
            guidance_scale: options.guidance_scale.iter().take(1).copied().collect(),
            ..options.clone()
        };
        let Runtime { device, load, .. } = *runtime;
        let (all, one) = (self.graphs(runtime, options)?, self.graphs(runtime, &single)?);
        let mut chosen = HashMap::new();
        for ((_, all), (_, one)) in all.iter().zip(&one).filter(|(all, one)| all != one) {
            let all = passes::optimize(all, &load.disabled_passes)?;
            chosen.insert(ContentId::of_debug(&all), device.choices(one, load)?);
        }
        let load = LoadOptions { chosen: Arc::new(chosen), ..load.clone() };
        for ((name, all), (_, one)) in all.iter().zip(&one) {
            // Autoencoders take one picture after the other.
            let samples = if *name == "vae.decoder" { 1 } else { options.batch_size };
            match device.computes_each_as(all, one, samples, &load) {
                Ok(true) => {}
                // A kernel that runs for one picture may be too large for several.
                Ok(false) | Err(Error::Usage(_) | Error::Limits(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let room = self.plan(&Runtime { load: &load, ..*runtime }, options)?.check();
        Ok((all.len() == one.len() && room.is_ok()).then_some(load))
    }

    /// The memory that [`DiffusionPipeline::sample`] with these options would take, stage by stage. Loads nothing.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::sample`], but not for lack of memory: see [`PipelinePlan::check`].
    pub fn plan(&self, runtime: &Runtime<'_>, options: &SampleOptions) -> Result<PipelinePlan> {
        let shape = self.latent_shape(options)?;
        let [_, _, latent_height, latent_width] = shape;
        let mut stages = Vec::new();
        let mut add = |component: &str, memory: Result<(MemoryPlan, Option<usize>)>| {
            let (memory, tiles) = match memory {
                Ok((memory, tiles)) => (Ok(memory), tiles),
                Err(Error::Limits(why)) => (Err(why), None),
                Err(other) => return Err(other),
            };
            stages.push(Stage { component: component.to_owned(), memory, tiles });
            Ok(())
        };
        let mut graphs = Vec::new();
        for (component, graph) in self.graphs(runtime, options)? {
            let half = |half, height, width| self.autoencoder()?.memory(runtime, half, height, width);
            let memory = match (component, &options.image) {
                ("vae.encoder", Some(image)) => half(Half::Encoder, image.shape[2], image.shape[3]),
                ("vae.decoder", _) => half(Half::Decoder, latent_height, latent_width),
                _ => runtime.device.memory(&graph, runtime.load).map(|memory| (memory, None)),
            };
            add(component, memory)?;
            graphs.push(graph);
        }
        runtime.load.check_nodes(&graphs)?;
        let (batch, given) = (options.batch_size, options.latents.is_some());
        let mut plan = PipelinePlan {
            stages: vec![],
            available: runtime.device.available_memory(runtime.load),
            limited: runtime.load.plan.max_memory_bytes.is_some(),
            halves: runtime.dtype == DType::F32 && !matches!(runtime.device, Device::Reference),
            several: batch > 1 && !given,
            sized: !given,
        };
        for stage in &mut stages {
            if let Err(why) = &mut stage.memory {
                let advice = std::mem::take(&mut why.instead);
                why.instead = offered(advice, &|field| plan.helps(&stage.component, field));
            }
        }
        plan.stages = stages;
        Ok(plan)
    }
}

impl PipelinePlan {
    /// The memory of the largest stage, bytes.
    pub fn peak(&self) -> u64 {
        self.stages.iter().filter_map(|s| Some(s.memory.as_ref().ok()?.total)).max().unwrap_or(0)
    }

    /// Refuses a run if one of its stages does not fit.
    ///
    /// # Errors
    /// [`Error::Limits`] naming the stage, both figures, and what would help.
    pub fn check(&self) -> Result<()> {
        for Stage { component, memory, tiles } in &self.stages {
            match (memory, self.available) {
                (Err(why), _) => return Err(Error::Limits(why.clone().of(component))),
                (Ok(memory), Some(available)) if memory.total > available => {
                    let lack =
                        Lack { needed: memory.total, parameters: memory.parameters, available, limited: self.limited };
                    let mut error = lack.of(component, self.halves);
                    error.instead = offered(error.instead, &|field| self.helps(component, field));
                    if component.starts_with("vae") && tiles.is_none() && memory.parameters < available {
                        error = error.instead(Remedy::Set("vae_tiling", "on".into()));
                    }
                    return Err(Error::Limits(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether another value of a field may make a stage smaller.
    fn helps(&self, component: &str, field: &str) -> bool {
        match field {
            "width" | "height" => self.sized && !component.starts_with("text_encoder") && component != "bert",
            // Autoencoders take one picture after the other.
            "batch_size" => self.several && component == "unet",
            "precision" => self.halves,
            _ => true,
        }
    }

    /// The stages as a table, with fields named as `name` does where a stage cannot run.
    pub fn in_words(&self, name: Naming<'_>) -> String {
        let columns = ["stage", "parameters", "inputs", "values", "memory"].map(str::to_owned);
        let line = |[stage, p, i, v, t]: [String; 5]| format!("{stage:<16} {p:>12} {i:>12} {v:>12} {t:>12}");
        let mut lines = vec![line(columns)];
        for Stage { component, memory, tiles } in &self.stages {
            let mut text = match memory {
                Ok(m) => {
                    let [p, i, v, t] = [m.parameters, m.inputs, m.values, m.total].map(mib);
                    line([component.clone(), p, i, v, t])
                }
                Err(why) => format!("{component:<16} cannot run here: {}", why.in_words(name)),
            };
            if let Some(pixels) = tiles {
                text += &format!(" in tiles of {pixels} x {pixels} pixels");
            }
            lines.push(text);
        }
        let available = self.available.map_or("the device does not say how much it has".into(), |bytes| {
            format!("{} {} available", mib(bytes), if bytes < self.peak() { "(too little)" } else { "are" })
        });
        lines.push(format!("peak {}, since the stages are loaded and freed in turn; {available}\n", mib(self.peak())));
        lines.join("\n")
    }
}

impl fmt::Display for PipelinePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(&quoted))
    }
}
