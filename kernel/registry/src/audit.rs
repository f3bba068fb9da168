//! The audit log: who asked for what, and what became of it, as events of `audit.k8s.io/v1`, one JSON line each.
//!
//! A request is one [`Entry`] from its door to its end. Whoever works on it in between (admission, the pipeline, the encoder) adds to the entry of
//! the task that it runs in and need not know whether there is one. Requests over HTTP are begun by the server; writes that come in by another door, of
//! modules, machines and the kernel itself, are begun by the registry's own methods, with the caller's name and no address.
//!
//! Invariant: below level Request no part of any object is kept; what a level does not want is not even made.

mod log;
mod policy;

pub use log::LogConfig;
pub use policy::Policy;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use jiff::Timestamp;
use parking_lot::Mutex;
use pintle_api::decode::{self, Format};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::caller::Caller;
use crate::object::Object;
use crate::options::Patch;
use crate::registry::{Registry, Result};
use crate::target::Target;
use log::{Counts, Line};
use policy::Decision;

/// How much is kept of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[allow(missing_docs, reason = "upstream's words")]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "upstream's words")]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// What a request is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// RBAC's word.
    pub verb: &'a str,
    /// Names a resource; else `path` counts.
    pub is_resource: bool,
    /// API group; empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Empty: none.
    pub subresource: &'a str,
    /// Empty: none.
    pub namespace: &'a str,
    /// Empty: none.
    pub name: &'a str,
    /// Of the URL.
    pub path: &'a str,
}

/// What is audited, and where to. Clones share.
pub struct Auditor {
    policy: Policy,
    lines: mpsc::Sender<Line>,
    counts: Arc<Counts>,
}

/// A request that is audited.
pub struct Entry {
    decision: Decision,
    event: Mutex<Value>,
    lines: mpsc::Sender<Line>,
}

tokio::task_local!(static ENTRY: Option<Arc<Entry>>);

impl Auditor {
    /// Opens the log.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn start(policy: Policy, log: LogConfig) -> io::Result<Arc<Self>> {
        let counts = Arc::new(Counts::default());
        Ok(Arc::new(Self { policy, lines: log::start(log, counts.clone())?, counts }))
    }

    /// Begins an entry, if the policy wants one. `uri` is the request's.
    pub fn begin(&self, about: &About<'_>, id: &str, uri: &str) -> Option<Arc<Entry>> {
        let decision = self.policy.decide(about)?;
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": format!("{:?}", decision.level), "auditID": id, "stage": "",
            "requestURI": uri, "verb": about.verb, "user": about.caller.info(), "requestReceivedTimestamp": now(),
        });
        if about.is_resource {
            let parts = [
                ("resource", about.resource),
                ("namespace", about.namespace),
                ("name", about.name),
                ("apiGroup", about.group),
                ("apiVersion", about.version),
                ("subresource", about.subresource),
            ];
            event["objectRef"] =
                parts.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        }
        Some(Arc::new(Entry { decision, event: Mutex::new(event), lines: self.lines.clone() }))
    }

    /// How many events were written, and how many were lost because they could not be.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.written.load(Relaxed), self.counts.lost.load(Relaxed))
    }

    /// Waits until everything so far is written.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.lines.send(Line::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

impl Entry {
    /// Sets a field of the event.
    pub fn set(&self, key: &str, value: Value) {
        self.event.lock()[key] = value;
    }

    /// Writes the event as it stands at this stage. Waits while the log cannot keep up.
    pub async fn write(&self, stage: Stage) {
        if let Some(line) = self.line(stage) {
            let _ = self.lines.send(line).await;
        }
    }

    /// The same for whoever cannot wait: a task waits instead.
    pub fn write_later(&self, stage: Stage) {
        let Some(line) = self.line(stage) else { return };
        if let Err(mpsc::error::TrySendError::Full(line)) = self.lines.try_send(line) {
            let lines = self.lines.clone();
            tokio::spawn(async move { lines.send(line).await });
        }
    }

    /// Notes how the request was answered. `failure` is a `Status`; for the rest the code says it all.
    pub fn answered(&self, code: u16, failure: Option<Value>) {
        if let (Some(failure), Level::RequestResponse) = (&failure, self.decision.level) {
            self.set("responseObject", failure.clone());
        }
        let mut status = failure.unwrap_or_else(|| json!({"metadata": {}}));
        for key in ["kind", "apiVersion"] {
            status.as_object_mut().and_then(|status| status.remove(key));
        }
        status["code"] = code.into();
        self.set("responseStatus", status);
    }

    fn line(&self, stage: Stage) -> Option<Line> {
        if self.decision.omit_stages.contains(&stage) {
            return None;
        }
        let mut event = self.event.lock();
        event["stage"] = format!("{stage:?}").into();
        event["stageTimestamp"] = now().into();
        Some(Line::Event(format!("{event}\n").into_bytes()))
    }

