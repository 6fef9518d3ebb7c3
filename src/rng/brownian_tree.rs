//! torchsde's `BrownianTree`: a path of Brownian motion that can be asked for its increment between any two times, in
//! any order, and always answers with the same path (Li et al. 2020, "Scalable Gradients for Stochastic Differential
//! Equations", arXiv:2001.01328, section 4).
//!
//! The path over the whole interval comes first. Then intervals are halved, and the path's value in the middle is drawn
//! given the values at both ends (a Brownian bridge), until the times that are asked for are reached, to six decimals.
//! Each node of this binary tree has a seed of its own, which follows from the path's seed and the node's place, so
//! that nothing needs to be remembered.
//!
//! torch does this in float32; the operations here are the same in the same order, so that results are equal bit for
//! bit with [`TorchCpu`](super::TorchCpu) as source.

use std::collections::HashMap;
use std::rc::Rc;

use super::NoiseSource;
use super::seed_sequence::seeds;
use crate::HostTensor;

/// A path of as many independent Brownian motions as a tensor has elements.
pub struct BrownianTree {
    /// Draws the numbers of a node, once it has the node's seed.
    source: Box<dyn NoiseSource>,
    entropy: u64,
    shape: Vec<usize>,
    root: Node,
    /// The increment over the whole interval.
    whole: Rc<[f32]>,
    /// The increments over the left halves of the nodes on the way to the last times asked for: the next ones are near.
    left_halves: HashMap<(u32, u128), Rc<[f32]>>,
}

/// An interval of time, and its place in the tree: at depth d, the `index`-th of 2^d from the left.
#[derive(Clone, Copy)]
struct Node {
    depth: u32,
    index: u128,
    start: f64,
    end: f64,
}

impl Node {
    /// Where its halves meet.
    fn middle(&self) -> f64 {
        rounded(0.5 * (self.end + self.start))
    }

    fn left(&self) -> Self {
        Self { depth: self.depth + 1, index: 2 * self.index, start: self.start, end: self.middle() }
    }

    fn right(&self) -> Self {
        Self { depth: self.depth + 1, index: 2 * self.index + 1, start: self.middle(), end: self.end }
    }
}

impl BrownianTree {
    /// The path between the times `start` and `end` that `torchsde.BrownianTree(t0=start, t1=end, entropy=seed)` has,
    /// with noise of the kind that `source` draws.
    pub fn new(source: &impl NoiseSource, seed: u64, start: f64, end: f64, shape: &[usize]) -> Self {
        let [whole_seed] = seeds(seed, &[]);
        let mut tree = Self {
            source: source.seeded(seed),
            entropy: seed,
            shape: shape.to_vec(),
            root: Node { depth: 0, index: 0, start: rounded(start), end: rounded(end) },
            whole: [].into(),
            left_halves: HashMap::new(),
        };
        let deviation = (end - start).sqrt() as f32;
        tree.whole = tree.normal(whole_seed).into_iter().map(|x| x * deviation).collect();
        tree
    }

    /// W(`to`) − W(`from`), for times in ascending order. Beyond the ends of the path nothing moves.
    pub fn increment(&mut self, from: f64, to: f64) -> HostTensor {
        let [from, to] = [from, to].map(|time| rounded(time.clamp(self.root.start, self.root.end)));
        let mut sum = Sum { from, to, left_halves: HashMap::new(), total: None };
        if from < to {
            self.add(self.root, &self.whole.clone(), &mut sum);
        }
        self.left_halves = sum.left_halves;
        let data = sum.total.unwrap_or_else(|| vec![0.0; self.whole.len()]);
        HostTensor { shape: self.shape.clone(), data }
    }

    /// Adds what `node` has between the times of `sum`; over the whole node the path moves by `increment`.
    fn add(&mut self, node: Node, increment: &Rc<[f32]>, sum: &mut Sum) {
        let (from, to) = (sum.from.max(node.start), sum.to.min(node.end));
        if from >= to {
            return;
        }
        let middle = node.middle();
        if (from, to) == (node.start, node.end) || middle <= node.start || middle >= node.end {
            match &mut sum.total {
                None => sum.total = Some(increment.to_vec()),
                Some(total) => total.iter_mut().zip(increment.iter()).for_each(|(total, x)| *total += x),
            }
            return;
        }
        let left = self.left_half(node, middle, increment);
        sum.left_halves.insert((node.depth, node.index), left.clone());
        self.add(node.left(), &left, sum);
        if to > middle {
            let right = increment.iter().zip(left.iter()).map(|(whole, left)| whole - left).collect();
            self.add(node.right(), &right, sum);
        }
    }

    /// The bridge: given the increment over the node, the one over its left half is normal with the mean l/(l + r) of
    /// it and the variance l r/(l + r), l and r being the lengths of the halves.
    fn left_half(&mut self, node: Node, middle: f64, increment: &[f32]) -> Rc<[f32]> {
        if let Some(known) = self.left_halves.get(&(node.depth, node.index)) {
            return known.clone();
        }
        let (l, r, reciprocal) = (middle - node.start, node.end - middle, 1.0 / (node.end - node.start));
        let deviation = (l * r * reciprocal).sqrt() as f32;
        let [seed] = seeds(self.entropy, &[node.index, node.depth.into()]);
        let noise = self.normal(seed);
        let mean = |increment: f32| increment * l as f32 * reciprocal as f32;
        increment.iter().zip(noise).map(|(increment, noise)| mean(*increment) + deviation * noise).collect()
    }

    fn normal(&self, seed: u32) -> Vec<f32> {
        self.source.seeded(seed.into()).randn(&self.shape).data
    }
}

/// What is gathered on a walk through the tree.
struct Sum {
    from: f64,
    to: f64,
    left_halves: HashMap<(u32, u128), Rc<[f32]>>,
    total: Option<Vec<f32>>,
}

/// A time as the tree knows it: Python's `round(time, 6)`, which looks at the exact decimal expansion.
fn rounded(time: f64) -> f64 {
    format!("{time:.6}").parse().unwrap_or(time)
}
