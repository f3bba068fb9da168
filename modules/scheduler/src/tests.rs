use super::*;
use crate::DefaultScheduler;
use pintle_sdk::serde_json::Value;
use pintle_sdk::{Delta, Freshness, Opinion, Scheduler};

/// A cluster to ask.
#[derive(Default)]
struct Cluster {
    scheduler: DefaultScheduler,
    generation: u64,
}

impl Cluster {
    fn new(nodes: &[Value]) -> Result<Self> {
        let mut cluster = Cluster::default();
        cluster.sync(nodes, &[])?;
        Ok(cluster)
    }

    fn sync(&mut self, nodes: &[Value], pods: &[Value]) -> Result<()> {
        let rows = |list: &[Value]| list.iter().map(|v| v.to_string().into_bytes()).collect::<Vec<_>>();
        let (nodes, pods) = (rows(nodes), rows(pods));
        let delta = Delta {
            base_generation: self.generation,
            generation: self.generation + 1,
            nodes: nodes.iter().map(Vec::as_slice).collect(),
            pods: pods.iter().map(Vec::as_slice).collect(),
            ..Delta::default()
        };
        assert_eq!(self.scheduler.sync(&delta)?, Freshness::Fresh);
        self.generation += 1;
        Ok(())
    }

    fn ask(&mut self, pods: &[Value]) -> Result<Vec<Decision>> {
        let rows: Vec<Vec<u8>> = pods.iter().map(|pod| pod.to_string().into_bytes()).collect();
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        Ok(self.scheduler.schedule(self.generation, Time(0), &rows)?.unwrap_or_default())
    }

    /// Where each pod goes, or the message.
    fn answers(&mut self, pods: &[Value]) -> Result<Vec<String>> {
        let said = |decision| match decision {
            Decision::Node(name) => name,
            Decision::Unschedulable(message) | Decision::Wait(message) => message,
            Decision::Evict { node, victims } => {
                format!("evict {} on {node}", victims.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(" "))
            }
            Decision::Prepare(writes) => format!("prepare {}", writes.iter().map(prepared).collect::<Vec<_>>().join(" ")),
        };
        Ok(self.ask(pods)?.into_iter().map(said).collect())
    }
}

/// `claim@node` or `volume->claim`.
fn prepared(write: &Write) -> String {
    let pintle_sdk::Action::Patch(_, body) = &write.action else { panic!("{write:?}") };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match body.pointer("/spec/claimRef/name") {
        Some(claim) => format!("{}->{}", write.target.name, text(claim)),
        None => format!("{}@{}", write.target.name, text(&body["metadata"]["annotations"]["volume.kubernetes.io/selected-node"])),
    }
}

fn node(name: &str, cpu: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    change(&mut node);
    node
}

fn plain(name: &str) -> Value {
    node(name, "4", |_| {})
}

fn pod(name: &str, cpu: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "100Mi"}}}]},
    });
    change(&mut pod);
    pod
}

fn check(nodes: &[Value], placed: &[Value], pods: &[Value], expected: &[&str]) -> Result<()> {
    let mut cluster = Cluster::new(nodes)?;
    cluster.sync(&[], placed)?;
    assert_eq!(cluster.answers(pods)?, expected);
    Ok(())
}

#[test]
fn pods_of_one_call_share_the_room_and_the_one_too_many_is_told_why() -> Result<()> {
    let pods: Vec<Value> = (0..5).map(|i| pod(&format!("p{i}"), "1500m", |_| {})).collect();
    let why =
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    check(&[plain("a"), plain("b")], &[], &pods, &["a", "b", "a", "b", why])
}

#[test]
fn a_decision_counts_in_the_next_call_before_it_is_confirmed() -> Result<()> {
    let mut cluster = Cluster::new(&[plain("a")])?;
    assert_eq!(cluster.answers(&[pod("p", "3", |_| {})])?, ["a"]);
    assert!(cluster.answers(&[pod("q", "3", |_| {})])?[0].starts_with("0/1 nodes are available: 1 Insufficient cpu."));
    assert_eq!(cluster.answers(&[pod("p", "3", |_| {})])?, ["a"], "the same pod again takes its own room");
    Ok(())
}

