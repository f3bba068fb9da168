//! Admission policies: `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy` (`admissionregistration.k8s.io/v1`), compiled and judged.
//!
//! A policy is expressions in CEL; a binding says what it does to requests that it does not like. Everything comes in as JSON
//! ([`Question`]) and goes out as [`Outcome`] or as a changed object, so the same code judges in the kernel and in tests. The match
//! conditions that webhooks and admission modules share with policies are here, too ([`Conditions`]).
//!
//! Not here: which policies a request meets (rules, selectors, bindings, parameters): that takes the kernel's cache.
//!
//! Facts: <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>,
//! <https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/>.

mod binding;
mod bound;
mod conditions;
mod expressions;
mod mutating;
mod types;
mod validating;

pub use pintle_cel::{Access, Authorize};
use serde_json::Value as Json;

pub use binding::{Actions, Refusal, Settled};
pub use bound::{Binding, Bound, Met, Surroundings, Views, bound, difference, mutate, param_kind, validate};
pub use conditions::{Conditions, device_selector, match_condition};
pub use mutating::{Merge, MutatingPolicy};
pub use types::{schema_of, type_checking, types_named};
pub use validating::{Denial, Outcome, ValidatingPolicy};

/// What a policy failing to judge means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// It is refused.
    Fail,
    /// It is let through.
    Ignore,
}

impl FailurePolicy {
    /// As a policy's `spec` says it.
    #[must_use]
    pub fn of(spec: &Json) -> Self {
        if spec["failurePolicy"] == "Ignore" { FailurePolicy::Ignore } else { FailurePolicy::Fail }
    }
}

/// One request, as expressions see it. What is not there is null.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The object as it will be; null on delete.
    pub object: &'a Json,
    /// The object as it is; null on create.
    pub old_object: &'a Json,
    /// `AdmissionRequest` (`admission.k8s.io/v1`) without objects and uid.
    pub request: &'a Json,
    /// The parameter object of the binding.
    pub params: &'a Json,
    /// The Namespace of the object.
    pub namespace: &'a Json,
    /// Who knows what is allowed.
    pub authorize: Option<Authorize<'a>>,
}

impl<'a> Question<'a> {
    /// The same about an object that was changed since.
    fn about<'b>(self, object: &'b Json) -> Question<'b>
    where
        'a: 'b,
    {
        Question { object, ..self }
    }
}

/// A request as one version of its resource shows it.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `AdmissionRequest` without objects and uid.
    pub request: Json,
    /// The object as it will be.
    pub object: Json,
    /// The object as it is.
    pub old_object: Json,
}

/// Takes an `AdmissionRequest` apart. Texts that it does not say are empty, not absent.
#[must_use]
pub fn view_of(mut review: Json) -> View {
    let (object, old_object) = (review["object"].take(), review["oldObject"].take());
    if let Some(request) = review.as_object_mut() {
        request.remove("object");
        request.remove("oldObject");
    }
    for key in ["name", "namespace", "subResource", "requestSubResource"] {
        if review[key].is_null() {
            review[key] = "".into();
        }
    }
    View { request: review, object, old_object }
}
