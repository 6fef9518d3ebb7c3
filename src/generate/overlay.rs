//! Painting into a part of a picture: what is cut out around a mask to be worked on at full size, and how the result
//! is laid over the original. The numbers are those of diffusers' `VaeImageProcessor` (`get_crop_region`, `blur`,
//! `apply_overlay`), which has them from AUTOMATIC1111's web UI.

use image::GrayImage;

use crate::error::Result;
use crate::image_io::{Picture, Range, resize_lanczos};
use crate::tensor::HostTensor;

/// A part of a picture, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Region {
    /// All of a picture.
    pub fn whole(picture: &Picture) -> Self {
        Self { x: 0, y: 0, width: picture.width, height: picture.height }
    }

    /// The least that holds all that `mask` paints over, with `padding` pixels around it, and grown to the shape of a
    /// picture of `width` x `height` as far as `mask` reaches. All of it where nothing is painted over.
    pub fn around(mask: &Picture, padding: usize, width: usize, height: usize) -> Self {
        let painted = |x: usize, y: usize| mask.data[y * mask.width + x] > 0;
        let columns = (0..mask.width).filter(|x| (0..mask.height).any(|y| painted(*x, y)));
        let rows = (0..mask.height).filter(|y| (0..mask.width).any(|x| painted(x, *y)));
        let (Some(x), Some(y)) = (span(columns, padding, mask.width), span(rows, padding, mask.height)) else {
            return Self::whole(mask);
        };
        let ([wide, high], shape) = ([x[1] - x[0], y[1] - y[0]].map(|side| side as f64), width as f64 / height as f64);
        let (x, y) = if wide / high > shape {
            (x, grown(y, (wide / shape - high) as usize, mask.height))
        } else {
            (grown(x, (high * shape - wide) as usize, mask.width), y)
        };
        Self { x: x[0], y: y[0], width: x[1] - x[0], height: y[1] - y[0] }
    }

    /// This part of a picture.
    pub fn of(&self, picture: &Picture) -> Picture {
        let channels = picture.channels;
        let row = |y: usize| &picture.data[(y * picture.width + self.x) * channels..][..self.width * channels];
        let data = (self.y..self.y + self.height).flat_map(row).copied().collect();
        Picture { width: self.width, height: self.height, channels, data }
    }
}

/// From `padding` before the first of `used` to `padding` behind the last one, within `length`.
fn span(used: impl Iterator<Item = usize>, padding: usize, length: usize) -> Option<[usize; 2]> {
    let (first, last) = used.fold(None, |found: Option<(usize, usize)>, at| Some((found.map_or(at, |f| f.0), at)))?;
    Some([first.saturating_sub(padding), (last + 1).saturating_add(padding).min(length)])
}

/// A span that is `more` longer, half of it at either end, moved and cut so that it lies within `length`.
fn grown([first, end]: [usize; 2], more: usize, length: usize) -> [usize; 2] {
    let long = end - first + more;
    let first = (first as isize - (more / 2) as isize).min(length as isize - long as isize).max(0) as usize;
    [first, (first + long).min(length)]
}

/// `mask` with its edge made soft: a Gaussian whose standard deviation is `radius` pixels.
pub(super) fn blurred(mask: &Picture, radius: f64) -> Picture {
    if radius == 0.0 {
        return mask.clone();
    }
    let (width, height) = (mask.width as u32, mask.height as u32);
    let grey = GrayImage::from_raw(width, height, mask.data.clone()).expect("one byte for each pixel");
    Picture { data: image::imageops::blur(&grey, radius as f32).into_raw(), ..mask.clone() }
}

/// What finished pictures are laid over.
#[derive(Clone, Debug)]
pub struct Overlay {
    pub(super) original: Picture,
    /// How much of the new picture shows, 0 to 255, of the original's size.
    pub(super) mask: Picture,
    pub(super) region: Region,
}

impl Overlay {
    /// Lays finished pictures `[N, C, H, W]` in [0, 1] over the original, each resized to the part that was cut out:
    /// `[N, C, h, w]` of the original's size, in steps of 1/255. Without an overlay they stay as they are.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if they are no pictures.
    pub fn apply(overlay: Option<&Self>, images: HostTensor) -> Result<HostTensor> {
        let Some(overlay) = overlay else { return Ok(images) };
        let pictures = Picture::from_tensor(&images)?;
        let laid: Vec<HostTensor> =
            pictures.iter().map(|picture| overlay.over(picture).to_tensor(Range::ZeroToOne)).collect();
        let Picture { width, height, channels, .. } = overlay.original;
        HostTensor::new([laid.len(), channels, height, width], laid.into_iter().flat_map(|one| one.data).collect())
    }

