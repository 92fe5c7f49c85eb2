"""Mounts and what may be said about them."""
import os, subprocess

from box import V2, Skip, beyond, case, eq, needs_id_maps


def mounts(b, *points):
    """Options and optional fields of mounts inside, by their targets."""
    out = {}
    for line in b.sh("cat /proc/self/mountinfo").output().splitlines():
        left, right = line.split(" - ")
        words = left.split()
        out[words[4]] = (words[5].split(","), words[6:], right.split())
    return [out[p] for p in points] if len(points) != 1 else out[points[0]]


def source(b, name="src"):
    path = os.path.join(b.bundle, name)
    os.makedirs(path)
    open(path + "/f", "w").write("hello")
    return path


@case
def options_of_file_systems(b):
    b.c["mounts"] += [
        {"destination": "/m1", "type": "tmpfs", "source": "t", "options": ["nosuid", "nodev", "noexec", "ro", "size=64k", "mode=700", "uid=5", "gid=6"]},
        {"destination": "/m2", "type": "tmpfs", "source": "t", "options": ["noatime", "nodiratime", "sync", "dirsync", "nosymfollow"]},
        {"destination": "/m3", "type": "tmpfs", "source": "t", "options": ["strictatime", "suid", "dev", "exec", "rw"]},
        {"destination": "/m4", "type": "tmpfs", "source": "t", "options": ["ro", "nosuid", "rw", "suid", "relatime"]},
    ]
    one, two, three, four = mounts(b, "/m1", "/m2", "/m3", "/m4")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(one[0]), one
    assert {"size=64k", "mode=700", "uid=5", "gid=6"} <= set(one[2][2].split(",")), one
    assert {"noatime", "nodiratime", "nosymfollow"} <= set(two[0]) and {"sync", "dirsync"} <= set(two[2][2].split(",")), two
    assert "rw" in three[0] and not {"nosuid", "nodev", "noexec", "relatime", "noatime"} & set(three[0]), three
    assert "rw" in four[0] and "nosuid" not in four[0] and "relatime" in four[0], four


@case
def options_of_binds(b):
    s = source(b)
    b.c["mounts"] += [
        {"destination": "/b1", "type": "bind", "source": s, "options": ["bind", "ro", "nosuid", "nodev", "noexec"]},
        {"destination": "/b2", "type": "bind", "source": s, "options": ["rbind", "noatime"]},
        {"destination": "/b3", "source": s, "options": ["bind", "nosymfollow"]},
        {"destination": "/b4/f", "type": "bind", "source": s + "/f", "options": ["bind", "ro"]},
    ]
    one, two, three, four = mounts(b, "/b1", "/b2", "/b3", "/b4/f")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(one[0]), one
    assert "noatime" in two[0] and "nosymfollow" in three[0] and "ro" in four[0]


@beyond("runc takes nosuid, nodev and noexec of the source away")
def a_bind_keeps_the_flags_of_its_source(b):
    s = source(b)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec", "t", s], check=True)
    try:
        b.c["mounts"].append({"destination": "/b", "type": "bind", "source": s, "options": ["bind", "ro"]})
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounts(b, "/b")[0])
    finally:
        b.close()
        subprocess.run(["umount", s], check=True)


@case
def recursive_attributes(b):
    s = source(b)
    os.mkdir(s + "/below")
    subprocess.run(["mount", "-t", "tmpfs", "t", s + "/below"], check=True)
    try:
        for option, want in (("rro", "ro"), ("rnosuid", "nosuid"), ("rnodev", "nodev"), ("rnoexec", "noexec"), ("rnoatime", "noatime"),
                             ("rnodiratime", "nodiratime"), ("rnosymfollow", "nosymfollow")):
            b.c["mounts"] = b.c["mounts"][:3] + [{"destination": "/b", "type": "bind", "source": s, "options": ["rbind", option]}]
            top, below = mounts(b, "/b", "/b/below")
            assert want in top[0] and want in below[0], (option, top, below)
            b.close()
        b.c["mounts"] = b.c["mounts"][:3] + [{"destination": "/b", "type": "bind", "source": s, "options": ["rbind", "ro"]}]
        top, below = mounts(b, "/b", "/b/below")
        assert "ro" in top[0] and "rw" in below[0], (top, below)
    finally:
        b.close()
        subprocess.run(["umount", s + "/below"], check=True)


