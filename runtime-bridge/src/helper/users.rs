//! User namespaces: a sandbox whose root is nobody on the node.
//!
//! A sandbox's user namespace is made first, and its network, IPC and UTS namespaces in it, so that its root has power over them and over nothing else.
//! A container is built by the node's root (only that may mount image layers), with files shown through *idmapped* mounts: what is written as the
//! container's root lies on the disk as root's, and no process of the node is meant by an id of the container. The last step before power is given up
//! enters the namespace.
//!
//! Invariant: between entering and the exec the process cannot be traced, and nothing of the node's root is left in its credentials but the id it leaves.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::identity::Identity;
use super::protocol::Refusal;
use crate::spec::IdRange;
use crate::sys::{self, Cloned, Tree};

/// Name of the namespace's pin.
const PIN: &str = "user";
/// Capabilities stay when the id that files are made with changes.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// A sandbox's user namespace.
pub(crate) struct Users {
    namespace: OwnedFd,
    range: IdRange,
}

/// A process that holds new namespaces until they are pinned.
pub(crate) struct Holder {
    pid: i32,
    pidfd: OwnedFd,
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its end is reaped with those of all other children.
        let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }
}

impl Holder {
    /// Makes a user namespace that maps `range`, and `kinds` of namespaces in it.
    pub(crate) fn start(range: IdRange, kinds: libc::c_int) -> Result<Self, Refusal> {
        let helper = nix::unistd::getpid();
        // SAFETY: the helper is single-threaded.
        let cloned = unsafe { sys::clone3((libc::CLONE_NEWUSER | kinds) as u64, None) };
        match cloned.map_err(|e| Refusal::os("make a user namespace", e))? {
            Cloned::Child => hold(helper),
            Cloned::Parent { pid, pidfd } => {
                let holder = Self { pid, pidfd };
                for file in ["uid_map", "gid_map"] {
                    let line = format!("0 {} {}\n", range.first, range.length);
                    std::fs::write(format!("/proc/{pid}/{file}"), line).map_err(|e| Refusal::os(format!("write {file}"), e))?;
                }
                Ok(holder)
            }
        }
    }

    /// One of its namespaces, by the name that /proc has for it.
    pub(crate) fn namespace(&self, name: &str) -> io::Result<OwnedFd> {
        File::open(format!("/proc/{}/ns/{name}", self.pid)).map(OwnedFd::from)
    }

    /// Pins the user namespace beside the others.
    pub(crate) fn pin(&self, pins: &Path, range: IdRange) -> io::Result<Users> {
        let pin = pins.join(PIN);
        File::create(&pin)?;
        let source = format!("/proc/{}/ns/user", self.pid);
        mount(Some(source.as_str()), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Users::open(pins, range)
    }
}

/// Waits to be killed, with nothing in its hands.
fn hold(helper: nix::unistd::Pid) -> ! {
    let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0);
    if nix::unistd::getppid() != helper {
        // It died before that was asked for.
        // SAFETY: ends this process without running the helper's exit handlers.
        unsafe { libc::_exit(1) }
    }
    // SAFETY: this process uses none of the descriptors that it inherited.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    loop {
        nix::unistd::pause();
    }
}

impl Users {
    /// Opens what was pinned.
    pub(crate) fn open(pins: &Path, range: IdRange) -> io::Result<Self> {
        Ok(Self { namespace: File::open(pins.join(PIN))?.into(), range })
    }

    /// The user namespace of a running process.
    pub(crate) fn of_process(pid: i32, range: IdRange) -> io::Result<Self> {
        Ok(Self { namespace: File::open(format!("/proc/{pid}/ns/user"))?.into(), range })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { namespace: self.namespace.try_clone()?, range: self.range })
    }

    /// An id of the namespace as the node knows it.
    pub(crate) fn outside(&self, id: u32) -> u32 {
        if id < self.range.length { self.range.first + id } else { u32::MAX - 1 }
    }

    /// Shows a detached mount with the ids of the namespace: what is root's on the disk is the namespace's root's.
    pub(crate) fn map(&self, mount: &OwnedFd, tree: Tree) -> io::Result<()> {
        sys::idmap(mount.as_fd(), tree, self.namespace.as_fd()).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL | libc::EPERM) => {
                io::Error::new(io::ErrorKind::Unsupported, "this file system cannot be shown in a user namespace (no idmapped mounts)")
            }
            _ => e,
        })
    }

    /// Shows a directory of the node so from now on, at its own place, in this mount namespace only.
    pub(crate) fn map_in_place(&self, directory: &Path) -> io::Result<()> {
        let path = sys::cpath(directory)?;
        let tree = sys::open_tree_clone(nix::fcntl::AT_FDCWD, &path, Tree::One)?;
        self.map(&tree, Tree::One)?;
        let target = sys::openat2(nix::fcntl::AT_FDCWD, &path, libc::O_PATH | libc::O_DIRECTORY, 0, 0)?;
        sys::move_mount(tree.as_fd(), target.as_fd())
    }

    /// What this process makes in file systems from now on belongs to the namespace's root. Its capabilities stay.
    pub(crate) fn make_as_root(&self) -> io::Result<()> {
        sys::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0)?;
        setfsgid(Gid::from_raw(self.outside(0)));
        setfsuid(Uid::from_raw(self.outside(0)));
        Ok(())
    }

    /// Who `identity` is on the node.
    pub(crate) fn identity_outside(&self, identity: &Identity) -> Identity {
        Identity { uid: self.outside(identity.uid), gid: self.outside(identity.gid), ..identity.clone() }
    }

    /// Enters the namespace: from here on this process is the node's nobody, with all capabilities inside.
    pub(crate) fn enter(&self) -> io::Result<()> {
        sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
        sys::setns(self.namespace.as_fd(), libc::CLONE_NEWUSER)
    }
}
