//! Every kernel: its text, and every operation, case, variant and storage type against the reference.

pub mod bands;
pub mod barriers;
pub mod fixtures;
pub mod legality;
pub mod matrices;
pub mod parity;
pub mod settings;
pub mod texts;
pub mod transformer_fixtures;
pub mod widths;
