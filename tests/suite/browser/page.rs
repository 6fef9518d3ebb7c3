//! The page as a visitor uses it: a whole run, a cancelled one, errors, at three sizes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use unmist::image_io::read_text;

use super::{RUN, site};
use crate::commands::usage::{fixture, stable_diffusion};
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
    page.wait_until(RUN, "/^Step ([2-9]|\\d\\d+) of 900, about/.test(document.querySelector('#status').textContent)");
    photograph(&mut page, "running");
    page.click("#cancel");
    // The step that runs is done first, and other tests may use both cores.
    page.wait_until(RUN, "document.querySelector('#status').textContent === 'Cancelled.'");
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
fn a_visitor_starts_from_a_picture_and_sees_it_change() {
    let (mut page, _server) = opened();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let text = |page: &mut Page, selector: &str| {
        let text = page.evaluate(&format!("document.querySelector('{selector}').textContent"));
        text.as_str().expect("text").to_owned()
    };
    let value = |page: &mut Page, selector: &str| page.evaluate(&format!("document.querySelector('{selector}').value"));
    page.click("#start summary");

    // 1. what is no picture is said at once, at its field
    let wrong = tempfile::Builder::new().suffix(".png").tempfile().expect("a file");
    std::fs::write(wrong.path(), "<html>not found</html>").expect("writes");
    page.choose_files("#image", &[wrong.path().to_owned()]);
    page.wait_until(SOON, "document.querySelector('[data-field=image] .problem')");
    assert!(text(&mut page, "[data-field=image] .problem").contains("not a picture"));
    assert_eq!(page.evaluate(&visible("#painting")), false);

    // 2. a picture goes in, with a mask painted by keyboard; the size follows its shape
    page.choose_files("#image", &[images.join("lanczos_64x48.png")]);
    page.wait_until(SOON, "document.querySelector('#mask').width === 64");
    assert_eq!(page.evaluate("document.querySelectorAll('.problem').length"), 0);
    assert_eq!([value(&mut page, "#width"), value(&mut page, "#height")], ["72", "56"]);
    page.evaluate("document.querySelector('#mask').focus()");
    page.press(" ");
    page.press("ArrowDown");
    page.press(" ");
    assert_eq!(text(&mut page, "#start-state"), "with a mask");
    assert_eq!(page.evaluate("document.querySelector('#strength').placeholder"), "1");
    photograph(&mut page, "start");
    page.evaluate(
        "window.alts = []; const picture = document.querySelector('#picture');
         new MutationObserver(() => alts.push(picture.alt)).observe(picture, {attributeFilter: ['alt']}); 0",
    );
    page.click("#previews");
    page.fill("#prompt", "flat fox, green background");
    page.fill("#strength", "1.5");
    page.fill("#steps", "4");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('[data-field=strength] .problem')");
    page.fill("#strength", "0.75");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('#status').textContent.startsWith('Done in ')");
    let alts = page.evaluate("alts");
    let steps = ["The picture after step 1 of 3", "The picture after step 2 of 3", "flat fox, green background"];
    assert_eq!(alts, serde_json::json!(steps));
    let size = "[document.querySelector('#picture').naturalWidth, document.querySelector('#picture').naturalHeight]";
    assert_eq!(page.evaluate(size), serde_json::json!([72, 56]));
    assert_eq!(page.evaluate(&visible("#download")), true);
    let record = page.evaluate(
        "fetch(document.querySelector('#download').href).then(a => a.arrayBuffer()) \
           .then(bytes => new TextDecoder('latin1').decode(bytes))",
    );
    for part in ["lanczos_64x48.png", "lanczos_64x48-mask.png"] {
        assert!(record.as_str().expect("text").contains(part), "the picture does not say {part}");
    }

    // 3. a run that is cancelled leaves what was there
    page.fill("#steps", "200");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('#picture').alt.startsWith('The picture after step')");
    assert_eq!(page.evaluate(&visible("#download")), false);
    photograph(&mut page, "preview");
    page.click("#cancel");
    page.wait_until(SOON, "document.querySelector('#status').textContent === 'Cancelled.'");
    page.wait_until(SOON, &visible("#download"));
    assert_eq!(page.evaluate("document.querySelector('#picture').alt"), steps[2]);
    assert_eq!(page.evaluate(size), serde_json::json!([72, 56]));

    // 4. what was made is what to start from; another one is dropped; a model without text takes none
    page.click("#use-start");
    page.wait_until(SOON, "document.querySelector('#mask').width === 72");
    assert_eq!(text(&mut page, "#start-state"), "in use");
    let drop = "fetch('models/emoji-64/samples.png').then(a => a.blob()).then((blob) => {
        const data = new DataTransfer();
        data.items.add(new File([blob], 'samples.png', {type: 'image/png'}));
        dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true})); })";
    page.evaluate("document.querySelector('#remove-image').click()");
    assert_eq!(page.evaluate(&visible("#painting")), false);
    page.evaluate(drop);
    page.wait_until(SOON, &visible("#painting"));
    page.evaluate(
        "(() => { const m = document.querySelector('#model'); m.value = 'ddpm-fashion-32'; \
                   m.dispatchEvent(new Event('change', {bubbles: true})); })()",
    );
    assert_eq!(page.evaluate(&visible("#start")), false);
    page.evaluate(drop);
    page.wait_until(SOON, &visible("#error"));
    assert!(text(&mut page, "#error").contains("does not start from a picture"));

    // 5. one for inpainting wants a mask, one for editing none
    page.choose_files("#folder", &[stable_diffusion("inpaint")]);
    page.wait_until(RUN, "document.querySelector('#status').textContent === 'The model is open.'");
    assert_eq!(page.evaluate("document.querySelector('#start').open && document.querySelector('#mask').width"), 262);
    ["width", "height"].iter().for_each(|side| page.fill(&format!("#{side}"), "16"));
    page.fill("#steps", "1");
    page.fill("#strength", "");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('[data-field=mask] .problem')");
    page.evaluate("document.querySelector('#mask').focus()");
    page.press(" ");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('#status').textContent.startsWith('Done in ')");
    assert_eq!(page.evaluate("document.querySelector('#picture').naturalWidth"), 16);
    page.choose_files("#folder", &[stable_diffusion("instruct_pix2pix")]);
    page.wait_until(RUN, "document.querySelector('#status').textContent === 'The model is open.'");
    for (control, shown) in [("#original", true), ("#mask", false), ("#strength", false)] {
        assert_eq!(page.evaluate(&visible(control)), shown, "{control}");
    }
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
