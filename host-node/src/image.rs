//! Has images here: pull policy, one pull at a time for an image, back-off after failures.
//!
//! Invariant: an image that cannot be had costs the registry one question a back-off, however many pods want it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use pintle_runtime_bridge::{Credentials, Error as RuntimeError, ImageError, ImageInfo, ImageRef, Mirror, PullOptions};

use crate::backoff::{BackOff, Law};
use crate::engine::Engine;
use crate::event::{Kind, Recorder};
use crate::link::{Kernel, Reference};
use crate::pod::record::namespace;

/// Images of this machine.
pub struct Images {
    runtime: Engine,
    kernel: Kernel,
    events: Recorder,
    mirrors: Vec<Mirror>,
    plain_http: Vec<String>,
    law: Law,
    troubles: RefCell<BTreeMap<String, Trouble>>,
    flights: RefCell<BTreeMap<String, Rc<tokio::sync::Mutex<()>>>>,
}

struct Trouble {
    backoff: BackOff,
    failed_at: Timestamp,
    message: String,
}

/// Why an image is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `ErrImagePull`, `ImagePullBackOff`, `InvalidImageName`, `ErrImageNeverPull`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When to try again; `None`: not before the pod changes.
    pub retry_at: Option<Timestamp>,
}

impl Images {
    /// Images with these settings.
    pub fn new(runtime: Engine, kernel: Kernel, events: Recorder, (mirrors, plain_http): (Vec<Mirror>, Vec<String>), law: Law) -> Self {
        let (troubles, flights) = Default::default();
        Self { runtime, kernel, events, mirrors, plain_http, law, troubles, flights }
    }

    /// Has the container's image here by its pull policy.
    pub async fn ensure(&self, pod: &Pod, container: &Container) -> Result<ImageInfo, Missing> {
        let image = container.image.as_deref().unwrap_or_default();
        let say = |kind, reason: &str, message: &str| self.events.record(pod, Some(&container.name), kind, reason, message);
        let reference = ImageRef::parse(image).map_err(|error| {
            let message = format!("Failed to apply default image tag {image:?}: {error}");
            say(Kind::Warning, "InspectFailed", &message);
            say(Kind::Warning, "Failed", "Error: InvalidImageName");
            Missing { reason: "InvalidImageName", message, retry_at: None }
        })?;
        let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(image));
        if policy != "Always" {
            if let Some(info) = self.runtime.image(image).await {
                say(Kind::Normal, "Pulled", &format!("Container image {image:?} already present on machine"));
                return Ok(info);
            }
            if policy == "Never" {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                say(Kind::Warning, "ErrImageNeverPull", &message);
                say(Kind::Warning, "Failed", "Error: ErrImageNeverPull");
                return Err(Missing { reason: "ErrImageNeverPull", message, retry_at: None });
            }
        }
        self.pull(pod, container, image, &reference).await
    }

    async fn pull(&self, pod: &Pod, container: &Container, image: &str, reference: &ImageRef) -> Result<ImageInfo, Missing> {
        let say = |kind, reason: &str, message: &str| self.events.record(pod, Some(&container.name), kind, reason, message);
        if let Some(missing) = self.backing_off(image) {
            say(Kind::Normal, "BackOff", &missing.message);
            say(Kind::Warning, "Failed", "Error: ImagePullBackOff");
            return Err(missing);
        }
        let asked = Instant::now();
        let flight = self.flights.borrow_mut().entry(image.to_owned()).or_default().clone();
        say(Kind::Normal, "Pulling", &format!("Pulling image {image:?}"));
        let guard = flight.lock().await;
        if let Some(missing) = self.backing_off(image) {
            return Err(missing); // whoever flew before us failed
        }
        let began = Instant::now();
        let result = self.fetch(pod, reference, image).await;
        drop(guard);
        if Rc::strong_count(&flight) <= 2 {
            self.flights.borrow_mut().remove(image);
        }
        match result {
            Ok(info) => {
                self.troubles.borrow_mut().remove(image);
                let millis =
                    |since: Instant| std::time::Duration::from_millis(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
                let (pull, total) = (millis(began), millis(asked));
                let size = info.size_bytes;
                let message =
                    format!("Successfully pulled image {image:?} in {pull:?} ({total:?} including waiting). Image size: {size} bytes.");
                say(Kind::Normal, "Pulled", &message);
                Ok(info)
            }
            Err(error) => {
                let error = crate::Error::chain(&error);
                let message = format!("failed to pull and unpack image {image:?}: {error}");
                say(Kind::Warning, "Failed", &format!("Failed to pull image {image:?}: {error}"));
                say(Kind::Warning, "Failed", "Error: ErrImagePull");
                Err(self.note(image, message))
            }
        }
    }

    async fn fetch(&self, pod: &Pod, reference: &ImageRef, image: &str) -> Result<ImageInfo, RuntimeError> {
        let registry = reference.to_string();
        let registry = registry.split('/').next().unwrap_or_default();
        let options = PullOptions {
            credentials: self.credentials(pod, registry).await,
            mirrors: self.mirrors.clone(),
            plain_http: self.plain_http.clone(),
        };
        let id = self.runtime.pull(reference, options).await?;
        let info = match self.runtime.image(image).await {
            Some(info) => Some(info),
            None => self.runtime.image(&id.to_string()).await,
        };
        info.ok_or_else(|| ImageError::NotPresent(image.to_owned()).into())
    }

    /// Notes a failure and says until when to keep quiet.
    fn note(&self, image: &str, message: String) -> Missing {
        let now = Timestamp::now();
        let mut troubles = self.troubles.borrow_mut();
        let trouble = troubles.entry(image.to_owned()).or_insert_with(|| Trouble {
            backoff: BackOff::default(),
            failed_at: now,
            message: String::new(),
        });
        trouble.backoff.grow(self.law, now, now);
        (trouble.failed_at, trouble.message) = (now, message.clone());
        Missing { reason: "ErrImagePull", message, retry_at: trouble.backoff.allowed_at(self.law, now, now) }
    }

    fn backing_off(&self, image: &str) -> Option<Missing> {
        let now = Timestamp::now();
        let troubles = self.troubles.borrow();
        let trouble = troubles.get(image)?;
        let until = trouble.backoff.allowed_at(self.law, trouble.failed_at, now)?;
        let message = back_off_message(image, &trouble.message);
        Some(Missing { reason: "ImagePullBackOff", message, retry_at: Some(until) })
    }

    /// Credentials for a registry from the pod's imagePullSecrets; unreadable ones are skipped, as the kubelet does.
    async fn credentials(&self, pod: &Pod, registry: &str) -> Option<Credentials> {
        for secret in pod.spec.as_ref()?.image_pull_secrets.iter().flatten() {
            let Ok(bytes) = self.kernel.get(&Reference::core("secrets", namespace(pod), &secret.name)).await else { continue };
            let Ok(secret) = serde_json::from_slice::<Secret>(&bytes) else { continue };
            if let Some(credentials) = credentials_of(&secret, registry) {
                return Some(credentials);
            }
        }
        None
    }
}

