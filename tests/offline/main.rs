//! The kernels that full-size models run on a GPU, as SPIR-V: what compilers say about them without a device.
//!
//! `UNMIST_DUMP_PROGRAMS=FOLDER cargo test --release --test offline` writes them to FOLDER, with `programs.json`, which
//! has every launch of a step. `tools/offline.py` compiles and measures them.
//!
//! `UNMIST_DUMP_FORCE=contraction=registers:TILE_M=64` tries other variants and settings than the rules choose, several
//! of them separated by spaces.

use std::collections::BTreeMap;
use std::path::Path;

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use serde_json::{Value, json};
use unmist::DType;
use unmist::caps::Caps;
use unmist::checkpoint::Json;
use unmist::graph::passes;
use unmist::kernel::{Access, Kernel, ParamType};
use unmist::models::{AutoencoderKL, DecoderKL, Model, Sizes, UNet2DConditionModel};
use unmist::plan::{Choice, Forced, PlanOptions, Program};

/// A GPU of which nothing is known but that it binds large buffers, as all but browsers do; and the maker, if one is
/// named.
fn caps() -> Caps {
    let vendor = match std::env::var("UNMIST_DUMP_VENDOR").as_deref() {
        Ok("intel") => Caps::INTEL,
        Ok(other) => panic!("UNMIST_DUMP_VENDOR={other}: expected intel"),
        Err(_) => 0,
    };
    Caps { vendor, max_binding_bytes: 2 << 30, max_buffer_bytes: 2 << 30, ..Caps::webgpu_minimum() }
}

/// The choices of `UNMIST_DUMP_FORCE`.
fn choice() -> Choice {
    let text = std::env::var("UNMIST_DUMP_FORCE").unwrap_or_default();
    let forced = text.split_whitespace().map(|part| Forced::parse(part).unwrap_or_else(|e| panic!("{part}: {e}")));
    Choice { forced: forced.collect(), ..Choice::default() }
}

/// Full-size models, both pictures of guidance at once, stored in f16.
fn programs() -> Vec<(&'static str, Program)> {
    let configs = include_str!("../fixtures/single_file/configs.json");
    let configs: Value = serde_json::from_str(configs).expect("JSON");
    let config = |model: &str, part: &str| {
        Json::parse(format!("{model}/{part}/config.json"), configs[model][part].to_string()).expect("JSON")
    };
    let unet = |model: &str| -> Box<dyn Model> {
        Box::new(UNet2DConditionModel::from_json(&config(model, "unet")).expect("sound"))
    };
    let decoder: Box<dyn Model> = Box::new(DecoderKL(AutoencoderKL::from_json(&config("sd15", "vae")).expect("sound")));
    let models = [
        ("sd15-unet-512", unet("sd15"), 2, 64, 0),
        ("sdxl-unet-1024", unet("sdxl_base"), 2, 128, 6),
        ("vae-decoder-512", decoder, 1, 64, 0),
    ];
    let options = PlanOptions { choice: choice(), ..PlanOptions::default() };
    let program = |(name, model, batch, size, time_ids): (_, Box<dyn Model>, _, _, _)| {
        let sizes = Sizes { batch, height: size, width: size, tokens: 77, time_ids };
        let graph = model.graph(&sizes, DType::F16).expect("fits");
        let graph = passes::optimize(&graph, &[]).expect("rewrites");
        (name, Program::new(&graph, &caps(), &options).unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    models.into_iter().map(program).collect()
}

/// SPIR-V as wgpu gives it to a Vulkan driver, without its run-time checks.
fn spirv(kernel: &Kernel) -> Result<Vec<u8>, String> {
    let module = naga::front::wgsl::parse_str(&kernel.wgsl).map_err(|e| e.to_string())?;
    let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SHADER_FLOAT16;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).map_err(|e| e.to_string())?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 3), // what Vulkan 1.1 takes
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| e.to_string())?;
    Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// The whole numbers among a launch's parameters.
fn numbers(kernel: &Kernel, params: &[u8]) -> BTreeMap<String, u32> {
    let whole = kernel.reflection.params.iter().filter(|field| field.ty == ParamType::U32);
    let number = |at: usize| u32::from_le_bytes(params[at..at + 4].try_into().expect("four bytes"));
    whole.map(|field| (field.name.clone(), number(field.offset as usize))).collect()
}

/// Writes the kernels of `programs`, each once, and `programs.json`.
fn dump(folder: &Path, programs: &[(&str, Program)]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut files = BTreeMap::new();
    let mut described = serde_json::Map::new();
    for (name, program) in programs {
        for kernel in &program.kernels {
            let file = format!("{}-{}", kernel.name.replace('/', "-"), &kernel.hash.to_string()[..12]);
            std::fs::write(folder.join(format!("{file}.wgsl")), &kernel.wgsl)?;
            std::fs::write(folder.join(format!("{file}.spv")), spirv(kernel).expect("the caller translated it"))?;
            let bindings = kernel.reflection.bindings.iter();
            let bindings: String = bindings.map(|b| if b.access == Access::Uniform { 'u' } else { 's' }).collect();
            let entry = json!({
                "kernel": kernel.name, "settings": kernel.settings, "bindings": bindings,
                "invocations": kernel.reflection.workgroup_size.iter().product::<u32>(),
            });
            files.insert(file, entry);
        }
        let launches: Vec<_> = program
            .step
            .iter()
            .map(|launch| {
                let kernel = &program.kernels[launch.kernel];
                let value = &program.values[launch.value];
                json!({
                    "file": format!("{}-{}", kernel.name.replace('/', "-"), &kernel.hash.to_string()[..12]),
                    "node": value.name, "op": value.op, "shape": value.shape, "workgroups": launch.workgroups,
                    "flops": launch.cost.flops, "bytes": launch.cost.bytes, "params": numbers(kernel, &launch.params),
                })
            })
            .collect();
        described.insert((*name).to_owned(), launches.into());
    }
    let text = json!({ "kernels": files, "programs": described });
    std::fs::write(folder.join("programs.json"), format!("{text:#}"))
}

#[test]
fn the_kernels_of_full_size_models_translate_for_gpus() {
    let programs = programs();
    for (name, program) in &programs {
        for kernel in &program.kernels {
            spirv(kernel).unwrap_or_else(|e| panic!("{name}: {} {}: {e}", kernel.name, kernel.settings));
            assert!(!kernel.reflection.uses_subgroups, "{name}: {} is for CPU drivers", kernel.name);
        }
        assert!(program.step.len() > 50, "{name}: {} launches", program.step.len());
    }
    if let Ok(folder) = std::env::var("UNMIST_DUMP_PROGRAMS") {
        dump(Path::new(&folder), &programs).expect("UNMIST_DUMP_PROGRAMS names a folder that can be written");
    }
}
