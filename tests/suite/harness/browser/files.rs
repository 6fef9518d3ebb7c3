//! A server of files on this machine, for pages that must not come from `file://`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Serves folders on a free port of 127.0.0.1 until it is dropped.
pub struct FileServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl FileServer {
    /// Serves the files of `folder`.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(&[("", folder)], &[])
    }

    /// Serves each folder under the first part of its addresses (`""` is where those of no other go), every answer with
    /// `headers` besides its own.
    pub fn start_with(folders: &[(&str, &Path)], headers: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let folders: Arc<[(String, PathBuf)]> =
            folders.iter().map(|(name, path)| (String::from(*name), path.to_path_buf())).collect();
        let headers: Arc<str> =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>().into();
        let ended = Arc::clone(&stop);
        std::thread::spawn(move || {
            for stream in listener.incoming().take_while(|_| !ended.load(Ordering::Relaxed)) {
                let (folders, headers) = (Arc::clone(&folders), Arc::clone(&headers));
                // A browser that goes away in the middle of an answer is no failure of a test.
                std::thread::spawn(move || stream.and_then(|stream| answer(stream, &folders, &headers)));
            }
        });
        Self { address, stop }
    }

    /// The address of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // it wakes up, and sees that it is to stop
    }
}

/// Answers one request, and closes.
fn answer(stream: TcpStream, folders: &[(String, PathBuf)], headers: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::from("-");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    let named = folders.iter().find(|(name, _)| !name.is_empty() && name == first);
    let (folder, rest) = match named {
        Some((name, folder)) => (Some(folder), path[name.len()..].trim_start_matches('/')),
        None => (folders.iter().find(|(name, _)| name.is_empty()).map(|(_, folder)| folder), path),
    };
    let plain = Path::new(rest).components().all(|part| matches!(part, Component::Normal(_)));
    let file = folder.filter(|_| plain).map(|folder| folder.join(rest));
    let file = file.map(|file| if file.is_dir() { file.join("index.html") } else { file });
    let (status, kind, body) = match file.map(|file| (std::fs::read(&file), file)) {
        Some((Ok(body), file)) => ("200 OK", kind(&file), body),
        _ => ("404 Not Found", "text/plain", b"There is no such file.".to_vec()),
    };
    let mut stream = reader.into_inner();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

/// The media type of a file, by its name.
fn kind(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("json") => "application/json",
        Some("wasm") => "application/wasm",
        Some("png") => "image/png",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
