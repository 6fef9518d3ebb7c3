//! WGSL kernels: the files below `wgsl/`, a small template step, and what naga says about the result.

mod reflect;
mod sources;
mod template;
mod unroll;

pub use reflect::{Access, Binding, ParamField, ParamType, Reflection, reflect};
#[cfg(feature = "gpu")]
pub(crate) use sources::file_name;
pub use sources::{find_include, find_kernel, includes, kernels};
pub use template::expand;

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
}

/// A kernel ready to be compiled by a device.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its key.
    pub key: KernelKey,
    /// Complete WGSL.
    pub wgsl: String,
    /// Bindings, parameters, workgroup size.
    pub reflection: Reflection,
}

impl Kernel {
    /// Expands and parses the kernel.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] if a constant matches no line, an include is missing, or the WGSL does not
    /// parse or validate.
    pub fn build(key: KernelKey) -> Result<Self> {
        let wgsl = expand(key.name, &find_kernel(key.name)?, &key.constants, &key.storage)?;
        let reflection = reflect(key.name, &wgsl)?;
        Ok(Self { key, wgsl, reflection })
    }
}
