//! Muon's orthogonal updates (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").

use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::ops::unit_norm::UnitNorm;

/// The coefficients of an odd polynomial of degree 5 that brings every singular value between 0 and 1 near 1 when it is
/// applied a few times: the author's, as in `torch.optim.Muon`.
const POLYNOMIAL: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// How often it is applied.
const TIMES: usize = 5;
/// Keeps a gradient of zeros from a division by zero.
const EPS: f64 = 1e-7;

/// The nearly orthogonal matrix with the singular vectors of `x [N, .., K]`, its dimensions behind the first taken
/// together, times √max(1, N / K): Newton and Schulz's iteration, X ← a X + (b A + c A²) X with A = X Xᵀ.
///
/// # Errors
/// As [`Graph::push`].
pub(super) fn orthogonal(graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId> {
    let shape = graph.shape(x).to_vec();
    let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
    let mut matrix = graph.reshape(format!("{name}.matrix"), x, [rows, columns])?;
    // The smaller of the two products X Xᵀ and Xᵀ X.
    let tall = rows > columns;
    if tall {
        matrix = graph.transpose(format!("{name}.wide"), matrix, &[1, 0])?;
    }
    let squares = graph.sum_of_squares(&format!("{name}.squares"), matrix)?;
    matrix = graph.push(format!("{name}.unit"), UnitNorm { eps: EPS }, &[Some(matrix), Some(squares)])?;
    let [a, b, c] = POLYNOMIAL;
    for i in 0..TIMES {
        let at = |what: &str| format!("{name}.{i}.{what}");
        // `linear` multiplies by the transposed weight; A is symmetric.
        let gram = graph.linear(at("gram"), matrix, matrix, None)?;
        let square = graph.linear(at("square"), gram, gram, None)?;
        let (linear, square) = (graph.scale(at("b"), gram, b, 0.0)?, graph.scale(at("c"), square, c, 0.0)?);
        let sum = graph.add(at("sum"), linear, square)?;
        let transposed = graph.transpose(at("transposed"), matrix, &[1, 0])?;
        let changed = graph.linear(at("changed"), sum, transposed, None)?;
        let kept = graph.scale(at("a"), matrix, a, 0.0)?;
        matrix = graph.add(at("next"), kept, changed)?;
    }
    if tall {
        matrix = graph.transpose(format!("{name}.tall"), matrix, &[1, 0])?;
    }
    let factor = (rows as f64 / columns as f64).max(1.0).sqrt();
    if factor != 1.0 {
        matrix = graph.scale(format!("{name}.scale"), matrix, factor, 0.0)?;
    }
    graph.reshape(format!("{name}.shape"), matrix, shape)
}
