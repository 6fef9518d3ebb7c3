//! Which adapters there are, and which one `auto` takes.

use crate::error::{Error, Result};
use crate::refusal::{Advised, Remedy};

/// An adapter as `unmist devices` shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterReport {
    /// Position in the list: what `--device INDEX` means.
    pub index: usize,
    /// Name the driver gives.
    pub name: String,
    /// Vulkan, Metal, Dx12 …
    pub backend: String,
    /// DiscreteGpu, IntegratedGpu, VirtualGpu, Cpu or Other.
    pub kind: String,
    /// Driver and its version.
    pub driver: String,
    /// Features that matter here, each with whether the adapter has it.
    pub features: Vec<(&'static str, bool)>,
    /// Limits that matter here.
    pub limits: Vec<(&'static str, u64)>,
    /// Smallest and largest subgroup.
    pub subgroup_size: (u32, u32),
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // The validation layers are for developing this module, not for users: WGPU_VALIDATION=1 turns them on.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    wgpu::Instance::new(descriptor)
}

fn list() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    pollster::block_on(instance().enumerate_adapters(backends))
}

/// Every adapter, in the order `--device INDEX` counts them.
pub fn adapters() -> Vec<AdapterReport> {
    list().iter().enumerate().map(|(index, adapter)| report(index, adapter)).collect()
}

fn report(index: usize, adapter: &wgpu::Adapter) -> AdapterReport {
    let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
    let has = |feature| features.contains(feature);
    AdapterReport {
        index,
        name: info.name,
        backend: format!("{:?}", info.backend),
        kind: format!("{:?}", info.device_type),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        features: vec![
            ("subgroups", has(wgpu::Features::SUBGROUP)),
            ("shader-f16", has(wgpu::Features::SHADER_F16)),
            ("timestamp queries", has(wgpu::Features::TIMESTAMP_QUERY)),
            ("pipeline cache", has(wgpu::Features::PIPELINE_CACHE)),
            ("cooperative matrix", has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)),
        ],
        limits: vec![
            ("largest storage binding, bytes", limits.max_storage_buffer_binding_size),
            ("largest buffer, bytes", limits.max_buffer_size),
            ("workgroup memory, bytes", u64::from(limits.max_compute_workgroup_storage_size)),
            ("invocations in a workgroup", u64::from(limits.max_compute_invocations_per_workgroup)),
            ("workgroups in a dimension", u64::from(limits.max_compute_workgroups_per_dimension)),
            ("storage buffers in a kernel", u64::from(limits.max_storage_buffers_per_shader_stage)),
        ],
        subgroup_size: (info.subgroup_min_size, info.subgroup_max_size),
    }
}

/// The order in which `auto` prefers adapters: real GPUs before CPU drivers, native APIs before translated ones.
fn preference(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 4,
        wgpu::DeviceType::IntegratedGpu => 3,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 1,
        wgpu::DeviceType::Cpu => 0,
    };
    let backend = match info.backend {
        wgpu::Backend::Metal => 3,
        wgpu::Backend::Vulkan => 2,
        wgpu::Backend::Dx12 => 1,
        _ => 0,
    };
    (kind, backend)
}

/// The position of the adapter that `auto` takes: a discrete GPU before an integrated one before a CPU driver; Metal,
/// then Vulkan, then DX12; then the first.
fn auto(adapters: &[wgpu::Adapter]) -> Option<usize> {
    (0..adapters.len()).max_by_key(|&i| (preference(&adapters[i].get_info()), std::cmp::Reverse(i)))
}

/// The adapter that `selector` means: `auto`, an index, or a part of a name. `None` if it is `auto` and there is no
/// adapter.
///
/// # Errors
/// [`Error::Device`] listing the adapters there are, if none or several match.
pub fn select_adapter(selector: &str) -> Result<Option<(usize, wgpu::Adapter)>> {
    let mut adapters = list();
    let refused = |what: String| {
        let names: Vec<_> = adapters.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.get_info().name)).collect();
        Err(Error::Device(if names.is_empty() {
            let why =
                "there is no adapter at all (is a Vulkan, Metal or DX12 driver installed?), only the CPU reference";
            Advised::from(format!("{what}; {why}")).instead(Remedy::Set("device", "reference".into()))
        } else {
            format!("{what}; there are {}", names.join(", ")).into()
        }))
    };
    let index = if selector == "auto" {
        match auto(&adapters) {
            Some(index) => index,
            None => return Ok(None),
        }
    } else if let Ok(index) = selector.parse::<usize>() {
        if index >= adapters.len() {
            return refused(format!("no adapter {index}"));
        }
        index
    } else {
        let wanted = selector.to_lowercase();
        let matching: Vec<_> =
            (0..adapters.len()).filter(|&i| adapters[i].get_info().name.to_lowercase().contains(&wanted)).collect();
        match matching.as_slice() {
            [one] => *one,
            [] => return refused(format!("no adapter is called {selector}")),
            several => return refused(format!("{} adapters are called {selector}: give an index", several.len())),
        }
    };
    Ok(Some((index, adapters.swap_remove(index))))
}
