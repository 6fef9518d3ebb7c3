//! burn on wgpu: on the Vulkan driver, with its own SPIR-V or, where `BURN_WGSL` is set, through WGSL.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, module};

use crate::{Engine, Problem, Shape};

struct Burn {
    compute: Box<dyn Fn() -> Vec<f32>>,
    last: Vec<f32>,
}

impl Engine for Burn {
    fn run(&mut self) {
        self.last = (self.compute)();
    }

    fn output(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.last)
    }
}

/// The output is read back, since burn has no other way to wait for one result; that is at most a few per cent.
pub fn new(problem: &Problem) -> Box<dyn Engine> {
    let device = Device::vulkan(Default::default());
    let data = |values: &[f32], shape: &[usize]| TensorData::new(values.to_vec(), shape.to_vec());
    fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().to_vec::<f32>().expect("f32")
    }
    let compute: Box<dyn Fn() -> Vec<f32>> = match problem.shape {
        Shape::Linear { m, k, n } => {
            let x = Tensor::<2>::from_data(data(&problem.x, &[m, k]), &device);
            let w = Tensor::<2>::from_data(data(&problem.w, &[k, n]), &device);
            Box::new(move || read(x.clone().matmul(w.clone())))
        }
        Shape::Conv { h, w, c, n } => {
            let x = Tensor::<4>::from_data(data(&problem.x, &[1, c, h, w]), &device);
            let w = Tensor::<4>::from_data(data(&problem.w, &[n, c, 3, 3]), &device);
            let options = || ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
            Box::new(move || read(module::conv2d(x.clone(), w.clone(), None, options())))
        }
        Shape::Attention { t, s, heads, d } => {
            let q = Tensor::<4>::from_data(data(&problem.x, &[1, heads, t, d]), &device);
            let k = Tensor::<4>::from_data(data(&problem.w, &[1, heads, s, d]), &device);
            let v = Tensor::<4>::from_data(data(&problem.v, &[1, heads, s, d]), &device);
            Box::new(move || {
                read(module::attention(q.clone(), k.clone(), v.clone(), None, None, Default::default()))
            })
        }
    };
    Box::new(Burn { compute, last: Vec::new() })
}
