#!/usr/bin/env python3
"""Concurrent clients, a server (and an etcd) that is killed at random, and a history that must be linearizable.

    e2e/storage/linear.py --prove
    e2e/storage/linear.py --knarr PROGRAM [--etcd] [--seconds N] [--clients N] [--seed N]

Each client reads, lists, updates (with and without a precondition), patches, creates and deletes a few objects, and notes when it
asked and what it was told. Afterwards:
- a write that was acknowledged is there, unless a later one replaced it;
- of two updates of one version one wins;
- what is read was written, at the version it is read with;
- in real time versions never go back: what begins after something has ended sees it, reads and lists as well;
- a watch from the beginning saw every version once and in order.
"""

import argparse
import collections
import http.client
import json
import os
import random
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import PATH, TOKEN, Client, Server, Unknown, config_map  # noqa: E402

OBJECTS = 5
# What is asked, and how often.
WORK = [("get", 6), ("list", 2), ("update", 6), ("put", 2), ("patch", 3), ("delete", 1), ("create", 2)]


class History:
    """What was asked and told, by all clients."""

    def __init__(self):
        self.lock, self.all = threading.Lock(), []

    def add(self, **fields):
        with self.lock:
            self.all.append(fields)


def seen(obj):
    return int(obj["metadata"]["resourceVersion"]), obj.get("data", {}).get("v"), obj["metadata"]["uid"]


def work(server, history, number, stop, chance):
    client, count = Client(server), 0
    known = {}
    names = [f"object-{n}" for n in range(OBJECTS)]
    kinds, weights = zip(*WORK)
    while not stop.is_set():
        name, kind = chance.choice(names), chance.choices(kinds, weights)[0]
        count += 1
        value = f"{number}-{count}"
        op = {"client": number, "name": name, "kind": kind, "value": value, "began": time.monotonic()}
        try:
            if kind == "get":
                status, obj = client.ask("GET", f"{PATH}/{name}")
            elif kind == "list":
                status, obj = client.ask("GET", PATH)
            elif kind == "create":
                status, obj = client.ask("POST", PATH, config_map(name, value))
            elif kind == "delete":
                status, obj = client.ask("DELETE", f"{PATH}/{name}")
            elif kind == "patch":
                status, obj = client.ask("PATCH", f"{PATH}/{name}", {"data": {"v": value}}, "application/merge-patch+json")
            elif kind == "update" and name in known:
                op["expected"] = known[name]
                status, obj = client.ask("PUT", f"{PATH}/{name}", config_map(name, value, str(known[name])))
            else:
                status, obj = client.ask("PUT", f"{PATH}/{name}", config_map(name, value))
        except Unknown:
            if kind not in ("get", "list"):
                history.add(**op, ended=None, status=0)
            time.sleep(0.02)
            continue
        op["ended"] = time.monotonic()
        if status >= 500 or status == 429:
            # It may or may not have been done.
            if kind not in ("get", "list"):
                history.add(**{**op, "ended": None}, status=0)
            time.sleep(0.02)
            continue
        if kind == "list":
            items = {i["metadata"]["name"]: seen(i) for i in obj["items"] if i["metadata"]["name"] in names}
            history.add(**op, status=status, revision=int(obj["metadata"]["resourceVersion"]), items=items)
            continue
        if status in (200, 201) and kind != "delete":
            op["version"], op["read"], op["uid"] = seen(obj)
            known[name] = op["version"]
        history.add(**op, status=status)


def follow(server, spans, stop):
    """A watch that goes on where it was, also over crashes; where it may not, a list tells where to begin anew.

    A span is where a watch began, and what it told since then without a gap."""
    version = None
    while not stop.is_set():
        try:
            if version is None:
                status, obj = Client(server).ask("GET", PATH)
                if status != 200:
                    continue
                version = obj["metadata"]["resourceVersion"]
                spans.append((int(version), []))
            c = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=ssl._create_unverified_context())
            c.request("GET", f"{PATH}?watch=true&allowWatchBookmarks=true&resourceVersion={version}", headers={"Authorization": f"Bearer {TOKEN}"})
            answer = c.getresponse()
            while answer.status == 200 and (line := answer.readline()):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"]["code"] != 410:
                        spans.append((f"watch: {event}", []))
                    version = None
                    break
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK" and event["object"]["metadata"]["name"].startswith("object-"):
                    spans[-1][1].append((int(version), event["type"], event["object"]["metadata"]["name"], event["object"].get("data", {}).get("v")))
            c.close()
        except (Unknown, OSError, http.client.HTTPException, ValueError):
            time.sleep(0.02)


