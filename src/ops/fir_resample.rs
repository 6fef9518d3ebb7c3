//! Resampling by two with a short filter, as in StyleGAN2 and NCSN++.

use super::{Case, CaseInput, Family, Inputs, Launch, Operation, Variant, expect_float, expect_rank, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Backward, Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// Half or twice the size, through the filter (1, 3, 3, 1) along both axes: `upfirdn2d` of Karras et al. 2019,
/// arXiv:1912.04958, as NCSN++ uses it (Song et al. 2021, arXiv:2011.13456, appendix H). Neither aliases, as picking or
/// repeating pixels does. Outside the picture there are zeros.
///
/// Input `x [N, H, W, C]`, output `[N, 2H, 2W, C]` or `[N, ⌊H/2⌋, ⌊W/2⌋, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirResample {
    /// Twice the size: `FirUpsample2D` of diffusers.
    Up,
    /// Half the size: `FirDownsample2D`.
    Down,
}

impl Operation for FirResample {
    const NAME: &'static str = "fir_resample";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let [n, h, w, c] = expect_rank("x", x)?;
        match self {
            FirResample::Down if h < 2 || w < 2 => {
                Err(Error::Shape(format!("x {:?} has a side below 2, which cannot be halved", x.shape)))
            }
            FirResample::Down => Ok(x.with_shape([n, h / 2, w / 2, c])),
            FirResample::Up => match (h.checked_mul(2), w.checked_mul(2)) {
                (Some(h), Some(w)) => Ok(x.with_shape([n, h, w, c])),
                _ => Err(Error::Shape(format!("x {:?} is too large to be doubled", x.shape))),
            },
        }
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        let taps = if *self == FirResample::Up { 4 } else { 16 };
        2 * taps * output.elements() as u64
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::fir_resample(inputs.get(0), *self == FirResample::Up)
    }

    /// Each is the other's transpose, but for the gains: per axis (1, 3, 3, 1) / 4 going up and / 8 going down.
    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let (shape, name) = (back.shape(0), back.name("x"));
        let (transpose, gain) = match self {
            FirResample::Up => (FirResample::Down, 4.0),
            FirResample::Down if shape[1] % 2 + shape[2] % 2 > 0 => return back.refuse("half of an odd side"),
            FirResample::Down => (FirResample::Up, 0.25),
        };
        let resampled = back.graph.fir_resample(format!("{name}.resampled"), back.dy, transpose)?;
        Ok(vec![Some(back.graph.scale(name, resampled, gain, 0.0)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let (x, y) = (&context.input(0).shape, &context.output.shape);
                let elements = context.output.elements();
                Launch::new("fir_resample/naive")
                    .flag("UP", *op == FirResample::Up)
                    .param("elements", elements)
                    .param("H", x[1])
                    .param("W", x[2])
                    .param("OH", y[1])
                    .param("OW", y[2])
                    .param("C", x[3])
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        if *self == FirResample::Up { "up".into() } else { "down".into() }
    }

    fn cases() -> Vec<Case> {
        let case = |label, op, x: [usize; 4]| Case::new(label, op, vec![CaseInput::normal(x)]);
        vec![
            case("down, even sides, 3 channels", FirResample::Down, [2, 6, 4, 3]),
            case("down, odd sides, 7 channels", FirResample::Down, [3, 7, 5, 7]),
            case("down, two by three, 1 channel", FirResample::Down, [3, 2, 3, 1]),
            case("down, two whole workgroups", FirResample::Down, [2, 16, 16, 4]),
            case("up, 3 channels", FirResample::Up, [2, 3, 5, 3]),
            case("up, one pixel, 5 channels", FirResample::Up, [3, 1, 1, 5]),
            case("up, odd height, 6 channels", FirResample::Up, [2, 5, 4, 6]),
            case("up, two whole workgroups", FirResample::Up, [2, 4, 4, 4]),
        ]
    }
}

impl Graph {
    /// `x [N, H, W, C]` at half or twice the size, through the filter (1, 3, 3, 1).
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not have four dimensions or is too small to be halved.
    pub fn fir_resample(&mut self, name: impl Into<String>, x: ValueId, op: FirResample) -> Result<ValueId> {
        self.push(name, op, &[Some(x)])
    }
}
