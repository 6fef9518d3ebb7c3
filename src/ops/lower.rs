//! From an operation to kernel launches: the vocabulary shared by all operations.

use super::knobs::Knobs;
use crate::caps::Caps;
use crate::graph::TensorDesc;

/// Which machines a variant is written for. Every variant is correct everywhere its requirements hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// No preference: naive kernels and kernels bound by memory alone.
    Any,
    /// Real GPUs: tiles in workgroup memory, barriers.
    Gpu,
    /// CPU Vulkan drivers (lavapipe): no barriers, one subgroup per workgroup, operands shared by `subgroupShuffle`.
    Cpu,
}

/// What a variant may consider when deciding whether and how to run.
pub struct LowerContext<'a> {
    /// Descriptions of the inputs, by position.
    pub inputs: &'a [Option<&'a TensorDesc>],
    /// Description of the output.
    pub output: &'a TensorDesc,
    /// The device.
    pub caps: &'a Caps,
    /// Whether the first input is there as two tensors, not yet joined along the channels, and how many channels the
    /// first of them has: [`super::Operation::joins`].
    pub joined: Option<usize>,
    /// Whether the first input lies where the result goes: [`super::Operation::IN_PLACE`].
    pub in_place: bool,
}

impl<'a> LowerContext<'a> {
    /// The input at `position`, known to be present.
    pub fn input(&self, position: usize) -> &'a TensorDesc {
        self.inputs[position].expect("shape inference rejects graphs that lack a required input")
    }

    /// Whether an invocation's loops may take this many rounds in total. The round in which a loop ends counts too.
    ///
    /// # Errors
    /// The driver's limit, in words.
    pub fn can_loop(&self, rounds: usize) -> Result<(), String> {
        match self.caps.max_loop_rounds {
            Some(limit) if rounds > limit as usize => {
                Err(format!("its loops take {rounds} rounds, and this driver ends them after {limit}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the optional input at `position` is present.
    pub fn has(&self, position: usize) -> bool {
        self.inputs.get(position).is_some_and(Option::is_some)
    }
}

/// Rounds of loops inside each other, the outermost first, as drivers count them: the round in which a loop finds that
/// it has ended is one too.
pub(super) fn nested(counts: &[usize]) -> usize {
    counts.iter().rev().fold(0, |inside, count| count * (1 + inside) + 1)
}

/// The subgroup size, for kernels whose workgroup is one subgroup that shares what its lanes load.
pub(crate) fn small_subgroups(caps: &Caps) -> std::result::Result<usize, String> {
    match caps.subgroup_size() {
        Some(lanes @ 4..=16) => Ok(lanes as usize),
        Some(size) => Err(format!("needs subgroups of 4 to 16 invocations, these have {size}")),
        None => Err("needs subgroup operations, and subgroups of one size".into()),
    }
}

/// One way to execute an operation.
pub struct Variant<T: 'static> {
    /// Name, as a rule the stem of its `.wgsl` file.
    pub name: &'static str,
    /// Machines it is written for.
    pub family: Family,
    /// Whether it can compute this instance on this device, profitably or not; otherwise the unmet requirement. Whether
    /// it pays off is decided elsewhere: by the plan's rules, a tuned table, or the user.
    pub legal: fn(&T, &LowerContext<'_>) -> Result<(), String>,
    /// Every setting that it may take for a legal instance; one empty entry for kernels without knobs.
    pub knobs: fn(&T, &LowerContext<'_>) -> Vec<Knobs>,
    /// The launches it consists of, with one of these settings.
    pub lower: fn(&T, &LowerContext<'_>, &Knobs) -> Lowered,
}

/// For [`Variant::knobs`] of kernels that have none.
pub fn no_knobs<T>(_: &T, _: &LowerContext<'_>) -> Vec<Knobs> {
    vec![Knobs::default()]
}

/// Value of a `const` line in a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Const {
    /// `u32`
    U32(u32),
    /// `bool`
    Bool(bool),
}

/// Value of a field of a kernel's `Params` struct.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    /// `u32`
    U32(u32),
    /// `f32`
    F32(f32),
}

/// What a binding is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The operation's input at this position; the first of two tensors where the first input is not yet joined.
    Input(usize),
    /// The second of these two.
    Second,
    /// The operation's output.
    Output,
    /// A temporary buffer of the operation: index into [`Lowered::scratch`].
    Scratch(usize),
}

/// One kernel launch. Bindings named like an input are bound to it, and `y` to the output; only the others are listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Kernel file below `wgsl/`, without extension: `contraction/1_naive`.
    pub kernel: &'static str,
    /// Replacements of `const` lines.
    pub constants: Vec<(&'static str, Const)>,
    /// Fields of `Params`.
    pub params: Vec<(&'static str, Param)>,
    /// Bindings beyond inputs and `y`.
    pub bindings: Vec<(&'static str, Operand)>,
    /// Workgroups in x, y, z.
    pub workgroups: [u32; 3],
    /// Floating-point operations of this launch, where that matters for splitting long work; 0: those of the operation.
    pub flops: u64,
    /// Those of the longest row of workgroups, of all with the same y; 0: all rows are alike.
    pub row_flops: u64,
    /// Bytes of its bindings that it neither reads nor writes.
    pub untouched: u64,
}

impl Launch {
    /// A launch of `kernel` with nothing set.
    pub fn new(kernel: &'static str) -> Self {
        Self {
            kernel,
            constants: Vec::new(),
            params: Vec::new(),
            bindings: Vec::new(),
            workgroups: [1, 1, 1],
            flops: 0,
            row_flops: 0,
            untouched: 0,
        }
    }

    /// Replaces the line `const name: u32 = …;`.
    pub fn constant(mut self, name: &'static str, value: usize) -> Self {
        self.constants.push((name, Const::U32(to_u32(value))));
        self
    }

    /// Replaces the line `const name: bool = …;`.
    pub fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.constants.push((name, Const::Bool(value)));
        self
    }

    /// Sets a `u32` field of `Params`.
    pub fn param(mut self, name: &'static str, value: usize) -> Self {
        self.params.push((name, Param::U32(to_u32(value))));
        self
    }

    /// Sets an `f32` field of `Params`.
    pub fn param_f32(mut self, name: &'static str, value: f32) -> Self {
        self.params.push((name, Param::F32(value)));
        self
    }

    /// Binds the variable `name`.
    pub fn bind(mut self, name: &'static str, operand: Operand) -> Self {
        self.bindings.push((name, operand));
        self
    }

    /// Sets the number of workgroups.
    pub fn workgroups(mut self, x: usize, y: usize, z: usize) -> Self {
        self.workgroups = [to_u32(x), to_u32(y), to_u32(z)];
        self
    }

    /// Sets the work of this launch, for operations whose launches differ a lot.
    pub fn flops(mut self, flops: u64) -> Self {
        self.flops = flops;
        self
    }

    /// Sets the work of the longest row of workgroups, where they differ.
    pub fn row_flops(mut self, flops: u64) -> Self {
        self.row_flops = flops;
        self
    }

    /// Sets the bytes of its bindings that it neither reads nor writes.
    pub fn untouched(mut self, bytes: u64) -> Self {
        self.untouched = bytes;
        self
    }

    /// Enough workgroups of `size` invocations to cover `invocations`, folded into y beyond 65 535; `flat_index`
    /// (wgsl/include/flat_index.wgsl) unfolds them.
    pub fn cover(mut self, invocations: usize, size: usize) -> Self {
        let groups = invocations.div_ceil(size).max(1);
        let rows = groups.div_ceil(65_535);
        self.workgroups = [to_u32(groups.div_ceil(rows)), to_u32(rows), 1];
        self
    }
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("the plan refuses tensors whose elements a u32 cannot count before it lowers them")
}

/// What a variant does: launches in order, and temporary buffers between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// Launches, in order.
    pub launches: Vec<Launch>,
    /// Temporary memory between them.
    pub scratch: Vec<Scratch>,
}

/// Memory that only the launches of one variant see.
#[derive(Clone, Debug, PartialEq)]
pub struct Scratch {
    /// Shape and element type.
    pub desc: TensorDesc,
    /// Whether it is a storage texture and not a buffer: CPU drivers read textures faster. Four elements make a texel.
    pub texture: bool,
}

impl From<TensorDesc> for Scratch {
    fn from(desc: TensorDesc) -> Self {
        Self { desc, texture: false }
    }
}

impl Lowered {
    /// Asks for a temporary f32 buffer.
    pub fn add_scratch(&mut self, shape: impl Into<Vec<usize>>) -> Operand {
        self.add(TensorDesc::f32(shape).into())
    }

    /// Asks for a temporary texture.
    pub fn add_texture(&mut self, desc: TensorDesc) -> Operand {
        self.add(Scratch { desc, texture: true })
    }

    /// Asks for temporary memory.
    pub fn add(&mut self, scratch: Scratch) -> Operand {
        self.scratch.push(scratch);
        Operand::Scratch(self.scratch.len() - 1)
    }
}

/// A launch of an operation that changes its input `first` in the place of the result: alone where that lies
/// there, else behind a copy.
pub(super) fn in_place(launch: Launch, first: usize, context: &LowerContext<'_>) -> Lowered {
    if context.in_place {
        return launch.into();
    }
    let vectors = context.output.elements().div_ceil(4);
    let copy = Launch::new("cast/naive").bind("x", Operand::Input(first)).param("vectors", vectors).cover(vectors, 64);
    Lowered { launches: vec![copy, launch], scratch: Vec::new() }
}

impl From<Launch> for Lowered {
    fn from(launch: Launch) -> Lowered {
        Lowered { launches: vec![launch], scratch: Vec::new() }
    }
}
