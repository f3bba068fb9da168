//! The one writer: a thread that owns the file, takes whatever is queued, and commits it as one durable group.
//!
//! The obvious design, one commit a transaction, spends two syncs on each. While one group is being synced the next one
//! queues up, so under load the cost of the syncs is shared by all who wait, and a lone caller waits for its own only.
//!
//! Order after a commit: readers see it, then watches, then the callers. So who was answered finds what it wrote, and who
//! saw an event finds at least that when reading.
//!
//! When the disk fails: the file is opened again and tells what it holds. A group that is found there is acknowledged after
//! all (opening made it durable), one that is not is refused. Only if the file cannot be opened is the outcome unknown, and
//! then nothing is served as written until it can.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use redb::Database;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::database;
use super::disk::Disk;
use super::engine::Engine;
use super::fault::Fault;
use super::group::{Group, Plan};
use super::layout::State;
use super::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::limits;
use crate::store::{Revision, Txn};

/// What the writer is asked to do.
pub(super) enum Command {
    /// Commit a transaction. The permit keeps its place in the queue until it is answered.
    Commit { txn: Txn, reply: oneshot::Sender<Result<Revision>>, permit: OwnedSemaphorePermit },
    /// Forget history before a revision.
    Compact { to: Revision, reply: oneshot::Sender<Result<()>> },
    /// A reader met a failed disk in this generation.
    Reopen { failed: u64 },
    /// Close the file and end.
    Close,
}

pub(super) struct Writer {
    engine: Arc<Engine>,
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    commands: Receiver<Command>,
    /// `None` while the disk does not let us open it.
    db: Option<Database>,
    generation: u64,
    /// A compaction step failed; wait for the next commit before trying more.
    cleaning_paused: bool,
}

/// The file and what is needed to open it again.
pub(super) struct OpenFile {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cache_bytes: usize,
    pub(super) db: Database,
}

/// One turn's work, in the order it came.
#[derive(Default)]
struct Turn {
    commits: Vec<(Txn, oneshot::Sender<Result<Revision>>, OwnedSemaphorePermit)>,
    compactions: Vec<(Revision, oneshot::Sender<Result<()>>)>,
    reopen: Option<u64>,
    close: bool,
    bytes: usize,
}

/// How a failed commit is to be answered.
struct Failed {
    fault: Fault,
    /// The failure came when some of it may have been on disk already.
    outcome_known: bool,
}

/// How often a file that cannot be opened is tried again while nobody asks.
const REOPEN_EVERY: Duration = Duration::from_millis(250);

impl Writer {
    pub(super) fn new(engine: Arc<Engine>, file: OpenFile, commands: Receiver<Command>) -> Self {
        let OpenFile { disk, cache_bytes, db } = file;
        Self { engine, disk, cache_bytes, commands, db: Some(db), generation: 0, cleaning_paused: false }
    }

    /// Work until closed.
    pub(super) fn run(mut self) {
        loop {
            let turn = self.gather();
            let close = turn.close;
            self.work(turn);
            if close {
                break;
            }
        }
        self.engine.close();
        if database::close(self.db.take()).is_err() {
            tracing::warn!("the store did not close cleanly; it will recover when opened");
        }
        self.disk.release();
    }

