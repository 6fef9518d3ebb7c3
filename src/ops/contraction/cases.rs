//! Instances on which every kernel is compared with the reference.

use super::{Contraction, Conv2d, Epilogue, Gather, SUMMAND, WindowAxis, Windows};
use crate::ops::activation::ActivationKind;
use crate::ops::{Case, CaseInput, Fill, Op};

/// What is added to the sums.
#[derive(Clone, Copy, Default)]
struct Added {
    bias: bool,
    summand: Added1,
    residual: Added1,
}

/// One tensor that is added.
#[derive(Clone, Copy, Default)]
enum Added1 {
    #[default]
    None,
    /// One row per image.
    Image,
    /// One row per row of what it is added to.
    Full,
}

const ALONE: Added = Added { bias: false, summand: Added1::None, residual: Added1::None };
const BIAS: Added = Added { bias: true, ..ALONE };
const TIME: Added = Added { summand: Added1::Image, ..BIAS };
const RESIDUAL: Added = Added { residual: Added1::Full, ..BIAS };
const ALL: Added = Added { residual: Added1::Full, ..TIME };
const ALL_FULL: Added = Added { summand: Added1::Full, ..RESIDUAL };
const ALL_IMAGE: Added = Added { residual: Added1::Image, ..TIME };

const PLAIN: Epilogue = Epilogue { activation: None, gate: false, scale: 1.0, summand_first: 0 };
const SILU: Epilogue = Epilogue { activation: Some(ActivationKind::Silu), ..PLAIN };
const GELU: Epilogue = Epilogue { activation: Some(ActivationKind::Gelu), ..PLAIN };

fn case(label: &'static str, op: Contraction, x: &[usize], weight: &[usize], hidden: &[usize], added: Added) -> Case {
    let n = weight[0];
    let mut output = hidden.to_vec();
    *output.last_mut().expect("a result has columns") /= if op.epilogue.gate { 2 } else { 1 };
    let tensor = |added: Added1, to: &[usize]| match added {
        Added1::None => None,
        Added1::Image => CaseInput::normal([to[0], to[to.len() - 1]]),
        Added1::Full => CaseInput::normal(to),
    };
    let inputs = vec![
        CaseInput::normal(x),
        CaseInput::normal(weight),
        added.bias.then(|| CaseInput::f32([n], Fill::Normal)).flatten(),
        tensor(added.summand, hidden),
        tensor(added.residual, &output),
    ];
    Case::new(label, op, inputs)
}

/// `x [.., K]` to N columns.
fn rows(label: &'static str, epilogue: Epilogue, x: &[usize], n: usize, added: Added) -> Case {
    let (last, before) = x.split_last().expect("x has columns");
    let hidden = [before, &[n]].concat();
    case(label, Contraction { gather: Gather::Rows, epilogue }, x, &[n, *last], &hidden, added)
}

/// `x [images, .., C]` under a window; `taps` is `[N, taps ..]`, N the output channels.
fn windows(
    label: &'static str,
    windows: Windows,
    epilogue: Epilogue,
    x: &[usize],
    taps: &[usize],
    added: Added,
) -> Case {
    let weight = [taps, &[x[x.len() - 1] / windows.groups]].concat();
    let hidden = windows.output_shape(x, &weight).expect("the cases below fit");
    case(label, Contraction { gather: Gather::Windows(windows), epilogue }, x, &weight, &hidden, added)
}

fn pictures(
    label: &'static str,
    x: [usize; 4],
    taps: [usize; 3],
    stride: [usize; 2],
    padding: [usize; 4],
    added: Added,
) -> Case {
    windows(label, Conv2d { stride, padding, ..Conv2d::default() }.into(), PLAIN, &x, &taps, added)
}

pub(super) fn all() -> Vec<Case> {
    let mut all = products();
    all.extend(convolutions());
    all.extend(other_windows());
    all.extend(epilogues());
    all.extend(wide_summands());
    all.extend(joined());
    all.extend(upsampled());
    all.extend(large());
    all.extend(perf());
    all
}

