//! unmist: a diffusion engine whose every arithmetic step is a hand-written WGSL compute kernel.

pub mod checkpoint;
pub mod error;
pub mod image_io;
pub mod output;
pub mod rng;
pub mod schedulers;
pub mod tensor;

pub use error::{Error, Result};
pub use tensor::{DType, HostTensor};
