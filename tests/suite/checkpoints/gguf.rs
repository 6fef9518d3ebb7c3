//! GGUF files: each type of element against gguf-py, whole models against the same weights in `.safetensors`, and that
//! damaged or hostile files are refused.

use std::collections::BTreeMap;
use std::path::Path;

use unmist::HostTensor;
use unmist::checkpoint::{Block, Checkpoint, ElementType, Tensors, safetensors};

use crate::checkpoints::gguf_writer::{Entry, File, Value};
use crate::checkpoints::single_file::{folder_with_clip_vocabulary, write_single_file};
use crate::commands::usage::{fails, succeeds};
use crate::common::{Fixture, distance};

/// Each value is the same to the last bit: there is one product and at most one difference, in the same order.
#[test]
fn every_type_is_read_as_gguf_py_reads_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/types.gguf");
    let (file, expected) = (Tensors::open(path).unwrap(), Fixture::read("gguf/types"));
    let mut blocks = 0;
    for name in file.names() {
        let (found, expected) = (file.read_f32(name).unwrap(), expected.tensor(name));
        assert_eq!(found.shape, expected.shape, "{name}");
        let bits = |tensor: &HostTensor| tensor.data.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(expected), "{name}");
        let dtype = file.info(name).unwrap().dtype;
        assert_eq!(dtype.to_string(), name);
        blocks += usize::from(matches!(dtype, ElementType::Block(_)));
    }
    assert_eq!((file.names().count(), blocks), (18, 10));
    assert_eq!(file.info("Q4_K").unwrap().dtype, ElementType::Block(Block::Q4_K));
    assert_eq!(file.info("Q4_K").unwrap().shape, [3, 8, 8, 4], "as `comfy.gguf.orig_shape` says");
    let texts = file.metadata();
    for (key, value) in [
        ("general.architecture", "sd1"),
        ("test.u8", "200"),
        ("test.i16", "-30000"),
        ("test.f32", "0.25"),
        ("test.bool", "1"),
        ("test.text", "a „quoted“ text\n"),
        ("test.u64", "9223372036854775809"),
        ("test.i64", "-4611686018427387904"),
    ] {
        assert_eq!(texts[key], value);
    }
}

/// As the writers of image models choose them: matrices in blocks, small tensors as they are, other ones halved.
fn entry(name: &str, tensor: &HostTensor) -> Entry {
    let (shape, values) = (tensor.shape.as_slice(), tensor.data.as_slice());
    match shape {
        [_, columns] if columns.is_multiple_of(32) && name.contains("attn") => Entry::q4_0(name, shape, values),
        [_, columns] if columns.is_multiple_of(32) => Entry::q8_0(name, shape, values),
        [_, _, ..] => Entry::f16(name, shape, values),
        _ => Entry::f32(name, shape, values),
    }
}

/// Writes the same numbers as a `.safetensors` file.
fn dequantised(gguf: &Path, to: &Path) {
    let file = Tensors::open(gguf).unwrap();
    let tensors: Vec<_> = file.names().map(|name| (name, file.read_f32(name).unwrap())).collect();
    let list: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut out = std::fs::File::create(to).unwrap();
    safetensors::write(&mut out, &list, &BTreeMap::new()).unwrap();
}

fn picture(model: &Path, folder: &Path, more: &[&str]) -> HostTensor {
    let out = folder.join("out.safetensors");
    let common = ["sample", "a red apple, on a table", "--width", "24", "--height", "16", "--steps", "2"];
    let place = ["--model", model.to_str().unwrap(), "--output", out.to_str().unwrap()];
    succeeds(&[&common[..], &place, more].concat());
    Tensors::open(&out).and_then(|t| t.read_f32("images")).expect("written")
}

