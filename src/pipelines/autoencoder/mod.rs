//! The autoencoder of a latent diffusion pipeline: turns pictures into the latents that the U-Net works on, and back.

mod tiles;

use std::sync::Mutex;

use super::Runtime;
use crate::backend::MemoryPlan;
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::models::{AutoencoderKL, AutoencoderTiny, Layers, VQModel};
use crate::ops::scale_noise::LearnedVariance;
use crate::overflow::F32Fallback;
use crate::refusal::{Refusal, Remedy};
use crate::rng::NoiseSource;
use crate::tensor::{DType, HostTensor};
use tiles::Tiles;

/// Whether pictures are encoded and decoded in overlapping tiles. Tiles bound the memory, and change the picture a
/// little, because each is normalised by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// Only where the whole does not fit the device; then in the largest tiles that fit.
    #[default]
    Auto,
    /// Pictures larger than the model's `sample_size` in tiles of that size, as diffusers' `enable_tiling`.
    On,
    /// Never: a picture that does not fit is refused.
    Off,
    /// As `On`, in tiles of this many rows and columns of the picture, rounded down to quarters of whole latents.
    Pixels(usize),
}

impl std::str::FromStr for Tiling {
    type Err = String;

    /// `auto`, `on`, `off`, or a number of pixels.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => match text.parse() {
                Ok(pixels) if pixels > 0 => Ok(Self::Pixels(pixels)),
                _ => Err("expected auto, on, off, or the pixels of a tile's side".into()),
            },
        }
    }
}

/// The kinds of autoencoder.
enum AutoencoderModel {
    Kl(AutoencoderKL),
    Tiny(AutoencoderTiny),
    Vq(VQModel),
}

/// The two directions, each a graph from `x` to `y` of one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Half {
    /// Picture → moments of the latents' distribution, or latents where there is none.
    Encoder,
    /// The U-Net's latents → picture, about [0, 1].
    Decoder,
}

/// An autoencoder, its weights, and how its latents are scaled for the U-Net.
pub struct Autoencoder {
    /// Whether pictures are encoded and decoded in tiles.
    pub tiling: Tiling,
    model: AutoencoderModel,
    weights: Weights,
    /// Per channel: latents for the U-Net = latents of the autoencoder · factor + offset.
    scale: Vec<(f64, f64)>,
    /// Always computes in f32: the config says that f16 overflows.
    upcast: bool,
    encoder_fallback: F32Fallback,
    decoder_fallback: F32Fallback,
    notes: Mutex<Vec<String>>,
}

impl Autoencoder {
    /// Loads a component, `vae` or `vqvae`; its weights are read when they are needed. As in diffusers, only SDXL's
    /// pipelines use `latents_mean`, `latents_std` and `force_upcast`.
    ///
    /// # Errors
    /// What config and weights report; [`Error::Unsupported`] for a class other than `AutoencoderKL`,
    /// `AutoencoderTiny` and `VQModel`.
    pub fn load(checkpoint: &Checkpoint, name: &str, xl: bool) -> Result<Self> {
        let component = checkpoint.component(name)?;
        let (model, parameters) = match component.class_name.as_deref() {
            Some("AutoencoderTiny") => {
                let model = AutoencoderTiny::from_json(&component.config)?;
                let parameters = model.parameters()?;
                (AutoencoderModel::Tiny(model), parameters)
            }
            None | Some("AutoencoderKL") => {
                let model = AutoencoderKL::from_json(&component.config)?;
                let parameters = model.parameters_among(&component.tensors.names())?;
                (AutoencoderModel::Kl(model), parameters)
            }
            Some("VQModel") => {
                let model = VQModel::from_json(&component.config)?;
                let parameters = model.parameters()?;
                (AutoencoderModel::Vq(model), parameters)
            }
            Some(other) => {
                return Err(Error::Unsupported(format!(
                    "{}: an autoencoder of class \"{other}\"; there are AutoencoderKL, AutoencoderTiny and VQModel",
                    component.config.path.display()
                )));
            }
        };
        let scale = match &model {
            AutoencoderModel::Tiny(tiny) => vec![(tiny.config.scaling_factor, 0.0); tiny.config.latent_channels],
            AutoencoderModel::Vq(VQModel { config: c }) => vec![(c.scaling_factor, 0.0); c.vq_embed_dim],
            AutoencoderModel::Kl(AutoencoderKL { config: c }) => (0..c.latent_channels)
                .map(|i| match (&c.latents_mean, &c.latents_std) {
                    (Some(mean), Some(std)) if xl => {
                        let factor = c.scaling_factor / std[i];
                        (factor, -mean[i] * factor)
                    }
                    _ => (c.scaling_factor, 0.0),
                })
                .collect(),
        };
        let upcast = matches!(&model, AutoencoderModel::Kl(kl) if xl && kl.config.force_upcast);
        let weights = Weights::of(&component, &parameters)?;
        Ok(Self {
            tiling: Tiling::Auto,
            model,
            weights,
            scale,
            upcast,
            encoder_fallback: F32Fallback::new("autoencoder's encoder"),
            decoder_fallback: F32Fallback::new("autoencoder's decoder"),
            notes: Mutex::default(),
        })
    }

