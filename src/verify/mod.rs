//! Numerical comparison, and the parity checks that tests and `unmist verify` share.

mod case;
mod compare;
mod divergence;
mod sweep;

pub use case::{CaseResult, Edit, PreparedCase, Run, Storage};
pub use compare::{Difference, Tolerance, compare};
pub use divergence::{Divergence, first_divergence};
pub use sweep::{Failure, Selection, VariantSummary, sweep};
