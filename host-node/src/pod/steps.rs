//! What actions do: each step takes what it needs, acts, and returns; the worker alone writes the record.
//!
//! Steps may be repeated after a crash in their middle: each begins by making sure that what it makes does not exist twice.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, LifecycleHandler, Pod, Secret};
use pintle_runtime_bridge::{ContainerId, ExecSpec, Exit, Mount, Resources, Sandbox, SandboxId, SandboxSpec};

use super::note::View;
use super::record::{Attempt, PresentImage, SandboxRecord, host_network, is_static, name, namespace, uid};
use super::users;
use crate::container::downward::Facts;
use crate::container::env::{Mention, Sources, environment, mentions, service_variables};
use crate::container::{Prepared, files, sandbox_spec, spec};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::file;
use crate::link::Reference;
use crate::net::shape::Bandwidth;
use crate::node::Node;
use crate::policy;
use crate::probe;
use crate::service::model::Service;
use crate::volume::{self, Workshop, mounts};

/// Bytes of a quiet exec's output that are kept.
const OUTPUT_KEPT: usize = 1024;

/// Which container, for a step.
pub struct Start {
    /// The pod.
    pub pod: Rc<Pod>,
    /// The container.
    pub container: Container,
    /// What it resolved to.
    pub image: PresentImage,
    /// The pod's sandbox.
    pub sandbox: SandboxRecord,
    /// Attempts before this one.
    pub restarts: u32,
    /// What the pod as a whole may take, for a container that is started again and may take more than before.
    pub ceiling: Option<Resources>,
    /// The runtime's id of the container among whose processes this one is to live, or the name of one that does not run.
    pub target: Option<Result<String, String>>,
}

/// The files of one pod.
pub struct Paths {
    /// `pods/<uid>`.
    pub dir: PathBuf,
    /// `logs/<namespace>_<name>_<uid>`.
    pub logs: PathBuf,
}

impl Paths {
    /// Where a pod's files are; the pod has been validated.
    pub fn of(state_dir: &Path, pod: &Pod) -> Self {
        let logs = format!("{}_{}_{}", namespace(pod), name(pod), uid(pod));
        Self { dir: state_dir.join("pods").join(uid(pod)), logs: state_dir.join("logs").join(logs) }
    }
}

/// Says in the log how far a step is and how long it took: the first place to look when pods start slowly.
struct Clock<'a> {
    pod: &'a Pod,
    began: std::time::Instant,
}

impl<'a> Clock<'a> {
    fn new(pod: &'a Pod) -> Self {
        Self { pod, began: std::time::Instant::now() }
    }

    fn passed(&self, what: &str) {
        tracing::debug!(pod = name(self.pod), ms = self.began.elapsed().as_secs_f64() * 1000.0, "{what} ready");
    }
}

/// Volumes, sandbox, network.
pub async fn set_up(node: &Node, pod: &Pod) -> Result<SandboxRecord> {
    let paths = node.paths(pod);
    let clock = Clock::new(pod);
    file::make_dir(&paths.dir, 0o700)?;
    let user_namespace = users::range(pod, node.runtime.has_user_namespaces(), &node.options.state_dir.join("pods"), &paths.dir)?;
    let facts = facts(node, pod, &[]);
    let workshop = workshop(node, &paths, &facts);
    volume::prepare(pod, &workshop).await?;
    let images = show_images(node, pod, &paths).await?;
    clock.passed("volumes");
    let wanted = SandboxSpec { user_namespace, ..sandbox_spec(pod, files::hostname(pod, &node.options.name)) };
    let sandbox = node.runtime.create_sandbox(wanted).await?;
    clock.passed("sandbox");
    let plugged = plug_in(node, pod, &paths, &sandbox).await;
    clock.passed("network");
    match plugged {
        Ok(addresses) => Ok(SandboxRecord {
            id: sandbox.id.to_string(),
            addresses,
            ready_at: Timestamp::now(),
            images,
            resources: crate::container::pod_level(pod).cloned(),
        }),
        Err(error) => {
            if let Some(cni) = node.cni.as_ref().filter(|_| !host_network(pod)) {
                if let Err(second) = cni.detach(uid(pod)).await {
                    tracing::warn!(pod = name(pod), error = Error::chain(&second), "what plugins made stays for now");
                }
            }
            let (runtime, id) = (&node.runtime, &sandbox.id);
            until_removed("a half-made sandbox", async || runtime.remove_sandbox(id).await).await;
            Err(error)
        }
    }
}

