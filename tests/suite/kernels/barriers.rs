//! Barriers: a driver may run a workgroup in an order that hides a missing one, so they are checked in the text as
//! well. Every path has a `workgroupBarrier` between a write to workgroup memory and another invocation's read of it,
//! and between a read and the next write. And every barrier is needed: without it, the check fails.

use std::collections::BTreeMap;

use naga::{
    AddressSpace, BinaryOperator, Block, Expression, Function, GlobalVariable, Handle, Literal, Module, Statement,
};

use super::texts::kernels;

/// What an invocation did to an array in workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Access {
    Read,
    Write,
    /// An atomic operation that reads and writes: these do not interfere with each other.
    Update,
}

/// An access since the last barrier: to which array, of which kind, and at which place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    array: String,
    access: Access,
    place: String,
    /// The block of statements that contains it; each round of a loop counts as a new block.
    block: usize,
    /// Whether only invocation 0 does it.
    first_alone: bool,
}

struct Walk<'a> {
    module: &'a Module,
    /// Accesses since the last barrier, on any path.
    pending: Vec<Event>,
    /// The current block, and the number of blocks so far.
    block: usize,
    blocks: usize,
    /// Whether only invocation 0 gets here.
    first_alone: bool,
    hazards: BTreeMap<String, String>,
}

impl Walk<'_> {
    fn event(&mut self, array: String, access: Access, place: String) {
        let event = Event { array, access, place, block: self.block, first_alone: self.first_alone };
        for earlier in &self.pending {
            // Reads do not interfere with each other; two writes to one place would show in the result.
            let harmless = earlier.access == event.access;
            // One step of a reduction reads another invocation's place and writes its own; a condition separates them.
            let step = (earlier.access, event.access) == (Access::Read, Access::Write) && earlier.block == event.block;
            // An invocation may do what it likes in a place of its own, which its own index selects.
            let own = earlier.place == event.place && event.place.contains("argument");
            // The first element is invocation 0's own if every invocation wrote the element at its own index.
            let own = own || (event.first_alone && is_element_0(&event.place) && is_index(&earlier.place));
            // One invocation's accesses happen in order.
            let own = own || (event.first_alone && earlier.first_alone);
            let own = own || are_apart(&earlier.place, &event.place);
            if earlier.array == event.array && !harmless && !step && !own {
                let what =
                    format!("{:?} of [{}] and {:?} of [{}]", earlier.access, earlier.place, event.access, event.place);
                self.hazards.entry(event.array.clone()).or_insert(what);
            }
        }
        if !self.pending.contains(&event) {
            self.pending.push(event);
        }
    }

    /// The array in workgroup memory that a pointer points into, and the index as text.
    fn array(&self, function: &Function, pointer: Handle<Expression>) -> Option<(String, String)> {
        match &function.expressions[pointer] {
            Expression::GlobalVariable(variable) => {
                let variable: &GlobalVariable = &self.module.global_variables[*variable];
                let name = variable.name.clone().unwrap_or_default();
                (variable.space == AddressSpace::WorkGroup).then_some((name, String::new()))
            }
            Expression::Access { base, index } => {
                let (array, place) = self.array(function, *base)?;
                Some((array, format!("{place} {}", text(function, *index))))
            }
            Expression::AccessIndex { base, index } => {
                let (array, place) = self.array(function, *base)?;
                Some((array, format!("{place} {index}")))
            }
            _ => None,
        }
    }

    fn block(&mut self, function: &Function, block: &Block) {
        self.blocks += 1;
        let outer = std::mem::replace(&mut self.block, self.blocks);
        self.statements(function, block);
        self.block = outer;
    }

    fn statements(&mut self, function: &Function, block: &Block) {
        for statement in block {
            match statement {
                Statement::Emit(range) => {
                    for handle in range.clone() {
                        let pointer = match &function.expressions[handle] {
                            Expression::Load { pointer } => *pointer,
                            Expression::CooperativeLoad { data, .. } => data.pointer,
                            _ => continue,
                        };
                        if let Some((array, place)) = self.array(function, pointer) {
                            self.event(array, Access::Read, place);
                        }
                    }
                }
                Statement::Store { pointer, .. } => {
                    if let Some((array, place)) = self.array(function, *pointer) {
                        self.event(array, Access::Write, place);
                    }
                }
                Statement::CooperativeStore { data, .. } => {
                    if let Some((array, place)) = self.array(function, data.pointer) {
                        self.event(array, Access::Write, place);
                    }
                }
                Statement::Atomic { pointer, .. } => {
                    if let Some((array, place)) = self.array(function, *pointer) {
                        self.event(array, Access::Update, place);
                    }
                }
                Statement::Block(block) => self.block(function, block),
                Statement::If { condition, accept, reject } => {
                    let outer = self.first_alone;
                    let before = self.pending.clone();
                    self.first_alone |= is_first(function, *condition);
                    self.block(function, accept);
                    self.first_alone = outer;
                    let accepted = std::mem::replace(&mut self.pending, before);
                    self.block(function, reject);
                    self.join(accepted);
                }
                Statement::Switch { cases, .. } => {
                    self.branches(function, &cases.iter().map(|case| &case.body).collect::<Vec<_>>());
                }
                Statement::Loop { body, continuing, .. } => {
                    // Twice, so that the end of one round meets the beginning of the next. No kernel has a loop with a
                    // barrier that may run zero rounds.
                    for _ in 0..2 {
                        self.block(function, body);
                        self.block(function, continuing);
                    }
                }
                Statement::Call { function: called, .. } => {
                    let called = &self.module.functions[*called];
                    self.block(called, &called.body);
                }
                // A uniform load has a barrier on either side.
                Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } => self.pending.clear(),
                _ => {}
            }
        }
    }

    fn branches(&mut self, function: &Function, blocks: &[&Block]) {
        let before = self.pending.clone();
        let mut after = Vec::new();
        for block in blocks {
            self.pending = before.clone();
            self.block(function, block);
            after.append(&mut self.pending);
        }
        self.join(after);
    }

    fn join(&mut self, others: Vec<Event>) {
        self.pending.extend(others);
        self.pending.sort();
        self.pending.dedup();
    }
}

