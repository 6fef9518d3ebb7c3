// ceilings, copy: how many bytes a kernel reads and writes in a second; y = x
//
//   x, y  [elements]  u32
// dispatch:   one workgroup copies VECTORS · 256 neighbouring vectors, an invocation every 256th of them
// requires:   a multiple of VECTORS · 1024 elements
// constants:  VECTORS: vectors for each invocation, 1 or 4
// error:      none
// source:     McCalpin 1995, "STREAM": copy; the sloping ceiling of a roofline
//!include flat_index

const VECTORS: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let first = flat_index(workgroup, workgroups, 0u, 256u) * VECTORS + local;
    var values: array<vec4<u32>, VECTORS>;
    //!unroll
    for (var i = 0u; i < VECTORS; i++) { values[i] = x[first + 256u * i]; }
    //!unroll
    for (var i = 0u; i < VECTORS; i++) { y[first + 256u * i] = values[i]; }
}
