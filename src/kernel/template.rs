//! The template step: four directives, each a comment to any other WGSL tool.
//!
//! - `//!include name` is replaced by `wgsl/include/name.wgsl`, once per kernel. `{NAME}` in it is the value that the
//!   launch gives the constant `NAME`: `//!include matrix_{MATRIX}`.
//! - `//!storage x` declares how elements of the binding `x` are stored: the alias `x_vec4` for four of them, the
//!   functions `decode_x(x_vec4) -> vec4<f32>` and `encode_x(vec4<f32>) -> x_vec4`, and those that read the binding,
//!   `fetch_x(i)`, its i-th vector as it is stored, `load_x(i)`, the same decoded, and `x_element(i)`, its i-th
//!   element: see [`super::format`].
//! - `//!unroll` before a loop writes it out: see `unroll.rs`.
//! - `const NAME: type = value;` at the start of a line is a readable default that a launch may replace. A replacement
//!   that matches no line is an error.

use std::collections::HashSet;

use super::format::Format;
use super::sources::{file_name, find_include};
use crate::error::{Error, Result};
use crate::ops::Const;
use crate::tensor::DType;

/// Expands `source` with the given constants and storage types.
///
/// # Errors
/// [`Error::Kernel`] naming kernel, line and directive.
pub fn expand(
    kernel: &str,
    source: &str,
    constants: &[(&'static str, Const)],
    storage: &[(&'static str, DType)],
) -> Result<String> {
    let mut out = String::with_capacity(2 * source.len());
    let mut state = State { kernel, storage, included: HashSet::new(), used: HashSet::new(), constants };
    state.expand_into(source, &mut out)?;
    if let Some((name, _)) = constants.iter().find(|(name, _)| !state.used.contains(*name)) {
        return Err(Error::Kernel(format!("{} has no line `const {name}: …` to replace", file_name(kernel))));
    }
    super::unroll::unroll(kernel, &out)
}

struct State<'a> {
    kernel: &'a str,
    constants: &'a [(&'static str, Const)],
    storage: &'a [(&'static str, DType)],
    included: HashSet<String>,
    used: HashSet<&'static str>,
}

impl State<'_> {
    fn expand_into(&mut self, source: &str, out: &mut String) -> Result<()> {
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("//!include ") {
                let name = &self.with_values(name.trim())?;
                if self.included.insert(name.clone()) {
                    let text = find_include(name).map_err(|e| {
                        Error::Kernel(format!("{} includes {name}, which cannot be read: {e}", file_name(self.kernel)))
                    })?;
                    self.expand_into(&text, out)?;
                }
            } else if let Some(binding) = line.strip_prefix("//!storage ") {
                out.push_str(&self.storage_type(binding.trim())?);
            } else if let Some((name, replacement)) = self.replacement(line)? {
                self.used.insert(name);
                out.push_str(&replacement);
            } else {
                out.push_str(line);
            }
            out.push('\n');
        }
        Ok(())
    }

    /// `name` with the constants between its braces replaced by their values.
    fn with_values(&self, name: &str) -> Result<String> {
        let mut name = name.to_owned();
        while let Some((before, rest)) = name.split_once('{') {
            let (constant, after) = rest.split_once('}').unwrap_or((rest, ""));
            let value = self.constants.iter().find(|(known, _)| *known == constant);
            let Some((_, Const::U32(value))) = value else {
                return Err(Error::Kernel(format!(
                    "{} includes {name}: the launch sets no number {constant}",
                    file_name(self.kernel)
                )));
            };
            name = format!("{before}{value}{after}");
        }
        Ok(name)
    }

    /// `line` with its value replaced, if it declares a constant (`const NAME: type = value;`) that the launch sets.
    fn replacement(&self, line: &str) -> Result<Option<(&'static str, String)>> {
        let Some(rest) = line.strip_prefix("const ") else { return Ok(None) };
        let Some((name, rest)) = rest.split_once(':') else { return Ok(None) };
        let Some((known, value)) = self.constants.iter().find(|(n, _)| *n == name.trim()) else { return Ok(None) };
        let declared = rest.split('=').next().unwrap_or_default().trim();
        let (expected, text) = match value {
            Const::U32(v) => ("u32", format!("{v}u")),
            Const::Bool(v) => ("bool", v.to_string()),
        };
        if declared != expected {
            return Err(Error::Kernel(format!(
                "{}: constant {known} is declared {declared}, the launch sets a {expected}",
                file_name(self.kernel)
            )));
        }
        Ok(Some((known, format!("const {known}: {expected} = {text};"))))
    }

    fn storage_type(&self, binding: &str) -> Result<String> {
        let dtype = self.storage.iter().find(|(name, _)| *name == binding).map_or(DType::F32, |(_, dtype)| *dtype);
        let format = Format::of(dtype).ok_or_else(|| {
            let file = file_name(self.kernel);
            Error::Kernel(format!("{file}: binding {binding} holds u32, declare it array<u32>"))
        })?;
        Ok(format.declaration(binding))
    }
}
