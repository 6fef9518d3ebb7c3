//! Named rewrites Graph → Graph. None changes what the graph computes; each can be switched off, which is how the tests
//! show that.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::ir::{Graph, Node, NodeKind, TensorDesc, ValueId, WeightLayout, WeightSpec};
use crate::error::Result;
use crate::ops::Op;
use crate::ops::attention::{Attention, Packing};
use crate::ops::binary::BinaryKind;
use crate::ops::contraction::{self, Contraction, Gather, WindowAxis, Windows};
use crate::refusal::Refusal;

/// One rewrite.
pub struct Pass {
    /// Name, for who switches it off.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The rewrite.
    pub run: fn(&Graph) -> Result<Graph>,
}

/// All rewrites, in the order they run.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "activation",
        about: "an activation becomes part of the norm, product or convolution before it",
        run: fuse_activation,
    },
    Pass { name: "gate", about: "a gated activation becomes part of the product before it", run: fuse_gate },
    Pass {
        name: "epilogue",
        about: "what is added to a convolution or product, and a factor after it, become part of it",
        run: fuse_epilogue,
    },
    Pass {
        name: "summands",
        about: "vectors that are projected from one and added to several operations become one product",
        run: merge_summands,
    },
    Pass {
        name: "upsample",
        about: "pixels that are repeated twice become part of the 3x3 convolution after them",
        run: fuse_upsample,
    },
    Pass { name: "qkv", about: "the projections to queries, keys and values become one product", run: fuse_qkv },
];

/// Runs every pass but those named in `disabled`, until they find nothing more: what one fuses, another may fuse again.
///
/// # Errors
/// A refusal if `disabled` names a pass that does not exist.
pub fn optimize(graph: &Graph, disabled: &[String]) -> Result<Graph> {
    if let Some(unknown) = disabled.iter().find(|name| !PASSES.iter().any(|p| p.name == **name)) {
        let names: Vec<_> = PASSES.iter().map(|p| p.name).collect();
        return Err(Refusal::of_value("disable_pass", unknown, format!("there are {}", names.join(", "))).into());
    }
    let mut graph = graph.clone();
    loop {
        let before = graph.nodes().len();
        for pass in PASSES.iter().filter(|p| !disabled.iter().any(|d| d == p.name)) {
            graph = (pass.run)(&graph)?;
        }
        // Every rewrite takes nodes away.
        if graph.nodes().len() == before {
            return Ok(graph);
        }
    }
}

/// A graph being rewritten: the old one's nodes are visited in order and copied or replaced; what nothing reads any
/// more is dropped at the end.
struct Rewrite<'a> {
    old: &'a Graph,
    uses: Vec<usize>,
    new: Graph,
    renamed: HashMap<ValueId, ValueId>,
}

impl<'a> Rewrite<'a> {
    fn new(old: &'a Graph) -> Self {
        Self { old, uses: old.use_counts(), new: Graph::new(), renamed: HashMap::new() }
    }

    /// The operation that makes `value`, with its inputs, if nothing but one node reads it.
    fn only_use(&self, value: ValueId) -> Option<(&'a Op, &'a [Option<ValueId>])> {
        match &self.old.node(value).kind {
            NodeKind::Op(op, inputs) if self.uses[value.index()] == 1 => Some((op, inputs)),
            _ => None,
        }
    }

    fn to_new(&self, value: ValueId) -> ValueId {
        self.renamed[&value]
    }

    fn to_new_all(&self, values: &[Option<ValueId>]) -> Vec<Option<ValueId>> {
        values.iter().map(|v| v.map(|v| self.to_new(v))).collect()
    }

    /// `replace` gives the new value of a node, or `None` to copy the node.
    fn run(
        mut self,
        replace: impl Fn(&mut Self, &Node, &Op, &[Option<ValueId>]) -> Result<Option<ValueId>>,
    ) -> Result<Graph> {
        for (id, node) in self.old.values() {
            let replaced = match &node.kind {
                NodeKind::Op(op, inputs) => replace(&mut self, node, op, inputs)?,
                _ => None,
            };
            let value = match replaced {
                Some(value) => value,
                None => {
                    let renamed = &self.renamed;
                    self.new.push_node(node, |v| renamed[&v])?
                }
            };
            self.renamed.insert(id, value);
        }
        let Self { old, new, renamed, .. } = self;
        finish(&new, old, |v| renamed[&v])
    }
}

