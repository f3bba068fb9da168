//! A kernel for tests: TLS with client certificates, `NodeLink` over it, objects in memory.
//!
//! It stores what it is told and pushes what it is given; it decides nothing. Waits are level-triggered and bounded.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use capnp::Error as Fault;
use capnp::capability::Rc as CapRc;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use futures::AsyncReadExt;
use pintle_wit::common_capnp::{byte_sink, object_ref, subscription};
use pintle_wit::node_capnp::{node_agent, node_link, node_session};
use pintle_wit::objects_capnp::{row_event, row_sink};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::machine::patience;

#[derive(Default)]
pub struct State {
    pub pods: BTreeMap<String, Value>,
    pub objects: BTreeMap<(String, String, String), Value>,
    pub node: Value,
    pub events: BTreeMap<String, Value>,
    pub leases: u32,
    pub sessions: u32,
    /// How many mirror pods were made.
    pub mirrors: u32,
    /// Every phase and reason that was reported, in order: `pod phase reason`.
    pub history: Vec<String>,
    agent: Option<node_agent::Client>,
    pod_sinks: Vec<row_sink::Client>,
    volume_sinks: Vec<row_sink::Client>,
    node_sinks: Vec<row_sink::Client>,
    connections: Vec<tokio::task::AbortHandle>,
    accepting: bool,
}

/// The kernel of one test.
#[derive(Clone)]
pub struct Kernel {
    pub state: Rc<RefCell<State>>,
    pub address: SocketAddr,
    pod_cidr: String,
}

