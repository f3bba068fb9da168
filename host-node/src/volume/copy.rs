//! A tree of files, copied as it is: owners, modes, times, extended attributes (so ACLs and labels), links of both kinds, holes, and what is neither
//! file nor directory.
//!
//! The problem: who mounts the tree may change it meanwhile, also to lead the copy out of it, as when a directory becomes a link to /etc between
//! one look and the next. The answer: each directory is opened by its path below the root with openat2, which follows no link, and what is in it is
//! looked at and opened through that descriptor, its last name never followed. What vanishes meanwhile is left out.
//!
//! Invariant: a copy is there whole and on disk, or not at all: it is made under another name and renamed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek, syncfs};

use crate::error::{Result, Step};
use crate::file;

/// What a copy is called until it is whole: this and its name. No volume's name begins with a dot.
pub const UNFINISHED: &str = ".copy-";
/// Bytes that are copied between two looks at whether to stop.
const PIECE_BYTES: u64 = 64 << 20;

/// How far a copy is, and whether it is wanted any more.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files, directories and whatever else.
    pub entries: AtomicU64,
    /// Of files' content, without holes.
    pub bytes: AtomicU64,
    /// Somebody wants it to end.
    pub stop: AtomicBool,
}

/// Copies the directory `from` to `to`, which must not be there.
///
/// # Errors
/// What could not be read or written, by its path below the root; nothing is left of the copy then.
pub fn copy_tree(from: &Path, to: &Path, progress: &Progress) -> Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let beside = to.with_file_name(format!("{UNFINISHED}{name}"));
    file::remove_tree(&beside)?;
    let copied = copy_beside(from, &beside, progress).and_then(|()| fs::rename(&beside, to).step(|| format!("naming the copy {name}")));
    if copied.is_err() {
        let _ = file::remove_tree(&beside);
        return copied;
    }
    let parent = to.parent().unwrap_or(to);
    File::open(parent).and_then(|parent| parent.sync_all()).step(|| format!("writing {} to disk", parent.display()))
}

fn copy_beside(from: &Path, beside: &Path, progress: &Progress) -> Result<()> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let root = OpenOptions::new().read(true).custom_flags(flags).open(from).step(|| format!("opening {}", from.display()))?;
    Copy { root: root.into(), to: beside, linked: HashMap::new(), progress }.run()?;
    let made = File::open(beside).step(|| format!("opening {}", beside.display()))?;
    syncfs(&made).map_err(io::Error::from).step(|| format!("writing {} to disk", beside.display()))
}

struct Copy<'a> {
    root: OwnedFd,
    to: &'a Path,
    /// By device and number: what has several names, and the first of its copy.
    linked: HashMap<(u64, u64), PathBuf>,
    progress: &'a Progress,
}

/// What an entry has beside its content.
struct Attributes {
    meta: Metadata,
    extended: Vec<(OsString, Vec<u8>)>,
}

