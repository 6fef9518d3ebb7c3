//! The kernels as texts: every kernel that any case asks for translates for every backend, and every file follows the
//! conventions of `wgsl/README.md`. None of this needs a device.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{CooperativeSize, Module, ShaderStage, TypeInner};
use rayon::prelude::*;
use unmist::caps::{Caps, CooperativeMatrix, MatrixElement};
use unmist::kernel::{self, Access, Kernel};
use unmist::ops::registry;
use unmist::plan::{Choice, PlanOptions, Program};
use unmist::{DType, Error};

/// Products of `size` by `size` matrices of f16 with sums in f32.
pub(super) fn matrices(size: u32) -> Vec<CooperativeMatrix> {
    let [factors, sums] = [MatrixElement::F16, MatrixElement::F32];
    vec![CooperativeMatrix { m: size, n: size, k: size, factors, sums }]
}

/// Devices that refuse nothing, of both kinds and with two subgroup sizes; and GPUs with matrix units.
fn devices() -> Vec<Caps> {
    let permissive = Caps {
        workgroup_memory_bytes: 1 << 20,
        max_workgroup_invocations: 1 << 20,
        max_storage_buffers: 1 << 10,
        ..Caps::webgpu_minimum()
    };
    let device = |is_cpu, size| Caps { is_cpu, subgroup_sizes: Some([size; 2]), ..permissive.clone() };
    let units = |size| Caps { f16: true, cooperative_matrices: matrices(size), ..device(false, 32) };
    vec![device(false, 8), device(false, 32), device(true, 8), device(true, 32), units(8), units(16)]
}

/// Every distinct kernel that any variant of any operation launches for any parity case, in either precision, on any of
/// the devices.
pub fn kernels() -> &'static [Kernel] {
    static KERNELS: OnceLock<Vec<Kernel>> = OnceLock::new();
    KERNELS.get_or_init(collect_kernels)
}

fn collect_kernels() -> Vec<Kernel> {
    let mut instances = Vec::new();
    for info in registry() {
        for case in &info.cases {
            for dtype in [DType::F32, DType::F16] {
                let graph = case.structure(dtype).expect("parity cases fit their operation");
                instances.extend(info.variants.iter().map(|variant| (info.name, *variant, graph.clone())));
            }
        }
    }
    let devices = devices();
    let plans = instances.par_iter().flat_map_iter(|(op, variant, graph)| {
        devices.iter().flat_map(move |caps| {
            let choice = Choice::of_variant(op, variant);
            match Program::new(graph, caps, &PlanOptions { choice, ..PlanOptions::default() }) {
                Ok(plan) => plan.kernels,
                Err(Error::Usage(_)) => Vec::new(), // the variant does not support this case or this device
                Err(other) => panic!("{op} {variant}: {other}"),
            }
        })
    });
    let distinct: BTreeMap<String, Kernel> = plans.map(|kernel| (kernel.wgsl.clone(), kernel)).collect();
    distinct.into_values().collect()
}

/// The kernels that measure what a device can do at most, in every setting: no operation launches them. Some need
/// features of a device.
fn ceilings() -> Vec<Kernel> {
    unmist::measure::kernel_keys().iter().map(|key| Kernel::build(key).expect("it is sound")).collect()
}

fn validated(kernel: &Kernel) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(&kernel.wgsl).expect("Kernel::build parsed it");
    let mut capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    for (enabled, capability) in
        [("f16", Capabilities::SHADER_FLOAT16), ("wgpu_cooperative_matrix", Capabilities::COOPERATIVE_MATRIX)]
    {
        capabilities.set(capability, kernel.wgsl.contains(&format!("enable {enabled};")));
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).expect("Kernel::build validated it");
    (module, info)
}

/// A kernel in the languages that drivers take. DX12 has no cooperative matrices, and Metal only those of 8 by 8.
struct Translations {
    spirv: Vec<u32>,
    msl: Option<String>,
    hlsl: Option<String>,
}

fn uses_f16(module: &Module) -> bool {
    module.types.iter().any(|(_, ty)| ty.inner.scalar().is_some_and(|scalar| scalar == naga::Scalar::F16))
}

