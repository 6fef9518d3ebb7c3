//! Tables of tuned choices by device: the user's own, and those that ship with the program.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::cache::user_folder;
use super::device::GpuDevice;
use crate::error::Error;
use crate::plan::{Table, Tuned};

/// Every table in the folder `tuned/`: its name, and its text.
const SHIPPED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/tuned.rs"));

/// How kernels are chosen on a device where nobody says anything else.
#[derive(Clone, Debug, Default)]
pub struct DeviceChoices {
    /// What was measured.
    pub tuned: Tuned,
    /// What the user should know of it.
    pub notes: Vec<String>,
}

impl GpuDevice {
    /// The user's own table for this adapter and driver, in the user's cache folder, whether it is there or not; `None`
    /// without such a folder.
    pub fn table_path(&self) -> Option<PathBuf> {
        Some(user_folder()?.join("tuned").join(format!("{}.json", self.identity())))
    }

    /// A table for this device, with nothing in it yet.
    pub fn empty_table(&self) -> Table {
        Table { device: self.describe(), adapter: self.adapter_name(), entries: Vec::new() }
    }

    /// What was measured on this device, and where that says nothing, on others with the same adapter. A file that
    /// cannot be read costs speed and a note, never a run.
    pub fn choices(&self) -> DeviceChoices {
        choices(self.table_path().as_deref(), &self.adapter_name(), SHIPPED)
    }
}

fn choices(own: Option<&Path>, adapter: &str, shipped: &[(&str, &str)]) -> DeviceChoices {
    let mut found = DeviceChoices::default();
    let shipped = shipped.iter().filter_map(|(_, text)| Table::parse(text).ok());
    let mut entries: Vec<_> = shipped.filter(|table| table.adapter == adapter).flat_map(|t| t.usable()).collect();
    match own.map(|path| (path, Table::read(path))) {
        Some((path, Ok(table))) => {
            let usable = table.usable();
            let (all, path) = (table.entries.len(), path.display());
            if !usable.is_empty() {
                found.notes.push(format!("{} tuned choices of kernels in {path}", usable.len()));
            }
            if usable.len() < all {
                let gone = all - usable.len();
                found.notes.push(format!(
                    "{gone} tuned choices in {path} are of other kernels than there are now; `unmist tune` renews them"
                ));
            }
            entries.extend(usable);
        }
        Some((_, Err(Error::Io { source, .. }))) if source.kind() == ErrorKind::NotFound => {}
        Some((_, Err(error))) => {
            found.notes.push(format!("{error}; kernels are chosen by rules; `unmist tune` measures anew"));
        }
        None => {}
    }
    found.tuned = Tuned::new(entries);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Knobs;
    use crate::plan::TunedEntry;

    fn entry(output: &str, variant: &str) -> TunedEntry {
        TunedEntry {
            operation: "softmax".into(),
            attributes: String::new(),
            inputs: vec![Some(output.into())],
            output: output.into(),
            variant: variant.into(),
            knobs: Knobs::default(),
            trials: Vec::new(),
        }
    }

    fn table(adapter: &str, entries: Vec<TunedEntry>) -> Table {
        Table { device: format!("{adapter} (Vulkan)"), adapter: adapter.into(), entries }
    }

    #[test]
    fn tables_that_ship_are_sound() {
        for (name, text) in SHIPPED {
            let table = Table::parse(text).unwrap_or_else(|why| panic!("tuned/{name}.json: {why}"));
            table.check(Path::new(name)).unwrap_or_else(|error| panic!("{error}"));
            assert!(!table.adapter.is_empty(), "tuned/{name}.json names no adapter");
        }
    }

    #[test]
    fn own_measurements_go_before_those_of_others_with_the_same_adapter() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own.json");
        table("GPU", vec![entry("f32 [1]", "rows")]).write(&own).unwrap();
        let same = table("GPU", vec![entry("f32 [1]", "naive"), entry("f32 [2]", "naive")]).to_json();
        let other = table("GPU 2", vec![entry("f32 [3]", "naive")]).to_json();
        let shipped = [("same", same.as_str()), ("other", other.as_str())];
        let found = choices(Some(&own), "GPU", &shipped);
        assert_eq!(found.tuned, Tuned::new([entry("f32 [1]", "rows"), entry("f32 [2]", "naive")]));
        assert!(found.notes.len() == 1 && found.notes[0].starts_with("1 tuned choices"), "{:?}", found.notes);
        let nothing = choices(Some(&folder.path().join("none.json")), "GPU 3", &shipped);
        assert!(nothing.tuned.is_empty() && nothing.notes.is_empty(), "{nothing:?}");
        assert_eq!(choices(None, "GPU", &shipped).tuned.len(), 2);
    }

    #[test]
    fn a_damaged_table_costs_a_note_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own.json");
        std::fs::write(&own, "{\"device\": \"GPU\", \"entr").unwrap();
        let found = choices(Some(&own), "GPU", &[]);
        assert!(found.tuned.is_empty());
        assert!(found.notes[0].contains("own.json") && found.notes[0].contains("by rules"), "{:?}", found.notes);
        table("GPU", vec![entry("f32 [1]", "of another version")]).write(&own).unwrap();
        let found = choices(Some(&own), "GPU", &[]);
        assert!(found.tuned.is_empty() && found.notes[0].contains("other kernels"), "{:?}", found.notes);
    }
}
