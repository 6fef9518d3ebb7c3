//! What a table of embeddings gets back.

use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_dtype, expect_float, no_knobs};
use crate::error::{Error, Result};
use crate::graph::TensorDesc;
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[v, :] = Σ dy[i, :]` over the rows i whose index is v: the gradient of a table `[V, D]`. Inputs `indices [..]`
/// u32, `dy [.., D]`; output `[V, D]`. Summed in the order of the rows, without atomics: the same every time.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingGradient {
    /// Rows of the table, V.
    pub rows: usize,
}

impl Operation for EmbeddingGradient {
    const NAME: &'static str = "embedding_gradient";
    const INPUTS: &'static [&'static str] = &["indices", "dy"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (indices, dy) = (inputs.required(0)?, inputs.required(1)?);
        expect_dtype("indices", indices.dtype, DType::U32)?;
        expect_float("dy", dy.dtype)?;
        if dy.shape.is_empty() || dy.rows() != indices.elements() || self.rows == 0 {
            return Err(Error::Shape(format!(
                "dy {:?}: expected a row for each of the indices {:?}, and a table of one row or more",
                dy.shape, indices.shape
            )));
        }
        Ok(dy.with_shape([self.rows, dy.channels()]))
    }

    fn flops(&self, inputs: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        inputs.get(1).elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::embedding_gradient(inputs.get(0), inputs.get(1), self.rows)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, context| context.can_loop(5 * context.input(0).elements()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let elements = context.output.elements();
                Launch::new("embedding_gradient/naive")
                    .param("elements", elements)
                    .param("rows", context.input(0).elements())
                    .param("D", context.output.channels())
                    .param("V", op.rows)
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        format!("rows={}", self.rows)
    }

    fn cases() -> Vec<Case> {
        let case = |label, indices: &[usize], bound, rows, columns: usize| {
            let dy = CaseInput::normal([indices, &[columns]].concat());
            Case::new(label, EmbeddingGradient { rows }, vec![CaseInput::index(indices, bound), dy])
        };
        vec![
            case("tokens, 7 columns", &[2, 9], 11, 11, 7),
            case("classes, 20 columns", &[37], 10, 11, 20),
            case("indices beyond the table, 5 columns", &[19], 11, 7, 5),
            case("two whole workgroups", &[64], 16, 16, 32),
        ]
    }
}
