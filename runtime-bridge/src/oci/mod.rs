//! The runtime as an OCI runtime command line, so that containerd and its like can use it in runc's place.
//!
//! `create` clones the container's init, which prepares everything up to its exec and then waits for a connection on a socket
//! that it has inherited; `start` connects, and hears on that connection whether the exec took place. No process stays
//! between the calls: the init's parent is whoever reaps for the caller (containerd's shim).
//! What a container gets is what the [crate] gives its own: the same file system, masks, filters and groups; of the
//! bundle's mounts those of kernel file systems are made the runtime's way. Not served: hooks, user namespaces,
//! checkpoints; a bundle that wants them is refused with the field's name, as is one with an AppArmor profile or an SELinux label
//! on a machine without.
//!
//! Commands and files: <https://github.com/opencontainers/runtime-spec/blob/main/runtime.md>, and runc's options as far as
//! containerd passes them.

mod plan;
mod record;

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::libc;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket, socketpair};
use serde_json::json;

use crate::bundle::signal_number;
use crate::cgroup::Hierarchies;
use crate::helper::containers::clone_into;
use crate::helper::init::{self, Joining, Report};
use crate::helper::protocol;
use crate::helper::sandboxes::Home;
use crate::sys::{self, Cloned};
use record::{Record, Status};

const USAGE: &str = "usage: pintle-oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND
  create --bundle DIR [--pid-file FILE] [--console-socket SOCKET] ID
  run    --bundle DIR [--pid-file FILE] ID
  start ID | state ID | delete [--force] ID | kill [--all] ID [SIGNAL] | ps [--format json] ID | update --resources FILE ID
  exec --process FILE [--pid-file FILE] [--console-socket SOCKET] [--detach] ID";
const ROOT: &str = "/run/pintle-oci";
/// What a joining process joins besides the PID namespace.
const JOINED: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// Why a command failed, in one sentence.
type Refused = String;

/// The command line: options before and after the command, and what is left.
struct Arguments {
    root: PathBuf,
    log: Option<PathBuf>,
    json: bool,
    command: String,
    options: Vec<(String, String)>,
    flags: Vec<String>,
    rest: VecDeque<String>,
}

/// Runs one command; the exit code is the command's.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1).collect()) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("pintle-oci: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match arguments.run() {
        Ok(code) => code,
        Err(why) => {
            arguments.tell(&why);
            eprintln!("pintle-oci: {why}");
            ExitCode::FAILURE
        }
    }
}

/// For `map_err`: what was being done.
fn doing<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Refused {
    move |e| format!("{what}: {e}")
}

