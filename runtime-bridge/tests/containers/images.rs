//! Layers, pulls and hostile archives.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pintle_runtime_bridge::{Credentials, Error, ImageError, ImageRef, Mirror, PullOptions, PullProgress, Runtime};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::fixture::{Entry, Fixture, busybox_layer, layer, open, until, write_layout};

/// A registry of one image, served from an OCI layout on loopback.
struct Registry {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    async fn serve(layout: PathBuf, password: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (layout, log) = (layout.clone(), log.clone());
                tokio::spawn(async move { converse(socket, &layout, password, &log).await });
            }
        });
        Self { address, asked }
    }
}

async fn converse(socket: tokio::net::TcpStream, layout: &Path, password: Option<&str>, log: &Mutex<Vec<String>>) {
    let mut stream = BufReader::new(socket);
    loop {
        let (mut path, mut allowed) = (String::new(), password.is_none());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            let expected = password.map(|p| format!("authorization: basic {p}").to_lowercase());
            allowed |= expected.is_some_and(|e| line.trim_end().to_lowercase() == e);
            if line == "\r\n" {
                break;
            }
        }
        log.lock().expect("log").push(path.clone());
        let (status, kind, body) = if allowed { answer(layout, &path) } else { ("401 Unauthorized", "text/plain", Vec::new()) };
        let challenge = if allowed { "" } else { "WWW-Authenticate: Basic realm=\"r\"\r\n" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{challenge}Content-Length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
            return;
        }
    }
}

fn answer(layout: &Path, path: &str) -> (&'static str, &'static str, Vec<u8>) {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let path = path.split('?').next().unwrap_or_default();
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).expect("index")).expect("index");
    let digest = index["manifests"][0]["digest"].as_str().expect("digest").to_owned();
    let blob = |digest: &str| std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")));
    let missing = || ("404 Not Found", "application/json", br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#.to_vec());
    if path == "/v2/" {
        return ("200 OK", "application/json", b"{}".to_vec());
    }
    let Some(reference) = path.strip_prefix("/v2/team/web/") else { return missing() };
    match reference.split_once('/') {
        Some(("manifests", name)) if name == "1" || name == digest => ("200 OK", MANIFEST, blob(&digest).expect("manifest")),
        Some(("blobs", name)) => blob(name).map_or_else(|_| missing(), |b| ("200 OK", "application/octet-stream", b)),
        _ => missing(),
    }
}

fn image(registry: &Registry, rest: &str) -> ImageRef {
    ImageRef::parse(&format!("{}/{rest}", registry.address)).expect("reference")
}

async fn pull(runtime: &Runtime, name: &ImageRef, options: PullOptions) -> pintle_runtime_bridge::Result<String> {
    runtime.pull(name, options, |_| {}).await.map(|id| id.to_string())
}

/// Three layers, one of each compression: the second hides and the third makes opaque.
fn layered(dir: &Path) -> PathBuf {
    let second = layer(&[
        Entry::File("etc/.wh.group", 0o644, Vec::new()),
        Entry::Directory("data", 0o755),
        Entry::File("data/low", 0o644, b"low".to_vec()),
    ]);
    let third = layer(&[
        Entry::Directory("data", 0o755),
        Entry::File("data/.wh..wh..opq", 0o644, Vec::new()),
        Entry::File("data/high", 0o644, b"high".to_vec()),
        Entry::File("bin/setuid", 0o4755, b"x".to_vec()),
    ]);
    let config = serde_json::json!({
        "Env": ["GREETING=hello"], "Entrypoint": ["sh", "-c"], "Cmd": ["echo $GREETING $(pwd)"],
        "WorkingDir": "/data", "User": "app", "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}},
    });
    let layout = dir.join("layered");
    write_layout(&layout, &[busybox_layer(), second, third], config);
    layout
}

