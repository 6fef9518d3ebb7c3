//! Operations: attributes, shapes, cost, kernels, reference and test cases, one file per operation.
//!
//! `CONTRIBUTING.md` walks through adding an operation and a kernel variant. Parity tests, `unmist
//! verify` and `unmist bench` iterate the registry below.

pub mod activation;
pub mod activation_gradient;
pub mod add_noise;
pub mod attention;
pub mod attention_gradient;
pub mod attention_statistics;
pub mod avg_pool;
pub mod binary;
pub mod blend_tiles;
mod case;
pub mod cast;
pub mod clamp;
pub mod concat;
pub mod contraction;
pub mod dynamic_threshold;
pub mod embedding;
pub mod embedding_gradient;
pub mod emphasis;
pub mod fir_resample;
pub mod fourier_embedding;
pub mod gated;
pub mod gated_gradient;
pub mod guidance;
pub mod guidance_rescale;
pub mod insert_zeros;
mod knobs;
pub mod langevin_noise;
mod lower;
pub mod masked_latents;
pub mod max_abs;
pub mod model_input;
pub mod moving_average;
pub mod nearest_code;
pub mod norm;
pub mod norm_gradient;
pub mod norm_moments;
pub mod norm_sums;
pub mod parameter_step;
pub mod pred_original_sample;
pub mod randn;
pub mod reshape;
pub mod rope;
pub mod scale;
pub mod scale_noise;
pub mod scheduler_step;
pub mod slice;
pub mod softmax;
pub mod sum;
pub mod timestep_embedding;
pub mod transpose;
pub mod turn_filter;
pub mod unit_norm;
pub mod upsample_nearest;
pub mod variance_bound;
pub mod variance_bound_gradient;
pub mod weight_gradient;

#[cfg(feature = "gpu")]
pub(crate) use case::sample;
pub use case::{Case, CaseInput, Fill, Size};
pub use knobs::Knobs;
pub(crate) use lower::small_subgroups;
pub use lower::{Const, Family, Launch, LowerContext, Lowered, Operand, Param, Scratch, Variant, no_knobs};

use std::fmt;

use crate::error::{Error, Result};
pub(crate) use crate::graph::Backward;
use crate::graph::{TensorDesc, ValueId};
use crate::tensor::{DType, HostTensor};

/// Work and memory traffic of one execution, as the roofline model counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: u64,
    /// Bytes that must move at least once: every input read once, the output written once.
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// The inputs of an operation by position; `None` where an optional one is absent.
pub struct Inputs<'a, T> {
    names: &'static [&'static str],
    values: &'a [Option<&'a T>],
}

impl<T> Clone for Inputs<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Inputs<'_, T> {}

impl<'a, T> Inputs<'a, T> {
    /// The required input at `position`.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the input if it is absent.
    pub fn required(&self, position: usize) -> Result<&'a T> {
        self.optional(position).ok_or_else(|| Error::Shape(format!("input `{}` is missing", self.names[position])))
    }

    /// The optional input at `position`.
    pub fn optional(&self, position: usize) -> Option<&'a T> {
        self.values.get(position).copied().flatten()
    }

    /// The input at `position`, which shape inference has already found present.
    pub fn get(&self, position: usize) -> &'a T {
        self.optional(position).expect("shape inference rejects graphs that lack a required input")
    }

    /// All inputs that are present.
    pub fn present(&self) -> impl Iterator<Item = &'a T> + '_ {
        self.values.iter().flatten().copied()
    }
}

