//! Files of tensors, memory-mapped or in memory: `.safetensors`, which are written, too, and GGUF.
//!
//! [`Tensors::open`] takes one file or the `*.index.json` of a sharded set; which format a file has, its first bytes
//! say. Everything that can be wrong with names,
//! shapes and offsets is found when the file is opened; nothing is copied until a tensor is read.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use safetensors::tensor::Dtype;
use serde::ser::{SerializeMap, Serializer};

use super::element::ElementType;
use super::header::{self, Stored};
use super::{Json, TensorSource, convert, quoted};
use crate::content::ContentId;
use crate::error::{Error, Result};
use crate::files::{Bytes, Disk, Files, Kind, Parts};
use crate::graph::{self, StoredType};
use crate::tensor::HostTensor;

/// Type and shape of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorInfo<'a> {
    /// Element type in the file.
    pub dtype: ElementType,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
}

/// Named tensors of one `.safetensors` or GGUF file or of a sharded set; from disk, memory-mapped.
pub struct Tensors {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, (usize, Stored)>,
    metadata: BTreeMap<String, String>,
}

struct Shard {
    path: PathBuf,
    is_gguf: bool,
    bytes: Parts,
}

/// What stands in place of `.weight` in the name of a weight's scale.
const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];

impl Tensors {
    /// Opens a `.safetensors` or GGUF file, or all shards that a `*.index.json` names.
    ///
    /// The files must not be changed by another program while the tensors are in use: they are memory-mapped.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Checkpoint`] if it is not a sound `.safetensors` or GGUF file
    /// (truncated, overlapping or out-of-range tensors, elements of a type that is not read, a Git LFS pointer, a
    /// pickle …) or the index and its shards disagree.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(&Disk, path)
    }

    /// As [`Tensors::open`], of a file among `files`.
    ///
    /// # Errors
    /// As [`Tensors::open`].
    pub fn open_in(files: &dyn Files, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.extension().is_some_and(|e| e == "json") {
            return Self::open_sharded(files, path);
        }
        Self::from_parts(path, parts_of(files, path)?)
    }

    /// Tensors of a `.safetensors` or GGUF file that is already in memory; `path` only names it in messages.
    ///
    /// # Errors
    /// As [`Tensors::open`].
    pub fn from_bytes(path: impl AsRef<Path>, bytes: impl Into<Bytes>) -> Result<Self> {
        Self::from_parts(path.as_ref(), Parts::from(bytes.into()))
    }

    fn from_parts(path: &Path, bytes: Parts) -> Result<Self> {
        let header = header::read(&bytes, path)?;
        Ok(Self {
            path: path.to_owned(),
            shards: vec![Shard { path: path.to_owned(), is_gguf: header.is_gguf, bytes }],
            tensors: header.tensors.into_iter().map(|(name, stored)| (name, (0, stored))).collect(),
            metadata: header.metadata,
        })
    }

    fn open_sharded(files: &dyn Files, path: &Path) -> Result<Self> {
        let shards = parse_index(&Json::read_in(files, path)?)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut all =
            Self { path: path.to_owned(), shards: vec![], tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        for (file, names) in shards {
            let shard_path = folder.join(&file);
            let bytes = parts_of(files, &shard_path)?;
            let header = header::read(&bytes, &shard_path)?;
            let bad = |message| Error::Checkpoint(format!("{}: {message}", path.display()));
            if let Some(name) = names.iter().find(|&name| !header.tensors.contains_key(name)) {
                return Err(bad(format!(
                    "tensor {} should be in {file}, which does not hold it; fetch both files again",
                    quoted(name)
                )));
            }
            for (name, stored) in header.tensors {
                if names.binary_search(&name).is_err() {
                    return Err(bad(format!(
                        "{file} holds tensor {}, which the index does not place there; fetch both files again",
                        quoted(&name)
                    )));
                }
                all.tensors.insert(name, (all.shards.len(), stored));
            }
            all.shards.push(Shard { path: shard_path, is_gguf: header.is_gguf, bytes });
            all.metadata.extend(header.metadata);
        }
        Ok(all)
    }

    /// The file, or the index of the sharded set.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors: one, or all shards; and the index that names the shards.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let index = Some(self.path()).filter(|path| self.shards.iter().all(|shard| shard.path != *path));
        index.into_iter().chain(self.shards.iter().map(|shard| shard.path.as_path()))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type and shape of a tensor; `None` if there is none of that name.
    pub fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.tensors.get(name).map(|(_, stored)| TensorInfo { dtype: stored.dtype, shape: &stored.shape })
    }

    /// Free-form text stored beside the tensors (`__metadata__`; of a GGUF file the single values of its metadata).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn no_tensor(&self, name: &str) -> Error {
        Error::Checkpoint(format!("{}: there is no tensor {}", self.path.display(), quoted(name)))
    }

    /// Reads a tensor as f32. Weights that were stored as 8-bit floats are multiplied by the scale that their writer
    /// put beside them, for all elements or for each row: `X.scale_weight` (ComfyUI), `X.weight_scale`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such tensor, an integer is too large for f32, or a scale does not fit;
    /// [`Error::Unsupported`] for an element type that is not read.
    pub fn read_f32(&self, name: &str) -> Result<HostTensor> {
        let mut tensor = self.read_unscaled(name)?;
        let Some(scale) = self.scale_of(name) else { return Ok(tensor) };
        if let ElementType::Number(Dtype::I8 | Dtype::U8) = self.tensors[name].1.dtype {
            return Err(Error::Unsupported(format!(
                "{}: tensor {} holds 8-bit integers with a scale, which are not read; use a version in F16 or F8",
                self.path.display(),
                quoted(name)
            )));
        }
        let scales = self.read_unscaled(&scale)?;
        let rows = tensor.shape.first().copied().unwrap_or(1);
        if scales.len() != 1 && scales.len() != rows {
            return Err(Error::Checkpoint(format!(
                "{}: {} has shape {:?}, expected one number or one for each of the {rows} rows of {}",
                self.path.display(),
                quoted(&scale),
                scales.shape,
                quoted(name)
            )));
        }
        let row = tensor.len() / rows.max(1);
        for (i, values) in tensor.data.chunks_mut(row.max(1)).enumerate() {
            let scale = scales.data[if scales.len() == 1 { 0 } else { i }];
            values.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(tensor)
    }

    /// The tensor that scales a weight. Where floats of 16 or 32 bits have one beside them, it has been multiplied in;
    /// but not in GGUF, which has no 8-bit floats: converters store those wider, as they are.
    fn scale_of(&self, name: &str) -> Option<String> {
        let module = name.strip_suffix(".weight")?;
        let scale = SCALES.iter().map(|end| format!("{module}{end}")).find(|scale| self.tensors.contains_key(scale))?;
        let (shard, stored) = self.tensors.get(name)?;
        let meant = match stored.dtype {
            ElementType::Number(Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::I8 | Dtype::U8) => true,
            _ => self.shards[*shard].is_gguf,
        };
        meant.then_some(scale)
    }

    /// The stored numbers, whatever scales them.
    fn read_unscaled(&self, name: &str) -> Result<HostTensor> {
        let Some((shard, stored)) = self.tensors.get(name) else {
            return Err(self.no_tensor(name));
        };
        let Shard { path, bytes, .. } = &self.shards[*shard];
        let bytes = bytes.read(stored.bytes.clone()).map_err(Error::io(path))?;
        let data = convert::to_f32(&bytes, stored.dtype, &|| format!("{}: tensor {}", path.display(), quoted(name)))?;
        HostTensor::new(stored.shape.clone(), data)
    }
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensors({}, {} tensors in {} files)", self.path.display(), self.tensors.len(), self.shards.len())
    }
}

