//! The gated activations of transformer blocks.

use crate::tensor::HostTensor;

/// `y = x[.., ..C] · f(x[.., C..])`
pub fn gated(x: &HostTensor, f: fn(f64) -> f64) -> HostTensor {
    let mut shape = x.shape.clone();
    let c = shape.last_mut().expect("x has at least one dimension");
    *c /= 2;
    let c = *c;
    let mut data = Vec::with_capacity(x.len() / 2);
    for row in x.data.chunks_exact(2 * c) {
        let (values, gates) = row.split_at(c);
        data.extend(values.iter().zip(gates).map(|(v, g)| (f64::from(*v) * f(f64::from(*g))) as f32));
    }
    HostTensor { shape, data }
}
