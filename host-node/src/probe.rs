//! Probes of containers: exec, HTTP, HTTPS, TCP, gRPC; startup first, then liveness and readiness side by side.
//!
//! One task a container; it ends with the container. Invariant: a probe only tells; what follows from it is the plan's to decide. Answers of a
//! container are hostile: at most [`ANSWER_BYTES_MAX`] are read, and time is bounded by the probe's own timeout.

mod grpc;
mod tls;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pintle_runtime_bridge::ContainerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{Error, Result, Step};
use crate::event::Kind as EventKind;
use crate::node::Node;
use crate::pod::steps::exec_quietly;

/// Bytes of an HTTP answer that are read at most.
pub const ANSWER_BYTES_MAX: u64 = 10 << 10;

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Until it succeeds once, the others wait.
    Startup,
    /// When it fails, the container is restarted.
    Liveness,
    /// Decides whether traffic comes.
    Readiness,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// A change of a probe's word.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The runtime's id of the container that was probed.
    pub id: String,
    /// Which probe.
    pub kind: Kind,
    /// What it says now.
    pub success: bool,
    /// Its own terminationGracePeriodSeconds.
    pub grace_seconds: Option<i64>,
}

/// Whom a network probe asks.
pub struct Target<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container, for named ports.
    pub container: &'a Container,
    /// The pod's address.
    pub address: Option<IpAddr>,
}

/// Whether a container has any probe.
pub fn has_any(container: &Container) -> bool {
    container.startup_probe.is_some() || container.liveness_probe.is_some() || container.readiness_probe.is_some()
}

/// Probes a container for as long as the task lives; `tell` takes each change.
pub async fn watch(node: Rc<Node>, pod: Rc<Pod>, container: Container, id: String, address: Option<IpAddr>, tell: impl Fn(Verdict)) {
    let Ok(runtime_id) = ContainerId::parse(&id) else { return };
    let watcher = Watcher { node, pod, container, id, runtime_id, address };
    if let Some(probe) = watcher.container.startup_probe.clone()
        && !watcher.until_started(&probe, &tell).await
    {
        return;
    }
    let liveness = async {
        if let Some(probe) = &watcher.container.liveness_probe {
            watcher.repeat(Kind::Liveness, probe, true, &tell).await;
        }
    };
    let readiness = async {
        if let Some(probe) = &watcher.container.readiness_probe {
            watcher.repeat(Kind::Readiness, probe, false, &tell).await;
        }
    };
    tokio::join!(liveness, readiness);
}

struct Watcher {
    node: Rc<Node>,
    pod: Rc<Pod>,
    container: Container,
    id: String,
    runtime_id: ContainerId,
    address: Option<IpAddr>,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
}

impl Watcher {
    fn say(&self, kind: Kind, probe: &Probe, success: bool, tell: &impl Fn(Verdict)) {
        tell(Verdict { id: self.id.clone(), kind, success, grace_seconds: probe.termination_grace_period_seconds });
    }

    /// Runs the startup probe until it succeeds (true) or has failed too often (false).
    async fn until_started(&self, probe: &Probe, tell: &impl Fn(Verdict)) -> bool {
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let mut failures = 0;
        loop {
            if self.once(Kind::Startup, probe).await {
                self.say(Kind::Startup, probe, true, tell);
                return true;
            }
            failures += 1;
            if failures >= threshold(probe.failure_threshold, 3) {
                self.say(Kind::Startup, probe, false, tell);
                return false;
            }
            tokio::time::sleep(seconds(probe.period_seconds, 10).max(Duration::from_secs(1))).await;
        }
    }

    /// Runs a probe for ever and tells each change of its word.
    async fn repeat(&self, kind: Kind, probe: &Probe, initially: bool, tell: &impl Fn(Verdict)) {
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let (mut word, mut run, mut last) = (initially, 0u32, initially);
        loop {
            let success = self.once(kind, probe).await;
            run = if success == last { run.saturating_add(1) } else { 1 };
            last = success;
            let needed = if success { threshold(probe.success_threshold, 1) } else { threshold(probe.failure_threshold, 3) };
            if success != word && run >= needed {
                word = success;
                self.say(kind, probe, success, tell);
            }
            tokio::time::sleep(seconds(probe.period_seconds, 10).max(Duration::from_secs(1))).await;
        }
    }

    async fn once(&self, kind: Kind, probe: &Probe) -> bool {
        let timeout = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let (failure, warning) = match tokio::time::timeout(timeout, self.ask(probe)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => (Error::chain(&error), "probe failed"),
            Err(_) => (format!("context deadline exceeded: no answer within {timeout:?}"), "probe failed"),
        };
        let message = format!("{} {warning}: {failure}", kind.word());
        self.node.events.record(&self.pod, Some(&self.container.name), EventKind::Warning, "Unhealthy", &message);
        false
    }

