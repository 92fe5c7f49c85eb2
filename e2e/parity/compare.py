"""What counts as the same answer."""

import json
import re

UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
CHOSEN = re.compile(r"\b10\.96\.\d+\.\d+\b")
# What differs in a pod, as Go prints it.
PRINTED = re.compile(r"((?:pod updates may not change fields|spec is immutable after creation).*?)\n.*", re.S)
# A patched object in an error, its members in whatever order.
OBJECT = re.compile(r'Invalid value: "\{.*\}": ', re.S)
# Values that each server chooses for itself.
OWN = {"resourceVersion": "<revision>", "continue": "<continue>"}


def normal(value, key=""):
    if isinstance(value, dict):
        if key == "columnDefinitions":
            # Descriptions are not copied.
            value = {k: v for k, v in value.items() if k != "description"}
        return {k: normal(v, k) for k, v in value.items()}
    if isinstance(value, list):
        if key == "managedFields":
            return sorted((normal(v) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
        return [normal(v, key if key == "columnDefinitions" else "") for v in value]
    if isinstance(value, str):
        if key in OWN and value:
            return OWN[key]
        if key == "nodePort":
            return "<port>"
        value = PRINTED.sub(r"\1", value)
        value = OBJECT.sub('Invalid value: "<object>": ', value)
        return CHOSEN.sub("<service>", TIME.sub("<time>", UID.sub("<uid>", value)))
    if key == "nodePort" and value:
        return "<port>"
    return value


def differences(a, b, path=""):
    """The paths at which two documents differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = []
        for k in sorted(a.keys() | b.keys()):
            if k not in a:
                out.append((f"{path}.{k}", "<absent>", b[k]))
            elif k not in b:
                out.append((f"{path}.{k}", a[k], "<absent>"))
            else:
                out += differences(a[k], b[k], f"{path}.{k}")
        return out
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{path}[{i}]")]
    return [] if a == b and type(a) is type(b) else [(path, a, b)]


def status(document):
    """A Status whose causes come in no order, as upstream's come from maps here and there."""
    if isinstance(document, dict) and document.get("kind") == "Status":
        causes = (document.get("details") or {}).get("causes")
        if causes:
            causes.sort(key=lambda c: json.dumps(c, sort_keys=True))
            document["message"] = sorted(re.split(r"(?:, (?=[\w\[\]().\"/-]+: [A-Z]))|(?:: \[)", document.get("message", "").rstrip("]")))
    return document


def compare(theirs, ours, headers=("Content-Type", "Warning")):
    """What differs between two answers."""
    out = []
    if theirs.status != ours.status:
        out.append(("status", theirs.status, ours.status))
    for h in headers:
        a, b = sorted(theirs.headers.get_all(h) or []), sorted(ours.headers.get_all(h) or [])
        if a != b:
            out.append((f"header {h}", a, b))
    a, b = theirs.json(), ours.json()
    if a is None or b is None:
        if theirs.body != ours.body:
            out.append(("body", theirs.body[:300].decode(errors="replace"), ours.body[:300].decode(errors="replace")))
        return out
    return out + differences(status(normal(a)), status(normal(b)))
