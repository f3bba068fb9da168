//! Priority: the number behind a pod's priority class.

use pintle_sdk::prelude::*;
use serde::Deserialize;

use crate::pod::Pod;

/// Classes that every cluster has, even before their objects exist.
const SYSTEM_CLASSES: [(&str, i32); 2] = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Class {
    metadata: Metadata,
    value: i32,
    global_default: bool,
    preemption_policy: Option<String>,
}

/// The edits for one pod, or the refusal of a class that does not exist or a number that is not the class's.
pub fn edits(review: &Review<'_>, pod: &Pod<'_>) -> Result<Result<Vec<Edit>, Verdict>> {
    let Some(classes) = review.related::<Class>("priorityclasses")? else { return Ok(Ok(Vec::new())) };
    let asked = pod.spec.priority_class_name.as_ref();
    let mut edits = Vec::new();
    let class = if asked.is_empty() {
        let default = classes.into_iter().filter(|class| class.global_default).min_by_key(|class| class.value);
        if let Some(class) = &default {
            edits.push(Edit::add("/spec/priorityClassName", &class.metadata.name));
        }
        default.unwrap_or_default()
    } else {
        let system = SYSTEM_CLASSES.iter().find(|(name, _)| *name == asked).map(|(_, value)| Class { value: *value, ..Class::default() });
        match classes.into_iter().find(|class| class.metadata.name == asked).or(system) {
            Some(class) => class,
            None => return Ok(Err(Verdict::deny(format!("no PriorityClass with name {asked} was found")))),
        }
    };
    match pod.spec.priority {
        Some(given) if given != class.value => {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.value
            );
            return Ok(Err(Verdict::deny(why)));
        }
        Some(_) => {}
        None => edits.push(Edit::add("/spec/priority", &class.value)),
    }
    let policy = class.preemption_policy.unwrap_or_else(|| "PreemptLowerPriority".into());
    match &pod.spec.preemption_policy {
        Some(given) if *given != policy => {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Ok(Err(Verdict::deny(why)));
        }
        Some(_) => {}
        None => edits.push(Edit::add("/spec/preemptionPolicy", &policy)),
    }
    Ok(Ok(edits))
}
