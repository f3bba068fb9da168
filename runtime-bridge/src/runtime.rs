//! The front door for the daemon.
//!
//! What decides nothing and touches no kernel object that the helper could own: images, files of the state directory,
//! cgroups, and the conversation with the helper. Blocking file work runs on tokio's blocking threads.
//! Invariant: a container is in the table from the moment its bundle is written until its files are gone.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::bundle;
use crate::cgroup::{DevicePolicy, Hierarchies};
use crate::error::{Error, ImageError, Result, Step};
use crate::exec::{
    AttachSession, AttachedInput, Ending, ExecKiller, ExecSession, Killer, Sizes, Terminal, TerminalResizer, input_fifo, input_pipe,
    output_pipe,
};
use crate::helper::protocol::{Op, Refusal, Reply};
use crate::image::{ImageId, ImageInfo, ImageLimits, ImageRef, PullOptions, PullProgress, Store};
use crate::label::{Modules, relabel};
use crate::link::Link;
use crate::spec::{ContainerId, ContainerSpec, ExecSpec, MountSource, NetNs, Resources, SandboxId, SandboxSpec, Scope};
use crate::state::{
    Bundle, ContainerState, Event, Exit, Layout, Phase, SandboxRecord, SandboxState, Settings, Stats, Status, boot_id, now_ns, read_json,
    write_json,
};
use crate::usage::{DiskUsage, disk_usage};

/// How often, and how many times, a sandbox that failed is tried to be removed.
const REMOVAL_PAUSE: Duration = Duration::from_millis(500);
const REMOVALS_MAX: u32 = 120;

/// Where a runtime keeps its things.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Everything that lasts: images, specs, statuses, writable layers. Root only (0700). Must lie on a file system that
    /// can hold overlay upper directories (not on an overlay itself).
    pub state_dir: PathBuf,
    /// Sockets, fifos and namespace pins; `None`: `<state_dir>/run`.
    pub run_dir: Option<PathBuf>,
    /// Cgroup path below every hierarchy's root, as `/pintle/node1`.
    pub cgroup_parent: String,
    /// Program that holds the helper; `None`: this very program, which must call [`crate::helper::maybe_run`].
    pub helper_exe: Option<PathBuf>,
    /// Limits on what an image may contain.
    pub image_limits: ImageLimits,
}

impl RuntimeConfig {
    /// Defaults for everything but the state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: None,
            cgroup_parent: "/pintle".to_owned(),
            helper_exe: None,
            image_limits: ImageLimits::default(),
        }
    }
}

/// The runtime. Cheap to clone; all clones are one. Dropping the last one leaves helper and containers running.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    cgroup_parent: String,
    hierarchies: Hierarchies,
    images: Store,
    link: Arc<Link>,
    modules: Modules,
    janitor: Janitor,
    containers: Mutex<HashMap<ContainerId, Arc<Known>>>,
    sandboxes: Mutex<HashMap<SandboxId, Arc<SandboxRecord>>>,
}

/// What is known of a container without reading files.
struct Known {
    bundle: Bundle,
    /// Once it has ended nothing changes any more.
    ended: OnceLock<Status>,
}

/// A created sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Path of the pinned network namespace, for `setns`; `None` on the host's network.
    pub netns_path: Option<PathBuf>,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::os("file work", std::io::Error::from(std::io::ErrorKind::Interrupted)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn private_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).step(|| format!("make directory {}", path.display()))
}

