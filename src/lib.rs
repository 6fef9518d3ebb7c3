//! unmist: a diffusion engine whose every arithmetic step is a hand-written WGSL compute kernel.
//!
//! Data flows one way:
//!
//! ```text
//! cli ──> request ──> pipelines ──> models, schedulers ──> graph ──> plan ──> gpu        (the only code that names wgpu)
//!                        │                                   │                └─ reference  (the same graph, plain CPU loops: the oracle)
//!                        ├──> checkpoint, tokenizer, rng     └─ ops  (what an operation is: shapes, cost, kernels, test cases)
//!                        └──> image_io
//! ```
//!
//! A checkpoint's [`files`] come from the disk or from memory.
//!
//! A [`request::Request`] is the one list of what can be asked for; [`request::resolve`] fills in the rest.
//! [`pipelines`] write the denoise loop out. [`models`] build a [`graph::Graph`] from a typed config; they know nothing
//! of devices. [`graph::passes`] rewrite it. [`plan`] chooses a kernel and buffers for every node before anything runs.
//! [`backend::Device`] is a GPU or the [`reference`](mod@reference).
//!
//! ```no_run
//! use unmist::backend::{Device, LoadOptions};
//! use unmist::checkpoint::Checkpoint;
//! use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
//! use unmist::rng::TorchCpu;
//! use unmist::schedulers::{Sampling, Scheduler};
//! use unmist::{DType, Result};
//!
//! fn main() -> Result<()> {
//!     let checkpoint = Checkpoint::open("weights/ddpm-fashion-32")?;
//!     let scheduler = Scheduler::new(DiffusionPipeline::scheduler_config(&checkpoint)?)?;
//!     let pipeline = DiffusionPipeline::load(&checkpoint, scheduler)?;
//!     let options = SampleOptions {
//!         batch_size: 4,
//!         classes: vec![0, 1, 7, 9],
//!         sampling: Sampling::steps(250),
//!         guidance_scale: vec![1.5],
//!         ..pipeline.defaults()
//!     };
//!     let device = Device::open("auto")?;
//!     let load = LoadOptions::default();
//!     let runtime = Runtime::new(&device, &load, DType::F32);
//!     // [4, 1, 32, 32] in [0, 1]
//!     let images = pipeline.sample(&runtime, &options, &mut [TorchCpu::new(0)], &mut |_| Ok(()))?;
//!     println!("{:?}", images.shape);
//!     Ok(())
//! }
//! ```

#![cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "some items are there for adapters and their checks"))]

pub mod backend;
pub mod caps;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod content;
pub mod encode;
pub mod error;
pub mod files;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod graph;
pub mod image_io;
pub mod kernel;
pub mod models;
pub mod ops;
pub mod output;
pub mod overflow;
mod parallel;
pub mod pipelines;
pub mod plan;
pub mod prompt;
pub mod reference;
pub mod refusal;
pub mod request;
pub mod rng;
pub mod schedulers;
pub mod session;
pub mod store;
pub mod tensor;
pub mod tokenizer;
pub mod verify;

pub use error::{Error, Result};
pub use tensor::{DType, HostTensor};
