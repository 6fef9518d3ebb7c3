//! Checkpoints and LoRAs in the names of every program that writes them (`tests/fixtures/single_file/dialects.json`,
//! made by `tools/fixtures/dialects.py` from what those programs wrote), at the real sizes of the published models.

use std::collections::HashMap;

use super::*;
use crate::checkpoint::Ignore;
use crate::checkpoint::lora::{self, Lora, Scales};

/// `checkpoints` or `loras` of the fixture.
fn dialects(kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixtures().join("single_file/dialects.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[kind].as_array().unwrap().clone()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

fn texts<'a>(value: &'a Value, field: &str) -> Vec<&'a str> {
    value[field].as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

/// The tables that dialects describe their components by.
struct Tables(BTreeMap<&'static str, Family>);

impl Tables {
    fn new() -> Self {
        Self(FAMILIES.iter().map(|name| (*name, family(name))).collect())
    }

    /// The tensors of a component of `dialect`.
    fn entries(&self, dialect: &Value, component: &Value) -> impl Iterator<Item = &Entry> {
        let table = if component["table"].is_null() { text(dialect, "family") } else { text(component, "table") };
        let name = text(component, "component").to_owned();
        self.0[table].entries.iter().filter(move |entry| entry.component == name)
    }
}

/// The name that a tensor has where names are of this kind, and which part of the stored tensor it is.
fn base<'a>(entry: &'a Entry, names: &str) -> (&'a str, Part) {
    match names {
        "original" => (&entry.key, entry.part),
        "diffusers" => (&entry.name, Part::Whole),
        "bare" => (entry.name.strip_prefix("text_model.").unwrap_or(&entry.name), Part::Whole),
        other => panic!("unknown names {other}"),
    }
}

/// A tensor of a component as the dialect stores it.
fn stored(entry: &Entry, component: &Value) -> Entry {
    let (names, prefix) = (text(component, "names"), text(component, "prefix"));
    let (key, part, squeezed) = match &component["other"][&entry.name] {
        Value::Null => {
            let (key, part) = base(entry, names);
            (key, part, names == "original" && entry.stored_shape.ends_with(&[1, 1]) && entry.shape().len() == 2)
        }
        other => {
            assert_eq!(other[1], "same");
            (other[0].as_str().unwrap(), Part::Whole, false)
        }
    };
    let shape = entry.shape();
    let stored_shape = match (part, shape.as_slice()) {
        (Part::Third(_), [rows, rest @ ..]) => [&[rows * 3], rest].concat(),
        (Part::Transposed, &[rows, columns]) => vec![columns, rows],
        _ if squeezed => [&shape[..], &[1, 1]].concat(),
        _ => shape,
    };
    Entry {
        component: entry.component.clone(),
        name: entry.name.clone(),
        key: key.to_owned(),
        stored: format!("{prefix}{key}"),
        stored_shape,
        part,
    }
}

/// Where tensors of a component come from: name, stored name, part and shape of each.
type Landed = BTreeSet<(String, String, String, Vec<usize>)>;

/// One of them. Whether `text_model.` stands before a tower's names, and whether a matrix is a 1×1 convolution, is left
/// to `Weights`.
fn landed(name: &str, stored: &str, part: Part, mut shape: Vec<usize>) -> (String, String, String, Vec<usize>) {
    if let [_, _, 1, 1] = shape[..] {
        shape.truncate(2);
    }
    (name.trim_start_matches("text_model.").to_owned(), stored.to_owned(), format!("{part:?}"), shape)
}

#[test]
fn every_tensor_of_every_dialect_lands_where_its_writer_had_it() {
    let tables = Tables::new();
    let whole: BTreeMap<&str, SingleFile> =
        tables.0.iter().map(|(name, family)| (*name, open(file_of(family, &[])).unwrap())).collect();
    let dialects = dialects("checkpoints");
    assert!(dialects.len() >= 44);
    for dialect in &dialects {
        let (writer, family) =
            (format!("{}: {}", text(dialect, "family"), text(dialect, "writer")), text(dialect, "family"));
        let components = dialect["components"].as_array().unwrap();
        let entries: Vec<Entry> = components
            .iter()
            .flat_map(|component| tables.entries(dialect, component).map(|entry| stored(entry, component)))
            .collect();
        let besides = texts(dialect, "besides");
        let unused = tables.0[family].unused.iter().filter(|(name, _)| besides.contains(&name.as_str()));
        let unused: Vec<_> = unused.cloned().collect();
        assert_eq!(unused.len(), besides.len(), "{writer}: shapes of {besides:?}");
        let file = Family { configs: BTreeMap::new(), entries, unused };
        let model = open(file_of(&file, &[])).unwrap_or_else(|e| panic!("{writer}: {e}"));

        let mut names: Vec<&str> = components.iter().map(|component| text(component, "component")).collect();
        names.sort_unstable();
        assert_eq!(model.inferred.pieces.keys().collect::<Vec<_>>(), names, "{writer}");
        if names.contains(&"unet") {
            assert_eq!(model.family_name(), whole[family].family_name(), "{writer}");
        }
        let unused = model.unused();
        assert!(unused.iter().all(|name| besides.contains(&name.as_str())), "{writer}: unused {unused:?}");

        for name in names {
            let own = file.entries.iter().filter(|entry| entry.component == name);
            let expected: Landed =
                own.map(|entry| landed(&entry.name, &entry.stored, entry.part, entry.shape())).collect();
            let pieces = model.inferred.pieces[name].iter();
            let pieces = pieces.filter(|(_, piece)| !besides.contains(&piece.stored.as_str()));
            let found: Landed =
                pieces.map(|(name, piece)| landed(name, &piece.stored, piece.part, piece.shape.clone())).collect();
            let wrong: Vec<_> = found.symmetric_difference(&expected).take(6).collect();
            assert!(wrong.is_empty(), "{writer}: {name}: {wrong:?}");
            let shapes = file.expected(name);
            Weights::new(model.component(name).unwrap().tensors, &shapes)
                .unwrap_or_else(|e| panic!("{writer}: {name}: {e}"));
            // Alone or in company, a component is configured as in the whole file.
            let of = components.iter().find(|component| component["component"] == name).unwrap();
            let table = if of["table"].is_null() { family } else { text(of, "table") };
            let [mut found, mut expected] = [&model, &whole[table]].map(|file| file.config(name).unwrap().value);
            let mut ignored = vec!["sample_size"]; // which only the weights tell, and they are all zero
            if name == "vae" && (table != family || components.len() == 1) {
                ignored.extend(["scaling_factor", "force_upcast"]); // which the U-Net beside it tells
            }
            for field in ignored {
                (found[field], expected[field]) = (Value::Null, Value::Null);
            }
            assert_eq!(found, expected, "{writer}: {name}");
        }
    }
}

/// The shape of a small weight of this rank: what is given, and ones.
fn small(first: &[usize], rank: usize) -> Vec<usize> {
    let ones = std::iter::repeat(1);
    first.iter().copied().chain(ones).take(rank).collect()
}

/// Zeros in place of a component's weights: two outputs, three inputs, so that a swap shows.
fn zeros<'a>(name: &str, entries: impl Iterator<Item = &'a Entry>) -> Component {
    let tensors: HashMap<String, HostTensor> =
        entries.map(|entry| (entry.name.clone(), HostTensor::zeros(small(&[2, 3], entry.shape().len())))).collect();
    Component {
        name: name.to_owned(),
        class_name: None,
        config: Json::parse("config.json", "{}".into()).unwrap(),
        tensors: Arc::new(tensors),
        ignore: Arc::default(),
    }
}

