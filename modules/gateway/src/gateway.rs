//! A Gateway's table, and what its status says of it and of each listener.

use std::collections::BTreeSet;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;

use crate::conditions::{Said, list};
use crate::model::{Around, Gateway, Listener, Node, Route, Secret, Table};
use crate::{Config, GROUP, attach, translate};

/// Keeps both.
pub fn reconcile(config: &Config, now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(gateway) = request.object::<Gateway>()? else { return Ok(Plan::new()) };
    let around = Around::of(request)?;
    let table = request.related::<Table>("tables")?.into_iter().next();
    if gateway.metadata.is_terminating() || !around.classes.contains(&gateway.spec.gateway_class_name) {
        let delete = |table: Table| Plan::new().delete(ObjectRef::of("pintle.dev", "routetables", &table.metadata));
        return Ok(table.map_or_else(Plan::new, delete));
    }
    let mut routes: Vec<Route> = request.related("routes")?;
    let age = |route: &Route| (route.metadata.creation_timestamp, route.metadata.namespace.clone(), route.metadata.name.clone());
    routes.sort_by_key(age);
    routes.retain(|route| !route.metadata.is_terminating());
    let secrets = request.related::<Secret>("secrets")?;
    let listeners: Vec<Served> = gateway.spec.listeners.iter().map(|listener| serve(listener, &gateway, &secrets, &around)).collect();
    let (rules, attached) = rules(&gateway, &routes, &around);
    let spec = json!({"listeners": listeners.iter().filter_map(|l| l.entry.clone()).collect::<Vec<_>>(), "rules": rules});
    let plan = keep(&gateway, table, spec)?;
    let status = status(now, &gateway, &listeners, &attached, &addresses(config, &request.related::<Node>("nodes")?));
    if status == gateway.status {
        return Ok(plan);
    }
    Ok(plan.patch_status(ObjectRef::of(GROUP, "gateways", &gateway.metadata), status))
}

/// A listener as it is served, and what is said of it.
struct Served {
    entry: Option<Value>,
    said: Vec<Said>,
}

fn serve(listener: &Listener, gateway: &Gateway, secrets: &[Secret], around: &Around) -> Served {
    let kinds = listener.allowed_routes.kinds.as_deref().unwrap_or_default();
    let kinds = kinds.iter().all(|kind| kind.kind == "HTTPRoute" && kind.group.as_deref().is_none_or(|group| group == GROUP));
    let conflict = attach::unfit(listener, gateway);
    let (certificates, mut resolved) = match listener.protocol.as_str() {
        "HTTPS" => certificates(listener, gateway, secrets, around),
        _ => (Vec::new(), Said::holds("ResolvedRefs")),
    };
    if !kinds {
        resolved = Said::fails("ResolvedRefs", "InvalidRouteKinds", "only HTTPRoutes are served");
    }
    let programmed = match (&conflict, resolved.reason) {
        (None, "ResolvedRefs" | "InvalidRouteKinds") => Said::holds("Programmed"),
        _ => Said::fails("Programmed", "Invalid", "the listener is not served"),
    };
    let conflicted = conflict.as_ref().filter(|said| said.reason.ends_with("Conflict"));
    let conflicted = conflicted.map_or(Said { kind: "Conflicted", holds: false, reason: "NoConflicts", message: String::new() }, |said| {
        Said { kind: "Conflicted", holds: true, ..said.clone() }
    });
    let entry = programmed.holds.then(|| {
        let mut entry = json!({"name": listener.name, "port": listener.port, "protocol": listener.protocol});
        if !listener.hostname.is_empty() {
            entry["hostname"] = translate::host(&listener.hostname).into();
        }
        if !certificates.is_empty() {
            entry["certificates"] = certificates.into();
        }
        entry
    });
    Served { entry, said: vec![conflict.unwrap_or_else(|| Said::holds("Accepted")), programmed, resolved, conflicted] }
}

