//! What a file's name suggests about a distilled model. A name proves nothing, so it is only said.

use std::path::Path;

/// A kind of distilled model.
struct Distilled {
    /// What its files' names hold.
    word: &'static str,
    /// What it is called.
    name: &'static str,
    /// Steps, where the name does not say.
    steps: usize,
    /// The sampler it was made for, as its authors use it.
    scheduler: &'static str,
}

const DISTILLED: &[Distilled] = &[
    Distilled { word: "lightning", name: "SDXL-Lightning", steps: 4, scheduler: "Euler Trailing" },
    Distilled { word: "hyper", name: "Hyper-SD", steps: 8, scheduler: "DDIM Trailing" },
    Distilled { word: "turbo", name: "Turbo", steps: 4, scheduler: "Euler a Trailing" },
    Distilled { word: "lcm", name: "latent consistency", steps: 4, scheduler: "LCM" },
];

/// What the name of a file suggests of the fields that are `open`, in one sentence with fields in backticks.
pub fn of_name(path: &Path, open: &dyn Fn(&str) -> bool) -> Option<String> {
    let name = path.file_stem()?.to_str()?.to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    // As a word, or as the end of one: "sdxlturbo", but not "turbolence".
    let kind = DISTILLED.iter().find(|kind| words.iter().any(|word| word.ends_with(kind.word)))?;
    let settings = [
        ("steps", steps(&name).unwrap_or(kind.steps).to_string()),
        ("guidance_scale", "1".to_owned()),
        ("scheduler", format!("{:?}", kind.scheduler)),
    ];
    let settings: Vec<_> =
        settings.iter().filter(|(field, _)| open(field)).map(|(field, value)| format!("`{field}` {value}")).collect();
    (!settings.is_empty()).then(|| {
        format!("by its name {} is a {} model, which {} would suit", path.display(), kind.name, settings.join(" "))
    })
}

/// The number before "step": "lightning_8step", "Hyper-SDXL-4-steps".
fn steps(name: &str) -> Option<usize> {
    let before = name[..name.find("step")?].trim_end_matches(['-', '_', ' ']);
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    before[before.len() - digits..].parse().ok().filter(|steps| (1..=50).contains(steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_distilled_models_are_known() {
        let all = |_: &str| true;
        for (name, expected) in [
            ("sdxl_lightning_8step.safetensors", Some("`steps` 8 `guidance_scale` 1 `scheduler` \"Euler Trailing\"")),
            ("Hyper-SDXL-4-steps-lora.safetensors", Some("`steps` 4 `guidance_scale` 1 `scheduler` \"DDIM Trailing\"")),
            ("sd_xl_turbo_1.0_fp16.safetensors", Some("`steps` 4 `guidance_scale` 1 `scheduler` \"Euler a Trailing\"")),
            ("dreamshaperXL_sdxlTurbo.safetensors", Some("\"Euler a Trailing\"")),
            ("lcm-lora-sdv1-5.safetensors", Some("`scheduler` \"LCM\"")),
            ("sd_xl_base_1.0.safetensors", None),
            ("turbulence.safetensors", None),
            ("calcm8.safetensors", None),
        ] {
            let hint = of_name(Path::new(name), &all);
            assert_eq!(hint.is_some(), expected.is_some(), "{hint:?}");
            assert!(expected.is_none_or(|part| hint.as_ref().unwrap().contains(part)), "{hint:?}");
        }
        let some = of_name(Path::new("turbo.safetensors"), &|field| field == "steps");
        assert!(some.unwrap().ends_with("which `steps` 4 would suit"));
        assert_eq!(of_name(Path::new("turbo.safetensors"), &|_| false), None);
    }
}
