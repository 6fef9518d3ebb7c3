//! The first half of planning: which kernels run, on which values and with which parameters, and how often each launch
//! must run. The second half, `memory.rs`, chooses their buffers.

use std::collections::{HashMap, HashSet};

use super::joins::{self, Joined};
use super::{PlanOptions, choose, mib, states};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeKind, Rate, TensorDesc, ValueId};
use crate::kernel::{Access, Format, Kernel, KernelKey, KernelText, ParamType, Reflection, TEXTURE_WIDTH};
use crate::ops::{Cost, Launch, LowerContext, Op, Operand, Param, Scratch};
use crate::refusal::{Advised, Remedy};
use crate::tensor::DType;

/// A tensor that a launch reads or writes: a value of the graph by its index, or a variant's temporary buffer, counted
/// after the values.
pub(super) type Tensor = usize;

/// A launch whose buffers are not chosen yet.
pub(super) struct Draft {
    pub value: usize,
    pub variant: &'static str,
    pub kernel: usize,
    /// For each storage binding the tensor (`None`: an absent input), its bytes, and whether it is written.
    pub bindings: Vec<(Option<Tensor>, u64, bool)>,
    pub params: Vec<u8>,
    pub workgroups: [u32; 3],
    pub cost: Cost,
    pub rate: Rate,
}

/// All launches in the order of the graph.
pub(super) struct Drafts {
    pub kernels: Vec<Kernel>,
    pub launches: Vec<Draft>,
    /// Bytes of every tensor.
    pub bytes: Vec<u64>,
    /// The element type of those that are textures.
    pub textures: Vec<Option<DType>>,
    /// How often every tensor changes.
    pub rates: Vec<Rate>,
    /// For each value of the graph, the one whose buffer it uses: another one if it is a view, which no launch makes.
    pub shown: Vec<Tensor>,
}

/// Chooses a variant for every node and lowers it.
///
/// # Errors
/// As [`super::Program::of_any_size`].
pub(super) fn lower(graph: &Graph, caps: &Caps, options: &PlanOptions) -> Result<Drafts> {
    let drafts = Drafts {
        kernels: Vec::new(),
        launches: Vec::new(),
        bytes: graph.nodes().iter().map(|node| node.desc.bytes()).collect(),
        textures: vec![None; graph.nodes().len()],
        rates: graph.rates(),
        shown: shown_values(graph),
    };
    // Where every value has memory of its own, it is there to be read.
    let joins = if options.reuse_memory { joins::find(graph, caps, &options.choice) } else { HashMap::new() };
    let states = if options.reuse_memory { states::find(graph) } else { HashSet::new() };
    let mut drafts = drafts;
    for value in &states {
        let state = graph.node(*value).inputs().next().expect("it has a state");
        drafts.shown[value.index()] = state.index();
    }
    let mut lowering = Lowering { graph, caps, options, joins, states, kernel_index: HashMap::new(), drafts };
    for (value, node) in graph.values() {
        lowering.check_fits(&node.name, &node.desc, || lowering.f16_instead(&node.desc))?;
        let own = lowering.drafts.shown[value.index()] == value.index() || lowering.states.contains(&value);
        let made = own && !lowering.joins.contains_key(&value);
        if node.op().is_some() && made {
            lowering.lower(value, node)?;
        }
    }
    Ok(lowering.drafts)
}

struct Lowering<'a> {
    graph: &'a Graph,
    caps: &'a Caps,
    options: &'a PlanOptions,
    /// The concatenations that no launch computes.
    joins: HashMap<ValueId, Joined>,
    /// The values that lie where the states lie that they replace.
    states: HashSet<ValueId>,
    kernel_index: HashMap<String, usize>,
    drafts: Drafts,
}

/// Parameters, workgroups and work of one piece of a launch.
type Piece = (Vec<u8>, [u32; 3], Cost);

