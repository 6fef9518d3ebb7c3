//! Two-dimensional convolution.

use crate::parallel::*;

use super::products::Weights;
use crate::ops::conv2d::Conv2d;
use crate::tensor::HostTensor;

/// `y[n, oh, ow, o] = Σ_{kh, kw, i} x[n, oh·stride_h + kh − top, ow·stride_w + kw − left, i] · weight[o, kh, kw, i] +
/// bias[o] + time_embedding[n, o] + residual[n, oh, ow, o]`, `x` being zero outside the picture; sums in f64.
pub fn conv2d(
    x: &HostTensor,
    weight: &HostTensor,
    bias: Option<&HostTensor>,
    time_embedding: Option<&HostTensor>,
    residual: Option<&HostTensor>,
    op: &Conv2d,
) -> HostTensor {
    let [n, h, w, c_in] = dims(x);
    let [c_out, kh, kw, _] = dims(weight);
    let ([stride_h, stride_w], [top, _, left, _]) = (op.stride, op.padding);
    let [oh, ow] = op.output_size([h, w], [kh, kw]).expect("shape inference rejects filters larger than the picture");
    let k = kh * kw * c_in;
    let weights = Weights::new(&weight.data, c_out, k);
    let value = |tensor: Option<&HostTensor>, index: usize| tensor.map_or(0.0, |t| f64::from(t.data[index]));

    let mut y = HostTensor::zeros([n, oh, ow, c_out]);
    y.data.par_chunks_mut(ow * c_out).enumerate().for_each(|(row, out)| {
        let (image, out_row) = (row / oh, row % oh);
        // The part of the picture under the filter at each output pixel of this row, [OW, KH, KW, C_in]; zeros where
        // the filter hangs over the edge.
        let mut patches = vec![0.0f32; ow * k];
        for (index, patch) in patches.chunks_exact_mut(c_in).enumerate() {
            let (out_column, tap_h, tap_w) = (index / (kh * kw), index / kw % kh, index % kw);
            let (Some(r), Some(c)) =
                ((out_row * stride_h + tap_h).checked_sub(top), (out_column * stride_w + tap_w).checked_sub(left))
            else {
                continue;
            };
            if r < h && c < w {
                patch.copy_from_slice(&x.data[((image * h + r) * w + c) * c_in..][..c_in]);
            }
        }
        weights.products(&patches, |out_column, o, sum| {
            let i = out_column * c_out + o;
            let sum = sum + value(bias, o) + value(time_embedding, image * c_out + o);
            out[i] = (sum + value(residual, row * ow * c_out + i)) as f32;
        });
    });
    y
}

fn dims(tensor: &HostTensor) -> [usize; 4] {
    tensor.shape.as_slice().try_into().expect("shape inference checked the number of dimensions")
}
