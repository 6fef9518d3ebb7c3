//! WGSL kernels: the files below `wgsl/`, a small template step, and what naga says about the result.

mod format;
mod reflect;
mod sources;
mod template;
mod unroll;

pub use format::{Format, TEXTURE_WIDTH};
pub use reflect::{Access, Binding, ParamField, ParamType, Reflection, reflect};
pub(crate) use sources::file_name;
pub use sources::{find_include, find_kernel, includes, kernels, texts_id};
pub use template::{Expanded, expand};

use serde::{Deserialize, Serialize};

use crate::content::ContentId;
use crate::error::Result;
use crate::ops::Const;
use crate::tensor::DType;

/// Everything that determines one compiled kernel; equal keys share a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelKey {
    /// File below `wgsl/`, without extension.
    pub name: &'static str,
    /// Replacements of `const` lines.
    pub constants: Vec<(&'static str, Const)>,
    /// Element types of the bindings that the kernel declares with `//!storage`.
    pub storage: Vec<(&'static str, DType)>,
    /// Those among them that are textures.
    pub textures: Vec<&'static str>,
}

impl KernelKey {
    /// What tells instances of one file apart: `TILE_M=64 HAS_BIAS=true x:f16`.
    fn settings(&self) -> String {
        let constants = self.constants.iter().map(|(name, value)| match value {
            Const::U32(v) => format!("{name}={v}"),
            Const::Bool(v) => format!("{name}={v}"),
        });
        let storage = self.storage.iter().map(|(name, dtype)| format!("{name}:{}", dtype.name()));
        let textures = self.textures.iter().map(|name| format!("{name}:texture"));
        constants.chain(storage).chain(textures).collect::<Vec<_>>().join(" ")
    }
}

/// A kernel ready to be compiled by a device: plain data.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Kernel {
    /// File below `wgsl/`, without extension.
    pub name: String,
    /// Constants and element types that make this instance of the file.
    pub settings: String,
    /// Complete WGSL; its entry point is `main`.
    pub wgsl: String,
    /// SHA-256 of `wgsl`: equal kernels share a pipeline, in this process and in the cache on disk.
    pub hash: ContentId,
    /// Bindings, parameters, workgroup size.
    pub reflection: Reflection,
}

/// Another text for a kernel: someone's own, to be compared with the one that there is.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelText {
    /// The kernel that it takes the place of: file below `wgsl/`, without extension.
    pub kernel: String,
    /// The file that it is from, for messages.
    pub file: String,
    /// The text, with the same directives, bindings and parameters as the kernel's own.
    pub text: String,
}

impl Kernel {
    /// Expands and parses the kernel.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] if a constant matches no line, an include is missing, or the WGSL does not parse or
    /// validate.
    pub fn build(key: &KernelKey) -> Result<Self> {
        Self::build_from(key, &file_name(key.name), &find_kernel(key.name)?)
    }

    /// As [`Kernel::build`], with another text where there is one for it.
    ///
    /// # Errors
    /// As [`Kernel::build`].
    pub fn build_with(key: &KernelKey, texts: &[KernelText]) -> Result<Self> {
        match texts.iter().find(|text| text.kernel == key.name) {
            Some(text) => Self::build_from(key, &text.file, &text.text),
            None => Self::build(key),
        }
    }

    fn build_from(key: &KernelKey, file: &str, text: &str) -> Result<Self> {
        let expanded = expand(file, text, key)?;
        let reflection = reflect::reflect_expanded(file, &expanded)?;
        let wgsl = expanded.wgsl;
        let hash = ContentId::of(&[wgsl.as_bytes()]);
        Ok(Self { name: key.name.into(), settings: key.settings(), wgsl, hash, reflection })
    }
}
