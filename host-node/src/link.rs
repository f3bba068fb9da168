//! The one connection to the kernel: opened from here, TLS with the node's certificate, Cap'n Proto RPC both ways.
//!
//! [`Kernel`] is what the rest of the daemon holds: a handle that stays valid while connections come and go; a call without a
//! connection fails at once with [`Error::Away`]. [`keep`] is the loop that opens, holds and reopens. Each new connection starts both
//! watches afresh, so whatever was missed is caught up by a full set.
//!
//! Invariant: nothing in here decides about pods; rows go out through channels, in order, tagged as the kernel sent them.

use std::cell::{Cell, RefCell};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use capnp::capability::Rc as CapRc;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use futures::AsyncReadExt;
use pintle_wit::{common_capnp, node_capnp, objects_capnp};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::error::{Error, Result, Step};
use crate::options::NodeOptions;

/// What the TLS handshake agrees on.
pub const ALPN: &[u8] = b"pintle-node/1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
const ROW_BYTES_MAX: usize = 4 << 20;

/// One change of a watched set.
#[derive(Debug)]
pub enum Row {
    /// The object is there, as JSON.
    Put(Vec<u8>),
    /// The object is gone; its last state.
    Delete(Vec<u8>),
    /// All that existed has been sent.
    Synced,
    /// A full set follows.
    Reset,
}

/// What the kernel said when the session opened.
#[derive(Clone, Debug, Default)]
pub struct ClusterConfig {
    /// As `cluster.local`.
    pub cluster_domain: String,
    /// Address of the cluster's resolver; empty without one.
    pub cluster_dns: String,
    /// How often to renew the lease.
    pub heartbeat: Duration,
    /// Services' addresses, CIDR, or one of each family with a comma between.
    pub service_cidr: String,
    /// Pods' addresses of the whole cluster, in the same way.
    pub pod_cidr: String,
}

/// Names an object to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// API group; empty for core.
    pub group: &'static str,
    /// Lower-case plural.
    pub resource: &'static str,
    /// Namespace; empty for cluster-scoped ones.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Precondition when not empty.
    pub uid: String,
}

impl Reference {
    /// A core object of a namespace.
    pub fn core(resource: &'static str, namespace: &str, name: &str) -> Self {
        Self { group: "", resource, namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new() }
    }

    /// A cluster-wide object of the group of storage.
    pub fn storage(resource: &'static str, name: &str) -> Self {
        Self { group: "storage.k8s.io", ..Self::core(resource, "", name) }
    }

    /// The same, only if it still bears this uid.
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.uid = uid.to_owned();
        self
    }

    fn write(&self, mut to: common_capnp::object_ref::Builder<'_>) {
        to.set_group(self.group);
        to.set_resource(self.resource);
        to.set_namespace(&self.namespace);
        to.set_name(&self.name);
        to.set_uid(&self.uid);
    }
}

/// The kernel as the daemon sees it. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Kernel {
    session: Rc<RefCell<Option<node_capnp::node_session::Client>>>,
    config: Rc<RefCell<ClusterConfig>>,
    connected: Rc<watch::Sender<u64>>,
    tells_network: Rc<Cell<bool>>,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            session: Rc::default(),
            config: Rc::default(),
            connected: Rc::new(watch::channel(0).0),
            tells_network: Rc::new(Cell::new(true)),
        }
    }
}

