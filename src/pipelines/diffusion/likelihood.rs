//! How likely a model finds pictures: along the probability flow a picture becomes noise whose density is known, and
//! d log p(x(t))/dt = −∇·(dx/dt) (the instantaneous change of variables; Song et al. 2021, arXiv:2011.13456, section
//! 4.3 and appendix D.2, eq. 39).
//!
//! The divergence is Skilling's and Hutchinson's estimate v^T (∂(dx/dt)/∂x) v with signs v drawn at random, one for
//! each element (eq. 40): one vector-Jacobian product of the model, which the device computes beside dx/dt itself.

use std::f64::consts::{LN_2, TAU};

use super::{DiffusionPipeline, Example, Runtime};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kept, TensorDesc};
use crate::models::Layers;
use crate::pipelines::ModelCall;
use crate::rng::TorchCpu;
use crate::schedulers::{ProbabilityFlow, RungeKutta};
use crate::session::Session;
use crate::tensor::{DType, HostTensor};

/// Levels of a pixel's channel.
const LEVELS: f64 = 256.0;

/// The likelihood of a picture by one draw of noise, in bits per element (pixel and channel).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// −log₂ of the density of the noise that the picture becomes.
    pub prior: f64,
    /// −∫ of the divergence: how much denser pictures lie than their noise.
    pub volume: f64,
    /// log₂ of the number of levels in a unit of length, whose pictures share the density: 8 for models of pictures
    /// from 0 to 1, 7 from −1 to 1.
    pub levels: f64,
    /// How often the model was asked, each time with a vector-Jacobian product.
    pub evaluations: usize,
}

impl Likelihood {
    /// Bits per element, at least as many as −log₂ of the probability of the picture's levels.
    pub fn bits(&self) -> f64 {
        self.prior + self.volume + self.levels
    }
}

