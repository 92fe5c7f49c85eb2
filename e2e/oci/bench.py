#!/usr/bin/env python3
"""What an OCI runtime costs: time, CPU and memory of each operation, beside a bare clone3 in C.

    e2e/oci/bench.py [--repeat N] RUNTIME [RUNTIME...]

Every repetition runs all the runtimes one after the other on the same bundle, so that whatever else
the machine does falls on all of them alike; the medians are printed as a table. Needs root, cc and a
static busybox, and the system call profile of Debian's golang-github-containers-common.
"""
import ctypes, json, os, shutil, statistics, subprocess, sys, tempfile

from box import CGROUP, Box, clean_cgroups

PROFILE = "/usr/share/containers/seccomp.json"
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench")
CAPS = """CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW
IPC_LOCK IPC_OWNER SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_NICE SYS_BOOT SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE SETFCAP SYSLOG WAKE_ALARM BLOCK_SUSPEND LINUX_IMMUTABLE AUDIT_CONTROL""".split()


def default_profile():
    """The profile as a caller would give it: for this architecture, and none of the optional capabilities' rules."""
    profile = json.load(open(PROFILE))
    calls = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if includes.get("caps") or ("arches" in includes and "amd64" not in includes["arches"]):
            continue
        one = {"names": rule["names"], "action": rule["action"]}
        if rule.get("args"):
            one["args"] = rule["args"]
        if rule.get("errnoRet"):
            one["errnoRet"] = rule["errnoRet"]
        calls.append(one)
    return {"defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": calls}


def full(box, folder):
    """As a container of a pod has it: profile, 30 capabilities, 12 mounts, limits."""
    names = ["CAP_" + c for c in CAPS]
    assert len(names) == 30
    box.c["process"]["capabilities"] = {k: names for k in ("bounding", "effective", "permitted")}
    box.c["linux"]["seccomp"] = default_profile()
    quiet = ["nosuid", "noexec", "nodev"]
    box.c["mounts"] += [
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": quiet + ["mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": quiet + ["ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": quiet + ["ro"]},
    ]
    for n in range(5):
        source = os.path.join(folder, f"volume{n}")
        os.makedirs(source, exist_ok=True)
        box.c["mounts"].append({"destination": f"/volume{n}", "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro" if n % 2 else "rw"]})
    assert len(box.c["mounts"]) == 12
    box.c["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 50},
                                       cpu={"shares": 512, "quota": 50000, "period": 100000})


