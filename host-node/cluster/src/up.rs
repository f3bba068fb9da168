//! `pintle up`: starts what is not running yet and waits until it is ready. Running it again repairs a cluster.

use crate::{ClusterError, Layout, client::Client, network, processes};
use nix::mount::{MsFlags, mount};
use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Arguments of `pintle up`.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// How many nodes to run on this machine, each in its own namespaces; 0: the kernel alone.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=200))]
    nodes: u8,
    /// Where all state is kept.
    #[arg(long, default_value = ".pintle")]
    data_dir: PathBuf,
    /// Pods, Services and nodes have addresses of IPv4 and of IPv6.
    #[arg(long)]
    dual_stack: bool,
    /// Port of the Kubernetes API.
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// Pull images of HOST from URL instead, as `HOST=URL`; may be repeated.
    #[arg(long)]
    registry_mirror: Vec<String>,
    /// More arguments for every host-node, e.g. `--node-arg=--restart-backoff-millis=200`; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    node_arg: Vec<String>,
    /// More arguments for the kernel; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    kernel_arg: Vec<String>,
}

/// Ranges of a cluster of both families: the usual ones of version 4, and as many addresses of version 6.
const SERVICES: &str = "10.96.0.0/16,fd00:10:96::/112";
const PODS: &str = "10.244.0.0/16,fd00:10:244::/48";

/// Starts the cluster and prints how to use it.
pub async fn up(args: UpArgs) -> Result<(), ClusterError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ClusterError::Unsupported("`pintle up` makes namespaces, mounts and cgroups: run it as root"));
    }
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |source| ClusterError::Directory { path, source }
    };
    let layout = Layout::new(&args.data_dir).map_err(at(&args.data_dir))?;
    fs::create_dir_all(layout.root()).map_err(at(layout.root()))?;
    ensure_run_dir(&layout)?;
    network::ensure_bridge(&layout, args.dual_stack)?;

    let client = step("kernel", start_kernel(&layout, &args)).await?;
    step("storage class", storage_class(&layout, &client)).await?;
    for index in 1..=args.nodes {
        let node = format!("node-{index}");
        step(&node, async { start_node(&layout, &args, &node, index) }).await?;
    }
    step("nodes ready", nodes_ready(&layout, &client, args.nodes)).await?;
    println!("\nkubeconfig: {}\n", layout.kubeconfig().display());
    Ok(())
}

/// The class of claims that name none: directories of the machine where the pod is. Made once for a cluster: who deletes it keeps it deleted.
async fn storage_class(layout: &Layout, client: &Client) -> Result<(), ClusterError> {
    let made = layout.kernel_dir().join("storage-class-made");
    if made.exists() {
        return Ok(());
    }
    let class = serde_json::json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": { "name": "local-path", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": "pintle.dev/local-path", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    });
    client.create("/apis/storage.k8s.io/v1/storageclasses", &class).await.map_err(ClusterError::StorageClass)?;
    fs::write(&made, "").map_err(|source| ClusterError::Directory { path: made.display().to_string(), source })
}

/// Runs one step with a line of progress.
async fn step<T>(name: &str, work: impl Future<Output = Result<T, ClusterError>>) -> Result<T, ClusterError> {
    print!("  {name:<14}");
    let _ = std::io::stdout().flush();
    let begin = Instant::now();
    let result = work.await;
    println!("{} {:>6} ms", if result.is_ok() { "ok  " } else { "FAIL" }, begin.elapsed().as_millis());
    result
}

