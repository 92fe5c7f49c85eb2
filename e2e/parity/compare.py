"""What counts as the same answer."""

import json
import re

UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
CHOSEN = re.compile(r"\b10\.96\.\d+\.\d+\b")
# The diff after the sentence, which upstream makes of Go's structs.
PRINTED = re.compile(r"((?:pod updates may not change fields|spec is immutable after creation|persistentvolumesource is immutable).*?)\n.*", re.S)
# A value that an error shows.
SHOWN = re.compile(r"((?:Invalid|Duplicate|Unsupported) value: )(?=[\[{n])")
DECODER = json.JSONDecoder()
# A patched object in an error, its members in whatever order.
OBJECT = re.compile(r'Invalid value: "\{.*\}": ', re.S)
# Values that each server chooses for itself.
OWN = {"resourceVersion": "<revision>", "continue": "<continue>"}


def content(value):
    """What an object says, whether it is shown as the API or as Go's structs have it: names in any
    case, without what is zero."""
    if isinstance(value, dict):
        out = {}
        # What kind a whole object is of is shown by one side only.
        whole = ("apiVersion", "kind") if "metadata" in value else ()
        for k, v in value.items():
            v = content(v)
            if k == "metadata" and isinstance(v, dict):
                out.update(v)
            elif v not in (None, "", 0, False, {}, []) and k not in whole:
                out[k.lower()] = v
        return out or None
    if isinstance(value, list):
        return [content(v) for v in value] or None
    return value


def shown(text):
    """A message with the objects in it brought into one form."""
    out, at = [], 0
    for found in SHOWN.finditer(text):
        if found.start() < at:
            continue
        try:
            value, end = DECODER.raw_decode(text, found.end())
        except ValueError:
            continue
        out.append(text[at:found.end()] + json.dumps(content(value), sort_keys=True, separators=(",", ":")))
        at = end
    return "".join(out) + text[at:]


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
        if key == "message":
            value = shown(value)
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
