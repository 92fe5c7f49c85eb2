#!/usr/bin/env python3
"""Pods live and go while everything that holds them up is killed; nothing may stay behind.

    hack/cri-suite faults [--pods N] [--workers N] [--seed N] [--pause MS]

Workers run pods through their whole life with upstream's crictl, as a kubelet would: what fails is
asked for again, and a pod that was lost is removed and made anew. Meanwhile the services, shims,
containers, pause processes and the runtime's own helpers are killed with SIGKILL at any moment. At
the end the machine's mounts, cgroups, processes, namespaces, interfaces, rules and state files must
be what they were. Needs root; best in namespaces of its own.
"""
import argparse, collections, json, os, random, signal, sys, threading, time

from node import CGROUP, Node, processes, programs

STEPS = ["run", "create", "start", "exec", "stop", "stop pod", "remove pod"]


class Run:
    def __init__(self, node, options):
        self.node, self.options = node, options
        self.lock, self.guard = threading.Lock(), threading.Lock()
        self.left, self.done, self.again = options.pods, 0, 0
        self.at = {}
        self.kills = collections.Counter()
        self.phases = collections.Counter()
        self.troubles, self.errors = [], collections.Counter()
        self.over = threading.Event()

    def step(self, pod, name, *arguments):
        """Asks until it is done, as long as the services are only away."""
        with self.lock:
            self.at[pod] = name
        end = time.time() + 120
        while True:
            code, out, err = self.node.crictl(*arguments, timeout=20)
            if code == 0:
                return out
            away = any(t in err for t in ("connection refused", "no such file", "Unavailable", "EOF", "connection reset",
                                          "error reading from server", "transport is closing", "validate"))
            if not away or time.time() > end:
                with self.lock:
                    self.errors[f"{name}: {err.splitlines()[-1][-160:] if err else code}"] += 1
                raise RuntimeError(err)
            time.sleep(0.1)

    def life(self, pod, attempt):
        pod_file, container_file = self.node.configs(pod, attempt)
        sandbox = self.step(pod, "run", "runp", pod_file)
        container = self.step(pod, "create", "create", sandbox, container_file, pod_file)
        self.step(pod, "start", "start", container)
        self.step(pod, "exec", "exec", "-s", container, "true")
        self.step(pod, "stop", "stop", "-t", "1", container)

    def remove(self, pod):
        """All that there is of a pod."""
        end = time.time() + 180
        while True:
            try:
                found = json.loads(self.step(pod, "stop pod", "pods", "--name", f"^{pod}$", "-o", "json"))
                if not found["items"]:
                    return
                for item in found["items"]:
                    self.step(pod, "stop pod", "stopp", item["id"])
                    self.step(pod, "remove pod", "rmp", item["id"])
            except RuntimeError as e:
                if time.time() > end:
                    self.troubles.append(f"{pod} cannot be removed: {e}")
                    return
                time.sleep(0.2)

    def worker(self):
        while True:
            with self.lock:
                if self.left == 0:
                    return
                self.left -= 1
                pod = f"p{self.left}"
            for attempt in range(30):
                try:
                    self.life(pod, attempt)
                    break
                except RuntimeError:
                    with self.lock:
                        self.again += 1
                    self.remove(pod)
            else:
                self.troubles.append(f"{pod} never lived")
            self.remove(pod)
            self.troubles += self.node.remove_cgroups(pod)
            with self.lock:
                self.at.pop(pod, None)
                self.done += 1

    def killer(self):
        dice = random.Random(self.options.seed)
        last = time.time()
        while not self.over.wait(dice.uniform(0.3, 1.7) * self.options.pause / 1000):
            with self.lock:
                if self.left == 0:
                    # The fewer pods there are, the more of the kills would be theirs.
                    return
            if time.time() - last > dice.uniform(1.5, 4):
                with self.guard:
                    self.node.kill()
                    self.count("daemon")
                    time.sleep(dice.choice([0, 0, 0.2]))
                    self.node.start()
                last = time.time()
                continue
            kinds = collections.defaultdict(list)
            for pid, name, cgroups in processes():
                if name == "knarr-shim":
                    kinds["shim"].append(pid)
                elif name.startswith("knarr-runc") or name.startswith("knarr:["):
                    kinds["runtime"].append(pid)
                elif CGROUP in cgroups:
                    kinds["pause" if name == "pause" else "container"].append(pid)
            if kinds:
                kind = dice.choice(sorted(kinds))
                try:
                    os.kill(dice.choice(kinds[kind]), signal.SIGKILL)
                    self.count(kind)
                except ProcessLookupError:
                    pass

    def count(self, kind):
        with self.lock:
            self.kills[kind] += 1
            for step in self.at.values():
                self.phases[(kind, step)] += 1