/// The run directory is a private tmpfs: mount namespaces can only be pinned where mounts do not propagate.
fn ensure_run_dir(layout: &Layout) -> Result<(), ClusterError> {
    let run = layout.run_dir();
    let failed = |source: std::io::Error| ClusterError::Directory { path: run.display().to_string(), source };
    fs::create_dir_all(&run).map_err(failed)?;
    if is_mount_point(&run) {
        return Ok(());
    }
    mount(Some("pintle"), &run, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700")).map_err(|e| failed(e.into()))?;
    mount(None::<&str>, &run, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).map_err(|e| failed(e.into()))
}

/// Whether something is mounted exactly here, by the kernel's own list.
pub fn is_mount_point(path: &Path) -> bool {
    let path = path.to_string_lossy().replace(' ', "\\040");
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().any(|l| l.split(' ').nth(4) == Some(path.as_str()))
}

/// Where every machine has the folders in which storage drivers look for a kubelet; a pretend machine has its own there.
pub(crate) const KUBELET_DIR: &str = "/var/lib/kubelet";

/// A program of ours: beside this one.
fn program(name: &str) -> String {
    std::env::current_exe().ok().and_then(|p| p.parent().map(|d| d.join(name))).unwrap_or_else(|| name.into()).display().to_string()
}

async fn start_kernel(layout: &Layout, args: &UpArgs) -> Result<Client, ClusterError> {
    let local = SocketAddr::from(([127, 0, 0, 1], args.port));
    if processes::running(layout, "kernel").is_none() {
        let mut argv = vec![program("pintle"), "kernel".into()];
        argv.extend(["--data-dir".into(), layout.kernel_dir().display().to_string()]);
        argv.extend(["--kubeconfig".into(), layout.kubeconfig().display().to_string()]);
        argv.extend(["--listen".into(), local.to_string()]);
        argv.extend(["--listen".into(), SocketAddr::from((layout.gateway(), args.port)).to_string()]);
        if args.dual_stack {
            argv.extend(["--service-cluster-ip-range", SERVICES, "--cluster-cidr", PODS].map(str::to_owned));
        }
        argv.extend(args.kernel_arg.iter().cloned());
        processes::start(layout, "kernel", &argv)?;
    }
    let limit = Duration::from_secs(120);
    let deadline = Instant::now() + limit;
    loop {
        if processes::running(layout, "kernel").is_none() {
            return Err(died(layout, "kernel"));
        }
        if let Ok(client) = Client::new(local, &layout.kernel_dir().join("pki"))
            && client.get("/readyz").await.is_ok()
        {
            return Ok(client);
        }
        if Instant::now() > deadline {
            return Err(timeout(layout, "kernel", limit));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn start_node(layout: &Layout, args: &UpArgs, node: &str, index: u8) -> Result<(), ClusterError> {
    network::ensure_node(layout, node, index, args.dual_stack)?;
    if processes::running(layout, node).is_some() {
        return Ok(());
    }
    let (state, run) = (layout.node_state(node), layout.node_run(node));
    for dir in [&state, &run] {
        fs::create_dir_all(dir).map_err(|source| ClusterError::Directory { path: dir.display().to_string(), source })?;
    }
    let pki = layout.kernel_dir().join("pki");
    let credentials = pintle_pki::issue_node_credentials(&pki, node, &state).map_err(ClusterError::Credentials)?;
    let mut argv = enter_namespaces(layout, node)?;
    argv.push(program("host-node"));
    let mut flag = |name: &str, value: String| argv.extend([format!("--{name}"), value]);
    flag("name", node.into());
    flag("kernel", SocketAddr::from((layout.gateway(), args.port)).to_string());
    flag("ca", pki.join("ca.crt").display().to_string());
    flag("cert", credentials.certificate.display().to_string());
    flag("key", credentials.key.display().to_string());
    flag("state-dir", state.display().to_string());
    flag("run-dir", run.display().to_string());
    flag("volumes-dir", layout.node_volumes(node).display().to_string());
    let (v4, v6) = (layout.node_address(index), layout.node_address_v6(index));
    flag("node-ip", if args.dual_stack { format!("{v4},{v6}") } else { v4.to_string() });
    flag("cgroup-parent", layout.cgroup(node));
    for mirror in &args.registry_mirror {
        flag("registry-mirror", mirror.clone());
    }
    argv.extend(args.node_arg.iter().cloned());
    processes::start(layout, node, &argv)
}

/// The command prefix that puts a program into a node's namespaces. The mount namespace is pinned, so that a restarted host-node finds the
/// mounts of the containers it left running.
fn enter_namespaces(layout: &Layout, node: &str) -> Result<Vec<String>, ClusterError> {
    let pin = layout.mount_namespace(node);
    if !is_mount_point(&pin) {
        fs::write(&pin, "").map_err(|source| ClusterError::Directory { path: pin.display().to_string(), source })?;
        processes::run("unshare", &[&format!("--mount={}", pin.display()), "--propagation", "slave", "true"])?;
        let own = layout.node_kubelet(node);
        for dir in [own.as_path(), Path::new(KUBELET_DIR)] {
            fs::create_dir_all(dir).map_err(|source| ClusterError::Directory { path: dir.display().to_string(), source })?;
        }
        let enter = format!("--mount={}", pin.display());
        processes::run("nsenter", &[&enter, "mount", "--bind", &own.display().to_string(), KUBELET_DIR])?;
    }
    let network = Path::new("/run/netns").join(layout.network_namespace(node));
    Ok(["nsenter".into(), format!("--mount={}", pin.display()), format!("--net={}", network.display())].into())
}

async fn nodes_ready(layout: &Layout, client: &Client, count: u8) -> Result<(), ClusterError> {
    let limit = Duration::from_secs(60);
    let deadline = Instant::now() + limit;
    let mut routed = vec![false; usize::from(count) + 1];
    loop {
        for index in 1..=count {
            let node = format!("node-{index}");
            if processes::running(layout, &node).is_none() {
                return Err(died(layout, &node));
            }
            if !routed[usize::from(index)]
                && let Ok(object) = client.get_json(&format!("/api/v1/nodes/{node}")).await
                && let (true, Some(ranges)) = (is_ready(&object), object["spec"]["podCIDRs"].as_array())
            {
                ranges.iter().filter_map(|range| range.as_str()).try_for_each(|range| network::route_pods(layout, index, range))?;
                routed[usize::from(index)] = true;
            }
        }
        if routed[1..].iter().all(|r| *r) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(timeout(layout, "nodes", limit));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_ready(node: &serde_json::Value) -> bool {
    node["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn died(layout: &Layout, what: &str) -> ClusterError {
    let log = layout.log(what);
    ClusterError::Died { what: what.into(), tail: processes::tail(&log), log: log.display().to_string() }
}

fn timeout(layout: &Layout, what: &str, limit: Duration) -> ClusterError {
    ClusterError::Timeout { what: what.into(), seconds: limit.as_secs(), log: layout.root().join("log").display().to_string() }
}
