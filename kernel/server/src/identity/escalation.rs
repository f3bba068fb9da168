//! Nobody gives away what he does not hold: roles and bindings are written only by who already has every right in them, or the verb `escalate`
//! (for roles) or `bind` (for bindings).
//!
//! The object that is looked at is the one that would be stored: what a dry run of the same write answers. Afterwards the real write goes
//! through the registry as any other.

use pintle_api::{ApiError, Reason};
use pintle_registry::{Caller, Object};

use super::authz::Authorizer;
use super::rbac::{self, Action, Rule};

/// Whether writes of this resource are checked for this caller.
pub(crate) fn concerns(caller: &Caller, group: &str) -> bool {
    group == rbac::GROUP && !caller.groups.iter().any(|group| group == "system:masters")
}

/// Check the role or binding that would be stored.
///
/// # Errors
/// 403.
pub(crate) fn check(authorizer: &Authorizer, caller: &Caller, object: &Object) -> Result<(), ApiError> {
    let (namespace, name) = (&*object.meta().namespace, &*object.meta().name);
    let plural = object.resource().plural.as_ref();
    let (verb, resource, role, rules) = match rbac::role_ref(object) {
        Some((kind, role)) => {
            let resource = if kind == "Role" { "roles" } else { "clusterroles" };
            let rules = authorizer.rules_of_role(if kind == "Role" { namespace } else { "" }, &role);
            ("bind", resource, role, rules)
        }
        None => ("escalate", plural, name.to_owned(), Some(rbac::rules_of(object))),
    };
    let permission = Action { verb, is_resource: true, group: rbac::GROUP, resource, namespace, name: &role, ..Action::default() };
    // A role that does not exist could be made later, with any rights.
    let covered = rules.is_some_and(|rules| rules.iter().all(|rule| holds(authorizer, caller, namespace, rule)));
    if covered || authorizer.allows(caller, &permission) {
        return Ok(());
    }
    let message = format!(
        "{plural}.{} {name:?} is forbidden: user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held",
        rbac::GROUP,
        caller.user,
        caller.groups
    );
    Err(ApiError { code: 403, reason: Reason::Forbidden, message, details: None, continue_token: None, warnings: None })
}

/// Whether the caller has every right of a rule. A `*` in the rule is held only by who holds a `*`.
fn holds(authorizer: &Authorizer, caller: &Caller, namespace: &str, rule: &Rule) -> bool {
    let anything = [String::new()];
    let names: &[String] = if rule.resource_names.is_empty() { &anything } else { &rule.resource_names };
    rule.verbs.iter().all(|verb| {
        let paths = rule.non_resource_urls.iter().all(|path| authorizer.allows(caller, &Action { verb, path, ..Action::default() }));
        paths
            && rule.api_groups.iter().all(|group| {
                rule.resources.iter().all(|resource| {
                    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                    names.iter().all(|name| {
                        let action = Action { verb, is_resource: true, group, resource, subresource, namespace, name, path: "" };
                        authorizer.allows(caller, &action)
                    })
                })
            })
    })
}
