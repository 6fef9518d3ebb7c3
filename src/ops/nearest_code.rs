//! Vector quantisation: the nearest row of a codebook.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operation, Variant};
use super::{expect_float, expect_rank, lower::nested, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[..]` = the k for which `Σ_d (x[.., d] − codes[k, d])²` is least, the first of several: van den Oord et al. 2017,
/// "Neural Discrete Representation Learning" (arXiv:1711.00937), eq. 1.
///
/// Inputs: `x [.., D]`, `codes [K, D]`; output u32 `[..]`, below K, as [`super::embedding::Embedding`] takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct NearestCode;

/// Codes of a part, and rounds of a loop over them: many codes fill a GPU better in parts, and drivers end long loops.
const CODES: usize = 1024;
const ROUNDS: usize = 32_768;

/// Codes that one invocation of `parts` compares.
fn length(context: &LowerContext<'_>) -> usize {
    (ROUNDS / (context.input(1).channels() + 2)).clamp(1, CODES)
}

fn launch(kernel: &'static str, context: &LowerContext<'_>, length: usize, parts: usize) -> Launch {
    Launch::new(kernel)
        .param("rows", context.output.elements())
        .param("D", context.input(1).channels())
        .param("K", context.input(1).rows())
        .param("parts", parts)
        .param("length", length)
}

impl Operation for NearestCode {
    const NAME: &'static str = "nearest_code";
    const INPUTS: &'static [&'static str] = &["x", "codes"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, codes) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("codes", codes.dtype)?;
        let [count, width] = expect_rank::<2>("codes", codes)?;
        if count == 0 || width == 0 || count >= 1 << 24 {
            return Err(Error::Shape(format!("codes: expected [K, D], K from 1 to 2²⁴ − 1, found {:?}", codes.shape)));
        }
        match x.shape.split_last() {
            Some((last, rest)) if *last == width => Ok(TensorDesc { shape: rest.to_vec(), dtype: DType::U32 }),
            _ => {
                Err(Error::Shape(format!("x: expected [.., {width}] for codes {:?}, found {:?}", codes.shape, x.shape)))
            }
        }
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        3 * inputs.get(1).elements() as u64 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::nearest_code(inputs.get(0), inputs.get(1))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "parts",
                family: Family::Any,
                legal: |_, context| {
                    let (codes, length) = (context.input(1).rows(), length(context));
                    if codes <= length {
                        return Err(format!("{codes} codes are too few for parts of {length}"));
                    }
                    context.can_loop(nested(&[length, context.input(1).channels()]))?;
                    context.can_loop(codes.div_ceil(length))
                },
                knobs: no_knobs,
                lower: |_, context, _| {
                    let (rows, length) = (context.output.elements(), length(context));
                    let parts = context.input(1).rows().div_ceil(length);
                    let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
                    let best = lowered.add_scratch([parts, rows, 2]);
                    let first = launch("nearest_code/parts", context, length, parts).cover(parts * rows, 64);
                    let second =
                        Launch::new("nearest_code/combine").param("rows", rows).param("parts", parts).cover(rows, 64);
                    lowered.launches.extend([first, second].map(|launch| launch.bind("best", best)));
                    lowered
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, context| context.can_loop(nested(&[context.input(1).rows(), context.input(1).channels()])),
                knobs: no_knobs,
                lower: |_, context, _| {
                    let codes = context.input(1).rows();
                    launch("nearest_code/naive", context, codes, 1).cover(context.output.elements(), 64).into()
                },
            },
        ]
    }

    fn cases() -> Vec<Case> {
        let case = |label, x: &[usize], codes: [usize; 2]| {
            Case::new(label, NearestCode, vec![CaseInput::normal(x), CaseInput::normal(codes)])
        };
        vec![
            case("latents of 3 channels, 11 codes", &[2, 3, 5, 3], [11, 3]),
            case("two whole workgroups, 4 channels", &[128, 4], [50, 4]),
            case("one code", &[7, 5], [1, 5]),
            case("130 rows of 1 channel", &[130, 1], [9, 1]),
            case("1025 codes, the last in a part of its own", &[65, 4], [1025, 4]),
            case("codes of 600 numbers, in parts of 54", &[130, 600], [60, 600]),
            Case::new(
                "each code in several parts, of which the first counts",
                NearestCode,
                vec![CaseInput::f32([67, 1], Fill::Index(4)), CaseInput::f32([1030, 1], Fill::Index(4))],
            ),
            case("16 384 codes, more than a loop of CPU drivers takes", &[1, 16, 16, 4], [16_384, 4]).large(),
        ]
    }
}

impl Graph {
    /// The row of `codes [K, D]` that is nearest to each row of `x [.., D]`: u32 `[..]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the last dimensions differ.
    pub fn nearest_code(&mut self, name: impl Into<String>, x: ValueId, codes: ValueId) -> Result<ValueId> {
        self.push(name, NearestCode, &[Some(x), Some(codes)])
    }
}
