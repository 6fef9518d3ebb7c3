//! Every operation × case × variant × storage against the reference.

use std::time::Instant;

use unmist::ops::{self, Info};
use unmist::verify::{CaseResult, Storage, check_case};

use crate::device::gpu;

/// The operations under test: all, or those that `UNMIST_TEST_OPS=conv2d,linear` names.
fn registry() -> Vec<Info> {
    let Ok(wanted) = std::env::var("UNMIST_TEST_OPS") else { return ops::registry() };
    let names: Vec<_> = wanted.split(',').collect();
    let chosen: Vec<_> = ops::registry().into_iter().filter(|i| names.contains(&i.name)).collect();
    assert_eq!(chosen.len(), names.len(), "UNMIST_TEST_OPS={wanted} names an operation that does not exist");
    chosen
}

#[test]
fn every_variant_agrees_with_the_reference() {
    let mut failures = Vec::new();
    for info in registry() {
        for variant in &info.variants {
            let mut compared = 0;
            let begin = Instant::now();
            for case in &info.cases {
                for storage in Storage::ALL {
                    match check_case(gpu(), case, variant, storage) {
                        Ok(CaseResult::Equal(_)) => compared += 1,
                        Ok(CaseResult::Unsupported(_)) => {}
                        Err(error) => failures.push(format!(
                            "{} {variant} {} \"{}\": {error}",
                            info.name,
                            storage.name(),
                            case.label
                        )),
                    }
                }
            }
            eprintln!("{} {variant}: {compared} comparisons in {:.1} s", info.name, begin.elapsed().as_secs_f64());
            if compared == 0 {
                failures.push(format!("{} {variant}: no case could be compared on {}", info.name, gpu().describe()));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn naive_variants_accept_every_case() {
    for info in registry() {
        assert_eq!(info.variants.last(), Some(&"naive"), "{} must end with its naive variant", info.name);
        assert!(info.cases.len() >= 3, "{} has too few cases", info.name);
        for case in &info.cases {
            let result = check_case(gpu(), case, "naive", Storage::F32)
                .unwrap_or_else(|e| panic!("{} \"{}\": {e}", info.name, case.label));
            assert!(matches!(result, CaseResult::Equal(_)), "{} \"{}\": {result:?}", info.name, case.label);
        }
    }
}
