//! Mounts that the daemon itself makes below a pod's directory: tmpfs for emptyDir, and stable handles for subPaths.
//!
//! A subPath is resolved once, beneath its volume, with the kernel refusing to leave it (openat2), and what was found is bound to a path
//! of ours: whatever a container does to its volume later cannot redirect the mount. Invariant: every mount made here has a target
//! below a pod's directory, and [`unmount_below`] finds it in the mount table.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use super::atomic::check_relative;
use crate::error::{Error, Result, Step};
use crate::file;

/// Mounts a tmpfs.
pub fn tmpfs(target: &Path, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).step(|| format!("mounting a tmpfs on {}", target.display()))
}

/// Mounts a file system of huge pages; `size` as `2Mi`, empty: the machine's default size.
pub fn huge_pages(target: &Path, size: &str) -> Result<()> {
    let bad = || Error::invalid("emptyDir medium", format!("{size:?} is not the size of a huge page"));
    let bytes = match size {
        "" => None,
        text => {
            let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
            Some(crate::quantity::units(&quantity).filter(|bytes| *bytes > 0).ok_or_else(bad)?)
        }
    };
    let options = bytes.map_or("mode=0777".to_owned(), |bytes| format!("mode=0777,pagesize={bytes}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("hugetlbfs"), target, Some("hugetlbfs"), flags, Some(options.as_str()))
        .step(|| format!("mounting huge pages on {}", target.display()))
}

/// Binds `volume/sub_path` to `handle` and returns `handle`. A path that is missing becomes a directory.
pub fn bind_sub_path(volume: &Path, sub_path: &str, handle: &Path) -> Result<PathBuf> {
    check_relative(sub_path)?;
    let root = open_path(volume)?;
    let found = match resolve(&root, sub_path) {
        Err(Errno::ENOENT) => {
            make_beneath(&root, sub_path)?;
            resolve(&root, sub_path)
        }
        other => other,
    };
    let found = found.map_err(|errno| match errno {
        Errno::EXDEV | Errno::ELOOP => Error::UnsafePath(sub_path.to_owned()),
        other => Error::io(format!("opening subPath {sub_path:?}"), other),
    })?;
    unmount(handle);
    let through = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let is_dir = std::fs::metadata(&through).step(|| format!("looking at subPath {sub_path:?}"))?.is_dir();
    if let Some(parent) = handle.parent() {
        file::make_dir(parent, 0o700)?;
    }
    if is_dir {
        file::make_dir(handle, 0o700)?;
    } else if !handle.exists() {
        std::fs::File::create(handle).step(|| format!("making {}", handle.display()))?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&through), handle, None::<&str>, flags, None::<&str>).step(|| format!("binding subPath {sub_path:?}"))?;
    Ok(handle.to_owned())
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(|| format!("opening {}", path.display()))
}

fn resolve(root: &OwnedFd, sub_path: &str) -> Result<OwnedFd, Errno> {
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, sub_path, how)
}

/// Makes the missing directories of a path, one name at a time, never through a symlink that leaves. They get the volume's own mode.
fn make_beneath(root: &OwnedFd, sub_path: &str) -> Result<()> {
    let through = |found: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let mode = std::fs::metadata(through(root)).step(|| "looking at a volume".into())?.permissions();
    let mut done = String::new();
    for part in sub_path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let parent = if done.is_empty() { ".".to_owned() } else { done.clone() };
        let parent = resolve(root, &parent).step(|| format!("opening {parent:?} of a volume"))?;
        match mkdirat(&parent, part, Mode::from_bits_truncate(0o777)) {
            Ok(()) => {
                let made = resolve(&parent, part).step(|| format!("opening {part:?} of a volume"))?;
                std::fs::set_permissions(through(&made), mode.clone()).step(|| format!("setting the mode of {part:?} of a volume"))?;
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Error::io(format!("making subPath {sub_path:?}"), errno)),
        }
        if !done.is_empty() {
            done.push('/');
        }
        done.push_str(part);
    }
    Ok(())
}

/// Unmounts whatever is mounted at a path.
pub fn unmount(path: &Path) {
    while umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
}

/// Whether something is mounted exactly here.
pub fn is_mounted(path: &Path) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").step(|| "reading the mount table".into())?;
    Ok(targets_below(&table, path).iter().any(|target| target == path))
}

/// Unmounts everything at or below a directory, deepest first.
pub fn unmount_below(directory: &Path) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").step(|| "reading the mount table".into())?;
    for target in targets_below(&table, directory).into_iter().rev() {
        umount2(&target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).step(|| format!("unmounting {}", target.display()))?;
    }
    Ok(())
}

fn targets_below(table: &str, directory: &Path) -> Vec<PathBuf> {
    let target = |line: &str| line.split(' ').nth(4).map(unescape).filter(|t| t.starts_with(directory));
    table.lines().filter_map(target).collect()
}

/// The mount table writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| bytes.get(at + 1..at + 4)).flatten().and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = "1 2 0:1 / /a/b rw - x x rw\n1 2 0:1 / /a/b/c\\040d rw - x x rw\n1 2 0:1 / /a/bc rw - x x rw\n";
        assert_eq!(targets_below(table, Path::new("/a/b")), [PathBuf::from("/a/b"), PathBuf::from("/a/b/c d")]);
    }

    #[test]
    fn a_sub_path_that_leads_outside_is_refused() {
        let dir = TestDir::new("subpath");
        std::os::unix::fs::symlink("/etc", dir.0.join("out")).expect("a link");
        std::os::unix::fs::symlink("../..", dir.0.join("up")).expect("a link");
        for bad in ["out", "up/x", "out/passwd", "../x", "/etc"] {
            let result = bind_sub_path(&dir.0, bad, &dir.0.join("handle"));
            assert!(result.is_err(), "{bad}");
            assert!(!dir.0.join("handle").exists(), "{bad}");
        }
    }

    #[test]
    fn a_sub_path_is_bound_and_found_again_for_cleaning_up() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: needs root to mount");
        }
        let dir = TestDir::new("subpath-bind");
        let (volume, handle) = (dir.0.join("volume"), dir.0.join("handles/0"));
        std::fs::create_dir_all(&volume).expect("made");
        bind_sub_path(&volume, "a/b", &handle).expect("bound");
        std::fs::write(handle.join("file"), "x").expect("written");
        assert_eq!(std::fs::read_to_string(volume.join("a/b/file")).expect("read"), "x");
        unmount_below(&dir.0).expect("unmounted");
        assert!(!handle.join("file").exists());
    }
}
