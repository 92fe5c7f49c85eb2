"""Without root: one id, ranges of ids, and as root of a user namespace that somebody else made."""
import json, os, shutil, subprocess

from box import V2, Skip, case, eq

USER = 1234


class User:
    """The box as an ordinary user sees it. Who that is stands in files of a mount namespace of its own."""

    def __init__(self, b, maps=None):
        self.b = b
        b.traverse()
        b.root = os.path.join(b.bundle, "state")
        os.mkdir(b.root)
        # Where the runtime is need not be reachable for everybody.
        self.program = shutil.copy(b.runtime, os.path.join(b.bundle, "program"))
        for p in (b.bundle, b.root):
            os.chown(p, USER, USER)
        for folder, _, files in os.walk(b.rootfs):
            for p in [folder, *(os.path.join(folder, f) for f in files)]:
                os.chown(p, USER, USER, follow_symlinks=False)
        self.maps = maps or [{"containerID": 0, "hostID": USER, "size": 1}]
        b.c["linux"].update(uidMappings=self.maps, gidMappings=self.maps, resources={})
        b.c["linux"]["namespaces"] = [{"type": t} for t in ("pid", "ipc", "uts", "mount", "user", "network")]
        del b.c["linux"]["cgroupsPath"]
        b.c["process"]["noNewPrivileges"] = True
        self.files, self.cgroup = {}, None
        for name, text in (("passwd", open("/etc/passwd").read() + f"kcuser:x:{USER}:{USER}::/tmp:/bin/sh\n"),
                           ("subuid", "kcuser:400000:65536\n"), ("subgid", "kcuser:400000:65536\n")):
            self.files[name] = os.path.join(b.bundle, "etc-" + name)
            open(self.files[name], "w").write(text)
        b.close = lambda: self.call("delete", "-f", b.id)

    def call(self, *args, before=""):
        join = f"echo $$ > {self.cgroup}/cgroup.procs; " if self.cgroup else ""
        mounts = join + "".join(f"touch /etc/{n}; mount --bind {p} /etc/{n}; " for n, p in self.files.items())
        script = mounts + f"exec setpriv --reuid {USER} --regid {USER} --clear-groups -- {before} \"$@\""
        r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", self.program, "--root", self.b.root, *args], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=20, env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": self.b.root})
        return r.returncode, r.stdout, r.stderr

    def run(self, script, *flags, before=""):
        self.b.sh(script).save()
        code, out, err = self.call(*flags, "run", "-b", self.b.bundle, self.b.id, before=before)
        assert code == 0, f"exit {code}: {err}"
        return out


@case
def rootless_with_one_id(b):
    u = User(b)
    eq(u.run("id -u; hostname; cat /proc/self/uid_map; touch /tmp/made").split(), ["0", "box", "0", str(USER), "1"])
    eq(os.stat(b.rootfs + "/tmp/made").st_uid, USER)


@case
def rootless_with_ranges_of_ids(b):
    if not shutil.which("newuidmap"):
        raise Skip("newuidmap is missing (Debian: uidmap)")
    u = User(b, [{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 400000, "size": 1000}])
    b.c["process"]["user"] = {"uid": 33, "gid": 34}
    os.chmod(b.rootfs + "/tmp", 0o777)
    eq(u.run("id -u; id -G; touch /tmp/made").split(), ["33", "34"])
    eq(os.stat(b.rootfs + "/tmp/made").st_uid, 400032)


@case
def rootless_as_root_of_a_user_namespace(b):
    u = User(b)
    del b.c["linux"]["uidMappings"], b.c["linux"]["gidMappings"]
    b.c["linux"]["namespaces"] = [n for n in b.c["linux"]["namespaces"] if n["type"] != "user"]
    eq(u.run("id -u; hostname", before="unshare --user --map-root-user --mount").split(), ["0", "box"])


@case
def the_rootless_spec_runs(b):
    u = User(b)
    code, _, err = u.call("spec", "--rootless", "-b", b.bundle)
    eq((code, err), (0, ""))
    c = json.load(open(b.bundle + "/config.json"))
    c["process"].update(terminal=False, args=["id", "-u"])
    c["mounts"] = [m for m in c["mounts"] if m["type"] != "cgroup"]
    json.dump(c, open(b.bundle + "/config.json", "w"))
    code, out, err = u.call("run", "-b", b.bundle, b.id)
    eq((code, out, err), (0, "0\n", ""))


@case
def rootless_life(b):
    u = User(b)
    b.sh("while :; do sleep 0.1; done").save()
    log = os.path.join(b.bundle, "log")
    code, _, err = u.call("create", "-b", b.bundle, b.id, before=f"sh -c 'exec \"$@\" > {log} 2>&1' sh")
    eq((code, err), (0, ""))
    eq(u.call("start", b.id)[0], 0)
    eq(json.loads(u.call("state", b.id)[1])["status"], "running")
    code, out, err = u.call("exec", b.id, "id", "-u")
    eq((code, out), (0, "0\n"))
    eq(u.call("kill", b.id, "KILL")[0], 0)
    code, _, err = u.call("delete", "-f", b.id)
    eq((code, err), (0, ""))
    assert u.call("state", b.id)[0] != 0


@case
def rootless_limits_that_cannot_be_kept_are_refused(b):
    u = User(b)
    b.c["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
    b.sh("true").save()
    code, _, err = u.call("run", "-b", b.bundle, b.id)
    assert code != 0, "a limit was taken that nobody keeps"
    assert not os.listdir(b.root), os.listdir(b.root)


@case
def rootless_ids_that_are_not_ours_are_refused(b):
    u = User(b, [{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 1, "size": 1000}])
    b.sh("true").save()
    assert u.call("run", "-b", b.bundle, b.id)[0] != 0
    assert not os.listdir(b.root), os.listdir(b.root)


@case
def rootless_in_a_cgroup_that_was_handed_over(b):
    if not V2:
        raise Skip("version 1 cannot be handed over")
    u = User(b)
    top = "/sys/fs/cgroup/kc-handed"
    u.cgroup = top + "/caller"
    os.makedirs(u.cgroup)
    try:
        controllers = "+memory +pids"
        open("/sys/fs/cgroup/cgroup.subtree_control", "w").write(controllers)
        for folder in (top, u.cgroup):
            for f in ("", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"):
                os.chown(folder + f, USER, USER)
        b.c["linux"]["cgroupsPath"] = "/kc-handed/box"
        b.c["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 22}}
        eq(u.run("cat /proc/self/cgroup").strip(), "0::/kc-handed/box")
        b.sh("while :; do sleep 0.1; done").save()
        log = os.path.join(b.bundle, "log")
        eq(u.call("run", "-d", "-b", b.bundle, b.id, before=f"sh -c 'exec \"$@\" > {log} 2>&1' sh")[0], 0)
        eq(open(top + "/box/memory.max").read().strip(), str(64 << 20))
        eq(open(top + "/box/pids.max").read().strip(), "22")
        eq(u.call("pause", b.id)[0], 0)
        eq(json.loads(u.call("state", b.id)[1])["status"], "paused")
        eq(u.call("resume", b.id)[0], 0)
        eq(u.call("delete", "-f", b.id)[0], 0)
        assert not os.path.exists(top + "/box")
    finally:
        b.close()
        for folder, _, _ in os.walk(top, topdown=False):
            os.rmdir(folder)
