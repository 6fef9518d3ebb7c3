//! Every known way in which a model folder can be damaged, and what the user is told.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use unmist::checkpoint::safetensors::{self, Dtype};
use unmist::checkpoint::{Folder, Tensors};
use unmist::{Error, HostTensor};

/// A `.safetensors` file with this header text and `data` zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[track_caller]
fn refused(bytes: Vec<u8>, parts: &[&str]) {
    let message = Tensors::from_bytes("dir/w.safetensors", bytes).expect_err("should be refused").to_string();
    for part in ["dir/w.safetensors"].iter().chain(parts) {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
    assert!(message.len() < 1000, "{} bytes long", message.len());
}

#[test]
fn headers() {
    let entry = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let a = entry("a", "F32", "[2,3]", 0, 24);
    let two = |b: String| format!("{{{a},{b}}}");

    refused(vec![], &["empty"]);
    refused(vec![1, 0, 0], &["3 bytes", "truncated"]);
    refused(file(&format!("{{{a}}}"), 24)[..40].to_vec(), &["header should have", "only 32 follow", "truncated"]);
    refused(u64::MAX.to_le_bytes().to_vec(), &["18446744073709551615", "more than"]);
    refused(200_000_000u64.to_le_bytes().to_vec(), &["200000000", "more than the 25000000 allowed"]);
    refused(file("{\"a\":", 0), &["not valid", "column"]);
    refused(file("[1, 2]", 0), &["not valid", "expected an object of tensors"]);
    refused([8u64.to_le_bytes().to_vec(), vec![0xff; 8]].concat(), &["not UTF-8"]);
    refused(file(&two(entry("a", "F32", "[1]", 24, 28)), 28), &["`a` is given twice"]);
    refused(file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), &["`__metadata__` is given twice"]);
    refused(file(&two(entry("b", "F7", "[1]", 24, 28)), 28), &["unknown variant `F7`", "F32"]);
    refused(file(&two(entry("b", "F32", "[-1]", 24, 28)), 28), &["invalid value", "-1"]);
    refused(file(&two(entry("b", "F32", "[1]", 23, 27)), 27), &["`b` begins at byte 23, inside tensor `a`", "overlap"]);
    refused(file(&two(entry("b", "F32", "[1]", 28, 32)), 32), &["bytes 24..28 before tensor `b`", "hole"]);
    refused(file(&two(entry("b", "F32", "[1]", 24, 28)), 27), &["describes 28 bytes", "holds 27", "truncated"]);
    refused(file(&two(entry("b", "F32", "[1]", 24, 28)), 30), &["2 bytes after the last tensor"]);
    refused(file(&two(entry("b", "F32", "[1]", 28, 24)), 28), &["`b`", "[28, 24] run backwards"]);
    refused(file(&two(entry("b", "F16", "[3]", 24, 28)), 28), &["`b`: F16 [3] needs 6 bytes", "give 4"]);
    refused(file(&two(entry("b", "F4", "[3]", 24, 26)), 26), &["`b`: F4 [3] needs 2 bytes"]);
    refused(file(&two(entry("b", "F32", "[4294967296,4294967296,4]", 24, 28)), 28), &["`b`", "overflows"]);
    refused(file(&two(entry("b", "F32", "[1]", 24, u64::MAX)), 28), &["holds 28", "truncated"]);
    let many = format!("[{}3]", "1,".repeat(100_000));
    refused(file(&two(entry("b", "F32", &many, 24, 28)), 28), &["(100001 dimensions)", "needs 12 bytes"]);
    let long = "x".repeat(1_000_000);
    refused(file(&two(entry(&long, "F32", "[2]", 24, 28)), 28), &["xxx…`", "needs 8 bytes"]);
    refused(file(&two(entry(r"\u001b[31m\n", "F32", "[2]", 24, 28)), 28), &[r"`\u{1b}[31m\n`"]);
    refused(file(&"[".repeat(10_000), 0), &["not valid"]);
}

