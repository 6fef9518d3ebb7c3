//! Parity cases of attention.

use super::{Attention, BIAS, MASK, Packing};
use crate::graph::TensorDesc;
use crate::ops::{Case, CaseInput, Fill};

pub(super) fn all() -> Vec<Case> {
    let mut cases = cases();
    cases.push(large_negative());
    cases.extend(masked_cases());
    cases
}

/// A case with `q` filled by `q_fill`, everything else standard normal. `t` and `s` are the middle dimensions.
fn case(label: &'static str, op: Attention, n: usize, t: &[usize], s: &[usize], channels: usize, q_fill: Fill) -> Case {
    let tensor = |middle: &[usize], channels: usize, fill: Fill| {
        let shape = [&[n], middle, &[channels]].concat();
        Some(CaseInput { desc: TensorDesc::f32(shape), fill, always_f32: false })
    };
    let k = channels / op.heads * op.kv_heads();
    let inputs = match op.packing {
        Packing::Separate => {
            vec![tensor(t, channels, q_fill), tensor(s, k, Fill::Normal), tensor(s, k, Fill::Normal), None, None]
        }
        Packing::Qkv => vec![tensor(t, channels + 2 * k, q_fill), None, None, None, None],
        Packing::Kv => vec![tensor(t, channels, q_fill), tensor(s, 2 * k, Fill::Normal), None, None, None],
    };
    Case::new(label, op, inputs)
}

/// Grouped heads, bias and mask, in every kernel and with every packing.
fn masked_cases() -> Vec<Case> {
    let op = |heads, kv_heads, packing| Attention { heads, kv_heads, packing, ..Attention::default() };
    let causal = |op| Attention { causal: true, ..op };
    let (separate, qkv, kv) = (Packing::Separate, Packing::Qkv, Packing::Kv);
    let with = |mut case: Case, bias: Option<&[usize]>, mask: Option<[usize; 2]>| {
        case.inputs[BIAS] = bias.and_then(CaseInput::normal);
        case.inputs[MASK] = mask.and_then(|shape| CaseInput::f32(shape, Fill::Index(2)));
        case
    };
    let plain = |label, op, t: &[usize], s: &[usize], channels| case(label, op, 2, t, s, channels, Fill::Normal);
    vec![
        plain("two heads share keys, D 8", op(4, Some(2), separate), &[19], &[37], 32),
        plain("all heads share keys, D 5, packed", op(3, Some(1), qkv), &[11], &[], 15),
        plain("three heads share keys, D 12, causal, packed", causal(op(6, Some(2), qkv)), &[35], &[], 72),
        plain("two heads share keys, D 20, keys with values", op(4, Some(2), kv), &[9, 3], &[41], 80),
        with(plain("bias of each head, D 8", op(3, None, separate), &[21], &[38], 24), Some(&[3, 21, 38]), None),
        with(plain("bias of each image and key, D 7", op(2, None, kv), &[13], &[9], 14), Some(&[2, 1, 1, 9]), None),
        with(plain("bias of each query, D 40", op(2, None, qkv), &[67], &[], 80), Some(&[67, 1]), None),
        with(plain("one bias for all, D 3, causal", causal(op(2, None, qkv)), &[10], &[], 6), Some(&[10, 10]), None),
        with(plain("bias everywhere, D 16", op(2, None, separate), &[18], &[35], 32), Some(&[2, 2, 18, 35]), None),
        with(plain("mask of each image, D 8", op(3, None, separate), &[21], &[77], 24), None, Some([2, 77])),
        with(plain("one mask, D 5, keys with values", op(2, None, kv), &[9], &[23], 10), None, Some([1, 23])),
        // The first keys are hidden, so the first queries see none at all.
        with(plain("mask, causal, D 12", causal(op(2, None, qkv)), &[37], &[], 24), None, Some([2, 37])),
        with(
            plain("bias, mask and shared keys, D 64, causal", causal(op(4, Some(2), separate)), &[69], &[69], 256),
            Some(&[4, 69, 69]),
            Some([2, 69]),
        ),
    ]
}

