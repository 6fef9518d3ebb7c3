//! Program text as HTML: comments, words of the language and numbers are marked, for WGSL and Rust alike.

use crate::cli::bench::escaped;

/// Words of WGSL and Rust that structure a program.
const WORDS: &[&str] = &[
    "as", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl", "in", "let", "loop",
    "match", "mod", "mut", "override", "pub", "ref", "return", "self", "struct", "switch", "true", "use", "var",
    "where", "while",
];

/// The text, to be put into `<pre>`.
pub fn marked(text: &str) -> String {
    let mut html = String::with_capacity(text.len() * 2);
    text.lines().for_each(|line| {
        let (code, comment) = line.split_at(line.find("//").unwrap_or(line.len()));
        words(code, &mut html);
        if !comment.is_empty() {
            html += &format!("<i>{}</i>", escaped(comment));
        }
        html.push('\n');
    });
    html
}

/// Marks the words and numbers of a line without comment.
fn words(code: &str, html: &mut String) {
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let of_word = |c: char| c.is_alphanumeric() || c == '_';
        let is_word = of_word(first);
        let end = rest.find(|c| of_word(c) != is_word).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after;
        if WORDS.contains(&part) {
            *html += &format!("<b>{part}</b>");
        } else if first.is_ascii_digit() {
            *html += &format!("<u>{part}</u>");
        } else {
            *html += &escaped(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_words_and_numbers_are_marked() {
        let html = marked("let a = b<8u>; // if a < 2\nletter");
        assert_eq!(html, "<b>let</b> a = b&lt;<u>8u</u>&gt;; <i>// if a &lt; 2</i>\nletter\n");
    }
}
