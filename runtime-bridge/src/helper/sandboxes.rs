//! The namespaces of sandboxes: made by the helper stepping into new ones and back, pinned by bind mounts on a tmpfs.
//!
//! No process holds a sandbox's namespaces open (except the init of a shared PID namespace, which the kernel demands);
//! the pins do, so they survive helper and daemon. Invariant: whatever happens, the helper ends up in its own
//! namespaces again, or it aborts: a helper that serves from within a pod's namespace would be an escape.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::protocol::Refusal;
use super::users::{Holder, Users};
use crate::cgroup::{Entry, Hierarchies};
use crate::spec::{NetNs, Resources, SandboxId, Scope};
use crate::state::{Layout, SandboxRecord, boot_id, read_json, write_json};
use crate::sys::{self, Cloned};

const SHM_BYTES: u64 = 64 << 20;

/// Namespace kinds that a sandbox pins: file name and clone flag.
pub(crate) const PINNED: &[(&str, libc::c_int)] = &[("net", libc::CLONE_NEWNET), ("ipc", libc::CLONE_NEWIPC), ("uts", libc::CLONE_NEWUTS)];

/// The helper's own namespaces, to come back to.
pub(crate) struct Home {
    kinds: Vec<(File, libc::c_int)>,
    pid: File,
}

/// A sandbox's namespaces.
pub(crate) struct Namespaces {
    pub(crate) record: SandboxRecord,
    /// Kinds that the sandbox has of its own.
    pub(crate) own: Vec<(OwnedFd, libc::c_int)>,
    /// The user namespace that those belong to, if it is not the node's.
    pub(crate) users: Option<Users>,
    /// Init of the shared PID namespace.
    init: Option<PodInit>,
}

/// The process that the kernel wants at the root of a PID namespace.
struct PodInit {
    pidfd: OwnedFd,
}

impl Home {
    pub(crate) fn open() -> io::Result<Self> {
        let kinds =
            PINNED.iter().map(|(name, kind)| Ok((File::open(format!("/proc/self/ns/{name}"))?, *kind))).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { kinds, pid: File::open("/proc/self/ns/pid")? })
    }

    fn come_back(&self, kinds: libc::c_int) {
        for (file, kind) in self.kinds.iter().filter(|(_, kind)| kinds & kind != 0) {
            if sys::setns(file.as_fd(), *kind).is_err() {
                std::process::abort();
            }
        }
    }

    /// Runs `clone` with children going to the PID namespace of `target`. The child returns from here in that namespace.
    pub(crate) fn clone_in_pid_namespace(&self, target: &OwnedFd, clone: impl FnOnce() -> io::Result<Cloned>) -> io::Result<Cloned> {
        sys::setns(target.as_fd(), libc::CLONE_NEWPID)?;
        let cloned = clone();
        if !matches!(cloned, Ok(Cloned::Child)) {
            self.take_children_home();
        }
        cloned
    }

    /// Children go to our own PID namespace again.
    fn take_children_home(&self) {
        if sys::setns(self.pid.as_fd(), libc::CLONE_NEWPID).is_err() {
            std::process::abort();
        }
    }

    /// Whether the PID namespace of `target` can be joined through it. A process lets go of its namespaces while it exits: before
    /// those that end with it are seen to end, and long before itself.
    fn can_join(&self, target: &OwnedFd) -> bool {
        let joined = sys::setns(target.as_fd(), libc::CLONE_NEWPID).is_ok();
        if joined {
            self.take_children_home();
        }
        joined
    }
}

impl Namespaces {
    /// Makes what `record` asks for.
    pub(crate) fn create(
        home: &Home,
        layout: &Layout,
        hierarchies: &Hierarchies,
        id: &SandboxId,
        record: SandboxRecord,
    ) -> Result<Self, Refusal> {
        let pins = layout.pins(id);
        mount_pins(&record, &pins).map_err(|e| Refusal::os("mount pin directory", e))?;
        let wanted = own_kinds(&record);
        let holder = record.spec.user_namespace.map(|range| Holder::start(range, wanted).map(|holder| (holder, range))).transpose()?;
        match &holder {
            None => sys::unshare(wanted).map_err(|e| Refusal::os("unshare", e))?,
            Some((holder, _)) => step_into(home, holder, wanted).map_err(|e| Refusal::os("enter namespaces", e))?,
        }
        let made = set_up(&record, &pins, wanted);
        home.come_back(wanted);
        let mut own = made?;
        let pinned = holder.map(|(holder, range)| holder.pin(&pins, range)).transpose();
        let users = pinned.map_err(|e| Refusal::os("pin user namespace", e))?;
        if let NetNs::Path(path) = &record.spec.netns {
            let file = File::open(path).map_err(|e| Refusal::os(format!("open {}", path.display()), e))?;
            own.push((file.into(), libc::CLONE_NEWNET));
        }
        let init = match record.spec.pid {
            Some(Scope::Pod) => Some(start_pod_init(hierarchies, &record, &pins)?),
            _ => None,
        };
        Ok(Self { record, own, users, init })
    }

