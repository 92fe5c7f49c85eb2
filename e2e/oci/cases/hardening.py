"""What a hostile image, volume or container must not reach."""
import json, os, shutil, signal, subprocess, sys, time

from box import CGROUP, Box, V2, beyond, case, eq


@case
def masking_refuses_a_false_null(b):
    # The image's own /dev, in which null is a link to a secret.
    b.c["mounts"] = b.c["mounts"][:1]
    os.mkdir(b.rootfs + "/secret")
    out = b.sh("cat /proc/keys | wc -c")
    os.symlink("/etc/passwd", b.rootfs + "/dev/null")
    code, text, _ = b.run()
    assert code != 0 or text.strip() == "0", text


@case
def no_descriptor_leaks(b):
    out = b.sh("ls /proc/self/fd").output().split()
    assert set(out) <= {"0", "1", "2", "3"}, out


@case
def a_working_folder_cannot_lead_out(b):
    for n in range(3, 12):
        b.c["process"]["cwd"] = f"/proc/self/fd/{n}"
        code, out, _ = b.sh("ls ../../../../..; echo OUT").run()
        assert code != 0 and "OUT" not in out, f"fd {n}: {out}"
        b.close()


@case
def mount_targets_stay_inside(b):
    outside = os.path.join(b.bundle, "outside")
    os.mkdir(outside)
    os.symlink("../../outside", b.rootfs + "/tmp/link")
    os.symlink(outside, b.rootfs + "/tmp/abs")
    for target in ("/tmp/link/a", "/tmp/abs/b"):
        b.c["mounts"].append({"destination": target, "type": "tmpfs", "source": "tmpfs"})
    b.run()
    eq(os.listdir(outside), [])


