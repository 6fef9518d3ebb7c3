//! Reverse-mode differentiation: a gradient is a graph like any other.
//!
//! [`Graph::differentiate`] walks from a value back to what it was computed from. Each operation says with operations
//! what its inputs get of the gradient of its result, its vector-Jacobian product: [`crate::ops::Operation::gradient`].
//! So a backward pass is planned, stored in shared slots and run by the same kernels as a forward pass, and whatever
//! makes a product faster makes training faster. Griewank and Walther 2008, "Evaluating Derivatives", chapter 3.

use std::collections::{HashMap, HashSet};

use super::ir::{Graph, NodeKind, ValueId};
use crate::error::{Error, Result};
use crate::ops::Op;
use crate::tensor::DType;

/// Which values of the forward pass are kept for the backward pass; the others are computed a second time from those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// All that are needed.
    #[default]
    All,
    /// Those alone, besides inputs and parameters: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    Only(HashSet<ValueId>),
}

/// What an operation sees when it is asked for its vector-Jacobian product.
pub struct Backward<'a> {
    /// The graph that grows.
    pub graph: &'a mut Graph,
    /// The gradient of the result; its shape.
    pub dy: ValueId,
    node: ValueId,
    wanted: &'a [bool],
    recomputed: &'a mut HashMap<ValueId, ValueId>,
    kept: &'a Kept,
}

impl Backward<'_> {
    /// The inputs of the operation, by position.
    fn inputs(&self) -> &[Option<ValueId>] {
        match &self.graph.node(self.node).kind {
            NodeKind::Op(_, inputs) => inputs,
            _ => unreachable!("only operations are differentiated"),
        }
    }

    /// Whether the input at `position` is there and its gradient is asked for.
    pub fn wants(&self, position: usize) -> bool {
        self.inputs()[position].is_some_and(|input| self.wanted[input.index()])
    }

    /// Whether the optional input at `position` is there.
    pub fn has(&self, position: usize) -> bool {
        self.inputs()[position].is_some()
    }

    /// Shape of the input at `position`, which is there.
    pub fn shape(&self, position: usize) -> Vec<usize> {
        self.graph.shape(self.inputs()[position].expect("asked for an input that is there")).to_vec()
    }

    /// Element type of the input at `position`, which is there.
    pub fn dtype(&self, position: usize) -> DType {
        self.graph.desc(self.inputs()[position].expect("asked for an input that is there")).dtype
    }

    /// The input at `position`, which is there: as the forward pass computed it, or computed again.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn input(&mut self, position: usize) -> Result<ValueId> {
        let input = self.inputs()[position].expect("asked for an input that is there");
        self.forward(input)
    }

    /// The optional input at `position`.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn optional(&mut self, position: usize) -> Result<Option<ValueId>> {
        self.inputs()[position].map(|input| self.forward(input)).transpose()
    }

    /// The result of the operation.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn output(&mut self) -> Result<ValueId> {
        self.forward(self.node)
    }

    /// `NODE.d_WHAT`, the name of something that belongs to this operation's gradient.
    pub fn name(&self, what: &str) -> String {
        format!("{}.d_{what}", self.graph.node(self.node).name)
    }

    /// Refuses what has no gradient here.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the operation, the node and `what`, always.
    pub fn refuse<T>(&self, what: &str) -> Result<T> {
        let node = self.graph.node(self.node);
        let op = node.op().map_or("input", Op::name);
        Err(Error::Unsupported(format!("{} ({op}): no gradient of {what}", node.name)))
    }

    /// The sum of `value` over the dimensions along which a tensor of `shape` was repeated to make it.
    ///
    /// # Errors
    /// As [`Graph::push`].
    pub fn sum_to(&mut self, what: &str, value: ValueId, shape: &[usize]) -> Result<ValueId> {
        let name = self.name(what);
        self.graph.sum_to(&name, value, shape)
    }

    /// A value of the forward pass, computed again if it was not kept.
    fn forward(&mut self, value: ValueId) -> Result<ValueId> {
        let Kept::Only(kept) = self.kept else { return Ok(value) };
        let node = self.graph.node(value);
        let NodeKind::Op(op, inputs) = &node.kind else { return Ok(value) };
        if kept.contains(&value) {
            return Ok(value);
        }
        if let Some(again) = self.recomputed.get(&value) {
            return Ok(*again);
        }
        let (name, op, inputs) = (format!("{}.again", node.name), op.clone(), inputs.clone());
        let inputs = inputs.into_iter().map(|v| v.map(|v| self.forward(v)).transpose()).collect::<Result<Vec<_>>>()?;
        let again = self.graph.push(name, op, &inputs)?;
        self.recomputed.insert(value, again);
        Ok(again)
    }
}

