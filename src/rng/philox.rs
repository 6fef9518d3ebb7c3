//! The generator of PyTorch's CUDA build, for `torch.randn(…, generator=torch.Generator("cuda").manual_seed(seed))`.
//!
//! Philox 4×32-10: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC '11). It is a function from a
//! counter and a key to four random words, without state: the key is the seed, and the counter holds the element's
//! index in its upper half and the number of draws so far in its lower half. So element i of a draw does not depend on
//! the others, and each draw advances the counter by one whatever its size.
//!
//! PyTorch gives each CUDA thread one counter and up to four elements, `threads` apart. Below some 200 000 elements
//! (the GPU's number of resident threads: multiprocessors × 2048) each thread has one element only and the rule above
//! is exact. Larger draws depend on the GPU in PyTorch itself; here they go on with one counter an element.
//!
//! The words agree exactly. The normals agree to about 1e-6 but not to the last bit, because the GPU's fast sine and
//! logarithm do not follow any portable formula.

use std::f64::consts::TAU;

use super::NoiseSource;
use crate::HostTensor;

/// `torch.Generator(device="cuda")`.
#[derive(Clone, Debug)]
pub struct TorchCuda {
    seed: u64,
    /// Draws so far.
    offset: u64,
}

impl TorchCuda {
    /// `torch.Generator("cuda").manual_seed(seed)`.
    pub fn new(seed: u64) -> Self {
        Self::at(seed, 0)
    }

    /// The same generator after `draws` draws.
    pub fn at(seed: u64, draws: u64) -> Self {
        Self { seed, offset: draws }
    }
}

impl NoiseSource for TorchCuda {
    fn randn(&mut self, shape: &[usize]) -> HostTensor {
        let offset = self.offset;
        self.offset += 1;
        HostTensor::from_fn(shape, |i| {
            let i = i as u64;
            let words = philox_4x32_10([offset as u32, (offset >> 32) as u32, i as u32, (i >> 32) as u32], self.seed);
            box_muller(words[0], words[1])
        })
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn seeded(&self, seed: u64) -> Box<dyn NoiseSource> {
        Box::new(Self::new(seed))
    }
}

/// The first of the two normals that cuRAND makes of two words: √(−2 ln u) sin v, u in (0, 1] and v in (0, 2π] from bin
/// centres.
fn box_muller(x: u32, y: u32) -> f32 {
    const BIN: f64 = 1.0 / (1_u64 << 32) as f64;
    let u = (f64::from(x) + 0.5) * BIN;
    let v = (f64::from(y) + 0.5) * BIN * TAU;
    ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
}

/// Ten rounds of Philox with four words: two 32×32→64-bit products a round, whose halves are crossed and mixed with the
/// key.
fn philox_4x32_10(counter: [u32; 4], key: u64) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xd251_1f53, 0xcd9e_8d57];
    // The key moves on by the golden ratio and √3 − 1, as fractions of 2³².
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let p0 = MULTIPLIERS[0] * u64::from(c0);
        let p1 = MULTIPLIERS[1] * u64::from(c2);
        [c0, c1, c2, c3] = [(p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32];
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::philox_4x32_10;

    /// Known answers of the authors' Random123 library.
    #[test]
    fn known_answers() {
        assert_eq!(philox_4x32_10([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox_4x32_10([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox_4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], 0x299f_31d0_a409_3822),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
