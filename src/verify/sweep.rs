//! An operation in all its cases, storages, variants and ways to run.

use std::fmt;

use super::case::{CaseResult, PreparedCase, Run, Storage};
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::ops::{Info, Size};

/// Which part of an operation's comparisons to make.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Sizes of cases.
    pub sizes: &'a [Size],
    /// Only this variant.
    pub variant: Option<&'a str>,
    /// Only what launches this kernel (its path below `wgsl/` without extension).
    pub kernel: Option<&'a str>,
    /// Stop at the first failure.
    pub stop_at_first: bool,
    /// Every small case in every storage and every way. Otherwise one case in three is stored mixed, and those are not
    /// run with bounds checks: a CPU driver compiles kernels for most of the time, and these for less than half of it.
    pub thorough: bool,
}

/// A comparison that failed.
#[derive(Debug)]
pub struct Failure {
    /// Operation and variant.
    pub kernel: String,
    /// Storage and label of the case.
    pub case: String,
    /// How it was run.
    pub run: Run,
    /// What differs.
    pub error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {}", self.kernel, self.case, self.run.name(), self.error)
    }
}

/// The outcome of one variant's comparisons.
#[derive(Clone, Copy, Debug)]
pub struct VariantSummary {
    /// Name of the variant.
    pub variant: &'static str,
    /// Comparisons that met their bounds.
    pub equal: usize,
    /// Cases × storages that the variant cannot run here or that were not asked for.
    pub unsupported: usize,
    /// Largest relative L2 error of those in f32.
    pub worst: f64,
}

/// Makes the selected comparisons of one operation and hands each failure to `report`.
///
/// # Errors
/// [`Error::Device`] if the device was lost. A difference is a failure, not an error.
pub fn sweep(
    gpu: &GpuDevice,
    info: &Info,
    selection: Selection<'_>,
    report: &mut dyn FnMut(Failure),
) -> Result<Vec<VariantSummary>> {
    let chosen = info.variants.iter().filter(|v| selection.variant.is_none_or(|wanted| wanted == **v));
    let mut summaries: Vec<_> =
        chosen.map(|&variant| VariantSummary { variant, equal: 0, unsupported: 0, worst: 0.0 }).collect();
    for (number, case) in info.cases.iter().enumerate().filter(|(_, c)| selection.sizes.contains(&c.size)) {
        // A large case in another storage shows nothing that the small ones do not.
        let mixed = case.size == Size::Small && (selection.thorough || number.is_multiple_of(3));
        let storages: &[Storage] = if mixed { &Storage::ALL } else { &[Storage::F32, Storage::F16] };
        for &storage in storages {
            let Some(prepared) = PreparedCase::new(case, storage)? else { continue };
            for summary in &mut summaries {
                for &run in Run::of(case.size) {
                    let plain = matches!(storage, Storage::F32 | Storage::F16);
                    if run == Run::Checked && !plain && !selection.thorough {
                        continue;
                    }
                    match prepared.check(gpu, summary.variant, run, selection.kernel) {
                        Ok(CaseResult::Equal(difference)) => {
                            summary.equal += 1;
                            if storage == Storage::F32 {
                                summary.worst = summary.worst.max(difference.relative_l2);
                            }
                        }
                        Ok(CaseResult::Unsupported(_)) => {
                            summary.unsupported += 1;
                            break;
                        }
                        Err(error @ Error::Device(_)) => return Err(error),
                        Err(error) => {
                            let kernel = format!("{} {}", info.name, summary.variant);
                            let case = format!("{} \"{}\"", storage.name(), case.label);
                            report(Failure { kernel, case, run, error });
                            if selection.stop_at_first {
                                return Ok(summaries);
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(summaries)
}
