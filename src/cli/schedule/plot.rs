//! The plot: β, ᾱ, SNR and σ over the trained timesteps, with what a run visits as dots. Of models that count no
//! timesteps, the levels of a run over its calls.

use super::{Level, Shown};
use crate::cli::panels::{self, Panel};

/// The drawing.
pub fn svg(shown: &Shown) -> String {
    let counted = !shown.trained.is_empty();
    let over = if counted { "timestep" } else { "call of the model" };
    let panel = |title, logarithmic, of: fn(&Level) -> f64| {
        let place = |(i, call): (usize, &super::Call)| if counted { call.timestep } else { (i + 1) as f64 };
        let dots: Vec<_> = shown.run.iter().enumerate().map(|(i, call)| (place((i, call)), of(&call.level))).collect();
        let line = match counted {
            true => shown.trained.iter().map(|trained| (trained.timestep as f64, of(&trained.level))).collect(),
            false => dots.clone(),
        };
        Panel { title, logarithmic, line, dots }
    };
    let mut panels = vec![
        panel("ᾱ, the picture's share of the variance", false, |level| level.alpha_bar),
        panel("SNR = signal² / noise²", true, |level| level.snr),
        panel("σ = noise / signal", true, |level| level.sigma),
    ];
    if counted {
        let line = shown.trained.iter().map(|trained| (trained.timestep as f64, trained.beta)).collect();
        panels.insert(0, Panel { title: "β", logarithmic: false, line, dots: vec![] });
    }
    let class = shown.class();
    let heading = format!("{class}, a run of {} calls", shown.run.len());
    panels::svg(&format!("{class}: noise levels"), &heading, &panels, over)
}
