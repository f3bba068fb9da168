//! One volume of one pod: attached (by others), staged, published; and all of that back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume, Pod, Secret, Volume};
use serde::Deserialize;
use serde_json::{Value, json};

use super::message::{
    Empty, MountVolume, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    VolumeCapability, access_mode, can,
};
use super::record::{self, Record, hash};
use super::{Csi, Driver};
use crate::error::{Error, Result, Step};
use crate::file;
use crate::link::{Kernel, Reference};
use crate::pod::record::{name, namespace, uid};
use crate::pod::worker::reference;
use crate::volume::{Workshop, claim, local::Volumes, mounts};

/// How long a pod waits for its volume to be attached before it says so; then it waits again.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
const ATTACH_LOOK: Duration = Duration::from_millis(100);
/// Before every key of what a driver is told of a pod.
const KEYS: &str = "csi.storage.k8s.io/";

type Words = HashMap<String, String>;

/// A CSIDriver's spec: what a driver wants of nodes.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Wishes {
    attach_required: Option<bool>,
    pod_info_on_mount: bool,
    fs_group_policy: Option<String>,
    token_requests: Vec<TokenRequest>,
    pub(super) requires_republish: bool,
    service_account_token_in_secrets: bool,
    volume_lifecycle_modes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TokenRequest {
    audience: String,
    expiration_seconds: u64,
}

impl Wishes {
    /// Of a driver that has no object: the defaults.
    pub(super) async fn of(driver: &str, kernel: &Kernel) -> Result<Self> {
        #[derive(Deserialize)]
        struct Object {
            #[serde(default)]
            spec: Wishes,
        }
        match kernel.get(&Reference::storage("csidrivers", driver)).await {
            Err(error) if error.is_not_found() => Ok(Self::default()),
            bytes => {
                let malformed = |source| Error::Malformed { what: format!("csidriver {driver}"), source };
                Ok(serde_json::from_slice::<Object>(&bytes?).map_err(malformed)?.spec)
            }
        }
    }

    /// Whether a pod's group is given the volume's files.
    fn takes_group(&self, fs_type: &str, modes: &[String]) -> bool {
        match self.fs_group_policy.as_deref() {
            Some("File") => true,
            Some("None") => false,
            _ => !fs_type.is_empty() && modes.iter().any(|mode| mode.starts_with("ReadWriteOnce")),
        }
    }

    fn takes_own_volumes(&self) -> bool {
        self.volume_lifecycle_modes.iter().any(|mode| mode == "Ephemeral")
    }
}

/// A volume, as a driver is to be told of it.
struct Wanted {
    record: Record,
    fs_type: String,
    modes: Vec<String>,
    mount_flags: Vec<String>,
    read_only: bool,
    attributes: Words,
    stage_secrets: Words,
    publish_secrets: Words,
}

impl Csi {
    /// Mounts a pod's volume that has a PersistentVolume; where it is. Repeating it is harmless.
    ///
    /// # Errors
    /// The driver's words, or what is not there yet; it is tried again.
    pub async fn mount_claimed(&self, pod: &Pod, volume: &Volume, found: &PersistentVolume, workshop: &Workshop<'_>) -> Result<PathBuf> {
        let spec = found.spec.clone().unwrap_or_default();
        let Some(source) = &spec.csi else { return Err(Error::Unsupported("a volume that no driver has".into())) };
        let wishes = Wishes::of(&source.driver, workshop.kernel).await?;
        let handle = &source.volume_handle;
        let attachment = match wishes.attach_required {
            Some(false) => String::new(),
            _ => format!("csi-{}", hash(&[handle, &source.driver, &self.node])),
        };
        let claim = spec.claim_ref.clone().unwrap_or_default();
        let record = Record {
            name: found.metadata.name.clone().unwrap_or_default(),
            volume_handle: handle.clone(),
            driver_name: source.driver.clone(),
            node_name: self.node.clone(),
            attachment,
            mode: "Persistent".into(),
            claim: (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default()),
        };
        let wanted = Wanted {
            record,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            modes: spec.access_modes.unwrap_or_default(),
            mount_flags: spec.mount_options.unwrap_or_default(),
            read_only: source.read_only == Some(true) || claim::is_read_only(pod, &volume.name),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secrets: secrets(workshop.kernel, secret(source, |s| &s.node_stage_secret_ref)).await?,
            publish_secrets: secrets(workshop.kernel, secret(source, |s| &s.node_publish_secret_ref)).await?,
        };
        self.mount(pod, &wishes, wanted, workshop).await
    }

