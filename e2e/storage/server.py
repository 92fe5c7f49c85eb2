"""One `knarr apiserver` that may be killed and started again on the same data."""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

TOKEN = "storage"
PATH = "/api/v1/namespaces/default/configmaps"


class Unknown(Exception):
    """No answer: whether it was done is not known."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def members(group):
    """The processes of a process group that have not ended."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, own = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(own) == group and state not in "ZX":
            found.append(int(pid))
    return found


class Server:
    """The server, with its own store or over one etcd of its own."""

    def __init__(self, knarr, etcd=False, folder=None):
        self.knarr = str(knarr)
        # Who is told to end ends what it has started.
        signal.signal(signal.SIGTERM, lambda *_: raise_(SystemExit("told to end")))
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="knarr-storage-"))
        self.data = pathlib.Path(folder) if folder else self.work / "data"
        self.port, self.process, self.etcd = free_port(), None, None
        self.log = open(self.work / "log", "ab")
        key = self.work / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, stderr=subprocess.DEVNULL)
        tokens = self.work / "tokens.csv"
        tokens.write_text(f'{TOKEN},admin,1,"system:masters"\n')
        self.flags = ["--bind-address=127.0.0.1", "--advertise-address=192.0.2.10", f"--token-auth-file={tokens}", f"--secure-port={self.port}",
                      f"--cert-dir={self.work}/pki", f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
                      "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"]
        if etcd:
            self.url = f"http://127.0.0.1:{free_port()}"
            self.peer = f"http://127.0.0.1:{free_port()}"
            self.start_etcd()
            self.flags.append(f"--etcd-servers={self.url}")

    def start_etcd(self):
        program = shutil.which("etcd") or raise_(SystemExit("etcd is missing (Debian: etcd-server)"))
        self.etcd = subprocess.Popen([program, "--data-dir", self.work / "etcd", "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                                      "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                                      "--initial-cluster", f"default={self.peer}"], stdout=self.log, stderr=self.log)

    def start(self, *before):
        """Starts it; `before` is a program that runs it."""
        self.process = subprocess.Popen([*before, self.knarr, "--data-dir", str(self.data), "apiserver", *self.flags], stdout=self.log, stderr=self.log,
                                        start_new_session=True)

    def ready(self, seconds=60):
        """Waits until it is ready; false when it has ended."""
        end = time.time() + seconds
        client = Client(self)
        while time.time() < end:
            if self.process.poll() is not None:
                return False
            try:
                if client.ask("GET", "/readyz")[0] == 200:
                    return True
            except Unknown:
                pass
            time.sleep(0.01)
        raise SystemExit(f"not ready after {seconds} s: {self.said()}")

    def said(self):
        self.log.flush()
        return (self.work / "log").read_text(errors="replace")[-2000:]

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        # Under strace the server is not our child: it may still hold its folder while it is dying.
        end = time.monotonic() + 10
        while members(self.process.pid) and time.monotonic() < end:
            time.sleep(0.01)

    def kill_etcd(self):
        self.etcd.kill()
        self.etcd.wait()

    def close(self):
        if self.process:
            self.kill()
        if self.etcd:
            self.kill_etcd()
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)


def raise_(e):
    raise e


class Client:
    """One connection."""

    def __init__(self, server, timeout=20):
        self.server, self.timeout, self.connection = server, timeout, None

    def ask(self, method, path, body=None, kind="application/json"):
        """Status and object. A request that may have been done is never sent twice."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=self.timeout,
                                                              context=ssl._create_unverified_context())
            self.connection.request(method, path, None if body is None else json.dumps(body).encode(),
                                    {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind})
            answer = self.connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] == b"{" else None
        except (OSError, http.client.HTTPException, ValueError) as e:
            if self.connection:
                self.connection.close()
            self.connection = None
            raise Unknown(str(e)) from e


def config_map(name, value, version=None):
    meta = {"name": name, **({"resourceVersion": version} if version else {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"v": value}}