/// One kind of operation. Implementations are plain attribute structs.
pub trait Operation: Clone + fmt::Debug + PartialEq + Sized + 'static {
    /// Name in dumps, traces and `--force NAME=VARIANT`.
    const NAME: &'static str;
    /// Other names for `--force`, each for one kind of this operation: its name from when it was an operation of its
    /// own.
    const ALIASES: &'static [&'static str] = &[];
    /// Names of the inputs by position; kernels bind them under these names and write `y`.
    const INPUTS: &'static [&'static str];
    /// Renamed variants: the old name and the new one.
    const OLD_VARIANTS: &'static [(&'static str, &'static str)] = &[];
    /// Whether the kernels find the first input in the place of the result, which has its shape, and change it there.
    /// Where the graph carries the result back to that input, both are one buffer: [`LowerContext::in_place`].
    const IN_PLACE: bool = false;

    /// Shape and element type of the output.
    ///
    /// # Errors
    /// [`Error::Shape`] saying what was expected and found.
    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc>;

    /// Floating-point operations of one execution; a multiply-add counts as two.
    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64;

    /// The operation computed from its formula, on the CPU: see [`crate::reference`].
    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor;

    /// The elements of the result at these flat indices, computed from the formula: for results so large that the
    /// reference would take minutes for all of them. `None`: the whole is fast enough.
    fn reference_at(&self, _inputs: Inputs<'_, HostTensor>, _elements: &[usize]) -> Option<Vec<f32>> {
        None
    }

    /// What each input gets of `back.dy`, the gradient of the result, as nodes of the graph: the vector-Jacobian
    /// product. `None` for inputs that are absent, or that nobody asks for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the node, if the operation has none.
    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        back.refuse("this operation")
    }

    /// Kernel variants, best first; the last one is `naive` and accepts every shape (but see
    /// [`LowerContext::can_loop`]).
    fn variants() -> &'static [Variant<Self>];

    /// Whether `variant` can take its first input as two tensors that stand for their concatenation along the channels,
    /// so that nobody need copy them: [`LowerContext::joined`] and [`Operand::Second`].
    fn joins(&self, _variant: &str, _context: &LowerContext<'_>) -> bool {
        false
    }

    /// Attributes for dumps, e.g. `stride=2 pad=0,1,0,1`; empty if there are none.
    fn attributes(&self) -> String {
        String::new()
    }

    /// Which of the [`Operation::ALIASES`] names instances like this one.
    fn alias(&self) -> Option<&'static str> {
        None
    }

    /// Instances on which every variant is compared with the reference: odd sizes, several images, tile sizes ± 1.
    fn cases() -> Vec<Case>;
}

macro_rules! registry {
    ($($(#[$doc:meta])* $module:ident::$Type:ident),* $(,)?) => {
        /// Any operation.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op { $($(#[$doc])* $Type($module::$Type)),* }

        $(impl From<$module::$Type> for Op {
            fn from(op: $module::$Type) -> Op { Op::$Type(op) }
        })*

        /// Every operation, in the order of the registry.
        pub fn registry() -> Vec<Info> {
            vec![$(Info {
                name: $module::$Type::NAME,
                aliases: $module::$Type::ALIASES,
                inputs: $module::$Type::INPUTS,
                variants: $module::$Type::variants().iter().map(|v| v.name).collect(),
                old_variants: $module::$Type::OLD_VARIANTS,
                cases: $module::$Type::cases(),
            }),*]
        }

        impl Op {
            /// Name of the kind of operation.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$Type(_) => $module::$Type::NAME),* }
            }

            /// Whether `name` means operations like this one: its name, or the alias of its kind.
            pub fn is_called(&self, name: &str) -> bool {
                name == self.name() || match self { $(Op::$Type(op) => op.alias() == Some(name)),* }
            }

            /// The alias of its kind, or its name.
            pub fn kind_name(&self) -> &'static str {
                match self { $(Op::$Type(op) => op.alias().unwrap_or($module::$Type::NAME)),* }
            }

            /// Whether its kernels change the first input in its place.
            pub(crate) fn is_in_place(&self) -> bool {
                match self { $(Op::$Type(_) => $module::$Type::IN_PLACE),* }
            }

            /// Names of the inputs by position.
            pub fn input_names(&self) -> &'static [&'static str] {
                match self { $(Op::$Type(_) => $module::$Type::INPUTS),* }
            }

            /// Shape and element type of the output.
            ///
            /// # Errors
            /// [`Error::Shape`] if the inputs do not fit.
            pub fn infer(&self, inputs: &[Option<&TensorDesc>]) -> Result<TensorDesc> {
                if inputs.len() != self.input_names().len() {
                    return Err(Error::Shape(format!(
                        "expected {} inputs, {} were given",
                        self.input_names().len(),
                        inputs.len()
                    )));
                }
                match self { $(Op::$Type(op) => op.infer(Inputs { names: $module::$Type::INPUTS, values: inputs })),* }
            }

            /// Work and traffic of one execution.
            pub fn cost(&self, inputs: &[Option<&TensorDesc>], output: &TensorDesc) -> Cost {
                let values = Inputs { names: self.input_names(), values: inputs };
                let flops = match self { $(Op::$Type(op) => op.flops(values, output)),* };
                let flops = flops.min(1 << 53); // attention is quadratic: sums over absurd sizes must not overflow
                Cost { flops, bytes: values.present().map(TensorDesc::bytes).sum::<u64>() + output.bytes() }
            }

            /// The result computed from the operation's formula, on the CPU.
            pub fn reference(&self, inputs: &[Option<&HostTensor>]) -> HostTensor {
                match self {
                    $(Op::$Type(op) => op.reference(Inputs { names: $module::$Type::INPUTS, values: inputs })),*
                }
            }

            /// What each input gets of the gradient of the result.
            ///
            /// # Errors
            /// [`Error::Unsupported`] if the operation has no gradient.
            pub(crate) fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
                match self { $(Op::$Type(op) => op.gradient(back)),* }
            }

            /// Elements of the result at chosen flat indices, where the operation can compute single ones.
            pub fn reference_at(&self, inputs: &[Option<&HostTensor>], elements: &[usize]) -> Option<Vec<f32>> {
                match self {
                    $(Op::$Type(op) => {
                        op.reference_at(Inputs { names: $module::$Type::INPUTS, values: inputs }, elements)
                    }),*
                }
            }

            /// Attributes for dumps.
            pub fn attributes(&self) -> String {
                match self { $(Op::$Type(op) => op.attributes()),* }
            }

            /// Names of the kernel variants, best first.
            pub fn variant_names(&self) -> Vec<&'static str> {
                match self { $(Op::$Type(_) => $module::$Type::variants().iter().map(|v| v.name).collect()),* }
            }

            /// The family of the variant at `index`.
            pub fn family(&self, index: usize) -> Family {
                match self { $(Op::$Type(_) => $module::$Type::variants()[index].family),* }
            }

            /// `Ok`, or why the variant at `index` cannot compute this instance here.
            ///
            /// # Errors
            /// The unmet requirement, in words.
            pub fn legal(&self, index: usize, context: &LowerContext<'_>) -> std::result::Result<(), String> {
                match self { $(Op::$Type(op) => ($module::$Type::variants()[index].legal)(op, context)),* }
            }

            /// Whether the variant called `name` can take its first input as two tensors, as `context` says.
            pub(crate) fn joins(&self, name: &str, context: &LowerContext<'_>) -> bool {
                match self { $(Op::$Type(op) => op.joins(name, context)),* }
            }

            /// Every setting that the variant at `index` may take, if it is legal.
            pub fn knobs(&self, index: usize, context: &LowerContext<'_>) -> Vec<Knobs> {
                match self { $(Op::$Type(op) => ($module::$Type::variants()[index].knobs)(op, context)),* }
            }

            /// The launches of the variant at `index` with one of its settings.
            pub fn lower(&self, index: usize, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
                match self { $(Op::$Type(op) => ($module::$Type::variants()[index].lower)(op, context, knobs)),* }
            }
        }
    };
}

