//! Tensors as a device holds them: little-endian elements, padded to whole 4-element vectors. Shared by all sessions.

use half::slice::HalfFloatSliceExt;

use crate::error::Result;
use crate::graph::{Stored, StoredType, WeightLayout, WeightPart, WeightSource, WeightSpec};
use crate::parallel::*;
use crate::tensor::{DType, HostTensor};

/// Elements that are converted at once, in the fast caches.
const BLOCK: usize = 1024;

/// Bytes of `elements` elements on the device.
pub fn padded_bytes(elements: usize, dtype: DType) -> usize {
    elements.next_multiple_of(4) * dtype.size()
}

/// A tensor's elements as stored on the device.
pub fn encode(tensor: &HostTensor, dtype: DType) -> Vec<u8> {
    let mut bytes = vec![0; padded_bytes(tensor.len(), dtype)];
    match dtype {
        DType::F32 => bytes[..4 * tensor.len()].copy_from_slice(bytemuck::cast_slice(&tensor.data)),
        DType::F16 => halves(&tensor.data, &mut bytes),
        DType::U32 => bytes.chunks_exact_mut(4).zip(&tensor.data).for_each(|(out, v)| {
            out.copy_from_slice(&(*v as u32).to_le_bytes());
        }),
    }
    bytes
}

/// The first `elements` elements of what a device holds.
pub fn decode(bytes: &[u8], dtype: DType, elements: usize) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().take(elements).map(|b| f32::from_le_bytes(*b)).collect(),
        DType::F16 => {
            bytes.as_chunks::<2>().0.iter().take(elements).map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
        }
        DType::U32 => bytes.as_chunks::<4>().0.iter().take(elements).map(|b| u32::from_le_bytes(*b) as f32).collect(),
    }
}

/// f32 to f16, whole slices at once, which the processor's own instructions convert.
fn halves(data: &[f32], out: &mut [u8]) {
    let mut block = [half::f16::ZERO; BLOCK];
    for (data, out) in data.chunks(BLOCK).zip(out.chunks_mut(2 * BLOCK)) {
        let block = &mut block[..data.len()];
        block.convert_from_f32_slice(data);
        out[..2 * data.len()].copy_from_slice(bytemuck::cast_slice(block));
    }
}

/// Writes a parameter as stored on the device into `out`, of [`padded_bytes`]: from the mapped file in one pass, where
/// the source can show it, else by way of f32.
///
/// # Errors
/// As [`WeightSource::read`].
pub fn encode_weight(spec: &WeightSpec, source: &dyn WeightSource, dtype: DType, out: &mut [u8]) -> Result<()> {
    let mut rest = out;
    for part in &spec.parts {
        let elements: usize = part.shape.iter().product();
        let (own, after) = rest.split_at_mut(elements * dtype.size());
        match source.stored(part)?.filter(|_| dtype != DType::U32) {
            Some(stored) => encode_stored(&stored, part, spec.layout, dtype, own),
            None => {
                let mut tensor = source.read(part)?;
                if spec.layout == WeightLayout::Ohwi {
                    tensor = tensor.channels_last();
                }
                own.copy_from_slice(&encode(&tensor, dtype)[..own.len()]);
            }
        }
        rest = after;
    }
    rest.fill(0);
    Ok(())
}

fn encode_stored(stored: &Stored<'_>, part: &WeightPart, layout: WeightLayout, dtype: DType, out: &mut [u8]) {
    let (from, to) = (stored.dtype.size(), dtype.size());
    let filter = match (layout, part.shape.as_slice()) {
        (WeightLayout::Ohwi, &[_, c_in, kh, kw]) if kh * kw > 1 => Some((c_in, kh * kw)),
        _ => None, // as is; a 1x1 filter's layouts are one and the same
    };
    // In pieces, so that all cores convert and copy; with a filter, each piece is whole output channels.
    let piece = match filter {
        Some((c_in, taps)) => c_in * taps * (1usize << 16).div_ceil(c_in * taps),
        None => 1 << 18,
    };
    stored.bytes.par_chunks(from * piece).zip(out.par_chunks_mut(to * piece)).for_each(|(bytes, out)| match filter {
        Some((c_in, taps)) => {
            let channel = from * c_in * taps;
            let transpose = |bytes: &[u8], out: &mut [u8]| {
                bytes.chunks(channel).zip(out.chunks_mut(channel)).for_each(|(bytes, out)| match from {
                    2 => to_channels_last::<2>(bytes, taps, out),
                    _ => to_channels_last::<4>(bytes, taps, out),
                });
            };
            if converts(stored.dtype, dtype) {
                let mut moved = vec![0; bytes.len()];
                transpose(bytes, &mut moved);
                convert(&moved, stored.dtype, dtype, out);
            } else {
                transpose(bytes, out);
            }
        }
        None => convert(bytes, stored.dtype, dtype, out),
    });
}

/// One output channel's filter `[C_in, taps]` → `[taps, C_in]`, elements of `SIZE` bytes.
fn to_channels_last<const SIZE: usize>(filter: &[u8], taps: usize, out: &mut [u8]) {
    let filter = filter.as_chunks::<SIZE>().0;
    let out = out.as_chunks_mut::<SIZE>().0;
    let c_in = filter.len() / taps;
    for (tap, out) in out.chunks_mut(c_in).enumerate() {
        for (out, taps) in out.iter_mut().zip(filter.chunks_exact(taps)) {
            *out = taps[tap];
        }
    }
}

/// Whether a device's elements differ from the stored ones.
fn converts(from: StoredType, to: DType) -> bool {
    !matches!((from, to), (StoredType::F32, DType::F32) | (StoredType::F16, DType::F16))
}

