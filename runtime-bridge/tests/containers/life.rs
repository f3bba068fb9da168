//! A container's life: start, output, exec, signals, end.

use std::time::Duration;

use pintle_runtime_bridge::{
    ContainerSpec, Error, ExecSpec, ExitCause, NetNs, OutputStream, Phase, Resources, SandboxSpec, Scope, StartFailure, TerminalSize, User,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Fixture, command, limits_memory, log_text, patience, until};

/// Reads until the text has come.
async fn read_until(stream: &mut OutputStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut chunk = [0u8; 1024];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let n = tokio::time::timeout(patience(), stream.read(&mut chunk)).await.expect("output").expect("read");
        assert!(n > 0, "ended before {wanted:?}: {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn exit_codes_and_output_are_carried() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let (code, output) = f.run_script("echo out; printf unfinished; exit 7").await;
    assert_eq!((code, output.as_str()), (7, "out\nunfinished\n"));
    f.run_script("echo out; echo err >&2").await;
    let raw = std::fs::read_to_string(f.dir.join("log")).expect("log");
    let mut lines: Vec<Vec<&str>> = raw.lines().map(|l| l.splitn(4, ' ').collect()).collect();
    lines.sort_by_key(|l| l[1]);
    assert_eq!((lines[0][1], lines[0][2], lines[0][3]), ("stderr", "F", "err"));
    assert_eq!((lines[1][1], lines[1][2], lines[1][3]), ("stdout", "F", "out"));
    assert_eq!(lines[0][0].len(), "2026-01-01T00:00:00.000000000Z".len());
}

#[tokio::test]
async fn exec_carries_input_output_and_exit_code() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let id = f.start(f.spec("sleep 1000")).await;
    let done = f.exec(&id, command(&["sh", "-c", "echo o; echo e >&2; exit 9"])).await;
    assert_eq!(done, (9, "o\n".to_owned(), "e\n".to_owned()));

    let spec = ExecSpec { stdin: true, ..command(&["cat"]) };
    let mut session = f.runtime.exec(&id, spec).await.expect("exec");
    let mut stdin = session.stdin.take().expect("stdin");
    stdin.write_all(b"through").await.expect("write");
    drop(stdin);
    let mut text = String::new();
    session.stdout.take().expect("stdout").read_to_string(&mut text).await.expect("read");
    assert_eq!((text.as_str(), session.wait().await.expect("wait").code), ("through", 0));

    let spec = ExecSpec {
        env: vec![("A".to_owned(), "b".to_owned())],
        working_dir: Some("/tmp".to_owned()),
        user: Some(User { name: Some("app".to_owned()), ..User::default() }),
        ..command(&["sh", "-c", "echo $A $(pwd) $(id -u) $HOME; grep CapEff /proc/self/status"])
    };
    let (_, out, _) = f.exec(&id, spec).await;
    assert_eq!(out, "b /tmp 1000 /home/app\nCapEff:\t0000000000000000\n");
}

#[tokio::test]
async fn an_exec_that_cannot_start_says_why_and_a_killed_one_ends() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let id = f.start(f.spec("sleep 1000")).await;
    let missing = f.runtime.exec(&id, command(&["no-such-program"])).await;
    assert!(matches!(missing, Err(Error::Start { kind: StartFailure::ExecutableNotFound, .. })));
    let refused = f.runtime.exec(&id, command(&["/etc/passwd"])).await;
    assert!(matches!(refused, Err(Error::Start { kind: StartFailure::PermissionDenied, .. })));
    let mut session = f.runtime.exec(&id, command(&["sleep", "1000"])).await.expect("exec");
    session.kill().await.expect("kill");
    assert_eq!(session.wait().await.expect("wait").code, 137);
}

