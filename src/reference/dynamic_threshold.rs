//! Dynamic thresholding.

use crate::schedulers::{Clip, X0};
use crate::tensor::HostTensor;

/// The thresholding of [`X0::apply`], applied to a finished estimate.
pub fn dynamic_threshold(x0: &HostTensor, ratio: f64, max: f64) -> HostTensor {
    let unchanged = X0 { sample: 1.0, model_output: 0.0, clip: Clip::Dynamic { ratio, max } };
    unchanged.apply(x0, &HostTensor::zeros(x0.shape.as_slice()))
}