/// Copies what the outputs need, and all inputs, since callers write them by name.
fn finish(graph: &Graph, old: &Graph, rename: impl Fn(ValueId) -> ValueId) -> Result<Graph> {
    let mut live = vec![false; graph.nodes().len()];
    old.outputs().iter().for_each(|(_, v)| live[rename(*v).index()] = true);
    let ids: Vec<_> = graph.values().map(|(id, _)| id).collect();
    for id in ids.iter().rev() {
        live[id.index()] |= matches!(graph.node(*id).kind, NodeKind::Input(_));
        if live[id.index()] {
            graph.node(*id).inputs().for_each(|v| live[v.index()] = true);
        }
    }
    let mut out = Graph::new();
    let mut kept = HashMap::new();
    for (id, node) in graph.values().filter(|(id, _)| live[id.index()]) {
        let value = out.push_node(node, |v| kept[&v])?;
        kept.insert(id, value);
    }
    old.outputs().iter().for_each(|(name, v)| out.output(name.clone(), kept[&rename(*v)]));
    old.carries().iter().try_for_each(|c| out.carry(&c.output, &c.input))?;
    Ok(out)
}

/// Norm or contraction, then an activation → one operation.
fn fuse_activation(graph: &Graph) -> Result<Graph> {
    Rewrite::new(graph).run(|r, node, op, inputs| {
        let Op::Activation(activation) = op else { return Ok(None) };
        let x = inputs[0].expect("an activation has an input");
        let fused: Op = match r.only_use(x) {
            Some((Op::Norm(norm), _)) if norm.activation.is_none() => {
                let mut norm = norm.clone();
                norm.activation = Some(activation.kind);
                norm.into()
            }
            Some((Op::Contraction(product), of)) if can_activate(product, of) => {
                let mut product = product.clone();
                product.epilogue.activation = Some(activation.kind);
                product.into()
            }
            _ => return Ok(None),
        };
        let (_, of) = r.only_use(x).expect("matched above");
        let of = r.to_new_all(of);
        r.new.push(node.name.clone(), fused, &of).map(Some)
    })
}

/// Product, then a gated activation → one operation.
fn fuse_gate(graph: &Graph) -> Result<Graph> {
    Rewrite::new(graph).run(|r, node, op, inputs| {
        let Op::Gated(gated) = op else { return Ok(None) };
        let x = inputs[0].expect("a gated activation has an input");
        let Some((Op::Contraction(product), of)) = r.only_use(x).filter(|_| r.old.shape(x).len() > 1) else {
            return Ok(None);
        };
        if !can_activate(product, of) {
            return Ok(None);
        }
        let mut product = product.clone();
        product.epilogue.gate = true;
        product.epilogue.activation = Some(gated.activation);
        let of = r.to_new_all(of);
        r.new.push(node.name.clone(), product, &of).map(Some)
    })
}

/// Whether an activation may still follow within the operation: nothing comes after it yet.
fn can_activate(product: &Contraction, inputs: &[Option<ValueId>]) -> bool {
    let epilogue = &product.epilogue;
    let after = inputs[contraction::RESIDUAL].is_some() || epilogue.gate || epilogue.scale != 1.0;
    epilogue.activation.is_none() && !after
}

/// Contraction, then an addition or a factor → one operation, the summand as an input.
fn fuse_epilogue(graph: &Graph) -> Result<Graph> {
    Rewrite::new(graph).run(|r, node, op, inputs| match op {
        Op::Binary(binary) if binary.kind == BinaryKind::Add => fuse_summand(r, node, inputs),
        Op::Scale(scale) if scale.offset == 0.0 => fuse_factor(r, node, inputs, scale.factor as f32),
        _ => Ok(None),
    })
}

fn fuse_summand(r: &mut Rewrite<'_>, node: &Node, inputs: &[Option<ValueId>]) -> Result<Option<ValueId>> {
    let (a, b) = (inputs[0].expect("a sum has two inputs"), inputs[1].expect("a sum has two inputs"));
    // Take the later of two candidates: the earlier is the shortcut, which becomes its residual.
    for (producer, summand) in [(b, a), (a, b)] {
        let Some((Op::Contraction(product), of)) = r.only_use(producer) else { continue };
        let (shape, added) = (r.old.shape(producer), r.old.shape(summand));
        let ones = added.len().checked_sub(1).and_then(|last| added.get(1..last));
        let of_image = shape.len() > 2
            && added.len() == shape.len()
            && ones.is_some_and(|dims| dims.iter().all(|d| *d == 1))
            && (added[0], added[added.len() - 1]) == (shape[0], shape[shape.len() - 1]);
        // The product itself must have the sum's shape.
        if product.epilogue.scale != 1.0 || shape != node.desc.shape || (added != shape && !of_image) {
            continue;
        }
        // Before the activation if there is none yet, so that one can still follow.
        let before = can_activate(product, of) && of[contraction::SUMMAND].is_none();
        let slot = if before { contraction::SUMMAND } else { contraction::RESIDUAL };
        if of[slot].is_some() {
            continue;
        }
        let mut of = r.to_new_all(of);
        of[slot] = Some(r.to_new(summand));
        return r.new.push(node.name.clone(), product.clone(), &of).map(Some);
    }
    Ok(None)
}

