//! A pod out of the text of a file. Pure.
//!
//! The file's pod becomes this machine's: its name ends with the node's, its uid is a digest of what it says, so that a change is another pod.
//! Invariant: what comes out mentions no object of the API, because such a pod must run when there is none to ask.

use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::pod::record::is_mirror;
use crate::pod::roster::validate;

/// Bytes of a file that is read at all.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Where the pod comes from; `api` for those of the kernel.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// The digest of what the file says.
pub const HASH: &str = "kubernetes.io/config.hash";
/// The same, on the API's picture of the pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const SEEN: &str = "kubernetes.io/config.seen";

/// Fields by which a volume or a projected source mentions an object.
const IN_VOLUMES: [&str; 7] =
    ["configMap", "secret", "persistentVolumeClaim", "ephemeral", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
/// Fields by which a container's environment does.
const IN_ENVIRONMENT: [&str; 4] = ["configMapRef", "secretRef", "configMapKeyRef", "secretKeyRef"];

/// The pod that a file's text names, JSON or YAML, as `node` runs it. `seen`: when the file was read, RFC 3339.
///
/// # Errors
/// [`Error::Invalid`] with the field, or with the parser's words.
pub fn pod(text: &str, node: &str, seen: &str) -> Result<Pod> {
    let mut value = value(text)?;
    for (field, wanted) in [("apiVersion", "v1"), ("kind", "Pod")] {
        if value[field] != wanted {
            return Err(Error::invalid(field, format!("{}, and a static pod has {wanted:?}", value[field])));
        }
    }
    refuse_mentions(&value)?;
    // What the API would fill in at its creation; the rest is read with its default wherever it is read.
    value["spec"]["nodeName"] = json!(node);
    let malformed = |source| Error::Malformed { what: "a pod".into(), source };
    let mut pod: Pod = serde_json::from_value(value).map_err(malformed)?;
    let meta = &mut pod.metadata;
    let name = meta.name.take().filter(|name| !name.is_empty()).ok_or_else(|| Error::invalid("metadata.name", "required"))?;
    meta.name = Some(format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    (meta.generation, meta.uid, meta.resource_version) = (Some(1), None, None);
    (meta.deletion_timestamp, meta.owner_references, meta.managed_fields, pod.status) = (None, None, None, None);
    if let Some(spec) = &mut pod.spec {
        let lasting = Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&lasting) {
            tolerations.push(lasting);
        }
        spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    }
    let hash: String =
        Sha256::digest(serde_json::to_vec(&pod).map_err(malformed)?).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.remove(MIRROR);
    for (key, text) in [(SOURCE, "file"), (HASH, hash.as_str()), (SEEN, seen)] {
        annotations.insert(key.to_owned(), text.to_owned());
    }
    pod.metadata.uid = Some(hash);
    validate(&pod)?;
    if crate::pod::record::main_containers(&pod).is_empty() {
        return Err(Error::invalid("spec.containers", "required"));
    }
    Ok(pod)
}

/// The API's picture of a static pod.
pub fn mirror(pod: &Pod) -> Value {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), pod.metadata.uid.clone().unwrap_or_default());
    let meta = &pod.metadata;
    let metadata = json!({ "name": meta.name, "namespace": meta.namespace, "labels": meta.labels, "annotations": annotations });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec })
}

/// What the pod of a row is a picture of: the uid of the pod that runs here.
pub fn mirrored(pod: &Pod) -> Option<&str> {
    is_mirror(pod).then(|| pod.metadata.annotations.as_ref()?.get(MIRROR).map(String::as_str))?
}

fn value(text: &str) -> Result<Value> {
    let value: Value = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(|source| Error::Malformed { what: "JSON".into(), source })?,
        false => {
            let budget = serde_saphyr::Budget { max_depth: 64, max_documents: 1, max_nodes: 100_000, ..serde_saphyr::Budget::default() };
            let mut options = serde_saphyr::Options { budget: Some(budget), with_snippet: false, ..serde_saphyr::Options::default() };
            options.strict_booleans = true;
            serde_saphyr::from_str_with_options(text, options).map_err(|error| Error::invalid("YAML", error.to_string()))?
        }
    };
    if value.is_object() { Ok(value) } else { Err(Error::invalid("manifest", "not an object")) }
}

