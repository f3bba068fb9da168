//! User namespaces: root inside is nobody outside.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pintle_runtime_bridge::{
    ContainerSpec, Error, ExecSpec, IdRange, Mount, MountSource, NetNs, Propagation, SandboxSpec, Scope, Security, TerminalSize, User,
};

use crate::fixture::{Fixture, command, log_text, until};

const RANGE: IdRange = IdRange { first: 7 << 16, length: 1 << 16 };

fn spec() -> SandboxSpec {
    SandboxSpec { hostname: Some("box".to_owned()), user_namespace: Some(RANGE), ..SandboxSpec::default() }
}

/// Whether file systems can be shown with mapped ids here; told when not.
fn able() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    let on_tmpfs = nix::sys::statfs::statfs(&std::env::temp_dir()).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    let able = (numbers[0], numbers[1]) >= if on_tmpfs { (6, 3) } else { (5, 19) };
    if !able {
        println!("skipped: user namespaces for containers need Linux 5.19, 6.3 on a tmpfs");
    }
    able
}

fn line(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn root_inside_is_nobody_outside_and_owns_its_own_world() {
    crate::require_containers!();
    if !able() {
        return;
    }
    let f = Fixture::with(spec()).await;
    let volume = f.dir.join("volume");
    std::fs::create_dir(&volume).expect("a volume");
    std::fs::write(volume.join("given"), "x").expect("a file");
    let tmpfs = Mount {
        source: MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o755 },
        target: "/fresh".to_owned(),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        no_exec: false,
        relabel: false,
    };
    let script = "cat /proc/self/uid_map /proc/self/gid_map | awk '{ print $1, $2, $3 }'; id -u; id -g; hostname; \
                  touch /mine /fresh/mine /dev/shm/mine /volume/mine && stat -c %u:%g / /mine /fresh /fresh/mine /dev /volume /volume/given /volume/mine; \
                  mkdir /tmp/d && echo data > /tmp/d/f && rm -r /tmp/d && rm /bin/tty && echo wrote; \
                  grep CapEff /proc/self/status; echo x > /dev/stdout; head -c1 /dev/zero > /dev/null && echo devices; \
                  ip link add d0 type dummy 2>/dev/null && echo link; touch /volume/ready; while true; do sleep 0.05; done";
    let security = Security { add_capabilities: vec!["NET_ADMIN".to_owned()], ..Security::default() };
    let mounts = vec![Mount::bind(&volume, "/volume"), tmpfs];
    let id = f.start(ContainerSpec { mounts, security, ..f.spec(script) }).await;
    until("its last word", || volume.join("ready").exists()).await;
    let (shown, first) = (format!("0 {} 65536\n", RANGE.first), RANGE.first);
    let owned = "0:0\n".repeat(8);
    let log = log_text(&f.dir.join("log"));
    let expected = format!("{shown}{shown}0\n0\nbox\n{owned}wrote\nCapEff:\t00000000a80435fb\nx\ndevices\nlink\n");
    // Whether there are dummy links is the machine's affair.
    assert_eq!(log.replace("link\n", ""), expected.replace("link\n", ""));

    let pid = f.runtime.state(&id).await.expect("state").pid.expect("it runs");
    let outside = line(&format!("/proc/{pid}/status"), "Uid:");
    assert_eq!(outside, [first; 4].map(|id| id.to_string()).join(" "), "nobody of the node");
    let mine = std::fs::metadata(volume.join("mine")).expect("made");
    assert_eq!((mine.uid(), mine.gid()), (0, 0), "on the disk it is root's, as a pod without would have made it");

    let (code, out, _) =
        f.exec(&id, command(&["sh", "-c", "id -u; awk '{ print $2 }' /proc/self/uid_map; touch /by-exec && stat -c %u /by-exec"])).await;
    assert_eq!((code, out), (0, format!("0\n{first}\n0\n")));
    let user = Some(User { uid: Some(1000), gid: Some(1000), ..User::default() });
    let size = Some(TerminalSize { width: 80, height: 24 });
    let words = ["sh", "-c", "id -u; stat -c %u $(readlink /proc/self/fd/0); touch /denied 2>/dev/null || echo denied"].map(str::to_owned);
    let (code, out, _) = f.exec(&id, ExecSpec { command: words.to_vec(), user, tty: true, size, ..ExecSpec::default() }).await;
    assert_eq!((code, out.replace('\r', "").as_str()), (0, "1000\n1000\ndenied\n"));
    f.runtime.kill(&id).await.expect("killed");
    f.runtime.wait(&id).await.expect("ended");
    f.runtime.remove(&id).await.expect("removed");
}

