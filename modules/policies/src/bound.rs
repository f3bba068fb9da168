//! Policies with their bindings, and what all that a request meets say about it together.

use std::collections::HashMap;

use pintle_cel::Authorize;
use serde_json::Value as Json;

use crate::binding::{Actions, Refusal, Settled, VALIDATION_FAILURE};
use crate::expressions::text;
use crate::{Denial, Merge, MutatingPolicy, Outcome, Question, ValidatingPolicy, View};

/// A policy with its bindings. `M` is how the caller holds which requests are matched.
#[derive(Debug)]
pub struct Bound<P, M> {
    /// Its name.
    pub name: String,
    /// The policy, compiled.
    pub policy: P,
    /// `matchConstraints`.
    pub matching: M,
    /// `paramKind`; null without parameters.
    pub kind: Json,
    /// Those that name it; at least one.
    pub bindings: Vec<Binding<M>>,
}

/// A binding.
#[derive(Debug)]
pub struct Binding<M> {
    /// Its name.
    pub name: String,
    /// What it does to requests; of validating policies.
    pub actions: Actions,
    /// `matchResources`; without, every request that the policy matches.
    pub matching: Option<M>,
    /// `paramRef`; null without parameters.
    pub reference: Json,
}

/// A policy that a request meets, through a binding and with one parameter object.
#[derive(Debug)]
pub struct Met<'l, P, M> {
    /// The policy.
    pub policy: &'l Bound<P, M>,
    /// The binding.
    pub binding: &'l Binding<M>,
    /// The version of the resource in which the policy wants to see the object.
    pub version: String,
    /// The parameter object, null where there is to be none; or why it cannot be had.
    pub params: Result<Json, String>,
}

/// The request as one version of its resource shows it, by versions.
pub type Views = HashMap<String, View>;

/// What a request brings beside its policies.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The request in each version that a policy wants.
    pub views: &'a Views,
    /// The Namespace of its object; null without one.
    pub namespace: &'a Json,
    /// Who knows what is allowed.
    pub authorize: Option<Authorize<'a>>,
}

/// The policies that have a binding, in their order, compiled.
pub fn bound<P, M>(policies: &[Json], bindings: &[Json], compile: fn(&Json) -> P, matching: impl Fn(&Json) -> M) -> Vec<Bound<P, M>> {
    let name = |object: &Json| text(&object["metadata"], "name").to_owned();
    let binding = |object: &Json| Binding {
        name: name(object),
        actions: Actions::of(&object["spec"]["validationActions"]),
        matching: Some(&object["spec"]["matchResources"]).filter(|resources| resources.is_object()).map(&matching),
        reference: object["spec"]["paramRef"].clone(),
    };
    let bound = policies.iter().filter_map(|policy| {
        let (name, spec) = (name(policy), &policy["spec"]);
        let bindings: Vec<_> = bindings.iter().filter(|object| text(&object["spec"], "policyName") == name).map(binding).collect();
        let bound = |bindings| Bound {
            name,
            policy: compile(spec),
            matching: matching(&spec["matchConstraints"]),
            kind: spec["paramKind"].clone(),
            bindings,
        };
        (!bindings.is_empty()).then(|| bound(bindings))
    });
    bound.collect()
}

impl<M> Binding<M> {
    /// The namespace that parameters are in (empty: none), and what they are called (empty: they are selected by
    /// `paramRef.selector`). `namespace` is that of the request's object.
    ///
    /// # Errors
    /// The binding cannot be used for this request.
    pub fn place<'a>(&'a self, namespaced: bool, namespace: &'a str) -> Result<(&'a str, &'a str), String> {
        let name = text(&self.reference, "name");
        match (namespaced, text(&self.reference, "namespace")) {
            (true, "") if namespace.is_empty() => {
                Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned())
            }
            (true, "") => Ok((namespace, name)),
            (true, said) => Ok((said, name)),
            (false, "") => Ok(("", name)),
            (false, _) => Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
        }
    }

    /// What it means that there are no parameters: that the policy does not judge.
    ///
    /// # Errors
    /// Or that it cannot.
    pub fn not_found(&self) -> Result<Vec<Json>, String> {
        match text(&self.reference, "parameterNotFoundAction") {
            "Deny" => Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()),
            _ => Ok(Vec::new()),
        }
    }
}

