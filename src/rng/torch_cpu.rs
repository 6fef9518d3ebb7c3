//! The generator of PyTorch's CPU build: `torch.Generator().manual_seed(seed)` with `torch.rand` and `torch.randn`, bit
//! for bit.
//!
//! PyTorch has two ways to draw normal numbers, both Box & Muller (1958), and takes one or the other by the number of
//! elements:
//! - fewer than 16: one at a time in f64, two uniforms giving two normals, the second of which is kept for the next
//!   scalar draw;
//! - 16 or more: all uniforms first, then Box–Muller in f32 within blocks of 16 (uniform j pairs with uniform j + 8).
//!   If the number is not a multiple of 16, the *last 16 elements* are drawn again with fresh uniforms.
//!
//! The block path runs with AVX2 on every x86-64 machine of the last decade, using polynomial log and sincos (the
//! Cephes library's, S. Moshier, in the form of J. Pommier's `sse_mathfun`), compiled with fused multiply-adds. Its
//! last bits are part of the noise, so the same operations are done here in the same order: `mul_add` stands exactly
//! where that machine code fuses.

use std::f32::consts::SQRT_2;
use std::f64::consts::PI;

use half::f16;

use super::{Mt19937, NoiseSource};
use crate::HostTensor;

/// Elements in one block of the vectorised path; draws shorter than this are scalar.
const BLOCK: usize = 16;

/// `torch.Generator(device="cpu")`.
#[derive(Clone)]
pub struct TorchCpu {
    seed: u64,
    engine: Mt19937,
    /// The second normal of the last scalar pair, if it was not used yet. Block draws neither use nor discard it.
    cached: Option<f64>,
    /// Whether tensors are drawn as float16.
    half: bool,
}

impl TorchCpu {
    /// `torch.Generator().manual_seed(seed)`. Only the low 32 bits of the seed count, as in PyTorch.
    pub fn new(seed: u64) -> Self {
        Self { seed, engine: Mt19937::new(seed as u32), cached: None, half: false }
    }

    /// The same generator, but `randn` is `torch.randn(shape, dtype=torch.float16)`, which diffusers calls when it runs
    /// a model in float16. The values are those of float32, rounded, except in the last block of a size that is no
    /// multiple of 16.
    pub fn new_f16(seed: u64) -> Self {
        Self { half: true, ..Self::new(seed) }
    }

    /// `torch.rand(shape)`: uniform in [0, 1).
    pub fn rand(&mut self, shape: &[usize]) -> HostTensor {
        HostTensor::from_fn(shape, |_| self.uniform_f32())
    }

    /// Uniform in [0, 1) with the 24 bits that an f32 holds.
    fn uniform_f32(&mut self) -> f32 {
        const BITS: u32 = f32::MANTISSA_DIGITS;
        (self.engine.next_u32() & ((1 << BITS) - 1)) as f32 / (1_u32 << BITS) as f32
    }

    /// Uniform in [0, 1) with the 53 bits that an f64 holds.
    fn uniform_f64(&mut self) -> f64 {
        const BITS: u32 = f64::MANTISSA_DIGITS;
        (self.engine.next_u64() & ((1 << BITS) - 1)) as f64 / (1_u64 << BITS) as f64
    }

    /// One normal number by the scalar path.
    fn normal_f64(&mut self) -> f64 {
        if let Some(normal) = self.cached.take() {
            return normal;
        }
        let theta = 2.0 * PI * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.cached = Some(radius * theta.sin());
        radius * theta.cos()
    }

    fn fill_block(&mut self, block: &mut [f32]) {
        block.fill_with(|| self.uniform_f32());
        box_muller(block);
    }
}

impl NoiseSource for TorchCpu {
    fn randn(&mut self, shape: &[usize]) -> HostTensor {
        let mut noise = HostTensor::zeros(shape);
        let len = noise.len();
        if len < BLOCK {
            noise.data.fill_with(|| self.normal_f64() as f32);
        } else {
            let mut blocks = noise.data.chunks_exact_mut(BLOCK);
            blocks.by_ref().for_each(|block| self.fill_block(block));
            let rest = blocks.into_remainder();
            if !rest.is_empty() {
                // In float32, torch draws all uniforms before it draws those of the last 16 anew; in float16 it does
                // not.
                if !self.half {
                    rest.fill_with(|| self.uniform_f32());
                }
                self.fill_block(&mut noise.data[len - BLOCK..]);
            }
        }
        if self.half {
            noise.data.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32());
        }
        noise
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn seeded(&self, seed: u64) -> Box<dyn NoiseSource> {
        Box::new(Self { half: self.half, ..Self::new(seed) })
    }
}

/// Turns a block of 16 uniforms into 16 normals in place: √(−2 ln(1−u_j)) · cos, sin(2π u_{j+8}).
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (u1, u2) in first.iter_mut().zip(second) {
        let radius = (-2.0 * log(1.0 - *u1)).sqrt();
        let (sin, cos) = sin_cos((2.0 * PI) as f32 * *u2);
        // `+ 0.0` is the mean: it turns −0 into +0.
        *u1 = radius * cos + 0.0;
        *u2 = radius * sin + 0.0;
    }
}

/// Natural logarithm of `x` in (0, 1]: x = m·2^e with m in [√½, √2), ln x = e ln 2 + ln m, the latter by a polynomial
/// in m − 1.
fn log(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_87e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // ln 2 in two parts, so that e·LN_2_HIGH is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let bits = x.to_bits();
    let mut e = (bits >> 23) as f32 - 126.0;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0.5_f32.to_bits());
    if m < SQRT_2 / 2.0 {
        e -= 1.0;
        m += m - 1.0;
    } else {
        m -= 1.0;
    }
    let m2 = m * m;
    let mut y = P[0];
    for p in &P[1..] {
        y = y.mul_add(m, *p);
    }
    y = (y * m).mul_add(m2, e * LN_2_LOW);
    y -= 0.5 * m2;
    e.mul_add(LN_2_HIGH, m + y)
}

/// Sine and cosine of `x` in [0, 2π): reduced by multiples of π/4 to [−π/4, π/4], then a polynomial each.
fn sin_cos(x: f32) -> (f32, f32) {
    // π/4 in three parts (Cody & Waite), so that octant·PI_4_A is exact.
    const PI_4_A: f32 = 0.785_156_25;
    const PI_4_B: f32 = 2.418_756_5e-4;
    const PI_4_C: f32 = 3.774_895e-8;

    // The octant, rounded up to even: the quadrant whose centre is nearest.
    let octant = (x * (4.0 / PI) as f32) as u32;
    let octant = (octant + 1) & !1;
    let n = octant as f32;
    let r = n.mul_add(-PI_4_A, x);
    let r = n.mul_add(-PI_4_B, r);
    let r = n.mul_add(-PI_4_C, r);
    let r2 = r * r;

    let mut c = 2.443_315_7e-5_f32;
    c = c.mul_add(r2, -1.388_731_6e-3);
    c = c.mul_add(r2, 4.166_664_6e-2);
    let cos = (c * r2).mul_add(r2, -0.5 * r2) + 1.0;

    let mut s = -1.951_529_6e-4_f32;
    s = s.mul_add(r2, 8.332_161e-3);
    s = s.mul_add(r2, -1.666_665_5e-1);
    let sin = (s * r2).mul_add(r, r);

    match (octant / 2) % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}