fn certificates(listener: &Listener, gateway: &Gateway, secrets: &[Secret], around: &Around) -> (Vec<Value>, Said) {
    let mut found = Vec::new();
    let references = listener.tls.as_ref().map_or(&[][..], |tls| &tls.certificate_refs);
    let invalid = |message: String| Said::fails("ResolvedRefs", "InvalidCertificateRef", message);
    for reference in references {
        let namespace = if reference.namespace.is_empty() { &gateway.metadata.namespace } else { &reference.namespace };
        let name = &reference.name;
        if !reference.group.is_empty() || !matches!(reference.kind.as_str(), "" | "Secret") {
            return (found, invalid(format!("{:?} of group {:?} is no certificate", reference.kind, reference.group)));
        }
        if !around.is_granted(("Gateway", &gateway.metadata.namespace), ("", "Secret"), namespace, name) {
            let message = format!("no ReferenceGrant lets this Gateway name Secret {namespace}/{name}");
            return (found, Said::fails("ResolvedRefs", "RefNotPermitted", message));
        }
        let Some(secret) = secrets.iter().find(|s| s.metadata.name == *name && s.metadata.namespace == *namespace) else {
            return (found, invalid(format!("Secret {namespace}/{name} does not exist")));
        };
        if secret.r#type != "kubernetes.io/tls" {
            return (found, invalid(format!("Secret {namespace}/{name} is of type {:?}", secret.r#type)));
        }
        found.push(json!({"namespace": namespace, "name": name, "resourceVersion": secret.metadata.resource_version}));
    }
    match found.is_empty() {
        true => (found, invalid("an HTTPS listener names a certificate".to_owned())),
        false => (found, Said::holds("ResolvedRefs")),
    }
}

/// The rules of all routes, oldest first, and which routes each listener has.
fn rules(gateway: &Gateway, routes: &[Route], around: &Around) -> (Vec<Value>, BTreeSet<(String, usize)>) {
    let (mut all, mut attached) = (Vec::new(), BTreeSet::new());
    for (number, route) in routes.iter().enumerate() {
        let mut names = BTreeSet::new();
        for parent in route.spec.parent_refs.iter().filter(|parent| attach::names(parent, route, gateway)) {
            let met = attach::listeners(parent, route, gateway, around).unwrap_or_default();
            names.extend(met.iter().map(|listener| listener.name.clone()));
        }
        if names.is_empty() {
            continue;
        }
        attached.extend(names.iter().map(|name| (name.clone(), number)));
        for mut rule in translate::rules(route, around).rules {
            rule["listeners"] = json!(names);
            all.push(rule);
        }
    }
    (all, attached)
}

fn keep(gateway: &Gateway, table: Option<Table>, spec: Value) -> Result<Plan> {
    let meta = &gateway.metadata;
    match table {
        Some(table) if table.spec == spec || table.metadata.is_terminating() => Ok(Plan::new()),
        Some(table) => {
            let mut body = table.metadata.precondition();
            body["spec"] = spec;
            Ok(Plan::new().patch(ObjectRef::of("pintle.dev", "routetables", &table.metadata), body))
        }
        None => {
            let table = json!({
                "apiVersion": "pintle.dev/v1",
                "kind": "RouteTable",
                "metadata": {
                    // Ingresses' tables bear the bare names.
                    "name": format!("gateway-{}", meta.name),
                    "namespace": meta.namespace,
                    "ownerReferences": [meta.as_controller(&format!("{GROUP}/v1"), "Gateway")],
                },
                "spec": spec,
            });
            Ok(Plan::new().create(&Untyped::new(table)?))
        }
    }
}

fn status(now: Time, gateway: &Gateway, served: &[Served], attached: &BTreeSet<(String, usize)>, addresses: &[Value]) -> Value {
    let generation = gateway.metadata.generation;
    let before = gateway.status["listeners"].as_array().cloned().unwrap_or_default();
    let one = |(listener, served): (&Listener, &Served)| {
        let old = before.iter().find(|old| old["name"] == listener.name.as_str()).map_or(Value::Null, |old| old["conditions"].clone());
        json!({
            "name": listener.name,
            "supportedKinds": if served.said[0].reason == "UnsupportedProtocol" { json!([]) } else { json!([{"group": GROUP, "kind": "HTTPRoute"}]) },
            "attachedRoutes": attached.iter().filter(|(name, _)| *name == listener.name).count(),
            "conditions": list(now, generation, &served.said, &old),
        })
    };
    let valid = served.iter().all(|served| served.said[0].holds);
    let mut accepted = Said::holds("Accepted");
    if !valid {
        (accepted.reason, accepted.message) = ("ListenersNotValid", "not every listener is accepted".into());
        accepted.holds = served.iter().any(|served| served.said[0].holds);
    }
    let programmed = match served.iter().any(|served| served.entry.is_some()) {
        true => Said::holds("Programmed"),
        false => Said::fails("Programmed", "Invalid", "no listener is served"),
    };
    json!({
        "addresses": addresses,
        "listeners": gateway.spec.listeners.iter().zip(served).map(one).collect::<Vec<_>>(),
        "conditions": list(now, generation, &[accepted, programmed], &gateway.status["conditions"]),
    })
}

/// Where Gateways are reached: as configured, or at every ready node.
fn addresses(config: &Config, nodes: &[Node]) -> Vec<Value> {
    let shown = |text: &String| {
        let kind = if text.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
        json!({"type": kind, "value": text})
    };
    let ready = |node: &&Node| node.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
    let of = |node: &Node, kind: &str| node.status.addresses.iter().find(|a| a.r#type == kind).map(|a| a.address.clone());
    let all = nodes.iter().filter(ready).filter_map(|node| of(node, "ExternalIP").or_else(|| of(node, "InternalIP")));
    let all: BTreeSet<String> = if config.addresses.is_empty() { all.collect() } else { config.addresses.iter().cloned().collect() };
    all.iter().map(shown).collect()
}
