#!/usr/bin/env python3
"""Exec and port-forward with stock kubectl, through API server, kubelet and CRI, byte for byte.

    hack/cri-suite streams [--megabytes N] [--sequential N] [--concurrent N]

Over SPDY and over WebSockets, into a container and out of it: what arrives has the digest of what
was sent, and the node's memory does not grow with it. Then many execs, one after another and at
once: no descriptor, thread or process stays behind. Needs root; best in namespaces of its own.
"""
import argparse, hashlib, json, os, socket, subprocess, sys, tempfile, threading, time

from node import IMAGE, archive, processes, read

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
    "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c",
        "nc -ll -p 9000 -e sha256sum & nc -ll -p 9001 -e /bin/cat /data & exec sleep 100000"]}]}}
PROTOCOLS = {"SPDY": "false", "WebSocket": "true"}


class Cluster:
    def __init__(self, knarr, kubectl):
        self.knarr, self.kubectl_path = knarr, kubectl
        self.folder = tempfile.mkdtemp(prefix="knarr-suite-", dir="/run")
        self.folders = ["--data-dir", f"{self.folder}/data", "--run-dir", f"{self.folder}/run"]
        log = open(f"{self.folder}/log", "w")
        self.child = subprocess.Popen([knarr, "up"] + self.folders, stdout=log, stderr=log)
        end = time.time() + 120
        while "True" not in self.out(["get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"]):
            if self.child.poll() is not None or time.time() > end:
                sys.exit(f"knarr up does not get ready:\n{read(f'{self.folder}/log')}")
            time.sleep(0.2)

    def command(self, arguments, protocol="SPDY"):
        web = PROTOCOLS[protocol]
        env = dict(os.environ, KUBECONFIG=f"{self.folder}/data/kubeconfig", KUBECTL_REMOTE_COMMAND_WEBSOCKETS=web,
                   KUBECTL_PORT_FORWARD_WEBSOCKETS=web)
        return {"args": [self.kubectl_path] + arguments, "env": env}

    def out(self, arguments, protocol="SPDY", **more):
        return subprocess.run(**self.command(arguments, protocol), capture_output=True, text=True, **more).stdout

    def end(self):
        self.child.terminate()
        self.child.wait()
        subprocess.run([self.knarr, "reset"] + self.folders, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", self.folder])

    def memory(self):
        """Resident memory of the node's program, in megabytes."""
        return int(next(l.split()[1] for l in read(f"/proc/{self.child.pid}/status").splitlines() if l.startswith("VmRSS"))) / 1024

    def holdings(self):
        """Descriptors and threads of the program, and processes of the machine that are ours."""
        own = f"/proc/{self.child.pid}"
        names = sorted(name for _, name, _ in processes() if name.startswith("knarr") or name in ("sleep", "nc", "pause", "true"))
        return {"descriptors": len(os.listdir(f"{own}/fd")), "threads": len(os.listdir(f"{own}/task")), "processes": names}


class Watch:
    """The most memory that was used meanwhile."""
    def __init__(self, cluster):
        self.cluster, self.most, self.over = cluster, 0, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.wait(0.1):
            self.most = max(self.most, self.cluster.memory())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def chunks(size):
    """The same bytes every time, of which no two megabytes are alike."""
    seed = hashlib.shake_256(b"knarr").digest(1 << 20)
    for n in range(size >> 20):
        yield n.to_bytes(8, "big") + seed[8:]


def digest_of(size):
    digest = hashlib.sha256()
    for chunk in chunks(size):
        digest.update(chunk)
    return digest.hexdigest()


def feed(write, size):
    for chunk in chunks(size):
        write(chunk)


def exec_in(c, protocol, size):
    p = subprocess.Popen(**c.command(["exec", "-i", "p", "--", "sha256sum"], protocol), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    feed(p.stdin.write, size)
    p.stdin.close()
    return p.stdout.read().decode().split()[0] if p.wait() == 0 else "failed"


def exec_out(c, protocol, _):
    p = subprocess.Popen(**c.command(["exec", "p", "--", "cat", "/data"], protocol), stdout=subprocess.PIPE)
    digest = hashlib.sha256()
    while chunk := p.stdout.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest() if p.wait() == 0 else "failed"


def forwarded(c, protocol, port, use):
    p = subprocess.Popen(**c.command(["port-forward", "pod/p", f":{port}"], protocol), stdout=subprocess.PIPE, text=True)
    try:
        local = int(p.stdout.readline().split(":")[1].split()[0])
        with socket.create_connection(("127.0.0.1", local)) as s:
            return use(s)
    finally:
        p.terminate()
        p.wait()


def forward_in(c, protocol, size):
    def use(s):
        feed(s.sendall, size)
        s.shutdown(socket.SHUT_WR)
        return s.makefile().read().split()[0]
    return forwarded(c, protocol, 9000, use)


def forward_out(c, protocol, _):
    def use(s):
        digest = hashlib.sha256()
        while chunk := s.recv(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()
    return forwarded(c, protocol, 9001, use)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--megabytes", type=int, default=32)
    p.add_argument("--sequential", type=int, default=40)
    p.add_argument("--concurrent", type=int, default=20)
    o = p.parse_args()
    knarr, kubectl = os.environ.get("KNARR"), os.environ.get("KUBECTL")
    if os.geteuid() != 0 or not knarr or not kubectl:
        sys.exit("needs root, KNARR and KUBECTL: run it by hack/cri-suite")
    c = Cluster(knarr, kubectl)
    problems = []
    try:
        archive(f"{c.folder}/image.tar")
        subprocess.run([knarr, "images", "import", f"{c.folder}/image.tar"] + c.folders, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(**c.command(["apply", "-f", "-"]), input=json.dumps(POD), text=True, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(**c.command(["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"]), check=True, stdout=subprocess.DEVNULL)
        size = o.megabytes << 20
        expected = digest_of(size)
        fill = subprocess.Popen(**c.command(["exec", "-i", "p", "--", "sh", "-c", "cat >/data"]), stdin=subprocess.PIPE)
        feed(fill.stdin.write, size)
        fill.stdin.close()
        fill.wait()
        print(f"{o.megabytes} MB each; the node's program uses {c.memory():.0f} MB at rest")
        for work in (exec_in, exec_out, forward_in, forward_out):
            for protocol in PROTOCOLS:
                with Watch(c) as watch:
                    begin = time.time()
                    got = work(c, protocol, size)
                    seconds = time.time() - begin
                name = f"{work.__name__.replace('_', ' ')}, {protocol}"
                print(f"{name:26} {seconds:6.1f} s  {o.megabytes / seconds:6.0f} MB/s  at most {watch.most:4.0f} MB of memory", flush=True)
                if got != expected:
                    problems.append(f"{name}: digest {got} instead of {expected}")
        before = c.holdings()
        begin = time.time()
        for n in range(o.sequential):
            protocol = list(PROTOCOLS)[n % 2]
            if c.out(["exec", "p", "--", "echo", str(n)], protocol) != f"{n}\n":
                problems.append(f"exec {n} over {protocol} said something else")
        print(f"{o.sequential} execs one after another: {time.time() - begin:.1f} s")
        begin = time.time()
        script = f"echo here; sleep {max(3, o.concurrent // 10)}; exit 7"
        started = [subprocess.Popen(**c.command(["exec", "p", "--", "sh", "-c", script], list(PROTOCOLS)[n % 2]),
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for n in range(o.concurrent)]
        wrong = sum((s.stdout.read(), s.wait()) != (b"here\n", 7) for s in started)
        print(f"{o.concurrent} execs at once: {time.time() - begin:.1f} s")
        if wrong:
            problems.append(f"{wrong} of the execs at once ended otherwise")
        end = time.time() + 20
        while True:
            after = c.holdings()
            fewer = after["descriptors"] <= before["descriptors"] + 4 and after["threads"] <= before["threads"] + 4
            if (fewer and after["processes"] == before["processes"]) or time.time() > end:
                break
            time.sleep(0.5)
        print(f"descriptors {before['descriptors']} → {after['descriptors']}, threads {before['threads']} → {after['threads']}, "
              f"processes {len(before['processes'])} → {len(after['processes'])}")
        if not fewer or after["processes"] != before["processes"]:
            problems.append(f"left behind: {before} became {after}")
    finally:
        c.end()
    print("\n".join(problems) if problems else "all as it was sent, nothing left")
    sys.exit(1 if problems else 0)


main()
