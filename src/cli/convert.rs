//! `unmist convert`: writes a model again in another layout.

use std::path::PathBuf;
use std::sync::Arc;

use super::say;
use crate::checkpoint::Ignore;
use crate::error::{Error, Result};
use crate::export;
use crate::generate::{adapted, places, put_together};
use crate::graph::StoredType;
use crate::output::{check_writable, is_same_file};
use crate::request::Request;

/// Options of `unmist convert`.
#[derive(clap::Args)]
pub struct Args {
    /// What is read: a model folder, a single file, the name of a model in weights/ or in Hugging Face's cache
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// What is written: a single file in the original layout if it ends in .safetensors, else a folder of diffusers
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Type of the tensors that are written [default: that of most elements of each component]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Merges a LoRA with a scale for the U-Net and, with a second number, for the text encoders; may be repeated
    #[arg(long, value_name = "FILE[:SCALE[:TEXT_SCALE]]")]
    lora: Vec<String>,
    /// Another U-Net than the model's: a folder, or a single file that holds one
    #[arg(long, value_name = "DIR|FILE")]
    unet: Option<PathBuf>,
    /// Another autoencoder than the model's: a folder, or a single file that holds one
    #[arg(long, value_name = "DIR|FILE")]
    vae: Option<PathBuf>,
    /// Another text encoder than the model's: a folder, or a single file that holds one
    #[arg(long, value_name = "DIR|FILE")]
    text_encoder: Option<PathBuf>,
    /// SDXL: another second text encoder than the model's: a folder, or a single file that holds one
    #[arg(long, value_name = "DIR|FILE")]
    text_encoder_2: Option<PathBuf>,
    /// The scheduler's config, in place of the model's own
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    /// Prefers weight files of a variant, such as fp16 for diffusion_pytorch_model.fp16.safetensors
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Tensors and config fields that may stay unread where no model asks for them, by name, with * for any characters;
    /// may be repeated
    #[arg(long, value_name = "PATTERN")]
    ignore_unused: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

/// Runs the command.
///
/// # Errors
/// As the library; nothing is written then.
pub fn run(args: Args) -> Result<()> {
    let dtype = args.dtype.map(|dtype| match dtype {
        Dtype::F32 => StoredType::F32,
        Dtype::F16 => StoredType::F16,
        Dtype::Bf16 => StoredType::Bf16,
    });
    let request = Request {
        lora: args.lora,
        unet: args.unet,
        vae: args.vae,
        text_encoder: args.text_encoder,
        text_encoder_2: args.text_encoder_2,
        scheduler_config: args.scheduler_config,
        variant: args.variant,
        ..Request::default()
    };
    let input = places::find(Some(&args.input), &[])?;
    if is_same_file(&input, &args.output) {
        return Err(Error::Usage(format!("{}: it would be overwritten; give another name", args.output.display())));
    }
    let ignore = Arc::new(Ignore::new(&args.ignore_unused));
    let checkpoint = adapted(put_together(&input, &request, &ignore)?, &request)?;
    let single = args.output.extension().is_some_and(|end| end.eq_ignore_ascii_case("safetensors"));
    let said = if single {
        check_writable(&args.output)?;
        export::single_file(&checkpoint, &args.output, dtype)?
    } else {
        export::folder(&checkpoint, &args.output, dtype)?
    };
    ignore.account().iter().for_each(|note| say(format_args!("note: {note}")));
    said.iter().for_each(|line| say(format_args!("{line}")));
    Ok(())
}
