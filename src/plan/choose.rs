//! Which kernel variant runs an operation, with which setting, and why: the user's word, else a tuned table, else the
//! rules ([`super::rules`]) for the family that suits the device.

use super::forced::Forced;
use super::joins;
use super::rules;
use super::tuned::{Found, Tuned};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeKind};
use crate::ops::{Family, Knobs, LowerContext, Op};
use crate::refusal::Advised;

/// How variants are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// The user's choices. A node goes before a shape, a shape before an operation; the first of equals counts.
    pub forced: Vec<Forced>,
    /// Prefer this family over the one that suits the device.
    pub family: Option<Family>,
    /// The measured best, for what is not forced.
    pub tuned: Tuned,
    /// Memory is short: the rules pass over variants that keep parameters in a larger form of their own.
    pub compact: bool,
}

impl Choice {
    /// `variant` of `operation`, wherever it occurs.
    pub fn of_variant(operation: &str, variant: &str) -> Self {
        Self { forced: vec![Forced::operation(operation, variant)], ..Self::default() }
    }

    /// Kernels written for `family` before others.
    pub fn of_family(family: Family) -> Self {
        Self { family: Some(family), ..Self::default() }
    }

    /// Refuses forced nodes that none of `graphs` has.
    ///
    /// # Errors
    /// [`Error::Refused`] naming the node, and nodes of similar names.
    pub fn check_nodes(&self, graphs: &[Graph]) -> Result<()> {
        self.forced.iter().try_for_each(|forced| forced.check_node(graphs))
    }
}

/// One variant of an operation, weighed for one instance.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Candidate {
    /// Name of the variant.
    pub variant: &'static str,
    /// The number of settings that it may take here; 0 if it cannot compute the instance.
    pub settings: usize,
    /// Why it cannot, or why the rules pass over it; `None` if the rules have nothing against it.
    pub objection: Option<String>,
}

/// What was chosen for one instance.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Decision {
    /// Index of the variant in its operation.
    #[serde(skip)]
    pub index: usize,
    /// Name of the variant.
    pub variant: &'static str,
    /// Its setting.
    pub knobs: Knobs,
    /// Why this one.
    pub reason: String,
    /// All variants that were considered.
    pub candidates: Vec<Candidate>,
}

/// The variant and setting for `op` in the node called `node`.
///
/// # Errors
/// [`Error::Usage`] if a forced variant cannot compute this instance or has no such setting, with the reason;
/// [`Error::Limits`] if no variant can.
pub fn choose(op: &Op, node: &str, context: &LowerContext<'_>, choice: &Choice) -> Result<Decision> {
    let names = op.variant_names();
    let mut candidates: Vec<Candidate> = (0..names.len()).map(|index| weigh(op, index, context, choice)).collect();
    let decide = |index: usize, knobs: Knobs, reason: String, candidates: Vec<Candidate>| Decision {
        index,
        variant: names[index],
        knobs,
        reason,
        candidates,
    };

    if let Some(forced) = Forced::strongest(&choice.forced, op, node, context) {
        let refuse = |why: String| Error::Usage(format!("{}={} cannot run here: {why}", op.name(), forced.variant));
        let known = || refuse(format!("{} has no variant of this name, it has {}", op.name(), names.join(", ")));
        let index = names.iter().position(|n| *n == forced.variant).ok_or_else(known)?;
        op.legal(index, context).map_err(refuse)?;
        let knobs = nearest(op, index, context, &forced.knobs).map_err(refuse)?;
        return Ok(decide(index, knobs, format!("forced by {}", forced.target), candidates));
    }

    let mut passed_over = String::new();
    if let Some(Found { entry, exact }) = choice.tuned.find(op, context) {
        let usable = names.iter().position(|n| *n == entry.variant).ok_or("there is no such variant".to_owned());
        let usable = usable.and_then(|index| op.legal(index, context).map(|()| index));
        let usable = usable.and_then(|index| match choice.compact && rules::enlarges_parameters(op, names[index]) {
            true => Err(LARGER.to_owned()),
            false => Ok(index),
        });
        match usable.and_then(|index| Ok((index, exactly(op, index, context, &entry.knobs)?))) {
            Ok((index, knobs)) => {
                let reason = if exact { "tuned".into() } else { format!("tuned for {}", entry.output) };
                return Ok(decide(index, knobs, reason, candidates));
            }
            Err(why) => passed_over = format!(" (the tuned {} cannot run here: {why})", entry.variant),
        }
    }

    let (native, device) = if context.caps.is_cpu { (Family::Cpu, "CPU drivers") } else { (Family::Gpu, "GPUs") };
    let preferred = choice.family.unwrap_or(native);
    // Variants are listed best first, `naive` last: take the first that suits; a kernel for the other kind of machine
    // still beats naive.
    let naive = names.len() - 1;
    let can = |index: &usize| candidates[*index].objection.is_none();
    let suits = |index: &usize| matches!(op.family(*index), f if f == preferred || f == Family::Any);
    let (index, reason) = if let Some(index) = (0..naive).filter(can).find(suits) {
        let why = match (op.family(index), choice.family) {
            (Family::Any, _) => "rules: the first that pays".to_owned(),
            (_, Some(_)) => "rules: the first of the preferred family that pays".to_owned(),
            (_, None) => format!("rules: the first for {device} that pays"),
        };
        (index, why)
    } else if let Some(index) = (0..naive).find(can) {
        (index, "rules: no variant for this kind of device can run, and this one still beats naive".to_owned())
    } else {
        // What the rules passed over, they did for what is faster.
        let Some(last) = (0..=naive).rev().find(|index| candidates[*index].settings > 0) else {
            let why = candidates[naive].objection.as_deref().expect("else there would be settings");
            let why = format!("no kernel for {} can run here: {}: {why}", op.name(), names[naive]);
            return Err(Error::Limits(Advised::from(why).or_less_work()));
        };
        (last, "rules: no other variant can run".to_owned())
    };
    for (other, candidate) in candidates.iter_mut().enumerate().filter(|(other, _)| *other != index) {
        let family = op.family(other);
        candidate.objection.get_or_insert_with(|| match family {
            Family::Gpu if preferred == Family::Cpu => "written for GPUs".into(),
            Family::Cpu if preferred == Family::Gpu => "written for CPU drivers".into(),
            _ => "comes after it".into(),
        });
    }
    let listed = op.knobs(index, context);
    let knobs = rules::setting(op, names[index], context, &listed).clone();
    Ok(decide(index, knobs, reason + &passed_over, candidates))
}

