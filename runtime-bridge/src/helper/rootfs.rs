//! A container's file system: overlay root, kernel file systems, volumes, masks.
//!
//! Runs in the child, before `pivot_root`, inside the container's own mount namespace: nothing here is ever mounted in
//! the node's, so nothing can be left behind there. Every target is a descriptor that openat2 resolved inside the new
//! root; kernel file systems are made by fsopen, detached, and filled before they are attached, so a link in an image
//! (`/dev -> /etc`) can only ever lead to another place inside the image.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::identity::Identity;
use super::init::Failure;
use super::users::Users;
use crate::error::StartFailure;
use crate::spec::{Device, Mount, MountSource, Propagation};
use crate::sys::{self, FsContext, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, Tree};

const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
const LINKS_MAX: usize = 40;
/// Shared memory of a container that has its own and does not say how much.
const SHM_BYTES: u64 = 64 << 20;
const KERNEL_FS: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/// Paths that tell or change too much of the node; hidden.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that may be read only.
pub const READ_ONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices every container has: name, major, minor.
const NODES: &[(&CStr, u64, u64)] =
    &[(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];
const LINKS: &[(&CStr, &CStr)] = &[
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"/proc/kcore", c"core"),
    (c"pts/ptmx", c"ptmx"),
];

/// What is at the bottom of the root.
pub(crate) enum Base {
    /// An image's layers, with a writable one on top.
    Overlay {
        /// Where to mount the root: an empty directory of the run directory.
        mount_point: PathBuf,
        /// The layer directory; `lower` is relative to it.
        layers: PathBuf,
        /// Uppermost first.
        lower: Vec<String>,
        /// Holds `upper` and `work`.
        container_dir: PathBuf,
    },
    /// A directory that somebody else has prepared.
    Directory(PathBuf),
}

/// Everything that the root is built from.
pub(crate) struct RootPlan {
    pub(crate) base: Base,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    /// The pod's shared memory directory; none: one of its own, of at most so many bytes.
    pub(crate) shm: Option<PathBuf>,
    pub(crate) shm_bytes: Option<u64>,
    /// Name and directory of each cgroup hierarchy to show; an empty name means cgroup v2.
    pub(crate) cgroups: Vec<(String, PathBuf)>,
    pub(crate) privileged: bool,
    pub(crate) read_only: bool,
    pub(crate) masked: Option<Vec<String>>,
    pub(crate) read_only_paths: Option<Vec<String>>,
    /// SELinux label of the files that are made for the container.
    pub(crate) label: Option<String>,
}

