//! What a file says of itself: `modelspec.*` in its metadata
//! (<https://github.com/Stability-AI/ModelSpec>), as kohya's scripts, SwarmUI and others write it.

use std::collections::BTreeMap;

use super::{Assumption, Family};
use crate::checkpoint::quoted;

/// The statements that are obeyed. What the tensors show goes before.
#[derive(Debug, Default)]
pub(super) struct Stated {
    /// `modelspec.architecture` as it was written, and the family that it names.
    architecture: Option<(String, Family)>,
    /// `modelspec.prediction_type`, or what the architecture's name says, and where it was said.
    pub prediction_type: Option<(&'static str, &'static str)>,
    /// `modelspec.timestep_range`, where it is not all of them: the first and the last timestep.
    pub timestep_range: Option<(usize, usize)>,
    /// `modelspec.resolution`: width and height in pixels.
    pub resolution: Option<(usize, usize)>,
}

/// The architectures' names, and what models of them predict where the name says it.
const ARCHITECTURES: &[(&str, Family, Option<&str>)] = &[
    ("stable-diffusion-v1", Family::Sd1, None),
    ("stable-diffusion-v2-768-v", Family::Sd2, Some("v_prediction")),
    ("stable-diffusion-v2-512", Family::Sd2, Some("epsilon")),
    ("stable-diffusion-xl-v1-base", Family::Xl, None),
    ("stable-diffusion-xl-v1-refiner", Family::Refiner, None),
];

impl Stated {
    pub fn of(metadata: &BTreeMap<String, String>) -> Self {
        let get = |name: &str| metadata.get(&format!("modelspec.{name}")).map(|text| text.trim());
        let architecture = get("architecture");
        let known = architecture.and_then(|name| ARCHITECTURES.iter().find(|(known, ..)| name == *known));
        let prediction_type = match get("prediction_type") {
            Some("epsilon" | "eps") => Some(("epsilon", "modelspec.prediction_type")),
            Some("v" | "v_prediction" | "v-prediction") => Some(("v_prediction", "modelspec.prediction_type")),
            _ => known.and_then(|(.., prediction)| Some(((*prediction)?, "modelspec.architecture"))),
        };
        let pair = |text: &str, separator: char| {
            let (first, second) = text.split_once(separator)?;
            Some((first.trim().parse::<usize>().ok()?, second.trim().parse::<usize>().ok()?))
        };
        let timestep_range = get("timestep_range").and_then(|text| pair(text, ','));
        let some = |&(first, last): &(usize, usize)| first < last && last <= 1000 && (first > 0 || last < 999);
        let resolution = get("resolution").and_then(|text| pair(text, 'x'));
        let usable = |&(width, height): &(usize, usize)| {
            [width, height].into_iter().all(|side| (64..=4096).contains(&side) && side.is_multiple_of(8))
        };
        Self {
            architecture: known.map(|(name, family, _)| ((*name).to_owned(), *family)),
            prediction_type,
            timestep_range: timestep_range.filter(some),
            resolution: resolution.filter(usable),
        }
    }

    /// Where the file's own words do not fit its tensors, and what follows from them that the user should know.
    pub fn doubts(&self, family: Family) -> Vec<Assumption> {
        let mut doubts = Vec::new();
        if let Some((name, stated)) = &self.architecture
            && *stated != family
        {
            let what = format!(
                "the model is what its tensors show, {}, though its metadata call it {}",
                family.name(),
                quoted(name)
            );
            doubts.push(Assumption { what, field: None });
        }
        if let Some((first, last)) = self.timestep_range {
            let what = format!("the U-Net knows the timesteps {first} to {last} only (modelspec.timestep_range)");
            doubts.push(Assumption { what, field: None });
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(entries: &[(&str, &str)]) -> Stated {
        let entries = entries.iter().map(|(name, text)| (format!("modelspec.{name}"), (*text).to_owned()));
        Stated::of(&entries.collect())
    }

    #[test]
    fn what_is_stated_is_understood_and_what_makes_no_sense_is_left() {
        assert_eq!(stated(&[("prediction_type", "v")]).prediction_type.unwrap().0, "v_prediction");
        assert_eq!(stated(&[("prediction_type", "epsilon")]).prediction_type.unwrap().0, "epsilon");
        assert!(stated(&[("prediction_type", "?")]).prediction_type.is_none());
        assert_eq!(
            stated(&[("architecture", "stable-diffusion-v2-768-v")]).prediction_type,
            Some(("v_prediction", "modelspec.architecture"))
        );
        assert_eq!(stated(&[("timestep_range", "0,200")]).timestep_range, Some((0, 200)));
        for all in ["0,1000", "0,999", "200,100", "0,2000", "-1,5", "0", "a,b"] {
            assert_eq!(stated(&[("timestep_range", all)]).timestep_range, None, "{all}");
        }
        assert_eq!(stated(&[("resolution", "1152x896")]).resolution, Some((1152, 896)));
        for odd in ["0x0", "513x512", "99999x512", "1024"] {
            assert_eq!(stated(&[("resolution", odd)]).resolution, None, "{odd}");
        }
    }

    #[test]
    fn a_name_that_does_not_fit_is_doubted() {
        let xl = stated(&[("architecture", "stable-diffusion-xl-v1-base")]);
        assert!(xl.doubts(Family::Xl).is_empty());
        let [doubt] = xl.doubts(Family::Sd1).try_into().unwrap();
        assert!(doubt.what.contains("Stable Diffusion 1") && doubt.what.contains("stable-diffusion-xl-v1-base"));
    }
}
