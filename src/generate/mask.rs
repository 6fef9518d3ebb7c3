//! What a mask's file says about where to paint.
//!
//! People draw masks in many ways: white on black, in any colour on black, on a transparent layer; and lines thinner
//! than the square of pixels that a latent stands for. diffusers looks at the grey of one pixel of each square, in
//! which blue paint and thin lines are lost without a word. Here nothing that is painted is lost, or it is said.

use std::path::Path;

use super::Notes;
use crate::error::Result;
use crate::image_io::{Picture, decode, decode_with_alpha, resize_lanczos};
use crate::refusal::{Refusal, Remedy};
use crate::request::MaskReading;

/// What is painted over, from here on. A line one pixel wide has a pixel in each row or column of which it covers at
/// least half, wherever it lies; and half of 255 is rounded to 127 by some programs, to 128 by others.
const HALF: u8 = 127;

/// Reads a mask from the bytes of the file at `path`: 255 where it is painted over, 0 elsewhere; as diffusers reads it,
/// levels of grey. Notes how it is read where that is not plain, and if it paints over nothing.
///
/// # Errors
/// As [`decode_with_alpha`]; a refusal of a mask that is not black and would paint over nothing.
pub fn read(path: &Path, bytes: &[u8], reading: MaskReading, notes: &mut Notes) -> Result<Picture> {
    if reading == MaskReading::Diffusers {
        let grey = decode(path, bytes, 1)?;
        return check(path, reading, notes, grey.data.iter().any(|v| *v > HALF), grey.data.iter().max()).map(|()| grey);
    }
    let (colour, alpha) = decode_with_alpha(path, bytes)?;
    let source = Source::of(&colour, alpha.as_ref(), reading)
        .ok_or_else(|| Refusal::of_value("mask", path.display(), "nothing in it is transparent").instead(auto()))?;
    let levels = source.levels();
    let data: Vec<u8> = levels.iter().map(|level| if *level >= HALF { 255 } else { 0 }).collect();
    let painted = data.iter().filter(|v| **v > 0).count();
    check(path, reading, notes, painted > 0, levels.iter().max())?;
    if let Some(how) = source.in_words() {
        let share = 100.0 * painted as f64 / data.len() as f64;
        notes.add(format!("note: `mask`: {how} is painted over, {share:.1} % of it; `mask_reading` has other ways"));
    }
    Ok(Picture { width: colour.width, height: colour.height, channels: 1, data })
}

fn auto() -> Remedy {
    Remedy::Set("mask_reading", "auto".into())
}

/// Refuses a mask that would paint over nothing although it is not black.
fn check(path: &Path, reading: MaskReading, notes: &mut Notes, paints: bool, most: Option<&u8>) -> Result<()> {
    match most {
        _ if paints => Ok(()),
        None | Some(0) => {
            notes.add(format!("note: `mask` {}: it paints over nothing", path.display()));
            Ok(())
        }
        Some(most) => {
            let why =
                format!("nothing would be painted over: it reaches {most} of 255, less than half; paint it white");
            let refusal = Refusal::of_value("mask", path.display(), why);
            Err(if reading == MaskReading::Auto { refusal } else { refusal.instead(auto()) }.into())
        }
    }
}