@case
def nothing_may_be_mounted_over_proc(b):
    b.c["mounts"].append({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"})
    assert b.run()[0] != 0


@case
def the_runtime_binary_cannot_be_overwritten(b):
    b.sh("true").save()
    subprocess.run([b.runtime, "--root", b.root, "create", "-b", b.bundle, b.id], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    held = os.open(f"/proc/{b.state()['pid']}/exe", os.O_RDONLY)
    try:
        first = os.pread(held, 1, 0)
        b.close()
        time.sleep(0.2)
        try:
            fd = os.open(f"/proc/self/fd/{held}", os.O_WRONLY)
        except OSError:
            return
        try:
            # The same byte: no harm where it succeeds.
            os.pwrite(fd, first, 0)
        except OSError:
            return
        finally:
            os.close(fd)
        raise AssertionError("the runtime's binary could be written through /proc/PID/exe")
    finally:
        os.close(held)


@case
def proc_and_sys_may_not_be_links(b):
    # A link would put the "real" procfs elsewhere and a false one of the image in its place.
    os.makedirs(b.rootfs + "/false/self")
    for name in ("proc", "sys"):
        if name == "sys":
            b.c["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})
        os.rmdir(f"{b.rootfs}/{name}")
        os.symlink("/false", f"{b.rootfs}/{name}")
        code, out, _ = b.sh("echo RAN").run()
        assert code != 0 and "RAN" not in out, f"ran with /{name} as a link"
        b.close()
        os.remove(f"{b.rootfs}/{name}")
        os.mkdir(f"{b.rootfs}/{name}")


@case
def mount_targets_that_change_meanwhile_stay_inside(b):
    # Another container that shares a volume swaps a folder for a link while we mount.
    outside = os.path.join(b.bundle, "outside")
    os.mkdir(outside)
    os.makedirs(b.rootfs + "/vol/dir")
    os.symlink("../../outside", b.rootfs + "/vol/link")
    for n in range(8):
        b.c["mounts"].append({"destination": f"/vol/dir/m{n}", "type": "tmpfs", "source": "tmpfs"})
    # renameat2 with RENAME_EXCHANGE, as fast as it goes.
    swap = ("import ctypes\nl=ctypes.CDLL(None)\na,b=%r,%r\nwhile 1: l.renameat2(-100,a,-100,b,2)"
            % ((b.rootfs + "/vol/dir").encode(), (b.rootfs + "/vol/link").encode()))
    swapper = subprocess.Popen([sys.executable, "-c", swap])
    try:
        for _ in range(12):
            b.sh("true").run()
            b.call("delete", "-f", b.id)
            eq(os.listdir(outside), [])
    finally:
        swapper.kill()
        swapper.wait()
    assert outside not in open("/proc/self/mountinfo").read()


@case
def exec_gives_no_inheritable_capabilities(b):
    b.sh("sleep 30").start()
    code, out, err = b.call("exec", "--cap", "CAP_NET_RAW", b.id, "grep", "CapInh", "/proc/self/status")
    assert code == 0 and out.split()[1] == "0" * 16, out + err


@case
def exec_cannot_begin_in_a_leaked_folder(b):
    b.sh("sleep 30").start()
    for n in range(3, 12):
        code, out, _ = b.call("exec", "--cwd", f"/proc/self/fd/{n}", b.id, "sh", "-c", "ls ../../../../..; echo OUT")
        assert code != 0 and "OUT" not in out, f"fd {n}: {out}"


@case
def exec_sees_no_descriptors_of_the_runtime(b):
    b.sh("sleep 30").start()
    out = b.call("exec", b.id, "ls", "/proc/self/fd")[1].split()
    assert set(out) <= {"0", "1", "2", "3"}, out


@case
def a_readonly_cgroup_mount_is_readonly(b):
    b.c["mounts"] += [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                      {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}]
    script = "ls /sys/fs/cgroup | wc -l; for d in /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo MADE $d; done; true"
    out = b.sh(script).output()
    assert "MADE" not in out and int(out.split()[0]) > 0, out


@case
def the_console_is_not_bound_through_a_link(b):
    # The image's own /dev, in which the console leads out.
    outside = os.path.join(b.bundle, "outside")
    b.c["mounts"] = [m for m in b.c["mounts"] if m["destination"] != "/dev"]
    os.makedirs(b.rootfs + "/dev/pts")
    b.c["process"]["terminal"] = True
    for target in ("../../outside", "/proc/sys/kernel/domainname"):
        os.symlink(target, b.rootfs + "/dev/console")
        b.sh("echo RAN with $(grep -c domainname /proc/self/mountinfo)").save()
        r = subprocess.run(["script", "-qec", f"{b.runtime} --root {b.root} run -b {b.bundle} {b.id}", "/dev/null"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        assert not os.path.lexists(outside), "a file was made outside"
        assert "RAN" not in r.stdout or "RAN with 0" in r.stdout, r.stdout
        b.close()
        os.remove(b.rootfs + "/dev/console")


@case
def sysctls_are_written_to_a_real_procfs_only(b):
    # Without a procfs, an image's false one must take no writes.
    false = b.rootfs + "/proc/sys/net/ipv4"
    os.makedirs(false)
    open(false + "/ip_forward", "w").close()
    b.c["mounts"] = b.c["mounts"][1:]
    b.c["linux"].update(maskedPaths=[], readonlyPaths=[], sysctl={"net.ipv4.ip_forward": "1"})
    b.sh("true").run()
    eq(open(false + "/ip_forward").read(), "")


@case
def labels_are_written_to_a_real_procfs_only(b):
    # A false /proc/self/attr would take the label and the program would run without one.
    os.makedirs(b.rootfs + "/proc/self/attr")
    os.makedirs(b.rootfs + "/proc/thread-self/attr")
    b.c["mounts"] = b.c["mounts"][1:]
    b.c["linux"].update(maskedPaths=[], readonlyPaths=[])
    b.c["process"]["apparmorProfile"] = "knarr-no-such-profile"
    code, out, _ = b.sh("echo RAN").run()
    assert code != 0 and "RAN" not in out


@beyond("runc hangs as long as the container is paused")
def exec_does_not_wait_for_a_container_that_is_paused_meanwhile(b):
    b.sh("while :; do sleep 0.05; done").start()
    for n in range(25):
        p = subprocess.Popen([b.runtime, "--root", b.root, "exec", "-d", b.id, "true"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.0003 * n)
        b.call("pause", b.id)
        try:
            p.wait(timeout=3)
        except subprocess.TimeoutExpired:
            raise AssertionError("exec hangs as long as the container is paused")
        finally:
            b.call("resume", b.id)
            p.wait()


@beyond("runc leaves the folder above the hierarchies writable")
def a_readonly_cgroup_mount_is_readonly_at_its_top(b):
    b.c["mounts"] += [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                      {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}]
    eq(b.sh("mkdir /sys/fs/cgroup/x 2>/dev/null && echo MADE; true").output(), "")


@case
def a_dev_of_the_image_that_is_a_link_leads_nowhere(b):
    # Without a mount on it, nodes and links are made in the image's own /dev.
    outside = os.path.join(b.bundle, "outside")
    os.mkdir(outside)
    open(outside + "/ptmx", "w").write("keep")
    b.c["mounts"] = b.c["mounts"][:1]
    b.c["linux"]["maskedPaths"] = []
    for target in ("../../outside", outside, "../" * 20 + outside.lstrip("/")):
        shutil.rmtree(b.rootfs + "/dev", ignore_errors=True)
        if os.path.islink(b.rootfs + "/dev"):
            os.remove(b.rootfs + "/dev")
        os.symlink(target, b.rootfs + "/dev")
        b.sh("true").run()
        b.call("delete", "-f", b.id)
        eq((os.listdir(outside), open(outside + "/ptmx").read()), (["ptmx"], "keep"))


@case
def rules_of_devices_deny_what_they_do_not_name(b):
    # A list that only allows must not stand for "everything but".
    b.c["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"}]
    b.c["process"]["capabilities"] = {k: ["CAP_MKNOD"] for k in ("bounding", "effective", "permitted")}
    b.sh("mknod /dev/m c 1 1 && (: < /dev/m) 2>/dev/null && echo OPEN; true")
    os.symlink("busybox", b.rootfs + "/bin/mknod")
    eq(b.output(), "")


@case
def a_proc_that_is_no_procfs_takes_no_label_of_exec(b):
    # exec writes the label to the container's procfs: a false one must be noticed.
    b.sh("while :; do sleep 0.1; done")
    b.c["mounts"] = b.c["mounts"][1:]
    b.c["linux"].update(maskedPaths=[], readonlyPaths=[])
    for who in ("self", "thread-self"):
        os.makedirs(f"{b.rootfs}/proc/{who}/attr/apparmor")
        for f in ("exec", "apparmor/exec"):
            open(f"{b.rootfs}/proc/{who}/attr/{f}", "w").close()
    os.makedirs(b.rootfs + "/proc/sys/kernel")
    open(b.rootfs + "/proc/sys/kernel/cap_last_cap", "w").write("40")
    b.start()
    code, out, _ = b.call("exec", "--apparmor", "knarr-no-such-profile", b.id, "echo", "RAN")
    assert code != 0 and "RAN" not in out, out
