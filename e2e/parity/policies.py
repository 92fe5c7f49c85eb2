"""Expressions of admission policies, right and wrong."""

RULES = [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}]


def policies():
    """Kind, what it is about, spec."""
    variables = [{"name": "a", "expression": "object.spec.replicas"}, {"name": "b", "expression": "1 + 2"}, {"name": "c", "expression": "['x', 'y']"}, {"name": "d", "expression": "{'k': 1}"},
                 {"name": "e", "expression": "variables.b + 1"}, {"name": "f", "expression": "request"}, {"name": "g", "expression": "timestamp('2020-01-01T00:00:00Z')"}, {"name": "h", "expression": "'text'"},
                 {"name": "i", "expression": "optional.of(1)"}, {"name": "j", "expression": "quantity('1Gi')"}, {"name": "k", "expression": "[[1]]"}]
    expressions = ["variables.a > 1", "variables.x == 1", "variables.b > 1", "variables.b == 'x'", "variables.c.size() > 1", "variables.c[0] == 1", "variables.d['k'] == 1", "variables.d.k == 1", "variables.e == 4",
                   "variables.f.name == 'n'", "variables.f.nothing == 'n'", "variables.g > timestamp('2021-01-01T00:00:00Z')", "variables.g == 1", "variables.h.startsWith('t')", "variables.h + 1 == 2", "has(variables.a)",
                   "has(variables.x)", "variables", "variables.i.hasValue()", "variables.j.isGreaterThan(quantity('1'))", "variables.k[0][0] == 1", "variables.k[0] == 'x'", "variables['a'] == 1", "params.x == 1",
                   "namespaceObject.metadata.name == 'x'", "request.nothing == 1", "request.userInfo.username == 'x'", "object.anything.at.all == 1", "authorizer.group('').resource('pods').check('get').allowed()", "true", "1", "'x'", "dyn(1)",
                   "object", "x", "Object{}", "JSONPatch{}"]
    for e in expressions:
        for v in (variables, [], variables[:1]):
            yield "ValidatingAdmissionPolicy", f"{e} with {len(v)}", {"matchConstraints": {"resourceRules": RULES}, "variables": v, "validations": [{"expression": e}]}
        yield "ValidatingAdmissionPolicy", f"message {e}", {"matchConstraints": {"resourceRules": RULES}, "variables": variables, "validations": [{"expression": "true", "messageExpression": e}]}
        yield "ValidatingAdmissionPolicy", f"annotation {e}", {"matchConstraints": {"resourceRules": RULES}, "variables": variables, "auditAnnotations": [{"key": "k", "valueExpression": e}]}
        yield "ValidatingAdmissionPolicy", f"condition {e}", {"matchConstraints": {"resourceRules": RULES}, "variables": variables, "matchConditions": [{"name": "n", "expression": e}], "validations": [{"expression": "true"}]}
        yield "ValidatingAdmissionPolicy", f"condition with params {e}", {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConstraints": {"resourceRules": RULES}, "matchConditions": [{"name": "n", "expression": e}], "validations": [{"expression": "true"}]}
        for patch in ("JSONPatch", "ApplyConfiguration"):
            part = {"JSONPatch": "jsonPatch", "ApplyConfiguration": "applyConfiguration"}[patch]
            yield "MutatingAdmissionPolicy", f"{patch} {e}", {"matchConstraints": {"resourceRules": RULES}, "variables": variables, "reinvocationPolicy": "Never", "mutations": [{"patchType": patch, part: {"expression": e}}]}
    for what in ([{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}], [{"name": "a", "expression": "variables.a"}], [{"name": "a", "expression": "1"}, {"name": "a", "expression": "'x'"}],
                 [{"name": "a-b", "expression": "1"}], [{"name": "", "expression": "1"}], [{"name": "a", "expression": " "}], [{"name": "a", "expression": "x +"}, {"name": "b", "expression": "variables.a == 1"}],
                 [{"name": "if", "expression": "1"}], [{"name": " a", "expression": " 1 "}], [{"name": "a", "expression": "1\n+ 'x'"}]):
        for kind, more in (("ValidatingAdmissionPolicy", {"validations": [{"expression": "variables.a == 1"}]}),
                           ("MutatingAdmissionPolicy", {"reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/x', value: variables.a}]"}}]})):
            yield kind, f"variables {what}", {"matchConstraints": {"resourceRules": RULES}, "variables": what, **more}
