//! How well a model does what it was trained for: pictures are noised, the model says what it sees, and the answer is
//! compared ([`Objective`]).

use std::rc::Rc;

use super::options::SampleOptions;
use super::{DiffusionPipeline, Kind, Runtime};
use crate::backend::Session;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc};
use crate::models::Layers;
use crate::pipelines::ModelCall;
use crate::rng::NoiseSource;
use crate::schedulers::Objective;
use crate::tensor::HostTensor;

/// A picture to measure a model with.
#[derive(Clone, Debug)]
pub struct Example {
    /// What messages call it.
    pub name: String,
    /// `[1, C, H, W]` in [−1, 1].
    pub image: HostTensor,
    /// Its class; `None` is "no class", or a model without.
    pub class: Option<usize>,
    /// What it shows, for models that take a text.
    pub caption: Option<String>,
}

/// What was measured on a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ExampleLoss {
    /// The mean squared error of the model's prediction at each level of the objective.
    pub mse: Vec<f64>,
    /// The bound, of a model on pixels; latents have no levels, of which a decoder could give the probability.
    pub bound: Option<Bound>,
}

/// The variational bound of a picture, in nats per element (pixel and channel).
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// L_T.
    pub prior: f64,
    /// L_0, then L_{t−1} of each further level of the objective.
    pub terms: Vec<f64>,
}

/// A picture at a level: what the device needs of it.
struct Pair {
    example: usize,
    level: usize,
    noise: HostTensor,
    of: Rc<Prepared>,
}

/// A picture as the U-Net sees it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What messages call it.
    pub name: String,
    /// `[1, C, h, w]`: the picture, or its latents.
    pub original: HostTensor,
    /// Class, text and the like: inputs of the graph, `[1, ..]`.
    pub condition: Vec<(&'static str, HostTensor)>,
    /// Length of the text.
    pub tokens: usize,
}

impl DiffusionPipeline {
    /// Measures the training objective on pictures of one size, `batch` pairs of picture and timestep at once. Each
    /// picture is noised at each level of `objective` with noise of its own, drawn from `noise` as `[1, C, h, w]`:
    /// first the first picture's for all levels in ascending order, then the second one's. Latents are the means that
    /// the autoencoder's encoder gives. `observe` is told how many pairs are done.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models that are trained on more than pictures with a class or text;
    /// [`Error::Usage`] for a caption longer than what the text encoder takes at once; [`Error::Shape`] for pictures
    /// that do not fit; [`Error::Checkpoint`] if a loss is no finite number; as [`crate::backend::Device::load`].
    ///
    /// # Panics
    /// If `batch` is 0.
    pub fn training_loss<S: NoiseSource>(
        &self,
        runtime: &Runtime<'_>,
        objective: &Objective,
        examples: impl Iterator<Item = Example>,
        noise: &mut S,
        batch: usize,
        observe: &mut dyn FnMut(usize),
    ) -> Result<Vec<ExampleLoss>> {
        assert!(batch > 0, "a batch holds one pair or more");
        self.check_objective()?;
        let mut measuring = Measuring { pipeline: self, runtime, objective, batch, session: None, losses: Vec::new() };
        let (mut waiting, mut done) = (Vec::with_capacity(batch), 0);
        for (i, example) in examples.enumerate() {
            let prepared = Rc::new(self.prepare(runtime, example)?);
            let bound = self.vae.is_none().then(|| Bound { prior: objective.prior(&prepared.original), terms: vec![] });
            measuring.losses.push(ExampleLoss { mse: Vec::new(), bound });
            for level in 0..objective.levels.len() {
                let noise = noise.randn(&prepared.original.shape);
                waiting.push(Pair { example: i, level, noise, of: prepared.clone() });
                if waiting.len() == batch {
                    measuring.measure(&waiting)?;
                    done += waiting.drain(..).len();
                    observe(done);
                }
            }
        }
        if !waiting.is_empty() {
            measuring.measure(&waiting)?;
            observe(done + waiting.len());
        }
        Ok(measuring.losses)
    }