/// A root that is built but not yet entered.
pub(crate) struct Root {
    pub(crate) dir: OwnedFd,
    pub(crate) devpts: OwnedFd,
    dev: OwnedFd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// Builds the root; see the module's description for the order.
pub(crate) fn build(plan: &RootPlan, users: Option<&Users>) -> Result<Root, Failure> {
    let sources = plan.mounts.iter().map(|mount| open_source(plan, mount, users)).collect::<Result<Vec<_>, _>>()?;
    let shm = match &plan.shm {
        Some(shm) => clone_tree(shm, Tree::One),
        None => fresh_shm(plan),
    };
    let shm = shm.map_err(Failure::mount("/dev/shm"))?;
    let cgroups = open_cgroups(plan)?;
    let null = open_null()?;
    let nodes = if plan.privileged { host_nodes(Path::new("/dev")) } else { Vec::new() };
    // From here on what happens in this namespace stays in it; what the node unmounts still leaves.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>).map_err(Failure::mount("/ as slave"))?;
    if let Some(users) = users {
        map_base(plan, users)?;
        users.make_as_root().map_err(Failure::step("user namespace"))?;
    }
    let point = mount_base(plan)?;
    let dir: OwnedFd = nix::fcntl::open(
        point,
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(Failure::mount("root"))?;
    let root = dir.as_fd();
    attach_proc(root)?;
    attach_sys(plan, root, cgroups)?;
    let (dev, devpts) = attach_dev(plan, root, shm, &nodes, users)?;
    for (mount, source) in plan.mounts.iter().zip(sources) {
        attach_volume(root, mount, source)?;
    }
    if !plan.privileged || plan.masked.is_some() {
        mask(root, plan.masked.as_deref(), &null)?;
    }
    if !plan.privileged || plan.read_only_paths.is_some() {
        make_read_only(root, plan.read_only_paths.as_deref())?;
    }
    Ok(Root { dir, devpts, dev })
}

/// Enters the root and lets go of the node's.
pub(crate) fn pivot(plan: &RootPlan, root: Root) -> Result<(), Failure> {
    if plan.read_only {
        sys::mount_setattr(root.dir.as_fd(), Tree::One, MOUNT_ATTR_RDONLY, 0, 0).map_err(Failure::mount("root read-only"))?;
    }
    nix::unistd::fchdir(&root.dir).map_err(Failure::step("enter root"))?;
    drop(root);
    sys::pivot_root_here().map_err(Failure::step("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Failure::step("detach old root"))?;
    nix::unistd::chdir("/").map_err(Failure::step("chdir /"))
}

/// The working directory as a descriptor, made if missing (owned by the user then).
pub(crate) fn working_directory(root: BorrowedFd<'_>, path: &str, identity: &Identity) -> Result<OwnedFd, Failure> {
    let refused = |e: io::Error| Failure::new(StartFailure::WorkingDirectory, format!("working directory {path}: {e}"));
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let name = relative(path).map_err(refused)?;
    match sys::openat2(root, &name, flags, 0, IN_ROOT) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = make(root, path, Kind::Directory, LINKS_MAX).map_err(refused)?;
            let (uid, gid) = (nix::unistd::Uid::from_raw(identity.uid), nix::unistd::Gid::from_raw(identity.gid));
            nix::unistd::fchownat(&made, "", Some(uid), Some(gid), nix::fcntl::AtFlags::AT_EMPTY_PATH).map_err(|e| refused(e.into()))?;
            Ok(made)
        }
        other => other.map_err(refused),
    }
}

/// Shows the container's terminal as /dev/console, by descriptor.
pub(crate) fn bind_console(root: &Root, slave: &OwnedFd) -> Result<(), Failure> {
    let what = "/dev/console";
    let target = make(root.dev.as_fd(), "console", Kind::File, 0).map_err(Failure::mount(what))?;
    let tree = sys::open_tree_clone(slave.as_fd(), c"", Tree::One).map_err(Failure::mount(what))?;
    sys::move_mount(tree.as_fd(), target.as_fd()).map_err(Failure::mount(what))
}

/// A path's components under the root; `..` may not occur in a spec's paths.
fn relative(path: &str) -> io::Result<CString> {
    let invalid = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why.to_owned()));
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return invalid("contains \"..\"");
    }
    if parts.is_empty() { sys::cstring(".") } else { sys::cstring(parts.join("/")) }
}

/// Opens `path` inside `root`, making what is missing: directories, and at the end `kind`.
fn make(root: BorrowedFd<'_>, path: &str, kind: Kind, links_left: usize) -> io::Result<OwnedFd> {
    let name = relative(path)?;
    match sys::openat2(root, &name, libc::O_PATH, 0, IN_ROOT) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let text = name.to_string_lossy().into_owned();
    let (parent_path, leaf) = text.rsplit_once('/').unwrap_or((".", &text));
    let parent = make(root, parent_path, Kind::Directory, links_left)?;
    let leaf = sys::cstring(leaf)?;
    let mode = nix::sys::stat::Mode::from_bits_truncate(if kind == Kind::Directory { 0o755 } else { 0o644 });
    let made = match kind {
        Kind::Directory => nix::sys::stat::mkdirat(&parent, leaf.as_c_str(), mode),
        Kind::File => nix::sys::stat::mknodat(&parent, leaf.as_c_str(), nix::sys::stat::SFlag::S_IFREG, mode, 0),
    };
    match made {
        Ok(()) => sys::openat2(root, &name, libc::O_PATH, 0, IN_ROOT),
        // The name is there and leads nowhere: a dangling link. Make what it points to, inside the root.
        Err(nix::errno::Errno::EEXIST) if links_left > 0 => {
            let target = nix::fcntl::readlinkat(&parent, leaf.as_c_str())?;
            let target = target.to_string_lossy().into_owned();
            let target = if target.starts_with('/') { target } else { format!("{parent_path}/{target}") };
            make(root, &target, kind, links_left - 1)
        }
        Err(e) => Err(e.into()),
    }
}

