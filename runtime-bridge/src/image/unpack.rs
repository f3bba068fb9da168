//! Unpacking one layer's archive into a directory that overlayfs can use as a lower directory.
//!
//! The archive is hostile. Every entry's parent is resolved by openat2 inside the layer's directory and the last component is
//! never followed; `..` is refused outright; sizes and counts are limited; device nodes are left out (every container has
//! its own /dev); of the extended attributes only file capabilities and `user.*` are kept, so an archive cannot speak overlayfs's own
//! language (`trusted.overlay.*`). Whiteouts become overlayfs's: a 0/0 character device for a removed name, an attribute for an opaque directory.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::ImageLimits;
use crate::sys;

const BLOCK: usize = 512;
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 4096;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &std::ffi::CStr = c"trusted.overlay.opaque";

/// Why a layer was not unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// The archive is malformed or tries something that is refused.
    Refused(String),
    /// It is larger than the limits.
    TooLarge(String),
    /// Reading the archive or writing the files failed.
    Io(String, io::Error),
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// What pax and GNU headers say about the entry after them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    attributes: Vec<(String, Vec<u8>)>,
}

struct Entry {
    kind: tar::EntryType,
    path: Vec<u8>,
    link: Vec<u8>,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: i64,
    attributes: Vec<(String, Vec<u8>)>,
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    limits: &'a ImageLimits,
    done: Unpacked,
    /// The directory of the last entry: archives are in directory order.
    last_parent: Option<(Vec<u8>, OwnedFd)>,
}

fn io_error(step: &str) -> impl FnOnce(io::Error) -> UnpackError + '_ {
    move |e| UnpackError::Io(step.to_owned(), e)
}

fn refused<T>(why: impl Into<String>) -> Result<T, UnpackError> {
    Err(UnpackError::Refused(why.into()))
}

/// Unpacks `archive` (plain tar) below `root`.
pub(crate) fn unpack(archive: &mut dyn Read, root: BorrowedFd<'_>, limits: &ImageLimits) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker { root, limits, done: Unpacked::default(), last_parent: None };
    let mut extension = Extension::default();
    let mut global = Extension::default();
    while let Some(header) = next_header(archive)? {
        let kind = header.entry_type();
        match kind.as_byte() {
            b'x' => read_pax(archive, &header, &mut extension)?,
            b'g' => read_pax(archive, &header, &mut global)?,
            b'L' => extension.path = Some(read_name(archive, &header)?),
            b'K' => extension.link = Some(read_name(archive, &header)?),
            _ => {
                let entry = entry_of(&header, std::mem::take(&mut extension))?;
                unpacker.entry(archive, entry)?;
            }
        }
    }
    Ok(unpacker.done)
}

/// The next header; `None` at the end of the archive (a zero block, or the end of the data).
fn next_header(archive: &mut dyn Read) -> Result<Option<tar::Header>, UnpackError> {
    let mut block = [0u8; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        match archive.read(&mut block[filled..]).map_err(io_error("read archive"))? {
            0 if filled == 0 => return Ok(None),
            0 => return refused("archive cut short"),
            n => filled += n,
        }
    }
    if block.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let header = tar::Header::from_byte_slice(&block).clone();
    let sum = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
    match header.cksum() {
        Ok(expected) if expected == sum => Ok(Some(header)),
        _ => refused("bad header checksum"),
    }
}

/// Reads an extension's body and its padding.
fn read_body(archive: &mut dyn Read, header: &tar::Header) -> Result<Vec<u8>, UnpackError> {
    let size = header.entry_size().or_else(|_| refused("bad size"))?;
    if size > EXTENSION_BYTES_MAX {
        return Err(UnpackError::TooLarge(format!("header extension of {size} bytes")));
    }
    let mut body = vec![0; usize::try_from(size).unwrap_or(0)];
    archive.read_exact(&mut body).map_err(io_error("read archive"))?;
    skip(archive, padding(size))?;
    Ok(body)
}

