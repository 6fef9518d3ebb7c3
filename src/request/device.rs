//! Which device, and how kernels are chosen for it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FamilyName;
use crate::backend::{Device, LoadOptions};
use crate::error::Result;
#[cfg(feature = "gpu")]
use crate::gpu::DeviceChoices;
use crate::ops::Family;
use crate::plan::{Choice, Forced, PlanOptions, Table, Tuned};
use crate::refusal::Refusal;

/// In place of a table: none.
const OFF: &str = "off";

/// Which device, and how kernels are chosen for it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[cfg_attr(feature = "serve", derive(schemars::JsonSchema))]
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
    /// Table of the variants and settings that measured best, as JSON; off: the rules alone [default: what `unmist
    /// tune` has measured on this device]
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE|off"))]
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

    /// How graphs are prepared for `device`, and what the user should know of that.
    ///
    /// # Errors
    /// A refusal if a forced operation or variant does not exist, or the memory is not a positive number; as
    /// [`Table::read`] and [`Table::check`] for a table that is asked for.
    pub fn load_options(&self, device: &Device) -> Result<(LoadOptions, Vec<String>)> {
        let forced = self.force.iter().map(|f| Forced::parse(f)).collect::<Result<_>>()?;
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
        let (tuned, notes) = self.tuned(device)?;
        let plan = PlanOptions {
            choice: Choice { forced, family, tuned, compact: false },
            max_memory_bytes,
            ..PlanOptions::default()
        };
        let load = LoadOptions { plan, disabled_passes: self.disable_pass.clone(), ..LoadOptions::default() };
        Ok((load, notes))
    }

    /// The measurements that choose kernels, and what the user should know of them.
    fn tuned(&self, device: &Device) -> Result<(Tuned, Vec<String>)> {
        match (self.tuned.as_deref(), device) {
            (Some(path), _) if path == Path::new(OFF) => Ok(Default::default()),
            (Some(path), _) => {
                let table = Table::read(path)?;
                table.check(path)?;
                let (usable, all) = (table.usable(), table.entries.len());
                let mut notes = Vec::new();
                if usable.len() < all {
                    notes.push(format!(
                        "{} of the {all} tuned choices in {} are of other kernels than there are now",
                        all - usable.len(),
                        path.display()
                    ));
                }
                Ok((Tuned::new(usable), notes))
            }
            // Another family is another machine than the one that was measured.
            (None, _) if self.family.is_some() => Ok(Default::default()),
            #[cfg(feature = "gpu")]
            (None, Device::Gpu(gpu)) => {
                let DeviceChoices { tuned, notes } = gpu.choices();
                Ok((tuned, notes))
            }
            (None, Device::Reference) => Ok(Default::default()),
            #[cfg(all(feature = "web", target_arch = "wasm32"))]
            (None, Device::Web(_)) => Ok(Default::default()), // tables are found on disk
        }
    }
}