impl Runtime {
    /// Opens the state directory, connects to its helper (or starts one) and adopts what runs.
    ///
    /// # Errors
    /// [`Error::HelperUnavailable`], [`Error::Os`] when the directories cannot be made.
    pub async fn open(config: RuntimeConfig) -> Result<Self> {
        crate::sys::check_machine().step(|| "this machine cannot run containers".to_owned())?;
        private_directory(&config.state_dir)?;
        let state = fs::canonicalize(&config.state_dir).step(|| "resolve state directory".to_owned())?;
        let run = config.run_dir.clone().unwrap_or_else(|| state.join("run"));
        private_directory(&run)?;
        let run = fs::canonicalize(&run).step(|| "resolve run directory".to_owned())?;
        let layout = Layout { state, run };
        for directory in [layout.containers(), layout.sandboxes(), layout.trash(), layout.run.join("sandboxes"), layout.root_mount()] {
            private_directory(&directory)?;
        }
        let cgroup_parent = format!("/{}", config.cgroup_parent.trim_matches('/'));
        bundle::check_relative("cgroup_parent", &cgroup_parent)?;
        write_json(&layout.settings(), &Settings { cgroup_parent: cgroup_parent.clone() }).step(|| "write settings".to_owned())?;
        let images = {
            let (root, limits) = (layout.images(), config.image_limits.clone());
            blocking(move || Store::open(root, limits)).await??
        };
        let link = Link::open(layout.clone(), config.helper_exe).await?;
        let janitor = Janitor::start();
        for left in fs::read_dir(layout.trash()).into_iter().flatten().flatten() {
            janitor.discard(left.path());
        }
        for pins in fs::read_dir(layout.run.join("sandboxes")).into_iter().flatten().flatten() {
            // Empty and not a mount point: left behind by a removal. Anything else refuses.
            let _ = fs::remove_dir(pins.path());
        }
        let shared = Shared {
            containers: Mutex::new(load_containers(&layout)?),
            sandboxes: Mutex::new(load_sandboxes(&layout)?),
            cgroup_parent,
            hierarchies: Hierarchies::detect(),
            layout,
            images,
            link,
            modules: blocking(Modules::look).await?,
            janitor,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Exits and helper restarts from now on. A receiver that lags is told so and should call [`Runtime::list`].
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.link.events()
    }

    /// Fetches an image and unpacks its layers. Concurrent pulls of one layer are done once.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub async fn pull(
        &self,
        image: &ImageRef,
        options: PullOptions,
        progress: impl Fn(PullProgress) + Send + Sync + 'static,
    ) -> Result<ImageId> {
        self.shared.images.pull(image, &options, &progress).await
    }

