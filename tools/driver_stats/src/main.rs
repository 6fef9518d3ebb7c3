//! Compiles SPIR-V compute kernels with a Vulkan driver, and prints all statistics that it has of them, one line for
//! each kernel: `FILE`, then `NAME=VALUE` after tabs.
//!
//! `RADV_FORCE_FAMILY=NAVI21 VK_ICD_FILENAMES=…/radeon_icd.x86_64.json driver_stats [--assembly FOLDER] FILE.spv:ssu`,
//! where `ssu` lists the bindings of group 0: `s` a storage buffer, `u` a uniform. With `--assembly`, the machine code
//! of each kernel is written to FOLDER as `FILE.s`. The GPU itself is not needed where the driver can do without, since
//! nothing is run. See `tools/check_kernels.py` and `tools/offline`.

use std::error::Error;
use std::path::{Path, PathBuf};

use ash::vk;

fn main() -> Result<(), Box<dyn Error>> {
    // SAFETY: the loader is loaded once and outlives everything made from it.
    let entry = unsafe { ash::Entry::load()? };
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    // SAFETY: all handles below come from their documented constructors with valid create-info structures, and are used
    // by one thread. They live until the process ends.
    unsafe {
        let instance =
            entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
        let physical = *instance.enumerate_physical_devices()?.first().ok_or("the driver reports no device")?;
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut device = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        instance.get_physical_device_properties2(physical, &mut device);
        let name = device.properties.device_name_as_c_str()?.to_string_lossy().into_owned();
        eprintln!("{name}, {}", driver.driver_info_as_c_str()?.to_string_lossy());
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let extensions = [ash::khr::pipeline_executable_properties::NAME.as_ptr()];
        let mut executables =
            vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut executables);
        let device = instance.create_device(physical, &create, None)?;
        let mut arguments = std::env::args().skip(1).peekable();
        let assembly = match arguments.next_if_eq("--assembly") {
            Some(_) => Some(PathBuf::from(arguments.next().ok_or("expected --assembly FOLDER")?)),
            None => None,
        };
        for argument in arguments {
            let (file, bindings) = argument.split_once(':').ok_or("expected FILE:BINDINGS")?;
            let statistics = compile(&instance, &device, file, bindings, assembly.as_deref());
            let statistics = statistics.map_err(|e| format!("{file}: {e}"))?;
            println!("{file}\t{}", statistics.join("\t"));
        }
    }
    Ok(())
}

/// # Safety
/// `device` belongs to `instance` and has the extension for pipeline executables.
unsafe fn compile(
    instance: &ash::Instance,
    device: &ash::Device,
    file: &str,
    bindings: &str,
    assembly: Option<&Path>,
) -> Result<Vec<String>, Box<dyn Error>> {
    let words = ash::util::read_spv(&mut std::fs::File::open(file)?)?;
    let bindings: Vec<_> = bindings
        .chars()
        .zip(0..)
        .map(|(kind, index)| {
            let ty = if kind == 'u' { vk::DescriptorType::UNIFORM_BUFFER } else { vk::DescriptorType::STORAGE_BUFFER };
            vk::DescriptorSetLayoutBinding::default()
                .binding(index)
                .descriptor_count(1)
                .descriptor_type(ty)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        })
        .collect();
    // SAFETY: as in `main`.
    unsafe {
        let module = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&words), None)?;
        let set = device
            .create_descriptor_set_layout(&vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings), None)?;
        let sets = [set];
        let layout =
            device.create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&sets), None)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        let create = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(match assembly {
            Some(_) => {
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR
            }
            None => vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR,
        });
        let pipelines =
            device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None).map_err(|(_, e)| e)?;
        let properties = ash::khr::pipeline_executable_properties::Device::new(instance, device);
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipelines[0]).executable_index(0);
        let found = properties.get_pipeline_executable_statistics(&info)?;
        let mut values = vec![format!("Subgroup size={}", subgroup_size(&properties, pipelines[0])?)];
        for statistic in &found {
            let value = match statistic.format {
                vk::PipelineExecutableStatisticFormatKHR::BOOL32 => u64::from(statistic.value.b32),
                vk::PipelineExecutableStatisticFormatKHR::UINT64 => statistic.value.u64,
                _ => {
                    return Err(format!(
                        "{}: a statistic of another format",
                        statistic.name_as_c_str()?.to_string_lossy()
                    )
                    .into());
                }
            };
            values.push(format!("{}={value}", statistic.name_as_c_str()?.to_string_lossy()));
        }
        if let Some(folder) = assembly {
            let name = Path::new(file).file_stem().ok_or("no file name")?;
            let text = machine_code(&properties, &info)?;
            std::fs::write(folder.join(name).with_extension("s"), text)?;
        }
        Ok(values)
    }
}

/// How many invocations run in lockstep, which a driver may choose for each kernel.
///
/// # Safety
/// `properties` is loaded and `pipeline` belongs to its device.
unsafe fn subgroup_size(
    properties: &ash::khr::pipeline_executable_properties::Device,
    pipeline: vk::Pipeline,
) -> Result<u32, vk::Result> {
    // SAFETY: as above.
    let executables =
        unsafe { properties.get_pipeline_executable_properties(&vk::PipelineInfoKHR::default().pipeline(pipeline))? };
    Ok(executables[0].subgroup_size)
}

/// The text that the driver keeps of a pipeline as its `Assembly`, which Intel's calls `GEN Assembly`.
///
/// # Safety
/// `properties` is loaded, and `info` names a pipeline made with the flag for internal representations.
unsafe fn machine_code(
    properties: &ash::khr::pipeline_executable_properties::Device,
    info: &vk::PipelineExecutableInfoKHR<'_>,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let get = properties.fp().get_pipeline_executable_internal_representations_khr;
    let mut count = 0;
    // SAFETY: as above; asked without a place to write, the driver says how many there are.
    unsafe { get(properties.device(), info, &mut count, std::ptr::null_mut()).result()? };
    let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
    // SAFETY: `found` has `count` entries. Their data pointers are null, so that only the sizes are written.
    unsafe { get(properties.device(), info, &mut count, found.as_mut_ptr()).result()? };
    let mut texts: Vec<Vec<u8>> = found.iter().map(|entry| vec![0; entry.data_size]).collect();
    for (entry, text) in found.iter_mut().zip(&mut texts) {
        entry.p_data = text.as_mut_ptr().cast();
    }
    // SAFETY: each entry points to as many bytes as it says.
    unsafe { get(properties.device(), info, &mut count, found.as_mut_ptr()).result()? };
    let named = |entry: &vk::PipelineExecutableInternalRepresentationKHR<'_>| {
        entry.name_as_c_str().is_ok_and(|name| name.to_bytes().ends_with(b"Assembly"))
    };
    let index = found.iter().position(named).ok_or("the driver keeps no machine code as text")?;
    texts[index].retain(|byte| *byte != 0);
    Ok(texts.swap_remove(index))
}
