//! Which drivers there are: sockets in the registry of plugins, each asked who it is and told whether it was taken; and the CSINode that tells so.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use pintle_cri::client::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::message::{Empty, NodeGetCapabilitiesResponse, NodeGetInfoResponse, PluginInfo, RegistrationStatus};
use super::{Driver, call};
use crate::api::Patch;
use crate::error::{Error, Result};
use crate::node::Node;

const SERVICE: &str = "pluginregistration.Registration";
/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Wait before a socket that was not taken is asked again, or a CSINode written again.
const RETRY: Duration = Duration::from_secs(5);
/// Longest ID of a node, by the specification.
const NODE_ID_MAX: usize = 256;

/// Inode and time of change: another socket at the same place has another.
type Identity = (u64, i64, i64);

/// A socket of the registry.
struct Socket {
    identity: Identity,
    /// Who has registered by it.
    driver: Option<String>,
    asked: Instant,
}

/// Follows the registry, for ever.
pub async fn run(node: Rc<Node>) {
    let mut sockets = BTreeMap::new();
    let mut connections = node.kernel.connections();
    let mut tell_at = Some(Instant::now());
    loop {
        if look(&node, &mut sockets).await || connections.has_changed().unwrap_or(false) {
            connections.mark_unchanged();
            tell_at = Some(Instant::now());
        }
        if *connections.borrow() > 0 && tell_at.is_some_and(|at| at <= Instant::now()) {
            tell_at = match tell(&node).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(error = Error::chain(&error), "the storage drivers of this node are not told yet");
                    Some(Instant::now() + RETRY)
                }
            };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes new sockets, and forgets those that are gone; whether anything has changed.
async fn look(node: &Node, sockets: &mut BTreeMap<PathBuf, Socket>) -> bool {
    let there = sockets_in(&node.csi.dir.join("plugins_registry"));
    let mut changed = false;
    sockets.retain(|path, socket| {
        let stays = there.get(path) == Some(&socket.identity);
        if let (false, Some(name)) = (stays, &socket.driver) {
            tracing::info!(driver = name, "a storage driver has gone");
            node.csi.drivers.borrow_mut().remove(name);
            changed = true;
        }
        stays
    });
    for (path, identity) in there {
        if sockets.get(&path).is_some_and(|socket| socket.driver.is_some() || socket.asked.elapsed() < RETRY) {
            continue;
        }
        let driver = match register(node, &path).await {
            Ok(driver) => Some(driver),
            Err(error) => {
                tracing::warn!(socket = %path.display(), error = Error::chain(&error), "a plugin is not taken");
                None
            }
        };
        changed |= driver.is_some();
        sockets.insert(path, Socket { identity, driver, asked: Instant::now() });
    }
    changed
}

fn sockets_in(dir: &Path) -> BTreeMap<PathBuf, Identity> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let identity = |meta: std::fs::Metadata| (meta.ino(), meta.ctime(), meta.ctime_nsec());
    sockets.filter_map(|entry| Some((entry.path(), identity(entry.metadata().ok()?)))).collect()
}

/// Asks who is at a socket, takes the driver, and tells it.
async fn register(node: &Node, socket: &Path) -> Result<String> {
    let client = Client::new(socket.to_owned());
    let info: PluginInfo = call(&client, &socket.display().to_string(), SERVICE, "GetInfo", &Empty {}).await?;
    let taken = take(node, socket, &info).await;
    let error = taken.as_ref().err().map(|error| Error::chain(error)).unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: taken.is_ok(), error };
    call::<Empty>(&client, &info.name, SERVICE, "NotifyRegistrationStatus", &status).await?;
    taken?;
    tracing::info!(driver = info.name, "a storage driver has registered");
    Ok(info.name)
}

async fn take(node: &Node, socket: &Path, info: &PluginInfo) -> Result<()> {
    let bad = |reason: String| Error::invalid(format!("plugin {:?}", info.name), reason);
    if info.kind != "CSIPlugin" {
        return Err(bad(format!("type {:?} is not supported by this node", info.kind)));
    }
    if !info.supported_versions.iter().any(|version| version.trim_start_matches('v').starts_with("1.")) {
        return Err(bad(format!("none of its versions {:?} is CSI 1", info.supported_versions)));
    }
    crate::volume::atomic::check_relative(&info.name)?;
    let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) };
    let mut driver =
        Driver { name: info.name.clone(), client: Client::new(endpoint), info: NodeGetInfoResponse::default(), can: Default::default() };
    driver.info = driver.call("NodeGetInfo", &Empty {}).await?;
    if driver.info.node_id.is_empty() || driver.info.node_id.len() > NODE_ID_MAX {
        return Err(bad(format!("its node ID has {} bytes, not 1 to {NODE_ID_MAX}", driver.info.node_id.len())));
    }
    let can: NodeGetCapabilitiesResponse = driver.call("NodeGetCapabilities", &Empty {}).await?;
    driver.can = can.capabilities.into_iter().filter_map(|one| Some(one.rpc?.kind)).collect();
    node.csi.drivers.borrow_mut().insert(info.name.clone(), Rc::new(driver));
    Ok(())
}

/// Writes the CSINode, and the labels that topologies speak of.
async fn tell(node: &Node) -> Result<()> {
    let name = &node.options.name;
    let path = format!("/apis/storage.k8s.io/v1/csinodes/{name}");
    let (drivers, labels) = told(node.csi.drivers.borrow().values());
    if drivers.is_empty() {
        match node.api.get(&path).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
    }
    let node_path = format!("/api/v1/nodes/{name}");
    let object = node.api.get(&node_path).await?;
    if labels.iter().any(|(key, value)| object["metadata"]["labels"][key] != *value) {
        node.api.patch(&node_path, Patch::Merge, &json!({ "metadata": { "labels": labels } })).await?;
    }
    let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": name, "uid": object["metadata"]["uid"] });
    let csi_node = |drivers: &[Value]| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
            "metadata": { "name": name, "ownerReferences": [owner] }, "spec": { "drivers": drivers },
        })
    };
    match node.api.patch(&path, Patch::Apply, &csi_node(&drivers)).await {
        // What a driver said at first cannot change: it goes, and comes anew.
        Err(Error::Refused { code: 422, .. }) => {
            node.api.patch(&path, Patch::Apply, &csi_node(&[])).await?;
            node.api.patch(&path, Patch::Apply, &csi_node(&drivers)).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// Drivers as a CSINode lists them, and labels of the Node.
fn told<'a>(drivers: impl Iterator<Item = &'a Rc<Driver>>) -> (Vec<Value>, BTreeMap<String, String>) {
    let (mut list, mut labels) = (Vec::new(), BTreeMap::new());
    for driver in drivers {
        let segments = driver.info.accessible_topology.clone().unwrap_or_default().segments;
        let mut keys: Vec<&String> = segments.keys().collect();
        keys.sort();
        let mut row = json!({ "name": driver.name, "nodeID": driver.info.node_id, "topologyKeys": keys });
        if driver.info.max_volumes_per_node > 0 {
            row["allocatable"] = json!({ "count": driver.info.max_volumes_per_node.min(i32::MAX.into()) });
        }
        list.push(row);
        labels.extend(segments);
    }
    (list, labels)
}
