#!/usr/bin/env python3
"""Checkpoints of containers, asked for by upstream's crictl; one is restored by the OCI runtime.

    hack/cri-suite checkpoint

What the archive holds must be what Kubernetes' tools look for in it, the container must go on as if
nothing had been, and from the archive alone, the image and the pod, it must go on again elsewhere.
Says that it skips where CRIU (Debian: criu) is missing or does not run. Needs root.
"""
import json, os, shutil, subprocess, sys, tarfile, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "oci"))
from criu import prepare
from node import CGROUP, Node, programs, read

COUNT = "echo kept > /kept; rm /bin/yes; i=0; while :; do i=$((i+1)); echo $i > /count; echo line $i; sleep 0.05; done"
MEMBERS = {"config.dump", "spec.dump", "status.dump", "rootfs-diff.tar", "checkpoint/inventory.img", "checkpoint/descriptors.json"}


def until(what, condition, seconds=20):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            sys.exit(f"checkpoint: waited too long for {what}")
        time.sleep(0.05)


def same(found, wanted, what):
    if found != wanted:
        sys.exit(f"checkpoint: {what}: {found!r}, not {wanted!r}")


class Counter:
    """A container that counts, in memory and in a file of its root."""

    def __init__(self, node, name, **more):
        self.node, self.name = node, name
        self.pod_file, self.container_file = node.configs(name, command=("sh", "-c", COUNT))
        config = json.load(open(self.container_file))
        # A pid namespace of its own, as the kubelet asks for: another's pids are free when it is restored.
        config["linux"] = {"security_context": {"namespace_options": {"pid": 1}}}
        config.update(more)
        node.file(f"{name}.container", config)
        self.pod = node.must("runp", self.pod_file)
        self.id = node.must("create", self.pod, self.container_file, self.pod_file)

    def start(self):
        self.node.must("start", self.id)
        until("the first counts", lambda: self.count() > 3)

    def count(self):
        code, out, _ = self.node.crictl("exec", "-s", self.id, "cat", "/count")
        return int(out) if code == 0 and out else 0

    def checkpoint(self, path):
        return self.node.crictl("checkpoint", f"--export={path}", self.id)

    def lines(self):
        """The numbers in its log."""
        log = read(f"{self.node.folder}/logs/{self.name}/main.log")
        return [int(line.split()[-1]) for line in log.splitlines() if line.split()[-2:-1] == ["line"]]

    def close(self):
        self.node.must("rmp", "-f", self.pod)


def written(node, counter, archive):
    """Takes a checkpoint; the container goes on, and no line of its log is lost."""
    before = counter.count()
    code, out, err = counter.checkpoint(archive)
    same(code, 0, f"checkpoint of {counter.name}: {err}")
    same(os.stat(archive).st_mode & 0o777, 0o600, "mode of the archive")
    names = set(tarfile.open(archive).getnames())
    same(MEMBERS - names, set(), "missing in the archive")
    status = json.loads(node.must("inspect", counter.id))["status"]
    same(status["state"], "CONTAINER_RUNNING", "state after it")
    until("it to go on", lambda: counter.count() > before)
    lines = counter.lines()
    same(lines, list(range(1, len(lines) + 1)), "log")


def restored(node, counter, archive, runc):
    """The container once more, from the archive, under another name."""
    bundle = f"{node.folder}/again"
    rootfs = f"{bundle}/rootfs"
    os.makedirs(rootfs)
    with tarfile.open(archive) as tar:
        tar.extractall(bundle, filter="fully_trusted")
    with tarfile.open(f"{node.folder}/image.tar") as image:
        tarfile.open(fileobj=image.extractfile("layer.tar")).extractall(rootfs, filter="fully_trusted")
    with tarfile.open(f"{bundle}/rootfs-diff.tar") as diff:
        names = diff.getnames()
        assert "kept" in names and "bin/.wh.yes" in names, names
        diff.extractall(rootfs, filter="fully_trusted")
    spec = json.load(open(f"{bundle}/spec.dump"))
    spec["root"]["path"] = rootfs
    spec["linux"]["cgroupsPath"] = f"{CGROUP}/again"
    json.dump(spec, open(f"{bundle}/config.json", "w"))
    at = int(read(f"{rootfs}/count"))
    os.remove(f"{rootfs}/count")
    command = [runc, "--root", f"{bundle}/state", "--log", f"{bundle}/log"]
    read_end, write_end = os.pipe()
    done = subprocess.run([*command, "restore", "-d", "--image-path", f"{bundle}/checkpoint", "--work-path", f"{bundle}/work",
                           "-b", bundle, "again"], stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end)
    os.close(write_end)
    try:
        same(done.returncode, 0, f"restore: {read(f'{bundle}/log')}\n{read(f'{bundle}/work/restore.log')[-2000:]}")
        until("the restored one to count", lambda: int(read(f"{rootfs}/count") or 0) > at)
        with open(read_end) as lines:
            first = int(lines.readline().split()[1])
        assert first > at - 2, f"it began anew: {first} after {at}"
    finally:
        subprocess.run([*command, "delete", "-f", "again"], stderr=subprocess.DEVNULL)


def main():
    knarr, crictl = programs()
    runc = os.environ["KNARR_RUNC"]
    work = tempfile.mkdtemp(prefix="knarr-suite-criu-")
    node = Node(knarr, crictl)
    try:
        trouble = prepare(work)
        before = os.environ["PATH"]
        if not trouble:
            os.environ["PATH"] = f"{work}:{before}"
        node.start()
        node.load()
        counter = Counter(node, "plain")
        early = counter.checkpoint(f"{node.folder}/early.tar")
        assert early[0] and "CONTAINER_RUNNING" in early[2], early
        counter.start()
        assert counter.checkpoint("relative.tar")[0]
        archive = f"{node.folder}/plain.tar"
        if trouble:
            code, _, err = counter.checkpoint(archive)
            assert code and not os.path.exists(archive), "a checkpoint without CRIU"
            print(f"checkpoint: skipped but for its refusals: {trouble}")
        else:
            written(node, counter, archive)
            restored(node, counter, archive, runc)
            # The services go, and come back; a checkpoint may be taken again.
            node.kill()
            node.start()
            written(node, counter, f"{node.folder}/plain-2.tar")
            for name, more in (("input", {"stdin": True}), ("terminal", {"stdin": True, "tty": True})):
                other = Counter(node, name, **more)
                other.start()
                if name == "terminal":
                    same(other.checkpoint(f"{node.folder}/{name}.tar")[0], 0, "checkpoint with a terminal")
                    until("it to go on", lambda since=other.count(): other.count() > since)
                else:
                    written(node, other, f"{node.folder}/{name}.tar")
                other.close()
            print("checkpoint: written, restored, and the containers went on")
        same([p for p in os.listdir(f"{node.run}/cri/containers/{counter.id}") if p == "checkpoint"], [], "left behind")
        counter.close()
    finally:
        node.end()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
