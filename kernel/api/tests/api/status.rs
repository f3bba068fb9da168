//! Failures as clients see them.

use pintle_api::{ApiError, FieldError, Schema};
use serde_json::{Value, json};

#[track_caller]
fn check(error: &ApiError, expected: Value) {
    assert_eq!(error.to_status(), expected);
}

#[test]
fn failures_read_as_upstream_writes_them() {
    let schema = Schema::builtin();
    let pods = schema.resource("", "v1", "pods").expect("pods");
    let deployments = schema.resource("apps", "v1", "deployments").expect("deployments");
    check(
        &ApiError::not_found(deployments, "web"),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "deployments.apps \"web\" not found",
               "reason": "NotFound", "details": {"name": "web", "group": "apps", "kind": "deployments"}, "code": 404}),
    );
    check(
        &ApiError::already_exists(pods, "a"),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "pods \"a\" already exists",
               "reason": "AlreadyExists", "details": {"name": "a", "kind": "pods"}, "code": 409}),
    );
    let errors =
        [FieldError::required("spec.template.spec.containers[0].image", ""), FieldError::not_supported("spec.type", "x", &["A", "B"])];
    check(
        &ApiError::invalid(deployments, "web", &errors[..1]),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422, "reason": "Invalid",
               "message": "Deployment.apps \"web\" is invalid: spec.template.spec.containers[0].image: Required value",
               "details": {"name": "web", "group": "apps", "kind": "Deployment", "causes": [
                   {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.template.spec.containers[0].image"}]}}),
    );
    assert_eq!(
        ApiError::invalid(deployments, "web", &errors).message,
        "Deployment.apps \"web\" is invalid: [spec.template.spec.containers[0].image: Required value, \
         spec.type: Unsupported value: \"x\": supported values: \"A\", \"B\"]"
    );
    assert_eq!(
        ApiError::stale(pods, "a").message,
        "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    check(
        &ApiError::too_large_resource_version(9, 5),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 504, "reason": "Timeout",
               "message": "Timeout: Too large resource version: 9, current: 5",
               "details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1}}),
    );
}
