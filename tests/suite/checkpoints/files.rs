//! A checkpoint in memory behaves like the one on disk: the same tensors, configs, pictures and errors; and all code
//! that reads a checkpoint goes through [`Files`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use unmist::backend::{Device, LoadOptions};
use unmist::checkpoint::{
    Checkpoint, Folder, Json, Lora, SingleFile, TensorSource, Tensors, TextualInversion, safetensors,
};
use unmist::content::ContentId;
use unmist::files::{Bytes, Disk, Files, Kind, Memory, Parts, ReadAt};
use unmist::pipelines::{DiffusionPipeline, Runtime, SampleOptions};
use unmist::request::GenerationConfig;
use unmist::rng::TorchCpu;
use unmist::schedulers::{Sampling, Scheduler};
use unmist::tokenizer::Tokenizer;
use unmist::{DType, Error, HostTensor, Result};

use super::single_file::{folder_with_clip_vocabulary, write_single_file};
use crate::common::stable_diffusion;
use crate::device::gpu;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> PathBuf {
    root().join("weights/ddpm-fashion-32")
}

/// The paths of all files below a folder.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}

/// The contents of a folder on disk, as the folder `name` in memory. No folder of that name exists on disk, so nothing
/// can be read from there by mistake.
fn memory(folder: &Path, name: &str) -> Arc<Memory> {
    assert!(!Path::new(name).exists());
    let in_memory = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable");
        (Path::new(name).join(path.strip_prefix(folder).expect("below")), bytes)
    };
    Arc::new(all_files(folder).into_iter().map(in_memory).collect())
}

/// The bits of a tensor, so that NaN and the sign of zero count.
fn bits(tensor: &HostTensor) -> (Vec<usize>, Vec<u32>) {
    (tensor.shape.clone(), tensor.data.iter().map(|v| v.to_bits()).collect())
}

/// Asserts that both hold the same tensors: names, stored bytes and values. Returns how many.
fn same_tensors(what: &str, a: &dyn TensorSource, b: &dyn TensorSource) -> usize {
    assert_eq!(a.names(), b.names(), "{what}");
    for name in a.names() {
        let [from_a, from_b] = [a, b].map(|source| bits(&source.read_f32(&name).expect("sound")));
        assert!(from_a == from_b, "{what}: {name}");
        let [from_a, from_b] = [a, b].map(|source| source.stored(&name).map(|stored| (stored.dtype, stored.bytes)));
        assert!(from_a == from_b, "{what}: {name}, as stored");
        assert_ne!(a.content(&name).expect("sound"), b.content(&name).expect("sound"), "each file has its own id");
    }
    a.names().len()
}

/// Asserts that both are the same model, in everything that can be asked of a checkpoint.
fn same_model(what: &str, disk: &Checkpoint, memory: &Checkpoint) {
    assert_eq!(disk.pipeline_class(), memory.pipeline_class(), "{what}");
    assert_eq!(disk.index().map(|index| &index.value), memory.index().map(|index| &index.value), "{what}");
    assert_eq!(disk.component_names(), memory.component_names(), "{what}");
    assert_eq!(disk.assumptions(), memory.assumptions(), "{what}");
    assert_eq!(GenerationConfig::of(disk).expect("sound"), GenerationConfig::of(memory).expect("sound"), "{what}");
    let names = |checkpoint: &Checkpoint| -> Vec<String> {
        checkpoint.files().expect("sound").into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(disk), names(memory), "{what}");
    let mut tensors = 0;
    for name in disk.component_names() {
        let what = format!("{what}: {name}");
        if name.starts_with("tokenizer") {
            let [a, b] = [disk, memory].map(|checkpoint| checkpoint.tokenizer(&name).expect("sound"));
            let text = "A red apple, déjà vu <|endoftext|> 漢字 don't";
            assert_eq!(a.encode(text).expect("short"), b.encode(text).expect("short"), "{what}");
            assert_eq!((a.vocabulary(), a.padding()), (b.vocabulary(), b.padding()), "{what}");
        } else if name.contains("scheduler") {
            let [a, b] = [disk, memory].map(|checkpoint| checkpoint.scheduler_config(&name).expect("sound").value);
            assert_eq!(a, b, "{what}");
        } else if !["safety_checker", "feature_extractor"].contains(&name.as_str()) {
            let [a, b] = [disk, memory].map(|checkpoint| checkpoint.component(&name).expect("sound"));
            assert_eq!((a.class_name, a.config.text), (b.class_name, b.config.text), "{what}");
            tensors += same_tensors(&what, &*a.tensors, &*b.tensors);
        }
    }
    assert!(tensors > 100, "{what}: {tensors} tensors");
}