fn read_name(archive: &mut dyn Read, header: &tar::Header) -> Result<Vec<u8>, UnpackError> {
    let mut name = read_body(archive, header)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// pax records: `<length> <key>=<value>\n`.
fn read_pax(archive: &mut dyn Read, header: &tar::Header, extension: &mut Extension) -> Result<(), UnpackError> {
    let body = read_body(archive, header)?;
    let mut rest = &body[..];
    while !rest.is_empty() {
        let record = pax_record(rest);
        let Some((length, key, value)) = record else { return refused("bad pax record") };
        let number = || std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
        match key {
            "path" => extension.path = Some(value.to_vec()),
            "linkpath" => extension.link = Some(value.to_vec()),
            "size" => extension.size = Some(number().map_or_else(|| refused("bad pax size"), Ok)?),
            "uid" => extension.uid = number(),
            "gid" => extension.gid = number(),
            _ if key.starts_with("GNU.sparse.") => return refused("sparse files are not supported"),
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.")
                    && (name == "security.capability" || name.starts_with("user."))
                {
                    extension.attributes.push((name.to_owned(), value.to_vec()));
                }
            }
        }
        rest = &rest[length..];
    }
    Ok(())
}

fn pax_record(rest: &[u8]) -> Option<(usize, &str, &[u8])> {
    let space = rest.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((length, std::str::from_utf8(&record[..equals]).ok()?, &record[equals + 1..]))
}

fn entry_of(header: &tar::Header, extension: Extension) -> Result<Entry, UnpackError> {
    let old = header.as_old();
    // Some writers leave a field blank that they have nothing to say in.
    let number = |field: &[u8], value: io::Result<u64>| match value {
        Ok(value) => Ok(value),
        Err(_) if field.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
        Err(_) => refused("bad number in header"),
    };
    let id = |value: u64| u32::try_from(value).or_else(|_| refused("user or group id out of range"));
    let uid = match extension.uid {
        Some(uid) => uid,
        None => number(&old.uid, header.uid())?,
    };
    let gid = match extension.gid {
        Some(gid) => gid,
        None => number(&old.gid, header.gid())?,
    };
    let size = match extension.size {
        Some(size) => size,
        None => number(&old.size, header.entry_size())?,
    };
    Ok(Entry {
        kind: header.entry_type(),
        path: extension.path.unwrap_or_else(|| header.path_bytes().into_owned()),
        link: extension.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
        size,
        mode: (number(&old.mode, header.mode().map(u64::from))? & 0o7777) as u32,
        uid: id(uid)?,
        gid: id(gid)?,
        modified: i64::try_from(number(&old.mtime, header.mtime())?).unwrap_or(0),
        attributes: extension.attributes,
    })
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn skip(archive: &mut dyn Read, bytes: u64) -> Result<(), UnpackError> {
    let skipped = io::copy(&mut archive.take(bytes), &mut io::sink()).map_err(io_error("read archive"))?;
    if skipped == bytes { Ok(()) } else { refused("archive cut short") }
}

/// Directory and last component of a path.
type Split = (Vec<u8>, Vec<u8>);

/// A path as clean components; `None` for the root itself.
fn components(path: &[u8]) -> Result<Option<Split>, UnpackError> {
    if path.len() > NAME_BYTES_MAX || path.contains(&0) {
        return refused("unusable path");
    }
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    if parts.contains(&&b".."[..]) {
        return refused(format!("path {:?} leaves the layer", String::from_utf8_lossy(path)));
    }
    Ok(parts.split_last().map(|(leaf, parents)| (parents.join(&b'/'), leaf.to_vec())))
}

impl Unpacker<'_> {
    fn entry(&mut self, archive: &mut dyn Read, entry: Entry) -> Result<(), UnpackError> {
        let has_body = matches!(entry.kind, tar::EntryType::Regular | tar::EntryType::Continuous);
        let body = if has_body { entry.size } else { 0 };
        self.done.files += 1;
        self.done.bytes = self.done.bytes.saturating_add(body);
        if self.done.files > self.limits.layer_files_max {
            return Err(UnpackError::TooLarge(format!("more than {} files", self.limits.layer_files_max)));
        }
        if self.done.bytes > self.limits.layer_bytes_max {
            return Err(UnpackError::TooLarge(format!("more than {} bytes", self.limits.layer_bytes_max)));
        }
        let Some((parent_path, leaf)) = components(&entry.path)? else {
            if entry.kind.is_dir() {
                return set_mode_and_owner(self.root, &entry);
            }
            return refused("an entry replaces the root");
        };
        let parent = self.parent(&parent_path)?;
        let parent = parent.as_fd();
        if let Some(hidden) = leaf.strip_prefix(WHITEOUT) {
            skip(archive, body + padding(body))?;
            return white_out(parent, &leaf, hidden);
        }
        let leaf = CString::new(leaf).or_else(|_| refused("unusable name"))?;
        if let tar::EntryType::Directory = entry.kind {
            return make_directory(parent, &leaf, &entry);
        }
        match entry.kind {
            tar::EntryType::Regular | tar::EntryType::Continuous => write_file(archive, parent, &leaf, &entry),
            tar::EntryType::Symlink => {
                clear(parent, &leaf)?;
                let target = CString::new(entry.link.clone()).or_else(|_| refused("unusable link"))?;
                symlinkat(target.as_c_str(), parent, leaf.as_c_str()).map_err(|e| step(&entry, e))?;
                own(parent, &leaf, &entry)
            }
            tar::EntryType::Link => self.hard_link(parent, &leaf, &entry),
            tar::EntryType::Fifo => {
                clear(parent, &leaf)?;
                let mode = Mode::from_bits_truncate(entry.mode);
                mknodat(parent, leaf.as_c_str(), SFlag::S_IFIFO, mode, 0).map_err(|e| step(&entry, e))?;
                own(parent, &leaf, &entry)
            }
            tar::EntryType::Char | tar::EntryType::Block => {
                tracing::debug!(path = %String::from_utf8_lossy(&entry.path), "device node in a layer left out");
                Ok(())
            }
            other => refused(format!("entry of unknown type {:?}", other.as_byte() as char)),
        }
    }

    /// The directory at `path`, made when the archive forgot it.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        if let Some((known, fd)) = &self.last_parent
            && known == path
        {
            return fd.try_clone().map_err(io_error("dup"));
        }
        let fd = open_directory(self.root, path)?;
        let copy = fd.try_clone().map_err(io_error("dup"))?;
        self.last_parent = Some((path.to_vec(), fd));
        Ok(copy)
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, leaf: &CString, entry: &Entry) -> Result<(), UnpackError> {
        let Some((target_parent, target_leaf)) = components(&entry.link)? else {
            return refused("hard link to the root");
        };
        let directory =
            open_existing(self.root, &target_parent).map_err(|e| UnpackError::Refused(format!("hard link to a missing directory: {e}")))?;
        let target = CString::new(target_leaf).or_else(|_| refused("unusable link"))?;
        clear(parent, leaf)?;
        match linkat(&directory, target.as_c_str(), parent, leaf.as_c_str(), AtFlags::empty()) {
            Err(Errno::ENOENT) => refused(format!("hard link to a missing file {:?}", String::from_utf8_lossy(&entry.link))),
            other => other.map_err(|e| step(entry, e)),
        }
    }
}

