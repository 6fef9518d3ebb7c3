//! The table of WGSL files, compiled into the binary.

use crate::error::{Error, Result};

macro_rules! table {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../wgsl/", $name, ".wgsl")))),*] };
}

/// Every kernel: name (path below `wgsl/` without extension) and text.
#[rustfmt::skip]
pub const KERNELS: &[(&str, &str)] = table![
    "activation/naive",
    "add_noise/naive",
    "attention/flash",
    "attention/naive",
    "attention/shuffle",
    "avg_pool/naive",
    "avg_pool/vec4",
    "binary/naive",
    "binary/vec4",
    "blend_tiles/naive",
    "cast/naive",
    "clamp/naive",
    "concat/naive",
    "concat/vec4",
    "conv2d/naive",
    "conv2d/pad_channels",
    "conv2d/reduce",
    "conv2d/shuffle",
    "conv2d/tiled",
    "conv2d/winograd_input",
    "conv2d/winograd_output",
    "conv2d/winograd_weight",
    "dynamic_threshold/naive",
    "dynamic_threshold/naive_quantile",
    "embedding/naive",
    "embedding/vec4",
    "emphasis/naive",
    "emphasis/naive_factor",
    "fourier_embedding/naive",
    "geglu/naive",
    "geglu/vec4",
    "group_norm/chunked",
    "group_norm/chunked_combine",
    "group_norm/chunked_moments",
    "group_norm/naive",
    "group_norm/naive_statistics",
    "guidance/naive",
    "guidance_rescale/naive",
    "guidance_rescale/naive_factor",
    "layer_norm/naive",
    "layer_norm/rows",
    "layer_norm/workgroup",
    "linear/naive",
    "linear/reduce",
    "linear/shuffle",
    "linear/tiled",
    "masked_latents/naive",
    "max_abs/naive",
    "model_input/naive",
    "pred_original_sample/naive",
    "randn/naive",
    "scale/naive",
    "scale_noise/naive",
    "scale_shift/naive",
    "scale_shift/vec4",
    "scheduler_step/naive",
    "slice/naive",
    "slice/vec4",
    "softmax/naive",
    "softmax/rows",
    "softmax/workgroup",
    "timestep_embedding/naive",
    "upsample_nearest/naive",
    "upsample_nearest/vec4",
];

/// Every include: name and text.
pub const INCLUDES: &[(&str, &str)] =
    table!["include/activation", "include/flat_index", "include/logarithm", "include/product_tile", "include/sine"];

/// The text of a kernel.
///
/// # Errors
/// [`Error::Kernel`] if there is no such kernel.
pub fn find_kernel(name: &str) -> Result<&'static str> {
    let found = KERNELS.iter().find(|(n, _)| *n == name);
    found.map(|(_, text)| *text).ok_or_else(|| Error::Kernel(format!("no kernel wgsl/{name}.wgsl in the source table")))
}

/// The text of an include, by its name without the folder.
pub fn find_include(name: &str) -> Option<&'static str> {
    INCLUDES.iter().find(|(n, _)| n.strip_prefix("include/") == Some(name)).map(|(_, text)| *text)
}
