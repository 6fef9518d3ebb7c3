//! Settings that the rules do not choose: a tuned table or the user may, so every one that a variant lists is compared
//! with the reference on some case.

use std::collections::BTreeSet;

use unmist::ops::registry;
use unmist::verify::{CaseResult, PreparedCase, Run, Storage};

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

/// Compares every setting of a variant on these cases: each number of parts that K is split into, and of all other knobs
/// each combination on a third of the cases. Says how many settings there were.
fn compare_settings(operation: &str, variant: &str, cases: &[(&str, Storage)]) -> usize {
    let info = registry().into_iter().find(|info| info.name == operation).expect("a known operation");
    let (mut listed, mut compared, mut failures) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (number, (label, storage)) in cases.iter().enumerate() {
        let case = info.cases.iter().find(|case| case.label == *label).unwrap_or_else(|| panic!("no case {label:?}"));
        let prepared = PreparedCase::new(case, *storage).expect("fits").expect("is stored so");
        let settings = prepared.settings(gpu().caps(), variant);
        let mut tiles: Vec<String> = Vec::new();
        for knobs in settings {
            let tile: Vec<_> = knobs.iter().filter(|(name, _)| *name != "SPLITS").collect();
            let tile = format!("{tile:?}");
            if !tiles.contains(&tile) {
                tiles.push(tile);
            }
            listed.insert(knobs.clone());
            if tiles.len() % 3 != number % 3 {
                continue;
            }
            match prepared.check_setting(gpu(), variant, &knobs, Run::Unchecked) {
                Ok(CaseResult::Equal(_)) => {}
                other => {
                    let storage = storage.name();
                    failures.push(format!("{operation} {variant} {knobs}, {storage} {label:?}: {other:?}"));
                }
            }
            compared.insert(knobs);
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    let missing: Vec<_> = listed.difference(&compared).map(ToString::to_string).collect();
    assert!(missing.is_empty(), "{operation} {variant}: not compared: {missing:?}");
    compared.len()
}

#[test]
fn every_setting_of_pipelined_tiles_agrees() {
    let settings = compare_settings("contraction", "pipelined", &TILES);
    assert!(settings > 60, "{settings} settings are fewer than there are");
}
