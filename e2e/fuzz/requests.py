#!/usr/bin/env python3
"""Hostile requests to `knarr apiserver`: none may panic it, end it, or take more memory than it should.

    e2e/fuzz/requests.py --knarr PROGRAM [--seconds N] [--seed N]

First the bombs, each once: nesting, aliases, doubling copies, long selectors, deep expressions. Then requests that are good ones with
something changed: a bit, a slice, a number, a word of another request, in the body, the query, the path or the headers. A request that
gets no answer, or an internal error, is a finding; so is a server that has ended, or has grown by more than 200 MB.
"""

import argparse
import base64
import http.client
import json
import os
import pathlib
import random
import ssl
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "storage"))
from server import TOKEN, Server  # noqa: E402

JSON, YAML, PROTO = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
MERGE, JSON_PATCH, STRATEGIC = "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
NS = "/api/v1/namespaces/default"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
GROWTH = 200


def pod(name="p"):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"a": "b"}, "annotations": {"n": "v"}},
            "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "1"}], "ports": [{"containerPort": 80}],
                                     "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}}}], "tolerations": [{"key": "k", "operator": "Exists"}]}}


def crd(rule="self.x > 1", name="things", more=None):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": {"type": "integer"}, "s": {"type": "string", "maxLength": 10}},
                                                        "x-kubernetes-validations": [{"rule": rule}]}, **(more or {})}}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{name}.fuzz.example.com"},
            "spec": {"group": "fuzz.example.com", "scope": "Namespaced", "names": {"plural": name, "kind": name.capitalize()},
                     "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}}


def policy(expression):
    return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "fuzz"},
            "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
                     "validations": [{"expression": expression}]}}


def nested(depth, inner="1"):
    return ('{"a":' * depth + inner + "}" * depth).encode()


def in_proto(raw, kind="ConfigMap"):
    """A message in the envelope."""
    def field(n, data):
        size, out = len(data), bytearray()
        while size > 127:
            out.append(size & 127 | 128)
            size >>= 7
        return bytes([n << 3 | 2]) + bytes(out) + bytes([size]) + data
    return b"k8s\0" + field(1, field(1, b"v1") + field(2, kind.encode())) + field(2, raw)


