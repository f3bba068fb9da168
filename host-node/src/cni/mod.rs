//! The pods' network by plugins of the Container Network Interface, where the machine is told a directory of configurations.
//!
//! A pod's attachment is a file that is written before the first plugin is asked and removed after the last one has taken back what it made:
//! it holds the configuration as it was, the arguments and the result. So an attachment can always be taken back: after a crash in the
//! middle, when the directory says something else by then, and by `purge`.
//!
//! Invariant: of every ADD that was begun, a DEL succeeds before the file goes.

pub mod configuration;
pub mod plugin;
pub mod request;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, Step};
use crate::event::Kind;
use crate::file;
use crate::node::Node;
use crate::pod::record::uid;
use configuration::NetworkList;
use plugin::{About, Call};

/// The pod's interface.
const INTERFACE: &str = "eth0";
/// How often is looked whether the network can be had.
const LOOK: Duration = Duration::from_secs(5);

/// The plugins' end.
pub struct Cni {
    configurations: PathBuf,
    programs: Vec<PathBuf>,
    directory: PathBuf,
    health: RefCell<Health>,
    /// Pods that are being unplugged.
    leaving: RefCell<BTreeSet<String>>,
}

/// Whether the network can be had.
#[derive(Clone, Debug)]
pub struct Health {
    /// Why not.
    pub fault: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// One pod in its network.
#[derive(Debug, Serialize, Deserialize)]
struct Attachment {
    uid: String,
    container: String,
    netns: PathBuf,
    args: String,
    capabilities: Map<String, Value>,
    network: Value,
    programs: Vec<PathBuf>,
    /// What the last plugin said, once all have.
    result: Option<Value>,
}

impl Cni {
    /// For a directory of configurations and directories of programs; attachments are kept in `directory`.
    pub fn open(configurations: PathBuf, programs: Vec<PathBuf>, directory: PathBuf) -> Result<Self> {
        file::make_dir(&directory, 0o700)?;
        let health = Health { fault: Some("it was not looked at yet".into()), since: Timestamp::now() };
        Ok(Self { configurations, programs, directory, health: RefCell::new(health), leaving: RefCell::default() })
    }

    /// Whether the network can be had, as it was seen last.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Plugs a pod's namespace in; gives its addresses.
    ///
    /// # Errors
    /// There is no network, or a plugin failed; what was made by then is taken back.
    pub async fn attach(&self, pod: &Pod, container: &str, netns: &Path, resolv_conf: &str) -> Result<Vec<IpAddr>> {
        self.detach(uid(pod)).await?;
        let list = configuration::first(&self.configurations)?;
        let mut attachment = Attachment {
            uid: uid(pod).to_owned(),
            container: container.to_owned(),
            netns: netns.to_owned(),
            args: request::args(pod, container),
            capabilities: request::capabilities(pod, resolv_conf)?,
            network: list.to_value(),
            programs: self.programs.clone(),
            result: None,
        };
        let path = self.path(&attachment);
        file::replace_json(&path, &attachment)?;
        let added = match attachment.add(&list).await {
            Ok(result) => {
                let addresses = request::addresses(&result);
                attachment.result = Some(result);
                if addresses.is_empty() { Err(Error::invalid("result of the network's plugins", "no address")) } else { Ok(addresses) }
            }
            Err(error) => Err(error),
        };
        match added {
            Ok(addresses) => {
                file::replace_json(&path, &attachment)?;
                Ok(addresses)
            }
            Err(error) => {
                if let Err(second) = attachment.take_back(&path).await {
                    tracing::warn!(container, error = Error::chain(&second), "what plugins made of a failed attachment stays for now");
                }
                Err(error)
            }
        }
    }

    /// Takes back whatever the pod has.
    pub async fn detach(&self, uid: &str) -> Result<()> {
        self.leaving.borrow_mut().insert(uid.to_owned());
        let result = async {
            for (path, attachment) in self.attachments()?.into_iter().filter(|(_, attachment)| attachment.uid == uid) {
                attachment.take_back(&path).await?;
            }
            Ok(())
        };
        let result = result.await;
        self.leaving.borrow_mut().remove(uid);
        result
    }

    /// Takes back what belongs to no container of these, and tells the plugins which ones are left.
    pub async fn sweep(&self, containers: &BTreeSet<String>) {
        let attachments = self.attachments().unwrap_or_else(|error| {
            tracing::warn!(error = Error::chain(&error), "attachments cannot be read");
            Vec::new()
        });
        let mut left = Vec::new();
        for (path, attachment) in attachments {
            if containers.contains(&attachment.container) {
                left.push(json!({ "containerID": attachment.container, "ifname": INTERFACE }));
            } else if let Err(error) = attachment.take_back(&path).await {
                tracing::warn!(container = attachment.container, error = Error::chain(&error), "an attachment that no pod has stays");
            }
        }
        let Ok(list) = configuration::first(&self.configurations) else { return };
        if !list.is_at_least("1.1.0") || list.disable_gc {
            return;
        }
        for index in 0..list.len() {
            let mut input = list.input(index, &Map::new(), None);
            input["cni.dev/valid-attachments"] = json!(left);
            let call = Call { command: "GC", about: None, path: &self.programs };
            if let Err(error) = plugin::call(list.kind(index), call, &input).await {
                tracing::warn!(network = list.name, error = Error::chain(&error), "plugins were told what is left");
            }
        }
    }

