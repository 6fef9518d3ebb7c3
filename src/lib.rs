//! unmist: a diffusion engine whose every arithmetic step is a hand-written WGSL compute kernel.

pub mod backend;
pub mod caps;
pub mod checkpoint;
pub mod cli;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod image_io;
pub mod kernel;
pub mod models;
pub mod ops;
pub mod output;
pub mod pipelines;
pub mod plan;
pub mod prompt;
pub mod reference;
pub mod rng;
pub mod schedulers;
pub mod tensor;
pub mod tokenizer;
pub mod verify;

pub use error::{Error, Result};
pub use tensor::{DType, HostTensor};
