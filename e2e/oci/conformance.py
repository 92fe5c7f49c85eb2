#!/usr/bin/env python3
"""Conformance of an OCI runtime: every case runs against any binary with runc's command line.

    e2e/oci/conformance.py RUNTIME [RUNTIME...] [--only NAME,NAME...]   (cases or files of them)

A case that also passes with upstream's runc on the same machine is a sound case; the few that ask
more than runc keeps say so and are left out for runtimes that are not knarr-runc. Needs root and a
static busybox. Everything made lies under one temporary folder and the cgroup /knarr-conformance,
and is removed at the end, also after failures. The cases are in e2e/oci/cases.
"""
import importlib, os, shutil, subprocess, sys, tempfile, time

from box import CASES, Box, Skip, clean_cgroups

for name in ("basics", "commands", "process", "mounts", "namespaces", "seccomp", "cgroups", "hardening", "rootless", "systemd", "checkpoint"):
    importlib.import_module("cases." + name)


def main():
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    only = args.pop() if "--only" in sys.argv else None
    if not args:
        sys.exit(__doc__)
    if os.geteuid() != 0:
        sys.exit("needs root")
    failed = 0
    for runtime in args:
        runtime = shutil.which(runtime) or os.path.abspath(runtime)
        folder = tempfile.mkdtemp(prefix="knarr-conformance-")
        passed, left_out, began = 0, 0, time.monotonic()
        ours = b"knarr-runc" in subprocess.run([runtime, "--version"], capture_output=True).stdout
        try:
            for f in CASES:
                if only and not {f.__name__, f.__module__.split(".")[-1]} & set(only.split(",")):
                    continue
                if hasattr(f, "beyond") and not ours and not only:
                    left_out += 1
                    continue
                b = Box(runtime, folder, f.__name__)
                try:
                    f(b)
                    passed += 1
                except Skip as e:
                    left_out += 1
                    print(f"skip {f.__name__}: {e}")
                except Exception as e:
                    failed += 1
                    print(f"FAIL {runtime} {f.__name__}: {type(e).__name__}: {e}")
                finally:
                    b.close()
                    shutil.rmtree(b.bundle, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            clean_cgroups()
        print(f"{runtime}: {passed} cases passed, {left_out} left out, in {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
