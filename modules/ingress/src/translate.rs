//! An Ingress as routes. Rules: <https://kubernetes.io/docs/concepts/services-networking/ingress/>.
//!
//! `ImplementationSpecific` is `Prefix` here. Order among paths and hosts is the proxy's: the longest path first, `Exact` before `Prefix`,
//! a host before a wildcard (`*.` is one label) before none. The default backend is a rule that asks for nothing, so everything else comes first;
//! a host without paths has nothing but that. A `resource` backend answers 500.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;

use crate::Config;
use crate::model::{Backend, Ingress, Named, Tls};

/// The `spec` of the Ingress's table.
pub fn table(config: &Config, ingress: &Ingress, secrets: &[Named]) -> Value {
    let namespace = &ingress.metadata.namespace;
    let mut listeners = vec![json!({"name": "http", "port": config.http_port, "protocol": "HTTP"})];
    for (index, tls) in ingress.spec.tls.iter().enumerate() {
        let certificates = certificates(namespace, tls, secrets);
        let name = |number: usize| format!("https-{index}-{number}");
        let mut add = |number: usize, host: &str| {
            let mut listener = json!({"name": name(number), "port": config.https_port, "protocol": "HTTPS"});
            if !host.is_empty() {
                listener["hostname"] = host.into();
            }
            if !certificates.is_empty() {
                listener["certificates"] = certificates.clone().into();
            }
            listeners.push(listener);
        };
        if tls.hosts.is_empty() {
            add(0, "");
        }
        tls.hosts.iter().enumerate().for_each(|(number, host)| add(number, host));
    }
    let mut rules = Vec::new();
    for rule in &ingress.spec.rules {
        for path in rule.http.iter().flat_map(|http| &http.paths) {
            let kind = if path.path_type == "Exact" { "Exact" } else { "Prefix" };
            let at = if path.path.is_empty() { "/" } else { &path.path };
            let mut route = json!({"matches": [{"pathType": kind, "path": at}]});
            if !rule.host.is_empty() {
                route["hosts"] = json!([rule.host]);
            }
            rules.push(backed(route, namespace, &path.backend));
        }
    }
    rules.extend(ingress.spec.default_backend.iter().map(|backend| backed(json!({}), namespace, backend)));
    json!({"listeners": listeners, "rules": rules})
}

fn certificates(namespace: &str, tls: &Tls, secrets: &[Named]) -> Vec<Value> {
    let found = secrets.iter().filter(|secret| secret.metadata.name == tls.secret_name && !tls.secret_name.is_empty());
    let named =
        |secret: &Named| json!({"namespace": namespace, "name": tls.secret_name, "resourceVersion": secret.metadata.resource_version});
    found.map(named).collect()
}

fn backed(mut route: Value, namespace: &str, backend: &Backend) -> Value {
    if let Some(service) = &backend.service {
        let mut named = json!({"namespace": namespace, "service": service.name});
        if service.port.name.is_empty() {
            named["port"] = service.port.number.into();
        } else {
            named["portName"] = service.port.name.as_str().into();
        }
        route["backends"] = json!([named]);
    }
    route
}

/// What of the Ingress cannot be carried out, for people.
pub fn complaints(ingress: &Ingress, secrets: &[Named]) -> Vec<(&'static str, String)> {
    let missing = ingress.spec.tls.iter().map(|tls| &tls.secret_name).filter(|name| !name.is_empty());
    let missing = missing.filter(|name| !secrets.iter().any(|secret| secret.metadata.name == **name));
    let mut all: Vec<_> = missing.map(|name| ("SecretNotFound", format!("Secret {name:?} of spec.tls does not exist"))).collect();
    let paths = ingress.spec.rules.iter().flat_map(|rule| &rule.http).flat_map(|http| &http.paths).map(|path| &path.backend);
    if paths.chain(&ingress.spec.default_backend).any(|backend| backend.service.is_none()) {
        all.push(("BackendNotSupported", "a backend that is no Service answers 500".to_owned()));
    }
    all
}
