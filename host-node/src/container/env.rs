//! A container's environment: service variables, envFrom, env, and `$(NAME)` in values, commands and arguments.
//!
//! Pure: the objects that it mentions have been fetched before ([`mentions`], [`Sources`]).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

use super::downward::{self, Facts};
use crate::error::{Error, Result};

/// An object that a container's environment mentions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mention {
    /// By name.
    ConfigMap(String),
    /// By name.
    Secret(String),
}

/// Objects that were fetched; one that does not exist is absent.
#[derive(Debug, Default)]
pub struct Sources {
    /// By name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// By name.
    pub secrets: BTreeMap<String, Secret>,
}

/// Every object that must be looked up before [`environment`].
pub fn mentions(container: &Container) -> Vec<Mention> {
    let mut found = Vec::new();
    for source in container.env_from.iter().flatten() {
        found.extend(source.config_map_ref.as_ref().map(|r| Mention::ConfigMap(r.name.clone())));
        found.extend(source.secret_ref.as_ref().map(|r| Mention::Secret(r.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        found.extend(source.config_map_key_ref.as_ref().map(|r| Mention::ConfigMap(r.name.clone())));
        found.extend(source.secret_key_ref.as_ref().map(|r| Mention::Secret(r.name.clone())));
    }
    found.sort();
    found.dedup();
    found
}

/// The environment, in order; `services` come first and may be overridden.
pub fn environment(
    pod: &Pod,
    container: &Container,
    services: &[(String, String)],
    sources: &Sources,
    facts: &Facts,
) -> Result<Vec<(String, String)>> {
    let mut env = Env::default();
    for (name, value) in services {
        env.set(name, value.clone());
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => map.data.iter().flatten().for_each(|(key, value)| env.set(&format!("{prefix}{key}"), value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(Error::ContainerConfig(format!("configmap {:?} not found", reference.name))),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        env.set(&format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(Error::ContainerConfig(format!("secret {:?} not found", reference.name))),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            Some(source) => match from_source(pod, container, source, sources, facts)? {
                Some(value) => value,
                None => continue,
            },
            None => expand(var.value.as_deref().unwrap_or_default(), |name| env.get(name)),
        };
        env.set(&var.name, value);
    }
    Ok(env.0)
}

/// `None`: optional and absent.
fn from_source(pod: &Pod, container: &Container, source: &EnvVarSource, sources: &Sources, facts: &Facts) -> Result<Option<String>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.field_ref {
        return downward::field(pod, &reference.field_path, facts).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return downward::resource(pod, Some(container), reference, facts).map(Some);
    }
    let (found, optional, what) = if let Some(r) = &source.config_map_key_ref {
        let map = sources.config_maps.get(&r.name);
        let value = map.and_then(|m| m.data.as_ref()).and_then(|data| data.get(&r.key)).cloned();
        (value, r.optional, missing("configmap", "ConfigMap", namespace, &r.name, &r.key, map.is_some()))
    } else if let Some(r) = &source.secret_key_ref {
        let secret = sources.secrets.get(&r.name);
        let value = secret.and_then(|s| s.data.as_ref()).and_then(|data| data.get(&r.key));
        let text = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        (text, r.optional, missing("secret", "Secret", namespace, &r.name, &r.key, secret.is_some()))
    } else {
        return Err(Error::Unsupported("this source of an environment variable".into()));
    };
    match found {
        Some(value) => Ok(Some(value)),
        None if optional == Some(true) => Ok(None),
        None => Err(Error::ContainerConfig(what)),
    }
}

fn missing(kind: &str, kind_name: &str, namespace: &str, name: &str, key: &str, exists: bool) -> String {
    match exists {
        true => format!("couldn't find key {key} in {kind_name} {namespace}/{name}"),
        false => format!("{kind} {name:?} not found"),
    }
}

/// Replaces `$(NAME)` where the name is known; `$$` is a dollar; anything else stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables that tell a container where a service is.
pub fn service_variables(name: &str, address: &str, ports: &[(Option<String>, u16, String)]) -> Vec<(String, String)> {
    let shout = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let prefix = shout(name);
    let Some((_, first, first_protocol)) = ports.first() else { return Vec::new() };
    let mut vars = vec![(format!("{prefix}_SERVICE_HOST"), address.to_owned()), (format!("{prefix}_SERVICE_PORT"), first.to_string())];
    for (port_name, port, _) in ports {
        if let Some(port_name) = port_name {
            vars.push((format!("{prefix}_SERVICE_PORT_{}", shout(port_name)), port.to_string()));
        }
    }
    vars.push((format!("{prefix}_PORT"), format!("{}://{address}:{first}", first_protocol.to_ascii_lowercase())));
    for (_, port, protocol) in ports {
        let link = format!("{prefix}_PORT_{port}_{}", shout(protocol));
        let lower = protocol.to_ascii_lowercase();
        vars.push((link.clone(), format!("{lower}://{address}:{port}")));
        vars.push((format!("{link}_PROTO"), lower));
        vars.push((format!("{link}_PORT"), port.to_string()));
        vars.push((format!("{link}_ADDR"), address.to_owned()));
    }
    vars
}

/// Name and value, the last setting of a name wins and keeps the first one's place.
#[derive(Default)]
struct Env(Vec<(String, String)>);

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_replaced_and_everything_else_stays() {
        let check = |text: &str, expected: &str| {
            let lookup = |name: &str| (name == "A" || name == "B_2").then(|| format!("<{name}>"));
            assert_eq!(expand(text, lookup), expected, "{text}");
        };
        check("$(A)", "<A>");
        check("x$(A)y$(B_2)z", "x<A>y<B_2>z");
        check("$(MISSING)", "$(MISSING)");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$<A>");
        check("$$$$(A)", "$$(A)");
        check("$A $", "$A $");
        check("$(A", "$(A");
        check("$()", "$()");
        check("é$(A)ü", "é<A>ü");
    }

    fn check(container: serde_json::Value, sources: &Sources, expected: Result<&[(&str, &str)], &str>) {
        let container: Container = serde_json::from_value(container).expect("a container");
        let pod = serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "ns" } })).expect("a pod");
        let services = [("KUBERNETES_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())];
        let facts = Facts::default();
        let found = environment(&pod, &container, &services, sources, &facts).map_err(|e| e.to_string());
        let expected = expected.map(|vars| vars.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
        assert_eq!(found.map(|vars| vars[1..].to_vec()), expected.map_err(str::to_owned));
    }

    #[test]
    fn sources_of_variables_come_in_the_kubelets_order() {
        let map = json!({ "metadata": { "name": "m" }, "data": { "A": "1", "B": "2" } });
        let secret = json!({ "metadata": { "name": "s" }, "data": { "K": "dg==" } });
        let sources = Sources {
            config_maps: [("m".to_owned(), serde_json::from_value(map).expect("a map"))].into(),
            secrets: [("s".to_owned(), serde_json::from_value(secret).expect("a secret"))].into(),
        };
        check(
            json!({
                "name": "c",
                "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "m" } }, { "secretRef": { "name": "none", "optional": true } }],
                "env": [
                    { "name": "P_A", "value": "over" }, { "name": "X", "value": "$(P_B)-$(KUBERNETES_SERVICE_HOST)-$(LATER)" },
                    { "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "S", "valueFrom": { "secretKeyRef": { "name": "s", "key": "K" } } },
                    { "name": "O", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "none", "optional": true } } },
                ],
            }),
            &sources,
            Ok(&[("P_A", "over"), ("P_B", "2"), ("X", "2-10.0.0.1-$(LATER)"), ("N", "p"), ("S", "v")]),
        );
        let env = |source: serde_json::Value| json!({ "name": "c", "env": [{ "name": "V", "valueFrom": source }] });
        let missing = env(json!({ "configMapKeyRef": { "name": "m", "key": "none" } }));
        check(missing, &sources, Err("couldn't find key none in ConfigMap ns/m"));
        check(env(json!({ "secretKeyRef": { "name": "x", "key": "k" } })), &sources, Err("secret \"x\" not found"));
        check(json!({ "name": "c", "envFrom": [{ "configMapRef": { "name": "x" } }] }), &sources, Err("configmap \"x\" not found"));
    }

    #[test]
    fn a_service_is_told_by_its_usual_variables() {
        let vars = service_variables("my-svc", "10.0.0.9", &[(Some("https".into()), 443, "TCP".into())]);
        let names: Vec<_> = vars.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            names,
            [
                "MY_SVC_SERVICE_HOST=10.0.0.9",
                "MY_SVC_SERVICE_PORT=443",
                "MY_SVC_SERVICE_PORT_HTTPS=443",
                "MY_SVC_PORT=tcp://10.0.0.9:443",
                "MY_SVC_PORT_443_TCP=tcp://10.0.0.9:443",
                "MY_SVC_PORT_443_TCP_PROTO=tcp",
                "MY_SVC_PORT_443_TCP_PORT=443",
                "MY_SVC_PORT_443_TCP_ADDR=10.0.0.9",
            ]
        );
    }
}
