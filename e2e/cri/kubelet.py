#!/usr/bin/env python3
"""Our kubelet over containerd: static pods come, are probed, restarted, and go.

    hack/cri-suite kubelet

containerd and runc with upstream's CNI plugins, unmodified, on folders of their own; `knarr kubelet
--container-runtime-endpoint` above them. What containerd has is asked of it by crictl. Needs root; best in
namespaces of its own.
"""
import json, os, pathlib, subprocess, sys, tempfile, time

from node import IMAGE, archive, read

CACHE = pathlib.Path(os.environ.get("KNARR_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "knarr"))
UPSTREAM = CACHE / "upstream"
NETWORK = {"cniVersion": "1.0.0", "name": "suite", "plugins": [
    {"type": "bridge", "bridge": "suite0", "isGateway": True, "ipMasq": False,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.251.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}


def manifest(name, script, **more):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script], **more}]}}


class Stand:
    def __init__(self, knarr):
        self.knarr, self.parts = knarr, []
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="knarr-suite-", dir="/run"))
        self.socket = self.folder / "containerd.sock"
        self.ctr = [UPSTREAM / "ctr", "-a", self.socket, "-n", "k8s.io"]
        self.own = ["--data-dir", self.folder / "data", "--run-dir", self.folder / "run"]
        (self.folder / "net.d").mkdir()
        (self.folder / "manifests").mkdir()

    def start(self, name, *command, env=None):
        log = open(self.folder / f"{name}.log", "w")
        self.parts.append(subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env={**os.environ, **(env or {})}))

    def run(self):
        (self.folder / "net.d/10-suite.conflist").write_text(json.dumps(NETWORK))
        template = (pathlib.Path(__file__).resolve().parent.parent / "upstream/containerd.toml").read_text()
        (self.folder / "containerd.toml").write_text(template.format(
            root=self.folder / "containerd", state=self.folder / "state", socket=self.socket, plugins=UPSTREAM, networks=self.folder / "net.d"))
        self.start("containerd", UPSTREAM / "containerd", "--config", self.folder / "containerd.toml", env={"PATH": f"{UPSTREAM}:{os.environ['PATH']}"})
        self.wait("containerd", lambda: self.crictl("version") is not None)
        archive(self.folder / "image.tar")
        for image in (self.folder / "image.tar", CACHE / "images" / "pause.tar"):
            subprocess.run([*self.ctr, "images", "import", "--local", image], check=True, stdout=subprocess.DEVNULL)
        self.start("kubelet", self.knarr, *self.own, "kubelet", "--manifests", self.folder / "manifests", "--container-runtime-endpoint", f"unix://{self.socket}")

    def crictl(self, *words):
        done = subprocess.run([UPSTREAM / "crictl", "--config", "/dev/null", "-r", f"unix://{self.socket}", "-i", f"unix://{self.socket}", *words],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.stdout if done.returncode == 0 else None

    def containers(self, name, *words):
        listed = json.loads(self.crictl("ps", "-a", "-o", "json", "--label", f"io.kubernetes.pod.name={name}", *words) or "{}")
        return listed.get("containers") or []

    def wait(self, what, holds, seconds=60):
        end = time.time() + seconds
        while not holds():
            if time.time() > end or any(p.poll() is not None for p in self.parts):
                logs = "\n".join(read(self.folder / f"{n}.log")[-3000:] for n in ("kubelet", "containerd"))
                sys.exit(f"{what}: not in {seconds} s\n{logs}\n{self.crictl('ps', '-a')}\n{self.crictl('pods')}")
            time.sleep(0.2)
        print(f"{what}: yes", flush=True)

    def end(self):
        for part in reversed(self.parts[1:]):
            part.terminate()
            part.wait()
        self.crictl("rmp", "-fa")
        for part in self.parts[:1]:
            part.terminate()
            part.wait()
        for line in reversed(read("/proc/self/mounts").splitlines()):
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[1]])
        subprocess.run([self.knarr, "reset", *self.own], capture_output=True)
        subprocess.run(["ip", "link", "delete", "suite0"], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--one-file-system", self.folder])


def main():
    knarr = os.environ.get("KNARR")
    if os.geteuid() != 0 or not knarr:
        sys.exit("needs root and KNARR: run it by hack/cri-suite")
    if not (CACHE / "images" / "pause.tar").exists():
        print("skipped: the pause image is not built (e2e/images/build)")
        return
    s = Stand(knarr)
    try:
        s.run()
        at = s.folder / "manifests"
        name = subprocess.run(["hostname"], capture_output=True, text=True).stdout.strip().lower()
        probe = {"exec": {"command": ["test", "-f", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1}
        (at / "stays.json").write_text(json.dumps(manifest("stays", "touch /tmp/alive; echo it runs; exec sleep 1000", livenessProbe=probe)))
        (at / "sick.json").write_text(json.dumps(manifest("sick", "echo begun; exec sleep 1000", livenessProbe=probe)))
        stays, sick = f"stays-{name}", f"sick-{name}"
        s.wait("a pod runs in containerd", lambda: [c["state"] for c in s.containers(stays)] == ["CONTAINER_RUNNING"])
        s.wait("its log can be read", lambda: "it runs" in (s.crictl("logs", s.containers(stays)[0]["id"]) or ""))
        s.wait("one whose probe fails is begun again", lambda: any(c["metadata"].get("attempt", 0) >= 1 for c in s.containers(sick)))
        (at / "sick.json").unlink()
        s.wait("a pod whose manifest is removed is gone", lambda: not s.containers(sick))
        if [(c["state"], c["metadata"].get("attempt", 0)) for c in s.containers(stays)] != [("CONTAINER_RUNNING", 0)]:
            sys.exit("the other pod did not go on as it was")
    finally:
        s.end()


main()
