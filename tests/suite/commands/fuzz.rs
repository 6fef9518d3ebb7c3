//! Seeded mutations of what a user supplies besides a model: prompts, tokenizers, LoRA files, textual inversions,
//! pictures. The outcome is always a result or an error with a message, never a panic.

use std::fs;
use std::path::{Path, PathBuf};

use unmist::checkpoint::{Folder, Ignore, Lora, Tensors, TextualInversion, lora, safetensors};
use unmist::image_io;
use unmist::prompt;
use unmist::tokenizer::Tokenizer;

use crate::checkpoints::fuzz_weights::{Random, fuzz, mutate};
use crate::common::stable_diffusion;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[test]
fn prompts() {
    let tokenizer = Tokenizer::open(stable_diffusion("sd1").join("tokenizer")).unwrap();
    let seed = r"a ((red:1.3) fox), [blurry] \(photo\) BREAK it's 3.5% ünïcödé 🍎 (a:-2) <|endoftext|> b]c) [x";
    let accepted = fuzz("prompt", seed.as_bytes(), 20_000, |bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let length = 3 + text.len() % 75;
        let ids = tokenizer.encode(&text)?;
        assert_eq!(tokenizer.window(&ids, length).len(), length);
        let pieces = prompt::parse(&text)?;
        let windows = prompt::windows(&pieces, &tokenizer, length)?;
        assert!(!windows.is_empty());
        for window in windows {
            assert_eq!((window.ids.len(), window.weights.len()), (length, length));
            assert!(window.weights.iter().all(|weight| weight.is_finite()) && window.ids.contains(&tokenizer.end()));
        }
        Ok(())
    });
    assert!(accepted > 10_000, "only {accepted} were accepted");
}

#[test]
fn tokenizer_files() {
    let source = stable_diffusion("sd2").join("tokenizer");
    let dir = tempfile::tempdir().unwrap();
    for changed in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
        for name in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
            fs::copy(source.join(name), dir.path().join(name)).unwrap();
        }
        let seed = fs::read(source.join(changed)).unwrap();
        fuzz(changed, &seed, 400, |bytes| {
            fs::write(dir.path().join(changed), bytes).unwrap();
            let tokenizer = Tokenizer::open(dir.path())?;
            for id in tokenizer.encode("it's a red fox!<|startoftext|>")? {
                assert!(id < tokenizer.vocabulary());
            }
            Ok(())
        });
    }
    // The other format, tokenizer.json. Most of it is the long list of tokens, where few mutations matter, so mutate
    // only what comes before the list.
    let whole =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji-64/tokenizer/tokenizer.json"))
            .unwrap();
    let (settings, vocabulary) = whole.split_at(whole.find("\"vocab\"").unwrap());
    let alone = tempfile::tempdir().unwrap();
    fuzz("tokenizer.json", settings.as_bytes(), 200, |mut bytes| {
        bytes.extend(vocabulary.bytes());
        fs::write(alone.path().join("tokenizer.json"), bytes).unwrap();
        Tokenizer::open(alone.path())?.encode("a fox").map(drop)
    });
}

/// The file with another header, its length written to match, so that most files still open.
fn with_header(file: &[u8], header: &[u8]) -> Vec<u8> {
    let old = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    [&(header.len() as u64).to_le_bytes()[..], header, &file[8 + old..]].concat()
}

fn header_of(file: &[u8]) -> &[u8] {
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    &file[8..8 + length]
}

/// Valid files with tensors left out, renamed, reshaped, or full of NaN.
#[test]
fn lora_files() {
    let file = Tensors::open(fixtures().join("lora/sd1_kohya.safetensors")).unwrap();
    let tensors: Vec<_> = file.names().map(|name| (name.to_owned(), file.read_f32(name).unwrap())).collect();
    let folder = Folder::open(stable_diffusion("sd1")).unwrap();
    let (mut whole, mut fitting) = (0, 0);
    for number in 0..600 {
        let random = &mut Random::new(number);
        let mut changed = tensors.clone();
        for _ in 0..1 + random.below(2) {
            let at = random.below(changed.len());
            let (name, tensor) = &mut changed[at];
            match random.below(4) {
                0 => drop(changed.remove(at)),
                1 => {
                    let mut bytes = std::mem::take(name).into_bytes();
                    mutate(&mut bytes, random);
                    *name = String::from_utf8_lossy(&bytes).into_owned();
                }
                2 => tensor.shape = vec![tensor.len(), 1],
                _ => tensor.data.fill(f32::NAN),
            }
        }
        let list: Vec<_> = changed.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut bytes = Vec::new();
        safetensors::write(&mut bytes, &list, &Default::default()).unwrap();
        let Ok(lora) = Tensors::from_bytes("fuzzed.safetensors", bytes).and_then(Lora::from_tensors) else { continue };
        whole += 1;
        let (mut unet, mut text_encoder) =
            (folder.component("unet").unwrap(), folder.component("text_encoder").unwrap());
        if lora::apply(&[(lora.into(), 1.0.into())], &mut [&mut unet, &mut text_encoder], &Ignore::default()).is_ok() {
            fitting += 1;
            let _ = unet.tensors.read_f32("mid_block.attentions.0.proj_in.weight");
        }
    }
    assert!(whole > 100 && fitting > 20, "only {whole} were whole, {fitting} fitted");
}

#[test]
fn textual_inversions() {
    let folder = Folder::open(stable_diffusion("sdxl")).unwrap();
    for name in ["embedding_xl", "embedding_webui"] {
        let file = fs::read(fixtures().join(format!("lora/{name}.safetensors"))).unwrap();
        fuzz(name, header_of(&file), 1_000, |header| {
            let tensors = Tensors::from_bytes("fuzzed.safetensors", with_header(&file, &header))?;
            let embedding = TextualInversion::from_tensors(&tensors, None)?;
            let mut encoder = folder.component("text_encoder")?;
            let mut tokenizer = Tokenizer::open(stable_diffusion("sdxl").join("tokenizer"))?;
            embedding.apply(&mut encoder, &mut tokenizer)
        });
    }
}

#[test]
fn pictures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fuzzed");
    for name in [
        "input.png",
        "palette.png",
        "grey_alpha.png",
        "rotated.jpg",
        "jpeg/420_progressive.jpg",
        "jpeg/ycck.jpg",
        "webp/lossy_alpha.webp",
        "webp/lossless.webp",
        "webp/animation.webp",
        "settings/webui.jpg",
        "settings/sdcpp.webp",
    ] {
        let seed = fs::read(fixtures().join("images").join(name)).unwrap();
        let mut random = Random::new(7);
        fuzz(name, &seed, 300, |bytes| {
            fs::write(&path, bytes).unwrap();
            let channels = [1, 3][random.below(2)];
            let _ = image_io::read_text(&path);
            let picture = image_io::read(&path, channels)?;
            assert_eq!(picture.data.len(), picture.width * picture.height * channels);
            Ok(())
        });
    }
}
