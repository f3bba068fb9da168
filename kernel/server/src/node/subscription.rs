//! A watch for a machine: objects as rows, pushed in batches, each batch answered before the next is sent.

use std::time::Duration;

use capnp::capability::Rc as CapRc;
use futures::FutureExt as _;
use pintle_api::ApiError;
use pintle_registry::{Bookmarks, InitialEvents, Object, VersionMatch, WatchEvent, WatchOptions, WatchStream, project};
use pintle_wit::common_capnp::subscription;
use pintle_wit::objects_capnp::row_event::Kind;
use pintle_wit::objects_capnp::row_sink;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use bytes::Bytes;

use crate::server::Shared;
use std::sync::Arc;

/// Rows of one push.
const ROWS_MAX: usize = 256;
/// Bytes of one push, at which it is closed.
const PUSH_BYTES: usize = 1 << 20;
/// A machine that does not answer a push for this long has lost its watch.
const PUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// Wait before a watch that failed is begun again.
const RETRY: Duration = Duration::from_millis(200);

/// What is watched.
pub(super) struct Watched {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) field_selector: String,
    /// JSON pointers of what a row has; none for whole objects.
    pub(super) fields: &'static [&'static str],
}

/// Begin. Ends with the session, with the returned capability, and when the machine fails to take rows.
pub(super) fn begin(shared: Arc<Shared>, watched: Watched, sink: row_sink::Client, ended: CancellationToken) -> subscription::Client {
    let task = tokio::task::spawn_local(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            result = run(&shared, &watched, &sink) => if let Err(error) = result {
                // A machine that lost a watch without noticing would act on what was: it must come again.
                tracing::info!(%error, resource = watched.resource, "a machine's watch failed; its session ends");
                ended.cancel();
            },
        }
    });
    capnp_rpc::new_client(Handle { task: task.abort_handle() })
}

struct Handle {
    task: AbortHandle,
}

impl subscription::Server for Handle {
    async fn cancel(self: CapRc<Self>, _: subscription::CancelParams, _: subscription::CancelResults) -> Result<(), capnp::Error> {
        self.task.abort();
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watch, for ever: a watch that falls behind is told to forget and begins anew.
async fn run(shared: &Shared, watched: &Watched, sink: &row_sink::Client) -> Result<(), capnp::Error> {
    let mut generation = 1;
    loop {
        match watch(shared, watched).await {
            Ok(mut events) => {
                let error = follow(&mut events, watched, sink, generation).await?;
                tracing::info!(resource = watched.resource, ?error, "a machine's watch starts again");
            }
            Err(error) => {
                tracing::warn!(%error, resource = watched.resource, "a machine's watch could not begin");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        generation += 1;
        push(sink, generation, &[(Kind::Reset, Bytes::new())]).await?;
    }
}

async fn watch(shared: &Shared, watched: &Watched) -> Result<WatchStream, ApiError> {
    let target = shared.registry.resolve(watched.group, "v1", watched.resource, "", "", "")?;
    let options = WatchOptions {
        field_selector: watched.field_selector.clone(),
        version_match: Some(VersionMatch::NotOlderThan),
        bookmarks: Bookmarks::Yes,
        initial_events: Some(InitialEvents::Send),
        ..WatchOptions::default()
    };
    shared.registry.watch(&target, &options).await
}

/// Push what comes until the stream ends; its error is returned, a machine's is the error.
async fn follow(
    events: &mut WatchStream,
    watched: &Watched,
    sink: &row_sink::Client,
    generation: u64,
) -> Result<Option<ApiError>, capnp::Error> {
    let mut rows: Vec<(Kind, Bytes)> = Vec::new();
    let mut bytes = 0;
    loop {
        let mut next = events.next().await;
        loop {
            match next {
                Some(Ok(event)) => {
                    if let Some(row) = row(&event, watched)? {
                        bytes += row.1.len();
                        rows.push(row);
                    }
                }
                Some(Err(error)) => return Ok(Some(error)),
                None => return Ok(None),
            }
            if rows.len() >= ROWS_MAX || bytes >= PUSH_BYTES {
                break;
            }
            match events.next().now_or_never() {
                Some(more) => next = more,
                None => break,
            }
        }
        if !rows.is_empty() {
            push(sink, generation, &rows).await?;
            rows.clear();
            bytes = 0;
        }
    }
}

fn row(event: &WatchEvent, watched: &Watched) -> Result<Option<(Kind, Bytes)>, capnp::Error> {
    let projected = |object: &Object| project(object.body(), watched.fields).map_err(|error| capnp::Error::failed(error.to_string()));
    Ok(match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => Some((Kind::Put, projected(object)?)),
        WatchEvent::Deleted(object) => Some((Kind::Delete, projected(object)?)),
        WatchEvent::Bookmark { initial_events_end: true, .. } => Some((Kind::Synced, Bytes::new())),
        WatchEvent::Bookmark { .. } => None,
    })
}

async fn push(sink: &row_sink::Client, generation: u64, rows: &[(Kind, Bytes)]) -> Result<(), capnp::Error> {
    let mut request = sink.push_request();
    let mut params = request.get();
    params.set_generation(generation);
    let mut events = params.init_events(rows.len() as u32);
    for (index, (kind, row)) in rows.iter().enumerate() {
        let mut event = events.reborrow().get(index as u32);
        event.set_kind(*kind);
        event.set_row(row);
    }
    match tokio::time::timeout(PUSH_TIMEOUT, request.send().promise).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(capnp::Error::overloaded("the machine does not take its rows".into())),
    }
}
