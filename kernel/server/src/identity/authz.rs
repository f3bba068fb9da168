//! What a caller may do.
//!
//! In order: `system:masters` may everything; a machine may what its node needs (`node`); everybody may what some role grants (`rbac`). The
//! roles are followed from the registry, so a grant counts a moment after it was acknowledged.

use std::sync::Arc;

use parking_lot::RwLock;
use pintle_api::{ApiError, Reason, status::Details};
use pintle_policies::Access;
use pintle_registry::{Caller, EventKind, Feed, ListOptions, Registry, ResourceKey, Subscription, SubscriptionFilter};
use tokio::task::JoinHandle;

use super::node::NodeAuthority;
use super::rbac::{self, Action, Rule, Rules};
use crate::error::{Error, Result};
use crate::request::RequestInfo;

/// Decides.
pub(crate) struct Authorizer {
    registry: Arc<Registry>,
    rules: Arc<RwLock<Rules>>,
    follower: JoinHandle<()>,
}

impl Authorizer {
    /// Read every role and binding, and follow them.
    pub(crate) async fn start(registry: Arc<Registry>) -> Result<Authorizer> {
        let filter = rbac::RESOURCES.iter().map(|resource| ResourceKey::new(rbac::GROUP, *resource)).collect();
        let subscription = registry.subscribe(SubscriptionFilter::Resources(filter));
        let rules = Arc::new(RwLock::new(Rules::default()));
        reload(&registry, &rules).await.map_err(|error| Error::Bootstrap { what: "access rules".to_owned(), message: error.message })?;
        let follower = tokio::spawn(follow(registry.clone(), rules.clone(), subscription));
        Ok(Authorizer { registry, rules, follower })
    }

    /// Whether the caller may.
    pub(crate) fn allows(&self, caller: &Caller, action: &Action<'_>) -> bool {
        if caller.groups.iter().any(|group| group == "system:masters") {
            return true;
        }
        if let Some(node) = NodeAuthority::of(caller)
            && node.allows(&self.registry, action)
        {
            return true;
        }
        self.rules.read().allow(caller, action)
    }

    /// Why the caller may, in upstream's words; `None` when it may not.
    pub(crate) fn why(&self, caller: &Caller, action: &Action<'_>) -> Option<String> {
        let by_role = self.rules.read().why(caller, action);
        by_role.or_else(|| self.allows(caller, action).then(String::new))
    }

    /// Refuse what is not allowed.
    ///
    /// # Errors
    /// 403, in upstream's words.
    pub(crate) fn check(&self, caller: &Caller, action: &Action<'_>) -> Result<(), ApiError> {
        if self.allows(caller, action) { Ok(()) } else { Err(forbidden(caller, action)) }
    }

    /// The rules of a role by name; of a cluster role when the namespace is empty.
    pub(crate) fn rules_of_role(&self, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        self.rules.read().of_role(namespace, name).cloned()
    }

    /// The rules that hold for the caller in a namespace.
    pub(crate) fn rules_of(&self, caller: &Caller, namespace: &str) -> Vec<Rule> {
        self.rules.read().of(caller, namespace).flat_map(|(rules, _)| rules).cloned().collect()
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl<'a> Action<'a> {
    /// What a request wants to do.
    pub(crate) fn of(info: &'a RequestInfo) -> Action<'a> {
        Action {
            verb: info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
        }
    }
}

/// What the expressions of a judge may ask about: the caller, or a service account.
pub(crate) fn asking<'a>(authorizer: &'a Authorizer, caller: &'a Caller) -> impl Fn(&Access, &str) -> (bool, String) + 'a {
    move |access, verb| {
        let account = access.account.as_ref().map(|(namespace, name)| {
            let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            Caller::user(format!("system:serviceaccount:{namespace}:{name}"), groups)
        });
        let caller = account.as_ref().unwrap_or(caller);
        let Access { path, group, resource, subresource, namespace, name, .. } = access;
        let action = Action { verb, is_resource: path.is_empty(), group, resource, subresource, namespace, name, path };
        let allowed = authorizer.allows(caller, &action);
        (allowed, if allowed { String::new() } else { reason(caller, &action) })
    }
}

fn forbidden(caller: &Caller, action: &Action<'_>) -> ApiError {
    let why = reason(caller, action);
    if !action.is_resource {
        return ApiError::forbidden_path(why);
    }
    let subject = match (action.group.is_empty(), action.name.is_empty()) {
        (true, true) => action.resource.to_owned(),
        (true, false) => format!("{} {:?}", action.resource, action.name),
        (false, true) => format!("{}.{}", action.resource, action.group),
        (false, false) => format!("{}.{} {:?}", action.resource, action.group, action.name),
    };
    let details = Details { name: action.name.into(), group: action.group.into(), kind: action.resource.into(), ..Details::default() };
    ApiError {
        code: 403,
        reason: Reason::Forbidden,
        message: format!("{subject} is forbidden: {why}"),
        details: Some(Box::new(details)),
        continue_token: None,
        warnings: None,
    }
}

/// Why not, as upstream says it.
pub(crate) fn reason(caller: &Caller, action: &Action<'_>) -> String {
    if !action.is_resource {
        return format!("User {:?} cannot {} path {:?}", caller.user, action.verb, action.path);
    }
    let resource = match action.subresource {
        "" => action.resource.to_owned(),
        subresource => format!("{}/{subresource}", action.resource),
    };
    let scope =
        if action.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {:?}", action.namespace) };
    format!("User {:?} cannot {} resource {resource:?} in API group {:?} {scope}", caller.user, action.verb, action.group)
}

/// Take everything anew.
async fn reload(registry: &Registry, rules: &RwLock<Rules>) -> Result<(), ApiError> {
    let mut fresh = Rules::default();
    for resource in rbac::RESOURCES {
        let target = registry.resolve(rbac::GROUP, "v1", resource, "", "", "")?;
        for object in registry.list(&target, &ListOptions::default()).await?.items {
            fresh.put(&object);
        }
    }
    *rules.write() = fresh;
    Ok(())
}

async fn follow(registry: Arc<Registry>, rules: Arc<RwLock<Rules>>, mut subscription: Subscription) {
    while let Some(feed) = subscription.next().await {
        match feed {
            Feed::Event(event) if event.kind == EventKind::Deleted => rules.write().remove(&event.object),
            Feed::Event(event) => rules.write().put(&event.object),
            Feed::Lagged => {
                if let Err(error) = reload(&registry, &rules).await {
                    tracing::error!(%error, "reading the access rules again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
