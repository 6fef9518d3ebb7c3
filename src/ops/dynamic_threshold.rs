//! Dynamic thresholding of the sampler's estimate of the clean picture.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Lowered, Operand, Operation, Variant, expect_dtype,
    no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[n] = clamp(x0[n], ±s) / s` with s the `ratio`-quantile of `|x0[n]|` (linear between the two nearest values), at
/// least 1 and at most `max`. Saharia et al. 2022, arXiv:2205.11487, section 2.3.
///
/// Input: `x0 [N, ..]` f32; output as `x0`.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicThreshold {
    /// Which quantile, 0 to 1 (`dynamic_thresholding_ratio`).
    pub ratio: f64,
    /// Largest s (`sample_max_value`).
    pub max: f64,
}

impl DynamicThreshold {
    fn naive(&self, context: &LowerContext<'_>) -> Lowered {
        let elements = context.output.elements();
        let n = context.output.shape[0];
        let rank = self.ratio * (elements / n - 1) as f64;
        let quantile = Launch::new("dynamic_threshold/naive_quantile")
            .bind("threshold", Operand::Scratch(0))
            .param("E", elements / n)
            .param("rank", rank.floor() as usize)
            .param_f32("fraction", rank.fract() as f32)
            .param_f32("maximum", self.max as f32)
            .workgroups(n, 1, 1);
        let apply = Launch::new("dynamic_threshold/naive")
            .bind("threshold", Operand::Scratch(0))
            .param("elements", elements)
            .param("E", elements / n)
            .cover(elements.div_ceil(4), 64);
        Lowered { launches: vec![quantile, apply], scratch: vec![TensorDesc::f32([n]).into()] }
    }
}

impl Operation for DynamicThreshold {
    const NAME: &'static str = "dynamic_threshold";
    const INPUTS: &'static [&'static str] = &["x0"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x0 = inputs.required(0)?;
        expect_dtype("x0", x0.dtype, DType::F32)?;
        if x0.elements() == 0 {
            return Err(Error::Shape(format!("x0 {:?} is empty", x0.shape)));
        }
        if !(0.0..=1.0).contains(&self.ratio) || self.max <= 0.0 || self.max.is_nan() {
            return Err(Error::Config(format!(
                "dynamic thresholding with ratio {} and maximum {} is not defined; the ratio lies in 0 to 1 and the \
                maximum above 0",
                self.ratio, self.max
            )));
        }
        Ok(x0.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        8 * output.elements() as u64 // five passes that select, one that clamps and divides
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::dynamic_threshold(inputs.get(0), self.ratio, self.max)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, context| {
                // Five loops of 256 invocations over an image, and four over the counts of 256 digits.
                let elements = context.output.elements() / context.output.shape[0];
                context.can_loop(5 * elements.div_ceil(256) + 4 * 256)
            },
            knobs: no_knobs,
            lower: |op, context, _| op.naive(context),
        }]
    }

    fn attributes(&self) -> String {
        format!("ratio={} max={}", self.ratio, self.max)
    }

    fn cases() -> Vec<Case> {
        let case = |label, ratio, max, x0: &[usize], fill| {
            Case::new(label, DynamicThreshold { ratio, max }, vec![CaseInput::f32(x0, fill)])
        };
        vec![
            case("the usual quantile, 525 elements", 0.995, 10.0, &[3, 5, 7, 5, 3], Fill::Normal),
            case("larger images", 0.9, 10.0, &[2, 24, 20, 3], Fill::Normal),
            case("quantile below 1", 0.3, 10.0, &[2, 5, 7, 3], Fill::Normal),
            case("quantile above the maximum", 0.99, 1.5, &[2, 5, 7, 3], Fill::Normal),
            case("largest value", 1.0, 10.0, &[3, 35], Fill::Normal),
            case("many equal values, quantile between two", 0.7, 10.0, &[2, 10], Fill::Index(6)),
            case("many equal values, quantile among them", 0.52, 10.0, &[3, 101], Fill::Index(4)),
            case("one element", 0.5, 10.0, &[2, 1], Fill::Uniform(2.0, 4.0)),
            case("two whole workgroups", 0.9, 10.0, &[2, 8, 8, 4], Fill::Normal),
            // Enough images that leaving out one element of each changes some quantile.
            case("2048 images, quantile between the two largest", 0.9992, 10.0, &[2048, 600], Fill::Normal),
        ]
    }
}

impl Graph {
    /// `x0 [N, ..]`, each image clamped to the `ratio`-quantile s of its absolute values and divided by s; s is at
    /// least 1 and at most `max`.
    ///
    /// # Errors
    /// [`Error::Config`] if `ratio` is not in 0 to 1 or `max` not above 0; [`Error::Unsupported`] if `x0` is not f32.
    pub fn dynamic_threshold(&mut self, name: impl Into<String>, x0: ValueId, ratio: f64, max: f64) -> Result<ValueId> {
        self.push(name, DynamicThreshold { ratio, max }, &[Some(x0)])
    }
}
