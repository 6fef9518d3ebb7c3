//! Matrix units, which no CPU driver has: kernels that use them run with plain loops in place of the few functions that
//! do (`wgsl/include/matrix_*.wgsl`), so that everything else in them, which is all their arithmetic of indices, is
//! compared with the reference.

use std::collections::HashMap;

use unmist::caps::Caps;
use unmist::kernel::find_include;
use unmist::ops::{Knobs, registry};
use unmist::plan::{Choice, Forced};
use unmist::verify::{PreparedCase, Run, Storage};

use super::texts::matrices;
use crate::common::thorough;
use crate::device::gpu;

/// A kernel that uses matrix units, and what stands for them.
struct Emulated {
    operation: &'static str,
    kernel: &'static str,
    /// The include that uses `matrix_8` or `matrix_16`, whose name may end in the number.
    include: &'static str,
    /// Both in plain WGSL.
    ///
    /// Factors stay where they are until they are multiplied; of sums, every invocation of a subgroup has its share:
    /// those at `lane`, `lane + SUBGROUP` and so on, row-major. Loops begin at numbers that compilers do not know, or a
    /// CPU driver would write them out and compile for minutes.
    units: &'static str,
    cases: &'static [&'static str],
    /// Whether a setting is compared, on which case: all of them would take long to compile.
    chosen: fn(size: u32, case: usize, knobs: &Knobs) -> bool,
    /// Faults that must be noticed in this setting: on which case, what the text was, and what it is then.
    setting: fn() -> Knobs,
    faults: &'static [(usize, &'static str, &'static str)],
}

const CONTRACTION: Emulated = Emulated {
    operation: "contraction",
    kernel: "contraction/6_matrix",
    include: "matrix_tiles",
    units: "
const SHARE: u32 = MATRIX * MATRIX / SUBGROUP;
struct matrix_a { at: u32 }
struct matrix_b { at: u32 }
struct matrix_c { sums: array<f32, SHARE> }
var<private> lane: u32;
fn load_a(at: u32) -> matrix_a { return matrix_a(at); }
fn load_b(at: u32) -> matrix_b { return matrix_b(at); }
fn multiply_add(a: matrix_a, b: matrix_b, c: matrix_c) -> matrix_c {
    var result = c;
    for (var i = lane; i < MATRIX * MATRIX; i += SUBGROUP) {
        for (var k = i % MATRIX; k < i % MATRIX + MATRIX; k++) {
            let x = f32(tile_x[a.at + i / MATRIX * PITCH + k % MATRIX]);
            let w = f32(tile_w[b.at + i % MATRIX * PITCH + k % MATRIX]);
            result.sums[i / SUBGROUP] = fma(x, w, result.sums[i / SUBGROUP]);
        }
    }
    return result;
}
fn store_sums(c: matrix_c, at: u32) {
    var stored = c;
    for (var i = lane; i < MATRIX * MATRIX; i += SUBGROUP) {
        results[at + i / MATRIX * RESULT_ROW + i % MATRIX] = stored.sums[i / SUBGROUP];
    }
}
",
    // Between them whole and ragged steps along K, windows and none, a gate.
    cases: &[
        "steps of 32 along K, several tiles",
        "steps of 32 along K, windows",
        "3x3, odd output channels, all inputs",
        "gate, every input, workgroups that are not full",
        "joined after 12 of 40",
        "joined at a step of 32, gated",
    ],
    // Matrices of 16: each tile of 64 by 64, as one part and once as two, and once every larger one; without
    // `UNMIST_TEST_THOROUGH`, on most cases those of 32 along K. Of 8, of which a tile has four times as many: one
    // tile, with windows and without.
    chosen: |size, case, knobs| {
        let [m, n, k, splits] = ["TILE_M", "TILE_N", "TILE_K", "SPLITS"].map(|name| knobs.get(name));
        match (size, m * n) {
            (16, 4096) if case == 0 => k < 64 && (splits == 1 || (k, splits) == (32, 2)),
            (16, 4096) => (k == 32 || thorough() && k < 64) && splits == 1,
            (16, _) => case == 0 && k == 32 && splits == 1,
            _ => case < 2 && (m * n, k, splits) == (4096, 32, 1),
        }
    },
    setting: || Knobs::of([("TILE_M", 64), ("TILE_N", 64), ("TILE_K", 32), ("SUBGROUPS", 4), ("SPLITS", 1)]),
    faults: &[
        (0, "own / SUBGROUPS_N * ROWS * MATRIX", "own % SUBGROUPS_N * ROWS * MATRIX"),
        (0, "load_b((first_column + j * MATRIX) * PITCH + k", "load_b(first_column * PITCH + k"),
        (0, "load_a((first_row + i * MATRIX) * PITCH + k * MATRIX)", "load_a((first_row + i * MATRIX) * PITCH)"),
        (0, "multiply_add(a, b[j], sums", "multiply_add(a, b[0u], sums"),
        (0, "own_results = own * MATRIX * RESULT_ROW", "own_results = 0u"),
        (0, "own_results + d * MATRIX", "own_results"),
        (0, "i % X_ROWS) * PITCH + x_at.y", "i % X_ROWS) * PITCH"),
        (0, "k0 + TILE_K < end", "k0 + 2u * TILE_K < end"),
        (4, "c >= p.C_first", "c > p.C_first"),
    ],
};

