//! Samplers and schedules of other programs by this one's names.

use crate::schedulers::{SchedulerConfig, scheduler_by_name};

/// A name for `--scheduler`, and what could not be taken.
pub fn find(sampler: &str, schedule: Option<&str>) -> (Option<String>, Option<String>) {
    // Whether there is such a sampler does not depend on the model, unless it is trained in EDM's frame.
    let any = SchedulerConfig::from_json(r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": true}"#);
    let known = |name: &str| any.as_ref().is_ok_and(|any| scheduler_by_name(name, any).is_ok());
    let both = schedule.map(|schedule| format!("{sampler} {schedule}"));
    match both {
        Some(both) if known(&both) => (Some(both), None),
        _ if !known(sampler) => {
            (None, Some(format!("Sampler: {sampler} (there is no such scheduler; the model's own takes its place)")))
        }
        _ => {
            let left_out = schedule.map(|schedule| format!("Schedule type: {schedule} ({sampler} has none such)"));
            (Some(sampler.to_owned()), left_out)
        }
    }
}

/// The schedule that AUTOMATIC1111's web UI takes for a sampler by itself; `None` for those that have none.
pub fn automatic(sampler: &str) -> Option<&'static str> {
    match sampler {
        "DDIM" | "PLMS" | "UniPC" | "LCM" | "DDPM" | "TCD" => None,
        "DPM++ 2M" | "DPM++ SDE" | "DPM++ 2S a" | "DPM2" | "DPM2 a" | "Restart" => Some("Karras"),
        "DPM++ 2M SDE" | "DPM++ 2M SDE Heun" | "DPM++ 3M SDE" => Some("Exponential"),
        _ => Some("Uniform"),
    }
}
