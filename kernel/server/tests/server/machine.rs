//! A pretended machine: a real TLS connection and real Cap'n Proto RPC, and behind them processes that only echo.
//!
//! Its processes: `exit N` ends with N; `cat` copies stdin to stdout until its end; `err` writes to stderr; anything else says its words.

use std::cell::RefCell;
use std::rc::Rc;

use capnp::capability::Rc as CapRc;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use futures::AsyncReadExt as _;
use pintle_pki::Issued;
use pintle_server::ALPN_NODE;
use pintle_wit::common_capnp::{byte_sink, outcome, subscription};
use pintle_wit::node_capnp::{node_agent, node_link, node_session, process};
use pintle_wit::objects_capnp::{row_event, row_sink};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::client::TlsStream;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use crate::cluster::{As, Cluster};

/// A row that the kernel pushed.
#[derive(Debug, PartialEq)]
pub enum Row {
    Put(Value),
    Delete(Value),
    Synced,
    Reset,
}

type Job = Box<dyn FnOnce(node_session::Client) -> futures::future::LocalBoxFuture<'static, ()> + Send>;

/// A connected machine, on a thread of its own; dropping it hangs up.
pub struct Machine {
    jobs: mpsc::UnboundedSender<Job>,
    pub pods: mpsc::UnboundedReceiver<Row>,
    /// Ends when the link does.
    pub gone: oneshot::Receiver<()>,
}

impl Machine {
    /// Connect as the node `name`.
    pub async fn connect(cluster: &Cluster, name: &str) -> Machine {
        let issued: Issued = cluster.server.pki().issue_node_cert(name).unwrap();
        let stream = cluster.tls(As::Certificate(&issued), ALPN_NODE).await;
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (rows, pods) = mpsc::unbounded_channel();
        let (opened, open) = oneshot::channel();
        let (going, gone) = oneshot::channel();
        let name = name.to_owned();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let (link, mut system) = link(stream);
                let live = async {
                    let (session, _held) = open_session(&link, &name, rows).await;
                    let _ = opened.send(());
                    while let Some(job) = queue.recv().await {
                        tokio::task::spawn_local(job(session.clone()));
                    }
                };
                tokio::select! {
                    () = live => {}
                    _ = &mut system => {}
                }
                drop(going);
            });
        });
        open.await.expect("the session opens");
        Machine { jobs, pods, gone }
    }

    /// Run something with the session, on the machine's thread.
    pub async fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        job: impl FnOnce(node_session::Client) -> F + Send + 'static,
    ) -> T {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |session| Box::pin(async move { drop(done.send(job(session).await)) }));
        self.jobs.send(job).ok().unwrap();
        result.await.expect("the job runs to its end")
    }
}

fn link(stream: TlsStream<tokio::net::TcpStream>) -> (node_link::Client, RpcSystem<rpc_twoparty_capnp::Side>) {
    let (read, write) = stream.compat().split();
    let network = twoparty::VatNetwork::new(read, write, rpc_twoparty_capnp::Side::Client, Default::default());
    let mut system = RpcSystem::new(Box::new(network), None);
    (system.bootstrap(rpc_twoparty_capnp::Side::Server), system)
}

async fn open_session(
    link: &node_link::Client,
    name: &str,
    rows: mpsc::UnboundedSender<Row>,
) -> (node_session::Client, subscription::Client) {
    let mut request = link.open_request();
    request.get().set_agent(capnp_rpc::new_client(Agent));
    let node = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": { "capacity": { "cpu": "2" }, "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    request.get().init_hello().set_node(node.to_string().as_bytes());
    // The RPC system is polled by whoever polls the connection: here, beside us.
    let response = request.send().promise.await.unwrap();
    let session = response.get().unwrap().get_session().unwrap();
    let mut request = session.watch_pods_request();
    request.get().set_sink(capnp_rpc::new_client(Sink { rows }));
    let response = request.send().promise.await.unwrap();
    let subscription = response.get().unwrap().get_subscription().unwrap();
    (session, subscription)
}

/// An outcome as the object, or code and message.
pub fn read_outcome(reader: outcome::Reader<'_>) -> Result<Value, (u16, String)> {
    match reader.which().unwrap() {
        outcome::Object(object) => Ok(serde_json::from_slice(object.unwrap()).unwrap()),
        outcome::Failure(failure) => {
            let failure = failure.unwrap();
            Err((failure.get_code(), failure.get_message().unwrap().to_string().unwrap()))
        }
        outcome::Unspecified(()) => panic!("an outcome that says nothing"),
    }
}

struct Sink {
    rows: mpsc::UnboundedSender<Row>,
}

impl row_sink::Server for Sink {
    async fn push(self: CapRc<Self>, params: row_sink::PushParams, _: row_sink::PushResults) -> Result<(), capnp::Error> {
        for event in params.get()?.get_events()?.iter() {
            let row = || serde_json::from_slice(event.get_row().unwrap()).unwrap();
            let row = match event.get_kind()? {
                row_event::Kind::Put => Row::Put(row()),
                row_event::Kind::Delete => Row::Delete(row()),
                row_event::Kind::Synced => Row::Synced,
                row_event::Kind::Reset => Row::Reset,
                row_event::Kind::Unspecified => panic!("an event that says nothing"),
            };
            let _ = self.rows.send(row);
        }
        Ok(())
    }
}

struct Agent;

