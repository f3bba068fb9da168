//! One kernel for all clients: started by the first test that asks, stopped at the end.

use pintle_tests::{Error, eventually, kubectl::Kubectl, programs};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

/// It starts within this time, its modules compiled.
const START: Duration = Duration::from_secs(180);

/// A running kernel.
pub struct Kernel {
    folder: PathBuf,
    /// Taken out at the end: nothing in a static is dropped.
    process: Mutex<Option<Child>>,
}

static KERNEL: OnceLock<Result<Kernel, String>> = OnceLock::new();

impl Kernel {
    /// The running kernel, or why it does not run.
    pub fn get() -> Result<&'static Self, String> {
        KERNEL.get_or_init(|| Self::start().map_err(|e| e.to_string())).as_ref().map_err(Clone::clone)
    }

    /// What a client needs to reach it as the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Where it keeps its state, and tests what they need for a while.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn start() -> Result<Self, Error> {
        let folder = programs().with_file_name("clients-kernel");
        // A killed run leaves it behind.
        clear(&folder);
        std::fs::create_dir_all(folder.join("log")).map_err(Error::io(folder.display().to_string()))?;
        // The port is free until the kernel takes it, a moment later.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(Error::io("a free port"))?.port();
        let log = std::fs::File::create(folder.join("log/kernel.log")).map_err(Error::io("the kernel's log"))?;
        let mut command = Command::new(programs().join("pintle"));
        command.arg("kernel").arg("--data-dir").arg(&folder).args(["--listen", &format!("127.0.0.1:{port}")]);
        let process = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().map_err(Error::io("pintle kernel"))?;
        let kernel = Self { folder, process: Mutex::new(Some(process)) };
        let kubectl = Kubectl::new(kernel.kubeconfig());
        let ready = eventually("the kernel is ready", START, || kubectl.run(&["get", "--raw", "/readyz"]).map_err(|e| e.to_string()));
        if let Err(error) = ready {
            kernel.stop();
            return Err(error);
        }
        Ok(kernel)
    }

    fn stop(&self) {
        if let Some(mut process) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A kernel that is already gone is what the tests have failed by.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Stops the kernel if a test started it, and removes its state.
pub fn stop() {
    if let Some(Ok(kernel)) = KERNEL.get() {
        kernel.stop();
        clear(&kernel.folder);
    }
}

/// Removes all state but the compiled modules, which are kept by their digests: a start without them takes half a minute on a slow machine.
fn clear(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_name() != "cache") {
        let path = entry.path();
        // What cannot be removed makes the next start fail, which says so.
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
}
