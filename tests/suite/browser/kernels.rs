//! Chromium's compiler on every kernel.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::browser::{FileServer, Page};
use crate::kernels::texts;

/// Compiles the texts, and returns what the compiler says of each, if anything.
const COMPILE: &str = r#"async (texts) => {
  const adapter = await navigator.gpu.requestAdapter();
  const features = ['subgroups', 'shader-f16'].filter((name) => adapter.features.has(name));
  const device = await adapter.requestDevice({ requiredFeatures: features });
  const said = await Promise.all(texts.map(async ([name, code]) => {
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code });
    const scope = device.popErrorScope(); // before the next one begins
    const { messages } = await module.getCompilationInfo();
    const error = await scope;
    const all = messages.map((m) => `${m.type} in line ${m.lineNum}: ${m.message}`);
    if (error && all.length === 0) all.push(error.message);
    return all.map((text) => `${name}: ${text}`);
  }));
  return { features, said: said.flat() };
}"#;

#[test]
fn every_kernel_is_taken_by_tint_without_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("index.html"), "<!doctype html><link rel=icon href=data:,>").expect("writes");
    let server = FileServer::start(folder.path());
    let mut page = Page::open(&server.url("/"));
    let compile = |page: &mut Page, texts: &[(String, String)]| {
        let answer = page.evaluate_within(super::RUN, &format!("({COMPILE})({})", json!(texts)));
        let said: Vec<String> = serde_json::from_value(answer["said"].clone()).expect("a list");
        (answer["features"].as_array().expect("a list").iter().any(|f| f == "shader-f16"), said)
    };

    // It notices what is wrong.
    let wrong = [("wrong", "fn f() -> i32 { return 1.5; }"), ("right", "fn f() {}")];
    let (has_f16, said) = compile(&mut page, &wrong.map(|(name, text)| (name.to_owned(), text.to_owned())));
    assert!(said.len() == 1 && said[0].starts_with("wrong: error"), "{said:?}");

    // Matrix units are wgpu's own extension; arithmetic in f16 needs the device's.
    let for_pages = |text: &str| !text.contains("wgpu_") && (has_f16 || !text.contains("enable f16;"));
    let kernels: Vec<_> = texts::kernels().iter().filter(|kernel| for_pages(&kernel.wgsl)).collect();
    let texts: Vec<(String, String)> = kernels
        .iter()
        .map(|kernel| {
            let enable = if kernel.reflection.uses_subgroups { "enable subgroups;\n" } else { "" };
            (format!("{} {}", kernel.name, kernel.settings), format!("{enable}{}", kernel.wgsl))
        })
        .collect();
    let files: BTreeSet<_> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    assert!(texts.len() > 500 && files.len() > 60, "{} texts of {} files", texts.len(), files.len());
    for some in texts.chunks(100) {
        assert_eq!(compile(&mut page, some).1, [""; 0]);
    }
}
