//! What a container must not see or do.

use std::os::unix::fs::symlink;

use pintle_runtime_bridge::{
    AppArmor, ContainerSpec, DEFAULT_PROFILE, Error, ImageRef, Mount, MountSource, Propagation, Rlimit, SandboxSpec, Seccomp, Security,
    SelinuxOptions, StartFailure, User,
};

use crate::fixture::{Entry, Fixture, busybox_layer, command, has_app_armor, layer, load_profile, log_text, until, write_layout};

fn security(f: &Fixture, script: &str, security: Security) -> ContainerSpec {
    ContainerSpec { security, ..f.spec(script) }
}

#[tokio::test]
async fn capability_sets_are_the_default_ones_and_inheritable_is_empty() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let (_, status) = f.run_script("grep Cap /proc/self/status; grep Seccomp: /proc/self/status").await;
    assert_eq!(
        status,
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nSeccomp:\t2\n"
    );
    let dropped = Security {
        drop_capabilities: vec!["ALL".to_owned()],
        add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
        no_new_privs: true,
        seccomp: Seccomp::Unconfined,
        ..Security::default()
    };
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status";
    let (_, status) = f.run(security(&f, script, dropped)).await;
    assert_eq!(status, "CapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t0\n");
}

#[tokio::test]
async fn a_filter_works_with_and_without_no_new_privs_and_refuses_mounts_and_namespaces() {
    crate::require_containers!();
    let f = Fixture::new().await;
    for no_new_privs in [true, false] {
        let more = Security { no_new_privs, add_capabilities: vec!["NET_ADMIN".to_owned()], ..Security::default() };
        let script = "mount -t tmpfs x /tmp && echo mounted; grep Seccomp: /proc/self/status";
        let (_, output) = f.run(security(&f, script, more)).await;
        assert!(output.ends_with("Seccomp:\t2\n") && !output.contains("mounted"), "{output}");
    }
}

#[tokio::test]
async fn a_profile_of_app_armor_holds_a_container_and_its_execs() {
    crate::require_containers!();
    if !has_app_armor() {
        return;
    }
    let f = Fixture::new().await;
    let profile = |app_armor: AppArmor| Security { app_armor, ..Security::default() };
    let who = "cat /proc/self/attr/current";
    let usual = format!("{DEFAULT_PROFILE} (enforce)\n");
    for (asked, privileged, expected) in [
        (AppArmor::Unsaid, false, usual.as_str()),
        (AppArmor::RuntimeDefault, false, usual.as_str()),
        (AppArmor::Unconfined, false, "unconfined\n"),
        (AppArmor::Unsaid, true, "unconfined\n"),
    ] {
        let spec = security(&f, who, Security { privileged, ..profile(asked.clone()) });
        assert_eq!(f.run(spec).await, (0, expected.to_owned()), "{asked:?}");
    }
    // What capabilities and filter would let through, the default profile does not.
    let open = Security { add_capabilities: vec!["SYS_ADMIN".into()], seccomp: Seccomp::Unconfined, ..profile(AppArmor::Unsaid) };
    let mounts = "mount -t tmpfs x /tmp && echo mounted; true";
    let (_, output) = f.run(security(&f, mounts, open.clone())).await;
    assert!(!output.contains("mounted") && output.contains("ermission denied"), "{output}");
    let (_, output) = f.run(security(&f, mounts, Security { app_armor: AppArmor::Unconfined, ..open })).await;
    assert_eq!(output, "mounted\n");

    load_profile("pintle-test", "deny /tmp/** wl,");
    let named = profile(AppArmor::Profile("pintle-test".to_owned()));
    let script = "touch /root/fine && echo fine; touch /tmp/made 2>/dev/null || echo refused; exec sleep 1000";
    for no_new_privs in [false, true] {
        let id = f.start(security(&f, script, Security { no_new_privs, ..named.clone() })).await;
        until("output", || log_text(&f.dir.join("log")).ends_with("fine\nrefused\n")).await;
        let (_, output, _) = f.exec(&id, command(&["sh", "-c", "touch /tmp/made || cat /proc/self/attr/current"])).await;
        assert_eq!(output, "pintle-test (enforce)\n");
        f.runtime.kill(&id).await.expect("kill");
        f.runtime.wait(&id).await.expect("wait");
        f.runtime.remove(&id).await.expect("remove");
    }
    let absent = f.runtime.create_container(security(&f, who, profile(AppArmor::Profile("pintle-absent".to_owned())))).await;
    assert!(matches!(&absent, Err(Error::InvalidSpec { reason, .. }) if reason.contains("\"pintle-absent\" is not loaded")), "{absent:?}");
}