/// Elements from one type to another.
fn convert(bytes: &[u8], from: StoredType, to: DType, out: &mut [u8]) {
    if !converts(from, to) {
        return out.copy_from_slice(bytes);
    }
    let size = from.size();
    let mut block = [0.0f32; BLOCK];
    for (bytes, out) in bytes.chunks(size * BLOCK).zip(out.chunks_mut(to.size() * BLOCK)) {
        let block = &mut block[..bytes.len() / size];
        to_f32(bytes, from, block);
        match to {
            DType::F16 => halves(block, out),
            DType::F32 | DType::U32 => out.copy_from_slice(bytemuck::cast_slice(block)),
        }
    }
}

/// Elements of any stored type as f32.
fn to_f32(bytes: &[u8], from: StoredType, out: &mut [f32]) {
    match from {
        StoredType::F32 => {
            out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(out, b)| *out = f32::from_le_bytes(*b));
        }
        StoredType::Bf16 => out
            .iter_mut()
            .zip(bytes.as_chunks::<2>().0)
            .for_each(|(out, b)| *out = half::bf16::from_le_bytes(*b).to_f32()),
        StoredType::F16 => {
            let mut block = [half::f16::ZERO; BLOCK];
            for (bytes, out) in bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
                let block = &mut block[..out.len()];
                block.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(h, b)| *h = half::f16::from_le_bytes(*b));
                block.convert_to_f32_slice(out);
            }
        }
    }
}

/// The position of the first element that is NaN or infinite, and how many there are; `None` if all are finite.
pub fn non_finite(stored: &Stored<'_>) -> Option<(usize, usize)> {
    // A float is not finite if all bits of its exponent are set.
    fn scan<const SIZE: usize>(bytes: &[u8], bad: impl Fn([u8; SIZE]) -> bool + Sync) -> Option<(usize, usize)> {
        let elements = bytes.as_chunks::<SIZE>().0;
        let count: usize =
            elements.par_chunks(1 << 18).map(|chunk| chunk.iter().map(|b| usize::from(bad(*b))).sum::<usize>()).sum();
        (count > 0).then(|| (elements.iter().position(|b| bad(*b)).expect("counted above"), count))
    }
    match stored.dtype {
        StoredType::F32 => scan::<4>(stored.bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        StoredType::F16 => scan::<2>(stored.bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        StoredType::Bf16 => scan::<2>(stored.bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
    }
}

/// The largest magnitude of a tensor's elements.
pub fn max_abs(stored: &Stored<'_>) -> f32 {
    let size = stored.dtype.size();
    let largest = |bytes: &[u8]| {
        let mut block = [0.0f32; BLOCK];
        let block = &mut block[..bytes.len() / size];
        to_f32(bytes, stored.dtype, block);
        block.iter().fold(0.0f32, |largest, v| largest.max(v.abs()))
    };
    let blocks: Vec<f32> = stored.bytes.par_chunks(size * BLOCK).map(largest).collect();
    blocks.into_iter().fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A source that shows its tensors' bytes.
    struct Bytes(StoredType, Vec<u8>);

    impl WeightSource for Bytes {
        fn read(&self, _: &WeightPart) -> Result<HostTensor> {
            panic!("stored tensors are not read")
        }

        fn stored(&self, _: &WeightPart) -> Result<Option<Stored<'_>>> {
            Ok(Some(Stored { dtype: self.0, bytes: &self.1 }))
        }
    }

    #[test]
    fn stored_weights_are_encoded_as_read_ones() {
        for (shape, layout) in [
            (vec![5, 7, 3, 3], WeightLayout::Ohwi),
            (vec![700, 33, 3, 1], WeightLayout::Ohwi),
            (vec![6, 5, 1, 1], WeightLayout::Ohwi),
            (vec![1031, 257], WeightLayout::AsIs),
            (vec![3], WeightLayout::AsIs),
        ] {
            // Halves of small whole numbers: exact in every type.
            let tensor = HostTensor::from_fn(shape.clone(), |i| ((i * 37 % 251) as f32 - 125.0) / 2.0);
            let part = WeightPart { source: None, name: "w".into(), shape: shape.clone() };
            let spec = WeightSpec { parts: vec![part], layout };
            let bytes = |from: StoredType| -> Vec<u8> {
                match from {
                    StoredType::F32 => tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    StoredType::F16 => tensor.data.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                    StoredType::Bf16 => {
                        tensor.data.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
                    }
                }
            };
            let read = HashMap::from([("w".to_owned(), tensor.clone())]);
            for to in [DType::F32, DType::F16] {
                let mut expected = vec![1; padded_bytes(tensor.len(), to)];
                encode_weight(&spec, &read, to, &mut expected).unwrap();
                for from in [StoredType::F32, StoredType::F16, StoredType::Bf16] {
                    let mut found = vec![1; expected.len()];
                    encode_weight(&spec, &Bytes(from, bytes(from)), to, &mut found).unwrap();
                    assert!(found == expected, "{shape:?} {layout:?} {from:?} to {to:?}");
                }
            }
        }
    }

    #[test]
    fn elements_that_are_not_finite_are_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let values = [1.0, -2.0, bad, 3.0, bad];
            let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let f16s: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
            let bf16s: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
            for (dtype, bytes) in [(StoredType::F32, f32s), (StoredType::F16, f16s), (StoredType::Bf16, bf16s)] {
                assert_eq!(non_finite(&Stored { dtype, bytes: &bytes }), Some((2, 2)), "{bad} in {dtype:?}");
                let finite = &bytes[..2 * dtype.size()];
                assert_eq!(non_finite(&Stored { dtype, bytes: finite }), None);
                assert_eq!(max_abs(&Stored { dtype, bytes: finite }), 2.0);
            }
        }
    }
}
