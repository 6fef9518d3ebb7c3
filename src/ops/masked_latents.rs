//! Inpainting with a model that takes no mask: what lies outside the mask is restored after every step.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_dtype, expect_shape, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// The sampler's state with `mask · sample + (1 − mask) · (a · original + b · noise)` in place of the sample: the
/// original picture, noised to the level of the sample, wherever the mask is 0. The memory slots are unchanged. Lugmayr
/// et al. 2022 (RePaint, without resampling), eq. 8.
///
/// Inputs: `state [1 + S, N, .., C]`, `original [N, .., C]`, `noise [N, .., C]`, `mask [1, .., 1]`, `level [2]`
/// (a and b); output as `state`. All f32.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedLatents;

impl Operation for MaskedLatents {
    const NAME: &'static str = "masked_latents";
    const INPUTS: &'static [&'static str] = &["state", "original", "noise", "mask", "level"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let state = inputs.required(0)?;
        let [_, sample @ ..] = state.shape.as_slice() else {
            return Err(Error::Shape("state must be [1 + S, N, .., C], found a number".into()));
        };
        let [_, pixels @ .., _] = sample else {
            return Err(Error::Shape(format!("state must be [1 + S, N, .., C], found {:?}", state.shape)));
        };
        let mask = [&[1], pixels, &[1]].concat();
        for (i, shape) in [(1, sample.to_vec()), (2, sample.to_vec()), (3, mask), (4, vec![2])] {
            let input = inputs.required(i)?;
            expect_shape(Self::INPUTS[i], &input.shape, &shape)?;
            expect_dtype(Self::INPUTS[i], input.dtype, DType::F32)?;
        }
        Ok(state.clone())
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        6 * inputs.get(1).elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let [state, original, noise, mask, level] = [0, 1, 2, 3, 4].map(|i| inputs.get(i));
        reference::masked_latents(state, original, noise, mask, level)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| {
                let shape = &context.output.shape;
                let elements = context.output.elements();
                Launch::new("masked_latents/naive")
                    .param("elements", elements)
                    .param("sample", elements / shape[0])
                    .param("pixels", shape[2..shape.len() - 1].iter().product())
                    .param("C", context.output.channels())
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, state: &[usize]| {
            let mask = [&[1], &state[2..state.len() - 1], &[1]].concat();
            let inputs = vec![
                CaseInput::f32(state, Fill::Normal),
                CaseInput::f32(&state[1..], Fill::Normal),
                CaseInput::f32(&state[1..], Fill::Normal),
                CaseInput::f32(mask, Fill::Uniform(0.0, 1.0)),
                CaseInput::f32([2], Fill::Uniform(0.1, 1.0)),
            ];
            Case::new(label, MaskedLatents, inputs)
        };
        vec![
            case("odd number of elements, two slots", &[3, 2, 5, 7, 3]),
            case("latents", &[1, 2, 3, 5, 4]),
            case("one channel", &[2, 3, 3, 5, 1]),
            case("a sound", &[2, 2, 13, 5]),
            case("a film", &[1, 2, 3, 2, 5, 4]),
            case("two whole workgroups", &[2, 2, 4, 8, 4]),
        ]
    }
}

impl Graph {
    /// `state` with the original, at noise level `level`, restored where `mask` is 0.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    pub fn masked_latents(
        &mut self,
        name: impl Into<String>,
        state: ValueId,
        original: ValueId,
        noise: ValueId,
        mask: ValueId,
        level: ValueId,
    ) -> Result<ValueId> {
        let inputs = [state, original, noise, mask, level].map(Some);
        self.push(name, MaskedLatents, &inputs)
    }
}
