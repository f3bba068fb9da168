//! The child's side of starting: from the clone to the exec.
//!
//! The order is the defence. Everything that needs a path of the node (layers, volumes, the node's /dev/null, the
//! user's terminal) is opened by descriptor **before** `pivot_root`; mounts are attached by descriptor to targets that
//! openat2 resolved inside the new root; after `pivot_root` nothing under /proc is opened, and the last steps only
//! give up power: bounding set, ids, capabilities, no_new_privs, seccomp, descriptors, exec.
//! The process runs alone (one thread, copied memory); it reports a failure on its report socket and ends. A report
//! socket that closes without a word means that the exec took place.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use super::identity::{self, CapabilitySet, Identity};
use super::protocol::{self, Process};
use super::rootfs::{self, RootPlan};
use super::users::Users;
use crate::cgroup::Entry;
use crate::error::StartFailure;
use crate::label::{self, Labels};
use crate::spec::Rlimit;
use crate::sys;

const DEVPTS_MAGIC: i64 = 0x1cd1;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the child tells the helper before its exec.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// With one descriptor: the master of the process's terminal.
    Terminal,
    /// Everything is prepared; it waits at its gate.
    Waiting,
    Failed {
        kind: StartFailure,
        message: String,
    },
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: StartFailure,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: StartFailure, message: String) -> Self {
        Self { kind, message }
    }

    /// For `map_err`: a set-up step that the system refused.
    pub(crate) fn step<E: Into<io::Error>>(step: &str) -> impl FnOnce(E) -> Self + '_ {
        move |e| Self::new(StartFailure::Setup, format!("{step}: {}", e.into()))
    }

    /// For `map_err`: a mount that failed.
    pub(crate) fn mount<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> Self + '_ {
        move |e| Self::new(StartFailure::Mount, format!("mount {what}: {}", e.into()))
    }
}

/// What a process gets whatever it joins.
pub(crate) struct Launch {
    pub(crate) process: Process,
    pub(crate) report: OwnedFd,
    /// stdin, stdout, stderr; none on a terminal.
    pub(crate) stdio: Option<[OwnedFd; 3]>,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) no_new_privs: bool,
    pub(crate) filters: Rc<Vec<BpfProgram>>,
    /// What the machine's security modules are to hold it to.
    pub(crate) labels: Labels,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) hostname: Option<String>,
    /// v1 cgroup files to write oneself into (v2 is entered by the clone).
    pub(crate) entry: Entry,
    /// The user namespace to run in; none: the node's.
    pub(crate) users: Option<Users>,
    /// With a user namespace: the mounts become its own as well, so that whoever may mount inside can.
    pub(crate) own_mounts: bool,
    /// A listening socket: with everything prepared, the process waits for a connection to it before its exec.
    pub(crate) gate: Option<OwnedFd>,
}

/// What makes a container's init out of a process.
pub(crate) struct NewContainer {
    pub(crate) launch: Launch,
    /// Namespaces to join, with the flag of each.
    pub(crate) namespaces: Vec<(OwnedFd, libc::c_int)>,
    /// Kinds of namespaces to make, and what is set in them.
    pub(crate) fresh: libc::c_int,
    pub(crate) hostname: Option<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) root: RootPlan,
}

/// What brings a process into a running container.
pub(crate) struct Joining {
    pub(crate) launch: Launch,
    /// Pidfd of the container's init.
    pub(crate) target: OwnedFd,
    pub(crate) namespaces: libc::c_int,
}

/// Becomes the init of a new container.
pub(crate) fn become_container(plan: NewContainer) -> ! {
    let report = plan.launch.report.try_clone();
    let Err(failure) = container(plan);
    fail(report, failure)
}

/// Becomes a further process of a running container.
pub(crate) fn become_guest(plan: Joining) -> ! {
    let report = plan.launch.report.try_clone();
    let Err(failure) = guest(plan);
    fail(report, failure)
}

