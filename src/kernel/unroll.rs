//! `//!unroll`: writes out a counted loop.
//!
//! Compilers for GPUs unroll short loops by themselves and so keep small arrays in registers. CPU drivers do not: every
//! access to such an array in a loop goes through memory there, one lane at a time, ten times slower. The file keeps a
//! readable loop:
//!
//! ```wgsl
//! //!unroll
//! for (var i = 0u; i < TILE; i++) {
//!     sum[i] += a[i] * b;
//! }
//! ```
//!
//! becomes `{ const i = 0u; … } { const i = 1u; … } …`. The bounds are products and quotients of literals and `const`
//! lines; the closing brace is in the column of `for`, or the loop is one line. Loops inside are written out only if
//! they ask for it themselves.

use std::collections::HashMap;

use crate::error::{Error, Result};

const DIRECTIVE: &str = "//!unroll";
/// More copies than this are a mistake: no register file could hold their results.
const MOST: u32 = 128;

/// Writes out every loop of `text` that asks for it.
///
/// # Errors
/// [`Error::Kernel`] naming the file and the loop if it does not have the form above.
pub(super) fn unroll(file: &str, text: &str) -> Result<Unrolled> {
    let mut unroller = Unroller { file, constants: HashMap::new() };
    for line in text.lines() {
        unroller.learn(line);
    }
    let mut out = Unrolled { text: String::with_capacity(4 * text.len()), origins: Vec::new() };
    unroller.write(&text.lines().enumerate().collect::<Vec<_>>(), &mut out)?;
    Ok(out)
}

/// A text without directives.
pub(super) struct Unrolled {
    pub text: String,
    /// For each of its lines, the line that it comes from, counted from 0.
    pub origins: Vec<usize>,
}

impl Unrolled {
    fn push(&mut self, origin: usize, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
        self.origins.push(origin);
    }
}

/// A line and its number.
type Line<'a> = (usize, &'a str);

struct Unroller<'a> {
    file: &'a str,
    /// Every `const NAME: u32 = …;` whose value can be worked out.
    constants: HashMap<&'a str, u32>,
}

impl<'a> Unroller<'a> {
    fn learn(&mut self, line: &'a str) {
        let Some((name, rest)) = line.strip_prefix("const ").and_then(|rest| rest.split_once(": u32 =")) else {
            return;
        };
        let Some((value, _)) = rest.split_once(';') else { return };
        if let Some(value) = self.value(value) {
            self.constants.insert(name.trim(), value);
        }
    }

    /// A product or quotient of literals and constants, from left to right.
    fn value(&self, expression: &str) -> Option<u32> {
        let mut words = expression.split_whitespace();
        let atom = |word: &str| match word.strip_suffix('u') {
            Some(digits) if digits.chars().all(|c| c.is_ascii_digit()) => digits.parse().ok(),
            _ => self.constants.get(word).copied(),
        };
        let mut value: u32 = atom(words.next()?)?;
        while let Some(operator) = words.next() {
            let operand = atom(words.next()?)?;
            value = match operator {
                "*" => value.checked_mul(operand)?,
                "/" => value.checked_div(operand)?,
                _ => return None,
            };
        }
        Some(value)
    }

