//! Matrix product with a weight matrix, as in `torch.nn.Linear`.

use super::activation::ActivationKind;
use super::product::{Product, shuffle_knobs, shuffle_lanes, tile_knobs};
use super::{
    Case, CaseInput, Family, Fill, Inputs, LowerContext, Operation, Variant, expect_dtype, expect_float, expect_rank,
    expect_shape, in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[m, n] = f(Σ_k x[m, k] · weight[n, k] + bias[n]) + residual[m, n]`
///
/// Inputs: `x [.., K]`, `weight [N, K]`, `bias [N]`?, `residual [.., N]`?; output `[.., N]`. M is the product of all
/// dimensions of `x` but the last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linear {
    /// Activation function applied before the residual is added.
    pub activation: Option<ActivationKind>,
}

/// Position of the input `weight`.
pub const WEIGHT: usize = 1;
/// Position of the input `bias`.
pub const BIAS: usize = 2;
/// Position of the input `residual`.
pub const RESIDUAL: usize = 3;

impl Linear {
    /// M, N and K of the product.
    pub(crate) fn sizes(&self, context: &LowerContext<'_>) -> [usize; 3] {
        let Product { m, n, k, .. } = self.product(context);
        [m, n, k]
    }

    fn product(&self, context: &LowerContext<'_>) -> Product {
        Product {
            m: context.output.rows(),
            n: context.output.channels(),
            k: context.input(0).channels(),
            bias: context.has(BIAS),
            residual: context.has(RESIDUAL),
            activation: self.activation,
        }
    }
}

impl Operation for Linear {
    const NAME: &'static str = "linear";
    const INPUTS: &'static [&'static str] = &["x", "weight", "bias", "residual"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, weight) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("x", x.dtype)?;
        expect_float("weight", weight.dtype)?;
        let [n, k] = expect_rank("weight", weight)?;
        if x.shape.is_empty() || x.channels() != k {
            return Err(Error::Shape(format!(
                "x {:?} must end in the {k} columns of weight {:?}",
                x.shape, weight.shape
            )));
        }
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("checked above") = n;
        if let Some(bias) = inputs.optional(2) {
            expect_shape("bias", &bias.shape, &[n])?;
            expect_dtype("bias", bias.dtype, DType::F32)?;
        }
        if let Some(residual) = inputs.optional(3) {
            expect_shape("residual", &residual.shape, &shape)?;
            expect_float("residual", residual.dtype)?;
        }
        Ok(x.with_shape(shape))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        2 * output.elements() as u64 * inputs.get(0).channels() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::linear(
            inputs.get(0),
            inputs.get(1),
            inputs.optional(2),
            inputs.optional(3),
            self.activation.map(ActivationKind::reference),
        )
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "tiled",
                family: Family::Gpu,
                legal: |_, context| in_fours("K", context.input(0).channels()),
                knobs: |op, context| tile_knobs(op.product(context).k),
                lower: |op, context, knobs| op.product(context).tiled(knobs),
            },
            Variant {
                name: "shuffle",
                family: Family::Cpu,
                legal: |_, context| {
                    in_fours("K", context.input(0).channels())?;
                    shuffle_lanes(context.caps).map(drop)
                },
                knobs: |_, _| shuffle_knobs(),
                lower: |op, context, knobs| {
                    let lanes = shuffle_lanes(context.caps).expect("`legal` was asked first");
                    op.product(context).shuffle(lanes, knobs)
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| op.product(context).naive(),
            },
        ]
    }

    fn attributes(&self) -> String {
        self.activation.map_or(String::new(), |a| a.name().into())
    }

    fn cases() -> Vec<Case> {
        let case = |label, activation, x: &[usize], n: usize, bias: bool, residual: bool| {
            let k = x[x.len() - 1];
            let mut y = x.to_vec();
            y[x.len() - 1] = n;
            let inputs = vec![
                CaseInput::normal(x),
                CaseInput::normal([n, k]),
                bias.then(|| CaseInput::f32([n], Fill::Normal)).flatten(),
                residual.then(|| CaseInput::normal(y)).flatten(),
            ];
            Case::new(label, Linear { activation }, inputs)
        };
        vec![
            case("odd sizes, no bias", None, &[5, 7], 3, false, false),
            case("one row, bias", None, &[1, 36], 20, true, false),
            case("tokens, bias, residual", None, &[2, 33, 40], 68, true, true),
            case("tile sizes exactly", None, &[128, 64], 128, true, false),
            case("columns not a multiple of four", None, &[3, 70, 44], 70, true, true),
            case("few rows, long sum", Some(ActivationKind::Silu), &[3, 2052], 44, true, true),
            case(
                "few rows, long sum, columns not a multiple of four",
                Some(ActivationKind::Gelu),
                &[2, 1036],
                17,
                true,
                true,
            ),
            case("many tiles of 128", None, &[2, 705, 8], 1412, true, false),
            case("one past the tiles", Some(ActivationKind::Silu), &[129, 68], 132, true, true),
            case("channels not a multiple of four", Some(ActivationKind::Gelu), &[2, 9, 30], 18, true, true),
        ]
    }
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
        self.push(name, Linear::default(), &[Some(x), Some(weight), bias, None])
    }
}
