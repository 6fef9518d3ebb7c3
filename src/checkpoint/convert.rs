//! Stored element types to f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::element::ElementType;
use crate::error::{Error, Result};

/// Little-endian `bytes` of type `dtype` as f32. `what` names file and tensor in messages.
///
/// f32, f16, bf16 and 8-bit floats convert exactly, f64 is rounded to nearest, GGUF's blocks are dequantised. Integers
/// must be exact in f32 (magnitude up to 2²⁴, or a larger one that happens to be): they are indices and flags, and a
/// rounded index is a wrong one.
///
/// # Errors
/// [`Error::Unsupported`] for types the engine does not compute with, [`Error::Checkpoint`] for an integer
/// that f32 cannot hold, [`Error::Limits`] if memory does not suffice.
pub(super) fn to_f32(bytes: &[u8], dtype: ElementType, what: &dyn Fn() -> String) -> Result<Vec<f32>> {
    let elements = dtype.elements_in(bytes.len());
    let mut out = Vec::new();
    out.try_reserve_exact(elements).map_err(|_| {
        Error::Limits(
            format!("{}: {} bytes of memory for {elements} elements are not available", what(), elements as u64 * 4)
                .into(),
        )
    })?;

    let dtype = match dtype {
        ElementType::Number(dtype) => dtype,
        ElementType::Block(block) => {
            block.dequantise(bytes, &mut out);
            return Ok(out);
        }
    };
    macro_rules! each {
        ($type:ty, $convert:expr) => {
            out.extend(
                bytes.as_chunks::<{ size_of::<$type>() }>().0.iter().map(|&b| $convert(<$type>::from_le_bytes(b))),
            )
        };
    }
    macro_rules! integers {
        ($type:ty) => {
            for &b in bytes.as_chunks::<{ size_of::<$type>() }>().0 {
                let value = <$type>::from_le_bytes(b);
                // Compared in i128, where neither the integer nor the (at most 2⁶⁴) rounded float can saturate.
                if value as f32 as i128 != value as i128 {
                    return Err(Error::Checkpoint(format!(
                        "{}: the integer {value} has no exact 32-bit float",
                        what()
                    )));
                }
                out.push(value as f32);
            }
        };
    }
    match dtype {
        Dtype::F32 => each!(f32, |v| v),
        Dtype::F16 => {
            // Whole slices at once, which the processor's own instructions convert.
            let mut halves = [f16::ZERO; 1024];
            out.resize(elements, 0.0);
            for (bytes, out) in bytes.chunks(2 * halves.len()).zip(out.chunks_mut(halves.len())) {
                let halves = &mut halves[..out.len()];
                for (half, &b) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(b);
                }
                halves.convert_to_f32_slice(out);
            }
        }
        Dtype::BF16 => each!(bf16, bf16::to_f32),
        Dtype::F64 => each!(f64, |v| v as f32),
        Dtype::F8_E4M3 => out.extend(bytes.iter().map(|&b| e4m3(b))),
        // The upper half of an f16.
        Dtype::F8_E5M2 => out.extend(bytes.iter().map(|&b| f16::from_bits(u16::from(b) << 8).to_f32())),
        Dtype::BOOL => out.extend(bytes.iter().map(|&b| f32::from(u8::from(b != 0)))),
        Dtype::U8 => integers!(u8),
        Dtype::I8 => integers!(i8),
        Dtype::U16 => integers!(u16),
        Dtype::I16 => integers!(i16),
        Dtype::U32 => integers!(u32),
        Dtype::I32 => integers!(i32),
        Dtype::U64 => integers!(u64),
        Dtype::I64 => integers!(i64),
        other => {
            return Err(Error::Unsupported(format!(
                "{}: the element type {other} is not read; convert the checkpoint to F16 or F32",
                what()
            )));
        }
    }
    Ok(out)
}

