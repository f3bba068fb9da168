//! Who dies, and what survives.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use pintle_runtime_bridge::{ContainerId, ContainerSpec, Event, ExitCause, Phase, Runtime};

use crate::fixture::{self, Fixture, PROGRAM, busybox_layer, command, log_text, patience, scratch, until, write_layout};

/// A daemon in a process of its own, and the container that it has started.
struct Daemon {
    dir: std::path::PathBuf,
    cgroup: String,
    process: Child,
    id: ContainerId,
}

impl Daemon {
    fn start(script: &str) -> Self {
        let (dir, cgroup) = scratch();
        write_layout(&dir.join("layout"), &[busybox_layer()], serde_json::json!({}));
        let mut process = Command::new(PROGRAM)
            .arg("run")
            .args([&dir.join("state").to_string_lossy()[..], &cgroup, &dir.join("layout").to_string_lossy()[..]])
            .args(["--log", &dir.join("log").to_string_lossy()[..], "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("daemon");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("stdout")).read_line(&mut line).expect("id");
        let id = ContainerId::parse(line.trim()).expect("id");
        Self { dir, cgroup, process, id }
    }

    fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        fixture::clean(&self.dir);
        let left = fixture::leftovers(&self.dir, &self.cgroup);
        assert!(std::thread::panicking() || left.is_empty(), "{left:?}");
    }
}

fn helper_pid(dir: &std::path::Path) -> i32 {
    let text = std::fs::read_to_string(dir.join("state/run/helper.json")).expect("helper file");
    serde_json::from_str::<(i32, u64)>(&text).expect("helper pid").0
}

fn kill9(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
}

async fn wait(runtime: &Runtime, id: &ContainerId) -> pintle_runtime_bridge::Exit {
    tokio::time::timeout(patience(), runtime.wait(id)).await.expect("ends").expect("wait")
}

#[tokio::test]
async fn a_killed_daemon_leaves_containers_to_the_next_one() {
    crate::require_containers!();
    let mut daemon = Daemon::start("echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two; exit 23");
    daemon.kill();
    let runtime = fixture::open(&daemon.dir, &daemon.cgroup).await;
    let all = runtime.list().await.expect("list");
    assert_eq!((all.len(), &all[0].id, all[0].phase), (1, &daemon.id, Phase::Running));
    let mut session = runtime.exec(&daemon.id, command(&["touch", "/tmp/go"])).await.expect("exec");
    session.wait().await.expect("exec");
    let exit = wait(&runtime, &daemon.id).await;
    assert_eq!((exit.code, exit.cause), (23, ExitCause::Ended));
    assert_eq!(log_text(&daemon.dir.join("log")), "one\ntwo\n");
}

#[tokio::test]
async fn an_end_that_no_daemon_saw_is_told_to_the_next_one() {
    crate::require_containers!();
    let mut daemon = Daemon::start("while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 42");
    let pid = fixture::open(&daemon.dir, &daemon.cgroup).await.state(&daemon.id).await.expect("state").pid.expect("pid");
    daemon.kill();
    // No daemon now: the container is told to go on through its own root.
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").expect("go");
    until("container's end", || !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
    let runtime = fixture::open(&daemon.dir, &daemon.cgroup).await;
    let exit = runtime.state(&daemon.id).await.expect("state").exit.expect("exit");
    assert_eq!((exit.code, exit.cause), (42, ExitCause::Ended));
}

/// Has a container end that waits for a file. What makes the file may end with it.
async fn let_go(f: &Fixture, id: &ContainerId) {
    let code = f.exec(id, command(&["touch", "/tmp/go"])).await.0;
    assert!([0, 137].contains(&code), "{code}");
}

#[tokio::test]
async fn a_killed_helper_is_replaced_and_its_containers_are_adopted() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let script = "echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two; exit 17";
    let id = f.start(ContainerSpec { stdin: true, ..f.spec(script) }).await;
    let mut events = f.runtime.events();
    kill9(helper_pid(&f.dir));
    let event = tokio::time::timeout(patience(), events.recv()).await.expect("event").expect("event");
    assert!(matches!(event, Event::HelperRestarted), "{event:?}");
    assert_eq!(f.runtime.state(&id).await.expect("state").phase, Phase::Running);
    let_go(&f, &id).await;
    let exit = wait(&f.runtime, &id).await;
    // The code is known where the kernel keeps it (6.15 and later), or when the end is seen before it is reaped.
    assert!((exit.code, exit.cause) == (17, ExitCause::Ended) || (exit.code, exit.cause) == (255, ExitCause::Unobserved), "{exit:?}");
    until("the rest of the log", || log_text(&f.dir.join("log")) == "one\ntwo\n").await;
    assert_eq!(f.run_script("exit 3").await.0, 3, "the sandbox was adopted as well");
}

#[tokio::test]
async fn a_replaced_helper_keeps_exit_codes_terminals_and_half_written_lines() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let go = "while [ ! -e /tmp/go ]; do sleep 0.02; done";
    let plain = f.start(f.spec(&format!("printf half; {go}; echo line; exit 19"))).await;
    let tty = ContainerSpec { tty: true, log_path: Some(f.dir.join("tty")), ..f.spec(&format!("echo one; {go}; echo two; exit 20")) };
    let tty = f.start(tty).await;
    until("output", || log_text(&f.dir.join("tty")).contains("one")).await;
    let before = helper_pid(&f.dir);
    f.runtime.replace_helper().await.expect("replace");
    assert_eq!(helper_pid(&f.dir), before, "the same process");
    for (id, code) in [(&plain, 19), (&tty, 20)] {
        let_go(&f, id).await;
        let exit = wait(&f.runtime, id).await;
        assert_eq!((exit.code, exit.cause), (code, ExitCause::Ended));
    }
    assert_eq!(log_text(&f.dir.join("log")).replace('\n', ""), "halfline");
    assert!(log_text(&f.dir.join("tty")).contains("two"));
    assert_eq!(f.run_script("exit 3").await.0, 3);
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_told_as_such() {
    crate::require_containers!();
    let mut daemon = Daemon::start("sleep 1000");
    let pid = fixture::open(&daemon.dir, &daemon.cgroup).await.state(&daemon.id).await.expect("state").pid.expect("pid");
    daemon.kill();
    kill9(helper_pid(&daemon.dir));
    kill9(pid);
    until("container's end", || !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
    let runtime = fixture::open(&daemon.dir, &daemon.cgroup).await;
    let exit = wait(&runtime, &daemon.id).await;
    assert_eq!((exit.code, exit.cause), (255, ExitCause::Unobserved));
}

#[tokio::test]
async fn purge_leaves_nothing_after_everything_was_killed() {
    crate::require_containers!();
    let mut daemon = Daemon::start("sleep 1000");
    daemon.kill();
    kill9(helper_pid(&daemon.dir));
    Runtime::purge(&daemon.dir.join("state"), None).await.expect("purge");
    assert!(!daemon.dir.join("state").exists());
    assert_eq!(fixture::leftovers(&daemon.dir, &daemon.cgroup), Vec::<String>::new());
}
