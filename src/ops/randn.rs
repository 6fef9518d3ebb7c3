//! Gaussian noise, drawn on the device.

use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_dtype, expect_shape, no_knobs};
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// Independent N(0, 1) elements, as drawn by [`TorchCuda`](crate::rng::TorchCuda): Philox 4x32-10 (Salmon et al. 2011)
/// and Box–Muller. Element `[n, .., c]` is the one at `[n, c, ..]` of torch's draw, because torch's pictures are
/// channels-first.
///
/// Input: `seed [8]` u32 ([`Randn::seed`]); output of the given shape, f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Randn {
    /// Shape of the result, `[N, .., C]`.
    pub shape: Vec<usize>,
}

impl Randn {
    /// The value of the input `seed` for a generator with this seed that has drawn `draws` tensors already: both
    /// numbers as four 16-bit limbs, lowest first, because host tensors hold integers only up to 2²⁴.
    pub fn seed(seed: u64, draws: u64) -> HostTensor {
        let limbs = |v: u64| (0..4).map(move |limb| (v >> (16 * limb) & 0xffff) as f32);
        HostTensor { shape: vec![8], data: limbs(seed).chain(limbs(draws)).collect() }
    }
}

impl Operation for Randn {
    const NAME: &'static str = "randn";
    const INPUTS: &'static [&'static str] = &["seed"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let seed = inputs.required(0)?;
        expect_dtype("seed", seed.dtype, DType::U32)?;
        expect_shape("seed", &seed.shape, &[8])?;
        Ok(TensorDesc::f32(self.shape.clone()))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        60 * output.elements() as u64 // besides 10 rounds of integer arithmetic
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::randn(inputs.get(0), &self.shape)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let elements = context.output.elements();
                Launch::new("randn/naive")
                    .param("elements", elements)
                    .param("M", op.shape[1..op.shape.len().max(2) - 1].iter().product())
                    .param("C", context.output.channels())
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("{:?}", self.shape)
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize]| {
            Case::new(label, Randn { shape: shape.to_vec() }, vec![CaseInput::index([8], 1 << 16)])
        };
        vec![
            case("pictures", &[2, 33, 17, 3]),
            case("latents", &[3, 8, 9, 4]),
            case("rows", &[5, 7]),
            case("one dimension", &[1001]),
            case("two whole workgroups", &[2, 8, 8, 4]),
        ]
    }
}

impl Graph {
    /// N(0, 1) noise of `shape` `[N, .., C]`; `seed` as [`Randn::seed`] makes it.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) or [`Error::Unsupported`](crate::Error::Unsupported) if `seed` is
    /// not a u32 `[8]`.
    pub fn randn(&mut self, name: impl Into<String>, seed: ValueId, shape: &[usize]) -> Result<ValueId> {
        self.push(name, Randn { shape: shape.to_vec() }, &[Some(seed)])
    }
}
