//! The page that `unmist explain` writes, as a browser shows it.

use std::path::Path;

use serde_json::Value;

use super::usage::{fails, shipped, succeeds};
use crate::harness::browser::Page;

/// What is on the page.
const PROBE: &str = r#"(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const cells = (row) => [...row.cells].map((cell) => cell.textContent);
  const rows = (label) => all(`[aria-label="${label}"] tbody tr`).map(cells);
  const pair = (d) => [d.querySelector("dt").textContent, d.querySelector("dd").textContent];
  all("details").forEach((d) => { d.open = true; });
  const style = getComputedStyle(document.body);
  return {
    fetched: performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith("data:")),
    headings: all("h1, h2, h3").map((h) => `${h.tagName} ${h.textContent}`),
    images: all("img").map((i) => ({ alt: i.alt, width: i.naturalWidth, loaded: i.complete, src: i.src.slice(0, 5) })),
    drawings: all("svg").map((s) => s.querySelector("title").textContent),
    dead: all("a").map((a) => a.getAttribute("href")).filter((h) => !document.getElementById(h.slice(1))),
    blocks: rows("Activations by block"), words: rows("Attention to each word by step"),
    nodes: rows("Operations of a step"), levels: rows("Noise level of each call"), settings: rows("Settings"),
    code: Object.fromEntries(all("details").filter((d) => d.querySelector(".code"))
      .map((d) => [d.querySelector("summary").textContent.split(":")[0], d.querySelector(".code").textContent])),
    gradients: Object.fromEntries(all("article").map((a) => [a.querySelector("h3").textContent,
      [...a.querySelectorAll("dl div")].map(pair)])),
    width: document.documentElement.scrollWidth, window: innerWidth, colours: [style.backgroundColor, style.color],
  };
})()"#;