fn clone_tree(path: &Path, tree: Tree) -> io::Result<OwnedFd> {
    let path = sys::cpath(path)?;
    let here = nix::fcntl::AT_FDCWD;
    sys::open_tree_clone(here, &path, tree)
}

/// Mounts what is at the bottom; where, is the answer.
fn mount_base(plan: &RootPlan) -> Result<&Path, Failure> {
    let (mount_point, layers, lower, container_dir) = match &plan.base {
        Base::Overlay { mount_point, layers, lower, container_dir } => (mount_point, layers, lower, container_dir),
        Base::Directory(directory) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(directory), directory, None::<&str>, flags, None::<&str>).map_err(Failure::mount("root"))?;
            return Ok(directory);
        }
    };
    std::env::set_current_dir(layers).map_err(Failure::mount("overlay"))?;
    let container = container_dir.display();
    let lower = lower.join(":");
    // Volatile: a container's writable layer does not outlive a crash of the machine, so nothing needs syncing.
    let label = plan.label.as_ref().map(|label| format!(",context=\"{label}\"")).unwrap_or_default();
    let base = format!("lowerdir={lower},upperdir={container}/upper,workdir={container}/work{label}");
    let flags = if plan.privileged { MsFlags::empty() } else { MsFlags::MS_NODEV };
    let try_mount = |options: &str| mount(Some("overlay"), mount_point, Some("overlay"), flags, Some(options));
    match try_mount(&format!("{base},volatile")) {
        Err(nix::errno::Errno::EINVAL) => try_mount(&base),
        other => other,
    }
    .map_err(Failure::mount("overlay"))?;
    Ok(mount_point)
}

/// Layers and the writable one as the user namespace is to see them: overlayfs shows what is below it.
fn map_base(plan: &RootPlan, users: &Users) -> Result<(), Failure> {
    let map = |directory: &Path| users.map_in_place(directory).map_err(Failure::mount("image in a user namespace"));
    match &plan.base {
        Base::Overlay { layers, container_dir, .. } => map(layers).and_then(|()| map(container_dir)),
        Base::Directory(directory) => map(directory),
    }
}

/// A new file system whose files have the container's label.
fn labelled(plan: &RootPlan, kind: &CStr) -> io::Result<FsContext> {
    let context = FsContext::open(kind)?;
    if let Some(label) = &plan.label {
        context.set(c"context", label)?;
    }
    Ok(context)
}

fn fresh_shm(plan: &RootPlan) -> io::Result<OwnedFd> {
    let shm = labelled(plan, c"tmpfs")?;
    shm.set(c"mode", "1777")?;
    shm.set(c"size", &plan.shm_bytes.unwrap_or(SHM_BYTES).to_string())?;
    shm.mount(KERNEL_FS)
}

fn attach_proc(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let proc = FsContext::open(c"proc").and_then(|c| c.mount(KERNEL_FS)).map_err(Failure::mount("/proc"))?;
    attach_plainly(root, "/proc", &proc)
}

