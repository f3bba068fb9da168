//! Rules about who may what, and who is asked first: roles, certificates, webhooks, admission policies, priority and fairness.

use pintle_policies::{MutatingPolicy, ValidatingPolicy, match_condition};
use serde_json::Value;

use super::{Failures, Object, Rule, list, names, number, text};
use crate::path::Path;
use crate::status::FieldError;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const RBAC: &str = "rbac.authorization.k8s.io";
const MATCHING: &[Rule] = &[Rule::Required(&["name", "expression"]), Rule::Format("name", names::qualified), Rule::Check(compiles)];
const RULE: &[Rule] = &[
    Rule::Required(&["operations", "apiGroups", "apiVersions", "resources"]),
    Rule::OneOf("scope", &["*", "Cluster", "Namespaced"]),
    Rule::Check(operations),
];
const REFERENCE: &[Rule] = &[
    Rule::ExactlyOne(&["name", "selector"], "one of name or selector must be specified"),
    Rule::Required(&["parameterNotFoundAction"]),
    Rule::OneOf("parameterNotFoundAction", &["Allow", "Deny"]),
];
const HOOKS: &[Rule] = &[Rule::Unique("webhooks", "name")];
const HOOK: &[Rule] = &[
    Rule::Format("name", names::fully_qualified),
    Rule::OneOf("reinvocationPolicy", &["IfNeeded", "Never"]),
    Rule::AtMost("matchConditions", 64),
    Rule::Unique("matchConditions", "name"),
    Rule::Check(known_review),
];
const CLIENT: &[Rule] = &[Rule::ExactlyOne(&["url", "service"], "exactly one of url or service is required"), Rule::Check(https)];
const SERVICE: &[Rule] = &[Rule::Required(&["namespace", "name"]), Rule::Range("port", 1, 65_535)];

