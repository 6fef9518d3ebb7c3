//! What all models that run on their own have in common: named inputs, sizes, a graph. `unmist run`, `inspect` and
//! `verify` need nothing else.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind};
use crate::tensor::{DType, HostTensor};

/// Tensors by name.
pub type NamedTensors = BTreeMap<String, HostTensor>;

/// The sizes that a model's graph is built for; each model uses those it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Pictures or texts at once.
    pub batch: usize,
    /// Rows of the picture or latent that goes in.
    pub height: usize,
    /// Columns of the picture or latent that goes in.
    pub width: usize,
    /// Tokens of a text.
    pub tokens: usize,
    /// Numbers about a picture that Stable Diffusion XL is told.
    pub time_ids: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { batch: 1, height: 1, width: 1, tokens: 77, time_ids: 0 }
    }
}

impl Sizes {
    /// The sizes that inputs have; pictures are `[N, C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if one has the wrong number of dimensions, or is empty.
    pub fn of(inputs: &NamedTensors) -> Result<Self> {
        let mut sizes = Self::default();
        for (name, tensor) in inputs {
            let wrong = |expected: &str| Error::Shape(format!("{name}: expected {expected}, found {:?}", tensor.shape));
            if tensor.is_empty() {
                return Err(wrong("a tensor with elements"));
            }
            match (name.as_str(), tensor.shape.as_slice()) {
                ("sample" | "latent", &[n, _, h, w]) => (sizes.batch, sizes.height, sizes.width) = (n, h, w),
                ("sample" | "latent", _) => return Err(wrong("[N, C, H, W]")),
                ("input_ids", &[n, t]) => (sizes.batch, sizes.tokens) = (n, t),
                ("input_ids", _) => return Err(wrong("[N, T]")),
                ("encoder_hidden_states", &[_, s, _]) => sizes.tokens = s,
                ("encoder_hidden_states", _) => return Err(wrong("[N, S, D]")),
                ("time_ids", &[_, k]) => sizes.time_ids = k,
                ("time_ids", _) => return Err(wrong("[N, K]")),
                _ => {}
            }
        }
        Ok(sizes)
    }
}

/// What the dimensions of an input or output of a model mean, where users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Something with channels at every place, of any number of spatial dimensions: `[N, .., C]` in a graph, `[N, C,
    /// ..]` for users.
    ChannelsLast,
    /// Tokens `[N, T, C]`, vectors `[N, C]`, indices: the same on both sides.
    Tokens,
}

impl Layout {
    /// The shape for users of a tensor that has `shape` in a graph.
    pub fn public_shape(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::ChannelsLast, [n, places @ .., c]) => [&[*n, *c], places].concat(),
            _ => shape.to_vec(),
        }
    }

    /// A graph's tensor as users see it.
    pub fn to_public(self, tensor: HostTensor) -> HostTensor {
        if self == Self::ChannelsLast { tensor.channels_first() } else { tensor }
    }

    /// A user's tensor as a graph takes it.
    pub fn from_public(self, tensor: HostTensor) -> HostTensor {
        if self == Self::ChannelsLast { tensor.channels_last() } else { tensor }
    }
}

/// A model that can be run on its own. Its graph describes the rest: shapes and element types of the inputs, and the
/// outputs.
pub trait Model: Debug {
    /// Names of the inputs that a caller gives.
    fn input_names(&self) -> Vec<&'static str>;

    /// Sizes the model was trained for, or can at least be run at.
    fn default_sizes(&self) -> Sizes;

    /// One forward pass. Inputs and outputs are f32, or u32 for indices; [`Model::layout`] says what their
    /// dimensions mean.
    /// Everything between is stored as `dtype`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not fit the model, [`Error::Config`] if the config contradicts itself.
    fn graph(&self, sizes: &Sizes, dtype: DType) -> Result<Graph>;

    /// What the dimensions of an input or output mean. Pictures and what is made of them are called so by every model.
    fn layout(&self, name: &str) -> Layout {
        match name {
            "sample" | "latent" | "latents" | "mean" | "logvar" => Layout::ChannelsLast,
            _ => Layout::Tokens,
        }
    }

    /// The number that the elements of a u32 input must stay below.
    fn index_bound(&self, _input: &str) -> Option<usize> {
        None
    }

    /// Adds those inputs of the graph that follow from the given ones or have a default.
    ///
    /// # Errors
    /// [`Error::Shape`] if the given ones do not fit.
    fn complete(&self, _inputs: &mut NamedTensors) -> Result<()> {
        Ok(())
    }

    /// Names and shapes of all parameters in the checkpoint, also those that the other half of an autoencoder reads.
    ///
    /// # Errors
    /// [`Error::Config`] if the config contradicts itself.
    fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        Ok(parameters_of(&self.graph(&self.default_sizes(), DType::F32)?))
    }
}

/// Names and shapes of the parameters that `graph` reads from the model's own checkpoint, as they are there.
pub(super) fn parameters_of(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    graph.weight_parts().into_iter().filter(|p| p.source.is_none()).map(|p| (p.name.clone(), p.shape.clone())).collect()
}

/// The graph for inputs as users have them (pictures `[N, C, H, W]`, one timestep for all pictures), and all its inputs
/// in the graph's own layout.
///
/// # Errors
/// [`Error::Usage`] for a name that is missing or unknown, [`Error::Shape`] for a shape or an index that does
/// not fit; as [`Model::graph`].
pub fn prepare(model: &dyn Model, mut given: NamedTensors, dtype: DType) -> Result<(Graph, NamedTensors)> {
    let names = model.input_names();
    if let Some(unknown) = given.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(Error::Usage(format!(
            "`{unknown}` is not an input of this model, which takes {}",
            names.join(", ")
        )));
    }
    model.complete(&mut given)?;
    if let Some(missing) = names.iter().find(|name| !given.contains_key(**name)) {
        return Err(Error::Usage(format!("input `{missing}` is missing; this model takes {}", names.join(", "))));
    }
    let graph = model.graph(&Sizes::of(&given)?, dtype)?;
    let mut inputs = NamedTensors::new();
    for node in graph.nodes().iter().filter(|n| matches!(n.kind, NodeKind::Input(_))) {
        let tensor = given.remove(&node.name).expect("a graph's inputs are those its model lists or completes");
        if let Some(bound) = model.index_bound(&node.name) {
            check_indices(&node.name, &tensor, bound)?;
        }
        let layout = model.layout(&node.name);
        let expected = layout.public_shape(&node.desc.shape);
        let tensor = match node.desc.shape.as_slice() {
            &[n] if tensor.len() == 1 => HostTensor { shape: vec![n], data: tensor.data.repeat(n) },
            _ if tensor.shape != expected => {
                return Err(Error::Shape(format!("{}: expected {expected:?}, found {:?}", node.name, tensor.shape)));
            }
            _ => layout.from_public(tensor),
        };
        inputs.insert(node.name.clone(), tensor);
    }
    Ok((graph, inputs))
}

fn check_indices(name: &str, tensor: &HostTensor, bound: usize) -> Result<()> {
    match tensor.data.iter().find(|v| v.fract() != 0.0 || **v < 0.0 || **v >= bound as f32) {
        Some(bad) => Err(Error::Shape(format!("{name} holds {bad}; this model knows 0 to {}", bound - 1))),
        None => Ok(()),
    }
}
