//! DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize: claims and volumes as they come and grow.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::storage::{Claim, storage};
use serde::Deserialize;

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// The older way to say a class, on claims.
const CLASS_BEFORE: &str = "volume.beta.kubernetes.io/storage-class";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Class {
    metadata: Metadata,
    allow_volume_expansion: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct New {
    metadata: Metadata,
    spec: NewSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NewSpec {
    storage_class_name: Option<String>,
}

/// A new claim or volume: protected from its first day, and of a class if there is a default one.
pub fn create(review: &Review<'_>) -> Result<Verdict> {
    let Some(new) = review.object::<New>()? else { return Ok(Verdict::allow()) };
    let is_claim = review.target.resource == "persistentvolumeclaims";
    let finalizer = if is_claim { "kubernetes.io/pvc-protection" } else { "kubernetes.io/pv-protection" };
    let mut verdict = Verdict::allow();
    if new.metadata.finalizers.is_empty() {
        verdict = verdict.edit(Edit::add("/metadata/finalizers", &[finalizer]));
    } else if new.metadata.finalizers.iter().all(|f| f != finalizer) {
        verdict = verdict.edit(Edit::add("/metadata/finalizers/-", &finalizer));
    }
    let says = new.spec.storage_class_name.is_some() || new.metadata.annotations.contains_key(CLASS_BEFORE);
    if is_claim && !says {
        let classes: Vec<Class> = review.related("storageclasses")?.unwrap_or_default();
        let defaults = classes.iter().filter(|class| class.metadata.annotations.get(DEFAULT).is_some_and(|v| v == "true"));
        // Of several the newest, and of those of one second the first by name.
        let newest = defaults.max_by_key(|class| (class.metadata.creation_timestamp, std::cmp::Reverse(class.metadata.name.clone())));
        if let Some(class) = newest {
            verdict = verdict.edit(Edit::add("/spec/storageClassName", &class.metadata.name));
        }
    }
    Ok(verdict)
}

/// A claim may ask for more than it did, if its class lets volumes grow, and never for less than it has.
pub fn resize(review: &Review<'_>) -> Result<Verdict> {
    let (Some(new), Some(old)) = (review.object::<Claim>()?, review.old_object::<Claim>()?) else { return Ok(Verdict::allow()) };
    let (wanted, before) = (new.wanted(), old.wanted());
    if wanted == before {
        return Ok(Verdict::allow());
    }
    if wanted < before {
        let has: &BTreeMap<String, String> = &old.status.capacity;
        let fits = wanted > storage(has) && !has.is_empty();
        let why = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
        return Ok(if fits { Verdict::allow() } else { Verdict::fail(422, "Invalid", why) });
    }
    if old.status.phase != "Bound" {
        return Ok(Verdict::deny("Only bound persistent volume claims can be expanded"));
    }
    let classes: Vec<Class> = review.related("storageclasses")?.unwrap_or_default();
    let class = classes.iter().find(|class| class.metadata.name == old.spec.storage_class_name && !class.metadata.name.is_empty());
    Ok(match class.and_then(|class| class.allow_volume_expansion) {
        Some(true) => Verdict::allow(),
        _ => Verdict::deny(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::Operation;
    use pintle_sdk::serde_json::Value;

    fn classes() -> [String; 3] {
        let class = |name: &str, at: &str, default: &str, grows: bool| {
            json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": {DEFAULT: default}}, "allowVolumeExpansion": grows})
                .to_string()
        };
        [
            class("old", "2026-01-01T00:00:00Z", "true", true),
            class("new", "2026-02-01T00:00:00Z", "true", false),
            class("other", "2026-03-01T00:00:00Z", "false", true),
        ]
    }

    fn ask<T>(resource: &str, object: &Value, old: &str, then: impl Fn(&Review<'_>) -> Result<T>) -> Result<T> {
        let (object, classes) = (object.to_string(), classes());
        let review = Review::new(Operation::Update, ObjectRef::named("", resource, "shop", "a"), object.as_bytes(), old.as_bytes());
        then(&review.with_related("storageclasses", classes.iter().map(String::as_bytes).collect()))
    }

    #[test]
    fn new_claims_are_protected_and_of_the_newest_default_class() -> Result<()> {
        let check = |resource: &str, object: Value, expected: &[Edit]| {
            assert_eq!(ask(resource, &object, "", create)?.edits, expected, "{object}");
            Ok::<_, Error>(())
        };
        let protect = Edit::add("/metadata/finalizers", &["kubernetes.io/pvc-protection"]);
        check("persistentvolumeclaims", json!({"spec": {}}), &[protect.clone(), Edit::add("/spec/storageClassName", &"new")])?;
        check("persistentvolumeclaims", json!({"spec": {"storageClassName": ""}}), std::slice::from_ref(&protect))?;
        check("persistentvolumeclaims", json!({"metadata": {"annotations": {CLASS_BEFORE: "x"}}}), &[protect])?;
        check(
            "persistentvolumes",
            json!({"metadata": {"finalizers": ["x"]}}),
            &[Edit::add("/metadata/finalizers/-", &"kubernetes.io/pv-protection")],
        )?;
        check("persistentvolumes", json!({"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}}), &[])
    }

    #[test]
    fn claims_only_grow_and_only_where_they_may() -> Result<()> {
        let claim = |class: &str, size: &str, phase: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase, "capacity": {"storage": "2Gi"}}});
        for (class, before, after, phase, words) in [
            ("old", "2Gi", "3Gi", "Bound", ""),
            ("old", "2Gi", "2048Mi", "Bound", ""),
            ("new", "2Gi", "3Gi", "Bound", "must support resize"),
            ("", "2Gi", "3Gi", "Bound", "must support resize"),
            ("old", "2Gi", "3Gi", "Pending", "Only bound"),
            ("old", "2Gi", "1Gi", "Bound", "less than status.capacity"),
            ("old", "4Gi", "3Gi", "Bound", ""),
        ] {
            let old = claim(class, before, phase).to_string();
            let said =
                ask("persistentvolumeclaims", &claim(class, after, phase), &old, resize)?.failure.map(|f| f.message).unwrap_or_default();
            assert!(said.is_empty() == words.is_empty() && said.contains(words), "{class} {before} {after} {phase}: {said}");
        }
        Ok(())
    }
}
