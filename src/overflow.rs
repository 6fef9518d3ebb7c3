//! f16 holds magnitudes up to 65504; larger ones become infinite and, in the end, a black picture. Kernels compute in
//! f32, so that what overflows is only ever the storage of single values. [`F32Fallback`] sees it happen, finds those
//! values, stores them in f32 and runs again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use crate::backend::{Device, LoadOptions, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, WeightSource, passes, range};
use crate::plan::Port;
use crate::refusal::Remedy;
use crate::tensor::HostTensor;

/// Values that get this large are stored in f32: a quarter of what f16 holds, because another step or another picture
/// makes other values.
const LARGE: f32 = range::F16_MAX / 4.0;

/// An output of this name says whether what a graph carries from run to run is finite: its largest magnitudes
/// ([`Graph::max_abs`]). It is read in place of the whole state.
pub const MAGNITUDE: &str = "state_magnitude";

/// Runs after which the state is looked at, if nothing is read before. What is not finite stays so from run to run, so
/// that looking late loses time alone: the runs since are done again.
const INTERVAL: usize = 8;

/// Which values of one model are too large for f16, as found so far.
pub struct F32Fallback {
    /// What the model is, for messages: "U-Net".
    model: &'static str,
    /// Names of operations whose results are stored in f32, and of parameters.
    values: Mutex<BTreeSet<String>>,
    notes: Mutex<Vec<String>>,
}

impl F32Fallback {
    /// Nothing found so far.
    pub fn new(model: &'static str) -> Self {
        Self { model, values: Mutex::default(), notes: Mutex::default() }
    }

    /// Prepares `graph` as [`Device::load`] does. If it stores values in f16, the session looks at its results: after
    /// each run, or where state is carried from run to run, after the first, after some more, and before anything is
    /// read. Where they are not finite although the inputs were, it does the runs since it looked last again, with f32
    /// activations, measures all values, and from then on stores the large ones in f32. Results that are not finite
    /// even so are left to the caller.
    ///
    /// # Errors
    /// As [`Device::load`]; a run that has to be done again may also fail for want of memory.
    pub fn load<'a>(
        &'a self,
        device: &'a Device,
        graph: &Graph,
        weights: &'a dyn WeightSource,
        options: &'a LoadOptions,
    ) -> Result<Box<dyn Session + 'a>> {
        let graph = passes::optimize(graph, &options.disabled_passes)?;
        if range::halves(&graph).next().is_none() {
            return device.load_optimized(graph, weights, options);
        }
        let session = device.load_optimized(range::widened(&graph, &self.values()), weights, options)?;
        Ok(Box::new(WatchedSession {
            fallback: self,
            device,
            weights,
            options,
            graph,
            session: Some(session),
            inputs: HashMap::new(),
            journal: Vec::new(),
            writes: Vec::new(),
            looked: 0,
            results: HashMap::new(),
        }))
    }

    /// What the user should hear: which values were found to overflow. Each is returned once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().expect("no holder of this lock panics"))
    }

    /// The names of the values that are stored in f32 because they were found to overflow.
    pub fn values(&self) -> BTreeSet<String> {
        self.values.lock().expect("no holder of this lock panics").clone()
    }

    /// Adds `large` to the values found, and says so if any is new.
    fn add(&self, large: Vec<String>) {
        let mut values = self.values.lock().expect("no holder of this lock panics");
        let new: Vec<_> = large.into_iter().filter(|name| values.insert(name.clone())).collect();
        if let Some(first) = new.first() {
            let others = match new.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let note = format!("the {} overflows f16: {first}{others} now stored in f32", self.model);
            self.notes.lock().expect("no holder of this lock panics").push(note);
        }
    }
}

/// Inputs that were written, in order.
type Writes = Vec<(String, HostTensor)>;

/// A session that does runs again with more values in f32 when its results are not finite.
struct WatchedSession<'a> {
    fallback: &'a F32Fallback,
    device: &'a Device,
    weights: &'a dyn WeightSource,
    options: &'a LoadOptions,
    /// As optimized, before any value is widened.
    graph: Graph,
    /// `None` while another one is prepared, since two would hold the weights twice, and after that has failed.
    session: Option<Box<dyn Session>>,
    /// All inputs when the results were last looked at and found finite; carried ones as they were left then.
    inputs: HashMap<String, HostTensor>,
    /// What was written before each run since.
    journal: Vec<Writes>,
    /// What was written since the last run.
    writes: Writes,
    /// How often the results were looked at.
    looked: usize,
    /// Results of the last run that have been read.
    results: HashMap<String, HostTensor>,
}