impl TensorSource for Tensors {
    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.info(name).map(|info| info.shape.to_vec())
    }

    fn read_f32(&self, name: &str) -> Result<HostTensor> {
        Tensors::read_f32(self, name)
    }

    fn stored(&self, name: &str) -> Option<graph::Stored<'_>> {
        let dtype = TensorSource::stored_as(self, name)?;
        let (shard, stored) = &self.tensors[name];
        Some(graph::Stored { dtype, bytes: self.shards[*shard].bytes.whole()?.get(stored.bytes.clone())? })
    }

    fn stored_as(&self, name: &str) -> Option<StoredType> {
        let (_, stored) = self.tensors.get(name)?;
        if self.scale_of(name).is_some() {
            return None;
        }
        match stored.dtype {
            ElementType::Number(Dtype::F32) => Some(StoredType::F32),
            ElementType::Number(Dtype::F16) => Some(StoredType::F16),
            ElementType::Number(Dtype::BF16) => Some(StoredType::Bf16),
            _ => None,
        }
    }

    fn content(&self, name: &str) -> Result<ContentId> {
        let place = |name: &str| -> Result<ContentId> {
            let (shard, stored) = self.tensors.get(name).ok_or_else(|| self.no_tensor(name))?;
            let place = format!("{:?} {:?} {:?}", stored.dtype, stored.shape, stored.bytes);
            Ok(ContentId::of(&[b"tensor", self.shards[*shard].bytes.id().bytes(), place.as_bytes()]))
        };
        let weight = place(name)?;
        // The scale may lie in another shard.
        let Some(scale) = self.scale_of(name) else { return Ok(weight) };
        Ok(ContentId::of(&[b"scaled", weight.bytes(), place(&scale)?.bytes()]))
    }
}

/// One file. An empty one is refused by the check of its header.
fn parts_of(files: &dyn Files, path: &Path) -> Result<Parts> {
    match files.kind(path).map_err(Error::io(path))? {
        Kind::File(_) => files.parts(path).map_err(Error::io(path)),
        found => {
            Err(Error::Checkpoint(format!("{}: expected a .safetensors or .gguf file, found {found}", path.display())))
        }
    }
}