    /// Imports every image that an OCI layout directory's index names, or its only one under `name`.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub async fn import_layout(&self, layout: &Path, name: Option<&ImageRef>) -> Result<Vec<ImageId>> {
        self.shared.images.import(layout, name).await
    }

    /// Looks an image up by reference or id, locally.
    pub async fn image(&self, name: &str) -> Option<ImageInfo> {
        self.shared.images.find(name).map(|record| record.info.clone())
    }

    /// Shows the files of a local image at a directory, read-only; nothing there can be executed. Whoever asked unmounts it.
    ///
    /// # Errors
    /// [`ImageError::NotPresent`]; what mounting says.
    pub async fn mount_image(&self, name: &str, target: &Path) -> Result<()> {
        let image = self.shared.images.find(name).ok_or_else(|| ImageError::NotPresent(name.to_owned()))?;
        let (shared, target) = (self.shared.clone(), target.to_owned());
        blocking(move || shared.images.mount(&image, &target)).await?.step(|| format!("mount image {name}"))
    }

    /// All images of the store.
    pub async fn images(&self) -> Result<Vec<ImageInfo>> {
        Ok(self.shared.images.all())
    }

    /// Removes a reference, and the image with its last reference (or its id given). Layers that nothing uses go too.
    ///
    /// # Errors
    /// [`ImageError::InUse`] while a container is made from it.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let in_use: HashSet<String> = lock(&self.shared.containers).values().map(|known| known.bundle.image_id.clone()).collect();
        self.shared.images.remove(name, &in_use).await
    }

    /// Removes layers and documents that no image names: what pulls that failed left, and images that are gone.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub async fn sweep_images(&self) -> Result<()> {
        self.shared.images.sweep().await
    }

    /// Makes a pod's namespaces and cgroup.
    ///
    /// # Errors
    /// [`Error::SandboxExists`], [`Error::InvalidSpec`], [`Error::Helper`].
    pub async fn create_sandbox(&self, mut spec: SandboxSpec) -> Result<Sandbox> {
        bundle::check_sandbox(&spec)?;
        let shared = self.shared.clone();
        let id = spec.id.get_or_insert_with(SandboxId::random).clone();
        let relative = spec.cgroup.clone().unwrap_or_else(|| id.to_string());
        let cgroup = format!("{}/{}", shared.cgroup_parent, relative.trim_matches('/'));
        let record = SandboxRecord { spec, cgroup, boot_id: boot_id(), created_at_ns: now_ns(), condemned: false };
        let kept = Arc::new(record.clone());
        {
            let mut sandboxes = lock(&shared.sandboxes);
            if sandboxes.contains_key(&id) {
                return Err(Error::SandboxExists(id.to_string()));
            }
            sandboxes.insert(id.clone(), kept.clone());
        }
        let made = self.make_sandbox(&id, record).await;
        if let Err(error) = made {
            if let Err(error) = self.remove_sandbox(&id).await {
                tracing::warn!(%error, sandbox = %id, "sandbox that failed was not removed yet");
                tokio::spawn(self.clone().remove_sandbox_later(id));
            }
            return Err(error);
        }
        Ok(Sandbox { netns_path: netns_path(&self.shared.layout, &id, &kept), id })
    }

    async fn make_sandbox(&self, id: &SandboxId, record: SandboxRecord) -> Result<()> {
        let shared = self.shared.clone();
        let name = id.clone();
        blocking(move || -> Result<()> {
            // The file comes first: whoever purges learns of the groups from it.
            write_json(&shared.layout.sandbox(&name), &record).step(|| "write sandbox file".to_owned())?;
            shared
                .hierarchies
                .create(&record.cgroup, &record.spec.resources, &DevicePolicy::All)
                .step(|| format!("make cgroup {}", record.cgroup))?;
            if record.spec.pid == Some(Scope::Pod) {
                let group = format!("{}/init", record.cgroup);
                shared.hierarchies.create(&group, &Resources::default(), &DevicePolicy::All).step(|| format!("make cgroup {group}"))?;
            }
            Ok(())
        })
        .await??;
        self.ask(Op::CreateSandbox { id: id.clone() }, id.as_str()).await?;
        Ok(())
    }

    /// Notes that a sandbox is about to be taken down: should this process end meanwhile, the next one finds a sandbox that is not ready.
    /// A missing one is not an error.
    pub async fn condemn_sandbox(&self, id: &SandboxId) -> Result<()> {
        let Some(record) = lock(&self.shared.sandboxes).get(id).cloned() else { return Ok(()) };
        let (file, record) = (self.shared.layout.sandbox(id), SandboxRecord { condemned: true, ..(*record).clone() });
        blocking(move || write_json(&file, &record).step(|| "write sandbox file".to_owned())).await??;
        Ok(())
    }

    /// Removes a sandbox without containers; a missing one is not an error.
    ///
    /// # Errors
    /// [`Error::SandboxInUse`], [`Error::Helper`].
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let Some(record) = lock(&self.shared.sandboxes).get(id).cloned() else { return Ok(()) };
        if lock(&self.shared.containers).values().any(|known| known.bundle.sandbox == *id) {
            return Err(Error::SandboxInUse(id.to_string()));
        }
        self.ask(Op::RemoveSandbox { id: id.clone() }, id.as_str()).await?;
        let (shared, name) = (self.shared.clone(), id.clone());
        blocking(move || {
            shared.hierarchies.remove(&record.cgroup).step(|| format!("remove cgroup {}", record.cgroup))?;
            let pins = shared.layout.pins(&name);
            // Not recursive: a sandbox of the same id may already be mounting its pins there.
            tokio::task::spawn_blocking(move || fs::remove_dir(pins));
            match fs::remove_file(shared.layout.sandbox(&name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::os("remove sandbox file", e)),
                _ => Ok(()),
            }
        })
        .await??;
        lock(&self.shared.sandboxes).remove(id);
        Ok(())
    }

    /// Tries until it is gone: a helper that died while it made the sandbox is back soon.
    async fn remove_sandbox_later(self, id: SandboxId) {
        for _ in 0..REMOVALS_MAX {
            tokio::time::sleep(REMOVAL_PAUSE).await;
            match self.remove_sandbox(&id).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, sandbox = %id, "sandbox that failed was not removed yet"),
            }
        }
        tracing::warn!(sandbox = %id, "a sandbox that failed stays until the next start");
    }

    /// All sandboxes.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxState>> {
        let boot = boot_id();
        let records: Vec<_> = lock(&self.shared.sandboxes).iter().map(|(id, record)| (id.clone(), record.clone())).collect();
        let state = |(id, record): (SandboxId, Arc<SandboxRecord>)| SandboxState {
            netns_path: netns_path(&self.shared.layout, &id, &record),
            ready: record.boot_id == boot && !record.condemned,
            created_at_ns: record.created_at_ns,
            labels: record.spec.labels.clone(),
            annotations: record.spec.annotations.clone(),
            id,
        };
        Ok(records.into_iter().map(state).collect())
    }

    /// A sandbox's network namespace as a descriptor (works from any mount namespace).
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], also for a sandbox on the host's network.
    pub async fn netns(&self, id: &SandboxId) -> Result<OwnedFd> {
        let (answer, mut fds) = self.shared.link.ask(Op::NetNs { id: id.clone() }, &[]).await?;
        match (answer, fds.pop()) {
            (Ok(_), Some(fd)) => Ok(fd),
            (Err(Refusal::NotFound), _) | (Ok(_), None) => Err(Error::SandboxNotFound(id.to_string())),
            (Err(refusal), _) => Err(refusal.into_error(id.as_str())),
        }
    }

    /// Prepares a container: resolves the image, writes its state, makes its cgroup.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`], [`Error::SandboxNotFound`], [`ImageError::NotPresent`], [`Error::ContainerExists`].
    pub async fn create_container(&self, mut spec: ContainerSpec) -> Result<ContainerId> {
        bundle::check_container(&spec)?;
        let id = spec.id.get_or_insert_with(ContainerId::random).clone();
        let sandbox_id = spec.sandbox.clone().ok_or_else(|| Error::spec("sandbox", "is missing"))?;
        let sandbox =
            lock(&self.shared.sandboxes).get(&sandbox_id).cloned().ok_or_else(|| Error::SandboxNotFound(sandbox_id.to_string()))?;
        let image = self.shared.images.find(&spec.image).ok_or_else(|| ImageError::NotPresent(spec.image.clone()))?;
        let cgroup = format!("{}/{id}", sandbox.cgroup);
        let labels = self.shared.modules.labels(&spec.security, &sandbox_id)?;
        let bundle = bundle::make(spec, sandbox_id, &image, cgroup, labels)?;
        let known = Arc::new(Known { bundle, ended: OnceLock::new() });
        {
            let mut containers = lock(&self.shared.containers);
            if containers.contains_key(&id) {
                return Err(Error::ContainerExists(id.to_string()));
            }
            containers.insert(id.clone(), known.clone());
        }
        let (shared, name) = (self.shared.clone(), id.clone());
        let made = blocking(move || make_container(&shared, &name, &known.bundle)).await.and_then(|inner| inner);
        if let Err(error) = made {
            if let Err(error) = self.remove(&id).await {
                tracing::warn!(%error, container = %id, "container that failed was not removed");
            }
            return Err(error);
        }
        Ok(id)
    }

    /// Starts a created container; returns when its program has been executed.
    ///
    /// # Errors
    /// [`Error::Start`] says why the program did not come up; the container then counts as exited (127 not found, 126
    /// not executable, 128 otherwise), and an [`Event::Exited`] follows as for any other end.
    pub async fn start(&self, id: &ContainerId) -> Result<()> {
        self.known(id)?;
        self.ask(Op::Start { id: id.clone() }, id.as_str()).await.map(|_| ())
    }

    /// Sends a signal to the container's init. An exited container is not an error.
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<()> {
        self.known(id)?;
        self.ask_lenient(Op::Signal { id: id.clone(), signal }, id).await
    }

    /// SIGKILL to every process of the container.
    pub async fn kill(&self, id: &ContainerId) -> Result<()> {
        self.known(id)?;
        self.ask_lenient(Op::KillAll { id: id.clone() }, id).await
    }

    /// The image's stop signal (else SIGTERM), then after `grace` SIGKILL to all; returns how it ended.
    ///
    /// # Errors
    /// [`Error::WrongPhase`] for a container that was never started.
    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<Exit> {
        let known = self.known(id)?;
        if self.status(id, &known).await?.is_none() {
            return Err(Error::WrongPhase { id: id.to_string(), actual: "created", needed: "running" });
        }
        if !grace.is_zero() {
            self.signal(id, known.bundle.stop_signal).await?;
            if let Ok(exit) = tokio::time::timeout(grace, self.wait(id)).await {
                return exit;
            }
        }
        self.kill(id).await?;
        self.wait(id).await
    }

    /// Waits for the end of a container; at once when it has ended. A container that is not started is waited for as well.
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        let known = self.known(id)?;
        // The status is written before the event is sent.
        let look = || async { Ok(self.status(id, &known).await?.and_then(|status| status.exit)) };
        let ended = Event::until_exited(id, self.events(), look).await?;
        ended.ok_or_else(|| Error::HelperUnavailable("the runtime was closed".to_owned()))
    }

    /// Kills if need be, and removes everything of the container but its log. A missing one is not an error.
    pub async fn remove(&self, id: &ContainerId) -> Result<()> {
        let Ok(known) = self.known(id) else { return Ok(()) };
        if self.status(id, &known).await?.is_some_and(|status| status.exit.is_none()) {
            match self.shared.link.ask(Op::KillAll { id: id.clone() }, &[]).await?.0 {
                Ok(_) => drop(self.wait(id).await?),
                // Ended just now, or not adopted by the helper that runs: nobody would tell its end. Its group is emptied below.
                Err(Refusal::NotRunning) => {}
                Err(refusal) => return Err(refusal.into_error(id.as_str())),
            }
        }
        self.ask(Op::Forget { id: id.clone() }, id.as_str()).await?;
        let (shared, name) = (self.shared.clone(), id.clone());
        blocking(move || {
            shared.hierarchies.remove(&known.bundle.cgroup).step(|| format!("remove cgroup {}", known.bundle.cgroup))?;
            let trash = shared.layout.trash().join(crate::sys::random_hex(12));
            match fs::rename(shared.layout.container(&name), &trash) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::os("move container to trash", e)),
                _ => {
                    shared.janitor.discard(trash);
                    Ok(())
                }
            }
        })
        .await??;
        lock(&self.shared.containers).remove(id);
        Ok(())
    }

    /// All containers.
    pub async fn list(&self) -> Result<Vec<ContainerState>> {
        let all: Vec<_> = lock(&self.shared.containers).iter().map(|(id, known)| (id.clone(), known.clone())).collect();
        let layout = self.shared.layout.clone();
        blocking(move || all.into_iter().map(|(id, known)| Ok(describe(&id, &known, read_status(&layout, &id, &known)?))).collect()).await?
    }

    /// One container.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`].
    pub async fn state(&self, id: &ContainerId) -> Result<ContainerState> {
        let known = self.known(id)?;
        let status = self.status(id, &known).await?;
        Ok(describe(id, &known, status))
    }

    /// The spec a container was created from.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`].
    pub async fn spec(&self, id: &ContainerId) -> Result<ContainerSpec> {
        Ok(self.known(id)?.bundle.spec.clone())
    }

    /// Runs a further process in a running container.
    ///
    /// # Errors
    /// [`Error::WrongPhase`] when it does not run, [`Error::Start`] when the program does not come up.
    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecSession> {
        let known = self.known(id)?;
        let process = bundle::exec_process(&known.bundle, &spec)?;
        let link = &self.shared.link;
        let exec = link.fresh();
        let mut session = ExecSession {
            stdin: None,
            stdout: None,
            stderr: None,
            resizer: None,
            exit: Ending::Coming(tokio::sync::oneshot::channel().1),
            killer: Killer::Helper(ExecKiller { link: link.clone(), exec }),
        };
        let mut fds: Vec<OwnedFd> = Vec::new();
        if !spec.tty {
            let stdin = if spec.stdin {
                let (writer, reader) = input_pipe()?;
                session.stdin = Some(writer);
                reader
            } else {
                fs::File::open("/dev/null").step(|| "open /dev/null".to_owned())?.into()
            };
            let (stdout, stdout_end) = output_pipe()?;
            let (stderr, stderr_end) = output_pipe()?;
            (session.stdout, session.stderr) = (Some(stdout), Some(stderr));
            fds = vec![stdin, stdout_end, stderr_end];
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let op = Op::Exec { container: id.clone(), exec, process };
        let ((answer, mut master), exit) = link.ask_exec(exec, op, &borrowed).await?;
        answer.map_err(|refusal| refusal.into_error(id.as_str()))?;
        session.exit = Ending::Coming(exit);
        if let Some(master) = master.pop() {
            let terminal = Terminal::new(master)?;
            session.stdin = spec.stdin.then(|| Box::pin(terminal.clone()) as _);
            session.stdout = Some(Box::pin(terminal.clone()));
            session.resizer = Some(TerminalResizer(Sizes::Terminal(terminal)));
        }
        Ok(session)
    }

    /// Joins the stdio of a running container.
    ///
    /// # Errors
    /// [`Error::WrongPhase`] when it does not run.
    pub async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<AttachSession> {
        let known = self.known(id)?;
        let (stdout, stdout_end) = output_pipe()?;
        let (stderr, stderr_end) = output_pipe()?;
        let ends = [stdout_end.as_fd(), stderr_end.as_fd()];
        let (answer, mut fds) = self.shared.link.ask(Op::Attach { id: id.clone() }, &ends).await?;
        let reply = answer.map_err(|refusal| refusal.into_error(id.as_str()))?;
        let Reply::Attached { tty, stdin: kept } = reply else {
            return Err(Error::Helper { step: "attach".to_owned(), message: "unexpected answer".to_owned() });
        };
        let mut session = AttachSession { stdin: None, stdout: Some(stdout), stderr: None, resizer: None };
        let mut input = None;
        match fds.pop() {
            Some(master) if tty => {
                let terminal = Terminal::new(master)?;
                session.resizer = Some(TerminalResizer(Sizes::Terminal(terminal.clone())));
                input = Some(Box::pin(terminal) as _);
            }
            Some(fifo) => input = Some(input_fifo(fifo)?),
            None => {}
        }
        if !tty {
            session.stderr = Some(stderr);
        }
        if let Some(inner) = input.filter(|_| stdin && kept) {
            let attached = AttachedInput { inner: Some(inner), link: self.shared.link.clone(), id: id.clone(), told: false };
            session.stdin = Some(if known.bundle.spec.stdin_once { Box::pin(attached) } else { attached.into_inner() });
        }
        Ok(session)
    }

    /// Closes and reopens the log file, after the caller has renamed it.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        self.known(id)?;
        self.ask(Op::ReopenLog { id: id.clone() }, id.as_str()).await.map(|_| ())
    }

    /// Changes the limits of a container in place.
    pub async fn update_resources(&self, id: &ContainerId, resources: Resources) -> Result<()> {
        let (known, shared) = (self.known(id)?, self.shared.clone());
        blocking(move || shared.hierarchies.limit(&known.bundle.cgroup, &resources)).await?.step(|| "change limits".to_owned())
    }

    /// Changes the limits of a sandbox as a whole in place.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`]; what the kernel refuses, such as less memory than is in use.
    pub async fn update_sandbox_resources(&self, id: &SandboxId, resources: Resources) -> Result<()> {
        let record = lock(&self.shared.sandboxes).get(id).cloned().ok_or_else(|| Error::SandboxNotFound(id.to_string()))?;
        let shared = self.shared.clone();
        blocking(move || shared.hierarchies.limit(&record.cgroup, &resources)).await?.step(|| "change limits".to_owned())
    }

    /// Use of resources by a container.
    pub async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let (known, shared) = (self.known(id)?, self.shared.clone());
        blocking(move || shared.hierarchies.stats(&known.bundle.cgroup)).await
    }

    /// What a container has written over its image.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`].
    pub async fn writable_layer(&self, id: &ContainerId) -> Result<DiskUsage> {
        self.known(id)?;
        let upper = self.shared.layout.container(id).join("upper");
        blocking(move || disk_usage(&upper)).await
    }

    /// Use of resources by all of a sandbox.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub async fn sandbox_stats(&self, id: &SandboxId) -> Result<Stats> {
        let record = lock(&self.shared.sandboxes).get(id).cloned().ok_or_else(|| Error::SandboxNotFound(id.to_string()))?;
        let shared = self.shared.clone();
        blocking(move || shared.hierarchies.stats(&record.cgroup)).await
    }

    /// Puts this program's helper in the place of the one that runs, as after an upgrade: the process and its children
    /// stay, so no exit code and no terminal is lost. (A helper of another protocol version is replaced when the runtime is opened.)
    /// Returns when the new helper serves; execs under way lose their sessions.
    ///
    /// # Errors
    /// [`Error::HelperUnavailable`] when it does not give way.
    pub async fn replace_helper(&self) -> Result<()> {
        self.shared.link.replace().await
    }

    /// Kills all containers of a state directory and its helper, and removes cgroups, mounts, pins and files, whoever
    /// died before. `run_dir` as in [`RuntimeConfig`].
    pub async fn purge(state_dir: &Path, run_dir: Option<&Path>) -> Result<()> {
        let layout = Layout::new(state_dir, run_dir);
        blocking(move || crate::purge::purge(&layout)).await?
    }

    fn known(&self, id: &ContainerId) -> Result<Arc<Known>> {
        lock(&self.shared.containers).get(id).cloned().ok_or_else(|| Error::ContainerNotFound(id.to_string()))
    }

    async fn status(&self, id: &ContainerId, known: &Arc<Known>) -> Result<Option<Status>> {
        if let Some(status) = known.ended.get() {
            return Ok(Some(status.clone()));
        }
        // One small file in the page cache: cheaper to read here than to hand to another thread.
        read_status(&self.shared.layout, id, known)
    }

    async fn ask(&self, op: Op, name: &str) -> Result<Reply> {
        let (answer, _) = self.shared.link.ask(op, &[]).await?;
        answer.map_err(|refusal| refusal.into_error(name))
    }

    /// For requests that an ended container makes moot.
    async fn ask_lenient(&self, op: Op, id: &ContainerId) -> Result<()> {
        match self.shared.link.ask(op, &[]).await?.0 {
            Ok(_) | Err(Refusal::NotRunning) => Ok(()),
            Err(refusal) => Err(refusal.into_error(id.as_str())),
        }
    }
}