/// Refuses what could only be had from the kernel.
fn refuse_mentions(pod: &Value) -> Result<()> {
    let spec = &pod["spec"];
    let list = |value: &'_ Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let refuse = |field: String| Err(Error::invalid(field, "a static pod may not mention objects of the API"));
    for field in ["serviceAccountName", "serviceAccount"] {
        if spec[field].as_str().is_some_and(|name| !name.is_empty()) {
            return refuse(format!("spec.{field}"));
        }
    }
    for field in ["imagePullSecrets", "resourceClaims"] {
        if !list(spec, field).is_empty() {
            return refuse(format!("spec.{field}"));
        }
    }
    for volume in list(spec, "volumes") {
        let sources = list(&volume["projected"], "sources");
        let mentions = |source: &Value| IN_VOLUMES.iter().find(|key| !source[**key].is_null()).copied();
        if let Some(key) = std::iter::once(&volume).chain(&sources).find_map(mentions) {
            return refuse(format!("spec.volumes: {key}"));
        }
    }
    for container in ["initContainers", "containers"].iter().flat_map(|key| list(spec, key)) {
        let of_env = list(&container, "env").into_iter().map(|mut variable| variable["valueFrom"].take());
        let found = of_env.chain(list(&container, "envFrom")).find_map(|from| IN_ENVIRONMENT.iter().find(|key| !from[**key].is_null()));
        if let Some(key) = found {
            return refuse(format!("spec.containers: {key}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {app: web}\nspec:\n  hostNetwork: true\n  containers:\n  - name: c\n    image: x\n    command: [\"on\", \"-n\"]\n";

    #[test]
    fn a_files_pod_becomes_the_machines() {
        let web = pod(YAML, "n1", "2026-01-01T00:00:00Z").expect("a pod");
        let meta = &web.metadata;
        assert_eq!((meta.name.as_deref(), meta.namespace.as_deref()), (Some("web-n1"), Some("default")));
        let annotations = meta.annotations.clone().unwrap_or_default();
        assert_eq!((annotations[SOURCE].as_str(), Some(&annotations[HASH])), ("file", meta.uid.as_ref()));
        let spec = web.spec.clone().expect("a spec");
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("n1"), Some("Always")));
        assert_eq!(spec.tolerations.unwrap_or_default().len(), 1);
        let picture = mirror(&web);
        assert_eq!(picture["metadata"]["annotations"][MIRROR], json!(meta.uid));
        let picture: Pod = serde_json::from_value(picture).expect("a pod");
        assert_eq!((mirrored(&picture), mirrored(&web)), (meta.uid.as_deref(), None));
    }

    #[test]
    fn what_a_file_says_is_who_the_pod_is() {
        let uid = |text: &str, node: &str, seen: &str| pod(text, node, seen).expect("a pod").metadata.uid;
        let first = uid(YAML, "n1", "then");
        assert_eq!(uid(&format!("# a comment\n{YAML}"), "n1", "later"), first, "the same words");
        let as_json = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"app":"web"},"name":"web"},"spec":{"containers":[{"name":"c","image":"x","command":["on","-n"]}],"hostNetwork":true}}"#;
        assert_eq!(uid(as_json, "n1", "then"), first, "in other signs");
        assert_ne!(uid(&YAML.replace("image: x", "image: y"), "n1", "then"), first);
        assert_ne!(uid(YAML, "n2", "then"), first);
    }

    #[test]
    fn bad_files_are_refused_by_the_field() {
        let check = |text: &str, field: &str| {
            let error = pod(text, "n1", "").expect_err(text);
            let words = Error::chain(&error);
            assert!(words.contains(field), "{words}");
        };
        check("- a\n", "manifest");
        check("{", "JSON");
        check("a: [", "YAML");
        check("apiVersion: v1\nkind: Service\n", "kind");
        check(&YAML.replace("name: web", "name: ../web"), "metadata.name");
        check("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {}\n", "containers");
        let with = |extra: &str| YAML.replace("  hostNetwork: true\n", &format!("  hostNetwork: true\n  {extra}\n"));
        check(&with("serviceAccountName: robot"), "serviceAccountName");
        check(&with("volumes: [{name: v, secret: {secretName: keys}}]"), "secret");
        check(&with("volumes: [{name: v, projected: {sources: [{configMap: {name: c}}]}}]"), "configMap");
        check(&with("initContainers: [{name: i, envFrom: [{configMapRef: {name: c}}]}]"), "configMapRef");
    }
}
