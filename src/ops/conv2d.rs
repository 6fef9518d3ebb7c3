//! Two-dimensional convolution, as in `torch.nn.Conv2d`.

use super::product::{Product, Tile, batch_knobs, shuffle_knobs, shuffle_lanes, tile_knobs};
use super::{
    Case, CaseInput, Family, Fill, Inputs, Knobs, Launch, LowerContext, Lowered, Operand, Operation, Variant,
    expect_dtype, expect_float, expect_rank, expect_shape, in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[n, oh, ow, o] = Σ_{kh, kw, i} x[n, oh·stride_h + kh − top, ow·stride_w + kw − left, i] · weight[o, kh, kw, i] +
/// bias[o] + time_embedding[n, o] + residual[n, oh, ow, o]`, `x` being zero outside the picture.
///
/// Inputs: `x [N, H, W, C_in]`, `weight [C_out, KH, KW, C_in]`, `bias [C_out]`?, `time_embedding [N, C_out]`?,
/// `residual [N, OH, OW, C_out]`?; output `[N, OH, OW, C_out]`. The last two inputs are the additions that follow
/// convolutions in a ResnetBlock2D.
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

/// What a rule about variants goes by: the sizes of an instance.
pub(crate) struct Sizes {
    /// M, N and K of the implicit product.
    pub product: [usize; 3],
    /// Whether the kernels treat it as an explicit product.
    pub pointwise: bool,
    /// Columns of the output picture.
    pub ow: usize,
    /// Output tiles of Winograd's form.
    pub winograd_tiles: usize,
    /// Input channels.
    pub c_in: usize,
}

impl Conv2d {
    pub(crate) fn sizes(&self, context: &LowerContext<'_>) -> Sizes {
        let instance = Instance::new(self, context);
        Sizes {
            product: instance.sizes(),
            pointwise: instance.as_product().is_some(),
            ow: instance.y[2],
            winograd_tiles: instance.winograd_tiles(),
            c_in: instance.x[3],
        }
    }
}

/// Position of the input `bias`.
const BIAS: usize = 2;
/// Position of the input `time_embedding`.
pub const TIME_EMBEDDING: usize = 3;
/// Position of the input `residual`.
pub const RESIDUAL: usize = 4;

/// One instance: the kernels' view of it.
struct Instance<'a> {
    op: &'a Conv2d,
    context: &'a LowerContext<'a>,
    /// N, H, W, C_in
    x: [usize; 4],
    /// C_out, KH, KW, C_in
    filter: [usize; 4],
    /// N, OH, OW, C_out
    y: [usize; 4],
}

impl<'a> Instance<'a> {
    fn new(op: &'a Conv2d, context: &'a LowerContext<'a>) -> Self {
        let dims = |desc: &TensorDesc| <[usize; 4]>::try_from(desc.shape.as_slice()).expect("`infer` checked the rank");
        Self { op, context, x: dims(context.input(0)), filter: dims(context.input(1)), y: dims(context.output) }
    }

    /// Output pixels of all images.
    fn pixels(&self) -> usize {
        self.y[0] * self.y[1] * self.y[2]
    }

    /// M, N and K of the implicit product, channels padded as the kernels read them.
    fn sizes(&self) -> [usize; 3] {
        let [c_out, kh, kw, c_in] = self.filter;
        [self.pixels(), c_out, kh * kw * c_in.next_multiple_of(4)]
    }

    fn flops(&self) -> u64 {
        2 * (self.pixels() * self.y[3]) as u64 * self.filter[1..].iter().product::<usize>() as u64
    }

    /// A launch with the parameters that describe the instance to a kernel; `c_in` channels of x in memory.
    fn launch(&self, kernel: &'static str, c_in: usize) -> Launch {
        Launch::new(kernel)
            .param("N", self.x[0])
            .param("H", self.x[1])
            .param("W", self.x[2])
            .param("C_in", c_in)
            .param("OH", self.y[1])
            .param("OW", self.y[2])
            .param("C_out", self.y[3])
            .param("KH", self.filter[1])
            .param("KW", self.filter[2])
            .param("stride_h", self.op.stride[0])
            .param("stride_w", self.op.stride[1])
            .param("pad_top", self.op.padding[0])
            .param("pad_left", self.op.padding[2])
            .flops(self.flops())
    }

    /// Sets what is added to the sum.
    fn conclude(&self, launch: Launch, here: bool) -> Launch {
        launch
            .flag("HAS_BIAS", here && self.context.has(BIAS))
            .flag("HAS_TIME_EMBEDDING", here && self.context.has(TIME_EMBEDDING))
            .flag("HAS_RESIDUAL", here && self.context.has(RESIDUAL))
    }

    fn naive(&self) -> Lowered {
        self.conclude(self.launch("conv2d/naive", self.x[3]), true)
            .cover(self.context.output.elements().div_ceil(4), 64)
            .into()
    }

