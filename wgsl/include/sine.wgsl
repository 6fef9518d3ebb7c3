// Sine with an absolute error below 1e-6 on every device. WGSL promises only 2^-11 for sin() within [-pi, pi] and
// nothing beyond, but time embeddings need angles up to 1000 rad. Each function takes its angle in a form from which
// whole quarter turns can be removed exactly; where it matters this is done in integers, whose arithmetic no compiler
// may rearrange. `quarters` quarter turns are added to the angle: 1 makes a cosine.

// sin(quarters * pi/2 + r) for |r| <= pi/4 (and a little more): the Taylor polynomials, whose first omitted terms are
// below 3e-8.
fn sin_quarter(quarters: vec4<u32>, r: vec4<f32>) -> vec4<f32> {
    let s = r * r;
    let sine = r * (1.0 + s * (-1.6666667e-1 + s * (8.3333333e-3 + s * (-1.9841270e-4 + s * 2.7557319e-6))));
    let cosine = 1.0 + s * (-0.5 + s * (4.1666667e-2 + s * (-1.3888889e-3 + s * 2.4801587e-5)));
    let value = select(sine, cosine, (quarters & vec4<u32>(1u)) != vec4<u32>(0u));
    return select(value, -value, (quarters & vec4<u32>(2u)) != vec4<u32>(0u));
}

// sin(x) for |x| < 2047 rad. |x| is counted in units of 2^-21 rad (exact from 4 rad on); pi/2 is (3294198 + LOW / 2^16)
// units.
fn sin_radians(x: vec4<f32>, quarters: vec4<u32>) -> vec4<f32> {
    const LOW: u32 = 43144u;
    let a = abs(x);
    let n = vec4<u32>(a * 0.63661977 + 0.5); // the nearest quarter turn
    let units = vec4<u32>(a * 2097152.0) - n * 3294198u - ((n * LOW) >> vec4<u32>(16u));
    // Below an eighth of a turn nothing is removed, and the angle keeps its relative accuracy.
    let r = select(vec4<f32>(bitcast<vec4<i32>>(units)) * 4.7683716e-7, a, n == vec4<u32>(0u));
    let negative = x < vec4<f32>(0.0);
    return sin_quarter(quarters + select(n, vec4<u32>(0u) - n, negative), select(r, -r, negative));
}

// sin(2 pi x)
fn sin_turns(x: vec4<f32>, quarters: vec4<u32>) -> vec4<f32> {
    let fraction = x - round(x); // exact
    let n = round(4.0 * fraction);
    return sin_quarter(quarters + bitcast<vec4<u32>>(vec4<i32>(n)), (fraction - 0.25 * n) * 6.2831853);
}

// sin(2 pi x / 2^32)
fn sin_fixed(x: vec4<u32>, quarters: vec4<u32>) -> vec4<f32> {
    let n = (x + 0x20000000u) >> vec4<u32>(30u);
    let r = vec4<f32>(bitcast<vec4<i32>>(x - (n << vec4<u32>(30u)))) * 1.4629181e-9; // 2 pi / 2^32
    return sin_quarter(quarters + n, r);
}
