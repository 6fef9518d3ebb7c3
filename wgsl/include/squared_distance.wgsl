// How far a row of x [rows, D] is from a row of codes [K, D]: the sum of their squared differences.
//!storage x
//!storage codes

struct Params {
    rows: u32,
    D: u32,
    K: u32,
    parts: u32,
    length: u32, // codes of a part
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read> codes: array<codes_vec4>;
@group(0) @binding(3) var<uniform> p: Params;

fn squared_distance(row: u32, code: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < p.D; d++) {
        let xi = row * p.D + d;
        let ci = code * p.D + d;
        let difference = decode_x(x[xi / 4u])[xi % 4u] - decode_codes(codes[ci / 4u])[ci % 4u];
        sum += difference * difference;
    }
    return sum;
}
