//! Optimizers: which there are, and the nodes that they add to a step.

use serde::{Deserialize, Serialize};

use super::Trainable;
use super::coefficients::at;
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::ops::moving_average::MovingAverage;
use crate::ops::parameter_step::ParameterStep;

/// Which optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay: Loshchilov and Hutter 2019.
    #[default]
    AdamW,
    /// Kingma and Ba 2015; weight decay is a part of the gradient.
    Adam,
    /// Stochastic gradient descent with momentum, as `torch.optim.SGD`; weight decay is a part of the gradient.
    Sgd,
    /// Momentum whose matrices are made orthogonal (Jordan et al. 2024), as `torch.optim.Muon`; for vectors, embeddings
    /// and the first and last layer AdamW.
    Muon,
}

impl OptimizerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AdamW, Self::Adam, Self::Sgd, Self::Muon];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdamW => "adamw",
            Self::Adam => "adam",
            Self::Sgd => "sgd",
            Self::Muon => "muon",
        }
    }

    pub(super) fn decays_in_gradient(self) -> bool {
        matches!(self, Self::Adam | Self::Sgd)
    }
}

/// An optimizer with its settings, by torch's names.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    /// Which one.
    pub kind: OptimizerKind,
    /// How slowly Adam's moments forget.
    pub betas: [f64; 2],
    /// Added to the square root of Adam's second moment.
    pub eps: f64,
    /// How fast parameters shrink.
    pub weight_decay: f64,
    /// SGD's and Muon's momentum.
    pub momentum: f64,
    /// Muon's rate for matrices, as a multiple of the learning rate.
    pub muon_rate: f64,
    /// All gradients together are shortened to this length; `None`: never.
    pub max_grad_norm: Option<f64>,
}

impl Default for Optimizer {
    /// AdamW as diffusers' training scripts set it.
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 1e-2,
            momentum: 0.95,
            muon_rate: 1.0,
            max_grad_norm: Some(1.0),
        }
    }
}

/// What a step keeps on the device beside the parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// An exponential moving average of every parameter.
    pub ema: bool,
    /// Gradients of several batches, for one step of the optimizer.
    pub collected: bool,
}

/// An input that a run's state is carried in from one step to the next, and the output that it is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Name of the input.
    pub input: String,
    /// Name of the output.
    pub output: String,
    /// Which parameter it belongs to: its position.
    pub parameter: usize,
    /// What it is: `parameter`, `first`, `second`, `ema`, `collected`.
    pub what: &'static str,
}

/// The nodes that turn gradients into new parameters.
pub(super) struct Update<'a> {
    pub graph: &'a mut Graph,
    pub optimizer: &'a Optimizer,
    pub keeps: Keeps,
    pub states: Vec<State>,
}

