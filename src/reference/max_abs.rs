//! The largest magnitude of each part.

use crate::tensor::HostTensor;

/// `y[i]` = the largest magnitude among elements `i · part .. (i + 1) · part`; a NaN counts as larger than infinity.
pub fn max_abs(x: &HostTensor, part: usize) -> HostTensor {
    let largest = |values: &[f32]| values.iter().map(|v| v.abs()).max_by(f32::total_cmp).expect("no part is empty");
    let data: Vec<f32> = x.data.chunks(part).map(largest).collect();
    HostTensor { shape: vec![data.len()], data }
}