impl Lowering<'_> {
    /// The bytes that one binding holds.
    fn largest_binding(&self) -> u64 {
        self.caps.max_binding_bytes.min(self.caps.max_buffer_bytes)
    }

    /// Whether one binding can hold the tensor, and a u32 count its elements.
    fn fits(&self, desc: &TensorDesc) -> bool {
        desc.bytes() <= self.largest_binding() && u32::try_from(desc.elements()).is_ok()
    }

    /// Refuses a tensor that does not fit. `remedy` is what helps besides making the work smaller.
    fn check_fits(&self, name: &str, desc: &TensorDesc, remedy: impl FnOnce() -> Option<Remedy>) -> Result<()> {
        if self.fits(desc) {
            return Ok(());
        }
        let why = format!(
            "{name} {} takes {}, this device binds at most {} at once",
            desc.label(),
            mib(desc.bytes()),
            mib(self.largest_binding())
        );
        let advised = remedy().into_iter().fold(Advised::from(why), Advised::instead);
        Err(Error::Limits(advised.or_less_work()))
    }

    /// Half the bytes, where that is enough.
    fn f16_instead(&self, desc: &TensorDesc) -> Option<Remedy> {
        let half = TensorDesc { dtype: DType::F16, ..desc.clone() };
        (desc.dtype == DType::F32 && self.fits(&half)).then(|| Remedy::Set("precision", "f16".into()))
    }

    /// The naive variant, where it can run and its scratch fits.
    fn naive_instead(&self, op: &Op, context: &LowerContext<'_>) -> Option<Remedy> {
        let naive = op.variant_names().len() - 1;
        op.legal(naive, context).ok()?;
        let lowered = op.lower(naive, context, &op.knobs(naive, context)[0]);
        let set = || Remedy::Set("force", format!("{}=naive", op.name()).into());
        lowered.scratch.iter().all(|scratch| self.fits(&scratch.desc)).then(set)
    }

    fn lower(&mut self, value: ValueId, node: &Node) -> Result<()> {
        let NodeKind::Op(op, inputs) = &node.kind else { unreachable!("called for operations only") };
        let descs: Vec<Option<&TensorDesc>> = inputs.iter().map(|v| v.map(|v| self.graph.desc(v))).collect();
        let joined = inputs[0].and_then(|x| self.joins.get(&x)).copied();
        let context = LowerContext {
            inputs: &descs,
            output: &node.desc,
            caps: self.caps,
            joined: joined.map(|joined| joined.channels),
            in_place: self.states.contains(&value),
        };
        let decision = choose(op, &node.name, &context, &self.options.choice).map_err(|e| match e {
            Error::Usage(m) => Error::Usage(format!("{}: {m}", node.name)),
            Error::Limits(m) => Error::Limits(m.of(&node.name)),
            other => other,
        })?;
        let lowered = op.lower(decision.index, &context, &decision.knobs);
        let cost = op.cost(&descs, &node.desc);

        let first_scratch = self.drafts.bytes.len();
        for Scratch { desc, texture } in &lowered.scratch {
            let what = format!("{}: scratch", node.name);
            self.check_fits(&what, desc, || self.naive_instead(op, &context))?;
            let bytes = if *texture { texture_bytes(desc) } else { desc.bytes() };
            self.drafts.bytes.push(bytes);
            self.drafts.textures.push(texture.then_some(desc.dtype));
            self.drafts.rates.push(Rate::Once); // as rare as what is written there, which `settle_rates` finds out
        }
        let shown = &self.drafts.shown;
        let resolve = |operand: Operand| -> Option<(Tensor, &TensorDesc)> {
            let shown = |v: ValueId| (shown[v.index()], self.graph.desc(v));
            match operand {
                Operand::Input(0) if joined.is_some() => joined.map(|joined| shown(joined.first)),
                Operand::Input(i) => inputs[i].map(shown),
                Operand::Second => joined.map(|joined| shown(joined.second)),
                Operand::Output => Some(shown(value)),
                Operand::Scratch(i) => Some((first_scratch + i, &lowered.scratch[i].desc)),
            }
        };
        let first_launch = self.drafts.launches.len();
        let launches = lowered.launches.len() as u64;
        for launch in &lowered.launches {
            // Every name that the kernel may bind, with its tensor.
            let named = |name: &str| -> Option<Operand> {
                let explicit = launch.bindings.iter().find(|(n, _)| *n == name).map(|(_, operand)| *operand);
                explicit
                    .or_else(|| op.input_names().iter().position(|n| *n == name).map(Operand::Input))
                    .or_else(|| (name == "y").then_some(Operand::Output))
            };
            let storage_names =
                launch.bindings.iter().map(|(n, _)| *n).chain(op.input_names().iter().copied()).chain(["y"]);
            // The second of two tensors is stored like the first, even if it is not there.
            let alike = |operand| if operand == Operand::Second { named("x").unwrap_or(operand) } else { operand };
            let storage = storage_names
                .filter_map(|name| Some((name, resolve(alike(named(name)?))?.1.dtype)))
                .filter(|(_, dtype)| *dtype != DType::U32)
                .collect();
            let is_texture = |operand: &Operand| matches!(operand, Operand::Scratch(i) if lowered.scratch[*i].texture);
            let textures = launch.bindings.iter().filter(|(_, operand)| is_texture(operand)).map(|(n, _)| *n).collect();
            let key = KernelKey { name: launch.kernel, constants: launch.constants.clone(), storage, textures };
            let kernel =
                kernel(&mut self.drafts.kernels, &mut self.kernel_index, self.caps, &key, &self.options.texts)?;
            let reflection = &self.drafts.kernels[kernel].reflection;
            let mut bindings = Vec::new();
            for binding in reflection.bindings.iter().filter(|b| b.access != Access::Uniform) {
                let operand = named(&binding.name).ok_or_else(|| {
                    Error::Kernel(format!(
                        "wgsl/{}.wgsl binds {}, which is neither an input of {}, nor y, nor scratch",
                        launch.kernel,
                        binding.name,
                        op.name()
                    ))
                })?;
                let Some((tensor, desc)) = resolve(operand) else {
                    bindings.push((None, 16, false));
                    continue;
                };
                let scratch = matches!(operand, Operand::Scratch(_));
                if let Some(declared) = binding.dtype.filter(|declared| !scratch && *declared != desc.dtype) {
                    return Err(Error::Kernel(format!(
                        "{}: wgsl/{}.wgsl declares {} as {}, the graph holds {} there",
                        node.name,
                        launch.kernel,
                        binding.name,
                        declared.name(),
                        desc.dtype.name()
                    )));
                }
                bindings.push((Some(tensor), desc.bytes().max(16), binding.access == Access::ReadWrite));
            }
            if bindings.len() > self.caps.max_storage_buffers as usize {
                return Err(Error::Limits(
                    format!(
                        "wgsl/{}.wgsl binds {} storage buffers, this device allows {}",
                        launch.kernel,
                        bindings.len(),
                        self.caps.max_storage_buffers
                    )
                    .into(),
                ));
            }
            let flops = if launch.flops > 0 { launch.flops } else { cost.flops / launches };
            let touched =
                bindings.iter().filter(|(tensor, ..)| tensor.is_some()).map(|(_, bytes, _)| bytes).sum::<u64>();
            let cost = Cost { flops, bytes: touched - launch.untouched };
            for (params, workgroups, cost) in split(launch, reflection, cost, self.caps, self.options)? {
                self.drafts.launches.push(Draft {
                    value: value.index(),
                    variant: decision.variant,
                    kernel,
                    bindings: bindings.clone(),
                    params,
                    workgroups,
                    cost,
                    rate: Rate::Once,
                });
            }
        }
        self.settle_rates(value.index(), first_scratch, first_launch);
        Ok(())
    }

    /// How often each launch of one node must run: as often as anything changes that it reads, or that another launch
    /// writes to the same place. A node's weights may be prepared once although the node itself runs in every step.
    fn settle_rates(&mut self, value: Tensor, first_scratch: Tensor, first_launch: usize) {
        let Drafts { launches, rates, .. } = &mut self.drafts;
        let own = |tensor: Tensor| tensor == value || tensor >= first_scratch;
        rates[value] = Rate::Once;
        // Rates only rise, so that this ends.
        loop {
            let mut changed = false;
            for launch in &mut launches[first_launch..] {
                let read = launch.bindings.iter().filter_map(|(tensor, ..)| tensor.map(|t| rates[t])).max();
                if let Some(rate) = read.filter(|rate| *rate > launch.rate) {
                    launch.rate = rate;
                    changed = true;
                }
                for &(tensor, _, written) in &launch.bindings {
                    let Some(tensor) = tensor.filter(|tensor| written && own(*tensor)) else { continue };
                    changed |= rates[tensor] != launch.rate;
                    let rate = rates[tensor].max(launch.rate);
                    (rates[tensor], launch.rate) = (rate, rate);
                }
            }
            if !changed {
                break;
            }
        }
    }
}

