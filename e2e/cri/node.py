"""`knarr cri` on folders of its own, driven by upstream's crictl: what the suites here share."""
import hashlib, io, json, os, subprocess, sys, tarfile, tempfile, time

CGROUP = "/knarr-suite"
IMAGE = "localhost/busybox:suite"


def archive(path):
    """A Docker archive with this machine's static busybox and all its applets."""
    busybox = next(p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p))
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        def add(name, kind, mode, link="", content=b""):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.size = kind, mode, link, len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            add(name, tarfile.DIRTYPE, mode)
        add("bin/busybox", tarfile.REGTYPE, 0o755, content=open(busybox, "rb").read())
        for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, "busybox")
    layer = layer.getvalue()
    config = {"architecture": "amd64" if os.uname().machine == "x86_64" else "arm64", "os": "linux",
              "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, content in (("layer.tar", layer), ("config.json", json.dumps(config).encode()),
                              ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def read(path):
    try:
        return open(path).read()
    except OSError:
        return ""


def processes():
    """Every process that has not ended: pid, command, and the cgroups it is in."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        name = read(f"/proc/{pid}/comm").strip()
        # An ended one waits for the machine's own pid 1, or the namespace's.
        if name and read(f"/proc/{pid}/stat").rpartition(") ")[2][:1] not in ("Z", "X", ""):
            yield int(pid), name, read(f"/proc/{pid}/cgroup")


def tree(top):
    """The paths below a folder."""
    return {os.path.join(d, n) for d, dirs, files in os.walk(top) for n in dirs + files}


class Node:
    """The services, and what they leave on the machine."""

    def __init__(self, knarr, crictl):
        self.knarr, self.crictl_path = knarr, crictl
        self.folder = tempfile.mkdtemp(prefix="knarr-suite-", dir="/run")
        self.run, self.data = f"{self.folder}/run", f"{self.folder}/data"
        self.socket = f"{self.folder}/cri.sock"
        self.folders = ["--data-dir", self.data, "--run-dir", self.run]
        self.child = None

    def start(self):
        log = open(f"{self.folder}/log", "a")
        command = [self.knarr, "cri", "--listen", self.socket] + self.folders
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        end = time.time() + 60
        while self.crictl("version")[0] != 0:
            if self.child.poll() is not None or time.time() > end:
                sys.exit(f"knarr cri does not serve:\n{read(f'{self.folder}/log')}")
            time.sleep(0.05)

    def load(self):
        archive(f"{self.folder}/image.tar")
        command = [self.knarr, "images", "import", f"{self.folder}/image.tar"] + self.folders
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def crictl(self, *arguments, timeout=60):
        """Exit code, stdout, stderr."""
        command = [self.crictl_path, "--config", "/dev/null", "--timeout", f"{timeout}s", "-r", f"unix://{self.socket}",
                   "-i", f"unix://{self.socket}", *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + 30, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return 124, "", "it hangs"
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def must(self, *arguments):
        code, out, err = self.crictl(*arguments)
        if code != 0:
            sys.exit(f"crictl {' '.join(arguments)}: {err}")
        return out

    def file(self, name, value):
        path = f"{self.folder}/{name}"
        json.dump(value, open(path, "w"))
        return path

    def configs(self, name, attempt=0, command=("sleep", "1000")):
        """Files with the configurations of a pod and of its container."""
        pod = {"metadata": {"name": name, "namespace": "suite", "uid": name, "attempt": attempt}, "hostname": name,
               "log_directory": f"{self.folder}/logs/{name}", "linux": {"cgroup_parent": f"{CGROUP}/{name}"}}
        container = {"metadata": {"name": "main", "attempt": attempt}, "image": {"image": IMAGE}, "log_path": "main.log",
                     "command": list(command), "linux": {}}
        return self.file(f"{name}.pod", pod), self.file(f"{name}.container", container)

    def picture(self, everything=False):
        """What is on the machine of mounts, cgroups, processes, interfaces, rules, namespaces and state files."""
        found = set()
        for line in read("/proc/self/mountinfo").splitlines():
            found.add("mount " + line.split(" ")[4])
        for h in os.listdir("/sys/fs/cgroup"):
            for top in (CGROUP, "/knarr"):
                found |= {"cgroup " + d for d, _, _ in os.walk(f"/sys/fs/cgroup/{h}{top}")}
        for pid, name, cgroups in processes():
            kept = self.child and pid == self.child.pid
            if not kept and (name.startswith(("knarr", "pause")) or CGROUP in cgroups):
                found.add(f"process {name}")
        for what, command in (("link", ["ip", "-o", "link"]), ("rule", ["nft", "list", "ruleset"]), ("netns", ["ip", "netns"]),
                              ("route", ["ip", "route"])):
            done = subprocess.run(command, capture_output=True, text=True)
            for line in done.stdout.splitlines():
                # A link's number, and what counts packets, is not its identity.
                found.add(f"{what} {line.split(': ')[1] if what == 'link' else line.strip()}")
        for name in ("oci", "cri/sandboxes", "cri/containers"):
            found |= {"file " + p for p in tree(f"{self.run}/{name}")}
        for name in ("images/rw", "images/ingest", "network", "cni"):
            found |= {"file " + p for p in tree(f"{self.data}/{name}")}
        return found

    def settle(self, before, seconds=30):
        """What differs from an earlier picture once things had time to come to rest."""
        end = time.time() + seconds
        while True:
            now = self.picture()
            if now == before or time.time() > end:
                return sorted(f"left: {x}" for x in now - before) + sorted(f"gone: {x}" for x in before - now)
            time.sleep(0.5)

    def remove_cgroups(self, name, seconds=20):
        """Removes a pod's own cgroups, as its kubelet does; says which are in use still."""
        end = time.time() + seconds
        while True:
            held = []
            for h in os.listdir("/sys/fs/cgroup"):
                for d, _, _ in os.walk(f"/sys/fs/cgroup/{h}{CGROUP}/{name}", topdown=False):
                    try:
                        os.rmdir(d)
                    except OSError as e:
                        held.append(f"{d}: {e.strerror}: {read(f'{d}/cgroup.procs').split()}")
            if not held or time.time() > end:
                return held
            time.sleep(0.2)

    def kill(self):
        self.child.kill()
        self.child.wait()

    def end(self):
        if self.child and self.child.poll() is None:
            self.child.terminate()
            self.child.wait()
        self.remove_cgroups("")
        subprocess.run([self.knarr, "reset"] + self.folders, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--one-file-system", self.folder])


def programs():
    """knarr and crictl, from the environment."""
    knarr, crictl = os.environ.get("KNARR"), os.environ.get("KNARR_TEST_CRICTL")
    if os.geteuid() != 0 or not knarr or not crictl:
        sys.exit("needs root, KNARR and KNARR_TEST_CRICTL: run it by hack/cri-suite")
    return knarr, crictl