#[tokio::test]
async fn who_asks_for_app_armor_is_refused_where_it_is_not() {
    crate::require_containers!();
    if pintle_runtime_bridge::enforces_app_armor() {
        return println!("skipped: this machine has AppArmor");
    }
    let f = Fixture::new().await;
    for asked in [AppArmor::RuntimeDefault, AppArmor::Profile("x".to_owned())] {
        let refused = f.runtime.create_container(security(&f, "true", Security { app_armor: asked, ..Security::default() })).await;
        assert!(matches!(&refused, Err(Error::InvalidSpec { field: "AppArmor profile", .. })), "{refused:?}");
    }
    if pintle_runtime_bridge::has_selinux() {
        return;
    }
    let labelled = SelinuxOptions { kind: Some("any_t".to_owned()), ..SelinuxOptions::default() };
    let spec = security(&f, "echo ran", Security { app_armor: AppArmor::Unconfined, selinux: Some(labelled), ..Security::default() });
    assert_eq!(f.run(spec).await, (0, "ran\n".to_owned()), "labels mean nothing without SELinux");
}

#[tokio::test]
async fn selinux_holds_containers_apart_from_the_machine_and_from_each_other() {
    crate::require_containers!();
    if !pintle_runtime_bridge::has_selinux() {
        return println!("skipped: no SELinux");
    }
    let f = Fixture::new().await;
    let [own, foreign] = ["own", "foreign"].map(|name| f.dir.join(name));
    for directory in [&own, &foreign] {
        std::fs::create_dir_all(directory.join("deep")).expect("volume");
        std::fs::write(directory.join("deep/file"), "old\n").expect("file");
    }
    std::os::unix::fs::symlink(&foreign, own.join("link")).expect("link");
    let mounts = || vec![Mount { relabel: true, ..Mount::bind(&own, "/own") }, Mount::bind(&foreign, "/foreign")];
    let kind = |kind: Option<&str>, level: Option<&str>| SelinuxOptions {
        kind: kind.map(str::to_owned),
        level: level.map(str::to_owned),
        ..SelinuxOptions::default()
    };
    let with = |script: &str, selinux: Option<SelinuxOptions>| ContainerSpec {
        mounts: mounts(),
        ..security(&f, script, Security { selinux, no_new_privs: true, ..Security::default() })
    };
    let script = "cat /proc/self/attr/current; echo; touch /x /dev/shm/x /own/deep/x && echo new >> /own/deep/file && echo mine; \
                  touch /foreign/x 2>/dev/null || echo refused; cat /foreign/deep/file; exec sleep 1000";
    let log = || log_text(&f.dir.join("log"));
    let id = f.start(with(script, None)).await;
    until("output", || log().ends_with("old\n")).await;
    assert!(log().starts_with("system_u:system_r:container_t:s0:c") && log().ends_with("\nmine\nrefused\nold\n"), "{}", log());
    let label = log().lines().next().expect("a label").trim_end_matches('\0').to_owned();
    let (_, output, _) = f.exec(&id, command(&["sh", "-c", "cat /proc/self/attr/current"])).await;
    assert_eq!(output.trim_end_matches('\0'), label, "of an exec");
    f.runtime.kill(&id).await.expect("kill");
    f.runtime.wait(&id).await.expect("wait");
    f.runtime.remove(&id).await.expect("remove");
    // Of the same sandbox: the same categories. Of other categories: not even to be read.
    let (_, output) = f.run(with("cat /proc/self/attr/current; echo; cat /own/deep/file", None)).await;
    assert_eq!(output, format!("{label}\0\nold\nnew\n"));
    let shut = ContainerSpec {
        mounts: vec![Mount::bind(&own, "/own")],
        ..with("cat /own/deep/file 2>/dev/null || echo refused", Some(kind(None, Some("s0:c1"))))
    };
    assert_eq!(f.run(shut).await, (0, "refused\n".to_owned()));
    let (_, output) = f.run(with("cat /proc/self/attr/current", Some(kind(Some("other_t"), Some("s0:c1,c2"))))).await;
    assert_eq!(output.trim_end_matches(['\0', '\n']), "system_u:system_r:other_t:s0:c1,c2");
    let (_, output) = f.run(security(&f, "cat /proc/self/attr/current", Security { privileged: true, ..Security::default() })).await;
    assert!(output.contains("machine_t"), "a privileged container has no label of its own: {output}");
    let unknown = f.runtime.create_container(with("true", Some(kind(Some("absent_t"), None)))).await.expect("create");
    let failed = f.runtime.start(&unknown).await;
    assert!(matches!(&failed, Err(Error::Start { message, .. }) if message.contains("absent_t")), "{failed:?}");
}

