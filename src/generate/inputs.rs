//! The pictures and latents that a request names, as the tensors that a pipeline takes.

use std::path::Path;

use super::overlay::{Overlay, Region, blurred};
use super::{Notes, mask};
use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::files::{Bytes, Files, Kind};
use crate::image_io::{Picture, Range, decode, resize_lanczos};
use crate::pipelines::SampleOptions;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::tensor::HostTensor;

/// Reads picture, mask and latents into `options`: `[1, C, H, W]` in [−1, 1], C being the model's `channels`, 3 or 1,
/// and `[1, 1, H, W]` in [0, 1], both resized to the requested width and height, and `[N, C, h, w]`. They are read from
/// `files`: the disk, or what a client sent. Notes how a mask is read where that is not plain. Returns what finished
/// pictures must be laid over, if the request asks for it.
///
/// # Errors
/// As the readers; a refusal of a mask that is not of the picture's size, and of a size that no picture has.
pub fn read_into(
    options: &mut SampleOptions,
    request: &Request,
    channels: usize,
    files: &dyn Files,
    notes: &mut Notes,
) -> Result<Option<Overlay>> {
    let image = request.image.as_deref().map(|path| decode(path, &picture(files, path)?, channels)).transpose()?;
    let reading = request.mask_reading.unwrap_or_default();
    let mask = request.mask.as_deref();
    let mask = mask.map(|path| mask::read(path, &picture(files, path)?, reading, notes)).transpose()?;
    if let (Some(image), Some(mask)) = (&image, &mask)
        && (image.width, image.height) != (mask.width, mask.height)
    {
        let why = format!(
            "it is {} x {} pixels, the picture {} x {}; they must be of one size",
            mask.width, mask.height, image.width, image.height
        );
        return Err(Refusal::of("mask", why).into());
    }
    options.latents = request.latents.as_deref().map(|path| read_latents(files, path)).transpose()?;
    let Some(image) = image else { return Ok(None) };
    let (width, height) = size(&image, request)?;
    let picture = |part: &Picture| Some(resize_lanczos(part, width, height).to_tensor(Range::MinusOneToOne));
    let Some(mask) = mask else {
        options.image = picture(&image);
        return Ok(None);
    };
    let mask = blurred(&mask, blur(request)?);
    let region = match request.padding_mask_crop {
        Some(padding) => Region::around(&mask, padding, width, height),
        None => Region::whole(&image),
    };
    options.image = picture(&region.of(&image));
    options.mask = Some(mask::resize(&region.of(&mask), width, height, reading).to_tensor(Range::ZeroToOne));
    Ok(if request.padding_mask_crop.is_some() {
        Some(Overlay { original: image, mask, region })
    } else if request.mask_blur.is_some() {
        let [original, mask] = [&image, &mask].map(|whole| resize_lanczos(whole, width, height));
        Some(Overlay { region: Region::whole(&original), original, mask })
    } else {
        None
    })
}

/// The radius of the mask's edge.
fn blur(request: &Request) -> Result<f64> {
    match request.mask_blur.unwrap_or(0.0) {
        radius @ 0.0..=64.0 => Ok(radius),
        other => Err(Refusal::of_value("mask_blur", other, "expected 0 to 64 pixels").into()),
    }
}

/// The bytes of a picture.
fn picture(files: &dyn Files, path: &Path) -> Result<Bytes> {
    match files.kind(path).map_err(Error::io(path))? {
        Kind::File(_) => files.open(path).map_err(Error::io(path)),
        other => Err(Error::Usage(format!("{}: expected a picture, found {other}", path.display()))),
    }
}

/// The requested width and height, or the picture's own.
fn size(picture: &Picture, request: &Request) -> Result<(usize, usize)> {
    let (width, height) = (request.width.unwrap_or(picture.width), request.height.unwrap_or(picture.height));
    for (field, pixels) in [("width", width), ("height", height)] {
        if pixels == 0 || pixels > 1 << 14 {
            return Err(Refusal::of_value(field, pixels, format!("expected 1 to {}", 1 << 14)).into());
        }
    }
    Ok((width, height))
}

/// The tensor `latents` of a file.
fn read_latents(files: &dyn Files, path: &Path) -> Result<HostTensor> {
    let file = Tensors::open_in(files, path)?;
    if file.info("latents").is_none() {
        let names: Vec<_> = file.names().take(5).collect();
        let why = format!("expected a tensor of the name latents, as a run saves it; found {}", names.join(", "));
        return Err(Refusal::of_value("latents", path.display(), why).into());
    }
    file.read_f32("latents")
}