    /// Mounts a volume that a pod's spec describes itself; where it is. Repeating it is harmless.
    ///
    /// # Errors
    /// As of [`Csi::mount_claimed`].
    pub async fn mount_own(&self, pod: &Pod, volume: &Volume, workshop: &Workshop<'_>) -> Result<PathBuf> {
        let Some(source) = &volume.csi else { return Err(Error::Unsupported("a volume that no driver has".into())) };
        let wishes = Wishes::of(&source.driver, workshop.kernel).await?;
        if !wishes.takes_own_volumes() {
            return Err(Error::Unsupported(format!("volume mode \"Ephemeral\" of driver {}, which does not name it,", source.driver)));
        }
        let secret = source.node_publish_secret_ref.as_ref().map(|secret| (namespace(pod), secret.name.as_str()));
        let record = Record {
            name: volume.name.clone(),
            volume_handle: format!("csi-{}", hash(&[uid(pod), &volume.name])),
            driver_name: source.driver.clone(),
            node_name: self.node.clone(),
            mode: "Ephemeral".into(),
            ..Record::default()
        };
        let wanted = Wanted {
            record,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            modes: vec!["ReadWriteOnce".into()],
            mount_flags: Vec::new(),
            read_only: source.read_only == Some(true),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secrets: Words::new(),
            publish_secrets: secrets(workshop.kernel, secret).await?,
        };
        self.mount(pod, &wishes, wanted, workshop).await
    }

    async fn mount(&self, pod: &Pod, wishes: &Wishes, mut wanted: Wanted, workshop: &Workshop<'_>) -> Result<PathBuf> {
        let record = wanted.record.clone();
        let driver = self.driver(&record.driver_name)?;
        let lock = self.lock(&record.driver_name, &record.volume_handle);
        let _held = lock.lock().await;
        let directory = record::directory(&self.dir, uid(pod), &record.name)?;
        record::keep(&directory, &record)?;
        let is_new = self.records.borrow_mut().insert((uid(pod).to_owned(), record.name.clone()), record.clone()).is_none();
        if is_new {
            workshop.volumes.use_also(self.in_use(), workshop.kernel).await?;
        }
        let publish_context = match record.is_attached() {
            true => attached(&record, workshop.kernel).await?,
            false => Words::new(),
        };
        let group = crate::volume::fs_group(pod).filter(|_| !wanted.read_only && wishes.takes_group(&wanted.fs_type, &wanted.modes));
        let capability = capability(&driver, &wanted.fs_type, &wanted.mount_flags, &wanted.modes, group);
        let mut staging_target_path = String::new();
        if record.is_persistent() && driver.can(can::STAGE) {
            let staging = record::staging(&self.dir, &record.driver_name, &record.volume_handle)?;
            file::make_dir(&staging, 0o750)?;
            staging_target_path = staging.display().to_string();
            let request = NodeStageVolumeRequest {
                volume_id: record.volume_handle.clone(),
                publish_context: publish_context.clone(),
                staging_target_path: staging_target_path.clone(),
                volume_capability: Some(capability.clone()),
                secrets: std::mem::take(&mut wanted.stage_secrets),
                volume_context: wanted.attributes.clone(),
            };
            driver.call::<Empty>("NodeStageVolume", &request).await?;
        }
        self.tell_of_pod(pod, wishes, &mut wanted, workshop).await?;
        let target = directory.join("mount");
        let request = NodePublishVolumeRequest {
            volume_id: record.volume_handle.clone(),
            publish_context,
            staging_target_path,
            target_path: target.display().to_string(),
            volume_capability: Some(capability),
            readonly: wanted.read_only,
            secrets: wanted.publish_secrets,
            volume_context: wanted.attributes,
        };
        driver.call::<Empty>("NodePublishVolume", &request).await?;
        if let Some(group) = group.filter(|_| !driver.can(can::MOUNT_GROUP)) {
            claim::own_unless_owned(pod, &target, group).await?;
        }
        Ok(target)
    }

