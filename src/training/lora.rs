//! Low-rank adapters (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"): beside a linear layer
//! `y = W x` goes `alpha / rank · B (A x)`, and A and B alone are trained.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind, ValueId, WeightLayout};
use crate::ops::Op;
use crate::ops::contraction::{Gather, WEIGHT};
use crate::rng::NoiseSource;
use crate::tensor::HostTensor;

/// Whose parameters an adapter's are, beside the model's own ([`crate::graph::WeightSources`]).
pub const LORA: &str = "lora";

/// The layers that adapters of Stable Diffusion have as a rule: the projections of attention.
pub const ATTENTION: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];

/// Name and shape of a parameter.
pub type Parameter = (String, Vec<usize>);

/// An adapter's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rows of A, columns of B.
    pub rank: usize,
    /// The adapter's part is multiplied by alpha / rank.
    pub alpha: f64,
    /// Ends of the names of the linear layers that get one.
    pub targets: Vec<String>,
}

impl Lora {
    /// `model` with adapters, and names and shapes of their parameters: `LAYER.lora_A.weight` `[rank, in]` and
    /// `LAYER.lora_B.weight` `[out, rank]`, of the source [`LORA`].
    ///
    /// # Errors
    /// [`Error::Usage`] if no linear layer has such a name.
    pub fn add_to(&self, model: &Graph) -> Result<(Graph, Vec<Parameter>)> {
        let mut graph = Graph::new();
        let mut renamed: HashMap<ValueId, ValueId> = HashMap::new();
        let mut parameters = Vec::new();
        for (id, node) in model.values() {
            let mut value = graph.push_node(node, |v| renamed[&v])?;
            if let Some((layer, x, weight)) = self.target(model, id) {
                let shape = model.shape(weight);
                let (out, of) = (shape[0], shape[1]);
                let dtype = model.desc(weight).dtype;
                let mut linear = |graph: &mut Graph, what: &str, x, shape: [usize; 2]| {
                    let name = format!("{layer}.{what}");
                    let key = format!("{name}.weight");
                    let weight = graph.weight_of(Some(LORA), key.clone(), &shape, WeightLayout::AsIs, dtype);
                    parameters.push((key, shape.to_vec()));
                    graph.linear(name, x, weight, None)
                };
                let down = linear(&mut graph, "lora_A", renamed[&x], [self.rank, of])?;
                let up = linear(&mut graph, "lora_B", down, [out, self.rank])?;
                let scaled = graph.scale(format!("{layer}.lora.scale"), up, self.alpha / self.rank as f64, 0.0)?;
                value = graph.add(format!("{layer}.lora.add"), value, scaled)?;
            }
            renamed.insert(id, value);
        }
        model.outputs().iter().for_each(|(name, value)| graph.output(name.clone(), renamed[value]));
        if parameters.is_empty() {
            let names = self.targets.join(", ");
            return Err(Error::Usage(format!("no linear layer of this model has a name that ends in {names}")));
        }
        Ok((graph, parameters))
    }

    /// The layer's name, its input and its weight, if it gets an adapter.
    fn target(&self, model: &Graph, value: ValueId) -> Option<(String, ValueId, ValueId)> {
        let NodeKind::Op(Op::Contraction(product), inputs) = &model.node(value).kind else { return None };
        let (x, weight) = (inputs[0]?, inputs[WEIGHT]?);
        let NodeKind::Weight(spec) = &model.node(weight).kind else { return None };
        let layer = spec.parts.first()?.name.strip_suffix(".weight")?;
        let named = |target: &String| layer == target || layer.ends_with(&format!(".{target}"));
        (product.gather == Gather::Rows && self.targets.iter().any(named)).then(|| (layer.to_owned(), x, weight))
    }

    /// What an adapter begins with: A normal with deviation 1 / rank, B zero, so that the model is as it was.
    pub fn initial(&self, parameters: &[Parameter], random: &mut dyn NoiseSource) -> HashMap<String, HostTensor> {
        let value = |name: &str, shape: &[usize]| {
            if name.ends_with("lora_B.weight") {
                return HostTensor::zeros(shape.to_vec());
            }
            let mut normal = random.randn(shape);
            normal.data.iter_mut().for_each(|v| *v /= self.rank as f32);
            normal
        };
        let mut value = value;
        parameters.iter().map(|(name, shape)| (name.clone(), value(name, shape))).collect()
    }

    /// The adapter of a U-Net by diffusers' names, `unet.LAYER.lora_A.weight`; alpha / rank is part of B.
    pub fn diffusers(&self, parameters: &BTreeMap<String, HostTensor>) -> BTreeMap<String, HostTensor> {
        let factor = (self.alpha / self.rank as f64) as f32;
        let named = |(name, tensor): (&String, &HostTensor)| {
            let mut tensor = tensor.clone();
            if name.ends_with("lora_B.weight") {
                tensor.data.iter_mut().for_each(|v| *v *= factor);
            }
            (format!("unet.{name}"), tensor)
        };
        parameters.iter().map(named).collect()
    }

    /// The same by kohya-ss's names, `lora_unet_LAYER.lora_down.weight` with `_` for `.`, and an alpha of each layer.
    pub fn kohya(&self, parameters: &BTreeMap<String, HostTensor>) -> BTreeMap<String, HostTensor> {
        let mut named = BTreeMap::new();
        for (name, tensor) in parameters {
            let (layer, what) = match name.strip_suffix(".lora_A.weight") {
                Some(layer) => (layer, "lora_down"),
                None => (name.trim_end_matches(".lora_B.weight"), "lora_up"),
            };
            let layer = format!("lora_unet_{}", layer.replace('.', "_"));
            named.insert(format!("{layer}.{what}.weight"), tensor.clone());
            named.insert(format!("{layer}.alpha"), HostTensor { shape: vec![], data: vec![self.alpha as f32] });
        }
        named
    }
}
