#!/usr/bin/env python3
"""Conformance over cgroup version 2, whatever the machine has: inside user-mode-linux.

    e2e/oci/v2.py [--systemd] RUNTIME [RUNTIME...] [--only NAME,NAME...]

Boots Debian's user-mode-linux (package user-mode-linux) with this machine's files as its root, mounts
the version 2 hierarchy, and runs conformance.py there. What is written lies in memory and is gone with
it. With --systemd, systemd is its first process, and only the cases about systemd are run. Ends with
conformance.py's exit code.
"""
import os, shutil, subprocess, sys, tempfile

# systemd in a root of its own, over the machine's files, with one service and nothing else.
SYSTEMD = """#!/bin/sh
mount -t proc proc /proc
for module in {modules}; do insmod $module; done
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root || busybox poweroff -f
cd /mnt/root
mkdir -p old etc/systemd/system
mount --bind {folder} {folder_inside}
cat > etc/systemd/system/knarr.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
StandardOutput=file:/dev/console
StandardError=file:/dev/console
ExecStart={folder}/script
END
pivot_root . old
exec chroot . /lib/systemd/systemd --unit=knarr.service --show-status=0 --log-level=err --log-target=console
"""
SCRIPT = """#!/bin/sh
mount -t tmpfs tmpfs /tmp
ip link set lo up
echo "kernel $(uname -r), $(systemctl --version | head -n 1), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
cd {here}
export PATH={path}
{command}
echo $? > {folder}/code
sync
busybox poweroff -f
"""
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
for module in {modules}; do insmod $module; done
# As a service manager would: nothing but groups in the root.
mkdir /sys/fs/cgroup/init
echo 1 > /sys/fs/cgroup/init/cgroup.procs
echo "kernel $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
cd {here}
export PATH={path}
{command}
echo $? > {folder}/code
sync
busybox poweroff -f
"""


def main():
    args = [a for a in sys.argv[1:] if a != "--systemd"]
    systemd = len(args) < len(sys.argv) - 1
    uml = shutil.which("linux.uml")
    if not args:
        sys.exit(__doc__)
    if not uml:
        sys.exit("linux.uml is missing (Debian: user-mode-linux)")
    here = os.path.dirname(os.path.abspath(__file__))
    runtimes = [shutil.which(a) or os.path.abspath(a) if os.path.exists(a) or shutil.which(a) else a for a in args]
    version = subprocess.run([uml, "--version"], capture_output=True, text=True).stdout.strip()
    kernel = f"/usr/lib/uml/modules/{version}/kernel"
    modules = [m for m in (f"{kernel}/fs/overlayfs/overlay.ko", f"{kernel}/drivers/net/veth.ko") if os.path.exists(m)]
    # The machine's files are the root; a folder under /tmp would be hidden by its own /tmp.
    own = tempfile.mkdtemp(prefix="knarr-v2-", dir="/var/tmp")
    try:
        programs = []
        for n, r in enumerate(runtimes):
            # Where the program is may be hidden, too.
            if r.startswith("/tmp/"):
                r = shutil.copy(r, os.path.join(own, f"{n}-{os.path.basename(r)}"))
            programs.append(r)
        init = os.path.join(own, "init")
        words = ["python3", "conformance.py", *programs, *(["--only", "systemd"] if systemd else [])]
        values = {"modules": " ".join(modules), "here": here, "path": os.environ["PATH"], "folder": own,
                  "folder_inside": own.lstrip("/"), "command": " ".join(words)}
        for path, text in ((init, SYSTEMD if systemd else INIT), (os.path.join(own, "script"), SCRIPT)):
            with open(path, "w") as f:
                f.write(text.format(**values))
            os.chmod(path, 0o755)
        command = [uml, f"mem={os.environ.get('UML_MEMORY', '1G')}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}",
                   "con=null", "con0=null,fd:1", "quiet"]
        # Where there is a compiler, it also boots on processors that are newer than it.
        preload = os.path.join(own, "ptrace.so")
        cc = shutil.which("cc") or shutil.which("gcc")
        if cc:
            subprocess.run([cc, "-O", "-shared", "-fPIC", "-o", preload, os.path.join(here, "uml_ptrace.c")], check=True)
        # The kernel's own first and last words are not ours.
        subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env={**os.environ, "TMPDIR": "/dev/shm", **({"LD_PRELOAD": preload} if cc else {})})
        code = open(os.path.join(own, "code")).read().strip() if os.path.exists(os.path.join(own, "code")) else "the kernel did not come that far"
        sys.exit(int(code) if code.isdigit() else code)
    finally:
        shutil.rmtree(own, ignore_errors=True)


if __name__ == "__main__":
    main()