/// Summands that are columns `first ..` of vectors of `width`.
fn wide_summands() -> Vec<Case> {
    let within = |mut case: Case, images: usize, first: usize, width: usize| {
        let Op::Contraction(op) = &mut case.op else { unreachable!("all cases here are contractions") };
        op.epilogue.summand_first = first;
        case.inputs[SUMMAND] = CaseInput::normal([images, width]);
        case
    };
    let conv = || Windows::from(Conv2d { padding: [1; 4], ..Conv2d::default() });
    let gate = Epilogue { gate: true, ..GELU };
    vec![
        within(windows("a summand among others", conv(), SILU, &[2, 5, 7, 12], &[20, 3, 3], ALL), 2, 8, 40),
        within(windows("the first of wider summands", conv(), PLAIN, &[3, 4, 4, 8], &[8, 3, 3], TIME), 3, 0, 12),
        within(rows("the last of wider summands, 37 columns", SILU, &[2, 9, 20], 37, TIME), 2, 4, 44),
        within(rows("a summand among others, one row an image", PLAIN, &[5, 12], 8, TIME), 5, 4, 16),
        within(rows("a summand among others, gated", gate, &[2, 7, 16], 24, TIME), 2, 12, 36),
    ]
}

/// Pixels that are repeated.
fn upsampled() -> Vec<Case> {
    let of = |label, times, conv: Conv2d, epilogue, x: [usize; 4], taps: [usize; 3], added| {
        let over = Windows { upsample: times, ..Windows::from(conv) };
        windows(label, over, epilogue, &x, &taps, added)
    };
    let around = || Conv2d { padding: [1; 4], ..Conv2d::default() };
    let strided = Conv2d { stride: [2, 1], ..around() };
    vec![
        of("pixels twice", 2, around(), PLAIN, [2, 5, 7, 32], [12, 3, 3], BIAS),
        of("pixels twice, every input", 2, around(), SILU, [3, 9, 6, 96], [36, 3, 3], ALL),
        of("pixels twice, whole tiles", 2, around(), PLAIN, [1, 8, 8, 64], [64, 3, 3], RESIDUAL),
        of("pixels twice, one past the tiles", 2, around(), GELU, [1, 3, 43, 64], [132, 3, 3], ALL_FULL),
        of("pixels twice, a long sum, few pixels", 2, around(), PLAIN, [2, 2, 1, 160], [40, 3, 3], TIME),
        of("pixels twice, channels in fours", 2, around(), PLAIN, [2, 3, 7, 20], [12, 3, 3], TIME),
        of("pixels twice, odd channels", 2, around(), PLAIN, [2, 4, 3, 5], [7, 3, 3], BIAS),
        of("pixels twice, stride 2 down", 2, strided, PLAIN, [2, 5, 4, 8], [8, 3, 3], ALONE),
        of("pixels three times", 3, around(), PLAIN, [1, 3, 5, 4], [8, 3, 3], BIAS),
        of("pixels twice, one tap", 2, Conv2d::default(), PLAIN, [2, 3, 4, 8], [12, 1, 1], BIAS),
        of("SD 1.5: pixels twice, 640 channels", 2, around(), PLAIN, [2, 32, 32, 640], [640, 3, 3], BIAS).perf(),
        of("VAE: pixels twice, 512 channels", 2, around(), PLAIN, [1, 128, 128, 512], [512, 3, 3], BIAS).perf(),
    ]
}

/// Two tensors for x, whose border lies at and beside those of the kernels' steps along K.
fn joined() -> Vec<Case> {
    let gate = Epilogue { gate: true, ..GELU };
    let one = |label, x, taps, added| pictures(label, x, taps, [1; 2], [0; 4], added);
    vec![
        rows("joined after 12 of 40", PLAIN, &[2, 33, 40], 68, RESIDUAL).joined(12),
        rows("joined at a step of 16", SILU, &[3, 43, 64], 132, ALL_FULL).joined(16),
        rows("joined at a step of 32, gated", gate, &[2, 71, 96], 264, BIAS).joined(64),
        rows("joined, a long sum", PLAIN, &[3, 2052], 44, BIAS).joined(1028),
        rows("joined, many tiles of 128", PLAIN, &[2, 705, 20], 1412, BIAS).joined(4),
        one("joined pictures, every input", [2, 9, 13, 36], [36, 1, 1], ALL).joined(32),
        // These are copied.
        rows("joined, odd channels", PLAIN, &[5, 2, 7], 12, ALONE).joined(3),
        pictures("joined under a window", [2, 5, 4, 24], [8, 3, 3], [1; 2], [1; 4], BIAS).joined(8),
    ]
}

