//! The files that a request names, as the tensors that a pipeline takes.

use std::path::Path;

use crate::checkpoint::Tensors;
use crate::error::{Error, Result};
use crate::image_io::{Picture, Range, read, resize_lanczos};
use crate::pipelines::SampleOptions;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::tensor::HostTensor;

/// Reads picture, mask and latents into `options`: `[1, 3, H, W]` in [−1, 1] and `[1, 1, H, W]` in [0, 1], both resized
/// to the requested width and height, and `[N, C, h, w]`.
///
/// # Errors
/// As the readers; a refusal of a mask that is not of the picture's size, and of a size that no picture has.
pub fn read_into(options: &mut SampleOptions, request: &Request) -> Result<()> {
    let image = request.image.as_deref().map(|path| read(path, 3)).transpose()?;
    let mask = request.mask.as_deref().map(|path| read(path, 1)).transpose()?;
    if let (Some(image), Some(mask)) = (&image, &mask)
        && (image.width, image.height) != (mask.width, mask.height)
    {
        let why = format!(
            "it is {} x {} pixels, the picture {} x {}; they must be of one size",
            mask.width, mask.height, image.width, image.height
        );
        return Err(Refusal::of("mask", why).into());
    }
    let tensor = |picture: Option<Picture>, range| -> Result<Option<HostTensor>> {
        Ok(picture.map(|picture| resized(picture, request)).transpose()?.map(|picture| picture.to_tensor(range)))
    };
    options.image = tensor(image, Range::MinusOneToOne)?;
    options.mask = tensor(mask, Range::ZeroToOne)?;
    options.latents = request.latents.as_deref().map(read_latents).transpose()?;
    Ok(())
}

fn resized(picture: Picture, request: &Request) -> Result<Picture> {
    let (width, height) = (request.width.unwrap_or(picture.width), request.height.unwrap_or(picture.height));
    for (field, pixels) in [("width", width), ("height", height)] {
        if pixels == 0 || pixels > 1 << 14 {
            return Err(Refusal::of_value(field, pixels, format!("expected 1 to {}", 1 << 14)).into());
        }
    }
    let same = (width, height) == (picture.width, picture.height);
    Ok(if same { picture } else { resize_lanczos(&picture, width, height) })
}

/// The tensor `latents` of a file.
fn read_latents(path: &Path) -> Result<HostTensor> {
    let file = Tensors::open(path)?;
    if file.info("latents").is_none() {
        let names: Vec<_> = file.names().take(5).collect();
        return Err(Error::Usage(format!(
            "--latents {}: expected a tensor `latents`, as --save-latents writes it; found {}",
            path.display(),
            names.join(", ")
        )));
    }
    file.read_f32("latents")
}
