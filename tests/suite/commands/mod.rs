//! The command line as a user meets it: results, messages, files.

mod advice;
mod advice_cases;
mod anomaly;
mod batch;
mod bench;
mod bench_lab;
mod bench_page;
mod editing;
mod examples;
mod explain_page;
mod interpolate;
mod loss;
mod parts;
pub mod pictures;
pub mod requests;
mod results;
pub mod sample;
pub mod sample_pictures;
mod schedule;
mod scores;
mod settings;
mod sources;
mod systems;
mod trace;
mod tune;
pub mod usage;
pub mod verify;
