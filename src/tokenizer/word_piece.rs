//! BERT's tokenizer: words and punctuation, each cut into the longest pieces that the vocabulary has, from the left.
//!
//! Source: Devlin et al. 2019, arXiv:1810.04805, section 4.1; the steps are those of transformers' `BertTokenizer`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use regex::Regex;
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use super::{Tokenizer, Words, id_of, longest_first};
use crate::checkpoint::Json;
use crate::error::{Error, Result};

/// What a piece that goes on with a word begins with.
const INSIDE: &str = "##";
/// A longer word, in characters, is unknown as a whole.
const LONGEST_WORD: usize = 100;
/// `unk_token` and the like, and what they usually are.
const SPECIAL: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// What is left out of a text: characters that control or format, private ones, and the mark of a damaged text.
static DROPPED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]--[\t\n\r]]").expect("it is a pattern"));
/// Marks above and below letters, once they stand alone.
static MARK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\p{Mn}").expect("it is a pattern"));
/// A sign of punctuation, or what stands between such signs and spaces.
static WORD: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[[:punct:]\p{P}]|[^[:punct:]\p{P}\s]+").expect("it is a pattern"));

/// The vocabulary, and how texts are made like it.
pub(super) struct WordPiece {
    vocabulary: HashMap<String, u32>,
    /// The token of a word that cannot be cut into pieces.
    unknown: u32,
    lower_case: bool,
    strip_accents: bool,
    /// Whether every Chinese character is a word.
    chinese: bool,
}

/// The files of a tokenizer's folder, where they are there.
pub(super) struct Parts<'a> {
    /// `vocab.txt`, and where it lies.
    pub list: Option<(&'a Path, &'a str)>,
    /// `tokenizer.json`.
    pub whole: Option<&'a Json>,
    /// `tokenizer_config.json`.
    pub config: Option<&'a Json>,
    /// Finds a special token's name by `unk_token` and the like.
    pub setting: &'a dyn Fn(&str) -> Option<String>,
}

/// Whether a `tokenizer.json` is of this kind.
pub(super) fn is_word_piece(whole: &Json) -> bool {
    whole.value["model"]["type"] == "WordPiece"
}

/// The tokenizer of a folder. A `tokenizer.json` beside `vocab.txt` must say the same of the texts.
///
/// # Errors
/// [`Error::Config`] if a file is malformed or a special token missing; [`Error::Unsupported`] for steps that are not
/// BERT's, by name.
pub(super) fn open(parts: &Parts<'_>) -> Result<Tokenizer> {
    let (file, vocabulary) = match (parts.list, parts.whole) {
        (Some((path, text)), _) => (path, listed(text)),
        (None, Some(whole)) => (whole.path.as_path(), entries(whole)?),
        (None, None) => unreachable!("one of them made it this kind of tokenizer"),
    };
    let bad = |why: String| Error::Config(format!("{}: {why}; fetch the tokenizer again", file.display()));
    let id = |key: &str, usual: &str| {
        let name = (parts.setting)(key).unwrap_or_else(|| usual.to_owned());
        let id = vocabulary.get(&name).copied();
        id.map(|id| (name.clone(), id)).ok_or_else(|| bad(format!("the special token {name:?} ({key}) has no id")))
    };
    let special = SPECIAL.map(|(key, usual)| id(key, usual));
    // Only a masked language model needs the last.
    let needed = |i: usize| special[i].as_ref().map(|(_, id)| *id).map_err(|error| Error::Config(error.to_string()));
    let (unknown, end, padding, start) = (needed(0)?, needed(1)?, needed(2)?, needed(3)?);
    let normalizer = parts.whole.filter(|whole| is_word_piece(whole)).map(|whole| normalizer(whole)).transpose()?;
    let flag = |own: &str, stored: &str, default: bool| -> Result<bool> {
        let config = parts.config.map(|config| (config, own, &config.value[own]));
        let stored = parts.whole.zip(normalizer).map(|(whole, value)| (whole, stored, &value[stored]));
        let Some((json, key, value)) = [config, stored].into_iter().flatten().find(|(_, _, value)| !value.is_null())
        else {
            return Ok(default);
        };
        let wrong = || Error::Config(format!("{}: \"{key}\" must be true or false", json.path.display()));
        value.as_bool().ok_or_else(wrong)
    };
    let lower_case = flag("do_lower_case", "lowercase", true)?;
    let strip_accents = flag("strip_accents", "strip_accents", lower_case)?;
    let chinese = flag("tokenize_chinese_chars", "handle_chinese_chars", true)?;
    let last = vocabulary.values().max().map_or(0, |id| id + 1);
    Ok(Tokenizer {
        words: Words::Pieces(Arc::new(WordPiece { vocabulary, unknown, lower_case, strip_accents, chinese })),
        special: longest_first(special.into_iter().flatten().collect()),
        added: vec![],
        start,
        end,
        padding,
        vocabulary: last,
    })
}

/// The tokens of `vocab.txt`, one a line; the line's number, from 0, is the id.
fn listed(text: &str) -> HashMap<String, u32> {
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    lines.map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned()).zip(0..).collect()
}

/// The tokens of `tokenizer.json`.
fn entries(whole: &Json) -> Result<HashMap<String, u32>> {
    let bad = |why: String| Error::Config(format!("{}: {why}; fetch the tokenizer again", whole.path.display()));
    let entries = whole.value["model"]["vocab"].as_object();
    let entries = entries.ok_or_else(|| bad("expected an object from tokens to ids at model.vocab".into()))?;
    let token = |(name, id): (&String, &Value)| {
        let number =
            id_of(id).ok_or_else(|| bad(format!("token {name:?} has the id {id}, expected one below 2^24")))?;
        Ok((name.clone(), number))
    };
    entries.iter().map(token).collect()
}

