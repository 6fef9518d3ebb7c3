//! Filters as the gradient of a convolution takes them.

use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::HostTensor;

/// `y[c, tap, n] = x[n, last tap − tap, c]`: input and output channels change places, and the taps of every axis run
/// backwards. Input `[N, taps .., C]`, output `[C, taps .., N]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnFilter;

impl Operation for TurnFilter {
    const NAME: &'static str = "turn_filter";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        if x.shape.len() < 2 || x.elements() == 0 {
            return Err(Error::Shape(format!("x: expected [N, taps .., C], found {:?}", x.shape)));
        }
        let mut shape = x.shape.clone();
        let last = shape.len() - 1;
        shape.swap(0, last);
        Ok(x.with_shape(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::turn_filter(inputs.get(0))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| {
                let (x, elements) = (context.input(0), context.output.elements());
                Launch::new("turn_filter/naive")
                    .param("elements", elements)
                    .param("N", x.shape[0])
                    .param("taps", x.rows() / x.shape[0])
                    .param("C", x.channels())
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, x: &[usize]| Case::new(label, TurnFilter, vec![CaseInput::normal(x)]);
        vec![
            case("3 x 3, odd", &[7, 3, 3, 5]),
            case("1 x 3 taps", &[4, 1, 3, 6]),
            case("a matrix", &[5, 9]),
            case("three spatial axes", &[3, 2, 3, 2, 4]),
            case("two whole workgroups", &[8, 2, 2, 16]),
        ]
    }
}
