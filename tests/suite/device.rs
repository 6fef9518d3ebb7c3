//! The device that the tests run on.

use std::sync::OnceLock;

use unmist::gpu::{Checks, GpuDevice, select_adapter};

/// How commands name the device under test.
pub fn selector() -> String {
    std::env::var("UNMIST_TEST_DEVICE").unwrap_or_else(|_| "auto".into())
}

/// The device under test: `UNMIST_TEST_DEVICE` (written as for `--device`), or `auto`. Kernels run with wgpu's bounds
/// checks, unless a test asks for [`GpuDevice::with_checks`].
///
/// On a machine without an adapter, tests that need one fail: nothing is skipped.
pub fn gpu() -> &'static GpuDevice {
    static GPU: OnceLock<GpuDevice> = OnceLock::new();
    GPU.get_or_init(|| {
        let (_, adapter) = select_adapter(&selector()).expect("UNMIST_TEST_DEVICE names an adapter").expect(
            "these tests need a graphics adapter; on a machine without one install a software driver (Debian: \
            mesa-vulkan-drivers)",
        );
        let gpu = GpuDevice::open(adapter, Checks::On).expect("the adapter opens");
        eprintln!("device under test: {}", gpu.describe());
        gpu
    })
}
