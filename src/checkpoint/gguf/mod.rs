//! The header of a `.gguf` file, ggml's format, validated as a whole before any tensor is read.
//!
//! Layout (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>), little-endian: `GGUF`, the version, the
//! numbers of tensors and of metadata entries; the entries (key, type, value); for each tensor its name, its dimensions
//! with the fastest first (ours have it last), its type and its offset; then, from the next multiple of
//! `general.alignment` on, the tensors one after the other, each padded to a multiple of it.
//!
//! Image models keep the names of their original files. Where a convolution's rows do not divide into blocks, ComfyUI's
//! converter stores the weight as rows of 256 and its shape in the metadata, as `comfy.gguf.orig_shape.NAME`.

mod blocks;
mod reader;

use std::collections::{BTreeMap, HashMap, HashSet};

pub use blocks::Block;
use safetensors::tensor::Dtype;

use self::reader::{Reader, Value};
use super::element::ElementType;
use super::header::{Header, Stored};
use super::quoted;

/// What a file of this format begins with. No `.safetensors` file does: these bytes would announce a header of more
/// than a gigabyte.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// The metadata's name for what kind of model the file holds.
pub(super) const ARCHITECTURE: &str = "general.architecture";

/// Where ComfyUI's converter keeps the shapes that it changed.
const SHAPES: &str = "comfy.gguf.orig_shape.";

/// Most tensors, and most entries of metadata, that are read. SDXL has 2 500 tensors, the largest language models some
/// ten thousand.
const MOST: u64 = 1 << 16;

/// ggml's types: number, name, and how the elements are read, if they are.
const TYPES: &[(u32, &str, Option<ElementType>)] = &[
    (0, "F32", Some(ElementType::Number(Dtype::F32))),
    (1, "F16", Some(ElementType::Number(Dtype::F16))),
    (2, "Q4_0", Some(ElementType::Block(Block::Q4_0))),
    (3, "Q4_1", Some(ElementType::Block(Block::Q4_1))),
    (4, "Q4_2", None),
    (5, "Q4_3", None),
    (6, "Q5_0", Some(ElementType::Block(Block::Q5_0))),
    (7, "Q5_1", Some(ElementType::Block(Block::Q5_1))),
    (8, "Q8_0", Some(ElementType::Block(Block::Q8_0))),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(ElementType::Block(Block::Q2_K))),
    (11, "Q3_K", Some(ElementType::Block(Block::Q3_K))),
    (12, "Q4_K", Some(ElementType::Block(Block::Q4_K))),
    (13, "Q5_K", Some(ElementType::Block(Block::Q5_K))),
    (14, "Q6_K", Some(ElementType::Block(Block::Q6_K))),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", Some(ElementType::Number(Dtype::I8))),
    (25, "I16", Some(ElementType::Number(Dtype::I16))),
    (26, "I32", Some(ElementType::Number(Dtype::I32))),
    (27, "I64", Some(ElementType::Number(Dtype::I64))),
    (28, "F64", Some(ElementType::Number(Dtype::F64))),
    (29, "IQ1_M", None),
    (30, "BF16", Some(ElementType::Number(Dtype::BF16))),
    (31, "Q4_0_4_4", None),
    (32, "Q4_0_4_8", None),
    (33, "Q4_0_8_8", None),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (36, "IQ4_NL_4_4", None),
    (37, "IQ4_NL_4_8", None),
    (38, "IQ4_NL_8_8", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
    (41, "Q1_0", None),
    (42, "Q2_0", None),
];

type Result<T> = std::result::Result<T, String>;

