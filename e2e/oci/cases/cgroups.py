"""Limits, freezing, statistics."""
import json, os, shutil, signal, subprocess, sys, time

from box import CGROUP, Box, V2, Skip, case, eq, until


@case
def limits_are_set(b):
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20, "swap": 64 << 20}, pids={"limit": 33},
                                     cpu={"shares": 512, "quota": 25000, "period": 100000})
    b.sh("sleep 30").start()
    limit = "memory.max" if V2 else "memory.limit_in_bytes"
    quota = ("cpu.max", "25000 100000") if V2 else ("cpu.cfs_quota_us", "25000")
    eq(b.cgroup("memory", limit), str(64 << 20))
    eq(b.cgroup("pids", "pids.max"), "33")
    eq(b.cgroup("cpu", quota[0]), quota[1])
    eq(b.cgroup("cpu", "cpu.weight" if V2 else "cpu.shares"), "59" if V2 else "512")
    eq(b.call("update", "--memory", "96M", "--memory-swap", "96M", "--pids-limit", "44", b.id)[0], 0)
    eq(b.cgroup("memory", limit), str(96 << 20))
    eq(b.cgroup("pids", "pids.max"), "44")
    eq(b.cgroup("cpu", quota[0]), quota[1])


@case
def memory_hog_is_killed(b):
    b.c["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    b.c["process"]["args"] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]
    eq(b.run()[0], 137)


@case
def pause_and_resume(b):
    b.sh("while :; do sleep 0.05; done").start()
    eq(b.call("pause", b.id)[0], 0)
    eq(b.state()["status"], "paused")
    assert b.call("exec", b.id, "true")[0] != 0
    eq(b.call("resume", b.id)[0], 0)
    eq(b.state()["status"], "running")


@case
def kill_all_and_ps(b):
    b.sh("sleep 30 & sleep 30 & wait").start()
    time.sleep(0.2)
    code, out, _ = b.call("ps", "-f", "json", b.id)
    eq((code, len(json.loads(out))), (0, 3))
    eq(b.call("delete", "-f", b.id)[0], 0)
    assert not b.cgroup_folder("pids")


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

LOOP = "while :; do sleep 0.05; done"


def has(controller):
    if V2:
        return controller in open("/sys/fs/cgroup/cgroup.controllers").read().split()
    return os.path.isdir(f"/sys/fs/cgroup/{controller}")


def needs(controller):
    if not has(controller):
        raise Skip(f"there is no {controller} controller")


@case
def memory_settings(b):
    b.c["linux"]["resources"]["memory"] = {"limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20}
    b.sh(LOOP).start()
    if V2:
        eq((b.cgroup("memory", "memory.max"), b.cgroup("memory", "memory.low")), (str(64 << 20), str(32 << 20)))
    else:
        eq((b.cgroup("memory", "memory.limit_in_bytes"), b.cgroup("memory", "memory.soft_limit_in_bytes")), (str(64 << 20), str(32 << 20)))


@case
def memory_settings_of_version_1(b):
    if V2:
        raise Skip("version 1 has these")
    b.c["linux"]["resources"]["memory"] = {"limit": 64 << 20, "swappiness": 10, "disableOOMKiller": True}
    b.sh(LOOP).start()
    eq(b.cgroup("memory", "memory.swappiness"), "10")
    assert "oom_kill_disable 1" in b.cgroup("memory", "memory.oom_control")
    b.close()
    b.c["linux"]["resources"]["memory"] = {"limit": 64 << 20, "swappiness": 101}
    assert b.run()[0] != 0


@case
def bad_memory_limits_are_refused(b):
    for memory in ({"limit": 64 << 20, "swap": 32 << 20}, {"limit": "x"}):
        b.c["linux"]["resources"]["memory"] = memory
        assert b.run()[0] != 0, memory
        assert b.call("state", b.id)[0] != 0 and not b.cgroup_folder("memory")


@case
def a_limit_below_the_usage_is_refused_when_told_to_check(b):
    b.sh("head -c 20000000 /dev/zero > /tmp/x; " + LOOP)
    b.c["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "t"})
    b.c["linux"]["resources"]["memory"] = {"limit": 128 << 20}
    b.start()
    usage = "memory.current" if V2 else "memory.usage_in_bytes"
    until(lambda: int(b.cgroup("memory", usage)) > 18 << 20, "used")
    r = subprocess.run([b.runtime, "--root", b.root, "update", "-r", "-", b.id], text=True, capture_output=True,
                       input=json.dumps({"memory": {"limit": 4 << 20, "checkBeforeUpdate": True}}))
    assert r.returncode != 0, r.stdout
    eq(b.state()["status"], "running")


@case
def cpu_burst_and_idle(b):
    b.c["linux"]["resources"]["cpu"] = {"quota": 20000, "period": 100000, "burst": 10000}
    b.sh(LOOP).start()
    file = "cpu.max.burst" if V2 else "cpu.cfs_burst_us"
    if not os.path.exists(f"{b.cgroup_folder('cpu')}/{file}"):
        raise Skip("the kernel has no CPU burst")
    eq(b.cgroup("cpu", file), "10000")
    b.close()
    b.c["linux"]["resources"]["cpu"] = {"idle": 1}
    b.sh(LOOP).start()
    eq(b.cgroup("cpu", "cpu.idle"), "1")


@case
def a_quota_is_kept(b):
    b.c["linux"]["resources"]["cpu"] = {"quota": 10000, "period": 100000}
    b.sh("while :; do :; done").start()
    time.sleep(1.5)
    d = json.loads(b.good("events", "--stats", b.id))["data"]["cpu"]
    assert d["throttling"]["throttledPeriods"] >= 3, d
    assert d["usage"]["total"] < 0.6e9, d


@case
def cpusets(b):
    needs("cpuset")
    b.c["linux"]["resources"]["cpu"] = {"cpus": "0", "mems": "0"}
    eq(b.sh("grep Cpus_allowed_list /proc/self/status").output().split()[1], "0")
    b.close()
    b.c["linux"]["resources"]["cpu"] = {"cpus": "4000"}
    assert b.run()[0] != 0
    assert not b.cgroup_folder("cpuset")


@case
def the_pids_limit_is_kept(b):
    b.c["linux"]["resources"]["pids"] = {"limit": 4}
    code, out, err = b.sh("for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait").run()
    assert "fork" in out + err, out + err
    b.close()
    b.c["linux"]["resources"]["pids"] = {"limit": -1}
    b.sh(LOOP).start()
    eq(b.cgroup("pids", "pids.max"), "max")


@case
def block_io_throttling(b):
    needs("io" if V2 else "blkio")
    disk = [l.split() for l in open("/proc/partitions").read().splitlines()[2:]]
    disk = [d for d in disk if os.path.exists(f"/sys/block/{d[3]}")]
    if not disk:
        raise Skip("there is no disk")
    major, minor = int(disk[0][0]), int(disk[0][1])
    one = [{"major": major, "minor": minor, "rate": 1 << 20}]
    many = [{"major": major, "minor": minor, "rate": 500}]
    b.c["linux"]["resources"]["blockIO"] = {"throttleReadBpsDevice": one, "throttleWriteIOPSDevice": many}
    b.sh(LOOP).start()
    if V2:
        line = b.cgroup("io", "io.max")
        assert f"{major}:{minor} rbps={1 << 20}" in line and "wiops=500" in line, line
    else:
        eq(b.cgroup("blkio", "blkio.throttle.read_bps_device"), f"{major}:{minor} {1 << 20}")
        eq(b.cgroup("blkio", "blkio.throttle.write_iops_device"), f"{major}:{minor} 500")


@case
def huge_pages(b):
    needs("hugetlb")
    b.c["linux"]["resources"]["hugepageLimits"] = [{"pageSize": "2MB", "limit": 4 << 20}]
    b.sh(LOOP).start()
    eq(b.cgroup("hugetlb", "hugetlb.2MB.max" if V2 else "hugetlb.2MB.limit_in_bytes"), str(4 << 20))


@case
def limits_of_controllers_that_are_not_there_are_refused(b):
    for controller, resources in (("rdma", {"rdma": {"mlx5_0": {"hcaHandles": 1}}}), ("net_prio", {"network": {"priorities": [{"name": "lo", "priority": 3}]}}),
                                  ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]})):
        if has(controller) or (V2 and controller == "net_prio"):
            continue
        b.c["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}], **resources}
        assert b.run()[0] != 0, controller
        assert b.call("state", b.id)[0] != 0


@case
def unified_settings(b):
    b.c["linux"]["resources"]["unified"] = {"memory.high": str(48 << 20), "pids.max": "17"}
    if not V2:
        assert b.run()[0] != 0
        return
    b.sh(LOOP).start()
    eq((b.cgroup("memory", "memory.high"), b.cgroup("pids", "pids.max")), (str(48 << 20), "17"))
    b.close()
    for bad in ({"memory.nonsense": "1"}, {"../cgroup.procs": "1"}, {"nonsense.x": "1"}):
        b.c["linux"]["resources"]["unified"] = bad
        assert b.run()[0] != 0, bad


@case
def frozen_containers_are_ended(b):
    b.sh("sleep 60 & " + LOOP).start()
    b.good("pause", b.id)
    eq(b.state()["status"], "paused")
    b.good("kill", b.id, "KILL")
    b.wait_status("stopped")
    b.good("delete", b.id)
    b.sh(LOOP).start()
    b.good("pause", b.id)
    b.good("delete", "--force", b.id)
    assert not b.cgroup_folder("pids")


@case
def a_cgroup_by_a_relative_path_is_below_our_own(b):
    b.c["linux"]["cgroupsPath"] = "kc-relative/" + b.id
    out = b.sh("cat /proc/self/cgroup").output()
    own = {l.split(":")[1]: l.split(":")[2] for l in open("/proc/self/cgroup").read().splitlines()}
    for line in out.splitlines():
        _, name, path = line.split(":")
        if name == "" and not V2:
            continue
        eq(path, f"{own[name].rstrip('/')}/kc-relative/{b.id}")
    b.close()
    for h, path in own.items():
        folder = f"/sys/fs/cgroup/{h.removeprefix('name=') if not V2 else ''}{path}/kc-relative"
        if os.path.isdir(folder):
            os.rmdir(folder)


@case
def a_cgroup_that_others_are_in_is_refused(b):
    pid = b.sh(LOOP).start()
    c = Box(b.runtime, b.bundle, "second", b.root)
    c.c["linux"]["cgroupsPath"] = b.c["linux"]["cgroupsPath"]
    try:
        assert c.sh("true").run()[0] != 0
        eq(b.state()["status"], "running")
    finally:
        c.close()


@case
def cgroups_that_the_container_makes_are_removed_with_it(b):
    b.c["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]})
    b.c["linux"]["namespaces"].append({"type": "cgroup"})
    folder = "/sys/fs/cgroup/kc-below" if V2 else "/sys/fs/cgroup/pids/kc-below"
    b.sh(f"mkdir -p {folder}/deep && echo $$ > {folder}/cgroup.procs && echo in; " + LOOP).start()
    until(lambda: os.path.isdir(b.cgroup_folder("pids") + "/kc-below/deep"), "made")
    time.sleep(0.2)
    b.good("delete", "-f", b.id)
    assert not b.cgroup_folder("pids")
