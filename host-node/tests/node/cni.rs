//! Pods on a network of CNI plugins: Debian's, and small ones of this test where their versions end. All of them do what they say.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kernel::Kernel;
use crate::machine::{Machine, pod, run_natively, uid};

/// Debian's plugins (`containernetworking-plugins`).
const PLUGINS: &str = "/usr/lib/cni";

/// Calls the plugin that it stands for, and keeps what passes.
const WITNESS: &str = r#"#!/bin/sh
input=$(cat)
printf '%s' "$input" > DIRECTORY/$CNI_COMMAND-KIND.json
env | grep ^CNI_ > DIRECTORY/$CNI_COMMAND-KIND.env
printf '%s' "$input" | /usr/lib/cni/KIND
"#;

/// A plugin of version 1.1.0: an interface that leads nowhere, and the newer questions.
const ISLAND: &str = r#"#!/bin/sh
fail() { printf '{ "cniVersion": "1.1.0", "code": %s, "msg": "%s", "details": "%s" }' "$1" "$2" "$3"; exit 1; }
input=$(cat)
case $CNI_COMMAND in
ADD)
    test -e DIRECTORY/closed && fail 11 'the ferry is away' 'ask later'
    nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type bridge || fail 100 'no link' ''
    nsenter --net="$CNI_NETNS" ip address add 10.213.73.9/32 dev "$CNI_IFNAME"
    echo '{ "cniVersion": "1.1.0", "ips": [{ "address": "10.213.73.9/32" }] }' ;;
DEL) test -e "$CNI_NETNS" && nsenter --net="$CNI_NETNS" ip link del "$CNI_IFNAME"; echo "$CNI_CONTAINERID" >> DIRECTORY/deleted ;;
CHECK) test -e DIRECTORY/flood && fail 12 'under water' '' ;;
GC) printf '%s' "$input" > DIRECTORY/gc ;;
STATUS) test -e DIRECTORY/closed && fail 50 'the island is closed' '' ;;
esac
exit 0
"#;

/// Directories of configurations and programs beside the machine's own, and the machine told of them.
struct Ground {
    conf: PathBuf,
    programs: PathBuf,
    notes: PathBuf,
}