    /// Checks that the model was trained on pictures with a class or text, and nothing else.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if not.
    pub(super) fn check_objective(&self) -> Result<()> {
        if matches!(self.traits.kind, Kind::Pixels | Kind::Plain) && !self.traits.distilled {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "the training loss of a model of the kind `{}`{}: there are those on pixels, by class, and by text",
            self.traits.word(),
            if self.traits.distilled { " that was distilled" } else { "" }
        )))
    }

    /// A picture as the U-Net sees it: latents are the means that the autoencoder's encoder gives.
    ///
    /// # Errors
    /// [`Error::Usage`] for a caption longer than what the text encoder takes at once; [`Error::Shape`] for a picture
    /// that does not fit.
    pub fn prepare(&self, runtime: &Runtime<'_>, example: Example) -> Result<Prepared> {
        let Example { name, image, class, caption } = example;
        let &[1, _, height, width] = image.shape.as_slice() else {
            return Err(Error::Shape(format!("{name}: expected a picture [1, C, H, W], found {:?}", image.shape)));
        };
        let options = SampleOptions {
            prompts: caption.into_iter().collect(),
            classes: class.into_iter().collect(),
            height: Some(height),
            width: Some(width),
            ..SampleOptions::default()
        };
        self.check(&options)?;
        let windows = self.windows(&options)?;
        if windows > 1 {
            return Err(Error::Usage(format!(
                "{name}: its caption fills {windows} windows of the text encoder, which was trained on one; expected a \
                 shorter text"
            )));
        }
        let shape = self.latent_shape(&options)?;
        let original = match &self.vae {
            Some(vae) => vae.encode(runtime, &image, &HostTensor::zeros(shape))?,
            None => image,
        };
        if original.shape != shape {
            return Err(Error::Shape(format!("{name}: expected {shape:?}, found {:?}", original.shape)));
        }
        let encoded = self.encode_condition(runtime, &options)?;
        let text = encoded.text.values.into_iter().next().unwrap_or_default();
        let condition = encoded.constant.into_iter().chain(text).collect();
        Ok(Prepared { name, original, condition, tokens: self.tokens(&options)? })
    }

    /// A graph that noises pictures and shows them to the model: inputs `original` and `noise` `[N, h, w, C]`,
    /// `coefficients` `[N, 2]`, `timestep` `[N]`, and the model's own; outputs `noisy` and `model_output`.
    fn loss_graph(&self, runtime: &Runtime<'_>, batch: usize, of: &Prepared) -> Result<Graph> {
        let &[_, channels, height, width] = of.original.shape.as_slice() else {
            unreachable!("`prepare` checks that it is a picture");
        };
        let mut graph = Graph::new();
        let original = graph.input("original", TensorDesc::f32([batch, height, width, channels]));
        let noise = graph.input("noise", TensorDesc::f32([batch, height, width, channels]));
        let coefficients = graph.input("coefficients", TensorDesc::f32([batch, 2]));
        let timestep = graph.input("timestep", TensorDesc::f32([batch]));
        let sample = graph.add_noise("add_noise", original, noise, coefficients)?;
        let sizes = self.sizes(batch, (height, width), of.tokens);
        let call = ModelCall { sample, timestep, coefficients: None };
        let output = self.unet.build(&mut Layers::new(&mut graph, runtime.dtype), &sizes, call)?;
        graph.output("noisy", sample);
        graph.output("model_output", output);
        Ok(graph)
    }
}

/// What has been measured so far, and with what.
struct Measuring<'a> {
    pipeline: &'a DiffusionPipeline,
    runtime: &'a Runtime<'a>,
    objective: &'a Objective,
    batch: usize,
    session: Option<(Vec<usize>, Box<dyn Session>)>,
    losses: Vec<ExampleLoss>,
}

