//! A run as a page: everything in one file, nothing fetched, no scripts.

use super::Explained;
use super::code::marked;
use super::kinds::Kind;
use super::nodes::Node;
use crate::cli::bench::escaped;
use crate::cli::panels::{self, Panel};
use crate::error::Result;
use crate::generate::{Frame, Seen, url};
use crate::image_io::PictureFormat;

const STYLE: &str = include_str!("page.css");
/// The parts of the page after its head: id and heading.
const PARTS: [(&str, &str); 7] = [
    ("run", "From noise to picture"),
    ("schedule", "How much noise there is"),
    ("norms", "How large the numbers are"),
    ("attention", "Where the picture looks at the text"),
    ("blocks", "Inside the network"),
    ("graph", "The graph of a step"),
    ("operations", "Every operation"),
];

/// The page.
///
/// # Errors
/// [`crate::Error::Io`] if the picture cannot be encoded.
pub fn html(explained: &Explained) -> Result<String> {
    let seen = explained.inside.lock();
    let title = escaped(&explained.model);
    let picture = &explained.picture;
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>unmist explain: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n\
         <h1>A picture of {title}, explained</h1>\n\
         <p>{} steps on {}; unmist {}</p>\n\
         <img class=\"made\" src=\"{}\" width=\"{}\" height=\"{}\" alt=\"The finished picture\">\n",
        seen.total,
        escaped(&explained.device),
        env!("CARGO_PKG_VERSION"),
        url(picture, PictureFormat::Png, "png")?,
        picture.width,
        picture.height,
    );
    html += "<details><summary>Settings of the run</summary>\n";
    let rows = explained.settings.iter().map(|setting| setting.iter().map(|text| escaped(text)).collect());
    html += &table("Settings", &["setting", "value", "from"], rows);
    html += "</details>\n</header>\n<nav aria-label=\"Parts of this page\"><ul>\n";
    PARTS.iter().for_each(|(id, heading)| html += &format!("<li><a href=\"#{id}\">{heading}</a></li>\n"));
    html += "</ul></nav>\n<main>\n";
    let contents = [
        strip(&seen),
        schedule(explained, &seen),
        norms(&seen),
        attention(&seen),
        blocks(&seen),
        graph(explained),
        operations(explained, &seen),
    ];
    for ((id, heading), content) in PARTS.iter().zip(contents) {
        html += &format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{heading}</h2>\n{content}</section>\n");
    }
    Ok(html + "</main>\n</body>\n</html>\n")
}

/// What is read where pictures are not seen.
fn after(frame: &Frame) -> String {
    match frame.done {
        0 => "before the first step".to_owned(),
        done => format!("after step {done}"),
    }
}

/// A box that scrolls sideways, also by keyboard.
fn wide(label: &str, content: &str) -> String {
    format!("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\">\n{content}</div>\n")
}

/// A table in a box that scrolls sideways; `rows` are HTML.
fn table(label: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut html = "<table>\n<thead><tr>".to_owned();
    columns.iter().for_each(|column| html += &format!("<th scope=\"col\">{column}</th>"));
    html += "</tr></thead>\n<tbody>\n";
    for row in rows {
        html += "<tr>";
        row.iter().for_each(|cell| html += &format!("<td>{cell}</td>"));
        html += "</tr>\n";
    }
    wide(label, &(html + "</tbody>\n</table>\n"))
}

fn strip(seen: &Seen) -> String {
    let figure = |frame: &Frame| {
        let when = after(frame);
        let picture = |name: &str, source: &str| format!("<img src=\"{source}\" width=\"96\" alt=\"{name} {when}\">");
        let x0 = frame.x0.as_ref().map_or(String::new(), |x0| picture("Estimate of x_0", &x0.picture));
        let sample = picture("x_t", &frame.sample.picture);
        format!("<figure>{sample}{x0}<figcaption>{when}</figcaption></figure>\n")
    };
    let figures: String = seen.frames.iter().map(figure).collect();
    let strip = format!("<div class=\"strip\">\n{figures}</div>\n");
    "<p>Above, the sample x_t, which begins as pure noise; below, the picture x_0 that the model believes is in it. A \
     step moves x_t a little towards it, and the next call of the model sees a clearer sample (Ho et al. 2020, eq. 11 \
     and 15).</p>\n"
        .to_owned()
        + &wide("x_t and the estimate of x_0 by step", &strip)
}

