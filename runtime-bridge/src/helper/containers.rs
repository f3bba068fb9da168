//! The helper's table of containers and execs: starting, output, ends, adoption.
//!
//! A start is answered when the child's report socket closes (it executed its program) or brings a failure. A
//! container's end is written to its status file before any client hears of it, so a daemon that dies in between finds
//! it there. Output is drained before an end is told, so a log is complete when its container is seen to have ended.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::identity;
use super::init::{self, Joining, Launch, NewContainer, Report};
use super::log::{LineCutter, LogFile, Stream};
use super::processes;
use super::profile;
use super::protocol::{self, Process, Push, Refusal, Reply};
use super::rootfs::{Base, RootPlan};
use super::sandboxes::Namespaces;
use super::seccomp::Filters;
use super::serve::{Caller, Context, Source};
use super::users::Users;
use crate::cgroup::Entry;
use crate::error::StartFailure;
use crate::spec::{ContainerId, IdRange, SandboxId, Scope, Seccomp};
use crate::state::{Bundle, Exit, ExitCause, Status, boot_id, now_ns, read_json, write_json};
use crate::sys::{self, Cloned};

const READ_BYTES: usize = 64 * 1024;
/// An attached client that does not read is let go when its pipe is full; this is how much that holds.
const ATTACH_PIPE_BYTES: i32 = 1 << 20;

/// What a request comes to.
pub(crate) enum Outcome {
    /// Answer at once.
    Now(Result<Reply, Refusal>, Vec<OwnedFd>),
    /// The answer comes with a later event.
    Later,
}

/// All containers and execs.
#[derive(Default)]
pub(crate) struct Containers {
    table: HashMap<ContainerId, Container>,
    execs: HashMap<(u64, u64), Exec>,
    by_pid: HashMap<i32, Whose>,
    filters: Filters,
}

#[derive(Clone)]
enum Whose {
    Container(ContainerId),
    Exec(u64, u64),
}

struct Container {
    bundle: Bundle,
    status: Status,
    pidfd: OwnedFd,
    starting: Option<Starting>,
    log: LogFile,
    outputs: HashMap<Stream, Output>,
    terminal: Option<OwnedFd>,
    /// Keeps the stdin fifo from ending while nobody is attached.
    stdin: Option<OwnedFd>,
    attached: Vec<Attached>,
    /// The ids of its user namespace, if it has one.
    users: Option<IdRange>,
    /// Its PID namespace is its own, so that its init's death is everyone's.
    owns_pid_namespace: bool,
}

struct Starting {
    report: OwnedFd,
    caller: Caller,
}

struct Output {
    file: File,
    cutter: LineCutter,
}

struct Attached {
    stdout: Option<File>,
    stderr: Option<File>,
}

struct Exec {
    pidfd: OwnedFd,
    report: Option<OwnedFd>,
    seq: u64,
    terminal: Option<OwnedFd>,
}

/// What a report socket has said.
enum Heard {
    Nothing,
    Terminal(OwnedFd),
    Failed(StartFailure, String),
    Executed,
}

impl Outcome {
    pub(crate) fn done(reply: Reply) -> Self {
        Self::Now(Ok(reply), Vec::new())
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Now(Err(refusal), Vec::new())
    }
}

impl From<Result<Outcome, Refusal>> for Outcome {
    fn from(result: Result<Outcome, Refusal>) -> Self {
        result.unwrap_or_else(Outcome::refused)
    }
}

impl Containers {
    /// Clones a container's init; the answer follows with its report.
    pub(crate) fn start(
        &mut self,
        context: &mut Context,
        sandboxes: &mut HashMap<SandboxId, Namespaces>,
        caller: Caller,
        id: ContainerId,
    ) -> Outcome {
        self.try_start(context, sandboxes, caller, id).into()
    }

