//! Permutation of the dimensions.

use super::{
    Backward, Case, CaseInput, Family, Inputs, Launch, LowerContext, Lowered, Operand, Operation, Variant,
    expect_float, no_knobs,
};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorDesc, ValueId};
use crate::reference;
use crate::tensor::HostTensor;

/// `y[i_order[0], i_order[1], ..] = x[i_0, i_1, ..]`: dimension d of the result is dimension `order[d]` of `x`, as in
/// `torch.permute`. Any shape of any rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Transpose {
    /// For each dimension of the result, the dimension of `x`.
    pub order: Vec<usize>,
}

/// One swap of neighbouring dimensions, `[outer, a, b, inner]` → `[outer, b, a, inner]`: what a kernel does in one
/// launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Swap {
    outer: usize,
    a: usize,
    b: usize,
    inner: usize,
}

impl Swap {
    /// Whether whole vectors of four elements stay together.
    fn moves_vectors(self) -> bool {
        self.inner.is_multiple_of(4)
    }

    /// Whether it consists of whole blocks of 4 × 4 elements, each transposed by itself.
    fn moves_blocks(self) -> bool {
        self.inner == 1 && self.a.is_multiple_of(4) && self.b.is_multiple_of(4)
    }

    fn elements(self) -> usize {
        self.outer * self.a * self.b * self.inner
    }

    fn launch(self, fast: bool) -> Launch {
        let launch = if !fast {
            Launch::new("transpose/naive")
                .param("elements", self.elements())
                .param("inner", self.inner)
                .cover(self.elements().div_ceil(4), 64)
        } else if self.moves_vectors() {
            Launch::new("transpose/vec4")
                .param("vectors", self.elements() / 4)
                .param("inner_vectors", self.inner / 4)
                .cover(self.elements() / 4, 64)
        } else {
            let blocks = self.elements() / 16;
            Launch::new("transpose/vec4_blocks").param("blocks", blocks).cover(blocks, 64)
        };
        launch.param("A", self.a).param("B", self.b)
    }
}

/// The swaps that bring the dimensions of a tensor of `shape` into `order`; none if no element moves. Dimensions of
/// size 1 do not count, and dimensions that stay together move together, so most orders need only one.
fn swaps(shape: &[usize], order: &[usize]) -> Vec<Swap> {
    let mut current: Vec<usize> = (0..shape.len()).filter(|d| shape[*d] != 1).collect();
    let target: Vec<usize> = order.iter().copied().filter(|d| shape[*d] != 1).collect();
    let mut swaps = Vec::new();
    for i in 0..current.len() {
        let from = (i..current.len()).find(|p| current[*p] == target[i]).expect("the order names every dimension");
        if from == i {
            continue;
        }
        let end = (from + 1..current.len()).find(|p| current[*p] != target[i + p - from]).unwrap_or(current.len());
        let size = |range: std::ops::Range<usize>| current[range].iter().map(|d| shape[*d]).product();
        swaps.push(Swap { outer: size(0..i), a: size(i..from), b: size(from..end), inner: size(end..current.len()) });
        current[i..end].rotate_left(from - i);
    }
    swaps
}

impl Transpose {
    fn swaps(&self, context: &LowerContext<'_>) -> Vec<Swap> {
        let swaps = swaps(&context.input(0).shape, &self.order);
        let copy = || vec![Swap { outer: 1, a: 1, b: 1, inner: context.output.elements() }];
        if swaps.is_empty() { copy() } else { swaps }
    }

    /// One launch per swap, with a temporary buffer between any two.
    fn launches(&self, context: &LowerContext<'_>, fast: bool) -> Lowered {
        let swaps = self.swaps(context);
        let mut lowered = Lowered { launches: Vec::new(), scratch: Vec::new() };
        let mut from = Operand::Input(0);
        for (i, swap) in swaps.iter().enumerate() {
            let last = i + 1 == swaps.len();
            let to = if last { Operand::Output } else { lowered.add_scratch([swap.elements()]) };
            lowered.launches.push(swap.launch(fast).bind("x", from).bind("y", to));
            from = to;
        }
        lowered
    }
}

