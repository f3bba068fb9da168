//! What a machine is asked to do: calls from the HTTP side, carried to its `NodeAgent` and back.
//!
//! Each call runs on its own; bytes flow through bounded pipes, and a `ByteSink` is answered only when its bytes have left the pipe, so the machine is
//! slowed by the client and not the other way round. Invariant: when either end is gone, the other is told, and nothing is kept.

use std::cell::RefCell;

use bytes::Bytes;
use capnp::capability::Rc as CapRc;
use pintle_api::ApiError;
use pintle_wit::common_capnp::{byte_sink, failure, object_ref};
use pintle_wit::node_capnp::{container_target, exec_options, log_options, node_agent, process};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Call, Reply};
use pintle_streams::process::{CHUNK_BYTES_MAX, Exit, ProcessEnd, TerminalSize, Wanted};

/// A container of a pod; the container is empty for the pod itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `pods`; `nodes` for the machine itself.
    pub(crate) resource: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) container: String,
}

/// What of a log is wanted; as in `wit/node.capnp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: i64,
    pub(crate) limit_bytes: i64,
    pub(crate) since_unix_nanos: i64,
    pub(crate) stream: String,
}

/// Carry calls until the session has ended.
pub(super) async fn serve(agent: node_agent::Client, mut calls: mpsc::Receiver<Call>, ended: &CancellationToken) {
    loop {
        let call = tokio::select! {
            () = ended.cancelled() => return,
            call = calls.recv() => match call { Some(call) => call, None => return },
        };
        let (agent, ended) = (agent.clone(), ended.clone());
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = carry(&agent, call) => {}
            }
        });
    }
}

/// Begin an exec or an attach: two methods of the same shape, which the generated code gives different types.
macro_rules! begin_process {
    ($request:expr, $target:expr, $command:expr, $wanted:expr, $end:expr) => {{
        let mut request = $request;
        let mut params = request.get();
        write_target($target, params.reborrow().init_target());
        write_exec($command, $wanted, params.reborrow().init_options());
        params.set_stdout(sink($end.stdout.clone(), CancellationToken::new()));
        params.set_stderr(sink($end.stderr.clone(), CancellationToken::new()));
        request.send().promise.await.and_then(|results| {
            let results = results.get()?;
            Ok((refusal(results.get_failure()?)?, results.has_process().then(|| results.get_process()).transpose()?))
        })
    }};
}

async fn carry(agent: &node_agent::Client, call: Call) {
    match call {
        Call::Logs { target, options, to, gone, reply } => logs(agent, &target, &options, to, &gone, reply).await,
        Call::Process { attach, target, command, wanted, end, reply } => {
            let begun = match attach {
                true => begin_process!(agent.attach_request(), &target, &command, wanted, end),
                false => begin_process!(agent.exec_request(), &target, &command, wanted, end),
            };
            run(begun, end, wanted, reply).await;
        }
        Call::PortForward { target, port, from_client, to_client, reply } => {
            port_forward(agent, &target, port, from_client, to_client, reply).await;
        }
    }
}

async fn logs(
    agent: &node_agent::Client,
    target: &Target,
    options: &LogOptions,
    to: mpsc::Sender<Bytes>,
    gone: &CancellationToken,
    reply: Reply,
) {
    let done = CancellationToken::new();
    let mut request = agent.logs_request();
    let mut params = request.get();
    write_target(target, params.reborrow().init_target());
    write_log_options(options, params.reborrow().init_options());
    params.set_sink(sink(to, done.clone()));
    let begun = request.send().promise.await;
    let begun = begun.and_then(|results| {
        let results = results.get()?;
        Ok((refusal(results.get_failure()?)?, results.has_subscription().then(|| results.get_subscription()).transpose()?))
    });
    match begun {
        Ok((Some(error), _)) => drop(reply.send(Err(error))),
        Ok((None, subscription)) => {
            if reply.send(Ok(())).is_ok() {
                // The subscription keeps the log coming; it is held until the log has ended or the client is gone.
                tokio::select! {
                    () = gone.cancelled() => {}
                    () = done.cancelled() => {}
                }
            }
            drop(subscription);
        }
        Err(error) => drop(reply.send(Err(broken(&error)))),
    }
}