impl Update<'_> {
    /// Adds the update of every parameter; returns the sum of the squares of all gradients, `[1]`.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn add(&mut self, trainable: &[Trainable], gradients: &[ValueId], coefficients: ValueId) -> Result<ValueId> {
        // 1. what was collected before, and the norm of everything
        let mut all = Vec::with_capacity(gradients.len());
        for (i, (parameter, gradient)) in trainable.iter().zip(gradients).enumerate() {
            let mut gradient = *gradient;
            if self.keeps.collected {
                let state = self.state(i, parameter, "collected");
                let op = MovingAverage { keep: at::KEEP_COLLECTED, take: at::ONE, decay: 0, squared: false };
                let inputs = [Some(state), Some(gradient), Some(coefficients), None, None];
                gradient = self.next(i, parameter, "collected", op, &inputs)?;
            }
            all.push(gradient);
        }
        let mut norm = None;
        for (parameter, gradient) in trainable.iter().zip(&all) {
            let squares = self.graph.sum_of_squares(&format!("{}.squares", parameter.name), *gradient)?;
            norm = Some(match norm {
                Some(before) => self.graph.add(format!("{}.norm", parameter.name), before, squares)?,
                None => squares,
            });
        }
        let norm = norm.expect("something is trained");

        // 2. moments and parameters
        for (i, (parameter, gradient)) in trainable.iter().zip(all).enumerate() {
            let updated = if self.optimizer.kind == OptimizerKind::Muon && is_hidden_matrix(parameter) {
                self.muon(i, parameter, gradient, coefficients, norm)?
            } else {
                self.elementwise(i, parameter, gradient, coefficients, norm)?
            };
            if self.keeps.ema {
                let state = self.state(i, parameter, "ema");
                let op = MovingAverage { keep: at::KEEP_EMA, take: at::TAKE_EMA, decay: 0, squared: false };
                self.next(i, parameter, "ema", op, &[Some(state), Some(updated), Some(coefficients), None, None])?;
            }
        }
        Ok(norm)
    }

    /// Adam, AdamW and SGD.
    fn elementwise(
        &mut self,
        i: usize,
        parameter: &Trainable,
        gradient: ValueId,
        coefficients: ValueId,
        norm: ValueId,
    ) -> Result<ValueId> {
        let kind = self.optimizer.kind;
        let decayed = (kind.decays_in_gradient() && self.optimizer.weight_decay > 0.0).then_some(parameter.value);
        let moment = |update: &mut Self, what, keep, take, squared| {
            let state = update.state(i, parameter, what);
            let op = MovingAverage { keep, take, decay: at::DECAY, squared };
            update.next(i, parameter, what, op, &[Some(state), Some(gradient), Some(coefficients), Some(norm), decayed])
        };
        let first = moment(self, "first", at::KEEP_FIRST, at::TAKE_FIRST, false)?;
        let second = match kind {
            OptimizerKind::Sgd => None,
            _ => Some(moment(self, "second", at::KEEP_SECOND, at::TAKE_SECOND, true)?),
        };
        let inputs = [Some(parameter.value), Some(first), second, Some(coefficients), Some(norm)];
        self.next(i, parameter, "parameter", ParameterStep { at: at::RATE }, &inputs)
    }

    /// A state's value before the step. That of the parameter itself is its own input.
    fn state(&mut self, i: usize, parameter: &Trainable, what: &'static str) -> ValueId {
        let input = format!("{what} {}", parameter.name);
        let output = format!("next {input}");
        let value = self.graph.input(input.clone(), TensorDesc::f32(parameter.shape.clone()));
        self.states.push(State { input, output, parameter: i, what });
        value
    }

    /// A state's value after the step, carried to the next one.
    fn next(
        &mut self,
        i: usize,
        parameter: &Trainable,
        what: &'static str,
        op: impl Into<crate::ops::Op>,
        inputs: &[Option<ValueId>],
    ) -> Result<ValueId> {
        let (input, output) = if what == "parameter" {
            let output = format!("next {}", parameter.input);
            self.states.push(State { input: parameter.input.clone(), output: output.clone(), parameter: i, what });
            (parameter.input.clone(), output)
        } else {
            let state = self.states.last().expect("a state was made before its next value");
            (state.input.clone(), state.output.clone())
        };
        let value = self.graph.push(output.clone(), op, inputs)?;
        self.graph.output(output.clone(), value);
        self.graph.carry(&output, &input)?;
        Ok(value)
    }

    /// Muon: momentum by Nesterov's rule, made nearly orthogonal.
    fn muon(
        &mut self,
        i: usize,
        parameter: &Trainable,
        gradient: ValueId,
        coefficients: ValueId,
        norm: ValueId,
    ) -> Result<ValueId> {
        let op = MovingAverage { keep: at::KEEP_MOMENTUM, take: at::TAKE_MOMENTUM, decay: 0, squared: false };
        let state = self.state(i, parameter, "first");
        let of = |state| [Some(state), Some(gradient), Some(coefficients), Some(norm), None];
        let momentum = self.next(i, parameter, "first", op.clone(), &of(state))?;
        let ahead = self.graph.push(format!("{}.ahead", parameter.name), op, &of(momentum))?;
        let direction = super::muon::orthogonal(self.graph, &format!("{}.muon", parameter.name), ahead)?;
        let inputs = [Some(parameter.value), Some(direction), None, Some(coefficients), Some(norm)];
        self.next(i, parameter, "parameter", ParameterStep { at: at::MUON_RATE }, &inputs)
    }
}

/// Whether Muon updates it: a matrix or filter between the first and the last layer, no embedding.
fn is_hidden_matrix(parameter: &Trainable) -> bool {
    let outer = ["conv_in.", "conv_out.", "class_embedding.", "token_embedding.", "position_embedding."];
    parameter.shape.len() >= 2 && !outer.iter().any(|name| parameter.name.contains(name))
}