#[rustfmt::skip]
pub(super) static RULES: &[(&str, &[Rule])] = &[
    ("api.rbac.v1.Role", &[Rule::Check(no_paths)]),
    ("api.rbac.v1.Subject", &[Rule::Required(&["kind"]), Rule::Check(subject)]),
    ("api.rbac.v1.ClusterRoleBinding", &[Rule::Check(cluster_binding)]),
    ("api.rbac.v1.AggregationRule", &[Rule::Required(&["clusterRoleSelectors"])]),
    ("api.certificates.v1.CertificateSigningRequestSpec", &[Rule::Check(request), Rule::Distinct("usages"), Rule::Check(usages)]),
    ("api.certificates.v1.ClusterTrustBundleSpec", &[Rule::Required(&["trustBundle"])]),
    ("api.admissionregistration.v1.MutatingWebhookConfiguration", HOOKS),
    ("api.admissionregistration.v1.ValidatingWebhookConfiguration", HOOKS),
    ("api.admissionregistration.v1.MutatingWebhook", HOOK),
    ("api.admissionregistration.v1.ValidatingWebhook", HOOK),
    ("api.admissionregistration.v1.WebhookClientConfig", CLIENT),
    ("api.admissionregistration.v1.ServiceReference", SERVICE),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceConversion", &[Rule::Required(&["strategy"]), Rule::OneOf("strategy", &["None", "Webhook"])]),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.WebhookClientConfig", CLIENT),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.ServiceReference", SERVICE),
    ("api.admissionregistration.v1.RuleWithOperations", RULE),
    ("api.admissionregistration.v1.NamedRuleWithOperations", RULE),
    ("api.admissionregistration.v1.MatchCondition", MATCHING),
    ("api.admissionregistration.v1.Variable", &[Rule::Required(&["name"])]),
    ("api.admissionregistration.v1.ParamKind", &[Rule::Required(&["apiVersion", "kind"])]),
    ("api.admissionregistration.v1.ParamRef", REFERENCE),
    ("api.admissionregistration.v1.MatchResources", &[Rule::OneOf("matchPolicy", &["Equivalent", "Exact"])]),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicy", &[Rule::Required(&["spec"])]),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicySpec", &[
        Rule::Required(&["matchConstraints"]), Rule::OneOf("failurePolicy", FAILURE_POLICIES), Rule::Check(says_something), Rule::Check(constrains), Rule::Check(validates),
        Rule::Unique("variables", "name"), Rule::Unique("matchConditions", "name"), Rule::Unique("auditAnnotations", "key"), Rule::AtMost("matchConditions", 64),
    ]),
    ("api.admissionregistration.v1.Validation", &[
        Rule::OneOf("reason", &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"]),
    ]),
    ("api.admissionregistration.v1.AuditAnnotation", &[Rule::Required(&["key"])]),
    ("api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", &[
        Rule::Required(&["policyName", "validationActions"]), Rule::Format("policyName", names::dns_subdomain), Rule::Distinct("validationActions"), Rule::Check(actions),
    ]),
    ("api.admissionregistration.v1.MutatingAdmissionPolicySpec", &[
        Rule::Required(&["matchConstraints", "mutations", "reinvocationPolicy"]), Rule::OneOf("failurePolicy", FAILURE_POLICIES),
        Rule::OneOf("reinvocationPolicy", &["IfNeeded", "Never"]), Rule::Check(constrains), Rule::Unique("variables", "name"), Rule::Check(mutates),
    ]),
    ("api.admissionregistration.v1.Mutation", &[
        Rule::Required(&["patchType"]), Rule::OneOf("patchType", &["ApplyConfiguration", "JSONPatch"]),
        Rule::Union("patchType", &[("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")]),
    ]),
    ("api.admissionregistration.v1.MutatingAdmissionPolicyBindingSpec", &[Rule::Required(&["policyName"]), Rule::Format("policyName", names::dns_subdomain)]),
    ("api.flowcontrol.v1.PriorityLevelConfigurationSpec", &[
        Rule::Required(&["type"]), Rule::OneOf("type", &["Exempt", "Limited"]), Rule::Only(&["limited"], "type", &["Limited"], "must be nil if the type is not Limited"),
        Rule::Only(&["exempt"], "type", &["Exempt"], "must be nil if the type is Limited"),
    ]),
    ("api.flowcontrol.v1.LimitedPriorityLevelConfiguration", &[
        Rule::NonNegative(&["nominalConcurrencyShares", "borrowingLimitPercent"]), Rule::Range("lendablePercent", 0, 100), Rule::Required(&["limitResponse"]),
    ]),
    ("api.flowcontrol.v1.LimitResponse", &[Rule::Required(&["type"]), Rule::OneOf("type", &["Queue", "Reject"]),
        Rule::Only(&["queuing"], "type", &["Queue"], "must be nil if limited.limitResponse.type is not Limited"),
    ]),
    ("api.flowcontrol.v1.QueuingConfiguration", &[Rule::Range("queues", 1, 10_000_000), Rule::Range("queueLengthLimit", 1, i32::MAX as i64), Rule::Check(hands)]),
    ("api.flowcontrol.v1.PriorityLevelConfigurationReference", &[Rule::Required(&["name"])]),
    ("api.flowcontrol.v1.FlowDistinguisherMethod", &[Rule::Required(&["type"]), Rule::OneOf("type", &["ByNamespace", "ByUser"])]),
    ("api.flowcontrol.v1.PolicyRulesWithSubjects", &[Rule::Required(&["subjects"])]),
    ("api.flowcontrol.v1.Subject", &[
        Rule::Required(&["kind"]), Rule::OneOf("kind", &["Group", "ServiceAccount", "User"]),
        Rule::Union("kind", &[("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")]),
    ]),
    ("api.storagemigration.v1.StorageVersionMigrationSpec", &[Rule::Required(&["resource"])]),
    ("api.resource.v1.DeviceRequest", &[
        Rule::Required(&["name"]), Rule::Format("name", names::dns_label), Rule::ExactlyOne(&["exactly", "firstAvailable"], "exactly one of `exactly` or `firstAvailable` is required"),
    ]),
    ("api.resource.v1.DeviceClaim", &[Rule::AtMost("requests", 32), Rule::Unique("requests", "name")]),
    ("api.resource.v1.ExactDeviceRequest", &[
        Rule::Required(&["deviceClassName"]), Rule::Format("deviceClassName", names::dns_subdomain), Rule::OneOf("allocationMode", &["All", "ExactCount"]),
        Rule::AtMost("selectors", 32),
    ]),
    ("api.resource.v1.DeviceSelector", &[Rule::Required(&["cel"])]),
    ("api.resource.v1.CELDeviceSelector", &[Rule::Required(&["expression"])]),
    ("api.resource.v1.ResourceSliceSpec", &[
        Rule::Required(&["driver", "pool"]), Rule::Format("driver", names::dns_subdomain), Rule::AtMost("devices", 128), Rule::Unique("devices", "name"),
    ]),
    ("api.resource.v1.ResourcePool", &[Rule::Required(&["name"]), Rule::Range("resourceSliceCount", 1, i64::MAX), Rule::NonNegative(&["generation"])]),
    ("api.apps.v1.ControllerRevision", &[Rule::Required(&["data"]), Rule::NonNegative(&["revision"])]),
    ("api.core.v1.Secret", &[Rule::Check(secret_of_account)]),
    ("api.scheduling.v1.PriorityClass", &[Rule::Check(reserved_class)]),
    ("api.authentication.v1.BoundObjectReference", &[Rule::OneOf("kind", &["Node", "Pod", "Secret"]), Rule::Required(&["name"])]),
];