    /// A 1×1 convolution as the product of a matrix of pixels.
    fn as_product(&self) -> Option<Product> {
        let pointwise = self.filter[1..3] == [1, 1] && self.op.stride == [1, 1] && self.op.padding == [0; 4];
        let simple = !self.context.has(TIME_EMBEDDING) && self.x[3].is_multiple_of(4);
        (pointwise && simple).then(|| Product {
            m: self.pixels(),
            n: self.y[3],
            k: self.x[3],
            bias: self.context.has(BIAS),
            residual: self.context.has(RESIDUAL),
            activation: None,
        })
    }

    /// For CPU drivers with subgroups of `lanes` invocations.
    fn shuffle(&self, lanes: usize, knobs: &Knobs) -> Lowered {
        if let Some(product) = self.as_product() {
            return product.shuffle(lanes, knobs);
        }
        let [n, oh, ow, c_out] = self.y;
        let (pixels, quads) = (knobs.get("PIXELS"), knobs.get("QUADS"));
        self.padded_to_fours(
            1,
            |launch| {
                launch
                    .constant("LANES", lanes)
                    .constant("PIXELS", pixels)
                    .constant("QUADS", quads)
                    .constant("WEIGHT_LOADS", (4 * quads).div_ceil(lanes))
                    .flag("SLIDE", self.op.stride[1] == 1)
                    .workgroups(c_out.div_ceil(4 * quads), (n * oh * ow.div_ceil(pixels)).div_ceil(lanes), 1)
            },
            "conv2d/shuffle",
        )
    }

    /// For GPUs.
    fn tiled(&self, knobs: &Knobs) -> Lowered {
        if let Some(product) = self.as_product() {
            return product.tiled(knobs);
        }
        let [m, n, k] = self.sizes();
        let tile = Tile::new(m, n, k, knobs);
        self.padded_to_fours(tile.splits, |launch| tile.launch(launch), "conv2d/tiled")
    }

    /// As 16 matrix products in Winograd's space, for CPU drivers with subgroups of `lanes` invocations or for GPUs.
    fn winograd(&self, lanes: Option<usize>, knobs: &Knobs) -> Lowered {
        let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
        let [n, h, w, c_in] = self.x;
        let [_, oh, ow, c_out] = self.y;
        let (tiles_h, tiles_w) = (oh.div_ceil(2), ow.div_ceil(2));
        let tiles = n * tiles_h * tiles_w;
        let v = lowered.add_scratch([tiles, 16, c_in]);
        let u = lowered.add_scratch([c_out, 16, c_in]);
        let partial = lowered.add_scratch([16, tiles, c_out]);

        lowered.launches.push(
            Launch::new("conv2d/winograd_input")
                .bind("v", v)
                .param("N", n)
                .param("H", h)
                .param("W", w)
                .param("C_in", c_in)
                .param("pad_top", self.op.padding[0])
                .param("pad_left", self.op.padding[2])
                .param("tiles_h", tiles_h)
                .param("tiles_w", tiles_w)
                .flops((32 * tiles * c_in) as u64)
                .cover(tiles * c_in / 4, 64),
        );
        lowered.launches.push(
            Launch::new("conv2d/winograd_weight")
                .bind("u", u)
                .param("C_in", c_in)
                .param("C_out", c_out)
                .flops((28 * c_out * c_in) as u64)
                .cover(c_out * c_in / 4, 64),
        );
        let product = Product { m: tiles, n: c_out, k: 16 * c_in, bias: false, residual: false, activation: None };
        lowered.launches.push(product.batch(16, lanes, knobs).bind("x", v).bind("weight", u).bind("y", partial));
        let output = Launch::new("conv2d/winograd_output")
            .bind("partial", partial)
            .param("N", n)
            .param("OH", oh)
            .param("OW", ow)
            .param("C_out", c_out)
            .param("tiles_h", tiles_h)
            .param("tiles_w", tiles_w)
            .flops((24 * tiles * c_out) as u64)
            .cover(tiles * c_out / 4, 64);
        lowered.launches.push(self.conclude(output, true));
        lowered
    }

    /// Output tiles of 2 × 2 pixels.
    fn winograd_tiles(&self) -> usize {
        self.y[0] * self.y[1].div_ceil(2) * self.y[2].div_ceil(2)
    }

    /// Whether [`Instance::winograd`] can run this.
    fn winograd_legal(&self) -> std::result::Result<(), String> {
        let c_out = self.y[3];
        let c_in = self.x[3];
        if self.filter[1..3] != [3, 3] || self.op.stride != [1, 1] {
            return Err("needs a 3x3 filter and stride 1".into());
        }
        in_fours("input channels", c_in)?;
        in_fours("output channels", c_out)?;
        let largest = 4 * 16 * self.winograd_tiles().max(c_out) * c_in.max(c_out);
        let limit = self.context.caps.max_binding_bytes;
        if largest as u64 > limit {
            return Err(format!("needs a buffer of {largest} bytes, the device binds at most {limit}"));
        }
        Ok(())
    }

