//! Prompts with weights, in the syntax of AUTOMATIC1111's web UI, and their division into windows of the text encoder.
//!
//! | text | meaning |
//! | --- | --- |
//! | `(word)` | weight × 1.1 |
//! | `[word]` | weight ÷ 1.1 |
//! | `(word:1.3)` | weight × 1.3 |
//! | `\(` `\)` `\[` `\]` `\\` | the character itself; before any other a backslash is dropped |
//! | `BREAK` | the rest begins in a new window |
//!
//! Brackets nest and multiply. A round or square bracket that is never closed counts to the end; one that was never
//! opened is text. Before that, brackets that change the prompt while sampling are read ([`EditedPrompt`]):
//! `[from:to:0.5]`, `[a|b]`.

mod editing;

pub use editing::EditedPrompt;

use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, check_length};

/// What a plain bracket multiplies by.
const BRACKET: f64 = 1.1;
/// A window that ends within this many tokens after a comma is cut at the comma.
const COMMA_REACH: usize = 20;

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text with its weight, 1 without brackets.
    Text(String, f64),
    /// `BREAK`.
    Break,
}

/// One window of the text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Token ids: start, text, end, padding.
    pub ids: Vec<u32>,
    /// A weight for each id, 1 for start, end and padding.
    pub weights: Vec<f32>,
}

/// Splits a prompt, as it is in one step, into pieces of one weight each.
///
/// # Errors
/// [`Error::Usage`] for a weight that is not a finite number, and for a prompt that is too long.
pub fn parse(prompt: &str) -> Result<Vec<Piece>> {
    check_length(prompt)?;
    let mut parser = Parser { pieces: vec![], round: vec![], square: vec![] };
    let mut rest = prompt;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '\\' => {
                let next = rest[1..].chars().next().filter(|next| "()[]\\".contains(*next));
                // One that escapes nothing is dropped, as in the web UI.
                if let Some(next) = next {
                    parser.text(next.encode_utf8(&mut [0; 4]));
                }
                1 + next.map_or(0, char::len_utf8)
            }
            '(' => {
                parser.round.push(parser.pieces.len());
                1
            }
            '[' => {
                parser.square.push(parser.pieces.len());
                1
            }
            ')' if !parser.round.is_empty() => {
                let from = parser.round.pop().expect("it is not empty");
                parser.multiply(from, BRACKET);
                1
            }
            ']' if !parser.square.is_empty() => {
                let from = parser.square.pop().expect("it is not empty");
                parser.multiply(from, 1.0 / BRACKET);
                1
            }
            ':' if !parser.round.is_empty() && closing_weight(rest).is_some() => {
                let (number, taken) = closing_weight(rest).expect("just checked");
                let weight = number.parse::<f64>().ok().filter(|weight| weight.is_finite());
                let Some(weight) = weight else {
                    return Err(Error::Usage(format!(
                        "prompt: expected a weight like 1.3 in `:{number})`, found {number:?}"
                    )));
                };
                let from = parser.round.pop().expect("it is not empty");
                parser.multiply(from, weight);
                taken
            }
            _ => {
                // Up to the next character that can mean something; this one means nothing here.
                let end =
                    rest.char_indices().skip(1).find(|(_, c)| "\\()[]:".contains(*c)).map_or(rest.len(), |(at, _)| at);
                parser.words(&rest[..end]);
                end
            }
        };
        rest = &rest[taken..];
    }
    parser.finish()
}

struct Parser {
    pieces: Vec<Piece>,
    /// For each open bracket, how many pieces came before it.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser {
    fn text(&mut self, text: &str) {
        self.pieces.push(Piece::Text(text.to_owned(), 1.0));
    }

    /// Text that may contain `BREAK` as a word of its own; the white space around it goes too.
    fn words(&mut self, mut text: &str) {
        while let Some(at) = whole_word(text, "BREAK") {
            self.text(text[..at].trim_end());
            self.pieces.push(Piece::Break);
            text = text[at + "BREAK".len()..].trim_start();
        }
        self.text(text);
    }

    /// Multiplies the weights of the pieces since a bracket opened.
    fn multiply(&mut self, from: usize, factor: f64) {
        for piece in &mut self.pieces[from..] {
            if let Piece::Text(_, weight) = piece {
                *weight *= factor;
            }
        }
    }

