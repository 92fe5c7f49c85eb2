"""The two servers: upstream's kube-apiserver over etcd, and `knarr apiserver`."""

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

XDG = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
CACHE = pathlib.Path(os.environ.get("KNARR_CACHE") or os.path.join(XDG, "knarr"))
UPSTREAM = CACHE / "upstream"
TOKEN = "parity"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Peer:
    """A running server, and a connection that is kept."""

    def __init__(self, name, port):
        self.name, self.port = name, port
        self.parts = []
        self.connection = None
        self.begun = self.started = None

    def start(self, log, *command):
        self.begun = self.begun or time.time()
        with open(log, "w") as sink:
            part = subprocess.Popen([str(c) for c in command], stdout=sink, stderr=sink, start_new_session=True)
        self.parts.append(part)
        return part

    def ask(self, method, path, body=None, headers=None, token=TOKEN):
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        send = {"User-Agent": "parity/1", **({"Authorization": f"Bearer {token}"} if token else {}),
                **({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})}
        for attempt in (0, 1):
            if self.connection is None:
                self.connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60,
                                                              context=ssl._create_unverified_context())
            try:
                self.connection.request(method, path, data, send)
                answer = self.connection.getresponse()
                return Answer(answer.status, answer.headers, answer.read())
            except (http.client.HTTPException, OSError):
                self.connection.close()
                self.connection = None
                if attempt:
                    # It gave up on the request: a panic upstream ends the connection.
                    return Answer(0, http.client.HTTPMessage(), b"")

    def ready(self, seconds=90):
        end = time.time() + seconds
        while time.time() < end:
            # A connection that was refused is no longer one.
            self.connection = None
            if any(p.poll() is not None for p in self.parts):
                raise SystemExit(f"parity: {self.name} has ended; see its log")
            try:
                if self.ask("GET", "/readyz").status == 200:
                    self.started = time.time() - self.begun
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.01)
        raise SystemExit(f"parity: {self.name} is not ready after {seconds} s")

    def stop(self):
        for part in reversed(self.parts):
            part.send_signal(signal.SIGTERM)
        for part in self.parts:
            try:
                part.wait(5)
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()


class Pair:
    """Both, on one machine; gone when left."""

    def __init__(self, knarr, logs, flags=(), durable=False, alone=False):
        self.knarr, self.logs, self.flags, self.durable, self.alone = knarr, pathlib.Path(logs), list(flags), durable, alone

    def __enter__(self):
        self.logs.mkdir(parents=True, exist_ok=True)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="knarr-parity-"))
        key = self.work / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, stderr=subprocess.DEVNULL)
        tokens = self.work / "tokens.csv"
        tokens.write_text(f'{TOKEN},admin,1,"system:masters"\nplain,plain,2\n')
        etcd, peer, up, ours = (free_port() for _ in range(4))
        self.upstream, self.ours = Peer("kube-apiserver", up), Peer("knarr apiserver", ours)
        common = ["--bind-address=127.0.0.1", "--advertise-address=192.0.2.10", f"--token-auth-file={tokens}",
                  "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true",
                  "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
                  f"--service-account-signing-key-file={key}", "--enable-admission-plugins=NodeRestriction",
                  "--disable-admission-plugins=ServiceAccount", *self.flags]
        try:
            self.ours.start(self.logs / "knarr-apiserver.log", self.knarr, "--data-dir", self.work / "knarr", "apiserver",
                            f"--secure-port={ours}", f"--cert-dir={self.work}/pki", *common)
            self.ours.ready()
            if self.alone:
                return self
            url = f"http://127.0.0.1:{etcd}"
            self.upstream.start(self.logs / "etcd.log", UPSTREAM / "etcd", "--data-dir", self.work / "etcd",
                                "--listen-client-urls", url, "--advertise-client-urls", url,
                                *([] if self.durable else ["--unsafe-no-fsync"]), "--listen-peer-urls", f"http://127.0.0.1:{peer}")
            self.upstream.start(self.logs / "kube-apiserver.log", UPSTREAM / "kube-apiserver", f"--etcd-servers={url}",
                                f"--secure-port={up}", f"--cert-dir={self.work}/upstream-pki", *common)
            self.upstream.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def both(self, method, path, body=None, headers=None, token=TOKEN):
        return self.upstream.ask(method, path, body, headers, token), self.ours.ask(method, path, body, headers, token)

    def __exit__(self, *_):
        self.ours.stop()
        self.upstream.stop()
        shutil.rmtree(self.work, ignore_errors=True)