impl Kernel {
    /// Counts connections; changes with each new one.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connected.subscribe()
    }

    /// Whether the kernel tells Services, policies and the like; so it is taken to, until it says that it cannot.
    pub fn tells_network(&self) -> bool {
        self.tells_network.get()
    }

    /// What the kernel said last; defaults before the first contact.
    pub fn config(&self) -> ClusterConfig {
        self.config.borrow().clone()
    }

    fn session(&self) -> Result<node_capnp::node_session::Client> {
        self.session.borrow().clone().ok_or(Error::Away)
    }

    /// Reads an object that this node's pods mention.
    pub async fn get(&self, reference: &Reference) -> Result<Vec<u8>> {
        let mut request = self.session()?.get_request();
        reference.write(request.get().init_ref());
        let response = request.send().promise.await.map_err(link("get"))?;
        outcome(response.get().and_then(|r| r.get_outcome()).map_err(link("get"))?)
    }

    /// Asks for a token of a pod's service account: the TokenRequest's JSON.
    pub async fn service_account_token(
        &self,
        pod: &Reference,
        account: &str,
        audiences: &[String],
        expiration_seconds: u64,
    ) -> Result<Vec<u8>> {
        let mut request = self.session()?.service_account_token_request();
        let mut params = request.get();
        pod.write(params.reborrow().init_pod());
        params.set_service_account(account);
        let mut list = params.reborrow().init_audiences(u32::try_from(audiences.len()).unwrap_or(0));
        for (index, audience) in (0..).zip(audiences) {
            list.set(index, audience);
        }
        params.set_expiration_seconds(expiration_seconds);
        let response = request.send().promise.await.map_err(link("token"))?;
        outcome(response.get().and_then(|r| r.get_outcome()).map_err(link("token"))?)
    }

    /// Makes a PodCertificateRequest for a pod from the parts of its spec that are the node's to say: its JSON.
    pub async fn request_certificate(&self, pod: &Reference, request: &Value) -> Result<Vec<u8>> {
        let mut call = self.session()?.request_certificate_request();
        pod.write(call.get().init_pod());
        call.get().set_request(request.to_string().as_bytes());
        let response = call.send().promise.await.map_err(link("requestCertificate"))?;
        outcome(response.get().and_then(|r| r.get_outcome()).map_err(link("requestCertificate"))?)
    }

    /// Shows a pod of this machine's own in the API: the object that was made.
    pub async fn create_mirror_pod(&self, pod: &Value) -> Result<Vec<u8>> {
        let mut call = self.session()?.create_mirror_pod_request();
        call.get().set_pod(pod.to_string().as_bytes());
        let response = call.send().promise.await.map_err(link("createMirrorPod"))?;
        outcome(response.get().and_then(|r| r.get_outcome()).map_err(link("createMirrorPod"))?)
    }

    /// Writes the status of pods; one result for each, in order.
    pub async fn update_pod_statuses(&self, statuses: &[(Reference, Vec<u8>)]) -> Result<Vec<Result<Vec<u8>>>> {
        let mut request = self.session()?.update_pod_statuses_request();
        let mut list = request.get().init_statuses(u32::try_from(statuses.len()).unwrap_or(0));
        for (index, (reference, status)) in (0..).zip(statuses) {
            let mut item = list.reborrow().get(index);
            reference.write(item.reborrow().init_pod());
            item.set_status(status);
        }
        let response = request.send().promise.await.map_err(link("updatePodStatuses"))?;
        let outcomes = response.get().and_then(|r| r.get_outcomes()).map_err(link("updatePodStatuses"))?;
        Ok(outcomes.iter().map(outcome).collect())
    }

    /// Merges into the Node's status.
    pub async fn update_node_status(&self, status: &Value) -> Result<Vec<u8>> {
        let mut request = self.session()?.update_node_status_request();
        request.get().set_status(status.to_string().as_bytes());
        let response = request.send().promise.await.map_err(link("updateNodeStatus"))?;
        outcome(response.get().and_then(|r| r.get_outcome()).map_err(link("updateNodeStatus"))?)
    }

    /// The pod's containers are gone: delete it for good.
    pub async fn remove_pod(&self, pod: &Reference) -> Result<()> {
        let mut request = self.session()?.remove_pod_request();
        pod.write(request.get().init_pod());
        let response = request.send().promise.await.map_err(link("removePod"))?;
        failure(response.get().and_then(|r| r.get_failure()).map_err(link("removePod"))?)
    }

    /// Records a core/v1 Event; one with a name that exists replaces it.
    pub async fn record_event(&self, event: &[u8]) -> Result<()> {
        let mut request = self.session()?.record_event_request();
        request.get().set_event(event);
        let response = request.send().promise.await.map_err(link("recordEvent"))?;
        failure(response.get().and_then(|r| r.get_failure()).map_err(link("recordEvent"))?)
    }

    async fn renew_lease(&self) -> Result<()> {
        let response = self.session()?.renew_lease_request().send().promise.await.map_err(link("renewLease"))?;
        failure(response.get().and_then(|r| r.get_failure()).map_err(link("renewLease"))?)
    }
}