async fn write(sink: &byte_sink::Client, bytes: &[u8]) -> Result<(), capnp::Error> {
    let mut request = sink.write_request();
    request.get().set_bytes(bytes);
    request.send().promise.await.map(drop)
}

impl node_agent::Server for Agent {
    async fn logs(self: CapRc<Self>, params: node_agent::LogsParams, mut results: node_agent::LogsResults) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let container = params.get_target()?.get_container()?.to_string()?;
        if container == "silent" {
            let mut failure = results.get().init_failure();
            failure.set_code(400);
            failure.set_reason("BadRequest");
            failure.set_message("container \"silent\" is waiting to start");
            return Ok(());
        }
        let (sink, tail) = (params.get_sink()?, params.get_options()?.get_tail_lines());
        tokio::task::spawn_local(async move {
            let lines = ["one\n", "two\n", "three\n"];
            let skip = usize::try_from(tail).map_or(0, |tail| lines.len().saturating_sub(tail));
            for line in &lines[skip..] {
                write(&sink, line.as_bytes()).await.unwrap();
            }
            let _ = sink.end_request().send().promise.await;
        });
        Ok(())
    }

    async fn exec(self: CapRc<Self>, params: node_agent::ExecParams, mut results: node_agent::ExecResults) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let command: Vec<String> = params.get_options()?.get_command()?.iter().map(|word| word.unwrap().to_string().unwrap()).collect();
        results.get().set_process(start(command, params.get_stdout()?, params.get_stderr()?));
        Ok(())
    }

    async fn attach(
        self: CapRc<Self>,
        params: node_agent::AttachParams,
        mut results: node_agent::AttachResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        results.get().set_process(start(vec!["attached".to_owned()], params.get_stdout()?, params.get_stderr()?));
        Ok(())
    }

    async fn port_forward(
        self: CapRc<Self>,
        params: node_agent::PortForwardParams,
        mut results: node_agent::PortForwardResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let from_pod = params.get_from_pod()?;
        write(&from_pod, format!("port {}\n", params.get_port()).as_bytes()).await?;
        results.get().set_to_pod(capnp_rpc::new_client(Echo { to: from_pod }));
        Ok(())
    }
}

/// What is written comes back; the end too.
struct Echo {
    to: byte_sink::Client,
}

impl byte_sink::Server for Echo {
    async fn write(self: CapRc<Self>, params: byte_sink::WriteParams, _: byte_sink::WriteResults) -> Result<(), capnp::Error> {
        write(&self.to, params.get()?.get_bytes()?).await
    }

    async fn end(self: CapRc<Self>, _: byte_sink::EndParams, _: byte_sink::EndResults) -> Result<(), capnp::Error> {
        self.to.end_request().send().promise.await.map(drop)
    }
}

fn start(command: Vec<String>, stdout: byte_sink::Client, stderr: byte_sink::Client) -> process::Client {
    let (input, mut stdin) = mpsc::channel::<Vec<u8>>(1);
    let (done, exit) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let code = match words.as_slice() {
            ["exit", code] => code.parse().unwrap(),
            ["cat"] => {
                while let Some(data) = stdin.recv().await {
                    if write(&stdout, &data).await.is_err() {
                        break;
                    }
                }
                0
            }
            ["err", text] => write(&stderr, text.as_bytes()).await.map_or(1, |()| 0),
            words => write(&stdout, format!("{}\n", words.join(" ")).as_bytes()).await.map_or(1, |()| 0),
        };
        let _ = stdout.end_request().send().promise.await;
        let _ = stderr.end_request().send().promise.await;
        let _ = done.send(code);
    });
    capnp_rpc::new_client(Process { input: RefCell::new(Some(input)), exit: RefCell::new(Some(exit)) })
}

struct Process {
    input: RefCell<Option<mpsc::Sender<Vec<u8>>>>,
    exit: RefCell<Option<oneshot::Receiver<i32>>>,
}

impl process::Server for Process {
    async fn stdin(self: CapRc<Self>, _: process::StdinParams, mut results: process::StdinResults) -> Result<(), capnp::Error> {
        let input = Rc::new(RefCell::new(self.input.take()));
        results.get().set_sink(capnp_rpc::new_client(Input { input }));
        Ok(())
    }

    async fn resize(self: CapRc<Self>, _: process::ResizeParams, _: process::ResizeResults) -> Result<(), capnp::Error> {
        Ok(())
    }

    async fn wait(self: CapRc<Self>, _: process::WaitParams, mut results: process::WaitResults) -> Result<(), capnp::Error> {
        let exit = self.exit.take();
        let code = exit.expect("one wait").await.unwrap_or(137);
        results.get().init_exit().set_code(code);
        Ok(())
    }
}

struct Input {
    input: Rc<RefCell<Option<mpsc::Sender<Vec<u8>>>>>,
}

impl byte_sink::Server for Input {
    async fn write(self: CapRc<Self>, params: byte_sink::WriteParams, _: byte_sink::WriteResults) -> Result<(), capnp::Error> {
        let data = params.get()?.get_bytes()?.to_vec();
        let input = self.input.borrow().clone();
        input.expect("open").send(data).await.map_err(|_| capnp::Error::disconnected("the process has ended".into()))
    }

    async fn end(self: CapRc<Self>, _: byte_sink::EndParams, _: byte_sink::EndResults) -> Result<(), capnp::Error> {
        drop(self.input.take());
        Ok(())
    }
}
