"""From a valid object, objects of which one field is another."""

import copy

TEXTS = ["", "Not Valid!", "a" * 300, "x"]
NUMBERS = [-1, 0, 1, 70000, 2 ** 31]
OTHER = {str: [5], int: ["text"], bool: ["yes"], dict: ["text"], list: ["text"]}
# What a field of text that holds a quantity, a time, an address or an enumeration may be confused with.
ALSO = ["1.5Gi", "-1", "2026-01-02T03:04:05Z", "192.0.2.1", "::1", "300.0.0.1/8", "/a/../b", "Always"]


def paths(value, at=()):
    """Every path in an object, with its value; apiVersion and kind are the request's, not the object's."""
    if isinstance(value, dict):
        for k, v in value.items():
            if not at and k in ("apiVersion", "kind"):
                continue
            yield at + (k,), v
            yield from paths(v, at + (k,))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield at + (i,), v
            yield from paths(v, at + (i,))


def put(document, path, value):
    """A copy with another value at the path; `...` takes it out."""
    document = copy.deepcopy(document)
    at = document
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return document


def name(path, value):
    text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)
    shown = "absent" if value is ... else repr(value)
    return f"{text} = {shown if len(shown) < 60 else shown[:40] + '…'}"


def variants(value):
    yield ...
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (n for n in NUMBERS if n != value)
    elif isinstance(value, str):
        yield from (t for t in TEXTS + ALSO if t != value)
    elif isinstance(value, dict):
        yield {}
        yield {**value, "Unknown Key!": "v"}
        yield None
    elif isinstance(value, list):
        yield []
        if value:
            yield value + [value[-1]]
        yield None
    yield from OTHER.get(type(value), [])


def mutations(document):
    """(what was done, the object)"""
    for path, value in list(paths(document)):
        if path[:2] == ("metadata", "managedFields"):
            continue
        for v in variants(value):
            yield name(path, v), put(document, path, v)
    for field in ("unknownField",):
        yield name((field,), "x"), {**document, field: "x"}
