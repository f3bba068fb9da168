//! The machine goes down: pods end in good time, the cluster's own last.
//!
//! Told by SIGPWR (a service manager sends it before it stops anything else), the node says that it is not ready, takes no pod any more, and ends its pods:
//! first all others, then those that the cluster cannot do without, each group with its share of the time. Facts:
//! <https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/>.

use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::error::{Error, Result, Step};
use crate::housekeeping::ranking;
use crate::node::Node;
use crate::pod::note::{Note, View};
use crate::pod::record::{Verdict, uid};

/// Linux' number of SIGPWR.
const SIGPWR: i32 = 30;
const LOOK: Duration = Duration::from_millis(20);
/// How long the last statuses may take.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);

/// How a shutdown goes.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Seconds that pods get to end when the machine goes down (told by SIGPWR); 0: they are left alone.
    #[arg(long, default_value_t = 0)]
    pub shutdown_grace_period_s: u32,
    /// How many of them are kept for the pods that the cluster cannot do without.
    #[arg(long, default_value_t = 0)]
    pub shutdown_grace_period_critical_pods_s: u32,
}

impl Options {
    /// Refuses more time for some than there is for all.
    pub fn check(&self) -> Result<()> {
        match self.shutdown_grace_period_critical_pods_s > self.shutdown_grace_period_s {
            true => Err(Error::invalid("--shutdown-grace-period-critical-pods-s", "more than --shutdown-grace-period-s")),
            false => Ok(()),
        }
    }
}

/// Why a new pod may not come any more.
pub fn refusal() -> Verdict {
    Verdict::new("NodeShutdown", "Pod was rejected as the node is shutting down.")
}

/// Waits for the word, ends all pods, and returns. Without a grace period it waits for ever.
pub async fn run(node: Rc<Node>) -> Result<()> {
    let options = &node.options.shutdown;
    if options.shutdown_grace_period_s == 0 {
        return std::future::pending().await;
    }
    let mut word = signal(SignalKind::from_raw(SIGPWR)).step(|| "listening for SIGPWR".into())?;
    word.recv().await;
    tracing::info!("the machine goes down: ending pods");
    node.closing.set(true);
    let last = options.shutdown_grace_period_critical_pods_s;
    for (critical, seconds) in [(false, options.shutdown_grace_period_s - last), (true, last)] {
        end(&node, critical, seconds).await;
    }
    let deadline = Instant::now() + REPORT_PATIENCE;
    while !node.reporter.is_idle() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn end(node: &Node, critical: bool, seconds: u32) {
    let of_group = |view: &Rc<View>| ranking::may_go(&view.pod.borrow()) != critical;
    let views: Vec<_> = node.roster.views().into_iter().filter(of_group).collect();
    for view in &views {
        let verdict = Verdict {
            grace_seconds: Some(seconds.into()),
            disrupts: true,
            ..Verdict::new("Terminated", "Pod was terminated in response to imminent node shutdown.")
        };
        let uid = uid(&view.pod.borrow()).to_owned();
        node.roster.tell(&uid, Note::Evict(verdict));
    }
    let ends = |view: &Rc<View>| {
        let record = view.record.borrow();
        record.ended.is_some() || record.verdict.is_some() && record.sandbox.is_none()
    };
    // Some time on top, for what follows the last SIGKILL.
    let deadline = Instant::now() + Duration::from_secs(u64::from(seconds) + 1);
    while !views.iter().all(ends) && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}
