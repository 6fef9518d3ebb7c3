//! Whether a sample of a batch is computed as it is by itself: by the same instructions, its sums added up in the same
//! order, so that it has the same bits.

use std::collections::BTreeMap;

use super::{Launch, Program};

/// Parameters that count samples, or rows, pixels and elements of all samples together. A product has its rows in W and
/// OW, and those of one frequency of a Winograd form in rows_per_image; an elementwise operation has its outermost axis
/// in size_0. What else differs between two programs may be where a sum is cut.
const COUNTS: &[&str] = &[
    "N",
    "M",
    "B",
    "images",
    "rows",
    "elements",
    "vectors",
    "positions",
    "pixels",
    "lines",
    "samples",
    "sample",
    "W",
    "OW",
    "rows_per_image",
    "size_0",
];

/// How many rows an embedding's table has, of which each sample reads its own.
const TABLE: &str = "V";

impl Program {
    /// Whether each of this program's `samples` is computed as `single` computes its only one: the same launches of the
    /// same kernels, with parameters that differ by nothing but the number of samples.
    pub fn computes_each_as(&self, single: &Program, samples: u32) -> bool {
        let lists = [(&self.condition, &single.condition), (&self.step, &single.step)];
        lists.into_iter().all(|(all, one)| {
            all.len() == one.len()
                && all.iter().zip(one).all(|(all, one)| {
                    let (kernel, other) = (&self.kernels[all.kernel], &single.kernels[one.kernel]);
                    let alike = |name: &str, a: u32, b: u32| {
                        a == b || name == TABLE || (COUNTS.contains(&name) && a == b * samples)
                    };
                    let (values, others) = (self.values_of(all), single.values_of(one));
                    kernel.wgsl == other.wgsl
                        && values.len() == others.len()
                        && values
                            .iter()
                            .all(|(name, value)| others.get(name).is_some_and(|other| alike(name, *value, *other)))
                })
        })
    }

    /// A launch's parameters by name, as the bits that they are.
    fn values_of(&self, launch: &Launch) -> BTreeMap<&str, u32> {
        let fields = &self.kernels[launch.kernel].reflection.params;
        let value = |offset: u32| {
            launch
                .params
                .get(offset as usize..offset as usize + 4)
                .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("a range of four")))
        };
        fields.iter().filter_map(|field| Some((field.name.as_str(), value(field.offset)?))).collect()
    }
}
