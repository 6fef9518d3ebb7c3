//! Nearest-neighbour upsampling, as in `torch.nn.functional.interpolate(mode="nearest")`.

use super::{
    Backward, Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, expect_float, expect_rank,
    in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y[n, oh, ow, c] = x[n, ⌊oh · H/OH⌋, ⌊ow · W/OW⌋, c]`; input `[N, H, W, C]`, output `[N, OH, OW, C]`, larger or
/// smaller. H/OH and W/OW are rounded to f32 first, as torch rounds them: where `i · H/OH` is nearly whole, the
/// rounding decides.
#[derive(Clone, Debug, PartialEq)]
pub struct UpsampleNearest {
    /// Height of the result, OH.
    pub out_h: usize,
    /// Width of the result, OW.
    pub out_w: usize,
}

impl UpsampleNearest {
    /// H/OH and W/OW, rounded to f32.
    fn scales(&self, h: usize, w: usize) -> [f32; 2] {
        [h as f32 / self.out_h as f32, w as f32 / self.out_w as f32]
    }

    /// The parameters that all variants share.
    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        let x = &context.input(0).shape;
        let [scale_h, scale_w] = self.scales(x[1], x[2]);
        Launch::new(kernel)
            .param("H", x[1])
            .param("W", x[2])
            .param("OH", self.out_h)
            .param("OW", self.out_w)
            .param_f32("scale_h", scale_h)
            .param_f32("scale_w", scale_w)
    }
}

impl Operation for UpsampleNearest {
    const NAME: &'static str = "upsample_nearest";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let [n, h, w, c] = expect_rank("x", x)?;
        if h == 0 || w == 0 || self.out_h == 0 || self.out_w == 0 {
            return Err(Error::Shape(format!("cannot make {} x {} pixels of x {:?}", self.out_h, self.out_w, x.shape)));
        }
        Ok(x.with_shape([n, self.out_h, self.out_w, c]))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::upsample_nearest(inputs.get(0), self.out_h, self.out_w)
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (shape, name) = (back.shape(0), back.name("x"));
        if [self.out_h, self.out_w] != [2 * shape[1], 2 * shape[2]] {
            return back.refuse("a resizing other than to twice the size");
        }
        let mean = back.graph.avg_pool(format!("{name}.mean"), back.dy)?;
        Ok(vec![Some(back.graph.scale(name, mean, 4.0, 0.0)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let vectors = context.output.elements() / 4;
                    op.launch("upsample_nearest/vec4", context)
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
                lower: |op, context, _| {
                    let elements = context.output.elements();
                    op.launch("upsample_nearest/naive", context)
                        .param("elements", elements)
                        .param("C", context.output.channels())
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        format!("{}x{}", self.out_h, self.out_w)
    }

    fn cases() -> Vec<Case> {
        let case = |label, [out_h, out_w]: [usize; 2], x: [usize; 4]| {
            Case::new(label, UpsampleNearest { out_h, out_w }, vec![CaseInput::normal(x)])
        };
        vec![
            case("twice, 3 channels", [10, 14], [2, 5, 7, 3]),
            case("twice less one, 8 channels", [9, 13], [2, 5, 7, 8]),
            case("uneven, 6 channels", [11, 4], [3, 5, 3, 6]),
            case("smaller in one direction, 36 channels", [3, 10], [2, 7, 5, 36]),
            // 22 · (26/44) is exactly 13, but just below 13 in f32, so torch takes row 12.
            case("rounded as torch rounds, 4 channels", [44, 6], [2, 26, 3, 4]),
            case("two whole workgroups", [8, 8], [2, 4, 4, 4]),
            case("an autoencoder's last enlargement", [1024, 1024], [1, 512, 512, 4]).large(),
            case("128 x 128 x 512 to twice", [256, 256], [1, 128, 128, 512]).perf(),
        ]
    }
}

impl Graph {
    /// `x [N, H, W, C]` resized to `out_h` × `out_w` pixels, each a copy of a pixel of `x`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not have four dimensions or a side is 0.
    pub fn upsample_nearest(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        out_h: usize,
        out_w: usize,
    ) -> Result<ValueId> {
        self.push(name, UpsampleNearest { out_h, out_w }, &[Some(x)])
    }
}
