"""The command line: flags, output formats, exit codes, error lines."""
import array, json, os, re, signal, socket, subprocess, threading, time

from box import CGROUP, Box, V2, Skip, beyond, case, eq, until

LOOP = "while :; do sleep 0.05; done"


def listen(b, name):
    path = os.path.join(b.bundle, name)
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(1)
    s.settimeout(10)
    return path, s


def take_fd(s):
    """The descriptor that the runtime sends."""
    connection, _ = s.accept()
    _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    connection.close()
    numbers = array.array("i")
    numbers.frombytes(control[0][2][:4])
    return numbers[0]


def read_all(fd):
    """What comes out of a terminal's master until its other end is closed."""
    out = b""
    try:
        while more := os.read(fd, 4096):
            out += more
    except OSError:
        pass
    os.close(fd)
    return out.decode()


@case
def errors_are_one_line_of_json_in_the_log(b):
    log = os.path.join(b.bundle, "log.json")
    b.c["process"]["cwd"] = "relative"
    b.save()
    code, _, err = b.call("--log", log, "--log-format", "json", "run", "-b", b.bundle, b.id)
    eq(code, 1)
    lines = [json.loads(l) for l in open(log)]
    last = [l for l in lines if l["level"] == "error"][-1]
    assert set(last) >= {"level", "msg", "time"} and last["msg"], last
    assert last["msg"] in err or last["msg"].split(":")[-1].strip() in err, err
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", last["time"]), last


@case
def errors_are_one_line_of_text(b):
    _, _, err = b.call("state", "no-such")
    lines = [l for l in err.splitlines() if l]
    assert len(lines) == 1 and 'level=error msg="container does not exist"' in lines[0], err


@case
def a_bad_log_format_is_refused(b):
    assert b.call("--log-format", "xml", "list")[0] != 0


@case
def unknown_flags_and_missing_names_are_refused(b):
    for args in (["state"], ["run", "--nonsense", b.id], ["state", "a", "b"], ["kill"], ["exec"], ["list", "-f", "xml"], ["pause"]):
        code, _, err = b.call(*args)
        assert code != 0 and err, args


@case
def version_tells_the_specification(b):
    out = b.good("--version")
    assert re.search(r"^\S*runc version \d", out) and re.search(r"^spec: 1\.\d", out, re.M), out


@case
def bad_names_are_refused(b):
    b.save()
    for name in ("", "a/b", "..", "a b", "ä"):
        code, _, _ = b.call("create", "-b", b.bundle, name)
        assert code != 0, name


@case
def a_missing_bundle_or_configuration_is_named(b):
    code, _, err = b.call("run", "-b", "/no/such/bundle", b.id)
    assert code == 1 and "/no/such/bundle" in err, err
    os.makedirs(b.bundle + "/empty")
    code, _, err = b.call("run", "-b", b.bundle + "/empty", b.id)
    assert code == 1 and "config.json" in err, err


@case
def exit_codes_of_signals(b):
    eq(b.sh("kill -9 $$").run()[0] in (0, 137), True)
    b.close()
    b.c["linux"]["namespaces"] = [n for n in b.c["linux"]["namespaces"] if n["type"] != "pid"]
    eq(b.sh("kill -TERM $$").run()[0], 128 + 15)


@case
def exec_leaves_with_255_when_it_cannot_run(b):
    b.sh(LOOP).start()
    eq(b.call("exec", b.id, "no-such-program")[0], 255)
    eq(b.call("exec", "no-such-container", "true")[0], 255)
    eq(b.call("exec", b.id, "sh", "-c", "kill -9 $$")[0], 137)


@case
def kill_takes_signals_by_name_and_number(b):
    b.sh("trap 'exit 7' USR1; trap 'exit 8' USR2; " + LOOP).start()
    time.sleep(0.2)
    for bad in ("NOSUCH", "0x", "-3"):
        assert b.call("kill", b.id, bad)[0] != 0, bad
    eq(b.call("kill", b.id, "SIGUSR1")[0], 0)
    b.wait_status("stopped")
    err = b.bad("kill", b.id, "12")
    assert "container not running" in err, err