/// stable-diffusion.cpp's files: a whole model in the original names, without metadata.
#[test]
fn a_whole_model_gives_the_picture_of_its_dequantised_weights() {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name);
    folder_with_clip_vocabulary(&path("folder"));
    write_single_file(&path("folder"), &path("f32.safetensors"));
    let source = Tensors::open(path("f32.safetensors")).unwrap();
    let tensors = source.names().map(|name| entry(name, &source.read_f32(name).unwrap())).collect();
    // What a file is, it says itself.
    std::fs::write(path("model.bin"), File::new(tensors).bytes()).unwrap();
    dequantised(&path("model.bin"), &path("model.safetensors"));

    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora/sd1_kohya.safetensors");
    let lora = ["--lora", lora.to_str().unwrap()];
    let mut pictures = vec![];
    for more in [&[][..], &lora, &["--precision", "f16"]] {
        let found = picture(&path("model.bin"), work.path(), more);
        assert!(found == picture(&path("model.safetensors"), work.path(), more), "{more:?}");
        pictures.push(found);
    }
    assert!(pictures[0] != pictures[1] && pictures[0] != pictures[2], "the options have an effect");
    // The way out: both layouts, with the numbers that the blocks stand for.
    for name in ["converted", "converted.safetensors"] {
        let (from, to) = (path("model.bin"), path(name));
        succeeds(&["convert", from.to_str().unwrap(), to.to_str().unwrap(), "--dtype", "f32"]);
        assert!(picture(&path(name), work.path(), &[]) == pictures[0], "{name}");
    }
    let full = picture(&path("f32.safetensors"), work.path(), &[]);
    let off = distance(&pictures[0], &full);
    // Four bits are coarse: another picture, but of the same thing.
    assert!(off > 1e-4 && off < 0.5, "{off}");
}

/// ComfyUI's files: one model each, its names without a prefix, convolutions as rows of 256.
#[test]
fn components_come_from_files_of_their_own() {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name);
    folder_with_clip_vocabulary(&path("folder"));
    write_single_file(&path("folder"), &path("f32.safetensors"));
    let source = Tensors::open(path("f32.safetensors")).unwrap();
    let mut options = [vec![], vec![]];
    let mut reshaped = 0;
    for (option, prefix) in [
        ("--unet", "model.diffusion_model."),
        ("--vae", "first_stage_model."),
        ("--text-encoder", "cond_stage_model.transformer."),
    ] {
        let mut file = File::new(vec![]).with("general.architecture", Value::Text("sd1".into()));
        for name in source.names().filter(|name| name.starts_with(prefix)) {
            let (tensor, own) = (source.read_f32(name).unwrap(), &name[prefix.len()..]);
            let elements = tensor.len();
            if tensor.shape.len() == 4 && elements >= 512 && elements.is_multiple_of(256) {
                let shape = tensor.shape.iter().map(|&dim| dim as i32).collect();
                file = file.with(&format!("comfy.gguf.orig_shape.{own}"), Value::Integers(shape));
                file.tensors.push(Entry::q6_k(own, &[elements / 256, 256], &tensor.data));
                reshaped += 1;
            } else {
                file.tensors.push(entry(own, &tensor));
            }
        }
        let [gguf, plain] = ["gguf", "safetensors"].map(|end| path(&format!("{}.{end}", &option[2..])));
        std::fs::write(&gguf, file.bytes()).unwrap();
        dequantised(&gguf, &plain);
        for (options, file) in options.iter_mut().zip([gguf, plain]) {
            options.extend([option.to_owned(), file.to_str().unwrap().to_owned()]);
        }
    }
    assert!(reshaped > 50, "only {reshaped}");
    let made = |more: &[String]| {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        picture(&path("folder"), work.path(), &more)
    };
    let found = made(&options[0]);
    assert!(found == made(&options[1]));
    assert!(distance(&found, &made(&[])) > 1e-4, "the options have an effect");

    // The U-Net alone is no whole model, and says what it lacks.
    let results = tempfile::tempdir().unwrap();
    let (unet, out) = (path("unet.gguf"), results.path().join("out.png"));
    let run = ["sample", "a fox", "--model", unet.to_str().unwrap(), "--output", out.to_str().unwrap()];
    fails(&run, &["unet.gguf", "give --vae"], results.path());
}

/// Weights of 8-bit floats have been stored wider, and their scales beside them.
#[test]
fn scales_beside_weights_count() {
    let file = File::new(vec![
        Entry::f16("a.weight", &[2, 32], &[0.5; 64]),
        Entry::f32("a.scale_weight", &[], &[4.0]),
        Entry::q8_0("b.weight", &[2, 32], &[-1.0; 64]),
        Entry::f32("b.weight_scale", &[2], &[2.0, 3.0]),
    ]);
    let tensors = Tensors::from_bytes("model.gguf", file.bytes()).unwrap();
    assert!(tensors.read_f32("a.weight").unwrap().data.iter().all(|value| *value == 2.0));
    let rows = tensors.read_f32("b.weight").unwrap().data;
    let near = |value: f32, expected: f32| (value / expected - 1.0).abs() < 1e-3; // the block's scale is an f16
    assert!(rows[..32].iter().all(|v| near(*v, -2.0)) && rows[32..].iter().all(|v| near(*v, -3.0)));
    use unmist::checkpoint::TensorSource;
    assert!(tensors.stored("a.weight").is_none() && tensors.stored("a.scale_weight").is_some());
}

