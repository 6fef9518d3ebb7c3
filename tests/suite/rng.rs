//! The random generators against torch's, bit for bit.

use unmist::rng::{NoiseSource, TorchCpu, randn_tensor};

/// 64-bit FNV-1a of the values' little-endian bytes.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Two million values: every branch of the polynomial log and sincos, thousands of times each. The hash is of
/// `torch.randn(2_000_000, generator=torch.Generator().manual_seed(1234567))`, torch 2.15.0, x86-64.
#[test]
fn two_million_values() {
    assert_eq!(hash(&TorchCpu::new(1_234_567).randn(&[2_000_000]).data), 0x3a1c_0fcc_af37_41ba);
}

/// Draws of mixed sizes from one generator: scalar and block paths, the cached second normal, every kind of tail.
#[test]
fn mixed_draws() {
    let mut generator = TorchCpu::new(42);
    let sizes = [3, 17, 16, 5, 1, 40, 7, 33, 100, 2];
    let mut values: Vec<f32> = sizes.iter().flat_map(|size| generator.randn(&[*size]).data).collect();
    values.extend(generator.rand(&[5]).data);
    values.extend(generator.randn(&[4]).data);
    assert_eq!(hash(&values), 0x9444_bd36_e1ae_4dab);
}

/// One source a batch element: each element is what its seed gives alone.
#[test]
fn one_source_for_each_batch_element() {
    let both = randn_tensor(&mut [TorchCpu::new(1), TorchCpu::new(2)], &[2, 3, 5, 7]);
    let (first, second) = both.data.split_at(3 * 5 * 7);
    assert_eq!(first, TorchCpu::new(1).randn(&[1, 3, 5, 7]).data);
    assert_eq!(second, TorchCpu::new(2).randn(&[1, 3, 5, 7]).data);
    assert_ne!(both.data, randn_tensor(&mut [TorchCpu::new(1)], &[2, 3, 5, 7]).data);
}
