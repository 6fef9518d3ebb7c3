//! Winograd's F(2 × 2, 3 × 3) and F(4 × 4, 3 × 3): a convolution as 16 or 36 matrix products in a transformed space.
//! Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4. What is transformed is larger
//! than the pictures, so it is made and used band by band.

use super::instance::Instance;
use super::lower::batch;
use crate::graph::TensorDesc;
use crate::ops::{Knobs, Launch, Lowered, in_fours};

/// What the transformed pixels or the products of one band may take. With less, every band reads the transformed
/// filters for too few tiles; with more, nothing is gained, and caches of CPUs hold it no longer.
const BAND_BYTES: u64 = 32 << 20;

/// The largest f32 texture that every device has.
const MAX_TEXTURE_BYTES: u64 = 16 * super::lower::MAX_TEXELS as u64;

/// How an instance is computed from tiles of `tile` × `tile` outputs.
struct Tiles {
    /// Outputs of a tile in each direction.
    tile: usize,
    /// Lines of tiles, of all images.
    lines: usize,
    /// Tiles in a line.
    across: usize,
    /// Numbers of one line in the transformed space: pixels or products, whichever are more.
    line_elements: usize,
}

impl Tiles {
    fn new(instance: &Instance<'_>, tile: usize) -> Self {
        let across = instance.out[2].div_ceil(tile);
        let line_elements = positions(tile) * across * instance.c.max(instance.n);
        Self { tile, lines: instance.images * instance.out[1].div_ceil(tile), across, line_elements }
    }

    /// Lines of tiles in each band: bands of about the same height, whose buffers fit both the device and
    /// [`BAND_BYTES`].
    fn lines_per_band(&self, max_binding_bytes: u64) -> usize {
        let line_bytes = 4 * self.line_elements as u64;
        let most = (max_binding_bytes.min(BAND_BYTES) / line_bytes).max(1) as usize;
        self.lines.div_ceil(self.lines.div_ceil(most))
    }
}

/// Multiplications of a tile, one for each position in the transformed space.
fn positions(tile: usize) -> usize {
    (tile + 2) * (tile + 2)
}

/// Whether this form can compute the instance, and its buffers fit the device.
pub(super) fn legal(instance: &Instance<'_>, tile: usize) -> Result<(), String> {
    let plain = instance.axes.iter().all(|a| a.stride == 1 && a.dilation == 1) && instance.groups == 1;
    if !instance.windows || instance.taps != [1, 3, 3] || instance.size[0] != 1 || instance.out[0] != 1 || !plain {
        return Err("needs a 3x3 filter over pictures, stride 1, no dilation, one group".into());
    }
    in_fours("input channels", instance.c)?;
    in_fours("output channels", instance.n)?;
    if instance.epilogue.gate {
        return Err("cannot join the columns of a gate".into());
    }
    let filters = positions(tile) * instance.n * instance.c;
    let largest = 4 * filters.max(Tiles::new(instance, tile).line_elements) as u64;
    let limit = instance.context.caps.max_binding_bytes.min(MAX_TEXTURE_BYTES);
    if largest > limit {
        return Err(format!("needs {largest} bytes in one buffer or texture, which hold at most {limit}"));
    }
    Ok(())
}

/// Tiles of `tile` × `tile` outputs. The products run on subgroups of `lanes` invocations for CPU drivers, otherwise on
/// GPU tiles. The launch that transforms the weights comes first and reads nothing else.
pub(super) fn lower(instance: &Instance<'_>, tile: usize, lanes: Option<usize>, knobs: &Knobs) -> Lowered {
    let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
    let (c_in, c_out) = (instance.c, instance.n);
    let tiles = Tiles::new(instance, tile);
    let most = tiles.lines_per_band(instance.context.caps.max_binding_bytes);
    // What the products read, CPU drivers read faster from textures.
    let [v, u] = [most * tiles.across, c_out].map(|rows| {
        let desc = TensorDesc::f32([rows, positions(tile), c_in]);
        if lanes.is_some() { lowered.add_texture(desc) } else { lowered.add(desc.into()) }
    });
    let partial = lowered.add_scratch([positions(tile), most * tiles.across, c_out]);

    let weight = tiles.launch("contraction/winograd_weight").bind("u", u).param("C_in", c_in).param("C_out", c_out);
    lowered.launches.push(weight.flops((28 * c_out * c_in) as u64).cover(c_out * c_in / 4, 64));
    for first in (0..tiles.lines).step_by(most) {
        let lines = most.min(tiles.lines - first);
        let count = lines * tiles.across;
        let input = tiles
            .band("contraction/winograd_input", instance, first, lines)
            .bind("v", v)
            .param("H", instance.size[1])
            .param("W", instance.size[2])
            .param("C_in", c_in)
            .param("pad_top", instance.axes[1].padding[0])
            .param("pad_left", instance.axes[2].padding[0])
            .flops((2 * positions(tile) * count * c_in) as u64)
            .cover(count * c_in / 4, 64);
        let products = batch(instance, [count, c_out, c_in], positions(tile), lanes, knobs);
        let output = tiles
            .band("contraction/winograd_output", instance, first, lines)
            .bind("partial", partial)
            .param("OH", instance.out[1])
            .param("OW", instance.out[2])
            .param("N", c_out)
            .flops((2 * positions(tile) * count * c_out) as u64)
            .cover(count * c_out / 4, 64);
        lowered.launches.extend([
            input,
            products.bind("x", v).bind("weight", u).bind("y", partial),
            instance.epilogue.set(output, instance.context, true),
        ]);
    }
    lowered
}

impl Tiles {
    fn launch(&self, kernel: &'static str) -> Launch {
        Launch::new(kernel).constant("TILE", self.tile).constant("SIDE", self.tile + 2)
    }

    /// A launch for `lines` lines of tiles from `first` on.
    fn band(&self, kernel: &'static str, instance: &Instance<'_>, first: usize, lines: usize) -> Launch {
        self.launch(kernel)
            .param("tiles_h", instance.out[1].div_ceil(self.tile))
            .param("tiles_w", self.across)
            .param("first_line", first)
            .param("lines", lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_cover_every_line_evenly_and_fit() {
        let tiles = |lines, line_elements| Tiles { tile: 4, lines, across: 1, line_elements };
        assert_eq!(tiles(10, 1 << 20).lines_per_band(u64::MAX), 5, "8 fit into 32 MiB: two bands of 5");
        assert_eq!(tiles(8, 1 << 20).lines_per_band(u64::MAX), 8);
        assert_eq!(tiles(10, 1 << 20).lines_per_band(12 << 20), 3, "bands of 3, 3, 3 and 1");
        assert_eq!(tiles(10, 64 << 20).lines_per_band(256 << 20), 1, "one line may be more than a band should be");
    }
}