/// Attaches where the image itself has (or gets) a directory: an image that redirects /proc or /sys is refused.
fn attach_plainly(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<(), Failure> {
    let name = relative(path).map_err(Failure::mount(path))?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    match sys::openat2(root, &name, flags, 0, IN_ROOT | libc::RESOLVE_NO_SYMLINKS) {
        Ok(target) => sys::move_mount(mount.as_fd(), target.as_fd()).map_err(Failure::mount(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => attach(root, path, mount),
        Err(e) => Err(Failure::mount(path)(e)),
    }
}

fn attach(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<(), Failure> {
    let target = make(root, path, Kind::Directory, LINKS_MAX).map_err(Failure::mount(path))?;
    sys::move_mount(mount.as_fd(), target.as_fd()).map_err(Failure::mount(path))
}

fn attach_sys(plan: &RootPlan, root: BorrowedFd<'_>, cgroups: Vec<(String, OwnedFd)>) -> Result<(), Failure> {
    let read_only = if plan.privileged { 0 } else { MOUNT_ATTR_RDONLY };
    let sysfs = FsContext::open(c"sysfs").and_then(|c| c.mount(KERNEL_FS | read_only)).map_err(Failure::mount("/sys"))?;
    attach_plainly(root, "/sys", &sysfs)?;
    let what = "/sys/fs/cgroup";
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let Ok(target) = sys::openat2(sysfs.as_fd(), c"fs/cgroup", flags, 0, libc::RESOLVE_BENEATH) else {
        return Ok(());
    };
    if let [(name, unified)] = cgroups.as_slice()
        && name.is_empty()
    {
        return sys::move_mount(unified.as_fd(), target.as_fd()).map_err(Failure::mount(what));
    }
    let tmpfs = FsContext::open(c"tmpfs").map_err(Failure::mount(what))?;
    tmpfs.set(c"mode", "755").map_err(Failure::mount(what))?;
    let tmpfs = tmpfs.mount(KERNEL_FS).map_err(Failure::mount(what))?;
    sys::move_mount(tmpfs.as_fd(), target.as_fd()).map_err(Failure::mount(what))?;
    for (name, tree) in &cgroups {
        let point = make(tmpfs.as_fd(), name, Kind::Directory, 0).map_err(Failure::mount(what))?;
        sys::move_mount(tree.as_fd(), point.as_fd()).map_err(Failure::mount(what))?;
    }
    sys::mount_setattr(tmpfs.as_fd(), Tree::One, read_only, 0, 0).map_err(Failure::mount(what))
}

/// The container's own groups, as detached read-only mounts.
fn open_cgroups(plan: &RootPlan) -> Result<Vec<(String, OwnedFd)>, Failure> {
    let read_only = if plan.privileged { 0 } else { MOUNT_ATTR_RDONLY };
    let mut trees = Vec::new();
    for (name, path) in &plan.cgroups {
        let what = path.display().to_string();
        let tree = if name.is_empty() {
            // In the cgroup namespace, a fresh cgroup2 mount shows the container's group as its root.
            FsContext::open(c"cgroup2").and_then(|c| c.mount(KERNEL_FS | read_only)).map_err(Failure::mount(&what))?
        } else {
            let tree = clone_tree(path, Tree::One).map_err(Failure::mount(&what))?;
            sys::mount_setattr(tree.as_fd(), Tree::One, KERNEL_FS | read_only, 0, libc::MS_PRIVATE).map_err(Failure::mount(&what))?;
            tree
        };
        trees.push((name.clone(), tree));
    }
    Ok(trees)
}

fn attach_dev(
    plan: &RootPlan,
    root: BorrowedFd<'_>,
    shm: OwnedFd,
    host_nodes: &[HostNode],
    users: Option<&Users>,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let failed = |e: io::Error| Failure::mount("/dev")(e);
    let dev = labelled(plan, c"tmpfs").map_err(failed)?;
    dev.set(c"mode", "755").and_then(|()| dev.set(c"size", "65536k")).map_err(failed)?;
    let dev = dev.mount(MOUNT_ATTR_NOSUID).map_err(failed)?;
    fill_dev(dev.as_fd(), plan, host_nodes).map_err(failed)?;
    attach(root, "/dev", &dev)?;
    let pts = labelled(plan, c"devpts").map_err(failed)?;
    let tty_group = users.map_or(5, |users| users.outside(5)).to_string();
    for (key, value) in [(c"ptmxmode", "0666"), (c"mode", "0620"), (c"gid", tty_group.as_str())] {
        pts.set(key, value).map_err(failed)?;
    }
    let pts = pts.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC).map_err(failed)?;
    // One for each IPC namespace, and it is there already: a label of its own would be refused.
    let mqueue = FsContext::open(c"mqueue").and_then(|c| c.mount(KERNEL_FS)).map_err(failed)?;
    for (name, mount) in [("pts", &pts), ("shm", &shm), ("mqueue", &mqueue)] {
        let target = make(dev.as_fd(), name, Kind::Directory, 0).map_err(failed)?;
        sys::move_mount(mount.as_fd(), target.as_fd()).map_err(failed)?;
    }
    Ok((dev, pts))
}

fn fill_dev(dev: BorrowedFd<'_>, plan: &RootPlan, host_nodes: &[HostNode]) -> io::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
    for (name, major, minor) in NODES {
        mknodat(dev, *name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(*major, *minor))?;
    }
    for (target, name) in LINKS {
        nix::unistd::symlinkat(*target, dev, *name)?;
    }
    for directory in [c"pts", c"shm", c"mqueue"] {
        mkdirat(dev, directory, Mode::from_bits_truncate(0o755))?;
    }
    // A device of the node belongs to the node's root, whoever the root in here is.
    let make_node = |name: &CStr, node: &HostNode| {
        mknodat(dev, name, node.kind, Mode::from_bits_truncate(node.mode & 0o777), node.device)?;
        let (root, group) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
        nix::unistd::fchownat(dev, name, Some(root), Some(group), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
    };
    for node in host_nodes {
        make_node(&sys::cstring(&node.name)?, node)?;
    }
    for device in &plan.devices {
        let node = HostNode::of(&device.host_path, device.container_path.trim_start_matches("/dev/"))?;
        let name = relative(&node.name)?;
        if let Some((parent, _)) = node.name.rsplit_once('/') {
            make(dev, parent, Kind::Directory, 0)?;
        }
        make_node(&name, &node)?;
    }
    Ok(())
}

/// A device node of the node's /dev.
pub(crate) struct HostNode {
    name: String,
    kind: nix::sys::stat::SFlag,
    mode: u32,
    device: u64,
}

impl HostNode {
    fn of(path: &Path, name: &str) -> io::Result<Self> {
        let stat = nix::sys::stat::stat(path)?;
        let kind = nix::sys::stat::SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT);
        if !matches!(kind, nix::sys::stat::SFlag::S_IFCHR | nix::sys::stat::SFlag::S_IFBLK) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a device", path.display())));
        }
        Ok(Self { name: name.to_owned(), kind, mode: stat.st_mode, device: stat.st_rdev })
    }
}

/// The devices of the node that a privileged container gets besides its own.
fn host_nodes(directory: &Path) -> Vec<HostNode> {
    let own = |name: &str| NODES.iter().any(|n| n.0.to_bytes() == name.as_bytes()) || matches!(name, "console" | "ptmx");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            (!own(&name) && !entry.file_type().ok()?.is_symlink()).then(|| HostNode::of(&entry.path(), &name).ok())?
        })
        .collect()
}