#[test]
fn sound_corner_cases_open() {
    for (header, data) in [
        ("{}".to_string(), 0),
        (r#"{"__metadata__":null}"#.to_string(), 0),
        (r#"  {"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  "#.to_string(), 4),
        (
            concat!(
                r#"{"b":{"dtype":"F16","shape":[0,5],"data_offsets":[0,0]},"#,
                r#""a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#
            )
            .to_string(),
            3,
        ),
    ] {
        let tensors = Tensors::from_bytes("w", file(&header, data)).unwrap();
        for name in tensors.names() {
            tensors.read_f32(name).unwrap();
        }
    }
    // A header of 123 bytes makes the file begin with `{`.
    let header = format!("{:<123}", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
    assert_eq!(file(&header, 4)[0], b'{');
    let tensors = Tensors::from_bytes("w", file(&header, 4)).unwrap();
    assert_eq!(tensors.info("a").unwrap().dtype, Dtype::F32.into());
    assert!(tensors.read_f32("b").unwrap_err().to_string().contains("no tensor `b`"));
}

#[test]
fn other_files_given_by_mistake() {
    for (bytes, parts) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438\n"[..],
            ["Git LFS pointer", "git lfs pull"],
        ),
        (b"<!DOCTYPE html><html>Sign in</html>", ["HTML", "download the file again"]),
        (b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", ["pickle", "python -c"]),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", ["pickle", "python -c"]),
        (b"\x89HDF\r\n\x1a\n", ["HDF5", ".safetensors"]),
        (b"{\"weight_map\": {}}", ["JSON", ".index.json"]),
    ] {
        refused(bytes.to_vec(), &parts);
    }
}

#[test]
fn files_that_are_no_files() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Tensors::open(dir.path().join("none.safetensors")), Err(Error::Io { .. })));
    assert!(Tensors::open(dir.path()).unwrap_err().to_string().contains("found a folder"));
    fs::write(dir.path().join("w.safetensors"), b"").unwrap();
    assert!(Tensors::open(dir.path().join("w.safetensors")).unwrap_err().to_string().contains("empty"));
    #[cfg(unix)]
    assert!(Tensors::open("/dev/null").unwrap_err().to_string().contains("device"));
}

