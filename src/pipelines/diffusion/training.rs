//! What a diffusion model is trained to do, as a graph: pictures are noised on the device, the U-Net says what it sees,
//! and the difference to the truth is what training makes small.

use serde::{Deserialize, Serialize};

use super::DiffusionPipeline;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc};
use crate::models::Layers;
use crate::pipelines::ModelCall;
use crate::rng::TorchCpu;
use crate::schedulers::{Frame, Objective, ObjectiveLevel, PredictionType, Scheduler, VarianceType};
use crate::tensor::{DType, HostTensor};
use crate::training::{BOUND, DIFFERENCE};

/// How the noise levels of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampling {
    /// Each on its own, all equally likely.
    #[default]
    Uniform,
    /// One in each of as many equal parts as the batch has samples: the loss varies less (Kingma et al. 2021,
    /// "Variational Diffusion Models", appendix I.1).
    Stratified,
    /// By a logistic normal distribution, the middle more often (Esser et al. 2024, section 3.1).
    LogitNormal,
}

/// The forward process of a model and what its U-Net says of it.
#[derive(Clone, Debug)]
pub struct TrainingProcess {
    scheduler: Scheduler,
    sampling: TimestepSampling,
    snr_gamma: Option<f64>,
    /// By timestep, for a variance that is learned.
    bounds: Vec<ObjectiveLevel>,
}

/// One sample's noise level, and what that means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noised {
    /// What the U-Net is told.
    pub timestep: f64,
    /// x_t = `sample[0]` · x_0 + `sample[1]` · ε.
    pub sample: [f64; 2],
    /// What the U-Net should say: `target[0]` · x_0 + `target[1]` · ε.
    pub target: [f64; 2],
    /// The factor on its squared error: 1, or that of min-SNR-γ.
    pub weight: f64,
    /// How the variance is trained, where it is learned.
    pub bound: Option<VarianceTraining>,
}

/// One sample's numbers for [`crate::ops::variance_bound::VarianceBound`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VarianceTraining {
    /// Of_sample, of_prediction, posterior, whether it is the first timestep, scale.
    pub coefficients: [f64; 5],
    /// log β̃_t and log β_t.
    pub log_variances: [f64; 2],
}

impl TrainingProcess {
    /// That of a scheduler's config; with `snr_gamma`, errors are weighted by min-SNR-γ (Hang et al. 2023,
    /// arXiv:2303.09556).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for schedulers of models with noise levels but neither timesteps nor straight lines, and
    /// for straight lines whose levels are counted the other way; for min-SNR-γ of flow matching, which has no such
    /// weights, and beside a variance that is learned; and for a variance that is learned by itself in place of a share
    /// of the range of variances.
    pub fn new(scheduler: &Scheduler, sampling: TimestepSampling, snr_gamma: Option<f64>) -> Result<Self> {
        let frame = scheduler.config.class.frame();
        if !matches!(frame, Frame::Timesteps | Frame::Flow) {
            let name = scheduler.config.class.name();
            return Err(Error::Unsupported(format!(
                "training a model whose scheduler is {name}: there is training with numbered timesteps and by flow \
                 matching"
            )));
        }
        if frame == Frame::Flow && snr_gamma.is_some() {
            return Err(Error::Unsupported("min-SNR weights of flow matching".into()));
        }
        let config = &scheduler.config;
        if config.invert_sigmas {
            let why = "training a model that counts noise levels the other way (\"invert_sigmas\": true)";
            return Err(Error::Unsupported(why.into()));
        }
        let bounds = match config.variance_type {
            VarianceType::Learned => {
                let why = "training a variance that is learned directly (variance_type \"learned\"): there is training \
                           of \"learned_range\"";
                return Err(Error::Unsupported(why.into()));
            }
            VarianceType::LearnedRange if snr_gamma.is_some() => {
                return Err(Error::Unsupported("min-SNR weights beside a learned variance".into()));
            }
            VarianceType::LearnedRange => {
                let all: Vec<usize> = (0..config.num_train_timesteps).collect();
                Objective::new(scheduler, &all, 1.0)?.levels
            }
            _ => Vec::new(),
        };
        Ok(Self { scheduler: scheduler.clone(), sampling, snr_gamma, bounds })
    }

