use super::*;

fn permission(groups: &[&str], resources: &[&str], verbs: &[&str], namespaces: &[&str]) -> Permission {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Permission {
        api_groups: own(groups),
        resources: own(resources),
        verbs: own(verbs),
        namespaces: own(namespaces),
        resource_names: Vec::new(),
    }
}

#[track_caller]
fn check(grants: &[Permission], asked: &str, expected: bool) {
    let part: Vec<&str> = asked.split(' ').collect();
    let (resource, subresource) = part[2].split_once('/').unwrap_or((part[2], ""));
    let asked_use =
        Use { verb: part[0], group: part[1].trim_matches('-'), resource, subresource, namespace: part[3].trim_matches('-'), name: "x" };
    assert_eq!(Grants::new(grants.to_vec()).allow(&asked_use), expected, "{asked}");
}

#[test]
fn a_bound_narrows_and_a_change_is_felt_by_clones() {
    let asked = vec![permission(&[""], &["pods", "secrets"], &["*"], &[])];
    let grants = Grants::new(asked.clone());
    let held = grants.clone();
    let (pods, secrets) = (ResourceKey::new("", "pods"), ResourceKey::new("", "secrets"));
    assert!(held.show(&pods, "a", "x") && held.show(&secrets, "a", "x"));
    grants.set(asked.clone(), vec![vec![permission(&[""], &["pods"], &["get"], &["a"])]]);
    assert!(held.show(&pods, "a", "x") && !held.show(&pods, "b", "x") && !held.show(&secrets, "a", "x"));
    let version = held.version();
    grants.set(asked.clone(), vec![asked.clone(), Vec::new()]);
    assert!(!held.show(&pods, "a", "x") && held.version() > version);
    assert!(could_show(&asked, Some(&pods)) && !could_show(&asked, None));
    assert!(!could_show(&[permission(&[""], &["pods"], &["create"], &[])], Some(&pods)));
}

#[test]
fn a_use_is_allowed_only_when_one_grant_covers_all_of_it() {
    let grants = [permission(&[""], &["pods", "pods/status"], &["get", "create"], &["a"]), permission(&["apps"], &["*"], &["*"], &[])];
    check(&grants, "get - pods a", true);
    check(&grants, "get - pods b", false);
    check(&grants, "get - pods -", false);
    check(&grants, "create - pods/status a", true);
    check(&grants, "create - pods/binding a", false);
    check(&grants, "delete - pods a", false);
    check(&grants, "delete apps replicasets b", true);
    check(&grants, "update apps deployments/scale b", true);
    check(&grants, "get batch jobs b", false);
    check(&[permission(&[], &["pods"], &["get"], &[])], "get - pods a", true);
    check(&[permission(&["*"], &["*/status"], &["patch"], &[])], "patch - pods/status a", true);
    check(&[permission(&["*"], &["*/status"], &["patch"], &[])], "patch - pods a", false);
}
