//! How long things take on a device, and how sure that is: what `bench` and `tune` share.
//!
//! An [`Instance`] is one operation as it occurs in a model; [`PreparedInstance`] checks a variant of it against the
//! reference and makes a session of it; [`time_program`] runs that until the time is known well enough, and keeps every
//! sample. [`Ceilings`] are what the device can do at most, and a [`Report`] is what `bench` found.

mod ceilings;
mod instance;
mod operations;
mod report;
mod samples;
mod single_kernel;
mod timing;
mod tune;

pub use ceilings::{Arithmetic, Ceiling, Ceilings, DispatchCost, MatrixCeiling, kernel_keys};
pub use instance::{Instance, PreparedInstance};
pub use operations::{Candidate, operations_of};
pub use report::{Check, LaunchTime, Operation, Picture, Report, Step, Subject};
pub use samples::{Samples, Verdict};
pub use timing::{Effort, time_launches, time_program, time_side_by_side, time_wall};
pub use tune::{TuneEffort, candidates, is_known, tune};
