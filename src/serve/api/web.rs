//! The engine for visitors' own GPUs, as `tools/web` builds it: static files, listed when the server starts, so that no
//! name reaches any other.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::{Error, Result};
use crate::serve::App;
use crate::serve::failure::{Answer, Dialect, Failure};

/// Files by their names below the folder, with `/` between parts.
pub type Files = BTreeMap<String, PathBuf>;

/// WebAssembly, besides what the server's own page may.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; \
     connect-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// What is in a folder.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Usage`] if the page is not there.
pub fn list(folder: &FilePath) -> Result<Files> {
    fn add(files: &mut Files, folder: &FilePath, before: &str) -> Result<()> {
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))?.flatten() {
            let Some(name) = entry.file_name().to_str().map(|name| format!("{before}{name}")) else { continue };
            if entry.path().is_dir() {
                add(files, &entry.path(), &format!("{name}/"))?;
            } else {
                files.insert(name, entry.path());
            }
        }
        Ok(())
    }
    let mut files = Files::new();
    add(&mut files, folder, "")?;
    if !files.contains_key("index.html") || !files.contains_key("unmist.wasm") {
        let why = "expected what `tools/web` builds, found no index.html or no unmist.wasm";
        return Err(Error::Usage(format!("{}: {why}", folder.display())));
    }
    Ok(files)
}

/// The page.
pub async fn index(state: State<Arc<App>>) -> Answer<Response> {
    file(state, Path("index.html".into())).await
}

/// A file.
pub async fn file(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer<Response> {
    let path = app.web.get(&name).cloned().ok_or_else(|| {
        let message = "there is no such file; the engine for browsers is there if the server was started with it";
        Failure::new(Dialect::Own, StatusCode::NOT_FOUND, "no_file", message)
    })?;
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await.expect("reading does not panic");
    let bytes = read
        .map_err(|_| Failure::new(Dialect::Own, StatusCode::NOT_FOUND, "no_file", "the file is not there any more"))?;
    let kind = match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // The models are large and do not change.
        (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600")),
    ];
    Ok((headers, bytes).into_response())
}
