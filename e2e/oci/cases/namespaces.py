"""Namespaces, made and joined; users; kernel settings."""
import json, os, shutil, signal, subprocess, sys, time

from box import CGROUP, Box, V2, Skip, beyond, case, eq, needs_id_maps, until


@case
def user_namespace(b):
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    b.c["linux"].update(uidMappings=maps, gidMappings=maps)
    b.c["linux"]["namespaces"].append({"type": "user"})
    os.chmod(b.rootfs + "/tmp", 0o777)
    b.traverse(100000)
    eq(b.sh("id -u; touch /tmp/made").output(), "0\n")
    eq(os.stat(b.rootfs + "/tmp/made").st_uid, 100000)


@case
def idmapped_mounts(b):
    needs_id_maps(b)
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
    b.traverse(100000)
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
def each_namespace_by_path(b):
    pid = b.sh("sleep 30").start()
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    for kind, file in kinds.items():
        c = Box(b.runtime, b.bundle, "joins-" + kind, b.root)
        try:
            for n in c.c["linux"]["namespaces"]:
                if n["type"] == kind:
                    n["path"] = f"/proc/{pid}/ns/{file}"
            if kind == "uts":
                del c.c["hostname"]
            got = c.sh(f"readlink /proc/self/ns/{file}").output().strip()
            eq((kind, got), (kind, os.readlink(f"/proc/{pid}/ns/{file}")))
        finally:
            c.close()


@beyond("runc prepares the root in a mount namespace that is joined, and fails")
def a_mount_namespace_by_path(b):
    pid = b.sh("sleep 30").start()
    c = Box(b.runtime, b.bundle, "joins-mount", b.root)
    try:
        for n in c.c["linux"]["namespaces"]:
            if n["type"] in ("mount", "pid"):
                n["path"] = f"/proc/{pid}/ns/{'mnt' if n['type'] == 'mount' else 'pid'}"
        c.c["linux"].update(maskedPaths=[], readonlyPaths=[])
        eq(c.sh("readlink /proc/self/ns/mnt").output().strip(), os.readlink(f"/proc/{pid}/ns/mnt"))
    finally:
        c.close()


@beyond("runc passes over id mappings that have no user namespace")
def id_mappings_need_a_user_namespace(b):
    b.c["linux"].update(uidMappings=[{"containerID": 0, "hostID": 1, "size": 1}], gidMappings=[])
    assert b.run()[0] != 0


@case
def a_namespace_that_is_another_kind_is_refused(b):
    for path in ("/proc/self/ns/ipc", "/no/such/ns", "/etc/passwd"):
        for n in b.c["linux"]["namespaces"]:
            if n["type"] == "network":
                n["path"] = path
        assert b.run()[0] != 0, path
        assert b.call("state", b.id)[0] != 0


@case
def doubled_and_unknown_namespaces_are_refused(b):
    for n in ({"type": "pid"}, {"type": "nonsense"}):
        b.c["linux"]["namespaces"] = b.c["linux"]["namespaces"][:5] + [n]
        assert b.run()[0] != 0, n


@case
def the_hosts_own_namespaces(b):
    b.c["linux"]["namespaces"] = [{"type": "mount"}]
    del b.c["hostname"]
    out = b.sh("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done").output().split()
    eq(out, [os.readlink(f"/proc/self/ns/{n}") for n in ("net", "ipc", "uts", "pid")])


@case
def cgroup_namespaces(b):
    b.c["linux"]["namespaces"].append({"type": "cgroup"})
    out = b.sh("cat /proc/self/cgroup; readlink /proc/self/ns/cgroup").output()
    assert os.readlink("/proc/self/ns/cgroup") not in out
    assert all(l.endswith(":/") for l in out.splitlines() if ":" in l and "cgroup:[" not in l), out


@case
def time_namespaces_with_offsets(b):
    if not os.path.exists("/proc/self/ns/time"):
        raise Skip("the kernel has no time namespaces")
    b.c["linux"]["namespaces"].append({"type": "time"})
    b.c["linux"]["timeOffsets"] = {"boottime": {"secs": 100000, "nanosecs": 5}, "monotonic": {"secs": 200, "nanosecs": 0}}
    before = float(open("/proc/uptime").read().split()[0])
    out = b.sh("cat /proc/uptime /proc/self/timens_offsets").output().split()
    assert 99990 < float(out[0]) - before < 100010, out
    eq(out[2:], ["monotonic", "200", "0", "boottime", "100000", "5"])
    b.close()
    b.sh("sleep 30").start()
    inside = float(b.good("exec", b.id, "cat", "/proc/uptime").split()[0])
    assert inside - before > 99000, "exec has another clock"
    b.close()
    b.c["linux"]["timeOffsets"] = {"realtime": {"secs": 1}}
    assert b.run()[0] != 0
    b.close()
    b.c["linux"]["timeOffsets"] = {"boottime": {"secs": 1}}
    b.c["linux"]["namespaces"].pop()
    assert b.run()[0] != 0, "offsets without a namespace"


@case
def host_and_domain_name(b):
    b.c["domainname"] = "example.org"
    eq(b.sh("hostname; cat /proc/sys/kernel/domainname").output().split(), ["box", "example.org"])
    b.close()
    b.c["linux"]["namespaces"] = [n for n in b.c["linux"]["namespaces"] if n["type"] != "uts"]
    assert b.run()[0] != 0, "a host name for the host"