#[test]
fn models_in_memory_are_those_on_disk() {
    let models = ["sd1", "sdxl"].map(stable_diffusion);
    for folder in models.into_iter().chain([shipped()]) {
        let disk = Checkpoint::open(&folder).expect("the model is there");
        let what = folder.display().to_string();
        same_model(&what, &disk, &Checkpoint::open_in(memory(&folder, "a model"), "a model").expect("opens"));
        // Here the root folder is the model.
        same_model(&what, &disk, &Checkpoint::open_in(memory(&folder, ""), "").expect("opens"));
    }
}

#[test]
fn pictures_from_memory_are_those_from_disk() {
    let device = Device::Gpu(gpu().clone());
    let load_options = LoadOptions::default();
    let runtime = Runtime::new(&device, &load_options, DType::F32);
    let fashion =
        SampleOptions { batch_size: 2, classes: vec![7, 9], guidance_scale: vec![1.5], ..SampleOptions::default() };
    let apple = SampleOptions {
        prompts: vec!["a red apple, on a table".into()],
        height: Some(16),
        width: Some(24),
        guidance_scale: vec![3.0],
        ..SampleOptions::default()
    };
    for (folder, options) in [(shipped(), fashion), (stable_diffusion("sd1"), apple)] {
        let options = SampleOptions { sampling: Sampling::steps(3), ..options };
        let picture = |checkpoint: Result<Checkpoint>, seed: u64| {
            let checkpoint = checkpoint.expect("opens");
            let config = DiffusionPipeline::scheduler_config(&checkpoint).expect("sound");
            let pipeline = DiffusionPipeline::load(&checkpoint, Scheduler::new(config).expect("sound")).expect("loads");
            let mut noise: Vec<_> = (0..options.batch_size.max(1) as u64).map(|i| TorchCpu::new(seed + i)).collect();
            bits(&pipeline.sample(&runtime, &options, &mut noise, &mut |_| Ok(())).expect("samples"))
        };
        let from_disk = picture(Checkpoint::open(&folder), 5);
        let files = memory(&folder, "a model");
        assert!(picture(Checkpoint::open_in(files.clone(), "a model"), 5) == from_disk, "{}", folder.display());
        assert!(picture(Checkpoint::open_in(files, "a model"), 6) != from_disk, "the seed has an effect");
    }
}

/// A `.safetensors` file with some of another file's tensors, in f32.
fn part(file: &Tensors, names: &[&str]) -> Vec<u8> {
    let tensors: Vec<_> = names.iter().map(|name| file.read_f32(name).expect("sound")).collect();
    let mut bytes = Vec::new();
    let list: Vec<_> = names.iter().copied().zip(&tensors).collect();
    safetensors::write(&mut bytes, &list, &BTreeMap::new()).expect("writes");
    bytes
}