fn cases() -> Vec<Case> {
    let op = |heads, packing| Attention { heads, packing, ..Attention::default() };
    let causal = |heads, packing| Attention { causal: true, ..op(heads, packing) };
    let (separate, qkv, kv) = (Packing::Separate, Packing::Qkv, Packing::Kv);
    let large = Fill::Uniform(-20.0, 20.0);
    vec![
        case("D 8, tokens", op(3, separate), 2, &[37], &[37], 24, Fill::Normal),
        case("D 5, cross", op(2, separate), 2, &[35], &[7], 10, Fill::Normal),
        case("D 3, one key", op(3, kv), 2, &[6], &[1], 9, Fill::Normal),
        case("D 7, packed, causal", causal(2, qkv), 2, &[21], &[21], 14, Fill::Normal),
        case("D 16, packed picture, tiles exactly", op(2, qkv), 2, &[8, 16], &[], 32, Fill::Normal),
        case("D 40, one past the tiles, text of 77", op(2, kv), 2, &[5, 13], &[77], 80, Fill::Normal),
        case("D 40, one key", op(2, separate), 2, &[9, 3], &[1], 80, Fill::Normal),
        case("D 64, causal text", causal(2, qkv), 2, &[77], &[77], 128, Fill::Normal),
        case("D 80, packed picture", op(1, qkv), 2, &[9, 7], &[], 80, Fill::Normal),
        case("D 160, text of 77", op(2, kv), 2, &[11], &[77], 320, Fill::Normal),
        case(
            "D 28, few keys, scale",
            Attention { scale: Some(0.7), ..op(3, separate) },
            2,
            &[33],
            &[5],
            84,
            Fill::Normal,
        ),
        case("D 256, causal", causal(1, separate), 2, &[67], &[67], 256, Fill::Normal),
        case("D 512, picture", op(1, qkv), 1, &[5, 7], &[], 512, Fill::Normal),
        // Scores of several hundred, so each softmax is nearly one-hot. They are sums of terms of that size, each
        // rounded to 2⁻²⁴ of it, and an error of 1e-5 in a score is a relative error of 1e-5 in its weight.
        case("nearly one-hot", op(2, separate), 2, &[33], &[70], 80, large).tolerance(1e-4),
        case("nearly one-hot, causal", causal(2, qkv), 2, &[70], &[], 80, large).tolerance(1e-4),
        case("4096 keys", op(2, separate), 1, &[70], &[4096], 80, Fill::Normal).large(),
        case("10 000 keys", op(1, kv), 1, &[5], &[10_000], 40, Fill::Normal).large(),
        case("16 384 keys of 512 channels", op(1, separate), 1, &[5], &[16_384], 512, Fill::Normal).large(),
        case("SD 1.5, 64 x 64 pixels, 8 heads of 40", op(8, qkv), 1, &[64, 64], &[], 320, Fill::Normal).perf(),
        case("SD 1.5, 64 x 64 pixels, text of 77", op(8, kv), 2, &[64, 64], &[77], 320, Fill::Normal).perf(),
        case("SDXL, 32 x 32 pixels, 20 heads of 64", op(20, qkv), 1, &[32, 32], &[], 1280, Fill::Normal).perf(),
    ]
}

/// Every score lies between -1200 and -400, so every exponential is zero in f32 unless the largest score is subtracted.
fn large_negative() -> Case {
    let fill = |low, high, shape: [usize; 3]| {
        Some(CaseInput { desc: TensorDesc::f32(shape), fill: Fill::Uniform(low, high), always_f32: false })
    };
    let inputs =
        vec![fill(-30.0, -20.0, [2, 19, 72]), fill(5.0, 8.0, [2, 45, 72]), CaseInput::normal([2, 45, 72]), None, None];
    // Sums of 36 terms of up to 240 · 1/6, as for the nearly one-hot cases.
    Case::new("large negative scores", Attention { heads: 2, ..Attention::default() }, inputs).tolerance(1e-4)
}
