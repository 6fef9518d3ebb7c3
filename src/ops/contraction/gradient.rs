//! What a contraction passes back.
//!
//! For `y[m, n] = Σ_k x[m, k] · weight[n, k]` both gradients are products, `dx = dy · weight` and `dweight = dyᵀ · x`.
//! For a convolution dx is a convolution of dy, its pixels moved apart by the stride, with the filter turned round.
//! Groups stay groups. So every variant of the contraction serves training as well, for dx. The sums of dweight are as
//! long as there are positions, and both its factors lie in memory with the positions outermost: an operation of its
//! own, [`WeightGradient`]. Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4.

use super::{BIAS, Contraction, Gather, RESIDUAL, SUMMAND, WEIGHT, WindowAxis, Windows};
use crate::error::Result;
use crate::graph::{Backward, Graph, ValueId};
use crate::ops::insert_zeros::InsertZeros;
use crate::ops::turn_filter::TurnFilter;
use crate::ops::weight_gradient::WeightGradient;
use crate::tensor::HostTensor;

/// The gradients of x, weight, bias, summand and residual.
pub(super) fn of(op: &Contraction, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
    let epilogue = &op.epilogue;
    let wide = back.has(SUMMAND) && back.shape(SUMMAND).last() != back.graph.shape(back.dy).last();
    if epilogue.activation.is_some() || epilogue.gate || wide {
        return back.refuse("a product with an activation function in it: differentiate before the passes run");
    }
    if epilogue.scale != 1.0 {
        let name = back.name("scaled");
        back.dy = back.graph.scale(name, back.dy, f64::from(epilogue.scale), 0.0)?;
    }
    let mut gradients = vec![None; 5];
    for (position, what) in [(BIAS, "bias"), (SUMMAND, "summand"), (RESIDUAL, "residual")] {
        if back.wants(position) {
            let (shape, dy) = (back.shape(position), back.dy);
            gradients[position] = Some(sum_rows_to(back, what, dy, &shape)?);
        }
    }
    let pointwise = match &op.gather {
        Gather::Rows => true,
        Gather::Windows(windows) => {
            let weight = back.shape(WEIGHT);
            let single = weight[1..weight.len() - 1].iter().all(|taps| *taps == 1);
            let plain = |axis: &WindowAxis| axis.stride == 1 && axis.padding == [0, 0];
            single && windows.axes.iter().all(plain) && windows.groups == 1 && windows.upsample == 1
        }
    };
    let windows = match &op.gather {
        Gather::Windows(windows) if !pointwise => Some(windows),
        _ => None,
    };
    if windows.is_some_and(|windows| windows.upsample != 1) {
        return back.refuse("a convolution that enlarges its input: differentiate before the passes run");
    }
    if back.wants(0) {
        gradients[0] = Some(match windows {
            Some(windows) => windows_input(windows, back)?,
            None => rows_input(back)?,
        });
    }
    if back.wants(WEIGHT) {
        gradients[WEIGHT] = Some(of_weight(windows, back)?);
    }
    Ok(gradients)
}

/// The sum of the rows of dy that shared a row of what was added.
fn sum_rows_to(back: &mut Backward<'_>, what: &str, dy: ValueId, shape: &[usize]) -> Result<ValueId> {
    let full = back.graph.shape(dy).to_vec();
    if full == shape {
        return Ok(dy);
    }
    let (columns, rows) = (full[full.len() - 1], full[..full.len() - 1].iter().product::<usize>());
    let kept = shape[..shape.len() - 1].iter().product::<usize>().max(1);
    let name = back.name(what);
    let grouped = back.graph.reshape(format!("{name}.rows"), dy, [kept, rows / kept, columns])?;
    let sum = back.graph.sum(name.clone(), grouped, 1, 2)?;
    back.graph.reshape(format!("{name}.reshape"), sum, shape)
}

/// `dx [.., K] = dy [.., N] · weight [N, K]`
fn rows_input(back: &mut Backward<'_>) -> Result<ValueId> {
    let (shape, weight_shape) = (back.shape(0), back.shape(WEIGHT));
    let (n, k) = (weight_shape[0], weight_shape[weight_shape.len() - 1]);
    let (weight, dy, name) = (back.input(WEIGHT)?, back.dy, back.name("x"));
    let weight = back.graph.reshape(format!("{name}.weight"), weight, [n, k])?;
    let weight = back.graph.transpose(format!("{name}.transposed"), weight, &[1, 0])?;
    let dx = back.graph.linear(name.clone(), dy, weight, None)?;
    back.graph.reshape(format!("{name}.reshape"), dx, shape)
}

/// The sum over all positions of dy there times what lay under the window.
fn of_weight(windows: Option<&Windows>, back: &mut Backward<'_>) -> Result<ValueId> {
    let (mut shape, dy, name) = (back.shape(WEIGHT), back.dy, back.name("weight"));
    let (mut x, last) = (back.input(0)?, shape.len() - 1);
    let (channels, padded) = (shape[last], shape[last].next_multiple_of(4));
    let op = match windows {
        Some(windows) => WeightGradient { gather: Gather::Windows(windows.clone()), taps: shape[1..last].to_vec() },
        None => WeightGradient { gather: Gather::Rows, taps: Vec::new() },
    };
    // Whole vectors of channels, for the kernels that need them: a picture has one or three.
    let pad = padded > channels && windows.is_none_or(|windows| windows.groups == 1);
    if pad {
        let mut missing = back.graph.shape(x).to_vec();
        *missing.last_mut().expect("it has channels") = padded - channels;
        let (zeros, dtype) = (HostTensor::zeros(missing), back.dtype(0));
        let zeros = back.graph.constant(format!("{name}.zeros"), zeros);
        let zeros = back.graph.cast(format!("{name}.zeros.cast"), zeros, dtype)?;
        x = back.graph.concat(format!("{name}.padded"), x, zeros, -1)?;
        shape[last] = padded;
    }
    let gradient = back.graph.push(name.clone(), op, &[Some(x), Some(dy)])?;
    let gradient = back.graph.reshape(format!("{name}.reshape"), gradient, shape)?;
    if pad { back.graph.slice(format!("{name}.cut"), gradient, -1, 0, channels) } else { Ok(gradient) }
}