/// The source of a volume as a detached mount, taken while the node's mounts are still peers of ours.
fn open_source(plan: &RootPlan, mount: &Mount, users: Option<&Users>) -> Result<OwnedFd, Failure> {
    let what = mount.target.as_str();
    let opened = match &mount.source {
        MountSource::Bind(path) => clone_tree(path, Tree::All)
            .map_err(|e| Failure::new(StartFailure::Mount, format!("mount {what}: source {}: {e}", path.display()))),
        MountSource::BindWithin { volume, path } => {
            let failed = |e: io::Error| Failure::new(StartFailure::Mount, format!("mount {what}: {path} in volume: {e}"));
            let volume = File::open(volume).map_err(failed)?;
            let name = relative(path).map_err(failed)?;
            let within = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
            let found = match sys::openat2(volume.as_fd(), &name, libc::O_PATH, 0, within) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => make(volume.as_fd(), path, Kind::Directory, 0).map_err(failed)?,
                other => other.map_err(failed)?,
            };
            sys::open_tree_clone(found.as_fd(), c"", Tree::All).map_err(failed)
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            let tmpfs = labelled(plan, c"tmpfs").map_err(Failure::mount(what))?;
            tmpfs.set(c"mode", &format!("{mode:o}")).map_err(Failure::mount(what))?;
            if let Some(size) = size_bytes {
                tmpfs.set(c"size", &size.to_string()).map_err(Failure::mount(what))?;
            }
            let root = users.map_or(0, |users| users.outside(0)).to_string();
            for owner in [c"uid", c"gid"] {
                tmpfs.set(owner, &root).map_err(Failure::mount(what))?;
            }
            return tmpfs.mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV).map_err(Failure::mount(what));
        }
    }?;
    if let Some(users) = users {
        users.map(&opened, Tree::All).map_err(Failure::mount(what))?;
    }
    Ok(opened)
}

