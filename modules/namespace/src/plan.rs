//! From a namespace that is to go and its content to the next step. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;
use serde::Deserialize;

/// Deletes in one plan, at most.
const DELETES_MAX: usize = 500;
/// How soon to look again while something is left.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The finalizer that this module answers for.
const FINALIZER: &str = "kubernetes";

/// `v1` Namespace, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    finalizers: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

/// What to do next: pods first, for they may need the rest to end well; then everything else; then the namespace itself.
pub fn plan(now: Time, namespace: &Namespace, content: &[Partial]) -> Plan {
    if content.is_empty() {
        return finalize(namespace);
    }
    let is_pod = |row: &&Partial| row.kind == "Pod" && row.group().is_empty();
    let pods_left = content.iter().any(|row| is_pod(&row));
    let mut plan = Plan::new();
    let conditions = conditions(now, namespace, content);
    if conditions != namespace.status.conditions {
        plan = plan.patch_status(target(namespace), json!({"conditions": conditions}));
    }
    let due = content.iter().filter(|row| !row.metadata.is_terminating() && (!pods_left || is_pod(row)));
    let plan = due.take(DELETES_MAX).fold(plan, |plan, row| plan.delete(row.target()));
    plan.requeue_after(LOOK_AGAIN)
}

fn target(namespace: &Namespace) -> ObjectRef {
    ObjectRef::of("", "namespaces", &namespace.metadata)
}

fn finalize(namespace: &Namespace) -> Plan {
    if !namespace.spec.finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Plan::new();
    }
    let kept: Vec<&String> = namespace.spec.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let body = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace.metadata.name, "uid": namespace.metadata.uid, "resourceVersion": namespace.metadata.resource_version},
        "spec": {"finalizers": kept},
    });
    Plan::new().write(Write { target: target(namespace), subresource: "finalize".into(), action: pintle_sdk::Action::Update(body) })
}

