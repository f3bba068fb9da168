//! System calls without safe wrappers: clone3, the descriptor-based mount API, openat2, pidfds, capabilities, seccomp.
//!
//! Thin on purpose: one function a call, `io::Result`, owned descriptors, no policy. Invariant: every descriptor made
//! here is close-on-exec.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
/// libc's constant of this name does not hold the value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const AT_RECURSIVE: libc::c_int = 0x8000;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// Which part of a mount tree an operation covers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tree {
    One,
    All,
}

/// What clone3 made of the caller.
pub(crate) enum Cloned {
    /// In the parent.
    Parent { pid: i32, pidfd: OwnedFd },
    /// In the child.
    Child,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn cstring(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "contains a NUL byte"))
}

/// Sets the SELinux label of what `path` leads to.
pub(crate) fn set_label(path: &str, label: &str) -> io::Result<()> {
    let path = cstring(path)?;
    // SAFETY: both strings are NUL-terminated, and the value's pointer and length belong together.
    check(libc::c_long::from(unsafe {
        libc::setxattr(path.as_ptr(), c"security.selinux".as_ptr(), label.as_ptr().cast(), label.len(), 0)
    }))?;
    Ok(())
}

pub(crate) fn cpath(path: &Path) -> io::Result<CString> {
    cstring(path.as_os_str().as_bytes())
}

/// Hexadecimal digits of `bytes` bytes of kernel randomness.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0u8; bytes];
    let mut done = 0;
    while done < bytes {
        // SAFETY: the pointer and the length describe the unfilled rest of `buffer`.
        let n = unsafe { libc::getrandom(buffer.as_mut_ptr().add(done).cast(), bytes - done, 0) };
        if n > 0 {
            done += n.unsigned_abs();
        }
    }
    buffer.iter().map(|b| format!("{b:02x}")).collect()
}

/// openat2 with `resolve` flags; `path` relative to `dir`.
pub(crate) fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32, resolve: u64) -> io::Result<OwnedFd> {
    // SAFETY: open_how is plain old data for which all zeroes is a valid value.
    let mut how: libc::open_how = unsafe { zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    // A rename elsewhere may race with the resolution; the kernel then asks to try again.
    for _ in 0..64 {
        // SAFETY: path is NUL-terminated, how outlives the call and its true size is passed.
        let result =
            unsafe { libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<libc::open_how>()) };
        match owned(result) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// clone3 with fork's semantics plus `flags`; the child starts in `cgroup` (v2 directory) when given.
///
/// # Safety
/// The calling process must be single-threaded: the child goes on with a copy of this address space.
pub(crate) unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        // With CLONE_PARENT the kernel wants none: the child takes its sibling's.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..CloneArgs::default()
    };
    let mut size = 64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
        size = size_of::<CloneArgs>();
    }
    // SAFETY: args describes itself with a size the kernel knows; stack 0 means fork semantics, which the caller's
    // promise of a single thread makes sound.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size) };
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: CLONE_PIDFD made the kernel store a fresh descriptor here.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// A file system context being configured; see fsopen(2).
pub(crate) struct FsContext(OwnedFd);

impl FsContext {
    pub(crate) fn open(kind: &CStr) -> io::Result<Self> {
        // SAFETY: kind is NUL-terminated.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    pub(crate) fn set(&self, key: &CStr, value: &str) -> io::Result<()> {
        let value = cstring(value)?;
        // SAFETY: both strings are NUL-terminated and outlive the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0) })?;
        Ok(())
    }

    pub(crate) fn flag(&self, key: &CStr) -> io::Result<()> {
        // SAFETY: key is NUL-terminated; a flag has no value.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), FSCONFIG_SET_FLAG, key.as_ptr(), 0usize, 0) })?;
        Ok(())
    }

    /// The configured file system as a mount that is attached nowhere yet.
    pub(crate) fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        // SAFETY: no pointers but null ones.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), FSCONFIG_CMD_CREATE, 0usize, 0usize, 0) })
            .map_err(|e| self.explain(e))?;
        // SAFETY: no pointers.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    /// The kernel leaves a sentence in the context for some failures.
    fn explain(&self, error: io::Error) -> io::Error {
        let mut text = [0u8; 512];
        match nix::unistd::read(&self.0, &mut text) {
            Ok(n) if n > 0 => {
                let line = String::from_utf8_lossy(&text[..n]).trim().to_owned();
                io::Error::new(error.kind(), format!("{error} ({line})"))
            }
            _ => error,
        }
    }
}

/// A detached copy of the mount (tree) at `dir`/`path`; an empty path means `dir` itself.
pub(crate) fn open_tree_clone(dir: BorrowedFd<'_>, path: &CStr, tree: Tree) -> io::Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    }
    if tree == Tree::All {
        flags |= AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: path is NUL-terminated.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches the mount `mount` on the directory or file `target`.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are empty NUL-terminated strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Changes attributes or propagation (0: leave) of the mount at `fd`.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, tree: Tree, set: u64, clear: u64, propagation: u64) -> io::Result<()> {
    set_mount(fd, tree, &MountAttr { set, clear, propagation, userns: 0 })
}

/// Shows the detached mount at `fd` with the ids of a user namespace.
pub(crate) fn idmap(fd: BorrowedFd<'_>, tree: Tree, users: BorrowedFd<'_>) -> io::Result<()> {
    let userns = users.as_raw_fd() as u64;
    set_mount(fd, tree, &MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns })
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn set_mount(fd: BorrowedFd<'_>, tree: Tree, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if tree == Tree::All { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty, attr outlives the call and its true size is passed.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, std::ptr::from_ref(attr), size_of::<MountAttr>())
    })?;
    Ok(())
}

