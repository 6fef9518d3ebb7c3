//! A browser that tests drive: Chromium, Chrome or Edge without a window, by the DevTools protocol
//! (<https://chromedevtools.github.io/devtools-protocol/>). It has WebGPU, on its own CPU driver where there is no GPU.

mod files;
mod socket;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

pub use files::FileServer;
use socket::Socket;

/// How long the browser may take for anything that is not said to take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `UNMIST_TEST_BROWSER` names, or a browser at one of its usual places.
fn program() -> PathBuf {
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

/// A page in a browser of its own, which ends with it.
pub struct Page {
    process: Child,
    socket: Socket,
    messages: Receiver<Value>,
    session: String,
    last: u64,
    /// `Page.loadEventFired` came since the last navigation.
    loaded: bool,
    problems: Vec<String>,
    /// Holds what the browser writes; removed with the page.
    _profile: tempfile::TempDir,
}

impl Page {
    /// Starts a browser, and opens `url` (`http://127.0.0.1…` or `file:///…`) in a window of 1280 × 900 pixels.
    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let process = Command::new(program())
            .args(["--headless=new", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-sync"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-extensions",
                "--hide-scrollbars",
            ])
            // A small /dev/shm, as containers have it, must not end a page; WebGPU on CPU drivers is behind a flag.
            .args(["--disable-dev-shm-usage", "--enable-unsafe-webgpu", "--remote-debugging-port=0"])
            // On a busy machine a CPU driver may compile for so long that the browser would end its GPU's process, and
            // after a few such ends offer no GPU at all.
            .args(["--disable-gpu-watchdog", "--disable-gpu-process-crash-limit"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        // The browser writes its port and the path of its socket there once it listens.
        let active = profile.path().join("DevToolsActivePort");
        let end = Instant::now() + PATIENCE;
        let (port, path) = loop {
            let text = std::fs::read_to_string(&active).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n')
                && !path.is_empty()
            {
                break (port.parse().expect("a port"), path.trim().to_owned());
            }
            assert!(Instant::now() < end, "the browser did not start");
            std::thread::sleep(Duration::from_millis(20));
        };
        let (socket, incoming) = Socket::connect(port, &path);
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for text in incoming {
                let message = serde_json::from_str(&text).expect("the browser speaks JSON");
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut page = Self {
            process,
            socket,
            messages,
            session: String::new(),
            last: 0,
            loaded: false,
            problems: Vec::new(),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = page.call("Target.attachToTarget", target);
        page.session = session["sessionId"].as_str().expect("text").to_owned();
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        // What workers say and throw arrives as well.
        let workers = json!({"autoAttach": true, "waitForDebuggerOnStart": false, "flatten": true});
        page.call("Target.setAutoAttach", workers);
        page.viewport(1280, 900);
        page.go(url);
        page
    }

    /// Opens another address, and waits until it has loaded.
    pub fn go(&mut self, url: &str) {
        self.loaded = false;
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
        let end = Instant::now() + PATIENCE;
        while !self.loaded {
            self.receive(end, "the page to load");
        }
    }

    /// The value of an expression, once it is there if it is a promise. An exception fails the test.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        self.evaluate_within(PATIENCE, expression)
    }

    /// As [`Page::evaluate`], with a limit of its own.
    pub fn evaluate_within(&mut self, limit: Duration, expression: &str) -> Value {
        let request =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let answer = self.call_within(limit, "Runtime.evaluate", request);
        if !answer["exceptionDetails"].is_null() {
            panic!("{expression}: {}", exception(&answer["exceptionDetails"]));
        }
        answer["result"]["value"].clone()
    }

    /// Asks until `condition`, an expression, is true.
    pub fn wait_until(&mut self, limit: Duration, condition: &str) {
        let end = Instant::now() + limit;
        while self.evaluate(&format!("!!({condition})")) != true {
            if Instant::now() > end {
                let text = self.evaluate("document.body.innerText");
                panic!("after {limit:?} still not: {condition}\n{:?}\n{text}", self.problems);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks in the middle of the first element that matches a CSS selector, as a user does: it must be visible there.
    pub fn click(&mut self, selector: &str) {
        let place = self.evaluate(&format!(
            "(() => {{
               const e = document.querySelector({0});
               if (!e) return 'is not there';
               e.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}});
               const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;
               const top = document.elementFromPoint(x, y);
               if (!top || !(e.contains(top) || top.closest('label')?.control === e))
                 return 'is behind ' + (top?.outerHTML ?? 'the window').slice(0, 200);
               return [x, y];
             }})()",
            json!(selector)
        ));
        assert!(place.is_array(), "{selector} {place}");
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Replaces the text of a field.
    pub fn fill(&mut self, selector: &str, text: &str) {
        self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({0}); e.focus(); e.select(); }})()",
            json!(selector)
        ));
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Presses a key, by its name in `KeyboardEvent.key`: `Tab`, `Enter`, `Escape`, `ArrowDown`, ` `.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            " " => 32,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            other => panic!("no key {other:?} here yet"),
        };
        let text = match key {
            "Enter" => "\r",
            " " => " ",
            _ => "",
        };
        let mut event = json!({"type": if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "key": key,
            "code": if key == " " { "Space" } else { key }, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", event.clone());
        event["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", event);
    }

    /// Chooses files in an `<input type=file>`.
    pub fn choose_files(&mut self, selector: &str, files: &[PathBuf]) {
        let root = self.call("DOM.getDocument", json!({}));
        let found = self.call("DOM.querySelector", json!({"nodeId": root["root"]["nodeId"], "selector": selector}));
        assert_ne!(found["nodeId"], 0, "no {selector}");
        self.call("DOM.setFileInputFiles", json!({"nodeId": found["nodeId"], "files": files}));
    }

    /// The size of the window, in CSS pixels.
    pub fn viewport(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Dark or light colours, as the user's system would ask for.
    pub fn dark(&mut self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// A picture of the whole page as PNG, at `path`.
    pub fn screenshot(&mut self, path: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let text = answer["data"].as_str().expect("text");
        let bytes = base64::prelude::BASE64_STANDARD.decode(text).expect("base64");
        std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// What went wrong since this was last asked, in the page and its workers: exceptions that nobody caught, errors
    /// and warnings on the console, files that could not be loaded, violations of the content security policy.
    pub fn problems(&mut self) -> Vec<String> {
        self.evaluate("0");
        std::mem::take(&mut self.problems)
    }

    /// A command of the protocol, to the page once it is open.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.call_within(PATIENCE, method, parameters)
    }

    fn call_within(&mut self, limit: Duration, method: &str, parameters: Value) -> Value {
        let session = self.session.clone();
        let id = self.send(&session, method, &parameters);
        let end = Instant::now() + limit;
        loop {
            let message = self.receive(end, method);
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
        }
    }

    fn send(&mut self, session: &str, method: &str, parameters: &Value) -> u64 {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if !session.is_empty() {
            message["sessionId"] = json!(session);
        }
        self.socket.send(&message.to_string());
        self.last
    }

    /// The next message, after what it means for the page was kept.
    fn receive(&mut self, end: Instant, what: &str) -> Value {
        let left = end.saturating_duration_since(Instant::now());
        let message = match self.messages.recv_timeout(left) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => panic!("waited too long for {what}; problems: {:?}", self.problems),
            Err(RecvTimeoutError::Disconnected) => panic!("the browser ended during {what}: {:?}", self.problems),
        };
        let event = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Page.loadEventFired" => self.loaded = true,
            "Target.attachedToTarget" => {
                let worker = event["sessionId"].as_str().expect("text").to_owned();
                if worker != self.session {
                    for domain in ["Runtime", "Log"] {
                        self.send(&worker, &format!("{domain}.enable"), &json!({}));
                    }
                }
            }
            "Runtime.exceptionThrown" => self.problems.push(exception(&event["exceptionDetails"])),
            "Runtime.consoleAPICalled" if event["type"] == "error" || event["type"] == "warning" => {
                let parts = event["args"].as_array().cloned().unwrap_or_default();
                let parts = parts.iter().map(|a| a["value"].as_str().or(a["description"].as_str()).unwrap_or("?"));
                self.problems.push(parts.collect::<Vec<_>>().join(" "));
            }
            "Log.entryAdded" if event["entry"]["level"] == "error" || event["entry"]["level"] == "warning" => {
                let entry = &event["entry"];
                let text = entry["text"].as_str().unwrap_or_default();
                self.problems.push(format!("{text} {}", entry["url"].as_str().unwrap_or_default()).trim().to_owned());
            }
            _ => {}
        }
        message
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Asked politely it ends its own processes; one that does not answer is ended.
        self.session.clear();
        self.send("", "Browser.close", &json!({}));
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an exception says, with where it came from.
fn exception(details: &Value) -> String {
    let described = details["exception"]["description"].as_str();
    let value = Some(&details["exception"]["value"]).filter(|value| !value.is_null()).map(Value::to_string);
    described.map(str::to_owned).or(value).unwrap_or_else(|| details.to_string())
}

#[test]
fn a_page_is_driven_and_its_problems_are_heard() {
    let folder = tempfile::tempdir().expect("a folder");
    let html = "<!doctype html><title>A page</title><link rel=icon href=data:,>
        <input id=name value=before><input id=files type=file multiple><button id=go>Go</button>
        <p id=out></p><style>@media (prefers-color-scheme: dark) { body { background: rgb(1, 2, 3) } }</style>
        <script>go.onclick = () => { out.textContent = `${name_()} ${files.files.length}`; };
        const name_ = () => document.getElementById('name').value;</script>";
    std::fs::write(folder.path().join("index.html"), html).expect("writes");
    std::fs::write(folder.path().join("worker.js"), "postMessage(1); null.field;").expect("writes");
    let server = FileServer::start(folder.path());
    let mut page = Page::open(&server.url("/"));
    assert_eq!(page.evaluate("document.title"), "A page");
    assert_eq!(page.evaluate("new Promise(done => setTimeout(() => done([1, {a: 2}]), 20))"), json!([1, {"a": 2}]));
    page.fill("#name", "after");
    page.choose_files("#files", &[folder.path().join("index.html"), folder.path().join("worker.js")]);
    page.click("#go");
    page.wait_until(Duration::from_secs(5), "out.textContent === 'after 2'");
    page.evaluate("out.textContent = ''");
    page.press("Tab");
    page.evaluate("go.focus()");
    page.press("Enter");
    page.wait_until(Duration::from_secs(5), "out.textContent === 'after 2'");
    assert_eq!(page.problems(), [""; 0]);

    page.viewport(321, 500);
    assert_eq!(page.evaluate("innerWidth"), 321);
    for dark in [true, false] {
        page.dark(dark);
        let colour = page.evaluate("getComputedStyle(document.body).backgroundColor");
        assert_eq!(colour == "rgb(1, 2, 3)", dark);
    }
    let picture = folder.path().join("page.png");
    page.screenshot(&picture);
    let size = |at: usize| {
        let bytes = std::fs::read(&picture).expect("it was written");
        u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    assert_eq!(size(16), 321);

    page.evaluate("fetch('missing.txt'); console.error('said', 'aloud'); setTimeout(() => { throw Error('thrown') })");
    page.evaluate(
        "new Promise(done => { window.worker = new Worker('worker.js'); worker.onmessage = done; }).then(() => 0)",
    );
    page.evaluate("new Promise(done => setTimeout(done, 300)).then(() => 0)");
    let problems = page.problems().join("\n");
    for part in ["missing.txt", "said aloud", "Error: thrown", "reading 'field'"] {
        assert!(problems.contains(part), "no «{part}» in: {problems}");
    }
    // This is what the engine in a page needs of a browser.
    let adapter = page.evaluate("navigator.gpu.requestAdapter().then(a => !!a)");
    assert_eq!(adapter, true, "no WebGPU here");
    assert_eq!(page.evaluate("typeof WebAssembly.Suspending"), "function");
}