def userns(b, maps, gid_maps=None):
    b.c["linux"].update(uidMappings=maps, gidMappings=gid_maps or maps)
    b.c["linux"]["namespaces"].append({"type": "user"})
    b.traverse(100000)


@case
def a_user_namespace_with_several_mappings(b):
    userns(b, [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 10, "hostID": 300000, "size": 5}, {"containerID": 5000, "hostID": 7, "size": 1}])
    b.c["process"]["user"] = {"uid": 12, "gid": 5000}
    out = b.sh("cat /proc/self/uid_map; id -u; id -g").output().split()
    eq(out, ["0", "100000", "10", "10", "300000", "5", "5000", "7", "1", "12", "5000"])


@case
def bad_mappings_are_refused(b):
    for maps in ([], [{"containerID": 0, "hostID": 100000, "size": 0}],
                 [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 5, "hostID": 200000, "size": 10}]):
        b.c["linux"].update(uidMappings=maps, gidMappings=maps)
        b.c["linux"]["namespaces"] = b.c["linux"]["namespaces"][:5] + [{"type": "user"}]
        assert b.run()[0] != 0, maps
        assert b.call("state", b.id)[0] != 0


@case
def exec_in_a_user_namespace(b):
    userns(b, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    b.sh("while :; do sleep 0.1; done").start()
    eq(b.good("exec", b.id, "sh", "-c", "id -u; cat /proc/self/uid_map").split(), ["0", "0", "100000", "65536"])
    eq(b.good("exec", "-u", "33:34", b.id, "sh", "-c", "id -u; id -g").split(), ["33", "34"])


@case
def devices_in_a_user_namespace(b):
    userns(b, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    eq(b.sh("echo x > /dev/null && head -c 2 /dev/zero | wc -c; ls -d /dev/tty /dev/random /dev/urandom | wc -l").output().split(), ["2", "3"])


@case
def mounts_in_a_user_namespace(b):
    source = os.path.join(b.bundle, "src")
    os.mkdir(source)
    os.chmod(source, 0o700)
    os.chown(source, 100000, 100000)
    userns(b, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    b.c["mounts"] += [{"destination": "/b", "type": "bind", "source": source, "options": ["rbind", "ro"]},
                      {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "nodev", "noexec"]},
                      {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}]
    eq(b.sh("stat -c %u /b; touch /b/x 2>/dev/null && echo W; ls -d /sys/class | wc -l").output().split(), ["0", "1"])


@case
def an_id_mapped_mount_in_a_user_namespace(b):
    needs_id_maps(b)
    source = os.path.join(b.bundle, "src")
    os.mkdir(source)
    open(source + "/f", "w").close()
    os.chown(source + "/f", 3, 3)
    userns(b, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    b.c["mounts"].append({"destination": "/b", "type": "bind", "source": source, "options": ["bind", "idmap"],
                          "uidMappings": b.c["linux"]["uidMappings"], "gidMappings": b.c["linux"]["gidMappings"]})
    eq(b.sh("stat -c %u /b/f").output().strip(), "3")


def device(name, peer):
    if subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", peer], capture_output=True).returncode:
        raise Skip("veth devices cannot be made here")


@case
def network_devices_move_in_with_their_addresses(b):
    if not os.path.exists("/proc/net/if_inet6"):
        raise Skip("the kernel has no IPv6")
    device("kc0", "kc1")
    try:
        addresses = ["10.99.0.2/24", "fd00:99::2/64"]
        for a in addresses:
            subprocess.run(["ip", "address", "add", a, "dev", "kc0"], check=True)
        b.c["linux"]["netDevices"] = {"kc0": {"name": "eth5"}}
        os.symlink("busybox", b.rootfs + "/bin/ip")
        out = b.sh("ip address show eth5").output()
        assert all(a in out for a in addresses) and "UP" in out, out
    finally:
        b.close()
        subprocess.run(["ip", "link", "delete", "kc1"], capture_output=True)


@case
def network_devices_that_cannot_move(b):
    for devices in ({"no-such": {}}, {"lo/x": {}}, {"kc9": {"name": "a b"}}, {"kc9": {"name": "much-too-long-a-name"}}):
        b.c["linux"]["netDevices"] = devices
        assert b.run()[0] != 0, devices
        assert b.call("state", b.id)[0] != 0
    b.c["linux"]["netDevices"] = {"lo": {}}
    b.c["linux"]["namespaces"] = [n for n in b.c["linux"]["namespaces"] if n["type"] != "network"]
    assert b.run()[0] != 0, "without a network namespace"


@case
def sysctls_with_slashes_and_bad_ones(b):
    b.c["linux"]["sysctl"] = {"net/ipv4/ip_forward": "1", "kernel.msgmax": "9000", "fs.mqueue.msg_max": "20"}
    eq(b.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max").output().split(), ["1", "9000", "20"])
    b.close()
    for bad in ({"kernel.hostname": "x"}, {"net.ipv4.no_such_thing": "1"}, {"kernel.panic": "1"}, {"net/../kernel/panic": "1"}):
        b.c["linux"]["sysctl"] = bad
        assert b.run()[0] != 0, bad


@case
def loopback_is_up(b):
    os.symlink("busybox", b.rootfs + "/bin/ip")
    assert "UP" in b.sh("ip link show lo").output()
