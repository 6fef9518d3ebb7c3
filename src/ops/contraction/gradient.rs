//! What a contraction passes back: contractions again.
//!
//! For `y[m, n] = Σ_k x[m, k] · weight[n, k]` both gradients are products, `dx = dy · weight` and `dweight = dyᵀ · x`.
//! For a convolution both are convolutions: dx one of dy, its pixels moved apart by the stride, with the filter turned
//! round; dweight one of x with dy as the filter, in which the images take the place of the channels and stride and
//! dilation change theirs. So every variant of the contraction serves training as well. Dumoulin and Visin 2016, "A
//! guide to convolution arithmetic for deep learning", chapter 4.

use super::{BIAS, Contraction, Gather, RESIDUAL, SUMMAND, WEIGHT, WindowAxis, Windows};
use crate::error::Result;
use crate::graph::{Backward, Graph, ValueId};
use crate::ops::insert_zeros::InsertZeros;
use crate::ops::turn_filter::TurnFilter;

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
    if pointwise {
        if back.wants(0) {
            gradients[0] = Some(rows_input(back)?);
        }
        if back.wants(WEIGHT) {
            gradients[WEIGHT] = Some(rows_weight(back)?);
        }
    } else if let Gather::Windows(windows) = &op.gather {
        let strange = |axis: &WindowAxis| axis.dilation != 1;
        if windows.groups != 1 || windows.upsample != 1 || windows.axes.len() != 2 || windows.axes.iter().any(strange) {
            return back.refuse("a convolution with groups, dilation or other than two axes");
        }
        if back.wants(0) {
            gradients[0] = Some(windows_input(windows, back)?);
        }
        if back.wants(WEIGHT) {
            gradients[WEIGHT] = Some(windows_weight(windows, back)?);
        }
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

/// `dweight [N, K] = dyᵀ [N, M] · x [M, K]`
fn rows_weight(back: &mut Backward<'_>) -> Result<ValueId> {
    let (weight_shape, dy, name) = (back.shape(WEIGHT), back.dy, back.name("weight"));
    let x = back.input(0)?;
    let [x, dy] = [(x, "x"), (dy, "dy")].map(|(value, what)| {
        let shape = back.graph.shape(value);
        let (rows, columns) = (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]);
        let rows: ValueId = back.graph.reshape(format!("{name}.{what}"), value, [rows, columns])?;
        back.graph.transpose(format!("{name}.{what}.transposed"), rows, &[1, 0])
    });
    let product = back.graph.linear(name.clone(), dy?, x?, None)?;
    back.graph.reshape(format!("{name}.reshape"), product, weight_shape)
}

/// The convolution of dy, its pixels moved apart, with the filter turned round.
fn windows_input(windows: &Windows, back: &mut Backward<'_>) -> Result<ValueId> {
    let (x, weight_shape) = (back.shape(0), back.shape(WEIGHT));
    let (weight, mut dy, name) = (back.input(WEIGHT)?, back.dy, back.name("x"));
    let weight = back.graph.push(format!("{name}.filter"), TurnFilter, &[Some(weight)])?;
    let stride = [windows.axes[0].stride, windows.axes[1].stride];
    if stride != [1, 1] {
        dy = back.graph.push(format!("{name}.apart"), InsertZeros { stride }, &[Some(dy)])?;
    }
    let mut axes = Vec::with_capacity(2);
    for (i, axis) in windows.axes.iter().enumerate() {
        // As many zeros around that the window, at every position of x, sees what x went into.
        let (size, taps, length) = (x[i + 1], weight_shape[i + 1], back.graph.shape(dy)[i + 1]);
        let Some(before) = (taps - 1).checked_sub(axis.padding[0]) else {
            return back.refuse("a convolution with more padding than its filter reaches");
        };
        let Some(after) = (size + taps - 1).checked_sub(before + length) else {
            return back.refuse("a convolution with more padding than its filter reaches");
        };
        axes.push(WindowAxis { padding: [before, after], ..WindowAxis::default() });
    }
    convolve(back.graph, name, dy, weight, axes)
}

/// The convolution of x with dy as the filter, over the images.
fn windows_weight(windows: &Windows, back: &mut Backward<'_>) -> Result<ValueId> {
    let (weight_shape, dy, name) = (back.shape(WEIGHT), back.dy, back.name("weight"));
    let x = back.input(0)?;
    let (x_shape, dy_shape) = (back.graph.shape(x).to_vec(), back.graph.shape(dy).to_vec());
    let x = back.graph.transpose(format!("{name}.x"), x, &[3, 1, 2, 0])?;
    let dy = back.graph.transpose(format!("{name}.dy"), dy, &[3, 1, 2, 0])?;
    let mut axes = Vec::with_capacity(2);
    for (i, axis) in windows.axes.iter().enumerate() {
        let (size, taps, positions) = (x_shape[i + 1], weight_shape[i + 1], dy_shape[i + 1]);
        // Zeros behind, so that there is a position for each tap; with rows that no window reached there may be more.
        let needed = taps + (positions - 1) * axis.stride;
        let after = needed.saturating_sub(size + axis.padding[0]);
        axes.push(WindowAxis { stride: 1, padding: [axis.padding[0], after], dilation: axis.stride });
    }
    let mut weight = convolve(back.graph, name.clone(), x, dy, axes)?;
    for axis in [1, 2] {
        if back.graph.shape(weight)[axis] > weight_shape[axis] {
            let cut = format!("{name}.cut_{axis}");
            weight = back.graph.slice(cut, weight, axis as isize, 0, weight_shape[axis])?;
        }
    }
    back.graph.transpose(format!("{name}.transposed"), weight, &[3, 1, 2, 0])
}

fn convolve(graph: &mut Graph, name: String, x: ValueId, weight: ValueId, axes: Vec<WindowAxis>) -> Result<ValueId> {
    let windows = Windows { axes, groups: 1, upsample: 1 };
    graph.push(name, Contraction::new(Gather::Windows(windows)), &[Some(x), Some(weight), None, None, None])
}
