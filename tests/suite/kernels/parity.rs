//! Every operation × case × storage × variant against the reference: unchecked, folded and checked
//! ([`unmist::verify::Run`]).

use std::time::Instant;

use unmist::ops::{self, Info, Size};
use unmist::verify::{Selection, sweep};

use crate::common::thorough;
use crate::device::gpu;

/// The operations under test: all, or those that `UNMIST_TEST_OPS=contraction,norm` names.
fn registry() -> Vec<Info> {
    let Ok(wanted) = std::env::var("UNMIST_TEST_OPS") else { return ops::registry() };
    let names: Vec<_> = wanted.split(',').collect();
    let chosen: Vec<_> = ops::registry().into_iter().filter(|i| names.contains(&i.name)).collect();
    assert_eq!(chosen.len(), names.len(), "UNMIST_TEST_OPS={wanted} names an operation that does not exist");
    chosen
}

/// Makes the comparisons of one size with the `wanted` variants (operation, variant); each must have been compared on
/// some small case, and the naive one on all. `UNMIST_TEST_THOROUGH=1`: every small case in every storage and way, four
/// times as many.
fn compare_all(size: Size, wanted: impl Fn(&str, &str) -> bool) {
    let mut failures = Vec::new();
    for info in registry() {
        let begin = Instant::now();
        let mut counts = Vec::new();
        for variant in info.variants.iter().filter(|variant| wanted(info.name, variant)) {
            let selection = Selection {
                sizes: &[size],
                variant: Some(variant),
                kernel: None,
                stop_at_first: false,
                thorough: thorough(),
            };
            let mut report = |failure: unmist::verify::Failure| failures.push(failure.to_string());
            let summaries = sweep(gpu(), &info, selection, &mut report).expect("the device is there");
            let equal: usize = summaries.iter().map(|summary| summary.equal).sum();
            counts.push(format!("{variant} {equal}"));
            let refused: usize = summaries.iter().map(|summary| summary.unsupported).sum();
            if *variant == "naive" && size == Size::Small && refused > 0 {
                failures.push(format!("{} naive: must take every case, and refuses {refused}", info.name));
            }
            // Matrix units are what CPU drivers do not have: `kernels::matrices`.
            let can = *variant != "matrix" || !gpu().caps().cooperative_matrices.is_empty();
            if size == Size::Small && equal == 0 && can {
                failures.push(format!("{} {variant}: no case could be compared on {}", info.name, gpu().describe()));
            }
        }
        eprintln!("{}: {} comparisons in {:.1} s", info.name, counts.join(", "), begin.elapsed().as_secs_f64());
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The contraction's kernels for GPUs with tiles in registers, which take a CPU driver longest to compile.
const TILES: [&str; 3] = ["pipelined", "subpixel", "registers"];

// Three tests, so that several cores have something to do.

#[test]
fn every_contraction_by_tiles_agrees_with_the_reference() {
    compare_all(Size::Small, |operation, variant| operation == "contraction" && TILES.contains(&variant));
}

#[test]
fn every_other_contraction_agrees_with_the_reference() {
    compare_all(Size::Small, |operation, variant| operation == "contraction" && !TILES.contains(&variant));
}

#[test]
fn every_other_operation_agrees_with_the_reference() {
    compare_all(Size::Small, |operation, _| operation != "contraction");
}

#[test]
fn every_variant_keeps_what_its_header_promises_for_large_sizes() {
    compare_all(Size::Large, |_, _| true);
}

#[test]
fn every_operation_has_cases_and_ends_with_its_naive_variant() {
    for info in registry() {
        assert_eq!(info.variants.last(), Some(&"naive"), "{} must end with its naive variant", info.name);
        assert!(info.cases_of(Size::Small).count() >= 3, "{} has too few cases", info.name);
    }
}

/// Single elements of a reference equal those of the whole result.
#[test]
fn sampled_references_are_parts_of_the_whole() {
    let mut compared = 0;
    for info in registry() {
        for case in info.cases_of(Size::Small) {
            compared += usize::from(unmist::verify::check_sampled(case).unwrap_or_else(|e| {
                panic!("{} \"{}\": {e}", info.name, case.label);
            }));
        }
    }
    // 113 when this was written. A single operation may have none.
    assert!(compared > 80 || std::env::var_os("UNMIST_TEST_OPS").is_some(), "only {compared} cases were compared");
}
