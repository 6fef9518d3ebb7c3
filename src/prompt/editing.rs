//! Prompts that change while sampling, in the syntax of AUTOMATIC1111's web UI.
//!
//! | text | meaning |
//! | --- | --- |
//! | `[from:to:when]` | `from`, then `to` |
//! | `[to:when]` | nothing, then `to` |
//! | `[from::when]` | `from`, then nothing |
//! | `[a\|b\|c]` | `a` in the first step, `b` in the second, `c` in the third, `a` in the fourth; each may be nothing |
//! | `when` | without a point the last step before the change (`5`), with one a share of the steps (`0.25`, `.5`) |
//!
//! They nest, and stand within weights and hold them: `([red:blue:0.5] fox:1.2)`, `[(fox:1.2)|wolf]`. Brackets that are
//! none of these, or whose round brackets do not match, are left to [`crate::prompt::parse`]. A share of 1 or more is
//! never reached (the web UI means its second pass by it), and a change at 0 is there from the beginning.
//!
//! Steps are counted from 1, as the web UI documents it. Its sampler counts from 0, and so changes one step later. It
//! counts calls of the model, of which a scheduler of second order makes two in a step; here both see the same text.
//! Shares are of the steps that are done: of 20 at a strength of ½ those are 10, where the web UI counts in 20.

/// How deeply changes may nest.
const MAX_DEPTH: usize = 64;

/// A prompt, and how it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct EditedPrompt {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    /// Before and after.
    Change(Vec<Part>, Vec<Part>, When),
    /// One in each step, in turn.
    Turns(Vec<Vec<Part>>),
}

/// The last step before a change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Step(f64),
    Share(f64),
}

impl EditedPrompt {
    /// A prompt in which brackets are text.
    pub fn plain(prompt: &str) -> Self {
        Self { parts: vec![Part::Text(prompt.to_owned())] }
    }

    /// Reads a prompt.
    ///
    /// # Errors
    /// What is wrong, if changes nest too deeply.
    pub fn parse(prompt: &str) -> Result<Self, String> {
        let brackets = Brackets::of(prompt);
        Ok(Self { parts: brackets.parts(0, prompt.len(), 0)? })
    }

    /// Whether it is not the same in all steps.
    pub fn changes(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    /// The prompt in step `step` (from 1) of `steps`, with weights as they were written.
    pub fn at(&self, step: usize, steps: usize) -> String {
        let mut text = String::new();
        write(&self.parts, step, steps, &mut text);
        text
    }
}

fn write(parts: &[Part], step: usize, steps: usize, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(plain) => text.push_str(plain),
            Part::Change(before, after, when) => {
                let last = match when {
                    When::Step(last) => *last,
                    When::Share(share) => (share * steps as f64).trunc(),
                };
                write(if step as f64 <= last { before } else { after }, step, steps, text);
            }
            Part::Turns(turns) => write(&turns[(step - 1) % turns.len()], step, steps, text),
        }
    }
}

/// Which brackets of a prompt belong together.
struct Brackets<'a> {
    prompt: &'a str,
    /// For each bracket that is closed, in order: where it opens and closes, and the `:` and `|` that lie in it and in
    /// no bracket within.
    pairs: Vec<Pair>,
}

struct Pair {
    open: usize,
    close: usize,
    separators: Vec<usize>,
}

impl<'a> Brackets<'a> {
    fn of(prompt: &'a str) -> Self {
        let mut pairs = Vec::new();
        let mut open: Vec<Pair> = Vec::new();
        let mut escaped = false;
        for (at, c) in prompt.char_indices() {
            match c {
                _ if escaped => {}
                '[' | '(' => open.push(Pair { open: at, close: at, separators: vec![] }),
                ']' | ')' => {
                    let opens = if c == ']' { b'[' } else { b'(' };
                    match open.pop() {
                        Some(pair) if prompt.as_bytes()[pair.open] == opens => pairs.push(Pair { close: at, ..pair }),
                        // One of the other kind is in between: none that is open belongs to anything.
                        _ => open.clear(),
                    }
                }
                ':' | '|' => open.iter_mut().next_back().into_iter().for_each(|pair| pair.separators.push(at)),
                _ => {}
            }
            escaped = c == '\\' && !escaped;
        }
        pairs.sort_by_key(|pair| pair.open);
        Self { prompt, pairs }
    }

