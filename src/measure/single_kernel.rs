//! A program of one kernel that no operation launches: how ceilings are measured.

use std::collections::HashMap;

use super::ceilings::Ceiling;
use super::samples::Samples;
use super::timing::{Effort, WARM_UP, time_program, time_wall};
use crate::error::{Error, Result};
use crate::gpu::{GpuDevice, GpuSession};
use crate::graph::Rate;
use crate::kernel::Kernel;
use crate::ops::{Cost, Param};
use crate::plan::{Buffer, BufferRole, Launch, Port, Program, Value, encode_params};
use crate::session::Session;
use crate::tensor::{DType, HostTensor};

/// Parameters for a program that has none.
pub(super) type NoWeights = HashMap<String, HostTensor>;

/// Time for each ceiling.
pub(super) const EFFORT: Effort = Effort { least: 5, most: 50, seconds: 0.1, uncertainty: 0.005, warm_up: WARM_UP };

/// A sample takes about this many seconds, if the device is large enough to be busy for so long.
const SAMPLE_SECONDS: f64 = 0.02;

/// The time of a long launch, after one that is not counted. CPU drivers take timestamps of their own beside the work
/// (llvmpipe puts them into the list of what it draws), and under load they come too late; there the wall clock is as
/// good, because a sample is long.
///
/// # Errors
/// As [`time_program`].
pub(super) fn time(gpu: &GpuDevice, session: &mut GpuSession, effort: &Effort) -> Result<Samples> {
    if !gpu.caps().is_cpu {
        return time_program(session, effort);
    }
    session.run()?;
    session.wait()?;
    time_wall(session, effort)
}

/// A program of one kernel that no operation launches.
pub(super) struct SingleKernel {
    kernel: Kernel,
    before: Option<(Kernel, Launch)>,
    buffers: Vec<Buffer>,
    pub bindings: HashMap<String, usize>,
    inputs: Vec<(Port, HostTensor)>,
    output: Option<Port>,
    pub params: Vec<u8>,
    pub workgroups: [u32; 3],
}

impl SingleKernel {
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            before: None,
            buffers: Vec::new(),
            bindings: HashMap::new(),
            inputs: Vec::new(),
            output: None,
            params: Vec::new(),
            workgroups: [1; 3],
        }
    }

    pub fn buffer(&mut self, bytes: u64) -> usize {
        self.buffers.push(Buffer { bytes: bytes.max(16), role: BufferRole::Slot, texture: None });
        self.buffers.len() - 1
    }

    fn port(&mut self, name: &str, elements: usize, dtype: DType) -> Port {
        let buffer = self.buffer((elements * dtype.size()) as u64);
        self.bindings.insert(name.into(), buffer);
        Port { name: name.into(), shape: vec![elements], dtype, rate: Rate::Step, buffer }
    }

    pub fn input(&mut self, name: &str, tensor: HostTensor, dtype: DType) {
        let port = self.port(name, tensor.len(), dtype);
        self.buffers[port.buffer].role = BufferRole::Input;
        self.inputs.push((port, tensor));
    }

    pub fn output(&mut self, elements: usize, dtype: DType) {
        self.output = Some(self.port("y", elements, dtype));
    }

    pub fn params(&mut self, fields: &[(&'static str, Param)]) -> Result<()> {
        self.params = encode_params(&self.kernel.name, &self.kernel.reflection, fields)?;
        Ok(())
    }

    /// A launch of another kernel before the first run.
    pub fn before(&mut self, kernel: Kernel, fields: &[(&'static str, Param)], workgroups: [u32; 3]) -> Result<()> {
        let params = encode_params(&kernel.name, &kernel.reflection, fields)?;
        let launch = self.launch(1, &kernel, params, workgroups);
        self.before = Some((kernel, launch));
        Ok(())
    }

    fn launch(&self, index: usize, kernel: &Kernel, params: Vec<u8>, workgroups: [u32; 3]) -> Launch {
        let storage = kernel.reflection.bindings.iter().filter_map(|b| self.bindings.get(&b.name));
        let bindings = storage.map(|&buffer| (buffer, self.buffers[buffer].bytes)).collect();
        Launch { value: 0, variant: String::new(), kernel: index, bindings, params, workgroups, cost: Cost::default() }
    }

    pub fn program(&self) -> Program {
        let output = self.output.clone().expect("every one of these kernels writes y");
        let value = Value {
            name: self.kernel.name.clone(),
            op: String::new(),
            shape: output.shape.clone(),
            dtype: output.dtype,
            rate: Rate::Step,
            buffer: Some(output.buffer),
        };
        let step = self.launch(0, &self.kernel, self.params.clone(), self.workgroups);
        let (kernels, condition) = match &self.before {
            Some((kernel, launch)) => (vec![self.kernel.clone(), kernel.clone()], vec![launch.clone()]),
            None => (vec![self.kernel.clone()], Vec::new()),
        };
        Program {
            kernels,
            buffers: self.buffers.clone(),
            parameters: Vec::new(),
            inputs: self.inputs.iter().map(|(port, _)| port.clone()).collect(),
            outputs: vec![output],
            carries: Vec::new(),
            once: Vec::new(),
            condition,
            step: vec![step],
            values: vec![value],
        }
    }

    pub fn session(&self, gpu: &GpuDevice) -> Result<GpuSession> {
        let mut session = GpuSession::new(gpu, self.program(), &NoWeights::new())?;
        self.inputs.iter().try_for_each(|(port, tensor)| session.write(&port.name, tensor))?;
        Ok(session)
    }

    /// Times it with as many workgroups as keep the device busy, each of them doing `work`.
    pub fn saturate(&mut self, gpu: &GpuDevice, work: u64) -> Result<Ceiling> {
        const ONCE: Effort = Effort { least: 1, most: 1, seconds: 0.0, uncertainty: 0.0, warm_up: 0.0 };
        let most = gpu.caps().max_workgroups_per_dimension;
        let mut workgroups = self.workgroups[0].max(8);
        loop {
            self.workgroups = [workgroups, 1, 1];
            let mut session = self.session(gpu)?;
            let seconds = time(gpu, &mut session, &ONCE)?.least();
            if seconds >= 0.7 * SAMPLE_SECONDS || workgroups == most {
                let seconds = time(gpu, &mut session, &EFFORT)?;
                return Ok(Ceiling { work: work * u64::from(workgroups), seconds });
            }
            let wanted = f64::from(workgroups) * (SAMPLE_SECONDS / seconds.max(1e-9)).clamp(1.5, 16.0);
            workgroups = most.min(wanted as u32);
        }
    }

    /// Runs it once more and compares every element with what it must be.
    pub fn check(&self, gpu: &GpuDevice, expected: &dyn Fn(usize) -> f32) -> Result<()> {
        self.check_session(&mut self.session(gpu)?, expected)
    }

    pub fn check_session(&self, session: &mut GpuSession, expected: &dyn Fn(usize) -> f32) -> Result<()> {
        session.run()?;
        let y = session.read("y")?;
        match y.data.iter().enumerate().find(|(i, found)| **found != expected(*i)) {
            None => Ok(()),
            Some((i, found)) => Err(Error::Kernel(format!(
                "wgsl/{}.wgsl: element {i}: expected {}, found {found}; its time says nothing about this device",
                self.kernel.name,
                expected(i)
            ))),
        }
    }
}
