"""tn-formats beside tensorly on numpy: one run, the same arrays, ranks and number of threads, calls in turn.

    pip install numpy tensorly
    cargo build --release -p tn-formats --example time_decompose
    python benches/python/tensorly_side_by_side.py [--threads 2] [--repeats 5] [--cases hooi]

Medians and their ratio; the error is measured on the dense reconstruction by each side. Cases named `alone` are too slow in
tensorly to be waited for. The rows are Markdown.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--cases", default="")
parser.add_argument("--profile", default="release", help="folder of the target directory that holds the example")
options = parser.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np
import tensorly as tl
from tensorly.decomposition import partial_tucker, tensor_train_matrix, tucker

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / options.profile / "examples" / "time_decompose"
rng = np.random.default_rng(0)


def random(shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def weight_like(shape, dtype):
    """Falling singular values and noise, as trained layers have."""
    m, n = shape
    k = min(m, n)
    u, v = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    return ((u * (1 + np.arange(k)) ** -0.7) @ v / np.sqrt(k)).astype(dtype)


def structured(shape, dtype):
    """A smooth function of the indices and a twentieth of noise."""
    grid = np.indices(shape).astype(float)
    smooth = 1 / (1 + sum((k + 1) * axis / n for k, (axis, n) in enumerate(zip(grid, shape))))
    waves = np.sin(sum((k + 2) * axis / n for k, (axis, n) in enumerate(zip(grid, shape))) * 3)
    return (smooth + 0.3 * waves + 0.05 * rng.standard_normal(shape)).astype(dtype)


def matrix_case(array, rows, cols, rank):
    tensor = array.reshape(rows + cols)
    job = ["matrix", f"{'x'.join(map(str, rows))}:{'x'.join(map(str, cols))}", str(rank)]
    return job, lambda: tensor_train_matrix(tl.tensor(tensor), rank=[1] + [rank] * (len(rows) - 1) + [1]), (
        lambda t: t.to_matrix()
    )


def tucker_case(array, modes, ranks):
    job = ["hooi", ",".join(map(str, modes)), ",".join(map(str, ranks))]
    if len(modes) == array.ndim:
        return job, lambda: tucker(tl.tensor(array), rank=list(ranks), tol=1e-8), tl.tucker_to_tensor
    def rebuild(result):
        (core, factors), _ = result
        return tl.tenalg.multi_mode_dot(core, factors, modes=list(modes))
    return job, lambda: partial_tucker(tl.tensor(array), rank=list(ranks), modes=list(modes), tol=1e-8), rebuild


CASES = {}
for dtype in ("float64", "float32"):
    for kind, make in (("random", random), ("weight", weight_like)):
        CASES[f"matrix 1024 r16 {kind} {dtype}"] = lambda m=make, t=dtype: (
            a := m((1024, 1024), t), *matrix_case(a, (4, 8, 8, 4), (4, 8, 8, 4), 16))
        CASES[f"matrix 2048 r32 {kind} {dtype}"] = lambda m=make, t=dtype: (
            a := m((2048, 2048), t), *matrix_case(a, (8, 16, 16), (8, 16, 16), 32))
    for kind, make in (("random", random), ("structured", structured)):
        for shape, ranks in (((40, 50, 60), (8, 8, 8)), ((24, 20, 16, 12), (5, 4, 6, 3))):
            name = f"hooi {'x'.join(map(str, shape))} r{','.join(map(str, ranks))} {kind} {dtype}"
            CASES[name] = lambda m=make, t=dtype, s=shape, r=ranks: (
                a := m(s, t), *tucker_case(a, tuple(range(len(s))), r))
        CASES[f"partial 64x48x3x3 r16,16 {kind} {dtype}"] = lambda m=make, t=dtype: (
            a := m((64, 48, 3, 3), t), *tucker_case(a, (0, 1), (16, 16)))
        CASES[f"partial 32x40x50 r6,9 {kind} {dtype}"] = lambda m=make, t=dtype: (
            a := m((32, 40, 50), t), *tucker_case(a, (0, 2), (6, 9)))
for modes in ((64, 64), (16, 16, 16)):
    CASES[f"alone matrix 4096 {modes}^2 r64 random float32"] = lambda m=modes: (
        a := random((4096, 4096), "float32"), *matrix_case(a, m, m, 64))
CASES["alone train 32^5 r20 random float32"] = lambda: (
    random((32,) * 5, "float32"), ["train", "20"], None, None)

print("| case | tensorly s | tnq s | times faster | error / tensorly's | peak / array | copying the array twice s |")
print("|---|---|---|---|---|---|---|")
with tempfile.TemporaryDirectory() as folder:
    for name, build in CASES.items():
        if options.cases not in name:
            continue
        array, job, decompose, rebuild = build()
        path = Path(folder) / "array.npy"
        np.save(path, array)
        alone = name.startswith("alone")
        theirs, ours = [], []
        for _ in range(options.repeats):
            if not alone:
                start = time.perf_counter()
                result = decompose()
                theirs.append(time.perf_counter() - start)
            done = subprocess.run([BINARY, path, "1" if alone else "7", *job], capture_output=True, text=True, check=True)
            report = json.loads(done.stdout)
            ours.append(median(report["seconds"]))
        columns = ["", f"{median(ours):.4f}", "", ""]
        if not alone:
            rebuilt = np.asarray(rebuild(result), dtype=np.float64).reshape(array.shape)
            error = np.linalg.norm(rebuilt - array) / np.linalg.norm(array)
            columns = [f"{median(theirs):.3f}", f"{median(ours):.4f}", f"{median(theirs) / median(ours):.0f}",
                       f"{report['error'] / error:.7f}"]
        columns += [f"{report['peak_bytes'] / report['array_bytes']:.2f}", f"{report['copy_twice']:.4f}"]
        print(f"| {name.removeprefix('alone ')} | {' | '.join(columns)} |", flush=True)