    /// Asks the plugins whether all is as they made it, where the network's version knows that question.
    pub async fn check(&self, uid: &str) -> Result<()> {
        for (path, attachment) in self.attachments()?.into_iter().filter(|(_, attachment)| attachment.uid == uid) {
            let checked = attachment.check().await;
            // What goes meanwhile is not as it was, rightly.
            if path.exists() && !self.leaving.borrow().contains(uid) {
                checked?;
            }
        }
        Ok(())
    }

    /// Whether the plugins lead ports of the machine to the pod.
    pub fn maps_ports(&self, uid: &str) -> bool {
        let of_pod = |(_, attachment): &(PathBuf, Attachment)| attachment.uid == uid;
        let found = self.attachments().ok().and_then(|all| all.into_iter().find(of_pod));
        found.and_then(|(_, attachment)| NetworkList::parse(&attachment.network).ok()).is_some_and(|list| list.wants("portMappings"))
    }

    /// Looks for ever whether the network can be had.
    pub async fn watch(node: Rc<Node>) {
        let Some(cni) = &node.cni else { return };
        loop {
            let fault = cni.status().await.err().map(|error| Error::chain(&error));
            let before = cni.health();
            if before.fault != fault {
                tracing::info!(fault, "the plugins' network");
                *cni.health.borrow_mut() = Health { fault, since: Timestamp::now() };
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether there is a network, and its plugins are ready where its version knows that question.
    async fn status(&self) -> Result<()> {
        let list = configuration::first(&self.configurations)?;
        for index in 0..list.len() {
            let call = Call { command: "STATUS", about: None, path: &self.programs };
            if list.is_at_least("1.1.0") {
                plugin::call(list.kind(index), call, &list.input(index, &Map::new(), None)).await?;
            }
        }
        Ok(())
    }

    fn path(&self, attachment: &Attachment) -> PathBuf {
        self.directory.join(format!("{}.json", attachment.container))
    }

    fn attachments(&self) -> Result<Vec<(PathBuf, Attachment)>> {
        read(&self.directory)
    }
}

/// Takes back every attachment that is kept in a directory. Used by `purge`.
pub async fn purge(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for (path, attachment) in read(directory)? {
        attachment.take_back(&path).await?;
    }
    Ok(())
}

fn read(directory: &Path) -> Result<Vec<(PathBuf, Attachment)>> {
    let entries = std::fs::read_dir(directory).step(|| format!("reading {}", directory.display()))?;
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    paths.filter_map(|path| file::read_json(&path).map(|found| found.map(|attachment| (path, attachment))).transpose()).collect()
}

impl Attachment {
    fn call<'a>(&'a self, command: &'static str) -> Call<'a> {
        // Nothing is left of the namespace after a restart of the machine.
        let netns = Some(&*self.netns).filter(|path| path.exists());
        let about = About { container: &self.container, netns, interface: INTERFACE, args: &self.args };
        Call { command, about: Some(about), path: &self.programs }
    }

    async fn add(&self, list: &NetworkList) -> Result<Value> {
        let mut result = None;
        for index in 0..list.len() {
            let input = list.input(index, &self.capabilities, result.as_ref());
            result = Some(plugin::call(list.kind(index), self.call("ADD"), &input).await?);
        }
        Ok(result.unwrap_or_default())
    }

    async fn check(&self) -> Result<()> {
        let list = NetworkList::parse(&self.network)?;
        let Some(result) = self.result.as_ref().filter(|_| list.is_at_least("0.4.0") && !list.disable_check) else { return Ok(()) };
        for index in 0..list.len() {
            plugin::call(list.kind(index), self.call("CHECK"), &list.input(index, &self.capabilities, Some(result))).await?;
        }
        Ok(())
    }

    /// DEL, the last plugin first, and the end of the file.
    async fn take_back(&self, path: &Path) -> Result<()> {
        let list = NetworkList::parse(&self.network)?;
        let previous = self.result.as_ref().filter(|_| list.is_at_least("0.4.0"));
        for index in (0..list.len()).rev() {
            plugin::call(list.kind(index), self.call("DEL"), &list.input(index, &self.capabilities, previous)).await?;
        }
        std::fs::remove_file(path).step(|| format!("removing {}", path.display()))
    }
}

/// Says on the pod that the network is not as the plugins made it. What runs goes on.
pub async fn check(node: Rc<Node>, pod: Rc<Pod>) {
    let Some(cni) = &node.cni else { return };
    if let Err(error) = cni.check(uid(&pod)).await {
        let words = format!("The pod's network is not as it was set up: {}", Error::chain(&error));
        node.events.record(&pod, None, Kind::Warning, "NetworkCheckFailed", &words);
    }
}
