"""Prints the tables of benches/README.md's section quant-core from criterion's results: ratios of medians of one run.

    cargo bench -p tn-benches --bench quant_core
    python benches/python/quant_core_table.py [TARGET_DIR]     (default: CARGO_TARGET_DIR or target)
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CARGO_TARGET_DIR", "target")) / "criterion"


def results():
    """{group: {kernel: (median in ns, bytes or elements)}}"""
    found = {}
    for path in sorted(ROOT.rglob("new/estimates.json")):
        info = json.loads((path.parent / "benchmark.json").read_text())
        amount = next(iter(info["throughput"].values())) if info.get("throughput") else None
        kernel = " ".join(part for part in (info["function_id"], info["value_str"]) if part)
        median = json.loads(path.read_text())["median"]["point_estimate"]
        found.setdefault(info["group_id"], {})[kernel] = (median, amount)
    return found


def main():
    groups = results()
    isas = [isa for isa in ("scalar", "avx2", "avx512", "neon") if any(isa in g for g in groups.values())]
    print(f"| kernel | elements | memcpy GB/s | {' | '.join(isas)} |")
    print("|---|---|---|" + "---|" * len(isas))
    moving = [(name, g) for name, g in groups.items() if "memcpy" in g]
    for name, group in sorted(moving, key=lambda item: (item[0].split("/")[0], int(item[0].split("/")[1]))):
        kernel, size = name.split("/")
        copy, amount = group["memcpy"]
        cells = " | ".join(f"{copy / group[isa][0]:.2f}" if isa in group else "" for isa in isas)
        print(f"| {kernel} | {int(size):,} | {amount / copy:.0f} | {cells} |")
    print()
    print("GMAC/s; the last column is the fastest int8 x int8 over the faster f32:\n")
    columns = ["int8 x int8 scalar", "int8 x int8 avx2", "int8 x int8 avx512", "int8 x int8 neon"]
    columns += ["int8 x f32 avx2", "int8 x f32 avx512", "int8 x f32 neon", "f32 tract-linalg", "f32 matrixmultiply"]
    products = {name: g for name, g in groups.items() if name.startswith("product")}
    columns = [c for c in columns if any(c in g for g in products.values())]
    print(f"| | {' | '.join(columns)} | ratio |")
    print("|---|" + "---|" * (len(columns) + 1))

    def order(name):
        side, batch = name.removeprefix("product ").split("/batch ")
        return int(side.split("x")[0]), int(batch)

    def rates(group, names):
        return {c: group[c][1] / group[c][0] for c in names if c in group}

    for name in sorted(products, key=order):
        rate = rates(products[name], columns)
        ratio = max(v for c, v in rate.items() if c.startswith("int8 x int8")) / max(v for c, v in rate.items() if c.startswith("f32"))
        side, batch = name.removeprefix("product ").split("/batch ")
        print(f"| {side}, batch {batch} | {' | '.join(f'{rate[c]:.1f}' for c in columns)} | {ratio:.1f} |")
    print()
    dots = {name: g for name, g in groups.items() if name.startswith("dot")}
    columns = isas + ["f32 tract-linalg", "f32 matrixmultiply"]
    print(f"| dot of | {' | '.join(columns)} | ratio |")
    print("|---|" + "---|" * (len(columns) + 1))
    for name in sorted(dots, key=lambda n: int(n.split("/")[1])):
        rate = rates(dots[name], columns)
        ratio = max(v for c, v in rate.items() if c in isas) / max(v for c, v in rate.items() if c.startswith("f32"))
        print(f"| {int(name.split('/')[1]):,} | {' | '.join(f'{rate[c]:.1f}' for c in columns)} | {ratio:.1f} |")


main()