const ATTENTION: Emulated = Emulated {
    operation: "attention",
    kernel: "attention/matrix",
    include: "matrix_attention_{MATRIX}",
    units: "
const SHARE: u32 = MATRIX * MATRIX / SUBGROUP;
struct matrix_a { which: u32, at: u32 }
struct matrix_b { which: u32, at: u32 }
struct matrix_c { sums: array<f32, SHARE> }
var<private> lane: u32;
var<workgroup> kept: array<f16, QUERIES * STAGE_ROW>; // queries
fn load_queries(at: u32) -> matrix_a {
    for (var i = lane; i < MATRIX * MATRIX; i += SUBGROUP) {
        let element = at + i / MATRIX * STAGE_ROW + i % MATRIX;
        kept[element] = number(stage, element);
    }
    return matrix_a(0u, at);
}
fn load_values(at: u32) -> matrix_a { return matrix_a(1u, at); }
fn load_keys(at: u32) -> matrix_b { return matrix_b(0u, at); }
fn load_high(at: u32) -> matrix_b { return matrix_b(1u, at); }
fn load_low(at: u32) -> matrix_b { return matrix_b(2u, at); }
fn left(a: matrix_a, row: u32, k: u32) -> f32 {
    if (a.which == 0u) { return f32(kept[a.at + row * STAGE_ROW + k]); }
    return f32(number(stage, a.at + k * STAGE_ROW + row));
}
fn right(b: matrix_b, k: u32, column: u32) -> f32 {
    switch b.which {
        case 0u: { return f32(number(stage, b.at + column * STAGE_ROW + k)); }
        case 1u: { return f32(number(weights_high, b.at + column * WEIGHT_ROW + k)); }
        default: { return f32(number(weights_low, b.at + column * WEIGHT_ROW + k)); }
    }
}
fn multiply_add(a: matrix_a, b: matrix_b, c: matrix_c) -> matrix_c {
    var result = c;
    for (var i = lane; i < MATRIX * MATRIX; i += SUBGROUP) {
        for (var k = i % MATRIX; k < i % MATRIX + MATRIX; k++) {
            let x = left(a, i / MATRIX, k % MATRIX);
            result.sums[i / SUBGROUP] = fma(x, right(b, k % MATRIX, i % MATRIX), result.sums[i / SUBGROUP]);
        }
    }
    return result;
}
fn store_scores(at: u32, c: matrix_c) {
    var stored = c;
    for (var i = lane; i < MATRIX * MATRIX; i += SUBGROUP) {
        number(scores, at + i / MATRIX * SCORE_ROW + i % MATRIX) = stored.sums[i / SUBGROUP];
    }
}
fn store_sums(at: u32, c: matrix_c) {
    var stored = c;
    for (var i = lane; i < MATRIX * MATRIX; i += SUBGROUP) {
        number(scores, at + i % MATRIX * SCORE_ROW + i / MATRIX) = stored.sums[i / SUBGROUP];
    }
}
fn load_sums(at: u32) -> matrix_c {
    var c: matrix_c;
    for (var i = lane; i < MATRIX * MATRIX; i += SUBGROUP) {
        c.sums[i / SUBGROUP] = number(scores, at + i % MATRIX * SCORE_ROW + i / MATRIX);
    }
    return c;
}
",
    // Between them several blocks of queries and keys, ragged ones, padded heads, every packing, grouped heads, bias,
    // mask, causal order, and scores that grow.
    cases: &[
        "nearly one-hot, causal",
        "D 40, one past the tiles, text of 77",
        "D 64, causal text",
        "D 80, packed picture",
        "D 160, text of 77",
        "two heads share keys, D 20, keys with values",
        "bias, mask and shared keys, D 64, causal",
        "large negative scores",
        "D 40, one key",
    ],
    // Every setting once, and of the other cases every second one with either size.
    chosen: |size, case, knobs| {
        let smallest = (knobs.get("QUERIES"), knobs.get("KEYS")) == (32, 32);
        case == 0 && !smallest || case.is_multiple_of(2) == (size == 16) && smallest
    },
    setting: || Knobs::of([("QUERIES", 32), ("KEYS", 32)]),
    faults: &[
        (0, "load_queries(own * STAGE_ROW + d * MATRIX)", "load_queries(own * STAGE_ROW)"),
        (0, "load_keys(b * MATRIX", "load_keys(0u * MATRIX"),
        (0, "store_scores(own * SCORE_ROW + b * MATRIX, s)", "store_scores(own * SCORE_ROW, s)"),
        (0, "load_values(b * MATRIX * STAGE_ROW + d * MATRIX)", "load_values(b * MATRIX * STAGE_ROW)"),
        (0, "grown = 1u", "grown = 0u"),
        (0, "column + 4u * i, shrink)", "column + 4u * i, 1.0)"),
        (0, "l *= shrink", "l *= 1.0"),
        (0, "key < end", "key < p.keys"),
        (0, "max(largest, subgroupShuffleXor(largest, step))", "largest"),
        (1, "l += subgroupShuffleXor(l, step)", "l += l"),
        (1, "at.y < HEAD_VECTORS)", "at.y <= HEAD_VECTORS)"),
        (1, "vec4<f16>(weight - high)", "vec4<f16>(0.0h)"),
        (1, "query < p.queries && vector", "query <= p.queries && vector"),
    ],
};