@case
def recursive_attributes_taken_away(b):
    s = source(b)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,nosuid,nodev,noexec", "t", s], check=True)
    try:
        b.c["mounts"].append({"destination": "/b", "type": "bind", "source": s, "options": ["rbind", "rrw", "rsuid", "rdev", "rexec"]})
        options = mounts(b, "/b")[0]
        assert "rw" in options and not {"nosuid", "nodev", "noexec"} & set(options), options
    finally:
        b.close()
        subprocess.run(["umount", s], check=True)


@case
def propagation_of_mounts(b):
    s = source(b)
    for n, p in enumerate(("shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable", "runbindable")):
        b.c["mounts"].append({"destination": f"/p{n}", "type": "bind", "source": s, "options": ["rbind", p]})
    got = mounts(b, *(f"/p{n}" for n in range(8)))
    for n, want in ((0, "shared"), (1, "shared"), (2, ""), (3, ""), (6, "unbindable"), (7, "unbindable")):
        fields = [f.split(":")[0] for f in got[n][1]]
        assert (want in fields) if want else not fields, (n, fields)
    assert all("shared" not in f for n in (4, 5) for f in got[n][1])


@case
def propagation_of_the_root(b):
    for name, want in (("private", []), ("slave", None), ("shared", ["shared"]), ("unbindable", ["unbindable"])):
        b.c["linux"]["rootfsPropagation"] = name
        fields = [f.split(":")[0] for f in mounts(b, "/")[1]]
        if want is not None:
            eq(fields, want)
        assert name == "shared" or "shared" not in fields
        b.close()
    b.c["linux"]["rootfsPropagation"] = "nonsense"
    assert b.run()[0] != 0


@case
def nothing_comes_back_to_the_host(b):
    before = open("/proc/self/mountinfo").read().count("\n")
    b.sh("while :; do sleep 0.1; done").start()
    eq(open("/proc/self/mountinfo").read().count("\n"), before)


@case
def host_mounts_reach_a_slave(b):
    s = source(b)
    subprocess.run(["mount", "--bind", s, s], check=True)
    try:
        subprocess.run(["mount", "--make-shared", s], check=True)
        os.mkdir(s + "/later")
        b.c["mounts"].append({"destination": "/b", "type": "bind", "source": s, "options": ["rbind", "rslave"]})
        b.c["linux"]["rootfsPropagation"] = "rslave"
        b.sh("while :; do sleep 0.1; done").start()
        subprocess.run(["mount", "-t", "tmpfs", "t", s + "/later"], check=True)
        open(s + "/later/x", "w").close()
        eq(b.good("exec", b.id, "ls", "/b/later").split(), ["x"])
    finally:
        b.close()
        subprocess.run(["umount", s + "/later"])
        subprocess.run(["umount", s])


