//! What files may hold without any model asking for it: tensors and fields that a user gave leave to ignore.
//!
//! An engine that does not know what a field changes, or where a tensor belongs, refuses the file: the picture might be
//! wrong. The user may know better.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::quoted;
use crate::refusal::{Advised, Remedy};

/// Names, perhaps with `*` for any characters, of tensors and fields that may be left unread, and those that were.
#[derive(Debug, Default)]
pub struct Ignore {
    patterns: Vec<String>,
    taken: Mutex<BTreeSet<(String, String)>>,
}

impl Ignore {
    /// Leave to ignore what fits one of `patterns`.
    pub fn new(patterns: &[String]) -> Self {
        Self { patterns: patterns.to_vec(), taken: Mutex::default() }
    }

    /// Whether `name` in `file`, which nobody asks for, may be ignored.
    pub fn takes(&self, file: &str, name: &str) -> bool {
        let fits = self.patterns.iter().any(|pattern| fits(pattern, name));
        if fits {
            self.lock().insert((file.to_owned(), name.to_owned()));
        }
        fits
    }

    /// What was ignored so far: file and name.
    pub fn taken(&self) -> Vec<(String, String)> {
        self.lock().iter().cloned().collect()
    }

    /// A sentence for each file in which something was ignored, and for each pattern that fitted nothing.
    pub fn account(&self) -> Vec<String> {
        let taken = self.lock();
        let files: BTreeSet<&String> = taken.iter().map(|(file, _)| file).collect();
        let mut lines: Vec<String> = files
            .into_iter()
            .map(|file| {
                let names: Vec<&str> =
                    taken.iter().filter(|(other, _)| other == file).map(|(_, name)| name.as_str()).collect();
                let shown: Vec<_> = names.iter().take(5).map(|name| quoted(name)).collect();
                let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
                format!("{file}: ignored as asked: {}{more}", shown.join(", "))
            })
            .collect();
        let idle = self.patterns.iter().filter(|pattern| !taken.iter().any(|(_, name)| fits(pattern, name)));
        lines.extend(idle.map(|pattern| format!("nothing that is unused fits {}", quoted(pattern))));
        lines
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<(String, String)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().expect("a split has a part");
    // The first place of each part leaves the most for the others.
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(end)
}

/// Why a file with these unused names is refused, and how to use it without them.
pub fn refusal(why: String, unused: &[&str]) -> Advised {
    let pattern = pattern(unused);
    // A shell has a meaning of its own for a star.
    let pattern = if pattern.contains('*') { format!("'{pattern}'") } else { pattern };
    Advised::from(why).instead(Remedy::Set("ignore_unused", pattern.into()))
}

/// A short pattern that fits all of `names`, of which there is one: what they begin with, else what they end in.
fn pattern(names: &[&str]) -> String {
    let [first, rest @ ..] = names else { return "*".to_owned() };
    if rest.is_empty() && !first.contains(['*', '\'', '"', '\\', '$', '`']) && !first.contains(char::is_whitespace) {
        return (*first).to_owned();
    }
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let parts = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
    let shared = |reverse: bool| {
        let ordered = |name: &str| {
            let mut parts = parts(name);
            if reverse {
                parts.reverse();
            }
            parts
        };
        let mut shared = ordered(first);
        for name in rest {
            let same = shared.iter().zip(ordered(name)).take_while(|(a, b)| **a == *b).count();
            shared.truncate(same);
        }
        if reverse {
            shared.reverse();
        }
        shared.join(".")
    };
    let (begin, end) = (shared(false), shared(true));
    match (begin.as_str(), end.as_str()) {
        (begin, _) if !begin.is_empty() && plain(begin) => format!("{begin}*"),
        (_, end) if !end.is_empty() && plain(end) => format!("*{end}"),
        _ => "*".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in
            [("a", "a"), ("*", ""), ("*", "a.b"), ("a.*", "a.b.c"), ("*.c", "a.b.c"), ("a*b*c", "a.b.b.c"), ("**", "x")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a", "ab"), ("", "a"), ("a*a", "a"), ("a*b*c", "a.c.b"), ("*.c", "a.c.d"), ("b*", "ab")]
        {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn the_pattern_that_is_advised_fits_every_name() {
        for (names, expected) in [
            (&["use_gated_attention"][..], "use_gated_attention"),
            (&["control.a.weight", "control.b.bias"], "control*"),
            (&["a.alpha", "b.alpha"], "*alpha"),
            (&["a.x", "b.y"], "*"),
            (&["a name"], "*"),
            (&["it's", "it's.b"], "*"),
        ] {
            let advised = pattern(names);
            assert_eq!(advised, expected);
            assert!(names.iter().all(|name| fits(&advised, name)), "{advised} {names:?}");
        }
    }

    #[test]
    fn what_was_ignored_and_what_fitted_nothing_is_told() {
        let ignore = Ignore::new(&["control.*".to_owned(), "typo".to_owned()]);
        assert!(ignore.takes("a.safetensors", "control.x") && !ignore.takes("a.safetensors", "unet.x"));
        assert_eq!(
            ignore.account(),
            ["a.safetensors: ignored as asked: `control.x`", "nothing that is unused fits `typo`"]
        );
    }
}
