//! Settings that the rules do not choose: a tuned table or the user may, so those that a variant lists are compared
//! with the reference on some case.

use std::collections::BTreeMap;

use unmist::ops::{Knobs, Size, registry};
use unmist::verify::{CaseResult, PreparedCase, Run, Storage};

use crate::common::thorough;
use crate::device::gpu;

/// Cases that together take every path of the contraction's GPU tiles: ragged and whole steps along K, windows and
/// none, gates, split sums, tiles that are not full.
const TILES: [(&str, Storage); 6] = [
    ("steps of 32 along K, several tiles", Storage::F16),
    ("steps of 32 along K, windows", Storage::F32),
    ("few rows, long sum", Storage::F16),
    ("3x3, odd output channels, all inputs", Storage::F16),
    ("gate, every input, workgroups that are not full", Storage::F32),
    ("three axes, all uneven", Storage::F16),
];

/// Compares the settings of a variant with the reference, each on one of the cases that it is listed for; of many every
/// second. With `UNMIST_TEST_THOROUGH=1` all, on a third of their cases. Says how many settings there were.
fn compare_settings(operation: &str, variant: &str, cases: &[(&str, Storage)]) -> usize {
    let info = registry().into_iter().find(|info| info.name == operation).expect("a known operation");
    let prepared: Vec<_> = cases
        .iter()
        .map(|(label, storage)| {
            let case = info.cases.iter().find(|case| case.label == *label);
            let case = case.unwrap_or_else(|| panic!("no case {label:?}"));
            PreparedCase::new(case, *storage).expect("fits").expect("is stored so")
        })
        .collect();
    let mut listed: BTreeMap<Knobs, Vec<usize>> = BTreeMap::new();
    for (number, case) in prepared.iter().enumerate() {
        for knobs in case.settings(gpu().caps(), variant) {
            listed.entry(knobs).or_default().push(number);
        }
    }
    let mut failures = Vec::new();
    let every = if thorough() || listed.len() < 20 { 1 } else { 2 };
    for (turn, (knobs, on)) in listed.iter().enumerate().step_by(every) {
        let step = if thorough() { 3 } else { on.len() };
        for number in on.iter().skip(turn % on.len().min(step)).step_by(step) {
            match prepared[*number].check_setting(gpu(), variant, knobs, Run::Unchecked) {
                Ok(CaseResult::Equal(_)) => {}
                other => failures.push(format!("{operation} {variant} {knobs}, {:?}: {other:?}", cases[*number])),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    listed.len()
}

#[test]
fn settings_of_pipelined_tiles_agree() {
    let settings = compare_settings("contraction", "pipelined", &TILES);
    assert!(settings > 60, "{settings} settings are fewer than there are");
}

/// The rules split the last sums alone only where there are many, so that no small case does: with a setting of its
/// own, each in the three ways to run.
#[test]
fn tiles_of_which_the_last_are_split_agree() {
    let info = registry().into_iter().find(|info| info.name == "contraction").expect("a known operation");
    let (mut compared, mut failures) = (0, Vec::new());
    for case in info.cases_of(Size::Small) {
        let prepared = PreparedCase::new(case, Storage::F16).expect("fits");
        let prepared = prepared.map_or_else(|| PreparedCase::new(case, Storage::F32).expect("fits"), Some);
        let prepared = prepared.expect("can be stored as f32");
        for run in [Run::Unchecked, Run::Checked, Run::Folded] {
            match prepared.check(gpu(), "pipelined", run, Some("contraction/5_streams")) {
                Ok(CaseResult::Equal(_)) => compared += 1,
                Ok(CaseResult::Unsupported(_)) => {}
                Err(why) => failures.push(format!("\"{}\" {run:?}: {why}", case.label)),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(compared >= 24, "{compared} comparisons are fewer than there are");
}

/// Tiles of each shape, full and not, and sums in any number of parts.
#[test]
fn settings_of_weight_gradients_agree() {
    let cases = [
        ("product, more than two tiles", Storage::F32),
        ("3 x 3, a tile and one", Storage::F16),
        ("in parts", Storage::F32),
    ];
    assert_eq!(compare_settings("weight_gradient", "registers", &cases), 24);
    let settings = compare_settings("weight_gradient", "shuffle", &cases);
    assert!(settings >= 9, "{settings} settings are fewer than there are");
}

#[test]
fn settings_of_flash_attention_agree() {
    let cases = [
        ("D 40, one past the tiles, text of 77", Storage::F16),
        ("nearly one-hot, causal", Storage::F32),
        ("bias, mask and shared keys, D 64, causal", Storage::F16),
        ("D 160, text of 77", Storage::F32),
        ("D 512, picture", Storage::F16),
    ];
    let settings = compare_settings("attention", "flash", &cases);
    assert_eq!(settings, 8);
}
