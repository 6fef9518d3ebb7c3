//! Values that change nothing in a run. They are said, and no picture remembers them: someone who asks for them expects
//! another picture, and someone who reads them later would think that they made it.

use super::Request;
use super::layers::{Origin, Stack};
use crate::pipelines::{Kind, Traits};
use crate::schedulers::SchedulerClass;

/// What decides whether a value counts.
struct Run<'a> {
    model: &'a Traits,
    /// Complete.
    request: &'a Request,
    scheduler: SchedulerClass,
}

impl Run<'_> {
    /// Whether the class for "no class" is what the pictures show: of a model that would have none otherwise.
    fn shows_no_class(&self) -> bool {
        self.model.null_class().is_none() && self.request.class.is_empty()
    }

    /// Whether any picture is steered away from something.
    fn guided(&self) -> bool {
        !self.model.distilled && self.request.guidance_scale.iter().any(|scale| self.model.guides(*scale))
    }

    fn is_one_of(&self, classes: &[SchedulerClass]) -> bool {
        classes.contains(&self.scheduler)
    }
}

/// Fields, when they count, and why they do not otherwise.
type Rule = (&'static [&'static str], fn(&Run<'_>) -> bool, &'static str);

const RULES: &[Rule] = &[
    (
        &["negative_prompt", "negative_prompt_2", "guidance_rescale", "negative_aesthetic_score"],
        |run| run.guided(),
        "without guidance, which a `guidance_scale` above 1 makes of a model that is not distilled",
    ),
    (
        &["null_class"],
        |run| {
            let guided = run.guided() && !run.request.class.is_empty();
            run.model.kind != Kind::Pixels || guided || run.shows_no_class()
        },
        "without guidance of a class",
    ),
    (
        &["eta"],
        |run| run.is_one_of(&[SchedulerClass::Ddim, SchedulerClass::RePaint, SchedulerClass::Tcd]),
        "with this scheduler; of DDIM, RePaint and TCD it is the share of fresh noise",
    ),
    (
        &["jump_length", "jump_n_sample"],
        |run| run.is_one_of(&[SchedulerClass::RePaint]),
        "with this scheduler; RePaint goes back to more noise",
    ),
    (
        &["steps"],
        |run| !run.is_one_of(&[SchedulerClass::ProbabilityFlowRk45, SchedulerClass::ScoreSdeVpRk45]),
        "with this scheduler; RK45 chooses its steps by the error that `rtol` and `atol` in its config allow",
    ),
    (&["use_clipped_model_output"], |run| run.is_one_of(&[SchedulerClass::Ddim]), "with this scheduler; DDIM has it"),
];

/// Takes values out of `layers` that were asked for and change nothing, and says so, one sentence each.
pub(super) fn leave_out(layers: &mut Stack, model: &Traits, scheduler: SchedulerClass) -> Vec<String> {
    let request = layers.request();
    let run = Run { model, request: &request, scheduler };
    let mut said = Vec::new();
    for (fields, _, why) in RULES.iter().filter(|(_, counts, _)| !counts(&run)) {
        for field in *fields {
            if !matches!(layers.origin(field), Some(Origin::Asked | Origin::Picture)) {
                continue;
            }
            if layers.remove(field) {
                said.push(format!("`{field}` has no effect {why}"));
            }
        }
    }
    said
}
