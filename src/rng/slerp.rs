//! Between two noises.

use crate::{Error, HostTensor, Result};

/// The tensor at `t`, from 0 to 1, on the way from `from` to `to` along the great circle through both: spherical linear
/// interpolation (Shoemake 1985, "Animating Rotation with Quaternion Curves"; of noises Song et al. 2020,
/// arXiv:2010.02502, section 5.3),
///
/// sin((1 − t) θ) / sin θ · from + sin(t θ) / sin θ · to, with θ the angle between them.
///
/// What is between two N(0, 1) noises is as long as they are and looks like noise, which the mean of both, shorter by
/// √2, does not. At 0 and 1 it is `from` and `to` to the bit. Between parallel ones the way is straight.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Usage`] if the two are opposite: then no way is the shortest.
pub fn slerp(from: &HostTensor, to: &HostTensor, t: f64) -> Result<HostTensor> {
    if from.shape != to.shape {
        let why = format!("slerp: expected tensors of one shape, found {:?} and {:?}", from.shape, to.shape);
        return Err(Error::Shape(why));
    }
    if t <= 0.0 || t >= 1.0 {
        return Ok(if t <= 0.0 { from.clone() } else { to.clone() });
    }
    let dot = |a: &HostTensor, b: &HostTensor| -> f64 {
        a.data.iter().zip(&b.data).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let cosine = dot(from, to) / (dot(from, from) * dot(to, to)).sqrt();
    // Closer to parallel, the angle is lost in the rounding of its cosine; tensors of zeros have none.
    let apart = cosine.abs() < 1.0 - 1e-12;
    if !apart && cosine < 0.0 {
        return Err(Error::Usage("slerp: between opposite noises no way is the shortest".into()));
    }
    let angle = cosine.acos();
    let share = |t: f64| if apart { (t * angle).sin() / angle.sin() } else { t };
    let (a, b) = (share(1.0 - t), share(t));
    let data = from.data.iter().zip(&to.data).map(|(from, to)| (a * f64::from(*from) + b * f64::from(*to)) as f32);
    Ok(HostTensor { shape: from.shape.clone(), data: data.collect() })
}
