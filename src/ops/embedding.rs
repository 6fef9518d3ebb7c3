//! Rows looked up in a table, as in `torch.nn.Embedding`.

use super::embedding_gradient::EmbeddingGradient;
use super::{
    Backward, Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, expect_dtype, expect_float,
    in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[.., :] = table[indices[..], :]`; `indices [..]` u32, `table [V, D]` or with more dimensions before D, which count
/// as one; output `[.., D]` of the table's element type.
///
/// Whoever writes the indices must check that they are below V; larger ones read the last row.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding;

/// V and D.
fn dims(context: &LowerContext<'_>) -> (usize, usize) {
    (context.input(1).rows(), context.input(1).channels())
}

impl Operation for Embedding {
    const NAME: &'static str = "embedding";
    const INPUTS: &'static [&'static str] = &["indices", "table"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (indices, table) = (inputs.required(0)?, inputs.required(1)?);
        expect_dtype("indices", indices.dtype, DType::U32)?;
        expect_float("table", table.dtype)?;
        if table.shape.len() < 2 || table.rows() == 0 {
            return Err(Error::Shape(format!("table: expected [V, D] with V above 0, found {:?}", table.shape)));
        }
        let mut shape = indices.shape.clone();
        shape.push(table.channels());
        Ok(table.with_shape(shape))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::embedding(inputs.get(0), inputs.get(1))
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let shape = back.shape(1);
        let (indices, dy, name) = (back.input(0)?, back.dy, back.name("table"));
        let rows = shape[..shape.len() - 1].iter().product();
        let table = back.graph.push(name.clone(), EmbeddingGradient { rows }, &[Some(indices), Some(dy)])?;
        Ok(vec![None, Some(back.graph.reshape(format!("{name}.reshape"), table, shape)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |_, context| in_fours("channels", context.output.channels()),
                knobs: no_knobs,
                lower: |_, context, _| {
                    let (v, d) = dims(context);
                    let vectors = context.output.elements() / 4;
                    Launch::new("embedding/vec4")
                        .param("vectors", vectors)
                        .param("row_vectors", d / 4)
                        .param("V", v)
                        .cover(vectors, 64)
                        .into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |_, context, _| {
                    let (v, d) = dims(context);
                    let elements = context.output.elements();
                    Launch::new("embedding/naive")
                        .param("elements", elements)
                        .param("D", d)
                        .param("V", v)
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn cases() -> Vec<Case> {
        let case_of = |label, indices: &[usize], bound, table: &[usize]| {
            Case::new(label, Embedding, vec![CaseInput::index(indices, bound), CaseInput::normal(table)])
        };
        let case = |label, indices, bound, table: [usize; 2]| case_of(label, indices, bound, &table);
        vec![
            case_of("rows of a tensor with 3 dimensions", &[3], 22, &[2, 11, 6]),
            case("tokens, 7 columns", &[2, 9], 11, [11, 7]),
            case("labels, 6 columns", &[5], 10, [10, 6]),
            case("tokens, 20 columns", &[3, 7], 50, [50, 20]),
            case("positions, 132 columns", &[77], 77, [77, 132]),
            case("two whole workgroups", &[2, 8], 21, [21, 32]),
            case("indices beyond the table, 5 columns", &[2, 9], 11, [7, 5]),
            case("indices beyond the table, 8 columns", &[2, 9], 11, [7, 8]),
        ]
    }
}

impl Graph {
    /// Row `indices[..]` of `table [V, D]` (or `[.., D]`) for each of the u32 `indices [..]`. Whoever writes the
    /// indices must check that they are below V; larger ones read the last row.
    ///
    /// # Errors
    /// [`Error::Shape`] if the table has fewer than two dimensions; [`Error::Unsupported`] if the indices are not u32.
    pub fn embedding(&mut self, name: impl Into<String>, indices: ValueId, table: ValueId) -> Result<ValueId> {
        self.push(name, Embedding, &[Some(indices), Some(table)])
    }
}