/// What speaks against a variant where memory is short.
const LARGER: &str = "memory is too short for its form of the parameters";

fn weigh(op: &Op, index: usize, context: &LowerContext<'_>, choice: &Choice) -> Candidate {
    let variant = op.variant_names()[index];
    match op.legal(index, context) {
        Err(why) => Candidate { variant, settings: 0, objection: Some(why) },
        Ok(()) => {
            let larger = choice.compact && rules::enlarges_parameters(op, variant);
            let objection = rules::pays(op, variant, context).err().or_else(|| larger.then(|| LARGER.to_owned()));
            Candidate { variant, settings: op.knobs(index, context).len(), objection }
        }
    }
}

/// The listed setting with all the numbers of `wanted`, and for the rest as near to the rules' setting as possible.
fn nearest(op: &Op, index: usize, context: &LowerContext<'_>, wanted: &Knobs) -> std::result::Result<Knobs, String> {
    let listed = op.knobs(index, context);
    let by_rule = rules::setting(op, op.variant_names()[index], context, &listed);
    let matching = listed.iter().filter(|knobs| knobs.include(wanted));
    matching.min_by_key(|knobs| knobs.distance(by_rule)).cloned().ok_or_else(|| no_setting(wanted, &listed))
}

/// The listed setting equal to `wanted`.
fn exactly(op: &Op, index: usize, context: &LowerContext<'_>, wanted: &Knobs) -> std::result::Result<Knobs, String> {
    let listed = op.knobs(index, context);
    if listed.contains(wanted) { Ok(wanted.clone()) } else { Err(no_setting(wanted, &listed)) }
}

fn no_setting(wanted: &Knobs, listed: &[Knobs]) -> String {
    let settings: Vec<String> = listed.iter().map(|knobs| format!("[{knobs}]")).collect();
    format!("no setting {wanted}; there are {}", settings.join(" "))
}

/// What is chosen for every node of `graph` and why, for people to read.
///
/// # Errors
/// As [`choose`].
pub fn explain(graph: &Graph, caps: &Caps, choice: &Choice) -> Result<Vec<(String, Decision)>> {
    let mut decisions = Vec::new();
    let joins = joins::find(graph, caps, choice);
    for (value, node) in graph.values() {
        let NodeKind::Op(op, inputs) = &node.kind else { continue };
        let joined = inputs[0].and_then(|x| joins.get(&x)).map(|joined| joined.channels);
        let inputs: Vec<_> = inputs.iter().map(|v| v.map(|v| graph.desc(v))).collect();
        let context = LowerContext { inputs: &inputs, output: &node.desc, caps, joined, in_place: false };
        let mut decision = choose(op, &node.name, &context, choice)?;
        if joins.contains_key(&value) {
            decision.reason = "not run: whatever reads it takes both tensors".into();
        }
        decisions.push((node.name.clone(), decision));
    }
    Ok(decisions)
}
