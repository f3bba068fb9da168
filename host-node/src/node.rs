//! The daemon's parts, assembled in one place.
//!
//! One thread, one local executor: the RPC system is not `Send`, and a node's work is waiting, not computing. What blocks (unpacking,
//! name resolution) goes to a few blocking threads. Invariant: no part reaches another but through what [`Node`] names.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use jiff::Timestamp;
use pintle_values::network::Network as Range;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};

use crate::agent;
use crate::api::Api;
use crate::backoff::Law;
use crate::cni::Cni;
use crate::csi::{self, Csi};
use crate::dns;
use crate::engine::Engine;
use crate::error::{Error, Result, Step};
use crate::event::Recorder;
use crate::file;
use crate::housekeeping::{self, eviction::Board, images::Keeper};
use crate::image::Images;
use crate::ingress;
use crate::link::{self, Ends, Kernel, Row};
use crate::machine::{Machine, Readiness};
use crate::manifest::{self, StaticPods};
use crate::net::{self, Network};
use crate::options::NodeOptions;
use crate::plugin;
use crate::pod::report::Reporter;
use crate::pod::roster::Roster;
use crate::pod::steps::Paths;
use crate::policy;
use crate::service::{self, Proxy, Told};
use crate::shutdown;
use crate::trust::Bundles;
use crate::volume::local;

/// What every part may use.
pub struct Node {
    /// As given.
    pub options: NodeOptions,
    /// The machine's facts.
    pub machine: Machine,
    /// Containers and images.
    pub runtime: Engine,
    /// The link.
    pub kernel: Kernel,
    /// Addresses and routes.
    pub network: Network,
    /// Who plugs pods in, if it is not this daemon itself.
    pub cni: Option<Cni>,
    /// Services.
    pub proxy: Proxy,
    /// Where the policies are told.
    pub policies: mpsc::UnboundedSender<policy::Told>,
    /// Where the ingress is told.
    pub ingress: mpsc::UnboundedSender<ingress::Told>,
    /// Pulls.
    pub images: Images,
    /// Events.
    pub events: Recorder,
    /// Statuses.
    pub reporter: Reporter,
    /// Pods.
    pub roster: Roster,
    /// Pods of this machine's own.
    pub statics: StaticPods,
    /// The cluster's trust bundles.
    pub trust: RefCell<Bundles>,
    /// The cluster's volumes, and those of this machine.
    pub volumes: local::Volumes,
    /// Drivers of storage.
    pub csi: Csi,
    /// The API, for what the link has no word for.
    pub api: Api,
    /// What the machine is short of.
    pub pressure: Board,
    /// Which images were used when.
    pub keeper: Keeper,
    /// The machine goes down.
    pub closing: Cell<bool>,
}

impl Node {
    /// Where a pod's files are.
    pub fn paths(&self, pod: &k8s_openapi::api::core::v1::Pod) -> Paths {
        Paths::of(&self.options.state_dir, pod)
    }

    /// The Node object as it is now.
    pub fn object(&self) -> Value {
        let mut node = self.machine.node(&self.pressure.rows(), &self.readiness());
        node["status"]["volumesInUse"] = self.volumes.status();
        node
    }

    fn readiness(&self) -> Readiness {
        if self.closing.get() {
            return Readiness { fault: Some("node is shutting down".into()), since: Timestamp::now() };
        }
        let Some(health) = self.cni.as_ref().map(Cni::health) else { return self.runtime.readiness(self.machine.since()) };
        let words = |fault| {
            const BEGINNING: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady";
            format!("{BEGINNING} message:Network plugin returns error: {fault}")
        };
        Readiness { fault: health.fault.map(words), since: health.since }
    }

    /// Where images and writable layers are.
    pub fn images_dir(&self) -> std::path::PathBuf {
        self.runtime.images_dir(&self.options.state_dir)
    }

    /// How restarts are delayed.
    pub fn crash_law(&self) -> Law {
        Law::from_millis(self.options.crash_backoff_ms)
    }