impl<P, M> Met<'_, P, M> {
    /// The policy's view of the request.
    fn question<'a>(&'a self, around: Surroundings<'a>) -> Result<Question<'a>, String> {
        let Surroundings { views, namespace, authorize } = around;
        let view = views.get(&self.version).ok_or("failed to convert object version".to_owned());
        let view = view.map_err(|why| format!("failed to configure binding: {why}"))?;
        let params = self.params.as_ref().map_err(|why| format!("failed to configure binding: {why}"))?;
        Ok(Question { object: &view.object, old_object: &view.old_object, request: &view.request, params, namespace, authorize })
    }
}

/// What validating policies say together: the first refusal, and all warnings and notes.
pub fn validate<M>(met: &[Met<'_, ValidatingPolicy, M>], around: Surroundings<'_>) -> Settled {
    let mut sum = Settled::default();
    for met in met {
        let outcome = match met.question(around) {
            Ok(question) => met.policy.policy.judge(question),
            Err(why) => {
                let denial = met.policy.policy.failed(why).map(|denial| Denial { always: true, ..denial });
                Outcome { denials: Vec::from_iter(denial), ..Outcome::default() }
            }
        };
        let settled = met.binding.actions.settle(&met.policy.name, &met.binding.name, outcome);
        sum.refused = sum.refused.or(settled.refused);
        sum.warnings.extend(settled.warnings);
        sum.audit.extend(settled.audit);
    }
    let (failures, notes): (Vec<_>, Vec<_>) = std::mem::take(&mut sum.audit).into_iter().partition(|(key, _)| key == VALIDATION_FAILURE);
    sum.audit = notes;
    if let Some((key, _)) = failures.first() {
        let all: Vec<&str> = failures.iter().map(|(_, failure)| failure.as_str()).collect();
        sum.audit.push((key.clone(), format!("[{}]", all.join(","))));
    }
    sum
}

/// What mutating policies make of an object: one after the other, and once more those that asked for it when a later one changed it.
///
/// # Errors
/// The first refusal.
pub fn mutate<M>(met: &[Met<'_, MutatingPolicy, M>], around: Surroundings<'_>, object: &Json, merge: Merge<'_>) -> Result<Json, Refusal> {
    let mut object = object.clone();
    // How many changes there were when each had been asked.
    let (mut changes, mut seen) = (0, vec![usize::MAX; met.len()]);
    for (round, (at, met)) in (0..2).flat_map(|round| met.iter().enumerate().map(move |met| (round, met))) {
        let policy = &met.policy.policy;
        if round == 1 && !(policy.reinvoke && changes > seen[at]) {
            continue;
        }
        let result = match met.question(around) {
            Err(why) => Err(policy.failed(why)),
            Ok(question) => {
                // Versions of a custom resource differ in their name alone.
                let mut shown = object.clone();
                shown["apiVersion"] = question.object["apiVersion"].clone();
                policy.mutate(question.about(&shown), merge)
            }
        };
        match result {
            Ok(mut changed) => {
                changed["apiVersion"] = object["apiVersion"].clone();
                changes += usize::from(changed != object);
                object = changed;
            }
            Err(None) => {}
            Err(Some(why)) => {
                let message = format!("policy '{}' with binding '{}' denied request: {why}", met.policy.name, met.binding.name);
                return Err(Refusal { code: 403, reason: "Invalid".to_owned(), message });
            }
        }
        seen[at] = changes;
    }
    Ok(object)
}

/// The members at the top that two objects differ in: the new value, `None` where it is gone.
pub fn difference<'a>(before: &'a Json, after: &'a Json) -> Vec<(&'a str, Option<&'a Json>)> {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return Vec::new() };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.as_str(), None));
    let put = new.iter().filter(|(key, value)| old.get(*key) != Some(value)).map(|(key, value)| (key.as_str(), Some(value)));
    gone.chain(put).collect()
}

/// `paramKind` in two words: apiVersion and kind. `None`: the policy has no parameters, or the binding does not use them.
pub fn param_kind<'a, P, M>(policy: &'a Bound<P, M>, binding: &Binding<M>) -> Option<(&'a str, &'a str)> {
    let used = policy.kind.is_object() && binding.reference.is_object();
    used.then(|| (text(&policy.kind, "apiVersion"), text(&policy.kind, "kind")))
}
