//! Everything that can be asked for, as one list of fields ([`Request`]), and what becomes of it ([`resolve`]).
//!
//! The command line's flags, the settings that a picture remembers and the body that a server takes are the same
//! fields. A request holds no defaults. [`resolve`] fills the gaps for a model, in one place and in one order: the
//! request itself, the picture to make again, the model's own files, the kind of pipeline; and each value remembers
//! which of them it came from ([`Setting`]).
//!
//! ```
//! use unmist::request::Request;
//!
//! let body = r#"{"prompt": ["a fox"], "steps": 25, "guidance_scale": [6.0], "device": {"max_memory": 6.0}}"#;
//! let request: Request = serde_json::from_str(body)?;
//! assert_eq!((request.steps, request.eta), (Some(25), None));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Files stay paths in a request. Whoever resolves one also reads them, and puts the tensors into
//! [`Resolved::options`].

mod defaults;
mod device;
mod fields;
mod generation_config;
mod idle;
mod layers;
mod resolve;
#[cfg(test)]
mod tests;
mod values;

pub use device::DeviceRequest;
pub use fields::Request;
pub use generation_config::GenerationConfig;
pub use layers::{Asked, Origin, Past};
pub use resolve::{ModelFacts, Resolved, Setting, resolve, scheduler};
pub use values::{FamilyName, MaskReading, Precision, Rng, Switch};