def check(history, final, spans):
    """Every rule; a list of what is broken."""
    wrong = []
    # Version → what was written there, of all who know it.
    at = collections.defaultdict(set)
    maybe = collections.defaultdict(set)
    for op in history:
        if op["kind"] in ("update", "put", "patch", "create"):
            if op["status"] in (200, 201):
                at[op["name"], op["version"]].add(op["value"])
                if op["read"] != op["value"]:
                    wrong.append(f"a write answers another value: {op}")
            elif op["status"] == 0:
                maybe[op["name"]].add(op["value"])
    winners = collections.Counter((op["name"], op["expected"]) for op in history if "expected" in op and op["status"] == 200 and op["version"] != op["expected"])
    wrong += [f"{n} updates of {k} were both accepted" for k, n in winners.items() if n > 1]
    for op in history:
        if op["kind"] in ("update",) and op["status"] == 200 and "expected" in op and op["version"] < op["expected"]:
            wrong.append(f"an update went back: {op}")
    written = collections.defaultdict(set)
    for (name, _), values in at.items():
        written[name] |= values

    def read(name, version, value, op):
        known = at.get((name, version))
        if known is None and value not in maybe[name]:
            wrong.append(f"{name} at {version} reads {value}, which nobody wrote there: {op}")
        if known is not None and value not in known:
            wrong.append(f"{name} at {version} reads {value}, not {known}: {op}")
    for op in history:
        if op["kind"] == "get" and op["status"] == 200:
            read(op["name"], op["version"], op["read"], op)
        if op["kind"] == "list":
            for name, (version, value, _) in op["items"].items():
                read(name, version, value, op)
                if version > op["revision"]:
                    wrong.append(f"a list at {op['revision']} holds {name} of {version}")
    # Real time: by name, the highest version that was seen by what had ended, against what began later.
    by_name = collections.defaultdict(list)
    for op in history:
        if op["ended"] is None:
            continue
        if op["kind"] == "list":
            for name in {o["name"] for o in history[:0]} | set(op["items"]):
                by_name[name].append((op["began"], op["ended"], op["items"][name][0], False, op))
        elif "version" in op:
            by_name[op["name"]].append((op["began"], op["ended"], op["version"], op["kind"] != "get", op))
    for name, ops in by_name.items():
        ended = sorted(ops, key=lambda o: o[1])
        highest, which, n = 0, None, 0
        for began, _, version, writes, op in sorted(ops, key=lambda o: o[0]):
            while n < len(ended) and ended[n][1] < began:
                if ended[n][2] > highest:
                    highest, which = ended[n][2], ended[n][4]
                n += 1
            if version < highest:
                wrong.append(f"{name} went back from {highest} to {version}: {which} before {op}")
    # Lists by revision, the same.
    lists = [op for op in history if op["kind"] == "list"]
    ended = sorted(lists, key=lambda o: o["ended"])
    highest, n = 0, 0
    for op in sorted(lists, key=lambda o: o["began"]):
        while n < len(ended) and ended[n]["ended"] < op["began"]:
            highest = max(highest, ended[n]["revision"])
            n += 1
        if op["revision"] < highest:
            wrong.append(f"a list went back from {highest} to {op['revision']}")
    # A deletion that was acknowledged: nothing older is read by what began later.
    for gone in history:
        if gone["kind"] == "delete" and gone["status"] == 200:
            older = [o for o in history if o["kind"] in ("get",) and o["name"] == gone["name"] and o["status"] == 200 and o["began"] > gone["ended"]]
            alive = [o for o in history if o["name"] == gone["name"] and o["kind"] == "create" and o["status"] in (201, 0) and (o["ended"] or 1e18) > gone["began"]]
            if older and not alive:
                wrong.append(f"{gone['name']} is read after its deletion: {older[0]}")
    # What is there at the end is the last version that anyone saw, or one of an unknown write or deletion.
    unknown_delete = {op["name"] for op in history if op["kind"] == "delete" and op["status"] in (0, 200)}
    for name in {op["name"] for op in history}:
        versions = [v for (n, v) in at if n == name]
        last = max(versions, default=0)
        if name in final:
            version, value, _ = final[name]
            read(name, version, value, "at the end")
            if version < last:
                wrong.append(f"{name}: version {last} was acknowledged and is lost; {version} is there")
        elif last and name not in unknown_delete:
            wrong.append(f"{name}: version {last} was acknowledged and is gone")
    # The watches.
    for start, events in spans:
        if isinstance(start, str):
            wrong.append(start)
            continue
        for before, after in zip([(start,), *events], events):
            if after[0] <= before[0]:
                wrong.append(f"the watch told {after} after {before}")
        told = {(name, version): value for version, kind, name, value in events if kind != "DELETED"}
        newest = max((e[0] for e in events), default=0)
        for (name, version), values in at.items():
            if start < version <= newest and (name, version) not in told:
                wrong.append(f"the watch missed {name} at {version}")
            if (name, version) in told and told[name, version] not in values:
                wrong.append(f"the watch told {told[name, version]} for {name} at {version}, not {values}")
    return wrong


