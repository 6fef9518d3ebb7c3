//! Two-dimensional convolution, as in `torch.nn.Conv2d`.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Operation, Variant, expect_rank, expect_shape};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y[n, oh, ow, o] = Σ_{kh, kw, i} x[n, oh·stride_h + kh − top, ow·stride_w + kw − left, i] · weight[o, kh, kw, i] + bias[o] + time_embedding[n, o] +
/// residual[n, oh, ow, o]`, `x` being zero outside the picture.
///
/// Inputs: `x [N, H, W, C_in]`, `weight [C_out, KH, KW, C_in]`, `bias [C_out]`?, `time_embedding [N, C_out]`?, `residual [N, OH, OW, C_out]`?;
/// output `[N, OH, OW, C_out]`. The last two inputs are the additions that follow convolutions in a ResnetBlock2D.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Step of the filter in pixels, vertical and horizontal.
    pub stride: [usize; 2],
    /// Rows and columns of zeros around the picture: top, bottom, left, right.
    pub padding: [usize; 4],
}

impl Default for Conv2d {
    /// Stride 1, no padding.
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0; 4] }
    }
}

impl Conv2d {
    /// Output height and width for a picture and a filter of the given heights and widths.
    ///
    /// # Errors
    /// [`Error::Shape`] if the stride is zero, or the filter is empty or larger than the padded picture.
    pub fn output_size(&self, picture: [usize; 2], filter: [usize; 2]) -> Result<[usize; 2]> {
        let mut size = [0; 2];
        for axis in 0..2 {
            let padded = picture[axis] + self.padding[2 * axis] + self.padding[2 * axis + 1];
            let (stride, filter) = (self.stride[axis], filter[axis]);
            if stride == 0 || filter == 0 || filter > padded {
                let side = ["high", "wide"][axis];
                return Err(Error::Shape(format!(
                    "a filter {filter} {side} with stride {stride} does not fit a picture {padded} {side}, padding included"
                )));
            }
            size[axis] = (padded - filter) / stride + 1;
        }
        Ok(size)
    }
}

/// Position of the input `time_embedding`.
pub const TIME_EMBEDDING: usize = 3;
/// Position of the input `residual`.
pub const RESIDUAL: usize = 4;

/// The constants and parameters that all variants share.
fn launch(kernel: &'static str, op: &Conv2d, context: &LowerContext<'_>) -> Launch {
    let (x, weight, y) = (&context.input(0).shape, &context.input(1).shape, &context.output.shape);
    Launch::new(kernel)
        .flag("HAS_BIAS", context.has(2))
        .flag("HAS_TIME_EMBEDDING", context.has(3))
        .flag("HAS_RESIDUAL", context.has(4))
        .param("N", x[0])
        .param("H", x[1])
        .param("W", x[2])
        .param("C_in", x[3])
        .param("OH", y[1])
        .param("OW", y[2])
        .param("C_out", y[3])
        .param("KH", weight[1])
        .param("KW", weight[2])
        .param("stride_h", op.stride[0])
        .param("stride_w", op.stride[1])
        .param("pad_top", op.padding[0])
        .param("pad_left", op.padding[2])
}

