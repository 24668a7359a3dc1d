#!/usr/bin/env python3
"""Prints the tables of the runtime bench from what criterion left in target/criterion: milliseconds, and times faster
than dense f32 in tract."""
import json
import os
from pathlib import Path

root = Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "criterion"
cases = {}
for file in root.glob("*/*/new/benchmark.json"):
    bench = json.loads(file.read_text())
    if ", batch " not in bench["group_id"] or not bench["group_id"][0].isdigit():
        continue
    estimates = json.loads((file.parent / "estimates.json").read_text())
    layer, batch = bench["group_id"].split(", batch ")
    cases.setdefault((layer, bench["function_id"]), {})[int(batch)] = estimates["median"]["point_estimate"] / 1e6

layers = sorted({layer for layer, _ in cases}, key=lambda l: [int(n) for n in l.split("x")])
for layer in layers:
    rows = {name: times for (at, name), times in cases.items() if at == layer}
    batches = sorted({batch for times in rows.values() for batch in times})
    print(f"\n| {layer} | " + " | ".join(f"batch {b}" for b in batches) + " |")
    print("|---" * (len(batches) + 1) + "|")
    dense = rows.get("dense f32", {})
    for name in sorted(rows, key=lambda n: (n != "dense f32", n)):
        def cell(batch):
            ms = rows[name].get(batch)
            if ms is None:
                return ""
            return f"{ms:.3g} ms" + (f" ({dense[batch] / ms:.2f})" if name != "dense f32" and batch in dense else "")
        print(f"| {name} | " + " | ".join(cell(b) for b in batches) + " |")
