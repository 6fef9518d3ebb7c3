//! `unmist serve`: pictures for other programs, and a page.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{load_options, say};
use crate::error::{Error, Result};
use crate::request::{DeviceRequest, Precision};
use crate::serve::{Folders, Limits, LogFormat, Options, Server};

/// Options of `unmist serve`.
#[derive(clap::Args)]
pub struct Args {
    /// A folder of models: folders in diffusers' layout, .safetensors and .gguf files; may be repeated. Those in
    /// weights/ are there anyway
    #[arg(long, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// A folder of LoRAs; may be repeated
    #[arg(long, value_name = "DIR")]
    loras: Vec<PathBuf>,
    /// A folder of textual inversions, each known by its file's name; may be repeated
    #[arg(long, value_name = "DIR")]
    embeddings: Vec<PathBuf>,
    /// A folder of autoencoders; may be repeated
    #[arg(long, value_name = "DIR")]
    vaes: Vec<PathBuf>,
    /// The address to listen at; one that others reach needs --api-key, or --no-auth
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 7860, value_name = "N")]
    port: u16,
    /// What clients must give, as a Bearer token or a password [default: what UNMIST_API_KEY holds]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Lets everybody in who reaches the address
    #[arg(long)]
    no_auth: bool,
    /// A name by which clients call this server, besides addresses and localhost; may be repeated
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// The origin of another page that may use this server, as https://example.org; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// How many requests may wait; others are turned away with 429
    #[arg(long, default_value_t = 64, value_name = "N")]
    queue: usize,
    /// How many requests that are alike are done at once; 1 does each by itself
    #[arg(long, default_value_t = 4, value_name = "N")]
    batch: usize,
    /// Pixels that a picture may have
    #[arg(long, default_value_t = Limits::default().pixels, value_name = "N")]
    max_pixels: usize,
    /// Steps that a request may ask for
    #[arg(long, default_value_t = Limits::default().steps, value_name = "N")]
    max_steps: usize,
    /// Pictures that a request may ask for
    #[arg(long, default_value_t = Limits::default().pictures, value_name = "N")]
    max_pictures: usize,
    /// Storage of weights and activations where a request leaves it open [default: f32]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Seconds that what runs may take when the server is told to end
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    drain_timeout: u64,
    /// Also saves every picture in this folder, with its settings inside [default: none is saved]
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// The folder that `tools/web` builds: gives the engine for visitors' own GPUs under /web/ [default: none]
    #[arg(long, value_name = "DIR")]
    web: Option<PathBuf>,
    /// The log on standard error: text, json (an object a line) or off
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
    #[command(flatten)]
    device: DeviceRequest,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Log {
    Text,
    Json,
    Off,
}

/// Runs the command, until it is told to end.
///
/// # Errors
/// As [`Server::new`] and [`Server::run`]; [`Error::Usage`] if others could reach the server without a key.
pub fn run(args: Args) -> Result<()> {
    let key = args.api_key.or_else(|| std::env::var("UNMIST_API_KEY").ok()).filter(|key| !key.is_empty());
    if !args.host.is_loopback() && key.is_none() && !args.no_auth {
        return Err(Error::Usage(format!(
            "--host {}: others can reach this address; give --api-key KEY, or --no-auth to let everybody in",
            args.host
        )));
    }
    if let Some(folder) = args.save.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(Error::Usage(format!("--save {}: there is no such folder; create it", folder.display())));
    }
    let device = args.device.open()?;
    say(format_args!("device: {}", device.describe()));
    let load = load_options(&args.device, &device)?;
    let options = Options {
        host: args.host,
        port: args.port,
        folders: Folders { models: args.models, loras: args.loras, embeddings: args.embeddings, vaes: args.vaes },
        api_key: key,
        allowed_hosts: args.allowed_host,
        cors_origins: args.cors_origin,
        queue: args.queue,
        batch: args.batch.max(1),
        limits: Limits {
            pixels: args.max_pixels,
            steps: args.max_steps,
            pictures: args.max_pictures,
            ..Limits::default()
        },
        precision: args.precision,
        drain_timeout: Duration::from_secs(args.drain_timeout),
        save: args.save,
        web: args.web,
        log: match args.log {
            Log::Text => LogFormat::Text,
            Log::Json => LogFormat::Json,
            Log::Off => LogFormat::Off,
        },
    };
    let server = Server::new(options, device, load)?;
    say(format_args!("models: {}", server.models().join(", ")));
    say(format_args!("listening at http://{}", server.address()));
    server.run()
}
