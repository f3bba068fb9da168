//! The daemon's end of the conversation with the helper.
//!
//! One connection, shared by all clones of a runtime; replies find their callers by sequence number. When the helper
//! goes away its callers get an error, and a new helper is started at once: output of running containers waits in
//! fifos until one reads it. Invariant: there is at most one helper a state directory (it holds a file lock).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, oneshot};
use tokio::task::AbortHandle;

use crate::error::{Error, Result};
use crate::helper;
use crate::helper::protocol::{self, Op, Push, Refusal, Reply, Request};
use crate::state::{Event, Exit, Layout};
use crate::sys;

/// Events that a slow receiver may fall behind before it is told that it lost some.
const EVENTS_MAX: usize = 4096;
/// A helper that does not answer its greeting within this time is not one.
const GREETING_TIME: Duration = Duration::from_secs(10);
const RESTART_PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS_MAX: u32 = 25;

type Answer = (std::result::Result<Reply, Refusal>, Vec<OwnedFd>);

/// The conversation, across helpers.
pub(crate) struct Link {
    layout: Layout,
    program: Option<PathBuf>,
    current: tokio::sync::Mutex<Option<Arc<Connection>>>,
    events: broadcast::Sender<Event>,
    next: AtomicU64,
}

/// The conversation with one helper.
struct Connection {
    socket: AsyncFd<OwnedFd>,
    pending: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    execs: Mutex<HashMap<u64, oneshot::Sender<Exit>>>,
    closed: AtomicBool,
    reader: Mutex<Option<AbortHandle>>,
}

impl Link {
    /// Connects to the running helper, or starts one.
    pub(crate) async fn open(layout: Layout, program: Option<PathBuf>) -> Result<Arc<Self>> {
        let link = Arc::new(Self {
            layout,
            program,
            current: tokio::sync::Mutex::new(None),
            events: broadcast::channel(EVENTS_MAX).0,
            next: AtomicU64::new(1),
        });
        link.connection().await?;
        Ok(link)
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// A number that no other request or exec of this link has.
    pub(crate) fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(self: &Arc<Self>, op: Op, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let connection = self.connection().await?;
        connection.ask(self.fresh(), op, fds).await
    }

    /// Asks for an exec; the receiver gets how it ended.
    pub(crate) async fn ask_exec(self: &Arc<Self>, exec: u64, op: Op, fds: &[BorrowedFd<'_>]) -> Result<(Answer, oneshot::Receiver<Exit>)> {
        let connection = self.connection().await?;
        let (sender, receiver) = oneshot::channel();
        lock(&connection.execs).insert(exec, sender);
        let answer = connection.ask(self.fresh(), op, fds).await;
        if !matches!(answer, Ok((Ok(_), _))) {
            lock(&connection.execs).remove(&exec);
        }
        Ok((answer?, receiver))
    }

    async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|c| !c.closed.load(Ordering::Acquire)) {
            return Ok(connection.clone());
        }
        let connection = self.establish().await?;
        // Told here, not by who noticed the end of the last one: whoever asks first brings the next one up.
        if current.replace(connection.clone()).is_some() {
            let _ = self.events.send(Event::HelperRestarted);
        }
        Ok(connection)
    }