fn step(entry: &Entry, e: Errno) -> UnpackError {
    UnpackError::Io(format!("unpack {:?}", String::from_utf8_lossy(&entry.path)), e.into())
}

fn open_existing(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path = sys::cstring(if path.is_empty() { b"." } else { path })?;
    let within = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    sys::openat2(root, &path, libc::O_RDONLY | libc::O_DIRECTORY, 0, within)
}

fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, UnpackError> {
    match open_existing(root, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return refused(format!("parent {:?}: {e}", String::from_utf8_lossy(path))),
        Ok(fd) => return Ok(fd),
    }
    let cut = path.iter().rposition(|b| *b == b'/');
    let (above, leaf) = cut.map_or((&b""[..], path), |i| (&path[..i], &path[i + 1..]));
    let parent = open_directory(root, above)?;
    let leaf = sys::cstring(leaf).map_err(io_error("unpack"))?;
    match mkdirat(&parent, leaf.as_c_str(), Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => return refused(format!("parent {:?} is a dangling link", String::from_utf8_lossy(path))),
        other => other.map_err(|e| UnpackError::Io("unpack".to_owned(), e.into()))?,
    }
    open_existing(root, path).map_err(io_error("unpack"))
}

/// A removed name, or (the special name) a directory whose lower contents are hidden.
fn white_out(parent: BorrowedFd<'_>, leaf: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
    if leaf == OPAQUE {
        return make_opaque(parent);
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return refused("whiteout of nothing");
    }
    if hidden.starts_with(WHITEOUT) {
        // Other marks of AUFS, without meaning here.
        return Ok(());
    }
    let name = CString::new(hidden).or_else(|_| refused("unusable name"))?;
    match mknodat(parent, name.as_c_str(), SFlag::S_IFCHR, Mode::empty(), 0) {
        // The same layer brings the name anew; a directory must not show what lies below it.
        Err(Errno::EEXIST) => match open_existing(parent, hidden) {
            Ok(directory) => make_opaque(directory.as_fd()),
            Err(_) => Ok(()),
        },
        other => other.map_err(|e| UnpackError::Io("whiteout".to_owned(), e.into())),
    }
}

fn make_opaque(directory: BorrowedFd<'_>) -> Result<(), UnpackError> {
    set_attribute(directory, OPAQUE_ATTRIBUTE, b"y").map_err(io_error("mark directory opaque"))
}