    /// Wait for something to do, then take all that is queued, within the limits of a group.
    fn gather(&mut self) -> Turn {
        let mut turn = Turn::default();
        match self.first() {
            Some(command) => turn.take(command),
            None => return turn,
        }
        while turn.commits.len() < limits::GROUP_TXNS_MAX && turn.bytes < limits::GROUP_BYTES_MAX && !turn.close {
            match self.commands.try_recv() {
                Ok(command) => turn.take(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => turn.close = true,
            }
        }
        turn
    }

    /// The next command; `None` when there is none but something else to do.
    fn first(&mut self) -> Option<Command> {
        if self.db.is_none() {
            return match self.commands.recv_timeout(REOPEN_EVERY) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => Some(Command::Reopen { failed: self.generation }),
                Err(RecvTimeoutError::Disconnected) => Some(Command::Close),
            };
        }
        if self.has_cleaning() {
            return match self.commands.try_recv() {
                Ok(command) => Some(command),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Command::Close),
            };
        }
        Some(self.commands.recv().unwrap_or(Command::Close))
    }

    fn has_cleaning(&self) -> bool {
        let behind = |snapshot: Arc<Snapshot>| snapshot.state.cleaned < snapshot.state.compacted;
        !self.cleaning_paused && self.engine.snapshot().is_ok_and(behind)
    }

    fn work(&mut self, turn: Turn) {
        let wants_reopening = self.db.is_none() || turn.reopen == Some(self.generation);
        if wants_reopening && let Err(fault) = self.reopen() {
            return turn.refuse(&unavailable(fault));
        }
        let snapshot = match self.engine.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => return turn.refuse(&error),
        };
        let mut group = Group::new(&snapshot);
        let mut answers = Vec::with_capacity(turn.commits.len());
        let Turn { commits, compactions, .. } = turn;
        let mut planning = Ok(());
        for (txn, reply, permit) in commits {
            let answer = match &planning {
                Ok(()) => database::guarded(|| group.add(&txn)),
                Err(fault) => Err(Fault::clone(fault)),
            };
            if let Err(fault) = &answer {
                planning = Err(fault.clone());
            }
            answers.push((answer, reply, permit));
        }
        self.settle(&snapshot, group.finish(), answers, compactions, planning.err());
    }

    /// Commit what was planned and answer everybody.
    fn settle(
        &mut self,
        snapshot: &Snapshot,
        plan: Plan,
        answers: Vec<Answer>,
        compactions: Vec<(Revision, oneshot::Sender<Result<()>>)>,
        planning: Option<Fault>,
    ) {
        let mut state = snapshot.state;
        let mut compacted = Vec::with_capacity(compactions.len());
        for (to, reply) in compactions {
            compacted.push((compact(&mut state, plan.revision, to), reply));
        }
        let idle = plan.writes.is_empty() && state == snapshot.state && !self.has_cleaning();
        let committed = if idle { Ok(()) } else { self.commit(state, plan) };
        if planning.is_some_and(|fault| fault.wants_reopening()) && committed.is_ok() {
            // The next turn, or the next reader, finds out whether the disk is back.
            if let Err(fault) = self.reopen() {
                tracing::warn!(?fault, "the store cannot be opened again yet");
            }
        }
        for (answer, reply, permit) in answers {
            let answer = match (&committed, answer) {
                (Ok(()), answer) => answer.map_err(Error::from).and_then(|answer| answer),
                (Err(error), _) => Err(error.clone()),
            };
            // A caller that stopped waiting does not want its answer.
            let _ = reply.send(answer);
            drop(permit);
        }
        for (answer, reply) in compacted {
            let _ = reply.send(match &committed {
                Ok(()) => answer,
                Err(error) => Err(error.clone()),
            });
        }
    }

    fn commit(&mut self, state: State, mut plan: Plan) -> Result<()> {
        let Some(db) = &self.db else { return Err(Error::Closed) };
        let target = plan.revision;
        let outcome = database::commit(db, state, &plan)
            .map_err(|fault| Failed { fault, outcome_known: false })
            .and_then(|_| database::snapshot(db, self.generation).map_err(|fault| Failed { fault, outcome_known: true }));
        match outcome {
            Ok(snapshot) => {
                let revision = snapshot.state.revision;
                self.engine.install(snapshot);
                self.engine.hub.publish(mem::take(&mut plan.batches), revision);
                self.cleaning_paused = false;
                Ok(())
            }
            Err(failed) => self.recover(target, failed),
        }
    }

    /// After a failed commit: see what the file holds.
    fn recover(&mut self, target: Revision, failed: Failed) -> Result<()> {
        let Failed { fault, outcome_known } = failed;
        tracing::error!(?fault, "a commit failed; opening the store again");
        self.cleaning_paused = true;
        let before = self.engine.hub.published();
        match self.reopen() {
            Ok(reached) if outcome_known || (reached >= target && target > before) => Ok(()),
            Ok(_) => Err(fault.into()),
            Err(_) => Err(match fault {
                Fault::Disk(err) => Error::OutcomeUnknown(err),
                fault => fault.into(),
            }),
        }
    }

    /// Open the file again, show readers what it holds, and tell watches what they have not heard. Returns its revision.
    fn reopen(&mut self) -> std::result::Result<Revision, Fault> {
        database::close(self.db.take())?;
        let db = database::open(self.disk.backend()?, self.cache_bytes)?;
        let snapshot = database::snapshot(&db, self.generation + 1)?;
        self.db = Some(db);
        self.generation += 1;
        let revision = snapshot.state.revision;
        let snapshot = self.engine.install(snapshot);
        loop {
            let published = self.engine.hub.published();
            if published >= revision {
                return Ok(revision);
            }
            let replay = database::guarded(|| snapshot.replay(b"", published))?;
            self.engine.hub.publish(replay.batches, replay.scanned);
        }
    }
}

type Answer = (std::result::Result<Result<Revision>, Fault>, oneshot::Sender<Result<Revision>>, OwnedSemaphorePermit);

impl Turn {
    fn take(&mut self, command: Command) {
        match command {
            Command::Commit { txn, reply, permit } => {
                self.bytes += txn.bytes();
                self.commits.push((txn, reply, permit));
            }
            Command::Compact { to, reply } => self.compactions.push((to, reply)),
            Command::Reopen { failed } => self.reopen = self.reopen.max(Some(failed)),
            Command::Close => self.close = true,
        }
    }

    fn refuse(self, error: &Error) {
        for (_, reply, _permit) in self.commits {
            let _ = reply.send(Err(error.clone()));
        }
        for (_, reply) in self.compactions {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// Move the oldest revision kept, if that is allowed and changes anything.
fn compact(state: &mut State, current: Revision, to: Revision) -> Result<()> {
    if to > current {
        return Err(Error::FutureRevision { requested: to, current });
    }
    state.compacted = state.compacted.max(to);
    Ok(())
}

fn unavailable(fault: Fault) -> Error {
    match fault {
        Fault::Disk(err) => Error::Unavailable(err),
        Fault::Poisoned => Error::Unavailable(Arc::new(io::Error::other("an earlier disk error"))),
        fault => fault.into(),
    }
}
