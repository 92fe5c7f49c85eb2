"""The life of a container and of its program."""
import json, os, shutil, signal, subprocess, sys, time

from box import CGROUP, Box, V2, Skip, case, eq, until


@case
def exit_code_is_passed_on(b):
    eq(b.sh("exit 42").run()[0], 42)


@case
def nothing_is_left_after_run(b):
    b.output()
    assert b.call("state", b.id)[0] != 0
    assert not b.cgroup_folder("memory")


@case
def lifecycle(b):
    b.sh("while :; do sleep 0.1; done").start()
    eq(b.state()["status"], "running")
    assert b.call("delete", b.id)[0] != 0, "a running container must not be deleted"
    assert b.call("start", b.id)[0] != 0, "a running container must not be started"
    eq(b.call("kill", b.id, "KILL")[0], 0)
    b.wait_status("stopped")
    eq(b.call("delete", b.id)[0], 0)
    assert b.call("delete", b.id)[0] != 0
    eq(b.call("delete", "-f", b.id)[0], 0)


@case
def created_waits_for_start(b):
    b.sh("touch /tmp/ran").save()
    with open(os.devnull, "w") as null:
        subprocess.run([b.runtime, "--root", b.root, "create", "-b", b.bundle, b.id], check=True, stdout=null,
                       stderr=null, stdin=subprocess.DEVNULL)
    eq(b.state()["status"], "created")
    time.sleep(0.2)
    assert not os.path.exists(b.rootfs + "/tmp/ran")
    eq(b.call("start", b.id)[0], 0)
    b.wait_status("stopped")
    assert os.path.exists(b.rootfs + "/tmp/ran")


@case
def a_taken_name_is_refused(b):
    b.sh("sleep 30").start()
    b.save()
    assert b.call("create", "-b", b.bundle, b.id)[0] != 0
    eq(b.state()["status"], "running")


@case
def a_missing_program_is_refused_and_leaves_nothing(b):
    b.c["process"]["args"] = ["no-such-program"]
    code, _, err = b.run()
    assert code != 0 and "no-such-program" in err and "not found" in err, err
    assert b.call("state", b.id)[0] != 0
    assert not b.cgroup_folder("memory")


@case
def old_root_is_gone(b):
    out = b.sh("cat /proc/self/mountinfo").output().splitlines()
    points = [l.split()[4] for l in out]
    eq(points[0], "/")
    assert all(p == "/" or p.startswith(("/proc", "/dev")) for p in points), points


@case
def pid_one_and_hostname(b):
    eq(b.sh("echo $$; hostname").output().split(), ["1", "box"])


@case
def default_devices_work_and_others_do_not(b):
    out = b.sh("head -c 3 /dev/zero | wc -c; echo x > /dev/null; ls /dev; readlink /dev/fd").output()
    for d in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "stdin"):
        assert d in out.split(), d
    b.close()
    b.c["process"]["capabilities"] = {k: ["CAP_MKNOD"] for k in ("bounding", "effective", "permitted")}
    b.c["linux"]["devices"] = [{"type": "b", "path": "/dev/disk", "major": 7, "minor": 0, "fileMode": 0o666, "uid": 0, "gid": 0}]
    code, _, err = b.sh("head -c 1 /dev/disk").run()
    assert code != 0, "a device outside the rules was readable"
    assert "not permitted" in err, err


@case
def masked_and_readonly_paths(b):
    out = b.sh("wc -c < /proc/keys; ls /proc/acpi | wc -l; echo 1 > /proc/sys/kernel/sysrq && echo WRITTEN; true").output()
    eq(out.split(), ["0", "0"])


@case
def capabilities(b):
    b.c["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7, 8]}
    caps = ["CAP_NET_BIND_SERVICE"]
    b.c["process"]["capabilities"] = {k: caps for k in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    out = b.sh("grep Cap /proc/self/status; id; grep Groups /proc/self/status").output()
    eq([l.split()[1] for l in out.splitlines() if l.startswith("Cap")], ["0000000000000400"] * 5)
    assert "uid=1000" in out and "Groups:\t7 8" in out, out


@case
def rlimits_umask_env_home(b):
    b.c["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]
    b.c["process"]["user"]["umask"] = 0o077
    out = b.sh("grep 'open files' /proc/self/limits; touch /tmp/f; stat -c %a /tmp/f; echo $HOME").output()
    assert "77" in out and "88" in out and "600" in out and "/root" in out, out


@case
def no_new_privileges(b):
    assert "NoNewPrivs:\t1" in b.sh("grep NoNewPrivs /proc/self/status").output()


@case
def bind_mounts(b):
    source = os.path.join(b.bundle, "src")
    os.mkdir(source)
    open(source + "/f", "w").write("hello")
    os.symlink("../nowhere/resolv", b.rootfs + "/etc/resolv.conf")
    b.c["mounts"] += [
        {"destination": "/mnt/a", "type": "bind", "source": source, "options": ["rbind", "ro"]},
        {"destination": "/etc/resolv.conf", "type": "bind", "source": source + "/f", "options": ["bind"]},
    ]
    out = b.sh("cat /mnt/a/f /etc/resolv.conf; touch /mnt/a/g 2>/dev/null && echo WRITTEN; true").output()
    eq(out, "hellohello")


@case
def readonly_root(b):
    b.c["root"]["readonly"] = True
    eq(b.sh("touch /x 2>/dev/null || echo refused").output(), "refused\n")


@case
def exec_joins_everything(b):
    b.sh("sleep 30").start()
    code, out, err = b.call("exec", "-e", "A=b", "--cwd", "/tmp", "-u", "1000:1000", b.id, "sh", "-c",
                            "id -u; readlink /proc/self/ns/net; echo $A; cat /proc/self/cgroup; exit 5")
    eq(code, 5)
    mine = os.readlink("/proc/self/ns/net")
    assert out.startswith("1000\nnet:") and mine not in out and "\nb\n" in out, out
    assert b.id in out, out
    assert b.call("exec", b.id, "no-such-program")[0] != 0


@case
def hooks_run_in_their_order(b):
    log = os.path.join(b.bundle, "hooks")
    hook = lambda name: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {log}.{name}; echo {name} >> {log}"]}]
    names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    b.c["hooks"] = {n: hook(n) for n in names}
    b.output()
    eq(open(log).read().split(), names)
    for n in names:
        s = json.load(open(f"{log}.{n}"))
        eq(s["id"], b.id)
        eq(s["bundle"], b.bundle)


@case
def a_failing_hook_fails_create(b):
    b.c["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    assert b.run()[0] != 0
    assert b.call("state", b.id)[0] != 0


@case
def seccomp(b):
    b.c["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}
    for privileged in (True, False):
        b.c["process"]["noNewPrivileges"] = privileged
        out = b.sh("mkdir /tmp/d 2>&1; grep Seccomp: /proc/self/status").output()
        assert "not supported" in out and "Seccomp:\t2" in out, out
        b.close()


@case
def terminal(b):
    b.c["process"]["terminal"] = True
    b.sh("stat -c %F /dev/console; [ -t 0 ] && echo istty").save()
    r = subprocess.run(["script", "-qec", f"{b.runtime} --root {b.root} run -b {b.bundle} {b.id}", "/dev/null"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert "istty" in r.stdout and "character" in r.stdout, r.stdout + r.stderr
