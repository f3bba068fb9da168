use super::*;
use crate::NodeLifecycle;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::FakeKernel;
use std::collections::BTreeMap;

fn module() -> NodeLifecycle {
    NodeLifecycle { grace: Duration::from_secs(40), started: None, vanished: BTreeMap::new() }
}

fn ready(status: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {}, "status": {"conditions": [
        {"type": "Ready", "status": status, "reason": "KubeletReady", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Custom", "status": "True"}]}})
}

fn kernel() -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
    kernel.put(ready("True"))?;
    renew(&mut kernel)?;
    Ok(kernel)
}

fn renew(kernel: &mut FakeKernel) -> Result<()> {
    let now = kernel.now();
    kernel
        .put(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"},
        "spec": {"renewTime": now}}))?;
    Ok(())
}

fn pod(kernel: &mut FakeKernel, name: &str, tolerations: Value) -> Result<()> {
    kernel.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "n1", "tolerations": tolerations}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}))?;
    Ok(())
}

fn patient(seconds: i64) -> Value {
    json!([
        {"key": NOT_READY, "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": seconds},
        {"key": UNREACHABLE, "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": seconds},
    ])
}

fn node(kernel: &FakeKernel) -> Value {
    kernel.get("/nodes", "", "n1").cloned().unwrap_or_default()
}

fn condition(kernel: &FakeKernel, kind: &str) -> String {
    let node = node(kernel);
    let found = node["status"]["conditions"].as_array().and_then(|list| list.iter().find(|c| c["type"] == kind)).cloned();
    found.map_or(String::new(), |c| c["status"].as_str().unwrap_or("").to_owned())
}

fn taints(kernel: &FakeKernel) -> Vec<String> {
    let text = |taint: &Value, field: &str| taint[field].as_str().unwrap_or("").to_owned();
    let list = node(kernel)["spec"]["taints"].as_array().cloned().unwrap_or_default();
    list.iter().map(|taint| format!("{}:{}", text(taint, "key").replace("node.kubernetes.io/", ""), text(taint, "effect"))).collect()
}

fn going(kernel: &FakeKernel) -> Vec<String> {
    let going = kernel.list("/pods").into_iter().filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
    going.map(|pod| pod["metadata"]["name"].as_str().unwrap_or("").to_owned()).collect()
}

#[test]
fn a_node_that_renews_its_lease_is_left_alone() -> Result<()> {
    let (mut kernel, mut module) = (kernel()?, module());
    for _ in 0..10 {
        kernel.pass(&mut module, Duration::from_secs(10))?;
        renew(&mut kernel)?;
    }
    assert!(kernel.writes.is_empty(), "{:?}", kernel.writes);
    Ok(())
}

#[test]
fn a_lost_node_is_unknown_tainted_and_its_pods_are_not_ready_then_ended() -> Result<()> {
    let (mut kernel, mut module) = (kernel()?, module());
    pod(&mut kernel, "patient", patient(300))?;
    pod(&mut kernel, "hasty", patient(5))?;
    pod(&mut kernel, "daemon", json!([{"operator": "Exists"}]))?;
    kernel.pass(&mut module, Duration::from_secs(41))?;
    assert_eq!((condition(&kernel, "Ready"), condition(&kernel, "Custom")), ("Unknown".into(), "True".into()));
    assert_eq!(taints(&kernel), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
    assert!(kernel.list("/pods").iter().all(|pod| pod["status"]["conditions"][0]["status"] == "False"));
    assert!(kernel.events.iter().any(|event| event.reason == "NodeNotReady"));
    kernel.pass(&mut module, Duration::from_secs(10))?;
    assert_eq!(going(&kernel), ["hasty"]);
    kernel.pass(&mut module, Duration::from_secs(300))?;
    assert_eq!(going(&kernel), ["hasty", "patient"]);
    Ok(())
}

#[test]
fn a_node_that_returns_loses_its_taints_and_keeps_its_pods() -> Result<()> {
    let (mut kernel, mut module) = (kernel()?, module());
    pod(&mut kernel, "patient", patient(300))?;
    kernel.pass(&mut module, Duration::from_secs(60))?;
    assert_eq!(taints(&kernel).len(), 2);
    renew(&mut kernel)?;
    kernel.edit("/nodes", "", "n1", |node| node["status"]["conditions"][0]["status"] = json!("True"));
    for _ in 0..40 {
        kernel.pass(&mut module, Duration::from_secs(10))?;
        renew(&mut kernel)?;
    }
    assert_eq!(taints(&kernel), Vec::<String>::new());
    assert!(going(&kernel).is_empty());
    Ok(())
}

#[test]
fn after_a_pause_of_the_kernel_nobody_is_blamed_at_once() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.advance(Duration::from_secs(3_600));
    let mut module = module();
    kernel.settle(&mut module)?;
    assert_eq!(condition(&kernel, "Ready"), "True");
    kernel.pass(&mut module, Duration::from_secs(41))?;
    assert_eq!(condition(&kernel, "Ready"), "Unknown");
    Ok(())
}