impl Ground {
    /// `None`, with a word, where there are no plugins.
    fn of(machine: &mut Machine) -> Option<Self> {
        if !Path::new(PLUGINS).join("bridge").exists() {
            println!("skipped: needs Debian's containernetworking-plugins");
            return None;
        }
        let [conf, programs, notes] = ["cni-conf", "cni-bin", "cni-notes"].map(|name| machine.dir.join(name));
        for directory in [&conf, &programs, &notes] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        let told = [conf.display().to_string(), format!("{},{PLUGINS}", programs.display())];
        machine.extra = vec!["--cni-conf-dir".into(), told[0].clone(), "--cni-bin-dir".into(), told[1].clone()];
        Some(Self { conf, programs, notes })
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.programs.join(name);
        let text = text.replace("DIRECTORY", &self.notes.display().to_string()).replace("KIND", name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    }

    fn network(&self, list: &Value) {
        std::fs::write(self.conf.join("10-pods.conflist"), list.to_string()).expect("written");
    }

    fn note(&self, name: &str) -> Value {
        std::fs::read(self.notes.join(name)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Addresses that `host-local` has given.
    fn given(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.notes.join("ipam/pods")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("10.")).collect()
    }
}

/// The plugins' bridge, removed with the test.
struct Bridge(String);

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

impl Bridge {
    fn ports(&self) -> usize {
        std::fs::read_dir(format!("/sys/class/net/{}/brif", self.0)).into_iter().flatten().count()
    }
}

fn list(machine: &Machine, ground: &Ground) -> (Value, Bridge) {
    let bridge = format!("cni{}-{}", machine.number, std::process::id() % 100_000);
    let subnet = format!("10.213.{}.0/24", machine.number);
    let list = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
        { "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true, "hairpinMode": true, "capabilities": { "ips": true },
          "ipam": { "type": "host-local", "dataDir": ground.notes.join("ipam"), "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ] });
    (list, Bridge(bridge))
}

fn rules() -> String {
    let output = std::process::Command::new("iptables").args(["-t", "nat", "-S"]).output().expect("iptables comes with the plugins");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn web(name: &str, more: &Value) -> Value {
    let serve = ["sh", "-c", "echo hello > /www/index.html; httpd -f -p 8080 -h /www"];
    let mut pod = pod(name, json!({ "containers": [{ "name": "c", "command": serve, "ports": more["ports"] }] }));
    pod["metadata"]["annotations"] = more["annotations"].clone();
    pod
}

/// What a web server at an address says to a program of this machine.
fn ask(to: SocketAddr) -> String {
    use std::io::Write;
    let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else { return "no connection".into() };
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut said = String::new();
    let _ = stream.read_to_string(&mut said);
    said.lines().last().unwrap_or_default().to_owned()
}

async fn event(kernel: &Kernel, reason: &str, words: &str) {
    let fits = |event: &&Value| event["reason"] == reason && event["message"].as_str().is_some_and(|text| text.contains(words));
    kernel.until(&format!("an event {reason} with {words:?}"), |s| s.events.values().find(fits).map(|_| ())).await;
}

async fn ready(kernel: &Kernel, status: &str) -> Value {
    let row = |s: &crate::kernel::State| {
        let all = s.node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|row| row["type"] == "Ready" && row["status"] == status)
    };
    kernel.until(&format!("the node's Ready to be {status}"), row).await
}

#[test]
fn plugins_of_a_list_plug_pods_in_and_out_over_a_killed_daemon() {
    run_natively(71, "the node calls the plugins of these tests itself", |mut machine, kernel| async move {
        let Some(ground) = Ground::of(&mut machine) else { return };
        let (list, bridge) = list(&machine, &ground);
        ["bridge", "portmap"].into_iter().for_each(|name| ground.program(name, WITNESS));
        ground.network(&list);
        machine.start(&kernel);
        let before = rules();
        let annotations = json!({ "kubernetes.io/egress-bandwidth": "100M", "pintle.dev/pod-ips": "10.213.71.77" });
        let web = web("web", &json!({ "annotations": annotations, "ports": [{ "containerPort": 8080, "hostPort": 17_171 }] }));
        let client = pod("client", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] }));
        kernel.put_pod(web.clone()).await;
        assert_eq!(kernel.until_ready(uid(&web)).await["status"]["podIP"], "10.213.71.77");
        let told = ground.note("ADD-portmap.json");
        assert_eq!(told["runtimeConfig"]["portMappings"], json!([{ "hostPort": 17_171, "containerPort": 8080, "protocol": "tcp" }]));
        assert_eq!(told["prevResult"]["ips"][0]["address"], "10.213.71.77/24");
        let env = std::fs::read_to_string(ground.notes.join("ADD-bridge.env")).expect("noted");
        for part in ["CNI_IFNAME=eth0", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;", "K8S_POD_UID=web-0001-4000"] {
            assert!(env.contains(part), "{part} in {env}");
        }
        kernel.put_pod(client.clone()).await;
        kernel.until_ready(uid(&client)).await;
        let asked = kernel.exec(&client, "c", &["wget", "-q", "-O", "-", "http://10.213.71.77:8080/"], None).await;
        assert_eq!(asked.expect("asked").1, "hello\n");
        // The port of the machine is the plugin's.
        let port = SocketAddr::from(([10, 213, 71, 1], 17_171));
        assert_eq!(ask(port), "hello");
        assert_eq!((bridge.ports(), ground.given().len()), (2, 2));

        machine.kill();
        kernel.erase_pod(uid(&client)).await;
        // The network of tomorrow does not matter to what was plugged in today.
        ground.network(&json!({ "cniVersion": "1.0.0", "name": "other", "plugins": [{ "type": "no-such-plugin" }] }));
        machine.start(&kernel);
        let checked = ground.notes.join("CHECK-bridge.json");
        kernel.until("the plugins to be asked whether all is well", |_| checked.exists().then_some(())).await;
        kernel.until("the erased pod to be unplugged", |_| (bridge.ports() == 1 && ground.given().len() == 1).then_some(())).await;
        assert_eq!(ask(port), "hello");
        kernel.delete_pod(uid(&web), 1).await;
        kernel.until_removed(uid(&web)).await;
        assert_eq!(ground.note("DEL-portmap.json")["prevResult"]["ips"][0]["address"], "10.213.71.77/24");
        assert_eq!((bridge.ports(), ground.given()), (0, Vec::new()));
        assert_eq!(std::fs::read_dir(machine.state_dir().join("cni")).expect("readable").count(), 0);
        let left: Vec<_> = rules().lines().filter(|line| line.contains("10.213.71.") || line.contains("web")).map(str::to_owned).collect();
        assert_eq!(left, Vec::<String>::new(), "before: {before}");
    });
}

#[test]
fn what_a_plugin_says_is_told_on_the_pod_and_the_node_is_not_ready_without_a_network() {
    run_natively(73, "the node calls the plugins of these tests itself", |mut machine, kernel| async move {
        let Some(ground) = Ground::of(&mut machine) else { return };
        ground.program("island", ISLAND);
        machine.start(&kernel);
        let row = ready(&kernel, "False").await;
        let words = row["message"].as_str().expect("a message");
        assert!(words.contains("NetworkPluginNotReady") && words.contains("no networks found"), "{words}");
        let lonely = pod("lonely", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] }));
        kernel.put_pod(lonely.clone()).await;
        event(&kernel, "FailedCreatePodSandBox", "no networks found in").await;

