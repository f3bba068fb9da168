//! Role-based access control: the stored roles and bindings, compiled to what a decision needs.
//!
//! Pure: [`Rules`] is fed with objects and asked; who feeds it is `authz`. A decision walks the bindings that name the caller, cluster-wide ones
//! first, then those of the request's namespace. Nothing ever denies; what no rule allows is not allowed.

use std::collections::HashMap;

use pintle_registry::{Caller, Object};
use serde::Deserialize;

/// What a decision is about.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Action<'a> {
    pub(crate) verb: &'a str,
    /// Of a resource; else `path` counts.
    pub(crate) is_resource: bool,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) path: &'a str,
}

/// One policy rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) api_groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub(crate) non_resource_urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
}

#[derive(Deserialize)]
struct Role {
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

type Named<T> = HashMap<Box<str>, T>;

/// The rules of a role; none when it cannot be read.
pub(crate) fn rules_of(role: &Object) -> Vec<Rule> {
    serde_json::from_slice::<Role>(role.body()).ok().and_then(|role| role.rules).unwrap_or_default()
}

/// Kind and name of the role that a binding refers to; `None` for what is no binding.
pub(crate) fn role_ref(object: &Object) -> Option<(String, String)> {
    let binding: Binding = serde_json::from_slice(object.body()).ok()?;
    Some((binding.role_ref.kind, binding.role_ref.name))
}

/// Every role and binding.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    cluster_roles: Named<Vec<Rule>>,
    roles: Named<Named<Vec<Rule>>>,
    cluster_bindings: Named<Binding>,
    bindings: Named<Named<Binding>>,
}

/// The resources of the group that [`Rules`] is made of.
pub(crate) const RESOURCES: [&str; 4] = ["clusterrolebindings", "clusterroles", "rolebindings", "roles"];
/// Their group.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

impl Rules {
    /// Take in an object as it is now. What cannot be read grants nothing.
    pub(crate) fn put(&mut self, object: &Object) {
        let (namespace, name) = (object.meta().namespace.clone(), object.meta().name.clone());
        let binding = || serde_json::from_slice::<Binding>(object.body()).ok();
        match object.resource().plural.as_ref() {
            "clusterroles" => drop(self.cluster_roles.insert(name, rules_of(object))),
            "roles" => drop(self.roles.entry(namespace).or_default().insert(name, rules_of(object))),
            "clusterrolebindings" => match binding() {
                Some(binding) => drop(self.cluster_bindings.insert(name, binding)),
                None => drop(self.cluster_bindings.remove(&name)),
            },
            "rolebindings" => match binding() {
                Some(binding) => drop(self.bindings.entry(namespace).or_default().insert(name, binding)),
                None => self.remove(object),
            },
            _ => {}
        }
    }

    /// Forget an object.
    pub(crate) fn remove(&mut self, object: &Object) {
        let (namespace, name) = (&object.meta().namespace, &object.meta().name);
        match object.resource().plural.as_ref() {
            "clusterroles" => drop(self.cluster_roles.remove(name)),
            "clusterrolebindings" => drop(self.cluster_bindings.remove(name)),
            "roles" => remove_nested(&mut self.roles, namespace, name),
            "rolebindings" => remove_nested(&mut self.bindings, namespace, name),
            _ => {}
        }
    }

    /// The rules of a role by name; of a cluster role when the namespace is empty.
    pub(crate) fn of_role(&self, namespace: &str, name: &str) -> Option<&Vec<Rule>> {
        if namespace.is_empty() { self.cluster_roles.get(name) } else { self.roles.get(namespace)?.get(name) }
    }

    /// Whether some rule allows it.
    pub(crate) fn allow(&self, caller: &Caller, action: &Action<'_>) -> bool {
        self.of(caller, action.namespace).any(|(rules, _)| rules.iter().any(|rule| rule.allows(action)))
    }

    /// Which binding allows it, in upstream's words.
    pub(crate) fn why(&self, caller: &Caller, action: &Action<'_>) -> Option<String> {
        let (_, By { namespace, name, binding, subject }) =
            self.of(caller, action.namespace).find(|(rules, _)| rules.iter().any(|rule| rule.allows(action)))?;
        let (kind, place) =
            if namespace.is_empty() { ("ClusterRoleBinding", String::new()) } else { ("RoleBinding", format!("/{namespace}")) };
        let (role, whom) =
            (&binding.role_ref, if subject.kind == "ServiceAccount" { format!("/{}", subject.namespace) } else { String::new() });
        let (binding, subject) = (format!("{name}{place}"), format!("{} {:?}", subject.kind, format!("{}{whom}", subject.name)));
        Some(format!("RBAC: allowed by {kind} {binding:?} of {} {:?} to {subject}", role.kind, role.name))
    }

    /// The rules that hold for the caller in a namespace ("" for none), and by what.
    pub(crate) fn of<'r>(&'r self, caller: &'r Caller, namespace: &'r str) -> impl Iterator<Item = (&'r Vec<Rule>, By<'r>)> {
        let by = move |namespace, (name, binding): (&'r Box<str>, &'r Binding)| {
            Some(By { namespace, name, binding, subject: binding.subject(caller, namespace)? })
        };
        let cluster = self.cluster_bindings.iter().filter_map(move |entry| by("", entry));
        let local = (!namespace.is_empty()).then(|| self.bindings.get(namespace)).flatten().into_iter().flatten();
        cluster.chain(local.filter_map(move |entry| by(namespace, entry))).filter_map(move |by| {
            let role = &by.binding.role_ref;
            let rules = match role.kind.as_str() {
                "Role" if !by.namespace.is_empty() => self.roles.get(by.namespace)?.get(&*role.name),
                "ClusterRole" => self.cluster_roles.get(&*role.name),
                _ => None,
            };
            Some((rules?, by))
        })
    }
}

/// What gives a caller rules.
#[derive(Clone, Copy)]
pub(crate) struct By<'r> {
    /// Empty: everywhere.
    namespace: &'r str,
    name: &'r str,
    binding: &'r Binding,
    subject: &'r Subject,
}

fn remove_nested<T>(from: &mut Named<Named<T>>, namespace: &str, name: &str) {
    if let Some(named) = from.get_mut(namespace) {
        named.remove(name);
        if named.is_empty() {
            from.remove(namespace);
        }
    }
}

impl Binding {
    /// The subject that is the caller. A service account without a namespace is of the binding's.
    fn subject(&self, caller: &Caller, namespace: &str) -> Option<&Subject> {
        self.subjects.iter().flatten().find(|subject| match subject.kind.as_str() {
            "User" => subject.name == caller.user,
            "Group" => caller.groups.contains(&subject.name),
            "ServiceAccount" => {
                let namespace = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
                let account = caller.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                !namespace.is_empty() && account == Some((namespace, &subject.name))
            }
            _ => false,
        })
    }
}

impl Rule {
    fn allows(&self, action: &Action<'_>) -> bool {
        if !has(&self.verbs, action.verb) {
            return false;
        }
        if !action.is_resource {
            return self.non_resource_urls.iter().any(|url| url_matches(url, action.path));
        }
        has(&self.api_groups, action.group)
            && self.resources.iter().any(|resource| resource_matches(resource, action))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == action.name))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|have| have == "*" || have == wanted)
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_matches(rule: &str, action: &Action<'_>) -> bool {
    match rule.split_once('/') {
        _ if rule == "*" => true,
        None => rule == action.resource && action.subresource.is_empty(),
        Some((resource, subresource)) => subresource == action.subresource && (resource == "*" || resource == action.resource),
    }
}

/// Exact, or a prefix that ends in `*`.
fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests;