impl Kernel {
    /// Listens; writes `ca.crt`, `node.crt` and `node.key` to `directory`.
    pub async fn start(directory: &Path, node: &str, pod_cidr: &str) -> Self {
        let config = certificates(directory, node);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let state = State { accepting: true, ..State::default() };
        let kernel =
            Self { state: Rc::new(RefCell::new(state)), address: listener.local_addr().expect("bound"), pod_cidr: pod_cidr.to_owned() };
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let this = kernel.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if !this.state.borrow().accepting {
                    continue;
                }
                stream.set_nodelay(true).expect("set");
                let (acceptor, kernel) = (acceptor.clone(), this.clone());
                let task = tokio::task::spawn_local(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"pintle-node/1"[..]));
                    let (reader, writer) = stream.compat().split();
                    let network = twoparty::VatNetwork::new(
                        futures::io::BufReader::new(reader),
                        futures::io::BufWriter::new(writer),
                        rpc_twoparty_capnp::Side::Server,
                        capnp::message::ReaderOptions::default(),
                    );
                    let link: node_link::Client = capnp_rpc::new_client(Link(kernel));
                    let _ = RpcSystem::new(Box::new(network), Some(link.client)).await;
                });
                this.state.borrow_mut().connections.push(task.abort_handle());
            }
        });
        kernel
    }

    /// Cuts every connection and takes no new one until [`Kernel::come_back`].
    pub fn go_away(&self) {
        let mut state = self.state.borrow_mut();
        state.accepting = false;
        state.connections.drain(..).for_each(|task| task.abort());
        (state.agent, state.pod_sinks, state.node_sinks) = (None, Vec::new(), Vec::new());
        state.volume_sinks.clear();
    }

    pub fn come_back(&self) {
        self.state.borrow_mut().accepting = true;
    }

    pub fn agent(&self) -> node_agent::Client {
        self.state.borrow().agent.clone().expect("a node is connected")
    }

    /// Creates or replaces a volume of the cluster, and tells the node.
    pub async fn put_volume(&self, volume: Value) {
        let name = volume["metadata"]["name"].as_str().expect("a name").to_owned();
        self.object("persistentvolumes", "", &name, volume.clone());
        let sinks = self.state.borrow().volume_sinks.clone();
        for sink in sinks {
            push(&sink, &[(row_event::Kind::Put, volume.clone())]).await;
        }
    }

    pub fn object(&self, resource: &str, namespace: &str, name: &str, object: Value) {
        self.state.borrow_mut().objects.insert((resource.into(), namespace.into(), name.into()), object);
    }

    /// Creates or replaces a pod and tells the node.
    pub async fn put_pod(&self, pod: Value) {
        let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
        self.state.borrow_mut().pods.insert(uid, pod.clone());
        self.push(row_event::Kind::Put, &pod).await;
    }

    /// What `kubectl delete` does first.
    pub async fn delete_pod(&self, uid: &str, grace: i64) {
        let mut pod = self.pod(uid);
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        pod["metadata"]["deletionTimestamp"] = json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put_pod(pod).await;
    }

    /// What a forced delete does: the object is gone at once.
    pub async fn erase_pod(&self, uid: &str) {
        let pod = self.state.borrow_mut().pods.remove(uid);
        if let Some(pod) = pod {
            self.push(row_event::Kind::Delete, &pod).await;
        }
    }

    pub fn pod(&self, uid: &str) -> Value {
        self.state.borrow().pods.get(uid).cloned().unwrap_or_default()
    }

    async fn push(&self, kind: row_event::Kind, row: &Value) {
        let sinks = self.state.borrow().pod_sinks.clone();
        for sink in sinks {
            push(&sink, &[(kind, row.clone())]).await;
        }
    }

    /// Waits until `test` gives something.
    pub async fn until<T>(&self, what: &str, mut test: impl FnMut(&State) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + patience(30);
        loop {
            if let Some(found) = test(&self.state.borrow()) {
                return found;
            }
            if tokio::time::Instant::now() > deadline {
                let state = self.state.borrow();
                let pods: Vec<_> = state.pods.values().map(|p| format!("{:#}", p["status"])).collect();
                let events: Vec<_> = state.events.values().map(|e| format!("{} {}", e["reason"], e["message"])).collect();
                panic!("waited for {what}\npods: {}\nevents: {}\nhistory: {:?}", pods.join("\n"), events.join("\n"), state.history);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn until_phase(&self, uid: &str, phase: &str) -> Value {
        self.until(&format!("pod {uid} to be {phase}"), |s| s.pods.get(uid).filter(|p| p["status"]["phase"] == phase).cloned()).await
    }

    pub async fn until_ready(&self, uid: &str) -> Value {
        let ready = |p: &&Value| {
            p["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        };
        self.until(&format!("pod {uid} to be ready"), |s| s.pods.get(uid).filter(ready).cloned()).await
    }

    pub async fn until_removed(&self, uid: &str) {
        self.until(&format!("pod {uid} to be removed"), |s| (!s.pods.contains_key(uid)).then_some(())).await;
    }

    /// The log of a container, as text.
    pub async fn logs(
        &self,
        pod: &Value,
        container: &str,
        set: impl FnOnce(pintle_wit::node_capnp::log_options::Builder<'_>),
    ) -> Result<String, String> {
        let mut request = self.agent().logs_request();
        let mut params = request.get();
        let mut target = params.reborrow().init_target();
        write_reference(target.reborrow().init_pod(), pod);
        target.set_container(container);
        set(params.reborrow().init_options());
        let (sink, collected) = Collector::pair();
        params.set_sink(sink);
        let response = request.send().promise.await.map_err(|e| e.to_string())?;
        let results = response.get().map_err(|e| e.to_string())?;
        let failure = results.get_failure().map_err(|e| e.to_string())?;
        if failure.get_code() != 0 {
            return Err(failure.get_message().ok().and_then(|m| m.to_str().ok()).unwrap_or_default().to_owned());
        }
        collected.text().await
    }

    /// Runs a command in a container: exit code, stdout, stderr.
    pub async fn exec(
        &self,
        pod: &Value,
        container: &str,
        command: &[&str],
        stdin: Option<&[u8]>,
    ) -> Result<(i32, String, String), String> {
        let mut request = self.agent().exec_request();
        let mut params = request.get();
        let mut target = params.reborrow().init_target();
        write_reference(target.reborrow().init_pod(), pod);
        target.set_container(container);
        let mut options = params.reborrow().init_options();
        options.set_stdin(stdin.is_some());
        options.set_stdout(true);
        options.set_stderr(true);
        let mut list = options.init_command(u32::try_from(command.len()).expect("few words"));
        for (index, word) in (0..).zip(command) {
            list.set(index, *word);
        }
        let ((out_sink, out), (err_sink, err)) = (Collector::pair(), Collector::pair());
        params.set_stdout(out_sink);
        params.set_stderr(err_sink);
        let response = request.send().promise.await.map_err(|e| e.to_string())?;
        let results = response.get().map_err(|e| e.to_string())?;
        let failure = results.get_failure().map_err(|e| e.to_string())?;
        if failure.get_code() != 0 {
            return Err(failure.get_message().ok().and_then(|m| m.to_str().ok()).unwrap_or_default().to_owned());
        }
        let process = results.get_process().map_err(|e| e.to_string())?;
        if let Some(bytes) = stdin {
            let input = process.stdin_request().send().promise.await.map_err(|e| e.to_string())?;
            let sink = input.get().and_then(|r| r.get_sink()).map_err(|e| e.to_string())?;
            let mut write = sink.write_request();
            write.get().set_bytes(bytes);
            write.send().promise.await.map_err(|e| e.to_string())?;
            sink.end_request().send().promise.await.map_err(|e| e.to_string())?;
        }
        let exit = process.wait_request().send().promise.await.map_err(|e| e.to_string())?;
        let exit = exit.get().and_then(|r| r.get_exit()).map_err(|e| e.to_string())?;
        let error = exit.get_error().ok().and_then(|m| m.to_str().ok()).unwrap_or_default().to_owned();
        if !error.is_empty() {
            return Err(error);
        }
        Ok((exit.get_code(), out.text().await?, err.text().await?))
    }

    /// Sends bytes to a port of a pod and gives what comes back.
    pub async fn forward(&self, pod: &Value, port: u16, bytes: &[u8]) -> Result<String, String> {
        let mut request = self.agent().port_forward_request();
        let mut params = request.get();
        write_reference(params.reborrow().init_pod(), pod);
        params.set_port(port);
        let (sink, collected) = Collector::pair();
        params.set_from_pod(sink);
        let response = request.send().promise.await.map_err(|e| e.to_string())?;
        let results = response.get().map_err(|e| e.to_string())?;
        if results.get_failure().map_err(|e| e.to_string())?.get_code() != 0 {
            return Err("refused".into());
        }
        let to_pod = results.get_to_pod().map_err(|e| e.to_string())?;
        let mut write = to_pod.write_request();
        write.get().set_bytes(bytes);
        write.send().promise.await.map_err(|e| e.to_string())?;
        collected.text().await
    }

    /// Joins a container, writes to it, ends its input, and gives its exit code and what it wrote until then.
    pub async fn attach(&self, pod: &Value, container: &str, stdin: &[u8]) -> Result<(i32, String), String> {
        let mut request = self.agent().attach_request();
        let mut params = request.get();
        let mut target = params.reborrow().init_target();
        write_reference(target.reborrow().init_pod(), pod);
        target.set_container(container);
        let mut options = params.reborrow().init_options();
        options.set_stdin(true);
        options.set_stdout(true);
        let (sink, out) = Collector::pair();
        params.set_stdout(sink);
        let response = request.send().promise.await.map_err(|e| e.to_string())?;
        let process = response.get().and_then(|r| r.get_process()).map_err(|e| e.to_string())?;
        let input = process.stdin_request().send().promise.await.map_err(|e| e.to_string())?;
        let sink = input.get().and_then(|r| r.get_sink()).map_err(|e| e.to_string())?;
        let mut write = sink.write_request();
        write.get().set_bytes(stdin);
        write.send().promise.await.map_err(|e| e.to_string())?;
        sink.end_request().send().promise.await.map_err(|e| e.to_string())?;
        let exit = process.wait_request().send().promise.await.map_err(|e| e.to_string())?;
        let code = exit.get().and_then(|r| r.get_exit()).map_err(|e| e.to_string())?.get_code();
        Ok((code, out.text().await?))
    }

    /// Runs a command on a terminal of a size: exit code and output.
    pub async fn terminal(&self, pod: &Value, container: &str, command: &[&str], size: (u16, u16)) -> Result<(i32, String), String> {
        let mut request = self.agent().exec_request();
        let mut params = request.get();
        let mut target = params.reborrow().init_target();
        write_reference(target.reborrow().init_pod(), pod);
        target.set_container(container);
        let mut options = params.reborrow().init_options();
        options.set_tty(true);
        options.set_stdin(true);
        options.set_stdout(true);
        let mut list = options.init_command(u32::try_from(command.len()).expect("few words"));
        for (index, word) in (0..).zip(command) {
            list.set(index, *word);
        }
        let (sink, out) = Collector::pair();
        params.set_stdout(sink);
        let response = request.send().promise.await.map_err(|e| e.to_string())?;
        let process = response.get().and_then(|r| r.get_process()).map_err(|e| e.to_string())?;
        let mut resize = process.resize_request();
        resize.get().set_columns(size.0);
        resize.get().set_rows(size.1);
        resize.send().promise.await.map_err(|e| e.to_string())?;
        let exit = process.wait_request().send().promise.await.map_err(|e| e.to_string())?;
        let code = exit.get().and_then(|r| r.get_exit()).map_err(|e| e.to_string())?.get_code();
        Ok((code, out.text().await?))
    }
}

pub fn write_reference(mut to: object_ref::Builder<'_>, pod: &Value) {
    let meta = &pod["metadata"];
    to.set_resource("pods");
    to.set_namespace(meta["namespace"].as_str().expect("a namespace"));
    to.set_name(meta["name"].as_str().expect("a name"));
    to.set_uid(meta["uid"].as_str().expect("a uid"));
}

async fn push(sink: &row_sink::Client, rows: &[(row_event::Kind, Value)]) {
    let mut request = sink.push_request();
    let mut events = request.get().init_events(u32::try_from(rows.len()).expect("few rows"));
    for (index, (kind, row)) in (0..).zip(rows) {
        let mut event = events.reborrow().get(index);
        event.set_kind(*kind);
        event.set_row(row.to_string().as_bytes());
    }
    let _ = request.send().promise.await;
}

/// A sink that keeps what it gets.
pub struct Collector {
    bytes: RefCell<Vec<u8>>,
    ended: tokio::sync::watch::Sender<bool>,
}

pub struct Collected(Rc<Collector>);

impl Collector {
    pub fn pair() -> (byte_sink::Client, Collected) {
        let collector = Rc::new(Self { bytes: RefCell::default(), ended: tokio::sync::watch::channel(false).0 });
        (capnp_rpc::new_client(Shared(collector.clone())), Collected(collector))
    }
}

impl Collected {
    /// All of it, once it has ended.
    pub async fn text(self) -> Result<String, String> {
        let mut ended = self.0.ended.subscribe();
        let wait = ended.wait_for(|ended| *ended);
        tokio::time::timeout(patience(30), wait).await.map_err(|_| "the stream did not end".to_owned())?.map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&self.0.bytes.borrow()).into_owned())
    }
}

struct Shared(Rc<Collector>);

impl byte_sink::Server for Shared {
    async fn write(self: CapRc<Self>, params: byte_sink::WriteParams, _: byte_sink::WriteResults) -> Result<(), Fault> {
        self.0.bytes.borrow_mut().extend_from_slice(params.get()?.get_bytes()?);
        Ok(())
    }

    async fn end(self: CapRc<Self>, _: byte_sink::EndParams, _: byte_sink::EndResults) -> Result<(), Fault> {
        self.0.ended.send_replace(true);
        Ok(())
    }
}

struct Link(Kernel);

impl node_link::Server for Link {
    async fn open(self: CapRc<Self>, params: node_link::OpenParams, mut results: node_link::OpenResults) -> Result<(), Fault> {
        let params = params.get()?;
        let mut node: Value = serde_json::from_slice(params.get_hello()?.get_node()?).map_err(|e| Fault::failed(e.to_string()))?;
        node["spec"]["podCIDR"] = json!(self.0.pod_cidr);
        {
            let mut state = self.0.state.borrow_mut();
            state.agent = Some(params.get_agent()?);
            state.node = node;
            state.sessions += 1;
        }
        let mut results = results.get();
        results.set_session(capnp_rpc::new_client(Session(self.0.clone())));
        let mut config = results.init_config();
        config.set_cluster_domain("cluster.local");
        config.set_heartbeat_seconds(1);
        config.set_lease_seconds(40);
        Ok(())
    }
}

struct Session(Kernel);

struct Held;
impl subscription::Server for Held {}

fn key(reader: object_ref::Reader<'_>) -> Result<(String, String, String), Fault> {
    let text =
        |t: capnp::Result<capnp::text::Reader<'_>>| Ok::<_, Fault>(t?.to_str().map_err(|e| Fault::failed(e.to_string()))?.to_owned());
    Ok((text(reader.get_resource())?, text(reader.get_namespace())?, text(reader.get_name())?))
}

impl node_session::Server for Session {
    async fn renew_lease(self: CapRc<Self>, _: node_session::RenewLeaseParams, _: node_session::RenewLeaseResults) -> Result<(), Fault> {
        self.0.state.borrow_mut().leases += 1;
        Ok(())
    }

    async fn update_node_status(
        self: CapRc<Self>,
        params: node_session::UpdateNodeStatusParams,
        mut results: node_session::UpdateNodeStatusResults,
    ) -> Result<(), Fault> {
        let status: Value = serde_json::from_slice(params.get()?.get_status()?).map_err(|e| Fault::failed(e.to_string()))?;
        self.0.state.borrow_mut().node["status"] = status;
        results.get().init_outcome().set_object(b"{}");
        Ok(())
    }

    async fn watch_pods(
        self: CapRc<Self>,
        params: node_session::WatchPodsParams,
        mut results: node_session::WatchPodsResults,
    ) -> Result<(), Fault> {
        let sink = params.get()?.get_sink()?;
        let mut rows: Vec<_> = self.0.state.borrow().pods.values().map(|p| (row_event::Kind::Put, p.clone())).collect();
        rows.push((row_event::Kind::Synced, Value::Null));
        self.0.state.borrow_mut().pod_sinks.push(sink.clone());
        tokio::task::spawn_local(async move { push(&sink, &rows).await });
        results.get().set_subscription(capnp_rpc::new_client(Held));
        Ok(())
    }

    async fn watch_nodes(
        self: CapRc<Self>,
        params: node_session::WatchNodesParams,
        mut results: node_session::WatchNodesResults,
    ) -> Result<(), Fault> {
        let sink = params.get()?.get_sink()?;
        let rows = [(row_event::Kind::Put, self.0.state.borrow().node.clone()), (row_event::Kind::Synced, Value::Null)];
        self.0.state.borrow_mut().node_sinks.push(sink.clone());
        tokio::task::spawn_local(async move { push(&sink, &rows).await });
        results.get().set_subscription(capnp_rpc::new_client(Held));
        Ok(())
    }

    /// Volumes only; a node without the rest goes on without it.
    async fn watch_network(
        self: CapRc<Self>,
        params: node_session::WatchNetworkParams,
        mut results: node_session::WatchNetworkResults,
    ) -> Result<(), Fault> {
        let params = params.get()?;
        if params.get_resource()? != "persistentvolumes" {
            return Err(Fault::unimplemented("not played".into()));
        }
        let sink = params.get_sink()?;
        let volumes = |(key, object): (&(String, String, String), &Value)| {
            (key.0 == "persistentvolumes").then(|| (row_event::Kind::Put, object.clone()))
        };
        let mut rows: Vec<_> = self.0.state.borrow().objects.iter().filter_map(volumes).collect();
        rows.push((row_event::Kind::Synced, Value::Null));
        self.0.state.borrow_mut().volume_sinks.push(sink.clone());
        tokio::task::spawn_local(async move { push(&sink, &rows).await });
        results.get().set_subscription(capnp_rpc::new_client(Held));
        Ok(())
    }

    async fn update_pod_statuses(
        self: CapRc<Self>,
        params: node_session::UpdatePodStatusesParams,
        mut results: node_session::UpdatePodStatusesResults,
    ) -> Result<(), Fault> {
        let statuses = params.get()?.get_statuses()?;
        let mut outcomes = results.get().init_outcomes(statuses.len());
        for (index, item) in (0..).zip(statuses.iter()) {
            let uid = item.get_pod()?.get_uid()?.to_str().map_err(|e| Fault::failed(e.to_string()))?.to_owned();
            let status: Value = serde_json::from_slice(item.get_status()?).map_err(|e| Fault::failed(e.to_string()))?;
            let mut state = self.0.state.borrow_mut();
            let first = status["containerStatuses"][0]["state"].as_object().and_then(|s| s.iter().next());
            let reason = first.map(|(kind, s)| s["reason"].as_str().unwrap_or(kind).to_owned()).unwrap_or_default();
            let words = format!("{uid} {} {reason}", status["phase"].as_str().unwrap_or_default());
            if state.history.last() != Some(&words) {
                state.history.push(words);
            }
            match state.pods.get_mut(&uid) {
                Some(pod) => {
                    pod["status"] = status;
                    outcomes.reborrow().get(index).set_object(b"{}");
                }
                None => outcomes.reborrow().get(index).init_failure().set_code(404),
            }
        }
        Ok(())
    }

    async fn remove_pod(self: CapRc<Self>, params: node_session::RemovePodParams, _: node_session::RemovePodResults) -> Result<(), Fault> {
        let uid = params.get()?.get_pod()?.get_uid()?.to_str().map_err(|e| Fault::failed(e.to_string()))?.to_owned();
        let kernel = self.0.clone();
        tokio::task::spawn_local(async move { kernel.erase_pod(&uid).await });
        Ok(())
    }

    async fn get(self: CapRc<Self>, params: node_session::GetParams, mut results: node_session::GetResults) -> Result<(), Fault> {
        let key = key(params.get()?.get_ref()?)?;
        let mut outcome = results.get().init_outcome();
        match self.0.state.borrow().objects.get(&key) {
            Some(object) => outcome.set_object(object.to_string().as_bytes()),
            None => {
                let mut failure = outcome.init_failure();
                failure.set_code(404);
                failure.set_reason("NotFound");
                failure.set_message(format!("{} {:?} not found", key.0, key.2));
            }
        }
        Ok(())
    }

    async fn service_account_token(
        self: CapRc<Self>,
        params: node_session::ServiceAccountTokenParams,
        mut results: node_session::ServiceAccountTokenResults,
    ) -> Result<(), Fault> {
        let account = params.get()?.get_service_account()?.to_str().map_err(|e| Fault::failed(e.to_string()))?.to_owned();
        let answer = json!({ "status": { "token": format!("token-of-{account}") } });
        results.get().init_outcome().set_object(answer.to_string().as_bytes());
        Ok(())
    }

    /// A signer that answers at once.
    async fn request_certificate(
        self: CapRc<Self>,
        params: node_session::RequestCertificateParams,
        mut results: node_session::RequestCertificateResults,
    ) -> Result<(), Fault> {
        let params = params.get()?;
        let (_, namespace, pod) = key(params.get_pod()?)?;
        let spec: Value = serde_json::from_slice(params.get_request()?).map_err(|e| Fault::failed(e.to_string()))?;
        let chain = format!("certificate of {pod} by {}\n", spec["signerName"].as_str().unwrap_or_default());
        let status = json!({ "conditions": [{ "type": "Issued", "status": "True" }], "certificateChain": chain, "beginRefreshAt": "2999-01-01T00:00:00Z" });
        let request = json!({ "metadata": { "name": format!("req-{pod}"), "namespace": namespace }, "spec": spec, "status": status });
        results.get().init_outcome().set_object(request.to_string().as_bytes());
        self.0.object("podcertificaterequests", &namespace, &format!("req-{pod}"), request);
        Ok(())
    }

    async fn create_mirror_pod(
        self: CapRc<Self>,
        params: node_session::CreateMirrorPodParams,
        mut results: node_session::CreateMirrorPodResults,
    ) -> Result<(), Fault> {
        let mut pod: Value = serde_json::from_slice(params.get()?.get_pod()?).map_err(|e| Fault::failed(e.to_string()))?;
        let number = {
            let mut state = self.0.state.borrow_mut();
            state.mirrors += 1;
            state.mirrors
        };
        pod["metadata"]["uid"] = json!(format!("mirror-{number:04}"));
        results.get().init_outcome().set_object(pod.to_string().as_bytes());
        let kernel = self.0.clone();
        tokio::task::spawn_local(async move { kernel.put_pod(pod).await });
        Ok(())
    }

    async fn record_event(
        self: CapRc<Self>,
        params: node_session::RecordEventParams,
        _: node_session::RecordEventResults,
    ) -> Result<(), Fault> {
        let event: Value = serde_json::from_slice(params.get()?.get_event()?).map_err(|e| Fault::failed(e.to_string()))?;
        let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.0.state.borrow_mut().events.insert(name, event);
        Ok(())
    }
}

fn certificates(directory: &Path, node: &str) -> rustls::ServerConfig {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("signed");
    let issuer = Issuer::new(ca, ca_key);
    let sign = |names: &[&str], common: &str| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, common);
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        (params.signed_by(&key, &issuer).expect("signed"), key)
    };
    let (client, client_key) = sign(&[], &format!("system:node:{node}"));
    std::fs::write(directory.join("ca.crt"), ca_certificate.pem()).expect("written");
    std::fs::write(directory.join("node.crt"), client.pem()).expect("written");
    std::fs::write(directory.join("node.key"), client_key.serialize_pem()).expect("written");
    let (server, server_key) = sign(&["127.0.0.1"], "kernel");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("a verifier");
    let key = rustls_pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key");
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.der().clone()], key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"pintle-node/1".to_vec()];
    config
}