    /// What lies between two places, at `depth` changes around it.
    fn parts(&self, from: usize, to: usize, depth: usize) -> Result<Vec<Part>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("changes while sampling nest more than {MAX_DEPTH} deep"));
        }
        let mut parts = Vec::new();
        let mut done = from;
        let first = self.pairs.partition_point(|pair| pair.open < from);
        for pair in self.pairs[first..].iter().take_while(|pair| pair.open < to) {
            // Those within a change are its own.
            if pair.open < done || self.prompt.as_bytes()[pair.open] != b'[' {
                continue;
            }
            if let Some(part) = self.change(pair, depth)? {
                parts.push(Part::Text(self.prompt[done..pair.open].to_owned()));
                parts.push(part);
                done = pair.close + 1;
            }
        }
        parts.push(Part::Text(self.prompt[done..to].to_owned()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok(parts)
    }

    /// What a pair of square brackets means, if it changes the prompt.
    fn change(&self, pair: &Pair, depth: usize) -> Result<Option<Part>, String> {
        let between = |from: usize, to: usize| self.parts(from, to, depth + 1);
        let is = |mark: u8| pair.separators.iter().all(|at| self.prompt.as_bytes()[*at] == mark);
        match pair.separators.as_slice() {
            [_, ..] if is(b'|') => {
                let begins = std::iter::once(pair.open).chain(pair.separators.iter().copied());
                let ends = pair.separators.iter().copied().chain([pair.close]);
                let turns = begins.zip(ends).map(|(begin, end)| between(begin + 1, end));
                Ok(Some(Part::Turns(turns.collect::<Result<_, _>>()?)))
            }
            [first, rest @ ..] if rest.len() < 2 && is(b':') => {
                let last = *rest.first().unwrap_or(first);
                let Some(when) = when(self.prompt[last + 1..pair.close].trim()) else { return Ok(None) };
                let (before, after) = match rest {
                    [] => (vec![], between(pair.open + 1, *first)?),
                    _ => (between(pair.open + 1, *first)?, between(first + 1, last)?),
                };
                Ok(Some(Part::Change(before, after, when)))
            }
            _ => Ok(None),
        }
    }
}

