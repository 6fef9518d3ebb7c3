//! What a client asks for, checked before anything is opened or decoded.

use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use super::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::files::Memory;
use crate::generate::{Notes, take_from_prompts};
use crate::image_io::dimensions;
use crate::refusal::{Refusal, Remedy};
use crate::request::{DeviceRequest, Request, Resolved};

/// How much one request may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Pixels of a picture: columns times rows.
    pub pixels: usize,
    /// Steps.
    pub steps: usize,
    /// Pictures.
    pub pictures: usize,
    /// Bytes of a prompt.
    pub prompt: usize,
    /// Bytes of a request's body.
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pixels: 2048 * 2048, steps: 500, pictures: 16, prompt: 20_000, body: 64 << 20 }
    }
}

/// Pixels that a side may have.
const SIDE: usize = 1 << 14;

/// A request with the pictures that it names.
#[derive(Debug)]
pub struct Order {
    /// What is asked for: models and LoRAs by name; `image` and `mask` are names in `files`.
    pub request: Request,
    /// The pictures that came with it.
    pub files: Memory,
    /// Whether the run is recorded, see [`crate::generate::Inside`].
    pub inside: bool,
}

/// Pictures that come with a request, in their files' bytes.
#[derive(Debug, Default)]
pub struct Pictures {
    /// What is changed, or painted into.
    pub image: Option<Vec<u8>>,
    /// Where it is painted into.
    pub mask: Option<Vec<u8>>,
}

/// Fields that a server chooses, or that name files which it would have to find.
const NOT_TAKEN: [&str; 10] = [
    "unet",
    "text_encoder",
    "text_encoder_2",
    "classifier",
    "classifier_scale",
    "scheduler_config",
    "lora_dir",
    "latents",
    "variant",
    "ignore_unused",
];

impl Order {
    /// Checks a request, gives it seeds, and takes names of LoRAs and textual inversions out of its prompts.
    ///
    /// # Errors
    /// A refusal of a field that a server does not take, a name that it does not have, or a value beyond `limits`.
    pub fn new(mut request: Request, pictures: Pictures, catalogue: &Catalogue, limits: &Limits) -> Result<Self> {
        let given = request.to_json()?;
        if let Some(field) = NOT_TAKEN.into_iter().find(|field| given.get(field).is_some()) {
            return Err(Refusal::of(field, "this server does not take it").into());
        }
        if request.device != DeviceRequest::default() {
            return Err(Refusal::of("device", "this server has one device, and chooses the kernels itself").into());
        }
        if request.separate {
            return Err(Refusal::of("separate", "a server has no grids: pictures are always by themselves").into());
        }
        let files = [("image", &mut request.image, pictures.image), ("mask", &mut request.mask, pictures.mask)]
            .into_iter()
            .filter_map(|(name, field, bytes)| {
                *field = bytes.as_ref().map(|_| PathBuf::from(name));
                Some((name, bytes?))
            })
            .collect::<Vec<_>>();
        limits.check(&request)?;
        for (name, bytes) in &files {
            limits.check_picture(name, bytes)?;
        }
        networks(&mut request, catalogue)?;
        catalogue.with_paths(&request)?;
        if request.seed.is_empty() {
            // One that other programs can show, and JSON can hold.
            let seed = std::hash::RandomState::new().hash_one(std::time::Instant::now()) & u64::from(u32::MAX);
            request.seed = seeds(seed, request.pictures());
        }
        Ok(Self { request, files: files.into_iter().collect(), inside: false })
    }
}

/// A seed for each picture, from one on.
pub fn seeds(first: u64, pictures: usize) -> Vec<u64> {
    (0..pictures.max(1) as u64).map(|i| first.wrapping_add(i)).collect()
}

/// Asks for the LoRAs that prompts name, and for the textual inversions whose names are words in them.
fn networks(request: &mut Request, catalogue: &Catalogue) -> Result<()> {
    let mut notes = Notes::default();
    let found = |name: &str| {
        catalogue.loras.contains_key(name).then(|| name.to_owned()).ok_or_else(|| {
            let there: Vec<&str> = catalogue.loras.keys().map(String::as_str).collect();
            format!("there is no LoRA {name} here; there are: {}", there.join(", "))
        })
    };
    take_from_prompts(request, &found, request.weighting, &mut notes, &mut Err)?;
    let texts = request.prompt.iter().chain(&request.negative_prompt);
    let texts = texts.chain(&request.prompt_2).chain(&request.negative_prompt_2).cloned().collect::<Vec<_>>();
    for word in catalogue.embeddings.keys() {
        let named = request.embedding.iter().any(|name| name == word);
        if !named && texts.iter().any(|text| has_word(text, word)) {
            request.embedding.push(word.clone());
        }
    }
    Ok(())
}

