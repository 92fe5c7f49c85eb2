"""Schemas of custom resources, right and wrong, by what they are about."""


def obj(**properties):
    return {"type": "object", "properties": properties}


def ruled(schema, *rules, **more):
    """`schema` as `spec`, with rules."""
    all_rules = [r if isinstance(r, dict) else {"rule": r} for r in rules]
    return obj(spec={**schema, "x-kubernetes-validations": all_rules}, **more)


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
STRINGS = {"type": "array", "items": STRING}
KEYED = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
         "items": {"type": "object", "required": ["name"], "properties": {"name": STRING, "size": INTEGER}}}


def schemas():
    yield from costs()
    yield from texts()
    yield from places()
    yield from structure()
    yield from junctions()
    yield from lists()
    yield from whole()


def costs():
    """What rules cost by estimate."""
    twice = "self.list.all(x, self.list.all(y, x == y))"
    for limit in (None, 1, 10, 100, 1000, 10000, 100000):
        bound = {} if limit is None else {"maxItems": limit}
        for length in (None, 10, 1000):
            item = {**STRING, **({} if length is None else {"maxLength": length})}
            spec = obj(list={"type": "array", "items": item, **bound})
            yield f"twice over {limit} of {length}", ruled(spec, twice)
            yield f"once over {limit} of {length}", ruled(spec, "self.list.all(x, x.startsWith('a'))")
            yield f"joined {limit} of {length}", ruled(spec, "self.list.join(',').size() < 10")
            yield f"sorted {limit} of {length}", ruled(spec, "self.list.isSorted()")
            yield f"map of {limit} of {length}", ruled(obj(map={"type": "object", "additionalProperties": item, **({} if limit is None else {"maxProperties": limit})}), "self.map.all(k, self.map[k].matches('^a+$'))")
    for length in (None, 10, 1000, 100000):
        text = {**STRING, **({} if length is None else {"maxLength": length})}
        for rule in ("self.a.contains(self.b)", "self.a == self.b", "self.a.matches('^a*$')", "self.a + self.b != 'x'", "self.a.size() > 3", "self.a.split(',').all(x, x.size() > 1)",
                     "self.a.replace('a', 'bbbb').size() > 3", "self.a.lowerAscii() == self.b", "self.a.find('[0-9]+') == ''", "quantity(self.a).isLessThan(quantity('5'))",
                     "isURL(self.a) && url(self.a).getHost() == ''", "self.a in ['x', 'y']", "has(self.a) ? self.a == 'a' : self.b == 'b'", "duration('1h') > duration('1m')", "ip(self.a).family() == 4",
                     "format.dns1123Label().validate(self.a).hasValue()", "'%s-%s'.format([self.a, self.b]) == ''", "self.a.charAt(0) == 'a'", "self.a.substring(0, 1) == 'a'", "semver(self.a).major() == 1"):
            yield f"{rule} of {length}", ruled(obj(a=text, b=text), rule)
    inner = {**obj(a=STRING), "x-kubernetes-validations": [{"rule": "self.a.contains('xyz')"}]}
    for limit in (None, 10, 1000, 100000):
        bound = {} if limit is None else {"maxItems": limit}
        yield f"rules in {limit} items", obj(spec=obj(list={"type": "array", "items": inner, **bound}))
        yield f"rules in {limit} items of {limit}", obj(spec=obj(list={"type": "array", **bound, "items": {"type": "array", "items": inner, **bound}}))
        yield f"rules in {limit} values", obj(spec=obj(map={"type": "object", "additionalProperties": inner, **({} if limit is None else {"maxProperties": limit})}))
    yield "all together", obj(spec=obj(list={"type": "array", "maxItems": 3000, "items": {**obj(**{f"f{i}": {**STRING, "maxLength": 3000} for i in range(14)}), "x-kubernetes-validations": [{"rule": f"self.f{i}.matches('a')"} for i in range(14)]}}))
    for text in ("enum", "date", "date-time", "duration", "byte", "uuid"):
        more = {"enum": ["a", "bcd"]} if text == "enum" else {"format": text}
        yield f"strings as {text}", ruled(obj(list={"type": "array", "items": {**STRING, **more}}), "self.list.all(x, self.list.all(y, x == y))")


