//! Conversion between element types.

use super::{Backward, Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, no_knobs};
use crate::error::Result;
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y = x` with elements of another type; any shape, f32 and f16.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// Element type of the result.
    pub dtype: DType,
}

impl Operation for Cast {
    const NAME: &'static str = "cast";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        expect_float("the result", self.dtype)?;
        Ok(TensorDesc { shape: x.shape.clone(), dtype: self.dtype })
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::cast(inputs.get(0))
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (name, dtype) = (back.name("x"), back.dtype(0));
        Ok(vec![Some(back.graph.cast(name, back.dy, dtype)?)])
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

    fn attributes(&self) -> String {
        self.dtype.name().into()
    }

    fn cases() -> Vec<Case> {
        let case = |label, dtype, shape: &[usize]| Case::new(label, Cast { dtype }, vec![CaseInput::normal(shape)]);
        vec![
            case("to f32, 210 elements", DType::F32, &[2, 3, 5, 7]),
            case("to f32, whole vectors", DType::F32, &[3, 7, 36]),
            case("to f32, two whole workgroups", DType::F32, &[2, 8, 32]),
            // f16 has 11 significant bits, and WGSL leaves the direction of pack2x16float's rounding to the device.
            case("to f16, 210 elements", DType::F16, &[2, 3, 5, 7]).tolerance(1e-3),
            case("to f16, whole vectors", DType::F16, &[3, 7, 36]).tolerance(1e-3),
        ]
    }
}

impl Graph {
    /// `x` with elements of type `dtype`; `x` itself if it has that type already.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) if either type is u32.
    pub fn cast(&mut self, name: impl Into<String>, x: ValueId, dtype: DType) -> Result<ValueId> {
        if self.desc(x).dtype == dtype { Ok(x) } else { self.push(name, Cast { dtype }, &[Some(x)]) }
    }
}
