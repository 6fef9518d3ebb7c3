//! The page that `unmist bench --html` writes, as a browser shows it.

use serde_json::Value;

use super::bench::bench;
use crate::harness::browser::Page;

/// Where things are on the page.
const PROBE: &str = r#"(() => {
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const style = getComputedStyle(document.body);
  return {
    frame: box(document.querySelector(".frame")),
    roofs: all(".roof").map(box),
    points: all(".point").map((p) => ({
      box: box(p), operation: +p.dataset.operation, intensity: +p.dataset.intensity, gflops: +p.dataset.gflops,
      row: document.querySelector(p.parentNode.getAttribute("href"))?.textContent ?? "", title: p.textContent,
      fill: getComputedStyle(p).fill,
    })),
    rows: all("tbody tr").length, width: document.documentElement.scrollWidth, window: innerWidth,
    colours: [style.backgroundColor, style.color],
  };
})()"#;

/// What the page says when it is shown in light or dark colours.
fn shown(page: &mut Page, dark: bool, width: u32) -> Value {
    page.dark(dark);
    page.viewport(width, 1000);
    page.evaluate(PROBE)
}

/// Brightness of `rgb(r, g, b)`, as WCAG 2 defines it.
fn luminance(colour: &str) -> f64 {
    let inner = colour.trim_start_matches("rgb(").trim_end_matches(')');
    let linear = |text: &str| {
        let value = text.trim().parse::<f64>().expect("a number") / 255.0;
        if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    let parts: Vec<f64> = inner.split(',').map(linear).collect();
    0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
}

#[test]
fn the_page_shows_every_operation_where_it_belongs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, report) = bench(folder.path(), &["--no-check"]);
    let page = folder.path().join("a.html");
    let html = std::fs::read_to_string(&page).expect("it was written");
    for outside in ["http:", "https:", "src=", "@import", "<script", "url(http"] {
        assert!(!html.contains(outside), "the page must hold everything itself: {outside}");
    }

    let mut page = Page::open(&format!("file://{}", page.display()));
    let light = shown(&mut page, false, 1200);
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().expect("a list").iter().map(|n| n.as_f64().expect("a number")).collect()
    };
    let frame = numbers(&light["frame"]);
    assert!(frame[2] - frame[0] > 800.0 && frame[3] - frame[1] > 300.0, "{frame:?}");
    assert!(light["width"].as_f64() <= light["window"].as_f64(), "the page is wider than its window");

    // Points: all of them, inside the frame, in the order of their numbers, none above the roofs.
    let points = light["points"].as_array().expect("a list");
    let calculating = report.operations.iter().filter(|o| o.done_flops > 0).count();
    assert!(calculating > 3 && points.len() == calculating, "{} points of {calculating}", points.len());
    assert_eq!(light["rows"], report.operations.len());
    let roofs: Vec<Vec<f64>> = light["roofs"].as_array().expect("a list").iter().map(numbers).collect();
    assert!(roofs.len() >= 2);
    let highest = roofs.iter().map(|roof| roof[1]).fold(f64::INFINITY, f64::min);
    let place = |point: &Value| {
        let b = numbers(&point["box"]);
        [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0]
    };
    for point in points {
        let [x, y] = place(point);
        assert!(frame[0] < x && x < frame[2] && frame[1] < y && y < frame[3], "{point} is outside {frame:?}");
        // The drawing has about 80 pixels for each factor of 10, and the ceilings some noise.
        assert!(y > highest - 15.0, "{point} is above the highest roof at {highest}");
        let operation = &report.operations[point["operation"].as_u64().expect("an index") as usize];
        let kind = operation.operation.split('[').next().expect("a name");
        assert!(point["row"].as_str().expect("text").contains(kind), "{point} does not lead to {kind}");
        assert!(point["title"].as_str().expect("text").contains("GFLOP/s"), "{point}");
        let gflops = operation.done_flops as f64 / operation.seconds.median() / 1e9;
        assert!((point["gflops"].as_f64().expect("a number") / gflops - 1.0).abs() < 1e-9, "{point}");
    }
    for (a, b) in points.iter().zip(points.iter().skip(1)) {
        let ([ax, ay], [bx, by]) = (place(a), place(b));
        let order = |key: &str| a[key].as_f64().expect("a number") - b[key].as_f64().expect("a number");
        assert!((ax - bx) * order("intensity") >= 0.0 || (ax - bx).abs() < 1.0, "{a} and {b}");
        assert!((ay - by) * order("gflops") <= 0.0 || (ay - by).abs() < 1.0, "{a} and {b}");
    }

    // Light and dark, both legible; a narrow window scrolls no more than the table.
    let dark = shown(&mut page, true, 1200);
    let colours =
        |answer: &Value| -> [f64; 2] { [0, 1].map(|i| luminance(answer["colours"][i].as_str().expect("a colour"))) };
    let ([paper, ink], [dark_paper, dark_ink]) = (colours(&light), colours(&dark));
    assert!(paper > 0.8 && dark_paper < 0.1, "{paper} {dark_paper}");
    let contrast = |a: f64, b: f64| (a.max(b) + 0.05) / (a.min(b) + 0.05);
    assert!(contrast(paper, ink) > 7.0 && contrast(dark_paper, dark_ink) > 7.0);
    let fills: std::collections::BTreeSet<_> = points.iter().map(|p| p["fill"].as_str().expect("a colour")).collect();
    assert!(fills.len() >= 3, "kinds of operations have colours of their own: {fills:?}");
    let narrow = shown(&mut page, false, 500);
    assert!(narrow["width"].as_f64() <= narrow["window"].as_f64(), "{narrow}");
    assert_eq!(page.problems(), [""; 0]);
}