@case
def tmpfs_with_what_was_there(b):
    os.makedirs(b.rootfs + "/data/sub")
    open(b.rootfs + "/data/f", "w").write("x")
    os.chmod(b.rootfs + "/data/f", 0o640)
    os.symlink("f", b.rootfs + "/data/link")
    os.chown(b.rootfs + "/data/sub", 3, 4)
    b.c["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]})
    out = b.sh("cat /data/link; stat -c '%a' /data/f; stat -c '%u:%g' /data/sub; touch /data/new").output()
    eq(out.split(), ["x640", "3:4"])
    assert not os.path.exists(b.rootfs + "/data/new")


@case
def tmpfs_keeps_the_mode_of_its_target(b):
    os.mkdir(b.rootfs + "/t")
    os.chmod(b.rootfs + "/t", 0o1777)
    b.c["mounts"].append({"destination": "/t", "type": "tmpfs", "source": "tmpfs"})
    eq(b.sh("stat -c %a /t").output().strip(), "1777")


@case
def kinds_of_file_systems(b):
    b.c["mounts"] += [{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                      {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                      {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=1m"]}]
    got = mounts(b, "/dev/mqueue", "/sys", "/dev/shm", "/dev/pts", "/proc")
    eq([g[2][0] for g in got], ["mqueue", "sysfs", "tmpfs", "devpts", "proc"])


@case
def an_unknown_file_system_is_refused(b):
    b.c["mounts"].append({"destination": "/x", "type": "nonsensefs", "source": "x"})
    code, _, err = b.run()
    assert code != 0 and "/x" in err, err
    assert b.call("state", b.id)[0] != 0


@case
def a_missing_bind_source_is_named(b):
    b.c["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]})
    code, _, err = b.run()
    assert code != 0 and "/no/such/source" in err, err


@case
def a_relative_bind_source_is_in_the_bundle(b):
    source(b, "own")
    b.c["mounts"].append({"destination": "/x", "type": "bind", "source": "own", "options": ["bind"]})
    eq(b.sh("cat /x/f").output(), "hello")


@case
def a_relative_destination_is_taken_from_the_root(b):
    b.c["mounts"].append({"destination": "x/y", "type": "tmpfs", "source": "t"})
    eq(mounts(b, "/x/y")[2][0], "tmpfs")


@case
def overlay_file_systems(b):
    for d in ("lower", "upper", "work"):
        os.mkdir(os.path.join(b.bundle, d))
    open(b.bundle + "/lower/f", "w").write("below")
    data = ",".join(f"{k}={b.bundle}/{d}" for k, d in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")))
    b.c["mounts"].append({"destination": "/o", "type": "overlay", "source": "overlay", "options": data.split(",")})
    eq(b.sh("cat /o/f; touch /o/new").output(), "below")
    assert os.path.exists(b.bundle + "/upper/new")


@case
def a_remount_changes_flags(b):
    b.c["mounts"] += [{"destination": "/r", "type": "tmpfs", "source": "t"},
                      {"destination": "/r", "type": "tmpfs", "source": "t", "options": ["remount", "ro", "nosuid"]}]
    assert {"ro", "nosuid"} <= set(mounts(b, "/r")[0])


@case
def cgroup_mounts(b):
    b.c["mounts"] += [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                      {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}]
    b.c["linux"]["namespaces"].append({"type": "cgroup"})
    out = b.sh("cat /proc/self/cgroup; ls /sys/fs/cgroup; find /sys/fs/cgroup -name cgroup.procs 2>/dev/null | head -n 1 | xargs cat").output()
    lines = [l for l in out.splitlines() if ":" in l]
    assert lines and all(l.endswith(":/") for l in lines if not l.startswith("0::")), out


@case
def masked_folders_are_empty_and_readonly(b):
    os.makedirs(b.rootfs + "/secret/deep")
    open(b.rootfs + "/secret/f", "w").close()
    b.c["linux"]["maskedPaths"] = ["/secret", "/etc/passwd"]
    b.c["linux"]["readonlyPaths"] = ["/tmp", "/not/there"]
    eq(b.sh("ls /secret | wc -l; wc -c < /etc/passwd; touch /secret/x 2>/dev/null && echo W1; touch /tmp/x 2>/dev/null && echo W2; true").output().split(), ["0", "0"])


@case
def id_mapped_mounts_are_recursive_when_told(b):
    needs_id_maps(b)
    s = source(b)
    os.mkdir(s + "/below")
    subprocess.run(["mount", "-t", "tmpfs", "t", s + "/below"], check=True)
    try:
        open(s + "/below/g", "w").close()
        for p in ("/f", "/below/g"):
            os.chown(s + p, 5, 5)
        m = [{"containerID": 5, "hostID": 1005, "size": 10}]
        for option, want in (("idmap", ["1005", "5"]), ("ridmap", ["1005", "1005"])):
            b.c["mounts"] = b.c["mounts"][:3] + [{"destination": "/b", "type": "bind", "source": s, "options": ["rbind", option],
                                                  "uidMappings": m, "gidMappings": m}]
            eq(b.sh("stat -c %u /b/f /b/below/g").output().split(), want)
            b.close()
    finally:
        b.close()
        subprocess.run(["umount", s + "/below"], check=True)


@case
def a_cgroup_mount_shows_the_containers_own(b):
    if V2:
        b.c["linux"]["namespaces"].append({"type": "cgroup"})
    b.c["mounts"] += [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                      {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}]
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20})
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    out = b.sh(f"cat {files} 2>/dev/null; cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | wc -l").output()
    limit, processes = out.split()
    eq(limit, str(64 << 20))
    assert int(processes) <= 3, out
