//! What a learned variance is trained with.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Operation, Variant};
use super::{expect_dtype, expect_shape, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Backward, Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y = scale · L`, elementwise: L_{t−1} = D_KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) of two normal distributions
/// in nats, or at the first timestep L_0 = −log p(x_0 | x_1) of a picture with 256 levels (Ho et al. 2020, eq. 5 and
/// 13), with log σ² = share · log β_t + (1 − share) · log β̃_t and share = (v + 1) / 2 (Nichol and Dhariwal 2021,
/// "Improved Denoising Diffusion Probabilistic Models", eq. 15). The picture that the model sees is `of_sample · x_t +
/// of_prediction · prediction`; the means differ by `posterior` times its error.
///
/// Inputs: `variance` (v), `original` (x_0), `sample` (x_t) and `prediction`, all `[N, ..]`; `coefficients [N, 5]`:
/// of_sample, of_prediction, posterior, whether it is the first timestep (above ½), scale; `log_variances [N, 2]`:
/// log β̃_t and log β_t. All f32. There is a gradient with respect to v alone: in training the mean counts as given
/// (section 3.1, "stop-gradient").
#[derive(Clone, Debug, PartialEq)]
pub struct VarianceBound;

/// Checks the inputs that the bound and its gradient share.
pub(super) fn check(inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
    let variance = inputs.required(0)?;
    let batch = *variance.shape.first().ok_or_else(|| Error::Shape("variance: expected [N, ..]".into()))?;
    for (position, name) in VarianceBound::INPUTS.iter().enumerate() {
        let input = inputs.required(position)?;
        expect_dtype(name, input.dtype, DType::F32)?;
        match position {
            4 => expect_shape(name, &input.shape, &[batch, 5])?,
            5 => expect_shape(name, &input.shape, &[batch, 2])?,
            _ => expect_shape(name, &input.shape, &variance.shape)?,
        }
    }
    Ok(variance.clone())
}

/// The only variant of the bound and of its gradient.
pub(super) fn launch(kernel: &'static str, context: &LowerContext<'_>) -> Launch {
    let elements = context.output.elements();
    Launch::new(kernel)
        .param("elements", elements)
        .param("image", elements / context.output.shape[0])
        .cover(elements.div_ceil(4), 64)
}

/// Inputs of cases: with levels that are far off, and beyond both ends of the range.
pub(super) fn inputs(shape: &[usize], error: f32, log_variances: (f32, f32)) -> Vec<Option<CaseInput>> {
    let tensor = |fill| CaseInput::f32(shape, fill);
    vec![
        tensor(Fill::Normal),
        tensor(Fill::Uniform(-1.2, 1.2)),
        tensor(Fill::Uniform(-error, error)),
        tensor(Fill::Uniform(-error, error)),
        CaseInput::f32([shape[0], 5], Fill::Uniform(0.1, 0.9)),
        CaseInput::f32([shape[0], 2], Fill::Uniform(log_variances.0, log_variances.1)),
    ]
}

/// A case whose pictures are near one end of the range, where the last level takes all beyond it.
pub(super) fn at_an_end(mut case: Case, low: f32, high: f32) -> Case {
    case.inputs[1].as_mut().expect("x_0 is required").fill = Fill::Uniform(low, high);
    case
}

impl Operation for VarianceBound {
    const NAME: &'static str = "variance_bound";
    const INPUTS: &'static [&'static str] =
        &["variance", "original", "sample", "prediction", "coefficients", "log_variances"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        check(inputs)
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        20 * output.elements() as u64 // and more at the first timestep
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::variance_bound([0, 1, 2, 3, 4, 5].map(|i| inputs.get(i)))
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        if let Some(other) = (1..Self::INPUTS.len()).find(|position| back.wants(*position) && !back.wants(0)) {
            return back.refuse(Self::INPUTS[other]);
        }
        let mut all = Vec::with_capacity(7);
        for position in 0..Self::INPUTS.len() {
            all.push(Some(back.input(position)?));
        }
        all.push(Some(back.dy));
        let name = back.name("variance");
        let gradient = back.graph.push(name, super::variance_bound_gradient::VarianceBoundGradient, &all)?;
        Ok(vec![Some(gradient), None, None, None, None, None])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| launch("variance_bound/naive", context).into(),
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], error, variances| Case::new(label, Self, inputs(shape, error, variances));
        vec![
            case("odd number of elements", &[5, 5, 7, 3], 1.0, (-8.0, -4.0)),
            case("far off for so small a variance", &[4, 3, 5, 4], 2.0, (-9.5, -7.0)),
            case("large variances", &[3, 9, 7, 1], 1.0, (-4.0, -1.0)),
            case("two whole workgroups", &[2, 4, 8, 8], 1.0, (-8.0, -4.0)),
            at_an_end(case("at the dark end", &[4, 5, 3, 3], 1.0, (-3.0, -1.0)), -1.02, -0.98),
            at_an_end(case("at the bright end", &[4, 5, 3, 3], 1.0, (-3.0, -1.0)), 0.98, 1.02),
        ]
    }
}

impl Graph {
    /// The bound of each element, in the order of [`VarianceBound`]'s inputs.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not agree.
    pub fn variance_bound(&mut self, name: impl Into<String>, inputs: [ValueId; 6]) -> Result<ValueId> {
        self.push(name, VarianceBound, &inputs.map(Some))
    }
}
