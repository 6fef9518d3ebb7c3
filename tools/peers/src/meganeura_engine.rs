//! meganeura, on Vulkan.

use meganeura::{Graph, SessionConfig};

use crate::{Engine, Problem, Shape};

struct Meganeura {
    session: meganeura::Session,
    /// Of attention, whose heads lie side by side there: [T, heads, D].
    heads: Option<[usize; 3]>,
    length: usize,
}

impl Engine for Meganeura {
    fn run(&mut self) {
        self.session.step();
        self.session.wait();
    }

    fn output(&mut self) -> Vec<f32> {
        let found = self.session.read_output(self.length);
        self.heads.map_or_else(|| found.clone(), |[t, heads, d]| swapped(&found, [t, heads, d]))
    }
}

/// [a, b, c] as [b, a, c].
fn swapped(values: &[f32], [a, b, c]: [usize; 3]) -> Vec<f32> {
    let runs = (0..b).flat_map(|j| (0..a).map(move |i| (i * b + j) * c));
    runs.flat_map(|at| values[at..at + c].iter().copied()).collect()
}

pub fn new(problem: &Problem) -> Box<dyn Engine> {
    let mut graph = Graph::new();
    let (output, inputs, heads, length) = match problem.shape {
        Shape::Linear { m, k, n } => {
            let x = graph.input("x", &[m, k]);
            let w = graph.parameter("w", &[k, n]);
            (graph.matmul(x, w), vec![("x", problem.x.clone())], None, m * n)
        }
        Shape::Conv { h, w: width, c, n } => {
            let x = graph.input("x", &[c * h * width]);
            let w = graph.parameter("w", &[n * c * 9]);
            let [c32, h32, w32, n32] = [c, h, width, n].map(|size| size as u32);
            let y = graph.conv2d(x, w, 1, c32, h32, w32, n32, 3, 3, 1, 1);
            (y, vec![("x", problem.x.clone())], None, n * h * width)
        }
        Shape::Attention { t, s, heads, d } => {
            let q = graph.input("q", &[t, heads * d]);
            let k = graph.input("k", &[s, heads * d]);
            let v = graph.input("v", &[s, heads * d]);
            let [heads32, d32] = [heads, d].map(|size| size as u32);
            let y = if t == s {
                graph.full_attention(q, k, v, heads32, heads32, d32)
            } else {
                graph.cross_attention(q, k, v, heads32, heads32, d32)
            };
            let inputs = [("q", &problem.x, t), ("k", &problem.w, s), ("v", &problem.v, s)];
            let inputs = inputs.map(|(name, values, length)| (name, swapped(values, [heads, length, d])));
            (y, inputs.to_vec(), Some([t, heads, d]), t * heads * d)
        }
    };
    graph.set_outputs(vec![output]);
    let mut session = meganeura::build(&graph, SessionConfig::inference_from_env()).0;
    for (name, values) in &inputs {
        session.set_input(name, values);
    }
    if !matches!(problem.shape, Shape::Attention { .. }) {
        session.set_parameter("w", &problem.w);
    }
    Box::new(Meganeura { session, heads, length })
}
