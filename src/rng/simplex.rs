//! Simplex noise (Perlin 2001, "Noise hardware"; the form of Gustavson 2005, "Simplex noise demystified"), in octaves,
//! as AnoDDPM noises pictures with it (Wyatt et al. 2022, section 3.2): unlike Gaussian noise it has large shapes, so
//! that large anomalies do not survive it.

use super::NoiseSource;

/// The middles of a cube's edges, seen from its centre.
const GRADIENTS: [[f64; 3]; 12] = [
    [1.0, 1.0, 0.0],
    [-1.0, 1.0, 0.0],
    [1.0, -1.0, 0.0],
    [-1.0, -1.0, 0.0],
    [1.0, 0.0, 1.0],
    [-1.0, 0.0, 1.0],
    [1.0, 0.0, -1.0],
    [-1.0, 0.0, -1.0],
    [0.0, 1.0, 1.0],
    [0.0, -1.0, 1.0],
    [0.0, 1.0, -1.0],
    [0.0, -1.0, -1.0],
];

/// So that the standard deviation of one octave is 0.31: that of OpenSimplex noise, which the authors of AnoDDPM draw.
const SCALE: f64 = 60.0;

/// Octaves, as the paper has them: how many, how much each counts beside the one before, and the first one's wavelength
/// in pixels, of which each next one has half.
const OCTAVES: (usize, f64, f64) = (6, 0.8, 64.0);

/// Noise in space: smooth, of mean 0, about −1 to 1.
#[derive(Clone, Debug)]
pub struct Simplex {
    /// A permutation of 0 to 255: which gradient belongs to which corner.
    order: Vec<u8>,
}

impl Simplex {
    /// The permutation is the order of 256 normal numbers of `source`: `torch.randn(256).argsort(stable=True)`.
    pub fn new<S: NoiseSource + ?Sized>(source: &mut S) -> Self {
        let drawn = source.randn(&[256]).data;
        let mut order: Vec<u8> = (0..=255).collect();
        order.sort_by(|a, b| drawn[usize::from(*a)].total_cmp(&drawn[usize::from(*b)]));
        Self { order }
    }

    /// The noise at a point.
    pub fn at(&self, point: [f64; 3]) -> f64 {
        // 1. which tetrahedron: in skewed space they are the six parts of a cube around its diagonal
        let skew = point.iter().sum::<f64>() / 3.0;
        let cell = point.map(|x| (x + skew).floor());
        let unskew = cell.iter().sum::<f64>() / 6.0;
        let first = [0, 1, 2].map(|i| point[i] - cell[i] + unskew);
        // Its corners lie along the largest coordinate first, the smallest last; the earlier of equal ones first.
        let mut along = [0, 1, 2];
        along.sort_by(|a, b| first[*b].total_cmp(&first[*a]));
        // 2. what each corner adds
        let (mut corner, mut total) = ([0.0; 3], 0.0);
        for number in 0..4 {
            if number > 0 {
                corner[along[number - 1]] = 1.0;
            }
            let offset = [0, 1, 2].map(|i| first[i] - corner[i] + number as f64 / 6.0);
            let near = 0.5 - offset.iter().map(|x| x * x).sum::<f64>();
            if near > 0.0 {
                let gradient = self.gradient([0, 1, 2].map(|i| cell[i] + corner[i]));
                total += near.powi(4) * gradient.iter().zip(offset).map(|(g, x)| g * x).sum::<f64>();
            }
        }
        SCALE * total
    }

    fn gradient(&self, corner: [f64; 3]) -> [f64; 3] {
        let place = |from: u8, x: f64| self.order[(usize::from(from) + (x as i64 & 255) as usize) & 255];
        let [x, y, z] = corner;
        GRADIENTS[usize::from(place(place(place(0, z), y), x)) % GRADIENTS.len()]
    }

    /// `[height, width]` of the noise in the plane at height `t`: six octaves, with coordinates divided by 64, 32, ..,
    /// 2 pixels and weights 1, 0.8, .., 0.8⁵. The sum is not normalised, as in the authors' code; its standard
    /// deviation is about 0.5.
    pub fn octaves(&self, height: usize, width: usize, t: f64) -> Vec<f32> {
        let (octaves, persistence, longest) = OCTAVES;
        let at = |i: usize| {
            let (mut sum, mut weight, mut wavelength) = (0.0, 1.0, longest);
            for _ in 0..octaves {
                sum += weight * self.at([(i % width) as f64, (i / width) as f64, t].map(|x| x / wavelength));
                weight *= persistence;
                wavelength /= 2.0;
            }
            sum as f32
        };
        (0..height * width).map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::TorchCpu;

    #[test]
    fn it_is_smooth_of_mean_zero_and_of_the_deviation_that_is_said() {
        let noise = Simplex::new(&mut TorchCpu::new(7));
        let points = (0..20_000).map(|i| [i as f64 * 0.37, i as f64 * -0.73, i as f64 * 0.11]);
        let values: Vec<f64> = points.map(|point| noise.at(point)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        assert!(mean.abs() < 0.01 && (deviation - 0.31).abs() < 0.01, "{mean} {deviation}");
        assert!(values.iter().all(|v| v.abs() < 1.0));
        // No step is taller than the steepest slope allows, within tetrahedra and from one to the next.
        let line: Vec<f64> = (0..40_000).map(|i| noise.at([i as f64 * 1e-3, 0.3 - i as f64 * 2e-3, 0.7])).collect();
        let steepest = line.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f64::max);
        assert!(steepest < 0.012, "{steepest}");
        // 0 at every corner: there the gradient's own offset is 0, and others are out of reach.
        for corner in [[0.0, 0.0, 0.0], [5.0, -3.0, 9.0]] {
            let unskew = corner.iter().sum::<f64>() / 6.0;
            assert!(noise.at(corner.map(|x| x - unskew)).abs() < 1e-9);
        }
    }
}