    fn finish(mut self) -> Result<Vec<Piece>> {
        for from in std::mem::take(&mut self.round) {
            self.multiply(from, BRACKET);
        }
        for from in std::mem::take(&mut self.square) {
            self.multiply(from, 1.0 / BRACKET);
        }
        let endless = |piece: &Piece| matches!(piece, Piece::Text(_, weight) if !(*weight as f32).is_finite());
        if self.pieces.iter().any(endless) {
            return Err(Error::Usage("prompt: the weights of nested brackets multiply to infinity; use fewer".into()));
        }
        // Neighbours with the same weight become one piece, which mends words that brackets and escapes cut.
        let mut merged: Vec<Piece> = Vec::new();
        for piece in self.pieces {
            match (merged.last_mut(), piece) {
                (Some(Piece::Text(text, weight)), Piece::Text(more, same)) if *weight == same => text.push_str(&more),
                (_, Piece::Text(text, _)) if text.is_empty() => {}
                (_, piece) => merged.push(piece),
            }
        }
        if merged.is_empty() {
            merged.push(Piece::Text(String::new(), 1.0));
        }
        Ok(merged)
    }
}

/// `:1.3)` at the beginning of `text`: the number, and the length of all of it.
fn closing_weight(text: &str) -> Option<(&str, usize)> {
    let after = text.strip_prefix(':')?;
    let end = after.find(')')?;
    let number = after[..end].trim();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let numeric = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    numeric.then_some((number, 1 + end + 1))
}

/// Whether a prompt is several, joined by `AND` (Liu et al. 2022, composable diffusion).
pub fn is_composed(prompt: &str) -> bool {
    whole_word(prompt, "AND").is_some()
}

/// Where `word` stands in `text` with no letter, digit or underscore beside it.
fn whole_word(text: &str, word: &str) -> Option<usize> {
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|&at| !joins(text[..at].chars().next_back()) && !joins(text[at + word.len()..].chars().next()))
}