impl Operation for Conv2d {
    const NAME: &'static str = "conv2d";
    const INPUTS: &'static [&'static str] = &["x", "weight", "bias", "time_embedding", "residual"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, weight) = (inputs.required(0)?, inputs.required(1)?);
        let [n, h, w, c_in] = expect_rank("x", x)?;
        let [c_out, kh, kw, i] = expect_rank("weight", weight)?;
        if i != c_in {
            return Err(Error::Shape(format!(
                "weight {:?} is for {i} input channels, x {:?} has {c_in}",
                weight.shape, x.shape
            )));
        }
        let [oh, ow] = self.output_size([h, w], [kh, kw])?;
        let shape = [n, oh, ow, c_out];
        if let Some(bias) = inputs.optional(2) {
            expect_shape("bias", &bias.shape, &[c_out])?;
        }
        if let Some(time_embedding) = inputs.optional(3) {
            expect_shape("time_embedding", &time_embedding.shape, &[n, c_out])?;
        }
        if let Some(residual) = inputs.optional(4) {
            expect_shape("residual", &residual.shape, &shape)?;
        }
        Ok(x.with_shape(shape))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        let weight = &inputs.get(1).shape;
        2 * output.elements() as u64 * weight[1..].iter().product::<usize>() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let optional = |position| inputs.optional(position);
        reference::conv2d(inputs.get(0), inputs.get(1), optional(2), optional(3), optional(4), self)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            supports: |_, _| Ok(()),
            lower: |op, context| launch("conv2d/naive", op, context).cover(context.output.elements().div_ceil(4), 64).into(),
        }]
    }

    fn attributes(&self) -> String {
        let [top, bottom, left, right] = self.padding;
        let stride = if self.stride[0] == self.stride[1] {
            self.stride[0].to_string()
        } else {
            format!("{},{}", self.stride[0], self.stride[1])
        };
        format!("stride={stride} padding={top},{bottom},{left},{right}")
    }

    fn cases() -> Vec<Case> {
        const ALONE: [bool; 3] = [false, false, false];
        const BIAS: [bool; 3] = [true, false, false];
        const TIME: [bool; 3] = [true, true, false];
        const RESIDUAL: [bool; 3] = [true, false, true];
        const ALL: [bool; 3] = [true, true, true];
        // x [N, H, W, C_in], filter [C_out, KH, KW], stride, padding, which of the optional inputs.
        let case = |label, x: [usize; 4], [c_out, kh, kw]: [usize; 3], stride, padding, optional: [bool; 3]| {
            let op = Conv2d { stride, padding };
            let [oh, ow] = op.output_size([x[1], x[2]], [kh, kw]).expect("the cases below fit");
            let [bias, time_embedding, residual] = optional;
            let inputs = vec![
                CaseInput::normal(x),
                CaseInput::normal([c_out, kh, kw, x[3]]),
                bias.then(|| CaseInput::f32([c_out], Fill::Normal)).flatten(),
                time_embedding.then(|| CaseInput::normal([x[0], c_out])).flatten(),
                residual.then(|| CaseInput::normal([x[0], oh, ow, c_out])).flatten(),
            ];
            Case::new(label, op, inputs)
        };
        let (one, two, none, around) = ([1, 1], [2, 2], [0; 4], [1; 4]);
        vec![
            case("1x1, odd channels", [2, 5, 3, 9], [7, 1, 1], one, none, BIAS),
            case("1x1, channels in fours, all inputs", [2, 9, 13, 20], [36, 1, 1], one, none, ALL),
            case("3x3, odd channels, no bias", [2, 7, 4, 5], [6, 3, 3], one, around, ALONE),
            case("3x3, channels in fours", [2, 6, 9, 8], [12, 3, 3], one, around, BIAS),
            case("3x3, time embedding", [3, 9, 7, 16], [32, 3, 3], one, around, TIME),
            case("3x3, residual", [2, 8, 11, 32], [40, 3, 3], one, around, RESIDUAL),
            case("3x3, odd output channels, all inputs", [3, 5, 6, 12], [13, 3, 3], one, around, ALL),
            case("3x3, stride 2", [2, 10, 7, 8], [20, 3, 3], two, around, BIAS),
            case("3x3, stride 2, padded at bottom and right", [2, 6, 9, 4], [8, 3, 3], two, [0, 1, 0, 1], BIAS),
            case("3x5, uneven strides and paddings", [2, 8, 11, 12], [4, 3, 5], [2, 1], [0, 3, 2, 1], TIME),
            case("5x3, unpadded", [2, 9, 7, 3], [5, 5, 3], one, none, RESIDUAL),
            case("one input channel", [3, 9, 6, 1], [8, 3, 3], one, around, BIAS),
            case("one output channel", [2, 9, 6, 36], [1, 3, 3], one, around, BIAS),
            case("three input channels to sixteen", [2, 11, 5, 3], [16, 3, 3], one, around, BIAS),
            case("one past the tiles", [1, 3, 43, 20], [129, 1, 1], one, none, TIME),
            case("many input channels, few pixels", [2, 3, 2, 260], [24, 3, 3], one, around, ALL),
            case("64 pixels by 64 channels", [1, 8, 8, 16], [64, 3, 3], one, around, RESIDUAL),
        ]
    }
}

impl Graph {
    /// Convolution of `x [N, H, W, C_in]` with `weight [C_out, KH, KW, C_in]`, plus `bias [C_out]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree or the filter does not fit the picture.
    pub fn conv2d(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        op: Conv2d,
    ) -> Result<ValueId> {
        self.push(name, op, &[Some(x), Some(weight), bias, None, None])
    }
}
