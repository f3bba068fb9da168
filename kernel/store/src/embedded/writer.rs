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
use std::time::{Duration, Instant};

use redb::Database;

use super::database;
use super::disk::{Disk, Spending};
use super::engine::Engine;
use super::fault::{Fault, is_full};
use super::group::{Group, Plan};
use super::layout::State;
use super::snapshot::Snapshot;
use super::turn::{Answers, Command, Compaction, Turn};
use crate::error::{Error, Result};
use crate::limits;
use crate::store::Revision;

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
    /// The last word of the disk was that there is no room.
    disk_full: bool,
    /// Something was deleted or compacted since the file was shrunk, so it may pay to do it again.
    something_freed: bool,
    shrunk_at: Option<Instant>,
}

/// The file and what is needed to open it again.
pub(super) struct OpenFile {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) cache_bytes: usize,
    pub(super) db: Database,
}

/// How a failed commit is to be answered.
struct Failed {
    fault: Fault,
    /// The failure came when some of it may have been on disk already.
    outcome_known: bool,
}

/// How often a file that cannot be opened is tried again while nobody asks.
const REOPEN_EVERY: Duration = Duration::from_millis(250);
/// How often the file is shrunk at most while the disk is full.
const SHRINK_EVERY: Duration = Duration::from_secs(10);

impl Writer {
    pub(super) fn new(engine: Arc<Engine>, file: OpenFile, commands: Receiver<Command>) -> Self {
        let OpenFile { disk, cache_bytes, db } = file;
        let db = Some(db);
        Self {
            engine,
            disk,
            cache_bytes,
            commands,
            db,
            generation: 0,
            cleaning_paused: false,
            disk_full: false,
            something_freed: false,
            shrunk_at: None,
        }
    }

