"""checkpoint and restore, with the CRIU that is installed (Debian: criu)."""
import contextlib, os, signal, subprocess, time

from box import Skip, V2, beyond, case, eq, until
from criu import prepare
from cases.commands import listen, take_fd

# Counts in memory alone: a count that goes on shows that the memory came back.
COUNT = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done"


@contextlib.contextmanager
def criu(b):
    """The CRIU of this machine first in the PATH."""
    folder = os.path.join(b.bundle, "criu")
    os.mkdir(folder)
    if trouble := prepare(folder):
        raise Skip(trouble)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def images(b, name="images"):
    return ["--image-path", os.path.join(b.bundle, name), "--work-path", os.path.join(b.bundle, name + "-work")]


def begin(b, script=COUNT):
    """A container that counts, its streams null."""
    b.sh(script).save()
    b.quiet("run", "-d", "-b", b.bundle, b.id)
    until(lambda: count(b) > 3, "counting")


def count(b):
    try:
        return int(open(f"{b.rootfs}/tmp/count").read() or 0)
    except FileNotFoundError:
        return 0


def again(b, *flags):
    b.quiet("restore", "-d", *images(b), "-b", b.bundle, *flags, b.id)


def goes_on(b, since):
    """The count is above what it was, and did not start anew."""
    seen = set()
    until(lambda: (now := count(b)) and (seen.add(now) or len(seen) > 3), "counting")
    assert min(seen) >= since, f"{sorted(seen)} after {since}"


@case
def a_restored_container_goes_on_where_it_was(b):
    with criu(b):
        begin(b)
        pid = b.state()["pid"]
        b.good("checkpoint", *images(b), b.id)
        # It has ended, and is gone.
        assert "does not exist" in b.bad("state", b.id)
        until(lambda: not os.path.exists(f"/proc/{pid}/exe"), "ended")
        assert not b.cgroup_folder("pids")
        stopped = count(b)
        time.sleep(0.2)
        eq(count(b), stopped)
        again(b, "--pid-file", f"{b.bundle}/pid")
        goes_on(b, stopped)
        state = b.state()
        eq((state["status"], str(state["pid"])), ("running", open(f"{b.bundle}/pid").read()))
        eq(b.good("exec", b.id, "hostname").strip(), "box")
        assert "while" in b.good("exec", b.id, "ps")
        # In the cgroup that it was made with, under the limits.
        eq(b.cgroup("pids", "cgroup.procs").split()[0], str(state["pid"]))
        b.good("pause", b.id)
        b.good("resume", b.id)
        b.good("kill", b.id, "KILL")
        b.wait_status("stopped")
        b.good("delete", b.id)
        assert not b.cgroup_folder("pids")


