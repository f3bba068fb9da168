//! Asks a version of a module what another was asked, by the kernel's own engine, and says what it would do otherwise.
//!
//! Each start in the record is a new instance, told what the recorded one was told; each call after it is made in the same order with the same
//! parameters, which are all that a module ever learns: the clock is among them, and its random numbers are a fixed sequence. What a
//! controller of the SDK read for an answer is in the record, and given with the question. It holds no capability here: what it did not read then it
//! cannot read now, and what it writes by one of its own, outside of its answers, is not in a record.

use pintle_host::{
    Generation, HostError, ModuleId,
    engine::{Answers, Engine, Mirror, MirrorSettings, digest_of},
};
use pintle_record::{Entry, Header, Step, differences, show, with_reads};
use std::time::Duration;

/// One call that was answered otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which call of the record, counted from 1.
    pub call: usize,
    /// When it was made, in milliseconds since 1970.
    pub at_millis: u64,
    /// `/path: recorded -> now`, a line each.
    pub lines: Vec<String>,
}

/// How a replay went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `sha256:` of what was asked now.
    pub digest: String,
    /// Calls that were made.
    pub calls: usize,
    /// Those that were answered otherwise.
    pub differences: Vec<Difference>,
}

/// Replays a record against `wasm`.
///
/// # Errors
/// It is no module, it does not start, or the record does not begin with a start.
pub async fn replay(engine: &Engine, header: &Header, entries: &[Entry], wasm: Vec<u8>) -> Result<Report, HostError> {
    let mut report = Report { digest: digest_of(&wasm), ..Report::default() };
    let code = engine.load(wasm.into()).await?;
    let settings = MirrorSettings {
        answers: if header.kind == "controller" { Answers::Reconcile } else { Answers::Hot },
        memory_bytes: usize::try_from(header.memory_bytes).unwrap_or(usize::MAX),
        deadline: Duration::from_millis(header.call_milliseconds),
    };
    let all = async {
        let mut mirror = None;
        for entry in entries {
            match &entry.step {
                Step::Start { hello } => {
                    let (id, generation) = (ModuleId::new(&header.module), Generation(entry.generation));
                    mirror = Some(Mirror::start(&code, id, generation, settings, hello).await?);
                }
                Step::Call { interface, method, params, outcome } => {
                    let mirror = mirror.as_mut().ok_or_else(|| HostError::Refused("the record does not begin with a start".into()))?;
                    report.calls += 1;
                    let now = mirror.ask(*interface, *method, &with_reads(*interface, *method, params, outcome)).await;
                    let lines = differences(&show(*interface, *method, outcome), &show(*interface, *method, &now));
                    if !lines.is_empty() {
                        report.differences.push(Difference { call: report.calls, at_millis: entry.at_millis, lines });
                    }
                }
            }
        }
        Ok(())
    };
    tokio::task::LocalSet::new().run_until(all).await.map(|()| report)
}
