//! What a model may hold unread.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Ignore};
use crate::error::Result;

/// What a model need not ask for.
#[derive(clap::Args)]
pub struct Unused {
    /// Tensors and config fields that may stay unread where no model asks for them, by name, with * for any characters;
    /// may be repeated
    #[arg(long, value_name = "PATTERN")]
    ignore_unused: Vec<String>,
}

impl Unused {
    /// Opens a model that may hold them.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&self, path: &Path) -> Result<Checkpoint> {
        Ok(Checkpoint::open(path)?.with_ignored(Arc::new(Ignore::new(&self.ignore_unused))))
    }
}
