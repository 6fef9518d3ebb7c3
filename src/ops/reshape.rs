//! The same elements under another shape.

use super::{Backward, Case, CaseInput, Family, Inputs, Launch, Op, Operation, Variant, expect_float, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// The elements of `x`, in the same order, under another shape, as `torch.reshape`. Tensors are dense, so this is a
/// view: the plan gives it the buffer of `x` and launches nothing, unless its elements are stored in another type.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshape {
    /// The new dimensions.
    pub shape: Vec<usize>,
}

impl Operation for Reshape {
    const NAME: &'static str = "reshape";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let elements = self.shape.iter().try_fold(1usize, |product, d| product.checked_mul(*d));
        if elements != Some(x.elements()) {
            let (shape, found) = (&self.shape, &x.shape);
            return Err(Error::Shape(format!("x {found:?} has {} elements, {shape:?} has not", x.elements())));
        }
        Ok(x.with_shape(self.shape.clone()))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::reshape(inputs.get(0), &self.shape)
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (name, shape) = (back.name("x"), back.shape(0));
        Ok(vec![Some(back.graph.reshape(name, back.dy, shape)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |_, context, _| {
                let vectors = context.output.elements().div_ceil(4);
                Launch::new("cast/naive").param("vectors", vectors).cover(vectors, 64).into()
            },
        }]
    }

    fn cases() -> Vec<Case> {
        let case = |label, shape: &[usize], x: &[usize]| {
            Case::new(label, Reshape { shape: shape.to_vec() }, vec![CaseInput::normal(x)])
        };
        vec![
            case("pixels to tokens, 210 elements", &[2, 15, 7], &[2, 3, 5, 7]),
            case("heads apart, whole vectors", &[3, 7, 4, 9], &[3, 7, 36]),
            case("a dimension more", &[3, 1, 1, 7], &[3, 7]),
        ]
    }
}

impl Graph {
    /// The elements of `x` under another shape, without a launch; `x` itself if it has that shape already.
    ///
    /// # Errors
    /// [`Error::Shape`] if `shape` has a different number of elements.
    pub fn reshape(&mut self, name: impl Into<String>, x: ValueId, shape: impl Into<Vec<usize>>) -> Result<ValueId> {
        let shape = shape.into();
        if self.shape(x) == shape {
            return Ok(x);
        }
        // A view of a view is a view of the original.
        let x = match &self.node(x).kind {
            NodeKind::Op(Op::Reshape(_), inputs) => inputs[0].expect("a reshape has an input"),
            _ => x,
        };
        if self.shape(x) == shape { Ok(x) } else { self.push(name, Reshape { shape }, &[Some(x)]) }
    }
}
