//! Permutation of the dimensions.

use crate::tensor::HostTensor;

/// `y[i_order[0], i_order[1], ..] = x[i_0, i_1, ..]`, element by element.
pub fn transpose(x: &HostTensor, order: &[usize]) -> HostTensor {
    let mut y = HostTensor::zeros(order.iter().map(|d| x.shape[*d]).collect::<Vec<_>>());
    let mut index = vec![0; x.shape.len()]; // of the element along each dimension of x
    for (position, value) in x.data.iter().enumerate() {
        let mut rest = position;
        for d in (0..x.shape.len()).rev() {
            index[d] = rest % x.shape[d];
            rest /= x.shape[d];
        }
        let to = order.iter().fold(0, |to, d| to * x.shape[*d] + index[*d]);
        y.data[to] = *value;
    }
    y
}