fn explained(folder: &Path, name: &str, args: &[&str]) -> (Page, Value) {
    let file = folder.join(name);
    succeeds(&[&["explain", "--output", file.to_str().expect("UTF-8")], args].concat());
    let bytes = std::fs::metadata(&file).expect("it was written").len();
    assert!(bytes < 3_000_000, "{bytes} bytes");
    let mut page = Page::open(&format!("file://{}", file.display()));
    page.viewport(1000, 1000);
    let probe = page.evaluate(PROBE);
    (page, probe)
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn a_page_explains_a_run_by_class() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = shipped();
    let run = ["--model", model.to_str().expect("UTF-8"), "--class", "3", "--steps", "3", "--seed", "5"];
    let (mut page, probe) = explained(folder.path(), "a.html", &run);
    assert_eq!(list(&probe["fetched"]).len(), 0, "the page must hold everything itself: {}", probe["fetched"]);

    // Headings in order, pictures with words for them, links that lead somewhere.
    let headings: Vec<&str> = list(&probe["headings"]).iter().map(text).collect();
    assert!(headings[0].starts_with("H1 ") && headings[1].starts_with("H2 "), "{headings:?}");
    assert_eq!(headings.iter().filter(|heading| heading.starts_with("H2")).count(), 7);
    let images = list(&probe["images"]);
    assert_eq!(images.len(), 1 + 4 + 3, "the picture, x_t four times, x_0 three times");
    for image in images {
        let shown = image["loaded"] == true && image["width"].as_u64() > Some(0) && image["src"] == "data:";
        assert!(shown && !text(&image["alt"]).is_empty(), "{image}");
    }
    assert_eq!(list(&probe["dead"]).len(), 0, "{}", probe["dead"]);
    assert_eq!(list(&probe["drawings"]).len(), 3, "{}", probe["drawings"]);
    assert_eq!(list(&probe["levels"]).len(), 3);
    assert!(list(&probe["settings"]).iter().any(|row| row[0] == "seed" && row[2] != ""), "{}", probe["settings"]);
    assert!(list(&probe["words"]).is_empty());

    // The graph: each operation of a step has kernels and a time, and their texts are those of the repository.
    let nodes = list(&probe["nodes"]);
    assert!(nodes.len() > 40, "{} nodes", nodes.len());
    let conv = nodes.iter().find(|row| row[0] == "conv_in").expect("the first convolution");
    assert!(text(&conv[1]).starts_with("conv2d") && text(&conv[5]).contains("contraction/"), "{conv}");
    assert!(text(&conv[6]).rsplit(' ').next().is_some_and(|ms| ms.parse::<f64>().is_ok_and(|ms| ms > 0.0)), "{conv}");
    let code = probe["code"].as_object().expect("an object");
    assert!(code.len() > 10, "{:?}", code.keys());
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, shown) in code {
        let whole = std::fs::read_to_string(repository.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(whole.contains(text(shown).trim_end()), "{file} is not what is shown");
    }
    let gradient = &probe["gradients"];
    let of = |operation: &str, input: &str| {
        let all = list(&gradient[operation]);
        let found = all.iter().find(|pair| pair[0] == input).unwrap_or_else(|| panic!("{operation}: {all:?}"));
        text(&found[1]).to_owned()
    };
    assert!(of("contraction", "conv2d x").contains("conv2d"), "{gradient}");
    assert!(of("contraction", "conv2d weight").contains("weight_gradient"), "{gradient}");
    assert!(of("norm", "group_norm x").contains("norm_gradient"), "{gradient}");
    assert_eq!(of("scheduler_step", "scheduler_step state"), "none");

    // By keyboard: the first stop is the first thing that opens, the second the first link.
    page.press("Tab");
    assert_eq!(page.evaluate("document.activeElement.tagName"), "SUMMARY");
    // Narrow windows scroll no more than what is wide; dark colours are dark.
    page.viewport(400, 800);
    page.dark(true);
    let narrow = page.evaluate(PROBE);
    assert!(narrow["width"].as_f64() <= narrow["window"].as_f64(), "{} of {}", narrow["width"], narrow["window"]);
    assert_ne!(narrow["colours"][0], probe["colours"][0]);
    assert_eq!(page.problems(), [""; 0]);

    // The reference computes the same, and has no kernels to time.
    let (_, plain) = explained(folder.path(), "b.html", &[&run[..], &["--device", "reference"]].concat());
    let (found, expected) = (list(&probe["blocks"]), list(&plain["blocks"]));
    assert!(found.len() > 10 && found.len() == expected.len(), "{} blocks", found.len());
    for (row, other) in found.iter().zip(expected) {
        assert_eq!((&row[1], &row[2]), (&other[1], &other[2]));
        for column in [3, 4] {
            let [a, b] = [row, other].map(|row| text(&row[column]).parse::<f64>().expect("a number"));
            assert!(a > 0.0 && (a / b - 1.0).abs() < 2e-3, "{row} and {other}");
        }
    }
    assert!(list(&plain["nodes"]).iter().all(|row| row[6] == ""), "nothing is timed");
    assert_eq!(plain["gradients"], probe["gradients"]);
}

#[test]
fn a_page_explains_where_a_picture_looks() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/emoji-64");
    let model = model.to_str().expect("UTF-8");
    let (_, probe) = explained(folder.path(), "a.html", &["a 3d red apple, blue background", "--model", model]);
    let words = list(&probe["words"]);
    assert!(words.iter().any(|row| row[0] == "apple"), "{words:?}");
    assert!(words.iter().all(|row| list(row).len() == 1 + list(&probe["levels"]).len()), "a map for each step");
    let alt = |image: &&Value| text(&image["alt"]).starts_with("Attention to apple after step");
    assert_eq!(list(&probe["images"]).iter().filter(alt).count(), list(&probe["levels"]).len());
}

#[test]
fn what_is_no_page_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, out) = (shipped(), folder.path().join("a.png"));
    let [model, out] = [&model, &out].map(|path| path.to_str().expect("UTF-8"));
    fails(&["explain", "--model", model, "--output", out], &["--output", ".html"], folder.path());
    let page = folder.path().join("a.html");
    let page = page.to_str().expect("UTF-8");
    fails(&["explain", "--model", model, "--class", "99", "--output", page], &["--class"], folder.path());
}
