//! The rows themselves: what exists, and how it agrees with upstream's own merge schema.

use std::collections::BTreeMap;

use pintle_api::{Relation, Schema, Scope, resources};

#[test]
fn every_stable_kind_is_served() {
    let schema = Schema::builtin();
    for (group, version, kinds) in KINDS {
        for kind in kinds.split_whitespace() {
            let resource = schema.resource_for_kind(group, version, kind);
            assert!(resource.is_some() || pintle_api::resource::kind_type(group, version, kind).is_some(), "{group}/{version} {kind}");
        }
    }
    assert!(resources().len() > 70, "{}", resources().len());
}

#[rustfmt::skip]
const KINDS: &[(&str, &str, &str)] = &[
    ("", "v1", "Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod PodTemplate \
        ReplicationController ResourceQuota Secret Service ServiceAccount"),
    ("apps", "v1", "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet"),
    ("batch", "v1", "Job CronJob"),
    ("autoscaling", "v1", "HorizontalPodAutoscaler Scale"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("policy", "v1", "PodDisruptionBudget Eviction"),
    ("networking.k8s.io", "v1", "Ingress IngressClass NetworkPolicy IPAddress ServiceCIDR"),
    ("discovery.k8s.io", "v1", "EndpointSlice"),
    ("events.k8s.io", "v1", "Event"),
    ("coordination.k8s.io", "v1", "Lease"),
    ("node.k8s.io", "v1", "RuntimeClass"),
    ("scheduling.k8s.io", "v1", "PriorityClass"),
    ("storage.k8s.io", "v1", "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass"),
    ("storagemigration.k8s.io", "v1", "StorageVersionMigration"),
    ("resource.k8s.io", "v1", "DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice"),
    ("certificates.k8s.io", "v1", "CertificateSigningRequest ClusterTrustBundle PodCertificateRequest"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole ClusterRoleBinding Role RoleBinding"),
    ("authentication.k8s.io", "v1", "TokenReview TokenRequest SelfSubjectReview"),
    ("authorization.k8s.io", "v1", "SubjectAccessReview LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview"),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration ValidatingWebhookConfiguration MutatingAdmissionPolicy \
        ValidatingAdmissionPolicy MutatingAdmissionPolicyBinding ValidatingAdmissionPolicyBinding"),
    ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema PriorityLevelConfiguration"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "v1", "APIService"),
    ("pintle.dev", "v1", "Module ModulePolicy RouteTable"),
];

#[test]
fn pods_have_the_subresources_that_clients_use() {
    let pods = Schema::builtin().resource("", "v1", "pods").expect("pods");
    let names: Vec<&str> = pods.subresources.iter().map(|s| s.name.as_ref()).collect();
    assert_eq!(names, ["attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward", "proxy", "resize", "status"]);
    assert_eq!(pods.scope, Scope::Namespaced);
    assert_eq!(pods.short_names, ["po"]);
    assert_eq!(pods.list_kind, "PodList");
    let scale = Schema::builtin().resource("apps", "v1", "deployments").and_then(|d| d.subresource("scale")).expect("scale");
    assert_eq!((scale.group.as_ref(), scale.kind.as_ref()), ("autoscaling", "Scale"));
}

#[test]
fn service_ports_merge_by_port_and_apply_by_port_and_protocol() {
    let spec = Schema::builtin().type_named("io.k8s.api.core.v1.ServiceSpec").expect("type");
    let ports = spec.field("ports").expect("ports");
    assert_eq!((ports.merge_key, ports.list_keys().collect::<Vec<_>>()), ("port", vec!["port", "protocol"]));
    assert_eq!((ports.relation, ports.merges(), ports.tag), (Relation::Map, true, 1));
}

#[test]
fn list_types_and_keys_agree_with_upstreams_merge_schema() {
    let Some(path) = crate::shared_data("merge-schema.tsv") else { return };
    let text = std::fs::read_to_string(path).expect("readable");
    let schema = Schema::builtin();
    let (mut held, mut missing, mut disagreements) = (0, BTreeMap::new(), Vec::new());
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [type_name, field_name, shape, relation, keys, default] = columns[..] else { panic!("{line}") };
        let Some(view) = schema.type_named(type_name) else {
            *missing.entry(type_name.to_owned()).or_insert(0) += 1;
            continue;
        };
        if field_name == "*" {
            if view.is_atomic() != (relation == "atomic") {
                disagreements.push(format!("{type_name}: ours atomic={}, upstream's {relation}", view.is_atomic()));
            }
            continue;
        }
        if let Some(field) = view.field(field_name).filter(|_| shape.starts_with("ref"))
            && field.inline != (default == "{}")
        {
            disagreements.push(format!("{type_name}.{field_name}: ours inline={}, upstream's default {default:?}", field.inline));
        }
        if !(shape.starts_with("list") || shape.starts_with("map")) {
            continue;
        }
        let Some(field) = view.field(field_name) else {
            disagreements.push(format!("{type_name}.{field_name}: no such row"));
            continue;
        };
        held += 1;
        let ours = (field.relation, field.list_keys().collect::<Vec<_>>().join(","));
        let theirs = match (shape.starts_with("list"), relation) {
            (true, "associative") if keys.is_empty() => (Relation::Set, String::new()),
            (true, "associative") => (Relation::Map, keys.to_owned()),
            (false, "separable" | "") => (Relation::Granular, String::new()),
            _ => (Relation::Atomic, String::new()),
        };
        let ours = match (field.container, ours) {
            (pintle_api::Container::Map | pintle_api::Container::MapOfList, (Relation::Unset, k)) => (Relation::Granular, k),
            (pintle_api::Container::List, (Relation::Unset, k)) => (Relation::Atomic, k),
            (_, ours) => ours,
        };
        if ours != theirs {
            disagreements.push(format!("{type_name}.{field_name}: ours {ours:?}, upstream's {theirs:?}"));
        }
    }
    println!("{held} rows held, {} disagree; not in our table: {:?}", disagreements.len(), missing.keys());
    assert!(held > 300 && disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn the_modules_that_ship_fit_the_table() {
    let modules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules");
    let mut held = 0;
    for entry in std::fs::read_dir(modules).into_iter().flatten().flatten() {
        let Ok(body) = std::fs::read(entry.path().join("module.json")) else { continue };
        let decoded = pintle_api::decode::decode(
            Schema::builtin(),
            crate::resource("pintle.dev/v1/modules"),
            &body,
            pintle_api::decode::Format::Json,
        );
        let (_, issues) = decoded.unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
        assert!(issues.is_empty(), "{}: {issues:?}", entry.path().display());
        held += 1;
    }
    println!("{held} manifests held");
}