    /// Whether somebody else makes the pods' network: plugins, called by this daemon or by the runtime.
    pub fn foreign_network(&self) -> bool {
        self.cni.is_some() || self.options.network_of_runtime()
    }

    /// Whether pods can have addresses.
    pub fn network_ready(&self) -> bool {
        *self.network.ready().borrow()
    }
}

/// Runs the node until it is told to stop (SIGTERM or SIGINT); containers go on.
pub fn run(options: NodeOptions) -> Result<()> {
    options.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .step(|| "starting the runtime".into())?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(options))
}

async fn serve(options: NodeOptions) -> Result<()> {
    file::make_dir(&options.state_dir, 0o700)?;
    file::make_dir(&options.run_dir, 0o700)?;
    let (proxy, told) = Proxy::new();
    let (tell_ingress, told_ingress) = mpsc::unbounded_channel();
    let (limit, limits) = mpsc::unbounded_channel();
    let node = assemble(options, proxy, tell_ingress, limit.clone()).await?;
    node.roster.bind(&node);
    let (pod_rows, pods) = mpsc::unbounded_channel();
    let (node_rows, nodes) = mpsc::unbounded_channel();
    let (trust_rows, bundles) = mpsc::unbounded_channel();
    let (volume_rows, volumes) = mpsc::unbounded_channel();
    let ends = {
        let node = node.clone();
        tokio::task::spawn_local(policy::run(node.clone(), limits));
        let tell = node.proxy.sender();
        let network = vec![
            ("services", rows_to(tell.clone(), Told::Service)),
            ("endpointslices", rows_to(tell.clone(), Told::Slice)),
            ("networkpolicies", rows_to(limit.clone(), policy::Told::Policy)),
            ("pods", rows_to(limit.clone(), policy::Told::Pod)),
            ("namespaces", rows_to(limit, policy::Told::Namespace)),
            ("clustertrustbundles", trust_rows),
            ("persistentvolumes", volume_rows),
            ("routetables", rows_to(node.ingress.clone(), ingress::Told::Table)),
        ];
        Ends { agent: agent::client(node.clone()), pods: pod_rows, nodes: node_rows, network, node: Rc::new(move || node.object()) }
    };
    // From here on exits are heard; those before are in the list that adoption reads.
    let exits = node.runtime.events();
    tokio::task::spawn_local(service::run(node.clone(), told));
    tokio::task::spawn_local(dns::run(node.clone()));
    tokio::task::spawn_local(ingress::run(node.clone(), told_ingress));
    plug_in_by_runtime(&node)?;
    node.roster.adopt(&node).await?;
    housekeeping::start(&node)?;
    tokio::task::spawn_local(Cni::watch(node.clone()));
    tokio::task::spawn_local(manifest::run(node.clone()));
    tokio::task::spawn_local(hear_exits(node.clone(), exits));
    tokio::task::spawn_local(hear_nodes(node.clone(), nodes));
    tokio::task::spawn_local(hear_pods(node.clone(), pods));
    tokio::task::spawn_local(local::hear(node.clone(), volumes));
    node.volumes.use_also(node.csi.in_use(), &node.kernel).await.unwrap_or_default(); // The first words to the kernel say it again.
    tokio::task::spawn_local(csi::run(node.clone()));
    tokio::task::spawn_local(csi::resize(node.clone()));
    tokio::task::spawn_local(hear_bundles(node.clone(), bundles));
    tokio::task::spawn_local(hear_connections(node.clone()));
    tokio::task::spawn_local(node.reporter.clone().send(node.kernel.clone()));
    tokio::task::spawn_local(node.events.clone().send(node.kernel.clone()));
    let options = node.options.clone();
    let closing = node.clone();
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).step(|| "listening for SIGTERM".into())?;
    tokio::select! {
        () = link::keep(&options, node.kernel.clone(), ends) => {}
        closed = shutdown::run(closing) => return closed,
        _ = terminate.recv() => tracing::info!("stopping; containers go on"),
        _ = tokio::signal::ctrl_c() => tracing::info!("stopping; containers go on"),
    }
    Ok(())
}

