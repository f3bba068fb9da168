//! OCI images made on this machine: from directories, or a small one of Debian's static busybox, its applets as links, and a web page.

use crate::Error;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fs, path::Path, process::Command};

/// Media type of an OCI image manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A blob and its digest.
#[derive(Clone)]
pub struct Blob {
    /// `sha256:<hex>`.
    pub digest: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let hex: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Self { digest: format!("sha256:{hex}"), bytes }
    }
}

/// An image ready to be pushed or laid out.
pub struct Image {
    /// Config and layers.
    pub blobs: Vec<Blob>,
    /// The manifest that names them.
    pub manifest: Blob,
}

/// Where Debian's busybox-static puts its binary.
const BUSYBOX: &str = "/bin/busybox";

/// A busybox image. Its entry point is a shell; `version` ends up in `/www/version` and in `$VERSION`.
pub fn busybox(version: &str) -> Result<Image, Error> {
    let binary = fs::read(BUSYBOX).map_err(Error::io(format!("reading {BUSYBOX} (Debian package busybox-static)")))?;
    let applets = crate::run(Command::new(BUSYBOX).arg("--list"))?;
    let mut layer = tar::Builder::new(Vec::new());
    let io = || Error::io("writing a layer");
    for dir in ["bin/", "etc/", "proc/", "sys/", "dev/", "tmp/", "var/", "www/", "root/"] {
        entry(&mut layer, tar::EntryType::Directory, dir, if dir == "tmp/" { 0o1777 } else { 0o755 }, &[]).map_err(io())?;
    }
    entry(&mut layer, tar::EntryType::Regular, "bin/busybox", 0o755, &binary).map_err(io())?;
    for applet in applets.lines().filter(|a| !a.is_empty() && *a != "busybox") {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").map_err(io())?;
    }
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_owned()),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n".to_owned()),
        ("www/version", format!("{version}\n")),
        ("www/index.html", format!("pintle web {version}\n")),
    ];
    for (path, text) in &files {
        entry(&mut layer, tar::EntryType::Regular, path, 0o644, text.as_bytes()).map_err(io())?;
    }
    let layer = Layer::of_archive(layer.into_inner().map_err(io())?)?;
    let config = json!({"Env": ["PATH=/bin", format!("VERSION={version}")], "Cmd": ["/bin/sh"], "WorkingDir": "/"});
    Ok(assemble(&[layer], &config))
}

/// An image of nothing but a process that waits.
pub fn pause() -> Result<Image, Error> {
    let binary = fs::read(BUSYBOX).map_err(Error::io(format!("reading {BUSYBOX} (Debian package busybox-static)")))?;
    let mut layer = tar::Builder::new(Vec::new());
    let plain = entry(&mut layer, tar::EntryType::Regular, "busybox", 0o755, &binary).and_then(|()| layer.into_inner());
    let layer = Layer::of_archive(plain.map_err(Error::io("writing a layer"))?)?;
    Ok(assemble(&[layer], &json!({"Cmd": ["/busybox", "sleep", "2000000000"]})))
}

/// An image of many files, `files` in each of `layers` layers, 10 KB on average, which halve when they are packed.
pub fn many_files(layers: usize, files: usize) -> Result<Image, Error> {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state >> 24
    };
    let mut made = Vec::new();
    for layer in 0..layers {
        let mut archive = tar::Builder::new(Vec::new());
        for file in 0..files {
            let size = 1000 + usize::try_from(random() % 18_000).unwrap_or_default();
            let block = || [random().to_le_bytes(), random().to_le_bytes(), *b"the same", *b"as ever\n"].concat();
            let mut content: Vec<u8> = std::iter::repeat_with(block).take(size / 32 + 1).flatten().collect();
            content.truncate(size);
            let path = format!("usr/share/layer-{layer}/{}/file-{file}", file / 100);
            entry(&mut archive, tar::EntryType::Regular, &path, 0o644, &content).map_err(Error::io("writing a layer"))?;
        }
        made.push(Layer::of_archive(archive.into_inner().map_err(Error::io("writing a layer"))?)?);
    }
    Ok(assemble(&made, &json!({"Cmd": ["/bin/sh"]})))
}

/// A layer: its gzipped archive, and the digest of the plain one.
#[derive(Clone)]
pub struct Layer {
    packed: Blob,
    diff_id: String,
}

impl Layer {
    /// Packs an archive.
    pub fn of_archive(plain: Vec<u8>) -> Result<Self, Error> {
        let plain = Blob::new(plain);
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        let packed = std::io::Write::write_all(&mut gz, &plain.bytes).and_then(|()| gz.finish());
        Ok(Self { packed: Blob::new(packed.map_err(Error::io("packing a layer"))?), diff_id: plain.digest })
    }

    /// Everything below a directory, with owners and modes as they are there.
    pub fn of_directory(dir: &Path) -> Result<Self, Error> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        let plain = archive.append_dir_all("", dir).and_then(|()| archive.into_inner());
        Self::of_archive(plain.map_err(Error::io(dir.display().to_string()))?)
    }
}

/// An image for this kind of machine of layers, lowest first, and a `config` as in the OCI image specification (Env, Entrypoint, User, ...).
pub fn assemble(layers: &[Layer], config: &Value) -> Image {
    let diff_ids: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
    let history: Vec<Value> = layers.iter().map(|_| json!({"created_by": "pintle tests"})).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    });
    let config = Blob::new(config.to_string().into_bytes());
    let packed: Vec<Value> = layers.iter().map(|l| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &l.packed)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": packed,
    });
    let blobs = [config].into_iter().chain(layers.iter().map(|l| l.packed.clone())).collect();
    Image { blobs, manifest: Blob::new(manifest.to_string().into_bytes()) }
}

/// Writes the image as an OCI layout directory with one tag.
pub fn write_layout(image: &Image, tag: &str, dir: &Path) -> Result<(), Error> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Error::io(blobs.display().to_string()))?;
    for blob in image.blobs.iter().chain([&image.manifest]) {
        let path = blobs.join(blob.digest.trim_start_matches("sha256:"));
        fs::write(&path, &blob.bytes).map_err(Error::io(path.display().to_string()))?;
    }
    let mut manifest = descriptor(MANIFEST_TYPE, &image.manifest);
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
    for (name, text) in [("index.json", index), ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string())] {
        fs::write(dir.join(name), text).map_err(Error::io(name))?;
    }
    Ok(())
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()})
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, mode: u32, content: &[u8]) -> std::io::Result<()> {
    let mut header = header(kind, mode, content.len() as u64);
    tar.append_data(&mut header, path, content)
}