#[test]
fn sharded_weights_in_memory() {
    let file = Tensors::open(shipped().join("unet/diffusion_pytorch_model.safetensors")).expect("is there");
    let names: Vec<&str> = file.names().collect();
    let whole = Tensors::from_bytes("whole", part(&file, &names)).expect("sound"); // in f32, like the shards
    let mut files = Memory::default();
    let mut map = serde_json::Map::new();
    for (file, names) in ["w-1.safetensors", "w-2.safetensors"].into_iter().zip(names.chunks(names.len() / 2 + 1)) {
        files.insert(format!("m/unet/{file}"), part(&whole, names));
        map.extend(names.iter().map(|name| (name.to_string(), file.into())));
    }
    assert!(map["conv_in.weight"] != map["up_blocks.0.resnets.0.conv1.weight"], "the tensors span both shards");
    let index = serde_json::json!({ "weight_map": map }).to_string();
    files.insert("m/unet/diffusion_pytorch_model.safetensors.index.json", index.into_bytes());
    files.insert("m/unet/config.json", fs::read(shipped().join("unet/config.json")).expect("is there"));

    let unet = Checkpoint::open_in(Arc::new(files.clone()), "m").and_then(|model| model.component("unet"));
    assert_eq!(same_tensors("sharded", &whole, &*unet.expect("sound").tensors), names.len());
    let file = |name: &str| Path::new("m/unet").join(name);
    let index = file("diffusion_pytorch_model.safetensors.index.json");
    let sharded = Tensors::open_in(&files, &index).expect("sound");
    assert_eq!(sharded.files().collect::<Vec<_>>(), [index.clone(), file("w-1.safetensors"), file("w-2.safetensors")]);

    let all = all_but(&files, &file("w-2.safetensors"));
    match Tensors::open_in(&all, &index) {
        Err(Error::Io { path, source }) => {
            assert_eq!((path, source.kind()), (file("w-2.safetensors"), std::io::ErrorKind::NotFound));
        }
        other => panic!("{other:?}"),
    }
}

/// All files but one.
fn all_but(files: &Memory, without: &Path) -> Memory {
    let folder = without.parent().expect("in a folder");
    let names = files.list(folder).expect("is there").into_iter().map(|name| folder.join(name));
    names.filter(|name| name != without).map(|name| (name.clone(), files.open(&name).expect("is there"))).collect()
}

#[test]
fn a_single_file_in_memory() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let (folder, file) = (work.path().join("folder"), work.path().join("model.safetensors"));
    folder_with_clip_vocabulary(&folder);
    write_single_file(&folder, &file);
    let files: Memory = [("models/sd.safetensors", fs::read(&file).expect("was written"))].into_iter().collect();
    let disk = SingleFile::open(&file).expect("sound");
    let memory = SingleFile::open_in(&files, "models/sd.safetensors").expect("sound");
    assert_eq!(disk.index().value, memory.index().value);
    let checkpoint = Checkpoint::open_in(Arc::new(files), "models/sd.safetensors").expect("sound");
    assert_eq!(checkpoint.files().expect("sound")[0].0, "sd.safetensors");
    assert_eq!(GenerationConfig::of(&checkpoint).expect("has none"), GenerationConfig::default());
    let mut tensors = 0;
    for name in ["unet", "vae", "text_encoder"] {
        let [a, b] = [disk.component(name), memory.component(name)].map(|component| component.expect("sound"));
        assert_eq!(a.config.text, b.config.text, "{name}");
        tensors += same_tensors(name, &*a.tensors, &*b.tensors);
        same_tensors(name, &*a.tensors, &*checkpoint.component(name).expect("sound").tensors);
    }
    assert!(tensors > 300, "{tensors} tensors");
}