/// Each layer adds a number of its own, which is then found in the weight of the module that its writer made it for.
#[test]
fn every_layer_of_every_dialect_changes_the_module_that_it_was_made_for() {
    let tables = Tables::new();
    let dialects = dialects("loras");
    assert!(dialects.len() >= 28);
    for dialect in &dialects {
        let writer = format!("{}: {}", text(dialect, "family"), text(dialect, "writer"));
        let mut file: Vec<(String, HostTensor)> = vec![];
        let mut expected: BTreeMap<(&str, &str), f32> = BTreeMap::new();
        let mut components: BTreeMap<&str, Component> = BTreeMap::new();
        for component in dialect["components"].as_array().unwrap() {
            let name = text(component, "component");
            components.entry(name).or_insert_with(|| zeros(name, tables.entries(dialect, component)));
            let (modules, ends) = (texts(component, "modules"), texts(component, "ends"));
            for entry in tables.entries(dialect, component) {
                let Some(module) = entry.name.strip_suffix(".weight") else { continue };
                if !modules.iter().any(|end| format!(".{module}").ends_with(&format!(".{end}"))) {
                    continue;
                }
                let (key, _) = base(entry, text(component, "names"));
                let layer = component["other"][module].as_str().map_or_else(
                    || key.strip_suffix(".weight").unwrap().replace('.', text(component, "join")),
                    str::to_owned,
                );
                let layer = format!("{}{layer}", text(component, "prefix"));
                let (number, rank) = ((expected.len() + 1) as f32, entry.shape().len());
                file.push((format!("{layer}{}", ends[0]), HostTensor::from_fn(small(&[1, 3], rank), |_| 1.0)));
                file.push((format!("{layer}{}", ends[1]), HostTensor::from_fn(small(&[2, 1], rank), |_| number)));
                if let Some(alpha) = ends.get(2) {
                    file.push((format!("{layer}{alpha}"), HostTensor::from_fn(vec![], |_| 1.0)));
                }
                expected.insert((name, entry.name.as_str()), number);
            }
        }
        let list: Vec<_> = file.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut bytes = Vec::new();
        crate::checkpoint::safetensors::write(&mut bytes, &list, &BTreeMap::new()).unwrap();
        let lora = Lora::from_tensors(Tensors::from_bytes("lora.safetensors", bytes).unwrap())
            .unwrap_or_else(|e| panic!("{writer}: {e}"));
        lora::apply(
            &[(Arc::new(lora), Scales::from(1.0))],
            &mut components.values_mut().collect::<Vec<_>>(),
            &Ignore::default(),
        )
        .unwrap_or_else(|e| panic!("{writer}: {e}"));
        assert!(expected.len() >= 72, "{writer}: {} layers", expected.len());
        for (name, component) in &components {
            for weight in component.tensors.names() {
                let found = component.tensors.read_f32(&weight).unwrap().data;
                let expected = expected.get(&(*name, weight.as_str())).copied().unwrap_or(0.0);
                assert!(
                    found.iter().all(|value| *value == expected),
                    "{writer}: {name} {weight}: {found:?} {expected}"
                );
            }
        }
    }
}