impl Copy<'_> {
    fn run(&mut self) -> Result<()> {
        let mut waiting = vec![PathBuf::new()];
        let mut directories = Vec::new();
        while let Some(below) = waiting.pop() {
            let failed = || format!("copying {:?}", below.display());
            let Some(directory) = self.open(&below).step(failed)? else { continue };
            let inside = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
            let Some(attributes) = Attributes::of(&inside.join(".")).step(failed)? else { continue };
            let target = self.to.join(&below);
            file::make_dir(&target, 0o700)?;
            for entry in fs::read_dir(&inside).step(failed)? {
                let name = entry.step(failed)?.file_name();
                let (entry, below) = (inside.join(&name), below.join(&name));
                if self.entry(&entry, &below).step(|| format!("copying {:?}", below.display()))? {
                    waiting.push(below);
                }
            }
            directories.push((target, attributes));
        }
        // What is made in a directory changes its times, and may inherit from it.
        for (target, attributes) in directories.into_iter().rev() {
            attributes.put(&target).step(|| format!("copying what {} is", target.display()))?;
        }
        Ok(())
    }

    /// A directory below the root; `None`: it is not there any more.
    fn open(&self, below: &Path) -> io::Result<Option<OwnedFd>> {
        let path = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        match openat2(&self.root, path, how) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies what is no directory; whether it is one.
    fn entry(&mut self, from: &Path, below: &Path) -> io::Result<bool> {
        if self.progress.stop.load(Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the copy is not wanted any more"));
        }
        let Some(attributes) = Attributes::of(from)? else { return Ok(false) };
        self.progress.entries.fetch_add(1, Relaxed);
        let (kind, target) = (attributes.meta.file_type(), self.to.join(below));
        if kind.is_dir() {
            return Ok(true);
        }
        let several = (attributes.meta.nlink() > 1).then(|| (attributes.meta.dev(), attributes.meta.ino()));
        if let Some(first) = several.and_then(|number| self.linked.get(&number)) {
            fs::hard_link(first, &target)?;
            return Ok(false);
        }
        let made = if kind.is_symlink() {
            there(fs::read_link(from))?.map(|to| std::os::unix::fs::symlink(to, &target)).transpose()?
        } else if kind.is_file() {
            self.content(from, &target)?
        } else {
            debug_assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device());
            let format = SFlag::from_bits_truncate(attributes.meta.mode() & SFlag::S_IFMT.bits());
            Some(mknod(&target, format, Mode::from_bits_truncate(0o600), attributes.meta.rdev())?)
        };
        if made.is_some() {
            attributes.put(&target)?;
            if let Some(number) = several {
                self.linked.insert(number, target);
            }
        }
        Ok(false)
    }

    /// A file's content, as far as it reached when it was opened; `None`: there is no file any more.
    fn content(&self, from: &Path, target: &Path) -> io::Result<Option<()>> {
        // A file that has become a pipe must not hold the copy up.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(from);
        let Some(mut from) = there(opened)? else { return Ok(None) };
        let meta = from.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
        let size = meta.len();
        let mut at = 0;
        while at < size {
            let (start, end) = match (seek(&from, at, Whence::SeekData), seek(&from, at, Whence::SeekHole)) {
                (Err(Errno::ENXIO), _) => break,
                (Ok(start), Ok(end)) if start == at => (start, end.clamp(start, size)),
                (Ok(start), _) => {
                    at = start;
                    continue;
                }
                // Here nobody tells of holes.
                (Err(Errno::EINVAL | Errno::EOPNOTSUPP), _) => (at, size),
                (Err(error), _) => return Err(error.into()),
            };
            from.seek(SeekFrom::Start(start))?;
            to.seek(SeekFrom::Start(start))?;
            let piece = (end - start).min(PIECE_BYTES);
            let copied = io::copy(&mut (&from).take(piece), &mut to)?;
            self.progress.bytes.fetch_add(copied, Relaxed);
            at = start + copied;
            if copied == 0 {
                break;
            }
            if self.progress.stop.load(Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the copy is not wanted any more"));
            }
        }
        to.set_len(size)?;
        Ok(Some(()))
    }
}

fn seek(file: &File, at: u64, whence: Whence) -> nix::Result<u64> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    lseek(file, at, whence).map(|at| u64::try_from(at).unwrap_or_default())
}

/// What vanished meanwhile is no failure; nor is what became something else.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ELOOP | Errno::EINVAL | Errno::ENXIO) => Ok(None),
            _ => Err(error),
        },
    }
}

