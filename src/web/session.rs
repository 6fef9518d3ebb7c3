//! A program on the page's device.

use std::sync::Arc;

use serde_json::{Value, json};

use super::device::WebDevice;
use super::host::{self, List, Memory};
use crate::encode::{decode, encode, padded_bytes};
use crate::error::{Error, Result};
use crate::graph::{Rate, WeightSource};
use crate::kernel::{Access, Format, TEXTURE_WIDTH};
use crate::load::{Buffers, LoadTarget, Loader, fill};
use crate::plan::{BufferIndex, InFlight, Launch, PARAMS_STRIDE, Parameter, Port, Program, params_of, submissions};
use crate::session::{Session, check_input, check_output};
use crate::store::Store;
use crate::tensor::HostTensor;

/// Bytes of parameters that may wait to be copied on the device: the browser holds them until then.
const MAX_PENDING: u64 = 64 << 20;

/// A program loaded on the page's device.
pub(crate) struct WebSession {
    device: WebDevice,
    program: Arc<Program>,
    buffers: Buffers<Memory>,
    condition: List,
    step: List,
    /// An input of the condition was written since its list has run.
    condition_changed: bool,
    in_flight: InFlight<u32>,
}

impl WebSession {
    /// Compiles the program's kernels, creates its buffers, uploads the parameters that the device does not hold yet,
    /// and runs what depends on them alone. Parameters that no session uses are evicted if memory runs out, or if they
    /// and this session would take more than `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a parameter is missing; [`Error::Kernel`] if a kernel does not compile;
    /// [`Error::Limits`] if memory runs out; [`Error::Device`] if the device was lost.
    pub fn within(
        device: &WebDevice,
        program: Arc<Program>,
        weights: &dyn WeightSource,
        limit: Option<u64>,
    ) -> Result<Self> {
        match Self::load(device, &program, weights, limit) {
            Err(Error::Limits(_)) if device.store().evict_unused() => {
                host::wait(None)?;
                Self::load(device, &program, weights, limit)
            }
            result => result,
        }
    }

    fn load(
        device: &WebDevice,
        program: &Arc<Program>,
        weights: &dyn WeightSource,
        limit: Option<u64>,
    ) -> Result<Self> {
        host::check()?;
        device.compile(program)?;
        let target = Target { device, program, weights, pending: 0 };
        let buffers = Loader::new(target, program, weights).load(limit)?;
        let list = |rate: Rate| list_of(device, program, program.list(rate), &buffers, rate == Rate::Step);
        let (condition, step) = (list(Rate::Condition), list(Rate::Step));
        host::check()?;
        Ok(Self {
            device: device.clone(),
            program: program.clone(),
            buffers,
            condition,
            step,
            condition_changed: true,
            in_flight: InFlight::default(),
        })
    }

    fn buffer(&self, index: BufferIndex) -> &Memory {
        self.buffers[index].as_ref().expect("only sources are dropped, and no port is one")
    }

    /// Submits the launches of a list, and at the end of the step list its copies.
    fn submit(&mut self, rate: Rate) -> Result<()> {
        let (launches, pace) = (self.program.list(rate), self.device.pace());
        let list = if rate == Rate::Condition { &self.condition } else { &self.step };
        let mut first = 0;
        for count in submissions(launches, pace.submission_flops()) {
            let flops = launches[first..first + count].iter().map(|launch| launch.cost.flops).sum();
            let submission = list.submit(first, count);
            first += count;
            self.in_flight.push(submission, flops, pace, |submission| host::wait(Some(submission)))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.in_flight.finish(self.device.pace(), |submission| host::wait(Some(submission)))
    }
}

impl Session for WebSession {
    fn inputs(&self) -> &[Port] {
        &self.program.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.program.outputs
    }

    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()> {
        let port = check_input(&self.program.inputs, input, tensor)?;
        self.buffer(port.buffer).write(&encode(tensor, port.dtype));
        self.condition_changed |= port.rate == Rate::Condition;
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        host::check()?;
        if std::mem::take(&mut self.condition_changed) && !self.program.condition.is_empty() {
            self.submit(Rate::Condition)?;
        }
        self.submit(Rate::Step)?;
        host::check()
    }