    /// Opens the pins that an earlier helper made.
    pub(crate) fn adopt(layout: &Layout, id: &SandboxId, record: SandboxRecord) -> io::Result<Self> {
        let pins = layout.pins(id);
        let mut own = Vec::new();
        let wanted = own_kinds(&record);
        for (name, kind) in PINNED.iter().filter(|(_, kind)| wanted & kind != 0) {
            own.push((File::open(pins.join(name))?.into(), *kind));
        }
        if let NetNs::Path(path) = &record.spec.netns {
            own.push((File::open(path)?.into(), libc::CLONE_NEWNET));
        }
        let init = match read_json::<(i32, u64)>(&pins.join("init.json")) {
            Ok(Some((pid, ticks))) => super::processes::same_process(pid, ticks).map(|pidfd| PodInit { pidfd }),
            _ => None,
        };
        let users = record.spec.user_namespace.map(|range| Users::open(&pins, range)).transpose()?;
        Ok(Self { record, own, users, init })
    }

    /// The init of the shared PID namespace. When it ends (it was killed from outside), its namespace and every process in it
    /// end too: then a new one is made, in which the pod's containers start again.
    pub(crate) fn living_init(
        &mut self,
        home: &Home,
        layout: &Layout,
        hierarchies: &Hierarchies,
        id: &SandboxId,
    ) -> Result<&OwnedFd, Refusal> {
        let living = self.init.take().filter(|init| home.can_join(&init.pidfd));
        let init = match living {
            Some(init) => init,
            None => start_pod_init(hierarchies, &self.record, &layout.pins(id))?,
        };
        Ok(&self.init.insert(init).pidfd)
    }

    /// Lets go of everything and unpins.
    pub(crate) fn remove(self, layout: &Layout, id: &SandboxId) -> io::Result<()> {
        if let Some(init) = &self.init {
            let _ = sys::pidfd_signal(init.pidfd.as_fd(), libc::SIGKILL);
        }
        drop(self.own);
        unpin(&layout.pins(id))
    }
}

