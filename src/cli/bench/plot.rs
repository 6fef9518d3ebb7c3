//! A roofline plot (Williams, Waterman and Patterson 2009) as SVG: to the right how much an operation calculates for
//! each byte, upwards how fast, and the ceilings of the device as lines.

use super::html::escaped;
use super::table;
use crate::measure::{Arithmetic, Operation, Report};

/// Of the drawing, in its own units.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
/// The frame: left, top, right, bottom.
const FRAME: [f64; 4] = [70.0, 20.0, 940.0, 470.0];

/// A logarithmic axis from one place of the drawing to another.
#[derive(Clone, Copy)]
struct Axis {
    /// Powers of ten at both ends.
    ends: [f64; 2],
    places: [f64; 2],
}

impl Axis {
    /// An axis that holds all of `values` with a little room.
    fn around(values: impl Iterator<Item = f64>, places: [f64; 2]) -> Self {
        let logs: Vec<f64> = values.filter(|v| *v > 0.0 && v.is_finite()).map(f64::log10).collect();
        let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let ends = if low <= high { [low - 0.15, high + 0.15] } else { [0.0, 1.0] };
        Self { ends, places }
    }

    fn place(&self, value: f64) -> f64 {
        let [low, high] = self.ends;
        let [from, to] = self.places;
        from + (value.log10() - low) / (high - low) * (to - from)
    }

    /// The value at an end.
    fn end(&self, end: usize) -> f64 {
        10f64.powf(self.ends[end])
    }

    /// Round numbers to write beside it: powers of ten, and what lies between where there are few of them.
    fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.ends;
        let steps: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = (low.floor() as i32)..=(high.ceil() as i32);
        let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        all.filter(|tick| (low..=high).contains(&tick.log10())).collect()
    }
}