impl Emulated {
    /// The kernel's text without cooperative matrices.
    fn text(&self, size: u32, wgsl: &str) -> String {
        let include = |name: &str| find_include(name).expect("it exists").trim_end().to_owned();
        let units = include(&self.include.replace("{MATRIX}", &size.to_string()));
        let types = include(&format!("matrix_{size}"));
        // What memory there is stays; what uses matrices, which comes after it, does not.
        let first = units.find("\nfn load_").expect("matrices are loaded");
        let emulated = format!("{}\n{}", &units[..first], numbers(self.units, size));
        let main = wgsl.find("fn main(").expect("every kernel has one");
        let body = main + wgsl[main..].find("{\n").expect("it has a body") + 2;
        let wgsl = format!("{}    lane = local % SUBGROUP;\n{}", &wgsl[..body], &wgsl[body..]);
        let edits = [("enable wgpu_cooperative_matrix;\n", ""), (&units, emulated.as_str()), (&types, "")];
        edits.into_iter().fold(wgsl, |wgsl, (from, to)| {
            assert!(wgsl.contains(from), "{} with matrices of {size} contains {from}", self.kernel);
            wgsl.replace(from, to)
        })
    }

    fn case(&self, label: &str, storage: Storage) -> PreparedCase {
        let info = registry().into_iter().find(|info| info.name == self.operation).expect("it exists");
        let case = info.cases.iter().find(|case| case.label == label).unwrap_or_else(|| panic!("no case {label:?}"));
        PreparedCase::new(case, storage).expect("fits").expect("is stored so")
    }

