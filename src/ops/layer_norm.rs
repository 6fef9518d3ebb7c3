//! Normalisation of each row.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Knobs, Launch, LowerContext, Lowered, Operation, Variant, expect_float,
    expect_shape, in_fours, no_knobs, row_lanes,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = (x − mean) / √(variance + eps) · gamma + beta`, mean and biased variance over the last dimension.
/// Ba, Kiros and Hinton 2016, "Layer Normalization".
///
/// Inputs: `x [.., C]`, `gamma [C]`, `beta [C]`; output as `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        Launch::new(kernel).param("channels", context.output.channels()).param_f32("eps", self.eps as f32)
    }

    fn workgroup(&self, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
        let (rows, lanes) = (context.output.rows(), knobs.get("ROW_LANES"));
        self.launch("layer_norm/workgroup", context)
            .constant("ROW_LANES", lanes)
            .param("rows", rows)
            .cover(rows * lanes, 64)
            .into()
    }

    fn rows(&self, context: &LowerContext<'_>) -> Lowered {
        let rows = context.output.rows();
        self.launch("layer_norm/rows", context).param("rows", rows).cover(rows, 8).into()
    }

    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let elements = context.output.elements();
        self.launch("layer_norm/naive", context).param("elements", elements).cover(elements.div_ceil(4), 64).into()
    }
}

impl Operation for LayerNorm {
    const NAME: &'static str = "layer_norm";
    const INPUTS: &'static [&'static str] = &["x", "gamma", "beta"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        if x.shape.is_empty() || x.elements() == 0 {
            return Err(Error::Shape(format!("x: expected [.., C], found shape {:?}", x.shape)));
        }
        expect_shape("gamma", &inputs.required(1)?.shape, &[x.channels()])?;
        expect_shape("beta", &inputs.required(2)?.shape, &[x.channels()])?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        8 * output.elements() as u64 // mean 1, variance 3, normalisation 4
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::layer_norm(inputs.get(0), inputs.get(1), inputs.get(2), self.eps)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "workgroup",
                family: Family::Gpu,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: |_, _| row_lanes(),
                lower: Self::workgroup,
            },
            Variant {
                name: "rows",
                family: Family::Cpu,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: no_knobs,
                lower: |op, context, _| op.rows(context),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| op.naive(context),
            },
        ]
    }

    fn attributes(&self) -> String {
        format!("eps={:e}", self.eps)
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], eps, fill| {
            let channels = shape[shape.len() - 1];
            let x = CaseInput { desc: TensorDesc::f32(shape), fill, always_f32: false };
            let inputs = vec![
                Some(x),
                CaseInput::f32([channels], Fill::Uniform(0.4, 1.7)),
                CaseInput::f32([channels], Fill::Normal),
            ];
            Case::new(label, LayerNorm { eps }, inputs)
        };
        vec![
            case("odd channels", &[3, 7, 13], 1e-5, Fill::Normal),
            case("tokens", &[2, 33, 40], 1e-5, Fill::Normal),
            case("one vector of four a row", &[9, 4], 1e-6, Fill::Normal),
            case("eps larger than the variance", &[2, 5, 36], 1e-2, Fill::Uniform(-1e-2, 1e-2)),
            case("one past a workgroup", &[2, 9, 260], 1e-5, Fill::Uniform(-1.0, 3.0)),
            case("long rows", &[5, 3, 1284], 1e-5, Fill::Uniform(-1.0, 3.0)),
            // The mean is 170 times the deviation: rounding the mean alone to f32 moves the result by up to 170 · 2⁻²⁴
            // = 1e-5.
            case("mean far from zero", &[2, 13, 72], 1e-5, Fill::Uniform(99.0, 101.0)).tolerance(1e-4),
        ]
    }
}

impl Graph {
    /// Layer normalisation of each row of `x [.., C]` with `gamma [C]` and `beta [C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a parameter has another length.
    pub fn layer_norm(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        gamma: ValueId,
        beta: ValueId,
        eps: f64,
    ) -> Result<ValueId> {
        self.push(name, LayerNorm { eps }, &[Some(x), Some(gamma), Some(beta)])
    }
}
