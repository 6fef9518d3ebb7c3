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

use super::NoiseSource;
use super::seed_sequence::seeds;
use crate::HostTensor;
use crate::parallel::*;

/// A path of as many independent Brownian motions as a tensor has elements.
pub struct BrownianTree {
    /// Draws the numbers of a node, once it has the node's seed.
    source: Box<dyn NoiseSource>,
    entropy: u64,
    shape: Vec<usize>,
    root: Node,
    /// The increment over the whole interval.
    whole: Vec<f32>,
    /// The normal numbers of the nodes on the way to the last times asked for: the next ones are near.
    drawn: HashMap<Place, Vec<f32>>,
}

/// Depth d, and which one of the 2^d nodes there, from the left.
type Place = (u32, u128);

/// An interval of time, and its place in the tree.
#[derive(Clone, Copy)]
struct Node {
    place: Place,
    start: f64,
    end: f64,
}

impl Node {
    /// Where its halves meet.
    fn middle(&self) -> f64 {
        rounded(0.5 * (self.end + self.start))
    }

    fn halves(&self) -> [Self; 2] {
        let ((depth, index), middle) = (self.place, self.middle());
        [
            Self { place: (depth + 1, 2 * index), start: self.start, end: middle },
            Self { place: (depth + 1, 2 * index + 1), start: middle, end: self.end },
        ]
    }

    /// Whether it must be halved to know what lies between two times. What is too short for that is one interval.
    fn splits(&self, from: f64, to: f64) -> bool {
        let middle = self.middle();
        let whole = from <= self.start && to >= self.end;
        !whole && self.start < middle && middle < self.end
    }

    fn overlaps(&self, from: f64, to: f64) -> bool {
        from.max(self.start) < to.min(self.end)
    }
}

impl BrownianTree {
    /// The path between the times `start` and `end` that `torchsde.BrownianTree(t0=start, t1=end, entropy=seed)` has,
    /// with noise of the kind that `source` draws.
    pub fn new(source: &impl NoiseSource, seed: u64, start: f64, end: f64, shape: &[usize]) -> Self {
        let source = source.seeded(seed);
        let [whole_seed] = seeds(seed, &[]);
        let deviation = (end - start).sqrt() as f32;
        let mut whole = source.seeded(whole_seed.into()).randn(shape).data;
        whole.iter_mut().for_each(|x| *x *= deviation);
        let root = Node { place: (0, 0), start: rounded(start), end: rounded(end) };
        Self { source, entropy: seed, shape: shape.to_vec(), root, whole, drawn: HashMap::new() }
    }

    /// W(`to`) − W(`from`), for times in ascending order. Beyond the ends of the path nothing moves.
    pub fn increment(&mut self, from: f64, to: f64) -> HostTensor {
        let [from, to] = [from, to].map(|time| rounded(time.clamp(self.root.start, self.root.end)));
        self.draw(from, to);
        let mut sum = None;
        if from < to {
            self.add(self.root, &self.whole, from, to, &mut sum);
        }
        HostTensor { shape: self.shape.clone(), data: sum.unwrap_or_else(|| vec![0.0; self.whole.len()]) }
    }

    /// Draws the numbers of every node that is halved on the way to two times, and forgets those of others.
    fn draw(&mut self, from: f64, to: f64) {
        let mut places = vec![];
        let mut open = vec![self.root];
        while let Some(node) = open.pop() {
            if node.overlaps(from, to) && node.splits(from, to) {
                places.push(node.place);
                open.extend(node.halves());
            }
        }
        let mut known = std::mem::take(&mut self.drawn);
        let (old, new): (Vec<Place>, Vec<Place>) = places.into_iter().partition(|place| known.contains_key(place));
        let source = |(depth, index): Place| {
            let [seed] = seeds(self.entropy, &[index, depth.into()]);
            ((depth, index), self.source.seeded(seed.into()))
        };
        let sources: Vec<_> = new.into_iter().map(source).collect();
        let shape = &self.shape;
        self.drawn = sources.into_par_iter().map(|(place, mut source)| (place, source.randn(shape).data)).collect();
        self.drawn.extend(old.into_iter().filter_map(|place| known.remove_entry(&place)));
    }

    /// Adds what `node` has between two times; over the whole node the path moves by `increment`.
    fn add(&self, node: Node, increment: &[f32], from: f64, to: f64, sum: &mut Option<Vec<f32>>) {
        if !node.overlaps(from, to) {
            return;
        }
        if !node.splits(from, to) {
            match sum {
                None => *sum = Some(increment.to_vec()),
                Some(sum) => sum.iter_mut().zip(increment).for_each(|(sum, x)| *sum += x),
            }
            return;
        }
        let [left, right] = node.halves();
        let left_increment = self.left_half(node, increment);
        self.add(left, &left_increment, from, to, sum);
        if right.overlaps(from, to) {
            let right_increment: Vec<f32> =
                increment.iter().zip(left_increment).map(|(all, left)| all - left).collect();
            self.add(right, &right_increment, from, to, sum);
        }
    }

    /// The bridge: given the increment over the node, the one over its left half is normal with the mean l/(l + r) of
    /// it and the variance l r/(l + r), l and r being the lengths of the halves.
    fn left_half(&self, node: Node, increment: &[f32]) -> Vec<f32> {
        let (l, r, reciprocal) = (node.middle() - node.start, node.end - node.middle(), 1.0 / (node.end - node.start));
        let deviation = (l * r * reciprocal).sqrt() as f32;
        let mean = |increment: f32| increment * l as f32 * reciprocal as f32;
        let noise = &self.drawn[&node.place];
        increment.iter().zip(noise).map(|(increment, noise)| mean(*increment) + deviation * noise).collect()
    }
}

/// A time as the tree knows it: Python's `round(time, 6)`, which looks at the exact decimal expansion.
fn rounded(time: f64) -> f64 {
    format!("{time:.6}").parse().unwrap_or(time)
}
