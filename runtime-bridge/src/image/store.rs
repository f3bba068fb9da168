//! The content-addressed store: pulls, imports, look-ups, removal.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reference::valid_digest;
use super::source::{Source, layout_blobs};
use super::unpack::{UnpackError, unpack};
use super::{ConfigFile, Descriptor, Document, ImageId, ImageInfo, ImageLimits, ImageRef, PullOptions, PullProgress};
use crate::error::{Error, ImageError, Result};
use crate::state::{boot_id, read_json, write_json};
use crate::sys;

/// Layers fetched and unpacked at the same time.
const PARALLEL_LAYERS: usize = 4;
/// Of a layer as it comes, and as it is unpacked.
const BUFFER_BYTES: usize = 256 << 10;
const LAYER_NAME_DIGITS: usize = 24;
/// Annotation of an OCI layout's index that names an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation in which other tools keep the whole name.
const FULL_NAME: &str = "io.containerd.image.name";

/// An image and the layers it is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) info: ImageInfo,
    /// Directory names below `layers/`, uppermost first.
    pub(crate) layers: Vec<String>,
    /// The boot in which it was stored, until all of it is known to be on the disk. A record of an earlier boot that still
    /// has this may stand for layers that a power cut has torn: it is dropped.
    #[serde(default)]
    unsynced: Option<String>,
}

/// The store. Clones are one.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    limits: ImageLimits,
    records: Mutex<HashMap<String, Arc<Record>>>,
    /// One lock a layer, so that concurrent pulls do a layer once.
    unpacking: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held for reading by pulls and for writing by removals, so that a layer cannot go while a pull counts on it.
    removal: tokio::sync::RwLock<()>,
}

fn store_error(step: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let step = step.into();
    move |source| ImageError::Store { step, source }.into()
}

fn malformed(what: impl Into<String>) -> Error {
    ImageError::Malformed(what.into()).into()
}

