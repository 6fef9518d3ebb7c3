//! Compiles SPIR-V compute kernels with RADV, Mesa's driver for AMD GPUs, and prints its statistics, one line for
//! each kernel.
//!
//! `RADV_FORCE_FAMILY=NAVI21 VK_ICD_FILENAMES=…/radeon_icd.x86_64.json radv_stats FILE.spv:ssu …`, where `ssu` lists
//! the bindings of group 0: `s` a storage buffer, `u` a uniform. The GPU itself is not needed, since nothing is run.
//! See `tools/check_kernels.py`.

use std::error::Error;

use ash::vk;

/// What is printed, by RADV's names.
const STATISTICS: [&str; 7] =
    ["VGPRs", "Spilled VGPRs", "Spilled SGPRs", "Scratch size", "LDS size", "Subgroups per SIMD", "Code size"];

fn main() -> Result<(), Box<dyn Error>> {
    // SAFETY: the loader is loaded once and outlives everything made from it.
    let entry = unsafe { ash::Entry::load()? };
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_1);
    // SAFETY: all handles below come from their documented constructors with valid create-info structures, and are used
    // by one thread. They live until the process ends.
    unsafe {
        let instance =
            entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
        let physical = *instance.enumerate_physical_devices()?.first().ok_or("the driver reports no device")?;
        let name = instance.get_physical_device_properties(physical);
        eprintln!("{}", name.device_name_as_c_str()?.to_string_lossy());
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let extensions = [ash::khr::pipeline_executable_properties::NAME.as_ptr()];
        let mut executables =
            vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut executables);
        let device = instance.create_device(physical, &create, None)?;
        println!("file\t{}", STATISTICS.join("\t"));
        for argument in std::env::args().skip(1) {
            let (file, bindings) = argument.split_once(':').ok_or("expected FILE:BINDINGS")?;
            let statistics = compile(&instance, &device, file, bindings).map_err(|e| format!("{file}: {e}"))?;
            let values: Vec<_> = statistics.iter().map(u64::to_string).collect();
            println!("{file}\t{}", values.join("\t"));
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
) -> Result<[u64; 7], Box<dyn Error>> {
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
        let create = vk::ComputePipelineCreateInfo::default()
            .stage(stage)
            .layout(layout)
            .flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR);
        let pipelines =
            device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None).map_err(|(_, e)| e)?;
        let properties = ash::khr::pipeline_executable_properties::Device::new(instance, device);
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipelines[0]).executable_index(0);
        let found = properties.get_pipeline_executable_statistics(&info)?;
        let mut values = [0; 7];
        for (value, wanted) in values.iter_mut().zip(STATISTICS) {
            let statistic = found
                .iter()
                .find(|s| s.name_as_c_str().is_ok_and(|name| name.to_bytes() == wanted.as_bytes()))
                .ok_or_else(|| format!("the driver does not report {wanted}"))?;
            *value = statistic.value.u64;
        }
        Ok(values)
    }
}
