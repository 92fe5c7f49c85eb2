use serde_json::json;

use super::*;

fn input() -> serde_json::Value {
    json!({"s": "text", "n": 3, "f": 1.5, "l": [3, 1, 2], "m": {"a": 1, "b-c": "x"}, "labels": {"env": "prod"},
        "nested": {"list": [{"name": "x", "v": 1}, {"name": "y"}]}})
}

/// The result as JSON, or what went wrong.
fn eval(source: &str) -> String {
    let input = input();
    let env = Env::default().with("self", Decl::ANY);
    let p = match Program::compile(source, &env) {
        Ok(p) => p,
        Err(e) => return e.to_string(),
    };
    let vars = Bindings(vec![("self", Value::any(&input))]);
    match p.eval(&vars, None, cost::PER_CALL_LIMIT).0 {
        Ok(v) => v.to_json().map_or_else(|e| e.to_string(), |j| j.to_string()),
        Err(e) => format!("error: {e}"),
    }
}

#[test]
fn language() {
    for (source, want) in [
        ("1 + 2 * 3 == 7", "true"),
        ("-self.n - -1", "-2"),
        ("self.l.all(x, x > 0) && self.l.exists(x, x == 2)", "true"),
        ("self.l.exists_one(x, x == 2)", "true"),
        ("self.l.map(x, x * 2)", "[6,2,4]"),
        ("self.l.map(x, x > 1, x * 2)", "[6,4]"),
        ("self.l.filter(x, x > 1)", "[3,2]"),
        ("self.m.all(k, k != 'z')", "true"),
        ("has(self.s) && !has(self.zzz)", "true"),
        ("self.zzz == 1 || true", "true"),
        ("true || self.zzz == 1", "true"),
        ("self.zzz == 1", "error: no such key: zzz"),
        ("self.l[5] == 1", "error: index out of bounds: 5"),
        ("1 / 0 == 1", "error: division by zero"),
        ("self.m['b-c'] == 'x'", "true"),
        ("'a' in self.m && !('q' in self.m) && 3 in self.l", "true"),
        ("self.n == 3.0 && self.n < 3.5 && 1u < self.n", "true"),
        ("self.n > 2 ? 'big' : 'small'", "\"big\""),
        ("r'\\d' + '\\x41\\u00e9\\n'", "\"\\\\dAé\\n\""),
        ("'''a'b''' + \"\"\"c\"d\"\"\"", "\"a'bc\\\"d\""),
        ("type(self.n) == int && type('x') == string && type([1]) == list", "true"),
        ("{'a': 1, 'b': 2}.size() == 2 && size([1, 2]) == 2", "true"),
        ("duration('1h30m').getMinutes()", "90"),
        ("timestamp('2024-02-29T12:30:00Z').getDayOfYear()", "59"),
        ("timestamp('2024-02-29T12:30:00Z') + duration('24h')", "\"2024-03-01T12:30:00Z\""),
        ("timestamp('2024-07-01T00:00:00Z').getHours('America/New_York')", "20"),
        ("string(1.0) + string(true) + string(b'abc') + string(duration('1.5s'))", "\"1trueabc1.5s\""),
        ("int('42') + int(3.9) + int(2u)", "47"),
        ("9223372036854775807 + 1 == 0", "error: integer overflow"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("cel.bind(x, self.n, x * x)", "9"),
        ("optional.of(1).orValue(2) + optional.none().orValue(2)", "3"),
        ("self.?zzz.orValue('d') + self.?s.orValue('d')", "\"dtext\""),
        ("self.?zzz.?yyy.hasValue()", "false"),
        ("self.l[?7].orValue(8)", "8"),
        ("optional.of(3).optMap(x, x + 1).value()", "4"),
        ("[?self.?zzz, ?self.?s]", "[\"text\"]"),
        ("self.l.all(i, x, i < 3)", "true"),
        ("self.m.transformMap(k, v, k)", "{\"a\":\"a\",\"b-c\":\"b-c\"}"),
        ("self.l.transformList(i, x, x > 1, i)", "[0,2]"),
        ("self.l.transformMapEntry(i, x, {string(x): i})", "{\"1\":1,\"2\":2,\"3\":0}"),
        ("[1, 2].exists(x, x / 0 == 1 || x == 2)", "true"),
    ] {
        assert_eq!(eval(source), want, "{source}");
    }
}

#[test]
fn libraries() {
    for (source, want) in [
        ("'a,b,c'.split(',') == ['a', 'b', 'c'] && ['a', 'b'].join('-') == 'a-b'", "true"),
        ("'hello'.substring(1, 3) + 'Hello'.lowerAscii() + ' x '.trim()", "\"elhellox\""),
        ("'hello'.indexOf('l') + 'hello'.lastIndexOf('l')", "5"),
        ("'hello'.replace('l', 'L', 1)", "\"heLlo\""),
        ("'%s has %d, %.2f, %x'.format([dyn('a'), dyn(3), dyn(1.5), dyn(255)])", "\"a has 3, 1.50, ff\""),
        ("'abc123'.find('[0-9]+') + 'a1b2'.findAll('[0-9]')[1]", "\"1232\""),
        ("'abc'.matches('^a.c$')", "true"),
        ("self.l.sum() == 6 && self.l.min() == 1 && self.l.max() == 3 && !self.l.isSorted()", "true"),
        ("self.l.sort() == [1, 2, 3] && self.l.reverse()[0] == 2 && [1, 1, 2].distinct() == [1, 2]", "true"),
        ("self.nested.list.sortBy(e, e.name)[0].name", "\"x\""),
        ("[[1], [2, 3]].flatten() == [1, 2, 3] && lists.range(3) == [0, 1, 2] && [1, 2, 3].slice(1, 2) == [2]", "true"),
        ("sets.contains([1, 2], [1]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])", "true"),
        ("url('https://u.example.com:8080/p a?x=1&x=2').getQuery()['x']", "[\"1\",\"2\"]"),
        ("url('https://example.com:8080/p').getHostname() + url('https://example.com:8080/p').getPort()", "\"example.com8080\""),
        ("isURL('/a/b') && !isURL('a/b')", "true"),
        ("ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && isIP('1.2.3.4') && !isIP('1.2.3')", "true"),
        ("cidr('192.168.0.0/24').containsIP('192.168.0.7') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')", "true"),
        ("cidr('192.168.1.7/24').masked() == cidr('192.168.1.0/24') && cidr('10.0.0.0/8').prefixLength() == 8", "true"),
        ("quantity('1Gi').isGreaterThan(quantity('500M')) && quantity('1').add(quantity('500m')).asApproximateFloat() == 1.5", "true"),
        ("quantity('50k') == quantity('50000') && isQuantity('1Gi') && !isQuantity('Three')", "true"),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2 && !isSemver('v1')", "true"),
        ("semver('1.0.0-alpha').compareTo(semver('1.0.0'))", "-1"),
        ("format.dns1123Label().validate('my-name') == optional.none()", "true"),
        ("!format.named('uuid').value().validate('x').value().isSorted() || true", "true"),
        ("format.dns1123Label().validate('A').hasValue()", "true"),
        ("jsonpatch.escapeKey('a/b~c')", "\"a~1b~0c\""),
        ("string(b'\\xc3\\xa9') + strings.quote('a\"b')", "\"é\\\"a\\\\\\\"b\\\"\""),
    ] {
        assert_eq!(eval(source), want, "{source}");
    }
}

#[test]
fn wrong_expressions_are_told_in_the_words_of_cel_go() {
    let schema = json!({"type": "object", "properties": {"replicas": {"type": "integer"}, "name": {"type": "string"}, "at": {"type": "string", "format": "date-time"}}});
    let decl = schema::structural(&schema, "object", true).unwrap();
    let env = Env::default().with("self", decl);
    let say = |s: &str| Program::compile(s, &env).map(|p| p.result.to_string()).unwrap_or_else(|e| e.to_string());
    assert_eq!(say("bogus > 1"), "ERROR: <input>:1:1: undeclared reference to 'bogus' (in container '')\n | bogus > 1\n | ^");
    assert_eq!(say("self.wrong"), "ERROR: <input>:1:5: undefined field 'wrong'\n | self.wrong\n | ....^");
    assert_eq!(say("self.replicas == 'x'"), "ERROR: <input>:1:15: found no matching overload for '_==_' applied to '(int, string)'\n | self.replicas == 'x'\n | ..............^");
    assert_eq!(say("self.name.foo()"), "ERROR: <input>:1:14: undeclared reference to 'foo' (in container '')\n | self.name.foo()\n | .............^");
    assert_eq!(say("self.name.size('x')"), "ERROR: <input>:1:15: found no matching overload for 'size' applied to 'string.(string)'\n | self.name.size('x')\n | ..............^");
    assert_eq!(say("[1, 'a']"), "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^");
    assert!(say("self.").starts_with("ERROR: <input>:1:6: Syntax error: mismatched input '<EOF>' expecting"));
    assert_eq!(say("self.at < timestamp('2024-01-01T00:00:00Z')"), "bool");
    assert_eq!(say("self.replicas"), "int");
    assert_eq!(say("duration('x') == duration('1s')"), "ERROR: <input>:1:10: invalid duration argument\n | duration('x') == duration('1s')\n | .........^");
}

#[test]
fn schemas_give_types_and_sizes() {
    let schema = json!({"type": "object", "properties": {
        "list": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "few": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}},
        "namespace": {"type": "string"}, "a-b": {"type": "number"}, "port": {"x-kubernetes-int-or-string": true},
        "bytes": {"type": "string", "format": "byte"}, "for": {"type": "string", "format": "duration"}}});
    let decl = schema::structural(&schema, "object", false).unwrap();
    let env = Env::default().with("self", decl.clone());
    let value = json!({"list": ["a", "b"], "few": ["x"], "namespace": "n", "a-b": 1, "port": "80", "bytes": "aGk=", "for": "90s"});
    for (s, want) in [
        ("self.list == ['b', 'a']", true),
        ("self.list + ['b', 'c'] == ['a', 'b', 'c']", true),
        ("self.__namespace__ == 'n' && self.a__dash__b == 1.0", true),
        ("type(self.port) == string && self.port == '80'", true),
        ("self.bytes == b'hi' && self.__for__ > duration('1m')", true),
    ] {
        let p = Program::compile(s, &env).unwrap();
        let vars = Bindings(vec![("self", Value::json(&value, &decl))]);
        assert_eq!(p.eval(&vars, None, 1000).0.unwrap().as_bool(), Some(want), "{s}");
    }
    let cost = |s: &str| Program::compile(s, &env).unwrap().estimate(&env).max;
    assert!(cost("self.few.all(x, x.startsWith('a'))") < 200);
    assert!(cost("self.list.all(x, self.list.all(y, x == y))") > estimate::EXPRESSION_LIMIT);
}

