//! The helper's event loop: one epoll, no timers, no threads.
//!
//! Everything that can happen is a [`Source`]: a client, a child's end, output, a report from a starting child. Nothing
//! here waits: replies that do not fit a client's socket are queued (a client that never reads is dropped), and a
//! start is answered when its report socket closes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::containers::{Containers, Outcome};
use super::log::Stream;
use super::protocol::{self, Op, Push, Refusal, Reply, Request};
use super::sandboxes::{Home, Namespaces, record_of_this_boot};
use crate::cgroup::Hierarchies;
use crate::spec::{ContainerId, SandboxId};
use crate::state::Layout;

const EVENTS_MAX: usize = 64;
/// Messages that may wait for a client.
const QUEUE_MAX: usize = 10_000;

/// What an epoll event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Listener,
    ChildEnded,
    Client(u64),
    /// The report socket of a starting container.
    Starting(ContainerId),
    /// The report socket of a starting exec.
    StartingExec(u64, u64),
    Output(ContainerId, Stream),
    /// The pidfd of an adopted container's init.
    Adopted(ContainerId),
}

/// Registrations with epoll.
pub(crate) struct Watches {
    epoll: Epoll,
    sources: HashMap<u64, Source>,
    tokens: HashMap<Source, u64>,
    next: u64,
}

/// Who gets the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) client: u64,
    pub(crate) seq: u64,
}

/// What the parts of the helper share.
pub(crate) struct Context {
    pub(crate) layout: Layout,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) home: Home,
    pub(crate) watches: Watches,
    clients: HashMap<u64, Client>,
}

struct Client {
    socket: OwnedFd,
    queue: VecDeque<(Push, Vec<OwnedFd>)>,
}

/// Why a helper stops serving.
pub(crate) enum Ending {
    Quit,
    /// `program` takes over this process, and these terminals with it.
    Replace {
        program: OwnedFd,
        terminals: Vec<(ContainerId, OwnedFd)>,
    },
}

/// The helper.
pub(crate) struct Helper {
    context: Context,
    sandboxes: HashMap<SandboxId, Namespaces>,
    containers: Containers,
    signals: SignalFd,
    next_client: u64,
}

impl Watches {
    pub(crate) fn add(&mut self, fd: impl AsFd, source: Source) -> io::Result<()> {
        self.add_flags(fd, source, EpollFlags::EPOLLIN)
    }

    fn add_flags(&mut self, fd: impl AsFd, source: Source, flags: EpollFlags) -> io::Result<()> {
        let token = self.next;
        self.next += 1;
        self.epoll.add(fd, EpollEvent::new(flags, token))?;
        self.sources.insert(token, source.clone());
        self.tokens.insert(source, token);
        Ok(())
    }

    /// Must be called before the descriptor is closed.
    pub(crate) fn remove(&mut self, fd: impl AsFd, source: &Source) {
        if let Some(token) = self.tokens.remove(source) {
            self.sources.remove(&token);
            let _ = self.epoll.delete(fd);
        }
    }

    fn change(&mut self, fd: impl AsFd, source: &Source, flags: EpollFlags) {
        if let Some(token) = self.tokens.get(source) {
            let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, *token));
        }
    }
}

impl Context {
    /// Answers a request.
    pub(crate) fn answer(&mut self, caller: Caller, result: Result<Reply, Refusal>, fds: Vec<OwnedFd>) {
        self.push(caller.client, Push::Reply { seq: caller.seq, result }, fds);
    }

    /// Tells one client something.
    pub(crate) fn push(&mut self, client: u64, message: Push, fds: Vec<OwnedFd>) {
        if let Some(entry) = self.clients.get_mut(&client) {
            entry.queue.push_back((message, fds));
            self.flush(client);
        }
    }

    /// Tells all clients something.
    pub(crate) fn broadcast(&mut self, message: impl Fn() -> Push) {
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        for client in clients {
            self.push(client, message(), Vec::new());
        }
    }

    fn flush(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        while let Some((message, fds)) = client.queue.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match protocol::send(client.socket.as_fd(), message, &borrowed) {
                Ok(()) => {
                    client.queue.pop_front();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && client.queue.len() < QUEUE_MAX => break,
                // Its end of the socket is gone (or might as well be): the read side will notice and clean up.
                Err(_) => {
                    client.queue.clear();
                    let _ = nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&client.socket), nix::sys::socket::Shutdown::Both);
                }
            }
        }
        let flags = if client.queue.is_empty() { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT };
        self.watches.change(&client.socket, &Source::Client(id), flags);
    }
}