/// Removes something that no record names (any more): nobody else would do it later, and the runtime's helper may just have been killed.
pub async fn until_removed(what: &str, remove: impl AsyncFn() -> pintle_runtime_bridge::Result<()>) {
    let mut pause = Duration::from_millis(250);
    while let Err(error) = remove().await {
        tracing::warn!(%error, "{what} stays for now");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// Volumes that are images: pulled by their policy, shown read-only. Gives the images' ids.
async fn show_images(node: &Node, pod: &Pod, paths: &Paths) -> Result<Vec<String>> {
    let mut shown = Vec::new();
    for (name, source) in volume::images(pod) {
        let image = Container {
            name: name.to_owned(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        let info = node.images.ensure(pod, &image).await.map_err(|missing| Error::ContainerConfig(missing.message))?;
        node.runtime.mount_image(&info.id.to_string(), &volume::image_directory(&paths.dir, name)?).await?;
        shown.push(info.id.to_string());
    }
    Ok(shown)
}

async fn plug_in(node: &Node, pod: &Pod, paths: &Paths, sandbox: &Sandbox) -> Result<Vec<IpAddr>> {
    let cluster = node.kernel.config();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let resolv = files::resolv_conf(pod, &cluster, &read(&node.options.resolv_conf));
    let addresses = match (host_network(pod), &node.cni, &node.runtime) {
        (true, ..) => node.machine.addresses.clone(),
        (false, _, Engine::Cri(cri)) => cri.sandbox_addresses(&sandbox.id).await?,
        (false, None, _) => node.network.attach(uid(pod), node.runtime.netns(&sandbox.id).await?, Bandwidth::of(pod)?).await?,
        (false, Some(cni), _) => {
            let netns = sandbox.netns_path.as_deref().ok_or_else(|| Error::invalid("sandbox", "no network namespace"))?;
            let addresses = cni.attach(pod, sandbox.id.as_str(), netns, &resolv).await?;
            if addresses.is_empty() {
                return Err(Error::invalid("result of the network's plugins", "no address"));
            }
            addresses
        }
    };
    // A static pod runs before anybody but its file knows of it.
    if !host_network(pod) && !is_static(pod) {
        policy::hold(node, pod, &addresses).await;
    }
    let hosts = files::hosts(pod, &node.options.name, &cluster, &addresses, &read(Path::new("/etc/hosts")));
    file::replace(&paths.dir.join("hosts"), hosts.as_bytes(), 0o644)?;
    file::replace(&paths.dir.join("resolv.conf"), resolv.as_bytes(), 0o644)?;
    let hostname = format!("{}\n", files::hostname(pod, &node.options.name));
    file::replace(&paths.dir.join("hostname"), hostname.as_bytes(), 0o644)?;
    Ok(addresses)
}

fn workshop<'a>(node: &'a Node, paths: &'a Paths, facts: &'a Facts) -> Workshop<'a> {
    Workshop { kernel: &node.kernel, pod_dir: &paths.dir, facts, trust: &node.trust, volumes: &node.volumes, csi: &node.csi }
}

fn facts(node: &Node, pod: &Pod, own: &[IpAddr]) -> Facts {
    let mut facts = node.machine.facts();
    facts.pod_addresses = if own.is_empty() && host_network(pod) { node.machine.addresses.clone() } else { own.to_vec() };
    facts
}

/// Makes projected volumes follow their objects, for ever. A container sees a change within the sync period.
pub async fn keep_fresh(node: Rc<Node>, view: Rc<View>) {
    loop {
        tokio::time::sleep(Duration::from_millis(node.options.sync_period_ms)).await;
        let (pod, addresses) = (view.pod.borrow().clone(), view.record.borrow().addresses.clone());
        let facts = facts(&node, &pod, &addresses);
        let paths = node.paths(&pod);
        let workshop = workshop(&node, &paths, &facts);
        match volume::refresh(&pod, &workshop).await {
            Ok(true) => tracing::debug!(pod = name(&pod), "projected volumes have changed"),
            Ok(false) => {}
            Err(error) => tracing::debug!(pod = name(&pod), error = Error::chain(&error), "projected volumes stay as they are"),
        }
    }
}

/// Makes a container, not yet started.
pub async fn create(node: &Node, start: &Start) -> Result<Attempt> {
    let Start { pod, container, image, sandbox, restarts, ceiling, target } = start;
    let pid_of = match target {
        Some(Ok(id)) => Some(ContainerId::parse(id)?),
        Some(Err(name)) => return Err(Error::ContainerConfig(format!("unable to find target container {name:?}"))),
        None => None,
    };
    let clock = Clock::new(pod);
    let paths = node.paths(pod);
    let facts = facts(node, pod, &sandbox.addresses);
    let sources = fetch_sources(node, pod, container).await?;
    let services = services(node, pod).await;
    let env = environment(pod, container, &services, &sources, &facts)?;
    let env = with_hostname(env, &files::hostname(pod, &node.options.name));
    let message_file = paths.dir.join("messages").join(format!("{}-{restarts}", container.name));
    file::make_dir(message_file.parent().unwrap_or(&paths.dir), 0o700)?;
    file::replace(&message_file, b"", 0o666)?;
    let log = paths.logs.join(&container.name).join(format!("{restarts}.log"));
    let prepared = Prepared {
        sandbox: SandboxId::parse(&sandbox.id)?,
        image_id: image.id.clone(),
        env,
        mounts: container_mounts(pod, container, &paths, &message_file, &facts, node.runtime.mounts_recursively_read_only())?,
        log: log.clone(),
        seccomp_profile: seccomp_profile(node, pod, container)?,
        pid_of,
        huge_page_sizes: node.machine.huge_page_sizes(),
        node_memory_bytes: facts.allocatable_memory_bytes,
    };
    let spec = spec(pod, container, prepared)?;
    refuse_root(node, &spec).await?;
    if let Some(ceiling) = ceiling {
        node.runtime.update_sandbox_resources(&SandboxId::parse(&sandbox.id)?, ceiling.clone()).await?;
    }
    clock.passed("configuration");
    let id = node.runtime.create_container(spec).await?;
    clock.passed("container");
    Ok(Attempt {
        id: id.to_string(),
        image: container.image.clone().unwrap_or_default(),
        image_id: image.shown.clone(),
        started_at: None,
        end: None,
        log,
        message_file,
        hook_done: container.lifecycle.as_ref().is_none_or(|l| l.post_start.is_none()),
        resources: Some(container.resources.clone().unwrap_or_default()),
    })
}

/// Changes the limits of running containers (by runtime id), and around them those of the pod: raised before, lowered after.
pub async fn resize(node: &Node, sandbox: &str, ceiling: Resources, containers: &[(String, Resources)], after: Resources) -> Result<()> {
    let sandbox = SandboxId::parse(sandbox)?;
    node.runtime.update_sandbox_resources(&sandbox, ceiling).await?;
    for (id, resources) in containers {
        node.runtime.update_resources(&ContainerId::parse(id)?, resources.clone()).await?;
    }
    Ok(node.runtime.update_sandbox_resources(&sandbox, after).await?)
}

/// The text of the seccomp profile that a container names.
fn seccomp_profile(node: &Node, pod: &Pod, container: &Container) -> Result<Option<String>> {
    let Some(name) = crate::container::localhost_profile(pod, container) else { return Ok(None) };
    volume::atomic::check_relative(&name)?;
    let path = node.options.seccomp_dir.join(&name);
    let text = std::fs::read_to_string(&path);
    text.map(Some).map_err(|error| Error::ContainerConfig(format!("cannot load seccomp profile {:?}: {error}", path.display().to_string())))
}

fn with_hostname(mut env: Vec<(String, String)>, hostname: &str) -> Vec<(String, String)> {
    if !env.iter().any(|(name, _)| name == "HOSTNAME") {
        env.insert(0, ("HOSTNAME".to_owned(), hostname.to_owned()));
    }
    env
}

/// runAsNonRoot is a matter of configuration, told before anything is started.
async fn refuse_root(node: &Node, spec: &pintle_runtime_bridge::ContainerSpec) -> Result<()> {
    if !spec.user.must_not_be_root {
        return Ok(());
    }
    let refuse = |text: &str| Err(Error::ContainerConfig(text.to_owned()));
    match spec.user.uid {
        Some(0) => return refuse("container's runAsUser breaks non-root policy"),
        Some(_) => return Ok(()),
        None => {}
    }
    let image_user = node.runtime.image(&spec.image).await.map(|info| info.user).unwrap_or_default();
    match image_user.split(':').next().unwrap_or_default() {
        "" | "0" | "root" => refuse("container has runAsNonRoot and image will run as root"),
        user if user.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        user => refuse(&format!("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root")),
    }
}

async fn fetch_sources(node: &Node, pod: &Pod, container: &Container) -> Result<Sources> {
    let mut sources = Sources::default();
    for mention in mentions(container) {
        let (resource, name) = match &mention {
            Mention::ConfigMap(name) => ("configmaps", name.clone()),
            Mention::Secret(name) => ("secrets", name.clone()),
        };
        let bytes = match node.kernel.get(&Reference::core(resource, namespace(pod), &name)).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let malformed = |source| Error::Malformed { what: format!("{resource} {name}"), source };
        match mention {
            Mention::ConfigMap(_) => {
                let map: ConfigMap = serde_json::from_slice(&bytes).map_err(malformed)?;
                sources.config_maps.insert(name.clone(), map);
            }
            Mention::Secret(_) => {
                let secret: Secret = serde_json::from_slice(&bytes).map_err(malformed)?;
                sources.secrets.insert(name.clone(), secret);
            }
        }
    }
    Ok(sources)
}

/// The variables of the Services that the pod is told of: `default/kubernetes`, and those of its namespace unless it wants none.
async fn services(node: &Node, pod: &Pod) -> Vec<(String, String)> {
    let mut told = Vec::new();
    if pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false) {
        let catalog = node.proxy.catalog.borrow();
        let around = catalog.services.iter().filter(|(key, _)| key.0 == namespace(pod) && (key.0 != "default" || key.1 != "kubernetes"));
        told.extend(around.flat_map(|(_, service)| variables_of(service)));
    }
    // Asked for, because a pod may start before the Services are known whole.
    if let Ok(bytes) = node.kernel.get(&Reference::core("services", "default", "kubernetes")).await {
        told.extend(serde_json::from_slice::<Service>(&bytes).iter().flat_map(variables_of));
    }
    told
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(address) = service.cluster_addresses().next() else { return Vec::new() };
    let port = |p: &crate::service::model::ServicePort| {
        let named = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        (named(&p.name), p.port, named(&p.protocol).unwrap_or_else(|| "TCP".to_owned()))
    };
    let ports: Vec<_> = service.spec.ports.iter().map(port).collect();
    service_variables(&service.metadata.name, &address.to_string(), &ports)
}

/// `possible`: whether the runtime has mounts that are read-only with all below them.
fn container_mounts(
    pod: &Pod,
    container: &Container,
    paths: &Paths,
    message_file: &Path,
    facts: &Facts,
    possible: bool,
) -> Result<Vec<Mount>> {
    let mut list = Vec::new();
    let mut taken = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let mut source = volume::source(pod, &paths.dir, &wanted.name)?;
        let sub_path = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(expr)) if !expr.is_empty() => Some(expand_sub_path(pod, container, expr, facts)?),
            _ => None,
        };
        if let Some(sub_path) = sub_path {
            let handle = paths.dir.join("subpaths").join(&container.name).join(index.to_string());
            source = mounts::bind_sub_path(&source, &sub_path, &handle)?;
        }
        let mut mount = Mount::bind(source, wanted.mount_path.clone());
        let only_read = volume::images(pod).any(|(name, _)| name == wanted.name) || volume::claim::is_read_only(pod, &wanted.name);
        mount.read_only = wanted.read_only == Some(true) || only_read;
        // What is asked for and cannot be had is refused by the runtime.
        let recursively = wanted.recursive_read_only.as_deref();
        mount.recursive_read_only = mount.read_only && (recursively == Some("Enabled") || recursively == Some("IfPossible") && possible);
        mount.propagation = match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => pintle_runtime_bridge::Propagation::FromHost,
            Some("Bidirectional") => pintle_runtime_bridge::Propagation::Both,
            _ => pintle_runtime_bridge::Propagation::Private,
        };
        mount.relabel = volume::is_the_pods_own(pod, &wanted.name);
        taken.push(wanted.mount_path.trim_end_matches('/').to_owned());
        list.push(mount);
    }
    let root_read_only = container.security_context.as_ref().is_some_and(|c| c.read_only_root_filesystem == Some(true));
    for (file_name, target) in [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")] {
        if !taken.iter().any(|path| path == target) {
            let mut mount = Mount::bind(paths.dir.join(file_name), target);
            (mount.read_only, mount.relabel) = (root_read_only, true);
            list.push(mount);
        }
    }
    let message_path = container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log");
    list.push(Mount { relabel: true, ..Mount::bind(message_file, message_path) });
    // A mount below another one comes after it.
    list.sort_by_key(|mount| mount.target.trim_end_matches('/').matches('/').count());
    Ok(list)
}

