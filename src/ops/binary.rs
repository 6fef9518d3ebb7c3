//! Sums and products of two tensors.

use super::{
    Case, CaseInput, Family, Inputs, Launch, LowerContext, Operation, Variant, expect_float, in_fours, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// Which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryKind {
    /// `a + b`
    Add,
    /// `a · b`
    Mul,
}

/// `y = a + b` or `y = a · b`, elementwise. `b` has the shape of `a`, or it is `[N, C]` against `a [N, .., C]` and the
/// same for all pixels of an image (a time embedding). The result has the element type of `a`.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// Which operation.
    pub kind: BinaryKind,
}

/// Whether `b` is one value a channel of an image.
fn broadcast(context: &LowerContext<'_>) -> bool {
    context.input(0).shape != context.input(1).shape
}

/// Elements of one image: pixels · C.
fn elements_of_an_image(context: &LowerContext<'_>) -> usize {
    context.output.elements() / context.output.shape[0]
}

impl Operation for Binary {
    const NAME: &'static str = "binary";
    const INPUTS: &'static [&'static str] = &["a", "b"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        expect_float("a", a.dtype)?;
        expect_float("b", b.dtype)?;
        let per_channel = a.shape.len() >= 2 && b.shape == [a.shape[0], a.channels()];
        if a.shape != b.shape && !per_channel {
            return Err(Error::Shape(format!(
                "b {:?} must have the shape of a {:?}, or its first and last dimension",
                b.shape, a.shape
            )));
        }
        Ok(a.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::binary(inputs.get(0), inputs.get(1), self.kind)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |_, context| {
                    if !broadcast(context) {
                        return Err("b has the shape of a, so naive reads whole vectors too".into());
                    }
                    in_fours("channels", context.output.channels())
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let vectors = context.output.elements() / 4;
                    Launch::new("binary/vec4")
                        .constant("KIND", op.kind as usize)
                        .param("vectors", vectors)
                        .param("image_vectors", elements_of_an_image(context) / 4)
                        .param("channel_vectors", context.output.channels() / 4)
                        .cover(vectors, 64)
                        .into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let elements = context.output.elements();
                    Launch::new("binary/naive")
                        .constant("KIND", op.kind as usize)
                        .flag("BROADCAST", broadcast(context))
                        .param("elements", elements)
                        .param("image", elements_of_an_image(context))
                        .param("C", context.output.channels())
                        .cover(elements.div_ceil(4), 64)
                        .into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        match self.kind {
            BinaryKind::Add => "add".into(),
            BinaryKind::Mul => "mul".into(),
        }
    }

    fn cases() -> Vec<Case> {
        let case = |label, kind, a: &[usize], b: &[usize]| {
            Case::new(label, Binary { kind }, vec![CaseInput::normal(a), CaseInput::normal(b)])
        };
        vec![
            case("add, 210 elements", BinaryKind::Add, &[2, 3, 5, 7], &[2, 3, 5, 7]),
            case("mul, 105 elements", BinaryKind::Mul, &[3, 5, 7], &[3, 5, 7]),
            case("add a vector per image, 7 channels", BinaryKind::Add, &[3, 3, 5, 7], &[3, 7]),
            case("mul by a vector per image, 6 channels", BinaryKind::Mul, &[2, 5, 6], &[2, 6]),
            case("add a vector per image, 20 channels", BinaryKind::Add, &[3, 5, 3, 20], &[3, 20]),
            case("mul by a vector per image, 68 channels", BinaryKind::Mul, &[2, 9, 7, 68], &[2, 68]),
        ]
    }
}

impl Graph {
    /// `a + b`; `b` has the shape of `a`, or is `[N, C]` against `a [N, .., C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is neither.
    pub fn add(&mut self, name: impl Into<String>, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push(name, Binary { kind: BinaryKind::Add }, &[Some(a), Some(b)])
    }

    /// `a · b`, elementwise; `b` has the shape of `a`, or is `[N, C]` against `a [N, .., C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is neither.
    pub fn mul(&mut self, name: impl Into<String>, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push(name, Binary { kind: BinaryKind::Mul }, &[Some(a), Some(b)])
    }
}
