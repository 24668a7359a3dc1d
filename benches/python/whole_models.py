"""A compressed model in our runtime and in tract beside ONNX Runtime on other files of the same model, one thread each.

    pip install numpy onnxruntime
    cargo build --release
    python benches/python/whole_models.py target/release/tnq MODEL SMALL [--ort FILE ...] [--batches 1,8] [--length 32]

`tnq bench` times tract and the fused operators in turns, f32 and int8; ONNX Runtime runs MODEL and each FILE in turns before and after
it, so that all of a table is from the same minutes. Milliseconds, medians; times faster than MODEL in tract. Inputs whose name ends in
`mask` are ones, in `type_ids` zeros, other integers below 20,000 at random, floats normally distributed. The rows are Markdown.
"""
import argparse
import json
import subprocess
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

parser = argparse.ArgumentParser()
parser.add_argument("tnq")
parser.add_argument("model")
parser.add_argument("small")
parser.add_argument("--ort", nargs="*", default=[])
parser.add_argument("--batches", default="1,8")
parser.add_argument("--length", type=int, default=32)
parser.add_argument("--seconds", type=float, default=4)
options = parser.parse_args()
rng = np.random.default_rng(0)


def session(file):
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return ort.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def sample(info, batch):
    fixed = [size if isinstance(size, int) else options.length for size in info.shape[1:]]
    shape = [batch, *fixed]
    if "int" not in info.type:
        return rng.standard_normal(shape).astype(np.float32)
    if info.name.endswith("mask"):
        return np.ones(shape, np.int64)
    highest = 1 if info.name.endswith("type_ids") else 20_000
    return rng.integers(0, highest, shape)


def rounds(sessions, batch, times):
    inputs = {i.name: sample(i, batch) for i in sessions[0].get_inputs()}
    until = time.perf_counter() + options.seconds / 2
    for s in sessions:
        s.run(None, inputs)
    while time.perf_counter() < until:
        for s, of_file in zip(sessions, times):
            begin = time.perf_counter()
            s.run(None, inputs)
            of_file.append(1e3 * (time.perf_counter() - begin))


def bench(batch, activations):
    command = [options.tnq, "bench", options.model, options.small, "--json", "--quiet", "--batches", str(batch)]
    command += ["--length", str(options.length), "--seconds", str(options.seconds), "--activations", activations]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["batches"][0]["timings"]


files = [options.model, *options.ort]
sessions = [session(file) for file in files]
batches = [int(batch) for batch in options.batches.split(",")]
rows = {}
for batch in batches:
    times = [[] for _ in files]
    rounds(sessions, batch, times)
    ours, whole = bench(batch, "f32"), bench(batch, "int8")
    rounds(sessions, batch, times)
    for t in [*ours, next(t for t in whole if t["runtime"] == "fused int8")]:
        name = "tract" if t["runtime"] == "plain" else t["runtime"]
        rows.setdefault(f"{t['model']}, {name}", {})[batch] = t["median_ms"]
    for file, of_file in zip(files, times):
        rows.setdefault(f"{Path(file).name}, ONNX Runtime", {})[batch] = median(of_file)
print("| model | " + " | ".join(f"batch {b}" for b in batches) + " |")
print("|---" * (len(batches) + 1) + "|")
first = rows["original, tract"]
for name, row in rows.items():
    print(f"| {name} | " + " | ".join(f"{row[b]:.3g} ms ({first[b] / row[b]:.2f})" for b in batches) + " |")
