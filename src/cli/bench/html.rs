//! A report as a page: everything in one file, nothing fetched, no scripts.

use super::{plot, table};
use crate::measure::{Check, Operation, Report};

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn page(report: &Report) -> String {
    let subject = &report.subject;
    let title = match subject.component.as_str() {
        "" => subject.model.clone(),
        component => format!("{}, {component}", subject.model),
    };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
        <title>unmist bench: {0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{0}</h1>\n\
        <p>{1}, {2}; unmist {3}</p>\n",
        escaped(&title),
        escaped(&report.device),
        subject.precision.name(),
        escaped(&report.unmist),
    );
    if report.cpu_driver {
        html += &format!("<p class=\"caution\">{}</p>\n", table::caution(report).trim());
    }
    html += "<dl class=\"figures\">\n";
    for (name, value) in figures(report) {
        html += &format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", escaped(&value));
    }
    html += "</dl>\n<figure>\n";
    html += &plot::svg(report);
    html += "<figcaption>Each point is an operation, its area the share of a step; it leads to its row. Colours: ";
    for kind in ["conv2d", "linear", "attention", "norm", "other"] {
        html += &format!("<span class=\"key {kind}\">{kind}</span> ");
    }
    let silent = report.operations.iter().filter(|o| o.done_flops == 0).count();
    if silent > 0 {
        html += &format!("— {silent} that only move numbers are in the table alone");
    }
    html += ".</figcaption>\n</figure>\n";
    html += &rows(report);
    html + "</body>\n</html>\n"
}

/// What is said at the top: names and values.
fn figures(report: &Report) -> Vec<(&'static str, String)> {
    let mut figures = Vec::new();
    let c = &report.ceilings;
    if let Some(step) = &report.step {
        figures.push(("step", table::time(&step.seconds)));
        figures.push(("first step", table::duration(step.first_seconds)));
        figures.push(("loading", table::duration(step.load_seconds)));
        figures.push(("compiling", table::duration(step.compile_seconds)));
        figures.push(("launches", step.launches.to_string()));
    }
    if let Some(picture) = &report.picture {
        let name = if picture.measured { "picture, made" } else { "picture, added up" };
        figures.push((name, format!("{} in {} steps", table::duration(picture.seconds()), picture.steps)));
    }
    figures.push(("f32", format!("{:.1} GFLOP/s", c.fma_f32.rate() / 1e9)));
    figures.extend(c.fma_f16.iter().map(|f16| ("f16", format!("{:.1} GFLOP/s", f16.rate() / 1e9))));
    let matrix = |m: &crate::measure::MatrixCeiling| format!("{}: {:.1} GFLOP/s", m.shape, m.ceiling.rate() / 1e9);
    figures.extend(c.matrices.iter().map(|m| ("matrices", matrix(m))));
    figures.push(("copy", format!("{:.1} GB/s", c.copy.rate() / 1e9)));
    figures.push(("a launch", format!("{:.1} µs", 1e6 * c.dispatch.each())));
    figures
}

fn rows(report: &Report) -> String {
    let mut html = "<div class=\"wide\"><table>\n<thead><tr><th>#</th><th>share</th><th>nodes</th><th>operation</th>\
        <th>kernels</th><th>ms</th><th>GFLOP/s</th><th>GB/s</th><th>of its ceiling</th><th>error</th></tr>\
        </thead>\n<tbody>\n"
        .to_owned();
    for (i, operation) in report.operations.iter().enumerate() {
        html += &row(report, i, operation);
    }
    html + "</tbody>\n</table></div>\n"
}

fn row(report: &Report, i: usize, o: &Operation) -> String {
    let reached = 100.0 * o.share_of_ceiling(&report.ceilings);
    let bound = if o.is_bound_by_bytes(&report.ceilings) { "copy" } else { plot::arithmetic(o.arithmetic) };
    let (class, error) = match &o.check {
        Check::Unchecked => ("", "unchecked".to_owned()),
        Check::Equal(error) => ("", format!("{error:.1e}")),
        Check::Wrong(why) => (" class=\"wrong\"", why.clone()),
    };
    let nodes: String = o.nodes.iter().map(|node| escaped(node) + "<br>").collect();
    format!(
        "<tr id=\"operation-{i}\"{class}><td>{}</td><td>{:.1} %</td><td>{}</td>\
        <td><details><summary><span class=\"key {}\">{}</span></summary>{nodes}</details><small>{}</small></td>\
        <td>{}<br><small>{}</small></td><td>{:.3}<br><small>± {:.1} %</small></td><td>{:.1}</td><td>{:.2}</td>\
        <td>{reached:.0} % of {bound}<br><meter min=\"0\" max=\"100\" value=\"{reached:.1}\"></meter></td>\
        <td>{}</td></tr>\n",
        i + 1,
        100.0 * report.share(o),
        o.nodes.len(),
        plot::kind(o),
        escaped(&o.operation),
        escaped(&o.shapes),
        escaped(&format!("{} {}", o.variant, o.knobs)),
        escaped(&o.kernels.join(", ")),
        1e3 * o.seconds.median(),
        100.0 * o.seconds.uncertainty(),
        o.flops_per_second() / 1e9,
        o.bytes_per_second() / 1e9,
        escaped(&error),
    )
}

/// Text as HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
