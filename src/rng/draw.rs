//! What a step of a scheduler draws.

use super::{BrownianTree, NoiseSource, randn_tensor};
use crate::HostTensor;

/// The noise of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// None.
    None,
    /// Independent of everything before, from the run's own source, which advances.
    Fresh,
    /// The way of a Brownian path between two noise levels, divided by the square root of their distance.
    Brownian(Increment),
}

/// A part of a Brownian path over the noise levels of a run. It depends on the path's seed and the levels alone, so
/// that a run with more steps follows the same path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Increment {
    /// The smallest and the largest level of the path.
    pub range: [f64; 2],
    /// The level before the step.
    pub from: f64,
    /// The level after it.
    pub to: f64,
    /// The seed of the path (diffusers' `noise_sampler_seed`). Without it the path has its source's seed.
    pub seed: Option<u64>,
}

impl Draw {
    /// Fresh noise or none.
    pub fn fresh_if(drawn: bool) -> Self {
        if drawn { Self::Fresh } else { Self::None }
    }
}

/// Draws the noise of a run's steps, one after the other. As in [`randn_tensor`], one source is for the whole batch,
/// and several are for one batch element each; so are the Brownian paths, one for each source.
pub struct StepNoise<'a, S> {
    sources: &'a mut [S],
    trees: Vec<BrownianTree>,
}

impl<'a, S: NoiseSource> StepNoise<'a, S> {
    /// For one run; every [`Increment`] of it must be of one path.
    pub fn new(sources: &'a mut [S]) -> Self {
        Self { sources, trees: vec![] }
    }

    /// The noise of the next step, of `shape` `[N, ..]`, if it draws some.
    ///
    /// # Panics
    /// As [`randn_tensor`].
    pub fn draw(&mut self, draw: Draw, shape: &[usize]) -> Option<HostTensor> {
        match draw {
            Draw::None => None,
            Draw::Fresh => Some(randn_tensor(self.sources, shape)),
            Draw::Brownian(increment) => Some(self.brownian(&increment, shape)),
        }
    }

    /// The forward process through steps of these β, each with fresh noise of `shape`: the factor that is left of the
    /// sample, and all that is added to it.
    ///
    /// # Panics
    /// As [`randn_tensor`].
    pub fn forward(&mut self, betas: &[f64], shape: &[usize]) -> (f64, HostTensor) {
        let (mut kept, mut added) = (1.0, HostTensor::zeros(shape));
        for beta in betas {
            let (signal, noise) = ((1.0 - beta).sqrt(), beta.sqrt());
            kept *= signal;
            let drawn = randn_tensor(self.sources, shape);
            for (sum, z) in added.data.iter_mut().zip(&drawn.data) {
                *sum = (signal * f64::from(*sum) + noise * f64::from(*z)) as f32;
            }
        }
        (kept, added)
    }

    fn brownian(&mut self, increment: &Increment, shape: &[usize]) -> HostTensor {
        let &Increment { range: [low, high], from, to, seed } = increment;
        if self.trees.is_empty() {
            let count = self.sources.len();
            assert!(count == 1 || count == shape[0], "one noise source for each batch element");
            let own_shape = [&[shape[0] / count], &shape[1..]].concat();
            let tree =
                |source: &S| BrownianTree::new(source, seed.unwrap_or_else(|| source.seed()), low, high, &own_shape);
            self.trees = self.sources.iter().map(tree).collect();
        }
        // Divided in float32, as torch does, and by the distance before the tree rounds the levels.
        let scale = ((to - from).abs() as f32).sqrt().copysign((to - from) as f32);
        let between = |tree: &mut BrownianTree| tree.increment(from.min(to), from.max(to)).data;
        let data = self.trees.iter_mut().flat_map(between).map(|x| if scale == 0.0 { 0.0 } else { x / scale });
        HostTensor { shape: shape.to_vec(), data: data.collect() }
    }
}
