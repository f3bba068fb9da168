//! A pod as admission reads it: borrowed, and only what is decided by.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A pod.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Pod<'a> {
    #[serde(borrow)]
    pub metadata: Meta<'a>,
    #[serde(borrow)]
    pub spec: Spec<'a>,
}

/// Its metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow)]
    pub generate_name: Cow<'a, str>,
    #[serde(borrow)]
    pub annotations: Option<BTreeMap<Cow<'a, str>, IgnoredAny>>,
}

/// Its spec.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec<'a> {
    #[serde(borrow)]
    pub service_account_name: Cow<'a, str>,
    #[serde(borrow)]
    pub service_account: Cow<'a, str>,
    pub automount_service_account_token: Option<bool>,
    pub image_pull_secrets: Option<Vec<IgnoredAny>>,
    #[serde(borrow)]
    pub priority_class_name: Cow<'a, str>,
    pub priority: Option<i32>,
    #[serde(borrow)]
    pub preemption_policy: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub tolerations: Option<Vec<Toleration<'a>>>,
    #[serde(borrow)]
    pub volumes: Option<Vec<Named<'a>>>,
    #[serde(borrow)]
    pub containers: Option<Vec<Container<'a>>>,
    #[serde(borrow)]
    pub init_containers: Option<Vec<Container<'a>>>,
}

/// What it puts up with.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Toleration<'a> {
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    #[serde(borrow)]
    pub effect: Cow<'a, str>,
}

/// Something with a name.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Named<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
}

/// A container.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container<'a> {
    #[serde(borrow)]
    pub volume_mounts: Option<Vec<Mount<'a>>>,
}

/// Where a volume is mounted.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount<'a> {
    #[serde(borrow)]
    pub mount_path: Cow<'a, str>,
}
