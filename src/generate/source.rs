//! A picture, or tensors of pictures, that say how they were made.

use std::path::Path;

use super::Notes;
use super::foreign::Foreign;
use super::record::{KEYWORD, Record};
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::image_io::read_text;
use crate::request::{Past, Request};

/// How a picture was made, in this program's words or in another's.
pub enum Source {
    /// All of it.
    Record(Box<Record>),
    /// As much as another program says.
    Foreign(Box<Foreign>),
}

impl Source {
    /// Reads the settings of a picture, or of a `.safetensors` file of pictures.
    ///
    /// # Errors
    /// As [`read_text`] and [`Tensors::open`]; [`Error::Usage`] if there are none that say enough, [`Error::Config`] if
    /// this version cannot read them.
    pub fn read(path: &Path) -> Result<Self> {
        let texts = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            Tensors::open(path)?.metadata().clone().into_iter().collect()
        } else {
            read_text(path)?
        };
        Self::of(path, &texts)
    }

    /// Understands the texts of a picture, `(keyword, text)`; `path` names it in messages.
    ///
    /// # Errors
    /// [`Error::Usage`] if they do not say enough, [`Error::Config`] if this version cannot read them.
    pub fn of(path: &Path, texts: &[(String, String)]) -> Result<Self> {
        if let Some((_, text)) = texts.iter().find(|(keyword, _)| keyword == KEYWORD) {
            return Ok(Self::Record(Box::new(Record::parse(path, text)?)));
        }
        Foreign::read(texts).map(|foreign| Self::Foreign(Box::new(foreign))).map_err(|why| {
            Error::Usage(format!(
                "{}: it holds no record that can be replayed ({why}); pictures of unmist, \
                AUTOMATIC1111's web UI, ComfyUI and stable-diffusion.cpp do, unless a program has removed it",
                path.display()
            ))
        })
    }

    /// The picture's account, to go on from. `given` is asked for anew.
    ///
    /// # Errors
    /// As [`Record::past`] and [`Foreign::past`].
    pub fn past(&self, from: &Path, given: &Request, notes: &mut Notes) -> Result<Past> {
        match self {
            Self::Record(record) => record.past(),
            Self::Foreign(foreign) => foreign.past(from, given, notes),
        }
    }

    /// This program's own record.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::Foreign(_) => None,
        }
    }
}
