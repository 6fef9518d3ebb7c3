//! Files of tensors: `.safetensors` and its shards, GGUF, and whole models in one file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use unmist::Result;
use unmist::checkpoint::{SingleFile, TensorSource, Tensors, Weights};
use unmist::files::Memory;

use super::{Kind, bytes_of, fixture, safetensors};
use crate::gguf_writer::{self, Entry, File};
use crate::random::{Random, mutate, mutated};
use crate::{json, random};

pub fn kinds() -> Vec<Kind> {
    let sample = sample_file();
    let (header, data) = super::split_safetensors(&sample);
    let data = data.to_vec();
    let types = bytes_of("gguf/types.gguf");
    let header_length = gguf_header(&types);
    let small = gguf_sample();
    let index = json!({"metadata": {"total_size": 24}, "weight_map": {
        "a.weight": "m-1.safetensors", "a.bias": "m-1.safetensors", "b.weight": "m-2.safetensors"}});
    let model = original_tensors();
    let again = model.clone();
    vec![
        Kind::new("safetensors/bytes", 12, move |r| mutated(&sample, r), |bytes| read_tensors("x.safetensors", bytes)),
        Kind::new(
            "safetensors/header",
            12,
            move |r| safetensors(&json::mutated(&header, r), &data),
            |bytes| read_tensors("x.safetensors", bytes),
        ),
        Kind::new(
            "gguf/bytes",
            12,
            move |r| {
                // Only what comes first: in the data, every change is as good as another.
                let mut header = types[..header_length].to_vec();
                mutate(&mut header, r);
                header.extend(&types[header_length..]);
                header
            },
            |bytes| read_tensors("x.gguf", bytes),
        ),
        Kind::new("gguf/fields", 16, move |r| change_gguf(&small, r), |bytes| read_tensors("x.gguf", bytes)),
        Kind::new("shards", 4, move |r| json::mutated(&index, r), read_shards()),
        Kind::new("model/safetensors", 2, move |r| change_model(&model, r, as_safetensors), read_model)
            .expecting(10, 2),
        Kind::new("model/gguf", 2, move |r| change_model(&again, r, as_gguf), read_model).expecting(10, 2),
    ]
}

/// A file with ten element types, an odd shape, a scale and metadata. Most of it is the header, so most mutations hit
/// that.
fn sample_file() -> Vec<u8> {
    let mut header = json!({"__metadata__": {"format": "pt"}});
    let mut end = 0;
    for (dtype, bytes) in [
        ("F64", 8),
        ("F32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("F8_E4M3", 1),
        ("F8_E5M2", 1),
        ("I64", 8),
        ("I32", 4),
        ("U8", 1),
        ("BOOL", 1),
    ] {
        let begin = end;
        end += 6 * bytes;
        header[format!("block.{dtype}.weight")] =
            json!({"dtype": dtype, "shape": [2, 1, 3], "data_offsets": [begin, end]});
    }
    header["block.F8_E4M3.scale_weight"] = json!({"dtype": "F32", "shape": [], "data_offsets": [end, end + 4]});
    let data: Vec<u8> = (0..end + 4).map(|i| (i * 37) as u8).collect();
    safetensors(header.to_string().as_bytes(), &data)
}

/// Reads all that a loader would, and checks that it is what the file can hold.
fn read_tensors(path: &str, bytes: Vec<u8>) -> Result<()> {
    let tensors = Tensors::from_bytes(path, bytes)?;
    for name in tensors.names() {
        let (shape, found) = (tensors.info(name).expect("it was just named").shape, tensors.read_f32(name));
        let _ = (tensors.stored(name), TensorSource::content(&tensors, name)?);
        if let Ok(tensor) = found {
            assert_eq!(tensor.shape, shape);
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.len());
        }
    }
    let expected = [("block.F32.weight".to_string(), vec![2, 1, 3]), ("block.query.weight".to_string(), vec![3])];
    // It does not fit, which must be said whatever the file holds.
    assert!(Weights::new(Arc::new(tensors), &expected).is_err());
    Ok(())
}

