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
