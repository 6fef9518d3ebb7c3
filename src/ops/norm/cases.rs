//! Parity cases of norms.

use super::{MODULATION, Modulation, Norm, NormKind};
use crate::graph::TensorDesc;
use crate::ops::activation::ActivationKind;
use crate::ops::{Case, CaseInput, Fill};

pub(super) fn all() -> Vec<Case> {
    [group_cases(), row_cases(), modulated_cases()].concat()
}

/// A case with `x` filled as given, and gamma and beta where `affine` says so.
fn case(label: &'static str, op: Norm, shape: &[usize], fill: Fill, affine: [bool; 2]) -> Case {
    let channels = shape[shape.len() - 1];
    let x = CaseInput { desc: TensorDesc::f32(shape), fill, always_f32: false };
    let gamma = CaseInput::f32([channels], Fill::Uniform(0.4, 1.7)).filter(|_| affine[0]);
    let beta = CaseInput::f32([channels], Fill::Normal).filter(|_| affine[1]);
    Case::new(label, op, vec![Some(x), gamma, beta, None])
}

fn group_cases() -> Vec<Case> {
    let case = |label, shape: &[usize], groups, eps, activation, fill| {
        let op = Norm { activation, ..Norm::new(NormKind::Group { groups }, eps) };
        case(label, op, shape, fill, [true; 2])
    };
    let silu = Some(ActivationKind::Silu);
    vec![
        case("groups of 10 channels, silu", &[2, 5, 7, 40], 4, 1e-5, silu, Fill::Normal),
        case("groups of 3 channels", &[3, 7, 4, 15], 5, 1e-6, None, Fill::Normal),
        case("one channel a group", &[2, 3, 5, 12], 12, 1e-5, Some(ActivationKind::Gelu), Fill::Normal),
        case("one group, tokens", &[2, 33, 20], 1, 1e-5, None, Fill::Normal),
        case("groups of 80 channels", &[2, 33, 160], 2, 1e-5, silu, Fill::Normal),
        case("one position", &[3, 24], 3, 1e-5, silu, Fill::Normal),
        case("groups, eps larger than the variance", &[2, 4, 3, 8], 2, 1e-2, None, Fill::Uniform(-1e-2, 1e-2)),
        case("chunks exactly", &[1, 16, 16, 64], 8, 1e-6, silu, Fill::Uniform(-1.0, 3.0)),
        case("groups, two whole workgroups", &[2, 4, 4, 16], 4, 1e-5, silu, Fill::Normal),
        case("joined within a group", &[2, 5, 7, 40], 4, 1e-5, silu, Fill::Uniform(-1.0, 3.0)).joined(12),
        case("joined between groups", &[3, 4, 3, 48], 6, 1e-5, None, Fill::Normal).joined(32),
        case("joined tokens, groups of 80 channels", &[2, 33, 160], 2, 1e-5, silu, Fill::Normal).joined(100),
        case("joined, odd channels", &[2, 3, 5, 12], 3, 1e-5, None, Fill::Normal).joined(7),
        case("a film", &[2, 3, 5, 4, 12], 3, 1e-5, None, Fill::Normal),
        // Sums of more than 10 000 values.
        case("a long reduction", &[2, 31, 67, 32], 4, 1e-5, silu, Fill::Uniform(-1.0, 3.0)).tolerance(1e-4),
        // The mean is 170 times the deviation: rounding the mean alone to f32 moves the result by up to 170 · 2⁻²⁴ =
        // 1e-5.
        case("groups, mean far from zero", &[2, 13, 9, 16], 4, 1e-5, None, Fill::Uniform(99.0, 101.0)).tolerance(1e-4),
        case("groups of 1.4 million values", &[2, 300, 300, 32], 2, 1e-5, None, Fill::Uniform(-1.0, 3.0))
            .tolerance(1e-4)
            .large(),
        case("SD 1.5, 64 x 64 pixels, 320 channels", &[2, 64, 64, 320], 32, 1e-5, silu, Fill::Normal)
            .tolerance(1e-4)
            .perf(),
        case("VAE, 256 x 256 pixels, 256 channels", &[1, 256, 256, 256], 32, 1e-6, silu, Fill::Normal)
            .tolerance(1e-4)
            .perf(),
    ]
}