@case
def kill_all_reaches_every_process(b):
    b.c["linux"]["namespaces"] = [n for n in b.c["linux"]["namespaces"] if n["type"] != "pid"]
    b.sh("sleep 60 & sleep 60 & wait").start()
    until(lambda: len(json.loads(b.good("ps", "-f", "json", b.id))) == 3, "three processes")
    b.good("kill", "--all", b.id, "KILL")
    until(lambda: (json.loads(b.good("ps", "-f", "json", b.id)) or []) == [], "empty")


@case
def delete_of_what_is_not_there(b):
    err = b.bad("delete", "no-such")
    assert "does not exist" in err, err
    eq(b.call("delete", "--force", "no-such")[0], 0)


@case
def delete_of_a_created_container(b):
    eq(b.create()[0], 0)
    pid = b.state()["pid"]
    b.good("delete", b.id)
    until(lambda: not os.path.exists(f"/proc/{pid}") or "State:\tZ" in open(f"/proc/{pid}/status").read(), "gone")
    assert not b.cgroup_folder("memory")


@case
def the_state_has_what_the_specification_asks(b):
    b.c["annotations"] = {"org.example.a": "b"}
    pid = b.sh(LOOP).start()
    s = b.state()
    eq({k: s[k] for k in ("id", "pid", "status", "bundle", "annotations")},
       {"id": b.id, "pid": pid, "status": "running", "bundle": b.bundle, "annotations": {"org.example.a": "b"}})
    assert s["ociVersion"].startswith("1.") and s["rootfs"] == b.rootfs, s
    assert re.match(r"\d{4}-\d\d-\d\dT", s["created"]), s
    b.good("kill", b.id, "KILL")
    b.wait_status("stopped")
    eq(b.state()["pid"], 0)