impl Graph {
    /// Adds the gradient of a number with respect to each of `wanted`, given `dy`, its gradient with respect to `y`.
    /// The result has an entry for each of `wanted`, of its shape and in the element type in which it is stored; `None`
    /// where `y` does not depend on it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the node and its operation, if one on the way has no gradient.
    ///
    /// # Panics
    /// If `dy` has another shape than `y`.
    pub fn differentiate(
        &mut self,
        y: ValueId,
        dy: ValueId,
        wanted: &[ValueId],
        kept: &Kept,
    ) -> Result<Vec<Option<ValueId>>> {
        self.differentiate_all(&[(y, dy)], wanted, kept)
    }

    /// As [`Graph::differentiate`], of a number that depends on several values: each of them with its gradient.
    ///
    /// # Errors
    /// As [`Graph::differentiate`].
    ///
    /// # Panics
    /// If a gradient has another shape than its value, or a value is there twice.
    pub fn differentiate_all(
        &mut self,
        outputs: &[(ValueId, ValueId)],
        wanted: &[ValueId],
        kept: &Kept,
    ) -> Result<Vec<Option<ValueId>>> {
        let mut gradients = HashMap::new();
        for (y, dy) in outputs {
            assert_eq!(self.shape(*y), self.shape(*dy), "a gradient has the shape of what it belongs to");
            assert!(gradients.insert(*y, *dy).is_none(), "a value has one gradient");
        }
        let count = outputs.iter().map(|(y, _)| y.index() + 1).max().unwrap_or(0);
        // Forward: what depends on any of `wanted`.
        let mut depends = vec![false; count];
        wanted.iter().filter(|v| v.index() < count).for_each(|v| depends[v.index()] = true);
        let ids: Vec<ValueId> = self.values().map(|(id, _)| id).take(count).collect();
        for id in &ids {
            depends[id.index()] |= self.node(*id).inputs().any(|input| depends[input.index()]);
        }
        // Backward: whoever reads a value comes after it, so its gradient is complete when its turn comes.
        let mut recomputed = HashMap::new();
        for id in ids.into_iter().rev() {
            if !depends[id.index()] || wanted.contains(&id) {
                continue;
            }
            let Some(dy) = gradients.remove(&id) else { continue };
            let NodeKind::Op(op, inputs) = self.node(id).kind.clone() else { continue };
            let mut back = Backward { graph: self, dy, node: id, wanted: &depends, recomputed: &mut recomputed, kept };
            let of_inputs = op.gradient(&mut back)?;
            for (input, gradient) in inputs.into_iter().zip(of_inputs) {
                let (Some(input), Some(gradient)) = (input, gradient) else { continue };
                if !depends[input.index()] {
                    continue;
                }
                let name = format!("{}.d", self.node(input).name);
                let gradient = self.cast(format!("{name}.cast"), gradient, self.desc(input).dtype)?;
                let sum = match gradients.get(&input) {
                    Some(before) => self.add(name, *before, gradient)?,
                    None => gradient,
                };
                gradients.insert(input, sum);
            }
        }
        Ok(wanted.iter().map(|v| gradients.get(v).copied()).collect())
    }

    /// The sum of `value` over the dimensions along which numpy's rules repeat a tensor of `shape` to make one of
    /// `value`'s.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not.
    pub fn sum_to(&mut self, name: &str, value: ValueId, shape: &[usize]) -> Result<ValueId> {
        let from = self.shape(value).to_vec();
        let Some(missing) = from.len().checked_sub(shape.len()) else {
            return Err(Error::Shape(format!("{name}: {shape:?} has more dimensions than {from:?}")));
        };
        let target = [&vec![1; missing][..], shape].concat();
        // Neighbouring dimensions that are summed go in one.
        let mut value = value;
        let mut end = from.len();
        while end > 0 {
            let summed = |d: usize| target[d] != self.shape(value)[d];
            if !summed(end - 1) {
                end -= 1;
                continue;
            }
            let start = (0..end).rev().take_while(|d| summed(*d)).last().expect("the last one is");
            if target[start..end].iter().any(|size| *size != 1) {
                return Err(Error::Shape(format!("{name}: {shape:?} does not broadcast to {from:?}")));
            }
            value = self.sum(name, value, start, end)?;
            end = start;
        }
        self.reshape(format!("{name}.reshape"), value, shape)
    }
}
