//! UDP between pods: sockets of the test itself, opened inside the pods' network namespaces, because nothing in the pods' image speaks UDP both ways.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a server looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);

/// Runs something on a thread of its own inside the network of a pod on this machine, found by its uid.
///
/// # Errors
/// No process of the pod runs here.
pub fn inside<T: Send + 'static>(uid: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, String> {
    // Cgroups of pods are named by the uid, with either kind of dash.
    let names = [uid.to_owned(), uid.replace('-', "_")];
    let of_pod = |entry: &std::fs::DirEntry| {
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        names.iter().any(|name| cgroup.contains(name))
    };
    let processes = std::fs::read_dir("/proc").map_err(|error| error.to_string())?;
    let process = processes.flatten().find(of_pod).ok_or_else(|| format!("no process of pod {uid}"))?;
    let namespace = std::fs::File::open(process.path().join("ns/net")).map_err(|error| error.to_string())?;
    let enter = move || {
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("a thread may enter a pod's network");
        work()
    };
    Ok(std::thread::spawn(enter))
}

/// Sends what comes back; ends when it is dropped.
pub struct Echo(Arc<AtomicBool>);

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A server in a pod, once it is bound.
///
/// # Errors
/// The pod has no process, or the port is taken.
pub fn echo(uid: &str, port: u16) -> Result<Echo, String> {
    let (bound, binding) = std::sync::mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    inside(uid, move || {
        // A socket of version 6 hears both, where there is version 6.
        let both = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)));
        let socket = both.and_then(|socket| socket.set_read_timeout(Some(LOOK)).map(|()| socket));
        let told = bound.send(socket.as_ref().map(drop).map_err(ToString::to_string));
        let (Ok(socket), Ok(())) = (socket, told) else { return };
        let mut block = [0; 64];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((count, peer)) = socket.recv_from(&mut block) {
                let _ = socket.send_to(&block[..count], peer);
            }
        }
    })?;
    binding.recv().map_err(|error| error.to_string())??;
    Ok(Echo(stop))
}

/// Which of the addresses answer a pod, asked all at once.
///
/// # Errors
/// The pod has no process.
pub fn answering(uid: &str, targets: Vec<(String, u16)>) -> Result<JoinHandle<Vec<(String, u16)>>, String> {
    inside(uid, move || {
        let asked: Vec<_> = targets
            .into_iter()
            .filter_map(|target| {
                let socket = UdpSocket::bind(if target.0.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).ok()?;
                socket.connect((target.0.as_str(), target.1)).ok()?;
                socket.set_read_timeout(Some(PATIENCE)).ok()?;
                socket.send(b"x").ok();
                Some((target, socket))
            })
            .collect();
        asked.into_iter().filter(|(_, socket)| socket.recv(&mut [0; 8]).is_ok()).map(|(target, _)| target).collect()
    })
}