/// The report goes out on a copy of the socket: the plan's own may have been dropped on the way to the failure.
fn fail(report: io::Result<OwnedFd>, failure: Failure) -> ! {
    if let Ok(report) = report {
        let _ = protocol::send(report.as_fd(), &Report::Failed { kind: failure.kind, message: failure.message }, &[]);
    }
    // SAFETY: ends this process without running the helper's exit handlers.
    unsafe { libc::_exit(127) }
}

fn container(mut plan: NewContainer) -> Result<Infallible, Failure> {
    fresh_process_state()?;
    for (namespace, kind) in &plan.namespaces {
        sys::setns(namespace.as_fd(), *kind).map_err(Failure::step("join pod namespace"))?;
    }
    furnish(&plan)?;
    enter_cgroups(&plan.launch.entry)?;
    sys::unshare(libc::CLONE_NEWCGROUP).map_err(Failure::step("unshare cgroup namespace"))?;
    adjust_oom_score(plan.launch.oom_score_adj)?;
    label::assume(&plan.launch.labels).map_err(Failure::step("confine"))?;
    let root = rootfs::build(&plan.root, plan.launch.users.as_ref())?;
    let identity = identity::resolve(root.dir.as_fd(), &plan.launch.process.user)?;
    let owner = owner(&plan.launch, &identity);
    let stdio = match plan.launch.stdio.take() {
        Some(stdio) => stdio,
        None => {
            let slave = open_terminal(&plan.launch, root.devpts.as_fd(), &owner)?;
            rootfs::bind_console(&root, &slave)?;
            terminal_stdio(slave)?
        }
    };
    let cwd = rootfs::working_directory(root.dir.as_fd(), &plan.launch.process.cwd, &owner)?;
    rootfs::pivot(&plan.root, root)?;
    plan.launch.own_mounts = true;
    finish(&plan.launch, &identity, stdio, cwd)
}

/// Makes the namespaces that nobody else has made, and sets what belongs to them.
fn furnish(plan: &NewContainer) -> Result<(), Failure> {
    if plan.fresh != 0 {
        sys::unshare(plan.fresh).map_err(Failure::step("unshare"))?;
    }
    if plan.fresh & libc::CLONE_NEWNET != 0 {
        sys::loopback_up().map_err(Failure::step("bring lo up"))?;
    }
    if let Some(hostname) = &plan.hostname {
        nix::unistd::sethostname(hostname).map_err(Failure::step("sethostname"))?;
    }
    for (name, value) in &plan.sysctls {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::write(file, value).map_err(|e| Failure::new(StartFailure::Setup, format!("sysctl {name}: {e}")))?;
    }
    Ok(())
}

fn guest(mut plan: Joining) -> Result<Infallible, Failure> {
    fresh_process_state()?;
    enter_cgroups(&plan.launch.entry)?;
    adjust_oom_score(plan.launch.oom_score_adj)?;
    label::assume(&plan.launch.labels).map_err(Failure::step("confine"))?;
    sys::setns(plan.target.as_fd(), plan.namespaces).map_err(Failure::step("join container"))?;
    // Joining a mount namespace moved root and working directory to the container's root.
    let root = File::open("/").map_err(Failure::step("open root"))?;
    let identity = identity::resolve(root.as_fd(), &plan.launch.process.user)?;
    let owner = owner(&plan.launch, &identity);
    if let Some(users) = &plan.launch.users {
        users.make_as_root().map_err(Failure::step("user namespace"))?;
    }
    let stdio = match plan.launch.stdio.take() {
        Some(stdio) => stdio,
        None => {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let within = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
            let devpts = sys::openat2(root.as_fd(), c"dev/pts", flags, 0, within).map_err(Failure::step("open /dev/pts"))?;
            terminal_stdio(open_terminal(&plan.launch, devpts.as_fd(), &owner)?)?
        }
    };
    let cwd = rootfs::working_directory(root.as_fd(), &plan.launch.process.cwd, &owner)?;
    drop(root);
    finish(&plan.launch, &identity, stdio, cwd)
}