/// The message of ImagePullBackOff.
pub fn back_off_message(image: &str, cause: &str) -> String {
    format!("Back-off pulling image {image:?}: ErrImagePull: {cause}")
}

/// `Always` for `:latest` or no tag, else `IfNotPresent`.
fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let fixed = last.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    if fixed { "IfNotPresent" } else { "Always" }
}

fn credentials_of(secret: &Secret, registry: &str) -> Option<Credentials> {
    let data = secret.data.as_ref()?.get(".dockerconfigjson")?;
    let config: serde_json::Value = serde_json::from_slice(&data.0).ok()?;
    let bare =
        |host: &str| host.trim_start_matches("https://").trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
    let same = |host: &str| bare(host) == registry || registry == "docker.io" && bare(host) == "index.docker.io";
    let entry = config["auths"].as_object()?.iter().find(|(host, _)| same(host))?.1;
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Credentials { username, password });
    }
    // `auth` is base64 of user:password; a Kubernetes ByteString decodes the same alphabet.
    let auth: k8s_openapi::ByteString = serde_json::from_value(entry["auth"].clone()).ok()?;
    let pair = String::from_utf8(auth.0).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        let check = |image: &str, expected: &str| assert_eq!(default_policy(image), expected, "{image}");
        check("busybox", "Always");
        check("busybox:latest", "Always");
        check("busybox:1.36", "IfNotPresent");
        check("localhost:5000/busybox", "Always");
        check("localhost:5000/busybox:1", "IfNotPresent");
        check("busybox@sha256:00", "IfNotPresent");
    }

    #[test]
    fn pull_secrets_are_read_in_both_forms() {
        let check = |auth: serde_json::Value, expected: Option<(&str, &str)>| {
            let config = serde_json::json!({ "auths": { "https://index.docker.io/v1/": auth } }).to_string();
            let secret = Secret {
                data: Some([(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config.into_bytes()))].into()),
                ..Secret::default()
            };
            let found = credentials_of(&secret, "docker.io").map(|c| (c.username, c.password));
            assert_eq!(found, expected.map(|(u, p)| (u.to_owned(), p.to_owned())));
            assert!(credentials_of(&secret, "ghcr.io").is_none());
        };
        check(serde_json::json!({ "username": "u", "password": "p" }), Some(("u", "p")));
        check(serde_json::json!({ "auth": "dTpwOng=" }), Some(("u", "p:x")));
        check(serde_json::json!({ "auth": "!!" }), None);
    }
}
