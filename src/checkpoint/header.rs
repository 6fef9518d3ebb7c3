//! The header of one file of tensors: parsed and validated as a whole before any tensor is read. What a file is, its
//! content says: `.safetensors`, which is read here, or GGUF (`gguf`).
//!
//! Layout of `.safetensors` (<https://huggingface.co/docs/safetensors>): 8 bytes little-endian header length, a JSON
//! object `{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {…}}`, then the data. Offsets count from
//! the end of the header; tensors must tile the data without gap or overlap.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::element::ElementType;
use super::{gguf, quoted};
use crate::error::{Error, Result};
use crate::files::Parts;

/// Longest header accepted; in memory it can take ten times that. SDXL's is 0.3 MB. The format's own reader takes
/// 100 MB.
const MAX_HEADER_BYTES: u64 = 25_000_000;

/// Where one tensor lies in its file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    /// Bytes of the file, header included.
    pub bytes: Range<usize>,
}

/// A validated header: every range lies inside the file and holds exactly its shape's elements.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub tensors: BTreeMap<String, Stored>,
    pub metadata: BTreeMap<String, String>,
    /// Whether it is that of a GGUF file.
    pub is_gguf: bool,
}

/// Longest header of a GGUF file that is not in memory, whose length it does not say. Those of image models, which have
/// no vocabulary in it, take a tenth of a megabyte.
const MAX_GGUF_HEADER_BYTES: usize = 32 << 20;

/// Reads the header of the file at `path` (which is only named in messages).
pub(super) fn read(file: &Parts, path: &Path) -> Result<Header> {
    if let Some(whole) = file.whole() {
        return parse(whole, whole.len(), path);
    }
    let beginning = file.beginning(8).map_err(Error::io(path))?;
    let length = match beginning.first_chunk::<8>() {
        Some(first) if first.starts_with(gguf::MAGIC) => MAX_GGUF_HEADER_BYTES,
        // One that is longer than allowed is refused by its first bytes.
        Some(first) => 8 + u64::from_le_bytes(*first).min(MAX_HEADER_BYTES) as usize,
        None => 8,
    };
    parse(&file.beginning(length).map_err(Error::io(path))?, file.length(), path)
}

/// Parses and validates the header of a file of `length` bytes that begins with `file`: all of it, or at least its
/// header.
fn parse(file: &[u8], length: usize, path: &Path) -> Result<Header> {
    if file.starts_with(gguf::MAGIC) {
        return gguf::parse(file, length)
            .map_err(|problem| Error::Checkpoint(format!("{}: {problem}", path.display())));
    }
    // The length may begin like another format by chance, so the header is read first; only a file without a sound one
    // is taken for what its first bytes say.
    framed(file, length).map_err(|problem| {
        let problem = match foreign_format(file) {
            Some(known) => known.to_owned(),
            None if is_pickle(file) => format!("this is {}", pickle(path)),
            None if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) => {
                "a .gguf file begins with `GGUF`, this one does not; it is damaged, fetch it again".to_owned()
            }
            None => problem,
        };
        Error::Checkpoint(format!("{}: {problem}", path.display()))
    })
}

/// Parses and validates a header by the length that stands before it.
fn framed(file: &[u8], file_length: usize) -> std::result::Result<Header, String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!(
            "a .safetensors file begins with an 8-byte length, this one has {} bytes; it is truncated, fetch it again",
            file.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "the first 8 bytes announce a header of {length} bytes, more than the {MAX_HEADER_BYTES} allowed; \
             it is not a .safetensors file, or damaged: fetch it again"
        ));
    }
    let length = length as usize; // at most MAX_HEADER_BYTES
    let Some(json) = rest.get(..length) else {
        return Err(format!(
            "the header should have {length} bytes, only {} follow; the file is truncated, fetch it again",
            rest.len()
        ));
    };
    let json = std::str::from_utf8(json)
        .map_err(|e| format!("the header is not UTF-8 ({e}); the file is damaged, fetch it again"))?;
    let raw: RawHeader = serde_json::from_str(json)
        .map_err(|e| format!("the header is not valid ({e}); the file is damaged, fetch it again"))?;
    place(raw, 8 + length, file_length)
        .map_err(|problem| format!("{problem}; the file is damaged, fetch or convert it again"))
}