/// Another runtime has pods plugged in by a plugin, which is this program again.
fn plug_in_by_runtime(node: &Rc<Node>) -> Result<()> {
    let Engine::Cri(cri) = &node.runtime else { return Ok(()) };
    if node.options.network_of_runtime() {
        return Ok(());
    }
    let unknown =
        || Error::invalid("--cri-network", "this runtime does not tell where its CNI plugins are: say `runtime`, and have it plug pods in");
    let (conf_dir, bin_dir) = cri.about().cni.as_ref().ok_or_else(unknown)?;
    plugin::start(node, conf_dir, bin_dir)
}

/// A watch's rows, on their way to whoever follows them.
fn rows_to<T: 'static>(tell: mpsc::UnboundedSender<T>, told: fn(Row) -> T) -> mpsc::UnboundedSender<Row> {
    let (sender, mut rows) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        while let Some(row) = rows.recv().await {
            let _ = tell.send(told(row));
        }
    });
    sender
}

async fn assemble(
    options: NodeOptions,
    proxy: Proxy,
    ingress: mpsc::UnboundedSender<ingress::Told>,
    policies: mpsc::UnboundedSender<policy::Told>,
) -> Result<Rc<Node>> {
    let runtime = Engine::open(&options).await?;
    let kernel = Kernel::default();
    let events = Recorder::new(&options.name);
    let law = Law::from_millis(options.image_backoff_ms);
    let kept = options.state_dir.join("cni");
    let cni = options.cni_conf_dir.clone().map(|conf| Cni::open(conf, options.cni_bin_dir.clone(), kept)).transpose()?;
    let images = Images::new(runtime.clone(), kernel.clone(), events.clone(), options.mirrors()?, law);
    let machine = Machine::look(&options, &runtime.version(), runtime.features());
    let network = net::Settings {
        bridge: options.bridge.clone(),
        node: options.name.clone(),
        addresses: machine.addresses.clone(),
        overlay: options.pod_overlay,
        mtu: options.pod_mtu,
    };
    let volumes = local::Volumes::open(options.volumes_dir.clone(), machine.hostname().to_owned());
    Ok(Rc::new(Node {
        machine,
        network: Network::open(network, options.state_dir.join("addresses"))?,
        cni,
        reporter: Reporter::default(),
        roster: Roster::default(),
        statics: StaticPods::new(),
        trust: RefCell::default(),
        volumes,
        csi: Csi::open(options.kubelet_dir.clone(), &options.name)?,
        api: Api::new(options.clone()),
        pressure: Board::default(),
        keeper: Keeper::default(),
        closing: Cell::new(false),
        proxy,
        policies,
        ingress,
        runtime,
        kernel,
        images,
        events,
        options,
    }))
}

async fn hear_exits(node: Rc<Node>, mut events: broadcast::Receiver<pintle_runtime_bridge::Event>) {
    loop {
        match events.recv().await {
            Ok(event) => node.roster.on_event(&node.runtime, event).await,
            Err(broadcast::error::RecvError::Lagged(_)) => node.roster.reconcile(&node.runtime).await,
            Err(broadcast::error::RecvError::Closed) => return tracing::error!("the runtime's events have ended"),
        }
    }
}

async fn hear_pods(node: Rc<Node>, mut rows: mpsc::UnboundedReceiver<Row>) {
    while let Some(row) = rows.recv().await {
        if !node.statics.on_row(&row) {
            node.roster.on_row(row);
        }
    }
}

async fn hear_bundles(node: Rc<Node>, mut rows: mpsc::UnboundedReceiver<Row>) {
    while let Some(row) = rows.recv().await {
        node.trust.borrow_mut().take(row, |_, _| {});
    }
}