fn schedule(explained: &Explained, seen: &Seen) -> String {
    let rows = seen.levels.iter().enumerate().map(|(i, (timestep, level))| {
        let (signal, noise) = (level.signal, level.noise);
        let numbers = [*timestep, signal, noise, (signal / noise).powi(2)];
        [vec![(i + 1).to_string()], numbers.map(|number| format!("{number:.4}")).to_vec()].concat()
    });
    let columns = ["call", "timestep", "signal", "noise", "SNR"];
    format!(
        "<p>x_t = signal · x_0 + noise · ε (Ho et al. 2020, eq. 4). The line is what the model was trained on, \
         the dots are where this run calls it.</p>\n<figure>{}</figure>\n<details><summary>As a table</summary>\n{}\
         </details>\n",
        explained.schedule,
        table("Noise level of each call", &columns, rows)
    )
}

fn norms(seen: &Seen) -> String {
    let line = |of: &dyn Fn(&Frame) -> Option<f64>| -> Vec<(f64, f64)> {
        seen.frames.iter().filter_map(|frame| Some((frame.done as f64, of(frame)?))).collect()
    };
    let panel = |title, line: Vec<(f64, f64)>| Panel { title, logarithmic: false, dots: line.clone(), line };
    let panels = [
        panel("x_t", line(&|frame| Some(frame.sample.rms))),
        panel("the estimate of x_0", line(&|frame| Some(frame.x0.as_ref()?.rms))),
        panel("the model's prediction, after guidance", line(&|frame| frame.prediction_rms)),
    ];
    let drawing = panels::svg("Norms by step", "√(mean of squares) of the first picture", &panels, "steps done");
    format!(
        "<p>√(mean of squares): 1 for noise of N(0, 1). A model that predicts noise returns about 1 at every step; \
         where it does not, guidance has enlarged it or the model is unsure.</p>\n<figure>{drawing}</figure>\n"
    )
}

fn attention(seen: &Seen) -> String {
    let seen_by = |frame: &&Frame| !frame.attention.is_empty();
    let frames: Vec<&Frame> = seen.frames.iter().filter(seen_by).collect();
    if frames.is_empty() {
        return "<p>This model has no text, or its prompt has more than one window: nothing to show.</p>\n".to_owned();
    }
    let mut columns = vec!["word".to_owned()];
    columns.extend(frames.iter().map(|frame| frame.done.to_string()));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let rows = seen.words.iter().enumerate().map(|(i, (word, _))| {
        let word = escaped(word);
        let map = |frame: &&Frame| {
            let Some(map) = frame.attention.get(i) else { return String::new() };
            let (when, peak) = (after(frame), 100.0 * map.peak);
            let alt = format!("Attention to {word} {when}, at most {peak:.0} %");
            format!("<img class=\"map\" src=\"{}\" alt=\"{alt}\"><br>{peak:.0} %", map.picture)
        };
        let maps: Vec<String> = frames.iter().map(map).collect();
        [vec![word.clone()], maps].concat()
    });
    "<p>In cross-attention each place of the picture divides 1 among the tokens of the text: softmax(q kᵀ / √d) \
     (Rombach et al. 2022, section 3.3). The mean of the coarse layers' heads, by step; white is the largest share, \
     which stands below.</p>\n"
        .to_owned()
        + &table("Attention to each word by step", &columns, rows)
}

fn blocks(seen: &Seen) -> String {
    let shown: Vec<&Frame> = seen.frames.iter().filter(|frame| !frame.activations.is_empty()).collect();
    let (Some(first), Some(last)) = (shown.first(), shown.last()) else {
        return "<p>Nothing was recorded.</p>\n".to_owned();
    };
    let line = |frame: &Frame| -> Vec<(f64, f64)> {
        frame.activations.iter().enumerate().map(|(i, block)| ((i + 1) as f64, block.rms)).collect()
    };
    let panel = |title, frame: &Frame| Panel { title, logarithmic: true, line: line(frame), dots: line(frame) };
    let panels = [panel("in the first step", first), panel("in the last step", last)];
    let drawing =
        panels::svg("Activations by block", "√(mean of squares) of what each block returns", &panels, "block");
    let rows = first.activations.iter().enumerate().map(|(i, block)| {
        let later = last.activations.iter().find(|other| other.block == block.block);
        let shape = block.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
        let later = later.map_or(String::new(), |later| format!("{:.4}", later.rms));
        vec![(i + 1).to_string(), escaped(&block.block), shape, format!("{:.4}", block.rms), later]
    });
    let columns = ["#", "block", "shape [N, H, W, C]", "first step", "last step"];
    format!(
        "<p>The U-Net halves the picture on its way down and doubles it on its way up; each block adds to what flows \
         through it (Ronneberger et al. 2015; Ho et al. 2020, appendix B). Values of this device.</p>\n\
         <figure>{drawing}</figure>\n{}",
        table("Activations by block", &columns, rows)
    )
}

