//! The engine for browsers, given by the server.

use super::{Running, options};

#[test]
fn its_files_and_no_others() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("web/models/fox")).expect("folders");
    for (name, content) in [
        ("secret.txt", "geheim"),
        ("web/index.html", "<p>page"),
        ("web/unmist.wasm", "\0asm"),
        ("web/engine.js", "1"),
        ("web/models/fox/a.safetensors", "weights"),
    ] {
        std::fs::write(folder.path().join(name), content).expect("writes");
    }
    let server = Running::new(unmist::serve::Options { web: Some(folder.path().join("web")), ..options() });
    for (path, kind, content) in [
        ("/web/", "text/html; charset=utf-8", "<p>page"),
        ("/web/index.html", "text/html; charset=utf-8", "<p>page"),
        ("/web/unmist.wasm", "application/wasm", "\0asm"),
        ("/web/engine.js", "text/javascript; charset=utf-8", "1"),
        ("/web/models/fox/a.safetensors", "application/octet-stream", "weights"),
    ] {
        let answer = server.get(path).good();
        assert_eq!((answer.headers["content-type"].as_str(), answer.text().as_str()), (kind, content), "{path}");
        assert!(answer.headers["content-security-policy"].contains("'wasm-unsafe-eval'"), "{path}");
    }
    for path in
        ["/web/none", "/web/../secret.txt", "/web/%2e%2e/secret.txt", "/web/models/../../secret.txt", "/web/models"]
    {
        let answer = server.get(path);
        assert!(answer.status == 404 && !answer.text().contains("geheim"), "{path}: {}", answer.text());
    }
    assert_eq!(Running::new(options()).get("/web/").status, 404, "only where it is asked for");
}
