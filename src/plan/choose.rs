//! Which kernel variant runs an operation: the best of the preferred family that can, unless the user forces one.

use crate::error::{Error, Result};
use crate::ops::{Family, LowerContext, Op};

/// How variants are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// `(operation, variant)`: use this variant of this operation wherever it occurs.
    pub forced: Vec<(String, String)>,
    /// Prefer this family rather than the one that suits the device.
    pub family: Option<Family>,
}

impl Choice {
    /// Parses `OPERATION=VARIANT`, as given to `--force`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the operation or the variant does not exist.
    pub fn parse_forced(text: &str) -> Result<(String, String)> {
        let (op, variant) = text
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--force {text}: expected OPERATION=VARIANT, e.g. conv2d=naive")))?;
        let registry = crate::ops::registry();
        let known: Vec<_> = registry.iter().map(|i| i.name).collect();
        let info = registry.iter().find(|i| i.name == op).ok_or_else(|| {
            Error::Usage(format!("--force {text}: no operation {op}; there are {}", known.join(", ")))
        })?;
        if !info.variants.contains(&variant) {
            return Err(Error::Usage(format!(
                "--force {text}: {op} has no variant {variant}; it has {}",
                info.variants.join(", ")
            )));
        }
        Ok((op.to_owned(), variant.to_owned()))
    }
}

/// The index of the variant to use for `op`.
///
/// # Errors
/// [`Error::Usage`] if a forced variant cannot run this instance, with the reason.
pub fn choose(op: &Op, context: &LowerContext<'_>, choice: &Choice) -> Result<usize> {
    let names = op.variant_names();
    if let Some((_, forced)) = choice.forced.iter().find(|(name, _)| name == op.name()) {
        let index = names
            .iter()
            .position(|n| n == forced)
            .ok_or_else(|| Error::Usage(format!("{} has no variant {forced}", op.name())))?;
        op.supports(index, context)
            .map_err(|reason| Error::Usage(format!("{}={forced} cannot run here: {reason}", op.name())))?;
        return Ok(index);
    }
    let native = if context.caps.is_cpu { Family::Cpu } else { Family::Gpu };
    let preferred = choice.family.unwrap_or(native);
    let can = |index: &usize| op.supports(*index, context).is_ok();
    let suits = |index: &usize| matches!(op.family(*index), f if f == preferred || f == Family::Any);
    // Variants are listed best first, `naive` last: take the first that suits; a tiled kernel for the other kind of
    // machine still beats naive.
    let naive = names.len() - 1;
    let best = (0..naive).filter(can).find(suits).or_else(|| (0..naive).find(can));
    Ok(best.unwrap_or(naive))
}