/// Translates as wgpu does, with its run-time checks or without.
fn translate(module: &Module, info: &ModuleInfo, checked: bool) -> Result<Translations, String> {
    let matrices = module.types.iter().filter_map(|(_, ty)| match ty.inner {
        TypeInner::CooperativeMatrix { rows, .. } => Some(rows),
        _ => None,
    });
    let matrices: Vec<_> = matrices.collect();
    let policy = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let bounds_check_policies =
        BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy };
    let entry_point = Some((ShaderStage::Compute, "main".to_owned()));

    // SPIR-V 1.3 is what Vulkan 1.1 takes.
    let options = spv::Options {
        lang_version: (1, 3),
        bounds_check_policies,
        force_loop_bounding: checked,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..spv::Options::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let spirv = spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|e| format!("SPIR-V: {e}"))?;

    let msl = matrices.iter().all(|rows| *rows == CooperativeSize::Eight).then(|| {
        let options = msl::Options {
            lang_version: (2, 4),
            bounds_check_policies,
            force_loop_bounding: checked,
            zero_initialize_workgroup_memory: false,
            fake_missing_bindings: true,
            ..msl::Options::default()
        };
        let pipeline = msl::PipelineOptions { entry_point: entry_point.clone(), ..msl::PipelineOptions::default() };
        msl::write_string(module, info, &options, &pipeline).map(|(msl, _)| msl).map_err(|e| format!("MSL: {e}"))
    });

    let hlsl = matrices.is_empty().then(|| {
        let options = hlsl::Options {
            // Numbers of 16 bits need 6.2.
            shader_model: if uses_f16(module) { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 },
            restrict_indexing: checked,
            force_loop_bounding: checked,
            zero_initialize_workgroup_memory: false,
            fake_missing_bindings: true,
            ..hlsl::Options::default()
        };
        let (mut hlsl, pipeline) = (String::new(), hlsl::PipelineOptions { entry_point: entry_point.clone() });
        let written = hlsl::Writer::new(&mut hlsl, &options, &pipeline).write(module, info, None);
        let written = written.map_err(|e| format!("HLSL: {e}"))?;
        let named = written.entry_point_names.into_iter().map(|name| name.map_err(|e| format!("HLSL: {e}")));
        named.collect::<Result<Vec<_>, _>>().map(|_| hlsl)
    });
    let (msl, hlsl) = (msl.transpose()?, hlsl.transpose()?);
    Ok(Translations { spirv, msl, hlsl })
}