/// The convolution of dy, its pixels moved apart, with the filter turned round.
fn windows_input(windows: &Windows, back: &mut Backward<'_>) -> Result<ValueId> {
    let (x, weight_shape) = (back.shape(0), back.shape(WEIGHT));
    let (weight, name) = (back.input(WEIGHT)?, back.name("x"));
    let weight = turned(windows, back.graph, &name, weight)?;
    let mut dy = moved_apart(windows, back.graph, &name, back.dy)?;
    let mut axes = Vec::with_capacity(windows.axes.len());
    for (i, axis) in windows.axes.iter().enumerate() {
        // As many zeros around that the window, at every position of x, sees what x went into.
        let (size, length) = (x[i + 1], back.graph.shape(dy)[i + 1]);
        let reach = (weight_shape[i + 1] - 1) * axis.dilation;
        // With more padding than the filter reaches, windows at the borders saw nothing of x.
        let (before, first) = (reach.saturating_sub(axis.padding[0]), axis.padding[0].saturating_sub(reach));
        let (end, seen) = ((before + length).saturating_sub(first), size + reach);
        let (after, blind) = (seen.saturating_sub(end), end.saturating_sub(seen));
        if first + blind >= length {
            return back.refuse("a convolution of nothing but zeros around its input");
        }
        if first + blind > 0 {
            let seen = format!("{name}.seen_{i}");
            dy = back.graph.slice(seen, dy, i as isize + 1, first, length - first - blind)?;
        }
        axes.push(WindowAxis { padding: [before, after], dilation: axis.dilation, ..WindowAxis::default() });
    }
    convolve(back.graph, name, dy, weight, axes, windows.groups)
}

/// The filter `[N, taps .., C / groups]` turned round, `[C, taps .., N / groups]`.
fn turned(windows: &Windows, graph: &mut Graph, name: &str, weight: ValueId) -> Result<ValueId> {
    let weight = graph.push(format!("{name}.filter"), TurnFilter, &[Some(weight)])?;
    if windows.groups == 1 {
        return Ok(weight);
    }
    // Its last dimension holds all groups, one after the other: they go before its first.
    let shape = graph.shape(weight).to_vec();
    let last = shape.len() - 1;
    let (groups, channels, filters) = (windows.groups, shape[0], shape[last] / windows.groups);
    let split =
        graph.reshape(format!("{name}.filter_of_groups"), weight, [&shape[..last], &[groups, filters]].concat())?;
    let order: Vec<usize> = [last].into_iter().chain(0..last).chain([last + 1]).collect();
    let ordered = graph.transpose(format!("{name}.filter_by_groups"), split, &order)?;
    graph.reshape(
        format!("{name}.filter_turned"),
        ordered,
        [&[groups * channels], &shape[1..last], &[filters]].concat(),
    )
}

/// dy with zeros between its pixels, as many as the stride leaves out.
fn moved_apart(windows: &Windows, graph: &mut Graph, name: &str, dy: ValueId) -> Result<ValueId> {
    let strides: Vec<usize> = windows.axes.iter().map(|axis| axis.stride).collect();
    let mut dy = dy;
    // The last two axes at once, as most have no others; one before them with what is behind it as its rows.
    let pair = strides.len().saturating_sub(2);
    for first in (0..=pair).rev() {
        let of_pair = first == pair;
        let stride = [strides[first], if of_pair { strides.get(first + 1).copied().unwrap_or(1) } else { 1 }];
        if stride == [1, 1] {
            continue;
        }
        let shape = graph.shape(dy).to_vec();
        let last = shape.len() - 1;
        let (images, behind) = (shape[..=first].iter().product(), shape[first + 2..last].iter().product());
        let flat =
            graph.reshape(format!("{name}.pixels_{first}"), dy, [images, shape[first + 1], behind, shape[last]])?;
        let apart = graph.push(format!("{name}.apart_{first}"), InsertZeros { stride }, &[Some(flat)])?;
        let mut longer = shape;
        longer[first + 1] = graph.shape(apart)[1];
        if of_pair && last > first + 2 {
            longer[first + 2] = graph.shape(apart)[2];
        }
        dy = graph.reshape(format!("{name}.apart_{first}.reshape"), apart, longer)?;
    }
    Ok(dy)
}

fn convolve(
    graph: &mut Graph,
    name: String,
    x: ValueId,
    weight: ValueId,
    axes: Vec<WindowAxis>,
    groups: usize,
) -> Result<ValueId> {
    let windows = Windows { axes, groups, upsample: 1 };
    graph.push(name, Contraction::new(Gather::Windows(windows)), &[Some(x), Some(weight), None, None, None])
}
