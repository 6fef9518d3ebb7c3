//! The computation as pure data: a graph of operations on values whose shapes are known when they are added.
//!
//! Models build a [`Graph`]; [`passes`] rewrite it; [`crate::plan`] turns it into kernel launches and
//! [`crate::reference`] runs it as it is.

mod dump;
mod gradient;
mod ir;
pub mod passes;
pub mod range;
mod rows;
mod weights;

pub use gradient::{Backward, Kept};
pub use ir::{Carry, Graph, Node, NodeKind, Rate, TensorDesc, ValueId, WeightLayout, WeightPart, WeightSpec};
pub use rows::gather_rows;
pub(crate) use weights::expect_own;
pub use weights::{Stored, StoredType, WeightSource, WeightSources, content_of};