    fn read(&mut self, output: &str) -> Result<HostTensor> {
        let program = self.program.clone();
        let port = check_output(&program.outputs, output)?;
        self.finish()?;
        let elements = port.shape.iter().product();
        let mut bytes = vec![0; padded_bytes(elements, port.dtype)];
        self.buffer(port.buffer).read(&mut bytes)?;
        HostTensor::new(port.shape.clone(), decode(&bytes, port.dtype, elements))
    }

    fn wait(&mut self) -> Result<()> {
        self.finish()?;
        host::wait(None)
    }
}

/// The page's device with a program whose kernels it has compiled.
struct Target<'a> {
    device: &'a WebDevice,
    program: &'a Program,
    weights: &'a dyn WeightSource,
    /// Bytes written since the device was last waited for.
    pending: u64,
}

impl LoadTarget for Target<'_> {
    type Memory = Memory;

    fn store(&self) -> &Store<Memory> {
        self.device.store()
    }

    fn shares(&self) -> bool {
        true
    }

    fn create(&mut self, buffer: BufferIndex) -> Result<Memory> {
        let planned = &self.program.buffers[buffer];
        let Some(dtype) = planned.texture else {
            return Ok(Memory::buffer(planned.role.name(), planned.bytes, false));
        };
        let format = Format::of(dtype).expect("textures hold floats");
        let rows = planned.bytes / (u64::from(TEXTURE_WIDTH) * format.texel_bytes());
        Ok(Memory::texture(TEXTURE_WIDTH, rows as u32, format == Format::F16))
    }

    fn write(&mut self, memory: &Memory, parameter: &Parameter) -> Result<()> {
        let value = &self.program.values[parameter.value];
        let mut bytes = vec![0; padded_bytes(value.elements(), value.dtype)];
        fill(parameter, value, self.weights, &mut bytes)?;
        memory.write(&bytes);
        self.pending += bytes.len() as u64;
        if self.pending > MAX_PENDING { self.wait() } else { Ok(()) }
    }

    fn run(&mut self, launches: &[Launch], buffers: &Buffers<Memory>) -> Result<()> {
        list_of(self.device, self.program, launches, buffers, false).submit(0, launches.len());
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.pending = 0;
        host::wait(None)
    }

    fn finish(&mut self) -> Result<()> {
        self.wait() // whether there was room for everything is only known now
    }
}

/// Launches with what they bind: pipeline, workgroups and bindings of each (a buffer with its size, the uniform buffer
/// also with the offset, a texture alone), and the program's copies if they belong here.
fn list_of(
    device: &WebDevice,
    program: &Program,
    launches: &[Launch],
    buffers: &Buffers<Memory>,
    with_copies: bool,
) -> List {
    let bytes = params_of(launches);
    let params = Memory::buffer("params", (bytes.len() as u64).max(PARAMS_STRIDE as u64), true);
    params.write(&bytes);
    let there =
        |index: BufferIndex| buffers[index].as_ref().expect("what a launch binds is there when it runs").number();
    let launch = |(i, launch): (usize, &Launch)| -> Value {
        let kernel = &program.kernels[launch.kernel];
        let mut storage = launch.bindings.iter();
        let bindings = kernel.reflection.bindings.iter().map(|binding| match binding.access {
            Access::Uniform => {
                json!([binding.index, params.number(), kernel.reflection.params_size, PARAMS_STRIDE * i])
            }
            Access::Read | Access::ReadWrite => {
                let (index, bytes) = storage.next().expect("the plan binds every storage binding");
                match program.buffers[*index].texture {
                    Some(_) => json!([binding.index, there(*index)]),
                    None => json!([binding.index, there(*index), bytes]),
                }
            }
        });
        let bindings: Vec<Value> = bindings.collect();
        json!({"pipeline": device.pipeline(kernel), "workgroups": launch.workgroups, "bindings": bindings})
    };
    let launches: Vec<Value> = launches.iter().enumerate().map(launch).collect();
    let copies = program.carries.iter().filter(|_| with_copies);
    let copies: Vec<Value> = copies.map(|carry| json!([there(carry.from), there(carry.to), carry.bytes])).collect();
    List::new(&json!({"launches": launches, "copies": copies}).to_string(), params)
}