    /// Work until closed.
    pub(super) fn run(mut self) {
        self.disk_full = !self.spend(Spending::Freely);
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
        while !turn.is_full() {
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
        !self.cleaning_paused && self.engine.snapshot().is_ok_and(|snapshot| snapshot.is_behind_on_cleaning())
    }

    fn work(&mut self, turn: Turn) {
        let wants_reopening = self.db.is_none() || turn.reopen == Some(self.generation);
        if wants_reopening && let Err(fault) = self.reopen() {
            return turn.refuse(&unavailable(fault));
        }
        if self.disk_full && self.spend(Spending::Freely) {
            self.disk_full = false;
        }
        if self.disk_full {
            return self.work_on_full_disk(turn);
        }
        if let Err(turn) = self.attempt(turn, limits::COMPACTION_STEP_CHANGES) {
            self.disk_full = true;
            self.work_on_full_disk(turn);
        }
    }

    /// First what makes room, with the reserve; then the rest, if there is room for it and for the reserve.
    fn work_on_full_disk(&mut self, turn: Turn) {
        let (relief, rest) = turn.split();
        self.spend(Spending::Reserve);
        if let Err(relief) = self.attempt(relief, limits::COMPACTION_STEP_CHANGES) {
            relief.refuse(&Error::NoSpace);
        }
        if rest.is_empty() {
            return;
        }
        let rested = self.shrunk_at.is_none_or(|at| at.elapsed() >= SHRINK_EVERY);
        if self.something_freed && rested {
            self.make_room();
        }
        let refused = if self.spend(Spending::Freely) { self.attempt(rest, 0).err() } else { Some(rest) };
        if let Some(rest) = refused {
            tracing::warn!(transactions = rest.commits.len(), "refused: the disk of the store is full");
            rest.refuse(&Error::NoSpace);
        }
    }

    /// Finish compaction, and give back to the disk what that freed. The database does not reliably put what is new where something was
    /// freed, so room inside the file alone does not help.
    fn make_room(&mut self) {
        let behind = |writer: &Self| writer.engine.snapshot().is_ok_and(|snapshot| snapshot.is_behind_on_cleaning());
        while behind(self) && self.commit_nothing().is_ok() {}
        if let Err(fault) = self.shrink() {
            tracing::warn!(?fault, "cannot shrink the store's file");
        }
        self.something_freed = false;
        self.shrunk_at = Some(Instant::now());
    }

    fn commit_nothing(&mut self) -> Result<()> {
        let snapshot = self.engine.snapshot()?;
        self.commit(snapshot.state, Group::new(&snapshot).finish(), limits::COMPACTION_STEP_CHANGES)
    }

    /// Readers wait meanwhile: what they hold belongs to the closed file, so they ask for a new snapshot.
    fn shrink(&mut self) -> std::result::Result<(), Fault> {
        if self.disk.backend()?.len()? > limits::SHRINK_FILE_BYTES_MAX {
            return Ok(());
        }
        database::close(self.db.take())?;
        let mut db = database::open(self.disk.backend()?, self.cache_bytes)?;
        let shrunk = database::shrink(&mut db);
        self.db = Some(db);
        // Also if it failed: then the database wants to be opened again anyway.
        self.reopen()?;
        shrunk
    }

    /// False if there is no room for that. A disk that cannot keep a reserve for another reason is used without.
    fn spend(&self, spending: Spending) -> bool {
        match self.disk.spend(spending) {
            Err(err) if is_full(&err) => false,
            Err(err) => {
                tracing::warn!(error = %err, ?spending, "cannot set space aside for the store");
                true
            }
            Ok(()) => true,
        }
    }

    /// Plan, commit, answer everybody; or hand the turn back, unanswered, because there is no room for it.
    fn attempt(&mut self, turn: Turn, clean_max: usize) -> std::result::Result<(), Turn> {
        let snapshot = match self.engine.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                turn.refuse(&error);
                return Ok(());
            }
        };
        let (plan, state, answers) = prepare(&snapshot, &turn);
        let idle = plan.writes.is_empty() && state == snapshot.state && !(clean_max > 0 && self.has_cleaning());
        let committed = if idle { Ok(()) } else { self.commit(state, plan, clean_max) };
        if matches!(committed, Err(Error::NoSpace)) {
            return Err(turn);
        }
        let planning_failed = answers.commits.iter().any(|answer| answer.as_ref().is_err_and(Fault::wants_reopening));
        if planning_failed && committed.is_ok() {
            // The next turn, or the next reader, finds out whether the disk is back.
            if let Err(fault) = self.reopen() {
                tracing::warn!(?fault, "the store cannot be opened again yet");
            }
        }
        turn.answer(&committed, answers);
        Ok(())
    }

    fn commit(&mut self, state: State, mut plan: Plan, clean_max: usize) -> Result<()> {
        let Some(db) = &self.db else { return Err(Error::Closed) };
        let target = plan.revision;
        let deletes = plan.latest.iter().any(|(_, stamp)| stamp.is_none());
        let outcome = database::commit(db, state, &plan, clean_max)
            .map_err(|fault| Failed { fault, outcome_known: false })
            .and_then(|_| database::snapshot(db, self.generation).map_err(|fault| Failed { fault, outcome_known: true }));
        match outcome {
            Ok(snapshot) => {
                let revision = snapshot.state.revision;
                self.engine.install(snapshot);
                self.engine.hub.publish(mem::take(&mut plan.batches), revision);
                self.cleaning_paused = false;
                self.something_freed |= deletes || state.cleaned < state.compacted;
                Ok(())
            }
            Err(failed) => self.recover(target, failed),
        }
    }

    /// After a failed commit: see what the file holds.
    fn recover(&mut self, target: Revision, failed: Failed) -> Result<()> {
        let Failed { fault, outcome_known } = failed;
        if !matches!(&fault, Fault::Disk(err) if is_full(err)) {
            tracing::error!(?fault, "a commit failed; opening the store again");
        }
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

/// What to write for a turn, and what to say once it is durable.
fn prepare(snapshot: &Snapshot, turn: &Turn) -> (Plan, State, Answers) {
    let mut group = Group::new(snapshot);
    let mut commits: Vec<std::result::Result<Result<Revision>, Fault>> = Vec::with_capacity(turn.commits.len());
    for commit in &turn.commits {
        // After a fault nothing more is read: what follows would fail too, and slowly.
        let answer = match commits.last() {
            Some(Err(fault)) => Err(fault.clone()),
            _ => database::guarded(|| group.add(&commit.txn)),
        };
        commits.push(answer);
    }
    let plan = group.finish();
    let mut state = snapshot.state;
    let compact = |compaction: &Compaction| compact(&mut state, plan.revision, compaction.to);
    let compactions = turn.compactions.iter().map(compact).collect();
    (plan, state, Answers { commits, compactions })
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
