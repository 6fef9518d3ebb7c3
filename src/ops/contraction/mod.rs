//! The sum of products behind every layer with weights: matrix product and convolution, with everything that happens to
//! the sum before it is stored.
//!
//! The [`Gather`] says which values of `x` a sum takes, the [`Epilogue`] what happens to it. `instance.rs` brings every
//! gather into the one form that the kernels take, `lower.rs`, `subpixel.rs` and `winograd.rs` launch them.

mod cases;
mod epilogue;
mod gather;
mod gradient;
mod instance;
mod lower;
mod subpixel;
mod tile;
mod winograd;

pub use epilogue::Epilogue;
pub use gather::{Conv2d, Gather, WindowAxis, Windows};
pub(crate) use instance::Sizes;
pub(in crate::ops) use instance::window_params;
pub(crate) use tile::Tile;

use instance::Instance;

use super::activation::ActivationKind;
use super::{
    Backward, Case, Family, Inputs, LowerContext, Lowered, Operation, Variant, expect_dtype, expect_float, expect_rank,
    expect_shape, in_fours, no_knobs,
};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y = scale · (f(Σ_k patch[m, k] · weight[n, k] + bias[n] + summand) + residual)`, the patches gathered from `x`.
///
/// Inputs: `x`, `weight`, `bias [N]`?, `summand`?, `residual`?. For a matrix product ([`Gather::Rows`]): `x [.., K]`,
/// `weight [N, K]`, output `[.., N]`. For a convolution ([`Gather::Windows`]) over one to three spatial axes:
/// `x [images, .., C]`, `weight [N, taps .., C / groups]`, output `[images, .., N]`.
///
/// Summand and residual have the shape of what they are added to, or one row for each image, `[images, N]`. With a
/// gate, f joins the two halves of the columns and the output has N / 2: see [`Epilogue`].
#[derive(Clone, Debug, PartialEq)]
pub struct Contraction {
    /// Which values of `x` a sum takes.
    pub gather: Gather,
    /// What happens to a sum.
    pub epilogue: Epilogue,
}

/// Position of the input `weight`.
pub const WEIGHT: usize = 1;
/// Position of the input `bias`.
pub const BIAS: usize = 2;
/// Position of the input `summand`, added before the activation.
pub const SUMMAND: usize = 3;
/// Position of the input `residual`, added after it.
pub const RESIDUAL: usize = 4;

impl Contraction {
    /// Sums without an epilogue.
    pub fn new(gather: Gather) -> Self {
        Self { gather, epilogue: Epilogue::default() }
    }

    /// The sizes that the choice of variant depends on.
    pub(crate) fn sizes(&self, context: &LowerContext<'_>) -> Sizes {
        Instance::new(self, context).sizes()
    }

    /// The shape of the sums.
    fn hidden_shape(&self, x: &TensorDesc, weight: &TensorDesc) -> Result<Vec<usize>> {
        match &self.gather {
            Gather::Rows => {
                let [n, k] = expect_rank("weight", weight)?;
                if x.shape.is_empty() || x.channels() != k {
                    return Err(Error::Shape(format!(
                        "x {:?} must end in the {k} columns of weight {:?}",
                        x.shape, weight.shape
                    )));
                }
                let mut shape = x.shape.clone();
                *shape.last_mut().expect("checked above") = n;
                Ok(shape)
            }
            Gather::Windows(windows) => windows.output_shape(&x.shape, &weight.shape),
        }
    }
}

/// Lowers an instance whose pictures are there, and makes them before where they are not x.
fn over_pictures(
    op: &Contraction,
    context: &LowerContext<'_>,
    lower: impl FnOnce(&Instance<'_>) -> Lowered,
) -> Lowered {
    let instance = Instance::new(op, context);
    lower::over_pictures(&instance, lower(&instance))
}

impl Operation for Contraction {
    const NAME: &'static str = "contraction";
    const INPUTS: &'static [&'static str] = &["x", "weight", "bias", "summand", "residual"];
    const ALIASES: &'static [&'static str] = &["linear", "conv2d"];
    const OLD_VARIANTS: &'static [(&'static str, &'static str)] =
        &[("tiled", "registers"), ("winograd_tiled", "winograd_registers")];

    fn alias(&self) -> Option<&'static str> {
        Some(match self.gather {
            Gather::Rows => "linear",
            Gather::Windows(_) => "conv2d",
        })
    }

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, weight) = (inputs.required(0)?, inputs.required(WEIGHT)?);
        expect_float("x", x.dtype)?;
        expect_float("weight", weight.dtype)?;
        let hidden = self.hidden_shape(x, weight)?;
        let n = weight.shape[0];
        let mut shape = hidden.clone();
        if self.epilogue.gate {
            if !n.is_multiple_of(2) {
                return Err(Error::Shape(format!(
                    "a gate needs an even number of columns, found weight {:?}",
                    weight.shape
                )));
            }
            *shape.last_mut().expect("a result has columns") /= 2;
        }
        if let Some(bias) = inputs.optional(BIAS) {
            expect_shape("bias", &bias.shape, &[n])?;
            expect_dtype("bias", bias.dtype, DType::F32)?;
        }
        for (position, to) in [(SUMMAND, &hidden), (RESIDUAL, &shape)] {
            let Some(added) = inputs.optional(position) else { continue };
            let name = Self::INPUTS[position];
            expect_float(name, added.dtype)?;
            let (images, columns) = (hidden[0], *to.last().expect("a result has columns"));
            let first = if position == SUMMAND { self.epilogue.summand_first } else { 0 };
            let one_row = added.shape.first() == Some(&images) && added.rows() == images;
            if position == SUMMAND && (added.channels() != columns || first > 0) {
                if one_row && (first | added.channels()).is_multiple_of(4) && first + columns <= added.channels() {
                    continue;
                }
                return Err(Error::Shape(format!(
                    "{name}: expected [{images}, at least {}] with columns in fours, for the columns from {first} on, \
                    found {:?}",
                    first + columns,
                    added.shape
                )));
            }
            let of_image = one_row && added.channels() == columns;
            if added.shape != *to && !of_image {
                return Err(Error::Shape(format!(
                    "{name}: expected shape {to:?}, or [{images}, {columns}] for one row an image, found {:?}",
                    added.shape
                )));
            }
        }
        Ok(x.with_shape(shape))
    }

    fn joins(&self, variant: &str, context: &LowerContext<'_>) -> bool {
        let instance = Instance::new(self, context);
        let vectors = |first: usize| first.is_multiple_of(4) && instance.c.is_multiple_of(4);
        ["pipelined", "matrix"].contains(&variant) && !instance.windows && context.joined.is_some_and(vectors)
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        let weight = &inputs.get(WEIGHT).shape;
        2 * output.rows() as u64 * weight.iter().product::<usize>() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (x, weight) = (inputs.get(0), inputs.get(WEIGHT));
        let sums = match &self.gather {
            Gather::Rows => reference::product(x, weight),
            Gather::Windows(windows) => {
                let [size, stride, before, dilation] = windows.numbers(x, weight);
                reference::convolution(&windows.picture(x), weight, &size, &stride, &before, &dilation, windows.groups)
            }
        };
        self.epilogue.reference(sums, inputs)
    }

    fn reference_at(&self, inputs: Inputs<'_, HostTensor>, elements: &[usize]) -> Option<Vec<f32>> {
        let (x, weight) = (inputs.get(0), inputs.get(WEIGHT));
        let n = weight.shape[0];
        let sums_at = |elements: &[usize]| match &self.gather {
            Gather::Rows => reference::product_at(x, weight, elements),
            Gather::Windows(windows) => {
                let [size, stride, before, dilation] = windows.numbers(x, weight);
                reference::convolution_at(
                    &windows.picture(x),
                    weight,
                    &size,
                    &stride,
                    &before,
                    &dilation,
                    windows.groups,
                    elements,
                )
            }
        };
        // Rows of the result.
        let rows = match &self.gather {
            Gather::Rows => x.len() / weight.shape[1],
            Gather::Windows(windows) => x.shape[0] * windows.numbers(x, weight)[0].iter().product::<usize>(),
        };
        let added = |position: usize, element: usize, columns: usize| {
            let Some(tensor) = inputs.optional(position) else { return 0.0 };
            let first = if position == SUMMAND { self.epilogue.summand_first } else { 0 };
            let width = if position == BIAS { columns } else { tensor.shape.last().copied().unwrap_or(1) };
            let row = element / columns * (tensor.len() / width) / rows;
            f64::from(tensor.data[row * width + first + element % columns])
        };
        // The activation's arguments at these elements.
        let hidden = |elements: &[usize]| -> Vec<f64> {
            let with_addends = |(sum, &e): (f32, &usize)| f64::from(sum) + added(BIAS, e, n) + added(SUMMAND, e, n);
            sums_at(elements).into_iter().zip(elements).map(with_addends).collect()
        };
        let activation = self.epilogue.activation.map_or(|h| h, ActivationKind::reference);
        let (columns, activated): (usize, Vec<f64>) = if self.epilogue.gate {
            let half = n / 2;
            let value: Vec<usize> = elements.iter().map(|e| e / half * n + e % half).collect();
            let gate: Vec<usize> = value.iter().map(|e| e + half).collect();
            (half, hidden(&value).into_iter().zip(hidden(&gate)).map(|(v, g)| v * activation(g)).collect())
        } else {
            (n, hidden(elements).into_iter().map(activation).collect())
        };
        let conclude =
            |(f, &e): (f64, &usize)| (f64::from(self.epilogue.scale) * (f + added(RESIDUAL, e, columns))) as f32;
        Some(activated.into_iter().zip(elements).map(conclude).collect())
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        gradient::of(self, back)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "winograd4_shuffle",
                family: Family::Cpu,
                legal: |op, context| winograd_shuffle_legal(op, context, 4),
                knobs: |_, _| lower::batch_shuffle_knobs(),
                lower: |op, context, knobs| {
                    over_pictures(op, context, |i| winograd::lower(i, 4, Some(lanes(context.caps)), knobs))
                },
            },
            Variant {
                name: "winograd_shuffle",
                family: Family::Cpu,
                legal: |op, context| winograd_shuffle_legal(op, context, 2),
                knobs: |_, _| lower::batch_shuffle_knobs(),
                lower: |op, context, knobs| {
                    over_pictures(op, context, |i| winograd::lower(i, 2, Some(lanes(context.caps)), knobs))
                },
            },
            Variant {
                name: "matrix",
                family: Family::Gpu,
                legal: |op, context| {
                    tile::matrix_units(context.caps)?;
                    for (name, input) in [("x", context.input(0)), ("weight", context.input(WEIGHT))] {
                        if input.dtype != DType::F16 {
                            return Err(format!("{name}: needs f16, found {}", input.dtype.name()));
                        }
                    }
                    let instance = Instance::new(op, context);
                    one_group(&instance)?;
                    in_fours("input channels", instance.c)?;
                    few_taps(&instance)
                },
                knobs: |op, context| tile::matrix_knobs(Instance::new(op, context).padded_k(), context.caps),
                lower: |op, context, knobs| {
                    let (size, lanes) = tile::matrix_units(context.caps).expect("`legal` was asked first");
                    over_pictures(op, context, |i| lower::matrix(i, size, lanes, knobs))
                },
            },
            Variant {
                name: "winograd4_registers",
                family: Family::Gpu,
                legal: |op, context| winograd::legal(&Instance::new(op, context), 4),
                knobs: |_, _| lower::batch_knobs(),
                lower: |op, context, knobs| over_pictures(op, context, |i| winograd::lower(i, 4, None, knobs)),
            },
            Variant {
                name: "winograd_registers",
                family: Family::Gpu,
                legal: |op, context| winograd::legal(&Instance::new(op, context), 2),
                knobs: |_, _| lower::batch_knobs(),
                lower: |op, context, knobs| over_pictures(op, context, |i| winograd::lower(i, 2, None, knobs)),
            },
            Variant {
                name: "subpixel",
                family: Family::Gpu,
                legal: |op, context| subpixel::legal(&Instance::new(op, context)),
                knobs: |op, context| subpixel::knobs(&Instance::new(op, context)),
                lower: |op, context, knobs| subpixel::lower(&Instance::new(op, context), knobs),
            },
            Variant {
                name: "pipelined",
                family: Family::Gpu,
                legal: |op, context| {
                    let instance = Instance::new(op, context);
                    one_group(&instance)?;
                    few_taps(&instance)
                },
                knobs: |op, context| lower::pipelined_knobs(&Instance::new(op, context)),
                lower: |op, context, knobs| over_pictures(op, context, |i| lower::pipelined(i, knobs)),
            },
            Variant {
                name: "registers",
                family: Family::Gpu,
                legal: |op, context| one_group(&Instance::new(op, context)),
                knobs: |op, context| tile::square_knobs(Instance::new(op, context).padded_k()),
                lower: |op, context, knobs| over_pictures(op, context, |i| lower::registers(i, knobs)),
            },
            Variant {
                name: "shuffle",
                family: Family::Cpu,
                legal: |op, context| {
                    one_group(&Instance::new(op, context))?;
                    shuffle_lanes(context.caps).map(drop)
                },
                knobs: |op, context| lower::shuffle_knobs(&Instance::new(op, context)),
                lower: |op, context, knobs| {
                    over_pictures(op, context, |i| lower::shuffle(i, lanes(context.caps), knobs))
                },
            },
            Variant {
                name: "shared",
                family: Family::Gpu,
                legal: |op, context| {
                    let instance = Instance::new(op, context);
                    one_group(&instance)?;
                    in_vectors(&instance)
                },
                knobs: no_knobs,
                lower: |op, context, _| over_pictures(op, context, lower::shared),
            },
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |op, context| {
                    let instance = Instance::new(op, context);
                    in_vectors(&instance)?;
                    context.can_loop(instance.rounds(4))
                },
                knobs: no_knobs,
                lower: |op, context, _| over_pictures(op, context, lower::vec4),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |op, context| context.can_loop(Instance::new(op, context).rounds(1)),
                knobs: no_knobs,
                lower: |op, context, _| over_pictures(op, context, lower::naive),
            },
        ]
    }

    fn attributes(&self) -> String {
        let parts = [self.gather.to_string(), self.epilogue.to_string()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn cases() -> Vec<Case> {
        cases::all()
    }
}

/// The subgroup size, if the `shuffle` variants can run: one known size that is a multiple of 4.
pub(in crate::ops) fn shuffle_lanes(caps: &Caps) -> std::result::Result<usize, String> {
    match caps.subgroup_size() {
        Some(lanes) if lanes.is_multiple_of(4) && lanes <= 64 => Ok(lanes as usize),
        Some(lanes) => {
            Err(format!("needs subgroups of a multiple of 4, at most 64 invocations; here they have {lanes}"))
        }
        None => Err("needs subgroups of one size for all kernels".into()),
    }
}

fn lanes(caps: &Caps) -> usize {
    shuffle_lanes(caps).expect("`legal` was asked first")
}

fn winograd_shuffle_legal(
    op: &Contraction,
    context: &LowerContext<'_>,
    tile: usize,
) -> std::result::Result<(), String> {
    shuffle_lanes(context.caps)?;
    winograd::legal(&Instance::new(op, context), tile)
}

fn one_group(instance: &Instance<'_>) -> std::result::Result<(), String> {
    if instance.groups == 1 { Ok(()) } else { Err(format!("groups: needs one, there are {}", instance.groups)) }
}

/// Whether a bit for each tap, and one for none of them, fit a word.
fn few_taps(instance: &Instance<'_>) -> std::result::Result<(), String> {
    match instance.taps.iter().product::<usize>() {
        0..=31 => Ok(()),
        taps => Err(format!("taps of the window: needs at most 31, there are {taps}")),
    }
}

/// Whether channels and columns come in whole vectors, within each group too, and the epilogue does not mix columns.
fn in_vectors(instance: &Instance<'_>) -> std::result::Result<(), String> {
    in_fours("input channels of a group", instance.c / instance.groups)?;
    in_fours("output channels of a group", instance.n / instance.groups)?;
    in_fours("output channels", instance.n)?;
    if instance.epilogue.gate { Err("cannot join the columns of a gate".into()) } else { Ok(()) }
}

impl Graph {
    /// `x · weightᵀ + bias` on the last dimension of `x`; `weight [N, K]`, `bias [N]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree.
    pub fn linear(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
    ) -> Result<ValueId> {
        self.push(name, Contraction::new(Gather::Rows), &[Some(x), Some(weight), bias, None, None])
    }

    /// Convolution of `x [N, H, W, C_in]` with `weight [C_out, KH, KW, C_in / groups]`, plus `bias [C_out]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree or the filter does not fit the picture.
    pub fn conv2d(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        conv: Conv2d,
    ) -> Result<ValueId> {
        self.convolution(name, x, weight, bias, conv.into())
    }

    /// Convolution of `x [N, .., C_in]` over one to three spatial axes with `weight [C_out, taps .., C_in / groups]`,
    /// plus `bias [C_out]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree or the window does not fit.
    pub fn convolution(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        windows: Windows,
    ) -> Result<ValueId> {
        let op = Contraction::new(Gather::Windows(windows));
        self.push(name, op, &[Some(x), Some(weight), bias, None, None])
    }
}
