//! Training: steps as torch takes them, and the command.

mod steps;
