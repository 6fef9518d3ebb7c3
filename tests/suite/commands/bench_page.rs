//! The page that `unmist bench --html` writes, as a browser shows it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::bench::bench;

/// What `UNMIST_TEST_BROWSER` names, or a browser at one of its usual places.
fn browser() -> PathBuf {
    if let Some(path) = std::env::var_os("UNMIST_TEST_BROWSER") {
        return path.into();
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"];
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&folders).flat_map(|folder| names.map(|name| folder.join(name)));
    let elsewhere = [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    ];
    on_path
        .chain(elsewhere.map(PathBuf::from))
        .find(|path| path.is_file())
        .expect("no Chromium, Chrome or Edge: install one, or set UNMIST_TEST_BROWSER")
}

/// Asks the page where things are, when it has been laid out, and leaves the answer in its text.
const PROBE: &str = r#"
<script>
addEventListener("load", () => {
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const style = getComputedStyle(document.body);
  const answer = {
    problems,
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
  const pre = document.createElement("pre");
  pre.id = "answer";
  pre.textContent = JSON.stringify(answer);
  document.body.append(pre);
});
</script>"#;

/// What the page says when it is shown in light or dark colours.
fn shown(page: &Path, dark: bool, width: u32) -> Value {
    let html = std::fs::read_to_string(page).expect("it was written");
    let watch = "<head>\n<script>const problems = []; addEventListener('error', e => problems.push(String(e.message)), \
                 true);</script>";
    let probed = page.with_file_name(format!("probed-{dark}.html"));
    let text = html.replacen("<head>", watch, 1).replacen("</body>", &format!("{PROBE}</body>"), 1);
    std::fs::write(&probed, text).expect("writes");
    let profile = tempfile::tempdir().expect("a folder");
    let output = Command::new(browser())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }))
        .arg(format!("--window-size={width},1000"))
        .arg(format!("file://{}", probed.display()))
        .output()
        .expect("the browser starts");
    let dom = String::from_utf8_lossy(&output.stdout);
    let answer = dom.split("<pre id=\"answer\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let answer = answer.unwrap_or_else(|| panic!("no answer in {dom}\n{}", String::from_utf8_lossy(&output.stderr)));
    let answer = answer.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&answer).expect("JSON")
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

    let light = shown(&page, false, 1200);
    assert_eq!(light["problems"], serde_json::json!([]));
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
    let dark = shown(&page, true, 1200);
    assert_eq!(dark["problems"], serde_json::json!([]));
    let colours =
        |answer: &Value| -> [f64; 2] { [0, 1].map(|i| luminance(answer["colours"][i].as_str().expect("a colour"))) };
    let ([paper, ink], [dark_paper, dark_ink]) = (colours(&light), colours(&dark));
    assert!(paper > 0.8 && dark_paper < 0.1, "{paper} {dark_paper}");
    let contrast = |a: f64, b: f64| (a.max(b) + 0.05) / (a.min(b) + 0.05);
    assert!(contrast(paper, ink) > 7.0 && contrast(dark_paper, dark_ink) > 7.0);
    let fills: std::collections::BTreeSet<_> = points.iter().map(|p| p["fill"].as_str().expect("a colour")).collect();
    assert!(fills.len() >= 3, "kinds of operations have colours of their own: {fills:?}");
    let narrow = shown(&page, false, 500);
    assert!(narrow["width"].as_f64() <= narrow["window"].as_f64(), "{narrow}");
}
