//! The pictures of a folder, as a model was trained on them: of its size, by class or with captions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image_io::{Picture, read, resize_lanczos};
use crate::pipelines::Traits;

/// Ends of the names of pictures.
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// What is asked of the pictures.
pub struct Options {
    /// The flag that names the folder, for messages.
    pub flag: &'static str,
    /// 1 or 3.
    pub channels: usize,
    /// Rows and columns; `None`: those of the first picture.
    pub size: Option<(usize, usize)>,
    /// Whether pictures of other sizes are scaled so that they cover it.
    pub resize: bool,
    /// Whether what is left over is cropped away, in the middle.
    pub crop: bool,
    /// The caption of pictures that have none; `None`: they are refused where the model needs one.
    pub caption: Option<String>,
    /// What to do about pictures of other sizes.
    pub advice: &'static str,
}

/// A picture of the folder.
pub struct Found {
    pub path: PathBuf,
    /// Its class, for models by class; `None` is "no class".
    pub class: Option<usize>,
    /// What it shows, for models by text.
    pub caption: Option<String>,
    pub picture: Picture,
}

/// Reads all pictures of `folder` and of its subfolders, sorted by path, so that a bad one is known before anything is
/// measured.
///
/// # Errors
/// [`Error::Usage`] naming the file or folder; as [`read`].
pub fn pictures(folder: &Path, traits: &Traits, options: &Options) -> Result<Vec<Found>> {
    let flag = options.flag;
    let (files, subfolders) = entries(folder)?;
    let mut paths: Vec<(PathBuf, Option<usize>)> = files.into_iter().map(|path| (path, None)).collect();
    let classes = match traits.classes {
        Some(classes) => numbered(flag, folder, &subfolders, classes)?.into_iter().map(Some).collect(),
        None => vec![None; subfolders.len()],
    };
    for (subfolder, class) in subfolders.iter().zip(classes) {
        let (files, deeper) = entries(subfolder)?;
        if let Some(deeper) = deeper.first() {
            return Err(Error::Usage(format!(
                "{flag} {}: {} is a folder within a subfolder; expected pictures there",
                folder.display(),
                deeper.display()
            )));
        }
        paths.extend(files.into_iter().map(|path| (path, class)));
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Error::Usage(format!(
            "{flag} {}: there is no picture in it; expected files that end in .{}",
            folder.display(),
            EXTENSIONS.join(", .")
        )));
    }
    let mut size = options.size;
    let listed = listed_captions(folder)?;
    let found = paths.into_iter().map(|(path, class)| {
        let picture = of_size(&path, read(&path, options.channels)?, &mut size, options)?;
        let caption =
            traits.kind.has_text().then(|| caption(&path, &listed, options.caption.as_deref())).transpose()?;
        Ok(Found { path, class, caption, picture })
    });
    found.collect()
}

/// One picture, as those of a folder.
///
/// # Errors
/// As [`pictures`].
pub fn picture(path: &Path, options: &Options) -> Result<Picture> {
    of_size(path, read(path, options.channels)?, &mut options.size.clone(), options)
}

/// The pictures and the folders in a folder, sorted; hidden ones and other files are left out.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            folders.push(path);
        } else if path.extension().is_some_and(|end| EXTENSIONS.iter().any(|e| end.eq_ignore_ascii_case(e))) {
            files.push(path);
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

/// The class of each subfolder: its name where all names are numbers, else its place among them.
fn numbered(flag: &str, folder: &Path, subfolders: &[PathBuf], classes: usize) -> Result<Vec<usize>> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<String> = subfolders.iter().map(name).collect();
    let numbers: Vec<Option<usize>> = names.iter().map(|name| name.parse().ok()).collect();
    let wrong = |why: String| Error::Usage(format!("{flag} {}: {why}", folder.display()));
    if let Some(numbers) = numbers.iter().copied().collect::<Option<Vec<_>>>() {
        if let Some((name, _)) = names.iter().zip(&numbers).find(|(_, number)| **number >= classes) {
            return Err(wrong(format!(
                "the subfolder {name} is no class; this model has classes 0 to {}",
                classes - 1
            )));
        }
        if numbers.iter().collect::<BTreeSet<_>>().len() < numbers.len() {
            return Err(wrong(format!("two of the subfolders {} are one class", names.join(", "))));
        }
        return Ok(numbers);
    }
    // The last class may be "no class".
    if names.len() != classes && names.len() + 1 != classes {
        return Err(wrong(format!(
            "{} subfolders ({}) for {} or {classes} classes; with fewer, expected the number of its class as the name \
             of each",
            names.len(),
            shortened(&names),
            classes - 1,
        )));
    }
    Ok((0..names.len()).collect())
}

/// The first names of a list.
fn shortened(names: &[String]) -> String {
    match names {
        [first, second, third, _, ..] => format!("{first}, {second}, {third}, …"),
        all => all.join(", "),
    }
}