    fn keep(&self, key: &str, mut object: Value) {
        if self.decision.omit_managed_fields {
            without_managed_fields(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(without_managed_fields);
        }
        self.set(key, object);
    }
}

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Carries a request out under its entry; `None`: it is not audited.
pub async fn scope<F: Future>(entry: Option<Arc<Entry>>, work: F) -> F::Output {
    ENTRY.scope(entry, work).await
}

/// Acts on the entry of this task, if there is one and it wants that much.
fn at(level: Level, act: impl FnOnce(&Entry)) {
    // Outside of a request there is nothing to note.
    let _ = ENTRY.try_with(|entry| entry.as_deref().filter(|entry| entry.decision.level >= level).map(act));
}

/// Notes something about the request: what decided about it, what an admission rule has to say.
pub fn annotate(key: &str, value: &str) {
    at(Level::Metadata, |entry| {
        let annotation = &mut entry.event.lock()["annotations"][key];
        let before = annotation.as_str().filter(|before| *before != value).map(|before| format!("{before}, {value}"));
        *annotation = before.unwrap_or_else(|| value.to_owned()).into();
    });
}

/// Notes the object or options that a client sent, and whom it names.
pub fn request(object: &Value) {
    at(Level::Metadata, |entry| {
        if let Some(about) = entry.event.lock().get_mut("objectRef") {
            for key in ["name", "namespace", "uid", "resourceVersion"] {
                if let Some(said) = object["metadata"][key].as_str().filter(|said| !said.is_empty() && about[key].is_null()) {
                    about[key] = said.into();
                }
            }
        }
        if entry.decision.level >= Level::Request {
            entry.keep("requestObject", object.clone());
        }
    });
}

/// Notes a patch as it was sent.
pub(crate) fn request_patch(patch: &Patch) {
    at(Level::Request, |entry| {
        let (Patch::Json(text) | Patch::Merge(text) | Patch::Strategic(text) | Patch::Apply(text)) = patch;
        let value = decode::parse(text, Format::Yaml).map_or_else(|_| String::from_utf8_lossy(text).into(), |(value, _)| value);
        entry.keep("requestObject", value);
    });
}

/// Notes what a request is answered with.
pub fn response(object: impl FnOnce() -> Option<Value>) {
    at(Level::RequestResponse, |entry| object().into_iter().for_each(|object| entry.keep("responseObject", object)));
}

impl Registry {
    /// Audits from now on.
    pub fn set_auditor(&self, auditor: Arc<Auditor>) {
        // The first one stays.
        let _ = self.auditor.set(auditor);
    }

    /// Who audits, if anybody.
    #[must_use]
    pub fn auditor(&self) -> Option<&Arc<Auditor>> {
        self.auditor.get()
    }

    /// Carries a write out, with an entry of its own unless the request that it belongs to has been asked for one already. `shown` is the answer's code and object.
    pub(crate) async fn audited<T>(
        &self,
        (caller, verb, target): (&Caller, &'static str, &Target),
        work: impl Future<Output = Result<T>>,
        shown: impl FnOnce(&T) -> (u16, Arc<Object>),
    ) -> Result<T> {
        let Some(auditor) = self.auditor.get().filter(|_| ENTRY.try_with(|_| ()).is_err()) else { return work.await };
        let (resource, path) = (&target.resource, path(target));
        let about = About {
            caller,
            verb,
            is_resource: true,
            group: &resource.group,
            version: &resource.version,
            resource: &resource.plural,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: &target.name,
            path: &path,
        };
        let entry = auditor.begin(&about, &uuid::Uuid::new_v4().to_string(), &path);
        if let Some(entry) = &entry {
            entry.write(Stage::RequestReceived).await;
        }
        let outcome = scope(entry.clone(), work).await;
        if let Some(entry) = entry {
            match &outcome {
                Ok(done) => {
                    let (code, object) = shown(done);
                    entry.answered(code, None);
                    if entry.decision.level == Level::RequestResponse {
                        object.value().into_iter().for_each(|object| entry.keep("responseObject", object));
                    }
                }
                Err(error) => entry.answered(error.code, Some(error.to_status())),
            }
            entry.write(Stage::ResponseComplete).await;
        }
        outcome
    }
}

/// Where a client would find the target.
fn path(target: &Target) -> String {
    let root = if target.resource.group.is_empty() { "/api" } else { "/apis" };
    let parts = [("/namespaces/", &*target.namespace), ("/", &*target.resource.plural), ("/", &*target.name), ("/", &*target.subresource)];
    let parts = parts.iter().filter(|(_, part)| !part.is_empty()).map(|(before, part)| format!("{before}{part}"));
    format!("{root}/{}{}", target.resource.api_version(), parts.collect::<String>())
}

fn now() -> String {
    format!("{:.6}", Timestamp::now())
}
