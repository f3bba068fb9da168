//! Where events go: a file that is turned over, or the standard output, by a thread of its own behind a bounded queue.
//!
//! A full queue makes requests wait: nothing is lost unless the disk refuses it, and that is counted. Files are turned over as kube-apiserver's
//! are: `audit-2026-01-31T12-00-00.000.log` beside `audit.log`.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

/// Events that wait to be written.
const QUEUE_MAX: usize = 10_000;
/// A file's size where nobody says one, megabytes.
const MEGABYTES_DEFAULT: u64 = 100;

/// Where to write, and what to keep.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// A file; `-` is the standard output.
    pub path: PathBuf,
    /// A file is turned over before it grows beyond so many megabytes; 0: 100.
    pub megabytes_max: u64,
    /// Files kept beside the one that is written; 0: all.
    pub files_max: usize,
    /// How long they are kept, days; 0: for ever.
    pub days_max: u64,
}

/// Events written, and events lost because they could not be.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
}

pub(super) enum Line {
    Event(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// Starts the writer.
pub(super) fn start(config: LogConfig, counts: Arc<Counts>) -> io::Result<mpsc::Sender<Line>> {
    let mut output = Output::open(config)?;
    let (sender, mut lines) = mpsc::channel(QUEUE_MAX);
    std::thread::Builder::new().name("audit".into()).spawn(move || {
        while let Some(line) = lines.blocking_recv() {
            let outcome = match &line {
                Line::Event(text) => output.write(text),
                Line::Flush(_) => Ok(()),
            };
            let outcome = if lines.is_empty() { outcome.and(output.file.flush()) } else { outcome };
            match (line, outcome) {
                (Line::Flush(done), _) => drop(done.send(())),
                (Line::Event(_), Ok(())) => drop(counts.written.fetch_add(1, Relaxed)),
                (Line::Event(_), Err(error)) => {
                    counts.lost.fetch_add(1, Relaxed);
                    tracing::error!(%error, "an audit event is lost");
                }
            }
        }
    })?;
    Ok(sender)
}

struct Output {
    file: BufWriter<Box<dyn Write + Send>>,
    bytes: u64,
    config: LogConfig,
}

impl Output {
    fn open(config: LogConfig) -> io::Result<Self> {
        if config.path == Path::new("-") {
            return Ok(Self { file: BufWriter::new(Box::new(io::stdout())), bytes: 0, config });
        }
        config.path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(&config.path)?;
        Ok(Self { bytes: file.metadata()?.len(), file: BufWriter::new(Box::new(file)), config })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let megabytes = if self.config.megabytes_max == 0 { MEGABYTES_DEFAULT } else { self.config.megabytes_max };
        if self.bytes > 0 && self.bytes + text.len() as u64 > megabytes << 20 && self.config.path != Path::new("-") {
            self.turn_over()?;
        }
        self.bytes += text.len() as u64;
        self.file.write_all(text)
    }

    /// Puts the file aside under the time's name, begins a new one, and removes what is too much.
    fn turn_over(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let path = self.config.path.clone();
        let part = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let (stem, ending) =
            (format!("{}-", part(path.file_stem())), path.extension().map_or(String::new(), |e| format!(".{}", part(Some(e)))));
        let aside = format!("{stem}{}{ending}", Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f"));
        std::fs::rename(&path, path.with_file_name(aside))?;
        *self = Self::open(self.config.clone())?;
        let beside = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let of_ours =
            |name: &str| name.strip_prefix(&*stem).and_then(|rest| rest.strip_suffix(&*ending)).is_some_and(|time| time.len() == 23);
        let mut old: Vec<_> =
            std::fs::read_dir(beside)?.flatten().filter(|entry| entry.file_name().to_str().is_some_and(of_ours)).collect();
        old.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
        let age = |entry: &std::fs::DirEntry| SystemTime::now().duration_since(entry.metadata().ok()?.modified().ok()?).ok();
        let days = |entry| age(entry).is_some_and(|age| age > Duration::from_secs(self.config.days_max * 86_400));
        for (index, entry) in old.iter().enumerate() {
            if self.config.files_max > 0 && index >= self.config.files_max || self.config.days_max > 0 && days(entry) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