#[tokio::test]
async fn an_image_is_pulled_and_its_layers_and_config_apply() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let registry = Registry::serve(layered(&f.dir), None).await;
    let name = image(&registry, "team/web:1");
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    let id = f.runtime.pull(&name, PullOptions::default(), move |p| sink.lock().expect("told").push(p)).await.expect("pull");
    let told = told.lock().expect("told").clone();
    assert!(matches!(told.first(), Some(PullProgress::Resolved { layers: 2, .. })), "busybox's layer is shared: {told:?}");
    assert_eq!(told.last(), Some(&PullProgress::Done));
    let info = f.runtime.image(&name.to_string()).await.expect("image");
    assert_eq!((info.id, info.user.as_str(), info.stop_signal.as_deref()), (id, "app", Some("SIGINT")));
    assert_eq!((info.exposed_ports, info.tags), (vec!["80/tcp".to_owned()], vec![name.to_string()]));
    assert!(f.runtime.image(&info.digests[0]).await.is_some());

    let mut spec = f.spec("");
    (spec.image, spec.command) = (name.to_string(), Vec::new());
    assert_eq!(f.run(spec.clone()).await, (0, "hello /data\n".to_owned()));
    spec.args = vec!["ls /etc /data; ls -l /bin/setuid | cut -c1-10 2>/dev/null".to_owned()];
    let (_, output) = f.run(spec).await;
    assert!(!output.contains("group") && !output.contains("low") && output.contains("high"), "{output}");

    let before = registry.asked.lock().expect("asked").len();
    pull(&f.runtime, &name, PullOptions::default()).await.expect("again");
    let again = registry.asked.lock().expect("asked")[before..].to_vec();
    assert!(again.iter().filter(|p| p.contains("/blobs/")).count() <= 1, "layers are not fetched again: {again:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_pull_is_told_precisely() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let public = Registry::serve(layered(&f.dir), None).await;
    let closed = Registry::serve(f.dir.join("layered"), Some("dTpw")).await;
    let error = |name: ImageRef, options: PullOptions| {
        let runtime = f.runtime.clone();
        async move {
            match pull(&runtime, &name, options).await {
                Err(Error::Image(error)) => error,
                other => panic!("{name}: {other:?}"),
            }
        }
    };
    assert!(matches!(error(image(&public, "team/web:2"), PullOptions::default()).await, ImageError::NotFound(_)));
    assert!(matches!(error(image(&public, "no/such:1"), PullOptions::default()).await, ImageError::NotFound(_)));
    assert!(matches!(error(image(&closed, "team/web:1"), PullOptions::default()).await, ImageError::Unauthorized(_)));
    let nobody = ImageRef::parse("127.0.0.1:1/team/web:1").expect("name");
    assert!(matches!(error(nobody, PullOptions::default()).await, ImageError::Unreachable { .. }));

    let credentials = Some(Credentials { username: "u".to_owned(), password: "p".to_owned() });
    let options = PullOptions { credentials, ..PullOptions::default() };
    pull(&f.runtime, &image(&closed, "team/web:1"), options).await.expect("with credentials");

    let mirrored = ImageRef::parse("registry.example.com/team/web:1").expect("name");
    let mirrors = vec![Mirror { registry: "registry.example.com".to_owned(), endpoint: public.address.clone() }];
    let options = PullOptions { mirrors, ..PullOptions::default() };
    pull(&f.runtime, &mirrored, options).await.expect("from the mirror");
    assert!(f.runtime.image("registry.example.com/team/web:1").await.is_some());
}

#[tokio::test]
async fn fault_content_that_does_not_match_its_digest_is_refused() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let layout = layered(&f.dir);
    let manifest = |kind: &str| {
        let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).expect("index")).expect("index");
        let digest = index["manifests"][0]["digest"].as_str().expect("digest").trim_start_matches("sha256:").to_owned();
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("blobs/sha256").join(&digest)).expect("manifest")).expect("manifest");
        match kind {
            "manifest" => digest,
            "config" => manifest["config"]["digest"].as_str().expect("config").trim_start_matches("sha256:").to_owned(),
            _ => manifest["layers"][2]["digest"].as_str().expect("layer").trim_start_matches("sha256:").to_owned(),
        }
    };
    let name = ImageRef::parse("localhost/damaged").expect("name");
    for kind in ["layer", "config", "manifest"] {
        let path = layout.join("blobs/sha256").join(manifest(kind));
        let whole = std::fs::read(&path).expect("blob");
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&path, damaged).expect("blob");
        let result = f.runtime.import_layout(&layout, Some(&name)).await;
        assert!(matches!(result, Err(Error::Image(ImageError::BadDigest { .. }))), "{kind}: {result:?}");
        std::fs::write(&path, whole).expect("blob");
    }
    assert!(f.runtime.image("localhost/damaged").await.is_none());
    f.runtime.import_layout(&layout, Some(&name)).await.expect("whole again");
}

#[tokio::test]
async fn fault_a_layer_that_leaves_its_directory_is_refused_and_leaves_nothing() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let mut evil = layer(&[Entry::File("aa/escaped", 0o644, b"x".to_vec())]);
    evil[..2].copy_from_slice(b"..");
    let sum: u32 = evil[..148].iter().chain(&evil[156..512]).map(|b| u32::from(*b)).sum::<u32>() + 256;
    evil[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    write_layout(&f.dir.join("evil"), &[busybox_layer(), evil], serde_json::json!({}));
    let name = ImageRef::parse("localhost/evil").expect("name");
    let result = f.runtime.import_layout(&f.dir.join("evil"), Some(&name)).await;
    assert!(matches!(result, Err(Error::Image(ImageError::BadLayer { .. }))), "{result:?}");
    assert_eq!(std::fs::read_dir(f.dir.join("state/images/unpacking")).expect("unpacking").count(), 0);
    assert!(!f.dir.join("state/images/unpacking/escaped").exists() && !f.dir.join("state/images/escaped").exists());
}