/// Takes all pins of a sandbox down at once. The empty directory stays: removing a mount point waits for every mount
/// namespace that has a copy, and nobody needs to wait for that here.
pub(crate) fn unpin(pins: &Path) -> io::Result<()> {
    match umount2(pins, MntFlags::MNT_DETACH) {
        // Not a mount point any more, or never.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn own_kinds(record: &SandboxRecord) -> libc::c_int {
    let spec = &record.spec;
    let mut kinds = 0;
    if spec.netns == NetNs::New {
        kinds |= libc::CLONE_NEWNET;
    }
    if spec.ipc != Scope::Host {
        kinds |= libc::CLONE_NEWIPC;
    }
    if spec.uts != Scope::Host {
        kinds |= libc::CLONE_NEWUTS;
    }
    kinds
}

/// Steps into namespaces that another process has made: into all of them or none.
fn step_into(home: &Home, holder: &Holder, kinds: libc::c_int) -> io::Result<()> {
    let wanted = PINNED.iter().filter(|(_, kind)| kinds & kind != 0);
    let opened = wanted.map(|(name, kind)| Ok((holder.namespace(name)?, *kind))).collect::<io::Result<Vec<_>>>()?;
    opened.iter().try_for_each(|(namespace, kind)| sys::setns(namespace.as_fd(), *kind)).inspect_err(|_| home.come_back(kinds))
}

/// Runs inside the new namespaces: names, sysctls, loopback, pins.
fn set_up(record: &SandboxRecord, pins: &Path, kinds: libc::c_int) -> Result<Vec<(OwnedFd, libc::c_int)>, Refusal> {
    if let Some(hostname) = record.spec.hostname.as_ref().filter(|_| kinds & libc::CLONE_NEWUTS != 0) {
        nix::unistd::sethostname(hostname).map_err(|e| Refusal::os("sethostname", e))?;
    }
    if kinds & libc::CLONE_NEWNET != 0 {
        sys::loopback_up().map_err(|e| Refusal::os("bring lo up", e))?;
    }
    for (name, value) in &record.spec.sysctls {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::write(&file, value).map_err(|e| Refusal::os(format!("sysctl {name}"), e))?;
    }
    let mut own = Vec::new();
    for (name, kind) in PINNED.iter().filter(|(_, kind)| kinds & kind != 0) {
        let pin = pins.join(name);
        let source = format!("/proc/self/ns/{name}");
        File::create(&pin).map_err(|e| Refusal::os("make pin", e))?;
        mount(Some(source.as_str()), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| Refusal::os(format!("pin {name}"), e))?;
        own.push((File::open(source).map_err(|e| Refusal::os("open namespace", e))?.into(), *kind));
    }
    Ok(own)
}

/// One small tmpfs a sandbox holds its pins and its shared memory, so that one unmount removes them all.
fn mount_pins(record: &SandboxRecord, pins: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let options = format!("mode=700,size={}", record.spec.shm_bytes.unwrap_or(SHM_BYTES));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let attach = || {
        std::fs::create_dir_all(pins)?;
        Ok(mount(Some("pintle"), pins, Some("tmpfs"), flags, Some(options.as_str()))?)
    };
    match attach() {
        // The directory of an earlier sandbox of this id was just being removed.
        Err(e) if io::Error::kind(&e) == io::ErrorKind::NotFound => attach()?,
        other => other?,
    }
    if record.spec.ipc != Scope::Host {
        let shm = pins.join("shm");
        std::fs::create_dir(&shm)?;
        std::fs::set_permissions(&shm, std::fs::Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

fn start_pod_init(hierarchies: &Hierarchies, record: &SandboxRecord, pins: &Path) -> Result<PodInit, Refusal> {
    let group = format!("{}/init", record.cgroup);
    let entry = hierarchies.entry(&group, &Resources::default()).map_err(|e| Refusal::os("open cgroup", e))?;
    let directory = match &entry {
        Entry::Directory(fd) => Some(fd.as_fd()),
        Entry::Tasks(_) => None,
    };
    // SAFETY: the helper is single-threaded.
    match unsafe { sys::clone3(libc::CLONE_NEWPID as u64, directory) } {
        Err(e) => Err(Refusal::os("clone pod init", e)),
        Ok(Cloned::Child) => be_pod_init(&entry),
        Ok(Cloned::Parent { pid, pidfd }) => {
            let ticks = super::processes::start_ticks(pid).unwrap_or(0);
            write_json(&pins.join("init.json"), &(pid, ticks)).map_err(|e| Refusal::os("write pod init", e))?;
            Ok(PodInit { pidfd })
        }
    }
}

/// Reaps orphans of the pod until it is killed.
fn be_pod_init(entry: &Entry) -> ! {
    use std::io::Write;
    if let Entry::Tasks(files) = entry {
        for mut file in files {
            if file.write_all(b"0").is_err() {
                // The group is gone: the helper died, and the sandbox was removed meanwhile. Nobody would find this process.
                // SAFETY: ends this process without running the helper's exit handlers.
                unsafe { libc::_exit(1) }
            }
        }
    }
    let _ = nix::unistd::setsid();
    // SAFETY: this process uses none of the descriptors that it inherited.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    let mut child_ended = nix::sys::signal::SigSet::empty();
    child_ended.add(nix::sys::signal::Signal::SIGCHLD);
    let _ = child_ended.thread_block();
    loop {
        // SAFETY: a null status pointer is allowed.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        let _ = child_ended.wait();
    }
}

/// Reads a sandbox's file, if its namespaces can still exist.
pub(crate) fn record_of_this_boot(layout: &Layout, id: &SandboxId) -> Option<SandboxRecord> {
    read_json::<SandboxRecord>(&layout.sandbox(id)).ok().flatten().filter(|record| record.boot_id == boot_id())
}
