//! Tokenizers: text → token ids. CLIP's is here, byte-pair encoding over bytes; `word_piece.rs` has BERT's.
//!
//! CLIP's encoding itself is `instant-clip-tokenizer`'s, which also brings the vocabulary that OpenAI's and OpenCLIP's
//! text encoders share. Around it are the steps that transformers' `CLIPTokenizer` takes: special tokens cut out of
//! the raw text, Unicode normal form C, lower case, tokens added by textual inversion. The ids are the same for every
//! text in the tests.
//!
//! Source: Radford et al. 2021, arXiv:2103.00020, section 2.4; Sennrich et al. 2016, arXiv:1508.07909.

mod word_piece;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use instant_clip_tokenizer::Tokenizer as BytePairs;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use crate::checkpoint::Json;
use crate::error::{Error, Result};
use crate::files::{Disk, Files};
use word_piece::{Parts, WordPiece};

/// Longest text, in bytes. The time that encoding takes grows with the square of a word's length.
const MAX_TEXT: usize = 1 << 16;
/// Single bytes, and single bytes that end a word.
const BYTES: usize = 2 * 256;
/// CLIP's vocabulary: the bytes, 48894 merges, start and end.
pub const CLIP_VOCABULARY: u32 = 49408;
const CLIP_MERGES: usize = CLIP_VOCABULARY as usize - BYTES - 2;
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// A tokenizer with one vocabulary: CLIP's, or BERT's.
#[derive(Clone)]
pub struct Tokenizer {
    words: Words,
    /// Cut out of the raw text, longest first.
    special: Vec<(String, u32)>,
    /// Cut out of the normalised text, longest first.
    added: Vec<(String, Vec<u32>)>,
    start: u32,
    end: u32,
    padding: u32,
    vocabulary: u32,
}

/// How plain text becomes tokens.
#[derive(Clone)]
enum Words {
    /// CLIP's way.
    BytePairs {
        byte_pairs: Arc<BytePairs>,
        /// Byte-pair token → id in `vocab.json`; `None` where the two are the same (CLIP's own vocabulary).
        ids: Option<Vec<u32>>,
    },
    /// BERT's way.
    Pieces(Arc<WordPiece>),
}

/// What fills a window after the end of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The end token again: Stable Diffusion 1, and XL's first encoder.
    End,
    /// Token 0, `!`: OpenCLIP's encoders in Stable Diffusion 2 and XL.
    Zero,
}

impl Tokenizer {
    /// CLIP's own vocabulary of 49408 tokens, for models that come without a tokenizer.
    #[cfg(feature = "clip-merges")]
    pub fn clip(padding: Padding) -> Self {
        Self::with_clips_ids(BytePairs::new(), padding)
    }

    /// As `Tokenizer::clip`, from the text of CLIP's own list of merges, for programs that do not hold it (the feature
    /// `clip-merges`): the lines of its `merges.txt`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is another list.
    pub fn clip_of(merges: &str, padding: Padding) -> Result<Self> {
        let lines: Vec<String> = merge_lines(merges).into_iter().take(CLIP_MERGES).collect();
        let bad = |why: String| Error::Config(format!("CLIP's list of merges: {why}; fetch it again"));
        if lines.len() < CLIP_MERGES {
            return Err(bad(format!("expected {CLIP_MERGES} merges, found {}", lines.len())));
        }
        let text = format!("#version: 0.2\n{}\n", lines.join("\n"));
        let byte_pairs = BytePairs::with_vocabulary(text.as_bytes(), CLIP_VOCABULARY as u16);
        Ok(Self::with_clips_ids(byte_pairs.map_err(|error| bad(error.to_string()))?, padding))
    }

    fn with_clips_ids(byte_pairs: BytePairs, padding: Padding) -> Self {
        let mut special = vec![(START.into(), CLIP_VOCABULARY - 2), (END.into(), CLIP_VOCABULARY - 1)];
        if padding == Padding::Zero {
            special.push(("!".into(), 0)); // as transformers treats any padding token
        }
        Self {
            words: Words::BytePairs { byte_pairs: Arc::new(byte_pairs), ids: None },
            special,
            added: vec![],
            start: CLIP_VOCABULARY - 2,
            end: CLIP_VOCABULARY - 1,
            padding: if padding == Padding::Zero { 0 } else { CLIP_VOCABULARY - 1 },
            vocabulary: CLIP_VOCABULARY,
        }
    }