#[tokio::test]
async fn a_terminal_has_a_size_that_can_change() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let id = f.start(f.spec("sleep 1000")).await;
    let spec = ExecSpec {
        tty: true,
        stdin: true,
        size: Some(TerminalSize { width: 90, height: 30 }),
        ..command(&["sh", "-c", "tty; stty size; read x; stty size; echo got $x; exit 4"])
    };
    let mut session = f.runtime.exec(&id, spec).await.expect("exec");
    assert!(session.stderr.is_none());
    let mut stdout = session.stdout.take().expect("stdout");
    let first = read_until(&mut stdout, "30 90").await;
    assert!(first.contains("/dev/pts/"), "{first}");
    session.resizer.as_ref().expect("terminal").resize(TerminalSize { width: 100, height: 40 }).expect("resize");
    session.stdin.as_mut().expect("stdin").write_all(b"line\n").await.expect("write");
    let rest = read_until(&mut stdout, "got line").await;
    assert!(rest.contains("40 100"), "{rest}");
    assert_eq!(session.wait().await.expect("wait").code, 4);
}

#[tokio::test]
async fn a_container_on_a_terminal_is_logged_and_can_be_attached() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let spec = ContainerSpec { tty: true, stdin: true, ..f.spec("tty; ls -l /dev/console; read x; echo got $x; exit 3") };
    let id = f.start(spec).await;
    let mut session = f.runtime.attach(&id, true).await.expect("attach");
    session.stdin.as_mut().expect("stdin").write_all(b"hello\n").await.expect("write");
    read_until(session.stdout.as_mut().expect("stdout"), "got hello").await;
    assert_eq!(f.runtime.wait(&id).await.expect("wait").code, 3);
    let log = log_text(&f.dir.join("log"));
    assert!(log.contains("/dev/pts/0") && log.contains("got hello") && log.contains("/dev/console"), "{log}");
}

#[tokio::test]
async fn attached_input_reaches_the_container_and_ends_once() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let spec = ContainerSpec { stdin: true, stdin_once: true, ..f.spec("cat; echo end; exit 5") };
    let id = f.start(spec).await;
    let mut session = f.runtime.attach(&id, true).await.expect("attach");
    session.stdin.as_mut().expect("stdin").write_all(b"text\n").await.expect("write");
    read_until(session.stdout.as_mut().expect("stdout"), "text").await;
    session.stdin = None;
    read_until(session.stdout.as_mut().expect("stdout"), "end").await;
    assert_eq!(f.runtime.wait(&id).await.expect("wait").code, 5);
}

#[tokio::test]
async fn stop_asks_first_and_kills_after_the_grace_period() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let ready = |f: &Fixture| log_text(&f.dir.join("log")).contains("ready");
    let polite = f.start(f.spec("trap 'echo bye; exit 11' TERM; echo ready; while true; do sleep 0.05; done")).await;
    until("ready", || ready(&f)).await;
    assert_eq!(f.runtime.stop(&polite, patience()).await.expect("stop").code, 11);
    std::fs::remove_file(f.dir.join("log")).expect("log");
    let deaf = f.start(f.spec("trap '' TERM; echo ready; while true; do sleep 0.05; done")).await;
    until("ready", || ready(&f)).await;
    let exit = f.runtime.stop(&deaf, Duration::from_millis(100)).await.expect("stop");
    assert_eq!((exit.code, exit.signal, exit.cause), (137, Some(9), ExitCause::Ended));
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_told_as_out_of_memory() {
    crate::require_containers!();
    if !limits_memory() {
        return;
    }
    let f = Fixture::new().await;
    let mut spec = f.spec("exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'");
    spec.resources = Resources { memory_limit_bytes: Some(24 << 20), ..Resources::default() };
    let id = f.start(spec).await;
    let exit = tokio::time::timeout(patience(), f.runtime.wait(&id)).await.expect("ends").expect("wait");
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory));
    assert!(f.runtime.state(&id).await.expect("state").exit.expect("exit").oom());
}

#[tokio::test]
async fn a_missing_program_is_a_start_failure_and_the_container_counts_as_exited() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let mut spec = f.spec("");
    spec.command = vec!["/no/such".to_owned()];
    let id = f.runtime.create_container(spec).await.expect("create");
    assert_eq!(f.runtime.state(&id).await.expect("state").phase, Phase::Created);
    let failed = f.runtime.start(&id).await;
    assert!(matches!(failed, Err(Error::Start { kind: StartFailure::ExecutableNotFound, .. })), "{failed:?}");
    let state = f.runtime.state(&id).await.expect("state");
    assert_eq!((state.phase, state.exit.expect("exit").code), (Phase::Exited, 127));
    assert_eq!(f.runtime.wait(&id).await.expect("wait").code, 127);
}

