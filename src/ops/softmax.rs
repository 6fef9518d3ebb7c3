//! Softmax of each row.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Knobs, Launch, LowerContext, Lowered, Operation, Variant, expect_float,
    in_fours, no_knobs, row_lanes,
};
use crate::error::{Error, Result};
use crate::graph::{Backward, Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y = eˣ / Σ eˣ` over the last dimension.
///
/// Input: `x [.., C]`; output as `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax;

fn workgroup(_: &Softmax, context: &LowerContext<'_>, knobs: &Knobs) -> Lowered {
    let (rows, lanes) = (context.output.rows(), knobs.get("ROW_LANES"));
    Launch::new("softmax/workgroup")
        .constant("ROW_LANES", lanes)
        .param("rows", rows)
        .param("channels", context.output.channels())
        .cover(rows * lanes, 64)
        .into()
}

fn rows(_: &Softmax, context: &LowerContext<'_>) -> Lowered {
    let rows = context.output.rows();
    Launch::new("softmax/rows").param("rows", rows).param("channels", context.output.channels()).cover(rows, 8).into()
}

fn naive(_: &Softmax, context: &LowerContext<'_>) -> Lowered {
    let elements = context.output.elements();
    Launch::new("softmax/naive")
        .param("elements", elements)
        .param("channels", context.output.channels())
        .cover(elements.div_ceil(4), 64)
        .into()
}

impl Operation for Softmax {
    const NAME: &'static str = "softmax";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        if x.shape.is_empty() || x.elements() == 0 {
            return Err(Error::Shape(format!("x: expected [.., C], found shape {:?}", x.shape)));
        }
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        12 * output.elements() as u64 // maximum, exponential (about 8), sum, division
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::softmax(inputs.get(0))
    }

    /// `dx = y (dy − Σ dy y)`, the sum over a row.
    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (y, dy, name) = (back.output()?, back.dy, back.name("x"));
        let product = back.graph.mul(format!("{name}.product"), dy, y)?;
        let last = back.shape(0).len() - 1;
        let sum = back.graph.sum(format!("{name}.sum"), product, last, last + 1)?;
        let negative = back.graph.scale(format!("{name}.negative"), sum, -1.0, 0.0)?;
        let shifted = back.graph.add(format!("{name}.shifted"), dy, negative)?;
        Ok(vec![Some(back.graph.mul(name, shifted, y)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "workgroup",
                family: Family::Gpu,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: |_, _| row_lanes(),
                lower: workgroup,
            },
            Variant {
                name: "rows",
                family: Family::Cpu,
                legal: |_, context| {
                    in_fours("channels", context.output.channels())?;
                    context.can_loop(3 * context.output.channels() / 4) // three loops over a row
                },
                knobs: no_knobs,
                lower: |op, context, _| rows(op, context),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                // Two loops over a row for each of four elements.
                legal: |_, context| context.can_loop(8 * context.output.channels() + 4),
                knobs: no_knobs,
                lower: |op, context, _| naive(op, context),
            },
        ]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], fill| {
            Case::new(label, Softmax, vec![Some(CaseInput { desc: TensorDesc::f32(shape), fill, always_f32: false })])
        };
        vec![
            case("odd channels", &[3, 7, 13], Fill::Normal),
            case("three channels", &[5, 3], Fill::Normal),
            case("tokens", &[2, 33, 40], Fill::Normal),
            case("one vector of four a row", &[9, 4], Fill::Normal),
            case("one past a workgroup", &[2, 9, 260], Fill::Normal),
            case("long rows", &[2, 3, 2052], Fill::Normal),
            case("whole workgroups in every variant", &[64, 8], Fill::Normal),
            case("rows of 10 000", &[3, 10_000], Fill::Normal).large(),
            case("scores of 64 x 64 pixels over themselves, one head", &[4096, 4096], Fill::Normal).perf(),
            // e^x itself would overflow, or be zero in every term; the differences from the largest x are exact in f32.
            case("nearly one-hot", &[4, 9, 36], Fill::Uniform(-400.0, 400.0)),
            case("so far apart that each power overflows, whole vectors", &[8, 9, 36], Fill::Uniform(-4000.0, 4000.0)),
            case("long rows, so far apart", &[10, 1028], Fill::Uniform(-6e4, 6e4)),
            case("large negative", &[4, 9, 36], Fill::Uniform(-1010.0, -1000.0)),
        ]
    }
}

impl Graph {
    /// Softmax of each row of `x [.., C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has no elements.
    pub fn softmax(&mut self, name: impl Into<String>, x: ValueId) -> Result<ValueId> {
        self.push(name, Softmax, &[Some(x)])
    }
}