fn row_cases() -> Vec<Case> {
    let layer =
        |label, shape: &[usize], eps, fill| case(label, Norm::new(NormKind::Layer, eps), shape, fill, [true; 2]);
    let rms = |label, shape: &[usize], eps, affine| {
        case(label, Norm::new(NormKind::Rms, eps), shape, Fill::Uniform(-1.0, 3.0), affine)
    };
    let bare = Norm { activation: Some(ActivationKind::Silu), ..Norm::new(NormKind::Layer, 1e-6) };
    vec![
        layer("odd channels", &[3, 7, 13], 1e-5, Fill::Normal),
        layer("tokens", &[2, 33, 40], 1e-5, Fill::Normal),
        layer("rows, two whole workgroups", &[2, 8, 16], 1e-5, Fill::Normal),
        layer("one vector of four a row", &[9, 4], 1e-6, Fill::Normal),
        layer("rows, eps larger than the variance", &[2, 5, 36], 1e-2, Fill::Uniform(-1e-2, 1e-2)),
        layer("one past a workgroup", &[2, 9, 260], 1e-5, Fill::Uniform(-1.0, 3.0)),
        layer("long rows", &[5, 3, 1284], 1e-5, Fill::Uniform(-1.0, 3.0)),
        // As for groups.
        layer("rows, mean far from zero", &[2, 13, 72], 1e-5, Fill::Uniform(99.0, 101.0)).tolerance(1e-4),
        case("no gamma, no beta, silu", bare, &[2, 7, 20], Fill::Normal, [false; 2]),
        rms("rms, odd channels", &[3, 7, 13], 1e-6, [true, false]),
        rms("rms, each head of 8", &[2, 9, 3, 8], 1e-6, [true, false]),
        rms("rms, nothing learned", &[2, 5, 68], 1e-5, [false, false]),
        rms("rms, long rows", &[5, 3, 1284], 1e-6, [true, false]),
        layer("more rows than a dispatch is wide", &[600_000, 4], 1e-5, Fill::Normal).large(),
        layer("SD 1.5, rows of 64 x 64 pixels, 320 channels", &[2, 4096, 320], 1e-5, Fill::Normal).perf(),
        layer("SDXL, rows of 32 x 32 pixels, 1280 channels", &[2, 1024, 1280], 1e-5, Fill::Normal).perf(),
        rms("Z-Image, 4096 tokens, 3840 channels", &[1, 4096, 3840], 1e-5, [true, false]).perf(),
    ]
}

fn modulated_cases() -> Vec<Case> {
    let case = |label, kind, shape: &[usize], modulation: Modulation, by: &[usize], affine, activation| {
        let op = Norm { modulation: Some(modulation), activation, ..Norm::new(kind, 1e-5) };
        let mut case = case(label, op, shape, Fill::Normal, affine);
        case.inputs[MODULATION] = CaseInput::normal(by);
        case
    };
    let (group, layer, rms) = (|groups| NormKind::Group { groups }, NormKind::Layer, NormKind::Rms);
    let both = Modulation { scale: 0, shift: Some(1) };
    let of_six = Modulation { scale: 4, shift: Some(3) };
    let scale = Modulation { scale: 1, shift: None };
    let of_three = Modulation { scale: 2, shift: Some(1) };
    let silu = Some(ActivationKind::Silu);
    vec![
        case("groups of an image modulated, silu", group(4), &[3, 3, 5, 24], both, &[3, 48], [true; 2], silu),
        case("groups of an image modulated, 7 channels", group(1), &[3, 3, 5, 7], both, &[3, 14], [true; 2], None),
        case("groups of an image, scale behind shift", group(6), &[3, 3, 5, 24], of_three, &[3, 72], [true; 2], None),
        case("groups, each position modulated", group(2), &[2, 9, 12], both, &[2, 9, 24], [true; 2], None),
        case("rows of an image modulated, as AdaLN", layer, &[2, 9, 20], of_six, &[2, 1, 120], [false; 2], None),
        case("each row modulated, 5 channels", layer, &[2, 9, 5], of_six, &[2, 9, 30], [true; 2], None),
        case("each row modulated, 68 channels", layer, &[2, 7, 68], both, &[2, 7, 136], [false; 2], None),
        case("rms, scale alone", rms, &[3, 5, 36], scale, &[3, 1, 72], [true, false], None),
    ]
}