/// What `tokenizer.json` says of the text before it is cut, once it is known that all else in it is BERT's.
fn normalizer(whole: &Json) -> Result<&Value> {
    let (value, file) = (&whole.value, whole.path.display());
    let known = [
        ("model.continuing_subword_prefix", &value["model"]["continuing_subword_prefix"], json!(INSIDE)),
        ("model.max_input_chars_per_word", &value["model"]["max_input_chars_per_word"], json!(LONGEST_WORD)),
        ("normalizer.type", &value["normalizer"]["type"], json!("BertNormalizer")),
        ("normalizer.clean_text", &value["normalizer"]["clean_text"], json!(true)),
        ("pre_tokenizer.type", &value["pre_tokenizer"]["type"], json!("BertPreTokenizer")),
    ];
    for (key, found, expected) in known {
        if *found != expected {
            return Err(Error::Unsupported(format!(
                "{file}: \"{key}\": {found} is not supported; expected {expected}"
            )));
        }
    }
    Ok(&value["normalizer"])
}

impl WordPiece {
    /// A text in the characters of the vocabulary.
    pub fn normalise(&self, text: &str) -> String {
        let kept = DROPPED.replace_all(text, "");
        let mut spaced = String::with_capacity(kept.len());
        for c in kept.chars() {
            match c {
                _ if c.is_whitespace() => spaced.push(' '),
                _ if self.chinese && is_chinese(c) => spaced.extend([' ', c, ' ']),
                _ => spaced.push(c),
            }
        }
        if self.strip_accents {
            let apart: String = spaced.nfd().collect();
            spaced = MARK.replace_all(&apart, "").into_owned();
        }
        if self.lower_case { spaced.chars().flat_map(char::to_lowercase).collect() } else { spaced }
    }

    /// Adds the ids of a text that [`WordPiece::normalise`] has returned.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        for word in WORD.find_iter(text) {
            match self.pieces(word.as_str()) {
                Some(pieces) => ids.extend(pieces),
                None => ids.push(self.unknown),
            }
        }
    }

    /// The pieces of a word; `None` if there are none for some part of it.
    fn pieces(&self, word: &str) -> Option<Vec<u32>> {
        let ends: Vec<usize> = word.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
        if ends.len() > LONGEST_WORD {
            return None;
        }
        let (mut pieces, mut begin) = (Vec::new(), 0);
        while begin < word.len() {
            let prefix = if begin > 0 { INSIDE } else { "" };
            let longest = ends.iter().rev().take_while(|end| **end > begin).find_map(|end| {
                let id = self.vocabulary.get(&format!("{prefix}{}", &word[begin..*end]))?;
                Some((*id, *end))
            });
            let (id, end) = longest?;
            pieces.push(id);
            begin = end;
        }
        Some(pieces)
    }
}

/// The blocks of Unicode that BERT takes for Chinese characters.
fn is_chinese(c: char) -> bool {
    const BLOCKS: [(u32, u32); 8] = [
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B920, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    ];
    BLOCKS.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Tokenizer> {
        open(&Parts { list: Some((Path::new("vocab.txt"), text)), whole: None, config: None, setting: &|_| None })
    }

    #[test]
    fn words_are_cut_into_the_longest_pieces() {
        let tokenizer = list("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nun\r\nunm\r\n##mist\r\n##ist\r\ne\r\n").unwrap();
        assert_eq!(tokenizer.encode("UNMIST, \u{e9}").unwrap(), [5, 7, 1, 8]);
        assert_eq!(tokenizer.encode("unmist[SEP]unmistx [sep]").unwrap(), [5, 7, 3, 1, 1, 1, 1]);
        assert_eq!(tokenizer.window(&[5, 7], 6), [2, 5, 7, 3, 0, 0]);
        assert_eq!(tokenizer.vocabulary(), 9);
    }

    #[test]
    fn files_that_say_something_else_are_refused() {
        let refused = |text: &str| list(text).err().expect("should be refused").to_string();
        assert!(refused("[PAD]\n[UNK]\n[CLS]\n").contains("\"[SEP]\" (sep_token) has no id"));
        let whole = |change: fn(&mut Value)| {
            let vocab = json!({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "A": 4, "a": 5});
            let mut value = json!({
                "model": {"type": "WordPiece", "vocab": vocab, "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100},
                "normalizer": {"type": "BertNormalizer", "clean_text": true, "lowercase": false},
                "pre_tokenizer": {"type": "BertPreTokenizer"},
            });
            change(&mut value);
            let whole = Json::parse("tokenizer.json", value.to_string()).expect("it is JSON");
            open(&Parts { list: None, whole: Some(&whole), config: None, setting: &|_| None })
        };
        assert_eq!(whole(|_| ()).unwrap().encode("A a").unwrap(), [4, 5]);
        let refused = |change| whole(change).err().expect("should be refused").to_string();
        assert!(refused(|v| v["normalizer"]["type"] = "Lowercase".into()).contains("normalizer.type"));
        assert!(refused(|v| v["normalizer"]["lowercase"] = 1.into()).contains("\"lowercase\" must be"));
        assert!(refused(|v| v["model"]["continuing_subword_prefix"] = "_".into()).contains("_prefix"));
        assert!(refused(|v| v["model"]["vocab"]["a"] = (-1).into()).contains("\"a\" has the id -1"));
        assert!(refused(|v| v["model"]["vocab"] = 1.into()).contains("model.vocab"));
    }
}