@case
def a_restored_container_has_its_mounts(b):
    with criu(b):
        shared = os.path.join(b.bundle, "shared")
        os.mkdir(shared)
        open(f"{shared}/file", "w").write("from outside")
        b.c["mounts"] += [
            {"destination": "/data", "type": "bind", "source": shared, "options": ["rbind", "rw"]},
            {"destination": "/data/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
            {"destination": "/etc/hosts", "type": "bind", "source": f"{shared}/file", "options": ["bind", "ro"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ]
        begin(b, "echo kept > /data/scratch/note; " + COUNT)
        b.good("checkpoint", *images(b), b.id)
        open(f"{shared}/file", "w").write("from outside again")
        again(b)
        eq(b.good("exec", b.id, "cat", "/data/scratch/note").strip(), "kept")
        eq(b.good("exec", b.id, "cat", "/etc/hosts"), "from outside again")
        eq(b.good("exec", b.id, "sh", "-c", "echo x > /data/new && cat /proc/keys | wc -c").strip(), "0")
        eq(open(f"{shared}/new").read(), "x\n")
        assert "ead-only" in b.bad("exec", b.id, "sh", "-c", "echo 1 > /proc/sys/kernel/domainname")
        assert "ead-only" in b.bad("exec", b.id, "sh", "-c", "echo 1 > /etc/hosts")
        own = b.good("exec", b.id, "cat", "/sys/fs/cgroup/cgroup.procs" if V2 else "/sys/fs/cgroup/pids/cgroup.procs")
        assert "1" in own.split(), own


@case
def a_restored_container_writes_to_new_streams(b):
    with criu(b):
        b.sh("trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done").save()
        first = subprocess.Popen([b.runtime, "--root", b.root, "run", "-b", b.bundle, b.id], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        lines = [first.stdout.readline() for _ in range(5)]
        b.good("checkpoint", *images(b), b.id)
        lines += first.stdout.read().splitlines(True)
        first.stderr.close()
        first.stdout.close()
        first.wait(timeout=10)
        second = subprocess.Popen([b.runtime, "--root", b.root, "restore", *images(b), "-b", b.bundle, b.id], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        lines += [second.stdout.readline() for _ in range(5)]
        # No line lost, none twice.
        eq([l.decode() for l in lines], [f"line {n}\n" for n in range(1, len(lines) + 1)])
        # Signals reach it, its code comes back, and it is deleted.
        second.send_signal(signal.SIGTERM)
        second.stdout.read()
        eq(second.wait(timeout=10), 7)
        second.stdout.close()
        second.stderr.close()
        assert "does not exist" in b.bad("state", b.id)


@beyond("runc does not tell CRIU of such files")
def streams_may_be_fifos_of_the_host(b):
    with criu(b):
        b.sh("i=0; while :; do i=$((i+1)); echo line $i; echo error $i >&2; sleep 0.05; done").save()
        ends = []
        for name in ("out", "err", "out-again", "err-again"):
            os.mkfifo(f"{b.bundle}/{name}")
            # Open for both, as a shim does whose container is to outlive it.
            ends.append(os.open(f"{b.bundle}/{name}", os.O_RDWR))
        read = [open(f"{b.bundle}/{name}") for name in ("out", "err", "out-again", "err-again")]
        run = lambda *args, streams: subprocess.run([b.runtime, "--root", b.root, *args], stdin=subprocess.DEVNULL,
                                                    stdout=streams[0], stderr=streams[1], check=True)
        run("run", "-d", "-b", b.bundle, b.id, streams=ends[:2])
        eq([read[0].readline(), read[0].readline(), read[1].readline()], ["line 1\n", "line 2\n", "error 1\n"])
        b.good("checkpoint", *images(b), "--leave-running", b.id)
        eq(read[0].readline(), "line 3\n")
        b.good("delete", "-f", b.id)
        run("restore", "-d", *images(b), "-b", b.bundle, b.id, streams=ends[2:])
        first = int(read[2].readline().split()[1])
        eq(read[2].readline(), f"line {first + 1}\n")
        eq(read[3].readline().split()[0], "error")
        b.good("delete", "-f", b.id)
        for end in ends:
            os.close(end)
        for file in read:
            file.close()


@case
def a_checkpoint_may_leave_it_running(b):
    with criu(b):
        begin(b)
        pid = b.state()["pid"]
        b.good("checkpoint", *images(b), "--leave-running", b.id)
        goes_on(b, 4)
        eq(b.state()["pid"], pid)
        b.good("delete", "-f", b.id)
        ended = count(b)
        again(b)
        # It is where the images are, not where it ended.
        until(lambda: 0 < count(b), "counting")
        goes_on(b, 4)
        assert ended >= 4


@case
def memory_may_be_written_ahead(b):
    with criu(b):
        if subprocess.run(["criu", "check", "--feature", "mem_dirty_track"], capture_output=True).returncode:
            raise Skip("this kernel does not track written memory")
        begin(b)
        b.good("checkpoint", *images(b, "ahead"), "--pre-dump", b.id)
        eq(b.state()["status"], "running")
        goes_on(b, 4)
        b.good("checkpoint", *images(b), "--parent-path", "../ahead", b.id)
        assert os.path.islink(f"{b.bundle}/images/parent")
        stopped = count(b)
        again(b)
        goes_on(b, stopped)


@case
def what_a_kernel_cannot_do_is_said(b):
    with criu(b):
        if not subprocess.run(["criu", "check", "--feature", "mem_dirty_track"], capture_output=True).returncode:
            raise Skip("this kernel tracks written memory")
        begin(b)
        assert b.bad("checkpoint", *images(b), "--pre-dump", b.id).strip()
        goes_on(b, 4)


@case
def a_joined_network_stays_outside(b):
    with criu(b):
        keeper = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
        try:
            until(lambda: os.readlink(f"/proc/{keeper.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "a namespace")
            for space in b.c["linux"]["namespaces"]:
                if space["type"] == "network":
                    space["path"] = f"/proc/{keeper.pid}/ns/net"
            begin(b)
            b.good("checkpoint", *images(b), b.id)
            again(b)
            eq(os.readlink(f"/proc/{b.state()['pid']}/ns/net"), os.readlink(f"/proc/{keeper.pid}/ns/net"))
        finally:
            keeper.kill()
            keeper.wait()


@case
def a_restored_terminal_goes_to_the_console_socket(b):
    with criu(b):
        b.c["process"]["terminal"] = True
        b.sh(COUNT + " & while read line; do echo got $line; done").save()
        path, s = listen(b, "console")
        b.quiet("run", "-d", "--console-socket", path, "-b", b.bundle, b.id)
        master = take_fd(s)
        until(lambda: count(b) > 3, "counting")
        b.good("checkpoint", *images(b), b.id)
        os.close(master)
        stopped = count(b)
        again(b, "--console-socket", path)
        master = take_fd(s)
        goes_on(b, stopped)
        os.write(master, b"hello\n")
        seen = b""
        while b"got hello" not in seen:
            seen += os.read(master, 4096)
        os.close(master)
        s.close()


@case
def a_restore_runs_the_hooks_of_a_new_container(b):
    with criu(b):
        note = os.path.join(b.bundle, "hooks")
        hook = lambda name: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {name} >> {note}"]}]
        b.c["hooks"] = {name: hook(name) for name in ("createRuntime", "poststart", "poststop")}
        begin(b)
        b.good("checkpoint", *images(b), b.id)
        os.remove(note)
        again(b)
        eq(open(note).read().split(), ["createRuntime"])
        b.good("delete", "-f", b.id)
        eq(open(note).read().split()[-1], "poststop")


@beyond("runc leaves the loopback device of a restored network down")
def a_restored_network_has_its_loopback(b):
    with criu(b):
        begin(b)
        b.good("checkpoint", *images(b), b.id)
        again(b)
        pid = b.state()["pid"]
        shown = subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", "link", "show", "lo"], capture_output=True, text=True).stdout
        assert "UP" in shown, shown


@case
def what_cannot_be_checkpointed_is_refused(b):
    with criu(b):
        b.sh(COUNT)
        eq(b.create()[0], 0)
        assert "created" in b.bad("checkpoint", *images(b), b.id)
        eq(b.state()["status"], "created")
        assert "does not exist" in b.bad("checkpoint", *images(b), "not-there")
        b.good("start", b.id)
        until(lambda: count(b) > 1, "counting")
        for wrong in (["--parent-path", "/absolute"], ["--parent-path", "not-there"], ["--manage-cgroups-mode", "x"],
                      ["--page-server", "host"], ["--empty-ns", "pid"]):
            b.bad("checkpoint", *images(b), *wrong, b.id)
        eq(b.state()["status"], "running")


@case
def a_failed_dump_leaves_it_running(b):
    with criu(b):
        # Its output goes to a file that is not the container's.
        b.sh(COUNT).start()
        until(lambda: count(b) > 3, "counting")
        assert "criu" in b.bad("checkpoint", *images(b), b.id)
        eq(b.state()["status"], "running")
        goes_on(b, 4)


@case
def a_failed_restore_leaves_nothing(b):
    with criu(b):
        begin(b)
        b.good("checkpoint", *images(b), b.id)
        os.remove(f"{b.bundle}/images/pstree.img")
        b.bad("restore", "-d", *images(b), "-b", b.bundle, b.id)
        assert "does not exist" in b.bad("state", b.id)
        assert not b.cgroup_folder("pids")
        assert b.bundle not in "".join(l for l in open("/proc/self/mountinfo") if "criu-root" in l)
        assert os.path.exists(f"{b.rootfs}/bin/busybox")


@case
def without_images_nothing_is_restored(b):
    with criu(b):
        b.sh(COUNT).save()
        b.bad("restore", "-d", *images(b), "-b", b.bundle, b.id)
        assert "does not exist" in b.bad("state", b.id)


@beyond("runc removes what is mounted in its state folder")
def the_root_that_a_killed_restore_left_is_not_deleted(b):
    begin(b)
    left = os.path.join(b.root, b.id, "criu-root")
    os.mkdir(left)
    subprocess.run(["mount", "--bind", b.rootfs, left], check=True)
    b.good("delete", "-f", b.id)
    assert os.path.exists(f"{b.rootfs}/bin/busybox")
    assert left not in open("/proc/self/mountinfo").read()