def deep_proto(depth, number=2):
    out = b""
    for _ in range(depth):
        size, head = len(out), bytearray([number << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        out = bytes(head) + bytes([size]) + out
        if len(out) > 2_000_000:
            break
    return out


def bombs():
    """Name, method, path, body, content type."""
    def body(o):
        return json.dumps(o).encode()
    deep_map = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","annotations":' + nested(100_000) + b"}}"
    yield "deep JSON", "POST", f"{NS}/configmaps", deep_map, JSON
    yield "deep list", "POST", f"{NS}/configmaps", b"[" * 1_000_000, JSON
    yield "deep YAML flow", "POST", f"{NS}/configmaps", b"[" * 500_000, YAML
    yield "deep YAML", "POST", f"{NS}/configmaps", b"".join(b" " * min(n, 1500) + b"a:\n" for n in range(1500)), YAML
    yield "deep YAML list", "POST", f"{NS}/configmaps", b"- " * 500_000, YAML
    aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    yield "aliases", "POST", f"{NS}/configmaps", aliases.encode(), YAML
    yield "aliases applied", "PATCH", f"{NS}/configmaps/x?fieldManager=f", aliases.encode(), APPLY
    for kind in (MERGE, STRATEGIC, APPLY, JSON_PATCH):
        yield f"deep {kind}", "PATCH", f"{NS}/configmaps/seed?fieldManager=f", nested(100_000), kind
    yield "many operations", "PATCH", f"{NS}/configmaps/seed", body([{"op": "test", "path": "/kind", "value": "ConfigMap"}] * 10_001), JSON_PATCH
    doubling = [{"op": "add", "path": "/metadata/annotations", "value": {"a": "x" * 1000}}]
    doubling += [{"op": "copy", "from": "/metadata/annotations", "path": f"/metadata/annotations/b{n}"} for n in range(40)]
    yield "doubling copies", "PATCH", f"{NS}/configmaps/seed", body(doubling), JSON_PATCH
    ladder = [{"op": "add", "path": "/metadata/annotations" + "/a" * n, "value": {}} for n in range(1500)]
    yield "deep additions", "PATCH", f"{NS}/configmaps/seed", body(ladder), JSON_PATCH
    yield "deep pointer", "PATCH", f"{NS}/configmaps/seed", body([{"op": "add", "path": "/a" * 500_000, "value": 1}]), JSON_PATCH
    yield "too large", "POST", f"{NS}/configmaps", body({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "x" * 4_000_000}}), JSON
    yield "protobuf without end", "POST", f"{NS}/configmaps", b"k8s\0" + b"\xff" * 100_000, PROTO
    yield "protobuf of a wrong length", "POST", f"{NS}/configmaps", b"k8s\0\x12\xff\xff\xff\xff\x7f", PROTO
    yield "deep protobuf", "POST", CRDS, in_proto(deep_proto(100_000), "CustomResourceDefinition"), PROTO
    schema = {"type": "object"}
    for _ in range(2000):
        schema = {"type": "object", "properties": {"a": schema}}
    text = json.dumps(crd()).replace('"properties": {"spec"', '"properties": {"deep": DEEP, "spec"')
    deep_schema = '{"type":"object","properties":{"a":' * 20_000 + '{"type":"object"}' + "}}" * 20_000
    yield "deep schema", "POST", CRDS, text.replace("DEEP", deep_schema).encode(), JSON
    not_so_deep = '{"type":"object","properties":{"a":' * 60 + '{"type":"object"}' + "}}" * 60
    yield "nested schema", "POST", CRDS, text.replace("DEEP", not_so_deep).encode(), JSON
    expressions = {
        "parentheses": "(" * 100_000 + "1" + ")" * 100_000, "lists": "[" * 100_000, "nots": "!" * 200_000 + "true", "minuses": "-" * 200_000 + "1",
        "members": "self" + ".a" * 100_000, "indexes": "self" + "[0]" * 100_000, "sums": "1" + "+1" * 200_000, "ors": "true" + "||true" * 100_000,
        "ternaries": "true?1:" * 50_000 + "1", "calls": "size(" * 50_000, "maps": "{1:" * 50_000, "macros": "[1].all(x," * 5_000, "text": "'" + "x" * 1_000_000,
        "loops": "[1,2,3,4,5,6,7,8,9].all(a," * 12 + "true" + ")" * 12, "regex": "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!'.matches('(a*)*(a*)*(a*)*b')",
        "big regex": "'a'.matches('a{1000}{1000}{1000}')", "quotes": "r'''" * 10_000,
    }
    for what, text in expressions.items():
        yield f"CEL {what} in a definition", "POST", CRDS, body(crd(text)), JSON
        yield f"CEL {what} in a policy", "POST", POLICIES, body(policy(text)), JSON
    for what, text in {"many": ",".join(["a=b"] * 3000), "open": "a in (" * 1000, "values": "a in (" + ",".join(["b"] * 8000) + ")", "nots": "!" * 8000}.items():
        yield f"selector {what}", "GET", f"{NS}/pods?labelSelector={quote(text)}", None, JSON
        yield f"fields {what}", "GET", f"{NS}/pods?fieldSelector={quote(text)}", None, JSON
    for what, text in {"garbage": "x" * 10_000, "json": base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":99999999999999999999,"start":"../../x\\u0000"}').decode(),
                       "deep": base64.urlsafe_b64encode(b"[" * 5000).decode(), "null": base64.urlsafe_b64encode(b"null").decode()}.items():
        yield f"continue {what}", "GET", f"{NS}/pods?limit=1&continue={quote(text)}", None, JSON
    managed = [{"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": "DEEP"}]
    owned = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "managedFields": managed}})
    yield "deep owners", "POST", f"{NS}/configmaps", owned.replace('"DEEP"', '{"f:a":' * 50_000 + "{}" + "}" * 50_000).encode(), JSON
    yield "odd owners", "POST", f"{NS}/configmaps", owned.replace('"DEEP"', '{"k:{\\"a\\":":{},"v:[[[":{},"i:x":{},".":1}').encode(), JSON
    yield "numbers", "POST", f"{NS}/pods", json.dumps(pod("n")).replace("80", "1e999").encode(), JSON
    yield "quantities", "POST", f"{NS}/pods", json.dumps(pod("q")).replace("100m", "9" * 100_000).encode(), JSON
    yield "exponents", "POST", f"{NS}/pods", json.dumps(pod("e")).replace("100m", "1e2147483647").encode(), JSON


