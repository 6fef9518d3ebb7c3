//! Rows looked up in a table.

use crate::tensor::HostTensor;

/// `y[.., :] = table[indices[..], :]`; an index beyond the table reads the last row.
pub fn embedding(indices: &HostTensor, table: &HostTensor) -> HostTensor {
    let d = table.shape[table.shape.len() - 1];
    let v = table.len() / d;
    let mut shape = indices.shape.clone();
    shape.push(d);
    let data = indices.data.iter().flat_map(|&i| &table.data[(i as usize).min(v - 1) * d..][..d]).copied().collect();
    HostTensor { shape, data }
}

/// What `[V, D]` tables get back: row v is the sum of the rows of `dy [.., D]` whose index is v, in f64; an index
/// beyond the table counts for its last row.
pub fn embedding_gradient(indices: &HostTensor, dy: &HostTensor, rows: usize) -> HostTensor {
    let d = dy.shape[dy.shape.len() - 1];
    let mut sums = vec![0.0f64; rows * d];
    for (index, dy) in indices.data.iter().zip(dy.data.chunks_exact(d)) {
        let sums = &mut sums[(*index as usize).min(rows - 1) * d..][..d];
        sums.iter_mut().zip(dy).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    HostTensor { shape: vec![rows, d], data: sums.into_iter().map(|v| v as f32).collect() }
}
