//! Matrix units, which no CPU driver has: the kernel that uses them runs with plain loops in place of the few functions
//! that do (`wgsl/include/matrix_16.wgsl`), so that everything else in it, which is all its arithmetic of indices, is
//! compared with the reference.

use unmist::caps::Caps;
use unmist::kernel::find_include;
use unmist::ops::registry;
use unmist::plan::{Choice, Forced};
use unmist::verify::{PreparedCase, Run, Storage};

use super::texts::matrices;
use crate::device::gpu;

/// `matrix_16.wgsl` and `matrix_8.wgsl` in plain WGSL: every invocation of a subgroup has whole matrices, and all of
/// them compute and store the same.
const EMULATION: &str = "
struct matrix_a { values: array<f32, MATRIX * MATRIX> } // [row, k]
struct matrix_b { values: array<f32, MATRIX * MATRIX> } // [k, column]
struct matrix_c { values: array<f32, MATRIX * MATRIX> } // [row, column]
fn load_a(at: u32) -> matrix_a {
    var a: matrix_a;
    for (var i = 0u; i < MATRIX * MATRIX; i++) { a.values[i] = f32(tile_x[at + i / MATRIX * TILE_K + i % MATRIX]); }
    return a;
}
fn load_b(at: u32) -> matrix_b {
    var b: matrix_b;
    for (var i = 0u; i < MATRIX * MATRIX; i++) { b.values[i] = f32(tile_w[at + i % MATRIX * TILE_K + i / MATRIX]); }
    return b;
}
fn multiply_add(a_in: matrix_a, b_in: matrix_b, c_in: matrix_c) -> matrix_c {
    var a = a_in;
    var b = b_in;
    var c = c_in;
    for (var i = 0u; i < MATRIX * MATRIX; i++) {
        for (var k = 0u; k < MATRIX; k++) {
            c.values[i] = fma(a.values[i / MATRIX * MATRIX + k], b.values[k * MATRIX + i % MATRIX], c.values[i]);
        }
    }
    return c;
}
fn store_even(c_in: matrix_c, at: u32) {
    var c = c_in;
    for (var i = 0u; i < MATRIX * MATRIX; i++) { even[at + i] = c.values[i]; }
}
fn store_odd(c_in: matrix_c, at: u32) {
    var c = c_in;
    for (var i = 0u; i < MATRIX * MATRIX; i++) { odd[at + i] = c.values[i]; }
}
";

/// The kernel's text without cooperative matrices.
fn emulated(size: u32, name: &str, wgsl: &str) -> Option<String> {
    let include = find_include(&format!("matrix_{size}")).expect("it exists");
    let enable = "enable wgpu_cooperative_matrix;\n";
    (name == "contraction/6_matrix").then(|| {
        assert!(wgsl.contains(include.trim_end()) && wgsl.contains(enable), "{name} includes matrix_{size}");
        let wgsl = wgsl.replace(enable, "").replace(include.trim_end(), EMULATION);
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
fn kernels_for_matrix_units_agree_when_loops_stand_for_the_units() {
    let info = registry().into_iter().find(|info| info.name == "contraction").expect("it exists");
    let (mut compared, mut failures) = (0, Vec::new());
    for case in info.cases_of(unmist::ops::Size::Small) {
        for (storage, size) in [(Storage::F16, 16), (Storage::F16ToF32, 8)] {
            let prepared = PreparedCase::new(case, storage).expect("fits").expect("is stored so");
            let settings = prepared.settings(&caps(size), "matrix");
            // Every setting on the cases where K is long enough to be split, otherwise the first of each tile.
            let several = case.label.starts_with("steps of 32") || case.label.starts_with("few rows, long sum");
            for knobs in settings.into_iter().filter(|knobs| several || knobs.get("SPLITS") == 1) {
                let forced = Forced { knobs: knobs.clone(), ..Forced::operation(info.name, "matrix") };
                let choice = Choice { forced: vec![forced], ..Choice::default() };
                let edit = |name: &str, wgsl: &str| emulated(size, name, wgsl);
                match prepared.check_emulated(gpu(), &caps(size), choice, Run::Unchecked, &edit) {
                    Ok(_) => compared += 1,
                    Err(e) => failures.push(format!("{size}, {knobs}, \"{}\": {e}", case.label)),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 100, "{compared} comparisons are too few to prove anything");
}