/// What the headers promise: the longest sums of any model, and rows beyond 65 535 workgroups.
fn large() -> Vec<Case> {
    let conv = |padding| Windows::from(Conv2d { padding: [padding; 4], ..Conv2d::default() });
    let cases = [
        rows("K = 23 040", SILU, &[9, 23_040], 68, ALL_FULL),
        windows("K = 23 040 under a window", conv(1), PLAIN, &[1, 8, 8, 2560], &[36, 3, 3], ALL),
        rows("more than half a million rows", PLAIN, &[2, 262_180, 4], 4, ALL_IMAGE),
        windows("a picture of 1 024 x 1 024", conv(1), PLAIN, &[1, 1024, 1024, 3], &[8, 3, 3], BIAS),
    ];
    cases.map(Case::large).into()
}

/// Layers of Stable Diffusion 1.5 at 512 x 512, its autoencoder, and Stable Diffusion XL at 1 024 x 1 024.
fn perf() -> Vec<Case> {
    let conv = |stride| Windows::from(Conv2d { stride: [stride; 2], padding: [1; 4], ..Conv2d::default() });
    let cases = [
        rows("SD 1.5: qkv, 320 channels", PLAIN, &[2, 4096, 320], 960, ALONE),
        rows("SD 1.5: feed-forward in, 320 channels", PLAIN, &[2, 4096, 320], 2560, BIAS),
        rows("SD 1.5: feed-forward in, gated", Epilogue { gate: true, ..GELU }, &[2, 4096, 320], 2560, BIAS),
        rows("SD 1.5: feed-forward out, 1280 channels", PLAIN, &[2, 256, 5120], 1280, RESIDUAL),
        rows("SDXL: feed-forward in, 1280 channels", PLAIN, &[2, 1024, 1280], 10_240, BIAS),
        windows("SD 1.5: 3x3, 320 channels", conv(1), PLAIN, &[2, 64, 64, 320], &[320, 3, 3], TIME),
        windows("SD 1.5: 3x3, 1280 channels", conv(1), PLAIN, &[2, 16, 16, 1280], &[1280, 3, 3], RESIDUAL),
        windows("SD 1.5: 3x3, 2560 to 1280 channels", conv(1), PLAIN, &[2, 8, 8, 2560], &[1280, 3, 3], TIME),
        windows("SD 1.5: 3x3, stride 2, 640 channels", conv(2), PLAIN, &[2, 32, 32, 640], &[640, 3, 3], BIAS),
        windows("VAE: 3x3, 128 channels, 512 x 512", conv(1), PLAIN, &[1, 512, 512, 128], &[128, 3, 3], RESIDUAL),
        windows("VAE: 3x3, 512 channels, 64 x 64", conv(1), PLAIN, &[1, 64, 64, 512], &[512, 3, 3], RESIDUAL),
    ];
    cases.map(Case::perf).into()
}

fn products() -> Vec<Case> {
    vec![
        rows("odd sizes, no bias", PLAIN, &[5, 7], 3, ALONE),
        rows("one row, bias", PLAIN, &[1, 36], 20, BIAS),
        rows("tokens, bias, residual", PLAIN, &[2, 33, 40], 68, RESIDUAL),
        rows("tile sizes exactly", PLAIN, &[128, 64], 128, BIAS),
        rows("columns not a multiple of four", PLAIN, &[3, 70, 44], 70, RESIDUAL),
        rows("few rows, long sum", SILU, &[3, 2052], 44, RESIDUAL),
        rows("few rows, long sum, columns not a multiple of four", GELU, &[2, 1036], 17, RESIDUAL),
        rows("many tiles of 128", PLAIN, &[2, 705, 8], 1412, BIAS),
        rows("one past the tiles", SILU, &[129, 68], 132, RESIDUAL),
        rows("channels not a multiple of four", GELU, &[2, 9, 30], 18, RESIDUAL),
        rows("steps of 32 along K, several tiles", SILU, &[3, 95, 96], 268, ALL_FULL),
    ]
}

