//! What configMap, secret, downwardAPI and projected volumes contain: file names and bytes.
//!
//! Invariant: a missing object or key is an error unless it is marked optional; then it contributes nothing.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use serde::{Deserialize, Serialize};

use super::Workshop;
use super::atomic::{File, check_relative};
use crate::container::downward;
use crate::error::{Error, Result};
use crate::file;
use crate::link::Reference;
use crate::pod::record::{name, namespace, uid};
use crate::trust;

const DEFAULT_MODE: u32 = 0o644;
type Files = BTreeMap<String, File>;

/// The files of a projected kind of volume; `None` for other kinds.
pub async fn files(pod: &Pod, volume: &Volume, workshop: &Workshop<'_>) -> Result<Option<Files>> {
    if let Some(source) = &volume.config_map {
        let data = config_map(pod, &source.name, workshop, source.optional).await?;
        return select(data, source.items.as_deref(), mode(source.default_mode), source.optional, &source.name).map(Some);
    }
    if let Some(source) = &volume.secret {
        let wanted = source.secret_name.as_deref().unwrap_or_default();
        let data = secret(pod, wanted, workshop, source.optional).await?;
        return select(data, source.items.as_deref(), mode(source.default_mode), source.optional, wanted).map(Some);
    }
    if let Some(source) = &volume.downward_api {
        return downward_files(pod, source.items.as_deref().unwrap_or(&[]), mode(source.default_mode), workshop).map(Some);
    }
    let Some(source) = &volume.projected else { return Ok(None) };
    let mut files = Files::new();
    for (index, part) in source.sources.iter().flatten().enumerate() {
        let mode = mode(source.default_mode);
        if let Some(certificate) = &part.pod_certificate {
            let slot = format!("{}~{index}", volume.name);
            files.extend(super::certificate::files(pod, &slot, certificate, private(pod, mode), workshop).await?);
        } else {
            files.extend(projection(pod, &volume.name, part, mode, workshop).await?);
        }
    }
    Ok(Some(files))
}

async fn projection(pod: &Pod, volume: &str, part: &VolumeProjection, mode: u32, workshop: &Workshop<'_>) -> Result<Files> {
    if let Some(source) = &part.config_map {
        let data = config_map(pod, &source.name, workshop, source.optional).await?;
        return select(data, source.items.as_deref(), mode, source.optional, &source.name);
    }
    if let Some(source) = &part.secret {
        let data = secret(pod, &source.name, workshop, source.optional).await?;
        return select(data, source.items.as_deref(), mode, source.optional, &source.name);
    }
    if let Some(source) = &part.downward_api {
        return downward_files(pod, source.items.as_deref().unwrap_or(&[]), mode, workshop);
    }
    if let Some(source) = &part.service_account_token {
        return token(pod, volume, source, mode, workshop).await;
    }
    if let Some(source) = &part.cluster_trust_bundle {
        let bundles = workshop.trust.borrow();
        if !bundles.is_synced() {
            return Err(Error::ContainerConfig("the cluster's trust bundles are not known yet".into()));
        }
        let pem = match trust::selected(&bundles, source) {
            Some(pem) => pem,
            None if source.optional == Some(true) => String::new(),
            None => return Err(Error::ContainerConfig("no ClusterTrustBundle matches the projected source".into())),
        };
        return Ok([(source.path.clone(), File { bytes: pem.into_bytes(), mode })].into());
    }
    Err(Error::Unsupported("this source of a projected volume".into()))
}

fn mode(wanted: Option<i32>) -> u32 {
    wanted.and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE) & 0o777
}

/// Keys and bytes; `None`: the object does not exist and may do so.
type Data = Option<BTreeMap<String, Vec<u8>>>;

async fn config_map(pod: &Pod, name: &str, workshop: &Workshop<'_>, optional: Option<bool>) -> Result<Data> {
    let object = fetch::<ConfigMap>(pod, "configmaps", "configmap", name, workshop, optional).await?;
    Ok(object.map(|map| {
        let text = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
        text.chain(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0))).collect()
    }))
}

async fn secret(pod: &Pod, name: &str, workshop: &Workshop<'_>, optional: Option<bool>) -> Result<Data> {
    let object = fetch::<Secret>(pod, "secrets", "secret", name, workshop, optional).await?;
    Ok(object.map(|secret| secret.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect()))
}

async fn fetch<T: serde::de::DeserializeOwned>(
    pod: &Pod,
    resource: &'static str,
    word: &str,
    name: &str,
    workshop: &Workshop<'_>,
    optional: Option<bool>,
) -> Result<Option<T>> {
    match workshop.kernel.get(&Reference::core(resource, namespace(pod), name)).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Malformed { what: format!("{word} {name}"), source }),
        Err(error) if error.is_not_found() && optional == Some(true) => Ok(None),
        Err(error) if error.is_not_found() => Err(Error::ContainerConfig(format!("{word} {name:?} not found"))),
        Err(error) => Err(error),
    }
}