@case
def list_in_its_formats(b):
    b.sh(LOOP).start()
    eq(b.good("list", "-q").split().count(b.id), 1)
    one = [c for c in json.loads(b.good("list", "--format", "json")) if c["id"] == b.id][0]
    eq((one["status"], one["pid"]), ("running", b.state()["pid"]))
    table = b.good("list").splitlines()
    eq(table[0].split(), ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"])
    assert any(l.split()[:3] == [b.id, str(one["pid"]), "running"] for l in table[1:]), table


@case
def list_of_nothing(b):
    os.mkdir(b.bundle + "/none")
    out = subprocess.run([b.runtime, "--root", b.bundle + "/none", "list", "-f", "json"], capture_output=True, text=True)
    eq((out.returncode, out.stdout.strip()), (0, "null"))


@case
def ps_as_a_table(b):
    if subprocess.run(["ps", "-ef"], capture_output=True).returncode:
        raise Skip("this machine's own ps does not work")
    pid = b.sh(LOOP).start()
    lines = b.good("ps", b.id).splitlines()
    assert "PID" in lines[0] and any(str(pid) in l.split() for l in lines[1:]), lines
    lines = b.good("ps", b.id, "-o", "pid,comm").splitlines()
    eq(lines[0].split(), ["PID", "COMMAND"])


@case
def events_print_statistics(b):
    b.c["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 33})
    b.sh(LOOP).start()
    e = json.loads(b.good("events", "--stats", b.id))
    eq((e["type"], e["id"]), ("stats", b.id))
    d = e["data"]
    assert d["cpu"]["usage"]["total"] > 0 and d["memory"]["usage"]["usage"] > 0, d
    eq(d["memory"]["usage"]["limit"], 64 << 20)
    eq((d["pids"]["limit"], d["pids"]["current"] >= 1), (33, True))
    assert d["memory"]["raw"], d
    assert {"cpu", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "cpuset", "network_interfaces"} <= set(d), d
    if not V2:
        assert {"total", "percpu", "percpu_kernel", "percpu_user", "kernel", "user"} <= set(d["cpu"]["usage"]), d["cpu"]
        assert d["cpuset"]["cpus"] == sorted(os.sched_getaffinity(0)) or d["cpuset"]["cpus"], d["cpuset"]
        assert {"limit", "usage", "max", "failcnt"} <= set(d["memory"]["kernel"]) and "limit" in d["memory"]["kernelTCP"], d["memory"]


@case
def events_go_on_until_the_container_is_gone(b):
    b.sh(LOOP).start()
    p = subprocess.Popen([b.runtime, "--root", b.root, "events", "--interval", "200ms", b.id], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        eq(json.loads(p.stdout.readline())["type"], "stats")
    b.good("delete", "--force", b.id)
    p.communicate(timeout=10)
    eq(p.returncode, 0)


@case
def events_tell_of_memory_running_out(b):
    b.c["linux"]["resources"]["memory"] = {"limit": 24 << 20, "swap": 24 << 20}
    b.sh("while [ ! -e /tmp/go ]; do sleep 0.05; done; dd if=/dev/zero of=/dev/null bs=64M count=1; " + LOOP).start()
    p = subprocess.Popen([b.runtime, "--root", b.root, "events", "--interval", "300ms", b.id], stdout=subprocess.PIPE, text=True)
    try:
        p.stdout.readline()
        open(b.rootfs + "/tmp/go", "w").close()
        for _ in range(30):
            if json.loads(p.stdout.readline())["type"] == "oom":
                return
        raise AssertionError("no oom event")
    finally:
        p.kill()
        p.wait()


@case
def update_from_a_file_and_from_input(b):
    b.sh(LOOP).start()
    text = json.dumps({"memory": {"limit": 80 << 20}, "pids": {"limit": 21}})
    r = subprocess.run([b.runtime, "--root", b.root, "update", "-r", "-", b.id], input=text, text=True, capture_output=True)
    eq((r.returncode, r.stderr), (0, ""))
    eq(b.cgroup("memory", "memory.max" if V2 else "memory.limit_in_bytes"), str(80 << 20))
    path = os.path.join(b.bundle, "resources.json")
    open(path, "w").write(json.dumps({"pids": {"limit": 22}}))
    b.good("update", "--resources", path, b.id)
    eq(b.cgroup("pids", "pids.max"), "22")
    assert b.call("update", "--memory", "nonsense", b.id)[0] != 0
    assert b.call("update", "--pids-limit", "x", b.id)[0] != 0


@case
def update_of_cpu_and_cpuset(b):
    b.sh(LOOP).start()
    b.good("update", "--cpu-period", "50000", "--cpu-quota", "20000", "--cpu-share", "256", b.id)
    if not V2 or "cpuset" in open("/sys/fs/cgroup/cgroup.controllers").read():
        b.good("update", "--cpuset-cpus", "0", "--cpuset-mems", "0", b.id)
        eq(b.cgroup("cpuset", "cpuset.cpus"), "0")
    if V2:
        eq(b.cgroup("cpu", "cpu.max"), "20000 50000")
    else:
        eq((b.cgroup("cpu", "cpu.cfs_quota_us"), b.cgroup("cpu", "cpu.cfs_period_us"), b.cgroup("cpu", "cpu.shares")), ("20000", "50000", "256"))


@case
def the_spec_command_writes_a_bundle_that_runs(b):
    os.remove(b.bundle + "/config.json") if os.path.exists(b.bundle + "/config.json") else None
    b.good("spec", "-b", b.bundle)
    assert b.call("spec", "--bundle", b.bundle)[0] != 0, "an existing file was overwritten"
    c = json.load(open(b.bundle + "/config.json"))
    eq((c["process"]["args"], c["process"]["terminal"], c["root"]), (["sh"], True, {"path": "rootfs", "readonly": True}))
    c["process"].update(terminal=False, args=["hostname"])
    b.c = c
    b.c["linux"]["cgroupsPath"] = CGROUP + "/" + b.id
    b.c["mounts"] = [m for m in c["mounts"] if not V2 or m["type"] != "cgroup"]
    eq(b.output(), "runc\n")


@case
def the_rootless_spec_maps_one_id(b):
    b.good("spec", "--rootless", "-b", b.bundle)
    linux = json.load(open(b.bundle + "/config.json"))["linux"]
    eq(linux["uidMappings"], [{"containerID": 0, "hostID": 0, "size": 1}])
    assert "user" in [n["type"] for n in linux["namespaces"]] and "network" not in [n["type"] for n in linux["namespaces"]]


@case
def features_tell_what_is_there(b):
    f = json.loads(b.good("features"))
    assert f["ociVersionMin"] == "1.0.0" and f["ociVersionMax"] >= "1.2", f
    eq(f["hooks"], ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"])
    assert {"rro", "rbind", "tmpcopyup", "nosymfollow", "ratime"} <= set(f["mountOptions"])
    l = f["linux"]
    assert len(l["namespaces"]) == 8 and "CAP_BPF" in l["capabilities"]
    assert l["seccomp"]["enabled"] and "SCMP_ACT_NOTIFY" in l["seccomp"]["actions"] and l["cgroup"]["v1"] and l["cgroup"]["v2"]
    assert l["mountExtensions"]["idmap"]["enabled"] and l["netDevices"]["enabled"], l


@case
def pid_files(b):
    path = os.path.join(b.bundle, "pid")
    eq(b.sh(LOOP).create("--pid-file", path)[0], 0)
    eq(open(path).read(), str(b.state()["pid"]))
    b.good("start", b.id)
    b.quiet("exec", "-d", "--pid-file", path, b.id, "sleep", "5")
    pid = open(path).read()
    assert pid in map(str, json.loads(b.good("ps", "-f", "json", b.id))) and pid != str(b.state()["pid"])


@case
def a_pid_file_that_cannot_be_written_leaves_nothing(b):
    assert b.create("--pid-file", "/no/such/folder/pid")[0] != 0
    assert b.call("state", b.id)[0] != 0 and not b.cgroup_folder("memory")


@case
def console_sockets_of_create_and_exec(b):
    path, s = listen(b, "tty.sock")
    b.c["process"]["terminal"] = True
    b.c["process"]["consoleSize"] = {"height": 33, "width": 77}
    b.sh("cat < /dev/tty; " + LOOP)
    assert b.create()[0] != 0, "a terminal without a socket"
    code, said = b.create("--console-socket", path)
    eq((code, said), (0, ""))
    master = take_fd(s)
    eq(array.array("H", __import__("fcntl").ioctl(master, 0x5413, b"\0" * 8))[:2].tolist(), [33, 77])
    b.good("start", b.id)
    os.write(master, b"hello\n")
    out = b""
    while b"hello\r\nhello" not in out:
        out += os.read(master, 4096)
    os.close(master)
    b.quiet("exec", "-t", "-d", "--console-socket", path, b.id, "sh", "-c", "[ -t 0 ] && echo a terminal")
    assert "a terminal" in read_all(take_fd(s))


@case
def a_console_socket_without_a_terminal_is_refused(b):
    path, s = listen(b, "tty.sock")
    assert b.create("--console-socket", path)[0] != 0
    s.close()


@case
def exec_with_a_terminal_of_ours(b):
    b.sh(LOOP).start()
    r = subprocess.run(["script", "-qec", f"{b.runtime} --root {b.root} exec -t {b.id} sh -c '[ -t 0 ] && echo istty'", "/dev/null"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert "istty" in r.stdout, r.stdout + r.stderr


@case
def pidfd_sockets(b):
    path, s = listen(b, "pidfd.sock")
    eq(b.sh(LOOP).create("--pidfd-socket", path)[0], 0)
    fd = take_fd(s)
    info = open(f"/proc/self/fdinfo/{fd}").read()
    assert f"Pid:\t{b.state()['pid']}" in info, info
    os.close(fd)
    b.good("start", b.id)
    b.quiet("exec", "-d", "--pidfd-socket", path, b.id, "sleep", "5")
    fd = take_fd(s)
    assert "Pid:" in open(f"/proc/self/fdinfo/{fd}").read()
    os.close(fd)


def with_files(b, count, args, env=None):
    """A run of the runtime with descriptors from 3 on; answers exit code and output."""
    read = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    files = []
    for n in range(count):
        path = os.path.join(b.bundle, f"file{n}")
        open(path, "w").write(f"content{n}\n")
        files.append(os.open(path, os.O_RDONLY))

    def place():
        high = [__import__("fcntl").fcntl(f, 0, 100) for f in files]
        for n, f in enumerate(high):
            os.dup2(f, 3 + n, inheritable=True)
        if env and "LISTEN_FDS" in env:
            os.environ["LISTEN_PID"] = str(os.getpid())

    # LISTEN_PID must be the runtime's own, so a shell sets it and becomes the runtime.
    script = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"' if env and "LISTEN_FDS" in env else 'exec "$@"'
    r = subprocess.run(["sh", "-c", script, "sh", b.runtime, "--root", b.root, *args], preexec_fn=place, close_fds=False,
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, env={**os.environ, **(env or {})})
    for fd in read + files:
        os.close(fd)
    return r.returncode, r.stdout + r.stderr


@case
def preserved_descriptors(b):
    b.sh("cat <&3; cat <&4; ls /proc/self/fd | wc -l").save()
    code, out = with_files(b, 2, ["run", "--preserve-fds", "2", "-b", b.bundle, b.id])
    # Three streams, two files, and the one that ls opens.
    eq((code, out.split()), (0, ["content0", "content1", "6"]))
    b.close()
    b.sh(LOOP).start()
    code, out = with_files(b, 1, ["exec", "--preserve-fds", "1", b.id, "sh", "-c", "cat <&3"])
    eq((code, out), (0, "content0\n"))


@case
def descriptors_of_socket_activation(b):
    b.sh("echo $LISTEN_FDS $LISTEN_PID $$; cat <&3").save()
    code, out = with_files(b, 1, ["run", "-b", b.bundle, b.id], {"LISTEN_FDS": "1"})
    eq((code, out.split()), (0, ["1", "1", "1", "content0"]))


@case
def the_notify_socket_is_passed_through(b):
    path = os.path.join(b.bundle, "notify")
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(path)
    got = []

    def manager():
        while True:
            text, control, _, _ = s.recvmsg(4096, socket.CMSG_SPACE(4))
            got.append(text)
            for _, _, data in control:
                # runc waits until its barrier is closed.
                os.close(array.array("i", data[:4])[0])

    threading.Thread(target=manager, daemon=True).start()
    b.sh("echo $NOTIFY_SOCKET; while [ ! -e /tmp/done ]; do sleep 0.05; done").save()
    out = os.path.join(b.bundle, "out")
    with open(out, "w") as f:
        p = subprocess.Popen([b.runtime, "--root", b.root, "run", "-b", b.bundle, b.id], stdin=subprocess.DEVNULL, stdout=f,
                             stderr=f, env={**os.environ, "NOTIFY_SOCKET": path})
    try:
        until(lambda: "notify" in open(out).read(), "told of the socket: " + open(out).read())
        inside = open(out).read().strip()
        pid = b.state()["pid"]
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.connect(f"/proc/{pid}/root{inside}")
        sender.send(b"STATUS=up\nREADY=1\n")
        until(lambda: b"READY=1" in b"\n".join(got) and b"MAINPID=" in b"\n".join(got), f"told: {got}")
    finally:
        open(b.rootfs + "/tmp/done", "w").close()
        try:
            p.wait(timeout=3)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


@case
def run_detached_and_kept(b):
    b.sh("true").save()
    eq(b.call("run", "--keep", "-b", b.bundle, b.id)[0], 0)
    eq(b.state()["status"], "stopped")
    b.good("delete", b.id)
    b.sh(LOOP).save()
    with open(os.devnull, "w") as null:
        r = subprocess.run([b.runtime, "--root", b.root, "run", "--detach", "-b", b.bundle, b.id], stdin=subprocess.DEVNULL,
                           stdout=null, stderr=null, timeout=10)
    eq((r.returncode, b.state()["status"]), (0, "running"))


@case
def run_without_pivot_root(b):
    eq(b.sh("hostname").run("--no-pivot")[1], "box\n")


@case
def run_passes_signals_on(b):
    b.sh("trap 'exit 9' TERM; echo up > /tmp/up; " + LOOP).save()
    p = subprocess.Popen([b.runtime, "--root", b.root, "run", "-b", b.bundle, b.id], stdin=subprocess.DEVNULL)
    until(lambda: os.path.exists(b.rootfs + "/tmp/up"), "up")
    p.send_signal(signal.SIGTERM)
    eq(p.wait(timeout=10), 9)


@case
def the_session_keyring(b):
    keys = lambda *flags: b.sh("cat /proc/keys").run(*flags)[1]
    b.c["linux"]["maskedPaths"] = []
    if not os.path.exists("/proc/keys"):
        raise Skip("the kernel has no keys")
    assert "_ses." + b.id not in keys("--no-new-keyring")
    b.close()
    assert "_ses." + b.id in keys()


@case
def exec_changes_what_its_flags_say(b):
    b.c["process"]["noNewPrivileges"] = False
    b.sh(LOOP).start()
    run = lambda *flags: b.good("exec", *flags, b.id, "sh", "-c", "id -u; id -g; id -G; pwd; echo $A$B; grep NoNewPrivs /proc/self/status")
    out = run("--user", "1000:1001", "-g", "7", "-g", "8", "--cwd", "/tmp", "-e", "A=1", "-e", "B=2", "--no-new-privs")
    eq(out.split(), ["1000", "1001", "1001", "7", "8", "/tmp", "12", "NoNewPrivs:", "1"])
    eq(run().split(), ["0", "0", "0", "/", "NoNewPrivs:", "0"])
    caps = lambda *flags: b.good("exec", *flags, b.id, "grep", "CapEff", "/proc/self/status").split()[1]
    assert int(caps("--cap", "CAP_SYS_NICE"), 16) & 1 << 23 and not int(caps(), 16) & 1 << 23


@case
def exec_of_a_process_file(b):
    b.sh(LOOP).start()
    process = {**b.c["process"], "args": ["sh", "-c", "id -u; pwd; echo $X"], "user": {"uid": 5, "gid": 6}, "cwd": "/etc", "env": ["X=y", "PATH=/bin"]}
    path = os.path.join(b.bundle, "process.json")
    json.dump(process, open(path, "w"))
    eq(b.good("exec", "--process", path, b.id).split(), ["5", "/etc", "y"])


@case
def exec_in_the_background(b):
    b.sh(LOOP).start()
    with open(os.devnull, "w") as null:
        r = subprocess.run([b.runtime, "--root", b.root, "exec", "--detach", b.id, "sh", "-c", "sleep 0.3; touch /tmp/later"],
                           stdin=subprocess.DEVNULL, stdout=null, stderr=null, timeout=10)
    eq(r.returncode, 0)
    assert not os.path.exists(b.rootfs + "/tmp/later")
    until(lambda: os.path.exists(b.rootfs + "/tmp/later"), "done")


@case
def exec_in_a_paused_container_when_told_to(b):
    b.sh(LOOP).start()
    b.good("pause", b.id)
    assert b.call("exec", b.id, "true")[0] != 0
    p = subprocess.Popen([b.runtime, "--root", b.root, "exec", "--ignore-paused", b.id, "true"], stdin=subprocess.DEVNULL)
    time.sleep(0.3)
    assert p.poll() is None, "it did not freeze with the container"
    b.good("resume", b.id)
    eq(p.wait(timeout=10), 0)


@case
def exec_in_a_cgroup_below(b):
    b.sh(LOOP).start()
    folder = b.cgroup_folder("pids")
    os.mkdir(folder + "/below")
    spec = "below" if V2 else "pids:below"
    out = b.good("exec", "--cgroup", spec, b.id, "cat", "/proc/self/cgroup")
    assert any(l.endswith("/below") for l in out.splitlines()), out
    if not V2:
        eq(sum(l.endswith("/below") for l in out.splitlines()), 1)
    assert b.call("exec", "--cgroup", "../../x", b.id, "true")[0] != 0
    until(lambda: not open(folder + "/below/cgroup.procs").read(), "empty")
    os.rmdir(folder + "/below")


@case
def commands_in_the_wrong_state_are_refused(b):
    eq(b.create()[0], 0)
    for args in (["resume", b.id],):
        assert b.call(*args)[0] != 0, args
    b.good("start", b.id)
    b.wait_status("stopped")
    for args in (["start", b.id], ["pause", b.id], ["resume", b.id], ["exec", b.id, "true"], ["kill", b.id], ["events", "--stats", b.id]):
        assert b.call(*args)[0] != 0, args


@case
def checkpoint_without_criu_says_so(b):
    import shutil
    if shutil.which("criu"):
        raise Skip("criu is installed")
    b.sh(LOOP).start()
    err = b.bad("checkpoint", "--image-path", b.bundle + "/image", b.id)
    assert "criu" in err.lower(), err
    eq(b.state()["status"], "running")


@case
def the_systemd_driver_without_systemd_says_so(b):
    if os.path.isdir("/run/systemd/system"):
        raise Skip("systemd runs here")
    b.c["linux"]["cgroupsPath"] = "system.slice:knarr:x"
    b.save()
    code, _, err = b.call("--systemd-cgroup", "run", "-b", b.bundle, b.id)
    assert code != 0 and "systemd" in err, err
    assert b.call("state", b.id)[0] != 0


@case
def the_root_folder_is_made_and_private(b):
    root = os.path.join(b.bundle, "deep/root")
    b.save()
    eq(subprocess.run([b.runtime, "--root", root, "run", "-b", b.bundle, b.id], capture_output=True).returncode, 0)
    eq(os.listdir(root), [])
    eq(os.stat(root).st_mode & 0o7022, 0)
