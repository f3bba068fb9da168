//! A full disk under the store: what does not fit is refused with a clear error, what was acknowledged stays, and room brings writes back.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{Error, eventually, kubectl::Kubectl, kubectl::items, programs, run};
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

pub const TESTS: &[Test] = &[("disk_a_full_one_refuses_writes_and_loses_nothing", full)];

const PORT: u16 = 16453;
const MINUTE: Duration = Duration::from_secs(60);
/// What the filler leaves, bytes.
const ROOM: u64 = 16 << 20;

/// A kernel of its own whose data lies on a small file system.
struct Cramped {
    dir: PathBuf,
    kernel: Option<Child>,
    kubectl: Kubectl,
}

impl Cramped {
    fn start(beside: &Setup) -> Result<Self, Error> {
        let dir = beside.cluster.data_dir().with_file_name("test-full-disk");
        let kubeconfig = dir.with_extension("kubeconfig");
        fs::create_dir_all(&dir).map_err(Error::io("the small disk"))?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256m", "pintle-test"]).arg(&dir))?;
        let mut cramped = Self { kubectl: Kubectl::new(&kubeconfig), dir, kernel: None };
        let mut kernel = Command::new(programs().join("pintle"));
        kernel.arg("kernel").arg("--data-dir").arg(cramped.dir.join("kernel")).arg("--kubeconfig").arg(kubeconfig);
        kernel.args(["--listen", &format!("127.0.0.1:{PORT}")]).stdout(Stdio::null()).stderr(Stdio::null());
        cramped.kernel = Some(kernel.spawn().map_err(Error::io("starting the kernel"))?);
        eventually("the kernel is ready", 2 * MINUTE, || cramped.kubectl.run(&["get", "--raw", "/readyz"]).map_err(|e| e.to_string()))?;
        Ok(cramped)
    }

    /// Takes all the room but `ROOM`, with a file that is no part of the store.
    fn fill(&self) -> Outcome {
        let room = run(Command::new("df").args(["--output=avail", "-B1"]).arg(&self.dir))?;
        let room: u64 = room.lines().last().unwrap_or_default().trim().parse()?;
        fs::write(self.dir.join("filler"), vec![b'x'; usize::try_from(room.saturating_sub(ROOM))?])?;
        Ok(())
    }

    fn create(&self, name: &str) -> Result<String, Error> {
        let payload = name.repeat(400_000 / name.len());
        let labels = "{big: \"yes\"}";
        let manifest =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {labels}}}\ndata:\n  payload: {payload}\n");
        self.kubectl.run_with(&["create", "-f", "-"], &manifest)
    }

    fn stored(&self) -> Result<usize, Error> {
        Ok(items(&self.kubectl.get(&["configmaps", "-l", "big=yes"])?).len())
    }
}

impl Drop for Cramped {
    fn drop(&mut self) {
        if let Some(mut kernel) = self.kernel.take() {
            let _ = kernel.kill();
            let _ = kernel.wait();
        }
        let _ = run(Command::new("umount").arg(&self.dir));
        let _ = fs::remove_dir(&self.dir);
    }
}

fn full(setup: &Setup) -> Outcome {
    let cramped = Cramped::start(setup)?;
    cramped.create("big-first")?;
    cramped.fill()?;
    let mut acknowledged = 1;
    let refusal = loop {
        match cramped.create(&format!("big-{acknowledged}")) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error.to_string(),
        }
        ensure!(acknowledged < 200, "{acknowledged} objects fit where there is no room");
    };
    ensure!(refusal.contains("the disk of the store is full: nothing was stored"), "the refusal: {refusal}");
    let stored = cramped.stored()?;
    ensure!(stored == acknowledged, "{acknowledged} were acknowledged, {stored} are there");
    fs::remove_file(cramped.dir.join("filler"))?;
    eventually("there is room again", MINUTE, || cramped.create("big-last").map_err(|e| e.to_string()))?;
    let stored = cramped.stored()?;
    ensure!(stored == acknowledged + 1, "{} were acknowledged, {stored} are there", acknowledged + 1);
    println!("{acknowledged} objects fitted");
    Ok(())
}