def stalled(node, run):
    """Nothing has come to its end for a while: tells what there is to see, and gives up."""
    print(f"no pod has ended for a minute: {run.at}", *(f"  {n} × {e}" for e, n in run.errors.most_common(20)), sep="\n")
    run.over.set()
    time.sleep(10)
    print(f"ten seconds after the last kill: {run.at}")
    for command in (["pods"], ["ps", "-a"]):
        print(*node.crictl(*command)[1:], sep="\n")
    for pid, name, _ in processes():
        calls = [open(f"/proc/{pid}/task/{t}/wchan").read() for t in os.listdir(f"/proc/{pid}/task")]
        print(pid, name, open(f"/proc/{pid}/cmdline").read().replace("\0", " ")[:160], calls)
    os.system(f"tail -20 {node.folder}/log")
    os._exit(1)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--pods", type=int, default=1000)
    p.add_argument("--workers", type=int, default=8)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--pause", type=int, default=150)
    p.add_argument("--keep", action="store_true", help="leave the folder for a look at it")
    options = p.parse_args()
    node = Node(*programs())
    first = node.picture()
    node.start()
    node.load()
    run = Run(node, options)
    # What is made once and stays: the bridge, its rules, the folders of cgroups.
    run.life("warm", 0)
    run.remove("warm")
    node.remove_cgroups("warm")
    run.at.clear()
    node.settle(set(), 2)
    before = node.picture()
    fds = len(os.listdir(f"/proc/{node.child.pid}/fd"))
    begin = time.time()
    threads = [threading.Thread(target=run.worker) for _ in range(options.workers)]
    killer = threading.Thread(target=run.killer)
    for t in threads + [killer]:
        t.start()
    seen, since = 0, time.time()
    while any(t.is_alive() for t in threads):
        time.sleep(5)
        print(f"{time.time() - begin:5.0f} s: {run.done} pods, {sum(run.kills.values())} kills, {run.again} lives begun again",
              file=sys.stderr, flush=True)
        if run.done != seen:
            seen, since = run.done, time.time()
        elif time.time() - since > 60:
            stalled(node, run)
    run.over.set()
    killer.join()
    seconds = time.time() - begin
    # Once more from nothing: what the last kills have left must be found.
    node.kill()
    node.start()
    left = node.settle(before)
    descriptors = len(os.listdir(f"/proc/{node.child.pid}/fd"))
    print(f"{run.done} pods in {seconds:.0f} s with {options.workers} workers, seed {options.seed}; {run.again} lives begun again")
    print("killed: " + ", ".join(f"{n} {k}" for k, n in sorted(run.kills.items())))
    print(f"{'pods in the step when killed':30}" + "".join(f"{s:>12}" for s in STEPS))
    for kind in sorted(run.kills):
        print(f"{kind:30}" + "".join(f"{run.phases[(kind, s)]:12}" for s in STEPS))
    print(f"descriptors of the services: {fds} before, {descriptors} after")
    for error, n in run.errors.most_common(12):
        print(f"  {n} × {error}")
    pods = node.must("pods", "-q")
    if pods:
        left.append(f"pods: {pods}")
    problems = run.troubles + left
    if not options.keep:
        node.end()
        problems += [f"after reset: {x}" for x in sorted(node.picture() - first)]
    print("\n".join(problems) if problems else "the machine is as it was")
    sys.exit(1 if problems else 0)


main()