#[tokio::test]
async fn an_image_in_use_stays_and_a_removed_one_takes_its_layers_along() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let id = f.runtime.create_container(f.spec("true")).await.expect("create");
    let result = f.runtime.remove_image("localhost/busybox").await;
    assert!(matches!(result, Err(Error::Image(ImageError::InUse(_)))), "{result:?}");
    f.runtime.remove(&id).await.expect("remove");
    f.runtime.remove_image("localhost/busybox").await.expect("remove image");
    assert!(f.runtime.images().await.expect("images").is_empty());
    let missing = f.runtime.create_container(f.spec("true")).await;
    assert!(matches!(missing, Err(Error::Image(ImageError::NotPresent(_)))), "{missing:?}");
    let layers = std::fs::read_dir(f.dir.join("state/images/layers")).expect("layers");
    let left: Vec<_> = layers.flatten().filter(|e| e.path().is_dir()).map(|e| e.file_name()).collect();
    assert_eq!(left, ["empty"]);
}

#[tokio::test]
async fn fault_an_image_that_a_power_cut_may_have_torn_is_dropped_at_the_next_boot() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let info = f.runtime.image("localhost/busybox").await.expect("image");
    let record = f.dir.join(format!("state/images/records/{}.json", info.id.as_str().trim_start_matches("sha256:")));
    let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&record).expect("record")).expect("json");
    until("the image is on the disk", || read()["unsynced"].is_null()).await;
    let again = open(&f.dir, &f.cgroup).await;
    assert!(again.image("localhost/busybox").await.is_some());
    let mut torn = read();
    torn["unsynced"] = "another boot".into();
    std::fs::write(&record, torn.to_string()).expect("record");
    let after = open(&f.dir, &f.cgroup).await;
    assert!(after.images().await.expect("images").is_empty());
    assert!(!record.exists());
}

/// Debian's docker-registry on a free port, with its storage in the fixture's directory.
struct RealRegistry {
    address: String,
    process: std::process::Child,
}

impl RealRegistry {
    async fn start(dir: &Path) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("port").port();
        let address = format!("127.0.0.1:{port}");
        let storage = dir.join("registry");
        let config =
            format!("version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n", storage.display());
        std::fs::write(dir.join("registry.yml"), config).expect("config");
        let process = std::process::Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("registry.yml"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .ok()?;
        let registry = Self { address, process };
        until("the registry answers", || std::net::TcpStream::connect(&registry.address).is_ok()).await;
        Some(registry)
    }

    /// One request, one connection; the answer's head.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&self.address).expect("connect");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("request");
        stream.write_all(body).expect("body");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answer");
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.starts_with("HTTP/1.1 20"), "{method} {path}: {text}");
        text
    }

    fn push(&self, layout: &Path, name: &str, tag: &str) {
        let read = |digest: &str| std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))).expect("blob");
        let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).expect("index")).expect("index");
        let raw = read(index["manifests"][0]["digest"].as_str().expect("digest"));
        let manifest: serde_json::Value = serde_json::from_slice(&raw).expect("manifest");
        let layers = manifest["layers"].as_array().expect("layers").iter().chain([&manifest["config"]]);
        for digest in layers.map(|d| d["digest"].as_str().expect("digest")) {
            let answer = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), "text/plain", b"");
            let location = answer.lines().find_map(|l| l.strip_prefix("Location: ")).expect("location").trim();
            let path = location.split_once(&self.address).map_or(location, |(_, path)| path);
            self.request("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", &read(digest));
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        self.request("PUT", &format!("/v2/{name}/manifests/{tag}"), kind, &raw);
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_real_registry_serves_an_image() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let Some(registry) = RealRegistry::start(&f.dir).await else {
        println!("skipped: needs Debian's docker-registry");
        return;
    };
    registry.push(&layered(&f.dir), "team/web", "1");
    let name = ImageRef::parse(&format!("{}/team/web:1", registry.address)).expect("name");
    pull(&f.runtime, &name, PullOptions::default()).await.expect("pull");
    let mut spec = f.spec("");
    (spec.image, spec.command) = (name.to_string(), Vec::new());
    assert_eq!(f.run(spec).await, (0, "hello /data\n".to_owned()));
    let missing = ImageRef::parse(&format!("{}/team/web:none", registry.address)).expect("name");
    let error = pull(&f.runtime, &missing, PullOptions::default()).await;
    assert!(matches!(error, Err(Error::Image(ImageError::NotFound(_)))), "{error:?}");
    let unknown = ImageRef::parse(&format!("{}/no/such", registry.address)).expect("name");
    let error = pull(&f.runtime, &unknown, PullOptions::default()).await;
    assert!(matches!(error, Err(Error::Image(ImageError::NotFound(_)))), "{error:?}");
}
