//! ModulePolicy objects: what modules may be granted at most, whatever their manifests ask for.
//!
//! A module that no policy selects, and one that ships with the kernel, is not bounded. Of the policies that select a module each admits it
//! or not, by its type, source, digest and grants. None admits it: it does not run. Else it may do what the admitting ones allow together.

use crate::{
    fault::HostError,
    grants::Permission,
    limits::ModuleLimits,
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

    /// What a module gets that runs these bytes.
    ///
    /// # Errors
    /// `Denied`, with what each policy has against it.
    pub fn allowance(&self, asker: &Asker, spec: &ModuleSpec, digest: &str) -> Result<Allowance, HostError> {
        let policies = self.0.read();
        let selecting: Vec<&Policy> = policies.iter().filter(|policy| policy.selects(asker, spec)).collect();
        let mut objections = Vec::new();
        let admitting: Vec<&Policy> = selecting
            .iter()
            .copied()
            .filter(|policy| match policy.objection(spec, digest) {
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
        if spec.kind == ModuleType::Scheduler {
            // It is shown whole snapshots: part of one would only mislead it.
            must_see(spec.kind, None, &permissions).map_err(|e| HostError::Denied(format!("the policies' permissions: {e}")))?;
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
    fn objection(&self, spec: &ModuleSpec, digest: &str) -> Option<String> {
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
        let grant = spec.grants.iter().find(|grant| !self.spec.grants.contains(grant))?;
        Some(format!("does not allow the grant {grant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn module(change: Value) -> ModuleSpec {
        let mut spec = json!({"type": "controller", "source": {"file": "a.wasm"}, "controller": {"primary": "/pods"},
            "permissions": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
        spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        ModuleSpec::parse(&spec).expect("a spec")
    }

    #[track_caller]
    fn check(policies: &[Value], change: Value, expected: Result<Option<usize>, &str>) {
        let list = policies.iter().map(|spec| Policy::read("p", Some(json!({"spec": spec})))).collect();
        let asker = Asker { name: "m".into(), labels: json!({"team": "a"}) };
        let found = Policies(RwLock::new(list)).allowance(&asker, &module(change), "sha256:1").map(|a| a.bounds.first().map(Vec::len));
        match (found.map_err(|e| e.to_string()), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_module_runs_when_one_of_the_policies_that_select_it_admits_it() {
        let grant = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        check(&[], json!({}), Ok(None));
        check(&[json!({"modules": ["other"], "types": ["admission"]})], json!({}), Ok(None));
        check(&[json!({"modules": ["*"], "types": ["admission"]})], json!({}), Err("type controller"));
        check(&[json!({"modules": ["*"], "types": ["admission"]})], json!({"source": {"builtin": "x"}}), Ok(None));
        check(&[json!({"modules": ["m"], "sources": ["oci"]})], json!({}), Err("source file"));
        check(&[json!({"modules": ["m"], "digests": ["sha256:2"]})], json!({}), Err("digest sha256:1"));
        check(&[json!({"modules": ["m"]})], json!({"grants": ["timer"]}), Err("grant timer"));
        check(&[json!({"moduleSelector": {"matchLabels": {"team": "a"}}, "sources": ["oci"]})], json!({}), Err("source file"));
        check(&[json!({"moduleSelector": {"matchLabels": {"team": "b"}}, "sources": ["oci"]})], json!({}), Ok(None));
        check(
            &[json!({"modules": ["*"], "sources": ["oci"]}), json!({"modules": ["m"], "permissions": [grant, grant]})],
            json!({}),
            Ok(Some(2)),
        );
        check(&[json!({"modules": ["m"], "surprise": 1})], json!({}), Err("type controller"));
    }

    #[test]
    fn limits_are_cut_to_the_largest_bound_of_those_that_admit() {
        let limits = |policies: &[Value]| {
            let list =
                policies.iter().map(|limits| Policy::read("p", Some(json!({"spec": {"modules": ["*"], "limits": limits}})))).collect();
            let module = module(json!({"limits": {"workers": 100, "callsPerSecond": 100}}));
            let allowance = Policies(RwLock::new(list)).allowance(&Asker::default(), &module, "").expect("admitted");
            (allowance.limits.workers, allowance.limits.calls_per_second)
        };
        assert_eq!(limits(&[json!({"workers": 10, "callsPerSecond": 1000})]), (10, 100));
        assert_eq!(limits(&[json!({"workers": 10, "callsPerSecond": 10}), json!({"workers": 20})]), (20, 100));
    }
}
