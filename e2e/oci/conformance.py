#!/usr/bin/env python3
"""Conformance of an OCI runtime: every case runs against any binary with runc's command line.

    e2e/oci/conformance.py RUNTIME [RUNTIME...] [--only NAME]

A case that also passes with upstream's runc on the same machine is a sound case. Needs root and a
static busybox. Everything made lies under one temporary folder and the cgroup /knarr-conformance,
and is removed at the end, also after failures.
"""
import copy, json, os, shutil, signal, subprocess, sys, tempfile, time

CGROUP = "/knarr-conformance"
APPLETS = "sh true cat ls id ps mount sleep echo stat grep hostname dd env head wc kill touch readlink chmod mkdir nproc rm".split()
CASES = []


def case(f):
    CASES.append(f)
    return f


class Box:
    """One runtime, one bundle, one container name."""

    def __init__(self, runtime, folder, name, root=None):
        self.runtime, self.id = runtime, "kc-" + name.replace("_", "-")
        self.root = root or os.path.join(folder, "root")
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
        r = subprocess.run([self.runtime, "--root", self.root, *args], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=timeout)
        return r.returncode, r.stdout, r.stderr

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
                r = subprocess.run([self.runtime, "--root", self.root, *args], stdin=subprocess.DEVNULL,
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

    def cgroup(self, controller, file):
        for base in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup"):
            path = f"{base}{self.c['linux']['cgroupsPath']}/{file}"
            if os.path.exists(path):
                return open(path).read().strip()
        raise AssertionError(f"no {controller} {file}")

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


@case
def exit_code_is_passed_on(b):
    eq(b.sh("exit 42").run()[0], 42)


@case
def nothing_is_left_after_run(b):
    b.output()
    assert b.call("state", b.id)[0] != 0
    assert not os.path.exists(f"/sys/fs/cgroup/memory{CGROUP}/{b.id}")


@case
def lifecycle(b):
    b.sh("while :; do sleep 0.1; done").start()
    eq(b.state()["status"], "running")
    assert b.call("delete", b.id)[0] != 0, "a running container must not be deleted"
    assert b.call("start", b.id)[0] != 0, "a running container must not be started"
    eq(b.call("kill", b.id, "KILL")[0], 0)
    b.wait_status("stopped")
    eq(b.call("delete", b.id)[0], 0)
    assert b.call("delete", b.id)[0] != 0
    eq(b.call("delete", "-f", b.id)[0], 0)


@case
def created_waits_for_start(b):
    b.sh("touch /tmp/ran").save()
    with open(os.devnull, "w") as null:
        subprocess.run([b.runtime, "--root", b.root, "create", "-b", b.bundle, b.id], check=True, stdout=null,
                       stderr=null, stdin=subprocess.DEVNULL)
    eq(b.state()["status"], "created")
    time.sleep(0.2)
    assert not os.path.exists(b.rootfs + "/tmp/ran")
    eq(b.call("start", b.id)[0], 0)
    b.wait_status("stopped")
    assert os.path.exists(b.rootfs + "/tmp/ran")


@case
def a_taken_name_is_refused(b):
    b.sh("sleep 30").start()
    b.save()
    assert b.call("create", "-b", b.bundle, b.id)[0] != 0
    eq(b.state()["status"], "running")


@case
def a_missing_program_is_refused_and_leaves_nothing(b):
    b.c["process"]["args"] = ["no-such-program"]
    code, _, err = b.run()
    assert code != 0 and "no-such-program" in err and "not found" in err, err
    assert b.call("state", b.id)[0] != 0
    assert not os.path.exists(f"/sys/fs/cgroup/memory{CGROUP}/{b.id}")


@case
def old_root_is_gone(b):
    out = b.sh("cat /proc/self/mountinfo").output().splitlines()
    points = [l.split()[4] for l in out]
    eq(points[0], "/")
    assert all(p == "/" or p.startswith(("/proc", "/dev")) for p in points), points


@case
def pid_one_and_hostname(b):
    eq(b.sh("echo $$; hostname").output().split(), ["1", "box"])


@case
def default_devices_work_and_others_do_not(b):
    out = b.sh("head -c 3 /dev/zero | wc -c; echo x > /dev/null; ls /dev; readlink /dev/fd").output()
    for d in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "stdin"):
        assert d in out.split(), d
    b.close()
    b.c["process"]["capabilities"] = {k: ["CAP_MKNOD"] for k in ("bounding", "effective", "permitted")}
    b.c["linux"]["devices"] = [{"type": "b", "path": "/dev/disk", "major": 7, "minor": 0, "fileMode": 0o666, "uid": 0, "gid": 0}]
    code, _, err = b.sh("head -c 1 /dev/disk").run()
    assert code != 0, "a device outside the rules was readable"
    assert "not permitted" in err, err