/// Whether a place is the element at the invocation's own index.
fn is_index(place: &str) -> bool {
    place.strip_prefix(" argument ").is_some_and(|i| i.chars().all(|c| c.is_ascii_digit()))
}

/// Whether two places lie in different rows of an array of arrays, or are different elements that constants name.
fn are_apart(a: &str, b: &str) -> bool {
    let row = |place: &str| place.split(' ').nth(1).and_then(|index| index.parse::<u32>().ok());
    matches!((row(a), row(b)), (Some(a), Some(b)) if a != b)
}

/// Whether a place is the first element of an array, or a component of it.
fn is_element_0(place: &str) -> bool {
    place.split(' ').nth(1) == Some("0")
}

/// Whether a condition is `local == 0u`.
fn is_first(function: &Function, condition: Handle<Expression>) -> bool {
    let Expression::Binary { op: BinaryOperator::Equal, left, right } = function.expressions[condition] else {
        return false;
    };
    matches!(function.expressions[left], Expression::FunctionArgument(_))
        && matches!(function.expressions[right], Expression::Literal(Literal::U32(0)))
}

/// An index as text, so that two can be compared.
fn text(function: &Function, index: Handle<Expression>) -> String {
    match &function.expressions[index] {
        Expression::FunctionArgument(i) => format!("argument {i}"),
        Expression::Literal(literal) => format!("{literal:?}"),
        Expression::Load { pointer } => text(function, *pointer),
        Expression::LocalVariable(variable) => format!("{:?}", function.local_variables[*variable].name),
        Expression::Binary { op, left, right } => {
            format!("({} {op:?} {})", text(function, *left), text(function, *right))
        }
        Expression::Constant(constant) => format!("{constant:?}"),
        _ => format!("{index:?}"),
    }
}

/// Where the kernel lacks a barrier, by array; empty if nowhere.
fn hazards(wgsl: &str) -> BTreeMap<String, String> {
    let module = naga::front::wgsl::parse_str(wgsl).expect("kernels parse");
    let main = &module.entry_points[0].function;
    let mut walk = Walk {
        module: &module,
        pending: Vec::new(),
        block: 0,
        blocks: 0,
        first_alone: false,
        hazards: BTreeMap::new(),
    };
    walk.block(main, &main.body);
    walk.hazards
}

#[test]
fn no_kernel_lacks_a_barrier_and_none_has_one_too_many() {
    const BARRIER: &str = "workgroupBarrier();";
    let (mut failures, mut checked) = (Vec::new(), 0);
    // By kernel and the lines before it, which are the same in every copy of an unrolled loop: the last round of one
    // may have a barrier that only the others need.
    let mut needed: BTreeMap<(&str, Vec<&str>), bool> = BTreeMap::new();
    for kernel in kernels() {
        let found = hazards(&kernel.wgsl);
        if !found.is_empty() {
            failures.push(format!("{}: a barrier is missing: {found:?}", kernel.name));
        }
        for (at, _) in kernel.wgsl.match_indices(BARRIER) {
            checked += 1;
            let mut before: Vec<_> = kernel.wgsl[..at].lines().rev().take(6).collect();
            before.reverse();
            let needed = needed.entry((&kernel.name, before)).or_default();
            if *needed {
                continue; // as a copy, or another setting of the kernel, has shown
            }
            let without = format!("{}{}", &kernel.wgsl[..at], &kernel.wgsl[at + BARRIER.len()..]);
            *needed = !hazards(&without).is_empty();
        }
    }
    for ((kernel, before), _) in needed.into_iter().filter(|(_, needed)| !needed) {
        failures.push(format!("{kernel}: no barrier is needed after\n{}", before.join("\n")));
    }
    failures.sort();
    failures.dedup();
    assert!(checked > 10, "{checked} barriers are too few to prove anything");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