/// To whom what is made for the process belongs, as the node knows it.
fn owner(launch: &Launch, identity: &Identity) -> Identity {
    launch.users.as_ref().map_or_else(|| identity.clone(), |users| users.identity_outside(identity))
}

/// Signals as a program expects them at its start, and a session of its own.
fn fresh_process_state() -> Result<(), Failure> {
    for kind in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(kind, SigHandler::SigDfl) }.map_err(Failure::step("reset signals"))?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(Failure::step("unblock signals"))?;
    nix::unistd::setsid().map_err(Failure::step("setsid"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    Ok(())
}

fn enter_cgroups(entry: &Entry) -> Result<(), Failure> {
    if let Entry::Tasks(files) = entry {
        for mut file in files {
            file.write_all(b"0").map_err(Failure::step("enter cgroup"))?;
        }
    }
    Ok(())
}

/// Written while the node's /proc is still ours to see; without a wish the helper's own protection is given up.
/// Lowering it needs CAP_SYS_RESOURCE: a refusal is ignored.
fn adjust_oom_score(score: Option<i32>) -> Result<(), Failure> {
    match std::fs::write("/proc/self/oom_score_adj", score.unwrap_or(0).to_string()) {
        Err(e) if e.kind() != io::ErrorKind::PermissionDenied => Err(Failure::step("oom_score_adj")(e)),
        _ => Ok(()),
    }
}

/// Opens a new terminal in the container's own devpts, hands its master to the helper, returns the other side.
fn open_terminal(launch: &Launch, devpts: BorrowedFd<'_>, identity: &Identity) -> Result<OwnedFd, Failure> {
    let is_devpts = sys::on_file_system(devpts, DEVPTS_MAGIC).map_err(Failure::step("check /dev/pts"))?;
    if !is_devpts {
        return Err(Failure::new(StartFailure::Setup, "/dev/pts is not a devpts file system".to_owned()));
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let within = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    let master = sys::openat2(devpts, c"ptmx", flags, 0, within).map_err(Failure::step("open ptmx"))?;
    let slave = sys::pty_peer(master.as_fd()).map_err(Failure::step("open terminal"))?;
    if let Some(size) = launch.process.size {
        sys::set_terminal_size(master.as_fd(), size.width, size.height).map_err(Failure::step("terminal size"))?;
    }
    nix::unistd::fchown(&slave, Some(nix::unistd::Uid::from_raw(identity.uid)), None).map_err(Failure::step("chown terminal"))?;
    protocol::send(launch.report.as_fd(), &Report::Terminal, &[master.as_fd()]).map_err(Failure::step("hand over terminal"))?;
    sys::set_controlling_terminal(slave.as_fd()).map_err(Failure::step("controlling terminal"))?;
    Ok(slave)
}

fn terminal_stdio(slave: OwnedFd) -> Result<[OwnedFd; 3], Failure> {
    let dup = || slave.try_clone().map_err(Failure::step("dup terminal"));
    Ok([dup()?, dup()?, slave])
}

/// The steps that every process ends with: from "inside the root" to the exec.
fn finish(launch: &Launch, identity: &Identity, stdio: [OwnedFd; 3], cwd: OwnedFd) -> Result<Infallible, Failure> {
    nix::unistd::fchdir(&cwd).map_err(Failure::step("fchdir"))?;
    let here = nix::unistd::getcwd()
        .map_err(|e| Failure::new(StartFailure::WorkingDirectory, format!("working directory {}: {e}", launch.process.cwd)))?;
    if !here.is_absolute() {
        let message = format!("working directory {} is outside the root", launch.process.cwd);
        return Err(Failure::new(StartFailure::WorkingDirectory, message));
    }
    restore_file_limit()?;
    set_rlimits(&launch.rlimits)?;
    sys::fresh_session_keyring();
    let owner = owner(launch, identity);
    for (target, fd) in stdio.iter().enumerate() {
        if owner.uid != 0 && !launch.process.tty {
            own_pipe(fd.as_fd(), &owner)?;
        }
        // SAFETY: both are descriptors of this process; targets 0 to 2 are replaced on purpose.
        if unsafe { libc::dup2(fd.as_raw_fd(), target as libc::c_int) } < 0 {
            return Err(Failure::step("dup2 stdio")(io::Error::last_os_error()));
        }
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let Some(gate) = &launch.gate else { return hand_over(launch, identity) };
    let starter = wait_at(gate, launch.report.as_fd())?;
    // Whoever listened to the preparation is gone; a failure from here on is told to who started it.
    hand_over(launch, identity).inspect_err(|failure| {
        let told = Report::Failed { kind: failure.kind, message: failure.message.clone() };
        let _ = protocol::send(starter.as_fd(), &told, &[]);
    })
}

/// Says that everything is prepared, and waits for a connection.
fn wait_at(gate: &OwnedFd, report: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    protocol::send(report, &Report::Waiting, &[]).map_err(Failure::step("report"))?;
    let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
    loop {
        match nix::sys::socket::accept4(gate.as_raw_fd(), flags) {
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            Ok(fd) => return Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Failure::step("wait for the start")(e)),
        }
    }
}

/// Gives up power and executes.
fn hand_over(launch: &Launch, identity: &Identity) -> Result<Infallible, Failure> {
    let environment = environment(launch, identity);
    let programs = candidates(&launch.process.argv, &environment)?;
    let argv = strings(&launch.process.argv)?;
    let environment = strings(&environment)?;
    if let Some(users) = &launch.users {
        users.enter().map_err(Failure::step("enter user namespace"))?;
        if launch.own_mounts {
            sys::unshare(libc::CLONE_NEWNS).map_err(Failure::step("own mounts"))?;
        }
    }
    if !launch.no_new_privs {
        // Without no_new_privs the load needs CAP_SYS_ADMIN, so it comes before the capabilities go.
        load_filters(&launch.filters)?;
    }
    identity::assume(identity, launch.capabilities)?;
    if launch.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(Failure::step("no_new_privs"))?;
    }
    sys::close_on_exec_from(3).map_err(Failure::step("close_range"))?;
    if launch.no_new_privs {
        load_filters(&launch.filters)?;
    }
    Err(execute(&programs, &argv, &environment, &launch.process.argv[0]))
}

/// A pipe belongs to its process, so that /dev/stdout can be opened again by a user other than root.
fn own_pipe(fd: BorrowedFd<'_>, identity: &Identity) -> Result<(), Failure> {
    let stat = nix::sys::stat::fstat(fd).map_err(Failure::step("fstat stdio"))?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFIFO {
        nix::unistd::fchown(fd, Some(nix::unistd::Uid::from_raw(identity.uid)), None).map_err(Failure::step("chown stdio"))?;
    }
    Ok(())
}

fn load_filters(filters: &[BpfProgram]) -> Result<(), Failure> {
    filters.iter().try_for_each(|program| sys::seccomp_load(program).map_err(Failure::step("seccomp")))
}

/// The helper's own raised limit is not for its containers.
fn restore_file_limit() -> Result<(), Failure> {
    use nix::sys::resource::{Resource, setrlimit};
    match super::ORIGINAL_FILE_LIMIT.get() {
        Some((soft, hard)) => setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard).map_err(Failure::step("setrlimit")),
        None => Ok(()),
    }
}

