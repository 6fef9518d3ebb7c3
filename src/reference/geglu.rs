//! The gated activation of transformer blocks.

use super::activate;
use crate::ops::activation::ActivationKind;
use crate::tensor::HostTensor;

/// `y = x[.., ..C] · gelu(x[.., C..])`
pub fn geglu(x: &HostTensor) -> HostTensor {
    let mut shape = x.shape.clone();
    let c = shape.last_mut().expect("x has at least one dimension");
    *c /= 2;
    let c = *c;
    let mut data = Vec::with_capacity(x.len() / 2);
    for row in x.data.chunks_exact(2 * c) {
        let (values, gates) = row.split_at(c);
        let gelu = |gate: f32| activate(f64::from(gate), ActivationKind::Gelu);
        data.extend(values.iter().zip(gates).map(|(v, g)| (f64::from(*v) * gelu(*g)) as f32));
    }
    HostTensor { shape, data }
}