impl DiffusionPipeline {
    /// Measures how likely pictures are, each by `draws` draws: of what `noise` gives as `[1, C, h, w]`, uniform in
    /// [0, 1), the first says where within its level each element lies (uniform dequantization, (level + u) / 256), and
    /// the second which are below ½ and make the sign −1. `observe` is told how many draws are done, and how often the
    /// model was asked for the last.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models on latents, or trained on more than pictures with a class; [`Error::Shape`]
    /// for pictures that do not fit; as [`RungeKutta::solve`] and [`crate::backend::Device::load`].
    #[expect(clippy::too_many_arguments, reason = "each is one thing that the numbers depend on")]
    pub fn likelihood(
        &self,
        runtime: &Runtime<'_>,
        flow: &ProbabilityFlow,
        solver: RungeKutta,
        examples: impl Iterator<Item = Example>,
        draws: usize,
        noise: &mut TorchCpu,
        observe: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Vec<Likelihood>>> {
        self.check_objective()?;
        if self.vae.is_some() {
            let why = "the likelihood of pictures by a model on latents: a decoder gives no density of pictures";
            return Err(Error::Unsupported(why.into()));
        }
        let mut loaded: Option<(Vec<usize>, Box<dyn Session>)> = None;
        let (mut all, mut done) = (vec![], 0);
        for example in examples {
            let prepared = self.prepare(runtime, example)?;
            let shape = &prepared.original.shape;
            if loaded.as_ref().is_none_or(|(before, _)| before != shape) {
                let graph = self.divergence_graph(shape)?;
                loaded = Some((shape.clone(), runtime.device.load(graph, &self.unet_weights, runtime.load)?));
            }
            let (_, session) = loaded.as_mut().expect("it was loaded above");
            for (name, tensor) in &prepared.condition {
                session.write(name, tensor)?;
            }
            let mut found = vec![];
            for _ in 0..draws {
                let (within, signs) = (noise.rand(shape), noise.rand(shape));
                let within = HostTensor::from_fn(shape.as_slice(), |i| {
                    let level = (f64::from(prepared.original.data[i] + 1.0) * 127.5).round();
                    ((level + f64::from(within.data[i])) / LEVELS) as f32
                });
                let signs = HostTensor::from_fn(shape.as_slice(), |i| if signs.data[i] < 0.5 { -1.0 } else { 1.0 });
                let one = change_of_variables(runtime, session.as_mut(), flow, solver, &within, &signs)
                    .map_err(|error| named(error, &prepared.name))?;
                done += 1;
                observe(done, one.evaluations);
                found.push(one);
            }
            all.push(found);
        }
        Ok(all)
    }

    /// The model, and the product of a vector with its Jacobian: inputs `sample` and `vector` `[1, h, w, C]`,
    /// `timestep` `[1]`, and the model's own; outputs `model_output` and `product` `[1, h, w, C]`.
    fn divergence_graph(&self, shape: &[usize]) -> Result<Graph> {
        let &[batch, channels, height, width] = shape else {
            unreachable!("`prepare` checks that it is a picture");
        };
        let mut graph = Graph::new();
        let picture = || TensorDesc::f32([batch, height, width, channels]);
        let sample = graph.input("sample", picture());
        let vector = graph.input("vector", picture());
        let timestep = graph.input("timestep", TensorDesc::f32([batch]));
        let sizes = self.sizes(batch, (height, width), 0);
        let call = ModelCall { sample, timestep, coefficients: None };
        let mut output = self.unet.build(&mut Layers::new(&mut graph, DType::F32), &sizes, call)?;
        if graph.desc(output).channels() == 2 * channels {
            output = graph.slice("model_output.prediction", output, -1, 0, channels)?;
        }
        if graph.shape(output) != graph.shape(vector) {
            let (found, expected) = (graph.shape(output), graph.shape(vector));
            return Err(Error::Config(format!("the model returns {found:?} for pictures {expected:?}")));
        }
        let gradients = graph.differentiate(output, vector, &[sample], &Kept::All)?;
        let product = gradients[0].ok_or_else(|| Error::Checkpoint("the U-Net does not see its sample".into()))?;
        graph.output("model_output", output);
        graph.output("product", product);
        Ok(graph)
    }
}

/// The likelihood of a picture whose elements are `[1, C, h, w]` in [0, 1), by the session of a `divergence_graph`.
fn change_of_variables(
    runtime: &Runtime<'_>,
    session: &mut dyn Session,
    flow: &ProbabilityFlow,
    solver: RungeKutta,
    picture: &HostTensor,
    signs: &HostTensor,
) -> Result<Likelihood> {
    let (factor, plus) = if flow.from_zero { (1.0, 0.0) } else { (2.0, -1.0) };
    let (picture, signs) = (picture.channels_last(), signs.channels_last());
    let elements = picture.len();
    session.write("vector", &signs)?;
    // x, and behind it the integral of the divergence.
    let start = picture.data.iter().map(|v| factor * f64::from(*v) + plus).chain([0.0]).collect();
    let mut derivative = |t: f64, y: &[f64]| -> Result<Vec<f64>> {
        runtime.check_cancelled()?;
        let (step, x) = (flow.at(t), &y[..elements]);
        let (of_sample, of_output) = (step.memory[0].sample, step.memory[0].model_output);
        session.write("sample", &HostTensor::new(picture.shape.clone(), x.iter().map(|v| *v as f32).collect())?)?;
        session.write("timestep", &HostTensor::new([1], vec![step.timestep as f32])?)?;
        session.run()?;
        let (output, product) = (session.read("model_output")?, session.read("product")?);
        let slope = x.iter().zip(&output.data).map(|(x, output)| of_sample * x + of_output * f64::from(*output));
        let trace: f64 = product.data.iter().zip(&signs.data).map(|(p, v)| f64::from(*p) * f64::from(*v)).sum();
        Ok(slope.chain([of_sample * elements as f64 + of_output * trace]).collect())
    };
    let found = solver.solve((flow.end, 1.0), start, &mut derivative, &mut |_| Ok(()))?;
    let (mean, deviation) = flow.prior;
    let squares: f64 = found.y[..elements].iter().map(|z| ((z - mean) / deviation).powi(2)).sum();
    let per_element = 1.0 / (elements as f64 * LN_2);
    Ok(Likelihood {
        prior: 0.5 * squares * per_element + (deviation.ln() + 0.5 * TAU.ln()) / LN_2,
        volume: -found.y[elements] * per_element,
        levels: (LEVELS / factor).log2(),
        evaluations: found.evaluations,
    })
}

/// An error of a picture.
fn named(error: Error, name: &str) -> Error {
    match error {
        Error::Checkpoint(why) => Error::Checkpoint(format!("{name}: {why}")),
        other => other,
    }
}
