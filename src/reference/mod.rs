//! Every operation computed from its formula, in plain loops on the CPU: f32 in and out, f64 accumulation. One file per
//! operation, with the same names as in [`crate::ops`]; those of a sampler share `sampler.rs`.
//!
//! Nothing here looks at a kernel, so it cannot share a kernel's mistake. It is the oracle of every test, and runs on
//! machines without a graphics adapter; loops over independent outputs therefore use all cores.

mod activation;
mod activation_gradient;
mod attention;
mod attention_gradient;
mod avg_pool;
mod binary;
mod blend_tiles;
mod cast;
mod clamp;
mod concat;
mod contraction;
mod dynamic_threshold;
mod embedding;
mod emphasis;
mod filters;
mod fir_resample;
mod fourier_embedding;
mod gated;
mod max_abs;
mod nearest_code;
mod norm;
mod norm_gradient;
mod optimizer;
mod products;
mod randn;
mod reshape;
mod rope;
mod sampler;
mod scale;
mod session;
mod slice;
mod softmax;
mod sum;
mod timestep_embedding;
mod transpose;
mod upsample_nearest;
mod variance_bound;
mod weight_gradient;

pub use activation::{activation, activation_function};
pub use activation_gradient::{activation_derivative, activation_gradient, gated_gradient};
pub(crate) use attention::slice_columns;
pub use attention::{AttentionOptions, attention, attention_at};
pub use attention_gradient::{AttentionSide, attention_gradient, attention_statistics};
pub use avg_pool::avg_pool;
pub use binary::binary;
pub use blend_tiles::blend_tiles;
pub use cast::cast;
pub use clamp::clamp;
pub use concat::concat;
pub use contraction::{add_rows, columns, convolution, convolution_at, product, product_at};
pub use dynamic_threshold::dynamic_threshold;
pub use embedding::{embedding, embedding_gradient};
pub use emphasis::emphasis;
pub use filters::{insert_zeros, turn_filter};
pub use fir_resample::fir_resample;
pub use fourier_embedding::fourier_embedding;
pub use gated::gated;
pub use max_abs::max_abs;
pub use nearest_code::nearest_code;
pub use norm::{group_norm, layer_norm, modulate, rms_norm};
pub use norm_gradient::{norm_gradient, norm_moments, norm_sums};
pub use optimizer::{moving_average, parameter_step, unit_norm};
pub use randn::randn;
pub use reshape::reshape;
pub use rope::rope;
pub use sampler::{
    add_noise, guidance, guidance_rescale, langevin_noise, masked_latents, model_input, pred_original_sample,
    scale_noise, scheduler_step,
};
pub use scale::scale;
pub use session::ReferenceSession;
pub(crate) use session::stored;
pub use slice::slice;
pub use softmax::softmax;
pub use sum::sum;
pub use timestep_embedding::timestep_embedding;
pub use transpose::transpose;
pub use upsample_nearest::upsample_nearest;
pub use variance_bound::{log_level_probability, variance_bound, variance_bound_gradient};
pub use weight_gradient::weight_gradient;
