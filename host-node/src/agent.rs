//! What the kernel may ask of this machine: logs, exec, attach, port-forward, stats.
//!
//! Streams are pumps: a task reads one end and writes the other, waiting for each answer, so that the slower side sets the pace. Dropping
//! what the kernel holds (a process, a subscription, a sink) ends the pump and what it serves. Invariant: a target is looked up
//! among this node's pods; nothing outside them can be named.

use std::cell::RefCell;
use std::rc::Rc;

use capnp::Error as Fault;
use capnp::capability::Rc as CapRc;
use pintle_runtime_bridge::{ContainerId, ExecSession, ExecSpec, InputStream, OutputStream, SandboxId, TerminalResizer, TerminalSize};
use pintle_wit::common_capnp::{byte_sink, failure, object_ref, subscription};
use pintle_wit::node_capnp::{exec_options, node_agent, process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::AbortHandle;

use crate::error::{Error, Result};
use crate::kubelet;
use crate::link::Reference;
use crate::log_file;
use crate::net;
use crate::node::Node;
use crate::pod::note::View;
use crate::pod::record::{Attempt, End, all_containers, host_network, init_containers, restarts};
use crate::stats;

/// Bytes in one write to the kernel.
const WRITE_BYTES: usize = 32 << 10;

/// The agent of a node.
pub struct Agent {
    pub(crate) node: Rc<Node>,
}

/// A client for the agent, to hand to the kernel.
pub fn client(node: Rc<Node>) -> node_agent::Client {
    capnp_rpc::new_client(Agent { node })
}

impl Agent {
    fn view(&self, reference: &Reference) -> Result<Rc<View>> {
        let missing =
            || Error::Refused { code: 404, reason: "NotFound".into(), message: format!("pod {:?} not found on this node", reference.name) };
        self.node.roster.find(reference).ok_or_else(missing)
    }

    fn running(&self, target: &Target) -> Result<ContainerId> {
        let view = self.view(&target.pod)?;
        let record = view.record.borrow();
        let running = record.containers.get(&target.container).and_then(|c| c.running());
        let not_running = || bad_request(format!("container {} is not running in pod {}", target.container, target.pod.name));
        Ok(ContainerId::parse(&running.ok_or_else(not_running)?.id)?)
    }

    /// The run whose log is meant.
    pub(crate) fn log(&self, target: &Target, previous: Previous) -> Result<(Rc<View>, Attempt)> {
        let view = self.view(&target.pod)?;
        let found = {
            let record = view.record.borrow();
            let again = |end: &End| {
                let pod = view.pod.borrow();
                let init = init_containers(&pod).iter().any(|c| c.name == target.container);
                all_containers(&pod).find(|c| c.name == target.container).is_some_and(|c| restarts(&pod, c, init, end.code))
            };
            record.containers.get(&target.container).and_then(|c| match (previous, &c.current) {
                // A container that waits for its restart: its last run is the previous one.
                (Previous::Yes, Some(current)) if current.end.as_ref().is_some_and(again) => Some(current.clone()),
                (Previous::Yes, _) => c.previous.clone(),
                (Previous::No, current) => current.clone(),
            })
        };
        let missing = || match previous {
            Previous::Yes => {
                bad_request(format!("previous terminated container {:?} in pod {:?} not found", target.container, target.pod.name))
            }
            Previous::No => bad_request(format!("container {:?} in pod {:?} is waiting to start", target.container, target.pod.name)),
        };
        Ok((view.clone(), found.ok_or_else(missing)?))
    }
}

/// Whether the run before the last is meant.
#[derive(Clone, Copy)]
pub(crate) enum Previous {
    Yes,
    No,
}

fn bad_request(message: String) -> Error {
    Error::Refused { code: 400, reason: "BadRequest".into(), message }
}

/// A container of a pod.
pub(crate) struct Target {
    pub(crate) pod: Reference,
    pub(crate) container: String,
}

fn text(reader: capnp::text::Reader<'_>) -> Result<String, Fault> {
    Ok(reader.to_str().map_err(|e| Fault::failed(e.to_string()))?.to_owned())
}

fn pod_reference(reader: object_ref::Reader<'_>) -> Result<Reference, Fault> {
    let reference = Reference::core("pods", &text(reader.get_namespace()?)?, &text(reader.get_name()?)?);
    Ok(reference.with_uid(&text(reader.get_uid()?)?))
}

fn target(reader: pintle_wit::node_capnp::container_target::Reader<'_>) -> Result<Target, Fault> {
    Ok(Target { pod: pod_reference(reader.get_pod()?)?, container: text(reader.get_container()?)? })
}

fn fill(mut failure: failure::Builder<'_>, error: &Error) {
    let (code, reason) = match error {
        Error::Refused { code, reason, .. } => (*code, reason.as_str()),
        _ => (500, "InternalError"),
    };
    failure.set_code(code);
    failure.set_reason(reason);
    match error {
        Error::Refused { message, .. } => failure.set_message(message),
        other => failure.set_message(Error::chain(other)),
    }
}

impl node_agent::Server for Agent {
    async fn logs(self: CapRc<Self>, params: node_agent::LogsParams, mut results: node_agent::LogsResults) -> Result<(), Fault> {
        let params = params.get()?;
        let (target, options) = (target(params.get_target()?)?, params.get_options()?);
        let previous = if options.get_previous() { Previous::Yes } else { Previous::No };
        let wanted = log_options(options)?;
        let sink = params.get_sink()?;
        match self.log(&target, previous) {
            Ok((view, attempt)) => {
                let task = tokio::task::spawn_local(send_log(view, target.container, attempt, wanted, sink));
                let pump = Pump { task: task.abort_handle() };
                results.get().set_subscription(capnp_rpc::new_client(pump));
            }
            Err(error) => fill(results.get().init_failure(), &error),
        }
        Ok(())
    }

    async fn exec(self: CapRc<Self>, params: node_agent::ExecParams, mut results: node_agent::ExecResults) -> Result<(), Fault> {
        let params = params.get()?;
        let (target, spec) = (target(params.get_target()?)?, exec_spec(params.get_options()?)?);
        let sinks = Sinks { stdout: params.get_stdout().ok(), stderr: params.get_stderr().ok() };
        let session = async { Ok::<_, Error>(self.node.runtime.exec(&self.running(&target)?, spec).await?) };
        match session.await {
            Ok(session) => results.get().set_process(capnp_rpc::new_client(exec_process(session, sinks))),
            Err(error) => fill(results.get().init_failure(), &error),
        }
        Ok(())
    }

    async fn attach(self: CapRc<Self>, params: node_agent::AttachParams, mut results: node_agent::AttachResults) -> Result<(), Fault> {
        let params = params.get()?;
        let (target, options) = (target(params.get_target()?)?, params.get_options()?);
        let stdin = options.get_stdin();
        let sinks = Sinks { stdout: params.get_stdout().ok(), stderr: params.get_stderr().ok() };
        let session = async {
            let id = self.running(&target)?;
            Ok::<_, Error>((self.node.runtime.attach(&id, stdin).await?, id))
        };
        match session.await {
            Ok((mut session, id)) => {
                let streams = Streams { stdin: session.stdin.take(), stdout: session.stdout.take(), stderr: session.stderr.take() };
                let resizer = session.resizer.take();
                let runtime = self.node.runtime.clone();
                let exit = async move { runtime.wait(&id).await.map(|exit| exit.code).map_err(|e| Error::chain(&e)) };
                results.get().set_process(capnp_rpc::new_client(running_process(streams, resizer, sinks, exit, None)));
            }
            Err(error) => fill(results.get().init_failure(), &error),
        }
        Ok(())
    }

    async fn port_forward(
        self: CapRc<Self>,
        params: node_agent::PortForwardParams,
        mut results: node_agent::PortForwardResults,
    ) -> Result<(), Fault> {
        let params = params.get()?;
        if text(params.get_pod()?.get_resource()?)? == "nodes" {
            let (ours, theirs) = tokio::io::duplex(WRITE_BYTES);
            tokio::task::spawn_local(kubelet::serve(self.clone(), ours));
            let (reader, writer) = tokio::io::split(theirs);
            results.get().set_to_pod(capnp_rpc::new_client(connection(Box::pin(reader), Box::pin(writer), params.get_from_pod()?)));
            return Ok(());
        }
        let (pod, port, from_pod) = (pod_reference(params.get_pod()?)?, params.get_port(), params.get_from_pod()?);
        let connected = async {
            let namespace = match sandbox_of(&*self.view(&pod)?)? {
                Some(sandbox) => Some(self.node.runtime.netns(&sandbox).await?),
                None => None,
            };
            let reach = async |namespace, loopback: std::net::IpAddr| {
                let connected = net::tcp_socket_in(namespace, loopback).await?.connect((loopback, port).into()).await;
                connected.map_err(|e| bad_request(format!("port {port} of pod {}: {e}", pod.name)))
            };
            let again = namespace.as_ref().map(std::os::fd::OwnedFd::try_clone).transpose().map_err(|e| bad_request(e.to_string()))?;
            match reach(namespace, std::net::Ipv4Addr::LOCALHOST.into()).await {
                // Some listen at the loopback address of version 6 alone.
                Err(error) => reach(again, std::net::Ipv6Addr::LOCALHOST.into()).await.map_err(|_| error),
                stream => stream,
            }
        };
        match connected.await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                results.get().set_to_pod(capnp_rpc::new_client(connection(Box::pin(reader), Box::pin(writer), from_pod)));
            }
            Err(error) => fill(results.get().init_failure(), &error),
        }
        Ok(())
    }

    async fn stats(self: CapRc<Self>, _: node_agent::StatsParams, mut results: node_agent::StatsResults) -> Result<(), Fault> {
        let summary = stats::summary(&self.node).await;
        results.get().set_summary(summary.to_string().as_bytes());
        Ok(())
    }
}