    /// Draws the noise levels of `count` samples.
    ///
    /// # Errors
    /// None for a sound config.
    pub fn draw(&self, random: &mut TorchCpu, count: usize) -> Result<Vec<Noised>> {
        use crate::rng::NoiseSource;
        let uniform = random.rand(&[count]).data;
        let levels: Vec<f64> = match self.sampling {
            TimestepSampling::Uniform => uniform.into_iter().map(f64::from).collect(),
            TimestepSampling::Stratified => {
                uniform.into_iter().enumerate().map(|(i, u)| (i as f64 + f64::from(u)) / count as f64).collect()
            }
            TimestepSampling::LogitNormal => {
                random.randn(&[count]).data.into_iter().map(|z| 1.0 / (1.0 + (-f64::from(z)).exp())).collect()
            }
        };
        levels.into_iter().map(|level| self.at(level)).collect()
    }

    /// The noise level at `level` in [0, 1), from the least to the most noise.
    fn at(&self, level: f64) -> Result<Noised> {
        let config = &self.scheduler.config;
        let trained = config.num_train_timesteps;
        if config.class.frame() == Frame::Flow {
            // Never 0, where nothing is asked.
            let sigma = ((level * trained as f64).floor() + 1.0) / trained as f64;
            let sigma = config.shift * sigma / (1.0 + (config.shift - 1.0) * sigma);
            let timestep = sigma * trained as f64;
            return Ok(Noised {
                timestep,
                sample: [1.0 - sigma, sigma],
                target: [-1.0, 1.0],
                weight: 1.0,
                bound: None,
            });
        }
        let timestep = ((level * trained as f64) as usize).min(trained - 1);
        let noising = self.scheduler.noise_schedule.noising(timestep)?;
        let (signal, noise) = (noising.signal, noising.noise);
        let (target, of_x0) = match config.prediction_type {
            // What an error of the prediction is of x_0's, as a factor on the weight of x_0.
            PredictionType::Epsilon => ([0.0, 1.0], (noise / signal).powi(2)),
            PredictionType::VPrediction => ([-noise, signal], noise.powi(2)),
            PredictionType::Sample => ([1.0, 0.0], 1.0),
        };
        let snr = (signal / noise).powi(2);
        let weight = self.snr_gamma.map_or(1.0, |gamma| snr.min(gamma) * of_x0);
        // L_hybrid = L_simple + 0.001 L_vlb (Nichol and Dhariwal 2021, eq. 16), L_vlb being the sum of T terms, in bits
        // as in the authors' code.
        let scale = 0.001 * trained as f64 / std::f64::consts::LN_2;
        let bound = self.bounds.get(timestep).map(|level| {
            let ([of_sample, of_prediction, posterior], log_variances) = level.bound_parts();
            let first = f64::from(u8::from(timestep == 0));
            VarianceTraining { coefficients: [of_sample, of_prediction, posterior, first, scale], log_variances }
        });
        Ok(Noised { timestep: timestep as f64, sample: [signal, noise], target, weight, bound })
    }
}

