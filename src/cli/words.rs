//! The command line's words for the fields of a request: the only place where a field becomes a flag.

use crate::refusal::quoted;
use crate::request::Request;

/// The flag that gives a field.
pub fn flag(field: &str) -> String {
    match field {
        "prompt" => "PROMPT".to_owned(),
        _ => format!("--{}", field.replace('_', "-")),
    }
}

/// A text of the library with flags in place of the fields that it names in backticks. Only for texts whose backticks
/// hold nothing else: documentation of fields, and assumptions about a model.
pub fn in_flags(text: &str) -> String {
    Request::fields().iter().fold(text.to_owned(), |text, field| text.replace(&quoted(field), &flag(field)))
}

/// Names flags instead of fields in the help of all commands, and lets all of their values be negative.
pub fn with_flags_in_help(mut command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |command| {
            command.mut_args(|mut arg| {
                if let Some(help) = arg.get_help().map(ToString::to_string).filter(|help| help.contains('`')) {
                    arg = arg.help(in_flags(&help));
                }
                // What begins with a hyphen and is a number is no flag: whoever reads the value says what it may be.
                let takes_value = arg.get_action().takes_values() && arg.get_long().is_some();
                if takes_value { arg.allow_negative_numbers(true) } else { arg }
            })
        });
    }
    command
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::{Cli, Command};

    /// A value for every field, as a command line gives it.
    const EVERYTHING: &[&str] = &[
        "a fox",
        "--negative-prompt=fog",
        "--prompt-2=in the forest",
        "--negative-prompt-2=snow",
        "--weighting",
        "--clip-skip=1",
        "--class=7,9",
        "--null-class=10",
        "--classifier=classifier.safetensors",
        "--classifier-scale=2.5",
        "--model=models/fox",
        "--unet=unet.safetensors",
        "--vae=vae",
        "--text-encoder=clip_l.safetensors",
        "--text-encoder-2=clip_g.safetensors",
        "--lora-dir=loras",
        "--variant=fp16",
        "--lora=a.safetensors:0.5",
        "--lora=b.safetensors",
        "--embedding=word.safetensors:word",
        "--scheduler-config=scheduler_config.json",
        "--ignore-unused=control.*",
        "--prediction-type=v_prediction",
        "--refiner=models/refiner",
        "--refiner-lora=detail.safetensors:0.5",
        "--precision=f16",
        "--vae-tiling=512",
        "--seed=18446744073709551615,1",
        "--rng=torch-cuda",
        "--steps=25",
        "--timesteps=22,0",
        "--scheduler=DPM++ 2M Karras",
        "--jump-length=5",
        "--jump-n-sample=3",
        "--eta=0.1",
        "--use-clipped-model-output=off",
        "--guidance-scale=7.5,0.1",
        "--guidance-rescale=0.7",
        "--image-guidance-scale=1.5",
        "--denoising-start=0.3",
        "--denoising-end=0.8",
        "--image=start.png",
        "--mask=mask.png",
        "--mask-reading=erased",
        "--mask-blur=2.5",
        "--padding-mask-crop=8",
        "--strength=0.6",
        "--noise-level=30",
        "--latents=latents.safetensors",
        "--batch-size=2",
        "--width=768",
        "--height=512",
        "--separate",
        "--original-size=1024x768",
        "--crop=64,0",
        "--target-size=512x256",
        "--aesthetic-score=7",
        "--negative-aesthetic-score=2",
        "--device=reference",
        "--force=conv2d=naive",
        "--tuned=tuned.json",
        "--family=cpu",
        "--disable-pass=qkv",
        "--max-memory=0.3",
    ];

    fn request(args: &[&str]) -> Request {
        match Cli::parse_from([&["unmist", "sample"], args].concat()).command {
            Command::Sample(args) => args.request,
            _ => unreachable!("the command line says sample"),
        }
    }

    #[test]
    fn every_field_goes_from_flag_to_json_and_back() {
        let all = request(EVERYTHING);
        let json = all.to_json().expect("plain names and finite numbers");
        for field in Request::fields() {
            let value = json.get(&field).or_else(|| json["device"].get(&field));
            assert!(value.is_some(), "{field} is missing: give it above, and see that it reaches the JSON: {json}");
        }
        let text = json.to_string();
        let back: Request = serde_json::from_str(&text).expect("the fields' own JSON");
        assert_eq!(back, all);
        assert_eq!(serde_json::from_str::<Request>("{}").expect("nothing is asked for"), Request::default());
        assert_eq!(request(&[]), Request::default(), "every default is absent");
        assert_eq!(Request::default().to_json(), Ok(serde_json::json!({})));
        let unknown = serde_json::from_str::<Request>(r#"{"colour": 3}"#).expect_err("there is no such field");
        assert!(unknown.to_string().contains("colour"), "{unknown}");

        // One at a time, each flag sets its own field and no other.
        for arg in EVERYTHING {
            let Some((flag, _)) = arg.strip_prefix("--").map(|flag| flag.split_once('=').unwrap_or((flag, ""))) else {
                continue;
            };
            let one = request(&[arg]).to_json().expect("as above");
            let inner = one.get("device").unwrap_or(&one);
            let keys: Vec<_> = inner.as_object().expect("an object").keys().collect();
            assert_eq!(keys, [&flag.replace('-', "_")], "{arg}");
        }
    }

    /// A name that cannot be written as JSON is refused, whichever option it is given to.
    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf_8_are_refused() {
        use std::ffi::{OsStr, OsString};
        use std::os::unix::ffi::OsStrExt;
        let mut refused = 0;
        for field in Request::fields().iter().filter(|field| *field != "prompt") {
            let name = OsStr::from_bytes(b"a\xff").to_owned();
            let line: [OsString; 4] = ["unmist".into(), "sample".into(), flag(field).into(), name];
            // Options that are no paths do not take it.
            let Ok(Cli { command: Command::Sample(args) }) = Cli::try_parse_from(line) else { continue };
            let refusal = args.request.check().expect_err(field);
            assert_eq!(refusal.field, field);
            refused += 1;
        }
        assert!(refused > 10, "only {refused} options take paths");
    }

    #[test]
    fn every_field_has_its_flag() {
        let cli = Cli::command();
        let sample = cli.find_subcommand("sample").expect("there is such a command");
        let flags: Vec<_> = sample.get_arguments().filter_map(|arg| arg.get_long()).map(|f| format!("--{f}")).collect();
        for field in Request::fields() {
            assert!(field == "prompt" || flags.contains(&flag(&field)), "{field} has no flag");
        }
    }

    #[test]
    fn help_speaks_of_flags() {
        let mut cli = with_flags_in_help(Cli::command());
        let sample = cli.find_subcommand_mut("sample").expect("there is such a command");
        let help = sample.render_long_help().to_string();
        assert!(help.contains("With --image or --latents: the share"), "{help}");
        for field in Request::fields() {
            assert!(!help.contains(&format!("`{field}`")), "{field} in {help}");
        }
    }
}
