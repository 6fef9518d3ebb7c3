//! The comparison of an operation with its reference must notice faults in a kernel. Each control is a kernel written
//! here that runs in place of a shipped one with the same bindings: it must pass as it is, and fail with one line
//! changed.

use unmist::ops::contraction::{Contraction, Gather};
use unmist::ops::scale::Scale;
use unmist::ops::{Case, CaseInput, Fill};
use unmist::verify::{PreparedCase, Run, Storage};

use crate::device::gpu;

/// y = factor * x + offset, four elements per invocation.
const ELEMENTWISE: &str = "
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (i >= p.vectors) { return; }
    y[i] = encode_y(p.factor * decode_x(x[i]) + p.offset);
}
";

/// y = x * weight^T + bias, a tile of 16 x 16 elements per workgroup.
const PRODUCT: &str = "
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let group = workgroup.y * workgroups.x + workgroup.x;
    let tiles_n = p.N / 16u;
    let tile = vec2<u32>(group % tiles_n, group / tiles_n);
    let m = 16u * tile.y + local / 4u;
    let n = 16u * tile.x + 4u * (local % 4u);
    if (m >= p.W) { return; } // a product is a line of M positions
    let weight_row = 16u * tile.x + 4u * (local % 4u);
    var sum = vec4<f32>(0.0);
    for (var k = 0u; k < p.C / 4u; k++) {
        let xs = decode_x(x[m * p.C / 4u + k]);
        for (var lane = 0u; lane < 4u; lane++) {
            sum[lane] += dot(xs, decode_weight(weight[(weight_row + lane) * p.C / 4u + k]));
        }
    }
    for (var lane = 0u; lane < 4u; lane++) {
        sum[lane] += bias_of(n + lane);
    }
    y[(m * p.N + n) / 4u] = encode_y(sum);
}

fn bias_of(n: u32) -> f32 { return bias[n / 4u][n % 4u]; }
";

/// Odd sizes: 2 x 9 x 7 x 5 elements are 157 vectors and a half.
fn elementwise() -> Case {
    Case::new("elementwise", Scale { factor: 1.25, offset: -0.5 }, vec![CaseInput::normal([2, 9, 7, 5])])
}

fn product(m: usize, n: usize, k: usize) -> Case {
    let inputs =
        vec![CaseInput::normal([m, k]), CaseInput::normal([n, k]), CaseInput::f32([n], Fill::Normal), None, None];
    Case::new("product", Contraction::new(Gather::Rows), inputs)
}

/// Runs `main` in place of a single-launch kernel for `case`, keeping that kernel's bindings and parameters.
fn run(case: &Case, storage: Storage, run: Run, main: &str) -> Result<(), String> {
    let variant = if main.contains("weight") { "vec4" } else { "naive" };
    let prepared = PreparedCase::new(case, storage).expect("fits").expect("is stored so");
    let edit = |_: &str, wgsl: &str| {
        let interface = &wgsl[..wgsl.find("@compute").expect("every kernel has an entry point")];
        Some(format!("{interface}{main}"))
    };
    prepared.check_edited(gpu(), variant, run, &edit).map(drop).map_err(|e| e.to_string())
}

/// `kernel` passes; with `line` replaced by `fault`, it fails in each of `runs`, for the reason given.
fn control(case: &Case, kernel: &str, line: &str, fault: &str, runs: &[Run], reason: &str) {
    assert_eq!(kernel.matches(line).count(), 1, "`{line}` must occur once in the kernel");
    let faulty = kernel.replace(line, fault);
    for storage in [Storage::F32, Storage::F16] {
        for way in Run::ALL {
            let found = run(case, storage, way, kernel);
            assert_eq!(found, Ok(()), "the kernel as it should be, {} {}", storage.name(), way.name());
        }
        for &way in runs {
            let message = run(case, storage, way, &faulty).expect_err(&format!(
                "`{fault}` passed, {} {}",
                storage.name(),
                way.name()
            ));
            assert!(message.contains(reason), "`{fault}`, {} {}: {message}", storage.name(), way.name());
        }
    }
}

#[test]
fn a_vector_written_behind_the_buffer_is_noticed() {
    let runs = [Run::Unchecked, Run::Folded];
    control(&elementwise(), ELEMENTWISE, "i >= p.vectors", "i > p.vectors", &runs, "wrote 0 bytes behind");
}

#[test]
fn a_vector_read_behind_the_buffer_is_noticed() {
    // Only the last invocation reads beyond the buffer, and only into a term that a factor makes small.
    let fault = "x[i]) + 1e-6 * decode_x(x[i + 1u])";
    control(&elementwise(), ELEMENTWISE, "x[i])", fault, &[Run::Unchecked, Run::Folded], "must be finite");
}

#[test]
fn reading_what_was_never_written_is_noticed() {
    let fault = "p.offset + 1e-6 * decode_y(y[i])";
    control(&elementwise(), ELEMENTWISE, "p.offset", fault, &Run::ALL, "must be finite");
}

#[test]
fn an_off_by_one_at_the_last_workgroup_is_noticed() {
    control(&elementwise(), ELEMENTWISE, "i >= p.vectors", "i + 1u >= p.vectors", &Run::ALL, "must be finite");
}

#[test]
fn a_second_row_of_workgroups_that_is_forgotten_is_noticed() {
    let forgotten = "let i = 64u * workgroup.x + local;";
    let line = "let i = flat_index(workgroup, workgroups, local, 64u);";
    control(&elementwise(), ELEMENTWISE, line, forgotten, &[Run::Folded], "must be finite");
}

#[test]
fn a_dropped_bias_is_noticed_behind_the_longest_sum() {
    // The bias is 1/150 of the sums, and f16 resolves 1/2000.
    let case = product(16, 48, 23_040);
    control(&case, PRODUCT, "sum[lane] += bias_of(n + lane);", "", &Run::ALL, "relative L2 error");
}

#[test]
fn a_swapped_tile_index_is_noticed() {
    let line = "let weight_row = 16u * tile.x";
    control(&product(48, 320, 20), PRODUCT, line, "let weight_row = 16u * tile.y", &Run::ALL, "relative L2 error");
}

#[test]
fn one_wrong_channel_of_320_is_noticed() {
    let line = "sum[lane] += bias_of(n + lane);";
    let neighbour = "sum[lane] += bias_of(select(n + lane, 316u, n + lane == 317u));";
    control(&product(16, 320, 64), PRODUCT, line, neighbour, &Run::ALL, "relative L2 error");
    // One channel is off by 0.4 %: in f16 the whole tensor is within its bound, the elements are not.
    let scaled = "sum[lane] = (sum[lane] + bias_of(n + lane)) * select(1.0, 1.004, n + lane == 317u);";
    control(&product(16, 320, 64), PRODUCT, line, scaled, &Run::ALL, "expected -");
}
