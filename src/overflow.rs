//! f16 holds magnitudes up to 65504; larger ones become infinite and, in the end, a black picture. Kernels compute in
//! f32, so that what overflows is only ever the storage of single values. [`F32Fallback`] sees it happen, finds those
//! values, stores them in f32 and runs again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use crate::backend::{Device, LoadOptions, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, WeightSource, passes, range};
use crate::tensor::HostTensor;

/// Values that get this large are stored in f32: a quarter of what f16 holds, because another step or another picture
/// makes other values.
const LARGE: f32 = range::F16_MAX / 4.0;

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

    /// Prepares `graph` as [`Device::load`] does. If it stores values in f16, the session looks at its results after
    /// each run; where they are not finite although the inputs are, it measures all values in one run with f32
    /// activations, and from then on stores the large ones in f32. Results that are not finite even so are left to the
    /// caller.
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
            return device.load_optimized(graph, weights, &options.plan);
        }
        let session = device.load_optimized(range::widened(&graph, &self.found()), weights, &options.plan)?;
        Ok(Box::new(WatchedSession {
            fallback: self,
            device,
            weights,
            options,
            graph,
            session: Some(session),
            inputs: HashMap::new(),
            results: HashMap::new(),
        }))
    }

    /// What the user should hear: which values were found to overflow. Each is returned once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().expect("no holder of this lock panics"))
    }

    fn found(&self) -> BTreeSet<String> {
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

/// A session that runs again with more values in f32 when its results are not finite.
struct WatchedSession<'a> {
    fallback: &'a F32Fallback,
    device: &'a Device,
    weights: &'a dyn WeightSource,
    options: &'a LoadOptions,
    /// As optimized, before any value is widened.
    graph: Graph,
    /// `None` while another one is prepared, since two would hold the weights twice, and after that has failed.
    session: Option<Box<dyn Session>>,
    /// What a run begins with; carried inputs as the last run left them.
    inputs: HashMap<String, HostTensor>,
    /// Results of the last run that have been read.
    results: HashMap<String, HostTensor>,
}

impl WatchedSession<'_> {
    fn session(&mut self) -> Result<&mut (dyn Session + 'static)> {
        self.session
            .as_deref_mut()
            .ok_or_else(|| Error::Limits(format!("the {} could not be loaded", self.fallback.model)))
    }

    /// Loads `graph` in place of what is loaded, and gives it the inputs of the last run.
    fn replace(&mut self, graph: Graph) -> Result<()> {
        self.session = None;
        let in_context = |e: Error| match e {
            Error::Limits(m) => Error::Limits(format!("the {} overflows f16, and in f32 {m}", self.fallback.model)),
            other => other,
        };
        let mut session = self.device.load_optimized(graph, self.weights, &self.options.plan).map_err(in_context)?;
        self.inputs.iter().try_for_each(|(name, tensor)| session.write(name, tensor))?;
        self.session = Some(session);
        Ok(())
    }

    /// Whether everything that counts in the results is finite: what is carried to the next run, or all of it.
    fn results_are_finite(&mut self) -> Result<bool> {
        let carried: Vec<_> = self.graph.carries().iter().map(|c| c.output.clone()).collect();
        let all = || self.graph.outputs().iter().map(|(name, _)| name.clone()).collect();
        let watched: Vec<String> = if carried.is_empty() { all() } else { carried };
        for output in watched {
            if !is_finite(&self.read(&output)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The graph with everything in f32 that is known to overflow.
    fn widened(&self) -> Graph {
        range::widened(&self.graph, &self.fallback.found())
    }

    /// The names of the operations whose results are too large for f16, for the inputs of the last run.
    fn measure(&mut self) -> Result<Vec<String>> {
        let (graph, outputs) = range::measured(&self.widened())?;
        self.replace(graph)?;
        let session = self.session()?;
        session.run()?;
        let mut large = Vec::new();
        for (name, output) in outputs {
            // Written so that NaN counts as large.
            if !session.read(&output)?.data.iter().all(|v| *v < LARGE) {
                large.push(name);
            }
        }
        Ok(large)
    }
}

impl Session for WatchedSession<'_> {
    /// With what is stored in f32 by now.
    fn graph(&self) -> &Graph {
        self.session.as_deref().map_or(&self.graph, Session::graph)
    }

    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        self.session()?.write(input, tensor)?;
        self.inputs.insert(input.to_owned(), tensor.clone());
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        self.results.clear();
        self.session()?.run()?;
        if !self.results_are_finite()? && self.inputs.values().all(is_finite) {
            self.fallback.add(range::large_weights(&self.graph, self.weights)?);
            let large = self.measure()?;
            self.fallback.add(large);
            self.replace(self.widened())?;
            self.results.clear();
            self.session()?.run()?;
        }
        // What is carried over is the next run's input, should that have to be done again.
        for carry in self.graph.carries().to_vec() {
            let state = self.read(&carry.output)?;
            self.inputs.insert(carry.input, state);
        }
        Ok(())
    }

    fn read(&mut self, output: &str) -> Result<HostTensor> {
        if let Some(known) = self.results.get(output) {
            return Ok(known.clone());
        }
        let tensor = self.session()?.read(output)?;
        self.results.insert(output.to_owned(), tensor.clone());
        Ok(tensor)
    }

    fn wait(&mut self) -> Result<()> {
        self.session()?.wait()
    }
}

fn is_finite(tensor: &HostTensor) -> bool {
    tensor.data.iter().all(|v| v.is_finite())
}