/// Carries what comes to the kernel; what the kernel writes goes into what this makes.
fn connection(reader: OutputStream, writer: InputStream, to: byte_sink::Client) -> Input {
    let task = tokio::task::spawn_local(async move { pump(reader, &to).await });
    Input { stream: Mutex::new(Some(writer)), _pump: Some(Pump { task: task.abort_handle() }) }
}

/// The sandbox whose network the pod has; `None`: the node's own.
fn sandbox_of(view: &View) -> Result<Option<SandboxId>> {
    let record = view.record.borrow();
    let sandbox = record.sandbox.as_ref().ok_or_else(|| bad_request("the pod is not running".into()))?;
    match host_network(&view.pod.borrow()) {
        true => Ok(None),
        false => Ok(Some(SandboxId::parse(&sandbox.id)?)),
    }
}

fn exec_spec(options: exec_options::Reader<'_>) -> Result<ExecSpec, Fault> {
    let command = options.get_command()?.iter().map(|word| text(word?)).collect::<Result<Vec<_>, Fault>>()?;
    Ok(ExecSpec { command, stdin: options.get_stdin(), tty: options.get_tty(), ..ExecSpec::default() })
}

fn log_options(reader: pintle_wit::node_capnp::log_options::Reader<'_>) -> Result<log_file::Options, Fault> {
    let stream = match reader.get_stream()?.to_str().unwrap_or_default() {
        "Stdout" => Some("stdout"),
        "Stderr" => Some("stderr"),
        _ => None,
    };
    let since = match reader.get_since_unix_nanos() {
        0 => None,
        nanos => jiff::Timestamp::from_nanosecond(i128::from(nanos)).ok(),
    };
    Ok(log_file::Options {
        follow: reader.get_follow(),
        timestamps: reader.get_timestamps(),
        tail_lines: u64::try_from(reader.get_tail_lines()).ok(),
        limit_bytes: u64::try_from(reader.get_limit_bytes()).ok(),
        since,
        stream,
    })
}