        std::fs::write(ground.notes.join("closed"), "").expect("written");
        ground.network(&json!({ "cniVersion": "1.1.0", "name": "pods", "plugins": [{ "type": "island" }] }));
        event(&kernel, "FailedCreatePodSandBox", r#"plugin type="island" failed (add): the ferry is away; ask later"#).await;
        kernel.until("the reason that the plugin gives", |s| s.node.to_string().contains("the island is closed").then_some(())).await;
        assert!(ground.notes.join("deleted").exists(), "what a failed ADD left is taken back");
        std::fs::remove_file(ground.notes.join("closed")).expect("removed");
        ready(&kernel, "True").await;
        assert_eq!(kernel.until_ready(uid(&lonely)).await["status"]["podIP"], "10.213.73.9");

        machine.kill();
        std::fs::write(ground.notes.join("flood"), "").expect("written");
        machine.start(&kernel);
        event(&kernel, "NetworkCheckFailed", r#"plugin type="island" failed (check): under water"#).await;
        kernel.until("the plugin to be told what is left", |_| (!ground.note("gc").is_null()).then_some(())).await;
        let left = ground.note("gc")["cni.dev/valid-attachments"].clone();
        assert_eq!((left.as_array().map(Vec::len), &left[0]["ifname"]), (Some(1), &json!("eth0")));
        kernel.delete_pod(uid(&lonely), 0).await;
        kernel.until_removed(uid(&lonely)).await;
        let deleted = std::fs::read_to_string(ground.notes.join("deleted")).expect("noted");
        assert!(deleted.contains(left[0]["containerID"].as_str().expect("an id")), "{deleted}");
    });
}

#[test]
fn purge_has_the_plugins_take_back_what_they_made() {
    run_natively(74, "the node calls the plugins of these tests itself", |mut machine, kernel| async move {
        let Some(ground) = Ground::of(&mut machine) else { return };
        let (list, bridge) = list(&machine, &ground);
        ground.network(&list);
        machine.start(&kernel);
        let left = web("left", &json!({ "ports": [{ "containerPort": 8080, "hostPort": 17_474 }] }));
        kernel.put_pod(left.clone()).await;
        kernel.until_ready(uid(&left)).await;
        assert_eq!(ground.given().len(), 1);
        machine.kill();
        machine.purge();
        assert_eq!((bridge.ports(), ground.given()), (0, Vec::new()));
        assert!(!rules().contains("17474"), "{}", rules());
        assert_eq!(machine.remains(), Vec::<String>::new());
    });
}