fn convolutions() -> Vec<Case> {
    let (one, two, none, around) = ([1, 1], [2, 2], [0; 4], [1; 4]);
    vec![
        pictures("1x1, odd channels", [2, 5, 3, 9], [7, 1, 1], one, none, BIAS),
        pictures("1x1, channels in fours, all inputs", [2, 9, 13, 20], [36, 1, 1], one, none, ALL),
        pictures("3x3, odd channels, no bias", [2, 7, 4, 5], [6, 3, 3], one, around, ALONE),
        pictures("3x3, channels in fours", [2, 6, 9, 8], [12, 3, 3], one, around, BIAS),
        pictures("3x3, time embedding", [3, 9, 7, 16], [32, 3, 3], one, around, TIME),
        pictures("3x3, residual", [2, 8, 11, 32], [40, 3, 3], one, around, RESIDUAL),
        pictures("3x3, odd output channels, all inputs", [3, 5, 6, 12], [13, 3, 3], one, around, ALL),
        pictures("3x3, stride 2", [2, 10, 7, 8], [20, 3, 3], two, around, BIAS),
        pictures("3x3, stride 2, padded at bottom and right", [2, 6, 9, 4], [8, 3, 3], two, [0, 1, 0, 1], BIAS),
        pictures("3x5, uneven strides and paddings", [2, 8, 11, 12], [4, 3, 5], [2, 1], [0, 3, 2, 1], TIME),
        pictures("5x3, unpadded", [2, 9, 7, 3], [5, 5, 3], one, none, RESIDUAL),
        pictures("one input channel", [3, 9, 6, 1], [8, 3, 3], one, around, BIAS),
        pictures("one output channel", [2, 9, 6, 36], [1, 3, 3], one, around, BIAS),
        pictures("three input channels to sixteen", [2, 11, 5, 3], [16, 3, 3], one, around, BIAS),
        pictures("one past the tiles, pointwise", [1, 3, 43, 20], [129, 1, 1], one, none, TIME),
        pictures("many input channels, few pixels", [2, 3, 2, 260], [24, 3, 3], one, around, ALL),
        pictures("many pixels, every input", [2, 37, 65, 4], [96, 3, 3], one, around, ALL),
        pictures("many input channels, few pixels, odd output channels", [2, 2, 3, 132], [6, 3, 3], one, around, ALL),
        pictures("nine input channels", [2, 7, 12, 9], [20, 3, 3], one, around, BIAS),
        pictures("many tiles of 128, pictures", [2, 47, 61, 3], [362, 1, 3], one, [0, 0, 1, 1], BIAS),
        pictures("Winograd's tiles, every input", [3, 13, 15, 64], [60, 3, 3], one, around, ALL),
        pictures("Winograd's tiles, unpadded, even sizes", [2, 18, 20, 52], [100, 3, 3], one, [0, 1, 2, 0], TIME),
        pictures("steps of 32 along K, windows", [2, 9, 17, 64], [72, 3, 3], one, around, ALL),
        pictures("64 pixels by 64 channels", [1, 8, 8, 16], [64, 3, 3], one, around, RESIDUAL),
    ]
}

