//! Rotary position embedding: queries and keys are rotated by angles that grow with their position, so that their dot
//! products depend on how far apart they are.

use super::{
    Case, CaseInput, Family, Fill, Inputs, Launch, LowerContext, Operation, Variant, expect_float, expect_shape,
    no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// Which channels of a head are rotated together, as the two coordinates of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Neighbours, 2 j and 2 j + 1 (Flux, Z-Image, Wan; diffusers' `apply_rotary_emb`).
    Interleaved,
    /// One of each half, j and j + R/2 (Llama, Qwen; transformers' `rotate_half`).
    Halves,
}

/// The first R channels of each head of `x`, in pairs (u, v), become (u · cos − v · sin, u · sin + v · cos); the others
/// are copied. Su et al. 2021, "RoFormer", section 3.2.
///
/// Inputs: `x [N, .., C]`, C = heads · D; `cosines` and `sines`, `[T, R/2]` for positions that all images share or
/// `[N · T, R/2]`, T being the positions of an image: all middle dimensions together. [`tables`] makes them, for
/// positions along one axis or several. Output as `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// D, the channels of a head; divides C.
    pub head_dim: usize,
    /// Which channels make a pair.
    pub layout: RopeLayout,
}

/// One axis of positions: time, row, column …
#[derive(Clone, Debug, PartialEq)]
pub struct RopeAxis {
    /// The position of each token along it.
    pub positions: Vec<f64>,
    /// Channels of a head that this axis rotates, an even number.
    pub dim: usize,
}

/// Cosines and sines of all angles, each `[T, R/2]` with R the sum of the axes' channels: pair j of an axis of `dim`
/// channels is rotated by `position · theta^(−2 j / dim)`. Pairs of the first axis come first.
///
/// # Errors
/// [`Error::Shape`] if an axis has an odd number of channels or a different number of positions from the first.
pub fn tables(axes: &[RopeAxis], theta: f64) -> Result<[HostTensor; 2]> {
    let tokens = axes.first().map_or(0, |axis| axis.positions.len());
    if let Some(axis) = axes.iter().find(|a| a.positions.len() != tokens || !a.dim.is_multiple_of(2)) {
        let (dim, found) = (axis.dim, axis.positions.len());
        return Err(Error::Shape(format!(
            "an axis of {dim} channels and {found} positions: expected an even number of channels and {tokens} \
            positions"
        )));
    }
    let angle = |axis: &RopeAxis, token: usize, pair: usize| {
        axis.positions[token] * theta.powf(-2.0 * pair as f64 / axis.dim as f64)
    };
    let angles: Vec<f64> = (0..tokens)
        .flat_map(|token| axes.iter().flat_map(move |axis| (0..axis.dim / 2).map(move |j| angle(axis, token, j))))
        .collect();
    let pairs = axes.iter().map(|axis| axis.dim / 2).sum::<usize>();
    let table = |f: fn(f64) -> f64| HostTensor::new([tokens, pairs], angles.iter().map(|a| f(*a) as f32).collect());
    Ok([table(f64::cos)?, table(f64::sin)?])
}

impl Rope {
    /// The constants and parameters that both variants share; sizes count elements.
    fn launch(&self, kernel: &'static str, context: &LowerContext<'_>) -> Launch {
        Launch::new(kernel)
            .flag("INTERLEAVED", self.layout == RopeLayout::Interleaved)
            .param("C", context.output.channels())
            .param("D", self.head_dim)
            .param("pairs", context.input(1).channels())
            .param("table_rows", context.input(1).rows())
    }
}