impl DiffusionPipeline {
    /// A graph that noises a batch of pictures, or of latents `[N, h, w, C]`, and shows them to the U-Net: inputs
    /// `original` and `noise` `[N, h, w, C]`, `noising` and `target` `[N, 2]` ([`Noised`]), `timestep` `[N]`, and the
    /// U-Net's own; output `difference` `[N, h, w, C]`. Where the U-Net learns the variance as a share of a range,
    /// there are also inputs `bound_coefficients` `[N, 5]` and `bound_log_variances` `[N, 2]`, and an output `bound`
    /// `[N, h, w, C]` ([`VarianceTraining`]).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for models that are trained on more than pictures with a class or text;
    /// [`Error::Config`] if the scheduler speaks of a variance that the U-Net does not return; as the models.
    pub fn training_model(&self, dtype: DType, batch: usize, of: &super::Prepared) -> Result<Graph> {
        self.check_objective()?;
        let &[_, channels, height, width] = of.original.shape.as_slice() else {
            return Err(Error::Shape(format!("{}: expected [1, C, H, W], found {:?}", of.name, of.original.shape)));
        };
        let mut graph = Graph::new();
        let picture = || TensorDesc::f32([batch, height, width, channels]);
        let original = graph.input("original", picture());
        let noise = graph.input("noise", picture());
        let noising = graph.input("noising", TensorDesc::f32([batch, 2]));
        let target = graph.input("target", TensorDesc::f32([batch, 2]));
        let timestep = graph.input("timestep", TensorDesc::f32([batch]));
        let sample = graph.add_noise("add_noise", original, noise, noising)?;
        let sizes = self.sizes(batch, (height, width), of.tokens);
        let call = ModelCall { sample, timestep, coefficients: None };
        let mut output = self.unet.build(&mut Layers::new(&mut graph, dtype), &sizes, call)?;
        let learned = self.scheduler.config.variance_type == VarianceType::LearnedRange;
        let returned = graph.desc(output).channels();
        if returned == 2 * channels {
            let all = output;
            output = graph.slice("model_output.prediction", all, -1, 0, channels)?;
            if learned {
                let variance = graph.slice("model_output.variance", all, -1, channels, channels)?;
                let f32s = |graph: &mut Graph, name: &str, value| graph.cast(name, value, DType::F32);
                let variance = f32s(&mut graph, "bound.variance", variance)?;
                let prediction = f32s(&mut graph, "bound.prediction", output)?;
                let coefficients = graph.input("bound_coefficients", TensorDesc::f32([batch, 5]));
                let range = graph.input("bound_log_variances", TensorDesc::f32([batch, 2]));
                let inputs = [variance, original, sample, prediction, coefficients, range];
                let bound = graph.variance_bound(BOUND, inputs)?;
                graph.output(BOUND, bound);
            }
        } else if learned {
            return Err(Error::Config(format!(
                "the model returns {returned} channels for pictures of {channels}, but the scheduler's variance_type \
                 is learned_range, which takes as many again"
            )));
        }
        let truth = graph.add_noise("truth", original, noise, target)?;
        let negative = graph.scale("truth.negative", truth, -1.0, 0.0)?;
        let difference = graph.add(DIFFERENCE, output, negative)?;
        graph.output(DIFFERENCE, difference);
        Ok(graph)
    }

    /// The text encoders, of a model by text.
    pub fn text_encoders(&self) -> Option<&crate::pipelines::TextEncoders> {
        self.text.as_ref()
    }

    /// The parameters of the U-Net.
    pub fn unet_weights(&self) -> &crate::checkpoint::Weights {
        &self.unet_weights
    }
}

impl Noised {
    /// The inputs of [`DiffusionPipeline::training_model`] that say how noisy the samples are, one row for each.
    pub fn inputs(levels: &[Self]) -> Vec<(&'static str, HostTensor)> {
        fn rows<const K: usize>(levels: &[Noised], of: impl Fn(&Noised) -> Option<[f64; K]>) -> HostTensor {
            let data: Vec<f32> = levels.iter().filter_map(of).flatten().map(|v| v as f32).collect();
            HostTensor { shape: vec![levels.len(), K], data }
        }
        let mut inputs = vec![
            ("noising", rows(levels, |level| Some(level.sample))),
            ("target", rows(levels, |level| Some(level.target))),
            ("timestep", HostTensor { shape: vec![levels.len()], ..rows(levels, |level| Some([level.timestep])) }),
        ];
        if levels.iter().any(|level| level.bound.is_some()) {
            inputs.push(("bound_coefficients", rows(levels, |level| level.bound.map(|bound| bound.coefficients))));
            inputs.push(("bound_log_variances", rows(levels, |level| level.bound.map(|bound| bound.log_variances))));
        }
        inputs
    }
}

impl TimestepSampling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Stratified, Self::LogitNormal];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Stratified => "stratified",
            Self::LogitNormal => "logit_normal",
        }
    }
}
