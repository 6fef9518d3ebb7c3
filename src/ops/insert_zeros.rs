//! Pixels moved apart, with zeros between them.

use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, expect_rank, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// `y[n, stride · h, stride · w, c] = x[n, h, w, c]`, zero elsewhere: what a convolution with a stride passes back
/// through. Input `[N, H, W, C]`, output `[N, (H − 1) · stride + 1, .., C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertZeros {
    /// Distance of two pixels in the result, vertical and horizontal.
    pub stride: [usize; 2],
}

impl Operation for InsertZeros {
    const NAME: &'static str = "insert_zeros";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let [n, h, w, c] = expect_rank("x", x)?;
        if h == 0 || w == 0 || self.stride.contains(&0) {
            return Err(Error::Shape(format!("x {:?} has no pixels to move apart by {:?}", x.shape, self.stride)));
        }
        Ok(x.with_shape([n, (h - 1) * self.stride[0] + 1, (w - 1) * self.stride[1] + 1, c]))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::insert_zeros(inputs.get(0), self.stride)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let (x, y) = (&context.input(0).shape, context.output);
                Launch::new("insert_zeros/naive")
                    .param("elements", y.elements())
                    .param("H", x[1])
                    .param("W", x[2])
                    .param("OH", y.shape[1])
                    .param("OW", y.shape[2])
                    .param("C", x[3])
                    .param("stride_h", op.stride[0])
                    .param("stride_w", op.stride[1])
                    .cover(y.elements().div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("stride={},{}", self.stride[0], self.stride[1])
    }

    fn cases() -> Vec<Case> {
        let case = |label, stride, x: [usize; 4]| Case::new(label, InsertZeros { stride }, vec![CaseInput::normal(x)]);
        vec![
            case("by two, 7 channels", [2, 2], [2, 3, 5, 7]),
            case("by two and three, 8 channels", [2, 3], [2, 4, 3, 8]),
            case("not moved, 3 channels", [1, 1], [1, 3, 2, 3]),
            case("two whole workgroups", [3, 1], [2, 2, 8, 8]),
        ]
    }
}