/// The bytes of a texture that holds the tensor: whole rows of texels, in blocks of four as llvmpipe lays them out.
fn texture_bytes(desc: &TensorDesc) -> u64 {
    let texel = Format::of(desc.dtype).expect("textures hold floats").texel_bytes();
    (desc.elements().div_ceil(4) as u64).next_multiple_of(4 * u64::from(TEXTURE_WIDTH)) * texel
}

/// For each value, the one whose buffer it uses. A view whose elements are stored differently is a copy; so is an
/// output that views an input or a parameter, since an output may be copied to the very input that it views.
fn shown_values(graph: &Graph) -> Vec<Tensor> {
    let mut shown: Vec<Tensor> = Vec::with_capacity(graph.nodes().len());
    for (id, node) in graph.values() {
        let of = match &node.kind {
            NodeKind::Op(Op::Reshape(_), inputs) => shown[inputs[0].expect("a reshape has an input").index()],
            _ => id.index(),
        };
        let source = &graph.nodes()[of];
        let is_output = graph.outputs().iter().any(|(_, v)| *v == id);
        let copied = source.desc.dtype != node.desc.dtype || (is_output && source.op().is_none());
        shown.push(if copied { id.index() } else { of });
    }
    shown
}

/// One launch, or several along y if it is too long for a watchdog or a dispatch and the kernel has the parameter
/// `first_workgroup_y`.
fn split(
    launch: &Launch,
    reflection: &Reflection,
    cost: Cost,
    caps: &Caps,
    options: &PlanOptions,
) -> Result<Vec<Piece>> {
    let [x, y, z] = launch.workgroups;
    let splittable = reflection.params.iter().any(|f| f.name == "first_workgroup_y");
    let limit = caps.max_workgroups_per_dimension;
    let rows = if splittable {
        let work = cost.flops.max(launch.row_flops * u64::from(y));
        let by_work = work.div_ceil(options.max_launch_flops).max(1);
        u64::from(y).div_ceil(by_work).clamp(1, u64::from(limit)) as u32
    } else {
        y
    };
    if x > limit || rows > limit || z > limit {
        return Err(Error::Limits(
            format!(
                "wgsl/{}.wgsl would need {x} x {y} x {z} workgroups, this device allows {limit} in each dimension",
                launch.kernel
            )
            .into(),
        ));
    }
    let mut pieces = Vec::new();
    let mut first = 0;
    while first < y {
        let count = rows.min(y - first);
        let mut fields = launch.params.clone();
        if splittable {
            fields.push(("first_workgroup_y", Param::U32(first)));
        }
        let share = |total: u64| total * u64::from(count) / u64::from(y);
        pieces.push((
            encode_params(launch.kernel, reflection, &fields)?,
            [x, count, z],
            Cost { flops: share(cost.flops), bytes: share(cost.bytes) },
        ));
        first += count;
    }
    Ok(pieces)
}