#[test]
fn a_decision_that_is_never_confirmed_is_forgotten() -> Result<()> {
    let mut cluster = Cluster::new(&[plain("a")])?;
    cluster.ask(&[pod("p", "3", |_| {})])?;
    let row = pod("q", "3", |_| {}).to_string();
    let later = cluster.scheduler.schedule(cluster.generation, Time(31_000), &[row.as_bytes()])?;
    assert_eq!(later, Some(vec![Decision::Node("a".into())]));
    Ok(())
}

#[test]
fn a_confirmed_pod_counts_once_and_frees_its_room_when_it_goes() -> Result<()> {
    let mut cluster = Cluster::new(&[plain("a")])?;
    cluster.ask(&[pod("p", "3", |_| {})])?;
    cluster.sync(&[], &[pod("p", "3", |p| p["spec"]["nodeName"] = json!("a"))])?;
    assert_eq!(cluster.answers(&[pod("q", "1", |_| {})])?, ["a"]);
    let gone =
        Delta { base_generation: cluster.generation, generation: cluster.generation + 1, gone_pods: vec!["uid-p"], ..Delta::default() };
    cluster.scheduler.sync(&gone)?;
    cluster.generation += 1;
    assert_eq!(cluster.answers(&[pod("r", "3", |_| {})])?, ["a"]);
    Ok(())
}

#[test]
fn a_pod_that_has_finished_takes_no_room() -> Result<()> {
    let done = pod("done", "3", |p| {
        p["spec"]["nodeName"] = json!("a");
        p["status"] = json!({"phase": "Succeeded"});
    });
    check(&[plain("a")], &[done], &[pod("p", "3", |_| {})], &["a"])
}

#[test]
fn a_missed_delta_is_stale_and_a_whole_state_heals_it() -> Result<()> {
    let mut cluster = Cluster::new(&[plain("a")])?;
    let skipped = Delta { base_generation: 7, generation: 8, ..Delta::default() };
    assert_eq!(cluster.scheduler.sync(&skipped)?, Freshness::Stale);
    assert_eq!(cluster.scheduler.schedule(8, Time(0), &[])?, None);
    let row = plain("b").to_string();
    let whole = Delta { generation: 8, nodes: vec![row.as_bytes()], ..Delta::default() };
    assert_eq!(cluster.scheduler.sync(&whole)?, Freshness::Fresh);
    cluster.generation = 8;
    assert_eq!(cluster.answers(&[pod("p", "1", |_| {})])?, ["b"]);
    Ok(())
}

#[test]
fn every_reason_is_counted_in_upstreams_words() -> Result<()> {
    let nodes = [
        node("cordoned", "4", |n| {
            n["spec"] = json!({"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]})
        }),
        node("tainted", "4", |n| n["spec"] = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]})),
        plain("unlabelled"),
        node("small", "500m", |n| n["metadata"]["labels"]["disk"] = json!("ssd")),
    ];
    let wants_ssd = pod("p", "1", |p| p["spec"]["nodeSelector"] = json!({"disk": "ssd"}));
    check(
        &nodes,
        &[],
        &[wants_ssd],
        &["0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector, \
        1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable. preemption: 0/4 nodes are available: \
        1 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling."],
    )?;
    check(&[], &[], &[pod("p", "1", |_| {})], &["no nodes available to schedule pods"])
}

#[test]
fn tolerations_let_pods_onto_tainted_nodes() -> Result<()> {
    let tainted = node("a", "4", |n| n["spec"] = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoExecute"}]}));
    for toleration in [
        json!({"operator": "Exists"}),
        json!({"key": "gpu", "value": "yes"}),
        json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}),
    ] {
        check(std::slice::from_ref(&tainted), &[], &[pod("p", "1", |p| p["spec"]["tolerations"] = json!([toleration]))], &["a"])?;
    }
    let soft = node("a", "4", |n| n["spec"] = json!({"taints": [{"key": "x", "effect": "PreferNoSchedule"}]}));
    check(&[soft, plain("b")], &[], &[pod("p", "1", |_| {})], &["b"])
}