/// Where the data of the fixture begins.
fn gguf_header(file: &[u8]) -> usize {
    let tensors = Tensors::from_bytes("types.gguf", file.to_vec()).expect("sound");
    let bytes: usize = (tensors.names())
        .map(|name| {
            let info = tensors.info(name).expect("it was just named");
            info.dtype.bytes_of(info.shape.iter().product()).expect("whole").next_multiple_of(32)
        })
        .sum();
    file.len() - bytes
}

fn gguf_sample() -> File {
    let ramp: Vec<f32> = (0..512).map(|i| (i as f32 - 200.0) / 100.0).collect();
    File::new(vec![
        Entry::f32("block.F32.weight", &[2, 1, 3], &ramp[..6]),
        Entry::f16("a.weight", &[4, 5], &ramp[..20]),
        Entry::q8_0("b.weight", &[2, 64], &ramp[..128]),
        Entry::f32("b.scale_weight", &[2], &[1.0, 2.0]),
        Entry::q4_0("c.weight", &[32], &ramp[..32]),
        Entry::q6_k("d.weight", &[2, 256], &ramp),
    ])
    .with("general.architecture", gguf_writer::Value::Text("sd1".into()))
    .with("general.alignment", gguf_writer::Value::U32(32))
    .with("comfy.gguf.orig_shape.d.weight", gguf_writer::Value::Integers(vec![8, 8, 8]))
}

/// Changes one to three fields of a file.
fn change_gguf(seed: &File, random: &mut Random) -> Vec<u8> {
    use gguf_writer::Value;
    let mut file = seed.clone();
    for _ in 0..1 + random.below(3) {
        let at = random.below(file.tensors.len());
        match random.below(12) {
            0 => file.version = [0, 1, 2, 4, 3 << 24, u32::MAX][random.below(6)],
            1 => file.off[random.below(3)] = random.number(),
            2 => file.alignment = 1 << random.below(8),
            3 => {
                let key = ["general.alignment", "comfy.gguf.orig_shape.a.weight", "split.count", "x", ""];
                let value = match random.below(5) {
                    0 => Value::U32(random.number() as u32),
                    1 => Value::Integers((0..random.below(10)).map(|_| random.number() as i32).collect()),
                    2 => Value::Text((0..random.below(40)).map(|_| random.next() as u8).collect()),
                    3 => Value::Raw(random.below(14) as u32, random.number().to_le_bytes().to_vec()),
                    // A list of some type, and of any length.
                    _ => {
                        let kind = (random.below(14) as u32).to_le_bytes();
                        Value::Raw(9, [&kind[..], &random.number().to_le_bytes(), &[0; 64]].concat())
                    }
                };
                file.metadata.push((random.pick(&key).into(), value));
            }
            4 => drop(file.metadata.pop()),
            _ if file.tensors.is_empty() => {}
            5 => drop(file.tensors.remove(at)),
            6 => file.tensors.push(file.tensors[at].clone()),
            7 => mutate(&mut file.tensors[at].name, random),
            8 => file.tensors[at].kind = random.below(44) as u32,
            9 => file.tensors[at].shape = (0..random.below(6)).map(|_| random.number()).collect(),
            10 => {
                let shape = &mut file.tensors[at].shape;
                let axis = random.below(shape.len());
                shape.get_mut(axis).into_iter().for_each(|dim| *dim = random.number());
            }
            _ => mutate(&mut file.tensors[at].bytes, random),
        }
    }
    let mut bytes = file.bytes();
    if random.one_in(8) {
        mutate(&mut bytes, random);
    }
    bytes
}

