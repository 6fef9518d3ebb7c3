//! The one comparison of numbers that operations, models, schedulers and pictures must pass.

use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// How far two tensors are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// `‖a − b‖₂ / ‖b‖₂`
    pub relative_l2: f64,
    /// `max |a − b|`
    pub max_abs: f64,
    /// Flat index of that element.
    pub worst: usize,
}

/// Bounds that two tensors must meet to count as equal: on the whole, and on every element by itself, because one wrong
/// element of a million is invisible to the whole:
///
/// `|a − b| ≤ absolute · rms(b) + relative · |b| + floor + f16_ulps · ulp₁₆(b)`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Bound on the relative L2 error.
    pub relative_l2: f64,
    /// In units of the expected tensor's root mean square, which makes the bound independent of the data's scale.
    pub absolute: f64,
    /// In units of the expected element.
    pub relative: f64,
    /// In the data's own unit, where it has one: grey levels, times.
    pub floor: f64,
    /// In units of the last of f16's 11 bits at the expected element's size.
    pub f16_ulps: f64,
}

impl Tolerance {
    /// Bounds derived from one on the relative L2 error: an element may err by 20 times as much, relative to the
    /// tensor's scale. A single element that is wrong by its own size, or zeroed, is far outside.
    pub fn l2(bound: f64) -> Self {
        Self { relative_l2: bound, absolute: 20.0 * bound, relative: 20.0 * bound, floor: 0.0, f16_ulps: 0.0 }
    }

    /// For one operation whose result is stored in f16, against the reference's result rounded to f16. Inputs are the
    /// same on both sides and arithmetic is f32, so the two results before rounding differ by what `f32_bound` allows,
    /// and rounding moves them apart by one unit in the last place at most (two neighbours where they straddle a
    /// midpoint; a driver may also round toward zero). Half such a unit, 2⁻¹¹, bounds the whole: few elements straddle.
    pub fn f16(f32_bound: f64) -> Self {
        Self { relative_l2: f32_bound + 0.5f64.powi(11), f16_ulps: 1.0, ..Self::l2(f32_bound) }
    }

    /// For numbers near one, such as a scheduler's: absolute and relative error added up, and the whole.
    pub fn near(bound: f64) -> Self {
        Self { relative_l2: bound, absolute: 0.0, relative: bound, floor: bound, f16_ulps: 0.0 }
    }

    /// Every element by itself, in the data's own unit: for pictures, whose grey levels have one.
    pub fn largest(bound: f64) -> Self {
        Self { relative_l2: f64::INFINITY, absolute: 0.0, relative: 0.0, floor: bound, f16_ulps: 0.0 }
    }

    /// How far element `expected` may be off in a tensor of this root mean square.
    fn element(&self, expected: f64, rms: f64) -> f64 {
        let magnitude = expected.abs();
        self.absolute * rms + self.relative * magnitude + self.floor + self.f16_ulps * f16_ulp(magnitude)
    }
}

/// The distance of f16 numbers of this magnitude: 10 bits follow the leading one, and below 2⁻¹⁴ the distance stays the
/// same.
fn f16_ulp(magnitude: f64) -> f64 {
    magnitude.max(0.5f64.powi(14)).log2().floor().exp2() / 1024.0
}

/// Compares `found` with `expected`: shape, finiteness, relative L2 and every element.
///
/// # Errors
/// [`Error::Shape`] describing the first bound that is not met.
pub fn compare(found: &HostTensor, expected: &HostTensor, tolerance: Tolerance) -> Result<Difference> {
    if found.shape != expected.shape {
        return Err(Error::Shape(format!("expected shape {:?}, found {:?}", expected.shape, found.shape)));
    }
    let mut error = 0.0;
    let mut norm = 0.0;
    let mut difference = Difference { relative_l2: 0.0, max_abs: 0.0, worst: 0 };
    for (i, (&a, &b)) in found.data.iter().zip(&expected.data).enumerate() {
        if !a.is_finite() || !b.is_finite() {
            return Err(Error::Shape(format!("element {i}: expected {b}, found {a}: both must be finite")));
        }
        let delta = (f64::from(a) - f64::from(b)).abs();
        error += delta * delta;
        norm += f64::from(b) * f64::from(b);
        if delta > difference.max_abs {
            (difference.max_abs, difference.worst) = (delta, i);
        }
    }
    difference.relative_l2 = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
    let rms = (norm / expected.data.len().max(1) as f64).sqrt();
    if difference.relative_l2.is_nan() || difference.relative_l2 > tolerance.relative_l2 {
        let worst = difference.worst;
        return Err(Error::Shape(format!(
            "relative L2 error {:.3e} exceeds {:.1e}; worst element {worst}: expected {}, found {}",
            difference.relative_l2, tolerance.relative_l2, expected.data[worst], found.data[worst]
        )));
    }
    for (i, (&a, &b)) in found.data.iter().zip(&expected.data).enumerate() {
        let allowed = tolerance.element(f64::from(b), rms);
        let delta = (f64::from(a) - f64::from(b)).abs();
        if delta > allowed {
            return Err(Error::Shape(format!(
                "element {i}: expected {b}, found {a}, {delta:.3e} apart where {allowed:.3e} is allowed"
            )));
        }
    }
    Ok(difference)
}