    /// Adds what a driver wants to know of a pod.
    async fn tell_of_pod(&self, pod: &Pod, wishes: &Wishes, wanted: &mut Wanted, workshop: &Workshop<'_>) -> Result<()> {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        if wishes.pod_info_on_mount {
            let is_own = (!wanted.record.is_persistent()).to_string();
            let told = [
                ("pod.name", name(pod)),
                ("pod.namespace", namespace(pod)),
                ("pod.uid", uid(pod)),
                ("serviceAccount.name", account),
                ("ephemeral", is_own.as_str()),
            ];
            wanted.attributes.extend(told.map(|(key, value)| (format!("{KEYS}{key}"), value.to_owned())));
        }
        if wishes.token_requests.is_empty() {
            return Ok(());
        }
        let mut tokens = serde_json::Map::new();
        for request in &wishes.token_requests {
            let audiences: Vec<String> = Some(request.audience.clone()).filter(|audience| !audience.is_empty()).into_iter().collect();
            let answer = workshop.kernel.service_account_token(&reference(pod), account, &audiences, request.expiration_seconds).await?;
            let answer: Value = serde_json::from_slice(&answer).map_err(|source| Error::Malformed { what: "a token".into(), source })?;
            let status = &answer["status"];
            tokens.insert(
                request.audience.clone(),
                json!({ "token": status["token"], "expirationTimestamp": status["expirationTimestamp"] }),
            );
        }
        let place = if wishes.service_account_token_in_secrets { &mut wanted.publish_secrets } else { &mut wanted.attributes };
        place.insert(format!("{KEYS}serviceAccount.tokens"), Value::Object(tokens).to_string());
        Ok(())
    }

    /// Takes back all that a pod has of drivers, in which nothing runs any more.
    ///
    /// # Errors
    /// A driver that is not there, or its words: what it has mounted stays until it has taken it back.
    pub async fn release(&self, pod: &str, volumes: &Volumes, kernel: &Kernel) -> Result<()> {
        let mine = |(key, record): (&(String, String), &Record)| (key.0 == pod).then(|| record.clone());
        let records: Vec<Record> = self.records.borrow().iter().filter_map(mine).collect();
        for record in &records {
            let driver = self.driver(&record.driver_name)?;
            let lock = self.lock(&record.driver_name, &record.volume_handle);
            let _held = lock.lock().await;
            self.unmount(&driver, pod, record).await?;
            self.records.borrow_mut().remove(&(pod.to_owned(), record.name.clone()));
        }
        if !records.is_empty()
            && let Err(error) = volumes.use_also(self.in_use(), kernel).await
        {
            // The next heartbeat tells it.
            tracing::debug!(error = Error::chain(&error), "volumes that are not in use any more are told later");
        }
        Ok(())
    }

    async fn unmount(&self, driver: &Driver, pod: &str, record: &Record) -> Result<()> {
        let directory = record::directory(&self.dir, pod, &record.name)?;
        let target = directory.join("mount");
        let volume_id = record.volume_handle.clone();
        let request = NodeUnpublishVolumeRequest { volume_id: volume_id.clone(), target_path: target.display().to_string() };
        driver.call::<Empty>("NodeUnpublishVolume", &request).await?;
        must_be_free(record, &target)?;
        let shared = |((other, _), it): (&(String, String), &Record)| other != pod && it.is_of(&record.driver_name, &record.volume_handle);
        let last = !self.records.borrow().iter().any(shared);
        if last && record.is_persistent() && driver.can(can::STAGE) {
            let staging = record::staging(&self.dir, &record.driver_name, &record.volume_handle)?;
            let request = NodeUnstageVolumeRequest { volume_id, staging_target_path: staging.display().to_string() };
            driver.call::<Empty>("NodeUnstageVolume", &request).await?;
            must_be_free(record, &staging)?;
            remove_empty(&staging)?;
            remove_empty(staging.parent().unwrap_or(&staging))?;
        }
        record::forget(&directory)
    }

    /// Publishes anew what drivers want to publish again and again.
    ///
    /// # Errors
    /// As of [`Csi::mount_own`].
    pub async fn refresh(&self, pod: &Pod, workshop: &Workshop<'_>) -> Result<()> {
        let mine =
            |(key, record): (&(String, String), &Record)| (key.0 == uid(pod)).then(|| (record.driver_name.clone(), record.name.clone()));
        let records: Vec<(String, String)> = self.records.borrow().iter().filter_map(mine).collect();
        for (driver, record) in records {
            if !Wishes::of(&driver, workshop.kernel).await?.requires_republish {
                continue;
            }
            for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
                if volume.csi.is_some() && volume.name == record {
                    self.mount_own(pod, volume, workshop).await?;
                } else if claim::name_of(pod, volume).is_some()
                    && let Some(found) = workshop.volumes.get(&record)
                    && claim::is_of(pod, volume, &found)
                {
                    self.mount_claimed(pod, volume, &found, workshop).await?;
                }
            }
        }
        Ok(())
    }
}

