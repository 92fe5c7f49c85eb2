"""The systemd cgroup driver, where systemd runs (e2e/oci/v2.py --systemd)."""
import os, subprocess

from box import V2, Skip, case, eq, until

LOOP = "while :; do sleep 0.05; done"


def scope(b, slice_name="system.slice"):
    """Lets systemd make the cgroup; answers the unit's name."""
    if not os.path.isdir("/run/systemd/system"):
        raise Skip("systemd does not run here")
    b.flags = ["--systemd-cgroup"]
    b.c["linux"]["cgroupsPath"] = f"{slice_name}:kc:{b.id}"
    return f"kc-{b.id}.scope"


def show(unit, name):
    return subprocess.run(["systemctl", "show", "--value", "-p", name, unit], capture_output=True, text=True).stdout.strip()


def folder(unit):
    path = show(unit, "ControlGroup")
    return f"/sys/fs/cgroup{path}" if V2 else f"/sys/fs/cgroup/systemd{path}"


@case
def systemd_makes_a_scope_with_the_limits(b):
    unit = scope(b)
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 33}, cpu={"shares": 512, "quota": 50000, "period": 100000})
    pid = b.sh(LOOP).start()
    eq((show(unit, "ActiveState"), show(unit, "Slice"), show(unit, "Delegate")), ("active", "system.slice", "yes"))
    eq((show(unit, "MemoryMax"), show(unit, "TasksMax"), show(unit, "CPUQuotaPerSecUSec")), (str(64 << 20), "33", "500ms"))
    if V2:
        eq(open(folder(unit) + "/memory.max").read().strip(), str(64 << 20))
        eq(open(folder(unit) + "/pids.max").read().strip(), "33")
        eq(open(f"/proc/{pid}/cgroup").read().strip(), f"0::/system.slice/{unit}")


@case
def systemd_is_told_of_changes(b):
    unit = scope(b)
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 33})
    b.sh(LOOP).start()
    b.good("update", "--memory", "80M", "--pids-limit", "44", b.id)
    eq((show(unit, "MemoryMax"), show(unit, "TasksMax")), (str(80 << 20), "44"))
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    eq((show(unit, "MemoryMax"), show(unit, "ActiveState")), (str(80 << 20), "active"))
    if V2:
        eq(open(folder(unit) + "/memory.max").read().strip(), str(80 << 20))


@case
def systemd_scopes_go_with_their_containers(b):
    unit = scope(b)
    eq(b.run()[0], 0)
    until(lambda: show(unit, "ActiveState") == "inactive", "gone")
    b.sh(LOOP).start()
    path = folder(unit)
    b.good("delete", "--force", b.id)
    until(lambda: show(unit, "ActiveState") == "inactive" and not os.path.exists(path), "gone")


@case
def systemd_slices_are_nested(b):
    unit = scope(b, "kc-nested.slice")
    pid = b.sh(LOOP).start()
    eq(show(unit, "Slice"), "kc-nested.slice")
    assert f"/kc.slice/kc-nested.slice/{unit}" in open(f"/proc/{pid}/cgroup").read()
    b.good("pause", b.id)
    eq(b.state()["status"], "paused")
    b.good("resume", b.id)


@case
def exec_joins_the_scope_of_systemd(b):
    unit = scope(b)
    b.sh(LOOP).start()
    assert unit in b.good("exec", b.id, "cat", "/proc/self/cgroup")


@case
def devices_are_guarded_in_a_scope_of_systemd(b):
    scope(b)
    b.c["process"]["capabilities"] = {k: ["CAP_MKNOD"] for k in ("bounding", "effective", "permitted")}
    os.symlink("busybox", b.rootfs + "/bin/mknod")
    eq(b.sh("mknod /dev/m c 1 1 && (: < /dev/m) 2>/dev/null && echo OPEN; echo x > /dev/null; true").output(), "")


@case
def a_failed_start_leaves_no_scope_of_systemd(b):
    unit = scope(b)
    b.c["process"]["args"] = ["no-such-program"]
    assert b.run()[0] != 0
    until(lambda: show(unit, "ActiveState") == "inactive", "gone")


@case
def bad_scopes_of_systemd_are_refused(b):
    scope(b)
    for path in ("/not/of/systemd", "a:b", "nonsense:kc:x"):
        b.c["linux"]["cgroupsPath"] = path
        assert b.run()[0] != 0, path
        assert b.call("state", b.id)[0] != 0
