//! Options of `unmist sample`.

use std::path::PathBuf;

use crate::request::Request;

/// Options of `unmist sample`: a request, and where the results go.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub request: Request,
    /// Makes the pictures of this file again (one that this command wrote), bit for bit on the same device; or takes
    /// from a picture of AUTOMATIC1111, ComfyUI or stable-diffusion.cpp what it says of itself, and says what it could
    /// not take. Options given beside it replace the file's own; flags that it has stay on
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// FILE.png, FILE.jpg, FILE.webp (without loss), or FILE.safetensors for the values before rounding (tensor
    /// `images`, [N, C, H, W] in [0, 1])
    #[arg(long, short, default_value = "out.png", value_name = "FILE")]
    pub output: PathBuf,
    /// How good a JPEG is, from 1 (small) to 100 [default: 90]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub quality: Option<u8>,
    /// Writes the current estimate of the finished pictures every N steps, to OUTPUT with .preview.png for its
    /// extension
    #[arg(long, value_name = "N")]
    pub preview_every: Option<usize>,
    /// Also writes the latents that the pictures are decoded from (tensor "latents", [N, C, h, w]), which --latents
    /// reads
    #[arg(long, value_name = "FILE.safetensors")]
    pub save_latents: Option<PathBuf>,
    /// Also writes what the host and the device did, and when, for https://ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Makes nothing; prints every setting of the run and where its value comes from: the command line, the picture of
    /// --from, the model's own files, or the pipeline's default
    #[arg(long)]
    pub explain_settings: bool,
}
