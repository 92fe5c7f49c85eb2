"""Clients as they are, against `knarr apiserver` with its own store.

Each client is installed from its registry into the cache folder, gets a server of its own, and
says line by line what was shown. Everything ends with this program, however it ends.
"""

import argparse
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
XDG = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
CACHE = pathlib.Path(os.environ.get("KNARR_CACHE") or os.path.join(XDG, "knarr"))
UPSTREAM = CACHE / "upstream"
PREFIX = "knarr-clients-"
NAMES = ["kubectl", "python", "javascript", "helm", "go", "envtest"]
LIBC = ctypes.CDLL(None)


def dies_with_parent():
    LIBC.prctl(1, signal.SIGKILL)


def run(*command, **more):
    """A program that does not outlive this one; ends this one if it fails."""
    done = subprocess.run([str(c) for c in command], preexec_fn=dies_with_parent, check=False, **more)
    if done.returncode:
        raise SystemExit(f"clients: {command[0]} ended with {done.returncode}")


def end(folder):
    """Ends the programs that a test has started from a folder, and removes it."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            first = (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            if first.startswith(f"{folder}/"):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass
    shutil.rmtree(folder, ignore_errors=True)


def sweep():
    """Ends and removes what those that were killed have left."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        pid = folder.name[len(PREFIX):].split("-")[0]
        if not pathlib.Path("/proc", pid).exists():
            end(folder)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`knarr apiserver` in a folder of its own, or upstream's over etcd; `kubeconfig` is its administrator's."""

    def __init__(self, knarr):
        self.knarr, self.etcd = knarr, None

    def __enter__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        key, tokens = self.work / "sa.key", self.work / "tokens.csv"
        run("openssl", "genrsa", "-out", key, "2048", stderr=subprocess.DEVNULL)
        tokens.write_text('admin,admin,1,"system:masters"\nplain,plain,2,"people"\n')
        self.log = self.work / "log"
        flags = ["--bind-address=127.0.0.1", "--advertise-address=192.0.2.10", f"--token-auth-file={tokens}", f"--secure-port={(port := free_port())}",
                 f"--cert-dir={self.work}/pki", "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16",
                 "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
                 f"--service-account-signing-key-file={key}", "--disable-admission-plugins=ServiceAccount"]
        with open(self.log, "w") as log:
            def start(*command):
                return subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, preexec_fn=dies_with_parent)
            if self.knarr:
                self.process = start(self.knarr, "--data-dir", self.work / "data", "apiserver", *flags)
            else:
                url, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
                self.etcd = start(UPSTREAM / "etcd", "--data-dir", self.work / "etcd", "--unsafe-no-fsync", "--listen-client-urls", url,
                                  "--advertise-client-urls", url, "--listen-peer-urls", peer)
                self.process = start(UPSTREAM / "kube-apiserver", f"--etcd-servers={url}", *flags)
        self.url = f"https://127.0.0.1:{port}"
        self.ca = self.work / "pki" / "apiserver.crt"
        self.kubeconfig = self.work / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "admin",
            "clusters": [{"name": "knarr", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "contexts": [{"name": n, "context": {"cluster": "knarr", "user": n}} for n in ("admin", "plain")],
            "users": [{"name": n, "user": {"token": n}} for n in ("admin", "plain")]}))
        for _ in range(1200):
            if self.process.poll() is not None:
                raise SystemExit(f"clients: the server does not start: {self.log.read_text()[-2000:]}")
            try:
                urllib.request.urlopen(self.url + "/readyz", context=ssl.create_default_context(cafile=self.ca), timeout=5)
                break
            except OSError:
                time.sleep(0.05)
        self.env = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.work), "KNARR_URL": self.url, "KNARR_CA": str(self.ca)}
        return self

    def __exit__(self, *_):
        for process in filter(None, (self.process, self.etcd)):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        said = [line for line in self.log.read_text(errors="replace").splitlines() if "panicked" in line]
        shutil.rmtree(self.work, ignore_errors=True)
        if said:
            raise SystemExit(f"clients: the server panicked: {said}")


def kubectl(knarr):
    with Server(knarr) as s:
        run(sys.executable, HERE / "kubectl" / "test.py", CACHE / "bin" / "kubectl", cwd=s.work, env=s.env)


def python(knarr):
    venv = CACHE / "clients" / "python"
    wanted = (HERE / "python" / "requirements.txt").read_text()
    stamp = venv / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        run(sys.executable, "-m", "venv", venv)
        run(venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "-r", HERE / "python" / "requirements.txt")
        stamp.write_text(wanted)
    with Server(knarr) as s:
        run(venv / "bin" / "python", HERE / "python" / "test.py", cwd=s.work, env=s.env)


def javascript(knarr):
    folder = CACHE / "clients" / "javascript"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "test.mjs"):
        if (HERE / "javascript" / name).exists():
            shutil.copy(HERE / "javascript" / name, folder / name)
    stamp, wanted = folder / "stamp", (folder / "package.json").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        run("npm", "install", "--silent", "--no-fund", "--no-audit", cwd=folder)
        stamp.write_text(wanted)
    with Server(knarr) as s:
        run("node", folder / "test.mjs", cwd=folder, env=s.env)


def helm(knarr):
    run(TOP / "e2e" / "upstream" / "build", "helm")
    with Server(knarr) as s:
        run(sys.executable, HERE / "helm" / "test.py", UPSTREAM / "helm", CACHE / "bin" / "kubectl", cwd=s.work, env=s.env)


def go_test(folder, env, *flags):
    """Builds the test with Go's own folders, and runs it."""
    built = CACHE / "clients" / f"{folder.name}.test"
    built.parent.mkdir(parents=True, exist_ok=True)
    run("go", "test", "-c", "-vet=off", "-o", built, ".", cwd=folder, env={**os.environ, "CGO_ENABLED": "0"})
    run(built, "-test.v", "-test.timeout=300s", *flags, cwd=folder, env=env)


def go(knarr):
    with Server(knarr) as s:
        go_test(HERE / "go", s.env)


def envtest(knarr):
    run(TOP / "e2e" / "upstream" / "build", "etcd")
    pairs = [(knarr, UPSTREAM / "etcd"), (knarr, knarr)] if knarr else [(UPSTREAM / "kube-apiserver", UPSTREAM / "etcd")]
    for server, etcd in pairs:
        work = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        try:
            (work / "kube-apiserver").symlink_to(server)
            (work / "etcd").symlink_to(etcd)
            print(f"# kube-apiserver is {server}, etcd is {etcd}", flush=True)
            go_test(HERE / "envtest", {**os.environ, "KUBEBUILDER_ASSETS": str(work), "TMPDIR": str(work)})
        finally:
            end(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr", required=True, help="the program")
    parser.add_argument("--upstream", action="store_true", help="try the tests themselves: on upstream's kube-apiserver over etcd")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    choice = parser.parse_args()
    for name in choice.names:
        if name not in NAMES:
            parser.error(f"{name} is none of {', '.join(NAMES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("clients: told to end"))
    sweep()
    if choice.upstream:
        run(TOP / "e2e" / "upstream" / "build", "etcd", "kube-apiserver")
    for name in choice.names or NAMES:
        begin = time.time()
        print(f"# {name}", flush=True)
        globals()[name](None if choice.upstream else os.path.abspath(choice.knarr))
        print(f"# {name}: {time.time() - begin:.1f} s", flush=True)


main()
