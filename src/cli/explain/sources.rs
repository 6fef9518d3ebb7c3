//! The texts behind an operation: its formula from the head of a kernel, and the CPU reference.

use crate::kernel::kernels;

/// Every file below `src/reference/`: its path without extension, and its text.
const REFERENCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/references.rs"));

/// The kernel that a reader begins with: the naive one.
pub fn first_kernel(operation: &str) -> Option<&'static str> {
    let own =
        |(name, _): (&'static str, _)| name.split_once('/').filter(|(folder, _)| *folder == operation).map(|_| name);
    let mut own = kernels().filter_map(own).peekable();
    let first = own.peek().copied();
    own.find(|name| name.ends_with("naive")).or(first)
}

/// What the head of a kernel's text says of what it computes, with the shapes and the source, but without `dispatch` to
/// `error`.
pub fn formula(text: &str) -> String {
    let head = text.lines().map_while(|line| line.strip_prefix("//")).filter(|line| !line.starts_with('!'));
    let mut formula = String::new();
    let mut shown = true;
    for line in head {
        let line = line.strip_prefix(' ').unwrap_or(line);
        let key = line.split_once(':').map(|(key, _)| key);
        match key {
            Some("dispatch" | "requires" | "constants" | "error") => shown = false,
            Some("source") => shown = true,
            _ => {}
        }
        if shown {
            formula += line;
            formula.push('\n');
        }
    }
    formula
}

/// The file of the reference that computes an operation, and of its text what belongs to it.
pub fn reference(operation: &str) -> Option<(String, String)> {
    let file = |name: &str| format!("src/reference/{name}.rs");
    if let Some((name, text)) = REFERENCES.iter().find(|(name, _)| *name == operation) {
        let text = text.split("#[cfg(test)]").next().unwrap_or(text);
        return Some((file(name), text.trim_end().to_owned() + "\n"));
    }
    REFERENCES.iter().find_map(|(name, text)| Some((file(name), function(text, operation)?)))
}

/// The function of this name in a text, with its documentation.
fn function(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with(&format!("pub fn {name}(")))?;
    let documented = |line: &&&str| line.starts_with("///") || line.starts_with("#[");
    let start = at - lines[..at].iter().rev().take_while(documented).count();
    let end = at + lines[at..].iter().position(|line| *line == "}")?;
    Some(lines[start..=end].join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::registry;

    #[test]
    fn every_operation_has_its_texts() {
        for info in registry() {
            let (file, text) = reference(info.name).unwrap_or_else(|| panic!("{} has no reference", info.name));
            assert!(text.contains("pub fn ") && text.trim_end().ends_with('}'), "{file}: {text}");
            assert!(!text.contains("#[test]"), "{file}");
            // A view launches nothing.
            let Some(kernel) = first_kernel(info.name) else {
                assert_eq!(info.name, "reshape");
                continue;
            };
            let text = crate::kernel::find_kernel(kernel).expect("it is there");
            let formula = formula(&text);
            assert!(formula.contains("source:") && !formula.contains("dispatch:"), "{kernel}: {formula}");
            assert!(!formula.contains("error:"), "{kernel}: {formula}");
        }
        assert!(first_kernel("contraction").is_some_and(|name| name.ends_with("naive")));
        let (_, guidance) = reference("guidance").expect("it is there");
        assert_eq!(guidance.matches("pub fn ").count(), 1, "others in the same file are not shown: {guidance}");
    }
}
