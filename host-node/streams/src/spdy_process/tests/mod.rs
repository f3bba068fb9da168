use super::*;

fn check(offered: &[&'static str], expected: Option<&str>) {
    let mut headers = HeaderMap::new();
    for version in offered {
        headers.append(VERSION_HEADER, version.parse().unwrap());
    }
    assert_eq!(choose_version(&headers), expected, "{offered:?}");
}

#[test]
fn the_newest_common_version_is_chosen() {
    check(&["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"], Some("v4.channel.k8s.io"));
    check(&["channel.k8s.io"], Some("channel.k8s.io"));
    check(&[], Some("channel.k8s.io"));
    check(&["v9.channel.k8s.io"], None);
}
