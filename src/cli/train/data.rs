//! The pictures that a run is trained on: a folder, or the arrays of a data set.

use std::io::Read;
use std::path::Path;

use super::settings::Crop;
use crate::cli::folder;
use crate::error::{Error, Result};
use crate::image_io::Picture;
use crate::pipelines::Traits;

/// A picture with what is said of it.
pub struct Item {
    /// What messages call it.
    pub name: String,
    /// Its pixels; of a folder's in their own size if they are cropped anywhere.
    pub picture: Picture,
    /// Its class, for models by class.
    pub class: Option<usize>,
    /// What it shows, for models by text.
    pub caption: Option<String>,
}

/// How pictures become the model's.
pub struct Shape {
    /// 1 or 3.
    pub channels: usize,
    /// Rows and columns; `None`: those of the first picture.
    pub size: Option<(usize, usize)>,
    /// How others are cropped; `None`: they are refused.
    pub crop: Option<Crop>,
    /// The caption of pictures that have none; `None`: they are refused where the model needs one.
    pub caption: Option<String>,
}

/// Reads all pictures at `path`.
///
/// # Errors
/// [`Error::Usage`] naming the file, for what is not there, is damaged, has another size, or no class or text where the
/// model needs one.
pub fn read(path: &Path, traits: &Traits, shape: &Shape) -> Result<Vec<Item>> {
    let wrong = |why: String| Error::Usage(format!("--train-data {}: {why}", path.display()));
    if path.is_dir() {
        let options = folder::Options {
            flag: "--train-data",
            channels: shape.channels,
            size: shape.size,
            resize: shape.crop.is_some(),
            // Cropped anywhere: scaled here, cropped when its turn comes.
            crop: shape.crop != Some(Crop::Random),
            caption: shape.caption.clone(),
            advice: "give --crop to scale and crop",
        };
        let found = folder::pictures(path, traits, &options)?;
        let item = |found: folder::Found| Item {
            name: found.path.display().to_string(),
            picture: found.picture,
            class: found.class,
            caption: found.caption,
        };
        return Ok(found.into_iter().map(item).collect());
    }
    if !path.is_file() {
        return Err(wrong("there is no such folder or file".into()));
    }
    if traits.kind.has_text() {
        return Err(wrong("this model takes a text; expected a folder of pictures with captions".into()));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (pictures, labels) = if name.ends_with(".npz") { npz(path)? } else { idx_pair(path)? };
    if pictures.is_empty() {
        return Err(wrong("there is no picture in it".into()));
    }
    let classes = traits.classes;
    if classes.is_some() && labels.is_none() {
        return Err(wrong("this model is by class, and no labels are there".into()));
    }
    if let (Some(labels), Some(classes)) = (&labels, classes) {
        if labels.len() != pictures.len() {
            return Err(wrong(format!("{} labels for {} pictures", labels.len(), pictures.len())));
        }
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            return Err(wrong(format!("label {label}; this model has classes 0 to {}", classes - 1)));
        }
    }
    let item = |(i, picture): (usize, Picture)| {
        Ok(Item {
            name: format!("{name}, picture {i}"),
            picture: fitted(picture, shape).map_err(wrong)?,
            class: classes.and(labels.as_ref().map(|labels| labels[i])),
            caption: None,
        })
    };
    pictures.into_iter().enumerate().map(item).collect()
}

/// A picture of a data set in the model's size: a smaller one in the middle of black, as the 28 × 28 of MNIST in 32 ×
/// 32; grey ones in three channels where the model has them.
fn fitted(picture: Picture, shape: &Shape) -> std::result::Result<Picture, String> {
    let picture = match (picture.channels, shape.channels) {
        (from, to) if from == to => picture,
        (1, 3) => Picture { channels: 3, data: picture.data.iter().flat_map(|v| [*v; 3]).collect(), ..picture },
        (from, to) => return Err(format!("its pictures have {from} channels, the model {to}")),
    };
    let Some((height, width)) = shape.size else { return Ok(picture) };
    if picture.height > height || picture.width > width {
        return Err(format!(
            "its pictures are {} x {}, more than the {width} x {height} of the model",
            picture.width, picture.height
        ));
    }
    let (top, left) = ((height - picture.height) / 2, (width - picture.width) / 2);
    let channels = picture.channels;
    let mut data = vec![0; height * width * channels];
    for (row, values) in picture.data.chunks_exact(picture.width * channels).enumerate() {
        data[((top + row) * width + left) * channels..][..values.len()].copy_from_slice(values);
    }
    Ok(Picture { width, height, channels, data })
}

/// Pictures and their labels.
type Arrays = (Vec<Picture>, Option<Vec<usize>>);
/// Shape, numpy's name of the type, and bytes of an array.
type Array = (Vec<usize>, String, Vec<u8>);

/// The pictures of an IDX file (LeCun's of MNIST) and the labels of the one beside it.
fn idx_pair(path: &Path) -> Result<Arrays> {
    let (dims, data) = idx(path)?;
    let &[count, height, width] = dims.as_slice() else {
        return Err(damaged(path, &format!("expected pictures [N, rows, columns], found {dims:?}")));
    };
    let pictures = (0..count).map(|i| Picture {
        width,
        height,
        channels: 1,
        data: data[i * height * width..(i + 1) * height * width].to_vec(),
    });
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(name.replace("images", "labels").replace("idx3", "idx1"));
    let labels = if beside.is_file() && beside != path {
        let (dims, labels) = idx(&beside)?;
        if dims != [count] {
            return Err(damaged(&beside, &format!("expected {count} labels, found {dims:?}")));
        }
        Some(labels.into_iter().map(usize::from).collect())
    } else {
        None
    };
    Ok((pictures.collect(), labels))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Usage(format!("--train-data: {}: {why}", path.display()))
}

