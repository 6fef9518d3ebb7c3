//! Random numbers that equal PyTorch's, so that one seed gives one picture in both programs.
//!
//! [`TorchCpu`] is bit-for-bit `torch.randn(…, generator=torch.Generator().manual_seed(seed))`; [`TorchCuda`] follows
//! the generator of PyTorch's CUDA build, to within the rounding of that device's sine and logarithm.
//! [`BrownianTree`] is torchsde's. [`Simplex`] is noise with shapes. What a step of a scheduler draws is a [`Draw`],
//! and [`StepNoise`] draws it.

mod brownian_tree;
mod draw;
mod mt19937;
mod philox;
mod seed_sequence;
mod simplex;
mod slerp;
mod torch_cpu;

pub use brownian_tree::BrownianTree;
pub use draw::{Draw, Increment, StepNoise};
pub use mt19937::Mt19937;
pub use philox::TorchCuda;
pub use simplex::Simplex;
pub use slerp::slerp;
pub use torch_cpu::TorchCpu;

use crate::HostTensor;

/// Something that draws standard normal noise. A draw advances the source: what comes next depends on all shapes drawn
/// before.
pub trait NoiseSource: Send {
    /// A tensor of `shape` with independent N(0, 1) elements.
    fn randn(&mut self, shape: &[usize]) -> HostTensor;

    /// The seed that it was made from.
    fn seed(&self) -> u64;

    /// A new source of the same kind from another seed.
    fn seeded(&self, seed: u64) -> Box<dyn NoiseSource>;
}

impl<S: NoiseSource + ?Sized> NoiseSource for Box<S> {
    fn randn(&mut self, shape: &[usize]) -> HostTensor {
        (**self).randn(shape)
    }

    fn seed(&self) -> u64 {
        (**self).seed()
    }

    fn seeded(&self, seed: u64) -> Box<dyn NoiseSource> {
        (**self).seeded(seed)
    }
}

/// Noise for a batch, as diffusers' `randn_tensor`: one source fills the whole `shape` at once; several sources (one
/// for each batch element, `shape[0]` in number) fill one batch element each, so that every element depends on its own
/// seed alone.
///
/// # Panics
/// If there are several sources but not `shape[0]` of them.
pub fn randn_tensor<S: NoiseSource>(sources: &mut [S], shape: &[usize]) -> HostTensor {
    if let [source] = sources {
        return source.randn(shape);
    }
    assert_eq!(sources.len(), shape[0], "one noise source for each batch element");
    let mut element_shape = shape.to_vec();
    element_shape[0] = 1;
    let data = sources.iter_mut().flat_map(|source| source.randn(&element_shape).data).collect();
    HostTensor { shape: shape.to_vec(), data }
}
