//! What this machine shows of itself over HTTP, by the kubelet's paths: the kernel serves them as `nodes/NAME/proxy/...`.
//!
//! There is no port: each connection comes over the link, from a user who may `proxy` the node.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | `ok` |
//! | `/stats/summary` | use of node, pods and containers, JSON |
//! | `/metrics/resource`, `/metrics` | what runs and what it uses; the daemon's own: Prometheus' text |
//! | `/pods` | the pods bound to this node, a PodList |
//! | `/containerLogs/NAMESPACE/POD/CONTAINER` | a log, with the parameters of `pods/log` |
//! | `/logs/PATH` | the machine's files below `/var/log`; folders as lists of names |

use std::convert::Infallible;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::agent::{Agent, Previous, Target, follow_log};
use crate::error::Error;
use crate::link::Reference;
use crate::log_file;
use crate::stats;

/// What `/logs/` shows.
const SYSTEM_LOGS: &str = "/var/log";
/// A file of the machine is sent up to this length, bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Chunks of a log in flight.
const LOG_CHUNKS: usize = 8;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Response<Body>;

/// Answers requests on one connection until it ends.
pub async fn serve(agent: Rc<Agent>, connection: DuplexStream) {
    let service = hyper::service::service_fn(|request| {
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(answer(&agent, &request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request to the node ends early");
    }
}

async fn answer(agent: &Rc<Agent>, request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    let node = &agent.node;
    let Ok(path) = percent_decoded(request.uri().path()) else { return text(StatusCode::BAD_REQUEST, "the path is not UTF-8") };
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["stats", "summary"] => json_answer(&stats::summary(node).await),
        ["metrics"] => text(StatusCode::OK, stats::own_metrics(node)),
        ["metrics", "resource"] => text(StatusCode::OK, stats::resource_metrics(node).await),
        ["pods"] => json_answer(&pods(agent)),
        ["containerLogs", namespace, pod, container] => container_log(agent, namespace, pod, container, request.uri().query()),
        ["logs", below @ ..] => system_log(below.join("/")).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn full(status: StatusCode, kind: &'static str, bytes: Bytes) -> Answer {
    let mut response = Response::new(Full::new(bytes).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    full(status, "text/plain; charset=utf-8", text.into())
}

fn json_answer(value: &Value) -> Answer {
    full(StatusCode::OK, "application/json", value.to_string().into())
}

fn failed(error: &Error) -> Answer {
    let status = match error {
        Error::Refused { code, .. } => StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, Error::chain(error))
}

/// As the kernel told them; the statuses are those that this machine reported last.
fn pods(agent: &Agent) -> Value {
    let items: Vec<Value> = agent.node.roster.views().iter().filter_map(|view| serde_json::to_value(&**view.pod.borrow()).ok()).collect();
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
}

fn container_log(agent: &Rc<Agent>, namespace: &str, pod: &str, container: &str, query: Option<&str>) -> Answer {
    let (options, previous) = match log_options(query.unwrap_or_default()) {
        Ok(read) => read,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let target = Target { pod: Reference::core("pods", namespace, pod), container: container.to_owned() };
    let (view, attempt) = match agent.log(&target, previous) {
        Ok(found) => found,
        Err(error) => return failed(&error),
    };
    let (to, chunks) = mpsc::channel::<Bytes>(LOG_CHUNKS);
    tokio::task::spawn_local(async move {
        let send = |bytes: Vec<u8>| {
            let to = to.clone();
            async move { to.send(bytes.into()).await.is_ok() }
        };
        follow_log(view, target.container, attempt, options, send).await;
    });
    let chunks = futures::stream::unfold(chunks, |mut chunks| async move { Some((chunks.recv().await?, chunks)) });
    let mut response = Response::new(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The parameters of `PodLogOptions`, and whether the run before is wanted.
fn log_options(query: &str) -> Result<(log_file::Options, Previous), String> {
    let mut options =
        log_file::Options { follow: false, timestamps: false, tail_lines: None, limit_bytes: None, since: None, stream: None };
    let mut previous = Previous::No;
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let bad = || format!("{name}: {value:?} is not valid");
        let value_decoded = percent_decoded(value).map_err(|_| bad())?;
        let number = || value_decoded.parse::<u64>().map_err(|_| bad());
        let flag = || value_decoded.parse::<bool>().map_err(|_| bad());
        match name {
            "follow" => options.follow = flag()?,
            "timestamps" => options.timestamps = flag()?,
            "previous" if flag()? => previous = Previous::Yes,
            "tailLines" => options.tail_lines = Some(number()?),
            "limitBytes" => options.limit_bytes = Some(number()?),
            "sinceTime" => options.since = Some(value_decoded.parse().map_err(|_| bad())?),
            "sinceSeconds" => {
                let ago = jiff::SignedDuration::from_secs(i64::try_from(number()?).map_err(|_| bad())?);
                options.since = Some(jiff::Timestamp::now().checked_sub(ago).map_err(|_| bad())?);
            }
            _ => {}
        }
    }
    Ok((options, previous))
}

/// A file of the machine's logs, or the names in a folder of them, as a page of links.
async fn system_log(path: String) -> Answer {
    let read = tokio::task::spawn_blocking(move || below(Path::new(SYSTEM_LOGS), &path)).await;
    match read {
        Ok(Ok(Found::File(bytes))) => full(StatusCode::OK, "text/plain; charset=utf-8", bytes.into()),
        Ok(Ok(Found::Folder(names))) => {
            let links = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escaped(name)));
            full(StatusCode::OK, "text/html; charset=utf-8", format!("<pre>\n{}</pre>\n", links.collect::<String>()).into())
        }
        Ok(Err(nix::errno::Errno::EFBIG)) => {
            text(StatusCode::PAYLOAD_TOO_LARGE, format!("files of more than {FILE_BYTES_MAX} bytes are not sent"))
        }
        Ok(Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR)) => text(StatusCode::NOT_FOUND, "404 page not found"),
        Ok(Err(error)) => text(StatusCode::FORBIDDEN, error.desc()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "reading failed"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    File(Vec<u8>),
    /// Sorted; folders end with a slash.
    Folder(Vec<String>),
}

/// Reads what lies at `path` below `root`; the operating system refuses what leads out of it, by dots or links.
fn below(root: &Path, path: &str) -> nix::Result<Found> {
    let root: OwnedFd = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let path = path.trim_matches('/');
    // A pipe would wait for its writer.
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC);
    let how = how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = std::fs::File::from(openat2(&root, if path.is_empty() { "." } else { path }, how)?);
    let errno = |error: std::io::Error| nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO));
    let facts = file.metadata().map_err(errno)?;
    if facts.is_dir() {
        let mut folder = nix::dir::Dir::from_fd(file.into())?;
        let mut names = Vec::new();
        for entry in folder.iter() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            match (&*name, entry.file_type()) {
                ("." | "..", _) => {}
                (name, Some(nix::dir::Type::Directory)) => names.push(format!("{name}/")),
                (name, _) => names.push(name.to_owned()),
            }
        }
        names.sort();
        return Ok(Found::Folder(names));
    }
    if !facts.is_file() {
        return Err(nix::errno::Errno::EACCES);
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(nix::errno::Errno::EFBIG);
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(errno)?;
    Ok(Found::File(bytes))
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `%41` is `A`; anything that is not two digits after a `%` stays.
fn percent_decoded(text: &str) -> Result<String, std::string::FromUtf8Error> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        let escaped = pair.filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit())).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_folder_of_logs_is_read() {
        let folder = std::env::temp_dir().join(format!("pintle-logs-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("inner")).unwrap();
        std::fs::write(folder.join("a.log"), "one").unwrap();
        let _ = std::os::unix::fs::symlink("/etc/passwd", folder.join("out"));
        let read = ["", "inner/", "a.log", "../..", "/etc/passwd", "out", "inner/../a.log"].map(|path| below(&folder, path));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read[0], Ok(Found::Folder(vec!["a.log".into(), "inner/".into(), "out".into()])));
        assert_eq!(read[1], Ok(Found::Folder(Vec::new())));
        assert_eq!(read[2], Ok(Found::File(b"one".to_vec())));
        assert_eq!(read[6], Ok(Found::File(b"one".to_vec())));
        assert!(read[3..6].iter().all(Result::is_err), "{read:?}");
    }

    #[test]
    fn parameters_of_a_log_are_read_or_refused_by_name() {
        let (options, previous) = log_options("tailLines=3&previous=true&sinceTime=2026-01-01T00%3A00%3A00Z&other=1").unwrap();
        assert_eq!((options.tail_lines, matches!(previous, Previous::Yes)), (Some(3), true));
        assert!(options.since.is_some());
        assert!(log_options("tailLines=some").is_err_and(|why| why.starts_with("tailLines")));
        assert!(log_options("sinceSeconds=99999999999999999999").is_err());
    }

    #[test]
    fn escapes_in_paths_are_decoded_once() {
        assert_eq!(percent_decoded("/logs/a%20b%2541%").unwrap(), "/logs/a b%41%");
        assert!(percent_decoded("%ff").is_err());
    }
}
