//! Times one operation of one other engine: `peers ENGINE SHAPE SECONDS`, as `peers burn conv:64x64x320:320 2`.
//!
//! Prints one line: the least and the median wall time of a run, the processor time of a run, and the largest error at
//! some elements against f64, relative to the largest value. See `tools/peers/compare.py`.

use std::time::{Duration, Instant};

#[cfg(feature = "burn")]
mod burn_engine;
#[cfg(feature = "candle")]
mod candle_engine;
#[cfg(feature = "meganeura")]
mod meganeura_engine;

/// An operation of Stable Diffusion's U-Net, without bias.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `linear:MxKxN`: x [M, K] times weights [N, K], or [K, N] where the engine prefers that.
    Linear { m: usize, k: usize, n: usize },
    /// `conv:HxWxC:N`: 3 × 3, padding 1, stride 1. Channels come first in all these engines.
    Conv { h: usize, w: usize, c: usize, n: usize },
    /// `attention:TxSxHxD`: queries, keys, heads, channels of a head.
    Attention { t: usize, s: usize, heads: usize, d: usize },
}

impl Shape {
    fn parse(text: &str) -> Option<Self> {
        let (kind, sizes) = text.split_once(':')?;
        let sizes: Vec<usize> = sizes.split(['x', ':']).map(|n| n.parse().ok()).collect::<Option<_>>()?;
        match (kind, sizes[..].try_into()) {
            ("linear", Err(_)) if sizes.len() == 3 => {
                Some(Self::Linear { m: sizes[0], k: sizes[1], n: sizes[2] })
            }
            ("conv", Ok([h, w, c, n])) => Some(Self::Conv { h, w, c, n }),
            ("attention", Ok([t, s, heads, d])) => Some(Self::Attention { t, s, heads, d }),
            _ => None,
        }
    }
}

/// Numbers from -0.5 to 0.5, always the same.
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..count).map(next).collect()
}

/// Inputs in the layouts that the engines here share, and the operation's value at any place of its output.
pub struct Problem {
    /// The operation.
    pub shape: Shape,
    /// x [M, K]; x [C, H, W]; or queries [heads, T, D].
    pub x: Vec<f32>,
    /// Weights [K, N] or [N, C, 3, 3]; or keys [heads, S, D].
    pub w: Vec<f32>,
    /// Values [heads, S, D], or nothing.
    pub v: Vec<f32>,
}

impl Problem {
    fn new(shape: Shape) -> Self {
        let (x, w, v) = match shape {
            Shape::Linear { m, k, n } => (m * k, k * n, 0),
            Shape::Conv { h, w, c, n } => (h * w * c, 9 * c * n, 0),
            Shape::Attention { t, s, heads, d } => (t * heads * d, s * heads * d, s * heads * d),
        };
        Self { shape, x: numbers(x, 1), w: numbers(w, 2), v: numbers(v, 3) }
    }

    fn expected(&self, index: usize) -> f64 {
        let product = |a: f32, b: f32| f64::from(a) * f64::from(b);
        match self.shape {
            Shape::Linear { k, n, .. } => {
                let (row, column) = (index / n, index % n);
                (0..k).map(|i| product(self.x[row * k + i], self.w[i * n + column])).sum()
            }
            Shape::Conv { h, w, c, .. } => {
                let [channel, row, column] = [index / (h * w), index / w % h, index % w];
                let mut sum = 0.0;
                for (tap, input) in (0..9).flat_map(|tap| (0..c).map(move |input| (tap, input))) {
                    let (y, x) = (row + tap / 3, column + tap % 3);
                    if (1..=h).contains(&y) && (1..=w).contains(&x) {
                        let x = self.x[(input * h + y - 1) * w + x - 1];
                        sum += product(x, self.w[(channel * c + input) * 9 + tap]);
                    }
                }
                sum
            }
            Shape::Attention { t, s, d, .. } => {
                let [head, query, channel] = [index / (t * d), index / d % t, index % d];
                let q = &self.x[(head * t + query) * d..][..d];
                let key = |j: usize| &self.w[(head * s + j) * d..][..d];
                let score = |j: usize| q.iter().zip(key(j)).map(|(a, b)| product(*a, *b)).sum::<f64>();
                let weights: Vec<f64> = (0..s).map(|j| (score(j) / (d as f64).sqrt()).exp()).collect();
                let value = |j: usize| f64::from(self.v[(head * s + j) * d + channel]);
                weights.iter().enumerate().map(|(j, w)| w * value(j)).sum::<f64>() / weights.iter().sum::<f64>()
            }
        }
    }

    /// The largest error at 64 elements over the largest of their values.
    fn error(&self, output: &[f32]) -> f64 {
        let places = (0..64).map(|i| i * 7919 * 131 % output.len());
        let pairs: Vec<_> = places.map(|i| (self.expected(i), f64::from(output[i]))).collect();
        let largest = pairs.iter().map(|(expected, _)| expected.abs()).fold(0.0, f64::max);
        pairs.iter().map(|(expected, found)| (expected - found).abs() / largest).fold(0.0, f64::max)
    }
}

/// Something that can be run again and again.
pub trait Engine {
    /// Runs it to the end.
    fn run(&mut self);
    /// What the last run computed, in the order of [`Problem`].
    fn output(&mut self) -> Vec<f32>;
}

/// Processor time of this process so far, all its threads.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = text.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number");
    Duration::from_millis(10 * ticks)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, shape, seconds] = &arguments[..] else { panic!("expected ENGINE SHAPE SECONDS") };
    let problem = Problem::new(Shape::parse(shape).expect("linear:MxKxN, conv:HxWxC:N or attention:TxSxHxD"));
    let mut engine: Box<dyn Engine> = match engine.as_str() {
        #[cfg(feature = "burn")]
        "burn" => burn_engine::new(&problem),
        #[cfg(feature = "candle")]
        "candle" => candle_engine::new(&problem),
        #[cfg(feature = "meganeura")]
        "meganeura" => meganeura_engine::new(&problem),
        other => panic!("{other} is not built in: cargo build --release --features {other}"),
    };
    engine.run(); // compiles, and chooses kernels where the engine does that
    let error = problem.error(&engine.output());
    let limit = Duration::from_secs_f64(seconds.parse().expect("seconds"));
    let (begin, before) = (Instant::now(), processor());
    let mut walls = Vec::new();
    while walls.len() < 3 || begin.elapsed() < limit && walls.len() < 1000 {
        let start = Instant::now();
        engine.run();
        walls.push(start.elapsed().as_secs_f64());
    }
    let processor = (processor() - before).as_secs_f64() / walls.len() as f64;
    walls.sort_by(f64::total_cmp);
    println!("{:.6} {:.6} {processor:.6} {error:.2e}", walls[0], walls[walls.len() / 2]);
}
