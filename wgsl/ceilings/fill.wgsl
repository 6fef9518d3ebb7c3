// ceilings, fill: numbers without a pattern, which no memory compresses: x[i] = (i · 2654435761) mod 2^32 / 256
//
//   x  [elements]  u32
// dispatch:   one invocation writes four numbers
// requires:   a multiple of 4 elements
// constants:  none
// error:      none
// source:     Knuth, "The Art of Computer Programming", volume 3, section 6.4: multiplicative hashing
//!include flat_index

struct Params {
    vectors: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<u32>>;
@group(0) @binding(1) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let i = flat_index(workgroup, workgroups, local, 256u);
    if (i < p.vectors) {
        x[i] = ((vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u)) * 2654435761u) >> vec4<u32>(8u);
    }
}
