//! The loop along an ODE that chooses its steps while it goes ([`Adaptive`]): the same graph of a step gives dx/dt, and
//! the host, which holds x in f64, decides where to ask next.

use super::Cancel;
use super::denoise::{DenoiseLoop, Progress, coefficients};
use crate::clock::Instant;
use crate::error::{Error, Result};
use crate::schedulers::{Adaptive, Step};
use crate::session::Session;
use crate::tensor::HostTensor;
use crate::trace;

impl DenoiseLoop<'_> {
    /// Follows the ODE from `sample` `[N, C, ..]`, of noise, and returns the model's estimate of x_0 at its end.
    /// `observe` is called for each of the parts of the way, after the step that passes it.
    ///
    /// # Errors
    /// As [`DenoiseLoop::run`]; as [`RungeKutta::solve`](crate::schedulers::RungeKutta::solve).
    pub(super) fn follow(
        &mut self,
        Adaptive { flow, solver }: &Adaptive,
        sample: &HostTensor,
        model_batch: usize,
        observe: &mut dyn FnMut(Progress<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let first = sample.channels_last();
        for (name, tensor) in self.changing.iter().flat_map(|changing| changing.at(0)) {
            self.session.write(name, tensor)?;
        }
        self.session.wait()?;
        let (loaded, total) = (Instant::now(), self.schedule.steps.len());
        let session = std::cell::RefCell::new(self.session.as_mut());
        let mut done = 0;
        let start = first.data.iter().map(|v| f64::from(*v)).collect();
        let mut derivative = |t: f64, x: &[f64]| {
            let _span = trace::span_of("evaluation", || format!("t = {t}"));
            slope(*session.borrow_mut(), &flow.at(t), &first.shape, x, model_batch)
        };
        let mut arrived = |t: f64| {
            let way = (1.0 - t) / (1.0 - flow.end);
            let parts = if t == flow.end { total } else { ((way * total as f64) as usize).min(total - 1) };
            while done < parts {
                done += 1;
                observe(Progress {
                    done,
                    total,
                    timestep: flow.at(t).timestep,
                    loaded,
                    start: sample,
                    schedule: self.schedule,
                    shown: self.shown,
                    session: *session.borrow_mut(),
                })?;
            }
            if self.cancel.is_some_and(Cancel::is_cancelled) { Err(Error::Cancelled) } else { Ok(()) }
        };
        solver.solve((1.0, flow.end), start, &mut derivative, &mut arrived)?;
        // The last evaluation was at the end.
        let x0 = self.session.read("pred_original_sample")?;
        Ok(x0.channels_first())
    }
}

/// dx/dt at `x`, of a graph of a step with one memory slot. Row 0 of its state stays x.
fn slope(session: &mut dyn Session, step: &Step, shape: &[usize], x: &[f64], model_batch: usize) -> Result<Vec<f64>> {
    let mut state = HostTensor::zeros([&[2], shape].concat());
    state.data.iter_mut().zip(x).for_each(|(to, from)| *to = *from as f32);
    session.write("state", &state)?;
    let timesteps = vec![step.timestep as f32; model_batch];
    session.write("timestep", &HostTensor { shape: vec![model_batch], data: timesteps })?;
    session.write("coefficients", &coefficients(step, 1))?;
    session.run()?;
    Ok(session.read("state")?.data[x.len()..].iter().map(|v| f64::from(*v)).collect())
}