    /// The tokenizer of a folder: `vocab.json` and `merges.txt` (CLIP's), `vocab.txt` (BERT's), or `tokenizer.json`;
    /// special tokens from `special_tokens_map.json` or `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Config`] if one is malformed or they contradict each other.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(&Disk, folder)
    }

    /// As [`Tokenizer::open`], of a folder among `files`.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn open_in(files: &dyn Files, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let optional = |name: &str| -> Result<Option<Json>> {
            let path = folder.join(name);
            files.is_file(&path).then(|| Json::read_in(files, path)).transpose()
        };
        let text = |name: &str| -> Result<String> {
            let path = folder.join(name);
            let bytes = files.open(&path).map_err(Error::io(&path))?;
            let text = std::str::from_utf8(&bytes).map_err(|_| {
                Error::io(&path)(io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8"))
            })?;
            Ok(text.to_owned())
        };
        let whole = optional("tokenizer.json")?;
        let config = optional("tokenizer_config.json")?;
        let map = optional("special_tokens_map.json")?;
        let setting = |key: &str| {
            [&map, &config].into_iter().flatten().find_map(|file| {
                let value = &file.value[key];
                value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
            })
        };
        let list = folder.join("vocab.txt");
        if files.is_file(&list) || whole.as_ref().is_some_and(word_piece::is_word_piece) {
            let lines = files.is_file(&list).then(|| text("vocab.txt")).transpose()?;
            let list = lines.as_deref().map(|lines| (list.as_path(), lines));
            return word_piece::open(&Parts {
                list,
                whole: whole.as_ref(),
                config: config.as_ref(),
                setting: &setting,
            });
        }
        let (vocab, merges) = if let Some(vocab) = optional("vocab.json")? {
            (vocab, merge_lines(&text("merges.txt")?))
        } else if let Some(whole) = &whole {
            from_tokenizer_json(whole)?
        } else {
            return Err(Error::Config(format!(
                "{}: expected vocab.json and merges.txt, vocab.txt, or tokenizer.json; found none of them",
                folder.display()
            )));
        };
        let mut added = BTreeMap::new();
        if let Some(file) = optional("added_tokens.json")? {
            added.extend(
                file.value.as_object().into_iter().flatten().filter_map(|(name, id)| Some((name.clone(), id_of(id)?))),
            );
        }
        for entry in whole.iter().filter_map(|whole| whole.value["added_tokens"].as_array()).flatten() {
            added.extend(entry["content"].as_str().zip(id_of(&entry["id"])).map(|(name, id)| (name.to_owned(), id)));
        }
        Self::new(&vocab, &merges, &added, &setting)
    }

    /// `added` are tokens beyond the vocabulary; `setting` finds a special token's name by `bos_token` and the like.
    fn new(
        vocab: &Json,
        merges: &[String],
        added: &BTreeMap<String, u32>,
        setting: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let bad =
            |message: String| Error::Config(format!("{}: {message}; fetch the tokenizer again", vocab.path.display()));
        let Some(entries) = vocab.value.as_object() else {
            return Err(bad("expected an object from tokens to ids".into()));
        };
        let mut vocabulary = HashMap::new();
        for (name, id) in entries {
            let id = id_of(id)
                .ok_or_else(|| bad(format!("token {name:?} has the id {id}, expected an integer below 2^24")))?;
            vocabulary.insert(name.as_str(), id);
        }
        vocabulary.extend(added.iter().map(|(name, &id)| (name.as_str(), id)));
        let id = |name: &str| vocabulary.get(name).copied();
        let special = |key: &str, usual: &str| {
            let name = setting(key).unwrap_or_else(|| usual.to_owned());
            id(&name)
                .map(|id| (name.clone(), id))
                .ok_or_else(|| bad(format!("the special token {name:?} ({key}) has no id")))
        };
        let start = special("bos_token", START)?;
        let end = special("eos_token", END)?;
        let unknown = special("unk_token", &end.0)?;
        let padding = special("pad_token", &end.0)?;

        // The library numbers tokens in CLIP's order: bytes, bytes that end a word, merges as they come. A merge is
        // only usable if both parts came before it and the result is new.
        let mut tokens: Vec<String> = byte_symbols().into_iter().map(String::from).collect();
        tokens.extend(byte_symbols().into_iter().map(|symbol| format!("{symbol}</w>")));
        let mut known: HashSet<String> = tokens.iter().cloned().collect();
        if merges.len() > usize::from(u16::MAX) - BYTES - 2 {
            return Err(bad(format!(
                "{} merges are more than the {} supported",
                merges.len(),
                usize::from(u16::MAX) - BYTES - 2
            )));
        }
        let mut library = String::from("#version: 0.2\n");
        for (i, merge) in merges.iter().enumerate() {
            let wrong = |why: &str| bad(format!("merge {} of merges.txt, {merge:?}: {why}", i + 1));
            let Some((left, right)) = merge.split_once(' ').filter(|(_, right)| !right.contains(char::is_whitespace))
            else {
                return Err(wrong("expected two tokens with a space between them"));
            };
            if !known.contains(left) || !known.contains(right) {
                return Err(wrong("its parts are neither bytes nor earlier merges"));
            }
            let token = format!("{left}{right}");
            if id(&token).is_none() {
                return Err(wrong("the result is not in vocab.json"));
            }
            if !known.insert(token.clone()) {
                return Err(wrong("an earlier merge has the same result, which is not supported"));
            }
            tokens.push(token);
            library.extend([left, " ", right, "\n"]);
        }
        let ids = tokens.iter().map(|token| id(token).unwrap_or(unknown.1)).collect();
        let byte_pairs = BytePairs::with_vocabulary(library.as_bytes(), (BYTES + merges.len() + 2) as u16)
            .expect("every merge was checked above");

        let mut specials = vec![start.clone(), end.clone(), unknown, padding.clone()];
        specials.sort();
        specials.dedup();
        let mut tokenizer = Self {
            words: Words::BytePairs { byte_pairs: Arc::new(byte_pairs), ids: Some(ids) },
            special: longest_first(specials),
            added: vec![],
            start: start.1,
            end: end.1,
            padding: padding.1,
            vocabulary: vocabulary.values().max().map_or(0, |id| id + 1),
        };
        for (name, &id) in added {
            if !tokenizer.special.iter().any(|(special, _)| special == name) {
                tokenizer.insert(name, vec![id])?;
            }
        }
        Ok(tokenizer)
    }

    /// Adds a word that becomes `count` new tokens (a textual inversion of that many vectors); returns the first of
    /// their ids.
    ///
    /// # Errors
    /// [`Error::Usage`] if the word is empty or already a token.
    pub fn add(&mut self, word: &str, count: u32) -> Result<u32> {
        let first = self.vocabulary;
        self.insert(word, (first..first + count).collect())?;
        self.vocabulary += count;
        Ok(first)
    }

    fn insert(&mut self, word: &str, ids: Vec<u32>) -> Result<()> {
        let word = self.words.normalise(word);
        if word.trim().is_empty() || self.added.iter().any(|(other, _)| *other == word) {
            return Err(Error::Usage(format!(
                "the token {word:?} cannot be added: it is empty or exists already; give it another name"
            )));
        }
        self.added.push((word, ids));
        self.added = longest_first(std::mem::take(&mut self.added));
        Ok(())
    }

    /// The token that begins a window.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The token that ends a text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The token that fills a window after the end.
    pub fn padding(&self) -> u32 {
        self.padding
    }

    /// Number of tokens, added ones included: one more than the largest id.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The ids of a text, without start and end.
    ///
    /// # Errors
    /// [`Error::Usage`] if the text is longer than 64 KiB.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        check_length(text)?;
        let mut ids = Vec::new();
        for piece in cut(text, &self.special) {
            match piece {
                Piece::Token(&id) => ids.push(id),
                Piece::Text(text) => {
                    let text = self.words.normalise(text);
                    for piece in cut(&text, &self.added) {
                        match piece {
                            Piece::Token(tokens) => ids.extend(tokens),
                            Piece::Text(text) => self.words.encode(text, &mut ids),
                        }
                    }
                }
            }
        }
        Ok(ids)
    }

    /// `[start, ids…, end, padding…]`, `length` tokens in all. Only the first `length − 2` ids fit; the rest is left
    /// out.
    pub fn window(&self, ids: &[u32], length: usize) -> Vec<u32> {
        let mut window = vec![self.start];
        window.extend(&ids[..ids.len().min(length.saturating_sub(2))]);
        window.push(self.end);
        window.resize(length, self.padding);
        window
    }
}

