//! Matrix units, which no CPU driver has: the kernel that uses them runs with plain loops in place of the few functions
//! that do (`wgsl/include/matrix_16.wgsl`), so that everything else in it, which is all its arithmetic of indices, is
//! compared with the reference.

use unmist::caps::Caps;
use unmist::kernel::find_include;
use unmist::ops::{Knobs, registry};
use unmist::plan::{Choice, Forced};
use unmist::verify::{PreparedCase, Run, Storage};

use super::texts::matrices;
use crate::device::gpu;

/// `matrix_16.wgsl` and `matrix_8.wgsl` in plain WGSL. Factors stay where they are until they are multiplied; of sums,
/// every invocation of a subgroup has its share: those at `lane`, `lane + SUBGROUP` and so on, row-major.
const EMULATION: &str = "
const SHARE: u32 = MATRIX * MATRIX / SUBGROUP;
struct matrix_a { at: u32 }
struct matrix_b { at: u32 }
struct matrix_c { sums: array<f32, SHARE> }
var<private> lane: u32;
fn load_a(at: u32) -> matrix_a { return matrix_a(at); }
fn load_b(at: u32) -> matrix_b { return matrix_b(at); }
fn multiply_add(a: matrix_a, b: matrix_b, c: matrix_c) -> matrix_c {
    var result = c;
    for (var i = 0u; i < SHARE; i++) {
        let row = (i * SUBGROUP + lane) / MATRIX;
        let column = (i * SUBGROUP + lane) % MATRIX;
        for (var k = 0u; k < MATRIX; k++) {
            let x = f32(tile_x[a.at + row * TILE_K + k]);
            let w = f32(tile_w[b.at + column * TILE_K + k]);
            result.sums[i] = fma(x, w, result.sums[i]);
        }
    }
    return result;
}
fn store_even(c: matrix_c, at: u32) {
    var stored = c;
    for (var i = 0u; i < SHARE; i++) { even[at + i * SUBGROUP + lane] = stored.sums[i]; }
}
fn store_odd(c: matrix_c, at: u32) {
    var stored = c;
    for (var i = 0u; i < SHARE; i++) { odd[at + i * SUBGROUP + lane] = stored.sums[i]; }
}
";

/// Cases that take every path between them: whole and ragged steps along K, windows and none, a gate.
const CASES: [&str; 4] = [
    "steps of 32 along K, several tiles",
    "steps of 32 along K, windows",
    "3x3, odd output channels, all inputs",
    "gate, every input, workgroups that are not full",
];

/// The kernel's text without cooperative matrices.
fn emulated(size: u32, name: &str, wgsl: &str) -> Option<String> {
    let include = find_include(&format!("matrix_{size}")).expect("it exists");
    let enable = "enable wgpu_cooperative_matrix;\n";
    let begin = "    begin_tiles(";
    (name == "contraction/6_matrix").then(|| {
        for part in [include.trim_end(), enable, begin] {
            assert!(wgsl.contains(part), "{name} with matrices of {size} contains {part}");
        }
        let wgsl = wgsl.replace(enable, "").replace(include.trim_end(), EMULATION);
        let wgsl = wgsl.replace(begin, &format!("    lane = local % SUBGROUP;\n{begin}"));
        // f32 holds all that f16 does.
        let f16 = [("enable f16;\n", ""), ("array<f16,", "array<f32,"), ("= f16(", "= f32(")];
        let f16 = f16.iter().filter(|_| !gpu().caps().f16);
        f16.fold(wgsl, |wgsl, (from, to)| wgsl.replace(from, to))
    })
}

/// The adapter under test as if it had units for matrices of this size.
fn caps(size: u32) -> Caps {
    let real = gpu().caps();
    let workgroup_memory_bytes = if real.f16 { real.workgroup_memory_bytes } else { real.workgroup_memory_bytes / 2 };
    let subgroup_sizes = Some([8; 2]); // the emulation has its own
    Caps { cooperative_matrices: matrices(size), f16: true, subgroup_sizes, workgroup_memory_bytes, ..real.clone() }
}

#[test]
#[ignore = "a CPU driver compiles the loops for many minutes: tests/README.md has the command"]
fn kernels_for_matrix_units_agree_when_loops_stand_for_the_units() {
    let info = registry().into_iter().find(|info| info.name == "contraction").expect("it exists");
    let (mut compared, mut failures) = (0, Vec::new());
    for (number, label) in CASES.into_iter().enumerate() {
        let case = info.cases.iter().find(|case| case.label == label).unwrap_or_else(|| panic!("no case {label:?}"));
        for (storage, size) in [(Storage::F16, 16), (Storage::F16ToF32, 8)] {
            let prepared = PreparedCase::new(case, storage).expect("fits").expect("is stored so");
            let settings = prepared.settings(&caps(size), "matrix");
            assert!(!settings.is_empty(), "{label:?} in {}", storage.name());
            // The loops take long to compile. Matrices of 16: each tile of 64, as one part and as two, and once one of
            // 128. Of 8, of which a tile has four times as many: one tile, with windows and without.
            let chosen = |knobs: &Knobs| {
                let [tile, tile_k, splits] = ["TILE", "TILE_K", "SPLITS"].map(|name| knobs.get(name));
                match (size, tile) {
                    (16, 64) => splits == 1 || (number == 0 && splits == 2),
                    (16, _) => number == 0 && (tile_k, splits) == (32, 1),
                    _ => number < 2 && (tile, tile_k, splits) == (64, 32, 1),
                }
            };
            for knobs in settings.into_iter().filter(chosen) {
                let forced = Forced { knobs: knobs.clone(), ..Forced::operation(info.name, "matrix") };
                let choice = Choice { forced: vec![forced], ..Choice::default() };
                let edit = |name: &str, wgsl: &str| emulated(size, name, wgsl);
                match prepared.check_emulated(gpu(), &caps(size), choice, Run::Unchecked, &edit) {
                    Ok(_) => compared += 1,
                    Err(e) => failures.push(format!("{size}, {knobs}, {label:?}: {e}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 10, "{compared} comparisons are too few to prove anything");
}
