//! Watches: the registry's events, as lines of JSON or frames of protobuf, for as long as the client stays.
//!
//! The problem: a thousand watchers must not cost a thousand encodings, and a slow one must not cost memory. So a frame is two constant pieces
//! around bytes that all watchers share, events that are ready together leave in one write, and the only queue is the registry's own bounded one: who
//! falls behind it gets an ERROR event and must list again. Invariant: after an ERROR event nothing follows.
//!
//! A client may ask for a WebSocket: then each event is a message.
//!
//! A watch ends by its timeout (the client's, or 30 to 60 minutes), when the server stops, or when the client is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use pintle_api::printer::IncludeObject;
use pintle_api::{ApiError, Schema, proto};
use pintle_registry::{Bookmarks, InitialEvents, Object, ResourceInfo, Revision, WatchEvent, WatchOptions, WatchStream};
use serde_json::{Value, json};
use tokio::time::Sleep;

use crate::body::Body;
use crate::connect::Upgrade;
use crate::limits::Permit;
use crate::negotiate::{Format, Shape, Wanted};
use crate::objects::{bad_parameter, target, version_match, warn_of_end};
use crate::pipeline::Exchange;
use crate::request::Query;
use crate::server::{Shared, Stopping};
use crate::shape;
use pintle_streams::websocket;

/// Events that are ready are put together until this much is written.
const WRITE_BYTES: usize = 32 * 1024;
/// A watch that names no timeout ends after this time, and up to as much again.
const TIMEOUT_SECONDS_MIN: u64 = 1800;

/// Answer a watch request.
pub(crate) async fn serve(server: &Arc<Shared>, exchange: Exchange, permit: Permit) -> Result<Response<Body>, ApiError> {
    let target = target(&server.registry, &exchange.info)?;
    let wanted = exchange.wanted(&[Shape::Table, Shape::Metadata])?;
    if wanted.format == Format::Yaml || wanted.format == Format::Protobuf && !proto::has_form(&target.resource) {
        return Err(ApiError::not_acceptable(&["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"]));
    }
    let include = shape::include(exchange.query.text("includeObject"))?;
    let options = watch_options(&exchange)?;
    let timeout = timeout(&exchange.query)?;
    let events = server.registry.watch(&target, &options).await?;
    let state = State {
        events,
        frames: Frames { wanted, include, resource: target.resource.clone(), headed: false },
        bookmarks: options.bookmarks,
        timeout: Box::pin(tokio::time::sleep(timeout)),
        stopping: server.stopping(),
        over: false,
        write_bytes: WRITE_BYTES,
        _permit: permit,
    };
    if websocket::requested(exchange.headers()) {
        // A message is an event.
        let messages = futures::stream::unfold(State { write_bytes: 0, ..state }, State::next).map(websocket::message);
        let upgrade = Upgrade::websocket(exchange.parts, &[""])?;
        return Ok(upgrade.then(server, (), move |upgraded| async move {
            websocket::serve_messages(websocket::socket(upgraded).await, Box::pin(messages)).await;
        }));
    }
    let mut response = Response::new(Body::stream(futures::stream::unfold(state, State::next)));
    let content_type =
        if wanted.format == Format::Protobuf { "application/vnd.kubernetes.protobuf;stream=watch" } else { "application/json" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    warn_of_end(&target.resource, &mut response);
    Ok(response)
}

fn watch_options(exchange: &Exchange) -> Result<WatchOptions, ApiError> {
    let query = &exchange.query;
    let mut field_selector = query.text("fieldSelector").to_owned();
    // `/watch/.../{name}` names one object.
    if field_selector.is_empty() && !exchange.info.name.is_empty() {
        field_selector = format!("metadata.name={}", exchange.info.name);
    }
    Ok(WatchOptions {
        label_selector: query.text("labelSelector").to_owned(),
        field_selector,
        resource_version: query.text("resourceVersion").to_owned(),
        version_match: version_match(query)?,
        bookmarks: if query.flag("allowWatchBookmarks") { Bookmarks::Yes } else { Bookmarks::No },
        initial_events: query.get("sendInitialEvents").map(|_| match query.flag("sendInitialEvents") {
            true => InitialEvents::Send,
            false => InitialEvents::Skip,
        }),
    })
}

fn timeout(query: &Query) -> Result<Duration, ApiError> {
    let text = query.text("timeoutSeconds");
    let asked: u64 = if text.is_empty() { 0 } else { text.parse().map_err(|_| bad_parameter("timeoutSeconds", text))? };
    if asked > 0 {
        return Ok(Duration::from_secs(asked));
    }
    // Spread, so that clients that came together do not come back together.
    let spread = u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos()));
    Ok(Duration::from_secs(TIMEOUT_SECONDS_MIN + spread % TIMEOUT_SECONDS_MIN))
}

