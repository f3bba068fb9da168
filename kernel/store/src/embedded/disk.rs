//! Where the file is: opens it for redb, and opens it again after the disk failed.
//!
//! redb refuses all work after one failed operation, so the engine drops it and opens the same file anew. Nobody else may get
//! the file in between, so the lock is ours, not redb's.
//!
//! After a failed sync Linux may count bytes as written that never were, while they still read as written. That cannot deceive
//! us: with two-phase commit the new state is pointed to only after its pages were synced, so only the pointer itself can be
//! in doubt, and redb writes and syncs the pointer (the header) whenever it opens a file.
//!
//! A full disk must not lock itself: making room (deleting, compacting) needs room too, because redb writes anew what it changes. So a
//! file of some size is kept beside the store, and given up for that; see [`Spending`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::posix_fallocate;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use crate::error::{Error, Result};

/// A place to keep the store. Implemented by tests too, to make disks fail.
pub trait Disk: Send + Sync + 'static {
    /// What redb works on. Called again, after the previous one was dropped, when the disk had failed.
    ///
    /// # Errors
    /// The disk is not usable (yet).
    fn backend(&self) -> io::Result<Arc<dyn StorageBackend>>;

    /// From now on, take space like this. A disk without a reserve ignores it.
    ///
    /// # Errors
    /// There is no room for what is to be set aside; then nothing is.
    fn spend(&self, _spending: Spending) -> io::Result<()> {
        Ok(())
    }

    /// The store is closing; nothing will be read or written any more.
    fn release(&self);
}

/// What commits may take from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spending {
    /// New space; a reserve is set aside.
    Freely,
    /// New space, and the reserve's too: for what makes room.
    Reserve,
}

/// One regular file, locked for as long as the store is open.
pub(super) struct FileDisk {
    file: Arc<File>,
    reserve: PathBuf,
    reserve_bytes: u64,
}

impl FileDisk {
    /// Lock an existing file, or make a new one with `initialize`.
    ///
    /// A new store is made beside its path and moved there when complete, so that a crash leaves no half-made one.
    pub(super) fn open(path: &Path, reserve_bytes: u64, initialize: impl FnOnce(&FileDisk) -> Result<()>) -> Result<Self> {
        let lock = |at: &Path, options: &OpenOptions| -> Result<Self> {
            Ok(Self { file: Arc::new(lock(at, options)?), reserve: beside(path, ".reserve"), reserve_bytes })
        };
        match lock(path, OpenOptions::new().read(true).write(true)) {
            Err(Error::Io(err)) if err.kind() == io::ErrorKind::NotFound => {}
            Ok(disk) if disk.file.metadata()?.len() == 0 => {
                return Err(Error::Corrupt { detail: format!("{} is empty", path.display()) });
            }
            opened => return opened,
        }
        let fresh = beside(path, ".new");
        let disk = lock(&fresh, OpenOptions::new().read(true).write(true).create(true).mode(0o600))?;
        disk.file.set_len(0)?;
        initialize(&disk)?;
        disk.file.sync_all()?;
        // A link, unlike a rename, does not replace a store that another process made meanwhile.
        fs::hard_link(&fresh, path).map_err(|err| match err.kind() {
            io::ErrorKind::AlreadyExists => Error::Locked { path: path.to_owned() },
            _ => err.into(),
        })?;
        fs::remove_file(&fresh)?;
        sync_directory(path)?;
        Ok(disk)
    }

    fn set_reserve_aside(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.reserve)?;
        let set = file.set_len(self.reserve_bytes).and_then(|()| match i64::try_from(self.reserve_bytes) {
            Ok(0) => Ok(()),
            Ok(bytes) => posix_fallocate(&file, 0, bytes).map_err(io::Error::from),
            Err(_) => Err(io::ErrorKind::InvalidInput.into()),
        });
        if set.is_err() {
            self.give_reserve_up()?;
        }
        set
    }

    fn give_reserve_up(&self) -> io::Result<()> {
        match fs::remove_file(&self.reserve) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }
}

impl Disk for FileDisk {
    fn backend(&self) -> io::Result<Arc<dyn StorageBackend>> {
        Ok(Arc::new(FileBackend(self.file.clone())))
    }

    fn spend(&self, spending: Spending) -> io::Result<()> {
        match spending {
            Spending::Freely => self.set_reserve_aside(),
            Spending::Reserve => self.give_reserve_up(),
        }
    }

    fn release(&self) {
        if let Err(err) = self.file.unlock() {
            tracing::warn!(error = %err, "cannot unlock the store's file");
        }
    }
}

#[derive(Debug)]
struct FileBackend(Arc<File>);

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// A store that lives as long as the process: for tests of what is above it.
pub(super) struct MemoryDisk(Arc<InMemoryBackend>);

impl MemoryDisk {
    pub(super) fn new() -> Self {
        Self(Arc::new(InMemoryBackend::new()))
    }
}

impl Disk for MemoryDisk {
    fn backend(&self) -> io::Result<Arc<dyn StorageBackend>> {
        Ok(self.0.clone())
    }

    fn release(&self) {}
}

fn lock(path: &Path, options: &OpenOptions) -> Result<File> {
    let file = options.open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(err)) => Err(err.into()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
