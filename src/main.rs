//! The `unmist` binary: see `unmist --help`.

fn main() -> std::process::ExitCode {
    unmist::cli::main()
}