impl Measuring<'_> {
    /// Measures up to a batch of pairs.
    fn measure(&mut self, pairs: &[Pair]) -> Result<()> {
        self.runtime.check_cancelled()?;
        let shape = &pairs[0].of.original.shape;
        let sizes = self.session.as_ref().map_or(shape, |(shape, _)| shape);
        if let Some(other) = pairs.iter().map(|pair| &pair.of).find(|of| of.original.shape != *sizes) {
            return Err(Error::Shape(format!(
                "{}: its size is not that of the pictures before, {:?} in place of {sizes:?}",
                other.name, other.original.shape
            )));
        }
        if self.session.is_none() {
            let graph = self.pipeline.loss_graph(self.runtime, self.batch, &pairs[0].of)?;
            let (device, weights) = (self.runtime.device, &self.pipeline.unet_weights);
            self.session = Some((shape.clone(), device.load(graph, weights, self.runtime.load)?));
        }
        let (_, session) = self.session.as_mut().expect("it was loaded above");

        // A batch that is not full is filled up with its last pair.
        let filled = || pairs.iter().chain(std::iter::repeat(&pairs[pairs.len() - 1])).take(self.batch);
        let rows = |row: &dyn Fn(&Pair) -> HostTensor| -> Result<HostTensor> {
            let rows: Vec<HostTensor> = filled().map(row).collect();
            HostTensor::concat(&rows.iter().collect::<Vec<_>>(), 0)
        };
        let of_level = |pair: &Pair| &self.objective.levels[pair.level];
        session.write("original", &rows(&|pair| pair.of.original.channels_last())?)?;
        session.write("noise", &rows(&|pair| pair.noise.channels_last())?)?;
        session.write(
            "coefficients",
            &rows(&|pair| {
                let noising = of_level(pair).noising;
                HostTensor { shape: vec![1, 2], data: vec![noising.signal as f32, noising.noise as f32] }
            })?,
        )?;
        session.write(
            "timestep",
            &rows(&|pair| HostTensor { shape: vec![1], data: vec![of_level(pair).timestep as f32] })?,
        )?;
        for (i, (name, _)) in pairs[0].of.condition.iter().enumerate() {
            session.write(name, &rows(&|pair| pair.of.condition[i].1.clone())?)?;
        }
        session.run()?;
        let noisy = session.read("noisy")?.channels_first();
        let output = session.read("model_output")?.channels_first();
        for (i, pair) in pairs.iter().enumerate() {
            self.compare(pair, &row(&noisy, i), &row(&output, i))?;
        }
        Ok(())
    }

    /// Compares what the model said of a pair with the truth.
    fn compare(&mut self, pair: &Pair, noisy: &HostTensor, output: &HostTensor) -> Result<()> {
        let original = &pair.of.original;
        let timestep = self.objective.levels[pair.level].timestep;
        let (prediction, variance) = halves(output, original)?;
        if self.objective.learns_variance() && variance.is_none() {
            return Err(Error::Config(format!(
                "the model returns {} channels for pictures of {}, but the scheduler's variance_type is learned, which \
                 takes as many again",
                output.shape[1], original.shape[1]
            )));
        }
        let loss = &mut self.losses[pair.example];
        let mse = self.objective.mse(pair.level, original, &pair.noise, &prediction);
        let bound = loss
            .bound
            .as_ref()
            .map_or(0.0, |_| self.objective.bound(pair.level, original, noisy, &prediction, variance.as_ref()));
        if !mse.is_finite() || !bound.is_finite() {
            let (name, what) = (&pair.of.name, if mse.is_finite() { "bound" } else { "loss" });
            return Err(Error::Checkpoint(format!(
                "{name}: the {what} at timestep {timestep} is {}: the scheduler's config does not belong to the U-Net, \
                 or its weights are damaged",
                if mse.is_finite() { bound } else { mse }
            )));
        }
        loss.mse.push(mse);
        loss.bound.iter_mut().for_each(|all| all.terms.push(bound));
        Ok(())
    }
}

/// Entry `i` of a batch, as a batch of one.
fn row(batch: &HostTensor, i: usize) -> HostTensor {
    let len = batch.len() / batch.shape[0];
    HostTensor { shape: [&[1], &batch.shape[1..]].concat(), data: batch.data[i * len..(i + 1) * len].to_vec() }
}

/// What a model returned for one picture: its prediction, and what says how much noise there is, if it returns that.
fn halves(output: &HostTensor, like: &HostTensor) -> Result<(HostTensor, Option<HostTensor>)> {
    let (found, expected) = (output.shape[1], like.shape[1]);
    let half = |data: &[f32]| HostTensor { shape: like.shape.clone(), data: data.to_vec() };
    if found == expected {
        return Ok((half(&output.data), None));
    }
    if found == 2 * expected {
        let (prediction, variance) = output.data.split_at(like.len());
        return Ok((half(prediction), Some(half(variance))));
    }
    Err(Error::Config(format!("the model returns {found} channels for pictures of {expected}, expected {expected}")))
}
