//! From a request to pictures that say how they were made: what the command line, the server and a page in a browser
//! share. Nothing in here prints, or knows flags or JSON.
//!
//! [`Models::open`] finds and opens what a [`Request`](crate::request::Request) names, [`Models::resolve`] works out
//! what it means for them, [`read_inputs`] adds pictures to begin with, [`Models::run`] makes the pictures, and a
//! [`Record`] is what they remember.

mod foreign;
mod hints;
mod inputs;
#[cfg(any(feature = "cli", feature = "serve"))]
mod inside;
mod interpolate;
mod mask;
mod model;
mod models;
mod networks;
mod overlay;
mod parameters;
pub mod places;
mod record;
mod source;

pub use foreign::{Foreign, find_sampler};
pub use inputs::read_into as read_inputs;
#[cfg(any(feature = "cli", feature = "serve"))]
pub use inside::{Frame, Inside, Map, Seen, View, Watch, url};
pub use interpolate::Way;
pub use model::{OpenModel, adapted, named_files, named_paths, put_together};
pub use models::{Event, Models, Step, opening_key};
pub use networks::{in_folder_of, take_from_prompts};
pub use overlay::Overlay;
pub use parameters::{model_hash, parameters};
pub use record::{Files, Hashes, KEYWORD, Paths, Record, hash};
pub use source::Source;

/// Lines for the user: what was assumed, left out, or might surprise. They begin with `note:`, `assumed:` or `hint:`,
/// and name fields of a request in backticks.
#[derive(Debug, Default)]
pub struct Notes(Vec<String>);

impl Notes {
    /// Adds a line.
    pub fn add(&mut self, line: String) {
        self.0.push(line);
    }

    /// The lines so far; each is returned once.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }
}
