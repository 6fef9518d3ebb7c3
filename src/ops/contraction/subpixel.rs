//! A 3 × 3 convolution over pixels that are repeated twice along each axis, as four convolutions of x itself with 2 × 2
//! windows: `wgsl/include/subpixel.wgsl`.

use super::instance::{Instance, Parts};
use super::lower::{concluded, pipelined_tile};
use super::tile;
use crate::ops::{Knobs, Lowered, in_fours};

/// Whether this form can compute the instance.
pub(super) fn legal(instance: &Instance<'_>) -> Result<(), String> {
    let plain = instance.axes[1..].iter().all(|a| a.stride == 1 && a.dilation == 1 && a.padding == [1; 2]);
    if instance.upsample != 2 || instance.taps != [1, 3, 3] || !plain || instance.groups != 1 {
        return Err("needs a 3x3 filter over pixels that are repeated twice, stride 1, padding 1, one group".into());
    }
    if !instance.c.is_multiple_of(32) {
        return Err(format!("input channels: {} is not a multiple of 32, so that tiles would be ragged", instance.c));
    }
    in_fours("output channels", instance.n)?;
    if instance.epilogue.gate { Err("cannot join the columns of a gate".into()) } else { Ok(()) }
}

/// One of the four convolutions.
pub(super) fn part<'a>(instance: &Instance<'a>) -> Instance<'a> {
    let [_, h, w] = instance.size.map(|size| size / 2);
    Instance { size: [1, h, w], out: [1, h, w], taps: [1, 2, 2], upsample: 1, ..*instance }
}

/// The settings: those of `5_pipelined`.
pub(super) fn knobs(instance: &Instance<'_>) -> Vec<Knobs> {
    let part = part(instance);
    tile::pipelined_knobs([part.m(), part.n, part.padded_k()], instance.context.caps, |_| false)
}

/// All four in one launch, and `conclude` where sums are split.
pub(super) fn lower(instance: &Instance<'_>, knobs: &Knobs) -> Lowered {
    let (part, n) = (part(instance), instance.n);
    let (tile, splits) = (pipelined_tile(instance, knobs), knobs.get("SPLITS"));
    let parts = Parts { splits, k: tile.k_per_split(part.padded_k(), splits), whole_rows: 0 };
    let main = part.launch("contraction/5_pipelined", part.c, n, parts);
    let mut main = tile.pipeline(tile.configure(main, &part, splits), &part).flag("SUBPIXEL", true);
    main.workgroups[1] *= 4;
    let main = instance.epilogue.set(main, instance.context, splits == 1).flops(4 * part.flops());
    concluded(Lowered { launches: Vec::new(), scratch: Vec::new() }, instance, main, parts, splits == 1)
}
