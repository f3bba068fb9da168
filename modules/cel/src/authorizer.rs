//! `authorizer`: expressions that ask whether somebody may do something. Who knows is the caller of the expression ([`Authorize`]).
//!
//! Facts: <https://pkg.go.dev/k8s.io/apiserver/pkg/cel/library#Authz>.

use std::sync::Arc;

use pintle_values::names;

use crate::eval::{Result, fail};
use crate::opaque::Opaque;
use crate::value::Value;
use crate::{Budget, Error};

/// What one question costs.
const CHECK_COST: usize = 350_000;

/// What is asked about, but for the verb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The service account that is asked about, by namespace and name; else who made the request.
    pub account: Option<(String, String)>,
    /// A path that is no resource; empty: a resource.
    pub path: String,
    /// API group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Empty: the object itself.
    pub subresource: String,
    /// Empty: the whole cluster.
    pub namespace: String,
    /// Empty: all.
    pub name: String,
}

/// How much of a question is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing but who.
    Authorizer,
    /// A group.
    Group,
    /// A resource: it may be asked.
    Resource,
    /// A path: it may be asked.
    Path,
}

/// Answers whether a verb is allowed, and why.
pub type Authorize<'p> = &'p dyn Fn(&Access, &str) -> (bool, String);

impl Access {
    /// The variable `authorizer`; `request` is what `authorizer.requestResource` asks about.
    pub fn authorizer<'a>(request: Access) -> Value<'a> {
        Value::Opaque(Arc::new(Opaque::Access(Stage::Authorizer, Access::default(), Some(Box::new(request)))))
    }
}

/// `check`, if it is one.
pub(crate) fn check<'a>(
    target: Option<&Value<'a>>,
    args: &[Value<'a>],
    ask: Option<Authorize<'_>>,
    budget: &Budget,
) -> Result<Option<Value<'a>>> {
    let (Some(Value::Opaque(opaque)), [Value::String(verb)]) = (target, args) else { return Ok(None) };
    let Opaque::Access(Stage::Resource | Stage::Path, access, _) = &**opaque else { return Ok(None) };
    budget.pay(CHECK_COST)?;
    let Some(ask) = ask else { return fail("there is no authorizer here") };
    let (allowed, reason) = ask(access, verb);
    Ok(Some(Value::Opaque(Arc::new(Opaque::Decision(allowed, reason)))))
}

/// What says more about a question. `None`: no such function.
pub(crate) fn narrowed<'a>(name: &str, stage: Stage, access: &Access, args: &[Value<'a>]) -> Result<Option<Value<'a>>> {
    use Stage::{Authorizer, Group, Path, Resource};
    let mut access = access.clone();
    let stage = match (stage, name, args) {
        (Authorizer, "serviceAccount", [Value::String(namespace), Value::String(account)]) => {
            let wrong = names::dns_label(namespace).or_else(|| names::dns_subdomain(account));
            if let Some(why) = wrong {
                return Err(Error::Evaluation(format!("invalid service account {namespace}/{account}: {why}")));
            }
            access.account = Some((namespace.to_string(), account.to_string()));
            Authorizer
        }
        (Authorizer, "path", [Value::String(path)]) => {
            access.path = said(name, path)?;
            Path
        }
        (Authorizer, "group", [Value::String(group)]) => {
            access.group = group.to_string();
            Group
        }
        (Group, "resource", [Value::String(resource)]) => {
            access.resource = said(name, resource)?;
            Resource
        }
        (Resource, "subresource", [Value::String(text)]) => {
            access.subresource = text.to_string();
            Resource
        }
        (Resource, "namespace", [Value::String(text)]) => {
            access.namespace = text.to_string();
            Resource
        }
        (Resource, "name", [Value::String(text)]) => {
            access.name = text.to_string();
            Resource
        }
        // Roles do not look at selectors.
        (Resource, "fieldSelector" | "labelSelector", [Value::String(_)]) => Resource,
        _ => return Ok(None),
    };
    Ok(Some(Value::Opaque(Arc::new(Opaque::Access(stage, access, None)))))
}

fn said(what: &str, text: &str) -> Result<String> {
    if text.trim().is_empty() { fail(format!("{what} must not be empty")) } else { Ok(text.to_owned()) }
}