/// Parses and validates the header of a file of `length` bytes that begins with `file`: all of it, or at least its
/// header. It begins with [`MAGIC`].
pub(super) fn parse(file: &[u8], length: usize) -> Result<Header> {
    let mut reader = Reader::new(file);
    reader.take(MAGIC.len() as u64, "its magic")?;
    match reader.u32("its version")? {
        2 | 3 => {}
        1 => return Err("this is a GGUF file of version 1, which only its first writers made; convert it again".into()),
        version if version.swap_bytes() <= 9 => {
            return Err("this is a big-endian GGUF file, which is not read; convert it to little-endian (gguf-py: \
                        `gguf_convert_endian.py FILE little`)"
                .into());
        }
        version => {
            return Err(format!("this is a GGUF file of version {version}; versions 2 and 3 are read"));
        }
    }
    let tensors = reader.u64("the number of tensors")?;
    let entries = reader.u64("the number of metadata entries")?;
    for (number, what) in [(tensors, "tensors"), (entries, "metadata entries")] {
        if number > MOST {
            return Err(format!("the header announces {number} {what}, more than the {MOST} that are read"));
        }
    }
    let metadata = Metadata::read(&mut reader, entries)?;
    let tensors = (0..tensors).map(|_| Info::read(&mut reader)).collect::<Result<Vec<_>>>()?;
    let alignment = metadata.alignment()?;
    let start = (reader.position() as u64).next_multiple_of(alignment);
    place(length as u64, start, alignment, tensors, metadata)
}

/// Checks where the tensors lie and gives them their shapes.
fn place(length: u64, start: u64, alignment: u64, infos: Vec<Info>, mut metadata: Metadata) -> Result<Header> {
    let mut tensors = BTreeMap::new();
    let mut next = 0u64;
    // Two bits of a block become 32: a tensor that is most of its file would need many times the file's memory.
    let most = length.saturating_mul(4).saturating_add(256 << 20);
    for info in infos {
        let shown = quoted(info.name);
        if info.offset != next {
            return Err(format!(
                "tensor {shown} should begin at byte {next} of the data, where the one before it ends, the header says \
                 {}",
                info.offset
            ));
        }
        let end = start.checked_add(info.offset).and_then(|begin| begin.checked_add(info.bytes as u64));
        let Some(end) = end.filter(|end| *end <= length) else {
            return Err(format!(
                "tensor {shown} has {} bytes from byte {} on, the file has {length}: it is truncated, fetch it again",
                info.bytes,
                start.saturating_add(info.offset)
            ));
        };
        if info.elements as u64 > most / 4 {
            return Err(format!(
                "tensor {shown} has {} elements, more than a model of this size holds in one tensor",
                info.elements
            ));
        }
        // No more than the file's length and an alignment (u32), which cannot overflow.
        next = (info.offset + info.bytes as u64).next_multiple_of(alignment);
        let shape = match metadata.shapes.remove(info.name) {
            None => info.shape,
            Some(shape) if product(&shape) == product(&info.shape) => shape,
            Some(shape) => {
                return Err(format!(
                    "tensor {shown} is stored as {:?}, which has another number of elements than {shape:?} in \
                     `{SHAPES}…`",
                    info.shape
                ));
            }
        };
        let bytes = end as usize - info.bytes..end as usize;
        if tensors.insert(info.name.to_owned(), Stored { dtype: info.dtype, shape, bytes }).is_some() {
            return Err(format!("the tensor {shown} is given twice"));
        }
    }
    let surplus = length.saturating_sub(start.saturating_add(next));
    if surplus > 0 {
        return Err(format!("{surplus} bytes after the last tensor belong to no tensor"));
    }
    Ok(Header { tensors, metadata: metadata.texts, is_gguf: true })
}

fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

/// The entries beside the tensors that are of use.
#[derive(Default)]
struct Metadata<'a> {
    /// Single values, as text.
    texts: BTreeMap<String, String>,
    /// Shapes that tensors have, by their names.
    shapes: HashMap<&'a str, Vec<usize>>,
    alignment: Option<u32>,
}

