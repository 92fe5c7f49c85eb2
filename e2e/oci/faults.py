#!/usr/bin/env python3
"""A failure at every step of making a container leaves nothing behind.

    e2e/oci/faults.py RUNTIME [--every N]

strace makes one system call after the other fail (or kills who makes it) while the runtime, built
as it is shipped, runs a container. A failed run must leave no cgroup, no mount, no process and no
state folder by itself; after a kill or a failed removal `delete --force` must take all away. With --every,
only each Nth call is tried. Needs root and strace.
"""
import os, shutil, subprocess, sys, tempfile, time

from box import CGROUP, Box

# What a failure is made of: the calls that make, join, move or tell something.
CALLS = ["clone3", "openat", "openat2", "mkdir", "mkdirat", "mknodat", "symlinkat", "write", "sendmsg", "recvmsg", "socket",
         "bind", "listen", "accept4", "open_tree", "fsopen", "fsconfig", "fsmount", "mount_setattr", "move_mount", "mount",
         "pivot_root", "umount2", "setns", "unshare", "setsid", "sethostname", "capset", "prctl", "setresuid", "setresgid",
         "setgroups", "fchdir", "chdir", "pidfd_open", "dup3", "fcntl", "memfd_create", "rename", "execveat", "execve", "keyctl"]
KILLS = ["clone3", "write", "sendmsg", "recvmsg", "mkdir", "open_tree", "move_mount", "pivot_root", "rename", "openat2", "accept4"]


def left(box):
    """Everything that could be left of the box's container."""
    found = []
    for h in sorted(os.listdir("/sys/fs/cgroup")):
        if os.path.isdir(f"/sys/fs/cgroup/{h}{CGROUP}/{box.id}"):
            found.append(f"cgroup {h}")
    if os.path.exists(f"{box.root}/{box.id}"):
        found.append("state folder")
    if box.bundle in open("/proc/self/mountinfo").read():
        found.append("mount")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/root").startswith(box.bundle) or box.id in open(f"/proc/{pid}/cgroup").read():
                found.append(f"process {pid}")
        except OSError:
            pass
    return found


def settled(box):
    """What is left once the dying had their moment."""
    for _ in range(40):
        if not left(box):
            return []
        time.sleep(0.05)
    return left(box)


def inject(box, log, call, what, n):
    """One run with the fault. Answers whether it took place, the runtime's exit code (None: it hangs), and whether
    it was removing things by then."""
    box.save()
    command = ["strace", "-f", "-qq", "-o", log, "-e", f"trace={call},rmdir", "-e", f"inject={call}:{what}:when={n}",
               box.runtime, "--root", box.root, "run", "-b", box.bundle, box.id]
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    killing = what.startswith("signal")
    for _ in range(400):
        try:
            p.wait(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            if killing and os.path.exists(log) and "killed by SIGKILL" in open(log).read():
                # Its init may wait for a start that never comes.
                box.close()
    else:
        box.close()
        p.wait(timeout=10)
        return True, None, False
    text = open(log).read()
    before = text.rpartition("INJECTED")[0]
    # Who cannot read the record, or not remove, leaves it to the next `delete`.
    removing = "rmdir(" in before or "/state.json\", O_RDONLY" in before.rpartition("\n")[2]
    return ("INJECTED" in text or "killed by SIGKILL" in text), p.returncode, removing


def main():
    args = sys.argv[1:]
    every = int(args[args.index("--every") + 1]) if "--every" in args else 1
    if not args or os.geteuid() != 0 or not shutil.which("strace"):
        sys.exit(__doc__)
    runtime = os.path.abspath(args[0])
    folder = tempfile.mkdtemp(prefix="knarr-faults-")
    bad, tried, failed, began = [], 0, 0, time.monotonic()
    box = Box(runtime, folder, "fault")
    box.c["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 50})
    box.c["mounts"].append({"destination": "/mnt", "type": "bind", "source": folder, "options": ["rbind", "ro"]})
    box.c["process"]["args"] = ["true"]
    log = os.path.join(folder, "log")
    try:
        for call, what in [(c, "error=EIO") for c in CALLS] + [(c, "signal=KILL") for c in KILLS]:
            for n in range(1, 400, every):
                if os.path.exists(log):
                    os.remove(log)
                hit, code, removing = inject(box, log, call, what, n)
                if not hit:
                    break
                tried += 1
                failed += code != 0
                where = f"{call} number {n} with {what}"
                if code is None:
                    bad.append(f"{where}: hangs")
                elif what.startswith("error") and not removing and settled(box):
                    bad.append(f"{where}: left {', '.join(settled(box))}")
                box.close()
                if settled(box):
                    bad.append(f"{where}: delete --force left {', '.join(settled(box))}")
    finally:
        box.close()
        shutil.rmtree(folder, ignore_errors=True)
        for h in os.listdir("/sys/fs/cgroup"):
            path = f"/sys/fs/cgroup/{h}{CGROUP}"
            if os.path.isdir(path):
                for sub in os.listdir(path):
                    if os.path.isdir(f"{path}/{sub}"):
                        os.rmdir(f"{path}/{sub}")
                os.rmdir(path)
    for line in bad:
        print("FAIL", line)
    print(f"{runtime}: {tried} faults, {failed} of them fatal, {len(bad)} left something, {time.monotonic() - began:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