/// Upstream's five conditions of a namespace on its way out. Two of them tell of failures that cannot happen here.
fn conditions(now: Time, namespace: &Namespace, content: &[Partial]) -> Vec<Condition> {
    let (mut kinds, mut finalizers) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, usize>::new());
    for row in content {
        let target = row.target();
        let resource =
            if target.group.is_empty() { format!("{}.", target.resource) } else { format!("{}.{}", target.resource, target.group) };
        *kinds.entry(resource).or_default() += 1;
        for finalizer in &row.metadata.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let list = |parts: Vec<String>| parts.join(", ");
    let remaining = list(kinds.iter().map(|(kind, count)| format!("{kind} has {count} resource instances")).collect());
    let waiting = list(finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect());
    let blocked = !finalizers.is_empty();
    [
        ("NamespaceDeletionDiscoveryFailure", false, "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        ("NamespaceContentRemaining", true, "SomeResourcesRemain", format!("Some resources are remaining: {remaining}")),
        if blocked {
            (
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {waiting}"),
            )
        } else {
            ("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
        },
    ]
    .into_iter()
    .map(|(kind, status, reason, message)| condition(now, &namespace.status.conditions, kind, status, reason, message))
    .collect()
}

fn condition(now: Time, known: &[Condition], kind: &str, holds: bool, reason: &'static str, message: String) -> Condition {
    let status = if holds { "True" } else { "False" };
    let before = known.iter().find(|c| c.kind == kind && c.status == status).and_then(|c| c.last_transition_time);
    Condition {
        kind: kind.into(),
        status: Cow::Borrowed(status),
        last_transition_time: before.or(Some(Time(now.0 / 1_000 * 1_000))),
        reason: Cow::Borrowed(reason),
        message,
        ..Condition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespaces;
    use pintle_sdk::testing::{Disturbed, FakeKernel};

    fn kernel() -> Result<FakeKernel> {
        let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
        kernel
            .put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}, "spec": {"finalizers": ["kubernetes"]}}))?;
        kernel
            .put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"}, "spec": {"nodeName": "n"}}))?;
        kernel.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"}}))?;
        kernel.put(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "shop"}}))?;
        kernel.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "other"}}))?;
        Ok(kernel)
    }

    fn go(kernel: &mut FakeKernel) -> Result<()> {
        kernel.delete(ObjectRef::named("", "namespaces", "", "shop")).map_err(|refusal| Error::undecided(refusal.to_string()))
    }

    fn condition<'a>(kernel: &'a FakeKernel, kind: &str) -> (&'a str, &'a str) {
        let namespace = kernel.get("/namespaces", "", "shop");
        let found = namespace.and_then(|n| n["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind));
        found.map_or(("", ""), |c| (c["status"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or("")))
    }

    #[test]
    fn a_namespace_is_emptied_the_same_way_under_every_disturbance() -> Result<()> {
        let begin = || {
            let mut kernel = kernel()?;
            go(&mut kernel)?;
            Ok(kernel)
        };
        // A kubelet that ends the pod.
        let kubelet = |kernel: &mut FakeKernel| {
            let going = kernel.get("/pods", "shop", "p").is_some_and(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
            if going {
                kernel.remove("/pods", "shop", "p");
            }
            Ok(())
        };
        Disturbed::new(begin, || Ok(Namespaces)).with_others(kubelet).check()?;
        Ok(())
    }

    #[test]
    fn a_live_namespace_is_left_alone() -> Result<()> {
        let mut kernel = kernel()?;
        kernel.settle(&mut Namespaces)?;
        assert!(kernel.writes.is_empty());
        Ok(())
    }

    #[test]
    fn pods_go_first_then_the_rest_then_the_namespace() -> Result<()> {
        let mut kernel = kernel()?;
        go(&mut kernel)?;
        kernel.settle(&mut Namespaces)?;
        assert!(kernel.get("/configmaps", "shop", "c").is_some(), "the pod is still ending");
        assert_eq!(
            condition(&kernel, "NamespaceContentRemaining"),
            (
                "True",
                "Some resources are remaining: configmaps. has 1 resource instances, deployments.apps has 1 resource instances, pods. has 1 resource instances"
            )
        );
        kernel.remove("/pods", "shop", "p");
        kernel.settle(&mut Namespaces)?;
        assert!(kernel.get("/namespaces", "", "shop").is_none());
        assert!(kernel.get("/configmaps", "shop", "c").is_none());
        assert!(kernel.get("/configmaps", "other", "c").is_some());
        Ok(())
    }

    #[test]
    fn content_with_finalizers_is_named_and_awaited() -> Result<()> {
        let mut kernel = kernel()?;
        kernel.remove("/pods", "shop", "p");
        kernel.edit("/configmaps", "shop", "c", |c| c["metadata"]["finalizers"] = json!(["x.io/keep"]));
        go(&mut kernel)?;
        kernel.settle(&mut Namespaces)?;
        assert_eq!(
            condition(&kernel, "NamespaceFinalizersRemaining"),
            ("True", "Some content in the namespace has finalizers remaining: x.io/keep in 1 resource instances")
        );
        kernel.remove("/configmaps", "shop", "c");
        kernel.settle(&mut Namespaces)?;
        assert!(kernel.get("/namespaces", "", "shop").is_none());
        Ok(())
    }

    #[test]
    fn other_finalizers_of_the_namespace_stay() -> Result<()> {
        let mut kernel = kernel()?;
        kernel.remove("/pods", "shop", "p");
        kernel.edit("/namespaces", "", "shop", |n| n["spec"]["finalizers"] = json!(["kubernetes", "mine"]));
        go(&mut kernel)?;
        kernel.settle(&mut Namespaces)?;
        assert_eq!(kernel.get("/namespaces", "", "shop").map(|n| n["spec"]["finalizers"].clone()), Some(json!(["mine"])));
        Ok(())
    }

    #[test]
    fn without_a_view_of_the_content_nothing_is_decided() {
        let bytes =
            json!({"metadata": {"name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"finalizers": ["kubernetes"]}})
                .to_string();
        let request = Request::new(ObjectRef::named("", "namespaces", "", "shop"), bytes.as_bytes(), Vec::new());
        assert!(Namespaces.reconcile(Time(0), &request).is_err());
    }
}
