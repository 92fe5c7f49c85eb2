"""Sends the same requests to upstream's kube-apiserver and to `knarr apiserver` and compares the answers.

Prints the pairs compared and the differences for each kind; the details are in a report. What
stays different and why is in docs/parity.md.
"""

import argparse
import collections
import copy
import json
import os
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from compare import compare, differences, normal  # noqa: E402
from fixtures import AROUND, NS, kinds  # noqa: E402
from definitions import schemas  # noqa: E402
from mutate import mutations  # noqa: E402
from policies import policies  # noqa: E402
from peers import CACHE, Pair  # noqa: E402

APPLY = {"Content-Type": "application/apply-patch+yaml"}
MERGE = {"Content-Type": "application/merge-patch+json"}
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
JSONPATCH = {"Content-Type": "application/json-patch+json"}
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
WIDGET = [
    {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
     "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
         "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
         "spec": {"type": "object", "required": ["size", "mode"], "x-kubernetes-validations": [{"rule": "self.size < 10"}], "properties": {
             "size": {"type": "integer", "format": "int32", "minimum": 1, "default": 3}, "replicas": {"type": "integer"},
             "mode": {"type": "string", "enum": ["a", "b"], "nullable": True}, "port": {"x-kubernetes-int-or-string": True},
             "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
             "whole": {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
             "known": {"type": "object", "x-kubernetes-embedded-resource": True, "properties": {"a": {"type": "string"}}},
             "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                      "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
             "free": {"type": "array", "x-kubernetes-preserve-unknown-fields": True, "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
             "map": {"type": "object", "required": ["k"], "additionalProperties": {"type": "string", "nullable": True}},
             "one": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}}}}}},
    {"name": "v1beta1", "served": True, "storage": False, "deprecated": True, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]
PARTIAL = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"}


class Report:
    def __init__(self, pair):
        self.pair = pair
        self.compared, self.different = collections.Counter(), collections.Counter()
        self.details = []

    def note(self, area, what, found):
        self.compared[area] += 1
        if found:
            self.different[area] += 1
            self.details.append({"area": area, "what": what, "differences": [[p, a, b] for p, a, b in found]})

    def ask(self, area, what, method, path, body=None, headers=None, token=None):
        more = {} if token is None else {"token": token}
        theirs, ours = self.pair.both(method, path, body, headers, **more)
        self.note(area, f"{method} {path} {what}".strip(), compare(theirs, ours))
        return theirs, ours


def documents(r):
    """What says which resources there are."""
    plain = {"Accept": "application/json"}
    v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    r.ask("discovery", "", "GET", "/api", headers=plain)
    theirs, _ = r.ask("discovery", "", "GET", "/apis", headers=plain)
    for root in ("/api", "/apis"):
        r.ask("discovery", "aggregated", "GET", root, headers={"Accept": v2})
    r.ask("discovery", "", "GET", "/api/v1")
    for group in theirs.json()["groups"]:
        r.ask("discovery", "", "GET", f"/apis/{group['name']}")
        for version in group["versions"]:
            r.ask("discovery", "", "GET", f"/apis/{version['groupVersion']}")
    for path in ("/version", "/", "/healthz", "/livez", "/readyz", "/healthz/ping", "/readyz/nothing", "/openid/v1/jwks",
                 "/.well-known/openid-configuration", "/nothing", "/api/v2", "/apis/nothing", "/apis/apps/v9", "/api/v1/nothings"):
        r.ask("paths", "", "GET", path)


