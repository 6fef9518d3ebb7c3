//! Quantiles of the beta distribution with both parameters 0.6, for beta-spaced noise levels.

/// Both parameters of the distribution.
const A: f64 = 0.6;
/// B(0.6, 0.6) = Γ(0.6)²/Γ(1.2).
const BETA_FUNCTION: f64 = 2.415_344_208_002_472;

/// The x in [0, 1] below which a share `p` of the distribution lies.
pub fn beta_quantile(p: f64) -> f64 {
    // The density is symmetric, so the upper half is the lower one mirrored.
    if p > 0.5 {
        return 1.0 - beta_quantile(1.0 - p);
    }
    let (mut low, mut high) = (0.0, 0.5);
    // Bisection to the last bit: 60 halvings of an interval of length ½.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if cumulative(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function I_x(A, A) for x ≤ ½, by its power series (DLMF 8.17.7):
/// x^a / B(a, b) · Σ_n (1 − b)(2 − b)…(n − b) / (n! (a + n)) xⁿ.
fn cumulative(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (1.0, 1.0 / A, 0.0);
    while term > 1e-17 * sum {
        n += 1.0;
        term *= x * (n - A) / n;
        sum += term / (A + n);
    }
    x.powf(A) / BETA_FUNCTION * sum
}
