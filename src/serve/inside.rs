//! What was recorded inside a job that asked for it, `POST /v1/jobs?inside=true`.

use serde_json::{Value, json};

use crate::generate::Inside;

/// As JSON: `steps`; `schedule`, for each step the `timestep` and the level of the noise before it; `frames`, after
/// some of the steps (`step` 0 is before the first) the first picture's x_t as `sample`, divided by √(signal² +
/// noise²) so that it can be shown, and the estimate of x_0 as `pred_original_sample`, each with the root of its
/// mean square, `sample_rms` as it was before that division; `words` of its prompt, and in each frame its
/// `attention`: where it looks at each of them, grey, and the share at the `peak`; `kernels`, the longest first.
pub fn json(inside: &Inside) -> Value {
    let seen = inside.lock();
    let schedule = seen.levels.iter().map(|(timestep, level)| {
        let (signal, noise) = (level.signal, level.noise);
        // Infinite where there is nothing to divide by: JSON has null for that.
        json!({
            "timestep": timestep,
            "alpha_bar": signal.powi(2) / (signal.powi(2) + noise.powi(2)),
            "sigma": noise / signal,
            "snr": (signal / noise).powi(2),
        })
    });
    let frames = seen.frames.iter().map(|frame| {
        let attention = frame.attention.iter().map(|map| json!({"map": map.picture, "peak": map.peak}));
        json!({
            "step": frame.done,
            "sample": frame.sample.picture,
            "sample_rms": frame.sample.rms,
            "pred_original_sample": frame.x0.as_ref().map(|x0| &x0.picture),
            "pred_original_sample_rms": frame.x0.as_ref().map(|x0| x0.rms),
            "attention": attention.collect::<Vec<_>>(),
        })
    });
    let mut kernels: Vec<_> = seen.kernels.iter().collect();
    kernels.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1));
    let kernels = kernels
        .into_iter()
        .map(|(kernel, (launches, seconds))| json!({"kernel": kernel, "launches": launches, "seconds": seconds}));
    json!({
        "steps": seen.total,
        "schedule": schedule.collect::<Vec<_>>(),
        "words": seen.words.iter().map(|(word, _)| word).collect::<Vec<_>>(),
        "frames": frames.collect::<Vec<_>>(),
        "kernels": kernels.collect::<Vec<_>>(),
        "untimed": seen.untimed,
    })
}