/// subPathExpr may use variables of literal and downward-API values only; anything else in it is refused.
fn expand_sub_path(pod: &Pod, container: &Container, expr: &str, facts: &Facts) -> Result<String> {
    let lookup = |name: &str| {
        let var = container.env.iter().flatten().find(|v| v.name == name)?;
        match var.value_from.as_ref().and_then(|s| s.field_ref.as_ref()) {
            Some(field) => crate::container::downward::field(pod, &field.field_path, facts).ok(),
            None => var.value.clone(),
        }
    };
    let path = crate::container::env::expand(expr, lookup);
    if path.contains("$(") {
        return Err(Error::ContainerConfig(format!("subPathExpr {expr:?} mentions a variable that is not set")));
    }
    Ok(path)
}

/// How a start ended.
pub enum StartEnd {
    /// It runs, and its postStart hook (if any) succeeded.
    Up,
    /// It could not be started.
    Failed(String),
    /// It runs, but its postStart hook failed.
    HookFailed(String),
}

/// Starts a created container, unless it `runs` already; `started` is told as soon as its program runs, before the hook.
pub async fn start(
    node: &Node,
    pod: &Pod,
    container: &Container,
    attempt: &Attempt,
    runs: bool,
    address: Option<IpAddr>,
    started: impl FnOnce(),
) -> StartEnd {
    let clock = Clock::new(pod);
    let id = match ContainerId::parse(&attempt.id) {
        Ok(id) => id,
        Err(error) => return StartEnd::Failed(error.to_string()),
    };
    if !runs && let Err(error) = node.runtime.start(&id).await {
        return StartEnd::Failed(Error::chain(&error));
    }
    clock.passed("process");
    started();
    let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    match hook {
        None => StartEnd::Up,
        Some(hook) => match run_hook(node, pod, container, &id, hook, address).await {
            Ok(()) => StartEnd::Up,
            Err(error) => StartEnd::HookFailed(Error::chain(&error)),
        },
    }
}