    /// The same, whose latents the U-Net sees as they are, whatever the config says.
    pub fn unscaled(self) -> Self {
        Self { scale: vec![(1.0, 0.0); self.scale.len()], ..self }
    }

    /// Rows (and columns) of the picture for one of a latent.
    pub fn downscale(&self) -> usize {
        match &self.model {
            AutoencoderModel::Kl(model) => model.config.downscale(),
            AutoencoderModel::Tiny(model) => model.config.downscale(),
            AutoencoderModel::Vq(model) => model.config.blocks.downscale(),
        }
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.scale.len()
    }

    /// The normal numbers that [`Autoencoder::encode`] takes; if the encoder returns no distribution, zeros, and
    /// nothing is drawn (as in diffusers).
    pub fn draw<S: NoiseSource>(&self, source: &mut S, shape: &[usize; 4]) -> HostTensor {
        if self.has_distribution() { source.randn(shape) } else { HostTensor::zeros(*shape) }
    }

    fn has_distribution(&self) -> bool {
        matches!(self.model, AutoencoderModel::Kl(_))
    }

    /// Notes about the runs so far for the user, such as that f16 overflowed; each is returned once.
    pub fn take_notes(&self) -> Vec<String> {
        let mut notes = std::mem::take(&mut *self.notes.lock().expect("no holder of this lock panics"));
        notes.extend(self.encoder_fallback.take_notes());
        notes.extend(self.decoder_fallback.take_notes());
        notes
    }