    async fn ask(&self, probe: &Probe) -> Result<()> {
        let target = Target { pod: &self.pod, container: &self.container, address: self.address };
        if let Some(exec) = &probe.exec {
            let (exit, output) = exec_quietly(&self.node, &self.runtime_id, exec.command.clone().unwrap_or_default()).await?;
            return if exit.code == 0 {
                Ok(())
            } else {
                Err(Error::Answer(if output.is_empty() { format!("command exited with {}", exit.code) } else { output }))
            };
        }
        if let Some(get) = &probe.http_get {
            return http(&target, get).await.and_then(Answer::into_result);
        }
        if let Some(socket) = &probe.tcp_socket {
            return tcp(&target, socket.host.as_deref(), &socket.port).await;
        }
        if let Some(call) = &probe.grpc {
            let (mut stream, authority) = connect(&target, None, &IntOrString::Int(call.port)).await?;
            return grpc::check(&mut stream, &authority, call.service.as_deref().unwrap_or_default()).await;
        }
        Err(Error::invalid("probe", "it says nothing to do"))
    }
}

/// A number, or the name of one of the container's ports.
pub fn port_number(container: &Container, port: &IntOrString) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port),
        },
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| Error::invalid("port", format!("{port:?}")))
}

async fn connect(target: &Target<'_>, host: Option<&str>, port: &IntOrString) -> Result<(TcpStream, String)> {
    let port = port_number(target.container, port)?;
    let own = target.address.map(|a| a.to_string());
    let host =
        host.filter(|h| !h.is_empty()).map(str::to_owned).or(own).ok_or_else(|| Error::invalid("probe", "the pod has no address"))?;
    // An address of version 6 stands in brackets, whether or not whoever wrote it put them there.
    let host = host.trim_matches(['[', ']']);
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let stream = TcpStream::connect((host, port)).await.step(|| format!("dial tcp {authority}"))?;
    Ok((stream, authority))
}

/// Whether a connection can be made.
pub async fn tcp(target: &Target<'_>, host: Option<&str>, port: &IntOrString) -> Result<()> {
    connect(target, host, port).await.map(|_| ())
}

/// The status of an HTTP answer.
pub struct Answer(u16);

impl Answer {
    /// 200 to 399 is well.
    pub fn into_result(self) -> Result<()> {
        match self.0 {
            200..400 => Ok(()),
            code => Err(Error::Answer(format!("HTTP probe failed with statuscode: {code}"))),
        }
    }
}

/// A GET, with the answer's status line as all that counts.
pub async fn http(target: &Target<'_>, get: &HTTPGetAction) -> Result<Answer> {
    let (stream, authority) = connect(target, get.host.as_deref(), &get.port).await?;
    let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host).trim_matches(['[', ']']);
    if get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")) {
        return exchange(tls::wrap(stream, host).await?, get, &authority).await;
    }
    exchange(stream, get, &authority).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, get: &HTTPGetAction, authority: &str) -> Result<Answer> {
    stream.write_all(request(get, authority)?.as_bytes()).await.step(|| "sending the probe".into())?;
    let mut answer = Vec::new();
    let mut limited = (&mut stream).take(ANSWER_BYTES_MAX);
    while !answer.contains(&b'\n') {
        let mut block = [0; 512];
        match limited.read(&mut block).await.step(|| "reading the answer".into())? {
            0 => break,
            count => answer.extend_from_slice(&block[..count]),
        }
    }
    status_code(&answer).map(Answer)
}

fn request(get: &HTTPGetAction, authority: &str) -> Result<String> {
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut lines = vec![format!("GET {slash}{path} HTTP/1.1")];
    let headers: Vec<_> = get.http_headers.iter().flatten().map(|h| (h.name.as_str(), h.value.as_str())).collect();
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in [("Host", authority), ("User-Agent", "kube-probe/1.37"), ("Accept", "*/*")] {
        if !given(name) {
            lines.push(format!("{name}: {value}"));
        }
    }
    lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
    lines.push("Connection: close".into());
    if lines.iter().any(|line| line.contains(['\r', '\n', '\0'])) {
        return Err(Error::invalid("probe", "a line break in the path or a header"));
    }
    Ok(format!("{}\r\n\r\n", lines.join("\r\n")))
}

fn status_code(answer: &[u8]) -> Result<u16> {
    let line = answer.split(|b| *b == b'\n').next().and_then(|l| std::str::from_utf8(l).ok()).unwrap_or_default();
    let mut words = line.split_whitespace();
    let code = words.next().filter(|w| w.starts_with("HTTP/1.")).and(words.next()).and_then(|w| w.parse().ok());
    code.ok_or_else(|| Error::Answer("malformed HTTP response".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_and_nothing_else() {
        let check = |answer: &str, expected: Option<u16>| assert_eq!(status_code(answer.as_bytes()).ok(), expected, "{answer:?}");
        check("HTTP/1.1 200 OK\r\nx: y\r\n", Some(200));
        check("HTTP/1.0 503\r\n", Some(503));
        check("", None);
        check("SSH-2.0-x\r\n", None);
        check("HTTP/1.1 abc\r\n", None);
    }

    #[test]
    fn a_request_cannot_be_split_by_its_headers() {
        let get = |value: serde_json::Value| serde_json::from_value::<HTTPGetAction>(value).expect("an action");
        let fine = request(
            &get(serde_json::json!({ "port": 80, "path": "healthz", "httpHeaders": [{ "name": "Host", "value": "x" }] })),
            "1.2.3.4:80",
        );
        let fine = fine.expect("a request");
        assert!(fine.starts_with("GET /healthz HTTP/1.1\r\n") && fine.contains("Host: x\r\n") && !fine.contains("1.2.3.4"), "{fine}");
        assert!(request(&get(serde_json::json!({ "port": 80, "path": "/x\r\ny" })), "h").is_err());
    }
}