async fn run_hook(
    node: &Node,
    pod: &Pod,
    container: &Container,
    id: &ContainerId,
    hook: &LifecycleHandler,
    address: Option<IpAddr>,
) -> Result<()> {
    if let Some(exec) = &hook.exec {
        let (exit, output) = exec_quietly(node, id, exec.command.clone().unwrap_or_default()).await?;
        return match exit.code {
            0 => Ok(()),
            code => Err(Error::Answer(format!("command exited with {code}: {output}"))),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    let target = probe::Target { pod, container, address };
    if let Some(get) = &hook.http_get {
        return probe::http(&target, get).await.and_then(probe::Answer::into_result);
    }
    if let Some(socket) = &hook.tcp_socket {
        return probe::tcp(&target, socket.host.as_deref(), &socket.port).await;
    }
    Ok(())
}

/// Runs a command in a container and waits; gives the exit and the first KiB of its output.
pub async fn exec_quietly(node: &Node, id: &ContainerId, command: Vec<String>) -> Result<(Exit, String)> {
    use tokio::io::AsyncReadExt;
    if let Engine::Cri(cri) = &node.runtime {
        let (exit, output) = cri.exec_to_end(id, command).await?;
        return Ok((exit, String::from_utf8_lossy(&output[..output.len().min(OUTPUT_KEPT)]).into_owned()));
    }
    let mut session = node.runtime.exec(id, ExecSpec { command, ..ExecSpec::default() }).await?;
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let kept = std::cell::RefCell::new(Vec::new());
    let drain = async |stream: Option<pintle_runtime_bridge::OutputStream>| {
        let Some(mut stream) = stream else { return };
        let mut block = [0u8; 1024];
        while let Ok(count @ 1..) = stream.read(&mut block).await {
            let mut kept = kept.borrow_mut();
            let room = OUTPUT_KEPT.saturating_sub(kept.len());
            kept.extend_from_slice(&block[..count.min(room)]);
        }
    };
    let drained = async { tokio::join!(drain(stdout), drain(stderr)) };
    let ended = async {
        let exit = session.wait().await;
        // A grandchild may hold the streams open: the exit counts, not their end.
        tokio::time::sleep(Duration::from_millis(20)).await;
        exit
    };
    tokio::pin!(drained, ended);
    let exit = match futures::future::select(drained, ended).await {
        futures::future::Either::Left((_, ended)) => ended.await,
        futures::future::Either::Right((exit, _)) => exit,
    }?;
    let output = String::from_utf8_lossy(&kept.borrow()).into_owned();
    Ok((exit, output))
}

/// preStop, stop signal, and SIGKILL when `grace` is over.
pub async fn stop(node: &Node, pod: &Pod, container: &Container, id: &str, grace: Duration, address: Option<IpAddr>) -> Result<Exit> {
    let id = ContainerId::parse(id)?;
    let began = tokio::time::Instant::now();
    let hook = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
        match tokio::time::timeout(grace, run_hook(node, pod, container, &id, hook, address)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let message = format!("PreStopHook failed: {}", Error::chain(&error));
                node.events.record(pod, Some(&container.name), crate::event::Kind::Warning, "FailedPreStopHook", &message);
            }
            Err(_) => tracing::info!(container = container.name, "preStop did not finish within the grace period"),
        }
    }
    let left = grace.saturating_sub(began.elapsed());
    // After a hook that used up its time the container still gets two seconds, as the kubelet gives.
    let left = if hook.is_some() && !grace.is_zero() { left.max(Duration::from_secs(2)) } else { left };
    Ok(node.runtime.stop(&id, left).await?)
}

