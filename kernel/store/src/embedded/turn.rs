//! What the writer is asked, and one turn of it: what was queued together, and how it is answered.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::fault::Fault;
use crate::error::{Error, Result};
use crate::limits;
use crate::store::{Revision, Txn, Write};

/// What the writer is asked to do.
pub(super) enum Command {
    /// Commit a transaction.
    Commit(Commit),
    /// Forget history before a revision.
    Compact(Compaction),
    /// A reader met a failed disk in this generation.
    Reopen { failed: u64 },
    /// Close the file and end.
    Close,
}

pub(super) struct Commit {
    pub(super) txn: Txn,
    pub(super) reply: oneshot::Sender<Result<Revision>>,
    /// Keeps the transaction's place in the queue until it is answered.
    pub(super) permit: OwnedSemaphorePermit,
}

pub(super) struct Compaction {
    pub(super) to: Revision,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

/// One turn's work, in the order it came.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) commits: Vec<Commit>,
    pub(super) compactions: Vec<Compaction>,
    pub(super) reopen: Option<u64>,
    pub(super) close: bool,
    bytes: usize,
}

/// What was planned as an answer to each, should the commit succeed.
pub(super) struct Answers {
    pub(super) commits: Vec<std::result::Result<Result<Revision>, Fault>>,
    pub(super) compactions: Vec<Result<()>>,
}

impl Turn {
    pub(super) fn take(&mut self, command: Command) {
        match command {
            Command::Commit(commit) => {
                self.bytes += commit.txn.bytes();
                self.commits.push(commit);
            }
            Command::Compact(compaction) => self.compactions.push(compaction),
            Command::Reopen { failed } => self.reopen = self.reopen.max(Some(failed)),
            Command::Close => self.close = true,
        }
    }

    /// A group takes no more than this.
    pub(super) fn is_full(&self) -> bool {
        self.close || self.commits.len() >= limits::GROUP_TXNS_MAX || self.bytes >= limits::GROUP_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.compactions.is_empty()
    }

    /// What makes room, and the rest.
    pub(super) fn split(self) -> (Turn, Turn) {
        let puts = |commit: &Commit| commit.txn.writes.iter().any(|write| matches!(write, Write::Put { .. }));
        let (rest, relief) = self.commits.into_iter().partition(puts);
        let relief = Turn { commits: relief, compactions: self.compactions, ..Turn::default() };
        (relief, Turn { commits: rest, ..Turn::default() })
    }

    /// Give each what was planned for it, if that was committed. Who stopped waiting does not want it.
    pub(super) fn answer(self, committed: &Result<()>, answers: Answers) {
        for (commit, planned) in self.commits.into_iter().zip(answers.commits) {
            let answer = committed.clone().and_then(|()| planned.map_err(Error::from)?);
            let _ = commit.reply.send(answer);
            drop(commit.permit);
        }
        for (compaction, planned) in self.compactions.into_iter().zip(answers.compactions) {
            let _ = compaction.reply.send(committed.clone().and(planned));
        }
    }

    /// Give all the same error.
    pub(super) fn refuse(self, error: &Error) {
        for commit in self.commits {
            let _ = commit.reply.send(Err(error.clone()));
        }
        for compaction in self.compactions {
            let _ = compaction.reply.send(Err(error.clone()));
        }
    }
}