/// Whether this process and this kernel have what the runtime needs; the newest call of all tells.
pub(crate) fn check_machine() -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "root is needed"));
    }
    match mount_setattr(nix::fcntl::AT_FDCWD, Tree::One, 0, 0, 0) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel lacks mount_setattr: 5.12 or later is needed"))
        }
        _ => Ok(()),
    }
}

/// pivot_root(".", "."): the old root ends up mounted over the new one, at ".".
pub(crate) fn pivot_root_here() -> io::Result<()> {
    // SAFETY: constant NUL-terminated paths.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    Ok(())
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers. The kernel makes pidfds close-on-exec.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the siginfo pointer may be null.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) })?;
    Ok(())
}

/// Whether the process has ended, be it still a zombie: then its pidfd is readable.
pub(crate) fn pidfd_ended(pidfd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The wait status of an ended process that is not our child. Linux 6.15 and later; `None` before or when unknown.
pub(crate) fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    #[repr(C)]
    struct PidfdInfo {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const REQUEST: libc::c_ulong = (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xFF << 8) | 11;
    // SAFETY: PidfdInfo is plain old data for which all zeroes is a valid value.
    let mut info: PidfdInfo = unsafe { zeroed() };
    info.mask = PIDFD_INFO_EXIT;
    // SAFETY: the request number carries the size of info, which outlives the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), REQUEST, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

pub(crate) fn setns(fd: BorrowedFd<'_>, kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::setns(fd.as_raw_fd(), kinds) }))?;
    Ok(())
}

pub(crate) fn unshare(kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::unshare(kinds) }))?;
    Ok(())
}

/// Marks every descriptor from `first` up close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: no pointers; only a flag changes.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// prctl with integer arguments.
pub(crate) fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<libc::c_int> {
    // SAFETY: used with options whose arguments are integers only.
    let result = unsafe { libc::prctl(option, a, b, 0, 0) };
    check(libc::c_long::from(result)).map(|r| r as libc::c_int)
}

/// Sets the effective, permitted and inheritable sets of the calling thread.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes exactly two data elements; both structures outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

/// Leaves the session keyring that was inherited. Best effort: a kernel without keyrings has nothing to leak.
pub(crate) fn fresh_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name means an anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) };
}

/// Loads a seccomp program without touching no_new_privs (the caller needs it set, or CAP_SYS_ADMIN).
pub(crate) fn seccomp_load(program: &[seccompiler::sock_filter]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const seccompiler::sock_filter,
    }
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let fprog = Program { len, filter: program.as_ptr() };
    // SAFETY: fprog points to `len` instructions that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const fprog) })?;
    Ok(())
}

/// The peer (slave) of a pseudo-terminal master, opened without any path.
pub(crate) fn pty_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(libc::c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }))?;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    owned(libc::c_long::from(fd))
}

/// Makes a terminal the controlling terminal of this session leader.
pub(crate) fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }))?;
    Ok(())
}

/// Sets a terminal's size in characters.
pub(crate) fn set_terminal_size(fd: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }))?;
    Ok(())
}

/// Brings `lo` of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain old data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }))?;
    Ok(())
}

/// Whether `fd` lies on a file system of the given magic number.
pub(crate) fn on_file_system(fd: impl AsFd, magic: i64) -> io::Result<bool> {
    // SAFETY: statfs is plain old data for which all zeroes is a valid value.
    let mut stat: libc::statfs = unsafe { zeroed() };
    // SAFETY: the structure outlives the call.
    check(libc::c_long::from(unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), &raw mut stat) }))?;
    #[allow(clippy::unnecessary_cast)]
    Ok(stat.f_type as i64 == magic)
}

/// Writes the file system that `fd` lies on through to the disk.
pub(crate) fn sync_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::syncfs(fd.as_raw_fd()) }))?;
    Ok(())
}

/// A sealed in-memory copy of `program`, to be executed by descriptor (nobody can write to it through /proc).
pub(crate) fn sealed_copy(program: &std::fs::File) -> io::Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let copy = memfd_create(c"pintle-helper", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let length = program.metadata()?.len();
    let mut left = length;
    while left > 0 {
        // SAFETY: null offsets mean the files' own positions.
        let n = unsafe { libc::sendfile(copy.as_raw_fd(), program.as_raw_fd(), std::ptr::null_mut(), left.min(1 << 30) as usize) };
        match check(n as libc::c_long)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n as u64,
        }
    }
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: F_ADD_SEALS takes an integer.
    check(libc::c_long::from(unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_ADD_SEALS, seals) }))?;
    Ok(copy)
}

/// The number of threads of this process.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// A descriptor under tokio's watch.
pub(crate) fn watched(fd: OwnedFd, interest: tokio::io::Interest) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped, which AsyncFd does after deregistering.
    unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