async fn send_log(view: Rc<View>, container: String, attempt: Attempt, options: log_file::Options, sink: byte_sink::Client) {
    let send = |bytes: Vec<u8>| {
        let sink = sink.clone();
        async move { write(&sink, &bytes).await }
    };
    follow_log(view, container, attempt, options, send).await;
    let _ = sink.end_request().send().promise.await;
}

/// Carries a log to `send`, which says whether to go on.
pub(crate) async fn follow_log<F: Future<Output = bool>>(
    view: Rc<View>,
    container: String,
    attempt: Attempt,
    options: log_file::Options,
    send: impl FnMut(Vec<u8>) -> F,
) {
    let alive = || {
        let record = view.record.borrow();
        record.containers.get(&container).and_then(|c| c.open()).is_some_and(|open| open.id == attempt.id)
    };
    if let Err(error) = log_file::follow(&attempt.log, options, alive, send).await {
        // The file appears with the first start; without it there is nothing to show.
        tracing::debug!(error = Error::chain(&error), "a log ends early");
    }
}

async fn write(sink: &byte_sink::Client, bytes: &[u8]) -> bool {
    let mut request = sink.write_request();
    request.get().set_bytes(bytes);
    request.send().promise.await.is_ok()
}

/// Carries a stream to the kernel until either side ends.
async fn pump(mut stream: OutputStream, sink: &byte_sink::Client) {
    let mut block = vec![0; WRITE_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut block).await {
        if !write(sink, &block[..count]).await {
            return;
        }
    }
    let _ = sink.end_request().send().promise.await;
}

