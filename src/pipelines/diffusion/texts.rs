//! The texts of a run, each once, and which of them the U-Net sees in which step.

use std::collections::HashMap;

use super::options::each;
use super::{DiffusionPipeline, SampleOptions};
use crate::prompt::EditedPrompt;
use crate::refusal::Refusal;
use crate::schedulers::StepNumbers;

/// A text for each of two text encoders.
type Pair = [String; 2];

/// Prompts for each of two text encoders: one for all pictures or one for each, or none.
type Prompts = [Vec<EditedPrompt>; 2];

/// The texts of a run.
#[derive(Debug, PartialEq)]
pub(super) struct Texts {
    /// What the pictures show, each text once.
    pub positive: Vec<Pair>,
    /// What they should not show, each text once.
    pub negative: Vec<Pair>,
    /// What steps see, each choice once.
    pub choices: Vec<Choice>,
    /// The choice that each call of the U-Net sees.
    pub of_calls: Vec<usize>,
}

/// For each picture its texts' places among [`Texts::positive`] and [`Texts::negative`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Choice {
    pub positive: Vec<usize>,
    pub negative: Vec<usize>,
}

impl DiffusionPipeline {
    /// Works out which texts a run needs, and when.
    ///
    /// # Errors
    /// As [`parse`] and [`crate::schedulers::Scheduler::schedule`].
    pub(super) fn texts(&self, options: &SampleOptions) -> crate::Result<Texts> {
        let sampling = self.traits.sampling(options, self.scheduler.config.class);
        let numbers = self.scheduler.step_numbers(&sampling)?;
        let list = |field, texts: &[String]| parse(field, texts, options.weighting);
        let positive = [list("prompt", &options.prompts)?, list("prompt_2", &options.prompts_2)?];
        let (first, second) = (&options.negative_prompts, &options.negative_prompts_2);
        let negative = [list("negative_prompt", first)?, list("negative_prompt_2", second)?];
        Ok(Texts::new(&positive, &negative, options.batch_size, &numbers))
    }
}

/// The prompts of a field; without `weighting`, brackets are text.
///
/// # Errors
/// As [`EditedPrompt::parse`], as a refusal of the field.
pub(super) fn parse(field: &'static str, texts: &[String], weighting: bool) -> Result<Vec<EditedPrompt>, Refusal> {
    let one = |text: &String| match weighting {
        true => EditedPrompt::parse(text).map_err(|why| Refusal::of(field, why)),
        false => Ok(EditedPrompt::plain(text)),
    };
    texts.iter().map(one).collect()
}

impl Texts {
    fn new(positive: &Prompts, negative: &Prompts, batch: usize, numbers: &StepNumbers) -> Self {
        let changes = [positive, negative].into_iter().flatten().flatten().any(EditedPrompt::changes);
        let (mut positives, mut negatives, mut choices) = (Places::default(), Places::default(), Places::default());
        let mut of_calls = vec![0; numbers.of_calls.len()];
        for call in 0..of_calls.len() {
            let step = numbers.of_calls[call];
            of_calls[call] = if call > 0 && (!changes || step == numbers.of_calls[call - 1]) {
                of_calls[call - 1]
            } else {
                let at = |prompts: &Prompts| pairs(prompts, |prompt| prompt.at(step, numbers.total));
                choices.of(Choice {
                    positive: each(&positives.of_all(at(positive)), batch),
                    negative: each(&negatives.of_all(at(negative)), batch),
                })
            };
        }
        Self { positive: positives.all, negative: negatives.all, choices: choices.all, of_calls }
    }

    /// How many texts there are of the kind of which there are more.
    pub fn most(&self) -> usize {
        self.positive.len().max(self.negative.len())
    }
}

/// The texts of one step: without a first list the empty text, without a second list the first again.
fn pairs(prompts: &Prompts, at: impl Fn(&EditedPrompt) -> String) -> Vec<Pair> {
    let [mut first, mut second] = prompts.each_ref().map(|list| list.iter().map(&at).collect::<Vec<_>>());
    if first.is_empty() {
        first.push(String::new());
    }
    if second.is_empty() {
        second.clone_from(&first);
    }
    let longest = first.len().max(second.len());
    std::iter::zip(each(&first, longest), each(&second, longest)).map(|(first, second)| [first, second]).collect()
}

/// Things in the order in which they were first met, each once.
struct Places<T> {
    all: Vec<T>,
    places: HashMap<T, usize>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { all: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Places<T> {
    fn of(&mut self, thing: T) -> usize {
        *self.places.entry(thing).or_insert_with_key(|thing| {
            self.all.push(thing.clone());
            self.all.len() - 1
        })
    }

    fn of_all(&mut self, things: Vec<T>) -> Vec<usize> {
        things.into_iter().map(|thing| self.of(thing)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(positive: [&[&str]; 2], negative: &[&str], batch: usize, of_calls: &[usize]) -> Texts {
        let list = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            parse("prompt", &texts, true).expect("sound")
        };
        let numbers = StepNumbers { of_calls: of_calls.to_vec(), total: 4 };
        Texts::new(&positive.map(list), &[list(negative), vec![]], batch, &numbers)
    }

    fn pair(first: &str, second: &str) -> Pair {
        [first.to_owned(), second.to_owned()]
    }

    #[test]
    fn each_text_is_there_once() {
        let found = texts([&["a fox"], &[]], &[], 3, &[1, 2, 3, 4]);
        let choice = Choice { positive: vec![0; 3], negative: vec![0; 3] };
        let expected = Texts {
            positive: vec![pair("a fox", "a fox")],
            negative: vec![pair("", "")],
            choices: vec![choice],
            of_calls: vec![0; 4],
        };
        assert_eq!(found, expected);

        // Two pictures, of which the second changes in every step, and what neither should show changes once.
        let found = texts([&["fox", "[cow|fox]"], &["x"]], &["[y::0.5]"], 2, &[1, 1, 2, 2, 3, 4]);
        assert_eq!(found.positive, [pair("fox", "x"), pair("cow", "x")]);
        assert_eq!(found.negative, [pair("y", "y"), pair("", "")]);
        let choices: Vec<_> = found.choices.iter().map(|c| (c.positive.as_slice(), c.negative.as_slice())).collect();
        let expected: [(&[usize], &[usize]); 4] =
            [(&[0, 1], &[0, 0]), (&[0, 0], &[0, 0]), (&[0, 1], &[1, 1]), (&[0, 0], &[1, 1])];
        assert_eq!(choices, expected);
        assert_eq!(found.of_calls, [0, 0, 1, 1, 2, 3]);
    }

    #[test]
    fn a_refusal_names_its_field() {
        let deep = "[".repeat(99) + &":1]".repeat(99);
        let refusal = parse("negative_prompt", std::slice::from_ref(&deep), true).expect_err("too deep");
        assert_eq!(refusal.field, "negative_prompt");
        assert!(parse("prompt", &[deep], false).is_ok());
    }
}
