//! What policies say about requests: pure, without a cluster.

use pintle_policies::{
    Access, Actions, Denial, Met, MutatingPolicy, Question, Refusal, Surroundings, ValidatingPolicy, View, Views, bound, difference,
    mutate, schema_of, type_checking, types_named, validate,
};
use serde_json::{Value, json};

static NOTHING: Value = Value::Null;

fn object() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": 3}})
}

/// Jane may scale deployments in her shop; the account `shop/web` may do nothing.
fn authorize(access: &Access, verb: &str) -> (bool, String) {
    let allowed = access.account.is_none()
        && (access.group.as_str(), access.resource.as_str(), access.subresource.as_str(), verb)
            == ("apps", "deployments", "scale", "update")
        && access.namespace == "shop";
    (allowed || access.path == "/healthz", format!("asked for {verb}"))
}

fn ask<T>(object: &Value, params: &Value, judge: impl FnOnce(Question<'_>) -> T) -> T {
    let request = json!({"operation": "CREATE", "name": "web", "namespace": "shop", "userInfo": {"username": "jane"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"}});
    let namespace = json!({"metadata": {"name": "shop", "labels": {"tier": "gold"}}});
    judge(Question { object, old_object: &NOTHING, request: &request, params, namespace: &namespace, authorize: Some(&authorize) })
}

/// What a policy with these parts says: `message`s of refusals joined by ` | `.
fn said(spec: Value) -> String {
    let policy = ValidatingPolicy::new(&spec);
    let outcome = ask(&object(), &json!({"max": 5}), |question| policy.judge(question));
    outcome.denials.into_iter().map(|denial| denial.message).collect::<Vec<_>>().join(" | ")
}

fn validation(expression: &str) -> Value {
    json!({"validations": [{"expression": expression}]})
}

#[test]
fn validations_hold_or_say_why_not() {
    for (spec, expected) in [
        (validation("object.spec.replicas == 3 && oldObject == null && request.operation == 'CREATE'"), ""),
        (validation("namespaceObject.metadata.labels.tier == 'gold' && request.userInfo.username == 'jane'"), ""),
        (validation(" object.spec.replicas > 3 "), "failed expression: object.spec.replicas > 3"),
        (json!({"validations": [{"expression": "false", "message": " no "}]}), "no"),
        (
            json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "'got ' + string(object.spec.replicas)"}]}),
            "got 3",
        ),
        // A message that cannot be made, is empty or has several lines gives way.
        (json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "'got ' + object.spec.replicas"}]}), "no"),
        (json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "'a\\nb'"}]}), "no"),
        (json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "'  '"}]}), "no"),
        // All are asked, in order.
        (
            json!({"validations": [{"expression": "false", "message": "1"}, {"expression": "true"}, {"expression": "1 > 2", "message": "3"}]}),
            "1 | 3",
        ),
        (validation("object.spec.missing > 1"), "expression 'object.spec.missing > 1' resulted in error: no such key: missing"),
        (
            json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.spec.missing > 1"}, {"expression": "false", "message": "no"}]}),
            "no",
        ),
        // Parameters are a variable only where the policy has them.
        (
            json!({"paramKind": {"apiVersion": "v1", "kind": "X"}, "validations": [{"expression": "object.spec.replicas <= params.max"}]}),
            "",
        ),
        (
            validation("params == null"),
            "compilation error: compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')",
        ),
        // Match conditions come first.
        (
            json!({"matchConditions": [{"name": "c", "expression": "object.spec.replicas > 5"}], "validations": [{"expression": "false"}]}),
            "",
        ),
        (
            json!({"matchConditions": [{"name": "c", "expression": "object.none"}], "validations": [{"expression": "false"}]}),
            "match condition \"c\": no such key: none",
        ),
    ] {
        assert_eq!(said(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn variables_are_made_late_once_and_out_of_each_other() {
    let with = |variables: Value, expression: &str| json!({"variables": variables, "validations": [{"expression": expression}]});
    let chain = json!([
        {"name": "n", "expression": "object.spec.replicas"},
        {"name": "odd", "expression": "variables.n % 2 == 1"},
        {"name": "broken", "expression": "object.spec.none"},
    ]);
    assert_eq!(said(with(chain.clone(), "variables.odd && variables.n == 3")), "");
    assert_eq!(said(with(chain.clone(), "true || variables.broken")), "", "what decides already does not read the other side");
    assert_eq!(said(with(chain.clone(), "has(object.spec.none) ? variables.broken : variables.odd")), "");
    let why = said(with(chain, "variables.broken"));
    assert_eq!(why, "expression 'variables.broken' resulted in error: composited variable \"broken\" fails to evaluate: no such key: none");
    // Made once: read a hundred times, it is paid for once.
    let dear = json!([{"name": "dear", "expression": "[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, [1,2,3,4,5,6,7,8,9,10].map(c, a + b + c)))"}]);
    let often = vec!["size(variables.dear) == 10"; 100].join(" && ");
    let spec = json!({"variables": dear, "validations": vec![json!({"expression": often}); 20]});
    assert_eq!(said(spec), "");
    // One cannot read a later one, nor itself.
    let early = json!([{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}]);
    let failures = ValidatingPolicy::failures(&with(early, "true"), "spec");
    assert_eq!(failures.len(), 1);
    assert!(failures[0].to_string().contains("undefined field 'b'"), "{}", failures[0]);
}

#[test]
fn a_policy_cannot_cost_more_than_its_budget() {
    let loops = "[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, [1,2,3,4,5,6,7,8,9,10].map(c, [1,2,3,4,5,6,7,8,9,10].map(d, [1,2,3,4,5,6,7,8,9,10].map(e, [1,2,3,4,5,6,7,8,9,10].map(f, 1)))))) == []";
    assert!(said(validation(loops)).contains("cost budget"));
    // Nor nest deeper than the stack, through however many variables.
    let variables: Vec<Value> = (0..2000)
        .map(|n| json!({"name": format!("v{n}"), "expression": if n == 0 { "1".to_owned() } else { format!("variables.v{} + 1", n - 1) }}))
        .collect();
    let deep = json!({"variables": variables, "validations": [{"expression": "variables.v1999 > 0"}]});
    assert!(said(deep.clone()).contains("nest deeper"), "{}", said(deep));
}

#[test]
fn bindings_deny_warn_and_note() {
    let spec = json!({
        "validations": [{"expression": "false", "message": "no", "reason": "Forbidden"}],
        "auditAnnotations": [{"key": "replicas", "valueExpression": "string(object.spec.replicas)"}, {"key": "none", "valueExpression": "''"}],
    });
    let policy = ValidatingPolicy::new(&spec);
    let outcome = ask(&object(), &NOTHING, |question| policy.judge(question));
    assert_eq!(outcome.annotations, [("replicas".to_owned(), "3".to_owned())]);
    let denied = Actions::of(&json!(["Deny"])).settle("p", "b", outcome.clone());
    let message = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no".to_owned();
    assert_eq!(denied.refused, Some(Refusal { code: 403, reason: "Forbidden".to_owned(), message }));
    assert!(denied.warnings.is_empty());
    let warned = Actions::of(&json!(["Warn", "Audit"])).settle("p", "b", outcome);
    assert_eq!(warned.refused, None);
    assert_eq!(warned.warnings, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no"]);
    let failure: Value = serde_json::from_str(&warned.audit[0].1).unwrap();
    let expected = json!({"message": "no", "policy": "p", "binding": "b", "expressionIndex": 0, "validationActions": ["Warn", "Audit"]});
    assert_eq!((warned.audit[0].0.as_str(), failure), ("validation.policy.admission.k8s.io/validation_failure", expected));
    assert_eq!(warned.audit[1], ("p/replicas".to_owned(), "3".to_owned()));
}

#[test]
fn an_annotation_that_cannot_be_made_refuses_whatever_the_binding_does() {
    let spec = json!({"validations": [{"expression": "true"}], "auditAnnotations": [{"key": "k", "valueExpression": "object.none"}]});
    let policy = ValidatingPolicy::new(&spec);
    let outcome = ask(&object(), &NOTHING, |question| policy.judge(question));
    assert!(matches!(outcome.denials.as_slice(), [Denial { always: true, .. }]), "{outcome:?}");
    assert!(Actions::of(&json!(["Warn"])).settle("p", "b", outcome).refused.is_some());
}

/// Lays one object over the other, lists replaced: the kernel's own merge is tested with it.
fn overlay(live: &Value, config: &Value) -> Result<Value, String> {
    let mut merged = live.clone();
    json_merge(&mut merged, config);
    Ok(merged)
}

fn json_merge(target: &mut Value, source: &Value) {
    match (target, source) {
        (Value::Object(target), Value::Object(source)) => {
            for (key, value) in source {
                json_merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, source) => *target = source.clone(),
    }
}

fn mutated(mutation: Value) -> Result<Value, String> {
    let policy = MutatingPolicy::new(&json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}], "mutations": [mutation]}));
    ask(&object(), &NOTHING, |question| policy.mutate(question, &overlay)).map_err(Option::unwrap_or_default)
}

#[test]
fn mutations_lay_parts_over_the_object_or_patch_it() {
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    for (mutation, pointer, expected) in [
        (apply("Object{spec: Object.spec{replicas: variables.n * 2}}"), "/spec/replicas", json!(6)),
        (apply("Object{metadata: Object.metadata{labels: {'a/b': 'c'}}}"), "/metadata/labels", json!({"a/b": "c"})),
        (
            apply("Object{spec: Object.spec{list: [Object.spec.list{a: 1u, b: 1.5, c: null, d: b'x'}]}}"),
            "/spec/list",
            json!([{"a": 1, "b": 1.5, "c": null, "d": "eA=="}]),
        ),
        (apply("Object{spec: Object.spec{?no: optional.none(), ?yes: optional.of(true)}}"), "/spec", json!({"replicas": 3, "yes": true})),
        (apply("Object{spec: Object.spec{copy: object.metadata}}"), "/spec/copy/name", json!("web")),
        (patch("[JSONPatch{op: 'add', path: '/metadata/labels', value: {'a': 'b'}}]"), "/metadata/labels/a", json!("b")),
        (patch("[JSONPatch{op: 'add', path: '/spec/x', value: Object.spec.x{y: 1}}]"), "/spec/x", json!({"y": 1})),
        (
            patch("[JSONPatch{op: 'copy', from: '/metadata/name', path: '/spec/name'}, JSONPatch{op: 'remove', path: '/spec/replicas'}]"),
            "/spec",
            json!({"name": "web"}),
        ),
        (patch("[JSONPatch{op: 'add', path: '/spec/' + jsonpatch.escapeKey('a/~b'), value: 1}]"), "/spec/a~1~0b", json!(1)),
        (patch("object.spec.replicas > 5 ? [JSONPatch{op: 'remove', path: '/spec'}] : []"), "/spec/replicas", json!(3)),
        // A test that fails leaves the object as it is.
        (
            patch("[JSONPatch{op: 'remove', path: '/metadata/name'}, JSONPatch{op: 'test', path: '/spec/replicas', value: 4}]"),
            "/metadata/name",
            json!("web"),
        ),
    ] {
        let changed = mutated(mutation.clone()).unwrap_or_else(|why| panic!("{mutation}: {why}"));
        assert_eq!(changed.pointer(pointer), Some(&expected), "{mutation}");
    }
    let copies: Vec<String> = (0..40).map(|n| format!("JSONPatch{{op: 'copy', from: '/spec', path: '/spec/a{n}'}}")).collect();
    for (mutation, expected) in [
        (apply("Object{spec: Object.wrong{replicas: 1}}"), "unexpected type name \"Object.wrong\", expected \"Object.spec\""),
        (apply("Object.spec{replicas: 1}"), "must evaluate to a Object"),
        (apply("Object{spec: object.none}"), "no such key: none"),
        (patch("[1]"), "should evaluate to array of JSONPatch"),
        (patch("[JSONPatch{op: 'replace', path: '/none/x', value: 1}]"), "JSON Patch: "),
        (patch("[JSONPatch{op: 'nope', path: '/x', value: 1}]"), "JSON Patch: "),
        // Neither a growing nor a deepening object is made.
        (patch(&format!("[{}]", copies.join(","))), "it copies more than"),
        (
            patch(
                "['a','b','c','d','e','f','g','h','i','j'].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, object)).map(l, JSONPatch{op: 'add', path: '/x', value: [l,l,l,l,l,l,l,l,l,l].map(a, [l,l,l,l,l,l,l,l,l,l].map(b, [l,l,l,l,l]))})",
            ),
            "too large",
        ),
    ] {
        let why = mutated(mutation.clone()).expect_err("it does not apply");
        assert!(why.contains(expected), "{mutation}: {why}");
    }
}

#[test]
fn who_asked_for_it_is_asked_again_after_later_changes() {
    let policy = |name: &str, reinvoke: &str, expression: &str| {
        json!({"metadata": {"name": name}, "spec": {"reinvocationPolicy": reinvoke, "mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]}})
    };
    let count = |to: &str| format!("[JSONPatch{{op: 'add', path: '/metadata/{to}', value: string(object.spec.replicas)}}]");
    let double = "object.spec.replicas < 6 ? [JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas * 2}] : []";
    let policies = [
        policy("a", "IfNeeded", &count("again")),
        policy("b", "Never", &count("once")),
        policy("c", "Never", double),
        policy("d", "Never", double),
    ];
    let bindings = ["a", "b", "c"].map(|name| json!({"metadata": {"name": name}, "spec": {"policyName": name}}));
    let bound = bound(&policies, &bindings, MutatingPolicy::new, |_| ());
    assert_eq!(bound.len(), 3, "a policy without a binding is not asked");
    let met = |params: Result<Value, String>| -> Vec<_> {
        let met = |policy| Met { policy, binding: &policy.bindings[0], version: "v1".to_owned(), params: params.clone() };
        bound.iter().map(met).collect()
    };
    let object = object();
    let view = View { request: json!({}), object: object.clone(), old_object: Value::Null };
    let views = Views::from([("v1".to_owned(), view)]);
    let around = Surroundings { views: &views, namespace: &Value::Null, authorize: None };
    let changed = mutate(&met(Ok(Value::Null)), around, &object, &overlay).expect("allowed");
    assert_eq!(changed["metadata"], json!({"name": "web", "namespace": "shop", "again": "6", "once": "3"}));
    let keys: Vec<&str> = difference(&object, &changed).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["metadata", "spec"]);
    let refused = mutate(&met(Err("none".to_owned())), around, &object, &overlay).expect_err("refused");
    assert_eq!(refused.message, "policy 'a' with binding 'a' denied request: failed to configure binding: none");
}

#[test]
fn parameters_are_where_the_binding_or_the_request_says() {
    let binding = |reference: Value| {
        let policies = [
            json!({"metadata": {"name": "p"}, "spec": {"paramKind": {"apiVersion": "v1", "kind": "X"}, "failurePolicy": "Fail", "validations": [{"expression": "true"}]}}),
        ];
        bound(
            &policies,
            &[json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "paramRef": reference}})],
            ValidatingPolicy::new,
            |_| (),
        )
    };
    let place = |reference: Value, namespaced, namespace: &str| {
        let bound = binding(reference);
        bound[0].bindings[0].place(namespaced, namespace).map(|(namespace, name)| format!("{namespace}/{name}"))
    };
    assert_eq!(place(json!({"name": "x"}), true, "shop"), Ok("shop/x".to_owned()));
    assert_eq!(place(json!({"name": "x", "namespace": "own"}), true, "shop"), Ok("own/x".to_owned()));
    assert_eq!(place(json!({"selector": {}}), false, "shop"), Ok("/".to_owned()));
    assert!(place(json!({"name": "x"}), true, "").is_err_and(|why| why.contains("cluster-scoped")));
    assert!(place(json!({"name": "x", "namespace": "own"}), false, "").is_err_and(|why| why.contains("must not be provided")));
    // What cannot be had refuses, whatever the binding does.
    let bound = binding(json!({"name": "x", "parameterNotFoundAction": "Deny"}));
    let params = bound[0].bindings[0].not_found().map(|_| Value::Null);
    let met = [Met { policy: &bound[0], binding: &bound[0].bindings[0], version: "v1".to_owned(), params }];
    let settled = validate(
        &met,
        Surroundings { views: &Views::from([("v1".to_owned(), View::default())]), namespace: &Value::Null, authorize: None },
    );
    let message = settled.refused.expect("refused").message;
    assert!(
        message.ends_with("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{message}"
    );
}

#[test]
fn the_authorizer_is_asked() {
    let scale = "authorizer.group('apps').resource('deployments').subresource('scale')";
    for (expression, expected) in [
        (format!("{scale}.namespace('shop').check('update').allowed()"), ""),
        (format!("{scale}.namespace('other').check('update').allowed()"), "no"),
        (format!("{scale}.namespace('shop').name('web').labelSelector('a=b').check('get').reason() == 'asked for get'"), ""),
        ("authorizer.path('/healthz').check('get').allowed() && !authorizer.path('/x').check('get').errored()".to_owned(), ""),
        ("authorizer.requestResource.subresource('scale').check('update').allowed()".to_owned(), ""),
        ("authorizer.requestResource.check('update').allowed()".to_owned(), "no"),
        ("!authorizer.serviceAccount('shop', 'web').group('apps').resource('deployments').check('get').allowed()".to_owned(), ""),
    ] {
        assert_eq!(said(json!({"validations": [{"expression": expression, "message": "no"}]})), expected, "{expression}");
    }
    for (expression, expected) in [
        ("authorizer.path(' ').check('get').allowed()", "path must not be empty"),
        ("authorizer.group('apps').check('get').allowed()", "no such overload"),
        ("authorizer.serviceAccount('Not a label', 'x').path('/').check('get').allowed()", "invalid service account"),
        // Three questions are more than one expression may cost.
        ("[1, 2, 3].all(n, authorizer.path('/healthz').check('get').allowed())", "cost budget"),
    ] {
        let why = said(validation(expression));
        assert!(why.contains(expected), "{expression}: {why}");
    }
    let asking = json!({"validations": [{"expression": "true", "messageExpression": "authorizer.path('/').check('get').reason()"}]});
    assert!(ValidatingPolicy::failures(&asking, "spec")[0].to_string().contains("undeclared reference to 'authorizer'"));
}

#[test]
fn types_are_checked_against_the_kinds_that_a_policy_names() {
    let document = json!({"components": {"schemas": {
        "D": {"type": "object", "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Deployment"}],
            "properties": {"spec": {"allOf": [{"$ref": "#/components/schemas/S"}], "default": {}}, "metadata": {"type": "object"}}},
        "S": {"type": "object", "description": "d", "properties": {
            "replicas": {"type": "integer", "format": "int32"}, "self": {"$ref": "#/components/schemas/S"}}},
    }}});
    let schema = schema_of(&document, "apps", "v1", "Deployment").expect("it is there");
    let kinds = [("apps/v1, Kind=Deployment".to_owned(), schema)];
    let check = |spec: &Value| type_checking(spec, &kinds, &Value::Null);
    assert_eq!(check(&validation("object.spec.replicas > 1 && has(object.spec.self.self.replicas)")), json!({"expressionWarnings": null}));
    let confused = json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}], "validations": [
        {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + object.spec.replicas"},
        {"expression": "object.spec.replica > 1"}, {"expression": "variables.n"}]});
    let found = check(&confused);
    let warning =
        |index: usize| (found["expressionWarnings"][index]["fieldRef"].as_str(), found["expressionWarnings"][index]["warning"].as_str());
    for (index, at, expected) in [
        (
            0,
            "spec.validations[0].expression",
            "apps/v1, Kind=Deployment: ERROR: <input>:1:1: found no matching overload for '_>_' applied to '(int, string)'\n",
        ),
        (1, "spec.validations[0].messageExpression", "found no matching overload for '_+_' applied to '(string, int)'"),
        (2, "spec.validations[1].expression", "undefined field 'replica'"),
        (3, "spec.validations[2].expression", "must evaluate to a bool"),
    ] {
        assert_eq!(warning(index).0, Some(at));
        assert!(warning(index).1.is_some_and(|text| text.contains(expected)), "{:?}", warning(index));
    }
    let rules = json!({"matchConstraints": {"resourceRules": [
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale"]},
        {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]}]}});
    assert_eq!(types_named(&rules), [("apps", "v1", "deployments")]);
}
