//! A graph loaded on a device, ready to run: what all devices have in common.

use crate::error::{Error, Result};
use crate::plan::Port;
use crate::tensor::{DType, HostTensor};

/// A graph loaded on a device, ready to run any number of times. Can be sent to another thread.
pub trait Session: Send {
    /// What the caller writes.
    fn inputs(&self) -> &[Port];

    /// What the caller reads.
    fn outputs(&self) -> &[Port];

    /// Sets an input; its shape must be the port's. u32 inputs take whole numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no such input or the shape differs.
    fn write(&mut self, input: &str, tensor: &HostTensor) -> Result<()>;

    /// Runs the graph once, then copies carried outputs to their inputs.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    fn run(&mut self) -> Result<()>;

    /// Fetches an output of the last run.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no such output; [`Error::Device`] if the device was lost.
    fn read(&mut self, output: &str) -> Result<HostTensor>;

    /// Waits until everything submitted has run.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether there is an input of this name.
    fn has_input(&self, name: &str) -> bool {
        self.inputs().iter().any(|port| port.name == name)
    }
}

/// The input `name`, if `tensor` fits it.
///
/// # Errors
/// [`Error::Shape`] otherwise, naming both shapes.
pub(crate) fn check_input<'p>(inputs: &'p [Port], name: &str, tensor: &HostTensor) -> Result<&'p Port> {
    let port = inputs.iter().find(|port| port.name == name);
    let port = port.ok_or_else(|| Error::Shape(format!("the graph has no input named {name}")))?;
    if port.shape != tensor.shape {
        return Err(Error::Shape(format!("input {name}: expected shape {:?}, found {:?}", port.shape, tensor.shape)));
    }
    if port.dtype == DType::U32 && tensor.data.iter().any(|v| v.fract() != 0.0 || *v < 0.0 || *v >= 16_777_216.0) {
        return Err(Error::Shape(format!("input {name}: expected whole numbers from 0 to 2^24 - 1")));
    }
    Ok(port)
}

/// The output `name`.
///
/// # Errors
/// [`Error::Shape`] if there is none.
pub(crate) fn check_output<'p>(outputs: &'p [Port], name: &str) -> Result<&'p Port> {
    let port = outputs.iter().find(|port| port.name == name);
    port.ok_or_else(|| Error::Shape(format!("the graph has no output named {name}")))
}
