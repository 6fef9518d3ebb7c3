// The bound of one element and its derivative by the logarithm of the variance, for a picture's value x and a normal
// distribution around `mean`.

struct Bound {
    value: f32,      // in nats
    derivative: f32, // by log(variance)
}

// KL divergence between normal distributions whose means are `distance` apart.
fn divergence(distance: f32, log_small: f32, log_variance: f32) -> Bound {
    let ratio = exp(log_small - log_variance) + distance * distance * exp(-log_variance);
    return Bound(0.5 * (log_variance - log_small - 1.0 + ratio), 0.5 * (1.0 - ratio));
}

// log(Phi(z)) + z^2 / 2, which does not underflow: of z below 0 by the Chebyshev series of erfc(x) exp(x^2) in
// 1 / (1 + x / 2), which is right to 1.2e-7 of its value everywhere (Press et al., Numerical Recipes, section 6.2).
fn scaled_log_cdf(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.35355339 * abs(z)); // 1 / (1 + x / 2) with x = |z| / sqrt(2)
    var series = -0.82215223 + t * 0.17087277;
    series = -1.13520398 + t * (1.48851587 + t * series);
    series = -0.18628806 + t * (0.27886807 + t * series);
    series = 0.37409196 + t * (0.09678418 + t * series);
    series = -1.26551223 + t * (1.00002368 + t * series);
    let tail = log(0.5 * t) + series;
    if (z <= 0.0) { return tail; }
    return log(1.0 - exp(tail - 0.5 * z * z)) + 0.5 * z * z;
}

// -log of the probability that a value around `mean`, rounded to the 256 levels of [-1, 1], is the level at x; the
// lowest and the highest level take all beyond them (Ho et al. 2020, eq. 13).
fn level_bound(x: f32, mean: f32, log_variance: f32) -> Bound {
    let half = 1.0 / 255.0;
    let inverse = exp(-0.5 * log_variance);
    var low = (x - half - mean) * inverse;
    var high = (x + half - mean) * inverse;
    // The upper tail is the mirror image of the lower one, where no digits are lost.
    let lowest = x < -1.0 + half;
    let highest = x > 1.0 - half;
    if (highest || (low > 0.0 && !lowest)) {
        let swap = low;
        low = -high;
        high = -swap;
    }
    // P = Phi(high) - Phi(low), without Phi(low) at either end of the range; log(P) + high^2 / 2
    let inner = !(lowest || highest);
    let of_high = scaled_log_cdf(high);
    let more = 0.5 * (high - low) * (high + low); // high^2 / 2 - low^2 / 2
    let rest = select(1.0, 1.0 - exp(scaled_log_cdf(low) - of_high + more), inner);
    let scaled = of_high + log(rest);
    // z phi(z) / P at both ends
    let at_high = high * exp(-0.91893853 - scaled);
    let at_low = select(0.0, low * exp(-0.91893853 - scaled + more), inner);
    return Bound(0.5 * high * high - scaled, 0.5 * (at_high - at_low));
}