impl Store {
    /// Opens (and makes) the store; what an earlier process left half done is removed.
    pub(crate) fn open(root: PathBuf, limits: ImageLimits) -> Result<Self> {
        let _ = fs::remove_dir_all(root.join("unpacking"));
        for directory in ["layers/empty", "records", "blobs", "unpacking"] {
            fs::create_dir_all(root.join(directory)).map_err(store_error("make directories"))?;
        }
        let mut records: HashMap<String, Arc<Record>> = HashMap::new();
        let mut torn = false;
        for entry in fs::read_dir(root.join("records")).map_err(store_error("list records"))?.flatten() {
            if entry.path().extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read_json::<Record>(&entry.path()) {
                Ok(Some(Record { unsynced: Some(boot), info, .. })) if boot != boot_id() => {
                    tracing::warn!(image = %info.id, "image was not on the disk when the machine went down, dropped");
                    fs::remove_file(entry.path()).map_err(store_error("drop image"))?;
                    torn = true;
                }
                Ok(Some(record)) if record.layers.iter().all(|l| root.join("layers").join(l).is_dir()) => {
                    records.insert(record.info.id.0.clone(), Arc::new(record));
                }
                Ok(_) => tracing::warn!(path = %entry.path().display(), "image record without its layers ignored"),
                Err(error) => tracing::warn!(%error, "image record ignored"),
            }
        }
        if torn {
            remove_unneeded_layers(&root, &records)?;
        }
        let shared =
            Shared { root, limits, records: Mutex::new(records), unpacking: Mutex::default(), removal: tokio::sync::RwLock::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// By id (also without `sha256:`, also the first 12 digits or more) or by reference.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Record>> {
        let records = self.records();
        if let Some(found) = records.get(name).or_else(|| records.get(&format!("sha256:{name}"))) {
            return Some(found.clone());
        }
        let full = ImageRef::parse(name).ok()?;
        let wanted = match (&full.digest, &full.tag) {
            (Some(digest), _) => format!("{}@{digest}", full.name()),
            (None, _) => full.to_string(),
        };
        records.values().find(|r| r.info.tags.contains(&wanted) || r.info.digests.contains(&wanted)).cloned()
    }

    /// Shows the files of an image at a directory: nothing there can be written or executed.
    pub(crate) fn mount(&self, image: &Record, target: &Path) -> std::io::Result<()> {
        use nix::mount::{MsFlags, mount};
        let layers = std::fs::File::open(self.shared.root.join("layers"))?;
        // Short names, because a mount's options have one page; one more layer, because an overlay wants two.
        let here = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&layers));
        let lower: Vec<String> = image.layers.iter().map(String::as_str).chain(["empty"]).map(|layer| format!("{here}/{layer}")).collect();
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let options = format!("lowerdir={}", lower.join(":"));
        Ok(mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))?)
    }

    pub(crate) fn all(&self) -> Vec<ImageInfo> {
        let mut all: Vec<_> = self.records().values().map(|r| r.info.clone()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Fetches an image from its registry or a mirror of it.
    pub(crate) async fn pull(
        &self,
        image: &ImageRef,
        options: &PullOptions,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<ImageId> {
        let _reading = self.shared.removal.read().await;
        let mut last = None;
        for (client, reference, auth) in Source::candidates(image, options).await? {
            match Source::ask(client, reference, auth, image.to_string()).await {
                Ok((source, body, digest)) => {
                    let expected = image.digest.clone().unwrap_or(digest);
                    return self.fetch(&source, image, &body, &expected, progress).await;
                }
                Err(error) => {
                    tracing::debug!(%image, %error, "registry did not deliver");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| ImageError::NotFound(image.to_string()).into()))
    }

    /// Imports from an OCI layout directory: every image that its index names, or its only one under `name`.
    pub(crate) async fn import(&self, layout: &Path, name: Option<&ImageRef>) -> Result<Vec<ImageId>> {
        let _reading = self.shared.removal.read().await;
        let index = fs::read(layout.join("index.json")).map_err(store_error("read index.json"))?;
        let index: Document = serde_json::from_slice(&index).map_err(|e| malformed(format!("index.json: {e}")))?;
        let named = |descriptor: &Descriptor| {
            let annotations = descriptor.annotations.as_ref()?;
            let text = annotations.get(FULL_NAME).or_else(|| annotations.get(REF_NAME))?;
            ImageRef::parse(text).ok()
        };
        let mut wanted: Vec<(ImageRef, Descriptor)> = index.manifests.iter().filter_map(|d| Some((named(d)?, d.clone()))).collect();
        match (name, index.manifests.as_slice()) {
            (Some(name), [only]) => wanted = vec![(name.clone(), only.clone())],
            (Some(name), _) => wanted.retain(|(found, _)| found == name),
            (None, _) => {}
        }
        if wanted.is_empty() {
            let sought = name.map_or_else(|| layout.display().to_string(), ToString::to_string);
            return Err(ImageError::NotFound(sought).into());
        }
        let mut ids = Vec::new();
        for (name, descriptor) in wanted {
            let source = Source::Layout { blobs: layout_blobs(layout), name: name.to_string() };
            check_digest(&descriptor.digest)?;
            let body = source.document(&descriptor).await?;
            ids.push(self.fetch(&source, &name, &body, &descriptor.digest, &|_| {}).await?);
        }
        Ok(ids)
    }

    async fn fetch(
        &self,
        source: &Source,
        image: &ImageRef,
        body: &[u8],
        digest: &str,
        progress: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<ImageId> {
        let (manifest, manifest_digests) = self.resolve(source, image, body, digest).await?;
        let config_descriptor = manifest.config.ok_or_else(|| malformed("manifest without config"))?;
        check_digest(&config_descriptor.digest)?;
        let config_body = source.document(&config_descriptor).await?;
        verify(&config_body, &config_descriptor.digest)?;
        let config: ConfigFile = serde_json::from_slice(&config_body).map_err(|e| malformed(format!("image config: {e}")))?;
        let layers = pair_layers(manifest.layers, &config.rootfs.diff_ids, &self.shared.limits)?;
        let missing: Vec<_> = layers.iter().filter(|(_, diff)| !self.layer_path(diff).is_dir()).collect();
        let bytes = missing.iter().map(|(d, _)| d.size).sum();
        progress(PullProgress::Resolved { layers: missing.len(), bytes });
        let mut transfers = futures::stream::iter(
            missing.into_iter().map(|(descriptor, diff)| async move { self.layer(source, descriptor, diff).await.map(|()| descriptor) }),
        )
        .buffer_unordered(PARALLEL_LAYERS);
        while let Some(done) = transfers.next().await {
            let descriptor = done?;
            progress(PullProgress::LayerDone { digest: descriptor.digest.clone(), bytes: descriptor.size });
        }
        drop(transfers);
        self.write_blob(&config_descriptor.digest, &config_body)?;
        let diffs: Vec<String> = layers.into_iter().map(|(_, diff)| diff).collect();
        let id = self.record(image, &config_descriptor.digest, &manifest_digests, config, &diffs)?;
        progress(PullProgress::Done);
        Ok(id)
    }

    /// From the first document to the manifest for this platform; also the digests that the image is known by.
    async fn resolve(&self, source: &Source, image: &ImageRef, body: &[u8], digest: &str) -> Result<(Document, Vec<String>)> {
        check_digest(digest)?;
        verify(body, digest)?;
        let parse = |body: &[u8]| serde_json::from_slice::<Document>(body).map_err(|e| malformed(format!("manifest: {e}")));
        let document = parse(body)?;
        self.write_blob(digest, body)?;
        if document.manifests.is_empty() {
            return Ok((document, vec![digest.to_owned()]));
        }
        let (os, architecture) = ("linux", architecture());
        let chosen = document
            .manifests
            .iter()
            .find(|d| d.platform.as_ref().is_some_and(|p| p.os == os && p.architecture == architecture))
            .ok_or_else(|| ImageError::NoPlatform { reference: image.to_string(), platform: format!("{os}/{architecture}") })?;
        check_digest(&chosen.digest)?;
        let body = source.manifest(chosen).await?;
        verify(&body, &chosen.digest)?;
        self.write_blob(&chosen.digest, &body)?;
        Ok((parse(&body)?, vec![digest.to_owned(), chosen.digest.clone()]))
    }

    /// Makes sure that one layer is there.
    async fn layer(&self, source: &Source, descriptor: &Descriptor, diff: &str) -> Result<()> {
        let turn = lock(&self.shared.unpacking).entry(diff.to_owned()).or_default().clone();
        let _turn = turn.lock().await;
        let target = self.layer_path(diff);
        if target.is_dir() {
            return Ok(());
        }
        let reader = source.stream(descriptor).await?;
        let work = self.shared.root.join("unpacking").join(sys::random_hex(12));
        let (descriptor, diff, limits) = (descriptor.clone(), diff.to_owned(), self.shared.limits.clone());
        let (sender, unpacked) = tokio::sync::oneshot::channel();
        // A thread of its own: it works for seconds, and the daemon's few that may block start containers meanwhile.
        std::thread::spawn(move || {
            let result = unpack_verified(reader, &work, &descriptor, &diff, &limits);
            let placed = result.and_then(|()| match fs::rename(&work, &target) {
                // A pull that was given up in the middle went on unpacking, and was first.
                Err(_) if target.is_dir() => Ok(()),
                other => other.map_err(store_error("place layer")),
            });
            let _ = fs::remove_dir_all(&work);
            let _ = sender.send(placed);
        });
        unpacked.await.map_err(|_| store_error("unpack")(io::ErrorKind::Interrupted.into()))?
    }

    fn record(&self, image: &ImageRef, id: &str, manifest_digests: &[String], config: ConfigFile, diffs: &[String]) -> Result<ImageId> {
        let process = config.config.unwrap_or_default();
        let mut layers: Vec<String> = diffs.iter().map(|d| layer_name(d)).collect();
        // Overlayfs refuses a directory given twice; the uppermost one is what shows.
        layers.reverse();
        let mut seen = HashSet::new();
        layers.retain(|layer| seen.insert(layer.clone()));
        let size_bytes = layers.iter().map(|l| self.layer_size(l)).sum();
        if layers.is_empty() {
            layers.push("empty".to_owned());
        }
        let mut info = ImageInfo {
            id: ImageId(id.to_owned()),
            tags: Vec::new(),
            digests: Vec::new(),
            size_bytes,
            entrypoint: process.entrypoint.unwrap_or_default(),
            cmd: process.cmd.unwrap_or_default(),
            env: process.env.unwrap_or_default(),
            user: process.user.unwrap_or_default(),
            working_dir: process.working_dir.unwrap_or_default(),
            exposed_ports: process.exposed_ports.unwrap_or_default().into_keys().collect(),
            stop_signal: process.stop_signal,
            labels: process.labels.unwrap_or_default(),
        };
        let mut records = self.records();
        if let Some(known) = records.get(id) {
            info.tags = known.info.tags.clone();
            info.digests = known.info.digests.clone();
        }
        for digest in manifest_digests {
            push_new(&mut info.digests, format!("{}@{digest}", image.name()));
        }
        // A reference with both is one by digest.
        if let (Some(tag), None) = (&image.tag, &image.digest) {
            let name = format!("{}:{tag}", image.name());
            // A tag names one image: it leaves the one that had it.
            for other in records.values_mut().filter(|r| r.info.id.0 != id && r.info.tags.contains(&name)) {
                let mut changed = (**other).clone();
                changed.info.tags.retain(|t| *t != name);
                self.write_record(&changed)?;
                *other = Arc::new(changed);
            }
            push_new(&mut info.tags, name);
        }
        let record = Record { info, layers, unsynced: Some(boot_id()) };
        self.write_record(&record)?;
        records.insert(id.to_owned(), Arc::new(record));
        drop(records);
        let (store, id) = (self.clone(), ImageId(id.to_owned()));
        let synced = id.clone();
        // A thread of its own: it may take long, and the end of the daemon need not wait for it.
        std::thread::spawn(move || {
            if let Err(error) = store.sync(&synced) {
                tracing::warn!(%error, image = %synced, "image not written through to the disk");
            }
        });
        Ok(id)
    }

    /// Writes an image through to the disk, then says so in its record.
    fn sync(&self, id: &ImageId) -> Result<()> {
        let root = File::open(&self.shared.root).map_err(store_error("open store"))?;
        sys::sync_file_system(root.as_fd()).map_err(store_error("sync"))?;
        let mut records = self.records();
        if let Some(record) = records.get_mut(&id.0) {
            let mut changed = (**record).clone();
            changed.unsynced = None;
            self.write_record(&changed)?;
            *record = Arc::new(changed);
        }
        Ok(())
    }

    /// Removes a name; the image goes with its last name, or when the id was given. `in_use` are image ids of containers.
    pub(crate) async fn remove(&self, name: &str, in_use: &HashSet<String>) -> Result<()> {
        let _writing = self.shared.removal.write().await;
        let Some(record) = self.find(name) else { return Ok(()) };
        let id = record.info.id.0.clone();
        let by_id = name == id || format!("sha256:{name}") == id;
        let mut left = (*record).clone();
        if !by_id {
            let full = ImageRef::parse(name)?.to_string();
            left.info.tags.retain(|t| *t != full);
            left.info.digests.retain(|d| *d != full);
            if !left.info.tags.is_empty() {
                self.write_record(&left)?;
                self.records().insert(id, Arc::new(left));
                return Ok(());
            }
        }
        if in_use.contains(&id) {
            return Err(ImageError::InUse(name.to_owned()).into());
        }
        self.records().remove(&id);
        let path = self.record_path(&id);
        fs::remove_file(&path).map_err(store_error(format!("remove {}", path.display())))?;
        let needed: HashSet<String> = self.records().values().flat_map(|r| r.layers.clone()).collect();
        let unneeded: Vec<PathBuf> = record
            .layers
            .iter()
            .filter(|l| !needed.contains(*l) && *l != "empty")
            .map(|l| self.shared.root.join("layers").join(l))
            .collect();
        let removed = tokio::task::spawn_blocking(move || {
            unneeded.iter().try_for_each(|layer| {
                let _ = fs::remove_file(layer.with_extension("size"));
                fs::remove_dir_all(layer)
            })
        });
        removed.await.map_err(|_| store_error("remove layers")(io::ErrorKind::Interrupted.into()))?.map_err(store_error("remove layers"))
    }

    /// Removes layers and documents that no record names. Waits for pulls under way, which count on theirs.
    pub(crate) async fn sweep(&self) -> Result<()> {
        let _writing = self.shared.removal.write().await;
        let (store, records) = (self.clone(), self.records().clone());
        let swept = tokio::task::spawn_blocking(move || {
            remove_unneeded_layers(&store.shared.root, &records)?;
            remove_unneeded_blobs(&store.shared.root, &records)
        });
        swept.await.map_err(|_| store_error("sweep")(io::ErrorKind::Interrupted.into()))?
    }

    fn records(&self) -> MutexGuard<'_, HashMap<String, Arc<Record>>> {
        lock(&self.shared.records)
    }

    fn layer_path(&self, diff: &str) -> PathBuf {
        self.shared.root.join("layers").join(layer_name(diff))
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.shared.root.join("records").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn write_record(&self, record: &Record) -> Result<()> {
        write_json(&self.record_path(&record.info.id.0), record).map_err(store_error("write record"))
    }

    fn write_blob(&self, digest: &str, body: &[u8]) -> Result<()> {
        let path = self.shared.root.join("blobs").join(digest.trim_start_matches("sha256:"));
        fs::write(path, body).map_err(store_error("write blob"))
    }

    fn layer_size(&self, layer: &str) -> u64 {
        let path = self.shared.root.join("layers").join(format!("{layer}.size"));
        fs::read_to_string(path).ok().and_then(|t| t.parse().ok()).unwrap_or(0)
    }
}

/// Removes what no record names.
fn remove_unneeded_layers(root: &Path, records: &HashMap<String, Arc<Record>>) -> Result<()> {
    let needed: HashSet<&str> = records.values().flat_map(|r| r.layers.iter().map(String::as_str)).collect();
    for entry in fs::read_dir(root.join("layers")).map_err(store_error("list layers"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && name != "empty" && !needed.contains(name.as_str()) {
            let _ = fs::remove_file(entry.path().with_extension("size"));
            fs::remove_dir_all(entry.path()).map_err(store_error("remove layer"))?;
        }
    }
    Ok(())
}

/// Removes manifests and configs of images that are gone.
fn remove_unneeded_blobs(root: &Path, records: &HashMap<String, Arc<Record>>) -> Result<()> {
    let digits = |digest: &str| digest.rsplit(':').next().unwrap_or_default().to_owned();
    let needed: HashSet<String> =
        records.values().flat_map(|r| r.info.digests.iter().map(|d| digits(d)).chain([digits(&r.info.id.0)])).collect();
    for entry in fs::read_dir(root.join("blobs")).map_err(store_error("list blobs"))?.flatten() {
        if !needed.contains(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_file(entry.path()).map_err(store_error("remove blob"))?;
        }
    }
    Ok(())
}

/// Unpacks one layer into `work`, verifying the digest of what came and of what it unpacks to.
fn unpack_verified(reader: Box<dyn Read + Send>, work: &Path, descriptor: &Descriptor, diff: &str, limits: &ImageLimits) -> Result<()> {
    fs::create_dir(work).map_err(store_error("make layer directory"))?;
    let root = File::open(work).map_err(store_error("open layer directory"))?;
    nix::sys::stat::fchmod(&root, nix::sys::stat::Mode::from_bits_truncate(0o755))
        .map_err(|e| store_error("make layer directory")(e.into()))?;
    let mut compressed = Hashing::new(BufReader::with_capacity(BUFFER_BYTES, reader), u64::MAX);
    let result = decoded(&mut compressed, descriptor.media_type.as_deref()).map(|decoder| {
        // Headers and padding come on top of the files' bytes.
        let archive_max = limits.layer_bytes_max.saturating_add(limits.layer_files_max.saturating_mul(2048));
        // Decompressed and hashed in large pieces, whatever is read of them.
        let mut archive = BufReader::with_capacity(BUFFER_BYTES, Hashing::new(decoder, archive_max));
        let unpacked = unpack(&mut archive, root.as_fd(), limits);
        let rest = unpacked.is_ok().then(|| io::copy(&mut archive, &mut io::sink()));
        (unpacked, rest, archive.into_inner().hexadecimal())
    });
    // First whether the bytes are the promised ones; only then what is wrong inside them.
    let rest = io::copy(&mut compressed, &mut io::sink());
    let actual = compressed.hexadecimal();
    if rest.is_ok() && actual != descriptor.digest {
        return Err(ImageError::BadDigest { expected: descriptor.digest.clone(), actual }.into());
    }
    let bad = |reason: String| Error::from(ImageError::BadLayer { digest: descriptor.digest.clone(), reason });
    let (unpacked, tail, archive_digest) = result.map_err(|e| bad(e.to_string()))?;
    let unpacked = match unpacked {
        Ok(unpacked) => unpacked,
        Err(UnpackError::Refused(reason)) => return Err(bad(reason)),
        Err(UnpackError::TooLarge(what)) => return Err(ImageError::TooLarge(what).into()),
        Err(UnpackError::Io(step, e)) if e.raw_os_error().is_none() => return Err(bad(format!("{step}: {e}"))),
        Err(UnpackError::Io(step, source)) => return Err(ImageError::Store { step, source }.into()),
    };
    if let Some(Err(e)) = tail {
        return Err(bad(e.to_string()));
    }
    rest.map_err(store_error("read layer"))?;
    if archive_digest != diff {
        return Err(ImageError::BadDigest { expected: diff.to_owned(), actual: archive_digest }.into());
    }
    let size = format!("{}.size", layer_name(diff));
    let sizes = work.parent().and_then(Path::parent).map(|images| images.join("layers").join(size));
    if let Some(path) = sizes {
        fs::write(path, unpacked.bytes.to_string()).map_err(store_error("write layer size"))?;
    }
    Ok(())
}

/// The archive out of its compression, told by its first bytes.
fn decoded<'a>(reader: &'a mut Hashing<BufReader<Box<dyn Read + Send>>>, media_type: Option<&str>) -> io::Result<Box<dyn Read + 'a>> {
    use std::io::BufRead;
    let start = reader.inner.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(reader)))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::stream::read::Decoder::new(reader)?))
    } else if media_type.is_some_and(|t| t.ends_with("+gzip") || t.ends_with("+zstd")) && !start.is_empty() {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not compressed as its media type says"))
    } else {
        Ok(Box::new(reader))
    }
}

