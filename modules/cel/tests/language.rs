//! What expressions give, what they are refused for, and that nothing is free.

use pintle_cel::{Budget, Error, Program, Value};
use serde_json::{Value as Json, json};

fn schema() -> Json {
    json!({"type": "object", "properties": {
        "replicas": {"type": "integer"},
        "ratio": {"type": "number"},
        "name": {"type": "string"},
        "when": {"type": "string", "format": "date-time"},
        "for": {"type": "string", "format": "duration"},
        "names": {"type": "array", "items": {"type": "string"}},
        "ports": {"type": "array", "items": {"type": "object", "properties": {"port": {"type": "integer"}, "host": {"type": "string"}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "a-b": {"type": "string"},
        "port": {"x-kubernetes-int-or-string": true},
    }})
}

fn object() -> Json {
    json!({
        "replicas": 3, "ratio": 2, "name": "web-1", "when": "2026-01-02T03:04:05Z", "for": "1h30m", "names": ["a", "b", "c"],
        "ports": [{"port": 80, "host": "x"}, {"port": 443}], "labels": {"app": "web"}, "a-b": "dash", "port": "http",
    })
}

fn run(source: &str) -> Result<bool, Error> {
    let (schema, object) = (schema(), object());
    let program = Program::compile(source, &[("self", &schema)], "bool")?;
    match program.run(&[("self", Value::of(&object, &schema))], &Budget::default())? {
        Value::Bool(value) => Ok(value),
        other => panic!("{source} gave {other:?}"),
    }
}

#[test]
fn expressions_hold() {
    for source in [
        "self.replicas == 3 && self.replicas < 4.5 && self.replicas + 2 * 3 - 1 == 8 && 7 / 2 == 3 && -7 % 3 == -1",
        "self.ratio == 2.0 && self.ratio * 1.5 == 3.0",
        "self.name.startsWith('web') && self.name.endsWith('1') && self.name.contains('-') && self.name.matches('^[a-z]+-[0-9]$')",
        "self.name + '!' == 'web-1!' && size(self.name) == 5 && self.name.size() == 5",
        "self.name.split('-') == ['web', '1'] && ['a', 'b'].join('/') == 'a/b' && self.name.upperAscii() == 'WEB-1'",
        "self.name.replace('web', 'db') == 'db-1' && self.name.substring(0, 3) == 'web' && self.name.indexOf('-') == 3 && ' x '.trim() == 'x'",
        "self.name.find('[0-9]') == '1' && 'a1b2'.findAll('[0-9]') == ['1', '2'] && self.name.charAt(0) == 'w'",
        "has(self.name) && !has(self.ports[1].host) && self.ports[0].host == 'x'",
        "self.names.all(n, n.size() == 1) && self.names.exists(n, n == 'b') && self.names.exists_one(n, n > 'b')",
        "self.names.map(n, n + n) == ['aa', 'bb', 'cc'] && self.names.filter(n, n != 'b') == ['a', 'c']",
        "self.ports.map(p, p.port > 100, p.port) == [443] && self.ports.map(p, p.port).sum() == 523",
        "'b' in self.names && 'app' in self.labels && self.labels['app'] == 'web' && self.labels.app == 'web' && self.labels.all(k, k == 'app')",
        "self.names.isSorted() && self.names.max() == 'c' && self.names.min() == 'a' && self.names.indexOf('c') == 2",
        "sets.contains(self.names, ['a']) && sets.intersects(self.names, ['z', 'a']) && !sets.equivalent(self.names, ['a'])",
        "self.when.getFullYear() == 2026 && self.when.getMonth() == 0 && self.when < timestamp('2027-01-01T00:00:00Z')",
        "self.for == duration('90m') && self.for.getMinutes() == 90 && self.when + self.for > self.when",
        "self.a__dash__b == 'dash' && self.port == 'http' && type(self.port) == string",
        "int('7') == 7 && string(7) == '7' && double(1) == 1.0 && bool('true') && uint(3) == 3u && dyn(1) == 1.0",
        "self.?name.orValue('x') == 'web-1' && self.?ports[?5].hasValue() == false && self.?name.optMap(n, n.size()).value() == 5",
        "optional.none().orValue(1) == 1 && optional.of(2).or(optional.of(3)).value() == 2",
        "self.replicas > 1 ? self.names.size() == 3 : false",
        // One side of && and || decides although the other fails.
        "self.ports[7].port == 1 || true",
        "!(false && self.labels['none'] == 'x')",
        "self.names.exists(n, n == 'b' || self.labels[n] == 'x')",
        "{'a': 1, 'b': [1, 2]} == {'b': [1, 2], 'a': 1} && [1, 2] + [3] == [1, 2, 3]",
        "isURL('https://x.y/z') && isIP('10.0.0.1') && !isIP('x')",
    ] {
        assert_eq!(run(source), Ok(true), "{source}");
    }
}

#[test]
fn what_is_wrong_whatever_it_is_given_is_refused_before_it_runs() {
    for (source, expected) in [
        ("self.nothing == 1", "undefined field 'nothing'"),
        ("self.ports.all(p, p.prot > 1)", "undefined field 'prot'"),
        ("other == 1", "undeclared reference to 'other'"),
        ("self.replicas.frobnicate()", "undeclared reference to 'frobnicate'"),
        ("self.name == 1", "found no matching overload for '_==_' applied to '(string, int)'"),
        ("self.name - 'x' == 'y'", "found no matching overload for '_-_'"),
        ("self.replicas && true", "found no matching overload for '_&&_'"),
        ("self.replicas + 1", "must evaluate to a bool"),
        ("self.names.map(n, n)", "must evaluate to a bool"),
        ("self.replicas.all(x, true)", "cannot be range of a comprehension"),
        ("self.name.matches('(')", "invalid matches argument"),
        ("self.replicas >", "ERROR"),
        ("", "ERROR"),
    ] {
        let error = run(source).expect_err(source);
        assert!(matches!(error, Error::Compile(_)) && error.to_string().contains(expected), "{source}: {error}");
    }
    let deep = format!("{}1{} == 1", "[".repeat(5000), "]".repeat(5000));
    assert!(matches!(run(&deep), Err(Error::Compile(_))));
    let chain = format!("self{} == 1", ".labels".repeat(2000));
    assert!(matches!(run(&chain), Err(Error::Compile(_))));
}

#[test]
fn what_goes_wrong_with_the_input_is_told() {
    for (source, expected) in [
        ("self.ports[1].host == 'x'", "no such key: host"),
        ("self.names[9] == 'x'", "index out of bounds"),
        ("self.replicas / 0 == 1", "division by zero"),
        ("9223372036854775807 + self.replicas > 0", "integer overflow"),
        ("int(self.name) == 1", "is not an int"),
        ("dyn(self.name) > 1", "no such overload"),
    ] {
        let error = run(source).expect_err(source);
        assert!(error.to_string().contains(expected), "{source}: {error}");
    }
}

#[test]
fn a_hostile_expression_runs_out_of_budget_in_time_and_in_memory() {
    let items = json!((0..2000).collect::<Vec<_>>());
    let free = Json::Null;
    let doubling = |step: &str| format!("[self[0]]{}.exists(y, y != y)", step.repeat(120));
    for source in [
        "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))".to_owned(),
        "self.map(a, self.map(b, self)).size() == 0".to_owned(),
        doubling(".map(x, [x, x])"),
        "['aaaaaaaaaa'].map(s, s+s+s+s+s+s+s+s+s+s).map(s, s+s+s+s+s+s+s+s+s+s).map(s, s+s+s+s+s+s+s+s+s+s).map(s, s+s+s+s+s+s+s+s+s+s).map(s, s+s+s+s+s+s+s+s+s+s).map(s, s+s+s+s+s+s+s+s+s+s).size() == 1".to_owned(),
        "['aaaaaaaaaaaaaaaaaaaa'].map(s, s.replace('', s)).map(s, s.replace('', s)).map(s, s.replace('', s)).map(s, s.replace('', s)).map(s, s.replace('', s)).size() == 1".to_owned(),
        "self.map(a, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'.matches('(a+)+$' + string(a))).size() == 1".to_owned(),
    ] {
        let program = Program::compile(&source, &[("self", &free)], "bool").expect("compiles");
        let outcome = program.run(&[("self", Value::free(&items))], &Budget::default());
        assert!(matches!(outcome, Err(Error::Cost)), "{source}: {outcome:?}");
    }
    // The budget of a request is shared by its calls.
    let (program, budget) =
        (Program::compile("self.all(a, self.all(b, true))", &[("self", &free)], "bool").expect("compiles"), Budget::default());
    let outcomes: Vec<_> = (0..12).map(|_| program.run(&[("self", Value::free(&items))], &budget).is_ok()).collect();
    assert!(outcomes.iter().all(|ok| !ok));
    let small = Program::compile("true", &[], "bool").expect("compiles");
    assert!(matches!(small.run(&[], &budget), Err(Error::Cost)));
}
