//! The graph of a training step.

use std::collections::HashSet;

use super::coefficients::at;
use super::optimizer::Update;
use super::{Keeps, Optimizer, State, Trainable};
use crate::error::{Error, Result};
use crate::graph::{Graph, Kept, TensorDesc, ValueId};
use crate::ops::moving_average::MovingAverage;

/// A step: inputs are those of the model's graph, the parameters and the state ([`TrainingGraph::states`]),
/// `loss_weights` and `gradient_weights` `[N, 1, ..]`, and `coefficients`; outputs are the states' next values and
/// `report` `[2]`: the sum of the losses since the last report began, and the sum of the squares of all gradients.
#[derive(Clone, Debug)]
pub struct TrainingGraph {
    /// The computation.
    pub graph: Graph,
    /// What is trained.
    pub trainable: Vec<Trainable>,
    /// What is carried from step to step.
    pub states: Vec<State>,
}

/// The output that says how far a model was off, `[N, ..]`: its squares are what training makes small.
pub(crate) const DIFFERENCE: &str = "difference";
/// The output that says what else training makes small, `[N, ..]`, in models that learn a variance: added as it is.
pub(crate) const BOUND: &str = "bound";

impl TrainingGraph {
    /// The step that makes the squares of the output `difference` of `model` small, and with them its output `bound` if
    /// it has one, by changing the weights that `pick` names. `kept` chooses what the backward pass finds of the
    /// forward pass.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a node that has no gradient; [`Error::Usage`] if nothing is picked, or something
    /// that does not change the output.
    pub fn new(
        model: &Graph,
        pick: impl Fn(&str) -> bool,
        optimizer: &Optimizer,
        keeps: Keeps,
        kept: impl FnOnce(&Graph) -> Kept,
    ) -> Result<Self> {
        let (mut graph, trainable) = Trainable::of(model, pick)?;
        if trainable.is_empty() {
            return Err(Error::Usage("nothing would be trained: no parameter has a name that was asked for".into()));
        }
        let kept = kept(&graph);
        let difference = graph.find_output(DIFFERENCE).expect("whoever trains a graph names its difference");
        let mut of_sample = vec![1; graph.shape(difference).len()];
        of_sample[0] = graph.shape(difference)[0];
        let loss_weights = graph.input("loss_weights", TensorDesc::f32(of_sample.clone()));
        let gradient_weights = graph.input("gradient_weights", TensorDesc::f32(of_sample));
        let coefficients = graph.input("coefficients", TensorDesc::f32([at::COUNT]));

        // L = Σ w d², dL/dd = 2 w d; the second weights hold the 2, and the loss scale.
        let weighted = graph.mul("loss.weighted", difference, loss_weights)?;
        let mut squares = graph.mul("loss.squares", weighted, difference)?;
        let mut seeds = vec![(difference, graph.mul("loss.gradient", difference, gradient_weights)?)];
        if let Some(bound) = graph.find_output(BOUND) {
            let weighted = graph.mul("loss.bound", bound, loss_weights)?;
            squares = graph.add("loss.both", squares, weighted)?;
            let half = graph.scale("loss.bound.half", bound, 0.0, 0.5)?;
            seeds.push((bound, graph.mul("loss.bound.gradient", half, gradient_weights)?));
        }
        let rank = graph.shape(squares).len();
        let loss = graph.sum("loss.sum", squares, 0, rank)?;
        let loss = graph.reshape("loss", loss, [1])?;

        let wanted: Vec<ValueId> = trainable.iter().map(|parameter| parameter.value).collect();
        let gradients = graph.differentiate_all(&seeds, &wanted, &kept)?;
        let missing = |parameter: &Trainable| {
            Error::Usage(format!("{} cannot be trained: what the model returns does not depend on it", parameter.name))
        };
        let gradients = trainable
            .iter()
            .zip(gradients)
            .map(|(parameter, gradient)| gradient.ok_or_else(|| missing(parameter)))
            .collect::<Result<Vec<_>>>()?;

        let mut update = Update { graph: &mut graph, optimizer, keeps, states: Vec::new() };
        let norm = update.add(&trainable, &gradients, coefficients)?;
        let states = update.states;

        let before = graph.input("losses", TensorDesc::f32([1]));
        let op = MovingAverage { keep: at::KEEP_REPORT, take: at::ONE, decay: 0, squared: false };
        let losses = graph.push("next losses", op, &[Some(before), Some(loss), Some(coefficients), None, None])?;
        graph.output("next losses", losses);
        graph.carry("next losses", "losses")?;
        let report = graph.concat("report", losses, norm, 0)?;
        graph.output("report", report);
        Ok(Self { graph, trainable, states })
    }
}

/// Keeps the sums that end a model's blocks alone, `--checkpointing`: what lies between is computed a second time.
pub fn checkpoints_at(graph: &Graph) -> Kept {
    const ENDS: [&str; 6] = ["add_shortcut", "add_residual", "attn1.add", "attn2.add", "ff.add", "rescale"];
    let ends = graph.values().filter(|(_, node)| ENDS.iter().any(|end| node.name.ends_with(end)));
    let mut kept: HashSet<ValueId> = ends.map(|(id, _)| id).collect();
    // What the whole model shares is small, and would be computed again for every block.
    let shared = ["conv_in", "temb.act", "time_embedding", "class_embedding", "add_embedding"];
    kept.extend(
        graph.values().filter(|(_, node)| shared.iter().any(|name| node.name.starts_with(name))).map(|(id, _)| id),
    );
    Kept::Only(kept)
}