fn set_attribute(fd: BorrowedFd<'_>, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: name is NUL-terminated, and value's pointer and length belong together.
    let result = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Removes what an earlier entry of this layer left under the name. A directory is not replaced by anything else.
fn clear(parent: BorrowedFd<'_>, leaf: &CString) -> Result<(), UnpackError> {
    match unlinkat(parent, leaf.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => match unlinkat(parent, leaf.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) => Ok(()),
            Err(_) => refused(format!("{leaf:?} replaces a directory that is not empty")),
        },
        Err(e) => Err(UnpackError::Io("replace".to_owned(), e.into())),
    }
}

fn make_directory(parent: BorrowedFd<'_>, leaf: &CString, entry: &Entry) -> Result<(), UnpackError> {
    let mode = Mode::from_bits_truncate(0o700);
    let mut after_whiteout = false;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let beneath = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    match mkdirat(parent, leaf.as_c_str(), mode) {
        Err(Errno::EEXIST) => {
            if sys::openat2(parent, leaf, flags, 0, beneath).is_err() {
                after_whiteout = true;
                clear(parent, leaf)?;
                mkdirat(parent, leaf.as_c_str(), mode).map_err(|e| step(entry, e))?;
            }
        }
        other => other.map_err(|e| step(entry, e))?,
    }
    let directory = sys::openat2(parent, leaf, flags, 0, beneath).map_err(io_error("open directory"))?;
    if after_whiteout {
        make_opaque(directory.as_fd())?;
    }
    set_mode_and_owner(directory.as_fd(), entry)
}

fn set_mode_and_owner(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    nix::unistd::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).map_err(|e| step(entry, e))?;
    // After the owner: changing that clears set-id bits and file capabilities.
    fchmod(fd, Mode::from_bits_truncate(entry.mode)).map_err(|e| step(entry, e))?;
    for (name, value) in &entry.attributes {
        let name = sys::cstring(name).map_err(io_error("unpack"))?;
        set_attribute(fd, &name, value).map_err(io_error("set attribute"))?;
    }
    Ok(())
}

fn own(parent: BorrowedFd<'_>, leaf: &CString, entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchownat(parent, leaf.as_c_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| step(entry, e))?;
    if entry.kind == tar::EntryType::Fifo {
        let mode = Mode::from_bits_truncate(entry.mode);
        fchmodat(parent, leaf.as_c_str(), mode, FchmodatFlags::FollowSymlink).map_err(|e| step(entry, e))?;
    }
    Ok(())
}

fn write_file(archive: &mut dyn Read, parent: BorrowedFd<'_>, leaf: &CString, entry: &Entry) -> Result<(), UnpackError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    let open = || nix::fcntl::openat(parent, leaf.as_c_str(), flags, mode);
    let fd = match open() {
        Err(Errno::EEXIST) => {
            clear(parent, leaf)?;
            open()
        }
        other => other,
    };
    let mut file = File::from(fd.map_err(|e| step(entry, e))?);
    copy_body(archive, &mut file, entry.size)?;
    skip(archive, padding(entry.size))?;
    set_mode_and_owner(file.as_fd(), entry)?;
    let time = TimeSpec::new(entry.modified, 0);
    utimensat(parent, leaf.as_c_str(), &time, &time, UtimensatFlags::NoFollowSymlink).map_err(|e| step(entry, e))
}

