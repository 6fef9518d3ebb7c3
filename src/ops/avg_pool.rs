//! Average pooling over 2 × 2 pixels, as in `torch.nn.AvgPool2d(2, 2)`.

use super::{
    Backward, Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, expect_float, expect_rank,
    in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// Each output pixel is the mean of 2 × 2 input pixels; an odd last row or column is dropped. Input `[N, H, W, C]`,
/// output `[N, ⌊H/2⌋, ⌊W/2⌋, C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AvgPool;

/// The parameters that all variants share.
fn launch(kernel: &'static str, context: &LowerContext<'_>) -> Launch {
    let (x, y) = (&context.input(0).shape, &context.output.shape);
    Launch::new(kernel).param("H", x[1]).param("W", x[2]).param("OH", y[1]).param("OW", y[2])
}

impl Operation for AvgPool {
    const NAME: &'static str = "avg_pool";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let [n, h, w, c] = expect_rank("x", x)?;
        if h < 2 || w < 2 {
            return Err(Error::Shape(format!("x {:?} has no 2 x 2 pixels to average", x.shape)));
        }
        Ok(x.with_shape([n, h / 2, w / 2, c]))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        4 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::avg_pool(inputs.get(0))
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (shape, name) = (back.shape(0), back.name("x"));
        if shape[1] % 2 + shape[2] % 2 > 0 {
            return back.refuse("a pooling that drops rows or columns");
        }
        let repeated = back.graph.upsample_nearest(format!("{name}.repeated"), back.dy, shape[1], shape[2])?;
        Ok(vec![Some(back.graph.scale(name, repeated, 0.25, 0.0)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: no_knobs,
                lower: |_, context, _| {
                    let vectors = context.output.elements() / 4;
                    launch("avg_pool/vec4", context)
                        .param("vectors", vectors)
                        .param("channel_vectors", context.output.channels() / 4)
                        .cover(vectors, 64)
                        .into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |_, context, _| {
                    let elements = context.output.elements();
                    launch("avg_pool/naive", context)
                        .param("elements", elements)
                        .param("C", context.output.channels())
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn cases() -> Vec<Case> {
        let case = |label, x: [usize; 4]| Case::new(label, AvgPool, vec![CaseInput::normal(x)]);
        vec![
            case("even sides, 3 channels", [2, 6, 4, 3]),
            case("odd sides, 6 channels", [3, 7, 5, 6]),
            case("odd height, 8 channels", [2, 9, 6, 8]),
            case("odd width, 36 channels", [3, 4, 7, 36]),
            case("two whole workgroups", [2, 16, 16, 4]),
        ]
    }
}

impl Graph {
    /// Means of 2 × 2 pixels of `x [N, H, W, C]`, with stride 2; an odd last row or column is dropped.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not have four dimensions or has a side below 2.
    pub fn avg_pool(&mut self, name: impl Into<String>, x: ValueId) -> Result<ValueId> {
        self.push(name, AvgPool, &[Some(x)])
    }
}
