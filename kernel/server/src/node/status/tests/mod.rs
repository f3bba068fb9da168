use super::*;

#[test]
fn a_nodes_report_leaves_extended_resources_and_foreign_conditions_alone() {
    let mut stored = json!({
        "capacity": { "cpu": "1", "example.com/gpu": "3" },
        "conditions": [{ "type": "Ready", "status": "Unknown" }, { "type": "Foreign", "status": "True" }],
    });
    merge_node_status(
        &mut stored,
        &json!({ "capacity": { "cpu": "2" }, "conditions": [{ "type": "Ready", "status": "True" }], "images": [] }),
    );
    let expected = json!({
        "capacity": { "cpu": "2", "example.com/gpu": "3" },
        "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Foreign", "status": "True" }], "images": [],
    });
    assert_eq!(stored, expected);
}

#[test]
fn a_pods_report_replaces_what_machines_own_and_keeps_the_rest() {
    let mut stored = json!({
        "phase": "Pending", "reason": "old", "qosClass": "Burstable",
        "conditions": [{ "type": "PodScheduled", "status": "True" }, { "type": "PodResizeInProgress", "status": "True" }],
    });
    merge_pod_status(&mut stored, &json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] }));
    let expected = json!({
        "phase": "Running", "qosClass": "Burstable",
        "conditions": [{ "type": "PodScheduled", "status": "True" }, { "type": "Ready", "status": "True" }],
    });
    assert_eq!(stored, expected);
}
