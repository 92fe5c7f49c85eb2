#!/usr/bin/env python3
"""Debian's podman and buildah, as they are, with a runtime in runc's place.

    e2e/oci/callers.py RUNTIME

Needs root, podman, buildah and a static busybox; what is missing is said and left out. Storage and
state lie under one temporary folder, which is removed at the end.
"""
import os, shutil, subprocess, sys, tempfile, time

# Both ask for more open files than a machine without CAP_SYS_RESOURCE may give.
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


class Caller:
    def __init__(self, *command):
        self.command = command

    def __call__(self, *args, want=0):
        r = subprocess.run([*self.command, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert r.returncode == want, f"{' '.join(args)}: exit {r.returncode}: {r.stderr}"
        return r.stdout + r.stderr


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
