//! The command line as a user meets it: results, messages, files.

mod advice;
mod advice_cases;
mod examples;
pub mod fuzz;
mod parts;
pub mod pictures;
pub mod requests;
mod results;
pub mod sample;
pub mod sample_pictures;
pub mod usage;
pub mod verify;
