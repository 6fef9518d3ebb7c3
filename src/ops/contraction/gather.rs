//! Which values of the input a sum takes.

use std::borrow::Cow;
use std::fmt;

use crate::error::{Error, Result};
use crate::reference;
use crate::tensor::HostTensor;

/// Which values of `x` a sum takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gather {
    /// Each whole row of `x`: `torch.nn.Linear`.
    Rows,
    /// The values under a window that moves over the picture: `torch.nn.Conv1d`, `Conv2d`, `Conv3d`.
    Windows(Windows),
}

/// A window that moves over one to three spatial axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// How it moves along each spatial axis of `x`, the outermost first.
    pub axes: Vec<WindowAxis>,
    /// Output channels of one group see only the input channels of the same group; 1 for an ordinary convolution.
    pub groups: usize,
    /// The picture is `x` with each pixel repeated so often along each axis: `interpolate(mode="nearest")` before the
    /// convolution; 1 for `x` itself. Other numbers for pictures alone, of two axes.
    pub upsample: usize,
}

/// How a window moves along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAxis {
    /// From one output position to the next, in pixels.
    pub stride: usize,
    /// Zeros before the first pixel and after the last.
    pub padding: [usize; 2],
    /// From one tap to the next, in pixels.
    pub dilation: usize,
}

impl Default for WindowAxis {
    /// Every position, no padding.
    fn default() -> Self {
        Self { stride: 1, padding: [0; 2], dilation: 1 }
    }
}

impl WindowAxis {
    /// Output positions along an axis of `size` pixels for a window of `taps`; `None` if it does not fit.
    fn positions(&self, size: usize, taps: usize) -> Option<usize> {
        let padded = size + self.padding[0] + self.padding[1];
        let reach = taps.checked_sub(1)?.checked_mul(self.dilation)?.checked_add(1)?;
        (self.stride > 0 && self.dilation > 0 && reach <= padded).then(|| (padded - reach) / self.stride + 1)
    }
}

impl Windows {
    /// Shape of the result of `weight [N, taps .., C / groups]` over `x [images, .., C]`: `[images, .., N]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not agree or the window does not fit.
    pub(in crate::ops) fn output_shape(&self, x: &[usize], weight: &[usize]) -> Result<Vec<usize>> {
        let axes = self.axes.len();
        if !(1..=3).contains(&axes) || x.len() != axes + 2 || weight.len() != axes + 2 {
            return Err(Error::Shape(format!(
                "a window over {axes} axes (1 to 3) needs x and weight of {} dimensions, found {x:?} and {weight:?}",
                axes + 2
            )));
        }
        if self.upsample != 1 && axes != 2 || self.upsample == 0 {
            return Err(Error::Shape(format!("pixels of {axes} axes cannot be repeated {} times", self.upsample)));
        }
        let (c_in, c_out, groups) = (x[axes + 1], weight[0], self.groups);
        if groups == 0 || !c_in.is_multiple_of(groups) || !c_out.is_multiple_of(groups) {
            return Err(Error::Shape(format!("{c_in} and {c_out} channels cannot be divided into {groups} groups")));
        }
        if weight[axes + 1] * groups != c_in {
            let per_group = if groups == 1 { "" } else { " in each group" };
            return Err(Error::Shape(format!(
                "weight {weight:?} is for {} input channels{per_group}, x {x:?} has {}",
                weight[axes + 1],
                c_in / groups
            )));
        }
        let mut shape = vec![x[0]];
        for (i, axis) in self.axes.iter().enumerate() {
            let (size, taps) = (self.upsample * x[i + 1], weight[i + 1]);
            let side = ["long", "high", "wide"][i + 3 - axes];
            shape.push(axis.positions(size, taps).ok_or_else(|| {
                Error::Shape(format!(
                    "a filter {taps} {side} with stride {} and dilation {} does not fit a picture {} {side}, padding \
                    included",
                    axis.stride,
                    axis.dilation,
                    size + axis.padding[0] + axis.padding[1]
                ))
            })?);
        }
        shape.push(c_out);
        Ok(shape)
    }
}

impl Windows {
    /// The picture that the window moves over.
    pub(super) fn picture<'a>(&self, x: &'a HostTensor) -> Cow<'a, HostTensor> {
        match self.upsample {
            1 => Cow::Borrowed(x),
            times => Cow::Owned(reference::upsample_nearest(x, times * x.shape[1], times * x.shape[2])),
        }
    }

    /// Output positions, stride, zeros before and dilation along each axis, for shapes that agree.
    pub(super) fn numbers(&self, x: &HostTensor, weight: &HostTensor) -> [Vec<usize>; 4] {
        let shape = self.output_shape(&x.shape, &weight.shape).expect("shape inference accepted it");
        let of = |number: fn(&WindowAxis) -> usize| self.axes.iter().map(number).collect();
        [shape[1..shape.len() - 1].to_vec(), of(|a| a.stride), of(|a| a.padding[0]), of(|a| a.dilation)]
    }
}

impl fmt::Display for Gather {
    /// `rows`, or `windows stride=2,2 padding=0,1,0,1` (before and after, axis by axis).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gather::Windows(windows) = self else { return f.write_str("rows") };
        let list =
            |number: &dyn Fn(&WindowAxis) -> String| windows.axes.iter().map(number).collect::<Vec<_>>().join(",");
        write!(
            f,
            "windows stride={} padding={}",
            list(&|a| a.stride.to_string()),
            list(&|a| format!("{},{}", a.padding[0], a.padding[1]))
        )?;
        if windows.axes.iter().any(|a| a.dilation != 1) {
            write!(f, " dilation={}", list(&|a| a.dilation.to_string()))?;
        }
        if windows.upsample != 1 {
            write!(f, " upsample={}", windows.upsample)?;
        }
        if windows.groups != 1 {
            write!(f, " groups={}", windows.groups)?;
        }
        Ok(())
    }
}

/// A convolution over pictures, with the options that models use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Step of the filter in pixels, vertical and horizontal.
    pub stride: [usize; 2],
    /// Rows and columns of zeros around the picture: top, bottom, left, right.
    pub padding: [usize; 4],
    /// Pixels from one tap of the filter to the next, vertical and horizontal.
    pub dilation: [usize; 2],
    /// See [`Windows::groups`].
    pub groups: usize,
}

impl Default for Conv2d {
    /// Stride 1, no padding, no dilation, one group.
    fn default() -> Self {
        Self { stride: [1; 2], padding: [0; 4], dilation: [1; 2], groups: 1 }
    }
}

impl From<Conv2d> for Windows {
    fn from(conv: Conv2d) -> Self {
        let Conv2d { stride, padding: [top, bottom, left, right], dilation, groups } = conv;
        let axis = |i: usize, padding| WindowAxis { stride: stride[i], padding, dilation: dilation[i] };
        Self { axes: vec![axis(0, [top, bottom]), axis(1, [left, right])], groups, upsample: 1 }
    }
}
