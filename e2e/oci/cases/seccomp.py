"""System call filters: actions, arguments, flags, architectures, notification."""
import array, fcntl, json, os, re, shutil, socket, struct, subprocess, threading

from box import Skip, case, eq

# Every call there is, from the runtime's own table.
TABLE = os.path.join(os.path.dirname(__file__), "../../../pkg/oci/src/seccomp/table.rs")
KNOWN = re.findall(r'^    \("(\w+)", ', open(TABLE).read(), re.M)


def filter_of(b, *rules, default="SCMP_ACT_ALLOW", **more):
    b.c["linux"]["seccomp"] = {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": list(rules), **more}


def rule(action, *names, args=None, errno=None):
    r = {"names": list(names), "action": action}
    if args:
        r["args"] = args
    if errno is not None:
        r["errnoRet"] = errno
    return r


@case
def errno_of_a_rule_and_of_the_default(b):
    filter_of(b, rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat", errno=95), rule("SCMP_ACT_ERRNO", "rmdir", "unlinkat"))
    out = b.sh("mkdir /tmp/d 2>&1; rm -r /tmp 2>&1; true").output()
    assert "not supported" in out and "not permitted" in out, out


@case
def killing_actions(b):
    for action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"):
        filter_of(b, rule(action, "mkdir", "mkdirat"))
        out = b.sh("mkdir /tmp/d; echo $?").output()
        eq((action, out.strip()[-3:]), (action, "159"))
        b.close()


@case
def the_trace_action_without_a_tracer(b):
    filter_of(b, rule("SCMP_ACT_TRACE", "mkdir", "mkdirat", errno=7))
    assert "not implemented" in b.sh("mkdir /tmp/d 2>&1; true").output()


@case
def the_log_action_lets_pass(b):
    filter_of(b, rule("SCMP_ACT_LOG", "mkdir", "mkdirat"))
    eq(b.sh("mkdir /tmp/d && echo made").output(), "made\n")


@case
def arguments_are_compared(b):
    # kill(pid, signal) with signals as the second argument; 0 only asks.
    sleep = "sleep 5 & p=$!; for s in 0 10 12 15; do kill -$s $p 2>/dev/null && echo $s; done; kill -9 $p; true"
    for op, value, two, passes in (("SCMP_CMP_EQ", 10, 0, "0 12 15"), ("SCMP_CMP_NE", 9, 0, ""), ("SCMP_CMP_GT", 11, 0, "0 10"),
                                   ("SCMP_CMP_GE", 10, 0, "0"), ("SCMP_CMP_LT", 10, 0, "10 12 15"), ("SCMP_CMP_LE", 10, 0, "12 15"),
                                   ("SCMP_CMP_MASKED_EQ", 8, 8, "0")):
        args = [{"index": 1, "value": value, "valueTwo": two, "op": op}]
        filter_of(b, rule("SCMP_ACT_ERRNO", "kill", args=args))
        trap = "trap '' USR1 USR2 TERM; "
        out = b.sh(trap + sleep.replace("sleep 5", "sh -c \"trap '' USR1 USR2 TERM; sleep 1\"")).output().split()
        eq((op, out), (op, passes.split()))
        b.close()


@case
def an_allow_list(b):
    filter_of(b, rule("SCMP_ACT_ALLOW", *(c for c in KNOWN if c not in ("mkdir", "mkdirat"))), default="SCMP_ACT_ERRNO")
    out = b.sh("mkdir /tmp/d 2>&1; echo on").output()
    assert "not permitted" in out and "on" in out, out


@case
def the_default_errno(b):
    filter_of(b, rule("SCMP_ACT_ALLOW", *(c for c in KNOWN if c not in ("mkdir", "mkdirat"))), default="SCMP_ACT_ERRNO", defaultErrnoRet=38)
    assert "not implemented" in b.sh("mkdir /tmp/d 2>&1; true").output()


@case
def names_that_no_kernel_knows_are_passed_over(b):
    filter_of(b, rule("SCMP_ACT_ERRNO", "no_such_call", "mkdir", "mkdirat"))
    assert "not permitted" in b.sh("mkdir /tmp/d 2>&1; true").output()


@case
def bad_filters_are_refused(b):
    for change in ({"defaultAction": "SCMP_ACT_NONSENSE"}, {"architectures": ["SCMP_ARCH_NONSENSE"]}, {"flags": ["SECCOMP_FILTER_FLAG_NONSENSE"]},
                   {"syscalls": [rule("SCMP_ACT_NONSENSE", "mkdir")]},
                   {"syscalls": [rule("SCMP_ACT_ERRNO", "mkdir", args=[{"index": 0, "value": 0, "op": "SCMP_CMP_NONSENSE"}])]}):
        filter_of(b, rule("SCMP_ACT_ERRNO", "mkdir"))
        b.c["linux"]["seccomp"].update(change)
        assert b.run()[0] != 0, change
        assert b.call("state", b.id)[0] != 0


@case
def flags_of_filters(b):
    filter_of(b, rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat"), flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"])
    out = b.sh("grep -E 'Seccomp|Speculation' /proc/self/status; mkdir /tmp/d 2>&1; true").output()
    assert "Seccomp:\t2" in out and "not permitted" in out, out
    if "Speculation_Store_Bypass" in out:
        assert "force mitigated" not in out, out


@case
def exec_gets_the_filter_too(b):
    filter_of(b, rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat"))
    b.sh("while :; do sleep 0.1; done").start()
    out = b.good("exec", b.id, "sh", "-c", "grep Seccomp: /proc/self/status; mkdir /tmp/d 2>&1; true")
    assert "Seccomp:\t2" in out and "not permitted" in out, out


@case
def programs_of_the_compat_architecture(b):
    """The 32-bit call numbers are other ones: a small static program, built here, makes a folder by each."""
    cc = shutil.which("cc")
    source = os.path.join(b.bundle, "c.c")
    open(source, "w").write("""
long go(long n, long a, long b) { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b) : "memory"); return r; }
static char path[] = "/tmp/compat";
void _start(void) { long r = go(39, (long)path, 0755); go(1, r < 0 ? -r : 0, 0); }
""")
    made = cc and subprocess.run([cc, "-nostdlib", "-static", "-no-pie", "-fno-stack-protector", "-o", b.rootfs + "/bin/compat", source], capture_output=True)
    if not made or made.returncode:
        raise Skip("there is no C compiler")
    b.c["process"]["args"] = ["compat"]
    if b.run()[0] != 0:
        raise Skip("the kernel has no 32-bit calls")
    os.rmdir(b.rootfs + "/tmp/compat")
    b.close()
    filter_of(b, rule("SCMP_ACT_ERRNO", "mkdir", errno=95))
    eq(b.run()[0], 95)
    b.close()
    b.c["linux"]["seccomp"]["architectures"] = ["SCMP_ARCH_X86_64"]
    eq(b.run()[0], 128 + 31)


class Agent(threading.Thread):
    """Answers one notification with an error number, and keeps what it was told."""

    def __init__(self, path, errno):
        super().__init__(daemon=True)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen(4)
        self.errno, self.told, self.seen = errno, [], []
        self.start()

    def run(self):
        while True:
            connection, _ = self.server.accept()
            text, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(64))
            self.told.append(json.loads(text))
            numbers = array.array("i")
            for _, _, data in control:
                numbers.frombytes(data[:len(data) - len(data) % 4])
            threading.Thread(target=self.answer, args=(numbers[-1],), daemon=True).start()

    def answer(self, fd):
        RECV, SEND = 0xc0502100, 0xc0182101
        try:
            while True:
                request = bytearray(80)
                fcntl.ioctl(fd, RECV, request)
                ident, pid, _, call = struct.unpack_from("=QIIi", request)
                self.seen.append(call)
                fcntl.ioctl(fd, SEND, struct.pack("=QqiI", ident, 0, -self.errno, 0))
        except OSError:
            pass


@case
def notifications_reach_the_agent(b):
    path = os.path.join(b.bundle, "agent")
    agent = Agent(path, 122)
    filter_of(b, rule("SCMP_ACT_NOTIFY", "mkdir", "mkdirat"), listenerPath=path, listenerMetadata="about")
    b.c["annotations"] = {"x": "y"}
    out = b.sh("mkdir /tmp/d 2>&1; true").output()
    assert "quota" in out.lower(), out
    told = agent.told[0]
    eq((told["metadata"], told["fds"], told["state"]["id"], told["state"]["bundle"]), ("about", ["seccompFd"], b.id, b.bundle))
    assert told["ociVersion"] and told["pid"] > 0 and told["state"]["status"] in ("creating", "created"), told
    b.close()
    b.sh("while :; do sleep 0.1; done").start()
    out = b.good("exec", b.id, "sh", "-c", "mkdir /tmp/d 2>&1; true")
    assert "quota" in out.lower(), out
    eq(agent.told[-1]["state"]["status"], "running")


@case
def notifications_without_an_agent_are_refused(b):
    filter_of(b, rule("SCMP_ACT_NOTIFY", "mkdir"), listenerPath="/no/such/agent")
    assert b.run()[0] != 0
    assert b.call("state", b.id)[0] != 0
    filter_of(b, rule("SCMP_ACT_NOTIFY", "mkdir"))
    assert b.run()[0] != 0
    filter_of(b, rule("SCMP_ACT_NOTIFY", "write"), listenerPath="/no/such/agent")
    assert b.run()[0] != 0
