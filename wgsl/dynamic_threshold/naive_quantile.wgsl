// dynamic_threshold, naive_quantile: threshold[n] = clamp(quantile of |x0[n, :]|, 1, maximum)
//
//   x0         [N, E]  f32
//   threshold  [N]     f32
// The quantile lies between the values of rank `rank` and `rank + 1` among the sorted |x0|. Nothing is sorted:
// non-negative floats are ordered like their bits, so the value of a rank is found eight bits at a time, by counting (a
// radix select).
// dispatch:   one workgroup for one image
// requires:   nothing
// constants:  none
// error:      none in the selection, 1e-7 relative in the interpolation
// source:     Saharia et al. 2022, section 2.3; torch.quantile

struct Params {
    E: u32,    // elements of one image
    rank: u32, // floor of ratio * (E - 1)
    fraction: f32, // of the way from that rank to the next
    maximum: f32,
}

@group(0) @binding(0) var<storage, read> x0: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> threshold: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> next_bits: atomic<u32>;

fn bits_of(image: u32, element: u32) -> u32 {
    let e = image * p.E + element;
    return bitcast<u32>(abs(x0[e / 4u][e % 4u]));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let image = workgroup.x;
    var found = 0u; // the bits of the value, from the top
    var known = 0u; // which bits those are
    var rank = p.rank; // among the elements that agree in the known bits
    var equal = 0u; // number of elements with all the bits found
    for (var digits = 0u; digits < 4u; digits++) {
        let shift = 24u - 8u * digits;
        atomicStore(&counts[local], 0u);
        workgroupBarrier();
        for (var element = local; element < p.E; element += 256u) {
            let bits = bits_of(image, element);
            if ((bits & known) == found) { atomicAdd(&counts[(bits >> shift) & 255u], 1u); }
        }
        workgroupBarrier();
        // Every invocation walks through the counts to the digit that holds the rank, so none has to wait for another.
        var digit = 0u;
        equal = atomicLoad(&counts[0]);
        while (rank >= equal && digit < 255u) {
            rank -= equal;
            digit += 1u;
            equal = atomicLoad(&counts[digit]);
        }
        found |= digit << shift;
        known |= 255u << shift;
        workgroupBarrier();
    }

    // The value of the next rank: the same if it occurs again, else the smallest larger one.
    if (local == 0u) { atomicStore(&next_bits, select(0xffffffffu, found, rank + 1u < equal)); }
    workgroupBarrier();
    for (var element = local; element < p.E; element += 256u) {
        let bits = bits_of(image, element);
        if (bits > found) { atomicMin(&next_bits, bits); }
    }
    workgroupBarrier();
    if (local == 0u) {
        let below = bitcast<f32>(found);
        var quantile = below;
        if (p.fraction > 0.0) { quantile += (bitcast<f32>(atomicLoad(&next_bits)) - below) * p.fraction; }
        threshold[image] = min(max(quantile, 1.0), p.maximum);
    }
}
