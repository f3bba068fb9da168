//! ServiceAccount: which account a pod has, and the token, certificate and namespace files that it finds.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use serde::Deserialize;

use crate::pod::{Container, Pod};

const DEFAULT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// A little over an hour: machines ask for a new token at four fifths of it.
const TOKEN_SECONDS: u32 = 3_607;
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Account {
    metadata: Metadata,
    automount_service_account_token: Option<bool>,
    image_pull_secrets: Option<Vec<Value>>,
}

/// The edits for one pod, or the refusal of an account that does not exist.
pub fn edits(review: &Review<'_>, pod: &Pod<'_>) -> Result<Result<Vec<Edit>, Verdict>> {
    if pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR)) {
        return Ok(Ok(Vec::new()));
    }
    let accounts: Vec<Account> = review.related("serviceaccounts")?.unwrap_or_default();
    let asked = [&pod.spec.service_account_name, &pod.spec.service_account].into_iter().find(|name| !name.is_empty());
    let name = asked.map_or(DEFAULT, |name| name.as_ref());
    let account = accounts.into_iter().find(|account| account.metadata.name == name);
    // The default account of a new namespace comes a moment after it; the pod may wait for it on its machine.
    if account.is_none() && name != DEFAULT {
        let why = format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", review.target.namespace);
        return Ok(Err(Verdict::deny(why)));
    }
    let account = account.unwrap_or_default();
    let mut edits = Vec::new();
    for (path, present) in
        [("/spec/serviceAccountName", &pod.spec.service_account_name), ("/spec/serviceAccount", &pod.spec.service_account)]
    {
        if present.is_empty() {
            edits.push(Edit::add(path, &name));
        }
    }
    if pod.spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty)
        && let Some(secrets) = account.image_pull_secrets.filter(|list| !list.is_empty())
    {
        edits.push(Edit::add("/spec/imagePullSecrets", &secrets));
    }
    if pod.spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true) {
        edits.extend(mounts(review, pod));
    }
    Ok(Ok(edits))
}

/// The volume, if any container lacks a mount at the path, and those mounts.
fn mounts(review: &Review<'_>, pod: &Pod<'_>) -> Vec<Edit> {
    let volumes = pod.spec.volumes.as_deref().unwrap_or_default();
    let known = volumes.iter().find(|volume| volume.name.starts_with(VOLUME_PREFIX));
    let name = known.map_or_else(|| volume_name(review, pod), |volume| volume.name.clone().into_owned());
    let mount = json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true});
    let mut edits = Vec::new();
    for (list, containers) in [("containers", &pod.spec.containers), ("initContainers", &pod.spec.init_containers)] {
        for (i, container) in containers.iter().flatten().enumerate().filter(|(_, container)| !is_mounted(container)) {
            edits.push(match &container.volume_mounts {
                Some(_) => Edit::add(format!("/spec/{list}/{i}/volumeMounts/-"), &mount),
                None => Edit::add(format!("/spec/{list}/{i}/volumeMounts"), &json!([mount])),
            });
        }
    }
    if !edits.is_empty() && known.is_none() {
        edits.push(match &pod.spec.volumes {
            Some(_) => Edit::add("/spec/volumes/-", &volume(&name)),
            None => Edit::add("/spec/volumes", &json!([volume(&name)])),
        });
    }
    edits
}

fn is_mounted(container: &Container<'_>) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.mount_path.trim_end_matches('/') == MOUNT_PATH)
}

/// A name that looks like upstream's, but follows from the pod's own: a verdict is the same each time.
fn volume_name(review: &Review<'_>, pod: &Pod<'_>) -> String {
    let seed = [review.target.namespace.as_bytes(), pod.metadata.name.as_bytes(), pod.metadata.generate_name.as_bytes()].concat();
    let mut hash = seed.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    hash ^= hash >> 33;
    let mut name = VOLUME_PREFIX.to_owned();
    for _ in 0..5 {
        name.push(char::from(ALPHABET[(hash % 27) as usize]));
        hash /= 27;
    }
    name
}

fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
        },
    })
}