/// What the registry knows about one kind of operation.
pub struct Info {
    /// Name of the kind of operation.
    pub name: &'static str,
    /// Aliases of some of its kinds.
    pub aliases: &'static [&'static str],
    /// Names of its inputs.
    pub inputs: &'static [&'static str],
    /// Names of its kernel variants, best first.
    pub variants: Vec<&'static str>,
    /// Renamed variants: the old name and the new one.
    pub old_variants: &'static [(&'static str, &'static str)],
    /// Parity cases of every size.
    pub cases: Vec<Case>,
}

impl Info {
    /// The parity cases of one size.
    pub fn cases_of(&self, size: Size) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.size == size)
    }
}

registry! {
    /// Elementwise activation function.
    activation::Activation,
    /// Matrix product or convolution with weights, and what happens to the sums.
    contraction::Contraction,
    /// Scaled dot-product attention.
    attention::Attention,
    /// Normalisation of groups of channels or of rows.
    norm::Norm,
    /// Softmax of each row.
    softmax::Softmax,
    /// Conversion between element types.
    cast::Cast,
    /// Concatenation of two tensors along any dimension.
    concat::Concat,
    /// A range of entries along any dimension.
    slice::Slice,
    /// Permutation of the dimensions.
    transpose::Transpose,
    /// The same elements under another shape.
    reshape::Reshape,
    /// Rotary position embedding.
    rope::Rope,
    /// Sum, product or quotient of two tensors.
    binary::Binary,
    /// Multiplication and addition of constants.
    scale::Scale,
    /// Clamping to a range.
    clamp::Clamp,
    /// The model's view of the sampler's state.
    model_input::ModelInput,
    /// The estimate of the clean picture.
    pred_original_sample::PredOriginalSample,
    /// Dynamic thresholding of the estimate of the clean picture.
    dynamic_threshold::DynamicThreshold,
    /// Noise of a learned strength.
    scale_noise::ScaleNoise,
    /// Noise as a step of Langevin dynamics.
    langevin_noise::LangevinNoise,
    /// The update of the sample.
    scheduler_step::SchedulerStep,
    /// Several predictions combined, as in classifier-free guidance.
    guidance::Guidance,
    /// The standard deviation of a prediction, restored after guidance.
    guidance_rescale::GuidanceRescale,
    /// Inpainting: what lies outside a mask, restored.
    masked_latents::MaskedLatents,
    /// The forward process.
    add_noise::AddNoise,
    /// Gaussian noise.
    randn::Randn,
    /// Nearest-neighbour upsampling.
    upsample_nearest::UpsampleNearest,
    /// Seams between tiles of a picture.
    blend_tiles::BlendTiles,
    /// Average pooling over 2 × 2 pixels.
    avg_pool::AvgPool,
    /// Half or twice the size, through a short filter.
    fir_resample::FirResample,
    /// Sines and cosines of a timestep.
    timestep_embedding::TimestepEmbedding,
    /// Sines and cosines of a noise level at random frequencies.
    fourier_embedding::FourierEmbedding,
    /// Rows looked up in a table.
    embedding::Embedding,
    /// The nearest row of a codebook.
    nearest_code::NearestCode,
    /// The gated activation of transformer blocks.
    gated::Gated,
    /// Prompt weights.
    emphasis::Emphasis,
    /// The largest magnitude of each part of a tensor.
    max_abs::MaxAbs,
    /// Sums along dimensions.
    sum::Sum,
    /// What weights get of a gradient.
    weight_gradient::WeightGradient,
    /// What an activation function passes back.
    activation_gradient::ActivationGradient,
    /// What a gated activation passes back.
    gated_gradient::GatedGradient,
    /// Moments of a norm's groups and of what is passed back through them.
    norm_moments::NormMoments,
    /// What a norm passes back to its input.
    norm_gradient::NormGradient,
    /// What a norm passes back to its parameters.
    norm_sums::NormSums,
    /// Sums of attention's scores, and of what is passed back through them.
    attention_statistics::AttentionStatistics,
    /// What attention passes back.
    attention_gradient::AttentionGradient,
    /// What a table of embeddings gets back.
    embedding_gradient::EmbeddingGradient,
    /// Filters as the gradient of a convolution takes them.
    turn_filter::TurnFilter,
    /// Pixels moved apart, with zeros between them.
    insert_zeros::InsertZeros,
    /// The bound that a learned variance is trained with.
    variance_bound::VarianceBound,
    /// What that passes back.
    variance_bound_gradient::VarianceBoundGradient,
    /// Averages that an optimizer keeps.
    moving_average::MovingAverage,
    /// A parameter's step.
    parameter_step::ParameterStep,
    /// A tensor divided by its own length.
    unit_norm::UnitNorm,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attributes = self.attributes();
        if attributes.is_empty() { write!(f, "{}", self.name()) } else { write!(f, "{}[{attributes}]", self.name()) }
    }
}