impl WatchedSession<'_> {
    fn session(&mut self) -> Result<&mut (dyn Session + 'static)> {
        self.session
            .as_deref_mut()
            .ok_or_else(|| Error::Limits(format!("the {} could not be loaded", self.fallback.model).into()))
    }

    /// Loads `graph` in place of what is loaded, and gives it the inputs of when the results were last looked at.
    fn replace(&mut self, graph: Graph) -> Result<()> {
        self.session = None;
        let in_context = |e: Error| match e {
            Error::Limits(mut limit) => {
                limit.why = format!("the {} overflows f16, and in f32 {}", self.fallback.model, limit.why);
                limit.instead.retain(|remedy| !matches!(remedy, Remedy::Set("precision", _)));
                Error::Limits(limit)
            }
            other => other,
        };
        let mut session = self.device.load_optimized(graph, self.weights, self.options).map_err(in_context)?;
        self.inputs.iter().try_for_each(|(name, tensor)| session.write(name, tensor))?;
        self.session = Some(session);
        Ok(())
    }

    /// Does the runs of the journal again, with `after` after each.
    fn replay(&mut self, mut after: impl FnMut(&mut dyn Session) -> Result<()>) -> Result<()> {
        let journal = std::mem::take(&mut self.journal);
        for writes in &journal {
            let session = self.session()?;
            writes.iter().try_for_each(|(name, tensor)| session.write(name, tensor))?;
            session.run()?;
            after(session)?;
        }
        self.journal = journal;
        Ok(())
    }

    /// Names of the outputs that are carried to the next run.
    fn carried(&self) -> Vec<String> {
        self.graph.carries().iter().map(|carry| carry.output.clone()).collect()
    }

    /// Whether everything that counts in the results is finite: what is carried to the next run, or all of it.
    fn results_are_finite(&mut self) -> Result<bool> {
        let all = || self.graph.outputs().iter().map(|(name, _)| name.clone()).collect();
        let watched: Vec<String> = match self.carried() {
            _ if self.graph.find_output(MAGNITUDE).is_some() => vec![MAGNITUDE.into()],
            carried if carried.is_empty() => all(),
            carried => carried,
        };
        for output in watched {
            if !is_finite(&self.fetch(&output)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks at the results of the last run. If they overflow, does the runs since it looked last again.
    fn look(&mut self) -> Result<()> {
        self.looked += 1;
        if !self.results_are_finite()? && self.inputs_are_finite() {
            self.fallback.add(range::large_weights(&self.graph, self.weights)?);
            let large = self.measure()?;
            self.fallback.add(large);
            self.replace(self.widened())?;
            self.results.clear();
            self.replay(|_| Ok(()))?;
            // What was written for the next run is not in the journal yet, nor in the new session.
            let writes = std::mem::take(&mut self.writes);
            let session = self.session()?;
            writes.iter().try_for_each(|(name, tensor)| session.write(name, tensor))?;
            self.writes = writes;
        }
        // From here on the next look would begin anew.
        for (name, tensor) in self.journal.drain(..).flatten() {
            self.inputs.insert(name, tensor);
        }
        for carry in self.graph.carries().to_vec() {
            let state = self.fetch(&carry.output)?;
            self.inputs.insert(carry.input, state);
        }
        Ok(())
    }

    fn inputs_are_finite(&self) -> bool {
        let written = self.journal.iter().flatten().map(|(_, tensor)| tensor);
        self.inputs.values().chain(written).all(is_finite)
    }

    /// The graph with everything in f32 that is known to overflow.
    fn widened(&self) -> Graph {
        range::widened(&self.graph, &self.fallback.values())
    }

    /// The names of the operations whose results are too large for f16 in any run of the journal.
    fn measure(&mut self) -> Result<Vec<String>> {
        let (graph, outputs) = range::measured(&self.widened())?;
        self.replace(graph)?;
        let mut large = BTreeSet::new();
        self.replay(|session| {
            for (name, output) in &outputs {
                // Written so that NaN counts as large.
                if !large.contains(name) && !session.read(output)?.data.iter().all(|v| *v < LARGE) {
                    large.insert(name.clone());
                }
            }
            Ok(())
        })?;
        Ok(outputs.into_iter().map(|(name, _)| name).filter(|name| large.contains(name)).collect())
    }

    /// A result of the last run as it is.
    fn fetch(&mut self, output: &str) -> Result<HostTensor> {
        if let Some(known) = self.results.get(output) {
            return Ok(known.clone());
        }
        let tensor = self.session()?.read(output)?;
        self.results.insert(output.to_owned(), tensor.clone());
        Ok(tensor)
    }
}

impl Session for WatchedSession<'_> {
    fn inputs(&self) -> &[Port] {
        self.session.as_deref().map_or(&[], Session::inputs)
    }

    fn outputs(&self) -> &[Port] {
        self.session.as_deref().map_or(&[], Session::outputs)
    }

    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        self.session()?.write(input, tensor)?;
        self.writes.push((input.to_owned(), tensor.clone()));
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        self.results.clear();
        self.session()?.run()?;
        self.journal.push(std::mem::take(&mut self.writes));
        let due = self.looked == 0 || self.journal.len() == INTERVAL || self.graph.carries().is_empty();
        if due { self.look() } else { Ok(()) }
    }

    fn read(&mut self, output: &str) -> Result<HostTensor> {
        if !self.journal.is_empty() {
            self.look()?;
        }
        self.fetch(output)
    }

    fn wait(&mut self) -> Result<()> {
        self.session()?.wait()
    }
}

fn is_finite(tensor: &HostTensor) -> bool {
    tensor.data.iter().all(|v| v.is_finite())
}