/// `5`, `0.25`, `.5`.
fn when(text: &str) -> Option<When> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some(if text.contains('.') { When::Share(number) } else { When::Step(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of each step, runs of equal ones as the last step and the text.
    #[track_caller]
    fn table(prompt: &str, steps: usize, expected: &[(usize, &str)]) {
        let parsed = EditedPrompt::parse(prompt).unwrap();
        let mut found: Vec<(usize, String)> = Vec::new();
        for step in 1..=steps {
            let text = parsed.at(step, steps);
            match found.last_mut() {
                Some((last, same)) if *same == text => *last = step,
                _ => found.push((step, text)),
            }
        }
        let found: Vec<_> = found.iter().map(|(last, text)| (*last, text.as_str())).collect();
        assert_eq!(found, expected, "{prompt:?} in {steps} steps");
    }

    #[test]
    fn changes() {
        table("a fox", 8, &[(8, "a fox")]);
        table("a [red:blue:0.25] fox", 8, &[(2, "a red fox"), (8, "a blue fox")]);
        table("a [red:blue:3] fox", 8, &[(3, "a red fox"), (8, "a blue fox")]);
        table("a fox[ in snow: .5 ]", 8, &[(4, "a fox"), (8, "a fox in snow")]);
        table("a fox[ in snow::5]", 8, &[(5, "a fox in snow"), (8, "a fox")]);
        table("[:b:2][::3]", 8, &[(2, ""), (8, "b")]);
        table("[day:dusk:0.3] [sea:lake:0.6]", 10, &[(3, "day sea"), (6, "dusk sea"), (10, "dusk lake")]);
        table("[a:[b:c:6]:2] d", 8, &[(2, "a d"), (6, "b d"), (8, "c d")]);
        table("[[a:b:2]:c:6]", 8, &[(2, "a"), (6, "b"), (8, "c")]);
        // A share is cut to whole steps; a change at 0 is there from the beginning, one beyond the end never comes.
        table("[a:b:0.3]", 9, &[(2, "a"), (9, "b")]);
        table("[a:b:0]", 4, &[(4, "b")]);
        table("[a:b:0.0] [c:d:-1]", 4, &[(4, "b d")]);
        table("[a:b:4] [c:d:99] [e:f:1.0] [g:h:1.5]", 4, &[(4, "a c e g")]);
        table("[a:b:1]", 4, &[(1, "a"), (4, "b")]);
    }

    #[test]
    fn turns() {
        table(
            "a [cow|horse] runs",
            4,
            &[(1, "a cow runs"), (2, "a horse runs"), (3, "a cow runs"), (4, "a horse runs")],
        );
        table("[a|b|c]", 5, &[(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "b")]);
        table("[wo|]man", 3, &[(1, "woman"), (2, "man"), (3, "woman")]);
        table("[a|[b|c]]", 4, &[(1, "a"), (2, "c"), (3, "a"), (4, "c")]);
        table("[[a|b]:c:2]", 4, &[(1, "a"), (2, "b"), (4, "c")]);
        table("[a|b:2]", 4, &[(4, "[a|b:2]")]);
    }

    #[test]
    fn weights_stay_as_they_are_written() {
        table("([red:blue:1] fox:1.2)", 2, &[(1, "(red fox:1.2)"), (2, "(blue fox:1.2)")]);
        table("[(a:1.2)|[b]]", 2, &[(1, "(a:1.2)"), (2, "[b]")]);
        table("(fox:[0.5:1.5:1])", 2, &[(1, "(fox:0.5)"), (2, "(fox:1.5)")]);
        table("[a BREAK b:c:1]", 2, &[(1, "a BREAK b"), (2, "c")]);
        table("[less] (more) a|b a:b", 2, &[(2, "[less] (more) a|b a:b")]);
        table("[[x]:1]", 2, &[(1, ""), (2, "[x]")]);
    }

    #[test]
    fn what_is_no_change_is_text() {
        for text in
            ["[a:b]", "[a:b:c:3]", "[a:b:c]", "[a:b:inf]", "[a (b:c:3]", "a:b:3]", "[a:b:3", "[a)b:3]", "[]", "[a:]"]
        {
            table(text, 5, &[(5, text)]);
        }
        table("((a][:b:c [d:3]", 5, &[(3, "((a][:b:c "), (5, "((a][:b:c d")]);
        table(r"\[a:b:2\] [c\:d:e:2] [f\|g|h]", 2, &[(1, r"\[a:b:2\] c\:d f\|g"), (2, r"\[a:b:2\] c\:d h")]);
        table(r"[a\\:b:1]", 2, &[(1, r"a\\"), (2, "b")]);
        assert!(EditedPrompt::parse("[é|ü]").unwrap().changes() && !EditedPrompt::parse("[é]").unwrap().changes());
        assert_eq!(EditedPrompt::plain("[a:b:3]").at(1, 5), "[a:b:3]");
    }

    #[test]
    fn deep_prompts_end() {
        let deep = |n: usize| format!("{}a{}", "[".repeat(n), ":1]".repeat(n));
        assert!(EditedPrompt::parse(&deep(MAX_DEPTH)).is_ok());
        assert!(EditedPrompt::parse(&deep(MAX_DEPTH + 1)).unwrap_err().contains("64"));
        for bracket in ["[", "]", "(", "[]", "([", "[a:", "[|"] {
            EditedPrompt::parse(&bracket.repeat(30_000)).unwrap();
        }
        EditedPrompt::parse(&format!("{}{}", "[".repeat(30_000), "]".repeat(30_000))).unwrap();
    }
}