/// Hashes what is read through it, up to a limit.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    left: u64,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self { inner, hasher: Sha256::new(), left: limit }
    }

    fn hexadecimal(self) -> String {
        digest_text(self.hasher)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other("larger than the limits"))?;
        Ok(n)
    }
}

fn digest_text(hasher: Sha256) -> String {
    let hex: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn verify(body: &[u8], expected: &str) -> Result<()> {
    let mut hasher = Sha256::new();
    hasher.update(body);
    let actual = digest_text(hasher);
    if actual == expected { Ok(()) } else { Err(ImageError::BadDigest { expected: expected.to_owned(), actual }.into()) }
}

fn check_digest(digest: &str) -> Result<()> {
    if valid_digest(digest) { Ok(()) } else { Err(malformed(format!("unusable digest {digest:?}"))) }
}

/// Layers of the manifest with the diff ids of the config, lowest first.
pub(crate) fn pair_layers(layers: Vec<Descriptor>, diffs: &[String], limits: &ImageLimits) -> Result<Vec<(Descriptor, String)>> {
    if layers.len() != diffs.len() {
        return Err(malformed(format!("{} layers but {} diff ids", layers.len(), diffs.len())));
    }
    if layers.len() > limits.layers_max {
        return Err(ImageError::TooLarge(format!("{} layers", layers.len())).into());
    }
    for digest in layers.iter().map(|l| &l.digest).chain(diffs) {
        check_digest(digest)?;
    }
    Ok(layers.into_iter().zip(diffs.iter().cloned()).collect())
}

/// Short, because overlayfs takes all lower directories in one page of options.
pub(crate) fn layer_name(diff: &str) -> String {
    diff.trim_start_matches("sha256:").chars().take(LAYER_NAME_DIGITS).collect()
}

fn push_new(list: &mut Vec<String>, name: String) {
    if !list.contains(&name) {
        list.push(name);
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