/// The index of the kernel with this key, which is built if it is new.
fn kernel(
    kernels: &mut Vec<Kernel>,
    index: &mut HashMap<String, usize>,
    caps: &Caps,
    key: &KernelKey,
    texts: &[KernelText],
) -> Result<usize> {
    let id = format!("{key:?}");
    if let Some(&known) = index.get(&id) {
        return Ok(known);
    }
    let kernel = Kernel::build_with(key, texts)?;
    let [x, y, z] = kernel.reflection.workgroup_size;
    let invocations = x * y * z;
    if invocations > caps.max_workgroup_invocations || kernel.reflection.workgroup_memory > caps.workgroup_memory_bytes
    {
        return Err(Error::Limits(format!(
            "wgsl/{}.wgsl needs {invocations} invocations and {} bytes of workgroup memory, this device allows {} and \
            {}",
            kernel.name,
            kernel.reflection.workgroup_memory,
            caps.max_workgroup_invocations,
            caps.workgroup_memory_bytes
        ).into()));
    }
    kernels.push(kernel);
    index.insert(id, kernels.len() - 1);
    Ok(kernels.len() - 1)
}

/// Lays the named values out as the kernel's `Params` declares them.
///
/// # Errors
/// [`Error::Kernel`] if a field has no value, or a value no field of its type.
pub(crate) fn encode_params(
    kernel: &str,
    reflection: &Reflection,
    fields: &[(&'static str, Param)],
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; reflection.params_size as usize];
    if fields.len() != reflection.params.len() {
        let declared: Vec<_> = reflection.params.iter().map(|f| f.name.as_str()).collect();
        let given: Vec<_> = fields.iter().map(|f| f.0).collect();
        return Err(Error::Kernel(format!(
            "wgsl/{kernel}.wgsl declares the parameters {declared:?}, the launch sets {given:?}"
        )));
    }
    for (name, value) in fields {
        let field = reflection.params.iter().find(|f| f.name == *name);
        let (ty, word) = match value {
            Param::U32(v) => (ParamType::U32, v.to_le_bytes()),
            Param::F32(v) => (ParamType::F32, v.to_le_bytes()),
        };
        let field = field
            .filter(|f| f.ty == ty)
            .ok_or_else(|| Error::Kernel(format!("wgsl/{kernel}.wgsl has no parameter {name} of type {ty:?}")))?;
        bytes[field.offset as usize..][..4].copy_from_slice(&word);
    }
    Ok(bytes)
}
