//! Settings of kernels: tile sizes, splits, unrollings, by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// One setting of a kernel: a number for each of its knobs, e.g. `SPLITS=4 TILE=64`; empty for kernels without any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Knobs(BTreeMap<Cow<'static, str>, usize>);

impl Knobs {
    /// The setting with these numbers.
    pub fn of<const N: usize>(numbers: [(&'static str, usize); N]) -> Self {
        Self(numbers.into_iter().map(|(name, number)| (name.into(), number)).collect())
    }

    /// Every combination of these numbers.
    pub fn combinations(lists: &[(&'static str, &[usize])]) -> Vec<Self> {
        let mut all = vec![Self::default()];
        for (name, numbers) in lists {
            let with = |knobs: &Self, number: usize| {
                let mut knobs = knobs.clone();
                knobs.0.insert((*name).into(), number);
                knobs
            };
            all = all.iter().flat_map(|knobs| numbers.iter().map(move |n| with(knobs, *n))).collect();
        }
        all
    }

    /// Parses `TILE=64,SPLITS=4`.
    ///
    /// # Errors
    /// The part that is not of the form `NAME=NUMBER`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let (name, number) = part.split_once('=')?;
            Some((Cow::Owned(name.trim().to_owned()), number.trim().parse().ok()?))
        };
        let parts =
            text.split(',').map(|part| number(part).ok_or_else(|| format!("expected NAME=NUMBER, found {part}")));
        Ok(Self(parts.collect::<Result<_, _>>()?))
    }

    /// The number of `name`.
    ///
    /// # Panics
    /// If there is none: a variant is only lowered with a setting that it lists itself.
    pub fn get(&self, name: &str) -> usize {
        self.find(name).expect("a variant is lowered with one of the settings it lists")
    }

    /// The number of `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.0.get(name).copied()
    }

    /// True for kernels without knobs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and numbers, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(name, number)| (name.as_ref(), *number))
    }

    /// How many of the knobs that both have differ.
    pub fn distance(&self, other: &Self) -> usize {
        self.iter().filter(|(name, number)| other.find(name).is_some_and(|n| n != *number)).count()
    }

    /// Whether every knob of `wanted` has the same number here.
    pub fn include(&self, wanted: &Self) -> bool {
        wanted.iter().all(|(name, number)| self.find(name) == Some(number))
    }
}

impl fmt::Display for Knobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.iter().map(|(name, number)| format!("{name}={number}")).collect();
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_parse_print_and_combine() {
        let knobs = Knobs::parse("TILE=64, SPLITS=4").expect("well-formed");
        assert_eq!(knobs, Knobs::of([("TILE", 64), ("SPLITS", 4)]));
        assert_eq!(knobs.to_string(), "SPLITS=4 TILE=64");
        assert!(Knobs::parse("TILE").is_err() && Knobs::parse("TILE=x").is_err());
        let json = serde_json::to_string(&knobs).expect("plain data");
        assert_eq!(json, r#"{"SPLITS":4,"TILE":64}"#);
        assert_eq!(serde_json::from_str::<Knobs>(&json).expect("just written"), knobs);
        let all = Knobs::combinations(&[("A", &[1, 2]), ("B", &[3, 4, 5])]);
        assert_eq!((all.len(), all[4].to_string()), (6, "A=2 B=4".into()));
        assert!(all[4].include(&Knobs::of([("B", 4)])) && !all[4].include(&Knobs::of([("C", 4)])));
        assert_eq!(all[0].distance(&all[5]), 2);
    }
}
