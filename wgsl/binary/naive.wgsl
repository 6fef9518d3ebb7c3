// binary, naive: y = a + b, a * b or a / b, elementwise
//
//   a, b      shapes that broadcast to that of y (include/broadcast.wgsl); f32 or f16
//   y         of RANK dimensions; f32 or f16
// dispatch:   one invocation for four consecutive elements of y, whose operands may lie in four places
// requires:   nothing: any shapes
// constants:  KIND = 0 add, 1 multiply, 2 divide; BROADCAST = false where a, b and y have the same shape
// error:      1e-6 relative L2 in f32
// source:     torch.add, torch.mul, torch.div; numpy's broadcasting rules
//!include flat_index
//!include broadcast
//!storage a
//!storage b
//!storage y

const KIND: u32 = 0u;
const BROADCAST: bool = false;

struct Params {
    elements: u32,
    size_0: u32, size_1: u32, size_2: u32, size_3: u32, size_4: u32, size_5: u32,
    a_0: u32, a_1: u32, a_2: u32, a_3: u32, a_4: u32, a_5: u32,
    b_0: u32, b_1: u32, b_2: u32, b_3: u32, b_4: u32, b_5: u32,
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

    var left = vec4<f32>(0.0);
    var right = vec4<f32>(0.0);
    if (BROADCAST) {
        for (var lane = 0u; lane < 4u; lane++) {
            let element = 4u * i + lane;
            if (element >= p.elements) { break; }
            let at = operands_at(element);
            left[lane] = decode_a(a[at.x / 4u])[at.x % 4u];
            right[lane] = decode_b(b[at.y / 4u])[at.y % 4u];
        }
    } else {
        left = decode_a(a[i]);
        right = decode_b(b[i]);
    }
    if (KIND == 0u) {
        y[i] = encode_y(left + right);
    } else if (KIND == 1u) {
        y[i] = encode_y(left * right);
    } else {
        // What lies behind the last element stays a number.
        let inside = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.elements);
        y[i] = encode_y(select(vec4<f32>(0.0), left / right, inside));
    }
}
