//! Gaussian noise.

use crate::rng::{NoiseSource, TorchCuda};
use crate::tensor::HostTensor;

/// What torch's CUDA generator draws for `[N, C, ..]`, rearranged to `shape` `[N, .., C]`; `seed` holds the
/// generator's seed and its offset, 64 bits each, as 16-bit limbs, lowest first.
pub fn randn(seed: &HostTensor, shape: &[usize]) -> HostTensor {
    let number = |limbs: &[f32]| limbs.iter().rev().fold(0, |sum, &limb| sum << 16 | limb as u64);
    let mut source = TorchCuda::at(number(&seed.data[..4]), number(&seed.data[4..]));
    let (n, c) = (shape[0], if shape.len() > 1 { shape[shape.len() - 1] } else { 1 });
    let pixels = shape.iter().product::<usize>() / (n * c).max(1);
    let drawn = source.randn(&[n, c, pixels, 1]).channels_last();
    HostTensor { shape: shape.to_vec(), data: drawn.data }
}