impl<'a> Metadata<'a> {
    fn read(reader: &mut Reader<'a>, entries: u64) -> Result<Self> {
        let (mut found, mut keys) = (Self::default(), HashSet::new());
        for _ in 0..entries {
            let key = reader.string("a key of the metadata")?;
            if key.is_empty() || !keys.insert(key) {
                let what = if key.is_empty() { "empty" } else { "given twice" };
                return Err(format!("the metadata's key {} is {what}", quoted(key)));
            }
            let value = reader.value(key)?;
            let tensor = key.strip_prefix(SHAPES);
            match (value, tensor) {
                (Value::Integers(shape), Some(tensor)) if (1..=8).contains(&shape.len()) => {
                    drop(found.shapes.insert(tensor, shape));
                }
                (_, Some(_)) => return Err(format!("{} is no list of one to eight sizes", quoted(key))),
                (Value::U32(alignment), _) if key == "general.alignment" => found.alignment = Some(alignment),
                (_, _) if key == "general.alignment" => {
                    return Err("`general.alignment` is not of the type u32".into());
                }
                (Value::Text(text), _) => drop(found.texts.insert(key.to_owned(), text.to_owned())),
                (Value::U32(number), _) => drop(found.texts.insert(key.to_owned(), number.to_string())),
                (Value::Number(number), _) => drop(found.texts.insert(key.to_owned(), number)),
                (Value::Integers(_) | Value::Other, _) => {}
            }
        }
        match found.texts.get("split.count").map(String::as_str) {
            None | Some("0" | "1") => Ok(found),
            Some(parts) => Err(format!(
                "this is one of {parts} parts of a split GGUF file, which llama.cpp's `llama-gguf-split` merges"
            )),
        }
    }

    fn alignment(&self) -> Result<u64> {
        let alignment = self.alignment.unwrap_or(32);
        if alignment.is_power_of_two() {
            Ok(alignment.into())
        } else {
            Err(format!("`general.alignment` is {alignment}, which is not a power of two"))
        }
    }
}

/// What the header says of a tensor.
struct Info<'a> {
    name: &'a str,
    dtype: ElementType,
    /// Outermost dimension first.
    shape: Vec<usize>,
    elements: usize,
    /// Bytes of the elements.
    bytes: usize,
    /// Where they begin, counted from the beginning of the data.
    offset: u64,
}

impl<'a> Info<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let name = reader.string("the name of a tensor")?;
        let what = || format!("tensor {}", quoted(name));
        let rank = reader.u32(&what())?;
        if rank > 4 {
            return Err(format!("{} has {rank} dimensions, GGUF allows 4", what()));
        }
        let dims = (0..rank).map(|_| reader.u64(&what())).collect::<Result<Vec<u64>>>()?;
        let number = reader.u32(&what())?;
        let offset = reader.u64(&what())?;
        let dtype = match TYPES.iter().find(|(id, ..)| *id == number) {
            Some((_, _, Some(dtype))) => *dtype,
            Some((_, name, None)) => {
                let read: Vec<_> = TYPES.iter().filter(|(.., read)| read.is_some()).map(|(_, name, _)| *name).collect();
                return Err(format!(
                    "{} is stored as {name}, which is not read; use a version of the model in one of {}",
                    what(),
                    read.join(", ")
                ));
            }
            None => return Err(format!("{} is of type {number}, which GGUF does not have", what())),
        };
        let shape: Option<Vec<usize>> = dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect();
        let Some((shape, elements)) = shape.and_then(|shape| product(&shape).map(|elements| (shape, elements))) else {
            return Err(format!("{}: the size of shape {dims:?} overflows", what()));
        };
        // Blocks do not reach from one row into the next.
        let row = shape.last().copied().unwrap_or(1);
        let Some(bytes) = dtype.bytes_of(row).and(dtype.bytes_of(elements)) else {
            return Err(format!("{}: rows of {row} elements are no whole blocks of {dtype}, or too large", what()));
        };
        Ok(Self { name, dtype, shape, elements, bytes, offset })
    }
}
