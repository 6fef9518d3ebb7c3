//! Files: what loads, what is refused, and that nothing in a file can make the program panic.

pub mod adapters;
pub mod convert;
pub mod damaged_checkpoints;
pub mod files;
pub mod gguf;
pub mod gguf_writer;
pub mod single_file;