#[tokio::test]
async fn containers_of_a_pod_share_network_ipc_and_names_and_the_pid_namespace_on_request() {
    crate::require_containers!();
    let spec = SandboxSpec { hostname: Some("twins".to_owned()), pid: Some(Scope::Pod), ..SandboxSpec::default() };
    let f = Fixture::with(spec).await;
    let first = f.start(f.spec("echo shared > /dev/shm/note; exec sleep 1000")).await;
    let script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; readlink /proc/self/ns/pid";
    let (_, ours, _) = f.exec(&first, command(&["sh", "-c", script])).await;
    let (code, theirs) = f.run_script(script).await;
    assert_eq!((code, theirs), (0, ours));
    let (_, seen) = f.run_script("cat /dev/shm/note; hostname; ps | grep -c 'sleep 100[0]'").await;
    assert_eq!(seen, "shared\ntwins\n1\n");
    let (_, init, _) = f.exec(&first, command(&["sh", "-c", "cat /proc/1/comm"])).await;
    assert!(!init.contains("sleep"), "the pod's init is process 1, not a container: {init}");
}

#[tokio::test]
async fn a_shared_pid_namespace_is_made_anew_when_its_init_was_killed() {
    crate::require_containers!();
    let f = Fixture::with(SandboxSpec { pid: Some(Scope::Pod), ..SandboxSpec::default() }).await;
    let first = f.start(f.spec("exec sleep 1000")).await;
    let pid = f.runtime.state(&first).await.expect("state").pid.expect("it runs");
    // The way from the container's process to its namespace's first: the one that is process 1 in there.
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = namespace(&pid.to_string());
    let inner = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find(|line| line.starts_with("NSpid:")).and_then(|line| line.split_whitespace().last().map(str::to_owned))
    };
    let processes = std::fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let init: i32 = processes
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .find(|name| namespace(name) == ours && inner(name).as_deref() == Some("1"))
        .and_then(|name| name.parse().ok())
        .expect("the pod's init");
    // A guest whose parent does not take its end: the init cannot end before, only be about to.
    let mut guest = tokio::process::Command::new("nsenter")
        .args(["-t", &init.to_string(), "-p", "sleep", "1000"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nsenter");
    let parent = nix::unistd::Pid::from_raw(guest.id().expect("it runs") as i32);
    until("the guest", || std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).is_ok_and(|c| !c.is_empty())).await;
    nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGSTOP).expect("stop");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).expect("kill");
    assert_eq!(f.runtime.wait(&first).await.expect("wait").code, 137, "its processes end with it");
    let (code, seen) = f.run_script("ps | grep -c '[s]leep'; echo $$").await;
    nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGCONT).expect("go on");
    guest.wait().await.expect("the guest's end");
    assert_eq!(code, 0);
    assert!(seen.starts_with("0\n") && seen != "0\n1\n", "nobody is left, and process 1 is the pod's own again: {seen}");
}

#[tokio::test]
async fn a_sandboxes_network_namespace_is_reachable_by_path_and_by_descriptor() {
    use std::os::unix::fs::MetadataExt;
    crate::require_containers!();
    let f = Fixture::new().await;
    let sandbox = f.runtime.sandboxes().await.expect("sandboxes").remove(0);
    let by_path = std::fs::metadata(sandbox.netns_path.expect("path")).expect("pin").ino();
    let by_descriptor = std::fs::File::from(f.runtime.netns(&f.sandbox).await.expect("netns")).metadata().expect("fd").ino();
    let (_, inside) = f.run_script("readlink /proc/self/ns/net").await;
    assert_eq!(inside.trim(), format!("net:[{by_path}]"));
    assert_eq!(by_path, by_descriptor);
}

