//! The memory of a whole run, known before anything is loaded: text encoders, U-Net and autoencoder are loaded, used
//! and freed in turn.

use std::fmt;

use super::{DiffusionPipeline, Kind, SampleOptions};
use crate::backend::MemoryPlan;
use crate::error::{Error, Result};
use crate::pipelines::Runtime;
use crate::pipelines::autoencoder::Half;
use crate::plan::mib;

/// One component at work.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name, as `--component` has it.
    pub component: String,
    /// What it takes; or why the device cannot run it, however much memory there is.
    pub memory: std::result::Result<MemoryPlan, String>,
    /// The autoencoder: the pixels of the tiles in which it runs, if it does.
    pub tiles: Option<usize>,
}

/// The stages of a run, in order.
#[derive(Clone, Debug)]
pub struct PipelinePlan {
    /// The stages.
    pub stages: Vec<Stage>,
    /// What there is, bytes, where that is known.
    pub available: Option<u64>,
}

impl DiffusionPipeline {
    /// What [`DiffusionPipeline::sample`] with these options would take, stage by stage. Nothing is loaded.
    ///
    /// # Errors
    /// As [`DiffusionPipeline::sample`], but not for lack of memory: see [`PipelinePlan::check`].
    pub fn plan(&self, runtime: &Runtime<'_>, options: &SampleOptions) -> Result<PipelinePlan> {
        let shape = self.latent_shape(options)?;
        let [batch, _, latent_height, latent_width] = shape;
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
        let memory = |graph| Ok((runtime.device.memory(&graph, runtime.load)?, None));

        if let Some(text) = &self.text {
            let windows = self.windows(options)?;
            for (component, graph) in text.graphs(batch, windows, options.clip_skip, runtime.dtype)? {
                add(component, memory(graph))?;
            }
        }
        // An enlarged picture is shown to the U-Net as it is.
        if let (Some(vae), Some(image)) = (&self.vae, &options.image)
            && self.traits.kind != Kind::Upscale
        {
            add("vae.encoder", vae.memory(runtime, Half::Encoder, image.shape[2], image.shape[3]))?;
        }
        let schedule = self.schedule(options)?;
        let spec = self.spec(options, &schedule, &shape);
        add("unet", memory(self.step_graph(runtime, &spec, self.tokens(options)?)?))?;
        if let Some(vae) = &self.vae {
            add("vae.decoder", vae.memory(runtime, Half::Decoder, latent_height, latent_width))?;
        }
        Ok(PipelinePlan { stages, available: runtime.device.available_memory(runtime.load) })
    }
}

impl PipelinePlan {
    /// The most that any stage takes, bytes.
    pub fn peak(&self) -> u64 {
        self.stages.iter().filter_map(|s| Some(s.memory.as_ref().ok()?.total)).max().unwrap_or(0)
    }

    /// Refuses a run of which one stage does not fit.
    ///
    /// # Errors
    /// [`Error::Limits`] naming the stage, both figures, and what would help.
    pub fn check(&self) -> Result<()> {
        for Stage { component, memory, .. } in &self.stages {
            let tiling = if component.starts_with("vae") { "--vae-tiling on, " } else { "" };
            match (memory, self.available) {
                (Err(why), _) => return Err(Error::Limits(format!("{component}: {why}"))),
                (Ok(memory), Some(available)) if memory.total > available => {
                    return Err(Error::Limits(format!(
                        "{component} needs {} of device memory ({} of it parameters), there are {}; use {tiling}--precision f16, a smaller --width, \
                         --height or --batch-size, or another --device",
                        mib(memory.total),
                        mib(memory.parameters),
                        mib(available)
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl fmt::Display for PipelinePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16} {:>12} {:>12} {:>12} {:>12}", "stage", "parameters", "inputs", "values", "memory")?;
        for Stage { component, memory, tiles } in &self.stages {
            match memory {
                Ok(m) => {
                    let [p, i, v, t] = [m.parameters, m.inputs, m.values, m.total].map(mib);
                    write!(f, "{component:<16} {p:>12} {i:>12} {v:>12} {t:>12}")?;
                }
                Err(why) => write!(f, "{component:<16} cannot run here: {why}")?,
            }
            match tiles {
                Some(pixels) => writeln!(f, " in tiles of {pixels} x {pixels} pixels")?,
                None => writeln!(f)?,
            }
        }
        let available = self.available.map_or("the device does not say how much it has".into(), |bytes| {
            format!("{} {} available", mib(bytes), if bytes < self.peak() { "(too little)" } else { "are" })
        });
        writeln!(f, "peak {}, since the stages are loaded and freed in turn; {available}", mib(self.peak()))
    }
}