    /// A launch of `kernel`, which reads four channels at once, between launches that make it so: before it, x and
    /// weights are padded where C_in is not a multiple of four; after it, partial sums and padded outputs are brought
    /// into y.
    fn padded_to_fours(&self, splits: usize, configure: impl Fn(Launch) -> Launch, kernel: &'static str) -> Lowered {
        let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
        let [n, h, w, c_in] = self.x;
        let [c_out, kh, kw, _] = self.filter;
        let (c_in_padded, c_out_padded) = (c_in.next_multiple_of(4), c_out.next_multiple_of(4));
        let direct = splits == 1 && c_out_padded == c_out;

        let main = configure(self.launch(kernel, c_in_padded)).param("C_padded", c_out_padded);
        let mut main = self.conclude(main, direct);
        if c_in_padded != c_in {
            for (name, input, rows) in [("x", 0, n * h * w), ("weight", 1, c_out * kh * kw)] {
                let scratch = lowered.add_scratch([rows, c_in_padded]);
                let elements = rows * c_in_padded;
                lowered.launches.push(
                    Launch::new("conv2d/pad_channels")
                        .bind("unpadded", Operand::Input(input))
                        .bind("padded", scratch)
                        .param("rows", rows)
                        .param("C", c_in)
                        .param("C_padded", c_in_padded)
                        .flops(elements as u64)
                        .cover(elements / 4, 64),
                );
                main = main.bind(name, scratch);
            }
        }
        if direct {
            lowered.launches.push(main);
            return lowered;
        }
        let partial = lowered.add_scratch([splits, self.pixels(), c_out_padded]);
        lowered.launches.push(main.bind("y", partial));
        let reduce = Launch::new("conv2d/reduce")
            .bind("partial", partial)
            .param("splits", splits)
            .param("pixels", self.pixels())
            .param("pixels_per_image", self.y[1] * self.y[2])
            .param("C_out", c_out)
            .param("C_padded", c_out_padded)
            .flops((splits * self.pixels() * c_out) as u64)
            .cover(self.context.output.elements().div_ceil(4), 64);
        lowered.launches.push(self.conclude(reduce, true));
        lowered
    }
}

impl Operation for Conv2d {
    const NAME: &'static str = "conv2d";
    const INPUTS: &'static [&'static str] = &["x", "weight", "bias", "time_embedding", "residual"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, weight) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("weight", weight.dtype)?;
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
            expect_dtype("bias", bias.dtype, DType::F32)?;
        }
        if let Some(time_embedding) = inputs.optional(3) {
            expect_shape("time_embedding", &time_embedding.shape, &[n, c_out])?;
            expect_float("time_embedding", time_embedding.dtype)?;
        }
        if let Some(residual) = inputs.optional(4) {
            expect_shape("residual", &residual.shape, &shape)?;
            expect_float("residual", residual.dtype)?;
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
        &[
            Variant {
                name: "winograd_shuffle",
                family: Family::Cpu,
                legal: |op, context| {
                    shuffle_lanes(context.caps)?;
                    Instance::new(op, context).winograd_legal()
                },
                knobs: |_, _| shuffle_knobs(),
                lower: |op, context, knobs| {
                    let lanes = shuffle_lanes(context.caps).expect("`legal` was asked first");
                    Instance::new(op, context).winograd(Some(lanes), knobs)
                },
            },
            Variant {
                name: "tiled",
                family: Family::Gpu,
                legal: |_, _| Ok(()),
                knobs: |op, context| tile_knobs(Instance::new(op, context).sizes()[2]),
                lower: |op, context, knobs| Instance::new(op, context).tiled(knobs),
            },
            Variant {
                name: "shuffle",
                family: Family::Cpu,
                legal: |_, context| shuffle_lanes(context.caps).map(drop),
                knobs: |op, context| match Instance::new(op, context).as_product() {
                    Some(_) => shuffle_knobs(),
                    None => Knobs::combinations(&[("PIXELS", &[1, 2, 4, 8]), ("QUADS", &[1, 2, 4, 8])]),
                },
                lower: |op, context, knobs| {
                    let lanes = shuffle_lanes(context.caps).expect("`legal` was asked first");
                    Instance::new(op, context).shuffle(lanes, knobs)
                },
            },
            Variant {
                name: "winograd_tiled",
                family: Family::Gpu,
                legal: |op, context| Instance::new(op, context).winograd_legal(),
                knobs: |_, _| batch_knobs(),
                lower: |op, context, knobs| Instance::new(op, context).winograd(None, knobs),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| Instance::new(op, context).naive(),
            },
        ]
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
            case("many pixels, every input", [2, 37, 65, 4], [96, 3, 3], one, around, ALL),
            case("many input channels, few pixels, odd output channels", [2, 2, 3, 132], [6, 3, 3], one, around, ALL),
            case("nine input channels", [2, 7, 12, 9], [20, 3, 3], one, around, BIAS),
            case("many tiles of 128", [2, 47, 61, 3], [362, 1, 3], one, [0, 0, 1, 1], BIAS),
            case("Winograd's tiles, every input", [3, 13, 15, 64], [60, 3, 3], one, around, ALL),
            case("Winograd's tiles, unpadded, even sizes", [2, 18, 20, 52], [100, 3, 3], one, [0, 1, 2, 0], TIME),
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
