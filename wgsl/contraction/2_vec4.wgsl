// contraction, 2_vec4: y = scale * (f(x * weight + bias + summand) + residual) as 1_naive.wgsl and conclude.wgsl
// together, four columns per invocation and four values per load
//
// x, weight and the parameters: include/gather.wgsl; bias, summand, residual and y: include/epilogue.wgsl.
//
// dispatch:   x = N / 32, y = M / 8: one invocation for four columns of a row
// requires:   C / groups % 4 = 0, N % 4 = 0; N / groups % 4 = 0 where there are several groups
// constants:  those of the epilogue: HAS_BIAS, SUMMAND, RESIDUAL, ACTIVATION
// error:      1e-5 relative L2 in f32 for K = KD * KH * KW * C / groups <= 23040
// faster:     than 1_naive: a value of x is loaded once for four columns, and 16 products need five loads instead of
//             32; the result is stored once, at the end. From load counts; timed only on CPU drivers
// source:     as 1_naive
//!include gather
//!include epilogue

@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let n = 4u * (8u * workgroup.x + local.x);
    let m = 8u * (workgroup.y + p.first_workgroup_y) + local.y;
    let at = position(m);
    if (at.x >= p.images || n >= p.N) { return; }
    let first = corner(at);
    let vectors = p.C / p.groups / 4u; // of one group's channels
    let first_vector = n / (p.N / p.groups) * vectors;
    let column = p.KD * p.KH * p.KW * vectors; // from the weights of one column to those of the next

    var sum = vec4<f32>(0.0);
    for (var kd = 0u; kd < p.KD; kd++) {
        let d = first.x + kd * p.dilation_d;
        if (d >= p.D) { continue; }
        for (var kh = 0u; kh < p.KH; kh++) {
            let h = first.y + kh * p.dilation_h;
            if (h >= p.H) { continue; }
            for (var kw = 0u; kw < p.KW; kw++) {
                let w = first.z + kw * p.dilation_w;
                if (w >= p.W) { continue; }
                let pixel = (((at.x * p.D + d) * p.H + h) * p.W + w) * (p.C / 4u) + first_vector;
                let tap = (((n * p.KD + kd) * p.KH + kh) * p.KW + kw) * vectors;
                for (var c = 0u; c < vectors; c++) {
                    let a = load_x(pixel + c);
                    let i = tap + c;
                    sum += vec4<f32>(
                        dot(a, load_weight(i)),
                        dot(a, load_weight(i + column)),
                        dot(a, load_weight(i + 2u * column)),
                        dot(a, load_weight(i + 3u * column)),
                    );
                }
            }
        }
    }
    let image = m / p.rows_per_image;
    let index = (m * p.N + n) / 4u;
    y[index] = encode_y(conclude(sum + common_addend(image, n), image, n, index));
}
