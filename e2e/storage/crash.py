#!/usr/bin/env python3
"""The embedded engine is killed at every system call that changes the disk, and its disk runs full.

    e2e/storage/crash.py --knarr PROGRAM [--every N] [--most N]

For each number n the server is started under strace, which kills it at its nth such call, before it is carried out, while a client
writes; then it is started again on the same data, and must have all that was acknowledged, and of what was not all or nothing.
After that the data folder lies on a small file system that runs full.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from server import PATH, Client, Server, Unknown, config_map  # noqa: E402

CALLS = ["pwrite64", "fdatasync", "fsync", "rename", "ftruncate", "fallocate"]
WRITES = 6


def write(server, big=False):
    """Creates and changes objects until no answer comes: what was acknowledged, and what may be."""
    client, acknowledged, maybe = Client(server, timeout=10), {}, {}
    for n in range(WRITES):
        name, value = f"object-{n % 3}", f"value-{n}" * (4000 if big else 1)
        # It was there or not, so one of the two is right.
        for method, path in (("PUT", f"{PATH}/{name}"), ("POST", PATH)):
            maybe.setdefault(name, set()).add(value)
            try:
                status, _ = client.ask(method, path, config_map(name, value))
            except Unknown:
                return acknowledged, maybe
            if status in (200, 201):
                acknowledged[name] = value
                maybe[name] = {value}
                break
    return acknowledged, maybe


def check(server, acknowledged, maybe):
    _, obj = Client(server).ask("GET", PATH)
    found = {i["metadata"]["name"]: i["data"]["v"] for i in obj["items"] if i["metadata"]["name"].startswith("object-")}
    wrong = [f"{name}: {value[:20]} was acknowledged, {found.get(name, 'nothing')[:20]} is there" for name, value in acknowledged.items()
             if found.get(name) not in {value} | maybe[name]]
    wrong += [f"{name}: {value[:20]} was never written" for name, value in found.items() if value not in maybe.get(name, set()) | {acknowledged.get(name)}]
    return wrong


def at_every_write(knarr, every, most):
    """Until the work is done before the killer comes."""
    wrong, killed, runs = [], 0, 0
    for call in CALLS:
        n = 1
        while n <= most:
            server = Server(knarr)
            try:
                # From the very first start on an empty folder.
                server.start("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}")
                acknowledged, maybe = ({}, {})
                if server.ready():
                    acknowledged, maybe = write(server)
                reached = server.process.poll() is not None or not alive(server)
                server.kill()
                server.start()
                if not server.ready():
                    wrong.append(f"{call} {n}: it does not start again: {server.said()[-300:]}")
                else:
                    wrong += [f"{call} {n}: {w}" for w in check(server, acknowledged, maybe)]
                runs += 1
                killed += reached
            finally:
                server.close()
            if not reached:
                break
            n += every
    print(f"killed at {killed} calls of {runs} runs: {len(wrong)} rules broken")
    return wrong


def alive(server):
    try:
        return Client(server, timeout=5).ask("GET", "/readyz")[0] == 200
    except Unknown:
        return False


def full_disk(knarr):
    """Writes fail with an error, reads go on, and with room again writes go on, without a new start."""
    folder = tempfile.mkdtemp(prefix="knarr-full-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    wrong = []
    server = None
    try:
        server = Server(knarr, folder=f"{folder}/data")
        server.start()
        server.ready()
        client, kept, refused = Client(server), {}, None
        for n in range(400):
            value = f"{n:06}" * 20000
            try:
                status, obj = client.ask("POST", PATH, config_map(f"object-{n}", value))
            except Unknown as e:
                wrong.append(f"no answer on a full disk: {e}")
                break
            if status == 201:
                kept[f"object-{n}"] = value
            else:
                refused = (status, obj)
                break
        if not refused:
            wrong.append("the disk never was full")
        elif refused[0] < 500 or refused[1].get("kind") != "Status":
            wrong.append(f"a full disk is told as {refused}")
        status, obj = client.ask("GET", f"{PATH}/object-0")
        if status != 200 or obj["data"]["v"] != kept["object-0"]:
            wrong.append("a full disk cannot be read from")
        subprocess.run(["mount", "-o", "remount,size=256m", folder], check=True)
        status, _ = client.ask("POST", PATH, config_map("object-after", "x"))
        if status != 201:
            wrong.append(f"with room again a write is answered with {status}")
        kept["object-after"] = "x"
        server.kill()
        server.start()
        if not server.ready():
            wrong.append(f"it does not start again: {server.said()[-300:]}")
        else:
            _, obj = Client(server).ask("GET", PATH)
            found = {i["metadata"]["name"]: i["data"]["v"] for i in obj["items"] if i["metadata"]["name"].startswith("object-")}
            wrong += [f"{name} was acknowledged and is lost" for name, value in kept.items() if found.get(name) != value]
            wrong += [f"{name} was refused and is there" for name in found if name not in kept]
        print(f"full disk: {len(kept)} writes kept, then {refused and refused[0]}: {len(wrong)} rules broken")
    finally:
        if server:
            server.close()
        subprocess.run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knarr", required=True)
    parser.add_argument("--every", type=int, default=1, help="only each Nth call")
    parser.add_argument("--most", type=int, default=10_000, help="of each kind of call only the first N")
    args = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("strace is missing (Debian: strace)")
    # Where it may not trace, every server would seem killed.
    if subprocess.run(["strace", "-f", "-o", "/dev/null", "true"]).returncode:
        sys.exit("strace cannot trace here")
    wrong = at_every_write(args.knarr, args.every, args.most) + full_disk(args.knarr)
    for line in wrong[:30]:
        print("BROKEN:", line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