#[test]
fn adapters_in_memory() {
    let fixtures = root().join("tests/fixtures/lora");
    let files = memory(&fixtures, "adapters");
    let model = || Checkpoint::open(stable_diffusion("sd1")).expect("the model is there");
    let with_lora = |lora: Result<Lora>| {
        let model = model().with_loras(&[(Arc::new(lora.expect("sound")), 0.7.into())]).expect("fits");
        model.component("unet").expect("sound").tensors
    };
    let (name, plain) = ("sd1_kohya.safetensors", model().component("unet").expect("sound").tensors);
    let disk = with_lora(Lora::open(fixtures.join(name)));
    let memory = with_lora(Lora::open_in(&*files, Path::new("adapters").join(name)));
    let read = |source: &Arc<dyn TensorSource>, name: &str| bits(&source.read_f32(name).expect("sound"));
    let mut changed = 0;
    for name in plain.names() {
        assert!(read(&disk, &name) == read(&memory, &name), "{name}");
        changed += usize::from(read(&disk, &name) != read(&plain, &name));
    }
    assert!(changed > 0, "the LoRA has an effect");

    let name = "embedding_webui.safetensors";
    let disk = TextualInversion::open(fixtures.join(name), None).expect("sound");
    let memory = TextualInversion::open_in(&*files, Path::new("adapters").join(name), None).expect("sound");
    assert_eq!(disk.word(), memory.word());
    let encoder = |embedding| {
        let model = model().with_textual_inversions(&[embedding]).expect("fits");
        (model.component("text_encoder").expect("sound").tensors, model.tokenizer("tokenizer").expect("sound"))
    };
    let (word, (disk, tokens), (memory, same_tokens)) = (disk.word().to_owned(), encoder(disk), encoder(memory));
    assert_eq!(tokens.encode(&word).expect("short"), same_tokens.encode(&word).expect("short"));
    for name in disk.names() {
        assert!(read(&disk, &name) == read(&memory, &name), "{name}");
    }
}

/// Opens a file or folder at a path among files: on disk, and in memory.
type Opens = fn(Arc<dyn Files>, &Path) -> Result<()>;

