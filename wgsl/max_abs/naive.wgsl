// max_abs, naive: y[i] = max |x[e]| for e in [i * part, (i + 1) * part)
//
//   x     flat elements, any shape; f32 or f16
//   y     [parts]  f32
// Magnitudes are compared by their bits, which are ordered like the numbers and put NaN above infinity, whatever a
// driver's max does with NaN.
// dispatch:   one workgroup for one part
// requires:   part is a multiple of 4
// constants:  none
// error:      none
// source:     IEEE 754-2019, section 5.10: the order of numbers and NaNs by their bits
//!storage x

struct Params {
    elements: u32,
    part: u32, // elements of one part
}

@group(0) @binding(0) var<storage, read> x: array<x_vec4>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> largest: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let end = min(p.elements, (workgroup.x + 1u) * p.part);
    var mine = vec4<u32>(0u);
    for (var e = workgroup.x * p.part + 4u * local; e < end; e += 1024u) {
        let bits = bitcast<vec4<u32>>(decode_x(x[e / 4u])) & vec4<u32>(0x7fffffffu);
        let inside = vec4<u32>(e, e + 1u, e + 2u, e + 3u) < vec4<u32>(end); // the last vector may be padded
        mine = max(mine, select(vec4<u32>(0u), bits, inside));
    }
    largest[local] = max(max(mine.x, mine.y), max(mine.z, mine.w));
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) { largest[local] = max(largest[local], largest[local + half]); }
    }
    if (local == 0u) { y[workgroup.x] = bitcast<f32>(largest[0]); }
}
