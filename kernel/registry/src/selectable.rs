//! Which fields selectors may name, kind by kind: the facts are upstream's.

use pintle_api::Resource;

use crate::target::SelectableField;

/// Group, plural, and the fields as `label`, `label=path` where they differ, `...|absent` where absence has a value, `...|@label` where it has that of
/// another field. A number is the place of an element of a list.
#[rustfmt::skip]
const ROWS: &[(&str, &str, &[&str])] = &[
    ("", "pods", &[
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork|false", "status.phase",
        "status.podIP", "status.podIPs=status.podIP", "status.nominatedNodeName",
    ]),
    ("", "events", &[
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
        "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source=source.component|@reportingComponent", "type",
    ]),
    // The same values in the same order, under this face's names.
    ("events.k8s.io", "events", &[
        "regarding.kind=involvedObject.kind", "regarding.namespace=involvedObject.namespace", "regarding.name=involvedObject.name",
        "regarding.uid=involvedObject.uid", "regarding.apiVersion=involvedObject.apiVersion",
        "regarding.resourceVersion=involvedObject.resourceVersion", "regarding.fieldPath=involvedObject.fieldPath", "reason",
        "reportingController=reportingComponent", "deprecatedSource=source.component|@reportingController", "type",
    ]),
    ("", "nodes", &["spec.unschedulable|false"]),
    ("", "namespaces", &["status.phase", "name=metadata.name"]),
    ("", "secrets", &["type"]),
    ("", "services", &["spec.clusterIP", "spec.type", "spec.clusterIPs.1"]),
    ("", "replicationcontrollers", &["status.replicas|0"]),
    ("apps", "replicasets", &["status.replicas|0"]),
    ("batch", "jobs", &["status.successful=status.succeeded|0"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["spec.signerName"]),
    ("certificates.k8s.io", "clustertrustbundles", &["spec.signerName"]),
    ("certificates.k8s.io", "podcertificaterequests", &["spec.signerName", "spec.podName", "spec.nodeName"]),
    ("resource.k8s.io", "resourceslices", &["spec.nodeName", "spec.driver"]),
    ("pintle.dev", "modules", &["spec.type"]),
];

/// The selectable fields of a resource.
pub(crate) fn of(resource: &Resource) -> Vec<SelectableField> {
    if let Some(version) = &resource.custom {
        return version.selectable_fields().map(field).collect();
    }
    let rows = ROWS.iter().filter(|(group, plural, _)| *group == resource.group && *plural == resource.plural);
    rows.flat_map(|(_, _, fields)| fields.iter().map(|text| field(text))).collect()
}

fn field(text: &str) -> SelectableField {
    let (text, absent) = text.split_once('|').unwrap_or((text, ""));
    let (label, path) = text.split_once('=').unwrap_or((text, text));
    SelectableField { label: label.to_owned(), path: path.split('.').map(str::to_owned).collect(), absent: absent.into() }
}