/// Raising a hard limit needs CAP_SYS_RESOURCE; without it the highest that is allowed is set.
fn set_rlimits(rlimits: &[Rlimit]) -> Result<(), Failure> {
    for limit in rlimits {
        let Some(resource) = rlimit_resource(&limit.kind) else {
            return Err(Failure::new(StartFailure::Setup, format!("unknown rlimit {}", limit.kind)));
        };
        match nix::sys::resource::setrlimit(resource, limit.soft, limit.hard) {
            Err(nix::errno::Errno::EPERM) => {
                let (_, hard) = nix::sys::resource::getrlimit(resource).map_err(Failure::step("getrlimit"))?;
                nix::sys::resource::setrlimit(resource, limit.soft.min(hard), limit.hard.min(hard)).map_err(Failure::step("setrlimit"))?;
            }
            other => other.map_err(Failure::step("setrlimit"))?,
        }
    }
    Ok(())
}

/// The resource that a spec's rlimit names.
pub(crate) fn rlimit_resource(kind: &str) -> Option<nix::sys::resource::Resource> {
    use nix::sys::resource::Resource::*;
    let upper = kind.to_ascii_uppercase();
    Some(match upper.strip_prefix("RLIMIT_").unwrap_or(&upper) {
        "AS" => RLIMIT_AS,
        "CORE" => RLIMIT_CORE,
        "CPU" => RLIMIT_CPU,
        "DATA" => RLIMIT_DATA,
        "FSIZE" => RLIMIT_FSIZE,
        "LOCKS" => RLIMIT_LOCKS,
        "MEMLOCK" => RLIMIT_MEMLOCK,
        "MSGQUEUE" => RLIMIT_MSGQUEUE,
        "NICE" => RLIMIT_NICE,
        "NOFILE" => RLIMIT_NOFILE,
        "NPROC" => RLIMIT_NPROC,
        "RSS" => RLIMIT_RSS,
        "RTPRIO" => RLIMIT_RTPRIO,
        "RTTIME" => RLIMIT_RTTIME,
        "SIGPENDING" => RLIMIT_SIGPENDING,
        "STACK" => RLIMIT_STACK,
        _ => return None,
    })
}

