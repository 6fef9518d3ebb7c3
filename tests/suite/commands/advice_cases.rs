//! The cases of `advice.rs`: what messages advise, and commands that follow it.
//!
//! Lines have `|` between their parts, NAME for a model of the fixtures, and @NAME for a file that the test makes.

/// A command that is refused, and the values with which its advice is followed.
pub struct Case {
    /// The places in the sources that advise: file and remedy.
    pub of: &'static [(&'static str, &'static str)],
    pub line: &'static str,
    pub values: &'static [(&'static str, &'static str)],
}

const fn case(
    of: &'static [(&'static str, &'static str)],
    line: &'static str,
    values: &'static [(&'static str, &'static str)],
) -> Case {
    Case { of, line, values }
}

const FITS: &str = "src/pipelines/diffusion/fits.rs";
const MEMORY: &str = "src/pipelines/diffusion/memory.rs";
const OPEN: &str = "src/checkpoint/open.rs";
const MASK: &str = "src/generate/mask.rs";
const AUTO: &str = r#"Remedy::Set("mask_reading", "auto".into())"#;
const PLAN: &str = "src/plan/mod.rs";
const SCHEDULERS: &str = "src/schedulers/mod.rs";
const TRAITS: &str = "src/pipelines/diffusion/traits.rs";

