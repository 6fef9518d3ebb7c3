//! A report as text.

use crate::measure::{Ceilings, Check, Operation, Picture, Report, Samples, Step, Verdict};
use crate::ops::Cost;
use crate::plan::mib;

/// Operations on screen, unless all are asked for.
const TOP: usize = 12;

/// `12.345 ms ± 1.2 %`
pub fn time(samples: &Samples) -> String {
    if samples.len() == 1 {
        return format!("{}, one sample", duration(samples.median()));
    }
    format!("{} ± {:.1} %", duration(samples.median()), 100.0 * samples.uncertainty())
}

/// `12.345 ms`, `12.345 s`
pub fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.3} ms", 1e3 * seconds) } else { format!("{seconds:.3} s") }
}

/// What the device can do.
pub fn ceilings(c: &Ceilings) -> String {
    let gigas = |what: &str, rate: f64, unit: &str| format!("  {what:<26} {:>10.1} {unit}\n", rate / 1e9);
    let mut text = "at most, measured now:\n".to_owned();
    text += &gigas("multiply-adds in f32", c.fma_f32.rate(), "GFLOP/s");
    if let Some(f16) = &c.fma_f16 {
        text += &gigas("multiply-adds in f16", f16.rate(), "GFLOP/s");
    }
    for matrix in &c.matrices {
        text += &gigas(&format!("matrices {}", matrix.shape), matrix.ceiling.rate(), "GFLOP/s");
    }
    text += &gigas("copy, read and write", c.copy.rate(), "GB/s");
    text + &format!(
        "  {:<26} {:>10.1} µs each; {:.1} µs for one by itself and the wait for it\n",
        "launches",
        1e6 * c.dispatch.each(),
        1e6 * c.dispatch.one.median()
    )
}

/// The model as a whole.
pub fn step(report: &Report, step: &Step) -> String {
    let subject = &report.subject;
    let seconds = step.seconds.median();
    format!(
        "{}, {} in {}, batch {}, {} x {}: {:.1} GFLOP, {:.1} MB, {} launches of {} kernels a step\n\
        memory: {} planned, {} allocated\n\
        planned in {}, compiled in {}, loaded in {}, first step {}\n\
        step: {} ({} samples), {:.1} GFLOP/s, {:.2} GB/s\n",
        subject.model,
        subject.component,
        subject.precision.name(),
        subject.batch,
        subject.height,
        subject.width,
        step.cost.flops as f64 / 1e9,
        step.cost.bytes as f64 / 1e6,
        step.launches,
        step.kernels,
        mib(step.planned_bytes),
        step.allocated_bytes.map_or("unknown".into(), mib),
        duration(step.plan_seconds),
        duration(step.compile_seconds),
        duration(step.load_seconds),
        duration(step.first_seconds),
        time(&step.seconds),
        step.seconds.len(),
        step.cost.flops as f64 / seconds / 1e9,
        step.cost.bytes as f64 / seconds / 1e9,
    )
}

/// How many kernels are named before the rest is summed up.
const KERNELS: usize = 12;

/// Where the time of a step goes, by kernel; nothing where single launches cannot be timed.
pub fn within(step: &Step) -> String {
    let total: f64 = step.within.iter().map(|launch| launch.seconds).sum();
    let mut kernels: Vec<(&str, usize, Cost, f64)> = Vec::new();
    for launch in &step.within {
        let known = kernels.iter_mut().find(|(name, ..)| *name == launch.kernel);
        match known {
            Some((_, count, cost, seconds)) => {
                *count += 1;
                cost.flops += launch.cost.flops;
                cost.bytes += launch.cost.bytes;
                *seconds += launch.seconds;
            }
            None => kernels.push((&launch.kernel, 1, launch.cost, launch.seconds)),
        }
    }
    kernels.sort_by(|a, b| b.3.total_cmp(&a.3));
    let mut text = String::new();
    if !kernels.is_empty() {
        text += &format!("within a step, {} launches one after the other: {}\n", step.within.len(), duration(total));
    }
    for (name, count, cost, seconds) in kernels.iter().take(KERNELS) {
        text += &format!(
            "  {:5.1} % {count:4} × {name:<32} {:>10}  {:10.1} GFLOP/s {:8.2} GB/s\n",
            100.0 * seconds / total,
            duration(*seconds),
            cost.flops as f64 / seconds / 1e9,
            cost.bytes as f64 / seconds / 1e9,
        );
    }
    if let Some(others) = kernels.get(KERNELS..).filter(|others| !others.is_empty()) {
        let seconds: f64 = others.iter().map(|kernel| kernel.3).sum();
        text += &format!("  {:5.1} % {} other kernels\n", 100.0 * seconds / total, others.len());
    }
    text
}

