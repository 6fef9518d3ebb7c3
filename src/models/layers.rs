//! Layers with parameters: each is told its path in the checkpoint (`down_blocks.0.resnets.0.conv1`), and adds its
//! weights and its operation to a graph.

use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId, WeightLayout};
use crate::ops::activation::ActivationKind;
use crate::ops::contraction::Conv2d;
use crate::ops::norm::{Modulation, Norm, NormKind};
use crate::tensor::DType;

/// Adds layers to a graph. Matrices and activations are stored as `dtype`, vectors (biases, norms) as f32.
pub struct Layers<'g> {
    /// The graph that grows.
    pub graph: &'g mut Graph,
    /// How weights and activations are stored.
    pub dtype: DType,
    /// The checkpoint that parameters come from; none: the model's own.
    source: Option<String>,
}

impl<'g> Layers<'g> {
    /// Layers in `dtype` on `graph`.
    pub fn new(graph: &'g mut Graph, dtype: DType) -> Self {
        Self { graph, dtype, source: None }
    }

    /// What `build` adds, with its parameters from the checkpoint called `source` instead of the model's own.
    ///
    /// # Errors
    /// What `build` returns.
    pub fn from_source<T>(&mut self, source: &str, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let own = self.source.replace(source.to_owned());
        let built = build(self);
        self.source = own;
        built
    }

    pub(super) fn weight(&mut self, name: String, shape: &[usize], layout: WeightLayout, dtype: DType) -> ValueId {
        self.graph.weight_of(self.source.as_deref(), name, shape, layout, dtype)
    }

    fn vector(&mut self, path: &str, suffix: &str, len: usize) -> ValueId {
        self.weight(format!("{path}.{suffix}"), &[len], WeightLayout::AsIs, DType::F32)
    }

    /// `torch.nn.Conv2d` with a square kernel and a bias; `x [N, H, W, C_in]` → `[N, OH, OW, out_channels]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the picture is smaller than the kernel.
    pub fn conv2d(
        &mut self,
        path: &str,
        x: ValueId,
        out_channels: usize,
        kernel: usize,
        conv: Conv2d,
    ) -> Result<ValueId> {
        let weight = self.conv2d_weight(path, x, out_channels, kernel);
        let bias = self.vector(path, "bias", out_channels);
        self.graph.conv2d(path, x, weight, Some(bias), conv)
    }

    /// As [`Layers::conv2d`] without a bias.
    ///
    /// # Errors
    /// As [`Layers::conv2d`].
    pub fn conv2d_without_bias(
        &mut self,
        path: &str,
        x: ValueId,
        out_channels: usize,
        kernel: usize,
        conv: Conv2d,
    ) -> Result<ValueId> {
        let weight = self.conv2d_weight(path, x, out_channels, kernel);
        self.graph.conv2d(path, x, weight, None, conv)
    }

    fn conv2d_weight(&mut self, path: &str, x: ValueId, out_channels: usize, kernel: usize) -> ValueId {
        let in_channels = self.graph.desc(x).channels();
        let shape = [out_channels, in_channels, kernel, kernel];
        self.weight(format!("{path}.weight"), &shape, WeightLayout::Ohwi, self.dtype)
    }

    /// A 3×3 convolution that keeps the size.
    ///
    /// # Errors
    /// As [`Layers::conv2d`].
    pub fn conv3x3(&mut self, path: &str, x: ValueId, out_channels: usize) -> Result<ValueId> {
        self.conv2d(path, x, out_channels, 3, Conv2d { padding: [1; 4], ..Conv2d::default() })
    }

    /// `torch.nn.Linear` on the last dimension.
    ///
    /// # Errors
    /// None for a valid `x`; the signature is that of all layers.
    pub fn linear(&mut self, path: &str, x: ValueId, out_features: usize, bias: bool) -> Result<ValueId> {
        let in_features = self.graph.desc(x).channels();
        let weight =
            self.weight(format!("{path}.weight"), &[out_features, in_features], WeightLayout::AsIs, self.dtype);
        let bias = bias.then(|| self.vector(path, "bias", out_features));
        self.graph.linear(path, x, weight, bias)
    }

    /// `torch.nn.GroupNorm`, affine.
    ///
    /// # Errors
    /// [`Error::Config`] if the channels are not a multiple of the groups.
    pub fn group_norm(&mut self, path: &str, x: ValueId, groups: usize, eps: f64) -> Result<ValueId> {
        self.check_groups(path, x, groups)?;
        self.affine_norm(path, x, None, Norm::new(NormKind::Group { groups }, eps))
    }

    /// As [`Layers::group_norm`], then scaled and shifted by the two halves of `embedding [N, 2 C]`.
    ///
    /// # Errors
    /// As [`Layers::group_norm`]; [`Error::Shape`] if the embedding has another size.
    pub fn modulated_group_norm(
        &mut self,
        path: &str,
        x: ValueId,
        embedding: ValueId,
        groups: usize,
        eps: f64,
    ) -> Result<ValueId> {
        self.check_groups(path, x, groups)?;
        let modulation = Some(Modulation { scale: 0, shift: Some(1) });
        let norm = Norm { modulation, ..Norm::new(NormKind::Group { groups }, eps) };
        self.affine_norm(path, x, Some(embedding), norm)
    }

    fn check_groups(&self, path: &str, x: ValueId, groups: usize) -> Result<()> {
        let channels = self.graph.desc(x).channels();
        if channels.is_multiple_of(groups) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{path}: {channels} channels cannot be divided into {groups} groups (norm_num_groups)"
        )))
    }

    /// A norm with a learned factor and summand for each channel.
    fn affine_norm(&mut self, path: &str, x: ValueId, modulation: Option<ValueId>, norm: Norm) -> Result<ValueId> {
        let channels = self.graph.desc(x).channels();
        let affine = [self.vector(path, "weight", channels), self.vector(path, "bias", channels)].map(Some);
        self.graph.norm(path, x, affine, modulation, norm)
    }

    /// `torch.nn.LayerNorm` on the last dimension, affine.
    ///
    /// # Errors
    /// None for a valid `x`; the signature is that of all layers.
    pub fn layer_norm(&mut self, path: &str, x: ValueId, eps: f64) -> Result<ValueId> {
        self.affine_norm(path, x, None, Norm::new(NormKind::Layer, eps))
    }

    /// The frequencies `[len]` of diffusers' `GaussianFourierProjection`.
    pub fn frequencies(&mut self, path: &str, len: usize) -> ValueId {
        self.vector(path, "weight", len)
    }

    /// `torch.nn.Embedding`: rows of a table.
    ///
    /// # Errors
    /// [`Error::Shape`] if `indices` are not u32.
    pub fn embedding(&mut self, path: &str, indices: ValueId, rows: usize, width: usize) -> Result<ValueId> {
        let table = self.weight(format!("{path}.weight"), &[rows, width], WeightLayout::AsIs, self.dtype);
        self.graph.embedding(path, indices, table)
    }

    /// An activation function.
    ///
    /// # Errors
    /// None; the signature is that of all layers.
    pub fn activation(&mut self, path: &str, x: ValueId, kind: ActivationKind) -> Result<ValueId> {
        self.graph.activation(path, x, kind)
    }
}