impl Arguments {
    fn parse(words: Vec<String>) -> Result<Self, Refused> {
        const VALUES: &[&str] =
            &["root", "log", "log-format", "bundle", "pid-file", "console-socket", "process", "format", "resources", "rootless"];
        const SHORT: &[(&str, &str)] =
            &[("b", "bundle"), ("p", "process"), ("d", "detach"), ("f", "force"), ("a", "all"), ("r", "resources"), ("v", "version")];
        let (mut options, mut flags, mut rest) = (Vec::new(), Vec::new(), VecDeque::new());
        let mut words = VecDeque::from(words);
        while let Some(word) = words.pop_front() {
            let Some(name) = word.strip_prefix('-').filter(|_| rest.len() < 2) else {
                rest.push_back(word);
                continue;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value.to_owned())));
            let name = SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
            if VALUES.contains(&name) {
                let value = value.or_else(|| words.pop_front()).ok_or_else(|| format!("--{name} needs a value"))?;
                options.push((name.to_owned(), value));
            } else {
                flags.push(name.to_owned());
            }
        }
        let value = |name: &str| options.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let (root, log) = (value("root").map_or_else(|| ROOT.into(), PathBuf::from), value("log").map(PathBuf::from));
        let json = value("log-format").is_some_and(|format| format == "json");
        let command = match rest.pop_front() {
            Some(command) => command,
            None if flags.iter().any(|flag| flag == "version") => "version".to_owned(),
            None => return Err("no command".to_owned()),
        };
        if flags.iter().any(|flag| flag == "systemd-cgroup") {
            return Err("--systemd-cgroup: groups are made without systemd".to_owned());
        }
        Ok(Self { root, log, json, command, options, flags, rest })
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    /// The log is where containerd looks for the reason of a failure.
    fn tell(&self, why: &str) {
        let Some(path) = &self.log else { return };
        let line =
            if self.json { json!({ "level": "error", "msg": why, "time": jiff::Timestamp::now() }).to_string() } else { why.to_owned() };
        if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
            let _ = writeln!(file, "{line}");
        }
    }

    fn record(&self) -> Result<Record, Refused> {
        Record::read(&self.root, self.rest.front().ok_or("an id is missing")?)
    }

    fn run(&self) -> Result<ExitCode, Refused> {
        match self.command.as_str() {
            "version" => println!("pintle-oci version {}\nspec: {}", env!("CARGO_PKG_VERSION"), record::SPEC_VERSION),
            "create" => drop(self.create()?),
            "run" => {
                let record = self.create()?;
                start(&record)?;
                let code = wait(record.pid)?;
                record.remove(true)?;
                return Ok(code);
            }
            "start" => start(&self.record()?)?,
            "state" => println!("{:#}", self.record()?.state()),
            "kill" => kill(&self.record()?, self.rest.get(1).map_or("TERM", String::as_str), self.flag("all"))?,
            "delete" => match (self.record(), self.flag("force")) {
                (Ok(record), force) => record.remove(force)?,
                (Err(_), true) => {}
                (Err(why), false) => return Err(why),
            },
            "ps" => println!("{}", json!(Hierarchies::detect().processes(&self.record()?.cgroup))),
            "update" => {
                let file = self.option("resources").ok_or("--resources is missing")?;
                let text = if file == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
                let text = text.map_err(doing(file))?;
                let resources = serde_json::from_str(&text).map_err(doing(file))?;
                Hierarchies::detect().limit(&self.record()?.cgroup, &plan::resources(&resources)).map_err(doing("update"))?;
            }
            "exec" => return self.exec(),
            other => return Err(format!("no command {other:?}")),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn create(&self) -> Result<Record, Refused> {
        let id = self.rest.front().ok_or("an id is missing")?;
        let bundle = std::fs::canonicalize(self.option("bundle").unwrap_or(".")).map_err(doing("bundle"))?;
        let hierarchies = Hierarchies::detect();
        let spec = plan::load(&bundle)?;
        let mut record = Record::new(&self.root, id, &bundle, &spec)?;
        match self.clone_init(&hierarchies, &spec, &mut record) {
            Ok(()) => Ok(record),
            Err(why) => {
                let _ = record.remove(true);
                Err(why)
            }
        }
    }

    fn clone_init(&self, hierarchies: &Hierarchies, spec: &oci_spec::runtime::Spec, record: &mut Record) -> Result<(), Refused> {
        plan::make_cgroup(hierarchies, spec, &record.cgroup)?;
        let gate = gate(&record.socket())?;
        let (ours, theirs) = pair()?;
        let home = Home::open().map_err(doing("namespaces"))?;
        let plan::Init { container, flags, pid_namespace } = plan::init(hierarchies, spec, record, theirs, gate)?;
        let clone = || clone_into(flags, &container.launch.entry);
        let cloned = match &pid_namespace {
            Some(target) => home.clone_in_pid_namespace(target, clone),
            None => clone(),
        };
        let (pid, pidfd) = match cloned.map_err(doing("clone"))? {
            Cloned::Child => init::become_container(container),
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(container);
        record.pid = pid;
        record.start_ticks = crate::helper::processes::start_ticks(pid).unwrap_or(0);
        record.write()?;
        if let Err(why) = self.hear(&ours) {
            let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            return Err(why);
        }
        self.write_pid(pid)
    }

    fn exec(&self) -> Result<ExitCode, Refused> {
        let record = self.record()?;
        if record.status() != Status::Running {
            return Err(format!("container {} is not running", record.id));
        }
        let file = self.option("process").ok_or("--process is missing")?;
        let text = std::fs::read_to_string(file).map_err(doing(file))?;
        let process: oci_spec::runtime::Process = serde_json::from_str(&text).map_err(doing(file))?;
        let spec = plan::load(&record.bundle)?;
        let hierarchies = Hierarchies::detect();
        let (ours, theirs) = pair()?;
        let launch = plan::launch(&hierarchies, &spec, &process, &record.cgroup, theirs)?;
        let target = record.pidfd().ok_or_else(|| format!("container {} is not running", record.id))?;
        let home = Home::open().map_err(doing("namespaces"))?;
        let plan = Joining { launch, target, namespaces: JOINED };
        let pid = match home.clone_in_pid_namespace(&plan.target, || clone_into(0, &plan.launch.entry)).map_err(doing("clone"))? {
            Cloned::Child => init::become_guest(plan),
            Cloned::Parent { pid, .. } => pid,
        };
        drop(plan);
        self.hear(&ours)?;
        self.write_pid(pid)?;
        if self.flag("detach") {
            return Ok(ExitCode::SUCCESS);
        }
        wait(pid)
    }

    /// Listens to a child until it waits at its gate or executes its program: a terminal goes on to the console socket, a failure becomes ours.
    fn hear(&self, report: &OwnedFd) -> Result<(), Refused> {
        loop {
            match protocol::receive::<Report>(report.as_fd()).map_err(doing("report"))? {
                None | Some((Report::Waiting, _)) => return Ok(()),
                Some((Report::Failed { message, .. }, _)) => return Err(message),
                Some((Report::Terminal, fds)) => {
                    let path = self.option("console-socket").ok_or("a terminal needs --console-socket")?;
                    hand_over(path, fds.first().ok_or("the terminal did not arrive")?)?;
                }
            }
        }
    }

    fn write_pid(&self, pid: i32) -> Result<(), Refused> {
        match self.option("pid-file") {
            Some(file) => {
                let file = Path::new(file);
                let new = file.with_extension("new");
                std::fs::write(&new, pid.to_string()).and_then(|()| std::fs::rename(&new, file)).map_err(doing(file.display()))
            }
            None => Ok(()),
        }
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd), Refused> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(doing("make report socket"))
}

fn packets() -> Result<OwnedFd, Refused> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(doing("make socket"))
}

/// The socket at which a container's init waits for its start.
fn gate(path: &Path) -> Result<OwnedFd, Refused> {
    let gate = packets()?;
    let address = UnixAddr::new(path).map_err(doing(path.display()))?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&gate), &address).map_err(doing(path.display()))?;
    let one = Backlog::new(1).map_err(doing("listen"))?;
    listen(&gate, one).map_err(doing("listen"))?;
    Ok(gate)
}