/// Checks the offsets of all tensors against each other and against the file, and makes them absolute.
fn place(raw: RawHeader, data_start: usize, file_len: usize) -> std::result::Result<Header, String> {
    let available = file_len - data_start;
    let needed = raw.tensors.values().map(|info| info.data_offsets.1).max().unwrap_or(0);
    if needed > available {
        return Err(format!(
            "the header describes {needed} bytes of tensor data, the file holds {available}: it is truncated"
        ));
    }
    for (name, info) in &raw.tensors {
        let (begin, end) = info.data_offsets;
        let Some(found) = end.checked_sub(begin) else {
            return Err(format!("tensor {}: data_offsets [{begin}, {end}] run backwards", quoted(name)));
        };
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
        let Some(bits) = bits else {
            return Err(format!("tensor {}: the size of shape {} overflows", quoted(name), short_shape(&info.shape)));
        };
        if bits % 8 != 0 || bits / 8 != found {
            return Err(format!(
                "tensor {}: {} {} needs {} bytes, data_offsets [{begin}, {end}] give {found}",
                quoted(name),
                info.dtype,
                short_shape(&info.shape),
                bits.div_ceil(8)
            ));
        }
    }

    let mut in_order: Vec<_> = raw.tensors.iter().map(|(name, info)| (info.data_offsets, name)).collect();
    in_order.sort();
    let (mut previous_end, mut previous) = (0, None);
    for ((begin, end), name) in in_order {
        if begin < previous_end {
            let other = previous.map_or_else(String::new, quoted);
            return Err(format!(
                "tensor {} begins at byte {begin}, inside tensor {other} which ends at {previous_end}: they overlap",
                quoted(name)
            ));
        }
        if begin > previous_end {
            return Err(format!(
                "bytes {previous_end}..{begin} before tensor {} belong to no tensor: there is a hole",
                quoted(name)
            ));
        }
        (previous_end, previous) = (end, Some(name.as_str()));
    }
    if previous_end != available {
        return Err(format!("{} bytes after the last tensor belong to no tensor", available - previous_end));
    }

    let tensors = raw.tensors.into_iter().map(|(name, info)| {
        let bytes = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
        (name, Stored { dtype: info.dtype.into(), shape: info.shape, bytes })
    });
    Ok(Header { tensors: tensors.collect(), metadata: raw.metadata, is_gguf: false })
}

/// Why a file of PyTorch's is not read, and the one command that converts it. It opens nothing but tensors.
pub(super) fn pickle(path: &Path) -> String {
    const CODE: &str = "import sys,torch;from safetensors.torch import save_file;\
        d=torch.load(sys.argv[1],map_location='cpu',weights_only=True);d=d.get('state_dict',d);\
        save_file({k:v.clone().contiguous() for k,v in d.items() if torch.is_tensor(v)},sys.argv[2],{'format':'pt'})";
    let new = path.with_extension("safetensors");
    format!(
        "a PyTorch pickle, which can run code when opened and is not read; with `pip install torch safetensors` this \
        converts it:\n  python -c \"{CODE}\" \"{}\" \"{}\"",
        path.display(),
        new.display()
    )
}

/// What the file is instead, if its first bytes say so.
fn foreign_format(file: &[u8]) -> Option<&'static str> {
    const SIGNATURES: &[(&[u8], &str)] = &[
        (
            b"version https://git-lfs",
            "this is a Git LFS pointer, the weights themselves were not fetched; run `git lfs pull` in the repository",
        ),
        (
            b"<",
            "this is an HTML or XML page, not weights (a login or error page saved by the download); download the file \
            again",
        ),
        (b"\x89HDF", "this is an HDF5 (.h5) file, which is not read; use the .safetensors version of the model"),
        (
            b"{",
            "this is a JSON file, not weights; of a sharded checkpoint give the file whose name ends in .index.json",
        ),
    ];
    if file.is_empty() {
        return Some("the file is empty; fetch it again");
    }
    SIGNATURES.iter().find(|(bytes, _)| !is_meant(file) && file.starts_with(bytes)).map(|&(_, message)| message)
}

/// A length of less than 4 GiB with a JSON object behind it: the file was meant to be one of safetensors.
fn is_meant(file: &[u8]) -> bool {
    file.get(8) == Some(&b'{') && file[4..8] == [0; 4]
}

/// Whether it is a file of PyTorch's, an archive or not.
fn is_pickle(file: &[u8]) -> bool {
    !is_meant(file) && (file.starts_with(b"PK\x03\x04") || file.starts_with(b"\x80\x02"))
}

/// A shape for a message; a damaged header can hold one of a million dimensions.
fn short_shape(shape: &[usize]) -> String {
    match shape.len() {
        0..=8 => format!("{shape:?}"),
        dims => format!("{:?}… ({dims} dimensions)", &shape[..8]),
    }
}

/// The header as written. Unlike a plain map, a name given twice is an error: the second would silently win.
struct RawHeader {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let (mut tensors, mut metadata) = (BTreeMap::new(), None);
                while let Some(name) = map.next_key::<String>()? {
                    let twice = if name == "__metadata__" {
                        metadata.replace(map.next_value()?).is_some()
                    } else {
                        tensors.insert(name.clone(), map.next_value()?).is_some()
                    };
                    if twice {
                        return Err(A::Error::custom(format!("the name {} is given twice", quoted(&name))));
                    }
                }
                Ok(RawHeader { tensors, metadata: metadata.flatten().unwrap_or_default() })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