async fn hear_connections(node: Rc<Node>) {
    let mut connections = node.kernel.connections();
    while connections.changed().await.is_ok() {
        node.roster.on_connected();
    }
}

/// Keeps the node's own podCIDR and the routes to the others.
async fn hear_nodes(node: Rc<Node>, mut rows: mpsc::UnboundedReceiver<Row>) {
    let mut seen: Option<std::collections::BTreeSet<String>> = None;
    let mut known = std::collections::BTreeSet::new();
    while let Some(row) = rows.recv().await {
        match row {
            Row::Put(bytes) => {
                let Some(other) = Peer::parse(&bytes) else { continue };
                if let Some(seen) = &mut seen {
                    seen.insert(other.name.clone());
                }
                known.insert(other.name.clone());
                if let Err(error) = take_peer(&node, &other).await {
                    tracing::warn!(node = other.name, error = Error::chain(&error), "cannot follow a Node object");
                }
            }
            Row::Delete(bytes) => {
                let Some(other) = Peer::parse(&bytes) else { continue };
                known.remove(&other.name);
                drop_route(&node, &other.name).await;
            }
            Row::Reset => seen = Some(std::collections::BTreeSet::new()),
            Row::Synced => {
                let Some(seen) = seen.take() else { continue };
                for gone in known.difference(&seen) {
                    drop_route(&node, gone).await;
                }
                known = seen;
                if let Err(error) = node.network.settle().await {
                    tracing::warn!(error = Error::chain(&error), "ways to nodes that are gone may have stayed");
                }
            }
        }
    }
}

async fn drop_route(node: &Node, name: &str) {
    if let Err(error) = node.network.set_peer(name, &[], &[]).await {
        tracing::warn!(node = name, error = Error::chain(&error), "a route stays");
    }
}

async fn take_peer(node: &Node, peer: &Peer) -> Result<()> {
    let invalid = |reason| Error::invalid(format!("podCIDRs of {}", peer.name), reason);
    let ranges = peer.pod_cidrs.iter().map(|text| text.parse().map_err(invalid)).collect::<Result<Vec<Range>>>()?;
    if peer.name == node.options.name {
        node.proxy.tell(Told::Zone(peer.zone.clone()));
        if !ranges.is_empty() {
            let was_ready = node.network_ready();
            match node.cni {
                None if !node.foreign_network() => node.network.set_pod_cidrs(&ranges).await?,
                _ => node.network.set_foreign_pod_cidrs(&ranges).await?,
            }
            if !was_ready {
                node.roster.look_again();
                node.proxy.tell(Told::Look);
            }
        }
        return Ok(());
    }
    if node.foreign_network() {
        return Ok(());
    }
    // A node with our own address shares our namespace: there is nothing to route.
    let foreign: Vec<_> = peer.addresses.iter().filter(|address| !node.machine.addresses.contains(address)).copied().collect();
    node.network.set_peer(&peer.name, &ranges, &foreign).await
}

/// What matters of a Node object.
struct Peer {
    name: String,
    zone: String,
    pod_cidrs: Vec<String>,
    /// InternalIPs.
    addresses: Vec<std::net::IpAddr>,
}

impl Peer {
    /// From a whole Node, or from a row with those fields alone.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let internal = |a: &&Value| a["type"] == "InternalIP";
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let texts = |all: Vec<Value>| all.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect::<Vec<_>>();
        let (first, all) = (&value["spec"]["podCIDR"], texts(list(&value["spec"]["podCIDRs"])));
        Some(Self {
            name: value["metadata"]["name"].as_str()?.to_owned(),
            zone: value["metadata"]["labels"]["topology.kubernetes.io/zone"].as_str().unwrap_or_default().to_owned(),
            pod_cidrs: if all.is_empty() { texts(vec![first.clone()]) } else { all },
            addresses: list(&value["status"]["addresses"])
                .iter()
                .filter(internal)
                .filter_map(|a| a["address"].as_str()?.parse().ok())
                .collect(),
        })
    }
}
