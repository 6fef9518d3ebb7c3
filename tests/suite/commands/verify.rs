//! `unmist verify` on chosen operations, and kernels from a folder (`UNMIST_WGSL`).

use std::path::Path;
use std::process::{Command, Output};

use super::usage::{copy, fails, succeeds};

/// `unmist verify` with kernels from `folder`.
fn verify_with(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unmist"));
    command.arg("verify").args(args).env("UNMIST_WGSL", folder);
    if let Ok(device) = std::env::var("UNMIST_TEST_DEVICE") {
        command.args(["--device", &device]);
    }
    command.output().expect("the program starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn operations_variants_and_kernels_can_be_chosen() {
    let printed = succeeds(&["verify", "--operation", "clamp,embedding"]);
    assert!(printed.contains("clamp ") && printed.contains("embedding ") && !printed.contains("scale "), "{printed}");
    let printed = succeeds(&["verify", "--operation", "embedding", "--variant", "naive"]);
    assert!(printed.contains("naive") && !printed.contains("vec4"), "{printed}");
    let printed = succeeds(&["verify", "--operation", "embedding", "--kernel", "embedding/vec4"]);
    assert!(printed.contains("naive               0 comparisons"), "{printed}");
    let nothing = tempfile::tempdir().expect("a folder");
    fails(&["verify", "--operation", "clam"], &["--operation clam", "clamp"], nothing.path());
    fails(&["verify", "--variant", "fast"], &["--variant fast", "naive"], nothing.path());
    fails(&["verify", "--kernel", "clamp/fast"], &["--kernel clamp/fast"], nothing.path());
    fails(&["verify", "--operation", "clamp", "--size", "perf"], &["--size"], nothing.path());
}

#[test]
fn kernels_come_from_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("wgsl"), folder.path());
    let kernel = folder.path().join("clamp/naive.wgsl");
    let sound = std::fs::read_to_string(&kernel).expect("there is such a kernel");
    let clamp = ["--operation", "clamp", "--stop-at-first"];

    let output = verify_with(folder.path(), &clamp);
    assert!(output.status.success(), "{}", said(&output));

    std::fs::write(&kernel, sound.replace("p.low", "p.high")).expect("can be written");
    let output = verify_with(folder.path(), &clamp);
    assert!(!output.status.success() && said(&output).contains("DIVERGES clamp naive"), "{}", said(&output));

    std::fs::write(&kernel, sound.replace("fn main", "fn main main")).expect("can be written");
    let output = verify_with(folder.path(), &clamp);
    let file = kernel.display().to_string();
    assert!(!output.status.success() && said(&output).contains(&file), "{}", said(&output));

    std::fs::write(&kernel, &sound).expect("can be written");
    for missing in [&kernel, &folder.path().join("include/flat_index.wgsl")] {
        std::fs::remove_file(missing).expect("is there");
        let output = verify_with(folder.path(), &clamp);
        let file = missing.display().to_string();
        assert!(!output.status.success() && said(&output).contains(&file), "{}", said(&output));
        std::fs::write(missing, &sound).expect("can be written");
    }
}
