#!/usr/bin/env python3
"""Make a model larger than memory should have to be: 80 dense layers of 4096 x 4096, 5.4 GB of external data.

  python interop/large_model.py OUT_DIR [LAYERS]           # OUT_DIR/large.onnx and OUT_DIR/large.data
  python interop/large_model.py --check OUT_DIR [LAYERS]   # the same, then what the issue promises of it; removes both files

Every weight is a rank-64 matrix with a thousandth of noise, so low rank loses next to nothing and a mistake shows.

The check runs `tnq inspect` (at most 200 MB; on an idle machine it takes less than 2 s) and `tnq compress --format low-rank --ranks 64` (at most 1.5 GB at its peak), both
with all 80 layers; the result passes onnx.checker in full, and ONNX Runtime and tract agree on it within 1e-4. `TNQ_BIN` names
the binary, as for the tests.
"""
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

SIZE, RANK = 4096, 64


def make(folder, layers=80):
    """Write the model; give its path."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((SIZE, SIZE), dtype=np.float32) * np.float32(1e-3 / SIZE**0.5)
    nodes, tensors, offset, value = [], [], 0, "x"
    with open(folder / "large.data", "wb") as data:
        for k in range(layers):
            left = random.standard_normal((SIZE, RANK), dtype=np.float32) / np.float32(RANK**0.5)
            right = random.standard_normal((RANK, SIZE), dtype=np.float32) / np.float32(SIZE**0.5)
            weight = left @ right + noise
            weight.tofile(data)
            tensor = TensorProto(name=f"layer{k}.weight", data_type=TensorProto.FLOAT, dims=[SIZE, SIZE])
            tensor.data_location = TensorProto.EXTERNAL
            for key, text in (("location", "large.data"), ("offset", offset), ("length", weight.nbytes)):
                tensor.external_data.add(key=key, value=str(text))
            offset += weight.nbytes
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [value, tensor.name], [f"h{k}"], name=f"layer{k}"))
            value = "y" if k == layers - 1 else f"a{k}"
            nodes.append(helper.make_node("Tanh", [f"h{k}"], [value]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIZE]) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "large", [x], [y], tensors),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "large.onnx"
    onnx.save(model, path)
    return path


# A process counts the memory of the one that it was forked from: tnq is started by one that has next to none.
START = "import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); _, status, used = os.wait4(pid, 0); \
print(used.ru_maxrss, used.ru_utime, file=sys.stderr); sys.exit(os.waitstatus_to_exitcode(status))"


def measured(*args):
    """Run tnq; its stdout, the seconds it took, the most memory that it had, in bytes."""
    start = time.monotonic()
    quiet = [] if "--quiet" in args else ["--quiet"]
    command = [sys.executable, "-S", "-E", "-c", START, BINARY, *map(str, args), *quiet]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"tnq {args[0]}: {done.stderr}"
    return done.stdout, time.monotonic() - start, int(done.stderr.split()[-2]) * 1024


def check(folder, layers=80):
    """Everything that holds for the model and for what becomes of it."""
    import onnxruntime as ort
    from conftest import relative_l2

    path, out = make(folder, layers), folder / "out.onnx"
    try:
        listed, seconds, memory = measured("inspect", path, "--json")
        print(f"inspect: {seconds:.2f} s, {memory / 1e6:.0f} MB", flush=True)
        assert len(json.loads(listed)["weights"]) == layers
        assert memory < 200e6

        report, seconds, memory = measured("compress", path, "-o", out, "--format", "low-rank", "--ranks", RANK, "--json", "--force")
        report = json.loads(report)
        print(f"compress: {seconds:.0f} s, {memory / 1e9:.2f} GB, {report['bytes']['before']} -> {report['bytes']['after']} bytes, "
              f"relative L2 {report['verification']['relative_l2']:.4f}", flush=True)
        assert len(report["weights"]) == layers and memory < 1.5e9
    finally:
        path.unlink(missing_ok=True)
        (folder / "large.data").unlink(missing_ok=True)

    onnx.checker.check_model(str(out), full_check=True)
    x = np.random.default_rng(1).standard_normal((8, SIZE)).astype(np.float32)
    np.savez(folder / "in.npz", x=x)
    tract, _, memory = measured("run", out, "--input", folder / "in.npz", "-o", folder / "tract.npz", "--force")
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    error = relative_l2(np.load(folder / "tract.npz")["y"], session.run(None, {"x": x})[0])
    print(f"result: {out.stat().st_size} bytes, onnx.checker passes, tract is {error:.1e} from ONNX Runtime on 8 samples")
    assert error < 1e-4


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--check"]
    if len(given) == len(sys.argv) - 1:
        print(make(Path(given[0]), *map(int, given[1:2])))
    else:
        from conftest import binary

        BINARY = binary()
        check(Path(given[0]), *map(int, given[1:2]))
