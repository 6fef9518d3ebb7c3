//! Variants that the user asks for: `conv2d=naive`, of a shape, of a node, with a setting.

use std::fmt;

use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::{Knobs, LowerContext, Op, registry};
use crate::refusal::Refusal;

/// What a forced variant applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every instance of an operation.
    Operation(String),
    /// Those of its instances whose output has this shape.
    Shape(String, Vec<usize>),
    /// The node of this name.
    Node(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Operation(operation) => f.write_str(operation),
            Target::Shape(operation, shape) => {
                let dims: Vec<_> = shape.iter().map(usize::to_string).collect();
                write!(f, "{operation}@{}", dims.join("x"))
            }
            Target::Node(node) => f.write_str(node),
        }
    }
}

/// A variant to use whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forced {
    /// What it applies to.
    pub target: Target,
    /// Name of the variant.
    pub variant: String,
    /// Numbers that its setting must have; the rules choose the others.
    pub knobs: Knobs,
}

impl Forced {
    /// `variant` of `operation`, wherever it occurs, as the rules set it.
    pub fn operation(operation: &str, variant: &str) -> Self {
        Self { target: Target::Operation(operation.into()), variant: variant.into(), knobs: Knobs::default() }
    }

    /// Parses `TARGET=VARIANT` or `TARGET=VARIANT:NAME=VALUE,…`. TARGET is an operation; an operation and the shape of
    /// its output, as `conv2d@1x64x64x320`; or the name of a node: a name with a dot as it is, any other as
    /// `node:NAME`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the operation or the variant does not exist, or the text is of another form.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: String| Error::from(Refusal::of_value("force", text, why));
        let form = "expected TARGET=VARIANT or TARGET=VARIANT:NAME=VALUE,…, e.g. conv2d=naive; TARGET is an operation, \
                    OPERATION@SHAPE or a node's name";
        let (target, variant) = text.split_once('=').ok_or_else(|| wrong(form.into()))?;
        let (variant, knobs) = match variant.split_once(':') {
            Some((variant, knobs)) => (variant, Knobs::parse(knobs).map_err(&wrong)?),
            None => (variant, Knobs::default()),
        };
        let registry = registry();
        let find = |name: &str| registry.iter().find(|info| info.name == name || info.aliases.contains(&name));
        let (target, variants) = if let Some(node) = target.strip_prefix("node:") {
            (Target::Node(node.into()), None)
        } else if let Some((operation, shape)) = target.split_once('@') {
            let info = find(operation).ok_or_else(|| wrong(no_operation(operation)))?;
            let shape = shape.split('x').map(str::parse).collect::<std::result::Result<_, _>>();
            let shape = shape.map_err(|_| wrong("a shape is written as 1x64x64x320".into()))?;
            (Target::Shape(operation.into(), shape), Some(info))
        } else if let Some(info) = find(target) {
            (Target::Operation(target.into()), Some(info))
        } else if target.contains('.') {
            (Target::Node(target.into()), None)
        } else {
            return Err(wrong(no_operation(target)));
        };
        let old = registry.iter().filter(|info| variants.is_none_or(|named| named.name == info.name));
        let variant =
            old.flat_map(|info| info.old_variants).find(|(old, _)| *old == variant).map_or(variant, |(_, now)| now);
        match variants {
            Some(info) if !info.variants.contains(&variant) => {
                let (name, has) = (info.name, info.variants.join(", "));
                Err(wrong(format!("{name} has no variant {variant}; it has {has}")))
            }
            None if !registry.iter().any(|info| info.variants.contains(&variant)) => {
                Err(wrong(format!("no operation has a variant {variant}")))
            }
            _ => Ok(Self { target, variant: variant.into(), knobs }),
        }
    }

    /// The forced variant that goes before the others for this instance.
    pub(super) fn strongest<'a>(
        all: &'a [Forced],
        op: &Op,
        node: &str,
        context: &LowerContext<'_>,
    ) -> Option<&'a Forced> {
        let find = |test: &dyn Fn(&Target) -> bool| all.iter().find(|forced| test(&forced.target));
        find(&|target| matches!(target, Target::Node(name) if name == node))
            .or_else(|| {
                let meant = |name: &str, shape: &[usize]| op.is_called(name) && shape == context.output.shape;
                find(&|target| matches!(target, Target::Shape(name, shape) if meant(name, shape)))
            })
            .or_else(|| find(&|target| matches!(target, Target::Operation(name) if op.is_called(name))))
    }

    /// Refuses a node that none of `graphs` has.
    pub(super) fn check_node(&self, graphs: &[Graph]) -> Result<()> {
        let Target::Node(wanted) = &self.target else { return Ok(()) };
        match unknown_node(wanted, graphs) {
            Some(why) => Err(Refusal::of("force", why).into()),
            None => Ok(()),
        }
    }
}

/// Names like `wanted`, in words, if none of `graphs` has a node of that name.
pub(crate) fn unknown_node(wanted: &str, graphs: &[Graph]) -> Option<String> {
    let nodes = graphs.iter().flat_map(Graph::nodes).filter(|n| n.op().is_some());
    let names: Vec<&str> = nodes.map(|n| n.name.as_str()).collect();
    if names.contains(&wanted) {
        return None;
    }
    let common = |name: &str| name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
    let longest = names.iter().map(|name| common(name)).max().unwrap_or(0);
    let similar: Vec<&str> = names.iter().filter(|name| common(name) == longest).take(5).copied().collect();
    Some(format!("no node is called {wanted}; similar names: {}", similar.join(", ")))
}

fn no_operation(name: &str) -> String {
    let known: Vec<_> = registry().iter().flat_map(|info| [&[info.name], info.aliases].concat()).collect();
    format!(
        "no operation {name}; there are {}. A node without a dot in its name is written node:{name}",
        known.join(", ")
    )
}
