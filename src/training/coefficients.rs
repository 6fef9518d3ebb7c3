//! What changes from step to step without a new graph: the numbers that the optimizer's kernels read.

use super::optimizer::{Optimizer, OptimizerKind};
use crate::tensor::HostTensor;

/// Where each number is. The first three are those of `wgsl/include/gradient_factor.wgsl`.
pub(super) mod at {
    pub const INVERSE_LOSS_SCALE: usize = 0;
    pub const MAX_NORM: usize = 1;
    pub const STEP: usize = 2;
    pub const KEEP_FIRST: usize = 3;
    pub const TAKE_FIRST: usize = 4;
    pub const KEEP_SECOND: usize = 5;
    pub const TAKE_SECOND: usize = 6;
    /// Weight decay as a part of the gradient.
    pub const DECAY: usize = 7;
    /// Rate, decay, both corrections and eps, of [`crate::ops::parameter_step::ParameterStep`].
    pub const RATE: usize = 8;
    pub const KEEP_EMA: usize = 13;
    pub const TAKE_EMA: usize = 14;
    pub const KEEP_COLLECTED: usize = 15;
    pub const ONE: usize = 16;
    pub const KEEP_REPORT: usize = 17;
    /// As `RATE`, of parameters that Muon updates.
    pub const MUON_RATE: usize = 18;
    pub const KEEP_MOMENTUM: usize = 23;
    pub const TAKE_MOMENTUM: usize = 24;
    /// How many there are.
    pub const COUNT: usize = 28;
}

/// What a run says of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Steps of the optimizer before this one.
    pub step: usize,
    /// The learning rate, and as a part of it the rate of the parameters that Muon updates.
    pub learning_rate: f64,
    /// The factor on the loss in mixed precision; 1 in full.
    pub loss_scale: f64,
    /// Whether the gradients of earlier batches are kept and these are added.
    pub add_to_earlier: bool,
    /// Whether the optimizer takes a step, or gradients are only collected.
    pub update: bool,
    /// Whether the reported loss starts anew.
    pub new_report: bool,
}

impl StepSettings {
    /// The numbers for the device.
    pub(super) fn coefficients(&self, optimizer: &Optimizer, ema_decay: Option<f64>) -> HostTensor {
        let mut values = [0.0f64; at::COUNT];
        let flag = |on: bool| f64::from(u8::from(on));
        values[at::INVERSE_LOSS_SCALE] = 1.0 / self.loss_scale;
        values[at::MAX_NORM] = optimizer.max_grad_norm.unwrap_or(1e30);
        values[at::STEP] = flag(self.update);
        let [beta1, beta2] = optimizer.betas;
        let t = (self.step + 1) as f64;
        let rate = self.learning_rate;
        match optimizer.kind {
            OptimizerKind::AdamW | OptimizerKind::Adam | OptimizerKind::Muon => {
                values[at::KEEP_FIRST] = beta1;
                values[at::TAKE_FIRST] = 1.0 - beta1;
                values[at::KEEP_SECOND] = beta2;
                values[at::TAKE_SECOND] = 1.0 - beta2;
                values[at::RATE + 2] = 1.0 / (1.0 - beta1.powf(t));
                values[at::RATE + 3] = 1.0 / (1.0 - beta2.powf(t));
                values[at::RATE + 4] = optimizer.eps;
            }
            OptimizerKind::Sgd => {
                values[at::KEEP_FIRST] = optimizer.momentum;
                values[at::TAKE_FIRST] = 1.0;
            }
        }
        values[at::RATE] = rate;
        if optimizer.kind.decays_in_gradient() {
            values[at::DECAY] = optimizer.weight_decay;
        } else {
            values[at::RATE + 1] = rate * optimizer.weight_decay;
        }
        values[at::MUON_RATE] = rate * optimizer.muon_rate;
        values[at::MUON_RATE + 1] = rate * optimizer.muon_rate * optimizer.weight_decay;
        values[at::KEEP_MOMENTUM] = optimizer.momentum;
        values[at::TAKE_MOMENTUM] = 1.0 - optimizer.momentum;
        // Young averages follow faster: min(decay, (1 + t) / (10 + t)), as diffusers' EMAModel with its warm-up off.
        let decay = ema_decay.map_or(0.0, |decay| if self.update { decay.min(t / (9.0 + t)) } else { 1.0 });
        values[at::KEEP_EMA] = decay;
        values[at::TAKE_EMA] = 1.0 - decay;
        values[at::KEEP_COLLECTED] = flag(self.add_to_earlier);
        values[at::ONE] = 1.0;
        values[at::KEEP_REPORT] = flag(!self.new_report);
        HostTensor { shape: vec![at::COUNT], data: values.into_iter().map(|v| v as f32).collect() }
    }
}