fn link(step: &'static str) -> impl Fn(capnp::Error) -> Error {
    move |source| Error::Link { step, source }
}

fn text(reader: capnp::Result<capnp::text::Reader<'_>>) -> String {
    reader.ok().and_then(|t| t.to_str().ok()).unwrap_or_default().to_owned()
}

fn failure(reader: common_capnp::failure::Reader<'_>) -> Result<()> {
    match reader.get_code() {
        0 => Ok(()),
        code => Err(Error::Refused { code, reason: text(reader.get_reason()), message: text(reader.get_message()) }),
    }
}

fn outcome(reader: common_capnp::outcome::Reader<'_>) -> Result<Vec<u8>> {
    use common_capnp::outcome::Which;
    match reader.which() {
        Ok(Which::Object(Ok(bytes))) => Ok(bytes.to_vec()),
        Ok(Which::Failure(Ok(reader))) => {
            failure(reader)?;
            Err(Error::Refused { code: 500, reason: "InternalError".into(), message: "a failure without a code".into() })
        }
        _ => Err(Error::Refused { code: 500, reason: "InternalError".into(), message: "an outcome that is neither".into() }),
    }
}

/// What a connection feeds and asks of the daemon.
pub struct Ends {
    /// What the kernel may ask of this machine.
    pub agent: node_capnp::node_agent::Client,
    /// Rows of pods bound to this node.
    pub pods: mpsc::UnboundedSender<Row>,
    /// Rows of all nodes.
    pub nodes: mpsc::UnboundedSender<Row>,
    /// Rows of what the network follows, by resource.
    pub network: Vec<(&'static str, mpsc::UnboundedSender<Row>)>,
    /// The Node object to register, and its status for heartbeats.
    pub node: Rc<dyn Fn() -> Value>,
}

/// Opens the link and keeps it open, for ever.
pub async fn keep(options: &NodeOptions, kernel: Kernel, ends: Ends) {
    let mut delay = RETRY_FIRST;
    loop {
        match hold(options, &kernel, &ends, &mut delay).await {
            Ok(()) => tracing::warn!("the kernel closed the link"),
            Err(error) => tracing::warn!(error = Error::chain(&error), "link lost"),
        }
        *kernel.session.borrow_mut() = None;
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_LONGEST);
    }
}

/// One connection from handshake to loss.
async fn hold(options: &NodeOptions, kernel: &Kernel, ends: &Ends, delay: &mut Duration) -> Result<()> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(options, ALPN))
        .await
        .map_err(|_| Error::TimedOut(format!("connecting to {}", options.kernel)))??;
    let (reader, writer) = stream.compat().split();
    let network = twoparty::VatNetwork::new(
        futures::io::BufReader::new(reader),
        futures::io::BufWriter::new(writer),
        rpc_twoparty_capnp::Side::Client,
        capnp::message::ReaderOptions::default(),
    );
    let mut rpc = RpcSystem::new(Box::new(network), None);
    let bootstrap: node_capnp::node_link::Client = rpc.bootstrap(rpc_twoparty_capnp::Side::Server);
    let system = tokio::task::spawn_local(rpc);
    let aborter = system.abort_handle();
    let session = async {
        let held = open(kernel, ends, bootstrap).await?;
        *delay = RETRY_FIRST;
        heartbeat(kernel, ends, held).await
    };
    let result = tokio::select! {
        result = session => result,
        ended = system => ended.map_or(Ok(()), |r| r.map_err(link("rpc"))),
    };
    aborter.abort();
    result
}

