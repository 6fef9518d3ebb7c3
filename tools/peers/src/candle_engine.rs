//! candle on the CPU.

use candle_core::{Device, Tensor};

use crate::{Engine, Problem, Shape};

struct Candle {
    compute: Box<dyn Fn() -> candle_core::Result<Tensor>>,
    last: Option<Tensor>,
}

impl Engine for Candle {
    fn run(&mut self) {
        self.last = Some((self.compute)().expect("candle runs"));
    }

    fn output(&mut self) -> Vec<f32> {
        let last = self.last.take().expect("it ran");
        last.flatten_all().and_then(|flat| flat.to_vec1()).expect("f32")
    }
}

pub fn new(problem: &Problem) -> Box<dyn Engine> {
    let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).expect("fits");
    let compute: Box<dyn Fn() -> candle_core::Result<Tensor>> = match problem.shape {
        Shape::Linear { m, k, n } => {
            let (x, w) = (tensor(&problem.x, &[m, k]), tensor(&problem.w, &[k, n]));
            Box::new(move || x.matmul(&w))
        }
        Shape::Conv { h, w, c, n } => {
            let (x, w) = (tensor(&problem.x, &[1, c, h, w]), tensor(&problem.w, &[n, c, 3, 3]));
            Box::new(move || x.conv2d(&w, 1, 1, 1, 1))
        }
        Shape::Attention { t, s, heads, d } => {
            let q = tensor(&problem.x, &[1, heads, t, d]);
            let k = tensor(&problem.w, &[1, heads, s, d]);
            let v = tensor(&problem.v, &[1, heads, s, d]);
            Box::new(move || {
                let scores = (q.matmul(&k.t()?)? * (d as f64).powf(-0.5))?;
                candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)
            })
        }
    };
    Box::new(Candle { compute, last: None })
}