/// A task that ends when nobody holds it any more.
struct Pump {
    task: AbortHandle,
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl subscription::Server for Pump {
    async fn cancel(self: CapRc<Self>, _: subscription::CancelParams, _: subscription::CancelResults) -> Result<(), Fault> {
        self.task.abort();
        Ok(())
    }
}

struct Sinks {
    stdout: Option<byte_sink::Client>,
    stderr: Option<byte_sink::Client>,
}

struct Streams {
    stdin: Option<InputStream>,
    stdout: Option<OutputStream>,
    stderr: Option<OutputStream>,
}

/// An exec or attach, as the kernel holds it.
struct RunningProcess {
    stdin: RefCell<Option<InputStream>>,
    resizer: Option<TerminalResizer>,
    exit: watch::Receiver<Option<Result<i32, String>>>,
    _pumps: Vec<Pump>,
    _hang_up: Option<oneshot::Sender<()>>,
}

fn exec_process(mut session: ExecSession, sinks: Sinks) -> RunningProcess {
    let streams = Streams { stdin: session.stdin.take(), stdout: session.stdout.take(), stderr: session.stderr.take() };
    let resizer = session.resizer.take();
    let (hang_up, hung_up) = oneshot::channel::<()>();
    let exit = async move {
        tokio::select! {
            exit = session.wait() => return exit.map(|exit| exit.code).map_err(|e| Error::chain(&e)),
            _ = hung_up => {}
        }
        // Nobody waits any more: what was started for them ends.
        let _ = session.kill().await;
        session.wait().await.map(|exit| exit.code).map_err(|e| Error::chain(&e))
    };
    running_process(streams, resizer, sinks, exit, Some(hang_up))
}

fn running_process(
    streams: Streams,
    resizer: Option<TerminalResizer>,
    sinks: Sinks,
    exit: impl Future<Output = Result<i32, String>> + 'static,
    hang_up: Option<oneshot::Sender<()>>,
) -> RunningProcess {
    let (told, heard) = watch::channel(None);
    let pairs = [(streams.stdout, sinks.stdout), (streams.stderr, sinks.stderr)];
    let mut pumps = Vec::new();
    let mut ends = Vec::new();
    for (stream, sink) in pairs {
        if let (Some(stream), Some(sink)) = (stream, sink) {
            let (done, ended) = oneshot::channel::<()>();
            let task = tokio::task::spawn_local(async move {
                pump(stream, &sink).await;
                drop(done);
            });
            pumps.push(Pump { task: task.abort_handle() });
            ends.push(ended);
        }
    }
    tokio::task::spawn_local(async move {
        let exit = exit.await;
        // All output precedes the exit, unless a grandchild keeps the streams open.
        let all = futures::future::join_all(ends);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), all).await;
        let _ = told.send(Some(exit));
    });
    RunningProcess { stdin: RefCell::new(streams.stdin), resizer, exit: heard, _pumps: pumps, _hang_up: hang_up }
}

impl process::Server for RunningProcess {
    async fn stdin(self: CapRc<Self>, _: process::StdinParams, mut results: process::StdinResults) -> Result<(), Fault> {
        let stream = self.stdin.borrow_mut().take();
        results.get().set_sink(capnp_rpc::new_client(Input { stream: Mutex::new(stream), _pump: None }));
        Ok(())
    }

    async fn resize(self: CapRc<Self>, params: process::ResizeParams, _: process::ResizeResults) -> Result<(), Fault> {
        let params = params.get()?;
        let size = TerminalSize { width: params.get_columns(), height: params.get_rows() };
        match &self.resizer {
            Some(resizer) => resizer.resize(size).map_err(|e| Fault::failed(e.to_string())),
            None => Ok(()),
        }
    }

    async fn wait(self: CapRc<Self>, _: process::WaitParams, mut results: process::WaitResults) -> Result<(), Fault> {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.map_err(|_| Fault::failed("the process is lost".into()))?.clone();
        let mut status = results.get().init_exit();
        match ended {
            Some(Ok(code)) => status.set_code(code),
            Some(Err(error)) => status.set_error(error.as_str()),
            None => status.set_error("the process is lost"),
        }
        Ok(())
    }
}

/// Bytes from the kernel into a stream of this machine.
struct Input {
    stream: Mutex<Option<InputStream>>,
    _pump: Option<Pump>,
}

impl byte_sink::Server for Input {
    async fn write(self: CapRc<Self>, params: byte_sink::WriteParams, _: byte_sink::WriteResults) -> Result<(), Fault> {
        let bytes = params.get()?.get_bytes()?.to_vec();
        let mut stream = self.stream.lock().await;
        let Some(open) = stream.as_mut() else { return Err(Fault::failed("the stream is closed".into())) };
        let written = async {
            open.write_all(&bytes).await?;
            open.flush().await
        };
        written.await.map_err(|e| Fault::failed(e.to_string()))
    }

    async fn end(self: CapRc<Self>, _: byte_sink::EndParams, _: byte_sink::EndResults) -> Result<(), Fault> {
        if let Some(mut stream) = self.stream.lock().await.take() {
            let _ = stream.shutdown().await;
        }
        Ok(())
    }
}