/// What keeps a session's watches alive.
struct Held {
    _pods: common_capnp::subscription::Client,
    _nodes: common_capnp::subscription::Client,
    _network: Vec<common_capnp::subscription::Client>,
}

async fn open(kernel: &Kernel, ends: &Ends, bootstrap: node_capnp::node_link::Client) -> Result<Held> {
    let mut request = bootstrap.open_request();
    let mut params = request.get();
    params.set_agent(ends.agent.clone());
    let mut hello = params.init_hello();
    hello.set_version(env!("CARGO_PKG_VERSION"));
    hello.set_node((ends.node)().to_string().as_bytes());
    let response = tokio::time::timeout(CONNECT_TIMEOUT, request.send().promise)
        .await
        .map_err(|_| Error::TimedOut("opening the session".into()))?
        .map_err(link("open"))?;
    let results = response.get().map_err(link("open"))?;
    let session = results.get_session().map_err(link("open"))?;
    let config = results.get_config().map_err(link("open"))?;
    *kernel.config.borrow_mut() = ClusterConfig {
        cluster_domain: text(config.get_cluster_domain()),
        cluster_dns: text(config.get_cluster_dns()),
        heartbeat: Duration::from_secs(u64::from(config.get_heartbeat_seconds().clamp(1, 300))),
        service_cidr: text(config.get_service_cidr()),
        pod_cidr: text(config.get_pod_cidr()),
    };
    *kernel.session.borrow_mut() = Some(session.clone());
    // Whatever an earlier connection told is void: a full set follows.
    for rows in [&ends.nodes, &ends.pods].into_iter().chain(ends.network.iter().map(|(_, rows)| rows)) {
        let _ = rows.send(Row::Reset);
    }
    let mut request = session.watch_nodes_request();
    request.get().set_sink(capnp_rpc::new_client(RowSink { rows: ends.nodes.clone() }));
    let nodes = request.send().promise;
    let mut request = session.watch_pods_request();
    request.get().set_sink(capnp_rpc::new_client(RowSink { rows: ends.pods.clone() }));
    let pods = request.send().promise;
    let (nodes, pods) = futures::future::try_join(nodes, pods).await.map_err(link("watch"))?;
    let held = Held {
        _pods: pods.get().and_then(|r| r.get_subscription()).map_err(link("watchPods"))?,
        _nodes: nodes.get().and_then(|r| r.get_subscription()).map_err(link("watchNodes"))?,
        _network: follow_network(kernel, &session, &ends.network).await?,
    };
    kernel.connected.send_modify(|count| *count += 1);
    tracing::info!("the link is open");
    Ok(held)
}

/// Begins the watches of the network. A kernel that does not know them leaves the node without Services, names and policies, and it is said.
async fn follow_network(
    kernel: &Kernel,
    session: &node_capnp::node_session::Client,
    wanted: &[(&'static str, mpsc::UnboundedSender<Row>)],
) -> Result<Vec<common_capnp::subscription::Client>> {
    let mut held = Vec::new();
    for (resource, rows) in wanted {
        let mut request = session.watch_network_request();
        request.get().set_resource(resource);
        request.get().set_sink(capnp_rpc::new_client(RowSink { rows: rows.clone() }));
        let response = match request.send().promise.await {
            Err(error) if error.kind == capnp::ErrorKind::Unimplemented => {
                kernel.tells_network.set(false);
                tracing::warn!(resource, "this kernel cannot be followed: no Services, names or policies on this node");
                continue;
            }
            other => other.map_err(link("watchNetwork"))?,
        };
        let results = response.get().map_err(link("watchNetwork"))?;
        failure(results.get_failure().map_err(link("watchNetwork"))?)?;
        held.push(results.get_subscription().map_err(link("watchNetwork"))?);
    }
    Ok(held)
}

/// Renews the lease and the Node's status until the kernel stops answering.
async fn heartbeat(kernel: &Kernel, ends: &Ends, _held: Held) -> Result<()> {
    let period = kernel.config().heartbeat;
    // The lease first: who judges by it must see it fresh before the conditions. Both at every beat, because a judgement made from an
    // older lease may still arrive after our conditions, and only we can correct it.
    loop {
        if let Err(error) = within(kernel.renew_lease()).await {
            keep_if_refused(error, "renewing the lease")?;
        }
        let node = (ends.node)();
        let status = node.get("status").cloned().unwrap_or_default();
        if let Err(error) = within(kernel.update_node_status(&status)).await {
            keep_if_refused(error, "updating the node's status")?;
        }
        tokio::time::sleep(period).await;
    }
}

async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(30), call).await.map_err(|_| Error::TimedOut("a call to the kernel".into()))?
}

