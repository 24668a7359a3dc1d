"""Writes the dense weights of ONNX models to one .npz, as [out, in] float32, for `cargo run --example gauge_table`.

    pip install onnx numpy
    python tn-formats/tools/export_weights.py OUT.npz MODEL.onnx [MODEL.onnx ...]
"""

import sys

import numpy as np
import onnx
from onnx import numpy_helper


def dense_weights(path):
    graph = onnx.load(path).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    stem = path.rsplit("/", 1)[-1].removesuffix(".onnx")
    for number, node in enumerate(graph.node):
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
            continue
        weight = constants.get(node.input[1])
        if weight is None or weight.ndim != 2:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        out_by_in = weight if transposed else weight.T
        yield f"{stem}.{number:03}", np.ascontiguousarray(out_by_in, dtype=np.float32)


def main(out, *models):
    arrays = dict(pair for model in models for pair in dense_weights(model))
    np.savez(out, **arrays)
    for name, weight in arrays.items():
        print(name, weight.shape)


main(*sys.argv[1:])
