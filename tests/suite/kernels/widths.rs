//! Kernels for CPU drivers use subgroups of whatever size the driver has: 8 on most machines, 4 without AVX, 16 with
//! AVX-512. lavapipe takes the width of its vectors from the environment, so other sizes run in processes of their own.

use std::path::Path;
use std::process::Command;

use unmist::ops::{Size, registry};
use unmist::verify::{CaseResult, PreparedCase, Run, Storage};

use crate::device::gpu;

const VARIANTS: [(&str, &str); 5] = [
    ("contraction", "shuffle"),
    ("contraction", "winograd_shuffle"),
    ("contraction", "winograd4_shuffle"),
    ("attention", "shuffle"),
    ("attention_gradient", "shuffle"),
];
/// Cases of each variant, evenly among those that it can compute.
const CASES: usize = 4;

#[test]
fn kernels_for_cpu_drivers_agree_at_this_width() {
    let size = gpu().caps().subgroup_size().expect("CPU drivers have subgroups of one size");
    if let Ok(wanted) = std::env::var("UNMIST_TEST_SUBGROUP") {
        assert_eq!(size.to_string(), wanted, "the size of subgroups");
    }
    let mut failures = Vec::new();
    for (operation, variant) in VARIANTS {
        let info = registry().into_iter().find(|info| info.name == operation).expect("a known operation");
        let usable: Vec<_> = info
            .cases_of(Size::Small)
            .filter_map(|case| {
                let prepared =
                    PreparedCase::new(case, Storage::F32).expect("fits").expect("every case is stored in f32");
                (!prepared.settings(gpu().caps(), variant).is_empty()).then_some((case.label, prepared))
            })
            .collect();
        assert!(usable.len() >= CASES, "{operation} {variant}: only {} cases in subgroups of {size}", usable.len());
        for (label, prepared) in usable.iter().step_by(usable.len() / CASES) {
            match prepared.check(gpu(), variant, Run::Unchecked, None) {
                Ok(CaseResult::Equal(_)) => {}
                other => failures.push(format!("{operation} {variant} \"{label}\": {other:?}")),
            }
        }
    }
    assert!(failures.is_empty(), "subgroups of {size}: {} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Of drivers other than lavapipe nothing chooses the width.
#[test]
fn kernels_for_cpu_drivers_agree_in_subgroups_of_4_and_16() {
    if !gpu().describe().contains("llvmpipe") {
        eprintln!("{} has subgroups of one size only", gpu().describe());
        return;
    }
    for (bits, size) in [("128", "4"), ("512", "16")] {
        // Mesa's cache takes compiled kernels of one width for those of another.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("width-{bits}"));
        let child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "kernels::widths::kernels_for_cpu_drivers_agree_at_this_width"])
            .envs([("LP_NATIVE_VECTOR_WIDTH", bits), ("UNMIST_TEST_SUBGROUP", size)])
            .env("MESA_SHADER_CACHE_DIR", &cache)
            .env("UNMIST_CACHE", &cache)
            .output()
            .expect("this program runs once more");
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("1 passed"), "vectors of {bits} bits:\n{text}");
    }
}