    fn try_start(
        &mut self,
        context: &mut Context,
        sandboxes: &mut HashMap<SandboxId, Namespaces>,
        caller: Caller,
        id: ContainerId,
    ) -> Result<Outcome, Refusal> {
        if self.table.contains_key(&id) || context.layout.status(&id).exists() {
            return Err(Refusal::Malformed("container was started before".to_owned()));
        }
        let bundle: Bundle =
            read_json(&context.layout.bundle(&id)).map_err(|e| Refusal::Malformed(e.to_string()))?.ok_or(Refusal::NotFound)?;
        let gone = || Refusal::Malformed(format!("the namespaces of sandbox {} are gone", bundle.sandbox));
        let sandbox = sandboxes.get_mut(&bundle.sandbox).ok_or_else(gone)?;
        let log = LogFile::open(bundle.spec.log_path.clone()).map_err(|e| Refusal::os("open log", e))?;
        let (ours, theirs) = report_pair()?;
        let pipes = Pipes::make(&context.layout.container(&id), &bundle).map_err(|e| Refusal::os("make stdio", e))?;
        let pod_pid = match (&bundle.spec.pid_of, sandbox.record.spec.pid) {
            (Some(target), _) => Some(self.running(target)?.pidfd.try_clone().map_err(|e| Refusal::os("dup pidfd", e))?),
            (None, Some(Scope::Pod)) => {
                let init = sandbox.living_init(&context.home, &context.layout, &context.hierarchies, &bundle.sandbox)?;
                Some(init.try_clone().map_err(|e| Refusal::os("dup pidfd", e))?)
            }
            (None, _) => None,
        };
        let owns_pid_namespace = owns_pid_namespace(&bundle, sandbox.record.spec.pid);
        let plan = self.plan(context, sandbox, &id, &bundle, theirs, pipes.child)?;
        let flags = libc::CLONE_NEWNS | if owns_pid_namespace { libc::CLONE_NEWPID } else { 0 };
        let clone = || clone_into(flags, &plan.launch.entry);
        let cloned = match pod_pid {
            Some(target) => context.home.clone_in_pid_namespace(&target, clone),
            None => clone(),
        };
        let (pid, pidfd) = match cloned.map_err(|e| unless_ended("clone", e))? {
            Cloned::Child => init::become_container(plan),
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(plan);
        let status =
            Status { pid, start_ticks: processes::start_ticks(pid).unwrap_or(0), boot_id: boot_id(), started_at_ns: now_ns(), exit: None };
        let written = write_json(&context.layout.status(&id), &status);
        self.by_pid.insert(pid, Whose::Container(id.clone()));
        let watched = context.watches.add(&ours, Source::Starting(id.clone()));
        let mut container = Container {
            bundle,
            status,
            pidfd,
            starting: Some(Starting { report: ours, caller }),
            log,
            outputs: HashMap::new(),
            terminal: None,
            stdin: pipes.stdin_writer,
            attached: Vec::new(),
            users: sandbox.record.spec.user_namespace,
            owns_pid_namespace,
        };
        let piped = pipes.outputs.into_iter().try_for_each(|(stream, file)| container.watch(context, &id, stream, file));
        if let Err(e) = written.and(watched).and(piped) {
            let _ = sys::pidfd_signal(container.pidfd.as_fd(), libc::SIGKILL);
            self.table.insert(id, container);
            return Err(Refusal::os("record container", e));
        }
        self.table.insert(id, container);
        Ok(Outcome::Later)
    }

    fn running(&self, id: &ContainerId) -> Result<&Container, Refusal> {
        self.table.get(id).filter(|c| c.status.exit.is_none() && c.starting.is_none()).ok_or(Refusal::NotRunning)
    }

    fn plan(
        &mut self,
        context: &Context,
        sandbox: &Namespaces,
        id: &ContainerId,
        bundle: &Bundle,
        report: OwnedFd,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<NewContainer, Refusal> {
        let spec = &bundle.spec;
        let process = Process {
            argv: bundle.argv.clone(),
            env: bundle.env.clone(),
            cwd: bundle.cwd.clone(),
            user: bundle.user.clone(),
            tty: spec.tty,
            size: None,
        };
        let mut launch = self.launch(context, bundle, process, report, stdio)?;
        launch.hostname = sandbox.record.spec.hostname.clone();
        launch.users = sandbox.users.as_ref().map(Users::try_clone).transpose().map_err(|e| Refusal::os("dup namespace", e))?;
        let dup = |fd: &OwnedFd| fd.try_clone().map_err(|e| Refusal::os("dup namespace", e));
        let namespaces = sandbox.own.iter().map(|(fd, kind)| Ok((dup(fd)?, *kind))).collect::<Result<Vec<_>, Refusal>>()?;
        let shm = match sandbox.record.spec.ipc {
            Scope::Host => Path::new("/dev/shm").to_owned(),
            _ => context.layout.pins(&bundle.sandbox).join("shm"),
        };
        let root = RootPlan {
            base: Base::Overlay {
                mount_point: context.layout.root_mount(),
                layers: context.layout.layers(),
                lower: bundle.layers.clone(),
                container_dir: context.layout.container(id),
            },
            mounts: spec.mounts.clone(),
            devices: spec.devices.clone(),
            shm: Some(shm),
            shm_bytes: None,
            cgroups: context.hierarchies.visible(&bundle.cgroup),
            privileged: spec.security.privileged,
            read_only: spec.security.read_only_root,
            masked: spec.security.masked_paths.clone(),
            read_only_paths: spec.security.read_only_paths.clone(),
            label: bundle.labels.files.clone(),
        };
        Ok(NewContainer { launch, namespaces, fresh: 0, hostname: None, sysctls: Vec::new(), root })
    }

    /// What init and execs of a container have in common.
    fn launch(
        &mut self,
        context: &Context,
        bundle: &Bundle,
        process: Process,
        report: OwnedFd,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<Launch, Refusal> {
        let spec = &bundle.spec;
        let mut capabilities =
            identity::capabilities(&spec.security).map_err(|name| Refusal::Malformed(format!("unknown capability {name}")))?;
        if !spec.security.privileged && !context.hierarchies.restricts_devices() {
            capabilities &= !identity::capability_bit("MKNOD").unwrap_or(0);
        }
        let filters = match &spec.security.seccomp {
            _ if spec.security.privileged => Rc::default(),
            Seccomp::RuntimeDefault => self.filters.default_for(capabilities).map_err(|e| Refusal::os("compile seccomp filter", e))?,
            Seccomp::Profile(json) => {
                Rc::new(profile::compile(json, capabilities).map_err(|e| Refusal::Malformed(format!("seccomp profile: {e}")))?)
            }
            Seccomp::Unconfined => Rc::default(),
        };
        let entry = context.hierarchies.entry(&bundle.cgroup, &spec.resources).map_err(|e| Refusal::os("open cgroup", e))?;
        Ok(Launch {
            process,
            report,
            stdio,
            capabilities,
            no_new_privs: spec.security.no_new_privs,
            filters,
            labels: bundle.labels.clone(),
            rlimits: spec.rlimits.clone(),
            oom_score_adj: spec.resources.oom_score_adj,
            hostname: None,
            entry,
            users: None,
            own_mounts: false,
            gate: None,
        })
    }

    /// A starting container's report socket has something to say.
    pub(crate) fn report(&mut self, context: &mut Context, id: &ContainerId) {
        let Some(container) = self.table.get_mut(id) else { return };
        loop {
            let Some(starting) = &container.starting else { return };
            match hear(&starting.report) {
                Heard::Nothing => return,
                Heard::Terminal(master) => container.keep_terminal(context, id, master),
                Heard::Executed => {
                    let caller = starting.caller;
                    container.started(context, id);
                    context.answer(caller, Ok(Reply::Done), Vec::new());
                }
                Heard::Failed(kind, message) => {
                    let caller = starting.caller;
                    container.started(context, id);
                    let exit = Exit { code: failure_code(kind), signal: None, cause: ExitCause::Ended, at_ns: now_ns() };
                    container.status.exit = Some(exit.clone());
                    let _ = write_json(&context.layout.status(id), &container.status);
                    context.answer(caller, Err(Refusal::Start { kind, message }), Vec::new());
                    context.broadcast(|| Push::Exited { id: id.clone(), exit: exit.clone() });
                }
            }
        }
    }

    /// A starting exec's report socket has something to say.
    pub(crate) fn report_exec(&mut self, context: &mut Context, client: u64, exec: u64) {
        let Some(entry) = self.execs.get_mut(&(client, exec)) else { return };
        let caller = Caller { client, seq: entry.seq };
        while let Some(report) = &entry.report {
            let (result, fds) = match hear(report) {
                Heard::Nothing => return,
                Heard::Terminal(master) => {
                    entry.terminal = Some(master);
                    continue;
                }
                Heard::Executed => (Ok(Reply::Done), entry.terminal.take().into_iter().collect()),
                Heard::Failed(kind, message) => (Err(Refusal::Start { kind, message }), Vec::new()),
            };
            context.watches.remove(report, &Source::StartingExec(client, exec));
            entry.report = None;
            context.answer(caller, result, fds);
        }
    }

    /// A child has ended: a container's init, an exec, or an orphan that nobody asks about.
    pub(crate) fn ended(&mut self, context: &mut Context, pid: i32, status: i32) {
        match self.by_pid.remove(&pid) {
            Some(Whose::Container(id)) => self.container_ended(context, &id, |oom| processes::exit_of(status, oom)),
            Some(Whose::Exec(client, exec)) => {
                self.report_exec(context, client, exec);
                if self.execs.remove(&(client, exec)).is_some() {
                    let exit = processes::exit_of(status, false);
                    context.push(client, Push::ExecExited { exec, exit }, Vec::new());
                }
            }
            None => {}
        }
    }

    fn container_ended(&mut self, context: &mut Context, id: &ContainerId, exit: impl FnOnce(bool) -> Exit) {
        self.report(context, id);
        let Some(container) = self.table.get_mut(id) else { return };
        if !container.owns_pid_namespace {
            context.hierarchies.kill_all(&container.bundle.cgroup);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while container.read_output(context, id, stream) == Flow::More {}
            container.part_line(stream);
        }
        container.stdin = None;
        if container.status.exit.is_some() {
            return;
        }
        let exit = exit(context.hierarchies.oom_kills(&container.bundle.cgroup) > 0);
        container.status.exit = Some(exit.clone());
        if let Err(e) = write_json(&context.layout.status(id), &container.status) {
            eprintln!("status of container {id} not written: {e}");
        }
        context.broadcast(|| Push::Exited { id: id.clone(), exit: exit.clone() });
    }

    /// There is output to read.
    pub(crate) fn output(&mut self, context: &mut Context, id: &ContainerId, stream: Stream) {
        if let Some(container) = self.table.get_mut(id) {
            container.read_output(context, id, stream);
        }
    }

    pub(crate) fn signal(&mut self, id: &ContainerId, signal: i32) -> Outcome {
        let Some(container) = self.table.get(id) else { return Outcome::refused(Refusal::NotRunning) };
        if container.status.exit.is_some() {
            return Outcome::refused(Refusal::NotRunning);
        }
        signalled(sys::pidfd_signal(container.pidfd.as_fd(), signal))
    }

    pub(crate) fn kill_all(&mut self, context: &Context, id: &ContainerId) -> Outcome {
        let outcome = self.signal(id, libc::SIGKILL);
        if let Some(container) = self.table.get(id).filter(|c| !c.owns_pid_namespace) {
            context.hierarchies.kill_all(&container.bundle.cgroup);
        }
        outcome
    }

    pub(crate) fn forget(&mut self, context: &mut Context, id: &ContainerId) -> Outcome {
        if let Some(mut container) = self.table.remove(id) {
            if container.status.exit.is_none() {
                let _ = sys::pidfd_signal(container.pidfd.as_fd(), libc::SIGKILL);
            }
            for stream in [Stream::Stdout, Stream::Stderr] {
                container.close_output(context, id, stream);
            }
            context.watches.remove(&container.pidfd, &Source::Adopted(id.clone()));
            if let Some(starting) = container.starting.take() {
                context.watches.remove(&starting.report, &Source::Starting(id.clone()));
            }
        }
        Outcome::done(Reply::Done)
    }

    /// Clones a further process of a container; the answer follows with its report.
    pub(crate) fn exec(
        &mut self,
        context: &mut Context,
        caller: Caller,
        id: &ContainerId,
        exec: u64,
        process: Process,
        fds: Vec<OwnedFd>,
    ) -> Outcome {
        self.try_exec(context, caller, id, exec, process, fds).into()
    }

    fn try_exec(
        &mut self,
        context: &mut Context,
        caller: Caller,
        id: &ContainerId,
        exec: u64,
        process: Process,
        fds: Vec<OwnedFd>,
    ) -> Result<Outcome, Refusal> {
        let container = self.table.get(id).ok_or(Refusal::NotFound)?;
        if container.status.exit.is_some() || container.starting.is_some() {
            return Err(Refusal::NotRunning);
        }
        let stdio: Option<[OwnedFd; 3]> = match (process.tty, fds.try_into()) {
            (true, _) => None,
            (false, Ok(stdio)) => Some(stdio),
            (false, Err(_)) => return Err(Refusal::Malformed("exec needs three descriptors".to_owned())),
        };
        let bundle = container.bundle.clone();
        let target = container.pidfd.try_clone().map_err(|e| Refusal::os("dup pidfd", e))?;
        let (ours, theirs) = report_pair()?;
        let (pid, range) = (container.status.pid, container.users);
        let mut launch = self.launch(context, &bundle, process, theirs, stdio)?;
        let users = range.map(|range| Users::of_process(pid, range)).transpose();
        launch.users = users.map_err(|e| Refusal::os("open user namespace", e))?;
        let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        let plan = Joining { launch, target, namespaces };
        let cloned = context.home.clone_in_pid_namespace(&plan.target, || clone_into(0, &plan.launch.entry));
        let (pid, pidfd) = match cloned.map_err(|e| unless_ended("clone", e))? {
            Cloned::Child => init::become_guest(plan),
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(plan);
        let key = (caller.client, exec);
        self.by_pid.insert(pid, Whose::Exec(key.0, key.1));
        context.watches.add(&ours, Source::StartingExec(key.0, key.1)).map_err(|e| Refusal::os("watch exec", e))?;
        self.execs.insert(key, Exec { pidfd, report: Some(ours), seq: caller.seq, terminal: None });
        Ok(Outcome::Later)
    }

    pub(crate) fn signal_exec(&mut self, client: u64, exec: u64, signal: i32) -> Outcome {
        match self.execs.get(&(client, exec)) {
            Some(entry) => signalled(sys::pidfd_signal(entry.pidfd.as_fd(), signal)),
            None => Outcome::refused(Refusal::NotRunning),
        }
    }

    /// Nobody can read the execs of a client that is gone: they end.
    pub(crate) fn client_gone(&mut self, client: u64) {
        for ((owner, _), exec) in &self.execs {
            if *owner == client {
                let _ = sys::pidfd_signal(exec.pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }

    /// Sends output from now on to the given pipes as well; answers with where input goes.
    pub(crate) fn attach(&mut self, id: &ContainerId, fds: Vec<OwnedFd>) -> Outcome {
        let Some(container) = self.table.get_mut(id).filter(|c| c.status.exit.is_none()) else {
            return Outcome::refused(Refusal::NotRunning);
        };
        let mut pipes = fds.into_iter().map(File::from);
        let (stdout, stderr) = (pipes.next(), pipes.next());
        for pipe in [&stdout, &stderr].into_iter().flatten() {
            use nix::fcntl::{FcntlArg, OFlag, fcntl};
            let _ = fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(ATTACH_PIPE_BYTES));
        }
        let tty = container.terminal.is_some();
        let input = container.terminal.as_ref().or(container.stdin.as_ref()).map(OwnedFd::try_clone);
        let fds: Vec<OwnedFd> = match input {
            Some(Ok(fd)) => vec![fd],
            Some(Err(e)) => return Outcome::refused(Refusal::os("dup stdin", e)),
            None => Vec::new(),
        };
        container.attached.push(Attached { stdout, stderr });
        Outcome::Now(Ok(Reply::Attached { tty, stdin: !fds.is_empty() && container.bundle.spec.stdin }), fds)
    }

    pub(crate) fn stdin_done(&mut self, id: &ContainerId) -> Outcome {
        if let Some(container) = self.table.get_mut(id)
            && container.bundle.spec.stdin_once
        {
            container.stdin = None;
        }
        Outcome::done(Reply::Done)
    }

    pub(crate) fn reopen_log(&mut self, id: &ContainerId) -> Outcome {
        match self.table.get_mut(id).map(|container| container.log.reopen()) {
            Some(Ok(())) => Outcome::done(Reply::Done),
            Some(Err(e)) => Outcome::refused(Refusal::os("reopen log", e)),
            None => Outcome::refused(Refusal::NotFound),
        }
    }

    /// Prepares for another program in this process: no line is lost. `None` while something is being started.
    pub(crate) fn hand_over(&mut self) -> Option<Vec<(ContainerId, OwnedFd)>> {
        let starting = self.table.values().any(|c| c.starting.is_some()) || self.execs.values().any(|e| e.report.is_some());
        if starting {
            return None;
        }
        for container in self.table.values_mut() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                container.part_line(stream);
            }
        }
        Some(self.table.iter_mut().filter_map(|(id, c)| Some((id.clone(), c.terminal.take()?))).collect())
    }

    /// Takes over a container that an earlier helper started; `terminal` is left from a predecessor in this process.
    pub(crate) fn adopt(&mut self, context: &mut Context, id: &ContainerId, terminal: Option<OwnedFd>) -> io::Result<()> {
        let damaged = |e: crate::Error| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        let Some(mut status) = read_json::<Status>(&context.layout.status(id)).map_err(damaged)? else { return Ok(()) };
        let Some(bundle) = read_json::<Bundle>(&context.layout.bundle(id)).map_err(damaged)? else { return Ok(()) };
        if status.exit.is_some() {
            return Ok(());
        }
        let cause = if status.boot_id == boot_id() { ExitCause::Unobserved } else { ExitCause::MachineRestarted };
        let alive = (cause == ExitCause::Unobserved).then(|| processes::same_process(status.pid, status.start_ticks)).flatten();
        let Some(pidfd) = alive else {
            let oom = cause == ExitCause::Unobserved && context.hierarchies.oom_kills(&bundle.cgroup) > 0;
            let cause = if oom { ExitCause::OutOfMemory } else { cause };
            status.exit = Some(processes::unknown_exit(cause));
            return write_json(&context.layout.status(id), &status);
        };
        let sandbox = super::sandboxes::record_of_this_boot(&context.layout, &bundle.sandbox);
        let owns_pid_namespace = owns_pid_namespace(&bundle, sandbox.as_ref().and_then(|record| record.spec.pid));
        let mut container = Container {
            log: LogFile::open(bundle.spec.log_path.clone())?,
            bundle,
            status,
            pidfd,
            starting: None,
            outputs: HashMap::new(),
            terminal: None,
            stdin: None,
            attached: Vec::new(),
            users: sandbox.and_then(|record| record.spec.user_namespace),
            owns_pid_namespace,
        };
        if processes::parent(container.status.pid) == Some(nix::unistd::getpid().as_raw()) {
            self.by_pid.insert(container.status.pid, Whose::Container(id.clone()));
        } else {
            context.watches.add(&container.pidfd, Source::Adopted(id.clone()))?;
        }
        if let Some(master) = terminal {
            container.keep_terminal(context, id, master);
        }
        let (outputs, stdin) = Pipes::reopen(&context.layout.container(id))?;
        container.stdin = stdin;
        for (stream, file) in outputs {
            container.watch(context, id, stream, file)?;
        }
        self.table.insert(id.clone(), container);
        Ok(())
    }

    /// The init of an adopted container has ended; it is somebody else's child.
    pub(crate) fn adopted_ended(&mut self, context: &mut Context, id: &ContainerId) {
        let Some(container) = self.table.get(id) else { return };
        context.watches.remove(&container.pidfd, &Source::Adopted(id.clone()));
        let pid = container.status.pid;
        let Ok(pidfd) = container.pidfd.try_clone() else { return };
        self.container_ended(context, id, |oom| processes::exit_of_stranger(pid, pidfd.as_fd(), oom));
    }
}

#[derive(PartialEq, Eq)]
enum Flow {
    More,
    Dry,
}

impl Container {
    fn watch(&mut self, context: &mut Context, id: &ContainerId, stream: Stream, file: File) -> io::Result<()> {
        context.watches.add(&file, Source::Output(id.clone(), stream))?;
        self.outputs.insert(stream, Output { file, cutter: LineCutter::default() });
        Ok(())
    }

    fn started(&mut self, context: &mut Context, id: &ContainerId) {
        if let Some(starting) = self.starting.take() {
            context.watches.remove(&starting.report, &Source::Starting(id.clone()));
        }
    }

    fn keep_terminal(&mut self, context: &mut Context, id: &ContainerId, master: OwnedFd) {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let _ = fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR));
        if let Ok(reader) = master.try_clone()
            && self.watch(context, id, Stream::Stdout, reader.into()).is_ok()
        {
            self.terminal = Some(master);
        }
    }

    /// Reads once; the level-triggered loop comes back for more.
    fn read_output(&mut self, context: &mut Context, id: &ContainerId, stream: Stream) -> Flow {
        let Some(output) = self.outputs.get_mut(&stream) else { return Flow::Dry };
        let mut buffer = [0u8; READ_BYTES];
        match output.file.read(&mut buffer) {
            Ok(0) => {}
            Ok(n) => {
                self.log.write(stream, &mut output.cutter, &buffer[..n], now_ns());
                self.copy_to_attached(stream, &buffer[..n]);
                return Flow::More;
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Flow::Dry,
            // A terminal whose other side is closed answers EIO: its end.
            Err(_) => {}
        }
        self.part_line(stream);
        self.close_output(context, id, stream);
        Flow::Dry
    }

    fn copy_to_attached(&mut self, stream: Stream, data: &[u8]) {
        use std::io::Write;
        self.attached.retain_mut(|attached| {
            let pipe = match stream {
                Stream::Stdout => &mut attached.stdout,
                Stream::Stderr => &mut attached.stderr,
            };
            match pipe {
                Some(file) => file.write_all(data).is_ok(),
                None => true,
            }
        });
    }

    /// Logs what is held back of a line as a part: the rest of it will follow, or never comes.
    fn part_line(&mut self, stream: Stream) {
        if let Some(output) = self.outputs.get_mut(&stream) {
            self.log.part(stream, &mut output.cutter, now_ns());
        }
    }

    fn close_output(&mut self, context: &mut Context, id: &ContainerId, stream: Stream) {
        if let Some(output) = self.outputs.remove(&stream) {
            context.watches.remove(&output.file, &Source::Output(id.clone(), stream));
        }
        if self.outputs.is_empty() {
            self.attached.clear();
        }
    }
}

/// A container's fifos. The container's ends are opened for reading and writing: such a fifo has a reader as long as
/// the container lives, so the death of the helper cannot raise SIGPIPE in it.
struct Pipes {
    child: Option<[OwnedFd; 3]>,
    outputs: Vec<(Stream, File)>,
    stdin_writer: Option<OwnedFd>,
}

impl Pipes {
    fn make(directory: &Path, bundle: &Bundle) -> io::Result<Self> {
        if bundle.spec.tty {
            return Ok(Self { child: None, outputs: Vec::new(), stdin_writer: None });
        }
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        let mut outputs = Vec::new();
        let mut ends = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let path = directory.join(stream.name());
            nix::unistd::mkfifo(&path, mode)?;
            outputs.push((stream, open_end(&path, libc::O_RDONLY | libc::O_NONBLOCK)?));
            ends.push(open_end(&path, libc::O_RDWR)?);
        }
        let mut stdin_writer = None;
        let stdin = if bundle.spec.stdin {
            let path = directory.join("stdin");
            nix::unistd::mkfifo(&path, mode)?;
            let reader = open_end(&path, libc::O_RDONLY | libc::O_NONBLOCK)?;
            stdin_writer = Some(open_end(&path, libc::O_WRONLY)?.into());
            nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
            reader
        } else {
            File::open("/dev/null")?
        };
        let (Some(stderr), Some(stdout)) = (ends.pop(), ends.pop()) else { return Err(io::ErrorKind::Other.into()) };
        Ok(Self { child: Some([stdin.into(), stdout.into(), stderr.into()]), outputs, stdin_writer })
    }

    #[allow(clippy::type_complexity)]
    fn reopen(directory: &Path) -> io::Result<(Vec<(Stream, File)>, Option<OwnedFd>)> {
        let mut outputs = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            match open_end(&directory.join(stream.name()), libc::O_RDONLY | libc::O_NONBLOCK) {
                Ok(file) => outputs.push((stream, file)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let stdin = open_end(&directory.join("stdin"), libc::O_WRONLY | libc::O_NONBLOCK).ok().map(OwnedFd::from);
        Ok((outputs, stdin))
    }
}

fn open_end(path: &Path, flags: i32) -> io::Result<File> {
    let access = flags & libc::O_ACCMODE;
    OpenOptions::new()
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags((flags & !libc::O_ACCMODE) | libc::O_CLOEXEC)
        .open(path)
}

/// Whether the container's init is the root of a PID namespace, so that its end is the end of all its processes.
fn owns_pid_namespace(bundle: &Bundle, scope: Option<Scope>) -> bool {
    bundle.spec.pid_of.is_none() && matches!(scope, None | Some(Scope::Container))
}

fn failure_code(kind: StartFailure) -> i32 {
    match kind {
        StartFailure::ExecutableNotFound => 127,
        StartFailure::PermissionDenied => 126,
        _ => 128,
    }
}

/// Clones into a group.
pub(crate) fn clone_into(flags: libc::c_int, entry: &Entry) -> io::Result<Cloned> {
    let directory = match entry {
        Entry::Directory(fd) => Some(fd.as_fd()),
        Entry::Tasks(_) => None,
    };
    // SAFETY: the helper is single-threaded (checked when it starts, and nothing here starts a thread).
    unsafe { sys::clone3(flags as u64, directory) }
}

fn report_pair() -> Result<(OwnedFd, OwnedFd), Refusal> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(|e| Refusal::os("make report socket", e))?;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| Refusal::os("make report socket", e))?;
    Ok((ours, theirs))
}

fn hear(report: &OwnedFd) -> Heard {
    match protocol::receive::<Report>(report.as_fd()) {
        Ok(Some((Report::Terminal, mut fds))) => match fds.pop() {
            Some(master) => Heard::Terminal(master),
            None => Heard::Failed(StartFailure::Setup, "terminal did not arrive".to_owned()),
        },
        Ok(Some((Report::Failed { kind, message }, _))) => Heard::Failed(kind, message),
        Ok(Some((Report::Waiting, _))) => Heard::Nothing,
        Ok(None) => Heard::Executed,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        Err(e) => Heard::Failed(StartFailure::Setup, format!("report: {e}")),
    }
}

fn signalled(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::done(Reply::Done),
        Err(e) => Outcome::refused(unless_ended("signal", e)),
    }
}

/// Why something could not be done to a process: it may just have ended, or be about to.
fn unless_ended(step: &str, error: io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ESRCH) => Refusal::NotRunning,
        _ => Refusal::os(step, error),
    }
}
