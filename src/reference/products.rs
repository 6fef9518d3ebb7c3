//! Inner products of many rows with many weight rows: what matrix product and convolution have in common.

/// Rows and weight rows processed together: 16 sums in registers, each loaded value used four times.
const TILE: usize = 4;

/// A weight matrix `[N, K]`, four rows interleaved so that they are read from contiguous memory.
pub(super) struct Weights {
    n: usize,
    k: usize,
    /// `[N / 4, K, 4]`; rows beyond N are zeros.
    interleaved: Vec<[f32; TILE]>,
}

impl Weights {
    /// From `[N, K]` in row-major order.
    pub(super) fn new(data: &[f32], n: usize, k: usize) -> Self {
        let mut interleaved = vec![[0.0; TILE]; n.div_ceil(TILE) * k];
        for row in 0..n {
            let block = &mut interleaved[row / TILE * k..][..k];
            block.iter_mut().zip(&data[row * k..][..k]).for_each(|(four, w)| four[row % TILE] = *w);
        }
        Self { n, k, interleaved }
    }

    /// Calls `each(m, n, Σ_k rows[m, k] · weight[n, k])` for every m and n; sums in f64.
    pub(super) fn products(&self, rows: &[f32], mut each: impl FnMut(usize, usize, f64)) {
        let count = rows.len() / self.k;
        for (block, columns) in self.interleaved.chunks_exact(self.k).enumerate() {
            for first in (0..count).step_by(TILE) {
                // Past the end the last row stands in; its surplus sums are dropped below.
                let row = |i: usize| &rows[(first + i).min(count - 1) * self.k..][..self.k];
                let mut sums = [[0.0f64; TILE]; TILE];
                for ((((w, a), b), c), d) in columns.iter().zip(row(0)).zip(row(1)).zip(row(2)).zip(row(3)) {
                    for (sum, x) in sums.iter_mut().zip([a, b, c, d]) {
                        sum.iter_mut().zip(w).for_each(|(s, w)| *s += f64::from(*x) * f64::from(*w));
                    }
                }
                for (i, sums) in sums.iter().take(count - first).enumerate() {
                    for (j, sum) in sums.iter().take(self.n - block * TILE).enumerate() {
                        each(first + i, block * TILE + j, *sum);
                    }
                }
            }
        }
    }
}
