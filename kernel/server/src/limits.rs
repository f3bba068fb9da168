//! What bounds the server as a whole. One number each, in one place.

use std::sync::Arc;
use std::time::Duration;

use pintle_api::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::pipeline::Audited;
use crate::request::RequestInfo;

/// Open connections.
pub(crate) const CONNECTIONS_MAX: usize = 8192;
/// Requests that only read, carried out at the same time.
const READS_MAX: usize = 800;
/// Requests that write, carried out at the same time.
const WRITES_MAX: usize = 800;
/// Watches, log streams and sessions at the same time.
const LONG_RUNNING_MAX: usize = 10_000;
/// A request waits this long for its turn before it is turned away.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body of a request, bytes.
pub(crate) const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Of a body beyond the limit, so much more is read and thrown away, and for so long, that the client sees its answer.
pub(crate) const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
pub(crate) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// A TLS handshake, and the head of a request, must be there within this time.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection.
pub(crate) const HTTP2_STREAMS_MAX: u32 = 250;
/// Open machines' links.
pub(crate) const NODE_LINKS_MAX: usize = 5000;

const _: () = assert!(LONG_RUNNING_MAX > READS_MAX + WRITES_MAX && CONNECTIONS_MAX > READS_MAX + WRITES_MAX);

/// Counts requests in flight.
pub(crate) struct Limits {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    long_running: Arc<Semaphore>,
}

/// A place among the requests in flight; given back on drop.
#[derive(Default)]
pub(crate) struct Permit {
    _permit: Option<OwnedSemaphorePermit>,
    /// Ends with it.
    pub(crate) audited: Option<Arc<Audited>>,
}

impl Limits {
    pub(crate) fn new() -> Limits {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Limits { reads: semaphore(READS_MAX), writes: semaphore(WRITES_MAX), long_running: semaphore(LONG_RUNNING_MAX) }
    }

    /// Wait for a turn. Health, version and metrics always have one.
    ///
    /// # Errors
    /// 429: the turn did not come.
    pub(crate) async fn admit(&self, info: &RequestInfo, long_running: bool) -> Result<Permit, ApiError> {
        if !info.is_resource {
            return Ok(Permit::default());
        }
        let class = match info.verb {
            _ if long_running => &self.long_running,
            "get" | "list" => &self.reads,
            _ => &self.writes,
        };
        if let Ok(permit) = class.clone().try_acquire_owned() {
            return Ok(Permit { _permit: Some(permit), audited: None });
        }
        match tokio::time::timeout(TURN_TIMEOUT, class.clone().acquire_owned()).await {
            Ok(Ok(permit)) if !long_running => Ok(Permit { _permit: Some(permit), audited: None }),
            _ => Err(ApiError::too_many_requests("the server has too many requests in flight, please try again later", 1)),
        }
    }
}