def texts():
    """Messages, reasons, paths."""
    spec = obj(a=STRING, b=obj(c=INTEGER, **{"d-e": INTEGER}), m={"type": "object", "additionalProperties": STRING}, l=STRINGS)
    good = {"rule": "size(self.a) < 5"}
    for what in ({}, {"message": "m"}, {"message": " "}, {"message": "a\nb"}, {"message": " a\n"}, {"rule": "size(self.a)\n < 5"}, {"rule": "size(self.a)\n < 5", "message": "m"}, {"rule": " "}, {"rule": ""},
                 {"messageExpression": "'a' + self.a"}, {"messageExpression": " "}, {"messageExpression": "1"}, {"messageExpression": "self.x"}, {"messageExpression": "string(self.b.c)"},
                 {"messageExpression": "self.l.join(self.a)"}, {"messageExpression": "self.l.map(x, x + self.a).join('') + self.l.map(x, self.l.join(x)).join('')"},
                 {"reason": "FieldValueInvalid"}, {"reason": "FieldValueRequired"}, {"reason": "FieldValueForbidden"}, {"reason": "FieldValueDuplicate"}, {"reason": "Other"}, {"reason": ""},
                 {"fieldPath": ".a"}, {"fieldPath": ".b.c"}, {"fieldPath": ".b['c']"}, {"fieldPath": ".b['d-e']"}, {"fieldPath": ".b.d-e"}, {"fieldPath": ".m['k']"}, {"fieldPath": ".m.k"}, {"fieldPath": ".x"},
                 {"fieldPath": "a"}, {"fieldPath": ".l[0]"}, {"fieldPath": " "}, {"fieldPath": ".a\n"}, {"fieldPath": "."}, {"fieldPath": ".b."}, {"fieldPath": ".b[c]"}, {"fieldPath": ".."}, {"fieldPath": ".b['c'"},
                 {"rule": "self.a"}, {"rule": "self.nothing == 1"}, {"rule": "true"}, {"rule": "1"}, {"rule": "oldSelf.a == self.a"}, {"rule": "oldSelf.a == self.a", "optionalOldSelf": False},
                 {"rule": "oldSelf.a == self.a", "optionalOldSelf": True}, {"rule": "oldSelf.hasValue()", "optionalOldSelf": True}, {"rule": "oldSelf.orValue(self).a == self.a", "optionalOldSelf": True},
                 {"optionalOldSelf": True}, {"optionalOldSelf": False}):
        yield f"rule {what}", ruled(spec, {**good, **what})


