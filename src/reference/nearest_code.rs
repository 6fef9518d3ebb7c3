//! The nearest row of a table.

use crate::tensor::HostTensor;

/// `y[..]` = the k for which Σ_d (x[.., d] − codes[k, d])² is least, the first of several.
pub fn nearest_code(x: &HostTensor, codes: &HostTensor) -> HostTensor {
    let d = codes.shape[1];
    let squared = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    let nearest =
        |row: &[f32]| {
            let distances = codes.data.chunks_exact(d).map(|code| row.iter().zip(code).map(squared).sum::<f64>());
            let least = distances.enumerate().fold((0, f64::INFINITY), |least, (code, distance)| {
                if distance < least.1 { (code, distance) } else { least }
            });
            least.0 as f32
        };
    HostTensor { shape: x.shape[..x.shape.len() - 1].to_vec(), data: x.data.chunks_exact(d).map(nearest).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_taken() {
        let codes = HostTensor::new([4, 2], vec![5.0, 5.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]).unwrap();
        let x = HostTensor::new([2, 2, 2], vec![0.9, 0.2, 0.5, 0.5, f32::NAN, 0.0, 9.0, 9.0]).unwrap();
        let found = nearest_code(&x, &codes);
        assert_eq!((found.shape, found.data), (vec![2, 2], vec![1.0, 1.0, 0.0, 0.0]));
    }
}