type Begun = Result<(Option<ApiError>, Option<process::Client>), capnp::Error>;

/// A process from its beginning to its end.
async fn run(begun: Begun, end: ProcessEnd, wanted: Wanted, reply: Reply) {
    let process = match begun {
        Ok((Some(error), _)) => return drop(reply.send(Err(error))),
        Ok((None, Some(process))) => process,
        Ok((None, None)) => return drop(reply.send(Err(ApiError::internal("the node answered without a process")))),
        Err(error) => return drop(reply.send(Err(broken(&error)))),
    };
    if reply.send(Ok(())).is_err() {
        return;
    }
    // The sinks hold their own senders: output ends when the machine ends it.
    let ProcessEnd { stdin, resize, stdout, stderr, mut exit } = end;
    drop((stdout, stderr));
    let waited = async {
        let answer = process.wait_request().send().promise.await?;
        let answer = answer.get()?.get_exit()?;
        let error = answer.get_error()?.to_string()?;
        Ok::<Exit, capnp::Error>(if error.is_empty() { Exit::Code(answer.get_code()) } else { Exit::Failed(error) })
    };
    let feed = async {
        let resizes = forward_resizes(&process, resize);
        let input = async {
            if wanted.stdin
                && let Err(error) = forward_stdin(&process, stdin).await
            {
                tracing::debug!(%error, "forwarding stdin");
            }
        };
        futures::future::join(input, resizes).await;
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        waited = waited => waited.unwrap_or_else(|error| Exit::Failed(broken(&error).message)),
        () = exit.closed() => return, // The client is gone: dropping the process hangs up.
        () = feed => return,
    };
    let _ = exit.send(ended);
}

async fn forward_stdin(process: &process::Client, mut stdin: mpsc::Receiver<Bytes>) -> Result<(), capnp::Error> {
    let answer = process.stdin_request().send().promise.await?;
    let sink = answer.get()?.get_sink()?;
    pump(&mut stdin, &sink).await
}

/// Everything that comes, then the end.
async fn pump(from: &mut mpsc::Receiver<Bytes>, to: &byte_sink::Client) -> Result<(), capnp::Error> {
    while let Some(mut data) = from.recv().await {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK_BYTES_MAX));
            let mut request = to.write_request();
            request.get().set_bytes(&chunk);
            request.send().promise.await?;
        }
    }
    to.end_request().send().promise.await.map(drop)
}

async fn forward_resizes(process: &process::Client, mut resizes: mpsc::Receiver<TerminalSize>) {
    while let Some(size) = resizes.recv().await {
        let mut request = process.resize_request();
        request.get().set_columns(size.columns);
        request.get().set_rows(size.rows);
        if request.send().promise.await.is_err() {
            return;
        }
    }
}

async fn port_forward(
    agent: &node_agent::Client,
    target: &Target,
    port: u16,
    mut from_client: mpsc::Receiver<Bytes>,
    to_client: mpsc::Sender<Bytes>,
    reply: Reply,
) {
    let mut request = agent.port_forward_request();
    let mut params = request.get();
    write_pod(target, params.reborrow().init_pod());
    params.set_port(port);
    params.set_from_pod(sink(to_client, CancellationToken::new()));
    let begun = request.send().promise.await;
    let begun = begun.and_then(|results| {
        let results = results.get()?;
        Ok((refusal(results.get_failure()?)?, results.has_to_pod().then(|| results.get_to_pod()).transpose()?))
    });
    match begun {
        Ok((Some(error), _)) => drop(reply.send(Err(error))),
        Ok((None, Some(to_pod))) => {
            if reply.send(Ok(())).is_ok()
                && let Err(error) = pump(&mut from_client, &to_pod).await
            {
                tracing::debug!(%error, "forwarding to a pod");
            }
        }
        Ok((None, None)) => drop(reply.send(Err(ApiError::internal("the node answered without a connection")))),
        Err(error) => drop(reply.send(Err(broken(&error)))),
    }
}

