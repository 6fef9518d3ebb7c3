//! Sines and cosines of a noise level at random frequencies, as in diffusers' `GaussianFourierProjection`.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_dtype, expect_rank, no_knobs};
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[n, j] = sin(2π · f(timestep[n]) · weight[j])` for the first half of the columns and the cosine for the second, f
/// the logarithm or the identity. Tancik et al. 2020; Song et al. 2021, "Score-Based Generative Modeling through
/// Stochastic Differential Equations", appendix C.2.
///
/// Inputs: `timestep [N]` f32 (positive if `log`), `weight [half]` f32; output `[N, 2 half]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct FourierEmbedding {
    /// Take the logarithm of the timestep.
    pub log: bool,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
}

impl Operation for FourierEmbedding {
    const NAME: &'static str = "fourier_embedding";
    const INPUTS: &'static [&'static str] = &["timestep", "weight"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (timestep, weight) = (inputs.required(0)?, inputs.required(1)?);
        expect_dtype("timestep", timestep.dtype, DType::F32)?;
        expect_dtype("weight", weight.dtype, DType::F32)?;
        let ([n], [half]) = (expect_rank("timestep", timestep)?, expect_rank("weight", weight)?);
        Ok(TensorDesc::f32([n, 2 * half]))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        (25 + if self.log { 20 } else { 0 }) * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::fourier_embedding(inputs.get(0), inputs.get(1), self.log, self.flip_sin_to_cos)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let elements = context.output.elements();
                Launch::new("fourier_embedding/naive")
                    .flag("LOG", op.log)
                    .flag("COSINE_FIRST", op.flip_sin_to_cos)
                    .param("elements", elements)
                    .param("dim", context.output.channels())
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        let order = if self.flip_sin_to_cos { "cos, sin" } else { "sin, cos" };
        if self.log { format!("log {order}") } else { order.into() }
    }

    fn cases() -> Vec<Case> {
        let case = |label, log, flip_sin_to_cos, levels: (f32, f32), half: usize, weights: f32| {
            let timestep = CaseInput::f32([5], Fill::Uniform(levels.0, levels.1));
            let weight = CaseInput::f32([half], Fill::Uniform(-weights, weights));
            Case::new(label, FourierEmbedding { log, flip_sin_to_cos }, vec![timestep, weight])
        };
        vec![
            // 5.85 · 48 is 280 turns, whose last place in f32 is worth 1.9e-4 rad.
            case("log of levels up to 348, weights up to 48", true, true, (0.01, 348.0), 33, 48.0).tolerance(1e-4),
            case("log of levels below 1", true, false, (0.001, 1.0), 17, 4.0),
            case("whole workgroups", false, true, (0.0, 1.0), 128, 4.0),
            case("levels up to 20", false, true, (0.0, 20.0), 15, 1.0),
            case("levels up to 1, sines first", false, false, (0.0, 1.0), 34, 4.0),
        ]
    }
}

impl Graph {
    /// Sines and cosines of 2π · `timestep [N]` (or its logarithm) · `weight [half]`: `[N, 2 half]`, f32.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if an input does not have one dimension;
    /// [`Error::Unsupported`](crate::Error::Unsupported) if one is not f32.
    pub fn fourier_embedding(
        &mut self,
        name: impl Into<String>,
        timestep: ValueId,
        weight: ValueId,
        op: FourierEmbedding,
    ) -> Result<ValueId> {
        self.push(name, op, &[Some(timestep), Some(weight)])
    }
}