def places():
    """Where rules and the old self may be."""
    old = {"rule": "self == oldSelf"}
    yield "old in an atomic list", obj(spec=obj(l={"type": "array", "maxItems": 5, "items": {**STRING, "maxLength": 5, "x-kubernetes-validations": [old]}}))
    yield "old in a set", obj(spec=obj(l={"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": {**STRING, "maxLength": 5, "x-kubernetes-validations": [old]}}))
    keyed = {**KEYED, "maxItems": 5, "items": {**KEYED["items"], "properties": {"name": {**STRING, "maxLength": 5}, "size": INTEGER}, "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size"}]}}
    yield "old in a keyed list", obj(spec=obj(l=keyed))
    yield "old below two lists", obj(spec=obj(l={"type": "array", "maxItems": 5, "items": obj(k=keyed)}))
    yield "old in an atomic map", obj(spec={**obj(a={**STRING, "maxLength": 5, "x-kubernetes-validations": [old]}), "x-kubernetes-map-type": "atomic"})
    yield "old in a map", obj(spec=obj(m={"type": "object", "maxProperties": 5, "additionalProperties": {**STRING, "maxLength": 5, "x-kubernetes-validations": [old]}}))
    yield "old in alternatives", obj(spec={**obj(a=STRING), "anyOf": [{"properties": {"a": {"x-kubernetes-validations": [old]}}}]})
    yield "at the root", {**obj(spec=obj(a=STRING)), "x-kubernetes-validations": [{"rule": "self.metadata.name == 'a' && self.spec.a == 'b'"}]}
    yield "of the root's labels", {**obj(spec=obj(a=STRING)), "x-kubernetes-validations": [{"rule": "self.metadata.labels.size() > 0"}]}
    yield "in an embedded object", obj(e={"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True, "x-kubernetes-validations": [{"rule": "self.kind == 'Pod'"}]})
    yield "of a number or text", ruled(obj(p={"x-kubernetes-int-or-string": True}), "self.p == 5 || self.p == 'a'")
    yield "of free fields", ruled({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "self.a == 1")
    yield "of escaped names", ruled(obj(**{"a-b": STRING, "if": INTEGER, "x/y": INTEGER}), "self.a__dash__b == '' && self.__if__ > 1 && self.x__slash__y > 0")


def structure():
    """Types, embedded objects, metadata."""
    for what in ({}, {"type": "string"}, {"type": "null"}, {"type": "other"}, {"type": "object", "nullable": True}, {"type": "object", "additionalProperties": STRING}, {"type": "object", "additionalProperties": False},
                 {"type": "object", "additionalProperties": True}, {"type": "object", "title": "t", "description": "d"}, {"type": "object", "format": "x"}):
        yield f"root {what}", what or {"description": "d"}
    for what in ({}, {"type": "null"}, {"type": "other"}, {"type": "array"}, {"type": "array", "items": {}}, {"type": "array", "items": [STRING]}, {"type": "string", "pattern": "["}, {"type": "string", "uniqueItems": True},
                 {"x-kubernetes-int-or-string": True}, {"x-kubernetes-int-or-string": True, "type": "string"}, {"x-kubernetes-int-or-string": True, "x-kubernetes-preserve-unknown-fields": True},
                 {"x-kubernetes-int-or-string": True, "x-kubernetes-embedded-resource": True}, {"x-kubernetes-int-or-string": True, "anyOf": [INTEGER, STRING]},
                 {"x-kubernetes-int-or-string": True, "anyOf": [STRING, INTEGER]}, {"x-kubernetes-int-or-string": True, "allOf": [{"anyOf": [INTEGER, STRING]}, {"minimum": 1}]},
                 {"x-kubernetes-int-or-string": True, "allOf": [{"anyOf": [STRING, INTEGER]}]}, {"x-kubernetes-preserve-unknown-fields": True}, {"type": "object", "x-kubernetes-preserve-unknown-fields": False},
                 {"x-kubernetes-embedded-resource": True}, {"type": "object", "x-kubernetes-embedded-resource": True}, {"type": "string", "x-kubernetes-embedded-resource": True},
                 {"type": "object", "x-kubernetes-embedded-resource": True, "additionalProperties": STRING}, {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
                 {**obj(kind=INTEGER, apiVersion=STRING), "x-kubernetes-embedded-resource": True}, {**obj(metadata=STRING), "x-kubernetes-embedded-resource": True},
                 {**obj(a=STRING), "additionalProperties": STRING}, {**obj(a=STRING), "additionalProperties": True}, {**obj(a=STRING), "additionalProperties": False},
                 {"type": "object", "additionalItems": STRING}, {"type": "object", "patternProperties": {"a": STRING}}, {"type": "object", "definitions": {"a": STRING}}, {"type": "object", "dependencies": {"a": ["b"]}},
                 {"type": "object", "id": "x"}, {"type": "object", "$ref": "#/x"}, {"type": "object", "default": {"a": 1}}, {**obj(a=STRING), "default": {"a": 1}}, {**obj(a=STRING), "default": {"a": "b"}},
                 {**STRING, "default": "abc", "maxLength": 2}, {**STRING, "enum": ["a"], "default": "b"}, {"type": "object", "additionalProperties": {**STRING, "default": "x"}},
                 {**obj(a=STRING), "default": {"a": "b"}, "x-kubernetes-validations": [{"rule": "self.a == 'c'"}]}):
        yield f"field {what}", obj(f=what)
    for what in ({"type": "object"}, STRING, obj(name=STRING), obj(name={"type": "string", "pattern": "^a"}, generateName=STRING), obj(labels={"type": "object", "additionalProperties": STRING}),
                 {"type": "object", "description": "d"}, {"type": "object", "required": ["name"]}, {"type": "object", "default": {}}, {"type": "object", "nullable": True}):
        yield f"metadata {what}", obj(metadata=what, spec={"type": "object"})
    yield "kind and version", obj(kind=INTEGER, apiVersion={"type": "object"})
    yield "a default of kind", obj(kind={**STRING, "default": "x"})


def junctions():
    """allOf, anyOf, oneOf, not."""
    base = obj(a=STRING, b=INTEGER, l=STRINGS, m={"type": "object", "additionalProperties": STRING}, o=obj(c=STRING))
    inner = ({"required": ["a"]}, {"properties": {"a": {"pattern": "^x"}}}, {"properties": {"a": {"pattern": "["}}}, {"properties": {"z": {"minLength": 1}}}, {"properties": {"a": STRING}}, {"type": "object"},
             {"description": "d"}, {"title": "t"}, {"default": {}}, {"nullable": True}, {"properties": {"a": {"default": "x"}}}, {"additionalProperties": {"minLength": 1}}, {"additionalProperties": False},
             {"properties": {"m": {"additionalProperties": {"minLength": 1}}}}, {"properties": {"m": {"properties": {"k": {"minLength": 1}}}}}, {"properties": {"l": {"items": {"minLength": 1}}}},
             {"properties": {"a": {"items": {"minLength": 1}}}}, {"items": {"minLength": 1}}, {"properties": {"o": {"properties": {"c": {"enum": ["x"]}, "d": {"minLength": 1}}}}},
             {"properties": {"metadata": {"required": ["name"]}}}, {"x-kubernetes-preserve-unknown-fields": True}, {"x-kubernetes-int-or-string": True}, {"x-kubernetes-embedded-resource": True},
             {"x-kubernetes-list-type": "set"}, {"x-kubernetes-list-map-keys": ["a"]}, {"x-kubernetes-map-type": "atomic"}, {"x-kubernetes-validations": [{"rule": "true"}]},
             {"allOf": [{"properties": {"z": {"type": "string"}}}]}, {"not": {"properties": {"z": {"minLength": 1}}}}, {"anyOf": [{"oneOf": [{"required": ["q"]}]}]}, {"uniqueItems": True}, {"minProperties": 1})
    for what in inner:
        for word in ("allOf", "anyOf", "oneOf", "not"):
            joined = {word: what if word == "not" else [what]}
            yield f"{word} {what}", {**base, **joined}
            yield f"spec's {word} {what}", obj(spec={**base, **joined})


def lists():
    """Lists and maps by how they merge."""
    for kind in (None, "atomic", "set", "map", "other"):
        for keys in (None, [], ["name"], ["other"], ["name", "name"], ["name", "size"], ["tags"]):
            for items in (STRING, {"type": "object", "properties": {"name": STRING, "size": {**INTEGER, "default": 1}, "tags": STRINGS}},
                          {"type": "object", "required": ["name", "size", "tags"], "x-kubernetes-map-type": "atomic", "properties": {"name": {**STRING, "nullable": True}, "size": INTEGER, "tags": STRINGS}},
                          {**STRINGS, "x-kubernetes-list-type": "set"}, {**STRING, "nullable": True}):
                what = {"type": "array", "items": items, **({} if kind is None else {"x-kubernetes-list-type": kind}), **({} if keys is None else {"x-kubernetes-list-map-keys": keys})}
                yield f"list {kind} {keys} {items}", obj(l=what)
    for kind in ("atomic", "granular", "other"):
        for what in ({"type": "object", "additionalProperties": STRING}, obj(a=STRING), STRING, {"x-kubernetes-preserve-unknown-fields": True}):
            yield f"map {kind} {what}", obj(m={**what, "x-kubernetes-map-type": kind})
    yield "a list without items", obj(l={"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]})
    yield "a list of a text", obj(l={"type": "string", "x-kubernetes-list-type": "set"})
    yield "a list of nothing", obj(l={"x-kubernetes-list-type": "set", "x-kubernetes-preserve-unknown-fields": True})


def whole():
    """Definitions beyond schemas."""
    def version(**more):
        return {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": obj(spec=obj(a=STRING, b=INTEGER, c={"type": "number"}, o=obj(d=STRING), **{f"f{i}": STRING for i in range(9)}))}, **more}
    for conversion in ({"strategy": "None"}, {"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}, {"strategy": "Webhook"}, {"strategy": "Other"}, {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}},
                       *({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": c}} for c in (
                           {}, {"url": "https://a.b/c"}, {"url": "http://a.b"}, {"url": "a"}, {"url": "https://a.b?x=y"}, {"service": {"name": "a", "namespace": "b"}}, {"service": {"name": "", "namespace": "b"}},
                           {"service": {"name": "a", "namespace": ""}}, {"service": {"name": "a", "namespace": "b", "port": 0}}, {"service": {"name": "a", "namespace": "b", "path": "x"}},
                           {"url": "https://a.b", "service": {"name": "a", "namespace": "b"}}, {"url": "https://a.b", "caBundle": "YQ=="})),
                       *({"strategy": "Webhook", "webhook": {"conversionReviewVersions": v, "clientConfig": {"url": "https://a.b"}}} for v in ([], ["v2"], ["v1", "v1"], ["v1", "V"], ["v1beta1"]))):
        yield f"conversion {conversion}", {"versions": [version()], "conversion": conversion}
    for fields in ([".spec.a"], [".spec.b", ".spec.o.d"], [".spec.c"], [".spec.o"], [".spec.x"], ["spec.a"], [""], [".spec.a", ".spec.a"], [".metadata.name"], [".spec['a']"], ["."], [".spec."], [f".spec.f{i}" for i in range(9)]):
        yield f"selectable {fields}", {"versions": [version(selectableFields=[{"jsonPath": f} for f in fields])]}
    status = {"subresources": {"status": {}}}
    for what in ({"additionalProperties": STRING}, {"anyOf": [{"required": ["spec"]}]}, {"x-kubernetes-preserve-unknown-fields": True}, {"required": ["spec"]}, {"x-kubernetes-map-type": "granular"}, {"maxProperties": 5}):
        yield f"status beside {what}", {"versions": [version(**status, schema={"openAPIV3Schema": {**obj(spec=obj(a=STRING)), **what}})]}
    for text in ("", "x" * 257, "a\u0007", "fine"):
        for deprecated in (True, False):
            yield f"warning {text[:3]!r} {deprecated}", {"versions": [version(deprecated=deprecated, deprecationWarning=text)]}
    for group in ("a.k8s.io", "k8s.io", "x.kubernetes.io"):
        yield f"group {group}", {"versions": [version()], "group": group}
