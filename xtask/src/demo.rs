//! `cargo xtask up` and `down`: the first five minutes of a newcomer.

use crate::{Outcome, compile, needs, shell};
use pintle_tests::{cluster::Cluster, image, registry::Registry};
use std::{fs, net::SocketAddr, path::PathBuf};

/// The name in `examples/web/web.yaml`; nodes are told to pull it from this machine's registry.
const REGISTRY_HOST: &str = "registry.pintle.test";
const REGISTRY_PORT: u16 = 5088;
const API_PORT: u16 = 6443;

fn data_dir() -> PathBuf {
    shell::root().join(".pintle")
}

fn registry_pid_file() -> PathBuf {
    data_dir().join("registry.pid")
}

/// Installs what is missing, builds, starts a cluster, runs the example, prints what to type next.
pub fn up(args: &[String]) -> Outcome {
    let nodes = match args {
        [] => 3,
        [flag, count] if flag == "--nodes" => count.parse()?,
        _ => return Err("usage: cargo xtask up [--nodes N]".into()),
    };
    needs::packages(needs::FOR_UP)?;
    needs::wasm_target()?;
    compile::programs()?;
    compile::modules()?;
    compile::examples()?;

    let cluster = Cluster::new(data_dir(), API_PORT);
    let registry = SocketAddr::from((cluster.gateway()?, REGISTRY_PORT));
    eprintln!("starting a cluster of {nodes} nodes in {}", data_dir().display());
    let mirror = format!("{REGISTRY_HOST}=http://{registry}");
    let module_dir = format!("--kernel-arg=--module-dir={}", compile::example_modules().display());
    let printed = cluster.up(nodes, &["--registry-mirror", &mirror, &module_dir])?;
    eprint!("{printed}");

    eprintln!("building the example's image and serving it from a registry on {registry}");
    let server = Registry::start(registry, &data_dir().join("registry"))?;
    for tag in ["1", "2"] {
        server.push(&image::busybox(tag)?, "web", tag)?;
    }
    if let Some(pid) = server.detach() {
        fs::write(registry_pid_file(), pid.to_string())?;
    }

    let kubectl = cluster.kubectl();
    eprint!("{}", kubectl.run(&["apply", "-f", "examples/web/web.yaml"])?);
    eprint!("{}", kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?);
    print!("{}", kubectl.run(&["get", "pods,modules", "-o", "wide"])?);
    println!(
        "\nA cluster of {nodes} nodes runs here. Next:\n\n  export KUBECONFIG={}\n  kubectl get pods -o wide\n  kubectl logs -f deployment/web\n  \
         kubectl exec deployment/web -- wget -qO- http://localhost:8080/\n  kubectl set image deployment/web httpd={REGISTRY_HOST}/web:2\n  \
         kubectl apply -f examples/module-controller/module.json\n  \
         kubectl get modules\n  cargo xtask down\n",
        data_dir().join("kubeconfig").display()
    );
    Ok(())
}

/// Stops the cluster of `up` and its registry.
pub fn down(args: &[String]) -> Outcome {
    let keep = match args {
        [] => false,
        [flag] if flag == "--keep-data" => true,
        _ => return Err("usage: cargo xtask down [--keep-data]".into()),
    };
    if let Ok(pid) = fs::read_to_string(registry_pid_file()) {
        let ours = fs::read_to_string(format!("/proc/{}/comm", pid.trim())).is_ok_and(|c| c.starts_with("docker-registry"));
        if ours {
            shell::run("kill", &[pid.trim()])?;
        }
        fs::remove_file(registry_pid_file())?;
    }
    if !data_dir().exists() {
        println!("no cluster in {}", data_dir().display());
        return Ok(());
    }
    print!("{}", Cluster::new(data_dir(), API_PORT).down(if keep { &[] } else { &["--delete-data"] })?);
    Ok(())
}