impl Helper {
    /// Adopts what the state directory says is there.
    pub(crate) fn new(layout: Layout, terminals: Vec<(ContainerId, OwnedFd)>) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        // Hang-ups, interrupts and terminations aimed at the daemon's group must not end its containers' parent.
        for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
            mask.add(ignored);
        }
        mask.thread_block()?;
        let mut child_ended = SigSet::empty();
        child_ended.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&child_ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let watches =
            Watches { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, sources: HashMap::new(), tokens: HashMap::new(), next: 0 };
        let hierarchies = Hierarchies::detect();
        let context = Context { layout, hierarchies, home: Home::open()?, watches, clients: HashMap::new() };
        let mut helper = Self { context, sandboxes: HashMap::new(), containers: Containers::default(), signals, next_client: 0 };
        helper.adopt(terminals);
        // Children that ended while a predecessor in this process was being replaced send no signal any more.
        helper.reap();
        Ok(helper)
    }

    fn adopt(&mut self, terminals: Vec<(ContainerId, OwnedFd)>) {
        let mut terminals: HashMap<ContainerId, OwnedFd> = terminals.into_iter().collect();
        for name in names(&self.context.layout.sandboxes()) {
            let Some(id) = name.strip_suffix(".json").and_then(|n| SandboxId::parse(n).ok()) else { continue };
            let Some(record) = record_of_this_boot(&self.context.layout, &id) else { continue };
            match Namespaces::adopt(&self.context.layout, &id, record) {
                Ok(namespaces) => {
                    self.sandboxes.insert(id, namespaces);
                }
                Err(e) => eprintln!("sandbox {id} not adopted: {e}"),
            }
        }
        for name in names(&self.context.layout.containers()) {
            if let Ok(id) = ContainerId::parse(&name)
                && let Err(e) = self.containers.adopt(&mut self.context, &id, terminals.remove(&id))
            {
                eprintln!("container {id} not adopted: {e}");
            }
        }
    }

    /// Serves until told otherwise.
    pub(crate) fn run(mut self, listener: &OwnedFd, first: Option<OwnedFd>) -> io::Result<Ending> {
        self.context.watches.add(listener, Source::Listener)?;
        self.context.watches.add(&self.signals, Source::ChildEnded)?;
        if let Some(first) = first {
            self.add_client(first)?;
        }
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let count = match self.context.watches.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                // An earlier event of this batch may have taken the source away.
                let Some(source) = self.context.watches.sources.get(&event.data()).cloned() else { continue };
                if let Some(ending) = self.handle(source, event.events(), listener) {
                    return Ok(ending);
                }
            }
        }
    }

    fn handle(&mut self, source: Source, flags: EpollFlags, listener: &OwnedFd) -> Option<Ending> {
        match source {
            Source::Listener => self.accept(listener),
            Source::ChildEnded => self.reap(),
            Source::Client(id) => {
                if flags.contains(EpollFlags::EPOLLOUT) {
                    self.context.flush(id);
                }
                if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    return self.serve_client(id);
                }
            }
            Source::Starting(id) => self.containers.report(&mut self.context, &id),
            Source::StartingExec(client, exec) => self.containers.report_exec(&mut self.context, client, exec),
            Source::Output(id, stream) => self.containers.output(&mut self.context, &id, stream),
            Source::Adopted(id) => self.containers.adopted_ended(&mut self.context, &id),
        }
        None
    }

    fn accept(&mut self, listener: &OwnedFd) {
        use std::os::fd::{AsRawFd, FromRawFd};
        while let Ok(fd) = nix::sys::socket::accept4(listener.as_raw_fd(), nix::sys::socket::SockFlag::SOCK_CLOEXEC) {
            // SAFETY: accept4 has just given us this descriptor.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            if let Err(e) = self.add_client(socket) {
                eprintln!("client not served: {e}");
            }
        }
    }

    fn add_client(&mut self, socket: OwnedFd) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let id = self.next_client;
        self.next_client += 1;
        self.context.watches.add(&socket, Source::Client(id))?;
        self.context.clients.insert(id, Client { socket, queue: VecDeque::new() });
        Ok(())
    }

    fn serve_client(&mut self, id: u64) -> Option<Ending> {
        loop {
            let client = self.context.clients.get(&id)?;
            match protocol::receive::<Request>(client.socket.as_fd()) {
                Ok(Some((request, fds))) => {
                    let caller = Caller { client: id, seq: request.seq };
                    match request.op {
                        Op::Quit => {
                            self.context.answer(caller, Ok(Reply::Done), Vec::new());
                            return Some(Ending::Quit);
                        }
                        Op::Replace => {
                            if let Some(ending) = self.give_way(caller, fds) {
                                return Some(ending);
                            }
                        }
                        op => {
                            if let Outcome::Now(result, fds) = self.dispatch(caller, op, fds) {
                                self.context.answer(caller, result, fds);
                            }
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Ok(None) | Err(_) => {
                    if let Some(client) = self.context.clients.remove(&id) {
                        self.context.watches.remove(&client.socket, &Source::Client(id));
                    }
                    self.containers.client_gone(id);
                    return None;
                }
            }
        }
    }

    /// Agrees to be replaced, unless a start is under way (its report socket would be lost).
    fn give_way(&mut self, caller: Caller, mut fds: Vec<OwnedFd>) -> Option<Ending> {
        let Some(program) = fds.pop() else {
            self.context.answer(caller, Err(Refusal::Malformed("no program given".to_owned())), Vec::new());
            return None;
        };
        let Some(terminals) = self.containers.hand_over() else {
            self.context.answer(caller, Err(Refusal::Busy), Vec::new());
            return None;
        };
        self.context.answer(caller, Ok(Reply::Done), Vec::new());
        Some(Ending::Replace { program, terminals })
    }

    fn dispatch(&mut self, caller: Caller, op: Op, fds: Vec<OwnedFd>) -> Outcome {
        let context = &mut self.context;
        let containers = &mut self.containers;
        match op {
            Op::Hello { .. } => Outcome::done(Reply::Hello { version: protocol::VERSION, pid: nix::unistd::getpid().as_raw() }),
            Op::Quit | Op::Replace => Outcome::refused(Refusal::Malformed("not for here".to_owned())),
            Op::CreateSandbox { id } => self.create_sandbox(id),
            Op::RemoveSandbox { id } => self.remove_sandbox(&id),
            Op::NetNs { id } => self.network_namespace(&id),
            Op::Start { id } => containers.start(context, &mut self.sandboxes, caller, id),
            Op::Signal { id, signal } => containers.signal(&id, signal),
            Op::KillAll { id } => containers.kill_all(context, &id),
            Op::Forget { id } => containers.forget(context, &id),
            Op::Exec { container, exec, process } => containers.exec(context, caller, &container, exec, process, fds),
            Op::SignalExec { exec, signal } => containers.signal_exec(caller.client, exec, signal),
            Op::Attach { id } => containers.attach(&id, fds),
            Op::StdinDone { id } => containers.stdin_done(&id),
            Op::ReopenLog { id } => containers.reopen_log(&id),
        }
    }

    fn create_sandbox(&mut self, id: SandboxId) -> Outcome {
        let context = &self.context;
        let Some(record) = record_of_this_boot(&context.layout, &id) else { return Outcome::refused(Refusal::NotFound) };
        match Namespaces::create(&context.home, &context.layout, &context.hierarchies, &id, record) {
            Ok(namespaces) => {
                self.sandboxes.insert(id, namespaces);
                Outcome::done(Reply::Done)
            }
            Err(refusal) => {
                let _ = super::sandboxes::unpin(&context.layout.pins(&id));
                Outcome::refused(refusal)
            }
        }
    }

    fn remove_sandbox(&mut self, id: &SandboxId) -> Outcome {
        let layout = &self.context.layout;
        let removed = match self.sandboxes.remove(id) {
            Some(namespaces) => namespaces.remove(layout, id),
            None => super::sandboxes::unpin(&layout.pins(id)),
        };
        match removed {
            Ok(()) => Outcome::done(Reply::Done),
            Err(e) => Outcome::refused(Refusal::os("unpin sandbox", e)),
        }
    }

    fn network_namespace(&self, id: &SandboxId) -> Outcome {
        let found = self.sandboxes.get(id).and_then(|s| s.own.iter().find(|(_, kind)| *kind == libc::CLONE_NEWNET));
        match found.map(|(fd, _)| fd.try_clone()) {
            Some(Ok(fd)) => Outcome::Now(Ok(Reply::Done), vec![fd]),
            Some(Err(e)) => Outcome::refused(Refusal::os("dup", e)),
            None => Outcome::refused(Refusal::NotFound),
        }
    }

    fn reap(&mut self) {
        while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        loop {
            let mut status = 0;
            // SAFETY: status outlives the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
            if pid <= 0 {
                return;
            }
            self.containers.ended(&mut self.context, pid, status);
        }
    }
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