/// Writes one f32 tensor of shape [2] for each name.
fn write(path: &Path, names: &[&str]) {
    let tensor = HostTensor::from_fn([2], |i| i as f32);
    let tensors: Vec<_> = names.iter().map(|&name| (name, &tensor)).collect();
    let mut bytes = Vec::new();
    safetensors::write(&mut bytes, &tensors, &BTreeMap::new()).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn sharded_sets() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    write(&dir.path().join("m-1.safetensors"), &["a", "b"]);
    write(&dir.path().join("m-2.safetensors"), &["c"]);
    let open = |text: &str| {
        fs::write(&index, text).unwrap();
        Tensors::open(&index)
    };
    let sound = r#"{"metadata":{"total_size":24},
        "weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}}"#;
    let tensors = open(sound).unwrap();
    assert_eq!(tensors.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(tensors.read_f32("c").unwrap().data, [0.0, 1.0]);

    for (text, parts) in [
        ("", vec!["index.json", "not valid JSON"]),
        ("{}", vec!["expected an object `weight_map`"]),
        (r#"{"weight_map":[1]}"#, vec!["expected an object `weight_map`"]),
        (r#"{"weight_map":{"a":7}}"#, vec!["file of tensor `a` is not a string"]),
        (r#"{"weight_map":{"a":"../m-1.safetensors"}}"#, vec!["tensor `a`", "same folder", "`../m-1.safetensors`"]),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, vec!["tensor `a`", "same folder"]),
        (r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#, vec!["m-1.safetensors holds tensor `b`"]),
        (&sound.replace("\"b\"", "\"d\""), vec!["tensor `d` should be in m-1.safetensors"]),
        (&sound.replace("m-2", "m-3"), vec!["m-3.safetensors"]),
    ] {
        let message = open(text).expect_err("should be refused").to_string();
        for part in parts {
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
    }
}

const INDEX: &str = r#"{"_class_name":"DDPMPipeline","scheduler":["diffusers","DDPMScheduler"],
    "unet":["diffusers","UNet2DModel"],"safety_checker":[null,null],"requires_safety_checker":false}"#;
const CONFIG: &str = r#"{"_class_name":"UNet2DModel","sample_size":32}"#;

/// A valid pipeline folder with two variants of the weights besides the plain ones.
fn pipeline() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["unet", "scheduler"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
    }
    fs::write(dir.path().join("model_index.json"), INDEX).unwrap();
    fs::write(dir.path().join("unet/config.json"), CONFIG).unwrap();
    fs::write(dir.path().join("scheduler/scheduler_config.json"), r#"{"_class_name":"DDPMScheduler"}"#).unwrap();
    for (file, name) in [("", "plain"), (".fp16", "half"), (".ema", "average")] {
        write(&dir.path().join(format!("unet/diffusion_pytorch_model{file}.safetensors")), &[name]);
    }
    dir
}

fn only_name(folder: &Folder) -> String {
    folder.component("unet").unwrap().tensors.names().join(",")
}

#[track_caller]
fn says<T>(result: unmist::Result<T>, parts: &[&str]) {
    let message = result.err().expect("should be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn pipeline_folders() {
    let dir = pipeline();
    let folder = Folder::open(dir.path()).unwrap();
    assert_eq!(folder.pipeline_class(), Some("DDPMPipeline"));
    assert_eq!(folder.component_names(), ["scheduler", "unet"]);
    assert_eq!(folder.index_class("unet"), Some("UNet2DModel"));
    assert_eq!(folder.scheduler_config().unwrap().value["_class_name"], "DDPMScheduler");
    let unet = folder.component("unet").unwrap();
    assert_eq!((unet.class_name.as_deref(), unet.config.text.as_str()), (Some("UNet2DModel"), CONFIG));
    for name in ["vae", "", "..", "../unet", "safety_checker"] {
        says(folder.component(name), &["no component", "`unet`"]);
    }
    says(folder.component("scheduler"), &["scheduler", "config.json"]);

    assert_eq!(only_name(&folder), "plain");
    let with = |variant| Folder::open(dir.path()).unwrap().with_variant(variant);
    assert_eq!(only_name(&with("fp16").unwrap()), "half");
    says(with("fp32"), &["variant `fp32`", "`ema`, `fp16`"]);

    let plain = dir.path().join("unet/diffusion_pytorch_model.safetensors");
    fs::remove_file(&plain).unwrap();
    says(folder.component("unet"), &["several variants", "`ema`, `fp16`"]);
    fs::remove_file(dir.path().join("unet/diffusion_pytorch_model.ema.safetensors")).unwrap();
    assert_eq!(only_name(&folder), "half");
    fs::remove_file(dir.path().join("unet/diffusion_pytorch_model.fp16.safetensors")).unwrap();
    says(
        folder.component("unet"),
        &["expected diffusion_pytorch_model.safetensors or model.safetensors", "found `config.json`"],
    );
    fs::write(dir.path().join("unet/diffusion_pytorch_model.bin"), b"PK").unwrap();
    says(folder.component("unet"), &["`diffusion_pytorch_model.bin`", "pickle", "python -c"]);

    for (name, text) in
        [("m-1", "model.safetensors.index.json"), ("model.fp16-00001-of-00001", "model.safetensors.index.fp16.json")]
    {
        write(&dir.path().join(format!("unet/{name}.safetensors")), &["shard"]);
        fs::write(dir.path().join("unet").join(text), format!(r#"{{"weight_map":{{"shard":"{name}.safetensors"}}}}"#))
            .unwrap();
        assert_eq!(only_name(&folder), "shard");
        fs::remove_file(dir.path().join("unet").join(text)).unwrap();
    }
}

#[test]
fn flat_folders_and_bare_components() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    write(&dir.path().join("diffusion_pytorch_model.safetensors"), &["w"]);
    let bare = Folder::open(dir.path()).unwrap();
    assert_eq!((bare.pipeline_class(), only_name(&bare).as_str()), (None, "w"));
    says(bare.scheduler_config(), &["no component `scheduler`", "scheduler_config.json"]);

    fs::write(
        dir.path().join("model_index.json"),
        INDEX.replace("\"unet\"", "\"vae\":[\"diffusers\",\"VQModel\"],\"unet\""),
    )
    .unwrap();
    fs::write(dir.path().join("scheduler_config.json"), r#"{"_class_name":"DDPMScheduler"}"#).unwrap();
    let flat = Folder::open(dir.path()).unwrap();
    assert_eq!((flat.pipeline_class(), only_name(&flat).as_str()), (Some("DDPMPipeline"), "w"));
    assert!(flat.scheduler_config().is_ok());
    says(flat.component("vae"), &["no component `vae`", "expects `vae` `VQModel`", "describes `UNet2DModel`"]);
    says(flat.component("text_encoder"), &["no component `text_encoder`", "`scheduler`, `unet`, `vae`"]);
}

#[test]
fn what_is_no_model_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    says(Folder::open(&path), &["no such folder", "model_index.json"]);
    fs::create_dir(&path).unwrap();
    says(Folder::open(&path), &["expected model_index.json or config.json", "found nothing"]);
    fs::create_dir_all(path.join("snapshots/0a1b")).unwrap();
    // A folder of Hugging Face's cache means its revision.
    says(Folder::open(&path), &["snapshots/0a1b", "found nothing"]);
    fs::create_dir_all(path.join("snapshots/1c2d")).unwrap();
    says(Folder::open(&path), &["found `snapshots`"]);
    fs::create_dir_all(path.join("refs")).unwrap();
    fs::write(path.join("refs/main"), "1c2d\n").unwrap();
    says(Folder::open(&path), &["snapshots/1c2d", "found nothing"]);
    fs::remove_dir_all(path.join("refs")).unwrap();
    fs::remove_dir_all(path.join("snapshots")).unwrap();
    fs::write(path.join("x.safetensors"), b"").unwrap();
    says(Folder::open(path.join("x.safetensors")), &["expected a model folder", "found a file"]);
    for text in ["{}", "[]", r#"{"_class_name":3}"#, r#"{"_class_name":["one"]}"#] {
        fs::write(path.join("model_index.json"), text).unwrap();
        says(Folder::open(&path), &["model_index.json", "_class_name"]);
    }
    fs::write(path.join("model_index.json"), "{\"_class_name\":").unwrap();
    says(Folder::open(&path), &["model_index.json", "not valid JSON", "line 1"]);
    fs::write(path.join("model_index.json"), r#"{"_class_name":["my_pipeline","MyPipeline"]}"#).unwrap();
    assert_eq!(Folder::open(&path).unwrap().pipeline_class(), Some("MyPipeline"));
}
