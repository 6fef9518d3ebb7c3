//! Pictures against Pillow's: `tests/fixtures/images`, made by `tools/fixtures/images.py`.

use std::path::{Path, PathBuf};

use unmist::image_io::{Picture, PictureFormat, read, read_with_alpha, resize_lanczos, write_picture};

use crate::common::{distance, levels};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

#[test]
fn lanczos_is_pillows_bit_for_bit() {
    let mut compared = 0;
    for (input, prefix, channels) in [("input.png", "lanczos_", 3), ("input_grey.png", "lanczos_grey_", 1)] {
        let input = read(folder().join(input), channels).unwrap();
        assert_eq!((input.width, input.height), (37, 23));
        for (width, height) in [(64, 48), (20, 11), (37, 40), (50, 23), (5, 90), (111, 3), (1, 1), (36, 22)] {
            let expected = read(folder().join(format!("{prefix}{width}x{height}.png")), channels).unwrap();
            assert_eq!((expected.width, expected.height), (width, height));
            let resized = resize_lanczos(&input, width, height);
            assert!(resized == expected, "{prefix}{width}x{height}: {} bytes differ", different(&resized, &expected));
            compared += 1;
        }
        assert_eq!(resize_lanczos(&input, 37, 23), input);
    }
    assert_eq!(compared, 16);
}

#[test]
fn every_kind_of_file_reads_as_in_pillow() {
    for name in ["rgba.png", "grey_alpha.png", "palette.png", "bilevel.png", "rotated.jpg"] {
        for (channels, kind) in [(3, "rgb"), (1, "grey")] {
            let expected = read(folder().join(format!("{name}.{kind}.png")), channels).unwrap();
            let found = read(folder().join(name), channels).unwrap();
            // PNG is exact. Of a JPEG the standard leaves the rounding of the inverse cosine transform open.
            let allowed = if name.ends_with(".jpg") { 2.0 } else { 0.0 };
            let worst = distance(&levels(&found), &levels(&expected));
            assert!(worst <= allowed, "{name} {kind}: off by {worst}, {} bytes differ", different(&found, &expected));
        }
    }
}

/// Every way of keeping colours at a lower resolution than brightness, progressive, with restarts, few levels, grey,
/// two kinds of ink. The decoder upsamples as libjpeg-turbo does; its inverse cosine transform rounds otherwise, by one
/// level before the colours are converted, where blue is brightness + 1.772·Cb: 2.772 levels, so 3 at most.
#[test]
fn jpegs_are_within_three_levels_of_libjpeg_turbos() {
    let (mut compared, mut samples, mut sum, mut beyond_two) = (0, 0, 0.0, 0);
    for file in files("jpeg", "jpg") {
        let (found, expected) = (read(&file, 3).unwrap(), read(file.with_extension("png"), 3).unwrap());
        let differences = differences(&found, &expected);
        let worst = differences.iter().copied().max().unwrap();
        assert!(worst <= 3, "{}: off by {worst}", file.display());
        compared += 1;
        samples += differences.len();
        sum += differences.iter().map(|d| f64::from(*d)).sum::<f64>();
        beyond_two += differences.iter().filter(|d| **d > 2).count();
    }
    assert_eq!(compared, 13);
    let mean = sum / samples as f64;
    assert!(mean < 0.1 && beyond_two * 1000 < samples, "mean {mean}, {beyond_two} of {samples} beyond 2");
}

#[test]
fn webps_are_libwebps_exactly() {
    let mut compared = 0;
    for file in files("webp", "webp") {
        let (found, expected) = (read(&file, 3).unwrap(), read(file.with_extension("png"), 3).unwrap());
        assert!(found == expected, "{}: {} bytes differ", file.display(), different(&found, &expected));
        compared += 1;
    }
    assert_eq!(compared, 6);
    let (colour, alpha) = read_with_alpha(folder().join("webp/lossy_alpha.webp")).unwrap();
    let alpha = alpha.expect("it has transparency");
    assert_eq!((alpha.width, alpha.height, alpha.channels), (colour.width, colour.height, 1));
    assert!(alpha.data[0] < 8 && *alpha.data.last().unwrap() > 240, "it grows from above to below");
    assert!(read_with_alpha(folder().join("webp/lossy.webp")).unwrap().1.is_none());
}

/// What a JPEG loses is what Pillow's loses at the same quality (the means are Pillow 13's, with colours at full size).
/// The cosine transform of the encoder rounds more, which shows where hardly anything is lost.
#[test]
fn a_jpeg_keeps_what_its_quality_says() {
    let (input, place) = (read(folder().join("input.png"), 3).unwrap(), tempfile::tempdir().unwrap());
    let path = place.path().join("a.jpg");
    for (quality, pillows) in [(10, 20.024), (50, 12.627), (90, 3.825), (100, 0.439)] {
        write_picture(&path, &input, &[], PictureFormat::Jpeg(quality)).unwrap();
        let differences = differences(&read(&path, 3).unwrap(), &input);
        let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
        assert!((mean - pillows).abs() < 0.02 * pillows + 0.3, "{quality}: {mean}, expected {pillows}");
    }
}

fn files(below: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder().join(below)).expect("the fixtures are there");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn differences(a: &Picture, b: &Picture) -> Vec<u8> {
    assert_eq!((a.width, a.height, a.channels), (b.width, b.height, b.channels));
    a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b)).collect()
}

fn different(a: &Picture, b: &Picture) -> usize {
    a.data.iter().zip(&b.data).filter(|(a, b)| a != b).count()
}
