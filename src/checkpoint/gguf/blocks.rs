//! GGUF's quantised blocks to f32.
//!
//! A row of a tensor is cut into blocks of 32 or 256 elements. Each holds small integers and the scales (and minima)
//! that make numbers of them. The layouts are those of ggml's `ggml-common.h` and `ggml-quants.c`; the arithmetic is
//! done in f32 in the same order, so that every value is the same to the last bit.

use half::f16;

/// A format of blocks. `d` and `m` are f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "ggml's names")]
pub enum Block {
    /// 32 × 4 bits: d·(q − 8).
    Q4_0,
    /// 32 × 4 bits: d·q + m.
    Q4_1,
    /// 32 × 5 bits: d·(q − 16).
    Q5_0,
    /// 32 × 5 bits: d·q + m.
    Q5_1,
    /// 32 × 8 bits: d·q.
    Q8_0,
    /// 16 groups of 16 × 2 bits, 4 bits of scale and of minimum each: d·s·q − m·t.
    Q2_K,
    /// 16 groups of 16 × 3 bits, 6 bits of scale each: d·(s − 32)·(q − 4).
    Q3_K,
    /// 8 groups of 32 × 4 bits, 6 bits of scale and of minimum each: d·s·q − m·t.
    Q4_K,
    /// 8 groups of 32 × 5 bits, 6 bits of scale and of minimum each: d·s·q − m·t.
    Q5_K,
    /// 16 groups of 16 × 6 bits, 8 bits of scale each: d·s·(q − 32).
    Q6_K,
}

impl Block {
    /// Elements in a block.
    pub const fn elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Appends the elements of whole blocks to `out`.
    pub(in crate::checkpoint) fn dequantise(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::Q4_0 => each(bytes, out, q4_0),
            Self::Q4_1 => each(bytes, out, q4_1),
            Self::Q5_0 => each(bytes, out, q5_0),
            Self::Q5_1 => each(bytes, out, q5_1),
            Self::Q8_0 => each(bytes, out, q8_0),
            Self::Q2_K => each(bytes, out, q2_k),
            Self::Q3_K => each(bytes, out, q3_k),
            Self::Q4_K => each(bytes, out, q4_k),
            Self::Q5_K => each(bytes, out, q5_k),
            Self::Q6_K => each(bytes, out, q6_k),
        }
    }
}

fn each<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut Vec<f32>,
    dequantise: fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let mut values = [0.0; ELEMENTS];
    for block in bytes.as_chunks().0 {
        dequantise(block, &mut values);
        out.extend_from_slice(&values);
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The first half of the elements are the low four bits of the bytes, the second half the high ones.
fn nibbles(bytes: &[u8], mut value: impl FnMut(usize, u8)) {
    for (i, &byte) in bytes.iter().enumerate() {
        value(i, byte & 15);
        value(i + bytes.len(), byte >> 4);
    }
}

fn q4_0(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], |i, q| y[i] = d * (f32::from(q) - 8.0));
}

fn q4_1(block: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], |i, q| y[i] = d * f32::from(q) + m);
}

/// As [`nibbles`], with a fifth bit for each element.
fn fives(high: &[u8], low: &[u8], mut value: impl FnMut(usize, f32)) {
    nibbles(low, |i, q| value(i, f32::from(q | (high[i / 8] >> (i % 8) & 1) << 4)));
}

fn q5_0(block: &[u8; 22], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    fives(&block[2..6], &block[6..], |i, q| y[i] = d * (q - 16.0));
}

fn q5_1(block: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    fives(&block[4..8], &block[8..], |i, q| y[i] = d * q + m);
}

fn q8_0(block: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, &q) in y.iter_mut().zip(&block[2..]) {
        *y = d * f32::from(q as i8);
    }
}

/// Two bits of element `i`: 32 elements lie side by side in the lowest bits of 32 bytes, the next 32 above them.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    let (half, shift, lane) = (i / 128, i % 128 / 32, i % 32);
    bytes[32 * half + lane] >> (2 * shift) & 3
}

fn q2_k(block: &[u8; 84], y: &mut [f32; 256]) {
    let (d, m) = (half_at(block, 80), half_at(block, 82));
    for (i, y) in y.iter_mut().enumerate() {
        let scale = block[i / 16];
        let (d, m) = (d * f32::from(scale & 15), m * f32::from(scale >> 4));
        *y = d * f32::from(two_bits(&block[16..80], i)) - m;
    }
}

fn q3_k(block: &[u8; 110], y: &mut [f32; 256]) {
    let d = half_at(block, 108);
    let scales = &block[96..108];
    for (group, y) in y.chunks_mut(16).enumerate() {
        // Four low bits of scales 0..8 and 8..16 in the nibbles of the first eight bytes, two high bits behind them.
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let d = d * (f32::from(low | high << 4) - 32.0);
        for (i, y) in (16 * group..).zip(y) {
            let high = block[i % 32] >> (i / 32) & 1;
            *y = d * (f32::from(two_bits(&block[32..96], i) | high << 2) - 4.0);
        }
    }
}

/// Scale and minimum of one of eight groups, six bits each in twelve bytes: of the first four groups in whole bytes,
/// whose highest two bits belong to the last four.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// The groups of [`Block::Q4_K`] and [`Block::Q5_K`]: a pair of groups shares 32 bytes, low nibbles and high ones.
fn groups_of_32(block: &[u8], quants: &[u8], fifth: impl Fn(usize, usize) -> u8, y: &mut [f32; 256]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (group, y) in y.chunks_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (d, m) = (d * scale, m * minimum);
        for (lane, y) in y.iter_mut().enumerate() {
            let low = quants[32 * (group / 2) + lane] >> (4 * (group % 2)) & 15;
            *y = d * f32::from(low | fifth(group, lane) << 4) - m;
        }
    }
}

fn q4_k(block: &[u8; 144], y: &mut [f32; 256]) {
    groups_of_32(block, &block[16..], |_, _| 0, y);
}

fn q5_k(block: &[u8; 176], y: &mut [f32; 256]) {
    groups_of_32(block, &block[48..], |group, lane| block[16 + lane] >> group & 1, y);
}

fn q6_k(block: &[u8; 210], y: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (group, y) in y.chunks_mut(16).enumerate() {
        let d = d * f32::from(block[192 + group] as i8);
        for (i, y) in (16 * group..).zip(y) {
            // Of 128 elements, 64 lie in low nibbles and 64 in high ones; two bits more as in `two_bits`.
            let (half, rest) = (i / 128, i % 128);
            let low = block[64 * half + rest % 64] >> (4 * (rest / 64)) & 15;
            let high = two_bits(&block[128..192], i);
            *y = d * (f32::from(low | high << 4) - 32.0);
        }
    }
}
