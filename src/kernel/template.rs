//! The template step: four directives, each a comment to any other WGSL tool.
//!
//! - `//!include name` is replaced by `wgsl/include/name.wgsl`, once per kernel. `{NAME}` in it is the value that the
//!   launch gives the constant `NAME`: `//!include matrix_{MATRIX}`.
//! - `//!storage x` declares how elements of the binding `x` are stored: the alias `x_vec4` for four of them, the
//!   functions `decode_x(x_vec4) -> vec4<f32>` and `encode_x(vec4<f32>) -> x_vec4`, and those that read the binding,
//!   `fetch_x(i)`, its i-th vector as it is stored, `load_x(i)`, the same decoded, and `x_element(i)`, its i-th
//!   element, or write it, `store_x(i, value)`: see [`super::format`]. A kernel that uses only the last three may be
//!   given a texture for a binding in place of a buffer; its declaration `var<storage, read> x: array<x_vec4>;` is then
//!   replaced.
//! - `//!unroll` before a loop writes it out: see `unroll.rs`.
//! - `const NAME: type = value;` at the start of a line is a readable default that a launch may replace. A replacement
//!   that matches no line is an error.

use std::collections::HashSet;
use std::rc::Rc;

use super::KernelKey;
use super::format::{Declaration, Format};
use super::sources::{find_include, include_name};
use crate::error::{Error, Result};
use crate::ops::Const;
use crate::tensor::DType;

/// A kernel without directives.
pub struct Expanded {
    /// Complete WGSL.
    pub wgsl: String,
    /// For each line of it, the file and the line, from 1, that it comes from.
    pub origins: Vec<(Rc<str>, usize)>,
}

/// Expands `source`, the text of `file`, with the constants and storage types of `key`.
///
/// # Errors
/// [`Error::Kernel`] naming file and directive.
pub fn expand(file: &str, source: &str, key: &KernelKey) -> Result<Expanded> {
    let mut out = Expanded { wgsl: String::with_capacity(2 * source.len()), origins: Vec::new() };
    let native = source.lines().any(|line| line == "enable f16;");
    let mut state = State { file, key, native, included: HashSet::new(), used: HashSet::new() };
    state.expand_into(&file.into(), source, &mut out)?;
    if let Some((name, _)) = key.constants.iter().find(|(name, _)| !state.used.contains(*name)) {
        return Err(Error::Kernel(format!("{file} has no line `const {name}: …` to replace")));
    }
    let unrolled = super::unroll::unroll(file, &out.wgsl)?;
    let origins = unrolled.origins.into_iter().map(|line| out.origins[line].clone()).collect();
    Ok(Expanded { wgsl: unrolled.text, origins })
}

struct State<'a> {
    file: &'a str,
    key: &'a KernelKey,
    /// Whether numbers of f16 are WGSL's own.
    native: bool,
    included: HashSet<String>,
    used: HashSet<&'static str>,
}

impl State<'_> {
    fn expand_into(&mut self, file: &Rc<str>, source: &str, out: &mut Expanded) -> Result<()> {
        for (number, line) in source.lines().enumerate() {
            let text = if let Some(name) = line.strip_prefix("//!include ") {
                let name = &self.with_values(name.trim())?;
                if self.included.insert(name.clone()) {
                    let text = find_include(name).map_err(|e| {
                        Error::Kernel(format!("{} includes {name}, which cannot be read: {e}", self.file))
                    })?;
                    self.expand_into(&include_name(name).into(), &text, out)?;
                }
                String::new()
            } else if let Some(binding) = line.strip_prefix("//!storage ") {
                self.storage_type(binding.trim(), source)?
            } else if let Some(declaration) = self.texture(line)? {
                declaration
            } else if let Some((name, replacement)) = self.replacement(line)? {
                self.used.insert(name);
                replacement
            } else {
                line.to_owned()
            };
            out.wgsl.push_str(&text);
            out.wgsl.push('\n');
            out.origins.extend(text.split('\n').map(|_| (file.clone(), number + 1)));
        }
        Ok(())
    }

    /// `name` with the constants between its braces replaced by their values.
    fn with_values(&self, name: &str) -> Result<String> {
        let mut name = name.to_owned();
        while let Some((before, rest)) = name.split_once('{') {
            let (constant, after) = rest.split_once('}').unwrap_or((rest, ""));
            let value = self.key.constants.iter().find(|(known, _)| *known == constant);
            let Some((_, Const::U32(value))) = value else {
                return Err(Error::Kernel(format!(
                    "{} includes {name}: the launch sets no number {constant}",
                    self.file
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
        let Some((known, value)) = self.key.constants.iter().find(|(n, _)| *n == name.trim()) else { return Ok(None) };
        let declared = rest.split('=').next().unwrap_or_default().trim();
        let (expected, text) = match value {
            Const::U32(v) => ("u32", format!("{v}u")),
            Const::Bool(v) => ("bool", v.to_string()),
        };
        if declared != expected {
            return Err(Error::Kernel(format!(
                "{}: constant {known} is declared {declared}, the launch sets a {expected}",
                self.file
            )));
        }
        Ok(Some((known, format!("const {known}: {expected} = {text};"))))
    }

    fn format(&self, binding: &str) -> Result<Format> {
        let stored = self.key.storage.iter().find(|(name, _)| *name == binding);
        match Format::of(stored.map_or(DType::F32, |(_, dtype)| *dtype)) {
            Some(Format::F16) if self.native => Ok(Format::NativeF16),
            Some(format) => Ok(format),
            None => {
                let file = self.file;
                Err(Error::Kernel(format!("{file}: binding {binding} holds u32, declare it array<u32>")))
            }
        }
    }

    fn storage_type(&self, binding: &str, source: &str) -> Result<String> {
        let written = source.contains(&format!("var<storage, read_write> {binding}:"));
        let declaration = Declaration { written, texture: self.key.textures.contains(&binding) };
        Ok(self.format(binding)?.declaration(binding, declaration))
    }

    /// `line` as a texture, if it declares the buffer (`var<storage, access> NAME: array<NAME_vec4>;`) of a binding
    /// that is one.
    fn texture(&self, line: &str) -> Result<Option<String>> {
        for binding in &self.key.textures {
            for (access, of_texture) in [("read", "read"), ("read_write", "write")] {
                let buffer = format!("var<storage, {access}> {binding}: array<{binding}_vec4>;");
                if let Some((group, _)) = line.split_once(&buffer) {
                    let texel = self.format(binding)?.texel();
                    return Ok(Some(format!("{group}var {binding}: texture_storage_2d<{texel}, {of_texture}>;")));
                }
            }
        }
        Ok(None)
    }
}
