//! An operation in all its cases, storages, variants and ways to run.

use std::fmt;

use super::case::{CaseResult, PreparedCase, Run, Storage};
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::ops::{Case, Info, Size};
use crate::parallel::*;

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
    /// Every case in every storage and every way that its size has. Otherwise every case is stored in f32, two in
    /// three in f16 too, and one of these mixed, each run in one of the two ways that leave out bounds checks, in
    /// turn; and one case in six with them. A CPU driver compiles kernels for most of the time, and these are less
    /// than half of them.
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

/// Small cases that are compared side by side: compiling kernels takes most of the time, and a GPU's driver compiles
/// each on one core.
const SIDE_BY_SIDE: usize = 64;

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
    let variants: Vec<&'static str> = summaries.iter().map(|summary| summary.variant).collect();
    let mut jobs: Vec<(&Case, Storage, &[Run])> = Vec::new();
    for (number, case) in info.cases.iter().enumerate().filter(|(_, c)| selection.sizes.contains(&c.size)) {
        // A large case in another storage shows nothing that the small ones do not.
        let small = case.size == Size::Small;
        // A quick pass has every case in f32, every third in all storages, and every third beside it in f16 too.
        let storages: &[Storage] = match (small, if selection.thorough { 0 } else { number % 3 }) {
            (true, 0) => &Storage::ALL,
            (false, 0) | (_, 1) => &[Storage::F32, Storage::F16],
            _ => &[Storage::F32],
        };
        jobs.extend(storages.iter().enumerate().map(|(turn, storage)| {
            let in_turn: &[Run] = match (number + turn) % 2 {
                // The bands behind the buffers show mostly what the checks do.
                0 if turn < 2 && number.is_multiple_of(6) => &[Run::Unchecked, Run::Checked],
                0 => &[Run::Unchecked],
                _ => &[Run::Folded],
            };
            (case, *storage, if small && !selection.thorough { in_turn } else { Run::of(case.size) })
        }));
    }
    // Large ones fill the machine by themselves.
    let (small, large): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(case, ..)| case.size == Size::Small);
    for jobs in small.chunks(SIDE_BY_SIDE).chain(large.chunks(1)) {
        let compared: Vec<Result<Vec<Compared>>> =
            jobs.into_par_iter().map(|job| compare_case(gpu, info, &variants, selection, *job)).collect();
        for compared in compared {
            for (summary, compared) in summaries.iter_mut().zip(compared?) {
                summary.equal += compared.equal;
                summary.unsupported += compared.unsupported;
                summary.worst = summary.worst.max(compared.worst);
                for failure in compared.failures {
                    report(failure);
                    if selection.stop_at_first {
                        return Ok(summaries);
                    }
                }
            }
        }
    }
    Ok(summaries)
}

/// What became of a case in one variant.
#[derive(Default)]
struct Compared {
    equal: usize,
    unsupported: usize,
    worst: f64,
    failures: Vec<Failure>,
}

/// A case in one storage, by each of the variants, in each of the ways `runs`.
fn compare_case(
    gpu: &GpuDevice,
    info: &Info,
    variants: &[&'static str],
    selection: Selection<'_>,
    (case, storage, runs): (&Case, Storage, &[Run]),
) -> Result<Vec<Compared>> {
    let Some(prepared) = PreparedCase::new(case, storage)? else {
        return Ok(variants.iter().map(|_| Compared::default()).collect());
    };
    let mut all = Vec::with_capacity(variants.len());
    for variant in variants {
        let mut compared = Compared::default();
        for &run in runs {
            match prepared.check(gpu, variant, run, selection.kernel) {
                Ok(CaseResult::Equal(difference)) => {
                    compared.equal += 1;
                    if storage == Storage::F32 {
                        compared.worst = compared.worst.max(difference.relative_l2);
                    }
                }
                Ok(CaseResult::Unsupported(_)) => {
                    compared.unsupported += 1;
                    break;
                }
                Err(error @ Error::Device(_)) => return Err(error),
                Err(error) => {
                    let kernel = format!("{} {variant}", info.name);
                    let case = format!("{} \"{}\"", storage.name(), case.label);
                    compared.failures.push(Failure { kernel, case, run, error });
                }
            }
        }
        all.push(compared);
    }
    Ok(all)
}
