//! Kubernetes' libraries: each line is a fact of their documentation.

use pintle_cel::{Budget, Error, Program, Value};
use serde_json::{Value as Json, json};

fn run(source: &str) -> Result<Value<'static>, Error> {
    let program = Program::compile(source, &[("self", &Json::Null)], "")?;
    let object = Box::leak(Box::new(json!({"memory": "1.5Gi", "hosts": {"a": 1, "b": 2}, "list": [3, 1, 2]})));
    program.run(&[("self", Value::free(object))], &Budget::default())
}

/// Every line is true.
fn hold(lines: &str) {
    for source in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let value = run(source);
        assert!(matches!(value, Ok(Value::Bool(true))), "{source}: {value:?}");
    }
}

/// Every line, up to ` => `, fails with what stands after it.
fn fail(lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (source, why) = line.split_once(" => ").unwrap();
        let error = run(source).expect_err(source).to_string();
        assert!(error.contains(why), "{source}: {error}");
    }
}

#[test]
fn quantities() {
    hold(
        r#"
        isQuantity('1.3G') && isQuantity('1.3Gi') && isQuantity('10k') && isQuantity('9e2') && !isQuantity('1,3G') && !isQuantity('200K') && !isQuantity('Three')
        quantity('50k').asInteger() == 50000 && quantity('50.703k').asInteger() == 50703
        quantity('50703m').asApproximateFloat() == 50.703 && !quantity('50703m').isInteger()
        quantity('50k').add(quantity('20')) == quantity('50020') && quantity('50k').add(20) == quantity('50020')
        quantity('50k').sub(20000) == quantity('30k') && quantity('50k').sub(quantity('20k')) == quantity('30k')
        quantity('50k').sign() == 1 && quantity('0').sign() == 0 && quantity('-2').sign() == -1
        quantity('200M').compareTo(quantity('0.2G')) == 0 && quantity('50M').compareTo(quantity('50Mi')) == -1 && quantity('50Mi').compareTo(quantity('50M')) == 1
        quantity('150Mi').isGreaterThan(quantity('100Mi')) && !quantity('50M').isGreaterThan(quantity('100M')) && quantity('50M').isLessThan(quantity('100M'))
        quantity(self.memory).isGreaterThan(quantity('1Gi')) && quantity('100Mi') == quantity('102400Ki')
        "#,
    );
    fail(
        "quantity('x') => quantities must match\nquantity('100m').asInteger() => cannot convert\nquantity('1') == 'x' => found no matching overload",
    );
}

#[test]
fn addresses_and_networks() {
    hold(
        r#"
        isIP('127.0.0.1') && isIP('::1') && !isIP('127.0.0.256') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0') && !isIP('127.0.0.01')
        ip.isCanonical('127.0.0.1') && ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD') && !ip.isCanonical('2001:db8::0:0:0:abcd')
        ip('127.0.0.1').family() == 4 && ip('::1').family() == 6 && ip('::1') == ip('0:0:0:0:0:0:0:1')
        ip('0.0.0.0').isUnspecified() && ip('::').isUnspecified() && !ip('127.0.0.1').isUnspecified()
        ip('127.0.0.1').isLoopback() && ip('::1').isLoopback() && !ip('2001:db8::abcd').isLoopback()
        ip('224.0.0.1').isLinkLocalMulticast() && ip('ff02::1').isLinkLocalMulticast() && !ip('224.0.1.1').isLinkLocalMulticast()
        ip('169.254.169.254').isLinkLocalUnicast() && ip('fe80::1').isLinkLocalUnicast() && !ip('192.168.0.1').isLinkLocalUnicast()
        ip('192.168.0.1').isGlobalUnicast() && ip('2001:db8::abcd').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast() && !ip('ff00::1').isGlobalUnicast()
        string(ip('192.168.0.1')) == '192.168.0.1' && string(cidr('10.0.0.0/8')) == '10.0.0.0/8'
        isCIDR('192.168.0.0/16') && isCIDR('::1/128') && !isCIDR('192.168.0.0/33') && !isCIDR('192.168.0.0') && !isCIDR('::1/129') && !isCIDR('10.0.0.0/08')
        cidr('192.168.0.0/24').containsIP(ip('192.168.0.1')) && cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP('192.168.1.1')
        cidr('192.168.0.0/16').containsCIDR(cidr('192.168.10.0/24')) && cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && !cidr('192.168.1.0/24').containsCIDR('192.168.0.0/16')
        cidr('192.168.0.1/24').ip() == ip('192.168.0.1') && cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24') && cidr('10.0.0.0/0').masked() == cidr('0.0.0.0/0')
        cidr('::1/128').prefixLength() == 128 && cidr('::ffff/112').masked() == cidr('::/112') && !cidr('::/0').containsIP('1.2.3.4')
        "#,
    );
    fail(
        "ip('x').family() == 4 => parse error\ncidr('10.0.0.0') == cidr('10.0.0.0/8') => parse error\nip('::ffff:1.2.3.4').family() == 6 => not allowed",
    );
}