#[test]
fn errors_are_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unet = r#"{"_class_name":"UNet2DModel"}"#;
    let index = r#"{"_class_name":"DDPMPipeline","unet":["diffusers","UNet2DModel"]}"#;
    for (name, text) in [
        ("lone/x.safetensors", "rubbish"),
        ("lone/empty.safetensors", ""),
        ("lone/bad.json", "{\n 7"),
        ("cache/snapshots/0a1b/x", ""),
        ("bare/config.json", unet),
        ("pickle/unet/config.json", unet),
        ("pickle/unet/diffusion_pytorch_model.bin", "PK"),
        ("variants/unet/config.json", unet),
        ("variants/unet/model.ema.safetensors", ""),
        ("variants/unet/model.fp16.safetensors", ""),
        ("sharded/config.json", unet),
        ("sharded/model.safetensors.index.json", r#"{"weight_map":{"a":"gone.safetensors"}}"#),
        ("tokens/vocab.json", "{}"),
        ("asks/model_index.json", index),
        ("asks/generation_config.json", r#"{"top_k":5}"#),
        ("is_folder/model_index.json/x", ""),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("makes folders");
        fs::write(path, text).expect("writes");
    }
    let open: Opens = |files, path| Checkpoint::open_in(files, path).map(drop);
    let unet: Opens = |files, path| Checkpoint::open_in(files, path)?.component("unet").map(drop);
    let vae: Opens = |files, path| Checkpoint::open_in(files, path)?.component("vae").map(drop);
    let scheduler: Opens = |files, path| Checkpoint::open_in(files, path)?.scheduler_config("scheduler").map(drop);
    let variant: Opens = |files, path| Folder::open_in(files, path)?.with_variant("fp32").map(drop);
    let only_folder: Opens = |files, path| Folder::open_in(files, path).map(drop);
    let generation: Opens = |files, path| GenerationConfig::of(&Checkpoint::open_in(files, path)?).map(drop);
    let tensors: Opens = |files, path| Tensors::open_in(&*files, path).map(drop);
    let json: Opens = |files, path| Json::read_in(&*files, path).map(drop);
    let lora: Opens = |files, path| Lora::open_in(&*files, path).map(drop);
    let word: Opens = |files, path| TextualInversion::open_in(&*files, path, None).map(drop);
    let tokenizer: Opens = |files, path| Tokenizer::open_in(&*files, path).map(drop);
    let files = memory(folder.path(), "top");
    for (opens, name, part) in [
        (open, "none", "there is no such folder"),
        (open, "lone", "found `bad.json`, `empty.safetensors`, `x.safetensors`"),
        (open, "lone/x.safetensors", "x.safetensors"),
        (open, "cache", "cache/snapshots/0a1b: expected"),
        (open, "is_folder", "expected a JSON file, found a folder"),
        (only_folder, "lone/x.safetensors", "found a file"),
        (unet, "bare", "expected diffusion_pytorch_model.safetensors"),
        (unet, "pickle", "a PyTorch pickle"),
        (unet, "variants", "choose one of `ema`, `fp16`"),
        (variant, "variants", "variants found: `ema`, `fp16`"),
        (vae, "variants", "there is no component `vae`"),
        (unet, "sharded", "gone.safetensors"),
        (scheduler, "bare", "neither the folder nor scheduler_config.json"),
        (generation, "asks", "top_k"),
        (tensors, "lone", "expected a .safetensors or .gguf file, found a folder"),
        (tensors, "lone/none.safetensors", "none.safetensors"),
        (tensors, "lone/empty.safetensors", "empty"),
        (lora, "lone/none.safetensors", "none.safetensors"),
        (word, "lone/none.safetensors", "none.safetensors"),
        (json, "lone", "expected a JSON file, found a folder"),
        (json, "lone/none.json", "none.json"),
        (json, "lone/bad.json", "line 2"),
        (tokenizer, "lone", "expected vocab.json and merges.txt"),
        (tokenizer, "tokens", "merges.txt"),
    ] {
        let disk = opens(Arc::new(Disk), &folder.path().join(name)).expect_err(name);
        let memory = opens(files.clone(), &Path::new("top").join(name)).expect_err(name);
        if let (Error::Io { path: on_disk, source: disk }, Error::Io { path, source }) = (&disk, &memory) {
            // The operating system has its own wording.
            assert_eq!((disk.kind(), source.kind()), (std::io::ErrorKind::NotFound, std::io::ErrorKind::NotFound));
            assert_eq!(on_disk.strip_prefix(folder.path()), path.strip_prefix("top"));
        } else {
            let shown = disk.to_string().replace(folder.path().to_str().expect("UTF-8"), "top");
            assert_eq!(shown, memory.to_string());
        }
        assert!(memory.to_string().contains(part), "no {part:?} in: {memory}");
    }
}

#[test]
fn content_ids_tell_bytes_apart() {
    let file = Tensors::open(shipped().join("unet/diffusion_pytorch_model.safetensors")).expect("is there");
    let (bytes, bias) = (part(&file, &["conv_in.bias", "conv_in.weight"]), "conv_in.bias");
    let mut other = bytes.clone();
    *other.last_mut().expect("not empty") ^= 1;
    let files: Memory = [("a", bytes.clone()), ("b/c", bytes.clone()), ("d", other)].into_iter().collect();
    let id = |name: &str| files.open(Path::new(name)).expect("is there").id();
    assert_eq!(id("a"), id("b/c"));
    assert_ne!(id("a"), id("d"));
    let tensors = |name: &str| Tensors::open_in(&files, name).expect("sound");
    let content = |tensors: &Tensors, name: &str| tensors.content(name).expect("sound");
    assert_eq!(content(&tensors("a"), bias), content(&tensors("b/c"), bias));
    assert_eq!(content(&tensors("a"), bias), content(&Tensors::from_bytes("e", bytes).expect("sound"), bias));
    assert_ne!(content(&tensors("a"), bias), content(&tensors("a"), "conv_in.weight"));
    assert_ne!(content(&tensors("a"), "conv_in.weight"), content(&tensors("d"), "conv_in.weight"));
}

/// Only `src/files.rs` may access the disk. Unit tests may read their fixtures.
#[test]
fn only_files_asks_the_disk() {
    let asks_the_disk = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let code = text.split("#[cfg(test)]\nmod tests {").next().expect("text").to_owned();
        let words = ["std::fs", "std::{", "memmap2", ".is_file()", ".is_dir()", ".exists()", ".read_dir()"];
        code.lines().find(|line| words.iter().any(|word| line.contains(word))).map(str::to_owned)
    };
    let source = root().join("src");
    assert!(asks_the_disk(&source.join("files.rs")).is_some(), "the search finds disk access where there is some");
    let mut paths = all_files(&source.join("checkpoint"));
    paths.retain(|path| !path.to_str().expect("UTF-8").ends_with("_tests.rs"));
    assert!(paths.len() > 10);
    paths.extend(["tokenizer.rs", "request/generation_config.rs"].map(|name| source.join(name)));
    for path in paths {
        assert_eq!(asks_the_disk(&path), None, "{}", path.display());
    }
}