/// `{"weight_map": {tensor: file}}` → file → sorted tensor names. Only plain file names are accepted, so that an index
/// cannot point outside its folder.
fn parse_index(index: &Json) -> Result<BTreeMap<String, Vec<String>>> {
    let bad = |message: String| Error::Checkpoint(format!("{}: {message}", index.path.display()));
    let Some(map) = index.value.get("weight_map").and_then(|map| map.as_object()) else {
        return Err(bad(
            "expected an object `weight_map` from tensor names to files, found none; fetch the index again".into(),
        ));
    };
    let mut files = BTreeMap::<String, Vec<String>>::new();
    for (name, file) in map {
        let Some(file) = file.as_str() else {
            return Err(bad(format!("the file of tensor {} is not a string", quoted(name))));
        };
        if file.contains(['/', '\\', ':', '\0']) || !file.ends_with(".safetensors") {
            return Err(bad(format!(
                "tensor {}: expected the plain name of a .safetensors file in the same folder, found {}",
                quoted(name),
                quoted(file)
            )));
        }
        files.entry(file.to_owned()).or_default().push(name.clone());
    }
    files.values_mut().for_each(|names| names.sort());
    Ok(files)
}

/// A tensor that is to be written: its name, its type in the file, its shape.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What its elements are stored as.
    pub dtype: StoredType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Writes f32 tensors in the order given, with `metadata`, in the `.safetensors` layout. The same input gives the same
/// bytes.
///
/// # Errors
/// Whatever error `out` reports.
pub fn write(
    out: &mut dyn Write,
    tensors: &[(&str, &HostTensor)],
    metadata: &BTreeMap<String, String>,
) -> std::io::Result<()> {
    let entry = |(name, tensor): &(&str, &HostTensor)| Entry {
        name: (*name).to_owned(),
        dtype: StoredType::F32,
        shape: tensor.shape.clone(),
    };
    write_header(out, &tensors.iter().map(entry).collect::<Vec<_>>(), metadata)?;
    tensors.iter().try_for_each(|(_, tensor)| write_elements(out, &tensor.data, StoredType::F32))
}

/// As [`write()`], of tensors of any type of float, each asked for (by its place in `entries`) when its turn comes, so
/// that only one is in memory.
///
/// # Errors
/// As [`write()`]; what `read` reports, and [`Error::Checkpoint`] for a number that the type cannot hold, in an
/// [`std::io::Error`].
pub fn write_each(
    out: &mut dyn Write,
    entries: &[Entry],
    metadata: &BTreeMap<String, String>,
    read: &mut dyn FnMut(usize) -> Result<HostTensor>,
) -> std::io::Result<()> {
    write_header(out, entries, metadata)?;
    for (i, entry) in entries.iter().enumerate() {
        let tensor = read(i).map_err(std::io::Error::other)?;
        if entry.dtype == StoredType::F16
            && let Some(value) = tensor.data.iter().find(|v| v.abs() > half::f16::MAX.to_f32())
        {
            return Err(std::io::Error::other(Error::Checkpoint(format!(
                "tensor {} holds {value}, more than the 65504 that f16 can; write it as bf16 or f32",
                quoted(&entry.name)
            ))));
        }
        write_elements(out, &tensor.data, entry.dtype)?;
    }
    Ok(())
}

fn write_header(out: &mut dyn Write, entries: &[Entry], metadata: &BTreeMap<String, String>) -> std::io::Result<()> {
    let mut json = Vec::new();
    let mut header = serde_json::Serializer::new(&mut json);
    let mut map = header.serialize_map(None)?;
    if !metadata.is_empty() {
        map.serialize_entry("__metadata__", metadata)?;
    }
    let mut end = 0;
    for Entry { name, dtype, shape } in entries {
        let begin = end;
        end += dtype.size() * shape.iter().product::<usize>();
        let dtype = match dtype {
            StoredType::F32 => Dtype::F32,
            StoredType::F16 => Dtype::F16,
            StoredType::Bf16 => Dtype::BF16,
        };
        let info = safetensors::tensor::TensorInfo { dtype, shape: shape.clone(), data_offsets: (begin, end) };
        map.serialize_entry(name, &info)?;
    }
    map.end()?;
    json.resize(json.len().next_multiple_of(8), b' '); // so that the data is aligned
    out.write_all(&(json.len() as u64).to_le_bytes())?;
    out.write_all(&json)
}

fn write_elements(out: &mut dyn Write, data: &[f32], dtype: StoredType) -> std::io::Result<()> {
    for chunk in data.chunks(4096) {
        let bytes: Vec<u8> = match dtype {
            StoredType::F32 => chunk.iter().flat_map(|v| v.to_le_bytes()).collect(),
            StoredType::F16 => chunk.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            StoredType::Bf16 => chunk.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        out.write_all(&bytes)?;
    }
    Ok(())
}
