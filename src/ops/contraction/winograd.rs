//! Winograd's F(2 × 2, 3 × 3): a convolution as 16 matrix products in a transformed space. Lavin and Gray 2016, "Fast
//! Algorithms for Convolutional Neural Networks", section 4.1.

use super::instance::Instance;
use super::lower::batch;
use crate::ops::{Knobs, Launch, Lowered, in_fours};

/// Multiplications of a tile, one for each position in the transformed space.
const POSITIONS: usize = 16;

/// Whether this form can compute the instance, and its buffers fit the device.
pub(super) fn legal(instance: &Instance<'_>) -> Result<(), String> {
    let plain = instance.axes.iter().all(|a| a.stride == 1 && a.dilation == 1) && instance.groups == 1;
    if !instance.windows || instance.taps != [1, 3, 3] || instance.size[0] != 1 || instance.out[0] != 1 || !plain {
        return Err("needs a 3x3 filter over pictures, stride 1, no dilation, one group".into());
    }
    in_fours("input channels", instance.c)?;
    in_fours("output channels", instance.n)?;
    if instance.epilogue.gate {
        return Err("cannot join the columns of a gate".into());
    }
    let largest = 4 * POSITIONS * instance.winograd_tiles().max(instance.n) * instance.c.max(instance.n);
    let limit = instance.context.caps.max_binding_bytes;
    if largest as u64 > limit {
        return Err(format!("needs a buffer of {largest} bytes, the device binds at most {limit}"));
    }
    Ok(())
}

/// The products run on subgroups of `lanes` invocations for CPU drivers, otherwise on GPU tiles. The launch that
/// transforms the weights reads nothing else.
pub(super) fn lower(instance: &Instance<'_>, lanes: Option<usize>, knobs: &Knobs) -> Lowered {
    let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
    let ([_, h, w], [_, oh, ow]) = (instance.size, instance.out);
    let (images, c_in, c_out) = (instance.images, instance.c, instance.n);
    let (tiles_h, tiles_w) = (oh.div_ceil(2), ow.div_ceil(2));
    let tiles = instance.winograd_tiles();
    let v = lowered.add_scratch([tiles, POSITIONS, c_in]);
    let u = lowered.add_scratch([c_out, POSITIONS, c_in]);
    let partial = lowered.add_scratch([POSITIONS, tiles, c_out]);

    lowered.launches.push(
        Launch::new("contraction/winograd_input")
            .bind("v", v)
            .param("N", images)
            .param("H", h)
            .param("W", w)
            .param("C_in", c_in)
            .param("pad_top", instance.axes[1].padding[0])
            .param("pad_left", instance.axes[2].padding[0])
            .param("tiles_h", tiles_h)
            .param("tiles_w", tiles_w)
            .flops((32 * tiles * c_in) as u64)
            .cover(tiles * c_in / 4, 64),
    );
    lowered.launches.push(
        Launch::new("contraction/winograd_weight")
            .bind("u", u)
            .param("C_in", c_in)
            .param("C_out", c_out)
            .flops((28 * c_out * c_in) as u64)
            .cover(c_out * c_in / 4, 64),
    );
    let products = batch(instance, [tiles, c_out, c_in], POSITIONS, lanes, knobs);
    lowered.launches.push(products.bind("x", v).bind("weight", u).bind("y", partial));
    let output = Launch::new("contraction/winograd_output")
        .bind("partial", partial)
        .param("images", images)
        .param("OH", oh)
        .param("OW", ow)
        .param("N", c_out)
        .param("tiles_h", tiles_h)
        .param("tiles_w", tiles_w)
        .flops((24 * tiles * c_out) as u64)
        .cover(tiles * c_out / 4, 64);
    lowered.launches.push(instance.epilogue.set(output, instance.context, true));
    lowered
}