struct State {
    events: WatchStream,
    frames: Frames,
    bookmarks: Bookmarks,
    timeout: Pin<Box<Sleep>>,
    stopping: Stopping,
    over: bool,
    /// See [`WRITE_BYTES`].
    write_bytes: usize,
    _permit: Permit,
}

impl State {
    /// The next write; `None` when the watch is over.
    async fn next(mut self) -> Option<(Bytes, State)> {
        if self.over {
            return None;
        }
        let mut out = BytesMut::new();
        tokio::select! {
            biased;
            event = self.events.next() => self.put(event, &mut out),
            () = self.stopping.wait() => self.over = true,
            () = &mut self.timeout => {
                self.over = true;
                if let (Bookmarks::Yes, Some(bookmark)) = (self.bookmarks, self.events.bookmark()) {
                    self.frames.put(&bookmark, &mut out);
                }
            }
        }
        while !self.over && out.len() < self.write_bytes {
            let Some(event) = self.events.try_next() else { break };
            self.put(Some(event), &mut out);
        }
        if out.is_empty() { None } else { Some((out.freeze(), self)) }
    }

    fn put(&mut self, event: Option<Result<WatchEvent, ApiError>>, out: &mut BytesMut) {
        match event {
            Some(Ok(event)) => self.frames.put(&event, out),
            Some(Err(error)) => {
                self.frames.error(&error, out);
                self.over = true;
            }
            None => self.over = true,
        }
    }
}

/// Writes events as frames of one shape.
struct Frames {
    wanted: Wanted,
    include: IncludeObject,
    resource: Arc<ResourceInfo>,
    /// A table's columns come with its first event only.
    headed: bool,
}

impl Frames {
    fn put(&mut self, event: &WatchEvent, out: &mut BytesMut) {
        let (kind, object) = match event {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark { revision, initial_events_end } => {
                return match self.bookmark(*revision, *initial_events_end) {
                    Ok(bytes) => self.frame(out, "BOOKMARK", &bytes),
                    Err(error) => self.error(&error, out),
                };
            }
        };
        match self.object(object) {
            Ok(bytes) => self.frame(out, kind, &bytes),
            Err(error) => self.error(&error, out),
        }
    }

    fn object(&mut self, object: &Arc<Object>) -> Result<Bytes, ApiError> {
        match (self.wanted.shape, self.wanted.format) {
            (Shape::Metadata, Format::Protobuf) => {
                Ok(proto::encode_metadata(&shape::parse(object)?["metadata"], self.wanted.shape_version).into())
            }
            (Shape::Metadata, _) => shape::metadata(object, self.wanted.shape_version),
            (Shape::Table, _) => {
                let mut table = shape::table_of_one(object, self.wanted.shape_version, self.include)?;
                if std::mem::replace(&mut self.headed, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                Ok(table.to_string().into())
            }
            (_, Format::Protobuf) => Ok(proto::wrap(&self.resource.api_version(), &self.resource.kind, &object.protobuf()?).into()),
            _ => Ok(object.body().clone()),
        }
    }

    fn error(&self, error: &ApiError, out: &mut BytesMut) {
        let status = error.to_status();
        let bytes = if self.wanted.format == Format::Protobuf { proto::encode_status(&status) } else { status.to_string().into_bytes() };
        self.frame(out, "ERROR", &bytes);
    }

    fn frame(&self, out: &mut BytesMut, kind: &str, object: &[u8]) {
        if self.wanted.format == Format::Protobuf {
            return out.put_slice(&proto::watch_frame(kind, object));
        }
        out.reserve(object.len() + 40);
        out.put_slice(b"{\"type\":\"");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\",\"object\":");
        out.put_slice(object);
        out.put_slice(b"}\n");
    }

    fn bookmark(&self, revision: Revision, initial_events_end: bool) -> Result<Bytes, ApiError> {
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_events_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let protobuf = self.wanted.format == Format::Protobuf;
        let (kind, api_version) = match self.wanted.shape {
            Shape::Metadata if protobuf => return Ok(proto::encode_metadata(&metadata, self.wanted.shape_version).into()),
            Shape::Metadata => ("PartialObjectMetadata", format!("meta.k8s.io/{}", self.wanted.shape_version)),
            Shape::Table => ("Table", format!("meta.k8s.io/{}", self.wanted.shape_version)),
            _ => (self.resource.kind.as_ref(), self.resource.api_version().into_owned()),
        };
        let mut object = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
        if self.wanted.shape == Shape::Table {
            object["columnDefinitions"] = Value::Null;
            object["rows"] = json!([]);
        }
        if protobuf {
            return Ok(proto::encode_object(Schema::builtin(), &self.resource, &object)?.into());
        }
        Ok(object.to_string().into())
    }
}