/// A refusal is an answer: the link lives. Anything else ends it.
fn keep_if_refused(error: Error, what: &str) -> Result<()> {
    match error {
        Error::Refused { .. } => {
            tracing::warn!(error = %error, "{what}");
            Ok(())
        }
        other => Err(other),
    }
}

struct RowSink {
    rows: mpsc::UnboundedSender<Row>,
}

impl objects_capnp::row_sink::Server for RowSink {
    async fn push(
        self: CapRc<Self>,
        params: objects_capnp::row_sink::PushParams,
        _: objects_capnp::row_sink::PushResults,
    ) -> Result<(), capnp::Error> {
        use objects_capnp::row_event::Kind;
        for event in params.get()?.get_events()?.iter() {
            let row = event.get_row()?;
            if row.len() > ROW_BYTES_MAX {
                return Err(capnp::Error::failed(format!("a row of {} bytes", row.len())));
            }
            let row = match event.get_kind()? {
                Kind::Put => Row::Put(row.to_vec()),
                Kind::Delete => Row::Delete(row.to_vec()),
                Kind::Synced => Row::Synced,
                Kind::Reset => Row::Reset,
                Kind::Unspecified => continue,
            };
            if self.rows.send(row).is_err() {
                return Err(capnp::Error::disconnected("this node is stopping".into()));
            }
        }
        Ok(())
    }
}

/// A connection to the kernel with the node's certificate, for a protocol: the node link's, or `http/1.1`.
pub(crate) async fn connect(options: &NodeOptions, protocol: &[u8]) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let config = tls_config(options, protocol)?;
    let (host, port) = host_and_port(&options.kernel)?;
    let name = ServerName::try_from(host.clone()).map_err(|_| Error::invalid("--kernel", "not a host name or address"))?;
    let address = tokio::task::spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(|mut all| all.next()))
        .await
        .map_err(|e| Error::io("resolving the kernel's name", std::io::Error::other(e)))?
        .step(|| format!("resolving {}", options.kernel))?
        .ok_or_else(|| Error::invalid("--kernel", "the name has no address"))?;
    let stream = TcpStream::connect(address).await.step(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true).step(|| "setting TCP_NODELAY".into())?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.step(|| format!("TLS handshake with {}", options.kernel))
}

fn host_and_port(text: &str) -> Result<(String, u16)> {
    let bad = || Error::invalid("--kernel", format!("{text:?} is not host:port"));
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    Ok((host.trim_matches(['[', ']']).to_owned(), port.parse().map_err(|_| bad())?))
}

fn tls_config(options: &NodeOptions, protocol: &[u8]) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&options.ca)? {
        roots.add(certificate).map_err(|source| Error::Tls { step: format!("reading {}", options.ca.display()), source })?;
    }
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|e| Error::invalid(options.key.display().to_string(), e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { step: "choosing TLS versions".into(), source })?;
    let mut config = builder
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&options.cert)?, key)
        .map_err(|source| Error::Tls { step: "using the node's certificate".into(), source })?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |e: rustls_pki_types::pem::Error| Error::invalid(path.display().to_string(), e.to_string());
    CertificateDer::pem_file_iter(path).map_err(bad)?.map(|item| item.map_err(bad)).collect()
}
