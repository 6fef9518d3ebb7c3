//! Programs that a device has planned, remembered by graph and options.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{PlanOptions, Program};
use crate::caps::Caps;
use crate::content::ContentId;
use crate::error::Result;
use crate::graph::Graph;
use crate::trace;

/// Programs that a device remembers: those of a few models at a few sizes.
const MAX_PROGRAMS: usize = 64;

/// The programs of one device.
#[derive(Default)]
pub struct Programs {
    /// By graph and options; the oldest are dropped first.
    known: Mutex<Vec<(ContentId, Arc<Program>)>>,
    /// How many programs were ever planned.
    planned: AtomicU64,
}

impl Programs {
    /// The program of a graph that the passes have rewritten, a smaller one where memory is short; planned once, and
    /// remembered.
    ///
    /// # Errors
    /// As [`Program::of_any_size`].
    pub fn program(&self, graph: &Graph, caps: &Caps, options: &PlanOptions) -> Result<Arc<Program>> {
        let program = self.remembered(graph, caps, options)?;
        match options.smaller(&program, caps) {
            Some(options) => self.remembered(graph, caps, &options),
            None => Ok(program),
        }
    }

    fn remembered(&self, graph: &Graph, caps: &Caps, options: &PlanOptions) -> Result<Arc<Program>> {
        // The amount of memory decides whether a program may run, not what it is.
        let options = PlanOptions { max_memory_bytes: None, ..options.clone() };
        let id = ContentId::of_debug(&(graph, &options));
        let known = |programs: &[(ContentId, Arc<Program>)]| {
            programs.iter().find(|(known, _)| *known == id).map(|(_, program)| program.clone())
        };
        if let Some(program) = known(&self.known.lock().expect("no holder of this lock panics")) {
            return Ok(program);
        }
        let span = trace::span("plan");
        let program = Arc::new(Program::of_any_size(graph, caps, &options)?);
        drop(span);
        self.planned.fetch_add(1, Ordering::Relaxed);
        let mut programs = self.known.lock().expect("no holder of this lock panics");
        if programs.len() == MAX_PROGRAMS {
            programs.remove(0);
        }
        programs.push((id, program.clone()));
        Ok(program)
    }

    /// How many programs were planned so far.
    pub fn planned(&self) -> u64 {
        self.planned.load(Ordering::Relaxed)
    }
}
