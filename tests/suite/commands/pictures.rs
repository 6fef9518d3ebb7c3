//! Pictures against Pillow's: `tests/fixtures/images`, made by `tools/fixtures/images.py`.

use std::path::{Path, PathBuf};

use unmist::image_io::{Picture, read, resize_lanczos};

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
            // PNG is exact. JPEG decoders differ by a level or two: the standard leaves the rounding of the inverse
            // cosine transform and of the colour conversion open.
            let allowed = if name.ends_with(".jpg") { 2.0 } else { 0.0 };
            let worst = distance(&levels(&found), &levels(&expected));
            assert!(worst <= allowed, "{name} {kind}: off by {worst}, {} bytes differ", different(&found, &expected));
        }
    }
}

fn different(a: &Picture, b: &Picture) -> usize {
    a.data.iter().zip(&b.data).filter(|(a, b)| a != b).count()
}