/// Writes every kernel and its translations without run-time checks to `folder`, and a table of them, for
/// `tools/check_kernels.py`.
fn dump(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut table = String::new();
    for (number, kernel) in kernels().iter().enumerate() {
        let (module, info) = validated(kernel);
        let translations = translate(&module, &info, false).expect("the caller has translated every kernel");
        let name = format!("{}-{number:04}", kernel.name.replace('/', "-"));
        std::fs::write(folder.join(format!("{name}.wgsl")), &kernel.wgsl)?;
        for (suffix, text) in [("metal", translations.msl), ("hlsl", translations.hlsl)] {
            text.map_or(Ok(()), |text| std::fs::write(folder.join(format!("{name}.{suffix}")), text))?;
        }
        let spirv: Vec<u8> = translations.spirv.iter().flat_map(|word| word.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{name}.spv")), spirv)?;
        let bindings: String =
            kernel.reflection.bindings.iter().map(|b| if b.access == Access::Uniform { 'u' } else { 's' }).collect();
        // What a compiler must know beyond WGSL as all have it.
        let extension = match &kernel.wgsl {
            wgsl if wgsl.contains("enable wgpu_cooperative_matrix") => "matrices",
            _ if kernel.reflection.uses_subgroups => "subgroups",
            _ => "",
        };
        table += &format!("{name}\t{}\t{bindings}\t{extension}\t{}\n", kernel.name, kernel.settings);
    }
    std::fs::write(folder.join("kernels.tsv"), table)
}

#[test]
fn every_kernel_translates_for_every_backend() {
    let kernels = kernels();
    let ceilings = ceilings();
    let asked_for: BTreeSet<_> = kernels.iter().chain(&ceilings).map(|kernel| kernel.name.as_str()).collect();
    let unused: Vec<_> = kernel::kernels().map(|(name, _)| name).filter(|name| !asked_for.contains(name)).collect();
    assert!(unused.is_empty(), "no case launches {unused:?}");
    let failures: Vec<_> = kernels
        .par_iter()
        .flat_map_iter(|kernel| {
            let (module, info) = validated(kernel);
            [true, false].map(|checked| {
                let failure = |e| format!("{:?}, checked: {checked}: {e}", (&kernel.name, &kernel.settings));
                translate(&module, &info, checked).map_err(failure).err()
            })
        })
        .flatten()
        .collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    if let Ok(folder) = std::env::var("UNMIST_DUMP_KERNELS") {
        dump(Path::new(&folder)).expect("UNMIST_DUMP_KERNELS names a folder that can be written");
    }
    eprintln!("{} kernels from {} files, each in 6 translations", kernels.len(), asked_for.len());
}

#[test]
fn kernels_of_ceilings_translate_where_their_features_are() {
    let mut matrices = 0;
    for kernel in ceilings() {
        let (module, info) = validated(&kernel);
        let matrix = kernel.wgsl.contains("coopMultiplyAdd");
        matrices += usize::from(matrix);
        for checked in [true, false] {
            translate(&module, &info, checked).unwrap_or_else(|e| panic!("{} {}: {e}", kernel.name, kernel.settings));
        }
    }
    assert_eq!(matrices, 3);
}

#[test]
fn kernels_that_need_more_than_webgpu_promises_say_so() {
    let minimum = Caps::webgpu_minimum();
    let mut failures = Vec::new();
    for kernel in kernels() {
        let storage = kernel.reflection.bindings.iter().filter(|b| b.access != Access::Uniform).count();
        let [x, y, z] = kernel.reflection.workgroup_size;
        let needs = [
            ("storage buffers", storage as u32, minimum.max_storage_buffers),
            ("workgroup memory", kernel.reflection.workgroup_memory, minimum.workgroup_memory_bytes),
            ("invocations", x * y * z, minimum.max_workgroup_invocations),
        ];
        let requires = Header::of(&kernel.name).value("requires").unwrap_or_default();
        for (what, needed, promised) in needs {
            if needed > promised && !requires.contains(what) {
                failures.push(format!(
                    "{:?} needs {needed} {what}; its `requires:` must say so",
                    (&kernel.name, &kernel.settings)
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The comment at the beginning of a kernel file.
struct Header {
    lines: Vec<&'static str>,
}

impl Header {
    fn of(kernel: &str) -> Self {
        let (_, text) = kernel::kernels().find(|(name, _)| *name == kernel).expect("the caller took it from the table");
        let is_comment = |line: &&str| line.starts_with("//") && !line.starts_with("//!");
        Self { lines: text.lines().take_while(is_comment).collect() }
    }

    /// The text after `// KEY:`, with its continuation lines.
    fn value(&self, key: &str) -> Option<String> {
        let prefix = format!("// {key}:");
        let first = self.lines.iter().position(|line| line.starts_with(&prefix))?;
        let continued = self.lines[first + 1..].iter().take_while(|line| line.starts_with("//             "));
        let parts = std::iter::once(&self.lines[first][prefix.len()..]).chain(continued.map(|line| &line[2..]));
        Some(parts.map(str::trim).collect::<Vec<_>>().join(" "))
    }

    /// Names of the tensors that the lines `//   a, b  [N, C]  f32` describe.
    fn tensors(&self) -> BTreeSet<&'static str> {
        let described = self.lines.iter().filter_map(|line| line.strip_prefix("//   ")).filter(|l| !l.starts_with(' '));
        let names = |line: &'static str| line.split("  ").next().and_then(|l| l.split(" [").next()).unwrap_or_default();
        described.flat_map(|line| names(line).split(", ")).collect()
    }
}

#[test]
fn headers_are_complete() {
    let mut failures = Vec::new();
    for (name, text) in kernel::kernels() {
        let header = Header::of(name);
        let mut expect = |met: bool, what: String| {
            if !met {
                failures.push(format!("wgsl/{name}.wgsl: {what}"));
            }
        };
        let (op, variant) = name.split_once('/').expect("kernels lie in a folder");
        let title = header.lines.first().copied().unwrap_or_default();
        let names_itself = title.starts_with(&format!("// {op}, ")) && title.contains(':');
        expect(names_itself, format!("the first line must be `// {op}, {variant}: formula`"));
        for key in ["dispatch", "requires", "constants", "error", "source"] {
            expect(header.value(key).is_some_and(|v| !v.is_empty()), format!("the header lacks `{key}:`"));
        }
        // Kernels of a naive variant may have other names: naive_first, or 1_naive where lessons are numbered.
        let says_why = header.value("faster").is_some_and(|v| !v.is_empty());
        let first = variant.trim_start_matches("1_").starts_with("naive");
        // What measures a ceiling has nothing to be faster than.
        expect(says_why || first || op == "ceilings", "the header lacks `faster:`".into());

        let tensors = header.tensors();
        for line in text.lines().filter(|line| line.contains("var<storage")) {
            let rest = line.split("> ").nth(1).unwrap_or_default();
            let binding = rest.split(':').next().unwrap_or_default();
            expect(tensors.contains(binding), format!("the header does not describe the binding {binding}"));
        }
        let constants = header.value("constants").unwrap_or_default();
        for line in text.lines().filter_map(|line| line.strip_prefix("const ")) {
            let constant = line.split(':').next().unwrap_or_default();
            expect(constants.contains(constant), format!("`constants:` does not name {constant}"));
        }
        expect(text.lines().count() <= 200, format!("{} lines are too many to read", text.lines().count()));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_reading_order_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("wgsl");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("wgsl/README.md is part of the repository");
    for folder in std::fs::read_dir(&root).expect("wgsl is part of the repository") {
        let folder = folder.expect("the folder is readable").path();
        if !folder.is_dir() {
            assert_eq!(
                folder.file_name().and_then(|n| n.to_str()),
                Some("README.md"),
                "{} is out of place",
                folder.display()
            );
            continue;
        }
        let name = folder.file_name().expect("folders have names").to_string_lossy().into_owned();
        assert!(readme.contains(&format!("`{name}/`")), "wgsl/README.md does not mention `{name}/`");
        for file in std::fs::read_dir(&folder).expect("the folder is readable") {
            let file = file.expect("the folder is readable").path();
            assert_eq!(file.extension().and_then(|e| e.to_str()), Some("wgsl"), "{} is out of place", file.display());
        }
    }
}
