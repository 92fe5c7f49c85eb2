"""Lets upstream's kube-apiserver and `knarr apiserver` take over one etcd from each other.

Each writes an object of every kind, some encrypted at rest by each provider; the other must show
the same objects, uids and resource versions too, and be able to change them.
"""

import argparse
import base64
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from compare import differences  # noqa: E402
from fixtures import AROUND, kinds  # noqa: E402
from peers import CACHE, TOKEN, UPSTREAM, Peer, free_port  # noqa: E402

# The same objects by another name, and limits that would stand in the way.
DOUBLE = {("autoscaling/v1", "HorizontalPodAutoscaler"), ("events.k8s.io/v1", "Event"), ("v1", "LimitRange")}
# Kinds whose objects controllers within the server change while nobody looks, or that it owns.
LIVELY = {"APIService", "FlowSchema", "PriorityLevelConfiguration", "ServiceCIDR", "CustomResourceDefinition"}
MERGE = {"Content-Type": "application/merge-patch+json"}


def encryption(socket):
    """Some resources by each provider."""
    def cipher(kind, size):
        return {kind: {"keys": [{"name": "k1", "secret": base64.b64encode(b"1" * size).decode()}]}}
    service = {"kms": {"apiVersion": "v2", "name": "vault", "endpoint": f"unix://{socket}"}}
    rules = {"secrets": service, "configmaps": cipher("aescbc", 32), "*.apps": cipher("secretbox", 32), "*.batch": cipher("aesgcm", 24), "*.policy": cipher("aesgcm", 32)}
    return {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [
        {"resources": [resource], "providers": [provider, {"identity": {}}]} for resource, provider in rules.items()]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--keys", type=pathlib.Path, required=True, help="a key management service")
    choice = parser.parse_args()
    logs = CACHE / "swap"
    logs.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="knarr-swap-"))
    key, tokens, secrets = work / "sa.key", work / "tokens.csv", work / "encryption.yaml"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, stderr=subprocess.DEVNULL)
    tokens.write_text(f'{TOKEN},admin,1,"system:masters"\n')
    secrets.write_text(json.dumps(encryption(work / "kms.sock")))
    vault = subprocess.Popen([choice.keys, work / "kms.sock", "one"])
    etcd, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{etcd}"
    store = Peer("etcd", etcd)
    store.start(logs / "etcd.log", UPSTREAM / "etcd", "--data-dir", work / "etcd", "--listen-client-urls", url,
                "--advertise-client-urls", url, "--unsafe-no-fsync", "--listen-peer-urls", f"http://127.0.0.1:{peer}")
    rounds = [("kube-apiserver", "a"), ("knarr apiserver", "b"), ("kube-apiserver", "c"), ("knarr apiserver", None)]
    expected, problems, compared = {}, [], 0
    try:
        for turn, (name, own) in enumerate(rounds):
            server = Peer(name, free_port())
            program = [UPSTREAM / "kube-apiserver"] if name.startswith("kube") else [choice.knarr, "--data-dir", work / "knarr", "apiserver"]
            server.start(logs / f"{turn}.log", *program, f"--etcd-servers={url}", f"--secure-port={server.port}", f"--cert-dir={work}/pki-{turn}",
                         "--bind-address=127.0.0.1", "--advertise-address=192.0.2.10", f"--token-auth-file={tokens}", "--authorization-mode=Node,RBAC",
                         "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true", "--service-account-issuer=https://kubernetes.default.svc",
                         f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}", f"--encryption-provider-config={secrets}",
                         "--disable-admission-plugins=ServiceAccount")
            try:
                server.ready()
                time.sleep(1)
                for path, wanted in expected.items():
                    answer = server.ask("GET", path)
                    compared += 1
                    found = [("status", 200, answer.status)] if answer.status != 200 else differences(wanted, answer.json())
                    if found:
                        problems.append(f"{name}, round {turn}: GET {path}: {found[:3]}")
                if own is None:
                    break
                for path, document in AROUND:
                    server.ask("POST", path, document)
                for path in list(expected):
                    answer = server.ask("PATCH", path, {"metadata": {"labels": {"round": str(turn)}}}, MERGE)
                    # Upstream refuses any change of some kinds with raw data.
                    if answer.status == 200:
                        expected[path] = answer.json()
                    elif answer.status != 422:
                        problems.append(f"{name}, round {turn}: PATCH {path}: {answer.status} {answer.body[:200]!r}")
                for path, full in kinds():
                    if full["kind"] in LIVELY or full["kind"] == "IPAddress" or (full["apiVersion"], full["kind"]) in DOUBLE:
                        continue
                    fixed = full["metadata"]["name"] != "full"
                    if fixed and f"{path}/{full['metadata']['name']}" in expected:
                        continue
                    document = full if fixed else {**full, "metadata": {**full["metadata"], "name": f"full-{own}"}}
                    made = server.ask("POST", path, document)
                    if made.status != 201:
                        problems.append(f"{name}, round {turn}: POST {path}: {made.status} {made.body[:300]!r}")
                        continue
                    one = f"{path}/{document['metadata']['name']}"
                    expected[one] = server.ask("GET", one).json()
            finally:
                server.stop()
            print(f"{name}, round {turn}: {len(expected)} objects", file=sys.stderr, flush=True)
    finally:
        store.stop()
        vault.terminate()
        vault.wait()
        shutil.rmtree(work, ignore_errors=True)
    for p in problems:
        print(p)
    print(f"{compared} objects read by the other server, {len(problems)} problems")
    sys.exit(1 if problems else 0)


main()
