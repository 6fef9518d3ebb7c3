//! The autoencoder of a latent diffusion pipeline: between pictures and the latents that the U-Net works on.

use super::Runtime;
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::models::{AutoencoderKL, Layers};
use crate::ops::concat::Axis;
use crate::ops::scale_noise::LearnedVariance;
use crate::tensor::HostTensor;

/// An autoencoder, its weights, and how its latents are scaled for the U-Net.
pub struct Autoencoder {
    model: AutoencoderKL,
    weights: Weights,
    /// Per channel: latents for the U-Net = latents of the autoencoder · factor + offset.
    scale: Vec<(f64, f64)>,
}

impl Autoencoder {
    /// Loads the component `vae`; its weights are read when they are needed. Only SDXL's pipelines use `latents_mean` and `latents_std` (as diffusers).
    ///
    /// # Errors
    /// As the config and the weights.
    pub fn load(checkpoint: &Checkpoint, xl: bool) -> Result<Self> {
        let component = checkpoint.component("vae")?;
        let model = AutoencoderKL::from_json(&component.config)?;
        let weights = Weights::new(component.tensors, &model.parameters()?)?;
        let c = &model.config;
        let scale = (0..c.latent_channels)
            .map(|i| match (&c.latents_mean, &c.latents_std) {
                (Some(mean), Some(std)) if xl => {
                    let factor = c.scaling_factor / std[i];
                    (factor, -mean[i] * factor)
                }
                _ => (c.scaling_factor, 0.0),
            })
            .collect();
        Ok(Self { model, weights, scale })
    }

    /// Rows (and columns) of the picture for one of a latent.
    pub fn downscale(&self) -> usize {
        self.model.config.downscale()
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.scale.len()
    }

    /// A picture `[1, 3, H, W]` in [−1, 1] to latents for the U-Net `[1, C, h, w]`: mean + exp(½ logvar) · `draw`, scaled.
    ///
    /// # Errors
    /// As [`crate::backend::Device::load`].
    pub fn encode(&self, runtime: &Runtime<'_>, image: &HostTensor, draw: &HostTensor) -> Result<HostTensor> {
        let mut graph = Graph::new();
        let g = &mut graph;
        let (mean, logvar) = self.moments(g, runtime, image)?;
        let noise = g.input("noise", g.desc(mean).clone());
        // exp(0.5 v) is the learned_range formula between the bounds -1 and 1.
        let bounds = g.constant("log_bounds", HostTensor { shape: vec![6], data: vec![0.0, 0.0, 0.0, 0.0, -1.0, 1.0] });
        let moments = g.concat("moments", mean, logvar, Axis::Channels)?;
        let noise = g.scale_noise("deviation", noise, moments, bounds, LearnedVariance::Range)?;
        let latent = g.add("sample_latent", mean, noise)?;
        let table: Vec<f32> =
            self.scale.iter().map(|(f, _)| (f - 1.0) as f32).chain(self.scale.iter().map(|(_, o)| *o as f32)).collect();
        let table = g.constant("latent_scale", HostTensor::new([1, table.len()], table)?);
        let latent = g.scale_shift("scale_latent", latent, table, None)?;
        g.output("latent", latent);
        let mut session = runtime.device.load(graph, &self.weights, runtime.load)?;
        session.write("sample", &image.nchw_to_nhwc()?)?;
        session.write("noise", &draw.nchw_to_nhwc()?)?;
        session.run()?;
        session.read("latent")?.nhwc_to_nchw()
    }

    /// A picture `[1, 3, H, W]` in [−1, 1] to the mean of its latents `[1, C, h, w]`, not scaled: what instruct-pix2pix is shown.
    ///
    /// # Errors
    /// As [`crate::backend::Device::load`].
    pub fn mode(&self, runtime: &Runtime<'_>, image: &HostTensor) -> Result<HostTensor> {
        let mut graph = Graph::new();
        let (mean, _) = self.moments(&mut graph, runtime, image)?;
        graph.output("latent", mean);
        let mut session = runtime.device.load(graph, &self.weights, runtime.load)?;
        session.write("sample", &image.nchw_to_nhwc()?)?;
        session.run()?;
        session.read("latent")?.nhwc_to_nchw()
    }

    fn moments(&self, g: &mut Graph, runtime: &Runtime<'_>, image: &HostTensor) -> Result<(ValueId, ValueId)> {
        let &[1, channels, h, w] = image.shape.as_slice() else {
            return Err(Error::Shape(format!("a picture to encode must be [1, C, H, W], found {:?}", image.shape)));
        };
        let sample = g.input("sample", TensorDesc::f32([1, h, w, channels]));
        self.model.encode(&mut Layers::new(g, runtime.dtype), sample)
    }

    /// Latents of the U-Net `[N, C, h, w]` to pictures `[N, 3, H, W]` in [0, 1], one after the other, so that memory does not grow with the batch.
    ///
    /// # Errors
    /// As [`crate::backend::Device::load`].
    pub fn decode(&self, runtime: &Runtime<'_>, latents: &HostTensor) -> Result<HostTensor> {
        let mut graph = Graph::new();
        let g = &mut graph;
        let &[batch, channels, h, w] = latents.shape.as_slice() else {
            return Err(Error::Shape(format!("latents must be [N, C, h, w], found {:?}", latents.shape)));
        };
        let latent = g.input("latent", TensorDesc::f32([1, h, w, channels]));
        let table = self
            .scale
            .iter()
            .map(|(f, _)| (1.0 / f - 1.0) as f32)
            .chain(self.scale.iter().map(|(f, o)| (-o / f) as f32))
            .collect();
        let table = g.constant("latent_scale", HostTensor::new([1, 2 * channels], table)?);
        let latent = g.scale_shift("unscale_latent", latent, table, None)?;
        let sample = self.model.decode(&mut Layers::new(g, runtime.dtype), latent)?;
        let picture = g.scale("to_unit_range", sample, 0.5, 0.5)?;
        g.output("picture", picture);
        let mut session = runtime.device.load(graph, &self.weights, runtime.load)?;
        let mut pictures = Vec::new();
        let mut shape = vec![batch];
        for one in latents.data.chunks(channels * h * w) {
            session.write("latent", &HostTensor::new([1, channels, h, w], one.to_vec())?.nchw_to_nhwc()?)?;
            session.run()?;
            let picture = session.read("picture")?.nhwc_to_nchw()?;
            shape.truncate(1);
            shape.extend(&picture.shape[1..]);
            pictures.extend(picture.data.iter().map(|v| v.clamp(0.0, 1.0)));
        }
        HostTensor::new(shape, pictures)
    }
}