/// `1.25 M`, `320 k`, `12`
fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..10_000_000 => format!("{:.1} k", number as f64 / 1e3),
        _ => format!("{:.1} M", number as f64 / 1e6),
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", 1e3 * seconds)
}

fn graph(explained: &Explained) -> String {
    let nodes = &explained.nodes;
    let every: Vec<&Node> = nodes.iter().filter(|node| node.every_step).collect();
    let seconds: f64 = every.iter().filter_map(|node| node.seconds).sum();
    let (flops, bytes) = every.iter().fold((0, 0), |sum, node| (sum.0 + node.cost.flops, sum.1 + node.cost.bytes));
    let time = if seconds > 0.0 { format!(", {} ms if each runs alone", milliseconds(seconds)) } else { String::new() };
    let rows = nodes.iter().map(|node| {
        let kernels = match (node.every_step, node.kernels.is_empty()) {
            (false, _) => "once for each prompt".to_owned(),
            (true, true) => "—".to_owned(),
            (true, false) => node.kernels.join("<br>"),
        };
        let share = node.seconds.filter(|_| seconds > 0.0).map_or(String::new(), |own| {
            let share = own / seconds;
            format!("<meter value=\"{share:.4}\">{:.1} %</meter> {}", 100.0 * share, milliseconds(own))
        });
        let link = format!("<a href=\"#op-{}\">{}</a>", node.operation, escaped(&node.label));
        let (flops, bytes) = (short(node.cost.flops), short(node.cost.bytes));
        vec![escaped(&node.name), link, escaped(&node.shapes), flops, bytes, kernels, share]
    });
    let columns = ["node", "operation", "shapes", "FLOPs", "bytes", "kernels", "ms"];
    format!(
        "<p>{} operations, {} of them in every step: {} FLOPs, {} bytes read and written{time}. In the order in which \
         they run, after the passes that put some together (<code>src/graph/passes.rs</code>).</p>\n\
         <details><summary>All of them</summary>\n{}</details>\n",
        nodes.len(),
        every.len(),
        short(flops),
        short(bytes),
        table("Operations of a step", &columns, rows)
    )
}

fn operations(explained: &Explained, seen: &Seen) -> String {
    let mut html = "<p>Each with its formula, its kernels as they ran, the same on the CPU in plain loops (what the \
        kernels are checked against), and what passes a gradient back through it.</p>\n"
        .to_owned();
    html += &seen
        .untimed
        .as_ref()
        .map_or(String::new(), |why| format!("<p>Kernels were not timed: {}</p>\n", escaped(why)));
    explained.kinds.iter().for_each(|kind| html += &operation(kind, &explained.nodes, seen));
    html
}

fn operation(kind: &Kind, nodes: &[Node], seen: &Seen) -> String {
    let nodes: Vec<&Node> = nodes.iter().filter(|node| node.operation == kind.name && node.every_step).collect();
    let timed: Vec<f64> = nodes.iter().filter_map(|node| node.seconds).collect();
    let mut html = format!("<article>\n<h3 id=\"op-{0}\">{0}</h3>\n<p>{1} in a step", kind.name, nodes.len());
    if !timed.is_empty() {
        html += &format!(", {} ms", milliseconds(timed.iter().sum()));
    }
    html += &format!(".</p>\n<pre class=\"formula\">{}</pre>\n", escaped(kind.formula.trim_end()));
    if !kind.gradient.is_empty() {
        html += "<p>Gradient, by the operations that pass it back:</p>\n<dl>\n";
        for (input, by) in &kind.gradient {
            html += &format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escaped(input), escaped(by));
        }
        html += "</dl>\n";
    }
    for (name, text) in &kind.kernels {
        let ran = seen.kernels.get(name).map_or(String::new(), |(launches, seconds)| {
            format!(": {launches} launches in this run, {} ms", milliseconds(*seconds))
        });
        html += &source(&format!("wgsl/{name}.wgsl{ran}"), text);
    }
    kind.reference.iter().for_each(|(file, text)| html += &source(file, text));
    html + "</article>\n"
}

fn source(title: &str, text: &str) -> String {
    let title = escaped(title);
    let text = marked(text);
    format!(
        "<details><summary>{title}</summary>\n<pre class=\"code\" tabindex=\"0\" role=\"region\" \
         aria-label=\"{title}\">{text}</pre>\n</details>\n"
    )
}
