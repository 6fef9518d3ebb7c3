//! Numerical comparison, and the parity checks that tests and `unmist verify` share.

#[cfg(feature = "gpu")]
mod case;
mod compare;
#[cfg(feature = "gpu")]
mod divergence;
#[cfg(feature = "gpu")]
mod sweep;

#[cfg(feature = "gpu")]
pub use case::{CaseResult, Edit, PreparedCase, Run, Storage, check_sampled};
pub use compare::{Difference, Tolerance, compare};
#[cfg(feature = "gpu")]
pub use divergence::{Divergence, first_divergence};
#[cfg(feature = "gpu")]
pub use sweep::{Failure, Selection, VariantSummary, sweep};
