"""Times the API server beside kube-apiserver and etcd: CPU of the servers for each operation, and their memory.

The same requests go to both, one server after the other, over TLS, both writing durably. CPU is what
/proc says of all of a server's processes; the clients' is not counted.
"""

import argparse
import json
import os
import pathlib
import socket
import ssl
import sys
import threading
import time

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "e2e" / "parity"))
from peers import CACHE, Pair, Peer  # noqa: E402

NS = "/api/v1/namespaces/default/pods"
PATCH = {"Content-Type": "application/merge-patch+json"}
TICK = os.sysconf("SC_CLK_TCK")


def cpu(peer):
    """Seconds of CPU that the server's processes have used."""
    total = 0
    for part in peer.parts:
        fields = pathlib.Path(f"/proc/{part.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def memory(peer):
    """Megabytes resident."""
    total = 0
    for part in peer.parts:
        for line in pathlib.Path(f"/proc/{part.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


def pod(i):
    env = [{"name": f"VARIABLE_{n}", "value": "x" * 40} for n in range(12)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{i:05}", "labels": {"app": f"app-{i % 10}", "tier": "bench"},
            "annotations": {"example.com/note": "n" * 200}},
            "spec": {"nodeName": f"node-{i % 20}", "containers": [{"name": "main", "image": "registry.example.com/app:1.2.3", "env": env, "ports": [{"containerPort": 8080}],
                     "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}}}]}}


def spread(peer, count, clients, request):
    """Sends request(i) for each i from several connections; gives seconds."""
    failures = []
    turn = iter(range(count))
    lock = threading.Lock()

    def client():
        own = Peer(peer.name, peer.port)
        while True:
            with lock:
                i = next(turn, None)
            if i is None:
                return
            answer = own.ask(*request(i))
            if answer.status >= 300:
                failures.append((answer.status, answer.body[:300]))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begin = time.time()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise SystemExit(f"bench: {len(failures)} requests to {peer.name} failed: {failures[0]}")
    return time.time() - begin


class Watchers:
    """Many watches that one thread reads; what comes is counted."""

    def __init__(self, peer, count, path):
        self.came, self.open, self.over = 0, [], False
        context = ssl._create_unverified_context()
        for i in range(count):
            s = context.wrap_socket(socket.create_connection(("127.0.0.1", peer.port)))
            s.sendall(f"GET {path(i)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer parity\r\n\r\n".encode())
            s.recv(1 << 16)
            self.open.append(s)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for s in self.open:
            s.setblocking(False)
        while not self.over:
            for s in self.open:
                try:
                    while data := s.recv(1 << 16):
                        self.came += data.count(b'{"type":"MODIFIED"')
                except (ssl.SSLWantReadError, BlockingIOError):
                    pass
            time.sleep(0.02)

    def close(self):
        self.over = True
        self.thread.join()
        for s in self.open:
            s.close()


def deliveries(peer, count, events):
    """Every event goes to all watchers; gives seconds of CPU for one event to one of them."""
    def patch(i):
        return "PATCH", f"{NS}/pod-{i:05}", {"metadata": {"annotations": {"seen": str(time.time_ns())}}}, PATCH
    before = cpu(peer)
    spread(peer, events, 8, patch)
    alone = cpu(peer) - before
    revision = peer.ask("GET", f"{NS}?limit=1").json()["metadata"]["resourceVersion"]
    watchers = Watchers(peer, count, lambda i: f"{NS}?watch=1&resourceVersion={revision}&timeoutSeconds=600")
    time.sleep(1)
    before = cpu(peer)
    spread(peer, events, 8, patch)
    end = time.time() + 60
    while watchers.came < events * count * 0.99 and time.time() < end:
        time.sleep(0.05)
    used = cpu(peer) - before
    watchers.close()
    if watchers.came < events * count * 0.99:
        raise SystemExit(f"bench: {peer.name}: {watchers.came} of {events * count} events came")
    return (used - alone) / (events * count)


def watchers(peer, count, events):
    """One event goes to one of many watchers; gives how many came."""
    seen = [0] * count
    stop = threading.Event()
    ready = threading.Barrier(count + 1)

    def watch(i):
        import http.client
        c = http.client.HTTPSConnection("127.0.0.1", peer.port, timeout=60, context=ssl._create_unverified_context())
        c.request("GET", f"{NS}?watch=1&fieldSelector=metadata.name%3Dpod-{i:05}&resourceVersion=0&timeoutSeconds=120", headers={"Authorization": "Bearer parity"})
        answer = c.getresponse()
        answer.readline()
        ready.wait()
        while not stop.is_set():
            try:
                if not answer.readline():
                    return
            except (OSError, ValueError):
                return
            seen[i] += 1

    threads = [threading.Thread(target=watch, args=(i,), daemon=True) for i in range(count)]
    for t in threads:
        t.start()
    ready.wait()
    before = cpu(peer)
    spread(peer, events, 8, lambda i: ("PATCH", f"{NS}/pod-{i % count:05}", {"metadata": {"annotations": {"seen": str(time.time_ns())}}}, PATCH))
    end = time.time() + 10
    while sum(seen) < events and time.time() < end:
        time.sleep(0.05)
    used = cpu(peer) - before
    stop.set()
    return used, sum(seen)


def measure(peer, pods):
    rows = {}

    def row(name, count, clients, request):
        before = cpu(peer)
        took = spread(peer, count, clients, request)
        rows[name] = ((cpu(peer) - before) / count * 1000, count / took)
        print(f"  {peer.name}: {name}: {rows[name][0]:.3f} ms CPU, {rows[name][1]:.0f}/s", file=sys.stderr, flush=True)

    apply = {"Content-Type": "application/apply-patch+yaml"}
    rows["memory, idle"] = memory(peer)
    row("create a pod (2 KB), 32 clients", pods, 32, lambda i: ("POST", NS, pod(i)))
    row("get a pod", pods, 32, lambda i: ("GET", f"{NS}/pod-{i:05}"))
    row(f"list {pods} pods", 20, 2, lambda i: ("GET", NS))
    row("list with limit=500", 60, 2, lambda i: ("GET", f"{NS}?limit=500"))
    row(f"list by label ({pods // 10} of {pods})", 100, 2, lambda i: ("GET", f"{NS}?labelSelector=app%3Dapp-3"))
    row("merge patch", pods, 32, lambda i: ("PATCH", f"{NS}/pod-{i:05}", {"metadata": {"labels": {"patched": str(i)}}}, PATCH))
    row("server-side apply of a pod", pods // 3, 32, lambda i: ("PATCH", f"{NS}/pod-{i:05}?fieldManager=bench&force=true", pod(i), apply))
    used, came = watchers(peer, 200, pods // 2)
    rows["merge patch that one of 200 watchers sees"] = used / (pods // 2) * 1000
    if came < pods // 2:
        print(f"  {peer.name}: only {came} of {pods // 2} events came", file=sys.stderr)
    rows["one event to one of 200 watchers"] = deliveries(peer, 200, min(300, pods)) * 1e6
    time.sleep(8)
    rows["memory after that work"] = memory(peer)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr", type=pathlib.Path, required=True)
    parser.add_argument("--pods", type=int, default=3000)
    parser.add_argument("--only-ours", action="store_true", help="without upstream's")
    choice = parser.parse_args()
    with Pair(choice.knarr, CACHE / "bench-api", durable=True, alone=choice.only_ours) as pair:
        # Idle is what has come to rest.
        time.sleep(8)
        peers = [pair.ours] if choice.only_ours else [pair.ours, pair.upstream]
        all_rows = {p.name: measure(p, choice.pods) for p in peers}
        starts = {p.name: p.started for p in peers}
    names = [p.name for p in reversed(peers)]
    titles = {"kube-apiserver": "kube-apiserver and etcd", "knarr apiserver": "knarr apiserver"}
    print("| | " + " | ".join(titles[n] for n in names) + " |")
    print("|---|" + "---|" * len(names))
    for name in all_rows[names[0]]:
        cells = []
        for n in names:
            v = all_rows[n][name]
            if isinstance(v, tuple):
                cells.append(f"{v[0]:.2f} ms CPU, {v[1]:.0f}/s" if v[0] >= 1 else f"{v[0]:.3f} ms CPU, {v[1]:.0f}/s")
            elif name.startswith("memory"):
                cells.append(f"{v:.0f} MB")
            elif name.startswith("one event"):
                cells.append(f"{v:.1f} µs CPU")
            else:
                cells.append(f"{v:.2f} ms CPU")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("| start to readyz | " + " | ".join(f"{starts[n]:.2f} s" for n in names) + " |")


if __name__ == "__main__":
    main()