def quote(text):
    import urllib.parse
    return urllib.parse.quote(text)


def corpus():
    """Good requests to begin with: method, path, body, content type."""
    o = json.dumps
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
                  "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}}}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "http"}]}}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "v"}}
    yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n  labels: {a: &x b, c: *x}\ndata:\n  k: |\n    text\n  n: '1'\n"
    yield "POST", f"{NS}/pods?dryRun=All&fieldValidation=Strict", o(pod()).encode(), JSON
    yield "POST", "/apis/apps/v1/namespaces/default/deployments?dryRun=All", o(deployment).encode(), JSON
    yield "POST", f"{NS}/services?dryRun=All", o(service).encode(), JSON
    yield "POST", f"{NS}/configmaps?dryRun=All", yaml, YAML
    yield "POST", f"{NS}/configmaps?dryRun=All", in_proto(b"\x0a\x03\x0a\x01p\x12\x06\x0a\x01k\x12\x01v"), PROTO
    yield "PUT", f"{NS}/configmaps/seed?dryRun=All", o({**config, "metadata": {"name": "seed"}}).encode(), JSON
    yield "PATCH", f"{NS}/configmaps/seed?dryRun=All", b'{"data":{"k":null,"m":"n"},"metadata":{"labels":{"x":"y"}}}', MERGE
    yield "PATCH", f"{NS}/configmaps/seed?dryRun=All", b'[{"op":"add","path":"/data/m","value":"n"},{"op":"copy","from":"/data","path":"/binaryData"},{"op":"test","path":"/kind","value":"ConfigMap"},{"op":"move","from":"/data/k","path":"/data/z~1a"},{"op":"remove","path":"/data/z~1a"}]', JSON_PATCH
    yield "PATCH", f"{NS}/pods/seed?dryRun=All", b'{"spec":{"containers":[{"name":"c","image":"j"},{"$patch":"delete","name":"d"}],"$setElementOrder/containers":[{"name":"c"}],"tolerations":[{"$patch":"replace"}]}}', STRATEGIC
    yield "PATCH", f"{NS}/configmaps/seed?fieldManager=f&force=true&dryRun=All", yaml.replace(b"name: y", b"name: seed"), APPLY
    yield "PATCH", f"{NS}/pods/seed?fieldManager=f&force=true&dryRun=All", o({**pod("seed")}).encode(), APPLY
    yield "POST", f"{CRDS}?dryRun=All", o(crd("self.s.matches('^a+$') && (has(self.x) ? self.x < 5 : [1,2].exists(i, i == self.x))")).encode(), JSON
    yield "POST", f"{POLICIES}?dryRun=All", o(policy("object.data.all(k, k.startsWith('a') || size(object.data[k]) < 10) && request.operation != 'X'")).encode(), JSON
    yield "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", o({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "u", "groups": ["g"], "resourceAttributes": {"verb": "get", "resource": "pods", "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]}}}}).encode(), JSON
    yield "POST", "/apis/authentication.k8s.io/v1/tokenreviews", o({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "a.b.c"}}).encode(), JSON
    yield "GET", f"{NS}/pods?labelSelector=a%20in%20(b,c),!d,e!%3Df&fieldSelector=metadata.name%3Dseed,status.phase!%3DRunning&limit=1", None, JSON
    yield "GET", f"{NS}/pods?limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhXHUwMDAwIn0", None, JSON
    yield "GET", f"{NS}/pods/seed/log?container=c&tailLines=5&sinceSeconds=3", None, JSON
    yield "GET", "/apis/apps/v1/deployments?resourceVersion=1&resourceVersionMatch=Exact", None, JSON
    yield "DELETE", f"{NS}/configmaps/nope?propagationPolicy=Foreground", b'{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":5,"preconditions":{"uid":"x","resourceVersion":"1"}}', JSON
    yield "GET", "/openapi/v3/apis/apps/v1?hash=ABC", None, JSON
    yield "GET", "/readyz?verbose&exclude=log", None, JSON
    yield "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles?dryRun=All", o({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}], "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}).encode(), JSON


ODD = [b"null", b"{}", b"[]", b"-1", b"1e308", b"9223372036854775808", b"\"\"", b"\0", b"\xff\xfe", b"\\u0000", b"\\ud800", b"%00", b"..", b"//", b"*", b"$patch", b"true", b"&a *a", b"!!binary x",
       b"<<: *x", b"0x1F", b"1_000", b"2001-01-01", b"\xf0\x9f\x98\x80", b"~1", b"'", b"\"", b"}", b"]", b"{", b"[", b"=", b"&", b";", b"99999999999999999999999"]


def changed(data, others, chance):
    """Something else than it was."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        how, at = chance.randrange(8), chance.randrange(len(data) + 1)
        if how == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif how == 1:
            data[at:at] = chance.choice(ODD)
        elif how == 2:
            del data[at:at + chance.choice([1, 2, 5, 20])]
        elif how == 3:
            data[at:at + chance.choice([0, 1, 5])] = chance.choice(ODD)
        elif how == 4 and data:
            piece = bytes(data[at:at + chance.choice([3, 10, 50])])
            data[at:at] = piece * chance.choice([1, 2, 50])
        elif how == 5 and others:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            data[at:at] = other[begin:begin + chance.choice([4, 20, 100])]
        elif how == 6:
            del data[at:]
        elif how == 7:
            numbers = [i for i, c in enumerate(data) if 48 <= c <= 57]
            if numbers:
                i = chance.choice(numbers)
                data[i:i + 1] = chance.choice([b"-1", b"0", b"99999999999", b"1.5", b"1e400"])
    return bytes(data)


class Fuzz:
    def __init__(self, server):
        self.server, self.connection, self.findings, self.sent = server, None, [], 0

    def send(self, method, path, body, headers):
        """Status and the answer's beginning; 0 without one."""
        self.sent += 1
        for attempt in (0, 1):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=30, context=ssl._create_unverified_context())
                self.connection.putrequest(method, path, skip_accept_encoding=True)
                for name, value in {"Authorization": f"Bearer {TOKEN}", **headers, **({"Content-Length": str(len(body))} if body is not None else {})}.items():
                    self.connection.putheader(name, value)
                self.connection.endheaders(body)
                answer = self.connection.getresponse()
                text = answer.read(100_000)
                if answer.will_close or answer.read(1):
                    self.connection.close()
                    self.connection = None
                return answer.status, text
            except (OSError, http.client.HTTPException, ValueError) as e:
                if self.connection:
                    self.connection.close()
                self.connection = None
                if isinstance(e, (http.client.InvalidURL, ValueError)):
                    return 400, b""
                why = repr(e).encode()
        return 0, why

    def memory(self):
        if self.server.process.poll() is not None:
            return 0
        for line in pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0

    def judge(self, what, request, status, text, took):
        bad = None
        if self.server.process.poll() is not None:
            bad = f"the server has ended: {self.server.said()[-400:]}"
        elif status == 0 and b"413" not in text and b"Broken pipe" not in text and b"reset" not in text:
            bad = f"no answer: {text[:200]}"
        elif status == 500 and b"connect" not in text[:500] and b"dial" not in text[:500]:
            bad = f"an internal error: {text[:300]}"
        elif took > 10:
            bad = f"it took {took:.1f} s"
        if bad:
            self.findings.append(f"{what}: {bad}: {str(request)[:700]}")
        return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="tell of each bomb")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    server = Server(args.knarr)
    try:
        # A server that takes all of the machine's memory would take the test with it.
        limited = ["prlimit", f"--data={4 << 30}"]
        server.start(*limited)
        server.ready()
        fuzz = Fuzz(server)
        for path, o in ((f"{NS}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seed"}, "data": {"k": "v"}}), (f"{NS}/pods", pod("seed"))):
            status, text = fuzz.send("POST", path, json.dumps(o).encode(), {"Content-Type": JSON})
            assert status == 201, text
        before, most = fuzz.memory(), 0
        for what, method, path, body, kind in bombs():
            began = time.monotonic()
            status, text = fuzz.send(method, path, body, {"Content-Type": kind})
            took = time.monotonic() - began
            fuzz.judge(what, (method, path[:100], (body or b"")[:100]), status, text, took)
            if args.verbose:
                print(f"{what}: {status} in {took:.2f} s, {fuzz.memory():.0f} MB: {text[:150]}", flush=True)
            now = fuzz.memory() if server.process.poll() is None else 0
            if now - before > GROWTH:
                fuzz.findings.append(f"{what}: the server holds {now:.0f} MB, {before:.0f} before")
                before = now
            most = max(most, now)
            if server.process.poll() is not None:
                server.start(*limited)
                server.ready()
            # A definition that was taken is not in the way of the next.
            if status == 201:
                fuzz.send("DELETE", (path.split("?")[0] + "/" + json.loads(text)["metadata"]["name"]), None, {})
        count, good = fuzz.sent, list(corpus())
        texts = [r[2] for r in good if r[2]]
        end = time.monotonic() + args.seconds
        statuses = {}
        while time.monotonic() < end and len(fuzz.findings) < 30:
            method, path, body, kind = chance.choice(good)
            headers = {"Content-Type": kind}
            where = chance.randrange(10)
            if body is not None and where < 7:
                body = changed(body, texts, chance)
            elif where < 9:
                head, _, query = path.partition("?")
                piece = changed(query.encode() or b"x=1", [], chance) if chance.random() < 0.7 else None
                if piece is not None:
                    path = head + "?" + "".join(chr(c) if 33 <= c < 127 else f"%{c:02x}" for c in piece)
                else:
                    path = "/" + "".join(chr(c) if 33 <= c < 127 else f"%{c:02x}" for c in changed(path.encode(), [], chance)).lstrip("/")
            else:
                name = chance.choice(["Accept", "Content-Type", "Impersonate-User", "Impersonate-Group", "Audit-ID", "If-None-Match", "Accept-Encoding"])
                value = changed(chance.choice([b"application/json;as=Table;v=v1;g=meta.k8s.io", b"application/vnd.kubernetes.protobuf", b"system:admin", b"gzip"]), [], chance)
                headers[name] = "".join(chr(c) for c in value if 32 <= c < 127)
            if "watch" in path or "follow" in path:
                # These may wait for long.
                continue
            began = time.monotonic()
            status, text = fuzz.send(method, path, body, headers)
            statuses[status] = statuses.get(status, 0) + 1
            fuzz.judge("changed", (method, path, headers, body), status, text, time.monotonic() - began)
            if server.process.poll() is not None:
                server.start(*limited)
                server.ready()
        now = fuzz.memory()
        most = max(most, now)
        if now - before > GROWTH:
            fuzz.findings.append(f"the server holds {now:.0f} MB, {before:.0f} before")
        said = (server.work / "log").read_text(errors="replace")
        panics = [line for line in said.splitlines() if "panicked" in line]
        fuzz.findings += [f"a panic: {line}" for line in sorted(set(panics))]
        print(f"seed {args.seed}: {count} bombs, {fuzz.sent - count} changed requests, answers {dict(sorted(statuses.items()))}; memory {before:.0f} MB, at most {most:.0f}")
    finally:
        server.close()
    for line in fuzz.findings:
        print("FOUND:", line)
    print(f"{len(fuzz.findings)} findings")
    sys.exit(1 if fuzz.findings else 0)


if __name__ == "__main__":
    main()