/// The picture, if it is of `size` (that of the first one where the model has none), or made so.
fn of_size(path: &Path, picture: Picture, size: &mut Option<(usize, usize)>, options: &Options) -> Result<Picture> {
    let found = (picture.height, picture.width);
    let expected = *size.get_or_insert(found);
    if found == expected {
        return Ok(picture);
    }
    if options.resize {
        let scaled = cover(&picture, expected);
        return Ok(if options.crop { crop(&scaled, expected, [0.5; 2]) } else { scaled });
    }
    Err(Error::Usage(format!(
        "{}: {} x {} pixels, expected {} x {}, as the model's own size or the first picture's; {} such \
         pictures",
        path.display(),
        found.1,
        found.0,
        expected.1,
        expected.0,
        options.advice
    )))
}

/// A picture scaled so that it just covers `height` × `width`.
fn cover(picture: &Picture, (height, width): (usize, usize)) -> Picture {
    let scale = (height as f64 / picture.height as f64).max(width as f64 / picture.width as f64);
    let side = |from: usize, least: usize| ((from as f64 * scale).round() as usize).max(least);
    resize_lanczos(picture, side(picture.width, width), side(picture.height, height))
}

/// `height` × `width` of a picture that is no smaller; `place` says where in what is left over, from 0 to 1.
pub fn crop(picture: &Picture, (height, width): (usize, usize), place: [f64; 2]) -> Picture {
    let offset = |larger: usize, smaller: usize, place: f64| {
        (((larger - smaller) as f64 * place).floor() as usize).min(larger - smaller)
    };
    let (top, left) = (offset(picture.height, height, place[0]), offset(picture.width, width, place[1]));
    let rows = picture.data.chunks_exact(picture.width * picture.channels).skip(top).take(height);
    let columns = left * picture.channels..(left + width) * picture.channels;
    let data = rows.flat_map(|row| &row[columns.clone()]).copied().collect();
    Picture { width, height, channels: picture.channels, data }
}

/// The captions that `metadata.jsonl` gives the files of a folder (`file_name` and `text`), as Hugging Face's data sets
/// have them.
fn listed_captions(folder: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let path = folder.join("metadata.jsonl");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let mut captions = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: &str| Error::Usage(format!("{}, line {}: {why}", path.display(), number + 1));
        let value: serde_json::Value = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let field = |names: &[&str]| names.iter().find_map(|name| value[*name].as_str());
        let file = field(&["file_name"]).ok_or_else(|| wrong("expected the field file_name"))?;
        if let Some(caption) = field(&["text", "caption", "prompt"]) {
            captions.insert(folder.join(file), caption.trim().to_owned());
        }
    }
    Ok(captions)
}

/// The text beside a picture, without what stands around it.
fn caption(path: &Path, listed: &BTreeMap<PathBuf, String>, otherwise: Option<&str>) -> Result<String> {
    if let Some(caption) = listed.get(path) {
        return Ok(caption.clone());
    }
    let beside = path.with_extension("txt");
    match std::fs::read_to_string(&beside) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && otherwise.is_some() => {
            Ok(otherwise.unwrap_or_default().to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Usage(format!(
            "{}: this model takes a text, expected what the picture shows in {}",
            path.display(),
            beside.display()
        ))),
        Err(error) => Err(Error::io(&beside)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_scaled_to_cover_and_cropped_in_the_middle() {
        // Columns 0, 1, 2, … of a picture twice as wide as high.
        let wide = Picture { width: 8, height: 4, channels: 1, data: (0..32).map(|i| i % 8).collect() };
        let covered = |picture: &Picture, size| crop(&cover(picture, size), size, [0.5; 2]);
        let middle = covered(&wide, (4, 4));
        assert_eq!((middle.width, middle.height), (4, 4));
        assert_eq!(middle.data[..4], [2, 3, 4, 5]);
        let colours = Picture { width: 1, height: 3, channels: 3, data: vec![9, 8, 7, 1, 2, 3, 0, 0, 0] };
        assert_eq!(covered(&colours, (1, 1)).data, [1, 2, 3]);
        let small = covered(&wide, (9, 5));
        assert_eq!((small.width, small.height, small.data.len()), (5, 9, 45));
    }

    #[test]
    fn classes_are_numbers_or_places() {
        let of = |names: &[&str], classes| {
            numbered("--images", Path::new("p"), &names.iter().map(PathBuf::from).collect::<Vec<_>>(), classes)
        };
        assert_eq!(of(&["0", "7", "10"], 11).unwrap(), [0, 7, 10]);
        assert_eq!(of(&["cat", "dog"], 2).unwrap(), [0, 1]);
        assert_eq!(of(&["cat", "dog"], 3).unwrap(), [0, 1]);
        assert_eq!(of(&[], 3).unwrap(), [0; 0]);
        for (names, classes, part) in [
            (&["0", "11"][..], 11, "the subfolder 11 is no class"),
            (&["cat", "dog"], 4, "2 subfolders (cat, dog) for 3 or 4 classes"),
            (&["a", "b", "c", "d", "e"], 4, "(a, b, c, …)"),
            (&["1", "01"], 4, "one class"),
        ] {
            let message = of(names, classes).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