#[tokio::test]
async fn all_power_inside_is_none_outside() {
    crate::require_containers!();
    if !able() {
        return;
    }
    let f = Fixture::with(SandboxSpec { pid: Some(Scope::Pod), ..spec() }).await;
    let secret = f.dir.join("secret");
    std::fs::create_dir(&secret).expect("a directory");
    std::fs::write(secret.join("key"), "x").expect("a file");
    std::os::unix::fs::chown(secret.join("key"), Some(70_000), Some(70_000)).expect("owned by nobody of the pod");
    std::fs::set_permissions(secret.join("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("closed");
    let before = std::fs::read_to_string("/proc/sys/kernel/panic").expect("readable");
    let script = "grep CapEff /proc/self/status; cat /secret/key 2>/dev/null || echo unreadable; chown 0 /secret/key 2>/dev/null || echo kept; \
                  echo 77 2>/dev/null > /proc/sys/kernel/panic || echo refused; mknod /tmp/d b 8 0 2>/dev/null || echo no node; \
                  mount -t tmpfs x /tmp && touch /tmp/x && echo mounted; hostname other && hostname; \
                  for d in /dev/vda /dev/sda; do [ -e $d ] && head -c1 $d >/dev/null 2>&1 && echo read $d; done; kill -9 1 2>/dev/null || echo spared";
    let security = Security { privileged: true, ..Security::default() };
    let (code, out) = f.run(ContainerSpec { security, mounts: vec![Mount::bind(&secret, "/secret")], ..f.spec(script) }).await;
    assert_eq!((code, out.as_str()), (0, "CapEff:\t000001ffffffffff\nunreadable\nkept\nrefused\nno node\nmounted\nother\nspared\n"));
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/panic").expect("readable"), before);
    let node = nix::unistd::gethostname().expect("a name");
    assert_ne!(node.to_string_lossy(), "other");
}

#[tokio::test]
async fn what_cannot_be_mapped_is_refused_by_its_name() {
    crate::require_containers!();
    if !able() {
        return;
    }
    let f = Fixture::with(spec()).await;
    // /proc is a file system that knows no mapping.
    let mounts = vec![Mount::bind(Path::new("/proc"), "/host-proc")];
    let id = f.runtime.create_container(ContainerSpec { mounts, ..f.spec("true") }).await.expect("create");
    let refused = f.runtime.start(&id).await.expect_err("refused").to_string();
    assert!(refused.contains("/host-proc") && refused.contains("user namespace"), "{refused}");
    for sandbox in [
        SandboxSpec { netns: NetNs::Host, ..spec() },
        SandboxSpec { pid: Some(Scope::Host), ..spec() },
        SandboxSpec { user_namespace: Some(IdRange { first: 0, length: 65_536 }), ..SandboxSpec::default() },
        SandboxSpec { user_namespace: Some(IdRange { first: u32::MAX, length: 2 }), ..SandboxSpec::default() },
    ] {
        let refused = f.runtime.create_sandbox(sandbox).await;
        assert!(matches!(&refused, Err(Error::InvalidSpec { field, .. }) if *field == "user_namespace"), "{refused:?}");
    }
}
