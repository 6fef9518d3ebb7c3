//! The engine in a browser: the kernels' texts by Tint, Chromium's compiler, models and pictures on its WebGPU, and the
//! page that people see. `tools/web` builds it first.

mod engine;
mod kernels;
mod page;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::thorough;
use crate::harness::browser::{FileServer, Page};

/// How long a run on a CPU driver may take, kernels compiled.
const RUN: Duration = Duration::from_secs(300);

/// The folder that is served to visitors, built once.
fn site() -> &'static Path {
    static SITE: OnceLock<PathBuf> = OnceLock::new();
    SITE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("web");
        let mut build = Command::new("bash");
        build.arg("tools/web").arg(&folder).current_dir(env!("CARGO_MANIFEST_DIR"));
        // What `cargo test` sets for itself is for another compiler and another profile.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_") && name != "CARGO_HOME") {
            if name != "CARGO_TARGET_DIR" {
                build.env_remove(name);
            }
        }
        // The same code in a larger file: linking it as a whole takes one core a minute longer.
        if !thorough() {
            build.envs([("CARGO_PROFILE_WEB_LTO", "off"), ("CARGO_PROFILE_WEB_CODEGEN_UNITS", "16")]);
        }
        let output = build.output().expect("bash runs");
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "tools/web: {said}");
        folder
    })
}

/// An empty page with a worker of the engine: `ask(what, values)` in it returns a promise of the answer.
struct Engine {
    page: Page,
    /// What the page can fetch below `/test/`.
    files: tempfile::TempDir,
    _server: FileServer,
}

const ASK: &str = r#"
const worker = new Worker('/worker.js', { type: 'module' });
const asked = new Map();
window.previews = [];
worker.onmessage = ({ data }) => {
  if (data.preview) previews.push(data.preview);
  if (data.id === undefined) return;
  const [done, failed] = asked.get(data.id);
  if (data.error) failed(new Error(`${data.error.kind} ${data.error.field}: ${data.error.message}`));
  else done(data.answer);
};
window.ask = (what, values = {}) => new Promise((...both) => {
  asked.set(asked.size, both);
  worker.postMessage({ id: asked.size - 1, ask: what, ...values });
});
window.files = async (model) => {
  const { files } = (await (await fetch('/models.json')).json()).find(({ name }) => name === model);
  return Promise.all(files.map(async ([file, bytes]) => {
    const url = `/models/${model}/${file}`, blob = await (await fetch(url)).blob();
    if (blob.size !== bytes) throw new Error(`${url}: ${blob.size} bytes, expected ${bytes}`);
    return { name: `${model}/${file}`, id: url, blob };
  }));
};
window.base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
"#;

impl Engine {
    fn start() -> Self {
        let files = tempfile::tempdir().expect("a folder");
        std::fs::write(files.path().join("empty.html"), "<!doctype html><link rel=icon href=data:,>").expect("writes");
        let server = FileServer::start_with(&[("", site()), ("test", files.path())], &[]);
        let mut page = Page::open(&server.url("/test/empty.html"));
        page.evaluate(&format!("{{ {ASK} }}"));
        Self { page, files, _server: server }
    }

    /// What the worker answers in bytes to `ask(…)` in JavaScript.
    fn bytes(&mut self, ask: &str) -> Vec<u8> {
        use base64::Engine;
        let text = self.page.evaluate_within(RUN, &format!("({ask}).then(base64)"));
        base64::prelude::BASE64_STANDARD.decode(text.as_str().expect("text")).expect("base64")
    }

    /// Opens a model that ships; returns what the engine says of it.
    fn open(&mut self, model: &str) -> Value {
        let ask = format!("files({0}).then(files => ask('open', {{files, path: {0}}}))", json!(model));
        self.page.evaluate_within(RUN, &ask)
    }
}
