//! Shards: the threads that modules live on. Cap'n Proto RPC is not `Send`, so everything of one module stays on one thread, each with a
//! local executor of its own.

use crate::{engine::lower_priority, fault::HostError};
use futures::future::LocalBoxFuture;
use std::thread;
use tokio::sync::mpsc;

type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// One thread and its local executor. Dropping it stops the thread; tasks on it are dropped where they wait.
pub struct Shard {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Shard {
    /// Starts the thread, which yields to the rest of the process by `niceness`.
    ///
    /// # Errors
    /// `Io` when there can be none.
    pub fn start(number: usize, niceness: i32) -> Result<Self, HostError> {
        let io = |source| HostError::Io { path: format!("module thread {number}").into(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let run = move || {
            if niceness > 0 {
                lower_priority(niceness);
            }
            tokio::task::LocalSet::new().block_on(&runtime, work(queue))
        };
        let thread = thread::Builder::new().name(format!("modules-{number}")).spawn(run).map_err(io)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs a task on the thread. Lost when the shard is stopping.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, job: impl FnOnce() -> F + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Box::new(move || Box::pin(job())));
        }
    }
}

async fn work(mut queue: mpsc::UnboundedReceiver<Job>) {
    while let Some(job) = queue.recv().await {
        tokio::task::spawn_local(job());
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