fn load_containers(layout: &Layout) -> Result<HashMap<ContainerId, Arc<Known>>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(layout.containers()).step(|| "list containers".to_owned())?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| ContainerId::parse(name).ok()) else { continue };
        match read_json::<Bundle>(&layout.bundle(&id)) {
            Ok(Some(bundle)) => {
                found.insert(id, Arc::new(Known { bundle, ended: OnceLock::new() }));
            }
            // The daemon died between the directory and its bundle: nothing was ever started from it.
            Ok(None) => remove_directory(&layout.container(&id))?,
            Err(error) => tracing::error!(%error, container = %id, "container ignored"),
        }
    }
    Ok(found)
}

fn load_sandboxes(layout: &Layout) -> Result<HashMap<SandboxId, Arc<SandboxRecord>>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(layout.sandboxes()).step(|| "list sandboxes".to_owned())?.flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(|n| SandboxId::parse(n).ok());
        let Some(id) = id else { continue };
        match read_json::<SandboxRecord>(&layout.sandbox(&id)) {
            Ok(Some(record)) => {
                found.insert(id, Arc::new(record));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, sandbox = %id, "sandbox ignored"),
        }
    }
    Ok(found)
}

fn make_container(shared: &Shared, id: &ContainerId, bundle: &Bundle) -> Result<()> {
    let directory = shared.layout.container(id);
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(&directory).step(|| format!("make {}", directory.display()))?;
    for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
        builder.mode(mode).create(directory.join(name)).step(|| format!("make {name} directory"))?;
    }
    let spec = &bundle.spec;
    let rules = bundle::device_rules(spec)?;
    if let Some(label) = &bundle.labels.files {
        let shm = shared.layout.pins(&bundle.sandbox).join("shm");
        let volumes = spec.mounts.iter().filter(|mount| mount.relabel).filter_map(|mount| match &mount.source {
            MountSource::Bind(path) => Some(path.as_path()),
            _ => None,
        });
        volumes.chain([shm.as_path()]).try_for_each(|path| relabel(path, label))?;
    }
    let policy = if spec.security.privileged { DevicePolicy::All } else { DevicePolicy::Only(&rules) };
    shared.hierarchies.create(&bundle.cgroup, &spec.resources, &policy).step(|| format!("make cgroup {}", bundle.cgroup))?;
    write_json(&shared.layout.bundle(id), bundle).step(|| "write bundle".to_owned())
}