    /// Compares a setting with the reference, with one more edit of the text.
    fn check(&self, case: &PreparedCase, size: u32, knobs: &Knobs, fault: (&str, &str)) -> Result<(), String> {
        let forced = Forced { knobs: knobs.clone(), ..Forced::operation(self.operation, "matrix") };
        let choice = Choice { forced: vec![forced], ..Choice::default() };
        let edit = |name: &str, wgsl: &str| {
            (name == self.kernel).then(|| {
                assert!(wgsl.contains(fault.0), "{name} contains {:?}", fault.0);
                self.text(size, &wgsl.replace(fault.0, fault.1))
            })
        };
        case.check_emulated(gpu(), &caps(size), choice, Run::Unchecked, &edit).map(drop).map_err(|e| e.to_string())
    }

    /// Compares the settings that are chosen, with matrices of 16 and of 8; says how many there were.
    fn compare(&self) -> usize {
        let (mut compared, mut failures) = (0, Vec::new());
        for (number, label) in self.cases.iter().enumerate() {
            for (storage, size) in [(Storage::F16, 16), (Storage::F16ToF32, 8)] {
                let case = self.case(label, storage);
                let settings = case.settings(&caps(size), "matrix");
                assert!(!settings.is_empty(), "{label:?} in {}", storage.name());
                for knobs in settings.iter().filter(|knobs| (self.chosen)(size, number, knobs)) {
                    match self.check(&case, size, knobs, ("", "")) {
                        Ok(()) => compared += 1,
                        Err(e) => failures.push(format!("{size}, {knobs}, {label:?}: {e}")),
                    }
                }
            }
        }
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        compared
    }

    /// Asserts that each fault is noticed.
    fn notice_faults(&self) {
        let knobs = (self.setting)();
        let mut sound = HashMap::new();
        for (number, was, is) in self.faults {
            let case = sound.entry(number).or_insert_with(|| {
                let case = self.case(self.cases[*number], Storage::F16ToF32);
                self.check(&case, 16, &knobs, ("", "")).unwrap_or_else(|e| panic!("{}: {e}", self.kernel));
                case
            });
            assert!(self.check(case, 16, &knobs, (was, is)).is_err(), "{}: {is} goes unnoticed", self.kernel);
        }
    }
}

/// `number(array, i)` as WGSL: where matrices are of 16, arrays hold vectors.
fn numbers(text: &str, size: u32) -> String {
    let Some((before, rest)) = text.split_once("number(") else { return text.to_owned() };
    let mut depth = 1;
    let is_end = |c: char| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    };
    let end = rest.find(is_end).expect("parentheses are closed");
    let (array, index) = rest[..end].split_once(", ").expect("an array and an index");
    let element =
        if size == 16 { format!("{array}[({index}) / 4u][({index}) % 4u]") } else { format!("{array}[{index}]") };
    format!("{before}{element}{}", numbers(&rest[end + 1..], size))
}

/// The adapter under test as if it had units for matrices of this size.
fn caps(size: u32) -> Caps {
    let real = gpu().caps();
    let workgroup_memory_bytes = if real.f16 { real.workgroup_memory_bytes } else { real.workgroup_memory_bytes / 2 };
    let subgroup_sizes = Some([32; 2]); // the emulation has its own
    Caps { cooperative_matrices: matrices(size), f16: true, subgroup_sizes, workgroup_memory_bytes, ..real.clone() }
}

#[test]
fn the_contraction_for_matrix_units_agrees_when_loops_stand_for_the_units() {
    let compared = CONTRACTION.compare();
    assert!(compared > 10, "{compared} comparisons are too few to prove anything");
}

#[test]
fn faults_in_the_contraction_for_matrix_units_are_noticed() {
    CONTRACTION.notice_faults();
}

#[test]
fn attention_for_matrix_units_agrees_when_loops_stand_for_the_units() {
    let compared = ATTENTION.compare();
    assert!(compared > 10, "{compared} comparisons are too few to prove anything");
}

#[test]
fn faults_in_attention_for_matrix_units_are_noticed() {
    ATTENTION.notice_faults();
}