/// Whether a word is in a text, not as a part of another one.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

impl Limits {
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let most = |fields: &'static [&'static str], found: usize, most: usize, what: &str| {
            if found > most {
                let why = format!("this server takes at most {most}{what}");
                return Err(Refusal::of_value(fields[0], found, why).instead(Remedy::Lower(fields)));
            }
            Ok(())
        };
        let (width, height) = (request.width.unwrap_or(1), request.height.unwrap_or(1));
        for (field, side) in [(&["width"][..], width), (&["height"], height)] {
            most(field, side, SIDE.min(self.pixels), " pixels here")?;
        }
        if width * height > self.pixels {
            let why = format!("with height {height} it is more than this server's {} pixels a picture", self.pixels);
            return Err(Refusal::of_value("width", width, why).instead(Remedy::Lower(&["width", "height"])));
        }
        most(&["steps"], request.steps.unwrap_or(0), self.steps, " steps")?;
        if request.timesteps.len() > self.steps {
            let why = format!("there are {}, this server takes at most {}", request.timesteps.len(), self.steps);
            return Err(Refusal::of("timesteps", why));
        }
        // How often each part of a run is done, so that it multiplies the steps.
        most(&["jump_n_sample"], request.jump_n_sample.unwrap_or(0), 20, " times")?;
        let (prompts, batch) = (request.prompt.len().max(1), request.batch_size.unwrap_or(1));
        let pictures = prompts.saturating_mul(batch).max(request.seed.len()).max(request.class.len());
        most(&["batch_size"], pictures, self.pictures, " pictures at once")?;
        let texts = [
            ("prompt", &request.prompt),
            ("negative_prompt", &request.negative_prompt),
            ("prompt_2", &request.prompt_2),
            ("negative_prompt_2", &request.negative_prompt_2),
        ];
        for (field, texts) in texts {
            if let Some(text) = texts.iter().find(|text| text.len() > self.prompt || text.contains('\0')) {
                let why = match text.contains('\0') {
                    true => "it holds a character 0".to_owned(),
                    false => format!("it has {} bytes, this server takes at most {}", text.len(), self.prompt),
                };
                return Err(Refusal::of(field, why));
            }
        }
        Ok(())
    }

    /// Checks what a request turned out to mean: `size` is rows and columns.
    ///
    /// # Errors
    /// A refusal of more than this server takes.
    pub fn check_resolved(&self, resolved: &Resolved, size: Option<(usize, usize)>) -> Result<(), Refusal> {
        let (height, width) = size.map_or((None, None), |(height, width)| (Some(height), Some(width)));
        let request = Request {
            width: width.or(resolved.request.width),
            height: height.or(resolved.request.height),
            steps: Some(resolved.options.sampling.num_inference_steps),
            ..resolved.request.clone()
        };
        self.check(&request)
    }

    /// Looks at a picture's size in its header: a few bytes can stand for a picture that no memory holds.
    ///
    /// # Errors
    /// A refusal of one that is too large, and of what is no picture.
    pub fn check_picture(&self, field: &'static str, bytes: &[u8]) -> Result<()> {
        let (width, height) = dimensions(Path::new(field), bytes).map_err(|error| match error {
            Error::Unsupported(why) => Refusal::of(field, why.trim_start_matches(&format!("{field}: "))).into(),
            other => other,
        })?;
        let pixels = width as u64 * height as u64;
        if pixels > self.pixels as u64 {
            let why = format!("it has {width} x {height} pixels, this server takes at most {}", self.pixels);
            return Err(Refusal::of(field, why).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(has_word("a fox", "fox") && has_word("(fox:1.2)", "fox") && has_word("fox, fox-2", "fox-2"));
        assert!(!has_word("a foxglove", "fox") && !has_word("_fox", "fox"));
    }

    #[test]
    fn seeds_go_on() {
        assert_eq!(seeds(7, 3), [7, 8, 9]);
        assert_eq!(seeds(u64::MAX, 2), [u64::MAX, 0]);
        assert_eq!(seeds(1, 0), [1]);
    }
}