/// What a driver calls the way in which a volume is used. Its files are given to the group by the driver that can.
pub(super) fn capability(driver: &Driver, fs_type: &str, mount_flags: &[String], modes: &[String], group: Option<u32>) -> VolumeCapability {
    let group = group.filter(|_| driver.can(can::MOUNT_GROUP)).map(|group| group.to_string()).unwrap_or_default();
    let mount = MountVolume { fs_type: fs_type.to_owned(), mount_flags: mount_flags.to_vec(), volume_mount_group: group };
    let mode = modes.first().map_or("ReadWriteOnce", String::as_str);
    VolumeCapability { mount: Some(mount), access_mode: Some(access_mode(mode, driver.can(can::SINGLE_NODE_MULTI_WRITER))) }
}

/// Waits until a volume is attached; what whoever did it told.
async fn attached(record: &Record, kernel: &Kernel) -> Result<Words> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Attachment {
        status: Status,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        attached: bool,
        attachment_metadata: Words,
        attach_error: Option<Failure>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Failure {
        message: String,
    }
    let deadline = tokio::time::Instant::now() + ATTACH_TIMEOUT;
    let wait =
        |why: String| Error::ContainerConfig(format!("volume {:?} is not attached to node {:?}: {why}", record.name, record.node_name));
    loop {
        let why = match kernel.get(&Reference::storage("volumeattachments", &record.attachment)).await {
            Ok(bytes) => {
                let malformed = |source| Error::Malformed { what: format!("volumeattachment {}", record.attachment), source };
                let status = serde_json::from_slice::<Attachment>(&bytes).map_err(malformed)?.status;
                if status.attached {
                    return Ok(status.attachment_metadata);
                }
                status.attach_error.map_or_else(|| "nobody has done it yet".to_owned(), |error| error.message)
            }
            Err(error) if error.is_not_found() => "nobody has asked for it yet".to_owned(),
            Err(error) => return Err(error),
        };
        if tokio::time::Instant::now() > deadline {
            return Err(wait(why));
        }
        tokio::time::sleep(ATTACH_LOOK).await;
    }
}

type SecretOf = fn(&CSIPersistentVolumeSource) -> &Option<k8s_openapi::api::core::v1::SecretReference>;

/// Namespace and name of a secret that a volume names.
pub(super) fn secret(source: &CSIPersistentVolumeSource, which: SecretOf) -> Option<(&str, &str)> {
    let reference = which(source).as_ref()?;
    Some((reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// What a secret says.
pub(super) async fn secrets(kernel: &Kernel, secret: Option<(&str, &str)>) -> Result<Words> {
    let Some((namespace, name)) = secret else { return Ok(Words::new()) };
    let bytes = kernel.get(&Reference::core("secrets", namespace, name)).await?;
    let secret: Secret = serde_json::from_slice(&bytes).map_err(|source| Error::Malformed { what: format!("secret {name}"), source })?;
    let data = secret.data.unwrap_or_default();
    Ok(data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}

fn must_be_free(record: &Record, path: &Path) -> Result<()> {
    if !mounts::is_mounted(path)? {
        return Ok(());
    }
    let why = format!("it says that it is done with volume {:?}, which is still mounted on {}", record.name, path.display());
    Err(Error::invalid(format!("driver {:?}", record.driver_name), why))
}

fn remove_empty(path: &Path) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).step(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_group_gets_the_files_as_the_driver_says() {
        let wishes = |policy: Option<&str>| Wishes { fs_group_policy: policy.map(str::to_owned), ..Wishes::default() };
        let once = || vec!["ReadWriteOnce".to_owned()];
        for (policy, fs_type, modes, takes) in [
            (Some("File"), "", vec![], true),
            (Some("None"), "ext4", once(), false),
            (None, "", once(), false),
            (None, "ext4", once(), true),
            (Some("ReadWriteOnceWithFSType"), "ext4", vec!["ReadWriteMany".to_owned()], false),
        ] {
            assert_eq!(wishes(policy).takes_group(fs_type, &modes), takes, "{policy:?} {fs_type} {modes:?}");
        }
    }
}