/// What of a file says where to paint.
enum Source<'a> {
    Opaque(&'a Picture),
    Transparent(&'a Picture),
    Bright(&'a Picture),
}

impl<'a> Source<'a> {
    /// `None` if there is no transparency where it shall count.
    fn of(colour: &'a Picture, alpha: Option<&'a Picture>, reading: MaskReading) -> Option<Self> {
        // Transparency that sets nothing apart says nothing.
        let apart = |alpha: &&Picture| alpha.data.iter().any(|v| *v >= HALF) && alpha.data.iter().any(|v| *v < HALF);
        match reading {
            MaskReading::Alpha => alpha.map(Self::Opaque),
            MaskReading::Erased => alpha.map(Self::Transparent),
            _ => Some(alpha.filter(apart).map_or(Self::Bright(colour), Self::Opaque)),
        }
    }

    /// How much each pixel is painted over, 0 to 255.
    fn levels(&self) -> Vec<u8> {
        match self {
            Self::Opaque(alpha) => alpha.data.clone(),
            Self::Transparent(alpha) => alpha.data.iter().map(|v| 255 - v).collect(),
            Self::Bright(rgb) => rgb.data.chunks_exact(3).map(|rgb| rgb[0].max(rgb[1]).max(rgb[2])).collect(),
        }
    }

    /// Nothing for shades of grey, of which everyone expects the same.
    fn in_words(&self) -> Option<&'static str> {
        /// Grey that was compressed has a little colour.
        const GREY: u8 = 32;
        let spread = |rgb: &[u8]| rgb.iter().max().zip(rgb.iter().min()).map_or(0, |(most, least)| most - least);
        match self {
            Self::Opaque(_) => Some("what is opaque"),
            Self::Transparent(_) => Some("what is transparent"),
            Self::Bright(rgb) => {
                rgb.data.chunks_exact(3).any(|rgb| spread(rgb) > GREY).then_some("what is bright in red, green or blue")
            }
        }
    }
}

/// A mask in another size: what diffusers makes of it (Lanczos), or so that a pixel is painted over if any that it
/// stands for is.
pub fn resize(mask: &Picture, width: usize, height: usize, reading: MaskReading) -> Picture {
    if reading == MaskReading::Diffusers {
        return resize_lanczos(mask, width, height);
    }
    // From the first to behind the last of the pixels that one stands for; when enlarging, one.
    let span = |at: usize, from: usize, to: usize| {
        let first = at * from / to;
        first..if to < from { ((at + 1) * from).div_ceil(to) } else { first + 1 }
    };
    let largest = |i: usize| {
        let (rows, columns) = (span(i / width, mask.height, height), span(i % width, mask.width, width));
        rows.map(|y| mask.data[y * mask.width..][columns.clone()].iter().copied().max()).max().flatten()
    };
    let data = (0..width * height).map(|i| largest(i).unwrap_or(0)).collect();
    Picture { width, height, channels: 1, data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_io;
    use image::{Rgba, RgbaImage};

    /// A file of 8 × 4 pixels with these colours.
    fn file(colour: impl Fn(u32, u32) -> [u8; 4]) -> tempfile::TempPath {
        let path = tempfile::Builder::new().suffix(".png").tempfile().unwrap().into_temp_path();
        RgbaImage::from_fn(8, 4, |x, y| Rgba(colour(x, y))).save(&path).unwrap();
        path
    }

    fn read(path: &Path, reading: MaskReading) -> Result<Picture> {
        super::read(path, &std::fs::read(path).unwrap(), reading, &mut Notes::default())
    }

    /// Which of the columns are painted over.
    fn columns(path: &Path, reading: MaskReading) -> Vec<usize> {
        let mask = read(path, reading).unwrap();
        (0..8).filter(|x| mask.data[*x] > HALF).collect()
    }

    #[test]
    fn people_draw_in_many_ways() {
        use MaskReading::{Alpha, Auto, Diffusers, Erased};
        const BLACK: [u8; 4] = [0, 0, 0, 255];
        let painted = |colour: [u8; 4], ground: [u8; 4]| file(move |x, _| if x < 3 { colour } else { ground });
        let left = vec![0, 1, 2];
        let right = vec![3, 4, 5, 6, 7];
        let white = painted([255; 4], BLACK);
        assert!([Auto, Diffusers].into_iter().all(|reading| columns(&white, reading) == left));
        for colour in [[0, 0, 255, 255], [255, 0, 0, 255], [0, 130, 0, 255]] {
            assert_eq!(columns(&painted(colour, BLACK), Auto), left, "{colour:?}");
        }
        // On a transparent layer, in any colour.
        for colour in [[255; 4], BLACK, [200, 0, 0, 200]] {
            let layer = painted(colour, [0; 4]);
            assert_eq!((columns(&layer, Auto), columns(&layer, Alpha)), (left.clone(), left.clone()), "{colour:?}");
            assert_eq!(columns(&layer, Erased), right);
        }
        // Transparency that sets nothing apart.
        assert_eq!(columns(&painted([255, 255, 255, 128], [0, 0, 0, 128]), Auto), left);
        assert_eq!(columns(&painted([255, 255, 255, 0], [0; 4]), Auto), left);
        // A line between two columns.
        let line = file(|x, _| if x == 2 || x == 3 { [127, 127, 127, 255] } else { BLACK });
        assert_eq!(columns(&line, Auto), [2, 3]);
    }

    #[test]
    fn a_mask_that_is_not_black_never_becomes_black() {
        use MaskReading::{Alpha, Auto, Diffusers, Erased};
        let refused = |path: &Path, reading| read(path, reading).unwrap_err().to_string();
        let dark = file(|x, _| [if x < 3 { 100 } else { 0 }, 0, 0, 255]);
        assert!(refused(&dark, Auto).contains("100 of 255"));
        let blue = file(|x, _| [0, 0, if x < 3 { 255 } else { 0 }, 255]);
        let message = refused(&blue, Diffusers);
        assert!(message.contains("29 of 255") && message.contains("mask_reading"), "{message}");
        let faint = file(|x, _| [255, 255, 255, if x < 3 { 100 } else { 0 }]);
        assert!(refused(&faint, Alpha).contains("100 of 255"));
        assert_eq!(columns(&faint, Auto).len(), 8, "transparency that sets nothing apart does not count");
        let opaque = file(|_, _| [255; 4]);
        assert!(read(&opaque, Erased).unwrap().data.iter().all(|v| *v == 0), "nothing is erased");
        let plain = tempfile::Builder::new().suffix(".png").tempfile().unwrap().into_temp_path();
        image_io::write_png(&plain, &Picture { width: 2, height: 1, channels: 1, data: vec![0, 255] }, &[]).unwrap();
        assert!([Alpha, Erased].into_iter().all(|reading| refused(&plain, reading).contains("transparent")));
        let black = file(|_, _| [0, 0, 0, 255]);
        assert!(read(&black, Auto).unwrap().data.iter().all(|v| *v == 0));
    }

    #[test]
    fn nothing_is_lost_between_pixels() {
        let mut mask = Picture { width: 9, height: 7, channels: 1, data: vec![0; 63] };
        mask.data[3 * 9 + 4] = 255;
        let painted = |width, height| {
            let small = resize(&mask, width, height, MaskReading::Auto);
            let at: Vec<_> =
                (0..width * height).filter(|i| small.data[*i] > 0).map(|i| (i % width, i / width)).collect();
            at
        };
        assert_eq!(painted(9, 7), [(4, 3)]);
        assert_eq!(painted(3, 7), [(1, 3)]);
        assert_eq!(painted(2, 2), [(0, 0), (1, 0), (0, 1), (1, 1)], "it lies across all four");
        assert_eq!(painted(18, 14), [(8, 6), (9, 6), (8, 7), (9, 7)]);
        let grey = Picture { data: (0..63).map(|i| (i * 4) as u8).collect(), ..mask.clone() };
        assert_eq!(resize(&grey, 4, 3, MaskReading::Diffusers), resize_lanczos(&grey, 4, 3));
    }
}
