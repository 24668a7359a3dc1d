"""Writes the dense weights of ONNX models to one .npz, as [out, in] float32, for `cargo run --example gauge_table`.

    pip install onnx numpy
    python tn-formats/tools/export_weights.py OUT.npz MODEL.onnx [MODEL.onnx ...]

With `--moments DATA.npz MODEL.onnx` the second moments E[x x^T] of each weight's inputs on the data instead, by the same names
(needs onnxruntime). A zero in an array with "mask" in its name takes the position out.
"""

import sys

import numpy as np
import onnx
from onnx import numpy_helper


def dense_nodes(model):
    constants = {t.name: t for t in model.graph.initializer}
    for number, node in enumerate(model.graph.node):
        if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1:
            weight = constants.get(node.input[1])
            if weight is not None and len(weight.dims) == 2:
                yield number, node, weight


def stem(path):
    return path.rsplit("/", 1)[-1].removesuffix(".onnx")


def dense_weights(path):
    for number, node, weight in dense_nodes(onnx.load(path)):
        weight = numpy_helper.to_array(weight)
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        out_by_in = weight if transposed else weight.T
        yield f"{stem(path)}.{number:03}", np.ascontiguousarray(out_by_in, dtype=np.float32)


def moments(data, path, batch=64):
    import onnxruntime as ort

    model = onnx.load(path)
    nodes = list(dense_nodes(model))
    wanted = sorted({node.input[0] for _, node, _ in nodes} - {i.name for i in model.graph.input})
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = {i.name: data[i.name] for i in session.get_inputs()}
    mask = next((arrays[name] for name in arrays if "mask" in name), None)
    sums, counts = {}, {}
    for start in range(0, len(next(iter(arrays.values()))), batch):
        part = {name: array[start : start + batch] for name, array in arrays.items()}
        values = dict(zip(wanted, session.run(wanted, part)), **part)
        for number, node, _ in nodes:
            x = values[node.input[0]].astype(np.float64)
            if mask is not None and x.ndim == 3:
                x = x[mask[start : start + batch] > 0]
            x = x.reshape(-1, x.shape[-1])
            sums[number] = sums.get(number, 0) + x.T @ x
            counts[number] = counts.get(number, 0) + len(x)
    for number, total in sums.items():
        yield f"{stem(path)}.{number:03}", (total / counts[number]).astype(np.float32)


def main(out, *models):
    if models[0] == "--moments":
        arrays = dict(moments(np.load(models[1]), models[2]))
    else:
        arrays = dict(pair for model in models for pair in dense_weights(model))
    np.savez(out, **arrays)
    for name, array in arrays.items():
        print(name, array.shape)


main(*sys.argv[1:])
