"""One container of a test: a bundle with busybox in it, and the runtime's commands on it."""
import json, os, shutil, subprocess, sys, time

CGROUP = "/knarr-conformance"
APPLETS = "sh true cat ls id ps mount sleep echo stat grep hostname dd env head wc kill touch readlink chmod mkdir nproc rm umask find xargs".split()
CASES = []
# Only the version 2 hierarchy is there.
V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


class Skip(Exception):
    """This machine cannot run the case; says why."""


def case(f):
    """A case that passes with upstream's runc too."""
    CASES.append(f)
    return f


def beyond(why):
    """A case that asks more than upstream's runc keeps; it says what, and is run only where the runtime is ours."""
    def mark(f):
        f.beyond = why
        CASES.append(f)
        return f
    return mark


class Box:
    """One runtime, one bundle, one container name."""

    def __init__(self, runtime, folder, name, root=None):
        self.runtime, self.id = runtime, "kc-" + name.replace("_", "-")
        self.root, self.flags = root or os.path.join(folder, "root"), []
        self.bundle = os.path.join(folder, name)
        self.rootfs = os.path.join(self.bundle, "rootfs")
        for d in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            os.makedirs(os.path.join(self.rootfs, d))
        busybox = shutil.which("busybox") or sys.exit("busybox is missing: install busybox-static")
        shutil.copy(busybox, os.path.join(self.rootfs, "bin/busybox"))
        for a in APPLETS:
            os.symlink("busybox", os.path.join(self.rootfs, "bin", a))
        with open(os.path.join(self.rootfs, "etc/passwd"), "w") as f:
            f.write("root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n")
        caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
        self.c = {
            "ociVersion": "1.0.2",
            "process": {"terminal": False, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
                        "env": ["PATH=/bin"], "noNewPrivileges": True,
                        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}},
            "root": {"path": "rootfs", "readonly": False},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": CGROUP + "/" + self.id,
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount")],
                "maskedPaths": ["/proc/keys", "/proc/acpi", "/proc/not-there"], "readonlyPaths": ["/proc/sys"],
            },
        }

    def sh(self, script):
        self.c["process"]["args"] = ["sh", "-c", script]
        return self

    def save(self):
        with open(os.path.join(self.bundle, "config.json"), "w") as f:
            json.dump(self.c, f)

    def call(self, *args, timeout=20):
        r = subprocess.run([self.runtime, "--root", self.root, *self.flags, *args], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=timeout)
        return r.returncode, r.stdout, r.stderr

    def good(self, *args):
        """A command that must succeed; answers its output."""
        code, out, err = self.call(*args)
        assert code == 0, f"{' '.join(args)}: exit {code}: {err}"
        return out

    def quiet(self, *args):
        """A command whose process goes on, and must not hold our pipes."""
        r = subprocess.run([self.runtime, "--root", self.root, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=20)
        assert r.returncode == 0, f"{' '.join(args)}: exit {r.returncode}"

    def bad(self, *args):
        """A command that must fail; answers what it says."""
        code, out, err = self.call(*args)
        assert code != 0, f"{' '.join(args)} succeeded: {out}"
        return err

    def create(self, *flags, **streams):
        """Makes the container with its output in a file; answers the exit code and what was said."""
        self.save()
        with open(os.path.join(self.bundle, "log"), "w+") as log:
            r = subprocess.run([self.runtime, "--root", self.root, "create", "-b", self.bundle, *flags, self.id],
                               **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "timeout": 20, **streams})
            log.seek(0)
            return r.returncode, log.read()

    def traverse(self, uid=None):
        """Lets other users come to the root folder, and gives it to one."""
        p = self.rootfs
        while p != "/":
            os.chmod(p, os.stat(p).st_mode | 0o011)
            p = os.path.dirname(p)
        if uid is not None:
            os.chown(self.rootfs, uid, uid)

    def run(self, *flags):
        self.save()
        return self.call("run", "-b", self.bundle, *flags, self.id)

    def output(self):
        code, out, err = self.run()
        assert code == 0, f"exit {code}: {err}"
        return out

    def start(self):
        """create and start in the background; returns the pid."""
        self.save()
        with open(os.path.join(self.bundle, "log"), "w") as log:
            for args in (["create", "-b", self.bundle, self.id], ["start", self.id]):
                r = subprocess.run([self.runtime, "--root", self.root, *self.flags, *args], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, timeout=20)
                assert r.returncode == 0, open(os.path.join(self.bundle, "log")).read()
        return self.state()["pid"]

    def state(self):
        code, out, err = self.call("state", self.id)
        assert code == 0, err
        return json.loads(out)

    def wait_status(self, status):
        for _ in range(100):
            if self.state()["status"] == status:
                return
            time.sleep(0.05)
        raise AssertionError(f"never {status}: {self.state()['status']}")

    def cgroup_folder(self, controller):
        for base in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup"):
            path = f"{base}{self.c['linux']['cgroupsPath']}"
            if os.path.exists(path):
                return path
        return None

    def cgroup(self, controller, file):
        """A setting of the container's cgroup."""
        folder = self.cgroup_folder(controller)
        assert folder, f"no cgroup of {controller}"
        return open(f"{folder}/{file}").read().strip()

    def close(self):
        self.call("delete", "-f", self.id)


def clean_cgroups():
    """Removes the cgroups that the boxes were in."""
    for h in [*os.listdir("/sys/fs/cgroup"), "."]:
        path = f"/sys/fs/cgroup/{h}{CGROUP}"
        for folder, _, _ in os.walk(path, topdown=False):
            os.rmdir(folder)


def eq(a, b):
    assert a == b, f"{a!r} != {b!r}"


def needs_id_maps(b):
    release = tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])
    kind = subprocess.run(["stat", "-f", "-c", "%T", b.bundle], capture_output=True, text=True).stdout.strip()
    if kind == "tmpfs" and release < (6, 3):
        raise Skip("tmpfs of this kernel maps no ids")


def until(true, what):
    """Waits for something to become true."""
    for _ in range(300):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError(f"never {what}")
