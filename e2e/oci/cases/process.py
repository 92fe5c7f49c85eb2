"""The program: user, limits, scheduling, hooks, devices."""
import json, os, subprocess, time

from box import V2, Skip, beyond, case, eq

STATUS = "grep {} /proc/self/status"


@case
def users_and_groups(b):
    b.c["process"]["user"] = {"uid": 7, "gid": 8, "additionalGids": [9, 10]}
    eq(b.sh("id -u; id -g; id -G").output().split(), ["7", "8", "8", "9", "10"])


@case
def the_umask(b):
    for given, want in ((None, "0022"), (0, "0000"), (0o027, "0027")):
        b.c["process"]["user"] = {"uid": 0, "gid": 0} if given is None else {"uid": 0, "gid": 0, "umask": given}
        eq(b.sh("umask").output().strip(), want)
        b.close()


@case
def the_environment_and_home(b):
    b.c["process"]["env"] = ["PATH=/bin", "A=1", "A=2", "EMPTY=", "X=a=b"]
    b.c["process"]["user"] = {"uid": 1000, "gid": 1000}
    eq(sorted(b.sh("env").output().split()), sorted(["PATH=/bin", "A=2", "EMPTY=", "X=a=b", "HOME=/home/u", "PWD=/", "SHLVL=1"]))


@case
def a_missing_working_folder_is_made(b):
    b.c["process"]["cwd"] = "/made/by/runtime"
    eq(b.sh("pwd").output().strip(), "/made/by/runtime")


@case
def a_working_folder_of_the_user_alone(b):
    os.mkdir(b.rootfs + "/private")
    os.chown(b.rootfs + "/private", 1000, 1000)
    os.chmod(b.rootfs + "/private", 0o700)
    b.c["process"]["cwd"] = "/private"
    b.c["process"]["user"] = {"uid": 1000, "gid": 1000}
    eq(b.sh("pwd").output().strip(), "/private")


@case
def a_program_without_a_path(b):
    b.c["process"]["env"] = ["PATH=/nowhere:/bin"]
    eq(b.sh("echo ok").output(), "ok\n")
    b.close()
    b.c["process"]["args"] = ["/etc/passwd"]
    assert b.run()[0] != 0
    b.close()
    b.c["process"]["args"] = ["/etc"]
    assert b.run()[0] != 0


@case
def bad_programs_are_refused(b):
    for change in ({"args": []}, {"args": [""]}, {"cwd": ""}, {"cwd": "etc"}):
        before = dict(b.c["process"])
        b.c["process"].update(change)
        assert b.run()[0] != 0, change
        assert b.call("state", b.id)[0] != 0
        b.c["process"] = before


