//! What other programs call their samplers, and which scheduler and options each name means.

use serde_json::{Map, Value};

use super::config::SchedulerConfig;
use super::options::{
    Frame, Named,
    SchedulerClass::{self, *},
    SigmaSchedule, SigmaSpacing, TimestepSpacing,
};
use crate::Result;
use crate::refusal::Refusal;

/// Samplers: every name, in the spelling of its program (AUTOMATIC1111's web UI first, then ComfyUI), the scheduler,
/// and the config keys that it implies. The correspondence is that of diffusers' documentation, except that DPM++ SDE
/// is the stochastic solver that it is in those programs. (ComfyUI's `ipndm` is not diffusers' IPNDM: it is for models
/// of another kind.)
const SAMPLERS: &[(&[&str], SchedulerClass, &str)] = &[
    (&["DDPM"], Ddpm, "{}"),
    (&["DDIM"], Ddim, "{}"),
    (&["PLMS", "PNDM"], Pndm, r#"{"skip_prk_steps": true}"#),
    (&["LMS"], LmsDiscrete, "{}"),
    (&["Euler"], EulerDiscrete, "{}"),
    (&["Euler a", "euler_ancestral"], EulerAncestralDiscrete, "{}"),
    (&["Heun"], HeunDiscrete, "{}"),
    (&["DPM2", "dpm_2"], Kdpm2Discrete, "{}"),
    (&["DPM2 a", "dpm_2_ancestral"], Kdpm2AncestralDiscrete, "{}"),
    (&["DPM++ 2M", "dpmpp_2m"], DpmSolverMultistep, r#"{"algorithm_type": "dpmsolver++"}"#),
    (
        &["DPM++ 2M SDE", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu"],
        DpmSolverMultistep,
        r#"{"algorithm_type": "sde-dpmsolver++"}"#,
    ),
    (
        &["DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"],
        DpmSolverMultistep,
        r#"{"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}"#,
    ),
    (&["DPM++ 3M", "dpmpp_3m"], DpmSolverMultistep, r#"{"algorithm_type": "dpmsolver++", "solver_order": 3}"#),
    (
        &["DPM++ 3M SDE", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu"],
        DpmSolverMultistep,
        r#"{"algorithm_type": "sde-dpmsolver++", "solver_order": 3}"#,
    ),
    (&["DPM++ 2S", "dpmpp_2s"], DpmSolverSinglestep, r#"{"algorithm_type": "dpmsolver++"}"#),
    (&["DPM++ SDE", "dpmpp_sde", "dpmpp_sde_gpu"], DpmSolverSde, "{}"),
    (&["UniPC", "uni_pc", "uni_pc_bh2"], UniPcMultistep, r#"{"solver_type": "bh2"}"#),
    (&["DEIS"], DeisMultistep, r#"{"algorithm_type": "deis"}"#),
    (&["SA-Solver", "sa_solver"], SaSolver, r#"{"algorithm_type": "data_prediction"}"#),
    (&["LCM"], Lcm, "{}"),
    (&["TCD"], Tcd, "{}"),
];

/// Schedules, which may follow a sampler's name, and the config keys that they imply.
const SCHEDULES: &[(&[&str], &str)] = &[
    (&["Karras"], r#"{"use_karras_sigmas": true}"#),
    (&["Exponential"], r#"{"use_exponential_sigmas": true, "timestep_spacing": "linspace"}"#),
    (&["Beta"], r#"{"use_beta_sigmas": true, "timestep_spacing": "linspace"}"#),
    (&["SGM Uniform", "Simple", "Trailing"], r#"{"timestep_spacing": "trailing"}"#),
    (&["DDIM Uniform", "DDIM", "Leading"], r#"{"timestep_spacing": "leading"}"#),
    (&["Normal", "Uniform", "Linspace"], r#"{"timestep_spacing": "linspace"}"#),
];

/// The samplers: the name and other names of each.
pub fn samplers() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    SAMPLERS.iter().map(|(names, _, _)| (names[0], &names[1..]))
}

/// Names of the samplers for models of this frame.
pub fn samplers_of(frame: Frame) -> Vec<&'static str> {
    match own(frame) {
        Some((_, samplers)) => samplers.iter().map(|(name, _)| *name).collect(),
        None => samplers().map(|(name, _)| name).collect(),
    }
}

/// The schedules that may follow a sampler's name.
pub fn schedules() -> impl Iterator<Item = &'static str> {
    SCHEDULES.iter().map(|(names, _)| names[0])
}

/// Names of samplers, and the scheduler that each means.
type Samplers = &'static [(&'static str, SchedulerClass)];

/// Samplers of models that have noise levels of their own, and what those models were trained on.
const OWN_SAMPLERS: &[(Frame, &str, Samplers)] = &[
    (Frame::Edm, "EDM's noise levels", &[("Euler", EdmEuler), ("DPM++ 2M", EdmDpmSolverMultistep), ("Heun", EdmHeun)]),
    (
        Frame::Score,
        "noise without end, of which it returns the score",
        &[
            ("Predictor-corrector", ScoreSdeVe),
            ("Heun", ProbabilityFlow),
            ("RK45", ProbabilityFlowRk45),
            ("Langevin", AnnealedLangevin),
            ("Karras VE", KarrasVe),
        ],
    ),
    (
        Frame::VariancePreserving,
        "a continuous time of noise that preserves the variance",
        &[("ScoreSdeVpScheduler", ScoreSdeVp), ("RK45", ScoreSdeVpRk45)],
    ),
    (Frame::ContinuousTime, "a continuous time from 0 to 1", &[("IPNDMScheduler", Ipndm)]),
    (Frame::Flow, "a flow", &[("Euler", FlowMatchEulerDiscrete), ("Heun", FlowMatchHeunDiscrete)]),
    (Frame::Consistency, "jumps from noise levels", &[("CMStochasticIterativeScheduler", CmStochasticIterative)]),
];

/// What the models of a frame were trained on, and their samplers; `None` for timesteps.
fn own(frame: Frame) -> Option<(&'static str, Samplers)> {
    OWN_SAMPLERS.iter().find(|(of, ..)| *of == frame).map(|(_, trained_on, samplers)| (*trained_on, *samplers))
}

/// Refuses a scheduler whose samples the model does not understand.
fn check_frame(name: &str, class: SchedulerClass, base: &SchedulerConfig) -> Result<()> {
    if class.frame() == base.class.frame() {
        return Ok(());
    }
    let why = match (own(base.class.frame()), own(class.frame())) {
        (Some((trained_on, samplers)), _) => {
            let names: Vec<_> = samplers.iter().map(|(name, _)| *name).collect();
            let there = match &names[..] {
                [only] => format!("is {only}"),
                [others @ .., last] => format!("are {} and {last}", others.join(", ")),
                [] => unreachable!("every frame has a sampler"),
            };
            format!("this model was trained on {trained_on}, for which there {there}")
        }
        (None, trained) => {
            let trained_on = trained.map_or("timesteps", |(trained_on, _)| trained_on);
            format!("it is for models trained on {trained_on}, and this one counts timesteps")
        }
    };
    Err(Refusal::of_value("scheduler", format!("{name:?}"), why).into())
}

/// The config of the scheduler that a user asks for by name, for the model that `base` belongs to: its betas,
/// prediction type and other keys stay (as in diffusers' `from_config`), the keys that the name implies are set.
///
/// A name is a class of diffusers ("EulerDiscreteScheduler") or a sampler of AUTOMATIC1111's web UI or ComfyUI ("DPM++
/// 2M", "euler_ancestral"), and a sampler may be followed by a schedule ("DPM++ 2M Karras"). Case, spaces and
/// punctuation do not matter.
///
/// # Errors
/// A refusal listing all names, if there is no such scheduler; the errors of [`SchedulerConfig::with_class`] if
/// this scheduler cannot serve the model.
pub fn scheduler_by_name(name: &str, base: &SchedulerConfig) -> Result<SchedulerConfig> {
    let wanted = plain(name);
    // RePaint is no sampler of those programs, which paint into latents.
    let is = |class: &str| plain(class) == wanted || (class == RePaint.name() && wanted == "repaint");
    if let Some((class, _)) = SchedulerClass::ALL.iter().find(|(_, class)| is(class)) {
        check_frame(name, *class, base)?;
        return base.with_class(*class, &[]);
    }
    if let Some((_, samplers)) = own(base.class.frame())
        && let Some((_, class)) = samplers.iter().find(|(sampler, _)| plain(sampler) == wanted)
    {
        return base.with_class(*class, &[]);
    }
    for (names, class, keys) in SAMPLERS {
        for sampler in *names {
            let Some(rest) = wanted.strip_prefix(&plain(sampler)) else { continue };
            check_frame(name, *class, base)?;
            let mut overrides = parse(keys);
            if !rest.is_empty() {
                let schedule = SCHEDULES.iter().find(|(names, _)| names.iter().any(|name| plain(name) == rest));
                let Some((schedule, keys)) = schedule else { continue };
                let keys = parse(keys);
                if let Some((key, _)) = keys.iter().find(|(key, _)| !class.reads(key)) {
                    let why = format!("{} has no schedule {} (\"{key}\")", class.name(), schedule[0]);
                    return Err(Refusal::of_value("scheduler", format!("{name:?}"), why).into());
                }
                // A schedule replaces the one that the model's config may ask for.
                let spacings = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"];
                overrides.extend(spacings.map(|key| (key, Value::Bool(false))).map(|(key, off)| (key.to_owned(), off)));
                overrides.extend(keys);
            }
            let overrides: Vec<(&str, Value)> =
                overrides.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            return base.with_class(*class, &overrides);
        }
    }
    let samplers: Vec<_> = SAMPLERS.iter().map(|(names, ..)| names[0]).collect();
    let schedules: Vec<_> = SCHEDULES.iter().map(|(names, _)| names[0]).collect();
    let why = format!(
        "no such scheduler; there are {}; each may be followed by one of {}; diffusers' class names work too",
        samplers.join(", "),
        schedules.join(", ")
    );
    Err(Refusal::of_value("scheduler", format!("{name:?}"), why).into())
}

/// What AUTOMATIC1111's web UI calls a scheduler: the sampler, and its schedule where that has one. A scheduler that it
/// does not know has its name in other programs, or in diffusers.
pub fn sampler_of(config: &SchedulerConfig) -> (&'static str, Option<&'static str>) {
    let solver = |config: &SchedulerConfig| (config.algorithm_type, config.solver_type, config.solver_order);
    let is_this = |keys: &str| {
        let mut keys = parse(keys);
        keys.insert("_class_name".to_owned(), config.class.name().into());
        let named = SchedulerConfig::from_json(&Value::Object(keys).to_string());
        named.is_ok_and(|named| solver(&named) == solver(config))
    };
    let frame = config.class.frame();
    let own = own(frame).and_then(|(_, samplers)| samplers.iter().find(|(_, class)| *class == config.class));
    let own = own.map(|(name, _)| *name);
    let named = SAMPLERS.iter().find(|(_, class, keys)| *class == config.class && is_this(keys));
    let sampler = own.or(named.map(|(names, ..)| names[0])).unwrap_or(config.class.name());
    // Samplers that choose timesteps themselves have no schedule there.
    let has_schedule = !matches!(config.class, Ddpm | Ddim | DdimInverse | Pndm | UniPcMultistep | RePaint | Lcm | Tcd);
    let schedule = match (config.sigma_spacing, config.timestep_spacing, config.sigma_schedule) {
        (_, _, SigmaSchedule::Exponential) if frame == Frame::Edm => Some("Exponential"),
        _ if frame == Frame::Edm => Some("Karras"),
        (SigmaSpacing::Karras, ..) => Some("Karras"),
        (SigmaSpacing::Exponential, ..) => Some("Exponential"),
        (SigmaSpacing::Beta, ..) => Some("Beta"),
        (SigmaSpacing::Lu, ..) => None,
        _ if frame != Frame::Timesteps => None,
        (_, TimestepSpacing::Linspace, _) => has_schedule.then_some("Uniform"),
        (_, TimestepSpacing::Leading, _) => has_schedule.then_some("DDIM"),
        (_, TimestepSpacing::Trailing, _) => has_schedule.then_some("SGM Uniform"),
    };
    (sampler, schedule)
}

/// A name without what programs spell differently: "DPM++ 2M Karras" and "dpmpp_2m_karras" are the same.
fn plain(name: &str) -> String {
    let name = name.to_lowercase().replace("++", "pp");
    name.chars().filter(|c| c.is_alphanumeric()).collect()
}

fn parse(keys: &str) -> Map<String, Value> {
    serde_json::from_str(keys).expect("the tables hold JSON objects")
}