/// The picture.
pub fn picture(picture: &Picture) -> String {
    let [height, width] = picture.size;
    let parts = format!("{} steps {}", picture.steps, duration(picture.steps_seconds));
    let decode = duration(picture.decode_seconds);
    if picture.measured {
        let before = duration(picture.before_seconds);
        format!(
            "a whole picture of {width} x {height}, made: {} (before the first step {before}, {parts}, after the last \
            {decode})\n",
            duration(picture.seconds()),
        )
    } else {
        format!(
            "a whole picture of {width} x {height}, added up and not made: {} ({parts}, decoder {decode}; no texts, no \
            loading)\n",
            duration(picture.seconds()),
        )
    }
}

/// The operations, those that take most of the time first.
pub fn operations(report: &Report, all: bool) -> String {
    let nodes: usize = report.operations.iter().map(|o| o.nodes.len()).sum();
    let sum = report.operations_seconds();
    let mut text = format!(
        "{} different operations in {nodes} nodes, each by itself: {} together\n",
        report.operations.len(),
        duration(sum),
    );
    let shown = if all { report.operations.len() } else { TOP };
    for operation in report.operations.iter().take(shown) {
        text += &format!(
            "{:5.1} % {:>4} ×  {}\n             {}\n             {}\n",
            100.0 * report.share(operation),
            operation.nodes.len(),
            figures(operation, &report.ceilings),
            way(operation),
            operation.operation.clone() + "  " + &operation.shapes,
        );
        if let Check::Wrong(why) = &operation.check {
            text += &format!("             WRONG: {why}\n");
        }
    }
    if report.operations.len() > shown {
        let rest: f64 = report.operations[shown..].iter().map(Operation::in_step_seconds).sum();
        text +=
            &format!("{:5.1} %  {} others (--all shows them)\n", 100.0 * rest / sum, report.operations.len() - shown);
    }
    text
}

/// Time, rates and the share of the nearer ceiling.
pub fn figures(operation: &Operation, ceilings: &Ceilings) -> String {
    let bound = if operation.is_bound_by_bytes(ceilings) { "copy" } else { "arithmetic" };
    format!(
        "{:>22} {:>9.1} GFLOP/s {:>8.2} GB/s {:>5.1} % of {bound}",
        time(&operation.seconds),
        operation.flops_per_second() / 1e9,
        operation.bytes_per_second() / 1e9,
        100.0 * operation.share_of_ceiling(ceilings),
    )
}

/// `shuffle [QUADS=8 ROWS=4]: contraction/shuffle`, and how right it is.
pub fn way(operation: &Operation) -> String {
    let knobs = if operation.knobs.is_empty() { String::new() } else { format!(" [{}]", operation.knobs) };
    let check = match &operation.check {
        Check::Unchecked => "unchecked".to_owned(),
        Check::Equal(error) => format!("error {error:.1e}"),
        Check::Wrong(_) => "WRONG".to_owned(),
    };
    format!("{}{knobs}: {}; {check}", operation.variant, kernels(&operation.kernels))
}

/// `a, b × 3`: kernels in order, repetitions counted.
fn kernels(names: &[String]) -> String {
    let mut parts: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match parts.last_mut() {
            Some((last, count)) if last == name => *count += 1,
            _ => parts.push((name, 1)),
        }
    }
    let word = |(name, count): (&str, usize)| if count == 1 { name.into() } else { format!("{name} × {count}") };
    parts.into_iter().map(word).collect::<Vec<String>>().join(", ")
}

/// What a verdict is called.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "slower",
        Verdict::Same => "same",
    }
}

/// What must be said about a CPU driver.
pub const CAUTION: &str = "This is a driver that runs kernels on the CPU: its times say nothing about any GPU.\n";

/// What must be said about a report's device.
pub fn caution(report: &Report) -> &'static str {
    if report.cpu_driver { CAUTION } else { "" }
}