impl Words {
    /// A text in the characters of the vocabulary.
    fn normalise(&self, text: &str) -> String {
        match self {
            Self::BytePairs { .. } => normalise(text),
            Self::Pieces(pieces) => pieces.normalise(text),
        }
    }

    /// Adds the ids of a normalised text.
    fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let (byte_pairs, own) = match self {
            Self::BytePairs { byte_pairs, ids } => (byte_pairs, ids),
            Self::Pieces(pieces) => return pieces.encode(text, ids),
        };
        // The library has special tokens of its own, which are ordinary text here. The space changes nothing else: `<`
        // and the letter after it are different words anyway.
        let text = text.replace("<start_of_text>", "< start_of_text>").replace("<end_of_text>", "< end_of_text>");
        let mut tokens = Vec::new();
        byte_pairs.encode(&text, &mut tokens);
        ids.extend(tokens.into_iter().map(|token| {
            let token = token.to_u16();
            own.as_ref().map_or(u32::from(token), |own| own[usize::from(token)])
        }));
    }
}

/// A text cut at tokens.
enum Piece<'a, T> {
    Text(&'a str),
    Token(&'a T),
}

/// Cuts `text` at every occurrence of a token, from left to right; where several begin, the longest counts (`tokens`
/// come longest first).
fn cut<'a, T>(mut text: &'a str, tokens: &'a [(String, T)]) -> Vec<Piece<'a, T>> {
    let mut pieces = Vec::new();
    loop {
        let found = tokens.iter().filter_map(|token| text.find(token.0.as_str()).map(|at| (at, token)));
        // Among equal places `min_by_key` takes the first, which is the longest.
        let Some((at, (name, token))) = found.min_by_key(|(at, _)| *at) else { break };
        pieces.extend([Piece::Text(&text[..at]), Piece::Token(token)]);
        text = &text[at + name.len()..];
    }
    pieces.push(Piece::Text(text));
    pieces
}

fn longest_first<T>(mut tokens: Vec<(String, T)>) -> Vec<(String, T)> {
    tokens.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    tokens
}

/// Refuses a text that would take too long.
///
/// # Errors
/// [`Error::Usage`] if it is longer than 64 KiB.
pub(crate) fn check_length(text: &str) -> Result<()> {
    if text.len() <= MAX_TEXT {
        return Ok(());
    }
    let length = text.len();
    Err(Error::Usage(format!("a prompt of {length} bytes is too long; at most {MAX_TEXT} bytes are taken")))
}

/// Normal form C, then lower case character by character (so that a final Σ becomes σ, as in the library of
/// transformers).
fn normalise(text: &str) -> String {
    text.nfc().flat_map(char::to_lowercase).collect()
}

/// The characters that stand for bytes in CLIP's files, in the order of their ids: printable ones for themselves, the
/// others from U+0100 on (GPT-2's table).
fn byte_symbols() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=255).filter(printable).map(char::from);
    let others = (0..=255).filter(|byte| !printable(byte)).zip('\u{100}'..).map(|(_, symbol)| symbol);
    own.chain(others).collect()
}

