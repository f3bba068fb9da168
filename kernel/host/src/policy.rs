//! ModulePolicy objects: what modules may be granted at most, whatever their manifests ask for.
//!
//! A module that no policy selects, and one that ships with the kernel, is not bounded. Of the policies that select a module each admits it
//! or not, by its type, source, digest and grants. None admits it: it does not run. Else it may do what the admitting ones allow together.

use crate::{
    fault::HostError,
    grants::Permission,
    limits::ModuleLimits,
    source::Provenance,
    spec::{ModuleSpec, ModuleType, RawLimits, Source, must_see},
};
use parking_lot::RwLock;
use pintle_api::selector::LabelSelector;
use pintle_registry::Object;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct PolicySpec {
    modules: Vec<String>,
    module_selector: Option<Value>,
    types: Vec<String>,
    sources: Vec<String>,
    digests: Vec<String>,
    /// PEM; one of them must have signed.
    signing_keys: Vec<String>,
    permissions: Vec<Permission>,
    grants: Vec<String>,
    limits: RawLimits,
}

struct Policy {
    name: String,
    selector: Option<LabelSelector>,
    spec: PolicySpec,
}

/// Who asks: a Module object's name and labels.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    pub name: String,
    /// `metadata.labels`.
    pub labels: Value,
}

/// What a module gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowance {
    /// Bounds of what it asks for; none: whatever it asks for.
    pub bounds: Vec<Vec<Permission>>,
    pub limits: ModuleLimits,
}

/// All policies, read once and held against modules when either changes.
#[derive(Default)]
pub struct Policies(RwLock<Vec<Policy>>);

impl Policies {
    /// Replaces them. A policy that cannot be read admits nobody: it was meant to bound somebody.
    pub fn set(&self, objects: &[std::sync::Arc<Object>]) {
        *self.0.write() = objects.iter().map(|object| Policy::read(&object.meta().name, object.value().ok())).collect();
    }

    /// Whether any policy that is about the module asks who signed it.
    pub fn ask_who_signed(&self, asker: &Asker, spec: &ModuleSpec) -> bool {
        self.0.read().iter().any(|policy| policy.selects(asker, spec) && !policy.spec.signing_keys.is_empty())
    }

    /// What a module gets that runs these bytes.
    ///
    /// # Errors
    /// `Denied`, with what each policy has against it.
    pub fn allowance(&self, asker: &Asker, spec: &ModuleSpec, digest: &str, provenance: &Provenance) -> Result<Allowance, HostError> {
        let policies = self.0.read();
        let selecting: Vec<&Policy> = policies.iter().filter(|policy| policy.selects(asker, spec)).collect();
        let mut objections = Vec::new();
        let admitting: Vec<&Policy> = selecting
            .iter()
            .copied()
            .filter(|policy| match policy.objection(spec, digest, provenance) {
                Some(why) => {
                    objections.push(format!("policy {:?} {why}", policy.name));
                    false
                }
                None => true,
            })
            .collect();
        if selecting.is_empty() {
            return Ok(Allowance { bounds: Vec::new(), limits: spec.limits.clone() });
        }
        if admitting.is_empty() {
            return Err(HostError::Denied(objections.join("; ")));
        }
        let permissions: Vec<Permission> = admitting.iter().flat_map(|policy| policy.spec.permissions.clone()).collect();
        if matches!(spec.kind, ModuleType::Scheduler | ModuleType::SchedulerPlugin) {
            // It is shown whole snapshots: part of one would only mislead it.
            must_see(spec.kind, &[], &permissions).map_err(|e| HostError::Denied(format!("the policies' permissions: {e}")))?;
        }
        let bounds: Vec<&RawLimits> = admitting.iter().map(|policy| &policy.spec.limits).collect();
        Ok(Allowance { bounds: vec![permissions], limits: RawLimits::largest(&bounds).cut(spec.limits.clone()) })
    }
}

impl Policy {
    fn read(name: &str, object: Option<Value>) -> Self {
        let spec = object.map(|mut object| serde_json::from_value(object["spec"].take()).map_err(|e| e.to_string()));
        let spec = spec.unwrap_or_else(|| Err("it is not JSON".into())).unwrap_or_else(|error: String| {
            tracing::warn!(policy = name, error, "a ModulePolicy cannot be read; it admits no module");
            PolicySpec { modules: vec!["*".into()], types: vec!["none".into()], ..PolicySpec::default() }
        });
        let selector = spec.module_selector.as_ref().and_then(|s| LabelSelector::from_object(s).ok());
        Self { name: name.to_owned(), selector, spec }
    }

    fn selects(&self, asker: &Asker, spec: &ModuleSpec) -> bool {
        let named = self.spec.modules.iter().any(|name| name == "*" || *name == asker.name);
        let labelled = || self.selector.as_ref().is_some_and(|s| s.matches_labels(&asker.labels));
        !matches!(spec.source, Source::Builtin(_)) && (named || labelled())
    }

    /// Why the module may not run, if it may not.
    fn objection(&self, spec: &ModuleSpec, digest: &str, provenance: &Provenance) -> Option<String> {
        let lists = |list: &[String], word: &str| list.is_empty() || list.iter().any(|entry| entry == word);
        let (kind, source) = (spec.kind.as_str(), spec.source.kind());
        if !lists(&self.spec.types, kind) {
            return Some(format!("does not allow modules of type {kind}"));
        }
        if !lists(&self.spec.sources, source) {
            return Some(format!("does not allow the source {source}"));
        }
        if !lists(&self.spec.digests, digest) {
            return Some(format!("does not allow the digest {digest}"));
        }
        if !self.spec.signing_keys.is_empty() && !provenance.is_by_one_of(&self.spec.signing_keys) {
            return Some("has no key that signed it".to_owned());
        }
        let grant = spec.grants.iter().find(|grant| !self.spec.grants.contains(grant))?;
        Some(format!("does not allow the grant {grant}"))
    }
}

#[cfg(test)]
mod tests;