    async fn establish(self: &Arc<Self>) -> Result<Arc<Connection>> {
        let mut last = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                // Another daemon's helper is just coming up or just going away.
                tokio::time::sleep(RESTART_PAUSE).await;
            }
            let socket = match helper::connect(&self.layout) {
                Ok(socket) => socket,
                Err(_) => match self.spawn() {
                    Ok(socket) => socket,
                    Err(e) => {
                        last = e.to_string();
                        continue;
                    }
                },
            };
            let connection = Connection::start(socket, Arc::downgrade(self))?;
            let hello = connection.ask(self.fresh(), Op::Hello { version: protocol::VERSION }, &[]);
            match tokio::time::timeout(GREETING_TIME, hello).await {
                Ok(Ok((Ok(Reply::Hello { version, pid }), _))) if version == protocol::VERSION => {
                    tracing::debug!(pid, "connected to container helper");
                    return Ok(connection);
                }
                Ok(Ok((Ok(Reply::Hello { version, .. }), _))) => {
                    tracing::info!(version, "replacing a container helper of another version");
                    let replaced = self.replace_by(&connection).await;
                    last = format!("helper of version {version} did not give way: {replaced:?}");
                }
                Ok(Ok(_)) => last = "helper did not return the greeting".to_owned(),
                Ok(Err(e)) => last = e.to_string(),
                Err(_) => last = "helper did not answer".to_owned(),
            }
            connection.stop();
        }
        Err(Error::HelperUnavailable(last))
    }

    /// Puts this program in the running helper's place; it stays the same process with the same children.
    pub(crate) async fn replace(self: &Arc<Self>) -> Result<()> {
        let mut news = self.events();
        let connection = self.connection().await?;
        for _ in 0..ATTEMPTS_MAX {
            match self.replace_by(&connection).await? {
                Ok(_) => {
                    while !matches!(news.recv().await, Ok(Event::HelperRestarted) | Err(broadcast::error::RecvError::Closed)) {}
                    return Ok(());
                }
                Err(Refusal::Busy) => tokio::time::sleep(RESTART_PAUSE).await,
                Err(refusal) => return Err(refusal.into_error("helper")),
            }
        }
        Err(Refusal::Busy.into_error("helper"))
    }

    async fn replace_by(&self, connection: &Connection) -> Result<std::result::Result<Reply, Refusal>> {
        let program = helper::sealed_program(self.program.as_deref());
        let program = program.map_err(|e| Error::os("copy the helper's program", e))?;
        Ok(connection.ask(self.fresh(), Op::Replace, &[program.as_fd()]).await?.0)
    }

    fn spawn(&self) -> io::Result<OwnedFd> {
        let (mut child, socket) = helper::spawn(&self.layout, self.program.as_deref())?;
        let pidfd = sys::pidfd_open(i32::try_from(child.id()).unwrap_or(0))?;
        let ended = sys::watched(pidfd, Interest::READABLE)?;
        tokio::spawn(async move {
            let _ = ended.readable().await.map(|_| ());
            if let Ok(status) = child.wait() {
                tracing::warn!(%status, "container helper ended");
            }
        });
        Ok(socket)
    }

    fn told(&self, connection: &Connection, push: Push, fds: Vec<OwnedFd>) {
        match push {
            Push::Reply { seq, result } => {
                if let Some(caller) = lock(&connection.pending).remove(&seq) {
                    let _ = caller.send((result, fds));
                }
            }
            Push::Exited { id, exit } => {
                let _ = self.events.send(Event::Exited { id, exit });
            }
            Push::ExecExited { exec, exit } => {
                if let Some(waiter) = lock(&connection.execs).remove(&exec) {
                    let _ = waiter.send(exit);
                }
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(connection) = self.current.get_mut() {
            connection.stop();
        }
    }
}

impl Connection {
    fn start(socket: OwnedFd, link: Weak<Link>) -> Result<Arc<Self>> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let failed = |e: io::Error| Error::os("connect to container helper", e);
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed(e.into()))?;
        let connection = Arc::new(Self {
            socket: sys::watched(socket, Interest::READABLE | Interest::WRITABLE).map_err(failed)?,
            pending: Mutex::default(),
            execs: Mutex::default(),
            closed: AtomicBool::new(false),
            reader: Mutex::default(),
        });
        let reading = connection.clone();
        let reader = tokio::spawn(async move { reading.read(link).await });
        *lock(&connection.reader) = Some(reader.abort_handle());
        Ok(connection)
    }

    fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(reader) = lock(&self.reader).take() {
            reader.abort();
        }
        lock(&self.pending).clear();
        lock(&self.execs).clear();
    }

    async fn ask(&self, seq: u64, op: Op, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let gone = || Error::HelperUnavailable("it ended before it answered".to_owned());
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).insert(seq, sender);
        if self.closed.load(Ordering::Acquire) {
            lock(&self.pending).remove(&seq);
            return Err(gone());
        }
        let request = Request { seq, op };
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| protocol::send(socket.as_fd(), &request, fds)).await;
        if let Err(e) = sent {
            lock(&self.pending).remove(&seq);
            return Err(Error::HelperUnavailable(e.to_string()));
        }
        receiver.await.map_err(|_| gone())
    }

    async fn read(self: Arc<Self>, link: Weak<Link>) {
        loop {
            let next = self.socket.async_io(Interest::READABLE, |socket| protocol::receive::<Push>(socket.as_fd())).await;
            match (next, link.upgrade()) {
                (Ok(Some((push, fds))), Some(link)) => link.told(&self, push, fds),
                (_, None) => return,
                (ended, Some(link)) => {
                    if let Err(error) = ended {
                        tracing::warn!(%error, "conversation with the container helper broke");
                    }
                    self.closed.store(true, Ordering::Release);
                    lock(&self.pending).clear();
                    lock(&self.execs).clear();
                    let was_current = link.current.lock().await.as_ref().is_some_and(|c| Arc::ptr_eq(c, &self));
                    if was_current {
                        tokio::spawn(revive(link));
                    }
                    return;
                }
            }
        }
    }
}

/// Starts the next helper, so that containers' output is read again and their ends are seen.
async fn revive(link: Arc<Link>) {
    if let Err(error) = link.connection().await {
        tracing::error!(%error, "container helper cannot be started again");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
