//! GGUF files for tests: sound ones, and ones that are wrong in one place.

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Value {
    U32(u32),
    Text(Vec<u8>),
    Integers(Vec<i32>),
    /// Type and bytes as they shall stand there.
    Raw(u32, Vec<u8>),
}

/// A tensor.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    /// Outermost dimension first, as in torch.
    pub shape: Vec<u64>,
    /// ggml's number of its type.
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// A file, field by field.
#[derive(Clone, Debug)]
pub struct File {
    pub version: u32,
    pub metadata: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Entry>,
    /// To which multiple the data is padded, whatever the metadata says.
    pub alignment: u64,
    /// Added to what the header says: number of tensors, number of entries, offset of the last tensor.
    pub off: [u64; 3],
}

impl File {
    pub fn new(tensors: Vec<Entry>) -> Self {
        Self { version: 3, metadata: vec![], tensors, alignment: 32, off: [0; 3] }
    }

    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.metadata.push((key.into(), value));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        fn string(out: &mut Vec<u8>, text: &[u8]) {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text);
        }
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).wrapping_add(self.off[0]).to_le_bytes());
        out.extend((self.metadata.len() as u64).wrapping_add(self.off[1]).to_le_bytes());
        for (key, value) in &self.metadata {
            string(&mut out, key);
            match value {
                Value::U32(number) => out.extend([4u32.to_le_bytes(), number.to_le_bytes()].concat()),
                Value::Text(text) => {
                    out.extend(8u32.to_le_bytes());
                    string(&mut out, text);
                }
                Value::Integers(numbers) => {
                    out.extend([9u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
                    out.extend((numbers.len() as u64).to_le_bytes());
                    numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
                }
                Value::Raw(kind, bytes) => {
                    out.extend(kind.to_le_bytes());
                    out.extend(bytes);
                }
            }
        }
        let padded = |length: usize| (length as u64).next_multiple_of(self.alignment) as usize;
        let mut data = vec![];
        for (i, tensor) in self.tensors.iter().enumerate() {
            string(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            let off = if i + 1 == self.tensors.len() { self.off[2] } else { 0 };
            out.extend((data.len() as u64).wrapping_add(off).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(padded(data.len()), 0);
        }
        out.resize(padded(out.len()), 0);
        out.extend(data);
        out
    }
}

impl Entry {
    pub fn new(name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), shape: shape.iter().map(|&dim| dim as u64).collect(), kind, bytes }
    }

    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        Self::new(name, shape, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn f16(name: &str, shape: &[usize], values: &[f32]) -> Self {
        Self::new(name, shape, 1, values.iter().flat_map(|value| half(*value)).collect())
    }

    /// 32 elements a block.
    pub fn q8_0(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let block = |block: &[f32]| {
            let d = largest(block) / 127.0;
            let quants = block.iter().map(move |value| whole(value / d, -127.0, 127.0) as i8 as u8);
            half(d).into_iter().chain(quants).collect::<Vec<u8>>()
        };
        Self::new(name, shape, 8, values.chunks(32).flat_map(block).collect())
    }

    /// 32 elements a block.
    pub fn q4_0(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let block = |block: &[f32]| {
            let d = largest(block) / 7.0;
            let quant = |value: f32| (whole(value / d, -8.0, 7.0) + 8) as u8;
            let quants = (0..16).map(|i| quant(block[i]) | quant(block[i + 16]) << 4);
            half(d).into_iter().chain(quants).collect::<Vec<u8>>()
        };
        Self::new(name, shape, 2, values.chunks(32).flat_map(block).collect())
    }

    /// 256 elements a block.
    pub fn q6_k(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let block = |block: &[f32]| {
            let d = largest(block) / (31.0 * 127.0);
            let mut bytes = [0u8; 210];
            for (group, values) in block.chunks(16).enumerate() {
                let scale = whole(largest(values) / (31.0 * d), 1.0, 127.0);
                bytes[192 + group] = scale as u8;
                for (i, value) in (16 * group..).zip(values) {
                    let quant = (whole(value / (d * scale as f32), -32.0, 31.0) + 32) as u8;
                    let (half, rest) = (i / 128, i % 128);
                    bytes[64 * half + rest % 64] |= (quant & 15) << (4 * (rest / 64));
                    bytes[128 + 32 * half + rest % 32] |= quant >> 4 << (2 * (rest / 32));
                }
            }
            bytes[208..].copy_from_slice(&half(d));
            bytes
        };
        Self::new(name, shape, 14, values.chunks(256).flat_map(block).collect())
    }
}

fn half(value: f32) -> [u8; 2] {
    half::f16::from_f32(value).to_le_bytes()
}

/// The largest magnitude; not zero, because it is divided by.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(1e-3, |largest: f32, value| largest.max(value.abs()))
}

fn whole(value: f32, least: f32, most: f32) -> i32 {
    value.round().clamp(least, most) as i32
}
