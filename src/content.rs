//! Names for contents: what has the same [`ContentId`] is the same, wherever it came from.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// SHA-256 over the parts that something is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct ContentId([u8; 32]);

impl ContentId {
    /// The id of these parts in this order. Parts are told apart: `["ab"]` and `["a", "b"]` differ.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The id of a value's `Debug` text: complete for the plain data that graphs and options are made of.
    pub(crate) fn of_debug(value: &impl fmt::Debug) -> Self {
        struct Text(Sha256);
        impl fmt::Write for Text {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.update(text);
                Ok(())
            }
        }
        let mut text = Text(Sha256::new());
        fmt::write(&mut text, format_args!("{value:?}")).expect("hashing text cannot fail");
        Self(text.0.finalize().into())
    }

    /// The bytes, for ids of things that contain this one.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<ContentId> for String {
    fn from(id: ContentId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for ContentId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("expected 64 hexadecimal digits, found {text:?}");
        let mut id = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::ContentId;

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(ContentId::of(&[b"ab"]), ContentId::of(&[b"a", b"b"]));
        assert_ne!(ContentId::of(&[b"ab", b""]), ContentId::of(&[b"", b"ab"]));
        assert_eq!(ContentId::of(&[b"a", b"b"]), ContentId::of(&[b"a", b"b"]));
    }

    #[test]
    fn text_and_back() {
        let id = ContentId::of(&[b"x"]);
        assert_eq!(ContentId::try_from(id.to_string()), Ok(id));
        for wrong in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
            assert!(ContentId::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
