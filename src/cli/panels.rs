//! Plots of several quantities over one, as SVG: panels side by side, each with a line and dots.

/// Of a panel, in the drawing's units.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
/// Around a panel's frame: left, top, right, bottom.
const MARGIN: [f64; 4] = [58.0, 30.0, 14.0, 34.0];

/// A quantity over timesteps, calls or the like.
pub struct Panel<'a> {
    pub title: &'a str,
    pub logarithmic: bool,
    pub line: Vec<(f64, f64)>,
    pub dots: Vec<(f64, f64)>,
}

/// The drawing: `heading` above the panels, `over` below each.
pub fn svg(title: &str, heading: &str, panels: &[Panel<'_>], over: &str) -> String {
    let rows = panels.len().div_ceil(2);
    let (width, height) = (2.0 * WIDTH, rows as f64 * HEIGHT + 30.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{}\" y=\"20\" text-anchor=\"middle\" font-size=\"14\">{heading}</text>\n",
        width / 2.0,
    );
    for (i, panel) in panels.iter().enumerate() {
        let at = ((i % 2) as f64 * WIDTH, (i / 2) as f64 * HEIGHT + 26.0);
        svg += &panel.svg(at, over);
    }
    svg + "</svg>\n"
}

impl Panel<'_> {
    fn svg(&self, (x, y): (f64, f64), over: &str) -> String {
        let [left, top, right, bottom] = [x + MARGIN[0], y + MARGIN[1], x + WIDTH - MARGIN[2], y + HEIGHT - MARGIN[3]];
        // What has no logarithm, or no end, is left out.
        let scaled = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            let scale = |(x, y): &(f64, f64)| (*x, if self.logarithmic { y.log10() } else { *y });
            points.iter().map(scale).filter(|(_, y)| y.is_finite()).collect()
        };
        let (line, dots) = (scaled(&self.line), scaled(&self.dots));
        let all = || line.iter().chain(&dots);
        let ends = |of: fn(&(f64, f64)) -> f64| {
            let low = all().map(of).fold(f64::INFINITY, f64::min);
            let high = all().map(of).fold(f64::NEG_INFINITY, f64::max);
            if low < high { [low, high] } else { [low - 0.5, low + 0.5] }
        };
        let (across, up) = (ends(|point| point.0), ends(|point| point.1));
        let place = |(x, y): &(f64, f64)| {
            let along = |value: f64, [low, high]: [f64; 2]| (value - low) / (high - low);
            (left + along(*x, across) * (right - left), bottom - along(*y, up) * (bottom - top))
        };
        let (centre, size) = ((left + right) / 2.0, (right - left, bottom - top));
        let mut svg = format!(
            "<text x=\"{left}\" y=\"{}\">{}</text>\n\
             <rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999999\"/>\n\
             <text x=\"{centre}\" y=\"{}\" text-anchor=\"middle\">{over}</text>\n",
            top - 8.0,
            self.title,
            size.0,
            size.1,
            bottom + 28.0
        );
        for (end, anchor, at) in [(0, "start", left), (1, "end", right)] {
            let text = across[end];
            svg += &format!("<text x=\"{at}\" y=\"{}\" text-anchor=\"{anchor}\">{text}</text>\n", bottom + 14.0);
        }
        for (end, at) in [(0, bottom), (1, top + 10.0)] {
            let value = if self.logarithmic { 10f64.powf(up[end]) } else { up[end] };
            svg += &format!("<text x=\"{}\" y=\"{at}\" text-anchor=\"end\">{}</text>\n", left - 6.0, short(value));
        }
        let points: Vec<String> = line.iter().map(&place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        svg += &format!("<polyline fill=\"none\" stroke=\"#2458a6\" points=\"{}\"/>\n", points.join(" "));
        for (x, y) in dots.iter().map(&place) {
            svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#c23b22\"/>\n");
        }
        svg
    }
}

/// Four digits: `0.0292`, `1`, `1175`, `1.5e-5`.
fn short(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e4).contains(&value.abs()) {
        return format!("{value:.1e}");
    }
    let digits = if value.abs() < 1.0 { 4 } else { 3 - value.abs().log10() as usize };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
