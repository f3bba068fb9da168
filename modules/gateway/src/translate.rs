//! A route's rules as the proxy's. What cannot be done is not left out: such a rule answers 500, as the API asks, and the route says so.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::{Map, Value};

use crate::conditions::Said;
use crate::model::{Around, Filter, Headers, Match, PathModifier, Redirect, Reference, Route, Rule};

/// Rules, and the first thing that is wrong with them.
#[derive(Default)]
pub struct Translated {
    pub rules: Vec<Value>,
    /// Of `ResolvedRefs`.
    pub unresolved: Option<Said>,
    /// Of `Accepted`.
    pub unsupported: Option<Said>,
}

/// The rules of a route.
pub fn rules(route: &Route, around: &Around) -> Translated {
    let mut all = Translated::default();
    for rule in &route.spec.rules {
        let rule = rule_of(rule, route, around, &mut all);
        all.rules.push(rule);
    }
    all
}

/// A host as the proxy writes it: the API's `*.` is any number of labels.
pub fn host(name: &str) -> String {
    name.strip_prefix("*.").map_or_else(|| name.to_owned(), |domain| format!("**.{domain}"))
}

fn rule_of(rule: &Rule, route: &Route, around: &Around, all: &mut Translated) -> Value {
    let mut out = Map::new();
    if !route.spec.hostnames.is_empty() {
        out.insert("hosts".into(), route.spec.hostnames.iter().map(|name| host(name)).collect());
    }
    let any = [Match::default()];
    let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches[..] };
    out.insert("matches".into(), matches.iter().map(match_of).collect());
    for (key, text) in [("requestMilliseconds", &rule.timeouts.request), ("backendMilliseconds", &rule.timeouts.backend_request)] {
        if let Some(milliseconds) = milliseconds(text).filter(|m| *m > 0) {
            out.insert(key.into(), milliseconds.into());
        }
    }
    if let Some(retry) = &rule.retry {
        let backoff = milliseconds(&retry.backoff).unwrap_or(0);
        let attempts = retry.attempts.unwrap_or(1);
        out.insert("retry".into(), json!({"attempts": attempts, "statusCodes": retry.codes, "backoffMilliseconds": backoff}));
    }
    let mut fits = true;
    for filter in &rule.filters {
        fits &= apply(filter, route, around, &mut out, all);
    }
    if !fits {
        out.remove("redirect");
        return Value::Object(out);
    }
    let mut backends = Vec::new();
    for backend in &rule.backend_refs {
        let reference = Reference {
            group: backend.group.clone(),
            kind: backend.kind.clone(),
            namespace: backend.namespace.clone(),
            name: backend.name.clone(),
            port: backend.port,
        };
        let mut entry = match resolve(&reference, route, around) {
            Ok(target) => target,
            Err(said) => {
                all.unresolved.get_or_insert(said);
                Map::from_iter([("namespace".into(), "".into()), ("service".into(), "".into())])
            }
        };
        entry.insert("weight".into(), backend.weight.unwrap_or(1).into());
        for filter in &backend.filters {
            if !apply(filter, route, around, &mut entry, all)
                || !matches!(filter.r#type.as_str(), "RequestHeaderModifier" | "ResponseHeaderModifier")
            {
                all.unsupported.get_or_insert_with(|| unsupported(&filter.r#type));
                entry.insert("service".into(), "".into());
            }
        }
        backends.push(Value::Object(entry));
    }
    if !backends.is_empty() {
        out.insert("backends".into(), backends.into());
    }
    Value::Object(out)
}

fn match_of(wanted: &Match) -> Value {
    let (kind, path) = wanted.path.as_ref().map_or(("", ""), |path| (path.r#type.as_str(), path.value.as_str()));
    let kind = match kind {
        "Exact" | "RegularExpression" => kind,
        _ => "Prefix",
    };
    let mut out = json!({"pathType": kind, "path": if path.is_empty() { "/" } else { path }});
    if !wanted.method.is_empty() {
        out["method"] = wanted.method.as_str().into();
    }
    for (key, values) in [("headers", &wanted.headers), ("query", &wanted.query_params)] {
        if !values.is_empty() {
            out[key] = values.iter().map(value_of).collect();
        }
    }
    out
}

/// `name`, `value` and `type` alone.
fn value_of(value: &Value) -> Value {
    let kept = ["name", "value", "type"].iter().filter_map(|key| Some(((*key).to_owned(), value.get(*key)?.clone())));
    Value::Object(kept.collect())
}

fn unsupported(kind: &str) -> Said {
    Said::fails("Accepted", "UnsupportedValue", format!("a filter of type {kind} is not carried out"))
}

/// Puts a filter into a rule; whether it can be carried out.
fn apply(filter: &Filter, route: &Route, around: &Around, out: &mut Map<String, Value>, all: &mut Translated) -> bool {
    let headers = |headers: &Headers| {
        let mut changes = Map::new();
        for (key, values) in [("set", &headers.set), ("add", &headers.add)] {
            if !values.is_empty() {
                changes.insert(key.into(), values.iter().map(value_of).collect());
            }
        }
        if !headers.remove.is_empty() {
            changes.insert("remove".into(), json!(headers.remove));
        }
        Value::Object(changes)
    };
    match (filter.r#type.as_str(), filter) {
        ("RequestHeaderModifier", Filter { request_header_modifier: Some(changes), .. }) => {
            out.insert("requestHeaders".into(), headers(changes));
        }
        ("ResponseHeaderModifier", Filter { response_header_modifier: Some(changes), .. }) => {
            out.insert("responseHeaders".into(), headers(changes));
        }
        ("RequestRedirect", Filter { request_redirect: Some(redirect), .. }) => {
            out.insert("redirect".into(), redirect_of(redirect));
        }
        ("URLRewrite", Filter { url_rewrite: Some(rewrite), .. }) => {
            out.insert("rewrite".into(), redirect_of(rewrite));
        }
        ("RequestMirror", Filter { request_mirror: Some(mirror), .. }) => match resolve(&mirror.backend_ref, route, around) {
            Ok(mut target) => {
                let fraction = mirror.fraction.as_ref().map(|f| f.numerator.saturating_mul(100) / f.denominator.unwrap_or(100).max(1));
                target.insert("percent".into(), mirror.percent.or(fraction).unwrap_or(100).into());
                if let Value::Array(mirrors) = out.entry("mirrors").or_insert_with(|| json!([])) {
                    mirrors.push(Value::Object(target));
                }
            }
            Err(said) => {
                all.unresolved.get_or_insert(said);
            }
        },
        (kind, _) => {
            all.unsupported.get_or_insert_with(|| unsupported(kind));
            return false;
        }
    }
    true
}

fn redirect_of(redirect: &Redirect) -> Value {
    let mut out = Map::new();
    for (key, text) in [("scheme", &redirect.scheme), ("hostname", &redirect.hostname)] {
        if !text.is_empty() {
            out.insert(key.into(), text.as_str().into());
        }
    }
    for (key, number) in [("port", redirect.port), ("statusCode", redirect.status_code)] {
        if number != 0 {
            out.insert(key.into(), number.into());
        }
    }
    match &redirect.path {
        Some(PathModifier { r#type, replace_full_path, .. }) if r#type == "ReplaceFullPath" => {
            out.extend([("pathType".to_owned(), "Full".into()), ("path".to_owned(), replace_full_path.as_str().into())]);
        }
        Some(PathModifier { replace_prefix_match, .. }) => {
            out.extend([("pathType".to_owned(), "Prefix".into()), ("path".to_owned(), replace_prefix_match.as_str().into())]);
        }
        None => {}
    }
    Value::Object(out)
}

/// The port of a Service that a reference leads to, or why to none.
fn resolve(reference: &Reference, route: &Route, around: &Around) -> Result<Map<String, Value>, Said> {
    let fails = |reason, message: String| Err(Said::fails("ResolvedRefs", reason, message));
    let namespace = if reference.namespace.is_empty() { &route.metadata.namespace } else { &reference.namespace };
    let name = &reference.name;
    if !reference.group.is_empty() || !matches!(reference.kind.as_str(), "" | "Service") {
        return fails("InvalidKind", format!("{:?} of group {:?} is no backend", reference.kind, reference.group));
    }
    if !around.is_granted(("HTTPRoute", &route.metadata.namespace), ("", "Service"), namespace, name) {
        return fails("RefNotPermitted", format!("no ReferenceGrant lets this route name Service {namespace}/{name}"));
    }
    match around.services.get(&(namespace.clone(), name.clone())) {
        Some(ports) if ports.contains(&reference.port) => {}
        Some(_) => return fails("BackendNotFound", format!("Service {namespace}/{name} has no port {}", reference.port)),
        None => return fails("BackendNotFound", format!("Service {namespace}/{name} does not exist")),
    }
    let target = [("namespace", namespace.as_str().into()), ("service", name.as_str().into()), ("port", reference.port.into())];
    Ok(target.into_iter().map(|(key, value): (&str, Value)| (key.to_owned(), value)).collect())
}

/// A duration of the API: `1h30m`, `500ms`.
pub fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..unit_end] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}