    fn note(&self, note: String) {
        let mut notes = self.notes.lock().expect("no holder of this lock panics");
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// A picture `[1, 3, H, W]` in [−1, 1] to latents for the U-Net, mean + exp(½ logvar) · draw, scaled: one sample
    /// for each of `draws` `[M, C, h, w]`, in the same shape.
    ///
    /// # Errors
    /// As [`crate::backend::Device::load`].
    pub fn encode(&self, runtime: &Runtime<'_>, image: &HostTensor, draws: &HostTensor) -> Result<HostTensor> {
        let moments = self.moments(runtime, image)?;
        let mut graph = Graph::new();
        let g = &mut graph;
        let x = g.input("moments", TensorDesc::f32(moments.shape.clone()));
        let latent = match &self.model {
            AutoencoderModel::Tiny(_) | AutoencoderModel::Vq(_) => x,
            AutoencoderModel::Kl(model) => {
                let (mean, logvar) = model.distribution(g, x)?;
                let noise = g.input("noise", g.desc(mean).clone());
                // exp(0.5 v) is the learned_range formula between the bounds -1 and 1.
                let bounds = HostTensor { shape: vec![6], data: vec![0.0, 0.0, 0.0, 0.0, -1.0, 1.0] };
                let bounds = g.constant("log_bounds", bounds);
                let both = g.concat("moments_clamped", mean, logvar, -1)?;
                let deviation = g.scale_noise("deviation", noise, both, bounds, LearnedVariance::Range)?;
                g.add("sample_latent", mean, deviation)?
            }
        };
        let latent = per_channel(g, "scale_latent", latent, self.scale.iter().copied())?;
        g.output("latent", latent);
        let mut session = runtime.device.load(graph, &self.weights, runtime.load)?;
        session.write("moments", &moments)?;
        let one: usize = draws.shape[1..].iter().product();
        let mut latents = Vec::with_capacity(draws.len());
        for draw in draws.data.chunks(one) {
            if self.has_distribution() {
                let draw = HostTensor::new([&[1], &draws.shape[1..]].concat(), draw.to_vec())?;
                session.write("noise", &draw.channels_last())?;
            }
            session.run()?;
            latents.extend(session.read("latent")?.channels_first().data);
        }
        HostTensor::new(draws.shape.clone(), latents)
    }

    /// A picture `[1, 3, H, W]` in [−1, 1] to the mean of its latents `[1, C, h, w]`, not scaled: what instruct-pix2pix
    /// sees.
    ///
    /// # Errors
    /// As [`crate::backend::Device::load`].
    pub fn mode(&self, runtime: &Runtime<'_>, image: &HostTensor) -> Result<HostTensor> {
        let moments = self.moments(runtime, image)?.channels_first();
        let [channels, h, w] = [self.latent_channels(), moments.shape[2], moments.shape[3]];
        // The mean is the first half of the channels, or all there are.
        HostTensor::new([1, channels, h, w], moments.data[..channels * h * w].to_vec())
    }

    fn moments(&self, runtime: &Runtime<'_>, image: &HostTensor) -> Result<HostTensor> {
        let &[1, _, _, _] = image.shape.as_slice() else {
            return Err(Error::Shape(format!("a picture to encode must be [1, C, H, W], found {:?}", image.shape)));
        };
        if !self.weights.names().any(|name| name.starts_with("encoder.")) {
            let why = format!("{} holds no encoder, which pictures to begin with need", self.weights.label());
            return Err(Refusal::of("vae", why).instead(Remedy::Give(&["vae"])).into());
        }
        let mut all = self.run(runtime, Half::Encoder, &[image.channels_last()])?;
        Ok(all.swap_remove(0))
    }

    /// Latents of the U-Net `[N, C, h, w]` to pictures `[N, 3, H, W]` in [0, 1], one after the other, so that memory
    /// does not grow with the batch.
    ///
    /// # Errors
    /// As [`crate::backend::Device::load`]; [`Error::Checkpoint`] if the pictures are not finite even in f32.
    pub fn decode(&self, runtime: &Runtime<'_>, latents: &HostTensor) -> Result<HostTensor> {
        let &[batch, channels, h, w] = latents.shape.as_slice() else {
            return Err(Error::Shape(format!("latents must be [N, C, h, w], found {:?}", latents.shape)));
        };
        let one = |data: &[f32]| Ok(HostTensor::new([1, channels, h, w], data.to_vec())?.channels_last());
        let inputs = latents.data.chunks(channels * h * w).map(one).collect::<Result<Vec<_>>>()?;
        let mut shape = vec![batch];
        let mut pictures = Vec::new();
        for picture in self.run(runtime, Half::Decoder, &inputs)? {
            let picture = picture.channels_first();
            shape.truncate(1);
            shape.extend(&picture.shape[1..]);
            pictures.extend(picture.data.iter().map(|v| v.clamp(0.0, 1.0)));
        }
        HostTensor::new(shape, pictures)
    }

    /// The graph of one half for pictures or latents of `height` × `width`, from the input `x` `[1, H, W, C]` to the
    /// output `y`.
    pub(super) fn graph(&self, half: Half, height: usize, width: usize, dtype: DType) -> Result<Graph> {
        let mut graph = Graph::new();
        let y = match half {
            Half::Encoder => {
                let x = graph.input("x", TensorDesc::f32([1, height, width, self.in_channels()]));
                let m = &mut Layers::new(&mut graph, dtype);
                match &self.model {
                    AutoencoderModel::Kl(model) => model.moments(m, x)?,
                    AutoencoderModel::Tiny(model) => model.encode(m, x)?,
                    AutoencoderModel::Vq(model) => model.encode(m, x)?,
                }
            }
            Half::Decoder => {
                let x = graph.input("x", TensorDesc::f32([1, height, width, self.latent_channels()]));
                let latent = self.unscale(&mut graph, x)?;
                let m = &mut Layers::new(&mut graph, dtype);
                let sample = match &self.model {
                    AutoencoderModel::Kl(model) => model.decode(m, latent)?,
                    AutoencoderModel::Tiny(model) => model.decode(m, latent)?,
                    AutoencoderModel::Vq(model) => model.decode(m, latent)?.1,
                };
                graph.scale("to_unit_range", sample, 0.5, 0.5)?
            }
        };
        graph.output("y", y);
        Ok(graph)
    }

    fn in_channels(&self) -> usize {
        match &self.model {
            AutoencoderModel::Kl(model) => model.config.in_channels,
            AutoencoderModel::Tiny(model) => model.config.in_channels,
            AutoencoderModel::Vq(model) => model.config.blocks.in_channels,
        }
    }

    fn unscale(&self, g: &mut Graph, latent: ValueId) -> Result<ValueId> {
        per_channel(g, "unscale_latent", latent, self.scale.iter().map(|(f, o)| (1.0 / f, -o / f)))
    }

    /// The element type of weights and activations, unless they overflow it.
    pub(super) fn dtype(&self, runtime: &Runtime<'_>) -> DType {
        if self.upcast { DType::F32 } else { runtime.dtype }
    }

    /// Runs one half on pictures of one size `[1, H, W, C]`.
    fn run(&self, runtime: &Runtime<'_>, half: Half, inputs: &[HostTensor]) -> Result<Vec<HostTensor>> {
        let what = match half {
            Half::Encoder => "encoder",
            Half::Decoder => "decoder",
        };
        let finite = |all: &[HostTensor]| all.iter().all(|t| t.data.iter().all(|v| v.is_finite()));
        let dtype = self.dtype(runtime);
        if dtype != runtime.dtype {
            self.note("the autoencoder ran in f32: its config says that f16 overflows (force_upcast)".into());
        }
        let results = self.run_as(runtime, dtype, half, inputs)?;
        if finite(&results) {
            return Ok(results);
        }
        Err(Error::Checkpoint(format!(
            "{}: the {what} returns NaN or infinite numbers even in f32; either its input is not finite, or the \
            weights are damaged",
            self.weights.label()
        )))
    }

    /// As [`Autoencoder::run`] in one element type: whole or in tiles, by choice and by what fits.
    fn run_as(
        &self,
        runtime: &Runtime<'_>,
        dtype: DType,
        half: Half,
        inputs: &[HostTensor],
    ) -> Result<Vec<HostTensor>> {
        let (height, width) = (inputs[0].shape[1], inputs[0].shape[2]);
        let fallback = match half {
            Half::Encoder => &self.encoder_fallback,
            Half::Decoder => &self.decoder_fallback,
        };
        let load = |h: usize, w: usize| {
            fallback.load(runtime.device, &self.graph(half, h, w, dtype)?, &self.weights, runtime.load)
        };
        let whole = || -> Result<Vec<HostTensor>> {
            let mut session = load(height, width)?;
            let run = |x: &HostTensor| {
                session.write("x", x)?;
                session.run()?;
                session.read("y")
            };
            inputs.iter().map(run).collect()
        };
        let mut refusal = None;
        for way in self.ways(half, height, width) {
            let result = match way {
                None => whole(),
                Some(tiles) => inputs.iter().map(|x| tiles.run(runtime, x, load)).collect(),
            };
            match (result, way) {
                (Err(Error::Limits(why)), _) => refusal = Some(why),
                (Ok(results), Some(tiles)) => {
                    if let Some(refusal) = refusal {
                        let (pixels, why) = (tiles.size.max(tiles.out_size), refusal.why);
                        self.note(format!("the autoencoder ran in tiles of {pixels} x {pixels} pixels: {why}"));
                    }
                    return Ok(results);
                }
                (result, _) => return result,
            }
        }
        Err(Error::Limits(refusal.expect("there is at least one way, and each way that does not return was refused")))
    }

    /// The memory that one half takes for a picture or latents of `height` × `width`, and the pixels of the tiles in
    /// which it would run, if any.
    ///
    /// # Errors
    /// [`Error::Limits`] if the device cannot run it in any way that is allowed, however much memory it has.
    pub(super) fn memory(
        &self,
        runtime: &Runtime<'_>,
        half: Half,
        height: usize,
        width: usize,
    ) -> Result<(MemoryPlan, Option<usize>)> {
        let available = runtime.device.available_memory(runtime.load).unwrap_or(u64::MAX);
        let mut last = None;
        for way in self.ways(half, height, width) {
            let limit = way.map_or(usize::MAX, |tiles| tiles.size);
            let graph = self.graph(half, height.min(limit), width.min(limit), self.dtype(runtime))?;
            match runtime.device.memory(&graph, runtime.load) {
                Err(Error::Limits(why)) => drop(last.get_or_insert(Err(Error::Limits(why)))),
                Err(other) => return Err(other),
                Ok(plan) => {
                    last = Some(Ok((plan, way.map(|tiles| tiles.size.max(tiles.out_size)))));
                    if plan.total <= available {
                        break;
                    }
                }
            }
        }
        last.expect("there is at least one way")
    }

    /// Compiles what one half needs on the device, run whole or in tiles as it will be.
    ///
    /// # Errors
    /// As [`Autoencoder::memory`] and [`crate::backend::Device::compile`].
    pub(super) fn compile(&self, runtime: &Runtime<'_>, half: Half, height: usize, width: usize) -> Result<()> {
        let (_, pixels) = self.memory(runtime, half, height, width)?;
        let limit = pixels.map_or(usize::MAX, |pixels| self.tiles(half, pixels).size);
        let graph = self.graph(half, height.min(limit), width.min(limit), self.dtype(runtime))?;
        runtime.device.compile(&graph, runtime.load)
    }

    /// The ways to run one half, in the order to try them: whole (`None`), or in tiles.
    fn ways(&self, half: Half, height: usize, width: usize) -> Vec<Option<Tiles>> {
        let larger = |tiles: &Tiles| height.max(width) > tiles.size;
        match self.tiling {
            Tiling::Off => vec![None],
            Tiling::On | Tiling::Pixels(_) => vec![Some(self.tiles(half, self.tile_pixels())).filter(larger)],
            Tiling::Auto => {
                // The model's own tiles, then halves of them, as long as they hold 8 latents.
                let least = 8 * self.downscale();
                let sizes = std::iter::successors(Some(self.tile_pixels()), |pixels| Some(pixels / 2));
                let sizes = sizes.take_while(|pixels| *pixels >= least);
                let tiles = sizes.map(|pixels| self.tiles(half, pixels)).filter(larger);
                std::iter::once(None).chain(tiles.map(Some)).collect()
            }
        }
    }

    /// Rows and columns of the picture that one tile covers.
    fn tile_pixels(&self) -> usize {
        match (self.tiling, &self.model) {
            (Tiling::Pixels(pixels), _) => pixels,
            (_, AutoencoderModel::Kl(model)) => model.config.sample_size.0,
            (_, AutoencoderModel::Vq(model)) => model.config.blocks.sample_size.0,
            (_, AutoencoderModel::Tiny(_)) => 512, // no config says so
        }
    }

    fn tiles(&self, half: Half, pixels: usize) -> Tiles {
        // Whole latents in each quarter, since neighbours overlap by one quarter.
        let latents = (pixels / self.downscale() / 4 * 4).max(4);
        let pixels = latents * self.downscale();
        match half {
            Half::Encoder => Tiles { size: pixels, out_size: latents },
            Half::Decoder => Tiles { size: latents, out_size: pixels },
        }
    }
}

/// `x · factor + offset` with an own pair for each channel, the last dimension.
fn per_channel(g: &mut Graph, name: &str, x: ValueId, pairs: impl Iterator<Item = (f64, f64)>) -> Result<ValueId> {
    let (factors, offsets): (Vec<f32>, Vec<f32>) = pairs.map(|(f, o)| (f as f32, o as f32)).unzip();
    let mut table = |suffix: &str, data: Vec<f32>| {
        g.constant(format!("{name}.{suffix}"), HostTensor { shape: vec![data.len()], data })
    };
    let (factors, offsets) = (table("factors", factors), table("offsets", offsets));
    let scaled = g.mul(format!("{name}.mul"), x, factors)?;
    g.add(name, scaled, offsets)
}
