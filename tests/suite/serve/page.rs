//! The page, as a browser shows it and people use it.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use unmist::serve::{Folders, Options};

use super::inside::turn;
use super::{Running, options, start};
use crate::harness::browser::Page;

/// How long a run of few steps may take beside other tests.
const RUN: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

/// The numbers of a picture's 64 × 64 pixels; and those of the picture that is shown, as text.
const BYTES: &str = "window.bytes = async (image) => { await image.decode();
    const context = new OffscreenCanvas(64, 64).getContext('2d', {willReadFrequently: true});
    context.drawImage(image, 0, 0, 64, 64); return context.getImageData(0, 0, 64, 64).data; }; 0";
const PIXELS: &str = "bytes(shown).then((all) => all.join())";
const READY: &str = "document.documentElement.dataset.ready";
const IDLE: &str = "document.getElementById('running').hidden && !document.getElementById('make').disabled";

fn open(address: SocketAddr) -> Page {
    let mut page = Page::open(&format!("http://{address}/"));
    // Scrolling that takes its time would move what a test draws on.
    let calm = json!({"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]});
    page.call("Emulation.setEmulatedMedia", calm);
    page.wait_until(SOON, READY);
    page.evaluate(BYTES);
    page
}

/// Waits for the end of a run; how many pictures there are then.
fn finished(page: &mut Page) -> Value {
    page.wait_until(RUN, IDLE);
    page.evaluate("document.querySelectorAll('#gallery button').length")
}

fn text(page: &mut Page, selector: &str) -> String {
    let text = page.evaluate(&format!("document.querySelector({}).innerText", json!(selector)));
    text.as_str().unwrap_or_default().to_owned()
}

fn value(page: &mut Page, id: &str) -> Value {
    page.evaluate(&format!("document.getElementById({}).value", json!(id)))
}

/// The settings beside the picture, as `name value` lines.
fn settings(page: &mut Page) -> Vec<String> {
    let found = page.evaluate(
        "[...document.querySelectorAll('#settings dt')].map((dt) => `${dt.innerText} ${dt.nextSibling.innerText}`)",
    );
    serde_json::from_value(found).expect("texts")
}

/// Presses Ctrl and Enter.
fn ctrl_enter(page: &mut Page) {
    let key =
        json!({"type": "rawKeyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2});
    page.call("Input.dispatchKeyEvent", key);
}

/// Draws a line over an element, from and to shares of its width and height.
fn stroke(page: &mut Page, selector: &str, from: [f64; 2], to: [f64; 2]) {
    let place = page.evaluate(&format!(
        "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center', behavior: 'instant'}});
           const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; }})()",
        json!(selector)
    ));
    let place: [f64; 4] = serde_json::from_value(place).expect("numbers");
    let middle = [0, 1].map(|i| (from[i] + to[i]) / 2.0);
    for (kind, at) in [("mousePressed", from), ("mouseMoved", middle), ("mouseMoved", to), ("mouseReleased", to)] {
        let (x, y) = (place[0] + at[0] * place[2], place[1] + at[1] * place[3]);
        let event = json!({"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1});
        page.call("Input.dispatchMouseEvent", event);
    }
}

#[test]
fn a_run_an_edit_a_cancel_and_an_error() {
    let server = Running::new(options());
    let mut page = open(server.address);
    assert_eq!(value(&mut page, "model"), "emoji-64", "a model for texts is offered first");
    assert_eq!(page.evaluate("document.getElementById('steps').placeholder"), "25", "the model's own");

    // A whole run, by the keyboard.
    page.fill("#prompt", "a red apple");
    page.fill("#steps", "6");
    ctrl_enter(&mut page);
    page.wait_until(SOON, "!document.getElementById('running').hidden");
    page.wait_until(RUN, "document.getElementById('shown').alt.startsWith('The picture after step')");
    page.wait_until(RUN, "document.getElementById('status').innerText.includes('of 6')");
    assert_eq!(finished(&mut page), 1);
    let shown = settings(&mut page);
    for part in ["prompt a red apple", "steps 6", "model emoji-64", "width 64"] {
        assert!(shown.iter().any(|line| line == part), "no {part} in {shown:?}");
    }
    let seed = value(&mut page, "seed");
    assert!(shown.contains(&format!("seed {}", seed.as_str().expect("text"))), "{seed} {shown:?}");

    // Again is the same picture, varied is another one.
    let first = page.evaluate(PIXELS);
    page.click("#again");
    assert_eq!(finished(&mut page), 2);
    assert_eq!(page.evaluate(PIXELS), first);
    page.click("#vary");
    assert_eq!(finished(&mut page), 3);
    assert_ne!(page.evaluate(PIXELS), first);

    // A click on another picture shows it with its settings.
    page.click("#gallery li:last-child button");
    assert_eq!(page.evaluate(PIXELS), first);
    assert_eq!(settings(&mut page), shown);

    // A part of it is painted anew: the mask is white where it was painted, black elsewhere.
    page.evaluate(
        "window.sent = []; const own = fetch;
         window.fetch = (path, how) => {
           if (how?.method === 'POST') sent.push([path, how.body]);
           return own(path, how);
         }",
    );
    page.click("#use-start");
    page.wait_until(SOON, "!document.getElementById('painting').hidden && mask.width === 64");
    stroke(&mut page, "#mask", [0.25, 0.25], [0.75, 0.25]);
    assert_eq!(text(&mut page, "#start-state"), "with a mask");
    page.fill("#prompt", "a green apple");
    page.click("#make");
    assert_eq!(finished(&mut page), 4);
    let mask = page.evaluate(
        "(async () => { const body = JSON.parse(sent.at(-1)[1]);
           const image = Object.assign(new Image(), {src: body.mask}), all = await bytes(image);
           const at = (x, y) => [...all.slice(4 * (64 * y + x), 4 * (64 * y + x) + 4)];
           return [image.width, image.height, at(32, 16), at(32, 48), body.mask_reading, body.image.slice(0, 22)];
         })()",
    );
    let (white, black) = (json!([255, 255, 255, 255]), json!([0, 0, 0, 255]));
    assert_eq!(mask, json!([64, 64, white, black, "auto", "data:image/png;base64,"]));
    // What was not painted over is as it was: the picture's lower half lies beyond the reach of the mask.
    let far = page.evaluate(
        "Promise.all([original, shown].map(bytes)).then(([before, after]) => { const lower = 4 * 64 * 40;
           const changes = after.slice(lower).map((v, i) => Math.abs(v - before[lower + i]));
           return changes.reduce((sum, v) => sum + v, 0) / changes.length; })",
    );
    assert!(far.as_f64().expect("a number") < 8.0, "the rest changed by {far} of 255");

    // The brush by keyboard, undone, erased and cleared.
    let painted =
        "mask.getContext('2d').getImageData(0, 0, 64, 64).data.filter((v, i) => i % 4 === 3 && v > 127).length";
    let before = page.evaluate(painted).as_f64().expect("a number");
    page.evaluate("mask.focus()");
    page.press("ArrowDown");
    page.press(" ");
    let more = page.evaluate(painted).as_f64().expect("a number");
    assert!(more > before, "{more} of {before}");
    page.click("#undo");
    page.click("#eraser");
    stroke(&mut page, "#mask", [0.25, 0.25], [0.5, 0.25]);
    page.evaluate("document.activeElement.blur()");
    let less = page.evaluate(painted).as_f64().expect("a number");
    assert!(less > 0.0 && less < before, "{less} of {before}");
    page.click("#clear");
    assert_eq!(page.evaluate(painted), 0);
    page.click("#remove-image");

    // A run is stopped by Escape; what was there stays.
    page.fill("#steps", "400");
    page.click("#make");
    page.wait_until(RUN, "document.getElementById('status').innerText.startsWith('Step ')");
    page.press("Escape");
    assert_eq!(finished(&mut page), 4);
    assert_eq!(text(&mut page, "#said"), "Cancelled");
    server.until("nothing runs", |server| server.counter("unmist_requests_running") == 0.0);
    assert_eq!(server.counter("unmist_jobs_total{status=\"cancelled\"}"), 1.0);
    assert_eq!(page.problems(), [""; 0]);

    // Errors stand at their fields: of the server at once, of the job, of the page itself.
    let wrong =
        "document.querySelector('[aria-invalid]')?.id === document.activeElement.id && document.activeElement.id";
    page.fill("#steps", "4000");
    page.click("#make");
    page.wait_until(SOON, "document.querySelector('.problem')");
    assert_eq!(page.evaluate(wrong), "steps");
    assert!(text(&mut page, "[data-field=steps] .problem").contains("at most 500"));
    page.fill("#steps", "6");
    assert_eq!(
        page.evaluate("document.querySelector('.problem')"),
        Value::Null,
        "what is changed is not wrong any more"
    );
    page.fill("#width", "63");
    page.click("#make");
    page.wait_until(RUN, "document.querySelector('.problem')");
    assert_eq!(page.evaluate(wrong), "width");
    page.fill("#width", "");
    page.fill("#seed", "one");
    page.click("#make");
    page.wait_until(SOON, "document.querySelector('.problem')");
    assert_eq!(page.evaluate(wrong), "seed");
    assert!(page.problems().iter().all(|problem| problem.contains("400")), "only the refusal");
}

