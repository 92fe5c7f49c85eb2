"""The API server with many objects: what it holds in memory, and what lists, watches and writes cost then.

Two servers, one after the other, on the embedded store: one with nodes and their pods, one with
custom resource definitions. CPU and memory are the server's, from /proc.
"""

import argparse
import json
import pathlib
import sys
import time

from api import CACHE, NS, PATCH, Pair, Watchers, cpu, memory, pod, spread


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def many_pods(knarr, rows, nodes, pods, watches):
    with Pair(knarr, CACHE / "bench-scale", durable=True, alone=True) as pair:
        peer = pair.ours

        def node(i):
            return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{i}", "labels": {"kubernetes.io/hostname": f"node-{i}"}}}

        def placed(i):
            made = pod(i)
            made["metadata"]["name"] = f"pod-{i:06}"
            made["spec"]["nodeName"] = f"node-{i % nodes}"
            return made

        spread(peer, nodes, 16, lambda i: ("POST", "/api/v1/nodes", node(i)))
        begin, used = time.time(), cpu(peer)
        spread(peer, pods, 32, lambda i: ("POST", NS, placed(i)))
        rows.append((f"create {pods:,} pods", f"{(cpu(peer) - used) / pods * 1000:.3f} ms CPU each, {time.time() - begin:.0f} s", ""))
        say(*rows[-1])
        used = cpu(peer)
        for _ in range(3):
            answer = peer.ask("GET", "/api/v1/pods?resourceVersion=0")
        assert answer.status == 200 and answer.body.count(b'"nodeName":') == pods, answer.status
        rows.append(("list all of them", f"{(cpu(peer) - used) / 3 * 1000:.0f} ms CPU, {len(answer.body) / 1e6:.0f} MB", ""))
        say(*rows[-1])
        del answer
        begin, used, token, pages, seen = time.time(), cpu(peer), "", 0, 0
        while True:
            page = peer.ask("GET", f"/api/v1/pods?limit=500&continue={token}").json()
            pages, seen, token = pages + 1, seen + len(page["items"]), page["metadata"].get("continue", "")
            if not token:
                break
        assert seen == pods, seen
        rows.append(("the same by pages of 500", f"{(cpu(peer) - used) / pages * 1000:.2f} ms CPU a page", ""))
        say(*rows[-1])
        used = cpu(peer)
        spread(peer, 200, 4, lambda i: ("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-{i}&resourceVersion=0"))
        rows.append(("list one node's pods", f"{(cpu(peer) - used) / 200 * 1000:.2f} ms CPU", ""))
        say(*rows[-1])

        def patch(i):
            return "PATCH", f"{NS}/pod-{i:06}", {"metadata": {"annotations": {"seen": str(time.time_ns())}}}, PATCH
        used = cpu(peer)
        spread(peer, 1000, 8, patch)
        plain = (cpu(peer) - used) / 1000
        watchers = Watchers(peer, watches, lambda i: f"/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion=0&fieldSelector=spec.nodeName%3Dnode-{i % nodes}&timeoutSeconds=3000")
        time.sleep(20)
        used = cpu(peer)
        spread(peer, 1000, 8, patch)
        time.sleep(1)
        watched = (cpu(peer) - used) / 1000
        rows.append((f"merge patch; with {watches:,} watches, each of one node's pods", f"{plain * 1000:.3f} ms CPU; {watched * 1000:.3f} ms CPU", ""))
        say(*rows[-1], f"({watchers.came} events came)")
        time.sleep(10)
        rows.append((f"memory with {pods:,} pods, {nodes:,} nodes and {watches:,} watches", f"{memory(peer):.0f} MB", "≤ 1,500 MB"))
        say(*rows[-1])
        watchers.close()


def definition(i):
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1}, "image": {"type": "string", "maxLength": 100}, "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "ports": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
            "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}},
        "status": {"type": "object", "properties": {"ready": {"type": "integer"}, "conditions": {"type": "array", "items": {
            "type": "object", "properties": {"type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"}}}}}}}}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"things{i}.g{i % 50}.example.com"},
            "spec": {"group": f"g{i % 50}.example.com", "scope": "Namespaced", "names": {"plural": f"things{i}", "singular": f"thing{i}", "kind": f"Thing{i}", "listKind": f"Thing{i}List"},
                     "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}}]}}


def many_definitions(knarr, rows, count):
    with Pair(knarr, CACHE / "bench-scale", durable=True, alone=True) as pair:
        peer = pair.ours
        time.sleep(8)
        before, begin, used = memory(peer), time.time(), cpu(peer)
        spread(peer, count, 8, lambda i: ("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition(i)))
        last = count - 1
        path = f"/apis/g{last % 50}.example.com/v1/namespaces/default/things{last}"
        made = {"apiVersion": f"g{last % 50}.example.com/v1", "kind": f"Thing{last}", "metadata": {"name": "one"}, "spec": {"size": 3}}
        while peer.ask("POST", path, made).status != 201:
            if time.time() - begin > 300:
                raise SystemExit("bench: the last definition is never served")
            time.sleep(0.05)
        rows.append((f"create {count:,} CRDs, the last one served", f"{(cpu(peer) - used) / count * 1000:.2f} ms CPU each, {time.time() - begin:.1f} s", ""))
        say(*rows[-1])
        time.sleep(10)
        rows.append((f"memory with {count:,} CRDs ({before:.0f} MB without)", f"{memory(peer):.0f} MB", "≤ 100 MB"))
        say(*rows[-1])
        used = cpu(peer)
        document = peer.ask("GET", "/openapi/v2")
        names = sum(json.dumps(definition(i)["spec"]["names"]["kind"]).encode()[1:-1] in document.body for i in range(0, count, 97))
        rows.append(("OpenAPI 2 with all of them", f"{(cpu(peer) - used) * 1000:.0f} ms CPU, {len(document.body) / 1e6:.1f} MB", ""))
        say(*rows[-1], f"({names} of {len(range(0, count, 97))} looked for are in it)")
        time.sleep(10)
        rows.append(("memory after that", f"{memory(peer):.0f} MB", ""))
        say(*rows[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr", type=pathlib.Path, required=True)
    parser.add_argument("--pods", type=int, default=150_000)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--watches", type=int, default=500)
    parser.add_argument("--definitions", type=int, default=1000)
    choice = parser.parse_args()
    rows = []
    many_definitions(choice.knarr, rows, choice.definitions)
    many_pods(choice.knarr, rows, choice.nodes, choice.pods, choice.watches)
    print("| work | measured | to reach |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