/// Groups, dilation, one and three axes.
fn other_windows() -> Vec<Case> {
    let around = |stride, padding, dilation| WindowAxis { stride, padding: [padding; 2], dilation };
    let grouped = |groups| Windows { axes: vec![around(1, 1, 1); 2], groups, upsample: 1 };
    let dilated = Conv2d { padding: [2, 1, 3, 0], dilation: [2, 3], ..Conv2d::default() };
    let line = |axis| Windows { axes: vec![axis], groups: 1, upsample: 1 };
    let uneven = WindowAxis { stride: 3, padding: [0, 4], dilation: 2 };
    let volume = Windows { axes: vec![around(2, 1, 1), around(1, 0, 2), uneven], groups: 1, upsample: 1 };
    let causal = WindowAxis { padding: [2, 0], ..WindowAxis::default() };
    let video = Windows { axes: vec![causal, around(1, 1, 1), around(1, 1, 1)], groups: 1, upsample: 1 };
    vec![
        windows("groups of odd channels", grouped(3), PLAIN, &[2, 5, 4, 9], &[6, 3, 3], ALL),
        windows("groups in fours", grouped(2), SILU, &[2, 6, 7, 24], &[40, 3, 3], ALL),
        windows("one channel a group", grouped(20), PLAIN, &[2, 7, 5, 20], &[20, 3, 3], BIAS),
        windows(
            "one tap, groups",
            Windows { axes: vec![around(1, 0, 1); 2], groups: 4, upsample: 1 },
            PLAIN,
            &[2, 3, 5, 32],
            &[16, 1, 1],
            BIAS,
        ),
        windows("dilation", dilated.clone().into(), PLAIN, &[2, 9, 11, 12], &[20, 3, 3], TIME),
        windows("dilation, odd channels", dilated.into(), PLAIN, &[2, 8, 13, 5], &[7, 2, 3], RESIDUAL),
        windows("a line", line(around(1, 2, 1)), GELU, &[3, 37, 20], &[36, 5], ALL),
        windows("a line, strided, dilated, odd channels", line(uneven), PLAIN, &[2, 41, 3], &[5, 4], TIME),
        windows("three axes, all uneven", volume.clone(), PLAIN, &[2, 5, 6, 10, 8], &[12, 3, 2, 3], ALL),
        windows("three axes, odd channels", volume, PLAIN, &[1, 4, 5, 9, 3], &[6, 2, 3, 2], RESIDUAL),
        windows("three axes, causal in time", video, SILU, &[2, 3, 6, 5, 16], &[24, 3, 3, 3], ALL),
    ]
}

/// The epilogue: each part alone, and all together.
fn epilogues() -> Vec<Case> {
    let conv = || Windows::from(Conv2d { padding: [1; 4], ..Conv2d::default() });
    let scaled = |epilogue| Epilogue { scale: 0.37, ..epilogue };
    let gate = |activation| Epilogue { activation, gate: true, ..PLAIN };
    let (gelu, silu) = (Some(ActivationKind::Gelu), Some(ActivationKind::Silu));
    vec![
        rows("a row an image on tokens", SILU, &[3, 19, 24], 36, ALL_IMAGE),
        rows("a row an image, odd columns", PLAIN, &[2, 11, 20], 7, ALL_IMAGE),
        rows("two full tensors around an activation", SILU, &[2, 21, 16], 72, ALL_FULL),
        rows("scale", scaled(GELU), &[2, 13, 28], 20, RESIDUAL),
        rows("gate", gate(gelu), &[2, 33, 40], 136, BIAS),
        rows("gate, every input, odd columns", scaled(gate(silu)), &[3, 7, 22], 10, ALL_FULL),
        rows("gate, every input, workgroups that are not full", scaled(gate(gelu)), &[2, 71, 36], 264, ALL_FULL),
        rows("gate, rows of images", gate(silu), &[3, 45, 24], 128, ALL_IMAGE),
        rows("gate without activation", gate(None), &[2, 5, 12], 24, ALL_IMAGE),
        windows("activation on pictures, every input", conv(), scaled(SILU), &[2, 9, 10, 32], &[64, 3, 3], ALL),
        windows("full summand before the activation", conv(), GELU, &[2, 12, 9, 36], &[40, 3, 3], ALL_FULL),
        windows("gate on pictures", conv(), gate(silu), &[2, 7, 6, 12], &[16, 3, 3], ALL),
    ]
}