fn no_paths(role: &Object, path: &Path<'_>, failures: &mut Failures) {
    for (index, rule) in list(role, "rules").iter().enumerate() {
        let paths = &rule["nonResourceURLs"];
        if paths.as_array().is_some_and(|list| !list.is_empty()) {
            let why = "namespaced rules cannot apply to non-resource URLs";
            failures.push(FieldError::invalid(path.key("rules").index(index).key("nonResourceURLs"), paths.clone(), why));
        }
    }
}

/// A service account is in a namespace and of no group; users and groups are of this API's group.
fn subject(subject: &Object, path: &Path<'_>, failures: &mut Failures) {
    let (kind, group) = (text(subject, "kind"), text(subject, "apiGroup"));
    match kind {
        "ServiceAccount" => {
            if text(subject, "namespace").is_empty() {
                failures.push(FieldError::required(path.key("namespace"), ""));
            }
            if !group.is_empty() {
                failures.push(FieldError::not_supported(path.key("apiGroup"), group, &[""]));
            }
        }
        "User" | "Group" if group != RBAC => failures.push(FieldError::not_supported(path.key("apiGroup"), group, &[RBAC])),
        _ => {}
    }
}

fn cluster_binding(binding: &Object, path: &Path<'_>, failures: &mut Failures) {
    let kind = binding.get("roleRef").map_or("", |role| role["kind"].as_str().unwrap_or_default());
    if kind == "Role" {
        failures.push(FieldError::not_supported(path.key("roleRef").key("kind"), kind, &["ClusterRole"]));
    }
}

/// The request is PEM, of a certificate request.
fn request(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    use base64::Engine as _;
    let encoded = text(spec, "request");
    let pem = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    if !encoded.is_empty() && !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        failures.push(FieldError::invalid(path.key("request"), encoded, "PEM block type must be CERTIFICATE REQUEST"));
    }
}

fn usages(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    #[rustfmt::skip]
    const USAGES: &[&str] = &[
        "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only",
        "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement",
        "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping",
    ];
    for (index, usage) in list(spec, "usages").iter().filter_map(Value::as_str).enumerate().filter(|(_, usage)| !USAGES.contains(usage)) {
        failures.push(FieldError::not_supported(path.key("usages").index(index), usage, USAGES));
    }
}

fn https(config: &Object, path: &Path<'_>, failures: &mut Failures) {
    let url = text(config, "url");
    if !url.is_empty() && !url.starts_with("https://") {
        failures.push(FieldError::invalid(path.key("url"), url, "'https' is the only allowed URL scheme"));
    }
}

fn validates(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let found = ValidatingPolicy::failures(&Value::Object(spec.clone()), &path.to_string());
    found.into_iter().for_each(|failure| failures.push(failure));
}