/// Removes containers, network, sandbox and volumes of a pod in which nothing runs.
pub async fn tear_down(node: &Node, pod: &Pod, containers: &[String], sandbox: Option<&SandboxRecord>) -> Result<()> {
    if let Some(sandbox) = sandbox {
        node.runtime.condemn_sandbox(&SandboxId::parse(&sandbox.id)?).await?;
    }
    for id in containers {
        node.runtime.remove(&ContainerId::parse(id)?).await?;
    }
    if !host_network(pod) {
        match &node.cni {
            None => node.network.detach(uid(pod)).await?,
            Some(cni) => cni.detach(uid(pod)).await?,
        }
    }
    if let Some(sandbox) = sandbox {
        node.runtime.remove_sandbox(&SandboxId::parse(&sandbox.id)?).await?;
    }
    let dir = node.paths(pod).dir;
    // Handles of subPaths hold what drivers are to unmount.
    mounts::unmount_below(&dir.join("subpaths"))?;
    node.csi.release(uid(pod), &node.volumes, &node.kernel).await?;
    mounts::unmount_below(&dir)?;
    for part in ["volumes", "subpaths"] {
        file::remove_tree(&dir.join(part))?;
    }
    Ok(())
}

/// Sends the last status and has the object deleted.
pub async fn remove(node: &Node, pod: &Reference, status: Vec<u8>) -> Result<()> {
    node.reporter.withdraw(&pod.uid);
    let settled = |result: Result<()>| match result {
        Err(Error::Refused { code: 404 | 409 | 410, .. }) => Ok(()),
        other => other,
    };
    let outcomes = node.kernel.update_pod_statuses(&[(pod.clone(), status)]).await?;
    for outcome in outcomes {
        settled(outcome.map(|_| ()))?;
    }
    settled(node.kernel.remove_pod(pod).await)
}