#[test]
fn a_dropped_picture_tells_its_settings() {
    // A LoRA of another model, which is enough to be offered.
    let loras = tempfile::tempdir().expect("a folder");
    std::fs::write(loras.path().join("bright.safetensors"), []).expect("writes");
    let folders = Folders { loras: vec![loras.path().to_owned()], ..Folders::default() };
    let server = Running::new(Options { folders, ..options() });
    let mut page = open(server.address);
    // The files that the page shows, and saves.
    page.evaluate(
        "window.files = []; const own = URL.createObjectURL;
         URL.createObjectURL = (file) => { files.push(file); return own.call(URL, file); }",
    );
    page.evaluate("model.value = 'ddpm-fashion-32'; model.dispatchEvent(new Event('change'))");
    assert_eq!(page.evaluate("getComputedStyle(document.querySelector('[data-field=prompt]')).display"), "none");
    for (field, to) in [("#class", "3, 7"), ("#steps", "5"), ("#seed", "11"), ("#guidance_scale", "1.5")] {
        page.fill(field, to);
    }
    page.evaluate(
        "const one = document.getElementById('scheduler'); one.value = 'DPM++ 2M';
         one.dispatchEvent(new Event('change')); schedule.value = 'Karras'",
    );
    page.click("#make");
    assert_eq!(finished(&mut page), 2);
    assert_eq!(page.problems(), [""; 0]);
    let names = page.evaluate("[...document.querySelectorAll('#gallery button')].map((one) => one.title).sort()");
    assert_eq!(names, json!(["class 3, seed 11", "class 7, seed 12"]));

    // Another form; the picture is dropped onto it.
    page.evaluate("model.value = 'emoji-64'; model.dispatchEvent(new Event('change'))");
    for (field, to) in [("#steps", "9"), ("#seed", "1"), ("#guidance_scale", "")] {
        page.fill(field, to);
    }
    let drop = "(() => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([files[0]], 'a.png', {type: 'image/png'}));
        document.body.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer}));
    })()";
    page.evaluate(drop);
    page.wait_until(SOON, "about.innerText.includes('settings of a.png')");
    let fields = ["model", "class", "steps", "seed", "guidance_scale", "scheduler", "schedule"];
    let found = fields.map(|field| value(&mut page, field).as_str().unwrap_or_default().to_owned());
    assert_eq!(found, ["ddpm-fashion-32", "3, 7", "5", "11", "1.5", "DPM++ 2M", "Karras"]);
    // And they make the same picture.
    let before = page.evaluate(PIXELS);
    page.click("#make");
    assert_eq!(finished(&mut page), 4);
    assert_eq!(page.evaluate(PIXELS), before);

    // What a picture says beyond the fields is kept, and can be left out.
    page.evaluate(
        "import('/page/form.js').then(({ fill }) => { window.remarks = fill({
           model: 'emoji-64', prompt: ['a', 'b'], eta: 0.5, seed: [2 ** 60], image: 'a.png', strength: 0.5,
           lora: ['bright:0.5'], scheduler: 'euler_ancestral'}); })",
    );
    let remarks = page.evaluate("remarks.map((one) => one.split(' ').slice(0, 3).join(' '))");
    assert_eq!(remarks, json!(["Of several texts,", "Its seed is", "It began with"]));
    assert_eq!(text(&mut page, "#others"), "eta 0.5 ×");
    let request = "import('/page/form.js').then(({ request }) => request())";
    let mut expected = json!({"model": "emoji-64", "prompt": ["a"], "eta": 0.5, "lora": ["bright:0.5"]});
    expected["scheduler"] = json!("euler_ancestral");
    assert_eq!(page.evaluate(request), expected);
    page.click("#others button");
    expected.as_object_mut().expect("an object").remove("eta");
    assert_eq!(page.evaluate(request), expected);

    // One without settings is what to start from, where the model can.
    page.evaluate("model.value = 'emoji-64'; model.dispatchEvent(new Event('change'))");
    let folder = tempfile::tempdir().expect("a folder");
    let (path, _) = start(&folder);
    page.choose_files("#settings-file", &[path]);
    page.wait_until(SOON, "!document.getElementById('painting').hidden");
    assert!(text(&mut page, "#about").contains("no settings"));
    assert!(page.problems().iter().all(|problem| problem.contains("400")), "only the refusal");
}