fn mutates(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let found = MutatingPolicy::failures(&Value::Object(spec.clone()), &path.to_string());
    found.into_iter().for_each(|failure| failures.push(failure));
}

fn compiles(condition: &Object, path: &Path<'_>, failures: &mut Failures) {
    let source = text(condition, "expression");
    if !source.is_empty()
        && let Err(why) = match_condition(source)
    {
        failures.push(FieldError::invalid(path.key("expression"), source, why));
    }
}

fn operations(rule: &Object, path: &Path<'_>, failures: &mut Failures) {
    let all = list(rule, "operations");
    for (index, operation) in all.iter().filter_map(Value::as_str).enumerate().filter(|(_, operation)| !OPERATIONS.contains(operation)) {
        failures.push(FieldError::not_supported(path.key("operations").index(index), operation, OPERATIONS));
    }
    for field in ["operations", "apiGroups", "apiVersions"] {
        let values = list(rule, field);
        if values.len() > 1 && values.iter().any(|value| value == "*") {
            failures.push(FieldError::invalid(
                path.key(field),
                Value::Array(values.to_vec()),
                "if '*' is present, must not specify other values",
            ));
        }
    }
}

fn known_review(hook: &Object, path: &Path<'_>, failures: &mut Failures) {
    let versions = list(hook, "admissionReviewVersions");
    if !versions.is_empty() && !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        failures.push(FieldError::invalid(path.key("admissionReviewVersions"), Value::Array(versions.to_vec()), why));
    }
}

fn says_something(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    if list(spec, "validations").is_empty() && list(spec, "auditAnnotations").is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        failures.push(FieldError::required(path.key("validations"), why));
    }
}

fn constrains(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(matching) = spec.get("matchConstraints") else { return };
    if matching["resourceRules"].as_array().is_none_or(Vec::is_empty) {
        failures.push(FieldError::required(path.key("matchConstraints").key("resourceRules"), ""));
    }
}

fn actions(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
    let (all, at) = (list(spec, "validationActions"), path.key("validationActions"));
    for (index, action) in all.iter().filter_map(Value::as_str).enumerate().filter(|(_, action)| !ACTIONS.contains(action)) {
        failures.push(FieldError::not_supported(at.index(index), action, ACTIONS));
    }
    if ["Deny", "Warn"].iter().all(|both| all.iter().any(|action| action == both)) {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        failures.push(FieldError::invalid(at, Value::Array(all.to_vec()), why));
    }
}

fn hands(queuing: &Object, path: &Path<'_>, failures: &mut Failures) {
    if let (Some(hand), Some(queues)) = (number(queuing, "handSize"), number(queuing, "queues"))
        && (hand < 1 || hand > queues)
    {
        let why = if hand < 1 { "must be positive".to_owned() } else { format!("should not be greater than queues ({queues})") };
        failures.push(FieldError::invalid(path.key("handSize"), hand, why));
    }
}

fn secret_of_account(secret: &Object, path: &Path<'_>, failures: &mut Failures) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let annotation = secret.get("metadata").map_or("", |m| m["annotations"][ACCOUNT].as_str().unwrap_or_default());
    let data = secret.get("data").and_then(Value::as_object);
    let metadata = path.key("metadata");
    match text(secret, "type") {
        "kubernetes.io/service-account-token" if annotation.is_empty() => {
            failures.push(FieldError::required(metadata.key("annotations").map_key(ACCOUNT), ""));
        }
        "kubernetes.io/basic-auth" if !["username", "password"].iter().any(|key| data.is_some_and(|data| data.contains_key(*key))) => {
            for key in ["username", "password"] {
                failures.push(FieldError::required(path.key("data").map_key(key), ""));
            }
        }
        _ => {}
    }
}

/// Names that begin with `system-` are for the classes that every cluster has.
fn reserved_class(class: &Object, path: &Path<'_>, failures: &mut Failures) {
    let name = class.get("metadata").map_or("", |m| m["name"].as_str().unwrap_or_default());
    if name.starts_with("system-") && !matches!(name, "system-cluster-critical" | "system-node-critical") {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        failures.push(FieldError::forbidden(path.key("metadata").key("name"), why));
    }
}
