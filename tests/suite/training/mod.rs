//! Training: steps as torch takes them, and the command.

mod command;
mod differences;
mod plan;
mod steps;
