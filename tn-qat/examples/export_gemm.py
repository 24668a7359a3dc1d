"""Writes weights and biases of an ONNX model's Gemm chain as an npz: w0 [M, N], b0 [M], w1, b1 ...

    pip install onnx numpy
    python tn-qat/examples/export_gemm.py ../shared/models/mnist-mlp.onnx /tmp/mnist-mlp.npz
"""

import sys

import numpy as np
import onnx

model = onnx.load(sys.argv[1])
values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
arrays, k = {}, 0
for node in model.graph.node:
    if node.op_type != "Gemm":
        continue
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    w = values[node.input[1]]
    arrays[f"w{k}"] = np.ascontiguousarray(w if attributes.get("transB") else w.T, dtype=np.float32)
    arrays[f"b{k}"] = values[node.input[2]].astype(np.float32)
    k += 1
np.savez(sys.argv[2], **arrays)
print({name: a.shape for name, a in arrays.items()})
