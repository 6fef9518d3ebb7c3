//! `unmist devices`: the adapters, and which one `auto` takes.

use super::print;
use crate::error::Result;
use crate::gpu::{AdapterReport, adapters, select_adapter};

/// Options of `unmist devices`.
#[derive(clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// None; the signature is that of all commands.
pub fn run(args: Args) -> Result<()> {
    let adapters = adapters();
    let auto = select_adapter("auto")?.map(|(index, _)| index);
    if args.json {
        let json = serde_json::json!({ "adapters": adapters, "auto": auto });
        print(&format!("{json:#}\n"));
        return Ok(());
    }
    let mut text: String = adapters.iter().map(describe).collect();
    match auto {
        Some(index) => {
            text += &format!(
                "auto takes {index}: {}. Discrete GPUs come before integrated ones, those before CPU drivers; among \
                equals Metal, then Vulkan, then DX12, then the first.\n",
                adapters[index].name
            )
        }
        None => {
            text += "There is no adapter: auto runs on the CPU reference. On Debian, mesa-vulkan-drivers installs a \
                CPU driver for Vulkan (lavapipe), which is faster.\n"
        }
    }
    print(&text);
    Ok(())
}

fn describe(adapter: &AdapterReport) -> String {
    let mut text =
        format!("{}: {}\n    {} {}, {}\n", adapter.index, adapter.name, adapter.backend, adapter.kind, adapter.driver);
    let (min, max) = adapter.subgroup_size;
    for (name, has) in &adapter.features {
        text += &format!("    {name:<32} {}\n", if *has { "yes" } else { "no" });
    }
    text += &format!(
        "    {:<32} {}\n",
        "subgroup size",
        if min == max { min.to_string() } else { format!("{min} to {max}") }
    );
    for (name, value) in &adapter.limits {
        text += &format!("    {name:<32} {value}\n");
    }
    text
}