/// Two sound shards, and an index that is not.
fn read_shards() -> impl Fn(Vec<u8>) -> Result<()> {
    let shard = |names: &[&str]| {
        let fields = names.iter().enumerate();
        let fields = fields.map(|(i, name)| {
            (name.to_string(), json!({"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]}))
        });
        let header = Value::Object(fields.collect());
        safetensors(header.to_string().as_bytes(), &vec![0; 8 * names.len()])
    };
    let files: Memory =
        [("m/m-1.safetensors", shard(&["a.weight", "a.bias"])), ("m/m-2.safetensors", shard(&["b.weight"]))]
            .into_iter()
            .collect();
    let files = RefCell::new(files);
    move |bytes| {
        files.borrow_mut().insert("m/model.safetensors.index.json", bytes);
        let tensors = Tensors::open_in(&*files.borrow(), "m/model.safetensors.index.json")?;
        let all = ["a.bias", "a.weight", "b.weight"];
        assert!(tensors.names().all(|name| all.contains(&name)));
        tensors.names().for_each(|name| drop(tensors.read_f32(name)));
        Ok(())
    }
}

/// Names and shapes of a tiny Stable Diffusion 1 in one file.
fn original_tensors() -> Vec<(String, Vec<u64>)> {
    let text = std::fs::read_to_string(fixture("single_file/sd1.tsv")).expect("the fixture is there");
    let (mut prefix, mut stored) = ("", Vec::new());
    for line in text.lines() {
        match line.strip_prefix("# ") {
            Some(section) => prefix = section.split_once(' ').map_or("", |(_, prefix)| prefix),
            None => {
                let words: Vec<_> = line.split('\t').collect();
                let shape: Vec<u64> = words[1].split('x').filter_map(|dim| dim.parse().ok()).collect();
                stored.push((format!("{prefix}{}", words[0]), shape));
            }
        }
    }
    stored
}

type Shapes = BTreeMap<String, Vec<u64>>;

/// A sound file of a model that is none: tensors dropped, renamed and given other shapes.
fn change_model(seed: &[(String, Vec<u64>)], random: &mut Random, write: fn(&Shapes) -> Vec<u8>) -> Vec<u8> {
    let mut tensors: Shapes = seed.iter().cloned().collect();
    for _ in 0..1 + random.below(3) {
        let (name, _) = &seed[random.below(seed.len())];
        let Some(mut shape) = tensors.remove(name) else { continue };
        let mut name = name.clone();
        match random.below(5) {
            0 => continue,
            1 => name = random::mutated_text(&name, random),
            2 if !shape.is_empty() => {
                let axis = random.below(shape.len());
                shape[axis] = random.below(200) as u64;
            }
            // Nothing in it, but as many as one likes.
            3 => shape = vec![0, random.number() >> 8, 1, 1],
            _ => shape.resize(random.below(5), 1),
        }
        // What the file holds must be made first.
        if shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim)).is_none_or(|n| n > 1 << 22) {
            shape = vec![1];
        }
        tensors.insert(name, shape);
    }
    write(&tensors)
}

/// Bytes as elements, so that the file is small.
fn as_safetensors(tensors: &Shapes) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<u64>();
        header.insert(name.clone(), json!({"dtype": "U8", "shape": shape, "data_offsets": [begin, end]}));
    }
    safetensors(Value::Object(header).to_string().as_bytes(), &vec![0; end as usize])
}

/// Bytes, or blocks where they fit.
fn as_gguf(tensors: &Shapes) -> Vec<u8> {
    const Q8_0: u32 = 8;
    const I8: u32 = 24;
    let entry = |(name, shape): (&String, &Vec<u64>)| {
        let elements = shape.iter().product::<u64>() as usize;
        let blocks = shape.len() > 1 && shape.last().is_some_and(|row| row % 32 == 0);
        let (kind, bytes) = if blocks { (Q8_0, elements / 32 * 34) } else { (I8, elements) };
        Entry { name: name.clone().into_bytes(), shape: shape.clone(), kind, bytes: vec![0; bytes] }
    };
    File::new(tensors.iter().map(entry).collect()).bytes()
}

fn read_model(bytes: Vec<u8>) -> Result<()> {
    let model = SingleFile::from_tensors(Tensors::from_bytes(Path::new("model"), bytes)?)?;
    for name in ["unet", "vae", "text_encoder", "text_encoder_2", "scheduler"] {
        let Ok(component) = model.component(name) else { continue };
        for tensor in component.tensors.names() {
            let (shape, read) =
                (component.tensors.shape(&tensor).expect("named"), component.tensors.read_f32(&tensor)?);
            assert_eq!(shape, read.shape, "{tensor}");
        }
        super::configs::parameters(&component)?;
    }
    Ok(())
}