class Bench:
    def __init__(self, folder, state, repeat):
        self.folder, self.state, self.repeat = folder, state, repeat
        self.measure = self.build("measure")
        self.floor = self.build("floor")

    def build(self, name):
        out = os.path.join(self.folder, name)
        subprocess.run(["cc", "-O2", "-static", "-o", out, f"{HERE}/{name}.c"], check=True)
        return out

    def once(self, *command):
        out = subprocess.run([self.measure, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
        took, cpu, peak, status = map(int, out.split())
        if status != 0:
            again = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            sys.exit(f"{' '.join(command)}: exit {status}; once more: exit {again.returncode} {again.stderr}")
        return took / 1e6, cpu / 1e3, peak / 1024

    def rounds(self, works):
        """works: name -> function that answers a measure. Medians by name."""
        got = {name: [] for name in works}
        for n in range(self.repeat + 3):
            for name, work in works.items():
                one = work()
                if n >= 3:
                    got[name].append(one)
        quick = lambda all: statistics.quantiles([m[0] for m in all], n=10)[0]
        return {name: (*(statistics.median(m[i] for m in all) for i in range(3)), quick(all)) for name, all in got.items()}


def boxes(bench, runtimes, what, change=None):
    out = {}
    for name, runtime in runtimes.items():
        box = Box(runtime, bench.folder, f"{what}-{len(out)}", bench.state)
        if change:
            change(box)
        box.save()
        out[name] = box
    return out


def run(box, bench):
    return lambda: bench.once(box.runtime, "--root", box.root, "run", "-b", box.bundle, box.id)


def create(box, bench):
    def one():
        got = bench.once(box.runtime, "--root", box.root, "create", "-b", box.bundle, box.id)
        box.call("delete", "-f", box.id)
        return got
    return one


def execute(box, bench):
    return lambda: bench.once(box.runtime, "--root", box.root, "exec", box.id, "true")


def version(runtime):
    return subprocess.run([runtime, "--version"], capture_output=True, text=True).stdout.splitlines()[0].replace(" version", "")


def smallest(runtimes, bench):
    """Whether a container whose memory limit is 512 KiB can be made and started."""
    out = {}
    for name, runtime in runtimes.items():
        box = Box(runtime, bench.folder, f"small-{len(out)}", bench.state)
        box.c["linux"]["resources"]["memory"] = {"limit": 512 << 10}
        box.save()
        try:
            worked = 0
            for _ in range(10):
                null = {k: subprocess.DEVNULL for k in ("stdin", "stdout", "stderr")}
                made = subprocess.run([runtime, "--root", box.root, "create", "-b", box.bundle, box.id], **null).returncode
                worked += made == 0 and box.call("start", box.id)[0] == 0
                box.close()
        finally:
            box.close()
        out[name] = worked
    return out


def main():
    args = sys.argv[1:]
    repeat = 200
    if "--repeat" in args:
        at = args.index("--repeat")
        repeat = int(args[at + 1])
        del args[at:at + 2]
    if not args or os.geteuid() != 0:
        sys.exit(__doc__)
    # What else this machine does shall disturb as little as may be.
    os.nice(-15)
    # crun takes a host with a bare version 2 hierarchy beside version 1 for something else.
    ctypes.CDLL(None).unshare(0x00020000)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
    folder = tempfile.mkdtemp(prefix="knarr-bench-")
    state = tempfile.mkdtemp(prefix="knarr-bench-", dir="/run")
    runtimes = {version(shutil.which(r) or os.path.abspath(r)): shutil.which(r) or os.path.abspath(r) for r in args}
    bench = Bench(folder, state, repeat)
    open_boxes = []
    try:
        results = []

        def table(work, works):
            got = bench.rounds(works)
            results.append((work, got))
            print(work, {k: tuple(round(x, 2) for x in v) for k, v in got.items()}, file=sys.stderr)

        plain = boxes(bench, runtimes, "plain")
        whole = boxes(bench, runtimes, "full", lambda b: full(b, folder))
        sleeping = boxes(bench, runtimes, "exec", lambda b: b.sh("while :; do sleep 1000; done"))
        open_boxes += [*plain.values(), *whole.values(), *sleeping.values()]
        table("`run` of `true`, no seccomp", {n: run(b, bench) for n, b in plain.items()})
        table("the same with the default seccomp profile, 30 capabilities, 12 mounts, limits", {n: run(b, bench) for n, b in whole.items()})
        for b in sleeping.values():
            b.start()
        table("`exec` of `true`", {n: execute(b, bench) for n, b in sleeping.items()})
        for b in sleeping.values():
            b.close()
        table("`create`, no seccomp", {n: create(b, bench) for n, b in plain.items()})
        table("`create`, the whole configuration", {n: create(b, bench) for n, b in whole.items()})
        rootfs = next(iter(plain.values())).rootfs
        floors = bench.rounds({k: (lambda k=k: bench.once(bench.floor, rootfs, k, "/bin/true")) for k in ("net", "nonet")})
        small = smallest(runtimes, bench)
    finally:
        for b in open_boxes:
            b.close()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
        # crun makes ordinary folders where the hidden hierarchy was.
        shutil.rmtree("/sys/fs/cgroup/unified" + CGROUP, ignore_errors=True)
        clean_cgroups()
    names = list(runtimes)
    print(f"| work: median (fastest tenth) of {repeat}, CPU time, peak resident memory | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for work, got in results:
        cells = [f"{got[n][0]:.1f} ms ({got[n][3]:.1f}), CPU {got[n][1]:.1f} ms, {got[n][2]:.1f} MiB" for n in names]
        print(f"| {work} | " + " | ".join(cells) + " |")
    print("| a container with a memory limit of 512 KiB starts | " + " | ".join(f"{small[n]} of 10" for n in names) + " |")
    for kind, text in (("net", "with"), ("nonet", "without")):
        print(f"floor: clone3, pivot_root, execve in C, {text} a network namespace: {floors[kind][0]:.2f} ms ({floors[kind][3]:.2f}), CPU {floors[kind][1]:.2f} ms")


if __name__ == "__main__":
    main()