#[tokio::test]
async fn users_come_from_the_images_own_files() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let user = |user: User| ContainerSpec { user, ..f.spec("id -u; id -g; id -G; echo $HOME; echo x > /dev/stdout") };
    let named = User { name: Some("app".to_owned()), additional_gids: vec![77], ..User::default() };
    assert_eq!(f.run(user(named)).await, (0, "1000\n1001\n1001 29 77\n/home/app\nx\n".to_owned()));
    let numbered = User { uid: Some(65534), gid: Some(65533), ..User::default() };
    assert_eq!(f.run(user(numbered)).await, (0, "65534\n65533\n65533\n/\nx\n".to_owned()));
    for (wrong, kind) in [
        (User { name: Some("nobody-here".to_owned()), ..User::default() }, StartFailure::UnknownUser),
        (User { must_not_be_root: true, ..User::default() }, StartFailure::RunsAsRoot),
    ] {
        let id = f.runtime.create_container(user(wrong)).await.expect("create");
        let failed = f.runtime.start(&id).await;
        assert!(matches!(&failed, Err(Error::Start { kind: found, .. }) if *found == kind), "{failed:?}");
    }
}

#[tokio::test]
async fn kernel_secrets_are_masked_and_kernel_settings_read_only() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let script = "cat /proc/kcore 2>/dev/null | wc -c; cat /proc/keys 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
                  echo 1 2>/dev/null > /proc/sys/kernel/panic || echo refused; \
                  echo h 2>/dev/null > /proc/sysrq-trigger || echo refused; \
                  touch /sys/x 2>/dev/null || echo refused; ls /sys/fs/cgroup | wc -l; \
                  mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo refused";
    let (_, output) = f.run_script(script).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..6], ["0", "0", "0", "refused", "refused", "refused"]);
    assert_ne!(lines[6], "0");
    assert_eq!(lines[7], "refused");
}

#[tokio::test]
async fn a_read_only_root_refuses_writes_but_not_in_volumes() {
    crate::require_containers!();
    let f = Fixture::new().await;
    std::fs::create_dir(f.dir.join("volume")).expect("volume");
    let read_only = Security { read_only_root: true, ..Security::default() };
    let script = "touch /x 2>/dev/null || echo refused; touch /data/made && echo fine; touch /fixed/x 2>/dev/null || echo refused; \
                  touch /scratch/x && echo fine; touch /dev/shm/x && echo fine";
    let tmpfs = Mount { source: MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1777 }, ..Mount::bind("/", "/scratch") };
    let spec = ContainerSpec {
        mounts: vec![Mount::bind(f.dir.join("volume"), "/data"), Mount::bind(f.dir.join("volume"), "/fixed").read_only(), tmpfs],
        ..security(&f, script, read_only)
    };
    assert_eq!(f.run(spec).await, (0, "refused\nfine\nrefused\nfine\nfine\n".to_owned()));
    assert!(f.dir.join("volume/made").exists());
}

#[tokio::test]
async fn the_nodes_devices_cannot_be_opened() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let script = "mknod /dev/log11 c 1 11 && cat /dev/log11 2>&1 | head -1; echo x > /dev/null && echo null works; \
                  mknod /tmp/null c 1 3 && cat /tmp/null 2>&1; ls /dev";
    let (_, output) = f.run_script(script).await;
    assert!(output.contains("log11': Operation not permitted") || output.contains("log11: Operation not permitted"), "{output}");
    assert!(output.contains("null works"), "{output}");
    assert!(output.contains("/tmp/null") && output.contains("Permission denied"), "nodev on the root: {output}");
    assert!(!output.contains("vda"), "{output}");
    let (_, output) =
        f.run(security(&f, "ls /dev | wc -l; grep CapEff /proc/self/status", Security { privileged: true, ..Security::default() })).await;
    assert!(output.lines().next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > 20), "{output}");
}