#[test]
fn what_runs_too_long_is_stopped() {
    let env = Env::default();
    let p = Program::compile("lists.range(1000).all(a, lists.range(1000).all(b, a + b >= 0))", &env).unwrap();
    let (r, cost) = p.eval(&Bindings::default(), None, 10_000);
    assert_eq!(r.unwrap_err(), EvalError::CostExceeded);
    assert!(cost < 20_000);
}

#[test]
fn deep_and_odd_expressions_end() {
    let env = Env::default();
    for s in ["(".repeat(5000), "!".repeat(5000), "[".repeat(5000), "-".repeat(90_000), format!("1{}", "+1".repeat(5000)), format!("a{}", ".b".repeat(5000)), format!("true{}", "?true:true".repeat(5000)), "x".repeat(200_000)] {
        assert!(Program::compile(&s, &env).is_err());
    }
    let chain = format!("true{}", " && true".repeat(5000));
    assert_eq!(Program::compile(&chain, &env).unwrap().eval(&Bindings::default(), None, 1_000_000).0.unwrap().as_bool(), Some(true));
    // A generator of odd texts from the language's own words.
    let words = ["self", ".", "(", ")", "[", "]", "{", "}", "all", "x", ",", "1", "'s'", "?", ":", "&&", "==", "has", "map", "\"", "\\", "b'", "0x", "1e", "-", "!", "in", "é", "//", "optMap", "Object", "cel", "bind"];
    let mut seed: u64 = 42;
    let env = Env::default().with("self", Decl::ANY);
    let data = input();
    for _ in 0..20_000 {
        let mut s = String::new();
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            s.push_str(words[(seed >> 33) as usize % words.len()]);
        }
        match Program::compile(&s, &env) {
            Ok(p) => {
                let vars = Bindings(vec![("self", Value::any(&data))]);
                let _ = p.eval(&vars, None, 10_000);
                let _ = p.estimate(&env);
            }
            Err(e) => {
                let _ = e.to_string();
            }
        }
    }
}

#[test]
fn names_are_escaped_both_ways() {
    for n in ["plain", "a.b", "a-b", "a/b", "a__b", "namespace", "in"] {
        assert_eq!(unescape(&escape(n)), n);
    }
}