fn select(data: Data, items: Option<&[KeyToPath]>, mode: u32, optional: Option<bool>, object: &str) -> Result<Files> {
    let Some(mut data) = data else { return Ok(Files::new()) };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, bytes)| (key, File { bytes, mode })).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.remove(&item.key) {
            Some(bytes) => {
                let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode) & 0o777;
                files.insert(item.path.clone(), File { bytes, mode });
            }
            None if optional == Some(true) => {}
            None => return Err(Error::ContainerConfig(format!("references non-existent key {} of {object}", item.key))),
        }
    }
    Ok(files)
}

fn downward_files(pod: &Pod, items: &[DownwardAPIVolumeFile], mode: u32, workshop: &Workshop<'_>) -> Result<Files> {
    let mut files = Files::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(pod, &field.field_path, workshop.facts)?,
            (None, Some(resource)) => downward::resource(pod, None, resource, workshop.facts)?,
            (None, None) => return Err(Error::ContainerConfig(format!("downwardAPI file {:?} has no source", item.path))),
        };
        let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode) & 0o777;
        files.insert(item.path.clone(), File { bytes: text.into_bytes(), mode });
    }
    Ok(files)
}

/// A token in use, kept beside the volumes so that a refresh need not ask for another one.
#[derive(Serialize, Deserialize)]
struct Kept {
    token: String,
    /// Four fifths of its life: ask anew from here on.
    renew_at: Timestamp,
}

async fn token(pod: &Pod, volume: &str, source: &ServiceAccountTokenProjection, mode: u32, workshop: &Workshop<'_>) -> Result<Files> {
    check_relative(&source.path)?;
    let kept_at = workshop.pod_dir.join("tokens").join(format!("{volume}~{}", source.path.replace('/', "~")));
    let kept: Option<Kept> = file::read_json(&kept_at).unwrap_or_default();
    let token = match kept.filter(|kept| kept.renew_at > Timestamp::now()) {
        Some(kept) => kept.token,
        None => {
            let fresh = ask_token(pod, source, workshop).await?;
            file::make_dir(&workshop.pod_dir.join("tokens"), 0o700)?;
            file::replace_json(&kept_at, &fresh)?;
            fresh.token
        }
    };
    Ok([(source.path.clone(), File { bytes: token.into_bytes(), mode: private(pod, mode) })].into())
}

/// The mode of what proves who a pod is: a container that does not run as root must still be able to read it.
fn private(pod: &Pod, mode: u32) -> u32 {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    if context.and_then(|c| c.fs_group).is_some() { 0o600 } else { mode }
}

async fn ask_token(pod: &Pod, source: &ServiceAccountTokenProjection, workshop: &Workshop<'_>) -> Result<Kept> {
    let reference = Reference::core("pods", namespace(pod), name(pod)).with_uid(uid(pod));
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let audiences: Vec<String> = source.audience.iter().filter(|a| !a.is_empty()).cloned().collect();
    let seconds = source.expiration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(3600);
    let bytes = workshop.kernel.service_account_token(&reference, account, &audiences, seconds).await?;
    let request: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|source| Error::Malformed { what: "a TokenRequest".into(), source })?;
    let token = request["status"]["token"].as_str().ok_or_else(|| Error::invalid("a TokenRequest", "no token in its status"))?;
    let now = Timestamp::now();
    let asked = now.saturating_add(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(3600))).unwrap_or(now);
    let expires = request["status"]["expirationTimestamp"].as_str().and_then(|t| t.parse().ok()).unwrap_or(asked);
    let life = expires.duration_since(now);
    let renew_at = now.saturating_add(life.saturating_mul(4) / 5).unwrap_or(now);
    Ok(Kept { token: token.to_owned(), renew_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_choose_keys_paths_and_modes() {
        let data = || Some([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into());
        let item = |key: &str, path: &str, mode| KeyToPath { key: key.into(), path: path.into(), mode, ..KeyToPath::default() };
        let check = |items: Option<&[KeyToPath]>, optional, expected: Option<&[(&str, u32)]>| {
            let found = select(data(), items, 0o644, optional, "m").ok();
            let found = found.map(|f| f.into_iter().map(|(name, file)| (name, file.mode)).collect::<Vec<_>>());
            assert_eq!(found, expected.map(|e| e.iter().map(|(n, m)| ((*n).to_owned(), *m)).collect()));
        };
        check(None, None, Some(&[("a", 0o644), ("b", 0o644)]));
        check(Some(&[item("a", "d/x", Some(0o400))]), None, Some(&[("d/x", 0o400)]));
        check(Some(&[item("none", "x", None)]), None, None);
        check(Some(&[item("none", "x", None)]), Some(true), Some(&[]));
    }
}
