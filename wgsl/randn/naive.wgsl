// randn, naive: y[n, m, c] = sqrt(-2 ln u) sin(2 pi v), standard normal; u and v are the first two words of Philox
// 4x32-10
//
//   seed      [8]        u32, the seed and then the number of draws before this one, each 64 bits as four 16-bit limbs,
//                        lowest first
//   y         [N, M, C]  f32 or f16
// The counter of an element holds its index in torch's order [N, C, M], so every element is the one that torch's CUDA
// generator draws there.
// dispatch:   one invocation for four consecutive elements of y
// requires:   nothing
// constants:  none
// error:      1e-5 relative L2; the random words are exact
// source:     Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"; Box and Muller 1958
//!include flat_index
//!include sine
//!include logarithm
//!storage y

struct Params {
    elements: u32, // of y
    M: u32,
    C: u32,
}

@group(0) @binding(0) var<storage, read> seed: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(2) var<uniform> p: Params;

// The upper 32 bits of the 64-bit products a * b, by 16-bit limbs.
fn multiply_high(a: u32, b: vec4<u32>) -> vec4<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & vec4<u32>(0xffffu);
    let b1 = b >> vec4<u32>(16u);
    let middle = a1 * b0 + ((a0 * b0) >> vec4<u32>(16u));
    let other = a0 * b1 + (middle & vec4<u32>(0xffffu));
    return a1 * b1 + (middle >> vec4<u32>(16u)) + (other >> vec4<u32>(16u));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }

    let element = 4u * i + vec4<u32>(0u, 1u, 2u, 3u); // [n, m, c]
    let row = element / p.C;
    let index = (row / p.M * p.C + element % p.C) * p.M + row % p.M; // [n, c, m]

    // Ten rounds on the counter (draws, index), four elements side by side.
    var key = vec2<u32>(seed[0] | (seed[1] << 16u), seed[2] | (seed[3] << 16u));
    var c0 = vec4<u32>(seed[4] | (seed[5] << 16u));
    var c1 = vec4<u32>(seed[6] | (seed[7] << 16u));
    var c2 = index;
    var c3 = vec4<u32>(0u);
    for (var round = 0u; round < 10u; round++) {
        let high0 = multiply_high(0xd2511f53u, c0);
        let high1 = multiply_high(0xcd9e8d57u, c2);
        let low0 = 0xd2511f53u * c0;
        let low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ vec4<u32>(key.x);
        c1 = low1;
        c2 = high0 ^ c3 ^ vec4<u32>(key.y);
        c3 = low0;
        key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }

    let u = (vec4<f32>(c0) + 0.5) * 2.3283064e-10; // 2^-32
    y[i] = encode_y(sqrt(max(-2.0 * logarithm(u), vec4<f32>(0.0))) * sin_fixed(c1, vec4<u32>(0u)));
}