/// A line to a server that can be cut.
struct Line {
    address: SocketAddr,
    /// What is connected; None while it is cut.
    ends: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Line {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let ends = Arc::new(Mutex::new(Some(Vec::new())));
        let all = ends.clone();
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(server) else { continue };
                let Some(ends) = &mut *all.lock().expect("no holder panics") else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                ends.extend([near, far]);
            }
        });
        Self { address, ends }
    }

    fn cut(&self) {
        let ends = self.ends.lock().expect("no holder panics").take();
        ends.into_iter().flatten().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }

    fn mend(&self) {
        *self.ends.lock().expect("no holder panics") = Some(Vec::new());
    }
}

#[test]
fn a_server_that_goes_away_is_waited_for() {
    let server = Running::new(options());
    let line = Line::to(server.address);
    let mut page = open(line.address);
    page.fill("#prompt", "a red apple");
    page.fill("#steps", "60");
    page.click("#make");
    page.wait_until(RUN, "document.getElementById('status').innerText.startsWith('Step ')");
    // The line is cut while it runs.
    line.cut();
    page.wait_until(RUN, "!document.getElementById('lost').hidden");
    assert!(text(&mut page, "#lost").contains("does not answer"));
    line.mend();
    assert_eq!(finished(&mut page), 1, "the job went on, and the page found it again");
    assert_eq!(page.evaluate("document.getElementById('lost').hidden"), true);

    // The server itself ends, and begins anew.
    let port = server.address.port();
    drop(server);
    page.click("#vary");
    page.wait_until(SOON, "!document.getElementById('lost').hidden");
    page.wait_until(SOON, IDLE);
    assert_eq!(text(&mut page, "#message"), "The server does not answer.");
    let again = Running::new(Options { port, ..options() });
    page.wait_until(SOON, "document.getElementById('lost').hidden");
    page.click("#vary");
    assert_eq!(finished(&mut page), 2);
    drop(again);
}