fn copy_body(archive: &mut dyn Read, file: &mut File, size: u64) -> Result<(), UnpackError> {
    let mut buffer = [0u8; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match archive.read(&mut buffer[..room]).map_err(io_error("read archive"))? {
            0 => return refused("archive cut short"),
            n => {
                file.write_all(&buffer[..n]).map_err(io_error("write file"))?;
                left -= n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::{Path, PathBuf};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("pintle-unpack-{}", sys::random_hex(6)));
            std::fs::create_dir(&path).expect("scratch");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn is_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root");
        }
        root
    }

    /// One entry: type, name, link target, content.
    type Row<'a> = (tar::EntryType, &'a str, &'a str, &'a [u8]);

    fn archive(rows: &[Row<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, link, content) in rows {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(content.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes
    }

    fn run(directory: &Path, rows: &[Row<'_>]) -> Result<Unpacked, UnpackError> {
        let root = File::open(directory).expect("open");
        unpack(&mut &archive(rows)[..], root.as_fd(), &ImageLimits::default())
    }

    use tar::EntryType as T;

    #[test]
    fn whiteouts_become_overlay_whiteouts_and_opaque_directories() {
        if !is_root() {
            return;
        }
        let dir = Scratch::new();
        let rows: &[Row<'_>] = &[
            (T::Regular, "etc/.wh.passwd", "", b""),
            (T::Directory, "var/", "", b""),
            (T::Regular, "var/.wh..wh..opq", "", b""),
            (T::Regular, "var/kept", "", b"x"),
        ];
        run(&dir.0, rows).expect("unpacks");
        let gone = std::fs::symlink_metadata(dir.0.join("etc/passwd")).expect("whiteout");
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert!(dir.0.join("var/kept").exists());
        assert!(!dir.0.join("var/.wh..wh..opq").exists());
        let var = File::open(dir.0.join("var")).expect("open");
        let mut value = [0u8; 4];
        // SAFETY: the buffer's pointer and length belong together.
        let n = unsafe { libc::fgetxattr(var.as_raw_fd(), OPAQUE_ATTRIBUTE.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        assert_eq!((n, value[0]), (1, b'y'));
    }

    #[test]
    fn fault_entries_that_leave_the_layer_are_refused() {
        if !is_root() {
            return;
        }
        let cases: &[&[Row<'_>]] = &[
            &[(T::Regular, "../escaped", "", b"x")],
            &[(T::Regular, "a/../../escaped", "", b"x")],
            &[(T::Link, "passwd", "../../etc/passwd", b"")],
            &[(T::Link, "passwd", "etc/passwd", b"")],
            &[(T::Regular, ".wh...", "", b""), (T::Regular, ".wh.", "", b"")],
            &[(T::new(b'?'), "odd", "", b"")],
        ];
        for rows in cases {
            let dir = Scratch::new();
            let result = run(&dir.0, rows);
            assert!(matches!(result, Err(UnpackError::Refused(_))), "{:?}: {result:?}", rows[0].1);
        }
    }

    #[test]
    fn fault_a_link_to_the_node_leads_to_the_inside_of_the_layer() {
        if !is_root() {
            return;
        }
        let dir = Scratch::new();
        let outside = Scratch::new();
        let target = outside.0.to_string_lossy().into_owned();
        let inside = format!("{}/", target.trim_start_matches('/'));
        let rows: &[Row<'_>] = &[
            (T::Directory, &inside, "", b""),
            (T::Symlink, "evil", &target, b""),
            (T::Regular, "evil/file", "", b"x"),
            (T::Symlink, "up", "../../../../../..", b""),
            (T::Regular, "up/other", "", b"y"),
        ];
        run(&dir.0, rows).expect("unpacks inside");
        assert_eq!(std::fs::read_dir(&outside.0).expect("outside").count(), 0);
        assert!(dir.0.join(inside).join("file").exists());
        assert!(dir.0.join("other").exists());
        assert!(!Path::new("/other").exists());
    }

    #[test]
    fn fault_device_nodes_are_left_out() {
        if !is_root() {
            return;
        }
        let dir = Scratch::new();
        run(&dir.0, &[(T::Char, "dev/sda", "", b""), (T::Block, "disk", "", b"")]).expect("unpacks");
        assert!(!dir.0.join("dev/sda").exists() && !dir.0.join("disk").exists());
    }

    #[test]
    fn fault_an_archive_over_the_limits_is_refused() {
        if !is_root() {
            return;
        }
        let dir = Scratch::new();
        let root = File::open(&dir.0).expect("open");
        let limits = ImageLimits { layer_bytes_max: 10, layer_files_max: 2, ..ImageLimits::default() };
        let big = archive(&[(T::Regular, "a", "", &[0; 11])]);
        let many = archive(&[(T::Regular, "a", "", b""), (T::Regular, "b", "", b""), (T::Regular, "c", "", b"")]);
        for bytes in [big, many] {
            let result = unpack(&mut &bytes[..], root.as_fd(), &limits);
            assert!(matches!(result, Err(UnpackError::TooLarge(_))), "{result:?}");
        }
    }

    #[test]
    fn fault_garbage_and_cut_archives_are_refused() {
        if !is_root() {
            return;
        }
        let dir = Scratch::new();
        let root = File::open(&dir.0).expect("open");
        let whole = archive(&[(T::Regular, "a", "", &[7; 3000])]);
        for bytes in [&[1u8; 4096][..], &whole[..600], &whole[..100]] {
            let result = unpack(&mut &bytes[..], root.as_fd(), &ImageLimits::default());
            assert!(matches!(result, Err(UnpackError::Refused(_))), "{result:?}");
        }
    }
}
