//! Which variant can compute which case, pinned: a variant that no longer covers a case it used to cover fails here,
//! even on a machine without a device. `UNMIST_PIN=1` rewrites the file.

use std::fmt::Write as _;
use std::path::Path;

use unmist::DType;
use unmist::caps::Caps;
use unmist::graph::NodeKind;
use unmist::ops::{LowerContext, registry};

/// Kinds of devices: column headings and what they can do.
fn devices() -> [(&'static str, Caps); 4] {
    let with = |is_cpu, size| Caps {
        is_cpu,
        subgroup_sizes: Some([size; 2]),
        max_binding_bytes: 1 << 30,
        max_buffer_bytes: 1 << 32,
        workgroup_memory_bytes: 32 << 10,
        max_workgroup_invocations: 1024,
        ..Caps::webgpu_minimum()
    };
    let lavapipe = Caps { max_loop_rounds: Some(65_535), ..with(true, 8) };
    [
        ("the least that WebGPU promises", Caps::webgpu_minimum()),
        ("a GPU with subgroups of 32", with(false, 32)),
        ("a CPU driver with subgroups of 8 that ends long loops, as lavapipe", lavapipe),
        ("a CPU driver with subgroups of 4, as SwiftShader", with(true, 4)),
    ]
}

fn table() -> String {
    let devices = devices();
    let mut text = String::from("Which variant can compute which parity case (y), on\n");
    for (number, (name, _)) in devices.iter().enumerate() {
        writeln!(text, "  {}. {name}", number + 1).expect("writing to a String cannot fail");
    }
    text += "Compared by tests/suite/kernels/legality.rs; written by it with UNMIST_PIN=1.\n";
    for info in registry() {
        for (index, variant) in info.variants.iter().enumerate() {
            writeln!(text, "\n{} {variant}", info.name).expect("as above");
            for case in &info.cases {
                let graph = case.structure(DType::F32).expect("cases fit their operation");
                let node = graph.nodes().last().expect("the operation is the last node");
                let NodeKind::Op(op, inputs) = &node.kind else { panic!("the operation is the last node") };
                let inputs: Vec<_> = inputs.iter().map(|v| v.map(|v| graph.desc(v))).collect();
                let legal = devices.iter().map(|(_, caps)| {
                    let context =
                        LowerContext { inputs: &inputs, output: &node.desc, caps, joined: None, in_place: false };
                    if op.legal(index, &context).is_ok() { 'y' } else { '-' }
                });
                let legal: String = legal.collect();
                writeln!(text, "  {legal}  {}", case.label).expect("as above");
            }
        }
    }
    text
}

/// The lines of cases, each behind its variant: other operations have cases of the same name.
fn by_variant(table: &str) -> Vec<String> {
    let mut variant = "";
    let mut lines = Vec::new();
    for line in table.lines() {
        match line.strip_prefix("  ") {
            Some(case) => lines.push(format!("{variant}: {case}")),
            None => variant = line,
        }
    }
    lines
}

#[test]
fn every_variant_covers_the_cases_it_covered() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legality.txt");
    let found = table();
    if std::env::var_os("UNMIST_PIN").is_some() {
        std::fs::write(&path, &found).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let pinned = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (before, now) = (by_variant(&pinned), by_variant(&found));
    let missing: Vec<_> = before.iter().filter(|line| !now.contains(line)).cloned().collect();
    let new: Vec<_> = now.iter().filter(|line| !before.contains(line)).cloned().collect();
    assert!(
        pinned == found,
        "tests/legality.txt is out of date; if that is intended, run with UNMIST_PIN=1.\nno longer:\n{}\nnew:\n{}",
        missing.join("\n"),
        new.join("\n")
    );
}

#[test]
fn cases_have_names_of_their_own() {
    for info in registry() {
        let mut labels: Vec<_> = info.cases.iter().map(|case| case.label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), info.cases.len(), "{}: two cases share a label", info.name);
    }
}
