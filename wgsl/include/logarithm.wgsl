// Natural logarithm of positive, normal numbers to about one unit in the last place, on every device. WGSL promises
// log() only to 3 units, and near 1 only to an absolute error of 2^-21, which can be the whole result there.
fn logarithm(x: vec4<f32>) -> vec4<f32> {
    // x = m * 2^e with m in [1/sqrt(2), sqrt(2))
    let shifted = bitcast<vec4<u32>>(x) - 0x3f3504f3u; // the bits of 1/sqrt(2)
    let e = bitcast<vec4<i32>>(shifted) >> vec4<u32>(23u);
    let m = bitcast<vec4<f32>>((shifted & vec4<u32>(0x007fffffu)) + 0x3f3504f3u);
    // log(m) = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < 0.172; the first omitted term is s^11 / 11
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let log_m = 2.0 * s * (1.0 + t * (0.33333333 + t * (0.2 + t * (0.14285714 + t * 0.11111111))));
    // log(2) in two parts; the first times e is exact
    return vec4<f32>(e) * 0.69314575 + (vec4<f32>(e) * 1.4286068e-6 + log_m);
}