/// `0.05`, `20`, `1000`
fn number(value: f64) -> String {
    let digits = (-value.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

/// The horizontal ceilings: what they are called, and GFLOP/s.
fn roofs(report: &Report) -> Vec<(String, f64)> {
    let c = &report.ceilings;
    let mut roofs = vec![("multiply-adds in f32".to_owned(), c.fma_f32.rate() / 1e9)];
    roofs.extend(c.fma_f16.iter().map(|f16| ("multiply-adds in f16".to_owned(), f16.rate() / 1e9)));
    roofs.extend(c.matrices.iter().map(|m| (format!("matrices {}", m.shape), m.ceiling.rate() / 1e9)));
    roofs
}

/// Floating-point operations for each byte, and GFLOP/s; none for what calculates nothing.
fn coordinates(operation: &Operation) -> Option<(f64, f64)> {
    let done = operation.done();
    let speed = done.flops as f64 / operation.seconds.median() / 1e9;
    (done.flops > 0 && done.bytes > 0 && speed.is_finite()).then_some((done.flops as f64 / done.bytes as f64, speed))
}

/// The plot.
pub fn svg(report: &Report) -> String {
    let [left, top, right, bottom] = FRAME;
    let roofs = roofs(report);
    let bandwidth = report.ceilings.copy.rate() / 1e9;
    let points: Vec<(usize, &Operation, f64, f64)> = report
        .operations
        .iter()
        .enumerate()
        .filter_map(|(i, operation)| coordinates(operation).map(|(x, y)| (i, operation, x, y)))
        .collect();
    let ridges = roofs.iter().map(|(_, roof)| roof / bandwidth);
    let x = Axis::around(points.iter().map(|p| p.2).chain(ridges), [left, right]);
    let y = Axis::around(points.iter().map(|p| p.3).chain(roofs.iter().map(|r| r.1)), [bottom, top]);

    let mut svg = format!(
        "<svg class=\"roofline\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Roofline plot\">\n\
        <clipPath id=\"frame\"><rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\"/></clipPath>\n\
        <rect class=\"frame\" x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\"/>\n",
        right - left,
        bottom - top,
        right - left,
        bottom - top
    );
    for tick in x.ticks() {
        let at = x.place(tick);
        svg += &format!(
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\
            <text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            bottom + 18.0,
            number(tick)
        );
    }
    for tick in y.ticks() {
        let at = y.place(tick);
        svg += &format!(
            "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
            <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            left - 8.0,
            at + 4.0,
            number(tick)
        );
    }
    svg += &format!(
        "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">floating-point operations for each byte</text>\n\
        <text class=\"axis\" transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">GFLOP/s</text>\n",
        (left + right) / 2.0,
        HEIGHT - 10.0,
        (top + bottom) / 2.0
    );

    // The copy's line up to the highest roof; each roof from where it meets that line.
    let highest = roofs.iter().map(|roof| roof.1).fold(0.0, f64::max);
    let line = |class: &str, from: [f64; 2], to: [f64; 2]| {
        format!(
            "<line class=\"{class}\" clip-path=\"url(#frame)\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>\n",
            x.place(from[0]),
            y.place(from[1]),
            x.place(to[0]),
            y.place(to[1])
        )
    };
    svg += &line("roof slope", [x.end(0), x.end(0) * bandwidth], [highest / bandwidth, highest]);
    for (name, roof) in &roofs {
        svg += &line("roof", [roof / bandwidth, *roof], [x.end(1), *roof]);
        svg += &format!(
            "<text class=\"label\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}: {roof:.0} GFLOP/s</text>\n",
            right - 6.0,
            y.place(*roof) - 6.0,
            escaped(name)
        );
    }
    svg += &format!(
        "<text class=\"label\" x=\"{}\" y=\"{}\">copy: {bandwidth:.1} GB/s, the sloping line</text>\n",
        left + 8.0,
        top + 16.0
    );

    // Large ones first, so that small ones can be pointed at.
    for (i, operation, intensity, speed) in points {
        let radius = 4.0 + 26.0 * report.share(operation).max(0.0).sqrt();
        let knobs = operation.knobs.to_string();
        svg += &format!(
            "<a href=\"#operation-{i}\"><circle class=\"point {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" \
            data-operation=\"{i}\" data-intensity=\"{intensity}\" data-gflops=\"{speed}\"><title>{}</title></circle>\
            </a>\n",
            kind(operation),
            x.place(intensity),
            y.place(speed),
            escaped(&format!(
                "{}. {} {}\n{} {knobs}\n{}\n{:.1} % of the step",
                i + 1,
                operation.operation,
                operation.shapes,
                operation.variant,
                table::figures(operation, &report.ceilings).trim(),
                100.0 * report.share(operation)
            ))
        );
    }
    svg + "</svg>\n"
}

/// The colour of a point.
pub fn kind(operation: &Operation) -> &'static str {
    let name = operation.operation.split('[').next().unwrap_or_default();
    match name {
        "conv2d" => "conv2d",
        "linear" => "linear",
        "attention" => "attention",
        "norm" | "group_norm" | "layer_norm" => "norm",
        _ => "other",
    }
}

/// How a kind of arithmetic is called.
pub fn arithmetic(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::F32 => "f32",
        Arithmetic::F16 => "f16",
        Arithmetic::Matrix => "matrices",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values_and_have_round_ticks() {
        let axis = Axis::around([0.3, 40.0, 0.0, f64::NAN].into_iter(), [100.0, 500.0]);
        assert!(axis.place(0.3) > 100.0 && axis.place(40.0) < 500.0);
        assert!((axis.place((0.3f64 * 40.0).sqrt()) - 300.0).abs() < 1e-9);
        let ticks: Vec<String> = axis.ticks().into_iter().map(number).collect();
        assert_eq!(ticks, ["0.5", "1", "2", "5", "10", "20", "50"]);
        let wide: Vec<String> =
            Axis::around([0.02, 9000.0].into_iter(), [0.0, 1.0]).ticks().into_iter().map(number).collect();
        assert_eq!(wide, ["0.1", "1", "10", "100", "1000", "10000"]);
        assert!(Axis::around(std::iter::empty(), [0.0, 1.0]).place(3.0).is_finite());
    }
}
