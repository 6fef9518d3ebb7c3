// The multiply-adds of ceilings/fma_f32 and ceilings/fma_f16, in the type `number` that those declare: CHAINS vectors
// that do not depend on each other, so that no step waits for the one before it.

const CHAINS: u32 = 2u;
const UPS: u32 = 9u;
const DOWNS: u32 = 7u;
// Values are whole numbers of at most 1311, exact in f16 too. Only SLOTS of the results are kept: invocations that
// share a slot write the same.
const SLOTS: u32 = 256u;

struct Params {
    rounds: u32,
    // 1, 1 and -1, which no compiler can know: every step must be done.
    factor: f32,
    up: f32,
    down: f32,
}

@group(0) @binding(0) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(1) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let slot = id.x % SLOTS;
    let factor = vec4<number>(number(p.factor));
    let up = vec4<number>(number(p.up));
    let down = vec4<number>(number(p.down));
    var chains: array<vec4<number>, CHAINS>;
    //!unroll
    for (var i = 0u; i < CHAINS; i++) { chains[i] = vec4<number>(number(slot + i)); }
    for (var round = 0u; round < p.rounds; round++) {
        //!unroll
        for (var step = 0u; step < UPS; step++) {
            //!unroll
            for (var i = 0u; i < CHAINS; i++) { chains[i] = fma(chains[i], factor, up); }
        }
        //!unroll
        for (var step = 0u; step < DOWNS; step++) {
            //!unroll
            for (var i = 0u; i < CHAINS; i++) { chains[i] = fma(chains[i], factor, down); }
        }
    }
    var sum = vec4<f32>(0.0);
    //!unroll
    for (var i = 0u; i < CHAINS; i++) { sum += vec4<f32>(chains[i]); }
    y[slot] = sum;
}