fn id_of(value: &Value) -> Option<u32> {
    value.as_u64().filter(|&id| id < 1 << 24).map(|id| id as u32)
}

/// The lines of merges.txt that are merges.
fn merge_lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).map(str::to_owned).collect()
}

/// Vocabulary and merges (`"a b"`, or since 2024 `["a", "b"]`) out of `tokenizer.json`.
fn from_tokenizer_json(file: &Json) -> Result<(Json, Vec<String>)> {
    let model = &file.value["model"];
    let merge = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([left, right]) => Some(format!("{} {}", left.as_str()?, right.as_str()?)),
        _ => value.as_str().map(str::to_owned),
    };
    let merges = model["merges"].as_array().and_then(|merges| merges.iter().map(merge).collect::<Option<Vec<_>>>());
    let bad = |what: &str| Error::Config(format!("{}: {what}; fetch the tokenizer again", file.path.display()));
    let Some(merges) = merges else {
        return Err(bad("expected a list of pairs at model.merges"));
    };
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") || model["end_of_word_suffix"] != "</w>" {
        return Err(bad("expected CLIP's byte-pair encoding (model.type BPE, model.end_of_word_suffix \"</w>\")"));
    }
    Ok((Json { text: String::new(), value: model["vocab"].clone(), ..file.clone() }, merges))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a b c …` and `ab`, `ab</w>`; start 600, end 601; `q` is missing.
    fn small(change: impl FnOnce(&mut serde_json::Map<String, Value>, &mut Vec<String>)) -> Result<Tokenizer> {
        let mut vocab = serde_json::Map::new();
        for (i, symbol) in byte_symbols().into_iter().enumerate().filter(|(_, symbol)| *symbol != 'q') {
            vocab.insert(symbol.to_string(), (i + 1000).into());
            vocab.insert(format!("{symbol}</w>"), (i + 2000).into());
        }
        for (name, id) in [("ab", 500), ("ab</w>", 501), (START, 600), (END, 601)] {
            vocab.insert(name.into(), id.into());
        }
        let mut merges = vec!["a b".to_owned(), "a b</w>".to_owned()];
        change(&mut vocab, &mut merges);
        let text = serde_json::to_string(&vocab).expect("a map prints");
        Tokenizer::new(
            &Json::parse("tokenizer/vocab.json", text).expect("it is JSON"),
            &merges,
            &BTreeMap::new(),
            &|_| None,
        )
    }

    #[test]
    fn ids_are_those_of_the_file() {
        let tokenizer = small(|_, _| {}).unwrap();
        let byte = |c: char| c as u32 - '!' as u32;
        // q is unknown, and so the end token.
        assert_eq!(tokenizer.encode("AB abc  q").unwrap(), [501, 500, 2000 + byte('c'), 601]);
        assert_eq!(tokenizer.encode("a<|startoftext|>b").unwrap(), [2000 + byte('a'), 600, 2000 + byte('b')]);
        assert_eq!(tokenizer.window(&[1, 2, 3], 6), [600, 1, 2, 3, 601, 601]);
        assert_eq!(tokenizer.window(&[1, 2, 3], 4), [600, 1, 2, 601]);
        assert_eq!(tokenizer.vocabulary(), 2256);
    }

    #[test]
    fn added_words_become_new_ids() {
        let mut tokenizer = small(|_, _| {}).unwrap();
        assert_eq!(tokenizer.add("<Fox>", 2).unwrap(), 2256);
        assert_eq!(tokenizer.add("<fox>2", 1).unwrap(), 2258);
        assert_eq!(tokenizer.encode("ab<FOX>ab <fox>2").unwrap(), [501, 2256, 2257, 501, 2258]);
        assert!(tokenizer.add("<fox>", 1).unwrap_err().to_string().contains("exists already"));
        assert!(tokenizer.add(" ", 1).is_err());
    }

    #[test]
    fn files_that_contradict_themselves_are_refused() {
        type Change = fn(&mut serde_json::Map<String, Value>, &mut Vec<String>);
        let cases: [(Change, &str); 7] = [
            (|vocab, _| drop(vocab.insert("a".into(), (-1).into())), "\"a\" has the id -1"),
            (|vocab, _| drop(vocab.remove(END)), "eos_token"),
            (|vocab, _| drop(vocab.remove("ab")), "merge 1 of merges.txt, \"a b\": the result is not in vocab.json"),
            (|_, merges| merges.push("ab".into()), "merge 3 of merges.txt, \"ab\": expected two tokens"),
            (|_, merges| merges.push("a b c".into()), "expected two tokens"),
            (|_, merges| merges.push("xy a".into()), "neither bytes nor earlier merges"),
            (|_, merges| merges.push("a b".into()), "the same result"),
        ];
        for (change, part) in cases {
            let message = small(change).err().expect("should be refused").to_string();
            assert!(message.contains(part) && message.contains("tokenizer/vocab.json"), "{message}");
        }
        assert!(
            small(|_, _| {}).unwrap().encode(&"a".repeat(MAX_TEXT + 1)).unwrap_err().to_string().contains("too long")
        );
    }
}