fn start(record: &Record) -> Result<(), Refused> {
    if record.status() != Status::Created {
        return Err(format!("container {} is {}, not created", record.id, record.status().as_str()));
    }
    let connection = packets()?;
    let address = UnixAddr::new(&record.socket()).map_err(doing("socket"))?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&connection), &address).map_err(doing("start"))?;
    let heard = protocol::receive::<Report>(connection.as_fd()).map_err(doing("start"))?;
    let _ = std::fs::remove_file(record.socket());
    match heard {
        Some((Report::Failed { message, .. }, _)) => Err(message),
        _ => Ok(()),
    }
}

fn kill(record: &Record, signal: &str, all: bool) -> Result<(), Refused> {
    let number = signal_number(signal).ok_or_else(|| format!("no signal {signal:?}"))?;
    let gone = || format!("container {} is not running: process already finished", record.id);
    if all && number == libc::SIGKILL {
        Hierarchies::detect().kill_all(&record.cgroup);
        return Ok(());
    }
    let pidfd = record.pidfd().ok_or_else(gone)?;
    match sys::pidfd_signal(pidfd.as_fd(), number) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(gone()),
        other => other.map_err(doing("kill")),
    }
}

/// Waits for the end of a child; its exit code, 128 and more for a signal.
fn wait(pid: i32) -> Result<ExitCode, Refused> {
    use nix::sys::wait::{WaitStatus, waitpid};
    let code = match waitpid(nix::unistd::Pid::from_raw(pid), None).map_err(doing("wait"))? {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 255,
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// Sends a terminal's master to who waits at the console socket, as runc does: its name as the message.
fn hand_over(path: &str, master: &OwnedFd) -> Result<(), Refused> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let socket = std::os::unix::net::UnixStream::connect(path).map_err(doing(path))?;
    let fds = [master.as_raw_fd()];
    let message = [std::io::IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(socket.as_raw_fd(), &message, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None).map_err(doing(path))?;
    Ok(())
}