#[test]
fn urls() {
    hold(
        r#"
        isURL('https://user:pass@example.com:80/path?query=val#fragment') && isURL('/absolute-path') && !isURL('https://a:b:c/') && !isURL('../relative-path') && !isURL('')
        url('/path').getScheme() == '' && url('https://example.com/').getScheme() == 'https' && url('HTTPS://x').getScheme() == 'https'
        url('https://example.com:80/').getHost() == 'example.com:80' && url('https://example.com/').getHost() == 'example.com' && url('/path').getHost() == ''
        url('https://[::1]:80/').getHost() == '[::1]:80' && url('https://[::1]/').getHost() == '[::1]' && url('https://[::1]:80/').getHostname() == '::1'
        url('https://example.com:80/').getHostname() == 'example.com' && url('https://127.0.0.1:80/').getHostname() == '127.0.0.1' && url('/path').getHostname() == ''
        url('https://example.com:80/').getPort() == '80' && url('https://example.com/').getPort() == '' && url('https://[::1]:8080/').getPort() == '8080'
        url('https://example.com/path').getEscapedPath() == '/path' && url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/' && url('https://example.com').getEscapedPath() == ''
        url('https://example.com/path?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}
        url('https://example.com/path?key with spaces=value with spaces').getQuery() == {'key with spaces': ['value with spaces']}
        url('https://example.com/path?').getQuery() == {} && url('https://example.com/?a=%20b+c').getQuery()['a'] == [' b c']
        url('https://example.com/').getHost().endsWith('.com') && url('mailto:a@b').getScheme() == 'mailto'
        "#,
    );
    fail("url('https://a:b:c/').getPort() == '' => URL parse error\nurl('/a%zz').getScheme() == '' => invalid URL escape");
}

#[test]
fn versions() {
    hold(
        r#"
        isSemver('1.0.0') && isSemver('1.2.3-beta.1+build') && !isSemver('v1.0') && !isSemver('hello') && !isSemver('01.0.0') && !isSemver('200K')
        isSemver('v1.0', true) && isSemver('1', true) && isSemver('01.01.01', true) && !isSemver('v1.0-x', true)
        semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3 && semver('v0.1', true) == semver('0.1.0')
        semver('1.2.3').compareTo(semver('1.2.3')) == 0 && semver('1.2.3').compareTo(semver('2.0.0')) == -1 && semver('1.2.3').compareTo(semver('0.1.2')) == 1
        semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.2.3').isGreaterThan(semver('1.2.3-rc.1')) && semver('1.0.0+a') == semver('1.0.0+b')
        "#,
    );
    fail("semver('x').major() == 1 => is not a semantic version");
}

#[test]
fn formats_and_texts() {
    hold(
        r#"
        !format.dns1123Label().validate('my-label-name').hasValue() && format.dns1123Label().validate('My_label').hasValue()
        format.named('dns1123Label').hasValue() && !format.named('none').hasValue() && !format.named('uuid').value().validate('01234567-89ab-cdef-0123-456789abcdef').hasValue()
        !format.dns1123Subdomain().validate('apiextensions.k8s.io').hasValue() && format.dns1123Subdomain().validate('!').hasValue() && format.dns1035Label().validate('1a').hasValue()
        !format.qualifiedName().validate('example.com/x').hasValue() && !format.labelValue().validate('').hasValue() && !format.dns1123LabelPrefix().validate('my-').hasValue()
        !format.date().validate('2021-01-02').hasValue() && format.date().validate('2021-13-02').hasValue() && !format.datetime().validate('2021-01-01T00:00:00Z').hasValue()
        !format.byte().validate('aGVsbG8=').hasValue() && format.byte().validate('!').hasValue() && !format.uri().validate('https://x.y/z').hasValue() && format.uri().validate('x').hasValue()
        format.dns1123Label().validate('A').value().size() == 1 && !format.dns1123Label().validate('a').orValue(['x']).exists(e, e == 'y')
        '%s is %d of %d%%'.format(['x', 5, 100u]) == 'x is 5 of 100%' && 'no places'.format([]) == 'no places'
        '%s %s %s %s'.format([1.5, true, null, ['a', 1]]) == '1.5 true null [a, 1]' && '%s'.format([{'b': 1, 'a': 2}]) == '{a: 2, b: 1}'
        '%.3f %f %.2e'.format([1.23456789, 2.5, 1234.5]) == '1.235 2.500000 1.23e+03'
        '%b %b %x %X %o %x'.format([5, true, 30, 30, 8, 'hello']) == '101 1 1e 1E 10 68656c6c6f' && '%x'.format([-255]) == '-ff'
        '%s'.format([duration('90s')]) == '90s' && '%s'.format([timestamp('2026-01-02T03:04:05Z')]) == '2026-01-02T03:04:05Z'
        strings.quote('a "b"\n') == '"a \\"b\\"\\n"'
        "#,
    );
    fail(
        "'%d'.format(['x']) => cannot be used on string\n'%s %s'.format(['x']) => index out of range\n'%q'.format([1]) => unrecognized formatting clause\n'%'.format([]) => unexpected end",
    );
}

#[test]
fn lists_and_optional_values() {
    hold(
        r#"
        [1, 2, 2, 1].distinct() == [1, 2] && [[1, [2]], [3]].flatten() == [1, [2], 3] && [1, [2, [3]]].flatten(2) == [1, 2, 3] && [1, 2].reverse() == [2, 1]
        [1, 2, 3, 4].slice(1, 3) == [2, 3] && self.list.sort() == [1, 2, 3] && ['b', 'a'].sort() == ['a', 'b'] && lists.range(3) == [0, 1, 2] && lists.range(-1) == []
        [{'n': 'b', 'o': 2}, {'n': 'a', 'o': 1}].sortBy(e, e.o).map(e, e.n) == ['a', 'b'] && self.list.sortBy(n, -n) == [3, 2, 1]
        [1, 2].includes(2) && !self.list.includes(9) && self.list.first().value() == 3 && self.list.last().orValue(0) == 2 && ![].first().hasValue()
        optional.ofNonZeroValue(0).orValue(7) == 7 && optional.ofNonZeroValue('a').value() == 'a' && !optional.ofNonZeroValue([]).hasValue()
        "#,
    );
    fail(
        "[1, 'a'].sort() == [] => same type\n[1].slice(0, 2) == [] => list is length 1\n[[1]].sort() == [] => comparable\nlists.range(100000000) == [] => more than",
    );
}

#[test]
fn macros_with_two_variables() {
    hold(
        r#"
        [1, 2, 3].all(i, v, i < v) && !{'a': 1}.all(k, v, k == 'a' && v == 2) && [].all(i, v, false)
        [1, 2].exists(i, v, v / i == 2 || i == 1) && self.hosts.exists(k, v, k == 'b' && v == 2) && ![1].exists(i, v, v == i)
        [1, 2, 1].existsOne(i, v, v == 1 && i == 0) && ![1, 2, 1].existsOne(i, v, v == 1)
        [1, 2, 3].transformList(i, v, i * v + v) == [1, 4, 9] && [1, 2, 3].transformList(i, v, i > 0 && v < 3, v) == [2] && {'a': 1}.transformList(k, v, k + string(v)) == ['a1']
        {'a': 1, 'b': 2}.transformMap(k, v, v * 2) == {'a': 2, 'b': 4} && {'a': 1, 'b': 2}.transformMap(k, v, v > 1, v) == {'b': 2} && ['x'].transformMap(i, v, v) == {0: 'x'}
        self.hosts.transformMapEntry(k, v, {string(v): k}) == {'1': 'a', '2': 'b'} && ['a', 'b'].transformMapEntry(i, v, i == 0, {v: i}) == {'a': 0}
        self.list.transformList(i, v, v).sort() == [1, 2, 3]
        "#,
    );
    fail(
        "[1, 2].transformMapEntry(i, v, {'same': v}) == {} => key already exists\n1.all(i, v, true) => cannot be range\n[1].all(i, v, 'x') => found no matching overload\n[1, 2].existsOne(i, v, v / i == 1) => division by zero",
    );
}

#[test]
fn library_functions_are_paid_for() {
    for source in [
        "lists.range(1000).map(a, lists.range(1000).sort()).size() == 0",
        "lists.range(1000).all(a, b, lists.range(1000).all(c, d, lists.range(1000).all(e, f, true)))",
        "lists.range(2000).distinct().distinct().size() == 0 && lists.range(2000).distinct().size() == 1",
        "lists.range(1000).map(a, '%s'.format([lists.range(1000)])).size() == 0",
    ] {
        assert!(matches!(run(source), Err(Error::Cost)), "{source}");
    }
}