#[test]
fn a_node_that_says_it_is_not_ready_is_tainted_so() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.put(ready("False"))?;
    kernel.edit("/nodes", "", "n1", |node| node["status"]["conditions"][1] = json!({"type": "DiskPressure", "status": "True"}));
    kernel.settle(&mut module())?;
    assert_eq!(taints(&kernel), ["not-ready:NoSchedule", "not-ready:NoExecute", "disk-pressure:NoSchedule"]);
    kernel.put(ready("True"))?;
    kernel.edit("/nodes", "", "n1", |node| {
        node["spec"] = json!({"unschedulable": true, "taints": [{"key": "mine", "effect": "NoSchedule"}]})
    });
    kernel.settle(&mut module())?;
    assert_eq!(taints(&kernel), ["mine:NoSchedule", "unschedulable:NoSchedule"]);
    Ok(())
}

#[test]
fn a_node_that_never_reported_keeps_pods_off_and_is_lost_in_the_end() -> Result<()> {
    let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
    kernel.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {}}))?;
    let mut module = module();
    kernel.settle(&mut module)?;
    assert_eq!(taints(&kernel), ["not-ready:NoSchedule"]);
    kernel.pass(&mut module, Duration::from_secs(60))?;
    assert_eq!(taints(&kernel), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
    Ok(())
}

#[test]
fn pods_of_a_node_that_is_gone_are_removed_after_the_grace_period() -> Result<()> {
    let (mut kernel, mut module) = (kernel()?, module());
    pod(&mut kernel, "p", json!([]))?;
    kernel.settle(&mut module)?;
    kernel.remove("/nodes", "", "n1");
    kernel.settle(&mut module)?;
    assert_eq!(kernel.list("/pods").len(), 1);
    // The kit hands a gone object over once; the kernel wakes it when asked to.
    let bytes = kernel.list("/pods")[0].to_string();
    let target = ObjectRef::named("", "nodes", "", "n1");
    let request = Request::new(target, b"", vec![("pods", vec![bytes.as_bytes()])]);
    let later = kernel.now().after(Duration::from_secs(41));
    let plan = module.reconcile(later, &request)?;
    assert_eq!(plan.writes.len(), 1);
    assert!(matches!(&plan.writes[0].action, Action::Delete(options) if options.grace_period_seconds == Some(0)));
    Ok(())
}

#[test]
fn terminating_pods_of_a_node_out_of_service_are_removed() -> Result<()> {
    let mut kernel = kernel()?;
    pod(&mut kernel, "stuck", json!([{"operator": "Exists"}]))?;
    kernel.edit("/pods", "shop", "stuck", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    kernel.edit("/nodes", "", "n1", |node| node["spec"]["taints"] = json!([{"key": OUT_OF_SERVICE, "effect": NO_EXECUTE}]));
    kernel.settle(&mut module())?;
    assert!(kernel.list("/pods").is_empty());
    Ok(())
}
