//! What was found, drawn.

use std::path::Path;

use super::report::Measured;
use crate::error::Result;
use crate::image_io::{Picture, grid, write_png};
use crate::tensor::HostTensor;

/// Side by side: the picture, what the model makes of it (the first time), the map, and the map over the picture.
/// `most` is drawn white.
pub fn write(path: &Path, picture: &Picture, measured: &Measured, most: f64) -> Result<()> {
    let made = HostTensor {
        shape: measured.made.shape.clone(),
        data: measured.made.data.iter().map(|x| x / 2.0 + 0.5).collect(),
    };
    let picture = in_colour(picture);
    let made = in_colour(&Picture::from_tensor(&made)?.swap_remove(0));
    // Of the differences, not of their squares, so that small ones are seen.
    let shares: Vec<f64> = measured.map.iter().map(|x| if most > 0.0 { (x / most).sqrt() } else { 0.0 }).collect();
    let map = Picture { data: shares.iter().flat_map(|share| heat(*share)).collect(), ..picture.clone() };
    let over = picture.data.iter().zip(&map.data).enumerate().map(|(i, (below, above))| {
        let share = shares[i / 3];
        (f64::from(*below) * (1.0 - share) + f64::from(*above) * share).round() as u8
    });
    let over = Picture { data: over.collect(), ..picture.clone() };
    let strip = grid(&[picture, made, map, over], Some(4))?;
    let text = format!("Anomaly map: white is a squared difference of {most:.4}");
    // A folder's subfolders are made.
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(crate::error::Error::io(folder))?;
    }
    write_png(path, &strip, &[("parameters".to_owned(), text)])
}

/// Black, red, yellow, white.
fn heat(share: f64) -> [u8; 3] {
    [0.0, 1.0, 2.0].map(|from| ((share * 3.0 - from).clamp(0.0, 1.0) * 255.0).round() as u8)
}

fn in_colour(picture: &Picture) -> Picture {
    let times = 3 / picture.channels;
    let data = picture.data.iter().flat_map(|level| std::iter::repeat_n(*level, times)).collect();
    Picture { channels: 3, data, ..picture.clone() }
}