/// The disk, as a page has files: of those of tensors only parts are read.
#[derive(Debug, Default)]
struct InParts(Arc<AtomicU64>);

struct Part(fs::File, Arc<AtomicU64>);

impl ReadAt for Part {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let mut file = &self.0;
        file.seek(SeekFrom::Start(offset))?;
        self.1.fetch_add(out.len() as u64, Ordering::Relaxed);
        file.read_exact(out)
    }
}

impl Files for InParts {
    fn kind(&self, path: &Path) -> std::io::Result<Kind> {
        Disk.kind(path)
    }

    fn list(&self, folder: &Path) -> std::io::Result<Vec<String>> {
        Disk.list(folder)
    }

    fn open(&self, path: &Path) -> std::io::Result<Bytes> {
        let tensors = path.extension().is_some_and(|end| end == "safetensors" || end == "gguf");
        assert!(!tensors, "{}: a file of tensors must not be read as a whole", path.display());
        Disk.open(path)
    }

    fn parts(&self, path: &Path) -> std::io::Result<Parts> {
        let file = fs::File::open(path)?;
        let id = ContentId::of(&[path.as_os_str().as_encoded_bytes()]);
        Parts::elsewhere(file.metadata()?.len(), id, Part(file, self.0.clone()))
    }
}

#[test]
fn tensors_are_read_in_parts() {
    let read = Arc::new(AtomicU64::new(0));
    for name in ["weights/emoji-64/unet/diffusion_pytorch_model.safetensors", "tests/fixtures/gguf/types.gguf"] {
        let path = root().join(name);
        let whole = Tensors::open(&path).expect("sound");
        read.store(0, Ordering::Relaxed);
        let parts = Tensors::open_in(&InParts(read.clone()), &path).expect("sound");
        let header = read.load(Ordering::Relaxed);
        assert!(name.ends_with("gguf") || header < 100_000, "{name}: {header} bytes of its header");
        assert!(whole.names().eq(parts.names()) && whole.metadata() == parts.metadata(), "{name}");
        for tensor in whole.names() {
            assert_eq!(whole.info(tensor), parts.info(tensor), "{name}: {tensor}");
            assert_eq!(TensorSource::stored_as(&whole, tensor), TensorSource::stored_as(&parts, tensor), "{tensor}");
            match (whole.read_f32(tensor), parts.read_f32(tensor)) {
                (Ok(a), Ok(b)) => assert!(bits(&a) == bits(&b), "{name}: {tensor}"),
                (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string(), "{name}: {tensor}"),
                _ => panic!("{name}: {tensor} is read in one way only"),
            }
        }
    }
    // A whole model, with all that is asked of it; and every way in which a file can be wrong says the same.
    let folder = shipped();
    let model = Checkpoint::open_in(Arc::new(InParts(read.clone())), &folder).expect("sound");
    let (a, b) = (model.component("unet").expect("sound"), Checkpoint::open(&folder).expect("sound"));
    let b = b.component("unet").expect("sound");
    a.tensors.names().iter().for_each(|name| {
        assert!(bits(&a.tensors.read_f32(name).expect("sound")) == bits(&b.tensors.read_f32(name).expect("sound")));
    });
    let work = tempfile::tempdir().expect("a folder");
    let sound = fs::read(folder.join("unet/diffusion_pytorch_model.safetensors")).expect("readable");
    let path = work.path().join("x.safetensors");
    let long = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    for bytes in [&sound[..sound.len() - 1], &sound[..100], &sound[..7], b"", b"<html>", b"PK\x03\x04 and more", &long]
    {
        fs::write(&path, bytes).expect("writes");
        let [whole, parts] = [&Disk as &dyn Files, &InParts::default()]
            .map(|files| Tensors::open_in(files, &path).map(drop).expect_err("it is damaged").to_string());
        assert_eq!(whole, parts);
    }
}