@case
def masked_and_readonly_paths(b):
    out = b.sh("wc -c < /proc/keys; ls /proc/acpi | wc -l; echo 1 > /proc/sys/kernel/sysrq && echo WRITTEN; true").output()
    eq(out.split(), ["0", "0"])


@case
def masking_refuses_a_false_null(b):
    # The image's own /dev, in which null is a link to a secret.
    b.c["mounts"] = b.c["mounts"][:1]
    os.mkdir(b.rootfs + "/secret")
    out = b.sh("cat /proc/keys | wc -c")
    os.symlink("/etc/passwd", b.rootfs + "/dev/null")
    code, text, _ = b.run()
    assert code != 0 or text.strip() == "0", text


@case
def capabilities(b):
    b.c["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7, 8]}
    caps = ["CAP_NET_BIND_SERVICE"]
    b.c["process"]["capabilities"] = {k: caps for k in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    out = b.sh("grep Cap /proc/self/status; id; grep Groups /proc/self/status").output()
    eq([l.split()[1] for l in out.splitlines() if l.startswith("Cap")], ["0000000000000400"] * 5)
    assert "uid=1000" in out and "Groups:\t7 8" in out, out


@case
def rlimits_umask_env_home(b):
    b.c["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]
    b.c["process"]["user"]["umask"] = 0o077
    out = b.sh("grep 'open files' /proc/self/limits; touch /tmp/f; stat -c %a /tmp/f; echo $HOME").output()
    assert "77" in out and "88" in out and "600" in out and "/root" in out, out


@case
def no_new_privileges(b):
    assert "NoNewPrivs:\t1" in b.sh("grep NoNewPrivs /proc/self/status").output()


@case
def no_descriptor_leaks(b):
    out = b.sh("ls /proc/self/fd").output().split()
    assert set(out) <= {"0", "1", "2", "3"}, out


@case
def a_working_folder_cannot_lead_out(b):
    for n in range(3, 12):
        b.c["process"]["cwd"] = f"/proc/self/fd/{n}"
        code, out, _ = b.sh("ls ../../../../..; echo OUT").run()
        assert code != 0 and "OUT" not in out, f"fd {n}: {out}"
        b.close()


@case
def mount_targets_stay_inside(b):
    outside = os.path.join(b.bundle, "outside")
    os.mkdir(outside)
    os.symlink("../../outside", b.rootfs + "/tmp/link")
    os.symlink(outside, b.rootfs + "/tmp/abs")
    for target in ("/tmp/link/a", "/tmp/abs/b"):
        b.c["mounts"].append({"destination": target, "type": "tmpfs", "source": "tmpfs"})
    b.run()
    eq(os.listdir(outside), [])


@case
def nothing_may_be_mounted_over_proc(b):
    b.c["mounts"].append({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"})
    assert b.run()[0] != 0


@case
def bind_mounts(b):
    source = os.path.join(b.bundle, "src")
    os.mkdir(source)
    open(source + "/f", "w").write("hello")
    os.symlink("../nowhere/resolv", b.rootfs + "/etc/resolv.conf")
    b.c["mounts"] += [
        {"destination": "/mnt/a", "type": "bind", "source": source, "options": ["rbind", "ro"]},
        {"destination": "/etc/resolv.conf", "type": "bind", "source": source + "/f", "options": ["bind"]},
    ]
    out = b.sh("cat /mnt/a/f /etc/resolv.conf; touch /mnt/a/g 2>/dev/null && echo WRITTEN; true").output()
    eq(out, "hellohello")


@case
def readonly_root(b):
    b.c["root"]["readonly"] = True
    eq(b.sh("touch /x 2>/dev/null || echo refused").output(), "refused\n")


@case
def limits_are_set(b):
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20, "swap": 64 << 20}, pids={"limit": 33},
                                     cpu={"shares": 512, "quota": 25000, "period": 100000})
    b.sh("sleep 30").start()
    eq(b.cgroup("memory", "memory.limit_in_bytes"), str(64 << 20))
    eq(b.cgroup("pids", "pids.max"), "33")
    eq(b.cgroup("cpu", "cpu.cfs_quota_us"), "25000")
    eq(b.cgroup("cpu", "cpu.shares"), "512")
    eq(b.call("update", "--memory", "96M", "--memory-swap", "96M", "--pids-limit", "44", b.id)[0], 0)
    eq(b.cgroup("memory", "memory.limit_in_bytes"), str(96 << 20))
    eq(b.cgroup("pids", "pids.max"), "44")
    eq(b.cgroup("cpu", "cpu.cfs_quota_us"), "25000")


@case
def memory_hog_is_killed(b):
    b.c["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    b.c["process"]["args"] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]
    eq(b.run()[0], 137)


@case
def exec_joins_everything(b):
    b.sh("sleep 30").start()
    code, out, err = b.call("exec", "-e", "A=b", "--cwd", "/tmp", "-u", "1000:1000", b.id, "sh", "-c",
                            "id -u; readlink /proc/self/ns/net; echo $A; cat /proc/self/cgroup; exit 5")
    eq(code, 5)
    mine = os.readlink("/proc/self/ns/net")
    assert out.startswith("1000\nnet:") and mine not in out and "\nb\n" in out, out
    assert b.id in out, out
    assert b.call("exec", b.id, "no-such-program")[0] != 0


@case
def pause_and_resume(b):
    b.sh("while :; do sleep 0.05; done").start()
    eq(b.call("pause", b.id)[0], 0)
    eq(b.state()["status"], "paused")
    assert b.call("exec", b.id, "true")[0] != 0
    eq(b.call("resume", b.id)[0], 0)
    eq(b.state()["status"], "running")


@case
def exec_does_not_wait_for_a_container_that_is_paused_meanwhile(b):
    # runc 1.1 hangs here now and then.
    b.sh("while :; do sleep 0.05; done").start()
    for n in range(25):
        p = subprocess.Popen([b.runtime, "--root", b.root, "exec", "-d", b.id, "true"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.0003 * n)
        b.call("pause", b.id)
        try:
            p.wait(timeout=3)
        except subprocess.TimeoutExpired:
            raise AssertionError("exec hangs as long as the container is paused")
        finally:
            b.call("resume", b.id)
            p.wait()


@case
def kill_all_and_ps(b):
    b.sh("sleep 30 & sleep 30 & wait").start()
    time.sleep(0.2)
    code, out, _ = b.call("ps", "-f", "json", b.id)
    eq((code, len(json.loads(out))), (0, 3))
    eq(b.call("delete", "-f", b.id)[0], 0)
    assert not os.path.exists(f"/sys/fs/cgroup/pids{CGROUP}/{b.id}")


@case
def hooks_run_in_their_order(b):
    log = os.path.join(b.bundle, "hooks")
    hook = lambda name: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {log}.{name}; echo {name} >> {log}"]}]
    names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    b.c["hooks"] = {n: hook(n) for n in names}
    b.output()
    eq(open(log).read().split(), names)
    for n in names:
        s = json.load(open(f"{log}.{n}"))
        eq(s["id"], b.id)
        eq(s["bundle"], b.bundle)


@case
def a_failing_hook_fails_create(b):
    b.c["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    assert b.run()[0] != 0
    assert b.call("state", b.id)[0] != 0


@case
def user_namespace(b):
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    b.c["linux"].update(uidMappings=maps, gidMappings=maps)
    b.c["linux"]["namespaces"].append({"type": "user"})
    os.chmod(b.rootfs + "/tmp", 0o777)
    p = b.rootfs
    while p != "/":
        os.chmod(p, os.stat(p).st_mode | 0o011)
        p = os.path.dirname(p)
    os.chown(b.rootfs, 100000, 100000)
    eq(b.sh("id -u; touch /tmp/made").output(), "0\n")
    eq(os.stat(b.rootfs + "/tmp/made").st_uid, 100000)


@case
def idmapped_mounts(b):
    # Debian's runc 1.1 does not know them yet.
    source = os.path.join(b.bundle, "owned")
    os.mkdir(source)
    open(source + "/f", "w").close()
    os.chown(source + "/f", 5, 6)
    m = [{"containerID": 5, "hostID": 1005, "size": 10}]
    b.c["mounts"].append({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind"],
                          "uidMappings": m, "gidMappings": m})
    eq(b.sh("stat -c %u:%g /mnt/f").output(), "1005:1006\n")


@case
def user_namespace_by_path(b):
    # As the containers of a pod with its own users do.
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    p = b.rootfs
    while p != "/":
        os.chmod(p, os.stat(p).st_mode | 0o011)
        p = os.path.dirname(p)
    os.chown(b.rootfs, 100000, 100000)
    b.c["linux"].update(uidMappings=maps, gidMappings=maps)
    b.c["linux"]["namespaces"].append({"type": "user"})
    pid = b.sh("sleep 30").start()
    c = Box(b.runtime, b.bundle, "second")
    c.root = b.root
    try:
        os.chown(c.rootfs, 100000, 100000)
        c.c["linux"].update(uidMappings=maps, gidMappings=maps)
        c.c["linux"]["namespaces"] = [
            {"type": "mount"}, {"type": "pid"}, {"type": "user", "path": f"/proc/{pid}/ns/user"},
            {"type": "network", "path": f"/proc/{pid}/ns/net"}, {"type": "ipc", "path": f"/proc/{pid}/ns/ipc"},
            {"type": "uts", "path": f"/proc/{pid}/ns/uts"}]
        del c.c["hostname"]
        out = c.sh("id -u; echo $$; readlink /proc/self/ns/user; hostname").output().split()
        eq(out, ["0", "1", os.readlink(f"/proc/{pid}/ns/user"), "box"])
    finally:
        c.close()


@case
def namespaces_by_path(b):
    pid = b.sh("sleep 30").start()
    c = Box(b.runtime, b.bundle, "second")
    try:
        c.c["linux"]["namespaces"] = [
            {"type": "mount"}, {"type": "network", "path": f"/proc/{pid}/ns/net"},
            {"type": "pid", "path": f"/proc/{pid}/ns/pid"}, {"type": "ipc"}, {"type": "uts", "path": f"/proc/{pid}/ns/uts"}]
        del c.c["hostname"]
        c.root = b.root
        out = c.sh("hostname; readlink /proc/self/ns/net; ls -d /proc/1 > /dev/null && cat /proc/1/cmdline").output()
        assert out.startswith("box\n" + os.readlink(f"/proc/{pid}/ns/net")) and "sleep" in out, out
    finally:
        c.close()


@case
def sysctls(b):
    b.c["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
    eq(b.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced").output().split(), ["1", "1"])
    b.close()
    b.c["linux"]["sysctl"] = {"vm.swappiness": "1"}
    assert b.run()[0] != 0


@case
def seccomp(b):
    b.c["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}
    for privileged in (True, False):
        b.c["process"]["noNewPrivileges"] = privileged
        out = b.sh("mkdir /tmp/d 2>&1; grep Seccomp: /proc/self/status").output()
        assert "not supported" in out and "Seccomp:\t2" in out, out
        b.close()


@case
def terminal(b):
    b.c["process"]["terminal"] = True
    b.sh("stat -c %F /dev/console; [ -t 0 ] && echo istty").save()
    r = subprocess.run(["script", "-qec", f"{b.runtime} --root {b.root} run -b {b.bundle} {b.id}", "/dev/null"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert "istty" in r.stdout and "character" in r.stdout, r.stdout + r.stderr


@case
def the_runtime_binary_cannot_be_overwritten(b):
    b.sh("true").save()
    subprocess.run([b.runtime, "--root", b.root, "create", "-b", b.bundle, b.id], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    held = os.open(f"/proc/{b.state()['pid']}/exe", os.O_RDONLY)
    try:
        first = os.pread(held, 1, 0)
        b.close()
        time.sleep(0.2)
        try:
            fd = os.open(f"/proc/self/fd/{held}", os.O_WRONLY)
        except OSError:
            return
        try:
            # The same byte: no harm where it succeeds.
            os.pwrite(fd, first, 0)
        except OSError:
            return
        finally:
            os.close(fd)
        raise AssertionError("the runtime's binary could be written through /proc/PID/exe")
    finally:
        os.close(held)


@case
def the_unified_tree_beside_version_1_stays_bare(b):
    # Handing its controllers down would change what every other program finds there.
    root = "/sys/fs/cgroup/unified"
    if not os.path.exists(root + "/cgroup.subtree_control"):
        return
    read = lambda: open(root + "/cgroup.subtree_control").read()
    before = read()
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 33})
    b.sh("sleep 30").start()
    eq(read(), before)
    eq(b.call("update", "--memory", "96M", b.id)[0], 0)
    b.close()
    eq(read(), before)
    assert not os.path.exists(root + CGROUP + "/" + b.id)


@case
def proc_and_sys_may_not_be_links(b):
    # A link would put the "real" procfs elsewhere and a false one of the image in its place.
    os.makedirs(b.rootfs + "/false/self")
    for name in ("proc", "sys"):
        if name == "sys":
            b.c["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
        os.rmdir(f"{b.rootfs}/{name}")
        os.symlink("/false", f"{b.rootfs}/{name}")
        code, out, _ = b.sh("echo RAN").run()
        assert code != 0 and "RAN" not in out, f"ran with /{name} as a link"
        b.close()
        os.remove(f"{b.rootfs}/{name}")
        os.mkdir(f"{b.rootfs}/{name}")


@case
def mount_targets_that_change_meanwhile_stay_inside(b):
    # Another container that shares a volume swaps a folder for a link while we mount.
    outside = os.path.join(b.bundle, "outside")
    os.mkdir(outside)
    os.makedirs(b.rootfs + "/vol/dir")
    os.symlink("../../outside", b.rootfs + "/vol/link")
    for n in range(8):
        b.c["mounts"].append({"destination": f"/vol/dir/m{n}", "type": "tmpfs", "source": "tmpfs"})
    # renameat2 with RENAME_EXCHANGE, as fast as it goes.
    swap = ("import ctypes\nl=ctypes.CDLL(None)\na,b=%r,%r\nwhile 1: l.renameat2(-100,a,-100,b,2)"
            % ((b.rootfs + "/vol/dir").encode(), (b.rootfs + "/vol/link").encode()))
    swapper = subprocess.Popen([sys.executable, "-c", swap])
    try:
        for _ in range(12):
            b.sh("true").run()
            b.call("delete", "-f", b.id)
            eq(os.listdir(outside), [])
    finally:
        swapper.kill()
        swapper.wait()
    assert outside not in open("/proc/self/mountinfo").read()


@case
def exec_gives_no_inheritable_capabilities(b):
    b.sh("sleep 30").start()
    code, out, err = b.call("exec", "--cap", "CAP_NET_RAW", b.id, "grep", "CapInh", "/proc/self/status")
    assert code == 0 and out.split()[1] == "0" * 16, out + err


@case
def exec_cannot_begin_in_a_leaked_folder(b):
    b.sh("sleep 30").start()
    for n in range(3, 12):
        code, out, _ = b.call("exec", "--cwd", f"/proc/self/fd/{n}", b.id, "sh", "-c", "ls ../../../../..; echo OUT")
        assert code != 0 and "OUT" not in out, f"fd {n}: {out}"


@case
def exec_sees_no_descriptors_of_the_runtime(b):
    b.sh("sleep 30").start()
    out = b.call("exec", b.id, "ls", "/proc/self/fd")[1].split()
    assert set(out) <= {"0", "1", "2", "3"}, out


@case
def a_readonly_cgroup_mount_is_readonly(b):
    b.c["mounts"] += [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                      {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}]
    script = "ls /sys/fs/cgroup | wc -l; for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo MADE $d; done; true"
    out = b.sh(script).output()
    assert "MADE" not in out and int(out.split()[0]) > 0, out


@case
def a_cgroup_mount_shows_the_containers_own(b):
    b.c["mounts"] += [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                      {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}]
    b.c["linux"]["namespaces"] = [n for n in b.c["linux"]["namespaces"] if n["type"] != "cgroup"]
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20})
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    out = b.sh(f"cat {files} 2>/dev/null; cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | wc -l").output()
    limit, processes = out.split()
    eq(limit, str(64 << 20))
    assert int(processes) <= 3, out


@case
def the_console_is_not_bound_through_a_link(b):
    # The image's own /dev, in which the console leads out.
    outside = os.path.join(b.bundle, "outside")
    b.c["mounts"] = [m for m in b.c["mounts"] if m["destination"] != "/dev"]
    os.makedirs(b.rootfs + "/dev/pts")
    b.c["process"]["terminal"] = True
    for target in ("../../outside", "/proc/sys/kernel/domainname"):
        os.symlink(target, b.rootfs + "/dev/console")
        b.sh("echo RAN with $(grep -c domainname /proc/self/mountinfo)").save()
        r = subprocess.run(["script", "-qec", f"{b.runtime} --root {b.root} run -b {b.bundle} {b.id}", "/dev/null"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        assert not os.path.lexists(outside), "a file was made outside"
        assert "RAN" not in r.stdout or "RAN with 0" in r.stdout, r.stdout
        b.close()
        os.remove(b.rootfs + "/dev/console")


@case
def sysctls_are_written_to_a_real_procfs_only(b):
    # Without a procfs, an image's false one must take no writes.
    false = b.rootfs + "/proc/sys/net/ipv4"
    os.makedirs(false)
    open(false + "/ip_forward", "w").close()
    b.c["mounts"] = b.c["mounts"][1:]
    b.c["linux"].update(maskedPaths=[], readonlyPaths=[], sysctl={"net.ipv4.ip_forward": "1"})
    b.sh("true").run()
    eq(open(false + "/ip_forward").read(), "")


@case
def labels_are_written_to_a_real_procfs_only(b):
    # A false /proc/self/attr would take the label and the program would run without one.
    os.makedirs(b.rootfs + "/proc/self/attr")
    os.makedirs(b.rootfs + "/proc/thread-self/attr")
    b.c["mounts"] = b.c["mounts"][1:]
    b.c["linux"].update(maskedPaths=[], readonlyPaths=[])
    b.c["process"]["apparmorProfile"] = "knarr-no-such-profile"
    code, out, _ = b.sh("echo RAN").run()
    assert code != 0 and "RAN" not in out


def main():
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    only = args.pop() if "--only" in sys.argv else None
    if not args:
        sys.exit(__doc__)
    if os.geteuid() != 0:
        sys.exit("needs root")
    failed = 0
    for runtime in args:
        runtime = shutil.which(runtime) or os.path.abspath(runtime)
        folder = tempfile.mkdtemp(prefix="knarr-conformance-")
        passed, began = 0, time.monotonic()
        try:
            for f in CASES:
                if only and only != f.__name__:
                    continue
                b = Box(runtime, folder, f.__name__)
                try:
                    f(b)
                    passed += 1
                except Exception as e:
                    failed += 1
                    print(f"FAIL {runtime} {f.__name__}: {type(e).__name__}: {e}")
                finally:
                    b.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            clean_cgroups()
        print(f"{runtime}: {passed} cases passed in {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