fn attach_volume(root: BorrowedFd<'_>, mount: &Mount, source: OwnedFd) -> Result<(), Failure> {
    let what = mount.target.as_str();
    let failed = |e: io::Error| Failure::mount(what)(e);
    let propagation = match mount.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::FromHost => libc::MS_SLAVE,
        Propagation::Both => libc::MS_SHARED,
    };
    sys::mount_setattr(source.as_fd(), Tree::All, 0, 0, propagation).map_err(failed)?;
    let mut attributes = 0;
    if mount.no_exec {
        attributes |= MOUNT_ATTR_NOEXEC;
    }
    if mount.read_only {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    if attributes != 0 {
        let tree = if mount.recursive_read_only { Tree::All } else { Tree::One };
        sys::mount_setattr(source.as_fd(), tree, attributes, 0, 0).map_err(failed)?;
    }
    let stat = nix::sys::stat::fstat(&source).map_err(|e| failed(e.into()))?;
    let kind = if stat.st_mode & libc::S_IFMT == libc::S_IFDIR { Kind::Directory } else { Kind::File };
    let target = make(root, what, kind, LINKS_MAX).map_err(failed)?;
    sys::move_mount(source.as_fd(), target.as_fd()).map_err(failed)
}

/// The node's /dev/null, checked to be it.
fn open_null() -> Result<OwnedFd, Failure> {
    let null = File::open("/dev/null").map_err(Failure::step("open /dev/null"))?;
    let stat = nix::sys::stat::fstat(&null).map_err(Failure::step("stat /dev/null"))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != nix::sys::stat::makedev(1, 3) {
        return Err(Failure::new(StartFailure::Setup, "the node's /dev/null is not the null device".to_owned()));
    }
    Ok(null.into())
}

/// Hides paths: files behind the null device, directories behind an empty read-only tmpfs.
fn mask(root: BorrowedFd<'_>, paths: Option<&[String]>, null: &OwnedFd) -> Result<(), Failure> {
    let mut empty: Option<OwnedFd> = None;
    for path in list(paths, MASKED_PATHS) {
        let failed = |e: io::Error| Failure::mount(path)(e);
        let name = relative(path).map_err(failed)?;
        let target = match sys::openat2(root, &name, libc::O_PATH, 0, IN_ROOT) {
            Ok(target) => target,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => continue,
            Err(e) => return Err(failed(e)),
        };
        let stat = nix::sys::stat::fstat(&target).map_err(|e| failed(e.into()))?;
        let cover = if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            match &empty {
                Some(attached) => sys::open_tree_clone(attached.as_fd(), c"", Tree::One).map_err(failed)?,
                None => FsContext::open(c"tmpfs")
                    .and_then(|c| c.flag(c"ro").map(|()| c))
                    .and_then(|c| c.mount(KERNEL_FS | MOUNT_ATTR_RDONLY))
                    .map_err(failed)?,
            }
        } else {
            sys::open_tree_clone(null.as_fd(), c"", Tree::One).map_err(failed)?
        };
        sys::move_mount(cover.as_fd(), target.as_fd()).map_err(failed)?;
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            empty.get_or_insert(cover);
        }
    }
    Ok(())
}

fn make_read_only(root: BorrowedFd<'_>, paths: Option<&[String]>) -> Result<(), Failure> {
    for path in list(paths, READ_ONLY_PATHS) {
        let failed = |e: io::Error| Failure::mount(path)(e);
        let name = relative(path).map_err(failed)?;
        let target = match sys::openat2(root, &name, libc::O_PATH, 0, IN_ROOT) {
            Ok(target) => target,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => continue,
            Err(e) => return Err(failed(e)),
        };
        let copy = sys::open_tree_clone(target.as_fd(), c"", Tree::All).map_err(failed)?;
        sys::mount_setattr(copy.as_fd(), Tree::All, MOUNT_ATTR_RDONLY, 0, 0).map_err(failed)?;
        sys::move_mount(copy.as_fd(), target.as_fd()).map_err(failed)?;
    }
    Ok(())
}

fn list<'a>(given: Option<&'a [String]>, usual: &'a [&'a str]) -> Box<dyn Iterator<Item = &'a str> + 'a> {
    match given {
        Some(paths) => Box::new(paths.iter().map(String::as_str)),
        None => Box::new(usual.iter().copied()),
    }
}
