//! The `unmist` binary: see `unmist --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    silence_wayland();
    unmist::cli::main()
}

/// Mesa looks for a Wayland compositor whenever Vulkan starts, and libwayland complains on standard error if
/// `XDG_RUNTIME_DIR` is not an absolute path, as over SSH and in containers. There is no compositor to find then, and
/// unmist opens no window: an absolute socket that nothing listens on lets the search fail without a word.
fn silence_wayland() {
    let is_absolute = |name| std::env::var_os(name).is_some_and(|value| std::path::Path::new(&value).is_absolute());
    if cfg!(target_os = "linux") && !is_absolute("XDG_RUNTIME_DIR") && !is_absolute("WAYLAND_DISPLAY") {
        // SAFETY: `main` has started no thread yet that could read the environment.
        unsafe { std::env::set_var("WAYLAND_DISPLAY", "/dev/null") };
    }
}