def openapi(r):
    """What describes them, with custom resources."""
    for kind, scope, versions in (("Widget", "Namespaced", WIDGET), ("Gizmo", "Cluster", [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}])):
        names = {"plural": kind.lower() + "s", "kind": kind}
        r.pair.both("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{kind.lower()}s.docs.parity.example.com"},
            "spec": {"group": "docs.parity.example.com", "scope": scope, "names": names, "versions": versions}})
    for _ in range(100):
        answers = r.pair.both("GET", "/openapi/v2")
        if all(b"docs.parity.v1.Gizmo" in a.body for a in answers):
            break
        time.sleep(0.2)
    theirs, ours = r.pair.both("GET", "/openapi/v3")
    index = theirs.json(), ours.json()
    r.note("openapi v3", "index", compare_lists(sorted(index[0]["paths"]), sorted(index[1]["paths"])))
    r.note("openapi v3", "index headers", compare_lists(theirs.headers["Content-Type"], ours.headers["Content-Type"]))
    for path in sorted(index[0]["paths"].keys() & index[1]["paths"].keys()):
        theirs, ours = r.pair.both("GET", f"/openapi/v3/{path}")
        a, b = bare(theirs.json()), bare(ours.json())
        for part in ("openapi", "info", "paths", "components"):
            r.note("openapi v3", f"{path} {part}", differences(a.get(part), b.get(part))[:50])
    v3 = "application/com.github.proto-openapi.spec.v3"
    for path in ("apis/apps/v1", "version", "apis/docs.parity.example.com/v1", "apis/nothing/v1"):
        for accept in (f"{v3}.v1.0+protobuf", f"{v3}@v1.0+protobuf,application/json;q=0.1", "text/html", "*/*"):
            r.note("openapi v3", f"{path} as {accept}", kinds_of(*r.pair.both("GET", f"/openapi/v3/{path}", headers={"Accept": accept})))
        r.note("openapi v3", f"{path} of another hash", kinds_of(*r.pair.both("GET", f"/openapi/v3/{path}?hash=0")))
        urls = [i["paths"].get(path, {}).get("serverRelativeURL") for i in index]
        if all(urls):
            found = [p.ask("GET", u) for p, u in zip((r.pair.upstream, r.pair.ours), urls)]
            r.note("openapi v3", f"{path} by its hash", kinds_of(*found))
            again = [p.ask("GET", u, headers={"If-None-Match": f.headers["Etag"]}) for p, u, f in zip((r.pair.upstream, r.pair.ours), urls, found)]
            r.note("openapi v3", f"{path} unchanged", kinds_of(*again))
    r.note("openapi v3", "no name", kinds_of(*r.pair.both("GET", "/openapi/v3/")))
    v2 = "application/com.github.proto-openapi.spec.v2"
    for accept in (f"{v2}.v1.0+protobuf", f"{v2}@v1.0+protobuf", "text/html", "application/*"):
        r.note("openapi v2", f"as {accept}", kinds_of(*r.pair.both("GET", "/openapi/v2", headers={"Accept": accept})))
    theirs, ours = r.pair.both("GET", "/openapi/v2")
    a, b = bare(theirs.json()), bare(ours.json())
    for part in ("paths", "definitions", "parameters", "info", "security", "securityDefinitions"):
        left, right = a.get(part) or {}, b.get(part) or {}
        if isinstance(left, dict) and isinstance(right, dict):
            for key in sorted(left.keys() | right.keys()):
                r.note("openapi v2", f"{part} {key}", differences(left.get(key), right.get(key)))
        else:
            r.note("openapi v2", part, compare_lists(left, right))
    r.pair.both("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.docs.parity.example.com")
    r.pair.both("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gizmos.docs.parity.example.com")