/// Checks that two shapes are equal, for use in `infer`.
pub(crate) fn expect_shape(what: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Shape(format!("{what}: expected shape {expected:?}, found {found:?}")))
    }
}

/// Checks the number of dimensions, for use in `infer`.
pub(crate) fn expect_rank<const N: usize>(what: &str, desc: &TensorDesc) -> Result<[usize; N]> {
    <[usize; N]>::try_from(desc.shape.as_slice())
        .map_err(|_| Error::Shape(format!("{what}: expected {N} dimensions, found shape {:?}", desc.shape)))
}

/// Checks that elements are f32 or f16, for use in `infer`: kernels would read the bits of integers as floats.
pub(crate) fn expect_float(what: &str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::F16 => Ok(()),
        DType::U32 => Err(Error::Unsupported(format!("{what} must hold f32 or f16, not u32"))),
    }
}

/// Checks the element type, for use in `infer`.
pub(crate) fn expect_dtype(what: &str, found: DType, expected: DType) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::Unsupported(format!("{what} must hold {}, not {}", expected.name(), found.name())))
    }
}

/// The dimension that `axis` means; negative ones count from the last, -1.
pub(crate) fn axis_of(shape: &[usize], axis: isize) -> Result<usize> {
    let rank = shape.len() as isize;
    if (-rank..rank).contains(&axis) {
        Ok(axis.rem_euclid(rank) as usize)
    } else {
        Err(Error::Shape(format!("a tensor of shape {shape:?} has no dimension {axis}")))
    }
}

/// Checks that `count` elements are whole 4-element vectors, for use in `legal`.
pub(crate) fn in_fours(what: &str, count: usize) -> std::result::Result<(), String> {
    if count.is_multiple_of(4) { Ok(()) } else { Err(format!("{what}: {count} is not a multiple of 4")) }
}

/// How many of a workgroup's 64 invocations may share a row, in kernels that sum rows.
pub(crate) fn row_lanes() -> Vec<Knobs> {
    Knobs::combinations(&[("ROW_LANES", &[8, 16, 32, 64])])
}
