#!/usr/bin/env python3
"""containerd of its own release, and Debian's podman and buildah, as they are, with a runtime in runc's place.

    e2e/oci/callers.py RUNTIME

Needs root, a static busybox, podman, buildah, and what e2e/upstream/build makes; what is missing is
said and left out. Storage and
state lie under one temporary folder, which is removed at the end.
"""
import os, shutil, subprocess, sys, tempfile, time

# Both ask for more open files than a machine without CAP_SYS_RESOURCE may give.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


# What e2e/upstream/build made.
UPSTREAM = os.path.join(os.environ.get("KNARR_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "knarr"), "upstream")


class Caller:
    def __init__(self, *command, env=None):
        self.command, self.env = command, env

    def __call__(self, *args, want=0):
        r = subprocess.run([*self.command, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                           env=self.env)
        assert r.returncode == want, f"{' '.join(args)}: exit {r.returncode}: {r.stderr}"
        # containerd's client warns of version 1 hierarchies at every call.
        return r.stdout + "".join(l for l in r.stderr.splitlines(True) if "DEPRECATION" not in l)


def with_podman(podman, rootfs):
    plain = [*LIMITS, "--network", "none"]
    image = ["--rootfs", rootfs]
    out = podman("run", "--rm", *plain, "--memory", "64m", "--pids-limit", "50", *image, "sh", "-c", "id -u; exit 7", want=7)
    assert out.strip() == "0", out
    out = podman("run", "--rm", *plain, *image, "no-such-program", want=127)
    assert "not found" in out, out
    out = podman("run", "--rm", *plain, "--read-only", "--user", "1000:1000", "--cap-drop", "all", *image,
                 "sh", "-c", "id -u; touch /x 2>/dev/null || echo refused")
    assert out.split() == ["1000", "refused"], out
    podman("run", "-d", "--name", "w", *plain, *image, "sh", "-c", "trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done")
    try:
        for _ in range(100):
            if "up" in podman("logs", "w"):
                break
            time.sleep(0.05)
        assert "in" in podman("exec", "w", "sh", "-c", "echo in; exit 3", want=3)
        podman("pause", "w")
        assert "paused" in podman("inspect", "w", "--format", "{{.State.Status}}")
        podman("unpause", "w")
        assert "w" in podman("stats", "--no-stream", "w")
        podman("stop", "-t", "5", "w")
        assert podman("inspect", "w", "--format", "{{.State.ExitCode}}").strip() == "4"
    finally:
        podman("rm", "-f", "w")


def with_buildah(buildah, rootfs, runtime):
    name = buildah("from", *LIMITS, "scratch").strip()
    try:
        buildah("copy", name, rootfs, "/")
        out = buildah("run", "--runtime", runtime, "--isolation", "oci", "--network", "none", name, "/bin/sh", "-c",
                      "echo built; echo made > /made")
        assert "built" in out, out
        assert "made" in buildah("run", "--runtime", runtime, "--isolation", "oci", "--network", "none", name, "/bin/cat", "/made")
    finally:
        buildah("rm", name)


def with_containerd(folder, runtime, image):
    """containerd from its Go module, with its shim and the given runtime in runc's place."""
    top = os.path.join(folder, "containerd")
    os.makedirs(top)
    config = os.path.join(top, "config.toml")
    with open(config, "w") as f:
        f.write(f"""version = 3
root = "{top}/root"
state = "{top}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = "{top}/sock"
""")
    env = {**os.environ, "PATH": UPSTREAM + ":" + os.environ["PATH"]}
    log = open(os.path.join(top, "log"), "w")
    daemon = subprocess.Popen(["containerd", "--config", config, "--log-level", "warn"], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    ctr = Caller("ctr", "--address", top + "/sock", "--namespace", "kc", env=env)
    run = ["--runc-binary", runtime, "--runc-root", top + "/runc", "--snapshotter", "native", "--cgroup", "/kc-containerd/x"]
    try:
        for _ in range(200):
            if daemon.poll() is not None:
                raise AssertionError(open(log.name).read())
            if os.path.exists(top + "/sock"):
                break
            time.sleep(0.05)
        ctr("images", "import", "--local", "--snapshotter", "native", image)
        name = ctr("images", "list", "-q").split()[0]
        out = ctr("run", "--rm", *run, "--memory-limit", str(64 << 20), "--seccomp", name, "a", "sh", "-c", "id -u; grep Seccomp: /proc/self/status; exit 7", want=7)
        assert out.split() == ["0", "Seccomp:", "2"], out
        out = ctr("run", "--rm", *run, name, "b", "no-such-program", want=1)
        assert "not found" in out, out
        ctr("run", "--detach", *run, name, "w", "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.1; done")
        assert "RUNNING" in ctr("tasks", "list")
        assert "in" in ctr("tasks", "exec", "--exec-id", "e", "w", "sh", "-c", "echo in; exit 3", want=3)
        ctr("tasks", "pause", "w")
        assert "PAUSED" in ctr("tasks", "list")
        ctr("tasks", "resume", "w")
        assert "memory" in ctr("tasks", "metrics", "w")
        assert len(ctr("tasks", "ps", "w").splitlines()) >= 2
        ctr("tasks", "kill", "--signal", "TERM", "w")
        for _ in range(100):
            if "STOPPED" in ctr("tasks", "list"):
                break
            time.sleep(0.05)
        assert "code 4" in ctr("tasks", "delete", "w")
        ctr("containers", "delete", "w")
        # And with a terminal of ours.
        r = subprocess.run(["script", "-qec", " ".join(["ctr", "--address", top + "/sock", "--namespace", "kc", "run", "--rm", "--tty", *run, name, "t",
                                                        "sh", "-c", "'[ -t 0 ] && echo istty'"]), "/dev/null"], env=env,
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        assert "istty" in r.stdout, r.stdout + r.stderr
    except AssertionError as e:
        raise AssertionError(f"{e}\n{open(log.name).read()}")
    finally:
        daemon.terminate()
        daemon.wait()
        for line in reversed(open("/proc/self/mounts").read().splitlines()):
            if line.split()[1].startswith(top):
                subprocess.run(["umount", "-l", line.split()[1]])
        for h in [*os.listdir("/sys/fs/cgroup"), "."]:
            for folder, _, _ in os.walk(f"/sys/fs/cgroup/{h}/kc-containerd", topdown=False):
                os.rmdir(folder)


def main():
    if len(sys.argv) != 2 or os.geteuid() != 0:
        sys.exit(__doc__)
    runtime = os.path.abspath(sys.argv[1])
    top = tempfile.mkdtemp(prefix="knarr-callers-")
    rootfs = os.path.join(top, "rootfs")
    for d in ("bin", "etc", "proc", "sys", "dev", "tmp"):
        os.makedirs(os.path.join(rootfs, d))
    shutil.copy(shutil.which("busybox") or sys.exit("busybox is missing"), rootfs + "/bin/busybox")
    for a in ("sh", "id", "touch", "sleep", "echo", "cat", "true"):
        os.symlink("busybox", f"{rootfs}/bin/{a}")
    stores = ["--root", top + "/store", "--runroot", top + "/run", "--storage-driver", "vfs"]
    had = {h for h in os.listdir("/sys/fs/cgroup") if os.path.isdir(f"/sys/fs/cgroup/{h}/libpod_parent")}
    try:
        image = os.path.join(UPSTREAM, "../images/busybox.tar")
        if all(os.path.exists(p) for p in (f"{UPSTREAM}/containerd", f"{UPSTREAM}/containerd-shim-runc-v2", f"{UPSTREAM}/ctr", image)):
            with_containerd(top, runtime, image)
            print("containerd: ok")
        else:
            print("containerd: left out, it was not built (e2e/upstream/build containerd containerd-shim-runc-v2 ctr; e2e/images/build)")
        if shutil.which("podman"):
            with_podman(Caller("podman", *stores, "--tmpdir", top + "/tmp", "--runtime", runtime, "--cgroup-manager",
                               "cgroupfs", "--events-backend", "file"), rootfs)
            print("podman: ok")
        else:
            print("podman: left out, it is not installed")
        if shutil.which("buildah"):
            with_buildah(Caller("buildah", *stores), rootfs, runtime)
            print("buildah: ok")
        else:
            print("buildah: left out, it is not installed")
    finally:
        for line in reversed(open("/proc/self/mounts").read().splitlines()):
            if line.split()[1].startswith(top):
                subprocess.run(["umount", "-l", line.split()[1]])
        shutil.rmtree(top, ignore_errors=True)
        for h in os.listdir("/sys/fs/cgroup"):
            parent = f"/sys/fs/cgroup/{h}/libpod_parent"
            if h not in had and os.path.isdir(parent):
                for folder, _, _ in os.walk(parent, topdown=False):
                    os.rmdir(folder)


if __name__ == "__main__":
    main()