def definitions(r):
    """Schemas of custom resources, and what is wrong with them."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for name, spec in schemas():
        schema, more = (spec, {}) if "versions" not in spec else (None, spec)
        versions = [{"name": "v1", "served": True, "storage": True, **({"schema": {"openAPIV3Schema": schema}} if schema else {})}]
        crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "rules.rules.parity.example.com"},
               "spec": {"group": "rules.parity.example.com", "scope": "Namespaced", "names": {"plural": "rules", "kind": "Rule"}, "versions": versions, **more}}
        r.ask("definitions", name, "POST", f"{path}?dryRun=All", crd)


def expressions(r):
    """Admission policies, and what is wrong with their expressions."""
    for kind, what, spec in policies():
        document = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "expressions.parity.example.com"}, "spec": spec}
        path = "/apis/admissionregistration.k8s.io/v1/" + kind.lower().replace("policy", "policies")
        r.ask("policies", f"{kind} {what}", "POST", f"{path}?dryRun=All", document)


def compare_lists(a, b):
    return [] if a == b else differences(a, b) or [("", a, b)]


def kinds_of(theirs, ours):
    """What differs in status and headers of documents."""
    pairs = [("status", theirs.status, ours.status), ("empty", not theirs.body, not ours.body)]
    pairs += [(h, theirs.headers.get(h), ours.headers.get(h)) for h in ("Content-Type", "Cache-Control")]
    pairs += [(h, h in theirs.headers, h in ours.headers) for h in ("Etag", "Expires", "Location")]
    return [p for p in pairs if p[1] != p[2] and not (p[0] == "Content-Type" and not theirs.body)]


def bare(value):
    """Without descriptions, which are not copied."""
    if isinstance(value, dict):
        return {k: bare(v) for k, v in value.items() if not (k == "description" and isinstance(v, str))}
    return [bare(v) for v in value] if isinstance(value, list) else value


def lifecycle(r, area, path, full):
    """One object from its making to its end."""
    name = full["metadata"]["name"]
    one = f"{path}/{name}"
    theirs, ours = r.ask(area, "", "POST", path, full)
    if theirs.status >= 300 or ours.status >= 300:
        if theirs.status >= 300:
            print(f"  the fixture of {area} is refused: {theirs.body.decode(errors='replace')[:400]}", file=sys.stderr)
        if ours.status < 300:
            r.pair.ours.ask("DELETE", one)
    r.ask(area, "again", "POST", path, full)
    r.ask(area, "", "GET", one)
    r.ask(area, "", "GET", one, headers=TABLE)
    r.ask(area, "", "GET", path)
    r.ask(area, "", "GET", path, headers=TABLE)
    r.ask(area, "", "GET", path, headers=PARTIAL)
    for query in ("labelSelector=app%3Da", "labelSelector=app%3Db", "labelSelector=a%20b%20c", f"fieldSelector=metadata.name%3D{name}",
                  "fieldSelector=spec.nothing%3Dx", "limit=1", "limit=-1", "resourceVersion=0", "resourceVersion=x",
                  "resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=Sometimes", "continue=nonsense"):
        r.ask(area, "", "GET", f"{path}?{query}")
    r.ask(area, "labels", "PATCH", one, {"metadata": {"labels": {"patched": "yes"}}}, MERGE)
    r.ask(area, "labels", "PATCH", one, {"metadata": {"labels": {"patched": None, "b": "c"}}}, STRATEGIC)
    r.ask(area, "labels", "PATCH", one, [{"op": "add", "path": "/metadata/labels/j", "value": "k"}], JSONPATCH)
    r.ask(area, "fails", "PATCH", one, [{"op": "test", "path": "/metadata/name", "value": "other"}], JSONPATCH)
    r.ask(area, "wrong type", "PATCH", one, {"metadata": {"labels": 5}}, MERGE)
    r.ask(area, "no patch", "PATCH", one, b"{", MERGE)
    r.ask(area, "unknown kind of patch", "PATCH", one, {}, {"Content-Type": "application/other"})
    applied = {"apiVersion": full["apiVersion"], "kind": full["kind"], "metadata": {"name": name, "labels": {"applied": "yes"}}}
    r.ask(area, "apply", "PATCH", one + "?fieldManager=one", applied, APPLY)
    applied["metadata"]["labels"]["applied"] = "no"
    r.ask(area, "apply, conflict", "PATCH", one + "?fieldManager=two", applied, APPLY)
    r.ask(area, "apply, forced", "PATCH", one + "?fieldManager=two&force=true", applied, APPLY)
    r.ask(area, "apply without manager", "PATCH", one, applied, APPLY)
    r.ask(area, "apply all", "PATCH", one + "?fieldManager=three&force=true", full, APPLY)
    got = r.pair.both("GET", one)
    if all(g.status == 200 for g in got):
        r.note(area, "PUT unchanged", compare(*(p.ask("PUT", one, g.json()) for p, g in zip((r.pair.upstream, r.pair.ours), got))))
        stale = {**full, "metadata": {**full["metadata"], "resourceVersion": "1"}}
        r.ask(area, "stale", "PUT", one, stale)
        other = {**full, "metadata": {**full["metadata"], "name": "other"}}
        r.ask(area, "another name", "PUT", one, other)
        r.ask(area, "uid", "PUT", one, {**full, "metadata": {**full["metadata"], "uid": "none"}})
    r.ask(area, "status", "PATCH", one + "/status", {"metadata": {"labels": {"s": "t"}}}, MERGE)
    r.ask(area, "unknown field", "POST", path + "?fieldValidation=Strict&dryRun=All", {**full, "unknown": 1, "metadata": {**full["metadata"], "name": "strict", "more": 2}})
    r.ask(area, "unknown field", "POST", path + "?fieldValidation=Warn&dryRun=All", {**full, "unknown": 1, "metadata": {**full["metadata"], "name": "strict", "more": 2}})
    r.ask(area, "wrong kind", "POST", path, {**full, "kind": "Nonsense"})
    r.ask(area, "wrong version", "POST", path, {**full, "apiVersion": "nonsense/v1"})
    r.ask(area, "no body", "POST", path, b"")
    r.ask(area, "missing", "GET", f"{path}/missing")
    r.ask(area, "missing", "DELETE", f"{path}/missing")
    r.ask(area, "precondition", "DELETE", one, {"preconditions": {"uid": "none"}})
    r.ask(area, "dry", "DELETE", one + "?dryRun=All")
    r.ask(area, "not allowed", "PATCH", path, {}, MERGE)


def fields(r, area, path, full, limit):
    """Each field another value, made and changed, without being stored."""
    name = full["metadata"]["name"]
    theirs, ours = r.pair.both("GET", f"{path}/{name}")
    live = [theirs.json(), ours.json()]
    there = theirs.status == ours.status == 200
    for n, (what, document) in enumerate(mutations(full)):
        if limit and n >= limit:
            break
        meta = document.get("metadata")
        if isinstance(meta, dict) and meta.get("name") == name and full["kind"] not in ("IPAddress", "CSIDriver", "APIService", "CustomResourceDefinition", "ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"):
            document = {**document, "metadata": {**meta, "name": "mutated"}}
        r.ask(area, what, "POST", f"{path}?dryRun=All", document)
        if there and isinstance(meta, dict) and meta.get("name") == name:
            changed = [{**copy.deepcopy(document), "metadata": {**meta, "resourceVersion": v["metadata"]["resourceVersion"]}} for v in live]
            answers = [p.ask("PUT", f"{path}/{name}?dryRun=All", c) for p, c in zip((r.pair.upstream, r.pair.ours), changed)]
            r.note(area, f"PUT {path}/{name} {what}", compare(*answers))


def paging(r):
    path = f"/api/v1/namespaces/{NS}/configmaps"
    for i in range(7):
        r.pair.both("POST", path, {"metadata": {"name": f"page-{i}", "labels": {"page": str(i % 2)}}})
    for query in ("limit=3", "limit=3&labelSelector=page%3D1", "limit=3&labelSelector=page%3D1&resourceVersion=0"):
        theirs, ours = r.ask("paging", "", "GET", f"{path}?{query}")
        for _ in range(4):
            tokens = [(a.json() or {}).get("metadata", {}).get("continue") for a in (theirs, ours)]
            if not all(tokens):
                break
            theirs, ours = (p.ask("GET", f"{path}?{query}&continue={t}") for p, t in zip((r.pair.upstream, r.pair.ours), tokens))
            r.note("paging", f"{query} next", compare(theirs, ours))
    r.ask("paging", "", "DELETE", f"{path}?labelSelector=page%3D1")
    r.ask("paging", "", "DELETE", f"{path}?labelSelector=page")


def access(r):
    for method, path in (("GET", "/api/v1/pods"), ("GET", f"/api/v1/namespaces/{NS}/secrets/x"), ("POST", f"/api/v1/namespaces/{NS}/pods"),
                         ("DELETE", "/apis/apps/v1/deployments"), ("GET", "/metrics"), ("GET", "/api"), ("GET", "/healthz"), ("PATCH", "/api/v1/nodes/n0/status")):
        for who in ("plain", "", "wrong"):
            r.ask("access", f"as {who or 'nobody'}", method, path, {} if method in ("POST", "PATCH") else None, MERGE if method == "PATCH" else None, token=who)
    for kind, spec in (("SelfSubjectAccessReview", {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": NS}}),
                       ("SubjectAccessReview", {"user": "plain", "resourceAttributes": {"verb": "get", "resource": "pods"}}),
                       ("SubjectAccessReview", {"user": "x", "groups": ["system:authenticated"], "nonResourceAttributes": {"verb": "get", "path": "/version"}}),
                       ("SubjectAccessReview", {"resourceAttributes": {"verb": "get"}}), ("SubjectAccessReview", {"user": "x"}),
                       ("SelfSubjectRulesReview", {"namespace": NS})):
        path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        for who in (None, "plain"):
            r.ask("access", f"{spec} as {who or 'admin'}", "POST", path, {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}, token=who)
    for spec in ({"token": "parity"}, {"token": "none"}, {}):
        r.ask("access", str(spec), "POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec})
    r.ask("access", "", "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
    for headers in ({"Impersonate-User": "plain"}, {"Impersonate-Group": "g"}, {"Impersonate-User": "plain", "Impersonate-Extra-a": "b"}):
        for who in (None, "plain"):
            r.ask("access", f"{headers} as {who or 'admin'}", "GET", "/api/v1/namespaces", headers=headers, token=who)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--kind", action="append", help="only these kinds")
    parser.add_argument("--limit", type=int, default=0, help="most changed fields of a kind")
    parser.add_argument("--openapi", action="store_true", help="only OpenAPI")
    parser.add_argument("--definitions", action="store_true", help="only schemas of custom resources")
    parser.add_argument("--policies", action="store_true", help="only expressions of admission policies")
    parser.add_argument("--no-fields", action="store_true", help="without the changed fields")
    parser.add_argument("--report", type=pathlib.Path, default=CACHE / "parity" / "report.json")
    choice = parser.parse_args()
    start = time.time()
    with Pair(choice.knarr, CACHE / "parity") as pair:
        r = Report(pair)
        for path, document in AROUND:
            pair.both("POST", path, document)
        if choice.openapi:
            openapi(r)
        elif choice.definitions:
            definitions(r)
        elif choice.policies:
            expressions(r)
        elif not choice.kind:
            documents(r)
            openapi(r)
            definitions(r)
            expressions(r)
            paging(r)
            access(r)
        seen = list(kinds())
        for path, full in seen:
            if choice.openapi or choice.definitions or choice.policies or (choice.kind and full["kind"] not in choice.kind):
                continue
            area = f"{full['kind']}.{full['apiVersion']}"
            lifecycle(r, area, path, full)
            if not choice.no_fields:
                fields(r, area, path, full, choice.limit)
            r.ask(area, "", "DELETE", f"{path}/{full['metadata']['name']}", {"gracePeriodSeconds": 0})
            print(f"{area}: {r.compared[area]} pairs, {r.different[area]} different ({time.time() - start:.0f} s)", file=sys.stderr, flush=True)
    choice.report.parent.mkdir(parents=True, exist_ok=True)
    choice.report.write_text(json.dumps(r.details, indent=1))
    width = max(map(len, r.compared))
    for area, n in r.compared.items():
        print(f"{area:{width}} {n:6} pairs {r.different[area]:6} different")
    print(f"{'all':{width}} {r.compared.total():6} pairs {r.different.total():6} different; {time.time() - start:.0f} s; details in {choice.report}")
    sys.exit(0)


main()