/// Dimensions and bytes of an IDX file.
fn idx(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let bytes = plain(path)?;
    let not = || damaged(path, "is no IDX file of bytes (a folder, .npz, or ..-images-idx3-ubyte is expected)");
    let [0, 0, 8, rank, rest @ ..] = bytes.as_slice() else { return Err(not()) };
    let rank = usize::from(*rank);
    let (sizes, data) = rest.split_at_checked(4 * rank).ok_or_else(not)?;
    let size = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes")) as usize;
    let dims: Vec<usize> = sizes.chunks_exact(4).map(size).collect();
    let expected = dims.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    if expected != Some(data.len()) {
        return Err(damaged(path, &format!("is cut off: {} bytes for {dims:?}", data.len())));
    }
    Ok((dims, data.to_vec()))
}

/// A file's bytes, unpacked if it is gzip's.
fn plain(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    let read = flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked);
    read.map_err(|error| damaged(path, &format!("cannot be unpacked: {error}")))?;
    Ok(unpacked)
}

/// The arrays of a .npz file: `images`, `x_train` or `arr_0` of bytes `[N, H, W]` or `[N, H, W, C]`, and `labels`,
/// `y_train` or `arr_1`.
fn npz(path: &Path) -> Result<Arrays> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut archive =
        zip::ZipArchive::new(file).map_err(|error| damaged(path, &format!("is no .npz file: {error}")))?;
    let mut array = |names: &[&str]| -> Result<Option<Array>> {
        let Some(name) = names.iter().map(|n| format!("{n}.npy")).find(|n| archive.index_for_name(n).is_some()) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = archive.by_name(&name).map_err(std::io::Error::other).and_then(|mut f| f.read_to_end(&mut bytes));
        read.map_err(|error| damaged(path, &format!("{name}: {error}")))?;
        npy(&bytes).map(Some).map_err(|why| damaged(path, &format!("{name}: {why}")))
    };
    let names = ["images", "x_train", "train_images", "arr_0"];
    let Some((shape, dtype, data)) = array(&names)? else {
        return Err(damaged(path, &format!("has no array of pictures; expected one of {}", names.join(", "))));
    };
    let (count, height, width, channels) = match (dtype.as_str(), shape.as_slice()) {
        ("|u1", &[n, h, w]) => (n, h, w, 1),
        ("|u1", &[n, h, w, c @ (1 | 3)]) => (n, h, w, c),
        _ => {
            let why = format!("its pictures are {dtype} {shape:?}; expected bytes [N, H, W] or [N, H, W, 1 or 3]");
            return Err(damaged(path, &why));
        }
    };
    let size = height * width * channels;
    let picture = |i: usize| Picture { width, height, channels, data: data[i * size..(i + 1) * size].to_vec() };
    let labels = array(&["labels", "y_train", "train_labels", "arr_1"])?;
    let labels = labels.map(|(shape, dtype, data)| {
        let width = dtype[2..].parse::<usize>().unwrap_or(0);
        if !(dtype.starts_with("|u1") || dtype.starts_with("<i") || dtype.starts_with("<u")) || width > 8 {
            return Err(damaged(path, &format!("its labels are {dtype}; expected whole numbers")));
        }
        if shape.iter().product::<usize>() * width != data.len() {
            return Err(damaged(path, &format!("its labels are cut off: {} bytes for {shape:?}", data.len())));
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)) as usize;
        Ok(data.chunks_exact(width).map(number).collect())
    });
    Ok(((0..count).map(picture).collect(), labels.transpose()?))
}

/// Shape, type and bytes of one array (numpy's format 1 to 3).
fn npy(bytes: &[u8]) -> std::result::Result<Array, String> {
    let not = || "is no array of numpy".to_owned();
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(not)?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err(not()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(not)?;
    let header = String::from_utf8_lossy(header).replace(' ', "");
    let value = |key: &str| header.split(&format!("'{key}':")).nth(1).ok_or_else(not);
    let dtype = value("descr")?.split('\'').nth(1).ok_or_else(not)?.to_owned();
    if value("fortran_order")?.starts_with("True") {
        return Err("is stored column by column, expected rows (numpy.ascontiguousarray)".into());
    }
    let shape = value("shape")?.trim_start_matches('(').split(')').next().ok_or_else(not)?;
    let numbers = shape.split(',').filter(|n| !n.is_empty()).map(|n| n.parse::<usize>().map_err(|_| not()));
    let shape = numbers.collect::<std::result::Result<Vec<_>, _>>()?;
    let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size)).ok_or_else(not)?;
    if dtype == "|u1" && elements != data.len() {
        return Err(format!("is cut off: {} bytes for {shape:?}", data.len()));
    }
    Ok((shape, dtype, data.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_numpy_are_read() {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 3), }\n";
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([1, 2, 3, 4, 5, 6]);
        assert_eq!(npy(&bytes).unwrap(), (vec![2, 1, 3], "|u1".into(), vec![1, 2, 3, 4, 5, 6]));
        bytes.pop();
        assert!(npy(&bytes).unwrap_err().contains("cut off"));
        assert!(npy(b"nothing").is_err());
    }

    #[test]
    fn small_pictures_stand_in_the_middle() {
        let picture = Picture { width: 2, height: 1, channels: 1, data: vec![7, 9] };
        let shape = Shape { channels: 1, size: Some((3, 4)), crop: None, caption: None };
        let fitted = fitted(picture, &shape).unwrap();
        assert_eq!(fitted.data, [0, 0, 0, 0, 0, 7, 9, 0, 0, 0, 0, 0]);
    }
}
