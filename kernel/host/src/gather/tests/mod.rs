use super::*;
use serde_json::json;

#[test]
fn both_spellings_of_a_selector_select_alike() {
    let labels = json!({"app": "web", "tier": "front"});
    let select = |v| selector_in(&v).map(|s| s.matches_labels(&labels));
    assert_eq!(select(json!({"matchLabels": {"app": "web"}})), Some(true));
    assert_eq!(select(json!({"app": "web", "tier": "back"})), Some(false));
    assert_eq!(select(json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]})), Some(true));
    assert_eq!(select(json!({})), None);
    assert_eq!(select(json!(null)), None);
}
