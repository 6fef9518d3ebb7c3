//! Which device, and how kernels are chosen for it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::FamilyName;
use crate::backend::{Device, LoadOptions};
use crate::error::Result;
use crate::ops::Family;
use crate::plan::{Choice, Forced, PlanOptions, Tuned};
use crate::refusal::Refusal;

/// Which device, and how kernels are chosen for it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct DeviceRequest {
    /// auto (the best adapter, else the reference), reference (the CPU, no kernels), an adapter's index or part of its
    /// name: see `unmist devices` [default: auto]
    #[cfg_attr(feature = "cli", arg(long, value_name = "auto|reference|INDEX|NAME"))]
    pub device: Option<String>,
    /// Use this kernel variant for this operation, e.g. conv2d=naive, for its instances of one output shape
    /// (conv2d@1x64x64x320=naive) or for one node (down_blocks.0.resnets.0.conv1=naive, node:conv_in=naive), with
    /// settings if wanted (linear=tiled:TILE=64,SPLITS=4): see `unmist inspect --component`; may be repeated
    #[cfg_attr(feature = "cli", arg(long, value_name = "OPERATION[@SHAPE]|NODE=VARIANT[:NAME=VALUE,…]"))]
    pub force: Vec<String>,
    /// Table of the variants and settings that measured best on this device, as JSON
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE"))]
    pub tuned: Option<PathBuf>,
    /// Prefer kernels written for this kind of machine, whatever the device is
    #[cfg_attr(feature = "cli", arg(long, value_enum))]
    pub family: Option<FamilyName>,
    /// Switch a graph rewrite off (activation, gate, epilogue, summands, qkv); may be repeated
    #[cfg_attr(feature = "cli", arg(long, value_name = "PASS"))]
    pub disable_pass: Vec<String>,
    /// Device memory to use at most, in GiB [default: what the device has, where that is known]
    #[cfg_attr(feature = "cli", arg(long, value_name = "GIB"))]
    pub max_memory: Option<f64>,
}

impl DeviceRequest {
    /// Opens the device.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open(&self) -> Result<Device> {
        Device::open(self.device.as_deref().unwrap_or("auto"))
    }

    /// How graphs are prepared.
    ///
    /// # Errors
    /// A refusal if a forced operation or variant does not exist, or the memory is not a positive number.
    pub fn load_options(&self) -> Result<LoadOptions> {
        let forced = self.force.iter().map(|f| Forced::parse(f)).collect::<Result<_>>()?;
        let tuned = self.tuned.as_deref().map(Tuned::load).transpose()?.unwrap_or_default();
        let family = self.family.map(|f| match f {
            FamilyName::Gpu => Family::Gpu,
            FamilyName::Cpu => Family::Cpu,
        });
        let max_memory_bytes = match self.max_memory {
            Some(gib) if !(gib > 0.0 && gib.is_finite()) => {
                return Err(Refusal::of_value("max_memory", gib, "expected a number above 0").into());
            }
            gib => gib.map(|gib| (gib * f64::from(1 << 30)) as u64),
        };
        let plan = PlanOptions {
            choice: Choice { forced, family, tuned, compact: false },
            max_memory_bytes,
            ..PlanOptions::default()
        };
        Ok(LoadOptions { plan, disabled_passes: self.disable_pass.clone(), forget_parameters: false })
    }
}