@case
def capability_sets(b):
    name = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_RAW": 13}
    b.c["process"]["capabilities"] = {"bounding": list(name), "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"],
                                      "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    b.c["process"]["user"] = {"uid": 1000, "gid": 1000}
    b.c["process"]["noNewPrivileges"] = False
    out = dict(l.split(":\t") for l in b.sh("grep Cap /proc/self/status").output().splitlines())
    bits = lambda *names: f"{sum(1 << name[n] for n in names):016x}"
    eq({k: out[k] for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
       {"CapInh": bits("CAP_KILL"), "CapPrm": bits("CAP_KILL"), "CapEff": bits("CAP_KILL"), "CapBnd": bits(*name), "CapAmb": bits("CAP_KILL")})


@case
def no_capabilities_at_all(b):
    b.c["process"]["capabilities"] = {}
    out = b.sh("grep Cap /proc/self/status").output()
    assert all(l.endswith("0" * 16) for l in out.splitlines()), out


@case
def all_kinds_of_limits(b):
    names = {"AS": "Max address space", "CORE": "Max core file size", "CPU": "Max cpu time", "DATA": "Max data size", "FSIZE": "Max file size",
             "LOCKS": "Max file locks", "MEMLOCK": "Max locked memory", "MSGQUEUE": "Max msgqueue size", "NOFILE": "Max open files",
             "NPROC": "Max processes", "RSS": "Max resident set", "RTTIME": "Max realtime timeout",
             "SIGPENDING": "Max pending signals", "STACK": "Max stack size"}
    import resource
    table = {l[:26].strip(): l[26:].split()[:2] for l in open("/proc/self/limits").read().splitlines()[1:]}
    want = {}
    for n, title in names.items():
        hard = table[title][1]
        value = min(int(hard), 1 << 30) if hard != "unlimited" else 1 << 30
        want[title] = value
        b.c["process"].setdefault("rlimits", []).append({"type": "RLIMIT_" + n, "soft": value, "hard": value})
    got = {l[:26].strip(): l[26:].split()[:2] for l in b.sh("cat /proc/self/limits").output().splitlines()[1:]}
    for title, value in want.items():
        eq((title, got[title]), (title, [str(value)] * 2))
    b.close()
    b.c["process"]["rlimits"] = [{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}]
    assert b.run()[0] != 0


@case
def the_oom_score(b):
    b.c["process"]["oomScoreAdj"] = 333
    eq(b.sh("cat /proc/self/oom_score_adj").output().strip(), "333")


@case
def the_personality(b):
    b.c["linux"]["personality"] = {"domain": "LINUX32"}
    os.symlink("busybox", b.rootfs + "/bin/uname")
    machine = subprocess.run(["setarch", "linux32", "uname", "-m"], capture_output=True, text=True).stdout.strip()
    eq(b.sh("uname -m; cat /proc/self/personality").output().split(), [machine, "00000008"])
    b.close()
    b.c["linux"]["personality"] = {"domain": "AMIGA"}
    assert b.run()[0] != 0


@case
def the_io_priority(b):
    os.symlink("busybox", b.rootfs + "/bin/ionice")
    b.c["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    out = b.sh("ionice -p $$").output()
    assert "best-effort" in out and "6" in out, out
    b.close()
    b.c["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 8}
    assert b.run()[0] != 0


@case
def the_scheduler(b):
    b.c["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    fields = b.sh("cat /proc/self/stat").output().rpartition(") ")[2].split()
    SCHED_BATCH = "3"
    eq((fields[16], fields[38]), ("5", SCHED_BATCH))
    b.close()
    b.c["process"]["scheduler"] = {"policy": "SCHED_NONSENSE"}
    assert b.run()[0] != 0


@case
def cpu_affinity_of_exec(b):
    if os.cpu_count() < 2:
        raise Skip("one CPU only")
    b.c["process"]["execCPUAffinity"] = {"initial": "0-1", "final": "1"}
    b.sh("while :; do sleep 0.1; done").start()
    eq(b.good("exec", b.id, "grep", "Cpus_allowed_list", "/proc/self/status").split()[1], "1")


@case
def a_bad_cpu_affinity_is_refused(b):
    b.c["process"]["execCPUAffinity"] = {"final": "1-"}
    assert b.run()[0] != 0


@case
def the_memory_policy(b):
    if not os.path.exists("/proc/self/numa_maps"):
        raise Skip("the kernel has no memory policies")
    b.c["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    out = b.sh("head -n 3 /proc/self/numa_maps").output()
    assert "bind:0" in out, out
    for bad in ({"mode": "MPOL_NONSENSE"}, {"mode": "MPOL_BIND", "nodes": "x"}, {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_X"]}):
        b.close()
        b.c["linux"]["memoryPolicy"] = bad
        assert b.run()[0] != 0, bad


@case
def intel_rdt_without_the_hardware_is_refused(b):
    if os.path.isdir("/sys/fs/resctrl/info"):
        raise Skip("resctrl is mounted here")
    b.c["linux"]["intelRdt"] = {"closID": "x", "l3CacheSchema": "L3:0=f"}
    assert b.run()[0] != 0
    assert b.call("state", b.id)[0] != 0


@case
def devices_with_modes_and_owners(b):
    b.c["linux"]["devices"] = [{"type": "c", "path": "/dev/mine", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
                               {"type": "p", "path": "/dev/pipe", "fileMode": 0o600, "uid": 0, "gid": 0},
                               {"type": "u", "path": "/dev/deep/er", "major": 1, "minor": 3}]
    b.c["linux"]["resources"]["devices"] += [{"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"}]
    out = b.sh("stat -c '%F %a %u:%g %t:%T' /dev/mine /dev/pipe; stat -c '%F %t:%T' /dev/deep/er").output().splitlines()
    eq(out, ["character special file 640 3:4 1:5", "fifo 600 0:0 0:0", "character special file 1:3"])
    b.close()
    b.c["linux"]["devices"] = [{"type": "x", "path": "/dev/mine", "major": 1, "minor": 5}]
    assert b.run()[0] != 0


@case
def device_access_is_what_the_rules_say(b):
    caps = ["CAP_MKNOD"]
    b.c["process"]["capabilities"] = {k: caps for k in ("bounding", "effective", "permitted")}
    b.c["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"}]
    os.symlink("busybox", b.rootfs + "/bin/mknod")
    out = b.sh("mknod /dev/k c 1 11; mknod /dev/m c 1 1; (: < /dev/k) 2>/dev/null && echo READ; (: > /dev/k) && echo WROTE; "
               "(: < /dev/m) 2>/dev/null && echo MEM; true").output()
    eq(out.split(), ["WROTE"])


@case
def hooks_get_their_environment_and_arguments(b):
    out = os.path.join(b.bundle, "hook")
    b.c["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["zeroth", "-c", f"echo $0 $1 $A $(env | grep -c '^[A-Z]*=' ) > {out}", "first", "second"], "env": ["A=b"]}]}
    b.output()
    eq(open(out).read().split()[:3], ["first", "second", "b"])


@case
def a_hook_that_takes_too_long_is_ended(b):
    marker = os.path.join(b.bundle, "began")
    b.c["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"touch {marker}; exec sleep 3"], "timeout": 1}]}
    began = time.monotonic()
    assert b.run()[0] != 0
    assert time.monotonic() - began < 2.9, "the time limit was not kept"
    assert b.call("state", b.id)[0] != 0 and not b.cgroup_folder("memory")
    assert os.path.exists(marker), "the hook did not run"


@case
def a_hook_without_an_absolute_path_is_refused(b):
    b.c["hooks"] = {"createRuntime": [{"path": "true"}]}
    assert b.run()[0] != 0


@case
def hooks_see_the_state_of_their_time(b):
    log = os.path.join(b.bundle, "state")
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    b.c["hooks"] = {k: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {log}.{k}"]}] for k in kinds}
    b.c["annotations"] = {"a": "b"}
    b.output()
    got = {k: json.load(open(f"{log}.{k}")) for k in kinds}
    # The specification wants "running" for poststart; runc says "created".
    eq([got[k]["status"] for k in kinds if k != "poststart"], ["creating", "creating", "creating", "stopped"])
    assert all(got[k]["annotations"] == {"a": "b"} for k in kinds)
    assert got["prestart"]["pid"] > 0 and got["poststop"].get("pid", 0) == 0


@case
def start_container_hooks_run_inside(b):
    b.c["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/state; hostname > /tmp/name"]}]}
    eq(b.create()[0], 0)
    assert not os.path.exists(b.rootfs + "/tmp/state")
    b.good("start", b.id)
    b.wait_status("stopped")
    eq((json.load(open(b.rootfs + "/tmp/state"))["status"], open(b.rootfs + "/tmp/name").read()), ("created", "box\n"))


@case
def create_container_hooks_see_the_new_mounts(b):
    out = os.path.join(b.bundle, "seen")
    b.c["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", f"grep -c {b.rootfs}/proc /proc/self/mountinfo > {out}; true"]}]}
    b.output()
    assert int(open(out).read()) > 0


@case
def failing_hooks_of_each_kind(b):
    for kind in ("prestart", "createRuntime", "createContainer", "startContainer"):
        b.c["hooks"] = {kind: [{"path": "/bin/false"}]}
        assert b.run()[0] != 0, kind
        b.call("delete", "-f", b.id)
        assert not b.cgroup_folder("memory"), kind
    b.c["hooks"] = {"poststop": [{"path": "/bin/false"}]}
    b.run()
    assert b.call("state", b.id)[0] != 0
