"""What differs most, from a report of run.py: python3 e2e/parity/top.py [REPORT.json] [WORD] [-WORD]"""

import collections
import json
import re
import sys

from peers import CACHE

report = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1].endswith(".json") else CACHE / "parity" / "report.json"
words = [a for a in sys.argv[1:] if not a.endswith(".json")]
counts, example = collections.Counter(), {}
for entry in json.load(open(report)):
    text = entry["area"] + " " + entry["what"]
    if any((w[1:] in text) if w.startswith("-") else (w not in text) for w in words):
        continue
    seen = set()
    for path, theirs, ours in entry["differences"]:
        short = re.sub(r"\[\d+\]", "[]", path)
        def shape(v):
            return re.sub(r'"[^"]*"', '"…"', json.dumps(v))[:90] if not isinstance(v, (int, float)) else str(v)
        key = (short, shape(theirs), shape(ours))
        if key in seen:
            continue
        seen.add(key)
        counts[key] += 1
        example.setdefault(key, (entry["area"], entry["what"], theirs, ours))
for key, n in counts.most_common(60):
    area, what, theirs, ours = example[key]
    print(f"{n:5} {key[0]}\n      {area}: {what[:160]}\n      theirs {json.dumps(theirs)[:400]}\n      ours   {json.dumps(ours)[:400]}")
