//! WGSL kernels: the files below `wgsl/`, a small template step, and what naga says about the result.

mod format;
mod reflect;
mod sources;
mod template;
mod unroll;

pub use format::{Format, TEXTURE_WIDTH};
pub use reflect::{Access, Binding, ParamField, ParamType, Reflection, reflect};
#[cfg(feature = "gpu")]
pub(crate) use sources::file_name;
pub use sources::{find_include, find_kernel, includes, kernels};
pub use template::expand;

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

impl Kernel {
    /// Expands and parses the kernel.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] if a constant matches no line, an include is missing, or the WGSL does not parse or
    /// validate.
    pub fn build(key: &KernelKey) -> Result<Self> {
        let wgsl = expand(key, &find_kernel(key.name)?)?;
        let reflection = reflect(key.name, &wgsl)?;
        let hash = ContentId::of(&[wgsl.as_bytes()]);
        Ok(Self { name: key.name.into(), settings: key.settings(), wgsl, hash, reflection })
    }
}