impl Operation for Transpose {
    const NAME: &'static str = "transpose";
    const INPUTS: &'static [&'static str] = &["x"];

    fn infer(&self, inputs: Inputs<'_, TensorDesc>) -> Result<TensorDesc> {
        let x = inputs.required(0)?;
        expect_float("x", x.dtype)?;
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x.shape.len()) {
            let (order, shape) = (&self.order, &x.shape);
            return Err(Error::Shape(format!("{order:?} is not an order of the dimensions of x {shape:?}")));
        }
        Ok(x.with_shape(self.order.iter().map(|d| x.shape[*d]).collect::<Vec<_>>()))
    }

    fn flops(&self, _: Inputs<'_, TensorDesc>, _: &TensorDesc) -> u64 {
        0
    }

    fn reference(&self, inputs: Inputs<'_, HostTensor>) -> HostTensor {
        reference::transpose(inputs.get(0), &self.order)
    }

    fn gradient(&self, back: &mut Backward<'_>) -> Result<Vec<Option<ValueId>>> {
        let mut order = vec![0; self.order.len()];
        self.order.iter().enumerate().for_each(|(to, from)| order[*from] = to);
        let name = back.name("x");
        Ok(vec![Some(back.graph.transpose(name, back.dy, &order)?)])
    }

    fn variants() -> &'static [Variant<Self>] {
        &[
            Variant {
                name: "vec4",
                family: Family::Any,
                legal: |op, context| match op.swaps(context).iter().find(|s| !s.moves_vectors() && !s.moves_blocks()) {
                    None => Ok(()),
                    Some(s) => Err(format!("{} x {} runs of {} elements are not whole vectors", s.a, s.b, s.inner)),
                },
                knobs: no_knobs,
                lower: |op, context, _| op.launches(context, true),
            },
            Variant {
                name: "naive",
                family: Family::Any,
                legal: |_, _| Ok(()),
                knobs: no_knobs,
                lower: |op, context, _| op.launches(context, false),
            },
        ]
    }

    fn attributes(&self) -> String {
        format!("order={:?}", self.order).replace(' ', "")
    }

    fn cases() -> Vec<Case> {
        let case = |label, order: &[usize], x: &[usize]| {
            Case::new(label, Transpose { order: order.to_vec() }, vec![CaseInput::normal(x)])
        };
        vec![
            case("a matrix, odd", &[1, 0], &[7, 5]),
            case("a matrix, whole blocks", &[1, 0], &[12, 36]),
            case("channels to the front", &[0, 3, 1, 2], &[2, 3, 5, 7]),
            case("channels to the end, whole blocks", &[0, 2, 3, 1], &[3, 8, 2, 6]),
            case("heads before tokens", &[0, 2, 1, 3], &[2, 9, 3, 5]),
            case("heads before tokens, whole vectors", &[0, 2, 1, 3], &[2, 33, 3, 8]),
            case("patches of 2 x 2", &[0, 1, 3, 2, 4, 5], &[2, 3, 2, 5, 2, 4]),
            case("all dimensions turned round, three launches", &[3, 2, 1, 0], &[2, 3, 5, 7]),
            case("two launches of whole vectors", &[2, 1, 0, 3], &[3, 2, 5, 12]),
            case("frames beside pixels of a film", &[0, 2, 3, 1, 4], &[2, 3, 5, 2, 7]),
            case("nothing moves", &[1, 0, 2], &[1, 5, 3]),
            case("two whole workgroups, odd", &[0, 2, 1], &[2, 15, 17]),
            case("two whole workgroups of vectors", &[0, 2, 1, 3], &[2, 8, 4, 8]),
            case("two whole workgroups of blocks", &[0, 2, 1], &[2, 64, 64]),
        ]
    }
}

impl Graph {
    /// `x` with its dimensions in another order, as `torch.permute`. If no element moves, this is a view.
    ///
    /// # Errors
    /// [`Error::Shape`] if `order` does not name every dimension once.
    pub fn transpose(&mut self, name: impl Into<String>, x: ValueId, order: &[usize]) -> Result<ValueId> {
        let op = Transpose { order: order.to_vec() };
        let x_desc = self.desc(x).clone();
        let y = op.infer(Inputs { names: Transpose::INPUTS, values: &[Some(&x_desc)] })?;
        if swaps(&x_desc.shape, order).is_empty() {
            return self.reshape(name, x, y.shape);
        }
        self.push(name, op, &[Some(x)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_together_moves_together() {
        assert_eq!(swaps(&[2, 9, 3, 5], &[0, 2, 1, 3]), [Swap { outer: 2, a: 9, b: 3, inner: 5 }]);
        assert_eq!(swaps(&[2, 3, 5, 7], &[0, 3, 1, 2]), [Swap { outer: 2, a: 15, b: 7, inner: 1 }]);
        assert_eq!(swaps(&[2, 3, 5, 7], &[2, 3, 0, 1]), [Swap { outer: 1, a: 6, b: 35, inner: 1 }]);
        assert_eq!(swaps(&[2, 1, 5], &[1, 0, 2]), []);
        assert_eq!(swaps(&[2, 3, 5, 7], &[3, 2, 1, 0]).len(), 3);
    }
}
