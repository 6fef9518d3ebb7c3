// The places in two operands that belong to a place in the result they broadcast to. The kernel's Params describe RANK
// dimensions, innermost first: sizes size_0 .. size_5, and the operands' strides a_0 .. a_5 and b_0 .. b_5, which are 0
// where an operand is repeated.
const RANK: u32 = 6u;

fn operands_at(place: u32) -> vec2<u32> {
    var rest = place;
    var at = rest % p.size_0 * vec2<u32>(p.a_0, p.b_0);
    if (RANK > 1u) { rest /= p.size_0; at += rest % p.size_1 * vec2<u32>(p.a_1, p.b_1); }
    if (RANK > 2u) { rest /= p.size_1; at += rest % p.size_2 * vec2<u32>(p.a_2, p.b_2); }
    if (RANK > 3u) { rest /= p.size_2; at += rest % p.size_3 * vec2<u32>(p.a_3, p.b_3); }
    if (RANK > 4u) { rest /= p.size_3; at += rest % p.size_4 * vec2<u32>(p.a_4, p.b_4); }
    if (RANK > 5u) { rest /= p.size_4; at += rest % p.size_5 * vec2<u32>(p.a_5, p.b_5); }
    return at;
}
