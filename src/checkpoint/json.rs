//! JSON files as Python writes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::Ignore;
use crate::error::{Error, Result};
use crate::files::{Disk, Files, Kind};

/// Longest JSON file that is read. The index of the largest sharded checkpoints has about one megabyte.
const MAX_BYTES: u64 = 64 << 20;

/// Most values in one file. In memory each takes up to 128 bytes, many times its text. The largest files, vocabularies
/// of language models, have half a million.
const MAX_VALUES: usize = 1_500_000;

/// A parsed JSON file, with its text.
///
/// Python writes infinite numbers as the bare words `Infinity`, `-Infinity` and `NaN`, which JSON does not have
/// (diffusers' `lambda_min_clipped` is one). They are read as strings of the same spelling; [`Json::number`]
/// understands both.
#[derive(Clone, Debug)]
pub struct Json {
    /// Where it came from, for messages.
    pub path: PathBuf,
    /// The text as it stands in the file.
    pub text: String,
    /// The value.
    pub value: Value,
    /// Fields that may be unknown.
    pub ignore: Arc<Ignore>,
}

impl Json {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Config`] if it is too long or not JSON.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_in(&Disk, path)
    }

    /// As [`Json::read`], of a file among `files`.
    ///
    /// # Errors
    /// As [`Json::read`].
    pub fn read_in(files: &dyn Files, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |message: String| Error::Config(format!("{}: {message}", path.display()));
        // Asked before opening, which may read the whole file.
        match files.kind(path).map_err(Error::io(path))? {
            Kind::File(length) if length > MAX_BYTES => {
                return Err(bad(format!("longer than the {MAX_BYTES} bytes a JSON file may have here")));
            }
            Kind::File(_) => {}
            Kind::Folder | Kind::Other => return Err(bad("expected a JSON file, found a folder or device".into())),
        }
        let bytes = files.open(path).map_err(Error::io(path))?;
        let text = std::str::from_utf8(&bytes).map_err(|e| bad(format!("not UTF-8 text ({e})")))?;
        Self::parse(path, text.to_owned())
    }

    /// Parses `text`; `path` only names it in messages.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not JSON, or holds more than 1 500 000 values.
    pub fn parse(path: impl AsRef<Path>, text: String) -> Result<Self> {
        let path = path.as_ref().to_owned();
        if text.starts_with("version https://git-lfs") {
            return Err(Error::Config(format!(
                "{}: this is a Git LFS pointer, the file itself was not fetched; run `git lfs pull` in the repository",
                path.display()
            )));
        }
        // Before each value but the first stands one of these; those in strings count too, which does no harm.
        if text.bytes().filter(|byte| b"[{,:".contains(byte)).count() > MAX_VALUES {
            let shown = path.display();
            return Err(Error::Config(format!("{shown}: more than the {MAX_VALUES} values a JSON file may have here")));
        }
        let value = serde_json::from_str(&text).or_else(|error| {
            // Only if quoting Python's words makes it JSON; else the first error, whose position is right.
            serde_json::from_str(&quote_python_numbers(&text)).map_err(|_| error)
        });
        match value {
            Ok(value) => Ok(Self { path, text, value, ignore: Arc::default() }),
            Err(error) => {
                Err(Error::Config(format!("{}: not valid JSON ({error}); correct or fetch it again", path.display())))
            }
        }
    }

    /// `value` as a number, where Python's `Infinity`, `-Infinity` and `NaN` count.
    pub fn number(value: &Value) -> Option<f64> {
        match value.as_str() {
            Some("Infinity") => Some(f64::INFINITY),
            Some("-Infinity") => Some(f64::NEG_INFINITY),
            Some("NaN") => Some(f64::NAN),
            Some(_) => None,
            None => value.as_f64(),
        }
    }
}

/// Puts quotes around `Infinity`, `-Infinity` and `NaN` where they stand outside strings.
fn quote_python_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_string && rest.starts_with(word));
        let taken = match word {
            Some(word) => {
                out.extend(["\"", word, "\""]);
                word.len()
            }
            None => {
                // A backslash in a string takes the next character with it.
                let escaped =
                    if in_string && c == '\\' { rest[1..].chars().next().map_or(0, char::len_utf8) } else { 0 };
                let taken = c.len_utf8() + escaped;
                out.push_str(&rest[..taken]);
                in_string ^= c == '"';
                taken
            }
        };
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_infinities_are_numbers() {
        let text = r#"{"a": -Infinity, "b": [Infinity, NaN], "c": "say \"Infinity, \\", "d": 2.5, "e": "-Infinity"}"#;
        let json = Json::parse("x.json", text.into()).unwrap();
        assert_eq!(Json::number(&json.value["a"]), Some(f64::NEG_INFINITY));
        assert_eq!(Json::number(&json.value["b"][0]), Some(f64::INFINITY));
        assert!(Json::number(&json.value["b"][1]).unwrap().is_nan());
        assert_eq!(json.value["c"], "say \"Infinity, \\");
        assert_eq!(Json::number(&json.value["d"]), Some(2.5));
        assert_eq!(Json::number(&json.value["c"]), None);
        assert_eq!(json.text, text);
    }

    #[test]
    fn a_file_of_too_many_values_is_refused() {
        let list = |values: usize| format!("[{}]", vec!["1"; values].join(","));
        assert!(Json::parse("x.json", list(MAX_VALUES)).is_ok());
        let message = Json::parse("x.json", list(MAX_VALUES + 1)).unwrap_err().to_string();
        assert!(message.contains("x.json") && message.contains("1500000 values"), "{message}");
    }

    #[test]
    fn errors_give_the_place() {
        let message = Json::parse("unet/config.json", "{\n \"a\": 1,\n \"b\": }".into()).unwrap_err().to_string();
        assert!(message.contains("unet/config.json") && message.contains("line 3"), "{message}");
        let deep = "[".repeat(100_000);
        assert!(Json::parse("x", deep).unwrap_err().to_string().contains("recursion"));
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
        assert!(Json::parse("x", pointer.into()).unwrap_err().to_string().contains("git lfs pull"));
    }
}