/// A weight of 8 bits counts as often as the scale beside it says, for the whole or row by row.
#[test]
fn weights_of_8_bits_are_scaled() {
    let file = |tensors: &[(&str, &str, &[usize], Vec<u8>)]| {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, dtype, shape, bytes) in tensors {
            let begin = data.len();
            data.extend(bytes);
            let offsets = [begin, data.len()];
            header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        }
        let header = serde_json::to_vec(&header).expect("JSON");
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        Tensors::from_bytes("x.safetensors", bytes).expect("sound")
    };
    let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    // 1, 2, -1, 0.5 in E4M3
    let weight = || ("a.weight", "F8_E4M3", &[2usize, 2][..], vec![0x38, 0x40, 0xb8, 0x30]);
    let read = |tensors: &[(&str, &str, &[usize], Vec<u8>)]| file(tensors).read_f32("a.weight");
    assert_eq!(read(&[weight()]).expect("sound").data, [1.0, 2.0, -1.0, 0.5]);
    for scale in ["a.scale_weight", "a.weight_scale"] {
        let whole = read(&[weight(), (scale, "F32", &[], f32s(&[0.5]))]).expect("sound");
        assert_eq!(whole.data, [0.5, 1.0, -0.5, 0.25], "{scale}");
        let rows = read(&[weight(), (scale, "F32", &[2, 1], f32s(&[2.0, 4.0]))]).expect("sound");
        assert_eq!(rows.data, [2.0, 4.0, -4.0, 2.0], "{scale}");
        let message = read(&[weight(), (scale, "F32", &[3], f32s(&[1.0; 3]))]).expect_err("misfit").to_string();
        assert!(message.contains(scale) && message.contains("[3]"), "{message}");
        let integers = ("a.weight", "I8", &[2usize, 2][..], vec![1, 2, 3, 4]);
        let message = read(&[integers, (scale, "F32", &[], f32s(&[0.5]))]).expect_err("integers").to_string();
        assert!(message.contains("8-bit integers") && message.contains("a.weight"), "{message}");
    }
}

/// Two models may share the shard of a weight and differ in that of its scale.
#[test]
fn the_scale_of_a_weight_is_part_of_its_content() {
    let shard = |name: &str, dtype: &str, bytes: &[u8]| {
        let tensors = json!({name: {"dtype": dtype, "shape": [1], "data_offsets": [0, bytes.len()]}});
        let header = serde_json::to_vec(&tensors).expect("JSON");
        [&(header.len() as u64).to_le_bytes()[..], &header, bytes].concat()
    };
    let model = |scale: f32| {
        let map = json!({"weight_map": {"a.weight": "1.safetensors", "a.scale_weight": "2.safetensors"}});
        let files: Memory = [
            ("x.safetensors.index.json", serde_json::to_vec(&map).expect("JSON")),
            ("1.safetensors", shard("a.weight", "F8_E4M3", &[0x38])),
            ("2.safetensors", shard("a.scale_weight", "F32", &scale.to_le_bytes())),
        ]
        .into_iter()
        .collect();
        let tensors = Tensors::open_in(&files, "x.safetensors.index.json").expect("sound");
        assert_eq!(tensors.read_f32("a.weight").expect("sound").data, [scale]);
        tensors.content("a.weight").expect("sound")
    };
    assert_eq!(model(2.0), model(2.0));
    assert_ne!(model(2.0), model(3.0));
}
