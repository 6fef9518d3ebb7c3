// A block of keys or values on its way from memory to workgroup memory: loaded into registers, and kept there until
// what is in `stage` has been used. The kernel that includes it has UNITS, the vectors of a block that an invocation
// loads.
var<private> next: array<vec4<f16>, UNITS>;

// The j-th vector of `stage`: its row, and its place in the row.
fn place(j: u32) -> vec2<u32> { return vec2<u32>(j / (HEAD / 4u), j % (HEAD / 4u)); }

fn put(at: vec2<u32>, value: vec4<f16>) {
    let used = select(vec4<f16>(), value, at.y < HEAD_VECTORS);
    put_stage(at.x * STAGE_ROW + 4u * at.y, used);
}

// Begins to load a block of keys, or of values. Those past the end repeat the last one.
fn fetch_block(first_key: u32, base: u32, row: u32, values: bool, local: u32) {
    //!unroll
    for (var i = 0u; i < UNITS; i++) {
        let at = place(local + i * INVOCATIONS);
        let index = base + min(first_key + at.x, p.keys - 1u) * row + min(at.y, HEAD_VECTORS - 1u);
        if (values) { next[i] = fetch_v(index); } else { next[i] = fetch_k(index); }
    }
}

// Writes what has been loaded to `stage`.
fn put_block(local: u32) {
    //!unroll
    for (var i = 0u; i < UNITS; i++) {
        let j = local + i * INVOCATIONS;
        if (j < KEYS * HEAD / 4u) { put(place(j), next[i]); }
    }
}

