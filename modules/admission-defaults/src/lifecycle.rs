//! NamespaceLifecycle: nothing is created in a namespace that is not there or on its way out, and some namespaces stay.

use pintle_sdk::Verdict;
use pintle_sdk::prelude::*;
use serde::Deserialize;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[derive(Deserialize)]
struct Namespace<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    deletion_timestamp: Option<&'a str>,
}

#[derive(Default, Deserialize)]
struct Status<'a> {
    #[serde(default)]
    phase: &'a str,
}

/// Whether the namespace takes new content.
pub fn create(review: &Review<'_>) -> Result<Verdict> {
    let target = &review.target;
    let asks_for_access = target.group == "authorization.k8s.io";
    if target.namespace.is_empty() || (target.group.is_empty() && target.resource == "namespaces") || asks_for_access {
        return Ok(Verdict::allow());
    }
    let Some(found) = review.related::<Namespace<'_>>("namespace")? else { return Ok(Verdict::allow()) };
    let Some(namespace) = found.first() else {
        return Ok(Verdict::fail(404, "NotFound", format!("namespaces {:?} not found", target.namespace)));
    };
    if namespace.metadata.deletion_timestamp.is_none() && namespace.status.phase != "Terminating" {
        return Ok(Verdict::allow());
    }
    Ok(Verdict::deny(format!("unable to create new content in namespace {} because it is being terminated", target.namespace)))
}

/// Whether a namespace may go.
pub fn delete(name: &str) -> Verdict {
    if IMMORTAL.contains(&name) { Verdict::deny("this namespace may not be deleted") } else { Verdict::allow() }
}
