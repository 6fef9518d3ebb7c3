//! CLIP's vocabulary as the files of transformers' `CLIPTokenizer`, for models that came without a tokenizer.
//!
//! The crate that encodes texts has the vocabulary but does not show it: it shows the text of each token. From these
//! the files are put together again. A token of half a character is completed with other bytes to be seen. The two
//! parts that a token was merged from are what encoding its bytes by all earlier merges leaves.

use std::collections::HashMap;

use instant_clip_tokenizer::{Token, Tokenizer};
use serde_json::json;

use crate::tokenizer::{CLIP_VOCABULARY, Padding};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Marks the end of a word.
const WORD_END: &str = "</w>";

/// Names and contents of a tokenizer's files.
pub fn files(padding: Padding) -> Vec<(&'static str, String)> {
    let tokens = tokens();
    let mut vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    vocab.insert(START.into(), json!(CLIP_VOCABULARY - 2));
    vocab.insert(END.into(), json!(CLIP_VOCABULARY - 1));
    let pad = if padding == Padding::Zero { "!" } else { END };
    let config = json!({
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": true, "add_prefix_space": false,
        "errors": "replace", "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad,
    });
    let special = json!({ "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad });
    vec![
        ("vocab.json", serde_json::Value::Object(vocab).to_string()),
        ("merges.txt", merges(&tokens)),
        ("tokenizer_config.json", format!("{config:#}")),
        ("special_tokens_map.json", format!("{special:#}")),
    ]
}

/// The character that stands for a byte in the files: itself where it can be seen, else one from U+0100 on.
fn characters() -> [char; 256] {
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        let code = if seen(byte) { u32::from(byte) } else { next.next().expect("there is no end") };
        char::from_u32(code).expect("all of these are characters")
    })
}

/// All tokens but start and end, by id, as they are written in the files.
fn tokens() -> Vec<String> {
    let clip = Tokenizer::new();
    let characters = characters();
    // Single bytes in the order of the characters that stand for them, then the same as ends of words.
    let mut order: Vec<u8> = (0..=255).collect();
    order.sort_by_key(|byte| characters[usize::from(*byte)]);
    let place = |byte: u8| order.iter().position(|other| *other == byte).expect("all bytes are there") as u16;
    let shown = |ids: &[u16]| {
        let known = |id: u16| Token::from_u16(id, &clip).expect("below the size of the vocabulary");
        clip.decode(ids.iter().map(|id| known(*id)))
    };
    let mut tokens: Vec<String> = order.iter().map(|byte| characters[usize::from(*byte)].to_string()).collect();
    tokens.extend(tokens.clone().iter().map(|token| format!("{token}{WORD_END}")));
    for id in tokens.len() as u16..(CLIP_VOCABULARY - 2) as u16 {
        let bytes = bytes(&|before, after| {
            let ids: Vec<u16> =
                before.iter().map(|b| place(*b)).chain([id]).chain(after.iter().map(|b| place(*b))).collect();
            shown(&ids)
        });
        // The end of a word is shown as a space; no merge holds another.
        let text: String = match bytes.strip_suffix(b" ") {
            Some(bytes) => bytes.iter().map(|b| characters[usize::from(*b)]).collect::<String>() + WORD_END,
            None => bytes.iter().map(|b| characters[usize::from(*b)]).collect(),
        };
        tokens.push(text);
    }
    tokens
}

/// The bytes of a token that is `shown` between others: with the first bytes round it that make it whole characters.
fn bytes(shown: &dyn Fn(&[u8], &[u8]) -> String) -> Vec<u8> {
    // Beginnings of characters of two to four bytes, and what may end them.
    const BEFORE: [&[u8]; 9] =
        [&[], &[0xc3], &[0xe1], &[0xf1], &[0xe1, 0x80], &[0xf1, 0x80], &[0xf1, 0x80, 0x80], &[0xe0], &[0xf0]];
    const AFTER: [&[u8]; 8] =
        [&[], &[0x80], &[0x80, 0x80], &[0x80, 0x80, 0x80], &[0xa0, 0x80], &[0x90, 0x80, 0x80], &[0xa0], &[0x90]];
    for before in BEFORE {
        for after in AFTER {
            let text = shown(before, after);
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                let bytes = text.as_bytes();
                return bytes[before.len()..bytes.len() - after.len()].to_vec();
            }
        }
    }
    // A text of the web that a wrong encoding had spoilt before: the token holds this very character.
    shown(&[], &[]).into_bytes()
}

/// `merges.txt`: the two parts of each token, in the order of the ids.
fn merges(tokens: &[String]) -> String {
    let ranks: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut text = "#version: 0.2\n".to_owned();
    for (id, token) in tokens.iter().enumerate().skip(512) {
        let (stem, end) = token.strip_suffix(WORD_END).map_or((token.as_str(), ""), |stem| (stem, WORD_END));
        let mut parts: Vec<String> = stem.chars().map(String::from).collect();
        parts.last_mut().expect("a token has characters").push_str(end);
        while parts.len() > 2 {
            let rank = |pair: &[String]| ranks.get(pair.concat().as_str()).copied().filter(|rank| *rank < id);
            let merged = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min();
            let (_, at) = merged.expect("two tokens were merged to this one, and each of them likewise");
            let second = parts.remove(at + 1);
            parts[at].push_str(&second);
        }
        text += &format!("{}\n", parts.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_vocabulary_is_clips() {
        let files: HashMap<_, _> = files(Padding::End).into_iter().collect();
        let vocab: HashMap<String, u32> = serde_json::from_str(&files["vocab.json"]).unwrap();
        assert_eq!(vocab.len(), CLIP_VOCABULARY as usize);
        for (token, id) in [("!", 0), ("a</w>", 320), ("photo</w>", 1125), ("cat</w>", 2368), (END, 49407)] {
            assert_eq!(vocab[token], id, "{token}");
        }
        let merges: Vec<&str> = files["merges.txt"].lines().collect();
        assert_eq!(merges.len(), 48894 + 1);
        assert_eq!(merges[1..4], ["i n", "t h", "a n"]);
        // Of the lines of OpenAI's bpe_simple_vocab_16e6.txt that are used.
        let hash: String = Sha256::digest(merges[1..].join("\n")).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a");
    }
}
