//! Which zero values say nothing. Upstream's Go types have plain fields, whose zero means absent, and pointers, whose zero
//! means zero; both travel alike in protobuf. These tables name the exceptions to the usual case of each type.

use serde_json::{Map, Value};

use crate::table::{Container, TypeView};

/// Text fields whose empty value means something.
const KEPT_TEXT: &[&str] = &["storageClassName", "apiGroup", "volumeAttributesClassName", "schedulerName", "ingressClassName"];

/// Numbers whose zero means zero.
const KEPT_NUMBERS: &[&str] = &[
    "activeDeadlineSeconds",
    "averageUtilization",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completions",
    "containerPort",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "exitCode",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "leaseDurationSeconds",
    "leaseTransitions",
    "lendablePercent",
    "maxFailedIndexes",
    "minReplicas",
    "mode",
    "nominalConcurrencyShares",
    "parallelism",
    "partition",
    "periodSeconds",
    "priority",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsUser",
    "seconds",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "successfulJobsHistoryLimit",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "maximum",
    "minimum",
    "maxItems",
    "minItems",
    "maxLength",
    "minLength",
    "maxProperties",
    "minProperties",
];

/// Flags whose false means absent.
const DROPPED_FLAGS: &[&str] = &[
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "manualSelector",
    "paused",
    "publishNotReadyAddresses",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
    "readOnly",
    "globalDefault",
    "nullable",
    "uniqueItems",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "deprecated",
    "insecureSkipTLSVerify",
    "attached",
];

/// Types whose fields are plain although other types' fields of the same name are pointers.
const PLAIN_TYPES: &[&str] = &["Probe", "ScaleSpec"];

/// Removes what only says that nothing was said.
pub(super) fn drop_zeros(view: TypeView<'_>, map: &mut Map<String, Value>) {
    let plain = PLAIN_TYPES.contains(&view.short_name());
    map.retain(|key, value| {
        let Some(field) = view.field(key).filter(|field| field.container == Container::Single && !field.required) else { return true };
        match value {
            Value::String(text) if text.is_empty() => KEPT_TEXT.contains(&field.name),
            Value::Number(n) if n.as_f64() == Some(0.0) => !plain && KEPT_NUMBERS.contains(&field.name),
            Value::Bool(false) => !DROPPED_FLAGS.contains(&field.name),
            _ => true,
        }
    });
}
