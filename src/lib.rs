//! unmist: a diffusion engine whose every arithmetic step is a hand-written WGSL compute kernel.
//!
//! It reads Stable Diffusion and DDPM checkpoints as they lie on disk, and makes the same pictures as diffusers from
//! the same seeds, on Vulkan, Metal and DX12, or on the CPU. Data flows one way:
//!
//! ```text
//! cli, serve, a page ──> generate ──> request, pictures that remember how they were made
//!                           │
//!                           └──> pipelines ──> models, schedulers ──> graph ──> plan ──> gpu    alone names wgpu
//!                                   │                                   │         ├────> web    a page's WebGPU
//!                                   ├──> checkpoint, tokenizer, rng     │         └────> store  weights, once
//!                                   └──> image_io                       ├─ ops                  shapes, kernels, cases
//!                                                                       └─ reference            plain CPU loops
//! ```
//!
//! - A [`request::Request`] is the one list of what can be asked for; [`request::resolve`] fills in the rest, and
//!   [`generate`] makes pictures of it for whoever asks: the command line, the server, a page in a browser.
//! - A [`checkpoint`] is read from [`files`], on the disk or in memory.
//! - [`pipelines`] write the denoise loop out, so that it reads like the paper; [`schedulers`] say which noise levels
//!   it visits.
//! - [`models`] build a [`graph::Graph`] from a typed config and know nothing of devices; [`graph::passes`] rewrite it.
//! - [`plan`] turns it into a [`plan::Program`]: kernels and buffers for every node, as data, before anything runs.
//! - [`backend::Device`] runs it, on a graphics adapter or by the [`reference`](mod@reference), which is also what
//!   every kernel is tested against ([`verify`]).
//!
//! # A picture
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
//!
//! The folder `examples/` has five programs: a picture from a prompt, a scheduler loop of one's own, one operation on
//! the GPU, a graph built by hand, and previews.
//!
//! # Features
//!
//! | feature | what it brings | default |
//! | --- | --- | --- |
//! | `gpu` | running on graphics adapters (wgpu) | yes |
//! | `cli` | the command line, `unmist::cli` | yes |
//! | `clip-merges` | CLIP's list of merges, for models that come without a tokenizer | yes |
//! | `serve` | the server, `unmist::serve` | yes |
//! | `threads` | the reference on all cores, weights mapped into memory | yes |
//! | `web` | in a browser: running on a page's WebGPU, and what the page calls | no |
//!
//! Without any of them the library builds for `wasm32-unknown-unknown`, too.

// They panic where nobody can read: `say` and `print` in src/cli/mod.rs do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "some items are there for adapters and their checks"))]

pub mod backend;
pub mod caps;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod content;
pub mod encode;
pub mod error;
pub mod export;
pub mod files;
pub mod generate;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod graph;
pub mod image_io;
pub mod kernel;
mod load;
#[cfg(feature = "gpu")]
pub mod measure;
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
#[cfg(feature = "serve")]
pub mod serve;
pub mod session;
pub mod store;
pub mod tensor;
pub mod tokenizer;
pub mod trace;
pub mod training;
pub mod verify;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
pub mod web;

pub use error::{Error, Result};
pub use tensor::{DType, HostTensor};