impl Attributes {
    /// Those of what a path names, which is not followed if it is a link.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let Some(meta) = there(fs::symlink_metadata(path))? else { return Ok(None) };
        let names = match xattr::list(path) {
            Ok(names) => names.collect(),
            Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::NotFound) => Vec::new(),
            Err(error) => return Err(error),
        };
        let value = |name: OsString| there(xattr::get(path, &name)).map(|value| Some((name, value??)));
        let extended = names.into_iter().map(value).collect::<io::Result<Vec<_>>>()?;
        Ok(Some(Self { meta, extended: extended.into_iter().flatten().collect() }))
    }

    fn put(&self, target: &Path) -> io::Result<()> {
        let Self { meta, extended } = self;
        std::os::unix::fs::lchown(target, Some(meta.uid()), Some(meta.gid()))?;
        if !meta.is_symlink() {
            fs::set_permissions(target, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        }
        for (name, value) in extended {
            xattr::set(target, name, value)?;
        }
        let time = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
        let (accessed, modified) = (time(meta.atime(), meta.atime_nsec()), time(meta.mtime(), meta.mtime_nsec()));
        Ok(utimensat(AT_FDCWD, target, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;
    use std::os::unix::fs::symlink;

    fn root(name: &str) -> Option<TestDir> {
        if nix::unistd::geteuid().is_root() {
            return Some(TestDir::new(name));
        }
        println!("skipped: needs root to change owners");
        None
    }

    #[test]
    fn a_tree_is_copied_with_all_that_it_is() {
        let Some(dir) = root("copy") else { return };
        let (from, to) = (dir.0.join("from"), dir.0.join("to"));
        fs::create_dir_all(from.join("d/e")).expect("made");
        fs::write(from.join("d/f"), "words").expect("written");
        fs::hard_link(from.join("d/f"), from.join("g")).expect("linked");
        symlink("/etc/passwd", from.join("link")).expect("linked");
        std::os::unix::fs::lchown(from.join("link"), Some(7), Some(8)).expect("owned");
        std::os::unix::fs::chown(from.join("d/f"), Some(1000), Some(2000)).expect("owned");
        fs::set_permissions(from.join("d/f"), fs::Permissions::from_mode(0o4750)).expect("set");
        fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o2775)).expect("set");
        mknod(&from.join("pipe"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).expect("made");
        let sparse = File::create(from.join("sparse")).expect("made");
        std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 8 << 20).expect("written");
        sparse.set_len(32 << 20).expect("longer");
        sparse.sync_all().expect("on disk");
        let extended = xattr::set(from.join("d/f"), "trusted.word", b"yes").is_ok();
        let (early, now) = (TimeSpec::new(1_000_000, 5), TimeSpec::new(2_000_000, 0));
        utimensat(AT_FDCWD, &from.join("d"), &now, &early, UtimensatFlags::NoFollowSymlink).expect("set");
        let progress = Progress::default();
        copy_tree(&from, &to, &progress).expect("copied");
        let meta = |name: &str| fs::symlink_metadata(to.join(name)).expect("there");
        assert_eq!(fs::read(to.join("d/f")).expect("read"), b"words");
        let file = meta("d/f");
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1000, 2000, 0o4750));
        assert_eq!((meta("g").ino(), file.nlink()), (file.ino(), 2));
        assert_eq!(fs::read_link(to.join("link")).expect("a link"), Path::new("/etc/passwd"));
        assert_eq!((meta("link").uid(), meta("link").gid()), (7, 8));
        let directory = meta("d");
        assert_eq!((directory.mode() & 0o7777, directory.mtime(), directory.mtime_nsec()), (0o2775, 1_000_000, 5));
        assert!(meta("d/e").is_dir() && meta("pipe").file_type().is_fifo());
        let hollow = meta("sparse");
        let content = fs::read(to.join("sparse")).expect("read");
        assert_eq!((hollow.len(), &content[8 << 20..][..13]), (32 << 20, &b"in the middle"[..]));
        assert!(hollow.blocks() * 512 < 8 << 20, "{} blocks: holes stay holes", hollow.blocks());
        if extended {
            assert_eq!(xattr::get(to.join("d/f"), "trusted.word").expect("read").as_deref(), Some(&b"yes"[..]));
        }
        assert!(progress.bytes.load(Relaxed) < 1 << 20 && progress.entries.load(Relaxed) == 7);
        assert!(!dir.0.join(format!("{UNFINISHED}to")).exists());
    }

    #[test]
    fn a_link_in_a_directorys_place_is_not_followed() {
        let Some(dir) = root("copy-link") else { return };
        let (from, secret) = (dir.0.join("from"), dir.0.join("secret"));
        fs::create_dir_all(from.join("d")).expect("made");
        fs::create_dir_all(&secret).expect("made");
        fs::write(secret.join("key"), "k").expect("written");
        let opened = OpenOptions::new().read(true).open(&from).expect("opened");
        let copy = Copy { root: opened.into(), to: &dir.0, linked: HashMap::new(), progress: &Progress::default() };
        assert!(copy.open(Path::new("d")).expect("opened").is_some());
        fs::remove_dir(from.join("d")).expect("removed");
        symlink(&secret, from.join("d")).expect("linked");
        assert!(copy.open(Path::new("d")).expect("asked").is_none(), "a directory that became a link has vanished");
        assert!(copy.open(Path::new("../secret")).is_err());
    }

    #[test]
    fn a_copy_that_ends_early_leaves_nothing() {
        let Some(dir) = root("copy-stop") else { return };
        let (from, to) = (dir.0.join("from"), dir.0.join("to"));
        fs::create_dir_all(&from).expect("made");
        fs::write(from.join("f"), "x").expect("written");
        let progress = Progress { stop: AtomicBool::new(true), ..Progress::default() };
        let error = copy_tree(&from, &to, &progress).expect_err("stopped");
        assert!(crate::error::Error::chain(&error).contains("not wanted any more"), "{error}");
        assert_eq!(fs::read_dir(&dir.0).expect("read").count(), 1);
    }
}