fn fuse_factor(r: &mut Rewrite<'_>, node: &Node, inputs: &[Option<ValueId>], factor: f32) -> Result<Option<ValueId>> {
    let x = inputs[0].expect("a factor has an input");
    match r.only_use(x) {
        Some((Op::Contraction(product), of)) if product.epilogue.scale == 1.0 => {
            let mut product = product.clone();
            product.epilogue.scale = factor;
            let of = r.to_new_all(of);
            r.new.push(node.name.clone(), product, &of).map(Some)
        }
        _ => Ok(None),
    }
}

/// Projections of one input, each the per-image summand of one operation (a U-Net's time embedding) → one product, of
/// which each operation takes its columns.
fn merge_summands(graph: &Graph) -> Result<Graph> {
    // 1. by input: the projections, and the first of the columns that each will have
    let rewrite = Rewrite::new(graph);
    let mut of_input: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    for node in graph.nodes() {
        let (Some(Op::Contraction(reader)), NodeKind::Op(_, inputs)) = (node.op(), &node.kind) else { continue };
        let Some(summand) = inputs[contraction::SUMMAND] else { continue };
        let (value, x) = match projection(&rewrite, graph, summand) {
            Some(found) if reader.epilogue.summand_first == 0 => found,
            _ => continue,
        };
        let [rows, columns] = [graph.desc(value).rows(), graph.desc(value).channels()];
        // Kernels read whole vectors of them.
        if rows == graph.shape(inputs[0].expect("a product has an input"))[0] && columns.is_multiple_of(4) {
            of_input.entry(x).or_default().push(value);
        }
    }
    of_input.retain(|_, projections| projections.len() > 1);
    let mut first_columns = HashMap::new();
    for projections in of_input.values() {
        let mut first = 0;
        for value in projections {
            first_columns.insert(*value, first);
            first += graph.desc(*value).channels();
        }
    }

    // 2. the product stands where its first projection did; what reads a projection reads its columns
    let merged: RefCell<HashMap<ValueId, Option<ValueId>>> = RefCell::default();
    Rewrite::new(graph).run(|r, node, op, inputs| {
        let Op::Contraction(product) = op else { return Ok(None) };
        let set = |x: &ValueId| of_input.get(x).filter(|set| set.iter().any(|v| std::ptr::eq(graph.node(*v), node)));
        if let Some((x, projections)) = inputs[0].and_then(|x| Some((x, set(&x)?))) {
            if !merged.borrow().contains_key(&x) {
                let all = merge_projections(r, projections, &format!("{}.with_others", node.name))?;
                merged.borrow_mut().insert(x, all);
            }
            return Ok(None); // nothing reads it any more, if they could be merged
        }
        let Some(summand) = inputs[contraction::SUMMAND] else { return Ok(None) };
        let Some((value, x)) = projection(r, graph, summand) else { return Ok(None) };
        let (Some(first), Some(Some(all))) = (first_columns.get(&value), merged.borrow().get(&x).copied()) else {
            return Ok(None);
        };
        let mut product = product.clone();
        product.epilogue.summand_first = *first;
        let mut of = r.to_new_all(inputs);
        of[contraction::SUMMAND] = Some(all);
        r.new.push(node.name.clone(), product, &of).map(Some)
    })
}

/// The plain product of rows behind `summand`, which may be a view of it, and its input, if nothing else reads either.
fn projection(r: &Rewrite<'_>, graph: &Graph, summand: ValueId) -> Option<(ValueId, ValueId)> {
    let value = match r.only_use(summand)? {
        (Op::Reshape(_), of) => of[0]?,
        _ => summand,
    };
    let (op, of) = r.only_use(value)?;
    let plain = Contraction::new(Gather::Rows);
    let bare =
        matches!(op, Op::Contraction(product) if *product == plain) && of[contraction::SUMMAND..] == [None, None];
    (bare && graph.shape(value).len() == 2).then_some((value, of[0]?))
}