#[test]
fn node_affinity_requires_and_prefers() -> Result<()> {
    let zone = |name: &str, zone: &str| node(name, "4", |n| n["metadata"]["labels"]["zone"] = json!(zone));
    let nodes = [zone("a", "one"), zone("b", "two"), zone("c", "three")];
    let affine = |kind: &str, body: Value| pod("p", "1", |p| p["spec"]["affinity"] = json!({"nodeAffinity": {kind: body}}));
    let within = |values: Value| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": values}]});
    let required = json!({"nodeSelectorTerms": [within(json!(["two"])), {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["zz"]}]}]});
    check(&nodes, &[], &[affine("requiredDuringSchedulingIgnoredDuringExecution", required)], &["b"])?;
    let preferred = json!([{"weight": 50, "preference": within(json!(["three"]))}]);
    check(&nodes, &[], &[affine("preferredDuringSchedulingIgnoredDuringExecution", preferred)], &["c"])
}

#[test]
fn pods_of_one_owner_spread_over_nodes_unasked() -> Result<()> {
    let owned =
        |i: usize| pod(&format!("p{i}"), "100m", |p| p["metadata"]["labels"]["apps.kubernetes.io/pod-index"] = json!(i.to_string()));
    let mut cluster = Cluster::new(&[plain("a"), plain("b"), plain("c")])?;
    let pods: Vec<Value> = (0..9).map(owned).collect();
    let mut answers = cluster.answers(&pods)?;
    answers.sort();
    assert_eq!(answers, ["a", "a", "a", "b", "b", "b", "c", "c", "c"]);
    Ok(())
}