/// An 8-bit float of four exponent and three fraction bits. It has no infinities; all ones are NaN. Micikevicius et al.
/// 2022, "FP8 Formats for Deep Learning" (arXiv:2209.05433), table 1.
fn e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match exponent {
        0 => fraction / 8.0 * 2f32.powi(-6),
        15 if bits & 7 == 7 => f32::NAN,
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits >> 7 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(bytes: &[u8], dtype: Dtype) -> Result<Vec<f32>> {
        to_f32(bytes, dtype.into(), &|| "file: tensor `t`".into())
    }

    #[test]
    fn every_f16_and_bf16_is_exact() {
        for bits in 0..=u16::MAX {
            let half = convert(&bits.to_le_bytes(), Dtype::F16).unwrap()[0];
            // The value written out from sign, exponent and fraction (IEEE 754 binary16).
            let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                0 => fraction / 1024.0 * 2f64.powi(-14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
            };
            let expected = if sign == 1 { -magnitude } else { magnitude };
            assert!(
                f64::from(half) == expected || half.is_nan() && expected.is_nan(),
                "{bits:#06x}: {half} {expected}"
            );

            let brain = convert(&bits.to_le_bytes(), Dtype::BF16).unwrap()[0];
            let expected = f32::from_bits(u32::from(bits) << 16);
            assert!(brain == expected || brain.is_nan() && expected.is_nan(), "{bits:#06x}: {brain} {expected}");
        }
    }

    #[test]
    fn integers_are_exact_or_refused() {
        assert_eq!(convert(&(-3i64).to_le_bytes(), Dtype::I64).unwrap(), [-3.0]);
        assert_eq!(convert(&(1u64 << 40).to_le_bytes(), Dtype::U64).unwrap(), [2f32.powi(40)]);
        assert_eq!(convert(&[0, 1, 255], Dtype::U8).unwrap(), [0.0, 1.0, 255.0]);
        for (bytes, dtype) in [
            (((1i32 << 24) + 1).to_le_bytes().to_vec(), Dtype::I32),
            (u64::MAX.to_le_bytes().to_vec(), Dtype::U64),
            (i64::MAX.to_le_bytes().to_vec(), Dtype::I64),
        ] {
            let message = convert(&bytes, dtype).unwrap_err().to_string();
            assert!(message.contains("file: tensor `t`") && message.contains("exact"), "{message}");
        }
    }

    #[test]
    fn f64_rounds_to_nearest_and_float6_is_refused_by_name() {
        assert_eq!(convert(&0.1f64.to_le_bytes(), Dtype::F64).unwrap(), [0.1f32]);
        let message = convert(&[0, 0, 0], Dtype::F6_E2M3).unwrap_err().to_string();
        assert!(message.contains("F6_E2M3"), "{message}");
    }

    /// Values as the paper's table 1 has them, and that each format is monotonic.
    #[test]
    fn floats_of_8_bits() {
        let one = |bits: u8, dtype| convert(&[bits], dtype).unwrap()[0];
        for (bits, value) in [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0), (0x7e, 448.0)] {
            assert_eq!(one(bits, Dtype::F8_E4M3), value);
            assert_eq!(one(bits | 0x80, Dtype::F8_E4M3), -value);
        }
        for (bits, value) in [(0x00, 0.0), (0x01, 2f32.powi(-16)), (0x04, 2f32.powi(-14)), (0x3c, 1.0), (0x7b, 57344.0)]
        {
            assert_eq!(one(bits, Dtype::F8_E5M2), value);
            assert_eq!(one(bits | 0x80, Dtype::F8_E5M2), -value);
        }
        assert!(one(0x7f, Dtype::F8_E4M3).is_nan() && one(0x7c, Dtype::F8_E5M2).is_infinite());
        assert!((0..0x7e).all(|bits| one(bits, Dtype::F8_E4M3) < one(bits + 1, Dtype::F8_E4M3)));
        assert!((0..0x7b).all(|bits| one(bits, Dtype::F8_E5M2) < one(bits + 1, Dtype::F8_E5M2)));
    }
}
