// ceilings, mark: as little as a launch can do and show that it ran; y[place] = place + 1
//
//   y  [launches]  u32
// dispatch:   one invocation
// requires:   nothing
// constants:  none
// error:      none
// source:     the cost of a dispatch, and of the barrier before the next one that may read what this one wrote

struct Params {
    place: u32,
}

@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@group(0) @binding(1) var<uniform> p: Params;

@compute @workgroup_size(1)
fn main() {
    y[p.place] = p.place + 1u;
}
