//! The page as a visitor uses it: a whole run, a cancelled one, errors, at three sizes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use unmist::image_io::read_text;

use super::{RUN, site};
use crate::commands::usage::fixture;
use crate::harness::browser::{FileServer, Page};

const SOON: Duration = Duration::from_secs(20);

/// The page with its folder served as any host would.
fn opened() -> (Page, FileServer) {
    let server = FileServer::start(site());
    let mut page = Page::open(&server.url("/"));
    page.wait_until(SOON, "document.querySelector('#model').length > 1 && !document.querySelector('#make').disabled");
    (page, server)
}

fn visible(selector: &str) -> String {
    format!("document.querySelector('{selector}').checkVisibility()")
}

/// Photographs the page at three sizes, in light and dark, below `target`; it must not be wider than its window.
fn photograph(page: &mut Page, what: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures of the page");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, width, height, dark) in
        [("desktop", 1280, 900, false), ("tablet", 768, 1024, true), ("phone", 375, 812, false)]
    {
        page.viewport(width, height);
        page.dark(dark);
        page.screenshot(&folder.join(format!("{what} {name}.png")));
        let wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]");
        assert!(wide[0].as_u64() <= wide[1].as_u64(), "{what} {name}: {wide}");
    }
    page.viewport(1280, 900);
    page.dark(false);
}

#[test]
fn a_visitor_makes_a_picture_and_cancels_another() {
    let (mut page, _server) = opened();
    photograph(&mut page, "empty");

    // 1. a picture from a prompt, by keyboard
    page.fill("#prompt", "flat fox, green background");
    page.fill("#steps", "2");
    page.fill("#seed", "7");
    page.press("Enter");
    page.wait_until(SOON, &visible("#cancel"));
    page.wait_until(RUN, "document.querySelector('#status').textContent.startsWith('Step 1 of 2')");
    page.wait_until(RUN, &visible("#result"));
    assert_eq!(page.evaluate("document.querySelector('#picture').naturalWidth"), 64);
    assert_eq!(page.evaluate("document.querySelector('#picture').alt"), "flat fox, green background");
    let status = page.evaluate("document.querySelector('#status').textContent");
    assert!(status.as_str().expect("text").starts_with("Done in "), "{status}");
    assert_eq!(page.evaluate(&visible("#cancel")), false);
    let name = page.evaluate("document.querySelector('#download').download");
    assert_eq!(name, "flat-fox-green-background-7.png");
    // What is downloaded says how it was made.
    let bytes = page.evaluate(
        "fetch(document.querySelector('#download').href).then(a => a.arrayBuffer()).then(b => [...new Uint8Array(b)])",
    );
    let bytes: Vec<u8> = serde_json::from_value(bytes).expect("bytes");
    let file = tempfile::Builder::new().suffix(".png").tempfile().expect("a file");
    std::fs::write(file.path(), bytes).expect("writes");
    let texts = read_text(file.path()).expect("a PNG");
    let said = format!("{texts:?}");
    for part in ["flat fox, green background", "Steps: 2", "Seed: 7"] {
        assert!(said.contains(part), "no «{part}» in {said}");
    }
    photograph(&mut page, "picture");

    // 2. a long run, cancelled; what was there stays
    page.fill("#steps", "900");
    page.click("#make");
    page.wait_until(RUN, "/^Step [2-9] of 900, about/.test(document.querySelector('#status').textContent)");
    photograph(&mut page, "running");
    page.click("#cancel");
    page.wait_until(SOON, "document.querySelector('#status').textContent === 'Cancelled.'");
    assert_eq!(page.evaluate(&visible("#result")), true);
    assert_eq!(page.evaluate(&visible("#progress")), false);

    // 3. a model of the visitor's own, from a folder
    page.choose_files("#folder", &[fixture("pipeline")]);
    page.wait_until(RUN, "document.querySelector('#status').textContent === 'The model is open.'");
    assert_eq!(page.evaluate("document.querySelector('#model').value"), "own");
    page.fill("#steps", "1");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('#status').textContent.startsWith('Done')");
    photograph(&mut page, "own model");

    // 4. another model, which needs other fields
    page.evaluate(
        "(() => { const m = document.querySelector('#model'); m.value = 'ddpm-fashion-32'; \
                   m.dispatchEvent(new Event('change', {bubbles: true})); })()",
    );
    assert_eq!(page.evaluate(&visible("#prompt")), false);
    assert_eq!(page.evaluate("[...document.querySelector('#class').options].map(o => o.text)[9]"), "ankle boot");
    assert_eq!(page.problems(), [""; 0]);
}

