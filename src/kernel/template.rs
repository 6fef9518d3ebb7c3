//! The template step: four directives, each a comment to any other WGSL tool.
//!
//! - `//!include name` is replaced by `wgsl/include/name.wgsl`, once per kernel.
//! - `//!storage x` declares how elements of the binding `x` are stored: the alias `x_vec4` for four of them, the
//!   functions `decode_x(x_vec4) -> vec4<f32>` and `encode_x(vec4<f32>) -> x_vec4`, and those that read the binding,
//!   `load_x(i)`, its i-th vector, and `x_element(i)`, its i-th element, or write it, `store_x(i, value)`: see
//!   [`super::format`]. A kernel that uses only these may be given a texture for a binding in place of a buffer; its
//!   declaration `var<storage, read> x: array<x_vec4>;` is then replaced.
//! - `//!unroll` before a loop writes it out: see `unroll.rs`.
//! - `const NAME: type = value;` at the start of a line is a readable default that a launch may replace. A replacement
//!   that matches no line is an error.

use std::collections::HashSet;

use super::KernelKey;
use super::format::{Declaration, Format};
use super::sources::{file_name, find_include};
use crate::error::{Error, Result};
use crate::ops::Const;
use crate::tensor::DType;

/// Expands `source` with the constants and storage types of `key`.
///
/// # Errors
/// [`Error::Kernel`] naming kernel, line and directive.
pub fn expand(key: &KernelKey, source: &str) -> Result<String> {
    let mut out = String::with_capacity(2 * source.len());
    let mut state = State { key, included: HashSet::new(), used: HashSet::new() };
    state.expand_into(source, &mut out)?;
    let kernel = key.name;
    if let Some((name, _)) = key.constants.iter().find(|(name, _)| !state.used.contains(*name)) {
        return Err(Error::Kernel(format!("{} has no line `const {name}: …` to replace", file_name(kernel))));
    }
    super::unroll::unroll(kernel, &out)
}

struct State<'a> {
    key: &'a KernelKey,
    included: HashSet<String>,
    used: HashSet<&'static str>,
}

impl State<'_> {
    fn expand_into(&mut self, source: &str, out: &mut String) -> Result<()> {
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("//!include ") {
                let name = name.trim();
                if self.included.insert(name.to_owned()) {
                    let text = find_include(name).map_err(|e| {
                        Error::Kernel(format!(
                            "{} includes {name}, which cannot be read: {e}",
                            file_name(self.key.name)
                        ))
                    })?;
                    self.expand_into(&text, out)?;
                }
            } else if let Some(binding) = line.strip_prefix("//!storage ") {
                out.push_str(&self.storage_type(binding.trim(), source)?);
            } else if let Some(declaration) = self.texture(line)? {
                out.push_str(&declaration);
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
                file_name(self.key.name)
            )));
        }
        Ok(Some((known, format!("const {known}: {expected} = {text};"))))
    }

    fn format(&self, binding: &str) -> Result<Format> {
        let stored = self.key.storage.iter().find(|(name, _)| *name == binding);
        Format::of(stored.map_or(DType::F32, |(_, dtype)| *dtype)).ok_or_else(|| {
            let file = file_name(self.key.name);
            Error::Kernel(format!("{file}: binding {binding} holds u32, declare it array<u32>"))
        })
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
