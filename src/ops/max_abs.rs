//! The largest magnitude of each part of a tensor.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operation, Variant, expect_float, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// The fewest elements of a part: 4 vectors for each of 256 invocations.
const LEAST: usize = 4096;
/// The most parts, so that the host has little to read.
const MOST_PARTS: usize = 1024;

/// `y[i] = max |x[e]|` over the elements e of part i: at most 1024 consecutive runs of at least 4096 elements. A NaN
/// counts as larger than infinity.
///
/// Input: `x`, any shape; output `[parts]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct MaxAbs;

impl MaxAbs {
    /// Elements of each part but the last: whole vectors.
    pub(crate) fn part(elements: usize) -> usize {
        elements.div_ceil(MOST_PARTS).max(LEAST).next_multiple_of(4)
    }

    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let elements = context.inputs[0].expect("shape inference rejects a missing input").elements();
        Launch::new("max_abs/naive")
            .param("elements", elements)
            .param("part", Self::part(elements))
            .workgroups(context.output.elements(), 1, 1)
            .into()
    }
}

impl Operation for MaxAbs {
    const NAME: &'static str = "max_abs";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        if x.elements() == 0 {
            return Err(Error::Shape(format!("x {:?} is empty", x.shape)));
        }
        Ok(TensorDesc { shape: vec![x.elements().div_ceil(Self::part(x.elements()))], dtype: DType::F32 })
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        inputs.get(0).elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let x = inputs.get(0);
        reference::max_abs(x, Self::part(x.len()))
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| op.naive(context),
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize]| Case::new(label, MaxAbs, vec![CaseInput::normal(shape)]);
        let rising = |label, shape: &[usize]| {
            let x = CaseInput { desc: TensorDesc::f32(shape), fill: Fill::Rising, always_f32: false };
            Case::new(label, MaxAbs, vec![Some(x)])
        };
        vec![
            case("less than one part, odd", &[3, 5, 7, 3]),
            case("one part", &[64, 64]),
            case("one part and one element", &[17, 241]),
            case("several parts", &[2, 37, 41, 5]),
            case("one element", &[1]),
            case("two elements", &[2]),
            case("three elements", &[3]),
            rising("six elements, the last the largest", &[6]),
            rising("seven elements, the last the largest", &[7]),
            rising("eight elements, the last the largest", &[8]),
            rising("several parts, the last element of each the largest", &[3, 4096]),
            // Enough parts that leaving out a vector of each changes the largest value of some.
            case("1024 parts", &[1024, 4096]),
            Case::new(
                "nothing but zeros, padded",
                MaxAbs,
                vec![Some(CaseInput { desc: TensorDesc::f32([5]), fill: Fill::Uniform(0.0, 0.0), always_f32: false })],
            ),
        ]
    }
}

impl Graph {
    /// `x` of any shape → `[parts]`: the largest magnitude of each part, see [`MaxAbs`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if `x` holds u32, [`Error::Shape`] if it is empty.
    pub fn max_abs(&mut self, name: impl Into<String>, x: ValueId) -> Result<ValueId> {
        self.push(name, MaxAbs, &[Some(x)])
    }
}