fn sound() -> File {
    File::new(vec![
        Entry::f32("a", &[3, 2], &[1.0; 6]),
        Entry::q8_0("b", &[2, 64], &[1.0; 128]),
        Entry::q6_k("c", &[256], &[1.0; 256]),
    ])
    .with("general.architecture", Value::Text("sd1".into()))
    .with("general.alignment", Value::U32(32))
}

#[test]
fn sound_corner_cases_open() {
    let opens = |file: File, tensors: usize| {
        let file = Tensors::from_bytes("model.gguf", file.bytes()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(file.names().count(), tensors);
        file.names().for_each(|name| drop(file.read_f32(name).unwrap()));
    };
    opens(sound(), 3);
    opens(File { version: 2, ..sound() }, 3);
    opens(File::new(vec![]), 0);
    opens(File::new(vec![Entry::f32("scalar", &[], &[1.0]), Entry::f32("none", &[0, 3], &[])]), 2);
    opens(File::new(vec![Entry::q8_0("none", &[3, 0], &[])]), 1);
    for alignment in [1u32, 8, 4096] {
        let file = File { alignment: alignment.into(), metadata: vec![], ..sound() };
        opens(file.with("general.alignment", Value::U32(alignment)), 3);
    }
    // The last tensor need not be padded.
    let mut bytes = sound().bytes();
    bytes.truncate(bytes.len() - 14);
    assert_eq!(bytes.len() % 32, 18);
    assert_eq!(Tensors::from_bytes("model.gguf", bytes).unwrap().read_f32("c").unwrap().len(), 256);
}

fn refused(bytes: Vec<u8>, parts: &[&str]) {
    let message = Tensors::from_bytes("dir/model.gguf", bytes).expect_err(parts[0]).to_string();
    for part in ["dir/model.gguf"].iter().chain(parts) {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(message.len() < 1000, "{message}");
}

#[test]
fn hostile_files_are_refused() {
    let file = |change: &dyn Fn(&mut File)| {
        let mut file = sound();
        change(&mut file);
        file.bytes()
    };
    for (version, parts) in
        [(1, ["version 1", "convert"]), (3 << 24, ["big-endian", "convert"]), (4, ["version 4", "2 and 3 are read"])]
    {
        refused(file(&|f| f.version = version), &parts);
    }
    // Numbers that the file does not bear out; no length is believed.
    for huge in [1 << 16, 1 << 40, u64::MAX - 3] {
        refused(file(&|f| f.off[0] = huge), &["tensors", "65536"]);
        refused(file(&|f| f.off[1] = huge), &["metadata entries", "65536"]);
    }
    refused(file(&|f| f.off[0] = 1), &["tensor `` has", "dimensions"]); // padding and data, read as a header
    refused(file(&|f| f.off[1] = 1), &["ends within"]); // the first tensor, read as metadata
    refused(file(&|f| f.off[0] = u64::MAX), &["belong to no tensor"]); // one less
    for off in [32, u64::MAX - 31, 1 << 60] {
        refused(file(&|f| f.off[2] = off), &["tensor `c` should begin at byte"]);
    }
    for (dims, parts) in [
        (&[u64::MAX, 2][..], ["tensor `c`", "overflows"]),
        (&[1 << 32, 1 << 32], ["tensor `c`", "overflows"]),
        (&[1 << 61], ["tensor `c`", "too large"]),
        (&[1 << 40, 256], ["tensor `c`", "truncated"]),
        (&[300], ["tensor `c`", "no whole blocks of Q6_K"]),
        (&[256, 16], ["tensor `c`", "no whole blocks of Q6_K"]),
        (&[], ["tensor `c`", "no whole blocks of Q6_K"]),
        (&[1, 1, 1, 1, 256], ["tensor `c` has 5 dimensions", "4"]),
    ] {
        let kind = if dims == [1 << 61] { 1 } else { 14 };
        refused(file(&|f| (f.tensors[2].shape, f.tensors[2].kind) = (dims.to_vec(), kind)), &parts);
    }
    for (kind, parts) in [
        (20, ["tensor `c` is stored as IQ4_NL", "Q4_K"]),
        (34, ["TQ1_0", "use a version"]),
        (39, ["MXFP4", "F16"]),
        (4, ["Q4_2", "use a version"]),
        (99, ["type 99", "tensor `c`"]),
        (u32::MAX, ["type 4294967295", "tensor `c`"]),
    ] {
        refused(file(&|f| f.tensors[2].kind = kind), &parts);
    }
    refused(file(&|f| f.tensors[2].name = b"a".to_vec()), &["`a` is given twice"]);
    refused(file(&|f| f.tensors[2].name = b"\xff\xfe".to_vec()), &["not UTF-8"]);
    let mut bytes = sound().bytes();
    bytes.extend([0; 40]);
    refused(bytes, &["belong to no tensor"]);
    // Cut anywhere: no panic, and refused unless only padding is missing.
    let whole = sound().bytes();
    for length in 4..whole.len() - 14 {
        let message = Tensors::from_bytes("m.gguf", whole[..length].to_vec()).unwrap_err().to_string();
        assert!(message.contains("truncated"), "{length}: {message}");
    }
    // A tensor of two bits an element becomes twelve times as large.
    let elements = 100 << 20;
    let blocks = vec![0; elements / 256 * 84];
    refused(File::new(vec![Entry::new("e", &[elements], 10, blocks)]).bytes(), &["tensor `e` has 104857600 elements"]);
    refused(b"GGUX".to_vec(), &["begins with `GGUF`"]);
    refused(b"<html>".to_vec(), &["HTML"]);
}

#[test]
fn hostile_metadata_is_refused() {
    let with = |key: &str, value: Value| sound().with(key, value).bytes();
    let raw = |kind: u32, parts: &[&[u8]]| Value::Raw(kind, parts.concat());
    let long = u64::MAX.to_le_bytes();
    refused(with("general.architecture", Value::U32(1)), &["`general.architecture` is given twice"]);
    refused(with("", Value::U32(1)), &["empty"]);
    refused(with("x", Value::Text(b"\xff".to_vec())), &["the value of `x`", "UTF-8"]);
    refused(with("x", raw(8, &[&long])), &["the value of `x`", "ends within"]);
    refused(with("x", raw(13, &[])), &["the value of `x`", "type 13"]);
    for kind in [0u32, 6, 8, 12] {
        refused(with("x", raw(9, &[&kind.to_le_bytes(), &long])), &["the value of `x`", "ends within"]);
    }
    refused(with("x", raw(9, &[&99u32.to_le_bytes(), &long])), &["the value of `x`", "type 99"]);
    refused(with("x", raw(9, &[&9u32.to_le_bytes(), &1u64.to_le_bytes()])), &["a list of lists"]);
    for alignment in [0, 3, 48] {
        let file = File { metadata: vec![], ..sound() }.with("general.alignment", Value::U32(alignment));
        refused(file.bytes(), &["general.alignment", "power of two"]);
    }
    let file = File { metadata: vec![], ..sound() }.with("general.alignment", Value::Text(b"32".to_vec()));
    refused(file.bytes(), &["general.alignment", "u32"]);
    let file = File { metadata: vec![], ..sound() }.with("general.alignment", Value::U32(1 << 31));
    refused(file.bytes(), &["truncated"]);
    let shape = |shape: &[i32]| with("comfy.gguf.orig_shape.c", Value::Integers(shape.to_vec()));
    assert!(Tensors::from_bytes("m.gguf", shape(&[4, 64])).is_ok());
    refused(shape(&[4, 63]), &["tensor `c`", "[4, 63]"]);
    refused(shape(&[-4, -64]), &["orig_shape", "sizes"]);
    refused(shape(&[]), &["orig_shape", "sizes"]);
    refused(shape(&[1, 1, 1, 1, 1, 1, 1, 1, 256]), &["orig_shape", "sizes"]);
    refused(with("comfy.gguf.orig_shape.c", Value::U32(256)), &["orig_shape", "sizes"]);
    refused(with("split.count", Value::U32(3)), &["one of 3 parts", "llama-gguf-split"]);
}

/// A file of another kind is refused by what it says that it is.
#[test]
fn other_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (architecture, tensor, parts) in [
        ("llama", "blk.0.attn_q.weight", ["`general.architecture` is `llama`", "a language model"]),
        ("qwen2vl", "blk.0.attn_q.weight", ["`general.architecture` is `qwen2vl`", "a language model"]),
        ("wan", "blocks.0.self_attn.q.weight", ["`general.architecture` is `wan`", "another kind"]),
        ("flux", "double_blocks.0.img_attn.qkv.weight", ["diffusion transformer", "not supported"]),
    ] {
        let tensors = vec![Entry::q8_0(tensor, &[2, 32], &[1.0; 64])];
        let file = File::new(tensors).with("general.architecture", Value::Text(architecture.into()));
        std::fs::write(&path, file.bytes()).unwrap();
        let message = Checkpoint::open(&path).unwrap_err().to_string();
        for part in parts.iter().chain(&["model.gguf"]) {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }
}