/// Bytes from a machine into a pipe.
struct Sink {
    to: RefCell<Option<mpsc::Sender<Bytes>>>,
    /// Cancelled at the end of the bytes.
    done: CancellationToken,
}

fn sink(to: mpsc::Sender<Bytes>, done: CancellationToken) -> byte_sink::Client {
    capnp_rpc::new_client(Sink { to: RefCell::new(Some(to)), done })
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.done.cancel();
    }
}

impl byte_sink::Server for Sink {
    async fn write(self: CapRc<Self>, params: byte_sink::WriteParams, _: byte_sink::WriteResults) -> Result<(), capnp::Error> {
        let bytes = params.get()?.get_bytes()?;
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(capnp::Error::failed(format!("a write of more than {CHUNK_BYTES_MAX} bytes")));
        }
        let to = self.to.borrow().clone();
        let gone = || capnp::Error::disconnected("nobody reads this any more".into());
        to.ok_or_else(gone)?.send(Bytes::copy_from_slice(bytes)).await.map_err(|_| gone())
    }

    async fn end(self: CapRc<Self>, _: byte_sink::EndParams, _: byte_sink::EndResults) -> Result<(), capnp::Error> {
        drop(self.to.take());
        self.done.cancel();
        Ok(())
    }
}

/// What the machine refuses with; `None` when it does not.
fn refusal(reader: failure::Reader<'_>) -> Result<Option<ApiError>, capnp::Error> {
    if reader.get_code() == 0 {
        return Ok(None);
    }
    Ok(Some(ApiError::from_code(reader.get_code(), reader.get_reason()?.to_str()?, reader.get_message()?.to_str()?)))
}

/// A call that did not come back.
fn broken(error: &capnp::Error) -> ApiError {
    tracing::debug!(%error, "a call to a machine failed");
    match error.kind {
        capnp::ErrorKind::Disconnected => ApiError::service_unavailable("the connection to the node was lost"),
        capnp::ErrorKind::Unimplemented => ApiError::from_code(501, "", "the node does not know this operation"),
        _ => ApiError::internal(format_args!("the node failed: {}", error.extra)),
    }
}

fn write_pod(target: &Target, mut to: object_ref::Builder<'_>) {
    to.set_resource(target.resource);
    to.set_namespace(target.namespace.as_str());
    to.set_name(target.name.as_str());
    to.set_uid(target.uid.as_str());
}

fn write_target(target: &Target, mut to: container_target::Builder<'_>) {
    write_pod(target, to.reborrow().init_pod());
    to.set_container(target.container.as_str());
}

fn write_exec(command: &[String], wanted: Wanted, mut to: exec_options::Builder<'_>) {
    let mut list = to.reborrow().init_command(command.len() as u32);
    for (index, word) in command.iter().enumerate() {
        list.set(index as u32, word.as_str());
    }
    to.set_stdin(wanted.stdin);
    to.set_stdout(wanted.stdout);
    to.set_stderr(wanted.stderr);
    to.set_tty(wanted.tty);
}

fn write_log_options(options: &LogOptions, mut to: log_options::Builder<'_>) {
    to.set_follow(options.follow);
    to.set_previous(options.previous);
    to.set_timestamps(options.timestamps);
    to.set_tail_lines(options.tail_lines);
    to.set_limit_bytes(options.limit_bytes);
    to.set_since_unix_nanos(options.since_unix_nanos);
    to.set_stream(options.stream.as_str());
}
