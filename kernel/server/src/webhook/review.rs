//! `AdmissionReview` (`admission.k8s.io/v1`): the question, and how the answer is read. The answer is a stranger's.

use base64::Engine as _;
use bytes::Bytes;
use pintle_registry::{Edit, EditOp, Failure, Verdict, audit};
use serde_json::{Value, json};

/// Warnings taken from one answer, and how long each may be (bytes).
const WARNINGS_MAX: usize = 16;
const WARNING_BYTES_MAX: usize = 256;

/// The question about a request, given as [`pintle_registry::review_of`] shows it.
pub(crate) fn question(request: Value) -> Value {
    let mut review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request});
    review["request"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    review
}

/// The verdict in an answer.
///
/// # Errors
/// What is wrong with the answer.
pub(crate) fn read(webhook: &str, asked: &Value, answer: &Value, object: &Bytes) -> Result<Verdict, String> {
    let bad = |why: String| format!("received invalid webhook response: {why}");
    let known = matches!(answer["apiVersion"].as_str(), Some("admission.k8s.io/v1" | "admission.k8s.io/v1beta1"));
    if !known || answer["kind"] != "AdmissionReview" {
        return Err(bad(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}", answer["kind"])));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err(bad("webhook response was absent".into()));
    }
    if response["uid"] != asked["request"]["uid"] {
        return Err(bad(format!("expected response.uid={}, got {}", asked["request"]["uid"], response["uid"])));
    }
    for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
        audit::annotate(&format!("{webhook}/{key}"), value.as_str().unwrap_or_default());
    }
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).take(WARNINGS_MAX);
    let warnings = warnings.map(|warning| warning.chars().take(WARNING_BYTES_MAX).collect()).collect();
    if response["allowed"] != true {
        return Ok(Verdict { refused: Some(refusal(webhook, &response["status"])), edits: Vec::new(), warnings });
    }
    let edits = match (response["patch"].as_str(), response["patchType"].as_str()) {
        (None | Some(""), _) => Vec::new(),
        (Some(patch), Some("JSONPatch")) => edits(patch, object).map_err(bad)?,
        (Some(_), kind) => return Err(bad(format!("unsupported response.patchType {kind:?}"))),
    };
    Ok(Verdict { refused: None, edits, warnings })
}

/// What the client is told, in upstream's words.
fn refusal(webhook: &str, status: &Value) -> Failure {
    let denied = format!("admission webhook {webhook:?} denied the request");
    let text = |key: &str| status[key].as_str().filter(|text| !text.is_empty());
    let message = match text("message").or(text("reason")) {
        Some(why) => format!("{denied}: {why}"),
        None => format!("{denied} without explanation"),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code)).unwrap_or(400);
    Failure { code, reason: text("reason").unwrap_or_default().to_owned(), message }
}

/// A JSON patch as edits. One that moves, copies or tests is applied here, and its outcome is one edit.
fn edits(patch: &str, object: &Bytes) -> Result<Vec<Edit>, String> {
    let text = base64::engine::general_purpose::STANDARD.decode(patch).map_err(|error| format!("response.patch: {error}"))?;
    let operations: Vec<Value> = serde_json::from_slice(&text).map_err(|error| format!("response.patch: {error}"))?;
    let simple = operations.iter().map(|operation| {
        let op = match operation["op"].as_str()? {
            "add" => EditOp::Add,
            "replace" => EditOp::Replace,
            "remove" => EditOp::Remove,
            _ => return None,
        };
        Some(Edit { op, path: operation["path"].as_str()?.to_owned(), value: operation["value"].clone() })
    });
    if let Some(edits) = simple.collect::<Option<Vec<_>>>() {
        return Ok(edits);
    }
    let patch: json_patch::Patch = serde_json::from_slice(&text).map_err(|error| format!("response.patch: {error}"))?;
    let mut value: Value = serde_json::from_slice(object).map_err(|error| error.to_string())?;
    json_patch::patch(&mut value, &patch).map_err(|error| format!("response.patch: {error}"))?;
    Ok(vec![Edit { op: EditOp::Replace, path: String::new(), value }])
}
