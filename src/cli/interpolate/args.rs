//! Options of `unmist interpolate`.

use std::path::PathBuf;

use clap::{ArgAction, ArgMatches, Command, FromArgMatches};

use crate::error::Result;
use crate::image_io::AnimationFormat;
use crate::refusal::Refusal;
use crate::request::Request;

/// Options of `unmist interpolate`: a request for one picture with several starts, and where the frames go.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub asked: Asked,
    /// Frames, with those of the first and the last seed or picture
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub frames: usize,
    /// FILE.png (APNG), FILE.gif or FILE.webp: all frames, moving; or a folder for frame-000.png, frame-001.png …
    #[arg(long, short, default_value = "interpolation.png", value_name = "FILE|DIR")]
    pub output: PathBuf,
    /// Frames a second of what moves [default: 12]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(AnimationFormat::MAX_FPS)))]
    pub fps: Option<u16>,
    /// What moves also goes back, so that it has no jump
    #[arg(long)]
    pub back_and_forth: bool,
}

/// A request for one picture, and what is given several times.
pub struct Asked {
    /// Without seeds and picture.
    pub request: Request,
    /// Seeds to go between.
    pub seeds: Vec<u64>,
    /// Pictures to go between.
    pub images: Vec<PathBuf>,
}

/// Fields that say where a run begins or what becomes of several pictures: the frames decide both.
const NOT_HERE: [&str; 16] = [
    "classifier",
    "classifier_scale",
    "mask",
    "mask_reading",
    "mask_blur",
    "padding_mask_crop",
    "strength",
    "noise_level",
    "latents",
    "denoising_start",
    "denoising_end",
    "jump_length",
    "jump_n_sample",
    "image_guidance_scale",
    "batch_size",
    "separate",
];

impl Asked {
    /// Refuses what has no meaning here.
    ///
    /// # Errors
    /// A refusal of the field.
    pub fn check(&self) -> Result<()> {
        let given = self.request.to_json()?;
        if let Some(field) = NOT_HERE.into_iter().find(|field| given.get(field).is_some()) {
            let why = "each frame is one picture, made of noise alone";
            return Err(Refusal::of(field, why).into());
        }
        let two = |field, count: usize, what: &str| match count {
            1 => Err(Refusal::of(field, format!("there is one; expected two {what} or more, to go between them"))),
            _ => Ok(()),
        };
        two("image", self.images.len(), "pictures")?;
        if self.images.is_empty() {
            two("seed", self.seeds.len().max(1), "seeds")?;
        } else if !self.seeds.is_empty() {
            return Err(Refusal::of("seed", "pictures have noise of their own, which is found").into());
        }
        // Requests have one picture, and so are checked for one.
        for path in &self.images {
            Request { image: Some(path.clone()), ..Request::default() }.check()?;
        }
        Ok(())
    }
}

impl FromArgMatches for Asked {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let images = matches.get_many("image").unwrap_or_default().cloned().collect();
        let mut request = Request { image: None, ..Request::from_arg_matches(matches)? };
        Ok(Self { seeds: std::mem::take(&mut request.seed), images, request })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Asked {
    fn augment_args(command: Command) -> Command {
        let mut command = Request::augment_args(command)
            .mut_arg("seed", |arg| {
                arg.help("Seeds to go between, two or more, comma-separated; -1 draws one at random").required(false)
            })
            .mut_arg("image", |arg| {
                let help = "A picture to go between, PNG, JPEG or WebP, in place of seeds; given twice or more. Each \
                            goes back to the noise that DDIM makes it of";
                arg.action(ArgAction::Append).help(help)
            })
            .mut_arg("prompt", |arg| arg.help("What the frames show (models with a text encoder)"));
        for field in NOT_HERE {
            command = command.mut_arg(field, |arg| arg.hide(true));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