#[tokio::test]
async fn fault_an_image_whose_dev_and_volumes_are_links_stays_inside_its_root() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let outside = f.dir.join("outside");
    std::fs::create_dir(&outside).expect("outside");
    let path = outside.to_string_lossy().into_owned();
    let evil = layer(&[Entry::Link("dev", &path), Entry::Link("data", &path), Entry::Link("link", "/../../../../../../etc/passwd")]);
    write_layout(&f.dir.join("evil"), &[busybox_layer(), evil], serde_json::json!({}));
    let name = ImageRef::parse("localhost/evil").expect("name");
    f.runtime.import_layout(&f.dir.join("evil"), Some(&name)).await.expect("import");
    std::fs::create_dir(f.dir.join("volume")).expect("volume");
    let spec = ContainerSpec {
        image: "localhost/evil".to_owned(),
        mounts: vec![Mount::bind(f.dir.join("volume"), "/data/deep"), Mount::bind("/dev/null", "/link")],
        ..f.spec("echo x > /data/deep/made; ls -l /dev/null | head -c 1")
    };
    let (code, output) = f.run(spec).await;
    assert_eq!(code, 0, "{output}");
    assert!(f.dir.join("volume/made").exists(), "the volume is where the link leads inside the root");
    assert_eq!(std::fs::read_dir(&outside).expect("outside").count(), 0, "nothing was made on the node");
}

#[tokio::test]
async fn fault_an_image_whose_proc_is_a_link_is_refused() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let evil = layer(&[Entry::Directory("fake", 0o755), Entry::Link("proc", "fake"), Entry::Link("sys", "/fake")]);
    write_layout(&f.dir.join("evil"), &[busybox_layer(), evil], serde_json::json!({}));
    let name = ImageRef::parse("localhost/evil").expect("name");
    f.runtime.import_layout(&f.dir.join("evil"), Some(&name)).await.expect("import");
    let spec = ContainerSpec { image: "localhost/evil".to_owned(), ..f.spec("true") };
    let id = f.runtime.create_container(spec).await.expect("create");
    let failed = f.runtime.start(&id).await;
    assert!(matches!(&failed, Err(Error::Start { kind: StartFailure::Mount, .. })), "{failed:?}");
}

#[tokio::test]
async fn fault_a_sub_path_that_leaves_its_volume_is_refused() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let volume = f.dir.join("volume");
    std::fs::create_dir(&volume).expect("volume");
    symlink("/etc", volume.join("out")).expect("link");
    let within = |path: &str| ContainerSpec {
        mounts: vec![Mount {
            target: "/data".to_owned(),
            source: MountSource::BindWithin { volume: volume.clone(), path: path.to_owned() },
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
            no_exec: false,
            relabel: false,
        }],
        ..f.spec("touch /data/here")
    };
    let id = f.runtime.create_container(within("out")).await.expect("create");
    assert!(matches!(f.runtime.start(&id).await, Err(Error::Start { kind: StartFailure::Mount, .. })));
    assert_eq!(f.run(within("a/b")).await.0, 0);
    assert!(volume.join("a/b/here").exists());
}

#[tokio::test]
async fn fault_a_working_directory_through_a_descriptor_is_refused() {
    crate::require_containers!();
    let f = Fixture::new().await;
    for path in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/root", "/proc/self/cwd"] {
        let spec = ContainerSpec { working_dir: Some(path.to_owned()), ..f.spec("pwd; ls") };
        let id = f.runtime.create_container(spec).await.expect("create");
        let failed = f.runtime.start(&id).await;
        assert!(matches!(&failed, Err(Error::Start { kind: StartFailure::WorkingDirectory, .. })), "{path}: {failed:?}");
    }
    let spec = ContainerSpec { working_dir: Some("/made/here".to_owned()), ..f.spec("pwd; ls -1 /proc/self/fd") };
    assert_eq!(f.run(spec).await, (0, "/made/here\n0\n1\n2\n3\n".to_owned()), "3 is ls reading the directory");
}

#[tokio::test]
async fn the_helper_runs_from_sealed_memory() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let text = std::fs::read_to_string(f.dir.join("state/run/helper.json")).expect("helper file");
    let (pid, _): (i32, u64) = serde_json::from_str(&text).expect("pid");
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("exe");
    assert!(program.to_string_lossy().starts_with("/memfd:"), "{program:?}");
    let opened = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/exe"));
    assert!(opened.is_err(), "not writable while it runs");
}

#[tokio::test]
async fn names_sysctls_limits_and_loopback_are_the_sandboxes_own() {
    crate::require_containers!();
    let sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_unprivileged_port_start", "42")];
    let f = Fixture::with(SandboxSpec {
        hostname: Some("named".to_owned()),
        sysctls: sysctls.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..SandboxSpec::default()
    })
    .await;
    let script = "hostname; echo $HOSTNAME; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start; \
                  ip addr show lo | grep -c 127.0.0.1; ip link | grep -c mtu; ulimit -n";
    let rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: 512, hard: 512 }];
    let spec = ContainerSpec { rlimits, ..f.spec(script) };
    let (_, output) = f.run(spec).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..5], ["named", "named", "1", "42", "1"], "{output}");
    assert_eq!(lines.last(), Some(&"512"), "{output}");
}