    fn write(&self, lines: &[Line<'_>], out: &mut Unrolled) -> Result<()> {
        let mut rest = lines;
        while let [(number, line), after @ ..] = rest {
            rest = after;
            if line.trim() == DIRECTIVE {
                let (header, loop_lines) = rest.split_first().ok_or_else(|| self.error("the end of the file"))?;
                let used = self.write_loop(*header, loop_lines, out)?;
                rest = &loop_lines[used..];
            } else {
                out.push(*number, line);
            }
        }
        Ok(())
    }

    /// Writes out the loop that `header` begins, and returns how many of the lines after it belong to it.
    fn write_loop(&self, (number, header): Line<'_>, after: &[Line<'_>], out: &mut Unrolled) -> Result<usize> {
        let wrong = || self.error(header);
        let indent = &header[..header.len() - header.trim_start().len()];
        let (head, body) =
            header.trim().strip_prefix("for (var ").and_then(|h| h.split_once("++) {")).ok_or_else(wrong)?;
        let mut clauses = head.split("; ");
        let (Some(start), Some(end), Some(step), None) =
            (clauses.next(), clauses.next(), clauses.next(), clauses.next())
        else {
            return Err(wrong());
        };
        let (name, start) = start.split_once(" = ").ok_or_else(wrong)?;
        let end = end.strip_prefix(name).and_then(|end| end.strip_prefix(" < ")).ok_or_else(wrong)?;
        let (start, end) = (self.value(start).ok_or_else(wrong)?, self.value(end).ok_or_else(wrong)?);
        if step != name || end.saturating_sub(start) > MOST {
            return Err(wrong());
        }
        let (body, used) = if let Some(line) = body.strip_suffix('}') {
            (vec![(number, line)], 0)
        } else if body.is_empty() {
            let last = after.iter().position(|(_, line)| *line == format!("{indent}}}")).ok_or_else(wrong)?;
            (after[..last].to_vec(), last + 1)
        } else {
            return Err(wrong());
        };
        for i in start..end {
            out.push(number, &format!("{indent}{{ const {name} = {i}u;"));
            self.write(&body, out)?;
            out.push(number, &format!("{indent}}}"));
        }
        Ok(used)
    }

    fn error(&self, found: &str) -> Error {
        Error::Kernel(format!(
            "{}: `{DIRECTIVE}` must be followed by `for (var i = 0u; i < BOUND; i++) \
            {{` with at most {MOST} iterations, and a `}}` in the column of `for`; found `{}`",
            self.file,
            found.trim()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::unroll;

    #[test]
    fn writes_nested_loops_out() {
        let text = "const N: u32 = 8u;\nconst M: u32 = N / 4u;\n//!unroll\nfor (var i = 0u; i < M; i++) \
            {\n    a[i] = b;\n    //!unroll\n    for (var j = 1u; j < 3u; j++) { c[i] += j; }\n}\nend\n";
        let unrolled = unroll("k", text).expect("well formed");
        let found: String = unrolled.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let inner = "{ const j = 1u; c[i] += j; } { const j = 2u; c[i] += j; }";
        let expected = format!(
            "const N: u32 = 8u; const M: u32 = N / 4u; {{ const i = 0u; a[i] = b; {inner} }} \
            {{ const i = 1u; a[i] = b; {inner} }} end"
        );
        assert_eq!(found, expected);
        assert_eq!(unrolled.origins.len(), unrolled.text.lines().count());
        for (line, origin) in unrolled.text.lines().zip(unrolled.origins) {
            assert_eq!(line.contains("c[i] += j;"), origin == 6 && !line.contains(['{', '}']), "{line}: {origin}");
        }
    }

    #[test]
    fn leaves_other_loops_alone() {
        let text = "for (var i = 0u; i < n; i++) {\n}\n";
        assert_eq!(unroll("k", text).expect("nothing to do").text, text);
    }

    #[test]
    fn refuses_what_it_cannot_write_out() {
        for text in [
            "//!unroll",
            "//!unroll\nlet x = 1;",
            "//!unroll\nfor (var i = 0u; i < n; i++) {\n}",
            "//!unroll\nfor (var i = 0u; i < 4u; i += 2u) {\n}",
            "//!unroll\nfor (var i = 0u; i < 4u; i++) {\n    x();\n",
            "//!unroll\nfor (var i = 0u; j < 4u; i++) {\n}",
            "//!unroll\nfor (var i = 0u; i < 1000u; i++) {\n}",
            "//!unroll\nfor (var i = 0u; i < 4u / 0u; i++) {\n}",
        ] {
            assert!(unroll("k", text).is_err(), "accepted:\n{text}");
        }
    }
}
