//! The stable text form of a graph: one line for each node, for `unmist inspect`, snapshots and debugging.

use std::fmt;

use super::ir::{Graph, NodeKind, Rate};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, node) in self.values() {
            write!(f, "%{} = ", id.index())?;
            match &node.kind {
                NodeKind::Input(Rate::Step) => write!(f, "input")?,
                NodeKind::Input(rate) => write!(f, "input({})", rate.name())?,
                NodeKind::Weight(spec) if spec.parts.len() > 1 => write!(f, "weight({} parts)", spec.parts.len())?,
                NodeKind::Weight(_) => write!(f, "weight")?,
                NodeKind::Constant(_) => write!(f, "constant")?,
                NodeKind::Op(op, inputs) => {
                    write!(f, "{op}(")?;
                    for (i, input) in inputs.iter().enumerate() {
                        let comma = if i == 0 { "" } else { ", " };
                        match input {
                            Some(v) => write!(f, "{comma}%{}", v.index())?,
                            None => write!(f, "{comma}-")?,
                        }
                    }
                    write!(f, ")")?;
                }
            }
            writeln!(f, " : {}  # {}", node.desc.label(), node.name)?;
        }
        for (name, value) in self.outputs() {
            writeln!(f, "output {name} = %{}", value.index())?;
        }
        for carry in self.carries() {
            writeln!(f, "carry {} -> {}", carry.output, carry.input)?;
        }
        Ok(())
    }
}
