use super::*;
use serde_json::json;

fn module(change: Value) -> ModuleSpec {
    let mut spec = json!({"type": "controller", "source": {"file": "a.wasm"}, "controller": {"primary": "/pods"},
            "permissions": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    ModuleSpec::parse(&spec).expect("a spec")
}

#[track_caller]
fn check(policies: &[Value], change: Value, expected: Result<Option<usize>, &str>) {
    let list = policies.iter().map(|spec| Policy::read("p", Some(json!({"spec": spec})))).collect();
    let asker = Asker { name: "m".into(), labels: json!({"team": "a"}) };
    let found = Policies(RwLock::new(list))
        .allowance(&asker, &module(change), "sha256:1", &Provenance::default())
        .map(|a| a.bounds.first().map(Vec::len));
    match (found.map_err(|e| e.to_string()), expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
        (found, expected) => panic!("{found:?}, not {expected:?}"),
    }
}

#[test]
fn a_module_runs_when_one_of_the_policies_that_select_it_admits_it() {
    let grant = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    check(&[], json!({}), Ok(None));
    check(&[json!({"modules": ["other"], "types": ["admission"]})], json!({}), Ok(None));
    check(&[json!({"modules": ["*"], "types": ["admission"]})], json!({}), Err("type controller"));
    check(&[json!({"modules": ["*"], "types": ["admission"]})], json!({"source": {"builtin": "x"}}), Ok(None));
    check(&[json!({"modules": ["m"], "sources": ["oci"]})], json!({}), Err("source file"));
    check(&[json!({"modules": ["m"], "digests": ["sha256:2"]})], json!({}), Err("digest sha256:1"));
    check(&[json!({"modules": ["m"]})], json!({"grants": ["timer"]}), Err("grant timer"));
    check(&[json!({"moduleSelector": {"matchLabels": {"team": "a"}}, "sources": ["oci"]})], json!({}), Err("source file"));
    check(&[json!({"moduleSelector": {"matchLabels": {"team": "b"}}, "sources": ["oci"]})], json!({}), Ok(None));
    check(
        &[json!({"modules": ["*"], "sources": ["oci"]}), json!({"modules": ["m"], "permissions": [grant, grant]})],
        json!({}),
        Ok(Some(2)),
    );
    check(&[json!({"modules": ["m"], "surprise": 1})], json!({}), Err("type controller"));
}

#[test]
fn limits_are_cut_to_the_largest_bound_of_those_that_admit() {
    let limits = |policies: &[Value]| {
        let list = policies.iter().map(|limits| Policy::read("p", Some(json!({"spec": {"modules": ["*"], "limits": limits}})))).collect();
        let module = module(json!({"limits": {"workers": 100, "callsPerSecond": 100}}));
        let allowance = Policies(RwLock::new(list)).allowance(&Asker::default(), &module, "", &Provenance::default()).expect("admitted");
        (allowance.limits.workers, allowance.limits.calls_per_second)
    };
    assert_eq!(limits(&[json!({"workers": 10, "callsPerSecond": 1000})]), (10, 100));
    assert_eq!(limits(&[json!({"workers": 10, "callsPerSecond": 10}), json!({"workers": 20})]), (20, 100));
}

#[test]
fn a_policy_with_keys_admits_what_a_holder_of_one_signed() {
    let ((private, public), (_, foreign)) = (pintle_signing::generate().expect("a key"), pintle_signing::generate().expect("a key"));
    let manifest_digest = "sha256:1".to_owned();
    let signature = pintle_signing::sign(&private, "registry.example/m", &manifest_digest).expect("signed");
    let signed = Provenance { manifest_digest, signatures: vec![signature] };
    let check = |keys: &[&String], provenance: &Provenance| {
        let list = vec![Policy::read("p", Some(json!({"spec": {"modules": ["*"], "signingKeys": keys}})))];
        Policies(RwLock::new(list)).allowance(&Asker::default(), &module(json!({})), "", provenance).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(check(&[&public], &signed), Ok(()));
    assert_eq!(check(&[&foreign, &public], &signed), Ok(()));
    let refused = Err("denied: policy \"p\" has no key that signed it".to_owned());
    assert_eq!(check(&[&foreign], &signed), refused);
    assert_eq!(check(&[&public], &Provenance::default()), refused);
    assert_eq!(check(&[&"no key".to_owned()], &signed), refused);
    assert_eq!(check(&[&public], &Provenance { manifest_digest: "sha256:2".into(), ..signed }), refused, "signed for another artifact");
}