def prove():
    """The rules find what breaks them."""
    def op(kind, began, ended, **more):
        return {"client": 0, "name": "a", "kind": kind, "value": more.pop("value", ""), "began": began, "ended": ended, "status": more.pop("status", 200), **more}

    def wrote(began, version, value, **more):
        return op("put", began, began + 1, version=version, read=value, value=value, uid="u", **more)

    def got(began, version, value):
        return op("get", began, began + 1, version=version, read=value, uid="u")
    good = [wrote(0, 5, "x"), got(2, 5, "x"), wrote(4, 7, "y"), got(6, 7, "y")]
    span = [(1, [(5, "ADDED", "a", "x"), (7, "MODIFIED", "a", "y")])]
    at_end = {"a": (7, "y", "u")}
    broken = {
        "a lost write": (good, {"a": (5, "x", "u")}, span),
        "an object that is gone": (good, {}, span),
        "a stale read": ([*good, got(8, 5, "x")], at_end, span),
        "a value nobody wrote": ([*good, got(8, 7, "z")], at_end, span),
        "two winners": ([*good, wrote(8, 9, "p", expected=7), wrote(8, 11, "q", expected=7)], {"a": (11, "q", "u")}, span),
        "a list that went back": ([*good, op("list", 8, 9, revision=7, items={}), op("list", 10, 11, revision=6, items={})], at_end, span),
        "a watch with a gap": (good, at_end, [(1, [(7, "MODIFIED", "a", "y")])]),
        "a watch that repeats": (good, at_end, [(1, [(5, "ADDED", "a", "x"), (5, "ADDED", "a", "x"), (7, "MODIFIED", "a", "y")])]),
    }
    assert not check(good, at_end, span), check(good, at_end, span)
    for what, case in broken.items():
        assert check(*case), f"{what} is not found"
    print(f"the rules find {len(broken)} of {len(broken)} histories that break them")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr")
    parser.add_argument("--prove", action="store_true", help="only show that the rules find histories that break them")
    parser.add_argument("--etcd", action="store_true", help="over etcd, which is killed, too")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    if args.prove:
        return prove()
    chance = random.Random(args.seed)
    server = Server(args.knarr, etcd=args.etcd)
    kills = 0
    try:
        server.start()
        server.ready()
        history, spans, stop = History(), [], threading.Event()
        threads = [threading.Thread(target=work, args=(server, history, n, stop, random.Random(args.seed + n))) for n in range(args.clients)]
        threads.append(threading.Thread(target=follow, args=(server, spans, stop), daemon=True))
        for t in threads:
            t.start()
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.3, 2.0))
            kills += 1
            if args.etcd and chance.random() < 0.4:
                server.kill_etcd()
                time.sleep(chance.uniform(0, 0.5))
                server.start_etcd()
            else:
                server.kill()
                server.start()
            if not server.ready():
                raise SystemExit(f"the server does not start again: {server.said()}")
        time.sleep(1)
        stop.set()
        for t in threads[:-1]:
            t.join()
        time.sleep(1)
        # And once more from the disk.
        server.kill()
        server.start()
        server.ready()
        _, obj = Client(server).ask("GET", PATH)
        final = {i["metadata"]["name"]: seen(i) for i in obj["items"] if i["metadata"]["name"].startswith("object-")}
    finally:
        server.close()
    wrong = check(history.all, final, spans)
    events = sum(len(e) for _, e in spans)
    done = collections.Counter(f"{op['kind']} {op['status'] or 'unknown'}" for op in history.all)
    print(f"seed {args.seed}: {len(history.all)} operations of {args.clients} clients, {kills} kills, {events} events of {len(spans)} watches; {dict(sorted(done.items()))}")
    for line in wrong[:20]:
        print("BROKEN:", line)
    print(f"{'etcd' if args.etcd else 'embedded store'}: {len(wrong)} rules broken")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
