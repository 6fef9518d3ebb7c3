//! The references must share no code with what they judge: they take shapes and numbers, never an operation's own types
//! or helpers.

use std::path::Path;

#[test]
fn references_name_no_operation() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/reference");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder is there").flatten() {
        let path = entry.path();
        if path.ends_with("session.rs") {
            continue; // runs a graph, whose nodes hold operations
        }
        let text = std::fs::read_to_string(&path).expect("sources are text");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let shared = ["ops::", "kernel::", "plan::", "gpu::"].iter().any(|module| code.contains(module));
            assert!(!shared, "{}:{}: {line}", path.display(), number + 1);
        }
        seen += 1;
    }
    assert!(seen > 20, "only {seen} references were found");
}