impl Operation for Rope {
    const NAME: &'static str = "rope";
    const INPUTS: &'static [&'static str] = &["x", "cosines", "sines"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (x, cosines, sines) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?);
        expect_float("x", x.dtype)?;
        expect_float("cosines", cosines.dtype)?;
        expect_float("sines", sines.dtype)?;
        if x.shape.len() < 2 || x.elements() == 0 || self.head_dim == 0 || !x.channels().is_multiple_of(self.head_dim) {
            let (shape, d) = (&x.shape, self.head_dim);
            return Err(Error::Shape(format!("x: expected [N, .., C] with heads of {d} channels, found {shape:?}")));
        }
        let positions = x.rows() / x.shape[0];
        let pairs = cosines.channels();
        let fits = cosines.shape.len() == 2 && [positions, x.rows()].contains(&cosines.shape[0]);
        if !fits || pairs == 0 || 2 * pairs > self.head_dim {
            return Err(Error::Shape(format!(
                "cosines: expected [{positions} or {}, at most {}], found {:?}",
                x.rows(),
                self.head_dim / 2,
                cosines.shape
            )));
        }
        expect_shape("sines", &sines.shape, &cosines.shape)?;
        Ok(x.clone())
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        3 * output.elements() as u64 // two products and a sum
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let interleaved = self.layout == RopeLayout::Interleaved;
        reference::rope(inputs.get(0), inputs.get(1), inputs.get(2), self.head_dim, interleaved)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |op, context| {
                    // No vector straddles the end of a head, of its rotated part, or of the first half of that part.
                    let pairs = context.input(1).channels();
                    let unit = if op.layout == RopeLayout::Interleaved { 2 } else { 4 };
                    if op.head_dim.is_multiple_of(4) && pairs.is_multiple_of(unit) {
                        Ok(())
                    } else {
                        Err(format!("heads of {} with {pairs} pairs are not whole vectors", op.head_dim))
                    }
                },
                knobs: no_knobs,
                lower: |op, context, _| {
                    let vectors = context.output.elements() / 4;
                    op.launch("rope/vec4", context).param("vectors", vectors).cover(vectors, 64).into()
                },
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| {
                    let elements = context.output.elements();
                    op.launch("rope/naive", context).param("elements", elements).cover(elements.div_ceil(4), 64).into()
                },
            },
        ]
    }

    fn attributes(&self) -> String {
        let layout = if self.layout == RopeLayout::Interleaved { "interleaved" } else { "halves" };
        format!("head_dim={} {layout}", self.head_dim)
    }

    fn cases() -> Vec<Case> {
        // Cosines and sines are drawn independently, so that a swapped table or a wrong sign shows.
        let case = |label, layout, head_dim, x: &[usize], rows, pairs| {
            let table = || CaseInput::f32([rows, pairs], Fill::Uniform(-1.0, 1.0));
            Case::new(label, Rope { head_dim, layout }, vec![CaseInput::normal(x), table(), table()])
        };
        let (interleaved, halves) = (RopeLayout::Interleaved, RopeLayout::Halves);
        vec![
            case("neighbours, heads of 6", interleaved, 6, &[2, 7, 18], 7, 3),
            case("halves, heads of 6", halves, 6, &[2, 7, 18], 7, 3),
            case("neighbours, positions of each image", interleaved, 10, &[3, 5, 20], 15, 4),
            case("halves, part of an odd head", halves, 7, &[2, 9, 21], 9, 2),
            case("neighbours, heads of 64", interleaved, 64, &[2, 33, 128], 33, 32),
            case("halves, heads of 64", halves, 64, &[2, 33, 128], 33, 32),
            case("neighbours, part of a head, a picture", interleaved, 20, &[2, 3, 5, 40], 15, 6),
            case("halves, part of a head, positions of each image", halves, 24, &[2, 9, 48], 18, 8),
            case("neighbours, two whole workgroups", interleaved, 16, &[2, 8, 32], 8, 8),
            case("halves, two whole workgroups", halves, 16, &[2, 8, 32], 8, 8),
        ]
    }
}

impl Graph {
    /// Rotary position embedding of `x [N, .., C]` by tables of cosines and sines; see [`Rope`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes do not agree.
    pub fn rope(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        cosines: ValueId,
        sines: ValueId,
        op: Rope,
    ) -> Result<ValueId> {
        self.push(name, op, &[Some(x), Some(cosines), Some(sines)])
    }
}
