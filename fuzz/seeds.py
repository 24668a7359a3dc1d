"""The seeds of the fuzz targets: small models, containers, arrays, plans and rules, one file each under corpus/TARGET/.

  TNQ_BIN=target/debug/tnq python3 fuzz/seeds.py      # needs onnx and numpy

What a fuzzer has found stands there too, as `found-`; it is not touched.
"""
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz/corpus"
TNQ = ROOT / os.environ.get("TNQ_BIN", "target/debug/tnq")
rng = np.random.default_rng(0)


def keep(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def noise(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def model(nodes, weights, shape=(2, 16), out=None, elem=TensorProto.FLOAT, opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(op, inputs, outputs="y", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


MODELS = {
    "gemm": model([node("Gemm", "x w b", transB=1, alpha=0.5)], {"w": noise(12, 16), "b": noise(12)}),
    "matmul-relu": model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r v")], {"w": noise(16, 16), "v": noise(16, 8)}
    ),
    "conv": model([node("Conv", "x w", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {"w": noise(8, 4, 3, 3)}, (1, 4, 6, 6)),
    "gather": model([node("Gather", "w x")], {"w": noise(24, 8)}, (2, 3), elem=TensorProto.INT64),
    "einsum": model([node("Einsum", "x w", equation="bi,io->bo")], {"w": noise(16, 8)}),
    "if": model(
        [
            node("Constant", "", "c", value=numpy_helper.from_array(np.array(True))),
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                **{
                    branch: helper.make_graph(
                        [node("MatMul", "x w", branch)], branch, [], [helper.make_tensor_value_info(branch, TensorProto.FLOAT, None)]
                    )
                    for branch in ("then_branch", "else_branch")
                },
            ),
        ],
        {"w": noise(16, 8)},
    ),
    "quantized": model(
        [node("DequantizeLinear", "w s z", "d", axis=0), node("MatMul", "x d")],
        {"w": rng.integers(-128, 127, (16, 8)).astype(np.int8), "s": np.abs(noise(16)), "z": np.zeros(16, np.int8)},
    ),
}


def tnq(*args):
    subprocess.run([TNQ, *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def models():
    for name, proto in MODELS.items():
        keep("model", name, proto.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "m.onnx", Path(folder) / "o.onnx"
        onnx.save(model([node("Gemm", "x w b")], {"w": noise(40, 48), "b": noise(48)}, (2, 40)), path)
        for name in ("tt", "tucker", "low-rank", "dense"):
            ranks = [] if name == "dense" else ["--ranks", 1]
            tnq("compress", path, "-o", out, "--format", name, "--bits", 4, "--force", *ranks)
            keep("model", f"written-{name}", out.read_bytes())
        # A model with its tensors in another file: a byte that says how long that file is, the file, the model.
        onnx.save(MODELS["gather"], path, save_as_external_data=True, location="d", size_threshold=0)
        data = (Path(folder) / "d").read_bytes()[:200]
        proto = onnx.load(path, load_external_data=False)
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend([6, 8])
        for entry in proto.graph.initializer[0].external_data:
            entry.value = {"offset": "0", "length": "192"}.get(entry.key, entry.value)
        keep("external", "gather", bytes([len(data)]) + data[1:] + proto.SerializeToString())


def arrays():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        np.save(folder / "w.npy", noise(16, 16))
        keep("npz", "f32", (folder / "w.npy").read_bytes())
        np.save(folder / "i.npy", np.asfortranarray(np.arange(24).reshape(2, 3, 4)))
        keep("npz", "i64-fortran", (folder / "i.npy").read_bytes())
        for name, save in (("stored", np.savez), ("deflated", np.savez_compressed)):
            save(folder / "a.npz", image=noise(3, 4), labels=np.arange(3), half=noise(2).astype(np.float16))
            keep("npz", name, (folder / "a.npz").read_bytes())
        jobs = {
            "tt-4": ["--ranks", 3, "--bits", 4],
            "tucker": ["--format", "tucker", "--ranks", 3],
            "low-rank-affine": ["--format", "low-rank", "--ranks", 3, "--scheme", "affine", "--bits", 3],
        }
        for name, flags in jobs.items():
            tnq("decompose", folder / "w.npy", "-o", folder / "w.safetensors", "--force", *flags)
            keep("container", name, (folder / "w.safetensors").read_bytes())


def plans():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        onnx.save(model([node("Gemm", "x w b")], {"w": noise(64, 64), "b": noise(64)}, ("n", 64)), folder / "m.onnx")
        np.savez(folder / "c.npz", x=noise(16, 64))
        for target in ("portable", "ort"):
            flags = ["--calib", folder / "c.npz", "--target-size", "2x", "--target", target]
            tnq("plan", folder / "m.onnx", *flags, "-o", folder / "p.json", "--force")
            keep("plan", target, (folder / "p.json").read_bytes())


RULES = [
    "head=keep",
    "fc1=format=tt,ranks=4:8:4,bits=4,layout=split",
    "layer\\.[0-9]+=format=low-rank,ranks=eps=0.1,scheme=affine\n/layer.0/query",
    ".=modes=4x7x4x7:4x8x8x4,granularity=block:32",
    "(a|b)*=x=keep",
]

if __name__ == "__main__":
    models()
    arrays()
    plans()
    for k, rule in enumerate(RULES):
        keep("rules", str(k), rule.encode())
