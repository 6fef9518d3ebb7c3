//! Checkpoints: configuration and weights from disk or memory ([`Files`](crate::files::Files)), checked before anything
//! is computed.
//!
//! - [`safetensors`]: files of tensors, `.safetensors` (single or sharded) or GGUF, every offset validated when opened
//!   ([`Tensors`]).
//! - [`Checkpoint`]: a model in whatever layout.
//! - [`folder`]: a model folder as diffusers lays it out ([`Folder`], [`Component`]).
//! - [`single_file`]: a Stable Diffusion model in one file, whole or in part ([`SingleFile`]).
//! - [`ignore`]: what may be left unread ([`Ignore`]).
//! - [`rename`]: the one table of key names that changed over the years.
//! - [`lora`], [`textual_inversion`]: files that change a model as it is read.
//! - [`weights`]: what a model takes its parameters from, strictly matched against what it expects ([`Weights`]).
//!
//! ```no_run
//! use unmist::checkpoint::{Checkpoint, Weights};
//!
//! # fn main() -> unmist::Result<()> {
//! let model = Checkpoint::open("weights/ddpm-fashion-32")?;
//! let unet = model.component("unet")?;
//! let expected = vec![("conv_in.weight".to_string(), vec![32, 1, 3, 3])]; // from the model's graph
//! let weights = Weights::new(unet.tensors, &expected)?; // all problems in one error
//! let conv_in = weights.tensor("conv_in.weight")?; // read only now
//! # Ok(())
//! # }
//! ```

mod convert;
mod element;
pub mod folder;
mod gguf;
mod header;
pub mod ignore;
mod inferred;
pub mod json;
mod layout;
mod ldm_keys;
pub mod lora;
mod open;
pub(crate) mod original;
pub mod rename;
pub mod safetensors;
pub mod single_file;
pub mod textual_inversion;
pub mod weights;

pub use element::ElementType;
pub use folder::{Component, Folder};
pub use gguf::Block;
pub use ignore::Ignore;
pub(crate) use inferred::Family;
pub use inferred::{Assumption, Evidence};
pub use json::Json;
pub use layout::Place;
pub use lora::Lora;
pub use open::{Checkpoint, PARTS};
pub use safetensors::{TensorInfo, Tensors};
pub use single_file::SingleFile;
pub use textual_inversion::TextualInversion;
pub use weights::{TensorSource, Weights};

/// A name out of a file for use in a message: in backticks, control characters escaped, cut after 120 characters
/// (a damaged header can hold a name of many megabytes).
pub(crate) fn quoted(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut text: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    format!("`{text}`")
}
