use super::*;

/// `METHOD path?query` in, `verb group/version namespace resource/name/subresource/rest` out.
fn check(line: &str, expected: &str) {
    let (method, target) = line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let query = Query::parse(query).unwrap();
    let info = RequestInfo::parse(&method.parse().unwrap(), path, &query).unwrap();
    let seen = match info.is_resource {
        false => format!("{} {}", info.verb, info.path),
        true => format!(
            "{} {}/{} ns={} {}/{}/{}/{}",
            info.verb, info.group, info.version, info.namespace, info.resource, info.name, info.subresource, info.rest
        ),
    };
    assert_eq!(seen, expected, "{line}");
}

#[test]
fn paths_are_read_by_upstreams_grammar() {
    check("GET /", "get /");
    check("GET /api", "get /api");
    check("GET /api/v1", "get /api/v1");
    check("GET /apis/apps/v1", "get /apis/apps/v1");
    check("GET /openapi/v3/apis/apps/v1", "get /openapi/v3/apis/apps/v1");
    check("GET /api/v1/pods", "list /v1 ns= pods///");
    check("GET /api/v1/namespaces", "list /v1 ns= namespaces///");
    check("GET /api/v1/namespaces/a", "get /v1 ns=a namespaces/a//");
    check("PUT /api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces/a/finalize/");
    check("GET /api/v1/namespaces/a/pods", "list /v1 ns=a pods///");
    check("POST /api/v1/namespaces/a/pods", "create /v1 ns=a pods///");
    check("DELETE /api/v1/namespaces/a/pods", "deletecollection /v1 ns=a pods///");
    check("GET /api/v1/namespaces/a/pods/p/log?follow=true", "get /v1 ns=a pods/p/log/");
    check("PATCH /apis/apps/v1/namespaces/a/deployments/d/scale", "patch apps/v1 ns=a deployments/d/scale/");
    check("GET /api/v1/namespaces/a/pods/p:80/proxy/x/y", "get /v1 ns=a pods/p:80/proxy/x/y");
    check("GET /api/v1/nodes/n%31", "get /v1 ns= nodes/n1//");
}

#[test]
fn watches_are_told_by_query_or_by_legacy_path() {
    check("GET /api/v1/pods?watch=1", "watch /v1 ns= pods///");
    check("GET /api/v1/pods?watch=false", "list /v1 ns= pods///");
    check("GET /api/v1/watch/namespaces/a/pods/p", "watch /v1 ns=a pods/p//");
    check("GET /api/v1/pods?watch=true&fieldSelector=metadata.name%3Dp", "watch /v1 ns= pods/p//");
    check("GET /api/v1/pods?fieldSelector=metadata.name=p", "list /v1 ns= pods/p//");
}

#[test]
fn broken_escapes_are_refused() {
    assert_eq!(RequestInfo::parse(&Method::GET, "/api/%zz", &Query::default()), None);
    assert_eq!(RequestInfo::parse(&Method::GET, "/api/%f", &Query::default()), None);
    assert_eq!(Query::parse(Some("a=%ff")), None);
    assert_eq!(Query::parse(Some("a=b+c&a=%2B")).unwrap().all("a").collect::<Vec<_>>(), ["b c", "+"]);
}