/// The process's environment with what every program may expect.
fn environment(launch: &Launch, identity: &Identity) -> Vec<String> {
    let mut environment = launch.process.env.clone();
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
    let hostname = launch.hostname.clone().unwrap_or_default();
    let defaults = [
        ("PATH", DEFAULT_PATH, true),
        ("HOME", &identity.home, true),
        ("HOSTNAME", &hostname, !hostname.is_empty()),
        ("TERM", "xterm", launch.process.tty),
    ];
    for (name, value, wanted) in defaults {
        if wanted && !has(&environment, name) {
            environment.push(format!("{name}={value}"));
        }
    }
    environment
}

/// Paths to try, in order: the program itself, or its name along PATH.
fn candidates(argv: &[String], environment: &[String]) -> Result<Vec<CString>, Failure> {
    let program = argv.first().filter(|p| !p.is_empty());
    let Some(program) = program else {
        return Err(Failure::new(StartFailure::NoCommand, "no command given".to_owned()));
    };
    if program.contains('/') {
        return strings(std::slice::from_ref(program));
    }
    let path = environment.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let paths: Vec<String> =
        path.split(':').map(|d| if d.is_empty() { format!("./{program}") } else { format!("{d}/{program}") }).collect();
    strings(&paths)
}

fn strings(list: &[String]) -> Result<Vec<CString>, Failure> {
    list.iter()
        .map(|text| CString::new(text.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::new(StartFailure::Setup, "argument or environment contains a NUL byte".to_owned()))
}

/// Only returns when no candidate could be executed.
fn execute(programs: &[CString], argv: &[CString], environment: &[CString], name: &str) -> Failure {
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>();
    let (argv, environment) = (pointers(argv), pointers(environment));
    let mut refused = None;
    for program in programs {
        // SAFETY: the arrays are null-terminated and point to strings that live until the exec.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            _ => refused = refused.or(Some(error)),
        }
    }
    match refused {
        None => Failure::new(StartFailure::ExecutableNotFound, format!("exec {name:?}: executable file not found")),
        Some(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::ENOEXEC | libc::EPERM | libc::EISDIR)) => {
            Failure::new(StartFailure::PermissionDenied, format!("exec {name:?}: {e}"))
        }
        Some(e) => Failure::new(StartFailure::Setup, format!("exec {name:?}: {e}")),
    }
}
