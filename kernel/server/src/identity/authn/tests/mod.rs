use super::*;

#[test]
fn health_and_version_are_open_and_what_only_begins_like_them_is_not() {
    assert!(["/livez", "/readyz/etcd", "/healthz", "/version"].into_iter().all(is_open));
    assert!(!["/versions", "/livezz", "/api", "/", "/metrics"].into_iter().any(is_open));
}

#[test]
fn impersonating_a_service_account_brings_its_groups() {
    let mut headers = HeaderMap::new();
    headers.insert("impersonate-user", "system:serviceaccount:a:b".parse().unwrap());
    let caller = impersonated(&headers).unwrap().unwrap();
    assert_eq!(caller.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    headers.remove("impersonate-user");
    headers.insert("impersonate-group", "g".parse().unwrap());
    assert!(impersonated(&headers).is_err());
}