#[test]
fn errors_stand_where_they_belong() {
    let (mut page, server) = opened();

    // 1. at the field at fault; with the next try they go
    page.fill("#width", "65");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('[data-field=width] .problem')");
    let problem = page.evaluate("document.querySelector('[data-field=width] .problem').textContent");
    assert!(problem.as_str().expect("text").contains("65"), "{problem}");
    assert_eq!(page.evaluate("document.activeElement.id"), "width");
    assert_eq!(page.evaluate("document.activeElement.getAttribute('aria-describedby')"), "problem-width");
    photograph(&mut page, "error");
    page.fill("#width", "64");
    page.fill("#steps", "x");
    page.evaluate("document.querySelector('#memory').value = '0.001'");
    page.fill("#steps", "1");
    page.click("#make");
    page.wait_until(RUN, &visible("#error"));
    let problem = page.evaluate("document.querySelector('#error').textContent");
    assert!(problem.as_str().expect("text").contains("needs"), "{problem}");
    assert_eq!(page.evaluate("document.querySelectorAll('.problem').length"), 0);
    page.evaluate("document.querySelector('#memory').value = ''");

    // 2. files that are no model
    let folder = tempfile::tempdir().expect("a folder");
    let wrong: Vec<PathBuf> = ["a.safetensors", "b.png"].map(|name| folder.path().join(name)).into();
    std::fs::write(&wrong[0], "<html>not found</html>").expect("writes");
    std::fs::write(&wrong[1], "").expect("writes");
    page.choose_files("#file", &wrong[1..]);
    page.wait_until(SOON, "document.querySelector('[data-field=model] .problem')");
    page.choose_files("#file", &wrong[..1]);
    page.wait_until(RUN, "document.querySelector('#error').checkVisibility()");
    let problem = page.evaluate("document.querySelector('#error').textContent");
    assert!(problem.as_str().expect("text").contains("HTML"), "{problem}");
    assert_eq!(page.problems(), [""; 0]);

    // 3. a GPU that is lost: the run ends with a message, and the next one starts on a new device
    page.go(&server.url("/"));
    page.wait_until(SOON, "!document.querySelector('#make').disabled");
    page.fill("#steps", "900");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('#status').textContent.startsWith('Step 1 of')");
    page.evaluate("ask('lose').then(() => 0)");
    page.wait_until(SOON, &visible("#error"));
    let problem = page.evaluate("document.querySelector('#error').textContent");
    assert!(problem.as_str().expect("text").contains("lost"), "{problem}");
    page.fill("#steps", "1");
    page.click("#make");
    page.wait_until(RUN, &visible("#result"));
    assert_eq!(page.problems(), [""; 0]);

    // 4. browsers that cannot run it are told why
    let told = |page: &mut Page, without: &str| {
        page.evaluate(&format!("(async () => {{ {without}; return (await import('/engine.js')).whyNot(); }})()"))
    };
    assert!(told(&mut page, "").is_null());
    let without_jspi = told(&mut page, "delete WebAssembly.Suspending");
    assert!(without_jspi.as_str().expect("text").contains("Promise Integration"), "{without_jspi}");
    let none = told(&mut page, "Object.defineProperty(navigator, 'gpu', {value: undefined})");
    assert!(none.as_str().expect("text").contains("no WebGPU"), "{none}");
}
