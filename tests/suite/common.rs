//! Reading fixtures, and comparing with them.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use unmist::HostTensor;

/// A safetensors file of `tests/fixtures`: float tensors, integer lists, and JSON texts in the metadata.
pub struct Fixture {
    tensors: BTreeMap<String, HostTensor>,
    metadata: BTreeMap<String, String>,
}

impl Fixture {
    /// Reads `tests/fixtures/NAME.safetensors`.
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("fixtures are valid safetensors");
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let file = SafeTensors::deserialize(&bytes).expect("fixtures are valid safetensors");
        let tensors = file.tensors().into_iter().map(|(key, view)| {
            let words = view.data().chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).expect("chunks of 4"));
            let halves = view.data().chunks_exact(2).map(|half| <[u8; 2]>::try_from(half).expect("chunks of 2"));
            let data = match view.dtype() {
                Dtype::F32 => words.map(f32::from_le_bytes).collect(),
                Dtype::I64 => view
                    .data()
                    .chunks_exact(8)
                    .map(|word| i64::from_le_bytes(word.try_into().expect("chunks of 8")) as f32)
                    .collect(),
                Dtype::I32 => words.map(|word| i32::from_le_bytes(word) as f32).collect(),
                Dtype::F16 => halves.map(|half| half::f16::from_le_bytes(half).to_f32()).collect(),
                Dtype::BF16 => halves.map(|half| half::bf16::from_le_bytes(half).to_f32()).collect(),
                other => panic!("{name}: {key}: unexpected dtype {other:?}"),
            };
            (key, HostTensor { shape: view.shape().to_vec(), data })
        });
        Self { tensors: tensors.collect(), metadata }
    }

    /// The tensor of this name.
    pub fn tensor(&self, key: &str) -> &HostTensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("no tensor {key} in the fixture"))
    }

    /// Entry `i` along the first axis of the tensor of this name.
    pub fn entry(&self, key: &str, i: usize) -> HostTensor {
        let whole = self.tensor(key);
        let len = whole.len() / whole.shape[0];
        HostTensor { shape: whole.shape[1..].to_vec(), data: whole.data[i * len..(i + 1) * len].to_vec() }
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("no {key} in the fixture's metadata"))
    }

    /// A JSON object of the metadata.
    pub fn object(&self, key: &str) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(self.text(key)).expect("metadata holds JSON objects")
    }
}

/// Fails unless every element is within `tolerance` of what is expected, absolutely and relatively added up, and so is
/// the whole in relative L2. NaN fails.
pub fn check_close(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let (mut difference, mut norm) = (0.0, 0.0);
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let (f, e) = (f64::from(*f), f64::from(*e));
        let within = (f - e).abs() <= tolerance * (1.0 + e.abs());
        assert!(within, "{what}: element {i} is {f}, expected {e}");
        difference += (f - e).powi(2);
        norm += e.powi(2);
    }
    let relative = (difference / f64::max(norm, 1e-30)).sqrt();
    assert!(relative <= tolerance, "{what}: relative L2 {relative:.2e} > {tolerance:.0e}");
}
