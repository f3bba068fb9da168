//! Storage version migrations: every object of a resource that is stored in an older form is written again, unchanged, and so is stored as
//! it would be now. Then the definition of a custom resource may forget its older versions.
//!
//! Facts: the conditions and their words are those of kube-controller-manager's storage version migrator.

use std::borrow::Cow;

use pintle_sdk::Condition;
use pintle_sdk::prelude::*;
use serde::Deserialize;

/// How soon to look again while something is left.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A resource that is not served may come this long after its migration.
const RESOURCE_COMES: Duration = Duration::from_secs(60);

/// `storagemigration.k8s.io/v1` StorageVersionMigration, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Migration {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    resource: Resource,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resource {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    conditions: Vec<Condition>,
    resource_version: String,
}

/// A CustomResourceDefinition, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Definition {
    metadata: Metadata,
    spec: DefinitionSpec,
    status: DefinitionStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct DefinitionSpec {
    versions: Vec<Version>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Version {
    name: String,
    storage: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DefinitionStatus {
    stored_versions: Vec<String>,
}

/// What to do next about one migration.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(migration) = request.object::<Migration>()? else { return Ok(Plan::new()) };
    // Without this entry the resource is not served.
    let outdated = request.has_related("outdated").then(|| request.related_partials("outdated")).transpose()?;
    let name = format!("{}.{}", migration.spec.resource.resource, migration.spec.resource.group);
    let definition = request.related::<Definition>("definitions")?.into_iter().find(|definition| definition.metadata.name == name);
    Ok(plan(now, &migration, outdated.as_deref(), definition.as_ref()))
}

fn plan(now: Time, migration: &Migration, outdated: Option<&[Partial]>, definition: Option<&Definition>) -> Plan {
    let conditions = &migration.status.conditions;
    if conditions.iter().any(|c| matches!(&*c.kind, "Succeeded" | "Failed") && c.status == "True") {
        return Plan::new();
    }
    let created = migration.metadata.creation_timestamp.unwrap_or(now);
    match outdated {
        None if now.since(created) < RESOURCE_COMES => Plan::new().requeue_after(Duration::from_secs(1)),
        None => {
            let why = "migration encountered unhandled error: unable to obtain GVR from discovery";
            tell(Plan::new(), now, migration, &[("Failed", true, "StorageVersionMigrationFailed", why)])
        }
        Some([]) => {
            let done = [
                ("Running", false, "MigrationCompleted", "Migration completed"),
                ("Succeeded", true, "StorageVersionMigrationSucceeded", "Migration completed"),
            ];
            tell(forget(Plan::new(), definition), now, migration, &done)
        }
        Some(outdated) => {
            let plan = tell(Plan::new(), now, migration, &[("Running", true, "MigrationRunning", "The migration is running")]);
            outdated.iter().fold(plan, |plan, object| plan.patch(object.target(), json!({}))).requeue_after(LOOK_AGAIN)
        }
    }
}

/// The definition's older stored versions hold no object any more. It has to be as it was seen, with the version of today among the stored
/// ones: then the kernel looked at the objects as of that version.
fn forget(plan: Plan, definition: Option<&Definition>) -> Plan {
    let Some(definition) = definition else { return plan };
    let stored = &definition.status.stored_versions;
    match definition.spec.versions.iter().find(|version| version.storage) {
        Some(today) if stored.len() > 1 && stored.contains(&today.name) => {
            let target = ObjectRef::of("apiextensions.k8s.io", "customresourcedefinitions", &definition.metadata);
            let version = &definition.metadata.resource_version;
            let body = json!({"metadata": {"resourceVersion": version}, "status": {"storedVersions": [today.name]}});
            plan.write(Write::merge(target, body).to("status"))
        }
        _ => plan,
    }
}

/// Set conditions, and the version at which the migration was first seen; others' conditions stay.
fn tell(plan: Plan, now: Time, migration: &Migration, set: &[(&str, bool, &'static str, &str)]) -> Plan {
    let mut conditions = migration.status.conditions.clone();
    for (kind, holds, reason, message) in set {
        let status = if *holds { "True" } else { "False" };
        let before = conditions.iter().find(|c| c.kind == *kind && c.status == status).and_then(|c| c.last_transition_time);
        conditions.retain(|c| c.kind != *kind);
        conditions.push(Condition {
            kind: (*kind).to_owned(),
            status: Cow::Borrowed(status),
            last_transition_time: before.or(Some(Time(now.0 / 1_000 * 1_000))),
            reason: Cow::Borrowed(*reason),
            message: (*message).to_owned(),
            ..Condition::default()
        });
    }
    let (meta, first) = (&migration.metadata, &migration.status.resource_version);
    if conditions == migration.status.conditions {
        return plan;
    }
    let first = if first.is_empty() { &meta.resource_version } else { first };
    let body = json!({
        "metadata": {"resourceVersion": meta.resource_version},
        "status": {"conditions": conditions, "resourceVersion": first},
    });
    plan.write(Write::merge(ObjectRef::of("storagemigration.k8s.io", "storageversionmigrations", meta), body).to("status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::Action;
    use pintle_sdk::serde_json::{self, Value};

    fn migration(conditions: Value) -> Migration {
        serde_json::from_value(json!({
            "metadata": {"name": "m", "resourceVersion": "7", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"resource": {"group": "example.com", "resource": "widgets"}},
            "status": {"conditions": conditions},
        }))
        .unwrap_or_default()
    }

    fn definition(stored: &[&str]) -> Definition {
        let versions = json!([{"name": "v1"}, {"name": "v2", "storage": true}]);
        let metadata = json!({"name": "widgets.example.com", "resourceVersion": "5"});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"versions": versions}, "status": {"storedVersions": stored}}))
            .unwrap_or_default()
    }

    fn widget() -> Partial {
        let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "shop"}});
        serde_json::from_value(widget).unwrap_or_default()
    }

    /// Writes as text: what, and the body.
    fn writes(plan: &Plan) -> Vec<String> {
        let text = |write: &Write| match &write.action {
            Action::Patch(_, body) => format!("{}/{} {} {body}", write.target.resource, write.target.name, write.subresource),
            other => format!("{other:?}"),
        };
        plan.writes.iter().map(text).collect()
    }

    #[test]
    fn what_is_outdated_is_written_again_unchanged_until_nothing_is() {
        let some = plan(Time(0), &migration(json!([])), Some(&[widget()]), Some(&definition(&["v1", "v2"])));
        let texts = writes(&some);
        assert!(texts[0].contains(r#""reason":"MigrationRunning""#) && texts[0].contains(r#""resourceVersion":"7""#), "{texts:?}");
        assert_eq!((&*texts[1], texts.len()), ("widgets/w  {}", 2));
        assert!(some.requeue_after.is_some());
        let done = writes(&plan(Time(0), &migration(json!([])), Some(&[]), Some(&definition(&["v1", "v2"]))));
        assert!(done[0].contains(r#""storedVersions":["v2"]"#) && done[0].contains(r#""resourceVersion":"5""#), "{done:?}");
        assert!(done[1].contains(r#""type":"Succeeded""#) && done[1].contains("MigrationCompleted"), "{done:?}");
    }

    #[test]
    fn a_definition_that_the_kernel_has_not_settled_keeps_its_versions() {
        for stored in [&["v1"][..], &["v2"]] {
            let done = writes(&plan(Time(0), &migration(json!([])), Some(&[]), Some(&definition(stored))));
            assert_eq!(done.len(), 1, "{done:?}");
        }
    }

    #[test]
    fn a_resource_that_does_not_come_fails_the_migration_and_what_is_over_stays() {
        let waiting = plan(Time(1_000), &migration(json!([])), None, None);
        assert!(waiting.writes.is_empty() && waiting.requeue_after.is_some());
        let failed = plan(Time(61_000), &migration(json!([{"type": "Mine", "status": "True"}])), None, None);
        assert!(writes(&failed)[0].contains(r#""type":"Failed""#) && writes(&failed)[0].contains(r#""type":"Mine""#));
        let over = migration(json!([{"type": "Succeeded", "status": "True"}]));
        assert_eq!(plan(Time(0), &over, Some(&[widget()]), None), Plan::new());
    }
}