/// Upsampling to twice the size, then a 3 × 3 convolution → one operation.
fn fuse_upsample(graph: &Graph) -> Result<Graph> {
    Rewrite::new(graph).run(|r, node, op, inputs| {
        let Op::Contraction(product) = op else { return Ok(None) };
        let Gather::Windows(windows) = &product.gather else { return Ok(None) };
        let x = inputs[0].expect("a convolution has an input");
        let Some((Op::UpsampleNearest(_), of)) = r.only_use(x) else { return Ok(None) };
        let small = of[0].expect("upsampling has an input");
        let twice =
            r.old.shape(small)[1..3].iter().zip(&r.old.shape(x)[1..3]).all(|(small, large)| 2 * small == *large);
        let around = WindowAxis { padding: [1; 2], ..WindowAxis::default() };
        let weight = r.old.shape(inputs[contraction::WEIGHT].expect("a convolution has weights"));
        let plain = Windows { axes: vec![around; 2], groups: 1, upsample: 1 };
        if !twice || *windows != plain || weight[1..3] != [3, 3] {
            return Ok(None);
        }
        let mut product = product.clone();
        product.gather = Gather::Windows(Windows { upsample: 2, ..plain });
        let mut of = r.to_new_all(inputs);
        of[0] = Some(r.to_new(small));
        r.new.push(node.name.clone(), product, &of).map(Some)
    })
}

/// Three projections of one input that only attention reads → one product; if keys and values come from another input,
/// those two.
fn fuse_qkv(graph: &Graph) -> Result<Graph> {
    Rewrite::new(graph).run(|r, node, op, inputs| {
        let Op::Attention(attention) = op else { return Ok(None) };
        let [Some(q), Some(k), Some(v), bias, mask] = *inputs else { return Ok(None) };
        let [bias, mask] = [bias, mask].map(|v| v.map(|v| r.to_new(v)));
        if attention.packing != Packing::Separate {
            return Ok(None);
        }
        if let Some(qkv) = merge_projections(r, &[q, k, v], &format!("{}.qkv", node.name))? {
            let packed = Attention { packing: Packing::Qkv, ..attention.clone() };
            return r.new.push(node.name.clone(), packed, &[Some(qkv), None, None, bias, mask]).map(Some);
        }
        if let Some(kv) = merge_projections(r, &[k, v], &format!("{}.kv", node.name))? {
            let packed = Attention { packing: Packing::Kv, ..attention.clone() };
            let q = r.to_new(q);
            return r.new.push(node.name.clone(), packed, &[Some(q), Some(kv), None, bias, mask]).map(Some);
        }
        Ok(None)
    })
}

/// One product for several plain ones of the same input, its output the concatenation of theirs; `None` if they cannot
/// be merged.
fn merge_projections(r: &mut Rewrite<'_>, values: &[ValueId], name: &str) -> Result<Option<ValueId>> {
    let plain = Contraction::new(Gather::Rows);
    let mut projections = Vec::new();
    for value in values {
        match r.only_use(*value) {
            Some((Op::Contraction(product), of)) if *product == plain && of[contraction::SUMMAND..] == [None, None] => {
                projections.push(of)
            }
            _ => return Ok(None),
        }
    }
    let first = projections[0];
    let alike = |of: &&[Option<ValueId>]| {
        of[0] == first[0] && of[contraction::BIAS].is_some() == first[contraction::BIAS].is_some()
    };
    if !projections.iter().all(alike) {
        return Ok(None);
    }
    let Some(weight) = merge_weights(r, &projections, contraction::WEIGHT, &format!("{name}.weight")) else {
        return Ok(None);
    };
    let bias = match first[contraction::BIAS] {
        Some(_) => match merge_weights(r, &projections, contraction::BIAS, &format!("{name}.bias")) {
            Some(bias) => Some(bias),
            None => return Ok(None),
        },
        None => None,
    };
    let x = first[0].map(|x| r.to_new(x));
    r.new.push(name, plain, &[x, Some(weight), bias, None, None]).map(Some)
}

/// A parameter that is the concatenation of the parameters at `position` of each projection.
fn merge_weights(
    r: &mut Rewrite<'_>,
    projections: &[&[Option<ValueId>]],
    position: usize,
    name: &str,
) -> Option<ValueId> {
    let mut parts = Vec::new();
    let mut desc: Option<TensorDesc> = None;
    for of in projections {
        let node = r.old.node(of[position]?);
        let NodeKind::Weight(WeightSpec { parts: more, layout: WeightLayout::AsIs }) = &node.kind else { return None };
        parts.extend(more.iter().cloned());
        match &mut desc {
            None => desc = Some(node.desc.clone()),
            Some(sum) if sum.shape[1..] == node.desc.shape[1..] && sum.dtype == node.desc.dtype => {
                sum.shape[0] += node.desc.shape[0]
            }
            Some(_) => return None,
        }
    }
    Some(r.new.weight_spec(name, WeightSpec { parts, layout: WeightLayout::AsIs }, desc?))
}