/// Advice as data.
pub const CASES: &[Case] = &[
    // schedulers
    case(
        &[(SCHEDULERS, r#"Remedy::Raise(&["denoising_end"])"#), (SCHEDULERS, r#"Remedy::Raise(&["steps"])"#)],
        "sample | fox | --model sd1 | --width 24 | --height 16 | --steps 2 | --denoising-end 0.01",
        &[("--denoising-end", "0.9"), ("--steps", "100")],
    ),
    case(
        &[(SCHEDULERS, r#"Remedy::LeaveOut(&["denoising_start", "denoising_end"])"#)],
        "sample | fox | --model @edm | --width 32 | --height 48 | --steps 2 | --denoising-end 0.5",
        &[],
    ),
    case(
        &[(SCHEDULERS, r#"Remedy::Raise(&["denoising_end"])"#), (SCHEDULERS, r#"Remedy::Lower(&["denoising_start"])"#)],
        "sample | fox | --model sd1 | --latents @latents | --steps 8 | --denoising-start 0.5 | --denoising-end 0.3",
        &[("--denoising-end", "0.9"), ("--denoising-start", "0.1")],
    ),
    case(
        &[(SCHEDULERS, r#"Remedy::Lower(&["denoising_start"])"#), (SCHEDULERS, r#"Remedy::Raise(&["steps"])"#)],
        "sample | fox | --model sd1 | --latents @latents | --steps 4 | --denoising-start 0.9 \
         | --scheduler DDIM Trailing",
        &[("--denoising-start", "0.5"), ("--steps", "20")],
    ),
    case(
        &[(SCHEDULERS, r#"Remedy::Raise(&["strength", "steps"])"#)],
        "sample | fox | --model sd1 | --image @picture | --steps 4 | --strength 0.1",
        &[("--strength", "0.5"), ("--steps", "20")],
    ),
    case(
        &[
            ("src/schedulers/step.rs", r#"Remedy::Lower(&["steps"])"#),
            ("src/schedulers/step.rs", r#"Remedy::Change("scheduler")"#),
        ],
        "sample | fox | --model sd1 | --steps 1000 | --scheduler lms | --explain-settings",
        &[("--steps", "999"), ("--scheduler", "euler")],
    ),
    case(
        &[("src/schedulers/timesteps.rs", r#"Remedy::Lower(&["steps"])"#)],
        "sample | fox | --model sd1 | --steps 1000 | --scheduler ddim | --explain-settings",
        &[("--steps", "999")],
    ),
    case(
        &[("src/schedulers/timesteps.rs", r#"Remedy::Lower(&["steps"])"#)],
        "sample | fox | --model sd1 | --steps 1000 | --scheduler plms | --explain-settings",
        &[("--steps", "999")],
    ),
    case(
        &[("src/request/resolve.rs", r#"Remedy::Change("scheduler")"#)],
        "sample | fox | --model sd1 | --steps 1 | --width 24 | --height 16 | --scheduler DDIMInverseScheduler",
        &[("--scheduler", "euler")],
    ),
    case(
        &[("src/generate/interpolate.rs", r#"Remedy::Set("scheduler", "ddim".into())"#)],
        "interpolate | fox | --model sd1 | --steps 1 | --width 24 | --height 16 | --seed 1,2 | --frames 2 \
         | --output @frames.gif | --scheduler Euler a",
        &[],
    ),
    case(
        &[("src/generate/interpolate.rs", r#"Remedy::LeaveOut(&["eta"])"#)],
        "interpolate | fox | --model sd1 | --steps 1 | --width 24 | --height 16 | --seed 1,2 | --frames 2 \
         | --output @frames.gif | --scheduler ddim | --eta 0.5",
        &[],
    ),
    case(
        &[("src/pipelines/diffusion/anomaly.rs", r#"Remedy::Set("scheduler", "ddim".into())"#)],
        "anomaly | --model @classes | --image @picture | --resize | --steps 4 | --repeats 1 | --output @map.png \
         | --scheduler euler",
        &[],
    ),
    case(
        &[("src/pipelines/diffusion/anomaly.rs", r#"Remedy::Raise(&["steps"])"#)],
        "anomaly | --model @classes | --image @picture | --resize | --steps 4 | --repeats 1 | --output @map.png \
         | --scheduler DDIM Trailing | --timestep 3",
        &[("--steps", "500")],
    ),
    case(
        &[("src/pipelines/diffusion/edit.rs", r#"Remedy::Give(&["image"])"#)],
        "edit | fox | --model sd1 | --source cat | --steps 2 | --width 24 | --height 16 | --num-maps-per-mask 1 \
         | --output @new.png",
        &[("--image", "@picture")],
    ),
    // what fits which model
    case(
        &[(FITS, r#"Remedy::GiveInstead(&["class"])"#)],
        "sample | fox | --model @classes | --steps 1",
        &[("--class", "3")],
    ),
    case(
        &[(FITS, r#"Remedy::GiveInstead(&["prompt"])"#)],
        "sample | --model sd1 | --class 3 | --steps 1 | --width 24 | --height 16",
        &[("PROMPT", "fox")],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["mask"])"#)],
        "sample | fox | --model x4_upscaler | --image @picture | --mask @picture | --steps 1",
        &[],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["strength"])"#)],
        "sample | fox | --model x4_upscaler | --image @picture | --strength 0.5 | --steps 1",
        &[],
    ),
    case(
        &[(FITS, "Remedy::Give(fields)")],
        "sample | fox | --model inpaint | --steps 1",
        &[("--image", "@picture"), ("--mask", "@picture")],
    ),
    case(
        &[(FITS, "Remedy::Give(fields)")],
        "sample | fox | --model instruct_pix2pix | --steps 1",
        &[("--image", "@picture")],
    ),
    case(
        &[(FITS, "Remedy::Give(fields)")],
        "sample | fox | --model x4_upscaler | --steps 1",
        &[("--image", "@picture")],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["image"])"#)],
        "sample | fox | --model sd1 | --mask @picture | --steps 1",
        &[("--image", "@picture")],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["image"])"#)],
        "sample | fox | --model sd1 | --strength 0.5 | --steps 2",
        &[("--image", "@picture")],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["latents"])"#)],
        "sample | fox | --model sd1 | --image @picture | --latents @latents | --steps 2",
        &[],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["latents"])"#)],
        "sample | fox | --model sd1 | --denoising-start 0.5 | --steps 2",
        &[("--latents", "@latents")],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["strength"])"#)],
        "sample | fox | --model sd1 | --latents @latents | --denoising-start 0.5 | --strength 0.5 | --steps 2",
        &[],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["denoising_start"])"#)],
        "sample | fox | --model sdxl | --latents @latents_xl | --denoising-start 0.5 | --refiner sdxl_refiner \
         | --steps 4",
        &[],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["width", "height"])"#)],
        "sample | fox | --model sd1 | --latents @latents | --width 24 | --steps 2",
        &[],
    ),
    case(
        &[(TRAITS, r#"Remedy::Write("and")"#)],
        "sample | fox AND owl | --model sd1 | --weighting | --steps 1 | --width 24 | --height 16",
        &[("AND", "and")],
    ),
    case(
        &[(TRAITS, r#"Remedy::Give(&["width", "height"])"#)],
        "sample | fox | --model sd1 | --image @odd | --steps 2",
        &[("--width", "24"), ("--height", "16")],
    ),
    case(
        &[(TRAITS, r#"Remedy::Give(&["width", "height"])"#)],
        "sample | --model @no_size | --class 3 | --steps 1",
        &[("--width", "32"), ("--height", "32")],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["mask"])"#), (MASK, AUTO)],
        "sample | fox | --model sd1 | --image @picture | --mask-reading alpha | --steps 2",
        &[("--mask", "@picture")],
    ),
    case(
        &[("src/pipelines/diffusion/start.rs", AUTO)],
        "sample | fox | --model sd1 | --image @picture | --mask @dot.png | --mask-reading diffusers | --steps 2",
        &[],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["refiner"])"#)],
        "sample | fox | --model sdxl | --refiner-lora @refiner_lora.safetensors | --steps 4 | --width 32 | --height 32",
        &[("--refiner", "sdxl_refiner")],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["classifier"])"#)],
        "sample | --model @pixels | --width 8 | --height 8 | --class 1 | --classifier-scale 2 | --steps 1",
        &[("--classifier", "@classifier")],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["class"])"#)],
        "sample | --model @pixels | --width 8 | --height 8 | --classifier @classifier | --steps 1",
        &[("--class", "1")],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["steps"])"#)],
        "sample | --model @consistency | --timesteps 22,0 | --steps 2",
        &[],
    ),
    case(
        &[(TRAITS, r#"Remedy::Give(&["null_class"])"#)],
        "sample | --model @consistency | --class 3 | --guidance-scale 2",
        &[("--null-class", "9")],
    ),
    case(
        &[(FITS, r#"Remedy::Set("scheduler", "repaint".into())"#)],
        "sample | --model @classes | --image @picture | --mask @picture | --steps 2",
        &[],
    ),
    case(
        &[(FITS, r#"Remedy::LeaveOut(&["strength"])"#)],
        "sample|--model @classes|--image @picture|--mask @picture|--scheduler repaint | --strength 1 | --steps 2",
        &[],
    ),
    case(
        &[(FITS, r#"Remedy::Give(&["image", "mask"])"#)],
        "sample | --model @classes | --scheduler repaint | --steps 2",
        &[("--image", "@picture"), ("--mask", "@picture")],
    ),
    case(
        &[(FITS, r#"Remedy::Change("scheduler")"#)],
        "sample | fox | --model sd1 | --image @picture | --mask @picture | --scheduler repaint | --steps 2",
        &[("--scheduler", "euler")],
    ),
    // what the engine does not know
    case(
        &[("src/checkpoint/ignore.rs", r#"Remedy::Set("ignore_unused", pattern.into())"#)],
        "sample | fox | --model @unknown_key | --steps 1 | --width 24 | --height 16",
        &[],
    ),
    case(
        &[("src/schedulers/read.rs", r#"Remedy::Change("scheduler")"#)],
        "sample | fox | --model @unknown_scheduler | --steps 1 | --width 24 | --height 16",
        &[("--scheduler", "euler")],
    ),
    // parts of models
    case(
        &[(OPEN, r#"Remedy::Give(&["vae"])"#)],
        "sample | fox | --model @no_vae | --steps 1 | --width 24 | --height 16",
        &[("--vae", "@vae")],
    ),
    case(
        &[(OPEN, r#"Remedy::Give(&["unet"])"#)],
        "sample | fox | --model @no_unet | --steps 1 | --width 24 | --height 16",
        &[("--unet", "@unet")],
    ),
    case(
        &[(OPEN, r#"Remedy::Give(&["text_encoder"])"#)],
        "sample | fox | --model @no_text_encoder | --steps 1 | --width 24 | --height 16",
        &[("--text-encoder", "@text_encoder")],
    ),
    case(
        &[("src/pipelines/text.rs", r#"Remedy::Give(&["text_encoder"])"#)],
        "sample | fox | --model @no_text | --steps 1 | --width 24 | --height 16",
        &[("--text-encoder", "@text_encoder")],
    ),
    case(
        &[(OPEN, r#"Remedy::Give(&["text_encoder_2"])"#)],
        "sample | fox | --model @no_text_encoder_2 | --steps 1 | --width 32 | --height 48",
        &[("--text-encoder-2", "@text_encoder_2")],
    ),
    case(
        &[("src/pipelines/autoencoder/mod.rs", r#"Remedy::Give(&["vae"])"#)],
        "sample | fox | --model sd1 | --vae @decoder.safetensors | --image @picture | --steps 2",
        &[("--vae", "@vae")],
    ),
    case(
        &[(OPEN, r#"Remedy::LeaveOut(&["variant"])"#)],
        "sample | fox | --model @unet | --vae @vae | --text-encoder @text_encoder | --variant fp16 | --steps 1",
        &[],
    ),
    case(
        &[(OPEN, r#"Remedy::LeaveOut(&["embedding"])"#)],
        "sample | --model @classes | --embedding @embedding | --steps 1",
        &[],
    ),
    case(
        &[("src/checkpoint/single_file.rs", r#"Remedy::GiveInstead(&["lora"])"#)],
        "sample | fox | --model @lora | --steps 1",
        // The model is then the first one below `weights/`, whose layers the LoRA does not have.
        &[("--lora", "@lora"), ("--model", "sd1"), ("--width", "24"), ("--height", "16")],
    ),
    case(
        &[("src/generate/networks.rs", r#"Remedy::GiveInstead(&["lora"])"#)],
        "sample | fox <lora:none:1> | --model sd1 | --weighting | --steps 1 | --width 24 | --height 16",
        &[("PROMPT", "fox"), ("--lora", "@lora")],
    ),
    // memory
    case(
        &[(PLAN, r#"Remedy::Raise(&["max_memory"])"#), (PLAN, r#"Remedy::Set("precision", "f16".into())"#)],
        "sample | fox | --model sd1 | --max-memory 0.0015 | --steps 1 | --width 24 | --height 16",
        &[("--max-memory", "1")],
    ),
    case(
        &[(PLAN, r#"Remedy::Lower(&["width", "height", "batch_size"])"#)],
        "sample | fox | --model sd1 | --max-memory 0.02 | --steps 1 | --width 96 | --height 96 | --batch-size 4",
        &[("--max-memory", "1"), ("--width", "16"), ("--height", "16"), ("--batch-size", "1")],
    ),
    case(
        &[(PLAN, r#"Remedy::Raise(&["max_memory"])"#), (PLAN, r#"Remedy::Lower(&["width", "height", "batch_size"])"#)],
        "bench | --model sd1 | --component unet | --max-memory 0.02 | --width 96 | --height 96 | --batch-size 4 \
         | --runs 1",
        &[("--max-memory", "1"), ("--width", "16"), ("--height", "16"), ("--batch-size", "1")],
    ),
    case(
        &[(MEMORY, r#"Remedy::Set("vae_tiling", "on".into())"#)],
        "sample | fox | --model sd2 | --variant fp16 | --max-memory 0.0024 | --steps 1 | --width 160 | --height 160 \
         | --vae-tiling off",
        &[("--max-memory", "1"), ("--width", "32"), ("--height", "32")],
    ),
    case(
        &[("src/plan/lower.rs", r#"Remedy::Set("precision", "f16".into())"#), ("src/plan/lower.rs", "or_less_work()")],
        "inspect | --model sd1 | --component unet | --width 640 | --height 640",
        // No other adapter can be counted on.
        &[("--width", "64"), ("--height", "64"), ("--device", "")],
    ),
    case(
        &[("src/plan/choose.rs", "or_less_work()")],
        "sample | fox | --model lcm | --width 96 | --height 96 | --steps 1",
        &[("--width", "16"), ("--height", "16"), ("--device", "reference")],
    ),
];

/// Advice in words: file and clause as they stand in the sources; a command that is refused so, and the command that
/// follows it. Or why that is not tried here.
pub type Said = (&'static str, &'static str, Result<(&'static str, &'static str), &'static str>);

pub const SMALL: &str = "--width 24 | --height 16 | --steps 1";
const PICTURES: Result<(&str, &str), &str> =
    Err("about a picture that cannot be read, whose sound form other tests read");
const TUNED: Result<(&str, &str), &str> = Err("of `tune`, followed in commands/tune.rs");
const SERVER: Result<(&str, &str), &str> = Err("what a server says: tests/suite/serve");
const SOUND: Result<(&str, &str), &str> = Err("about a damaged file, whose sound form every other test reads");

const FOLDER: Result<(&str, &str), &str> = Err("a model that one file cannot describe, of which there is no other");
const CONVERT: Result<(&str, &str), &str> = Err("of another command: checkpoints/convert.rs");

pub const SAID: &[Said] = &[
    ("src/checkpoint/convert.rs", "convert the checkpoint to F16 or F32", SOUND),
    ("src/checkpoint/folder.rs", "choose one of {}", Ok(("--model @variants", "--model @variants | --variant fp16"))),
    (
        "src/checkpoint/folder.rs",
        "give the folder that holds model_index.json or config.json",
        Ok(("--model @none/there", "--model sd1")),
    ),
    (
        "src/checkpoint/header.rs",
        "download the file again",
        Ok(("--model sd1 | --vae @page.safetensors", "--model sd1 | --vae @vae")),
    ),
    (
        "src/checkpoint/header.rs",
        "fetch it again",
        Ok(("--model sd1 | --vae @empty.safetensors", "--model sd1 | --vae @vae")),
    ),
    (
        "src/checkpoint/header.rs",
        "run `git lfs pull` in the repository",
        Ok(("--model sd1 | --vae @pointer.safetensors", "--model sd1 | --vae @vae")),
    ),
    (
        "src/checkpoint/header.rs",
        "use the .safetensors version of the model",
        Ok(("--model sd1 | --vae @hdf.safetensors", "--model sd1 | --vae @vae")),
    ),
    ("src/checkpoint/gguf/mod.rs", "convert it again", SOUND),
    (
        "src/checkpoint/gguf/mod.rs",
        "convert it to little-endian (gguf-py: `gguf_convert_endian.py FILE little`)",
        SOUND,
    ),
    ("src/checkpoint/gguf/mod.rs", "use a version of the model in one of {}", SOUND),
    (
        "src/checkpoint/inferred/text.rs",
        "give the model as a diffusers folder, whose config.json holds the number of heads",
        FOLDER,
    ),
    ("src/checkpoint/inferred/unet.rs", "give the model as a diffusers folder", FOLDER),
    ("src/checkpoint/json.rs", "correct or fetch it again", Ok(("--model @broken", "--model sd1"))),
    ("src/checkpoint/json.rs", "run `git lfs pull` in the repository", SOUND),
    (
        "src/checkpoint/lora/mod.rs",
        "give the file itself",
        Ok(("--model sd1 | --lora @none", "--model sd1 | --lora @lora")),
    ),
    ("src/checkpoint/open.rs", "add the tokenizer's files", Err("a text encoder with a vocabulary of its own")),
    ("src/checkpoint/safetensors.rs", "fetch both files again", SOUND),
    ("src/checkpoint/safetensors.rs", "fetch the index again", SOUND),
    ("src/checkpoint/safetensors.rs", "use a version in F16 or F8", SOUND),
    ("src/checkpoint/safetensors.rs", "write it as bf16 or f32", CONVERT),
    ("src/cli/convert.rs", "give another name", CONVERT),
    (
        "src/cli/train/run.rs",
        "give --resolution and --crop",
        Err("of `train`, whose folders are checked before (training/command.rs)"),
    ),
    (
        "src/generate/foreign/mod.rs",
        "give it with `image`, and `strength` {strength}",
        Err("pictures of other programs: commands/sources.rs"),
    ),
    (
        "src/cli/sample/mod.rs",
        "give another name",
        Ok(("--model sd1 | --image @picture | --strength 1 | --output @picture", "--model sd1 | --output @new.png")),
    ),
    ("src/cli/edit/job.rs", "give another name", Err("two names for one file: commands/editing.rs")),
    ("src/cli/interpolate/mod.rs", "give another name", Err("two names for one file: commands/interpolate.rs")),
    (
        "src/cli/interpolate/output.rs",
        "remove it, or give another folder",
        Err("frames of another run: commands/interpolate.rs"),
    ),
    ("src/cli/run.rs", "give another name", Err("two names for one file: commands/trace.rs")),
    ("src/cli/tune/mod.rs", "give --any-device to take it over all the same", TUNED),
    ("src/cli/tune/mod.rs", "give a file with --tuned FILE, or set UNMIST_CACHE", TUNED),
    ("src/cli/tune/report.rs", "run again to go on\\n", TUNED),
    ("src/generate/record.rs", "give the right one", Err("a file that changed since: commands/sample.rs")),
    ("src/export/folder.rs", "give the name of a new folder", CONVERT),
    ("src/export/single_file.rs", "give the name of a folder to write", CONVERT),
    ("src/image_io/read.rs", "convert the file", PICTURES),
    ("src/image_io/read.rs", "fetch or save it again", PICTURES),
    ("src/image_io/read.rs", "give a smaller one", PICTURES),
    ("src/image_io/read.rs", "give a smaller picture", PICTURES),
    ("src/image_io/write.rs", "write a PNG", Err("settings of more than 64 KiB")),
    ("src/image_io/write.rs", "write another format", Err("pictures of more than 16383 pixels a side")),
    (
        "src/output.rs",
        "create it or give another name",
        Ok(("--model sd1 | --output @nowhere/out.png", "--model sd1 | --output @new.png")),
    ),
    (
        "src/output.rs",
        "give the name of a file",
        Ok(("--model sd1 | --output @folder.png", "--model sd1 | --output @new.png")),
    ),
    (
        "src/output.rs",
        "remove it or give another name",
        Ok(("--model sd1 | --output @locked.png", "--model sd1 | --output @new.png")),
    ),
    ("src/prompt.rs", "use fewer", Err("hundreds of brackets: tests/fuzz")),
    ("src/request/fields.rs", "rename the file", Err("a name that is not UTF-8: commands/sample.rs")),
    (
        "src/request/resolve.rs",
        "give one, or as many as there are of either",
        Ok(("--model sd1 | --guidance-scale 2,3", "--model sd1 | --guidance-scale 2")),
    ),
    (
        "src/request/resolve.rs",
        "give one, or one for each picture",
        Ok(("--model sd1 | --seed 1,2 | --batch-size 3", "--model sd1 | --seed 1,2,3 | --batch-size 3")),
    ),
    (
        "src/schedulers/config.rs",
        "remove them, the levels follow from the number of steps",
        Err("about a config that contradicts itself"),
    ),
    ("src/schedulers/config.rs", "set one to false", Err("about a config that contradicts itself")),
    (
        "src/schedulers/config.rs",
        "set it to false, and \\",
        Err("about a config of transformers: schedulers/tables.rs"),
    ),
    ("src/schedulers/edm.rs", "see \\", Err("about a config that contradicts itself")),
    ("src/schedulers/read.rs", "write \\", Err("about a config of the first versions: schedulers/tables.rs")),
    ("src/schedulers/sigmas.rs", "see \\", Err("about a config that contradicts itself")),
    ("src/files/parts.rs", "give it in shards", Err("a file of 4 GiB in a browser")),
    ("src/cli/serve.rs", "create it", SERVER),
    ("src/cli/serve.rs", "give --api-key KEY, or --no-auth to let everybody in", SERVER),
    ("src/serve/api/webui.rs", "give one", SERVER),
    ("src/serve/api/webui.rs", "use img2img with a larger size", SERVER),
    ("src/serve/api/webui.rs", "write their words into the prompt", SERVER),
    ("src/serve/failure.rs", "try again later", SERVER),
    ("src/serve/failure.rs", "try again later, or another one", SERVER),
    ("src/serve/guard.rs", "see cors-origin", SERVER),
    ("src/tokenizer.rs", "fetch it again", SOUND),
    ("src/tokenizer.rs", "fetch the tokenizer again", SOUND),
    ("src/tokenizer/word_piece.rs", "fetch the tokenizer again", SOUND),
    ("src/tokenizer.rs", "give it another name", Err("about a word that there is already")),
];

/// Places that no command of this test reaches.
pub const UNREACHED: &[(&str, &str, &str)] = &[
    ("src/serve/order.rs", r#"Remedy::Lower(&["width", "height"])"#, "a server's limit: serve/openai.rs"),
    ("src/serve/order.rs", "Remedy::Lower(fields)", "a server's limits: serve/jobs.rs"),
    ("src/generate/places.rs", r#"Remedy::Give(&["model"])"#, "where no model is in `weights`, or no such folder"),
    ("src/generate/foreign/mod.rs", r#"Remedy::Give(&["model"])"#, "pictures of other programs: commands/sources.rs"),
    ("src/gpu/adapters.rs", r#"Remedy::Set("device", "reference".into())"#, "below, without a driver"),
    ("src/gpu/device.rs", r#"Remedy::Set("precision", "f16".into())"#, "a driver that lacks memory"),
    ("src/gpu/device.rs", "or_less_work()", "a driver that lacks memory"),
    ("src/gpu/device.rs", r#"Remedy::Change("device")"#, "a device that is lost"),
    ("src/web/host.rs", "or_less_work()", "a browser's GPU that lacks memory"),
    ("src/plan/mod.rs", r#"Remedy::Change("device")"#, "more memory than this machine has"),
    ("src/pipelines/diffusion/edit.rs", r#"Remedy::Give(&["mask"])"#, "the command finds one, if none is given"),
    (
        "src/pipelines/diffusion/invert.rs",
        r#"Remedy::Set("scheduler", "ddim".into())"#,
        "of two pictures, and lines have one of a flag: commands/interpolate.rs",
    ),
    ("src/pipelines/diffusion/invert.rs", r#"Remedy::LeaveOut(&["eta"])"#, "the command looks at that before"),
    ("src/schedulers/mod.rs", r#"Remedy::Give(&["steps"])"#, "levels of its own, which no command gives"),
    (
        "src/plan/lower.rs",
        r#"Remedy::Set("force", format!("{}=naive", op.name()).into())"#,
        "a device that binds less than this one: graph/parity.rs",
    ),
];
