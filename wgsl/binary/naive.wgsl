// binary, naive: y = a + b or a * b, elementwise
//
//   a, y      [N, pixels, C]  f32 or f16
//   b         as a, or [N, C] if BROADCAST, the same for all pixels of an image; f32 or f16
// dispatch:   one invocation for four consecutive elements, which may lie in two images
// requires:   nothing: any shape
// constants:  KIND = 0 add, 1 multiply; BROADCAST
// error:      1e-6 relative L2 in f32
// source:     torch.add, torch.mul
//!include flat_index
//!storage a
//!storage b
//!storage y

const KIND: u32 = 0u;
const BROADCAST: bool = false;

struct Params {
    elements: u32,
    image: u32, // elements of one image: pixels * C
    C: u32,
}

@group(0) @binding(0) var<storage, read> a: array<a_vec4>;
@group(0) @binding(1) var<storage, read> b: array<b_vec4>;
@group(0) @binding(2) var<storage, read_write> y: array<y_vec4>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local, 64u);
    if (4u * i >= p.elements) { return; }

    var right = vec4<f32>(0.0);
    if (BROADCAST) {
        for (var lane = 0u; lane < 4u; lane++) {
            let element = 4u * i + lane; // [n, pixel, c]
            if (element >= p.elements) { break; }
            let bi = element / p.image * p.C + element % p.C;
            right[lane] = decode_b(b[bi / 4u])[bi % 4u];
        }
    } else {
        right = decode_b(b[i]);
    }
    let left = decode_a(a[i]);
    if (KIND == 0u) {
        y[i] = encode_y(left + right);
    } else {
        y[i] = encode_y(left * right);
    }
}
