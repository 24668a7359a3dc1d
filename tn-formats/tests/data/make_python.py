"""Containers written by Python for tn-formats/tests/container.rs: python_*.safetensors beside the dense array as .npy.

    pip install numpy safetensors
    python tn-formats/tests/data/make_python.py tn-formats/tests/data
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "interop"))
import tnq_container as container

folder = Path(sys.argv[1])
rng = np.random.Generator(np.random.PCG64(1))


def emit(name, header, tensors):
    file = container.write(header, tensors)
    (folder / f"{name}.safetensors").write_bytes(file)
    header, parts = container.read(folder / f"{name}.safetensors")
    np.save(folder / f"{name}.npy", container.dense(header, parts).astype(np.float32))


def quantized(name, shape, bits, groups=1, granularity="per_tensor"):
    scheme = {"bits": bits, "mapping": {"symmetric": "restricted"}, "signedness": "signed", "granularity": granularity}
    limit = 2 ** (bits - 1) - 1
    codes = rng.integers(-limit, limit + 1, int(np.prod(shape)))
    stored = codes.astype(np.int8).reshape(shape) if bits == 8 else container.pack(codes, bits)
    scales = rng.uniform(0.01, 0.1, groups).astype(np.float32)
    return {"name": name, "shape": list(shape), "scheme": scheme}, {f"{name}.codes": stored, f"{name}.scales": scales}


def collect(kind, parts, **more):
    tensors = {key: value for _, arrays in parts for key, value in arrays.items()}
    return {"version": 1, "kind": kind, **more, "parts": [part for part, _ in parts]}, tensors


modes = {"layout": "interleaved", "row_modes": [2, 3], "col_modes": [4, 5]}
emit("python_matrix", *collect(
    "tt_matrix",
    [quantized("core.0", (1, 2, 4, 3), 5), quantized("core.1", (3, 3, 5, 1), 8, 3, {"per_axis": {"axis": 0}})],
    modes=modes,
))
cores = {f"core.{k}": rng.standard_normal(shape) for k, shape in enumerate([(1, 3, 2), (2, 4, 2), (2, 5, 1)])}
parts = [{"name": name, "shape": list(core.shape)} for name, core in cores.items()]
emit("python_train_f64", {"version": 1, "kind": "tensor_train", "parts": parts}, cores)