#[tokio::test]
async fn a_container_in_the_nodes_namespaces_leaves_no_process_behind() {
    crate::require_containers!();
    let f = Fixture::with(SandboxSpec {
        netns: NetNs::Host,
        ipc: Scope::Host,
        uts: Scope::Host,
        pid: Some(Scope::Host),
        ..SandboxSpec::default()
    })
    .await;
    let script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; sleep 54321 & exit 0";
    let (code, output) = f.run_script(script).await;
    let own: String = ["net", "ipc", "uts", "pid"]
        .iter()
        .map(|n| format!("{}\n", std::fs::read_link(format!("/proc/self/ns/{n}")).expect("ns").display()))
        .collect();
    assert_eq!((code, output), (0, own));
    until("the orphan's end", || {
        std::fs::read_dir("/proc")
            .expect("proc")
            .flatten()
            .all(|p| !std::fs::read(p.path().join("cmdline")).is_ok_and(|c| c == b"sleep\x0054321\0"))
    })
    .await;
}

#[tokio::test]
async fn a_renamed_log_is_left_alone_after_reopening() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let (log, old) = (f.dir.join("log"), f.dir.join("log.1"));
    let id = f.start(ContainerSpec { stdin: true, ..f.spec("echo before; read x; echo after") }).await;
    until("first line", || log_text(&log).contains("before")).await;
    std::fs::rename(&log, &old).expect("rename");
    f.runtime.reopen_log(&id).await.expect("reopen");
    let mut session = f.runtime.attach(&id, true).await.expect("attach");
    session.stdin.as_mut().expect("stdin").write_all(b"\n").await.expect("write");
    f.runtime.wait(&id).await.expect("wait");
    assert_eq!((log_text(&old).as_str(), log_text(&log).as_str()), ("before\n", "after\n"));
}

#[tokio::test]
async fn stats_and_limits_are_those_of_the_container() {
    crate::require_containers!();
    if !limits_memory() {
        return;
    }
    let f = Fixture::new().await;
    let mut spec = f.spec("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 1000");
    spec.resources = Resources {
        memory_limit_bytes: Some(64 << 20),
        cpu_limit_millis: Some(2000),
        cpu_request_millis: Some(250),
        pids_limit: Some(50),
        ..Resources::default()
    };
    let id = f.start(spec).await;
    until("work", || log_text(&f.dir.join("log")).contains("done")).await;
    let stats = f.runtime.stats(&id).await.expect("stats");
    assert!(stats.cpu_usage_ns > 1_000_000 && stats.memory_usage_bytes > 0 && stats.pids >= 1, "{stats:?}");
    assert!(stats.memory_working_set_bytes <= stats.memory_usage_bytes);
    let sandbox = f.runtime.sandbox_stats(&f.sandbox).await.expect("stats");
    assert!(sandbox.cpu_usage_ns >= stats.cpu_usage_ns);
    let smaller = Resources { memory_limit_bytes: Some(32 << 20), ..Resources::default() };
    f.runtime.update_resources(&id, smaller).await.expect("update");
}

#[tokio::test]
async fn many_starts_at_once_all_come_up() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let runs = (0..20).map(|number| {
        let mut spec = f.spec(&format!("echo {number}; exit {number}"));
        spec.log_path = Some(f.dir.join(format!("log-{number}")));
        let (runtime, log) = (f.runtime.clone(), f.dir.join(format!("log-{number}")));
        async move {
            let id = runtime.create_container(spec).await.expect("create");
            runtime.start(&id).await.expect("start");
            assert_eq!(runtime.wait(&id).await.expect("wait").code, number);
            assert_eq!(log_text(&log), format!("{number}\n"));
            runtime.remove(&id).await.expect("remove");
        }
    });
    futures::future::join_all(runs).await;
    assert!(f.runtime.list().await.expect("list").is_empty());
}

/// Runs some of these tests again in a mount namespace whose /sys/fs/cgroup is the unified tree: on a machine with v1
/// that tree has no controllers of use, but entering by clone, killing, device rules and the container's own view are its.
#[test]
fn the_same_holds_on_cgroup_v2() {
    crate::require_containers!();
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: this is cgroup v2 already");
        return;
    }
    let mount = "mount --make-rprivate / && umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let chosen = [
        "exit_codes_and_output",
        "exec_carries",
        "nodes_namespaces",
        "containers_of_a_pod",
        "kernel_secrets",
        "nodes_devices",
        "purge_leaves_nothing",
        "killed_helper",
        "stats_and_limits",
        "many_starts",
    ];
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", mount, "sh"])
        .arg(std::env::current_exe().expect("self"))
        .args(chosen)
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("10 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