/// Divides the tokens of all pieces into windows of `length` places (start and end included).
///
/// A window ends early at `BREAK`, and at a comma near its end.
///
/// # Errors
/// [`Error::Config`] if a window has no room for text; otherwise as [`Tokenizer::encode`].
pub fn windows(pieces: &[Piece], tokenizer: &Tokenizer, length: usize) -> Result<Vec<Window>> {
    let Some(room) = length.checked_sub(2).filter(|&room| room > 0) else {
        return Err(Error::Config(format!(
            "a text encoder with {length} positions has no room for a prompt between start and end"
        )));
    };
    let comma = tokenizer.encode(",")?;
    let mut parts: Vec<Vec<(u32, f32)>> = Vec::new();
    let mut part: Vec<(u32, f32)> = Vec::new();
    let mut after_comma = 0; // where the text after the last comma of this part begins; 0 without
    for piece in pieces {
        let Piece::Text(text, weight) = piece else {
            parts.push(std::mem::take(&mut part));
            after_comma = 0;
            continue;
        };
        for id in tokenizer.encode(text)? {
            let is_comma = comma == [id];
            if part.len() == room {
                let near = after_comma > 0 && room - after_comma < COMMA_REACH && !is_comma;
                let carried = if near { part.split_off(after_comma) } else { vec![] };
                parts.push(std::mem::replace(&mut part, carried));
                after_comma = 0;
            }
            part.push((id, *weight as f32));
            if is_comma {
                after_comma = part.len();
            }
        }
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(part);
    }
    let window = |part: Vec<(u32, f32)>| {
        let (ids, weights): (Vec<u32>, Vec<f32>) = part.into_iter().unzip();
        let mut all = vec![1.0; length];
        all[1..=weights.len()].copy_from_slice(&weights);
        Window { ids: tokenizer.window(&ids, length), weights: all }
    };
    Ok(parts.into_iter().map(window).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::tokenizer::Padding;

    #[track_caller]
    fn table(prompt: &str, expected: &[(&str, f64)]) {
        let found = parse(prompt).unwrap();
        let found = found.iter().map(|piece| match piece {
            Piece::Text(text, weight) => (text.as_str(), *weight),
            Piece::Break => ("BREAK", -1.0),
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), expected.len(), "{prompt:?}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-12,
                "{prompt:?}: {found:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn weights_are_finite() {
        let message = |prompt: &str| parse(prompt).unwrap_err().to_string();
        assert!(message(&("(".repeat(2000) + "a")).contains("infinity"));
        assert!(message(&format!("{}a{}", "(".repeat(9), ":99999)".repeat(9))).contains("infinity"));
        assert!(message(&"a".repeat(100_000)).contains("too long"));
    }

    #[test]
    fn weights() {
        table("normal text", &[("normal text", 1.0)]);
        table("", &[("", 1.0)]);
        table("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        table("((a)) [b] [[c]]", &[("a", 1.21), (" ", 1.0), ("b", 1.0 / 1.1), (" ", 1.0), ("c", 1.0 / 1.21)]);
        table("(a:1.3)(b: .5 )(c:-2)(d:+1)", &[("a", 1.3), ("b", 0.5), ("c", -2.0), ("d", 1.0)]);
        table("(a (b:1.5) c:2)", &[("a ", 2.0), ("b", 3.0), (" c", 2.0)]);
        table("(one)(two)", &[("onetwo", 1.1)]);
        table(
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        );
    }

    #[test]
    fn brackets_that_do_not_match() {
        table("(open", &[("open", 1.1)]);
        table("a [open (twice", &[("a ", 1.0), ("open ", 1.0 / 1.1), ("twice", 1.0)]);
        table("closed) twice]", &[("closed) twice]", 1.0)]);
        table("ratio 16:9, 1:1.5) (a:b)", &[("ratio 16:9, 1:1.5) ", 1.0), ("a:b", 1.1)]);
        table("()", &[("", 1.0)]);
        table("(a:)", &[("a:", 1.1)]);
    }

    #[test]
    fn escapes() {
        table(r"\(smile\) (wink \(;\):1.2)", &[("(smile) ", 1.0), ("wink (;)", 1.2)]);
        table(r"a\\b \c \[d\]", &[(r"a\b c [d]", 1.0)]);
        table(r"a\, b re\:zero", &[("a, b re:zero", 1.0)]);
        table(r"(\:D:1.2)", &[(":D", 1.2)]);
        table(r"\é(é)", &[("é", 1.0), ("é", 1.1)]);
    }

    #[test]
    fn breaks() {
        table("a BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]);
        table("BREAK", &[("BREAK", -1.0)]);
        table("(a BREAK b:2) c", &[("a", 2.0), ("BREAK", -1.0), ("b", 2.0), (" c", 1.0)]);
        table("BREAKFAST aBREAK break BREAK_", &[("BREAKFAST aBREAK break BREAK_", 1.0)]);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (prompt, part) in [("(a:1.2.3)", "1.2.3"), ("(a:.)", "\".\"")] {
            let message = parse(prompt).unwrap_err().to_string();
            assert!(message.contains(part), "{prompt:?}: {message}");
        }
        assert!(is_composed("a cat AND a dog") && is_composed("(a)AND[b]"));
        assert!(!is_composed("SAND ANDY and AND_"));
        table(r"\[cow|horse\] SAND ANDY", &[("[cow|horse] SAND ANDY", 1.0)]);
        table("[a (b|c) d]", &[("a ", 1.0 / 1.1), ("b|c", 1.0), (" d", 1.0 / 1.1)]);
    }

    fn clip(prompt: &str, length: usize) -> Vec<Window> {
        static CLIP: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::clip(Padding::End));
        windows(&parse(prompt).unwrap(), &CLIP, length).unwrap()
    }

    #[test]
    fn a_window_has_start_end_and_weights() {
        let [window] = &clip("a (cat:1.5)", 6)[..] else { panic!("one window") };
        assert_eq!(window.ids, [49406, 320, 2368, 49407, 49407, 49407]);
        assert_eq!(window.weights, [1.0, 1.0, 1.5, 1.0, 1.0, 1.0]);
        assert_eq!(clip("", 4)[0].ids, [49406, 49407, 49407, 49407]);
        assert!(windows(&[], &Tokenizer::clip(Padding::End), 2).unwrap_err().to_string().contains("2 positions"));
    }

    #[test]
    fn long_prompts_go_on_in_the_next_window() {
        let ids = |windows: &[Window]| -> Vec<usize> {
            windows.iter().map(|w| w.ids[1..].iter().position(|&id| id == 49407).unwrap()).collect()
        };
        let words = |count: usize| vec!["cat"; count].join(" ");
        assert_eq!(ids(&clip(&words(75), 77)), [75]);
        assert_eq!(ids(&clip(&words(76), 77)), [75, 1]);
        assert_eq!(ids(&clip(&words(151), 77)), [75, 75, 1]);
        assert_eq!(ids(&clip(&format!("{} BREAK {}", words(3), words(4)), 77)), [3, 4]);
        // A comma at place 60 is near the end, one at 50 is not; the 76th token being a comma cuts nothing.
        assert_eq!(ids(&clip(&format!("{}, {}", words(59), words(20)), 77)), [60, 20]);
        assert_eq!(ids(&clip(&format!("{}, {}", words(55), words(25)), 77)), [56, 25]);
        assert_eq!(ids(&clip(&format!("{}, {}", words(54), words(25)), 77)), [75, 5]);
        assert_eq!(ids(&clip(&format!("{}, {}", words(75), words(2)), 77)), [75, 3]);
        let weights = &clip(&format!("{}, ({}:2)", words(59), words(20)), 77)[1].weights;
        assert_eq!(weights[..22], [&[1.0][..], &[2.0; 20], &[1.0]].concat());
    }
}
