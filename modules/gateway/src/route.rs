//! What an HTTPRoute's status says of each parent that is ours. Others' entries stay.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::{Map, Value};

use crate::conditions::{Said, list};
use crate::model::{Around, Gateway, ParentRef, Route};
use crate::{CONTROLLER, GROUP, attach, translate};

/// Keeps `status.parents`.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(route) = request.object::<Route>()? else { return Ok(Plan::new()) };
    if route.metadata.is_terminating() {
        return Ok(Plan::new());
    }
    let (around, gateways) = (Around::of(request)?, request.related::<Gateway>("gateways")?);
    let translated = translate::rules(&route, &around);
    let before = route.status["parents"].as_array().cloned().unwrap_or_default();
    let mut parents: Vec<Value> = before.iter().filter(|entry| entry["controllerName"] != CONTROLLER).cloned().collect();
    for parent in &route.spec.parent_refs {
        let ours = |gateway: &&Gateway| attach::names(parent, &route, gateway) && around.classes.contains(&gateway.spec.gateway_class_name);
        let Some(gateway) = gateways.iter().find(ours) else { continue };
        let attached = attach::listeners(parent, &route, gateway, &around).err();
        let accepted = attached.or_else(|| translated.unsupported.clone()).unwrap_or_else(|| Said::holds("Accepted"));
        let resolved = translated.unresolved.clone().unwrap_or_else(|| Said::holds("ResolvedRefs"));
        let reference = reference(parent);
        let old = before.iter().find(|entry| entry["controllerName"] == CONTROLLER && entry["parentRef"] == reference);
        let old = old.map_or(Value::Null, |entry| entry["conditions"].clone());
        let conditions = list(now, route.metadata.generation, &[accepted, resolved], &old);
        parents.push(json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}));
    }
    if parents == before {
        return Ok(Plan::new());
    }
    let mut body = route.metadata.precondition();
    body["status"] = json!({"parents": parents});
    Ok(Plan::new().write(Write::merge(ObjectRef::of(GROUP, "httproutes", &route.metadata), body).to("status")))
}

/// The reference as the route says it, with the API's own defaults.
fn reference(parent: &ParentRef) -> Value {
    let kind = if parent.kind.is_empty() { "Gateway" } else { &parent.kind };
    let mut out = Map::from_iter([("group".to_owned(), json!(GROUP)), ("kind".to_owned(), json!(kind))]);
    for (key, text) in [("namespace", &parent.namespace), ("name", &parent.name), ("sectionName", &parent.section_name)] {
        if !text.is_empty() {
            out.insert(key.into(), text.as_str().into());
        }
    }
    if parent.port != 0 {
        out.insert("port".into(), parent.port.into());
    }
    Value::Object(out)
}
