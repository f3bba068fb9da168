//! A real image registry (Debian's docker-registry) on one address of this machine, and pushing to it.

use crate::{
    Error, eventually,
    image::{Image, MANIFEST_TYPE},
};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running registry; it ends when dropped.
pub struct Registry {
    address: SocketAddr,
    process: Option<Child>,
}

impl Registry {
    /// Starts docker-registry on `address` with its data in `dir`, or uses the one that already answers there.
    pub fn start(address: SocketAddr, dir: &Path) -> Result<Self, Error> {
        let mut registry = Self { address, process: None };
        if registry.ping().is_ok() {
            return Ok(registry);
        }
        fs::create_dir_all(dir).map_err(Error::io(dir.display().to_string()))?;
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.display()
        );
        fs::write(&config, text).map_err(Error::io(config.display().to_string()))?;
        let log = fs::File::create(dir.join("registry.log")).map_err(Error::io("registry.log"))?;
        let child = Command::new("setsid")
            .args(["docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(Error::io("starting docker-registry (Debian package docker-registry)"))?;
        registry.process = Some(child);
        eventually("the registry answers", Duration::from_secs(20), || registry.ping().map_err(|e| e.to_string()))?;
        Ok(registry)
    }

    /// Leaves the registry running after this value is gone; returns its pid when we started it.
    pub fn detach(mut self) -> Option<u32> {
        self.process.take().map(|p| p.id())
    }

    /// Pushes an image as `name:tag`.
    pub fn push(&self, image: &Image, name: &str, tag: &str) -> Result<(), Error> {
        for blob in &image.blobs {
            let (_, headers) = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), "", &[], 202)?;
            let location = headers
                .lines()
                .find_map(|l| l.split_once(": ").filter(|(k, _)| k.eq_ignore_ascii_case("location")).map(|(_, v)| v.trim().to_owned()))
                .unwrap_or_default();
            let path = location.strip_prefix(&format!("http://{}", self.address)).unwrap_or(&location);
            let separator = if path.contains('?') { '&' } else { '?' };
            self.request("PUT", &format!("{path}{separator}digest={}", blob.digest), "application/octet-stream", &blob.bytes, 201)?;
        }
        self.request("PUT", &format!("/v2/{name}/manifests/{tag}"), MANIFEST_TYPE, &image.manifest.bytes, 201)?;
        Ok(())
    }

    fn ping(&self) -> Result<(), Error> {
        self.request("GET", "/v2/", "", &[], 200).map(drop)
    }

    /// One plain HTTP/1.1 exchange on a connection of its own; returns body and headers.
    fn request(&self, method: &str, path: &str, content_type: &str, body: &[u8], expected: u16) -> Result<(Vec<u8>, String), Error> {
        let what = || format!("{method} {path}");
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).map_err(Error::io(what()))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).map_err(Error::io(what()))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(Error::io(what()))?;
        let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
        let headers = String::from_utf8_lossy(&answer[..split]).into_owned();
        let status = headers.lines().next().unwrap_or_default().to_owned();
        if status.split(' ').nth(1) == Some(expected.to_string().as_str()) {
            Ok((answer.get(split + 4..).unwrap_or_default().to_vec(), headers))
        } else {
            Err(Error::Registry { request: what(), status })
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