    fn over(&self, picture: &Picture) -> Picture {
        let Region { x, y, width, height } = self.region;
        let new = resize_lanczos(picture, width, height);
        let mut laid = self.original.clone();
        for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
            let at = (y + row) * laid.width + x + column;
            let shown = u32::from(self.mask.data[at]);
            let channels = laid.channels;
            for channel in 0..channels {
                let new = new.data[channels * (row * width + column) + channel];
                let old = laid.data[channels * at + channel];
                let mixed = u32::from(new) * shown + u32::from(old) * (255 - shown);
                laid.data[channels * at + channel] = ((mixed + 127) / 255) as u8;
            }
        }
        laid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mask of `width` x `height` that paints over a rectangle.
    fn mask(width: usize, height: usize, [x0, y0, x1, y1]: [usize; 4]) -> Picture {
        let inside = |i: usize| (x0..x1).contains(&(i % width)) && (y0..y1).contains(&(i / width));
        let data = (0..width * height).map(|i| if inside(i) { 255 } else { 0 }).collect();
        Picture { width, height, channels: 1, data }
    }

    #[test]
    fn regions_are_those_of_diffusers() {
        // diffusers 0.42.1, `VaeImageProcessor.get_crop_region(mask, width, height, pad)`: x1, y1, x2, y2.
        for (size, painted, padding, shape, expected) in [
            ([100, 80], [20, 30, 50, 40], 0, [64, 64], [20, 20, 50, 50]),
            ([100, 80], [20, 30, 50, 40], 7, [64, 64], [13, 13, 57, 57]),
            ([100, 80], [0, 60, 90, 80], 4, [512, 512], [0, 0, 94, 80]),
            ([100, 80], [90, 2, 100, 78], 3, [96, 64], [0, 0, 100, 80]),
            ([97, 61], [3, 5, 4, 6], 0, [64, 48], [3, 5, 4, 6]),
            ([97, 61], [40, 20, 60, 23], 32, [48, 64], [8, 0, 92, 61]),
        ] {
            let region = Region::around(&mask(size[0], size[1], painted), padding, shape[0], shape[1]);
            let Region { x, y, width, height } = region;
            assert_eq!([x, y, x + width, y + height], expected, "{painted:?} in {size:?}, {padding}, {shape:?}");
        }
        let all = mask(97, 61, [40, 20, 60, 23]);
        assert_eq!(Region::around(&all, usize::MAX, 64, 64), Region::whole(&all), "clients may ask for anything");
        let nothing = mask(10, 6, [0; 4]);
        assert_eq!(Region::around(&nothing, 2, 64, 64), Region::whole(&nothing));
    }

    #[test]
    fn only_what_is_painted_over_changes() {
        let original = Picture { width: 6, height: 4, channels: 3, data: (0..72).collect() };
        let mask = mask(6, 4, [2, 1, 4, 3]);
        let region = Region { x: 1, y: 0, width: 4, height: 4 };
        let overlay = Overlay { original: original.clone(), mask: mask.clone(), region };
        let white = HostTensor::new([2, 3, 8, 8], vec![1.0; 2 * 3 * 64]).unwrap();
        let laid = Overlay::apply(Some(&overlay), white.clone()).unwrap();
        assert_eq!(laid.shape, [2, 3, 4, 6]);
        for picture in Picture::from_tensor(&laid).unwrap() {
            for (at, new) in picture.data.iter().enumerate() {
                let expected = if mask.data[at / 3] > 0 { 255 } else { original.data[at] };
                assert_eq!(*new, expected, "{at}");
            }
        }
        // Half of either.
        let soft = Overlay { mask: Picture { data: vec![51; 24], ..mask }, ..overlay };
        let mixed = Picture::from_tensor(&Overlay::apply(Some(&soft), white).unwrap()).unwrap();
        assert_eq!(mixed[0].data[6], ((255 * 51 + 6 * 204 + 127) / 255) as u8, "inside the region");
        assert_eq!(mixed[0].data[0], 0, "outside");
    }

    #[test]
    fn a_blurred_edge_keeps_its_place() {
        let hard = mask(40, 9, [20, 0, 40, 9]);
        assert_eq!(blurred(&hard, 0.0), hard);
        let soft = blurred(&hard, 3.0);
        let row = &soft.data[4 * 40..5 * 40];
        assert!(row.windows(2).all(|pair| pair[0] <= pair[1]) && row[5] == 0 && row[35] == 255, "{row:?}");
        // A standard deviation from the edge (which lies between two pixels): 15.9 and 84.1 %.
        assert!((i32::from(row[17]) + i32::from(row[16]) - 2 * 41).abs() <= 6, "{row:?}");
        assert!((i32::from(row[22]) + i32::from(row[23]) - 2 * 214).abs() <= 6, "{row:?}");
    }
}