#[test]
fn topology_spread_keeps_the_skew() -> Result<()> {
    let zoned = |name: &str, zone: &str| node(name, "4", |n| n["metadata"]["labels"]["zone"] = json!(zone));
    let spread = |i: usize| {
        pod(&format!("p{i}"), "1", |p| {
            p["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        })
    };
    let mut cluster = Cluster::new(&[zoned("a", "x"), node("b", "1", |n| n["metadata"]["labels"]["zone"] = json!("y")), plain("c")])?;
    let pods: Vec<Value> = (0..4).map(spread).collect();
    let answers = cluster.answers(&pods)?;
    let mut placed = answers[..3].to_vec();
    placed.sort();
    assert_eq!(placed, ["a", "a", "b"]);
    assert!(answers[3].contains("1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label)."), "{}", answers[3]);
    Ok(())
}

#[test]
fn pods_that_want_company_get_it_and_those_that_shun_it_keep_away() -> Result<()> {
    let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let with = |kind: &str, name: &str, app: &str| {
        pod(name, "100m", |p| {
            p["metadata"]["labels"]["app"] = json!(app);
            p["spec"]["affinity"] = json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        })
    };
    let nodes = [plain("a"), plain("b")];
    let placed = [pod("web", "1", |p| p["spec"]["nodeName"] = json!("b"))];
    check(&nodes, &placed, &[with("podAffinity", "friend", "friend")], &["b"])?;
    check(&nodes, &[], &[with("podAffinity", "first", "web"), with("podAffinity", "second", "web")], &["a", "a"])?;
    let why = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    let apart = |name| with("podAntiAffinity", name, "web");
    check(&nodes, &[], &[apart("x"), apart("y"), apart("z")], &["a", "b", why])?;
    let loner = with("podAntiAffinity", "loner", "loner");
    let placed = [{
        let mut pod = loner.clone();
        pod["spec"]["nodeName"] = json!("a");
        pod
    }];
    check(&nodes, &placed, &[pod("w", "100m", |_| {})], &["b"])
}

#[test]
fn host_ports_and_pod_counts_are_kept() -> Result<()> {
    let port = |name: &str| pod(name, "100m", |p| p["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]));
    let taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    check(&[plain("a")], &[], &[port("p"), port("q")], &["a", taken])?;
    let full =
        "0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let one = node("a", "4", |n| n["status"]["allocatable"]["pods"] = json!("1"));
    check(&[one], &[], &[pod("p", "1m", |_| {}), pod("q", "1m", |_| {})], &["a", full])
}

#[test]
fn init_containers_and_overhead_count() -> Result<()> {
    let starting = pod("p", "1", |p| {
        p["spec"]["initContainers"] = json!([
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            {"resources": {"requests": {"cpu": "2500m"}}},
        ]);
        p["spec"]["overhead"] = json!({"cpu": "250m"});
    });
    check(&[node("a", "3700m", |_| {}), node("b", "3800m", |_| {})], &[], &[starting], &["b"])
}

#[test]
fn a_gated_pod_waits() -> Result<()> {
    let gated = pod("p", "1", |p| p["spec"]["schedulingGates"] = json!([{"name": "x"}]));
    check(&[plain("a")], &[], &[gated], &["Scheduling is blocked due to non-empty scheduling gates"])
}

#[test]
fn an_important_pod_ends_the_least_important_ones_and_is_awaited() -> Result<()> {
    let placed = |name: &str, node: &str, priority: i32| {
        pod(name, "2", |p| {
            p["spec"]["nodeName"] = json!(node);
            p["spec"]["priority"] = json!(priority);
        })
    };
    let mut cluster = Cluster::new(&[plain("a"), plain("b")])?;
    cluster.sync(&[], &[placed("a1", "a", 5), placed("a2", "a", 7), placed("b1", "b", 3), placed("b2", "b", 9)])?;
    let important = pod("vip", "1", |p| p["spec"]["priority"] = json!(100));
    assert_eq!(cluster.answers(std::slice::from_ref(&important))?, ["evict b1 on b"]);
    let mut going = placed("b1", "b", 3);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    cluster.sync(&[], &[going])?;
    assert!(
        cluster.answers(std::slice::from_ref(&important))?[0].starts_with("0/2 nodes are available: 2 Insufficient cpu."),
        "no second eviction"
    );
    let gone =
        Delta { base_generation: cluster.generation, generation: cluster.generation + 1, gone_pods: vec!["uid-b1"], ..Delta::default() };
    cluster.scheduler.sync(&gone)?;
    cluster.generation += 1;
    assert!(cluster.answers(&[pod("thief", "2", |_| {})])?[0].starts_with("0/2"), "the room is kept");
    assert_eq!(cluster.answers(&[important])?, ["b"]);
    Ok(())
}

#[test]
fn of_one_call_the_important_pods_go_first() -> Result<()> {
    let low = pod("low", "3", |_| {});
    let high = pod("high", "3", |p| p["spec"]["priority"] = json!(10));
    let answers = Cluster::new(&[plain("a")])?.answers(&[low, high])?;
    assert_eq!(answers[1], "a");
    assert!(answers[0].starts_with("0/1"));
    Ok(())
}

#[test]
fn a_thousand_pods_on_a_hundred_nodes_take_well_under_a_second() -> Result<()> {
    let nodes: Vec<Value> = (0..100).map(|i| plain(&format!("n{i:03}"))).collect();
    let owned = |i: usize| pod(&format!("p{i}"), "10m", |_| {});
    let pods: Vec<Value> = (0..1_000).map(owned).collect();
    let start = std::time::Instant::now();
    let decisions = Cluster::new(&nodes)?.ask(&pods)?;
    assert!(decisions.iter().all(|d| matches!(d, Decision::Node(_))));
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
    println!("1000 pods on 100 nodes: {:?}", start.elapsed());
    Ok(())
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode})
}

fn claim(name: &str, class: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut claim = json!({
        "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    change(&mut claim);
    claim
}

fn bound(volume: &str) -> impl FnOnce(&mut Value) {
    let volume = json!(volume);
    move |claim| {
        claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = json!("yes");
        claim["spec"]["volumeName"] = volume;
        claim["status"]["phase"] = json!("Bound");
    }
}

fn volume(name: &str, class: &str, node: &str, claim: Option<&str>) -> Value {
    let place = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
    json!({
        "kind": "PersistentVolume", "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {
            "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "claimRef": claim.map(|name| json!({"namespace": "shop", "name": name, "uid": format!("uid-{name}")})),
            "nodeAffinity": {"required": {"nodeSelectorTerms": place}},
        },
        "status": {"phase": if claim.is_some() { "Bound" } else { "Available" }},
    })
}

fn mounts(name: &str, claims: &[&str]) -> Value {
    let volumes: Vec<Value> = claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
    pod(name, "100m", |p| p["spec"]["volumes"] = json!(volumes))
}

impl Cluster {
    fn store(&mut self, objects: &[Value], gone: &[&str]) -> Result<()> {
        let rows: Vec<Vec<u8>> = objects.iter().map(|v| v.to_string().into_bytes()).collect();
        let delta = Delta {
            base_generation: self.generation,
            generation: self.generation + 1,
            objects: rows.iter().map(Vec::as_slice).collect(),
            gone_objects: gone.to_vec(),
            ..Delta::default()
        };
        assert_eq!(self.scheduler.sync(&delta)?, Freshness::Fresh);
        self.generation += 1;
        Ok(())
    }
}

const LATER: &str = "WaitForFirstConsumer";

fn check_volumes(objects: &[Value], pods: &[Value], expected: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::new(&[plain("a"), plain("b")])?;
    cluster.store(objects, &[])?;
    let answers = cluster.answers(pods)?;
    for (answer, expected) in answers.iter().zip(expected) {
        assert!(answer.starts_with(expected), "{answer:?}, not {expected:?}");
    }
    Ok(cluster)
}

#[test]
fn a_pod_goes_where_its_volumes_are() -> Result<()> {
    let on = |name: &str, node: &str| [claim(name, "", bound(&format!("v-{name}"))), volume(&format!("v-{name}"), "", node, Some(name))];
    let objects = [on("x", "b"), on("y", "a")].concat();
    let nowhere = "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity. preemption: 0/2";
    check_volumes(&objects, &[mounts("p", &["x"]), mounts("q", &["y"]), mounts("r", &["x", "y"])], &["b", "a", nowhere]).map(drop)
}

#[test]
fn a_copy_is_made_where_its_original_is() -> Result<()> {
    let made = |mut volume: Value, kind: &str| {
        volume["metadata"]["finalizers"] = json!([pintle_sdk::PROVISIONED_FINALIZER]);
        volume["spec"]["claimRef"]["kind"] = json!(kind);
        volume
    };
    let copies = |name: &str, source: Value| claim(name, "fast", move |c| c["spec"]["dataSource"] = source);
    let objects = [
        class("fast", "pintle.dev/local-path", LATER),
        claim("x", "fast", bound("v-x")),
        made(volume("v-x", "fast", "b", Some("x")), "PersistentVolumeClaim"),
        made(volume("v-s", "", "a", Some("x")), "VolumeSnapshot"),
        copies("clone", json!({"kind": "PersistentVolumeClaim", "name": "x"})),
        copies("restored", json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "x"})),
    ];
    check_volumes(&objects, &[mounts("p", &["clone"])], &["prepare clone@b"])?;
    check_volumes(&objects, &[mounts("p", &["restored"])], &["prepare restored@a"])?;
    check_volumes(&objects, &[mounts("p", &["clone", "restored"])], &["0/2 nodes are available"]).map(drop)
}

#[test]
fn a_claim_that_cannot_be_used_says_why_once_for_all_nodes() -> Result<()> {
    let going = |claim: &mut Value| claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for (objects, why) in [
        (vec![], "persistentvolumeclaim \"x\" not found"),
        (vec![claim("x", "", |_| {})], "pod has unbound immediate PersistentVolumeClaims"),
        (vec![claim("x", "now", |_| {}), class("now", "x.y/z", "Immediate")], "pod has unbound immediate PersistentVolumeClaims"),
        (vec![claim("x", "", going)], "persistentvolumeclaim \"x\" is being deleted"),
        (
            vec![claim("x", "", |c| c["status"]["phase"] = json!("Lost"))],
            "persistentvolumeclaim \"x\" bound to non-existent persistentvolume",
        ),
        (vec![claim("x", "", bound("v"))], "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
    ] {
        check_volumes(&objects, &[mounts("p", &["x"])], &[&format!("0/2 nodes are available: {why}")])?;
    }
    let own = pod("p", "1", |p| p["spec"]["volumes"] = json!([{"name": "s", "ephemeral": {}}]));
    check_volumes(
        &[],
        &[own],
        &["0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-s\""],
    )
    .map(drop)
}

#[test]
fn a_driver_has_no_more_volumes_on_a_node_than_it_says() -> Result<()> {
    let limit = |node: &str| json!({"kind": "CSINode", "metadata": {"name": node}, "spec": {"drivers": [{"name": "x.y/z", "allocatable": {"count": 1}}]}});
    let of_driver = |name: &str, node: &str| {
        let mut volume = volume(&format!("v-{name}"), "", node, Some(name));
        volume["spec"]["csi"] = json!({"driver": "x.y/z", "volumeHandle": name});
        [claim(name, "", bound(&format!("v-{name}"))), volume]
    };
    let waits = [class("made", "x.y/z", LATER), claim("w", "made", |_| {})];
    let objects = [&[limit("a"), limit("b")][..], &of_driver("x", "a"), &of_driver("y", "a"), &waits].concat();
    let full = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) exceed max volume count";
    // The same volume counts once; the one that is made for a claim counts, too.
    let pods = [mounts("p", &["x"]), mounts("q", &["y"]), mounts("r", &["x"]), mounts("s", &["w"])];
    check_volumes(&objects, &pods, &["a", full, "a", "prepare w@b"]).map(drop)
}

#[test]
fn a_claim_that_waits_gets_a_node_before_its_pod_does() -> Result<()> {
    let made = class("made", "x.y/z", LATER);
    let waiting = claim("x", "made", |_| {});
    let mut cluster = check_volumes(&[made, waiting.clone()], &[mounts("p", &["x"])], &["prepare x@a"])?;
    assert_eq!(cluster.answers(&[mounts("p", &["x"])])?, ["prepare "], "it waits for its volume, and asks for nothing twice");
    let mut chosen = waiting;
    chosen["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "a"});
    cluster.store(&[chosen.clone()], &[])?;
    assert_eq!(cluster.answers(&[mounts("p", &["x"])])?, ["prepare "]);
    bound("v")(&mut chosen);
    cluster.store(&[chosen, volume("v", "made", "a", Some("x"))], &[])?;
    assert_eq!(cluster.answers(&[mounts("p", &["x"])])?, ["a"]);
    cluster.store(&[], &["persistentvolumeclaims/shop/x"])?;
    assert!(cluster.answers(&[mounts("q", &["x"])])?[0].contains("not found"));
    Ok(())
}

#[test]
fn free_volumes_are_given_to_one_claim_each() -> Result<()> {
    let objects = [
        class("local", "kubernetes.io/no-provisioner", LATER),
        claim("x", "local", |_| {}),
        claim("y", "local", |_| {}),
        claim("z", "local", |_| {}),
        volume("v1", "local", "a", None),
        volume("v2", "local", "b", None),
    ];
    let none = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    let pods = [mounts("p", &["x"]), mounts("q", &["y"]), mounts("r", &["z"])];
    check_volumes(&objects, &pods, &["prepare v1->x", "prepare v2->y", none])?;
    check_volumes(&objects, &[mounts("both", &["x", "y"])], &[none]).map(drop)
}

#[test]
fn a_claim_for_one_pod_is_one_pods() -> Result<()> {
    let once = |c: &mut Value| {
        bound("v")(c);
        c["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    };
    let why = "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.";
    let objects = [claim("x", "", once), volume("v", "", "a", Some("x"))];
    check_volumes(&objects, &[mounts("p", &["x"]), mounts("q", &["x"])], &["a", why]).map(drop)
}

#[test]
fn what_plugins_say_counts_with_what_the_scheduler_knows() -> Result<()> {
    // Given in another order than that of their names, which is how plugins count.
    let mut cluster = Cluster::new(&[plain("c"), plain("a"), plain("b")])?;
    let mut ask = |name: &str, opinions: &[Opinion<'_>]| -> Result<Decision> {
        let row = pod(name, "1", |_| {}).to_string();
        let answer = cluster.scheduler.schedule_with(cluster.generation, Time(0), &[row.as_bytes()], opinions)?;
        Ok(answer.unwrap_or_default().remove(0))
    };
    let opinion = |weight, scores: [i16; 3]| Opinion {
        plugin: "p",
        weight,
        scores: scores.to_vec(),
        reasons: vec!["node(s) were denied", "node(s) were full"],
    };
    assert_eq!(ask("p1", &[opinion(10, [-1, 100, 0])])?, Decision::Node("b".into()));
    assert_eq!(ask("p2", &[opinion(10, [-1, 100, 0]), opinion(1, [0, -1, 0])])?, Decision::Node("c".into()));
    let nowhere = ask("p3", &[opinion(1, [-1, -2, 0]), opinion(1, [0, 0, -1])])?;
    let message = "0/3 nodes are available: 1 node(s) were full, 2 node(s) were denied. \
        preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    assert_eq!(nowhere, Decision::Unschedulable(message.into()));
    Ok(())
}
