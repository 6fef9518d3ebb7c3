//! Seams between overlapping tiles of a picture, as in diffusers' `blend_v` and `blend_h`.

use super::{
    Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, expect_rank, expect_shape, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// A tile whose first `rows` fade from the last rows of the tile above to its own, and whose first `columns` then fade
/// likewise from the last columns of the tile to its left: `y_i = before_{end − extent + i} · (1 − i/extent) + x_i ·
/// i/extent`.
///
/// Inputs: `x [N, H, W, C]`, `above [N, H', W, C]`?, `left [N, H, W', C]`?; output as `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct BlendTiles {
    /// Rows that `x` and `above` share.
    pub rows: usize,
    /// Columns that `x` and `left` share.
    pub columns: usize,
}

/// Position of the input `above`.
const ABOVE: usize = 1;
/// Position of the input `left`.
const LEFT: usize = 2;

impl Operation for BlendTiles {
    const NAME: &'static str = "blend_tiles";
    const INPUTS: &'static [&'static str] = &["x", "above", "left"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let [n, h, w, c] = expect_rank("x", x)?;
        if let Some(above) = inputs.optional(ABOVE) {
            expect_float("above", above.dtype)?;
            let [_, rows, ..] = expect_rank::<4>("above", above)?;
            expect_shape("above", &above.shape, &[n, rows, w, c])?;
            if self.rows > rows.min(h) {
                return Err(Error::Shape(format!("{} rows to blend, above has {rows}, x has {h}", self.rows)));
            }
        }
        if let Some(left) = inputs.optional(LEFT) {
            expect_float("left", left.dtype)?;
            let [_, _, columns, _] = expect_rank::<4>("left", left)?;
            expect_shape("left", &left.shape, &[n, h, columns, c])?;
            if self.columns > columns.min(w) {
                return Err(Error::Shape(format!("{} columns to blend, left has {columns}, x has {w}", self.columns)));
            }
        }
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        8 * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (above, left) = (inputs.optional(ABOVE), inputs.optional(LEFT));
        reference::blend_tiles(inputs.get(0), above, left, self.rows, self.columns)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let size = |position: usize, axis: usize| context.inputs[position].map_or(0, |desc| desc.shape[axis]);
                let elements = context.output.elements();
                Launch::new("blend_tiles/naive")
                    .flag("HAS_ABOVE", context.has(ABOVE))
                    .flag("HAS_LEFT", context.has(LEFT))
                    .param("elements", elements)
                    .param("H", context.output.shape[1])
                    .param("W", context.output.shape[2])
                    .param("C", context.output.channels())
                    .param("H_above", size(ABOVE, 1))
                    .param("W_left", size(LEFT, 2))
                    .param("rows", op.rows)
                    .param("columns", op.columns)
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("rows={} columns={}", self.rows, self.columns)
    }

    fn cases() -> Vec<Case> {
        // x [N, H, W, C], rows of the tile above, columns of the tile to the left; 0: none.
        let case = |label, [rows, columns]: [usize; 2], x: [usize; 4], h_above: usize, w_left: usize| {
            let neighbour = |size: usize, shape: [usize; 4]| (size > 0).then(|| CaseInput::normal(shape)).flatten();
            let inputs = vec![
                CaseInput::normal(x),
                neighbour(h_above, [x[0], h_above, x[2], x[3]]),
                neighbour(w_left, [x[0], x[1], w_left, x[3]]),
            ];
            Case::new(label, BlendTiles { rows, columns }, inputs)
        };
        vec![
            case("both seams, 3 channels", [3, 4], [2, 9, 11, 3], 7, 10),
            case("both seams, 8 channels, all of x", [5, 7], [2, 5, 7, 8], 13, 9),
            case("above alone", [4, 0], [3, 6, 5, 4], 9, 0),
            case("left alone, odd number of elements", [0, 2], [1, 7, 5, 3], 0, 3),
            case("the first tile", [0, 0], [2, 3, 5, 3], 0, 0),
            case("both seams, two whole workgroups", [3, 5], [2, 8, 8, 4], 8, 8),
        ]
    }
}

impl Graph {
    /// `x [N, H, W, C]` with its seams to the tiles `above` and `left` blended over `rows` and `columns`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tiles do not fit together or are smaller than the seam.
    pub fn blend_tiles(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        above: Option<ValueId>,
        left: Option<ValueId>,
        [rows, columns]: [usize; 2],
    ) -> Result<ValueId> {
        self.push(name, BlendTiles { rows, columns }, &[Some(x), above, left])
    }
}
