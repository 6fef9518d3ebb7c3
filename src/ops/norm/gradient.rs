//! What a norm passes back, to its input and to its parameters.

use super::{BETA, GAMMA, MODULATION, Modulation, Norm};
use crate::error::Result;
use crate::graph::{Backward, Graph, ValueId};
use crate::ops::norm_gradient::NormGradient;
use crate::ops::norm_moments::NormMoments;
use crate::ops::norm_sums::NormSums;
use crate::tensor::DType;

/// For `y = (n · gamma + beta) · (1 + scale) + shift` with the sums A = Σ dy · n and B = Σ dy of each image and
/// channel: `dgamma = Σ A (1 + scale)` and `dbeta = Σ B (1 + scale)` over the images, `dscale = A gamma + B beta`,
/// `dshift = B`.
pub(super) fn of(norm: &Norm, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
    if norm.activation.is_some() {
        return back.refuse("a norm with an activation function in it: differentiate before the passes run");
    }
    let shape = back.shape(0);
    let (images, channels) = (shape[0], shape[shape.len() - 1]);
    let x = back.input(0)?;
    let gamma = back.optional(GAMMA)?;
    let modulation = back.optional(MODULATION)?;
    let scale = norm.modulation.map(|m| m.scale);
    let dy = back.dy;

    let moments = NormMoments { kind: norm.kind, eps: norm.eps, scale };
    let name = back.name("moments");
    let moments = back.graph.push(name, moments, &[Some(x), Some(dy), gamma, modulation])?;
    let mut gradients = vec![None; 4];
    if back.wants(0) {
        let gradient = NormGradient { kind: norm.kind, scale };
        let name = back.name("x");
        gradients[0] = Some(back.graph.push(name, gradient, &[Some(x), Some(dy), Some(moments), gamma, modulation])?);
    }
    if ![GAMMA, BETA, MODULATION].into_iter().any(|position| back.wants(position)) {
        return Ok(gradients);
    }

    let name = back.name("sums");
    let sums = back.graph.push(name, NormSums { kind: norm.kind }, &[Some(x), Some(dy), Some(moments)])?;
    let [a, b] = [0, 1].map(|i| {
        let name = back.name(["normalised", "upstream"][i]);
        let part = back.graph.slice(format!("{name}.slice"), sums, 1, i, 1)?;
        back.graph.reshape(name, part, [images, channels])
    });
    let (a, b) = (a?, b?);
    // The part of the modulation that scales, one row an image.
    let rows_of_image = back.has(MODULATION) && {
        let shape = back.shape(MODULATION);
        shape[..shape.len() - 1].iter().product::<usize>() == images
    };
    if back.has(MODULATION) && !rows_of_image {
        return back.refuse("a modulation that differs between positions");
    }
    for (position, sum) in [(GAMMA, a), (BETA, b)] {
        if !back.wants(position) {
            continue;
        }
        let name = back.name(["", "gamma", "beta"][position]);
        let mut of_images = sum;
        if let (Some(modulation), Some(m)) = (modulation, norm.modulation) {
            let scale = part(back.graph, &name, modulation, m.scale, images, channels)?;
            let scale = back.graph.cast(format!("{name}.cast"), scale, DType::F32)?;
            let scaled = back.graph.mul(format!("{name}.scaled"), sum, scale)?;
            of_images = back.graph.add(format!("{name}.with_scale"), sum, scaled)?;
        }
        gradients[position] = Some(back.sum_to(["", "gamma", "beta"][position], of_images, &[channels])?);
    }
    if let (true, Some(Modulation { scale, shift })) = (back.wants(MODULATION), norm.modulation) {
        let name = back.name("modulation");
        let mut of_scale = a;
        if let Some(gamma) = gamma {
            of_scale = back.graph.mul(format!("{name}.gamma"), a, gamma)?;
        }
        if let Some(beta) = back.optional(BETA)? {
            let of_beta = back.graph.mul(format!("{name}.beta"), b, beta)?;
            of_scale = back.graph.add(format!("{name}.scale"), of_scale, of_beta)?;
        }
        let columns = back.shape(MODULATION)[back.shape(MODULATION).len() - 1];
        let joined = match (scale, shift, columns / channels) {
            (0, Some(1), 2) => back.graph.concat(name.clone(), of_scale, b, -1)?,
            (1, Some(0), 2) => back.graph.concat(name.clone(), b, of_scale, -1)?,
            (0, None, 1) => of_scale,
            _ => return back.refuse("a modulation of which other operations take parts"),
        };
        let shape = back.shape(MODULATION);
        gradients[MODULATION] = Some(back.graph.reshape(format!("{name}.reshape"), joined, shape)?);
    }
    Ok(gradients)
}

/// Columns of a modulation with one row an image: `[images, channels]`.
fn part(
    graph: &mut Graph,
    name: &str,
    modulation: ValueId,
    number: usize,
    images: usize,
    channels: usize,
) -> Result<ValueId> {
    let part = graph.slice(format!("{name}.part"), modulation, -1, number * channels, channels)?;
    graph.reshape(format!("{name}.rows"), part, [images, channels])
}