/// What is wrong with how the page looks: text of too little contrast (WCAG 2, 1.4.3), controls too small to press,
/// anything wider than the window.
const FAULTS: &str = r"(() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const faults = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!e.checkVisibility({visibilityProperty: true})) continue;
    if (e.closest('.unseen, svg, :disabled, noscript, option')) continue;
    const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const box = e.getBoundingClientRect();
    const name = `${e.tagName} ${e.id || e.innerText?.slice(0, 30)}`;
    if (own) {
      const [a, b] = [luminance(numbers(getComputedStyle(e).color)), luminance(ground(e))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) faults.push(`${name}: contrast ${contrast.toFixed(2)}`);
    }
    if (e.matches('button, select, textarea, input:not([type=file], [type=checkbox])') && box.height < 24) {
      faults.push(`${name}: ${box.height} high`);
    }
    if (box.right > innerWidth + 1 && !e.closest('.wide-table')) faults.push(`${name}: ends at ${box.right}`);
  }
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) faults.push(`scrolls to ${width}`);
  return faults;
})()";

/// What can be pressed or filled in, and has no name for who cannot see it.
fn nameless(page: &mut Page) -> Vec<String> {
    let roles = ["button", "textbox", "combobox", "spinbutton", "slider", "checkbox", "tab", "application", "img"];
    let tree = page.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("nodes");
    let faulty = nodes.iter().filter(|node| {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        let name = node["name"]["value"].as_str().unwrap_or_default();
        node["ignored"] != true && roles.contains(&role) && name.trim().is_empty()
    });
    faulty.map(Value::to_string).collect()
}

