//! `/livez`, `/readyz`, `/healthz` and `/metrics`.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use pintle_api::ApiError;

use crate::body::Body;
use crate::config::{Check, Metric};
use crate::pipeline::Exchange;
use crate::server::Shared;

/// Answer a health path: `[which]` or `[which, check]`.
pub(crate) fn serve(server: &Shared, exchange: &Exchange, parts: &[&str]) -> Result<Response<Body>, ApiError> {
    let (which, single) = match parts {
        [which] => (*which, None),
        [which, check] => (*which, Some(*check)),
        _ => return Err(ApiError::no_route()),
    };
    let mut checks = checks(server, which);
    if let Some(single) = single {
        checks.retain(|check| check.name == single);
        if checks.is_empty() {
            return Err(ApiError::no_route());
        }
    }
    let excluded: Vec<&str> = exchange.query.all("exclude").collect();
    let failed = checks.iter().filter(|check| check.failure.is_some() && !excluded.contains(&check.name.as_str())).count();
    for check in checks.iter().filter(|check| check.failure.is_some()) {
        tracing::info!(check = check.name, failure = check.failure, "health check fails");
    }
    if failed == 0 && (single.is_some() || exchange.query.get("verbose").is_none()) {
        return Ok(text(StatusCode::OK, "ok".into()));
    }
    let mut lines: String = checks.iter().map(|check| line(check, excluded.contains(&check.name.as_str()))).collect();
    lines.push_str(&format!("{which} check {}\n", if failed == 0 { "passed" } else { "failed" }));
    Ok(text(if failed == 0 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, lines))
}

fn line(check: &Check, excluded: bool) -> String {
    match &check.failure {
        _ if excluded => format!("[+]{} excluded: ok\n", check.name),
        None => format!("[+]{} ok\n", check.name),
        // Why is said to the log, not to whoever asks: these paths are open.
        Some(_) => format!("[-]{} failed: reason withheld\n", check.name),
    }
}

fn checks(server: &Shared, which: &str) -> Vec<Check> {
    let passes = |name: &str| Check { name: name.to_owned(), failure: None };
    let mut checks = vec![passes("ping"), passes("store")];
    if which != "livez" {
        checks.extend(server.introspection.ready());
        let failure = server.is_stopping().then(|| "the server is stopping".to_owned());
        checks.push(Check { name: "shutdown".to_owned(), failure });
    }
    checks
}

/// `/metrics`.
pub(crate) fn metrics(server: &Shared) -> Result<Response<Body>, ApiError> {
    let gauge = |name, help, value| Metric { name, kind: "gauge", help, labels: Vec::new(), value };
    let mut samples = vec![
        gauge("pintle_store_revision", "Revision of the store that the registry shows.", server.registry.revision().0 as f64),
        gauge("pintle_connections", "Open connections.", server.connections() as f64),
        gauge("pintle_node_links", "Machines that are connected.", server.nodes.count() as f64),
    ];
    samples.extend(resident_bytes().map(|bytes| gauge("process_resident_memory_bytes", "Resident memory.", bytes)));
    samples.extend(server.introspection.metrics());
    Ok(text(StatusCode::OK, server.metrics.text(&samples)))
}

fn resident_bytes() -> Option<f64> {
    const PAGE_BYTES: f64 = 4096.0;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Bytes::from(text).into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
