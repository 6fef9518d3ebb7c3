//! Sines and cosines of a timestep, as in diffusers' `get_timestep_embedding`.

use super::{Case, CaseInput, Family, Fill, Inputs, Launch, Operation, Variant, expect_dtype, expect_shape, no_knobs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::{DType, HostTensor};

/// `y[n, j] = sin(scale · timestep[n] · frequencies[j])` for the first half of the columns and the cosine for the
/// second; an odd last column is 0. Vaswani et al. 2017, section 3.5.
///
/// Inputs: `timestep [N]` or `[N, K]` f32, `frequencies [⌊dim/2⌋]` f32 ([`TimestepEmbedding::frequencies`]); output
/// `[N, dim]` f32, or `[N, K·dim]`: the embeddings of a row one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct TimestepEmbedding {
    /// Columns of the result.
    pub dim: usize,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// `downscale_freq_shift`: the frequencies end at `1/max_period` if it is 1, and just above if it is 0.
    pub freq_shift: f64,
    /// Ratio of the largest to the smallest frequency, roughly.
    pub max_period: f64,
    /// Multiplies every angle.
    pub scale: f64,
}

impl Default for TimestepEmbedding {
    /// Diffusers' defaults, with 128 columns.
    fn default() -> Self {
        Self { dim: 128, flip_sin_to_cos: false, freq_shift: 1.0, max_period: 10_000.0, scale: 1.0 }
    }
}

impl TimestepEmbedding {
    /// `max_period^(−j / (⌊dim/2⌋ − freq_shift))` for j = 0 .. ⌊dim/2⌋. The exponents are rounded to f32 where torch
    /// rounds them: at timestep 999 a unit in the last place of a frequency changes the angle by up to 6e-5 rad, and
    /// models were trained with torch's values.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such table: `dim` below 2, or `freq_shift` not below ⌊dim/2⌋.
    pub fn frequencies(&self) -> Result<HostTensor> {
        let half = self.dim / 2;
        if half == 0 || self.freq_shift >= half as f64 || self.max_period <= 0.0 {
            return Err(Error::Config(format!(
                "a timestep embedding of {} columns with freq_shift {} and max_period {} is not defined; freq_shift \
                must be below half the columns and max_period above 0",
                self.dim, self.freq_shift, self.max_period
            )));
        }
        let step = -self.max_period.ln() as f32;
        let divisor = (half as f64 - self.freq_shift) as f32;
        let exponent = |j: usize| step * j as f32 / divisor;
        Ok(HostTensor::from_fn([half], |j| f64::from(exponent(j)).exp() as f32))
    }
}

impl Operation for TimestepEmbedding {
    const NAME: &'static str = "timestep_embedding";
    const INPUTS: &'static [&'static str] = &["timestep", "frequencies"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let (timestep, frequencies) = (inputs.required(0)?, inputs.required(1)?);
        expect_dtype("timestep", timestep.dtype, DType::F32)?;
        expect_dtype("frequencies", frequencies.dtype, DType::F32)?;
        let (&n, values) = match timestep.shape.as_slice() {
            [n] => (n, 1),
            [n, k] => (n, *k),
            other => return Err(Error::Shape(format!("timestep: expected [N] or [N, K], found {other:?}"))),
        };
        expect_shape("frequencies", &frequencies.shape, &[self.dim / 2])?;
        Ok(TensorDesc::f32([n, values * self.dim]))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, output: &TensorDesc) -> u64 {
        30 * output.elements() as u64 // range reduction and two polynomials
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        let (dim, flip, scale) = (self.dim, self.flip_sin_to_cos, self.scale);
        reference::timestep_embedding(inputs.get(0), inputs.get(1), dim, flip, scale)
    }

    fn variants() -> &'static [Variant<Self>] {
        &[Variant {
            name: "naive",
            family: Family::Any,
            legal: |_, _| Ok(()),
            knobs: no_knobs,
            lower: |op, context, _| {
                let elements = context.output.elements();
                Launch::new("timestep_embedding/naive")
                    .flag("COSINE_FIRST", op.flip_sin_to_cos)
                    .param("elements", elements)
                    .param("dim", op.dim)
                    .param_f32("scale", op.scale as f32)
                    .cover(elements.div_ceil(4), 64)
                    .into()
            },
        }]
    }

    fn attributes(&self) -> String {
        let order = if self.flip_sin_to_cos { "cos, sin" } else { "sin, cos" };
        format!("{order} shift={} period={} scale={}", self.freq_shift, self.max_period, self.scale)
    }

    fn cases() -> Vec<Case> {
        // Frequencies are spread evenly here, so that large angles are as common as small ones.
        let case_of = |label, shape: &[usize], dim: usize, flip_sin_to_cos, scale, timesteps: (f32, f32)| {
            let op = TimestepEmbedding { dim, flip_sin_to_cos, scale, ..TimestepEmbedding::default() };
            let timestep = CaseInput::f32(shape, Fill::Uniform(timesteps.0, timesteps.1));
            Case::new(label, op, vec![timestep, CaseInput::f32([dim / 2], Fill::Uniform(0.0, 1.0))]).tolerance(1e-6)
        };
        let case = |label, dim, flip, scale, timesteps| case_of(label, &[5], dim, flip, scale, timesteps);
        vec![
            case_of("three values a row, odd", &[2, 3], 13, true, 1.0, (0.0, 1024.0)),
            case("angles up to 1000, sines first", 320, false, 1.0, (0.0, 1000.0)),
            case("angles up to 1000, cosines first, odd", 77, true, 1.0, (0.0, 1000.0)),
            case("angles around 0, sines first, odd", 15, false, 1.0, (-3.0, 3.0)),
            case("scaled angles, cosines first", 34, true, 1000.0, (0.0, 1.0)),
            case_of("two whole workgroups", &[8], 64, false, 1.0, (0.0, 1000.0)),
        ]
    }
}

impl Graph {
    /// Sines and cosines of `timestep [N]` (f32): `[N, dim]`, f32; of `[N, K]`: `[N, K·dim]`. The frequencies become a
    /// constant of the graph.
    ///
    /// # Errors
    /// [`Error::Config`] if the attributes contradict each other; [`Error::Shape`] if `timestep` does not have one or
    /// two dimensions.
    pub fn timestep_embedding(
        &mut self,
        name: impl Into<String>,
        timestep: ValueId,
        op: TimestepEmbedding,
    ) -> Result<ValueId> {
        let name = name.into();
        let frequencies = self.constant(format!("{name}.frequencies"), op.frequencies()?);
        self.push(name, op, &[Some(timestep), Some(frequencies)])
    }
}