/// Three sizes of windows, dark and light, both views. `UNMIST_PAGE_PICTURES` names a folder that keeps the pictures;
/// `UNMIST_PAGE_PICTURE` a file for one of them, which the README shows.
#[test]
fn it_looks_well_at_every_size_in_the_dark_and_in_the_light() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let kept = std::env::var_os("UNMIST_PAGE_PICTURES").map_or(folder.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&kept).expect("a folder");
    let one = std::env::var_os("UNMIST_PAGE_PICTURE").map(PathBuf::from);
    let server = Running::new(options());
    let mut page = open(server.address);
    page.viewport(1280, 860);
    page.dark(false);
    assert_eq!(page.evaluate(FAULTS), json!([]));
    assert_eq!(nameless(&mut page), [""; 0]);

    // Recorded, for the other view.
    page.fill("#prompt", "a 3d red apple, blue background");
    page.fill("#seed", "3");
    page.click("#tab-inside");
    page.click("#record-now");
    page.wait_until(SOON, "!document.getElementById('view-make').hidden");
    page.wait_until(RUN, "!document.getElementById('chain').hidden");
    page.wait_until(RUN, IDLE);
    page.click("#tab-make");
    page.evaluate("record.checked = false");
    let pictures = ["flat fox, green background", "soccer ball", "a red apple", "3d cat face, blue background"];
    let pictures = if one.is_some() { &pictures[..] } else { &pictures[..1] };
    for prompt in pictures {
        page.fill("#prompt", prompt);
        page.fill("#seed", "4");
        page.fill("#steps", if one.is_some() { "" } else { "4" });
        page.click("#make");
        finished(&mut page);
    }
    page.evaluate("scrollTo({top: 0, behavior: 'instant'}); document.activeElement.blur()");
    if let Some(path) = &one {
        page.screenshot(path);
    }
    page.click("#use-start");
    page.wait_until(SOON, "!document.getElementById('painting').hidden");
    stroke(&mut page, "#mask", [0.25, 0.25], [0.75, 0.25]);
    page.fill("#steps", "4000");
    page.click("#make");
    page.wait_until(SOON, "document.querySelector('.problem')");
    assert_eq!(nameless(&mut page), [""; 0]);

    for view in ["make", "inside"] {
        page.click(&format!("#tab-{view}"));
        for (size, width, height) in [("phone", 360, 740), ("tablet", 820, 1180), ("desktop", 1280, 860)] {
            page.viewport(width, height);
            for dark in [false, true] {
                page.dark(dark);
                // Colours change within a sixth of a second.
                page.evaluate("scrollTo({top: 0, behavior: 'instant'}); new Promise((done) => setTimeout(done, 300))");
                let colour = if dark { "dark" } else { "light" };
                page.screenshot(&kept.join(format!("{view}-{size}-{colour}.png")));
                assert_eq!(page.evaluate(FAULTS), json!([]), "{view}, {size}, {colour}");
            }
        }
    }
    assert_eq!(nameless(&mut page), [""; 0]);

    // A word is looked at, a click on it again ends that.
    let looked = "[document.querySelectorAll('#words [aria-pressed=true]').length,
        getComputedStyle(document.getElementById('x-0')).maskImage.slice(0, 19)]";
    page.click("#words button:last-child");
    assert_eq!(page.evaluate(looked), json!([1, "url(\"data:image/png"]));
    assert!(text(&mut page, "#looks-at").contains("% of a place"));
    page.click("#words button:last-child");
    assert_eq!(page.evaluate(looked), json!([0, "none"]));

    // The chain is scrubbed: its beginning is noise of which nothing is known yet.
    page.evaluate("scrub.value = 0; scrub.dispatchEvent(new Event('input'))");
    assert!(text(&mut page, "#where").starts_with("Step 0 of 25: timestep 999"));
    assert_eq!(page.evaluate("document.getElementById('x-0').hasAttribute('src')"), false);
    page.evaluate("scrub.focus()");
    page.press("ArrowRight");
    assert!(text(&mut page, "#where").starts_with("Step 1 of 25"));
    assert_eq!(page.evaluate("document.getElementById('x-0').hasAttribute('src')"), true);
    assert_eq!(page.evaluate("document.querySelectorAll('#plots svg polyline').length"), 5);
    assert!(page.evaluate("document.querySelectorAll('#kernel-rows tr').length").as_f64() > Some(3.0));
    assert_eq!(page.evaluate("document.querySelectorAll('#number-rows tr').length"), 26);
    assert!(page.problems().iter().all(|problem| problem.contains("400")), "only the refusal");
}
