//! Runs training steps.

use std::collections::BTreeMap;

use super::{Optimizer, State, StepSettings, Trainable, TrainingGraph};
use crate::backend::{Device, LoadOptions, Session};
use crate::error::{Error, Result};
use crate::graph::WeightSource;
use crate::tensor::HostTensor;

/// A training step on a device, with its state.
pub struct Trainer {
    session: Box<dyn Session>,
    /// What is trained.
    pub trainable: Vec<Trainable>,
    states: Vec<State>,
    optimizer: Optimizer,
    ema_decay: Option<f64>,
}

/// What a step says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// The sum of the losses since the report began.
    pub losses: f64,
    /// The length of the gradient of the last step, before it was shortened; no finite number where f16 could not hold
    /// it, and then the step was left out.
    pub gradient_norm: f64,
}

impl Trainer {
    /// Loads a step. Parameters and their average begin as `weights` has them, everything else as zeros.
    ///
    /// # Errors
    /// As [`Device::load`].
    pub fn new(
        device: &Device,
        load: &LoadOptions,
        step: TrainingGraph,
        weights: &dyn WeightSource,
        optimizer: Optimizer,
        ema_decay: Option<f64>,
    ) -> Result<Self> {
        let TrainingGraph { graph, trainable, states } = step;
        let mut session = device.load(graph, weights, load)?;
        for state in &states {
            let parameter = &trainable[state.parameter];
            let value = match state.what {
                "parameter" | "ema" => parameter.load(weights)?,
                _ => HostTensor::zeros(parameter.shape.clone()),
            };
            session.write(&state.input, &value)?;
        }
        session.write("losses", &HostTensor::zeros(vec![1]))?;
        Ok(Self { session, trainable, states, optimizer, ema_decay })
    }

    /// Sets an input of the model.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        self.session.write(input, tensor)
    }

    /// Whether the step has an input of this name.
    pub fn has_input(&self, input: &str) -> bool {
        self.session.has_input(input)
    }

    /// Takes a step. `weights` has the factor on each sample's squared error: one over all elements that the mean is
    /// over, times what a weighting says.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn step(&mut self, settings: &StepSettings, weights: &[f64]) -> Result<()> {
        let shape =
            self.session.inputs().iter().find(|port| port.name == "loss_weights").map(|port| port.shape.clone());
        let shape = shape.expect("every step has this input");
        let of = |factor: f64| HostTensor::new(shape.clone(), weights.iter().map(|w| (w * factor) as f32).collect());
        self.session.write("loss_weights", &of(1.0)?)?;
        self.session.write("gradient_weights", &of(2.0 * settings.loss_scale)?)?;
        self.session.write("coefficients", &settings.coefficients(&self.optimizer, self.ema_decay))?;
        self.session.run()
    }

    /// Waits for the last step and reads what it says.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn report(&mut self, settings: &StepSettings) -> Result<Report> {
        let report = self.session.read("report")?;
        let [losses, squares] = [0, 1].map(|i| f64::from(report.data[i]));
        Ok(Report { losses, gradient_norm: squares.sqrt() / settings.loss_scale })
    }

    /// Everything that the next step begins with, by name: parameters and what the optimizer keeps, in the layout of
    /// checkpoints. To be called after a step.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn state(&mut self) -> Result<BTreeMap<String, HostTensor>> {
        self.read(|_| true)
    }

    /// The parameters, or their average if there is one, by their names in the checkpoint.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn parameters(&mut self, average: bool) -> Result<BTreeMap<String, HostTensor>> {
        let what = if average { "ema" } else { "parameter" };
        let tensors = self.read(|state| state.what == what)?;
        Ok(tensors.into_iter().map(|(name, tensor)| (name[what.len() + 1..].to_owned(), tensor)).collect())
    }

    fn read(&mut self, which: impl Fn(&State) -> bool) -> Result<BTreeMap<String, HostTensor>> {
        let mut tensors = BTreeMap::new();
        for state in self.states.iter().filter(|state| which(state)) {
            let parameter = &self.trainable[state.parameter];
            let tensor = parameter.to_checkpoint(self.session.read(&state.output)?);
            tensors.insert(format!("{} {}", state.what, parameter.name), tensor);
        }
        Ok(tensors)
    }

    /// Goes on from what [`Trainer::state`] returned.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming what is missing or has another shape: the state of another run.
    pub fn restore(&mut self, mut state: impl FnMut(&str) -> Result<HostTensor>) -> Result<()> {
        for of in &self.states {
            let parameter = &self.trainable[of.parameter];
            let name = format!("{} {}", of.what, parameter.name);
            let tensor = state(&name)?;
            if tensor.shape != parameter.checkpoint_shape() {
                return Err(Error::Checkpoint(format!(
                    "{name}: expected shape {:?}, found {:?}: it is the state of another model",
                    parameter.checkpoint_shape(),
                    tensor.shape
                )));
            }
            self.session.write(&of.input, &parameter.from_checkpoint(tensor))?;
        }
        Ok(())
    }
}
