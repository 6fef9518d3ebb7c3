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