fn read_status(layout: &Layout, id: &ContainerId, known: &Known) -> Result<Option<Status>> {
    if let Some(status) = known.ended.get() {
        return Ok(Some(status.clone()));
    }
    let status = read_json::<Status>(&layout.status(id))?;
    if let Some(status) = status.as_ref().filter(|s| s.exit.is_some()) {
        let _ = known.ended.set(status.clone());
    }
    Ok(status)
}

fn describe(id: &ContainerId, known: &Known, status: Option<Status>) -> ContainerState {
    let bundle = &known.bundle;
    let phase = match &status {
        None => Phase::Created,
        Some(Status { exit: None, .. }) => Phase::Running,
        Some(_) => Phase::Exited,
    };
    ContainerState {
        id: id.clone(),
        sandbox: bundle.sandbox.clone(),
        image_id: bundle.image_id.clone(),
        image: bundle.spec.image.clone(),
        phase,
        pid: status.as_ref().filter(|_| phase == Phase::Running).map(|s| s.pid),
        created_at_ns: bundle.created_at_ns,
        started_at_ns: status.as_ref().map(|s| s.started_at_ns),
        exit: status.and_then(|s| s.exit),
        labels: bundle.spec.labels.clone(),
        annotations: bundle.spec.annotations.clone(),
        log_path: bundle.spec.log_path.clone(),
    }
}

fn netns_path(layout: &Layout, id: &SandboxId, record: &SandboxRecord) -> Option<PathBuf> {
    match &record.spec.netns {
        NetNs::New => Some(layout.pins(id).join("net")),
        NetNs::Path(path) => Some(path.clone()),
        NetNs::Host => None,
    }
}

/// Removes directories that nothing refers to any more, on a thread of its own: nobody waits for it, not even the end
/// of the daemon. What is left then is found at the next opening.
struct Janitor(std::sync::mpsc::Sender<PathBuf>);

impl Janitor {
    fn start() -> Self {
        let (sender, receiver) = std::sync::mpsc::channel::<PathBuf>();
        std::thread::spawn(move || {
            for directory in receiver {
                if let Err(error) = remove_directory(&directory) {
                    tracing::warn!(%error, "directory not removed");
                }
            }
        });
        Self(sender)
    }

    fn discard(&self, directory: PathBuf) {
        // The thread ends only with its sender.
        let _ = self.0.send(directory);
    }
}

pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::os(format!("remove {}", path.display()), e)),
        _ => Ok(()),
    }
}
