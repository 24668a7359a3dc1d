#!/usr/bin/env python3
"""Make a model larger than memory should have to be: 80 dense layers of 4096 x 4096, 5.4 GB of external data.

  python interop/large_model.py OUT_DIR [LAYERS]      # OUT_DIR/large.onnx and OUT_DIR/large.data

Every weight is a rank-64 matrix with a thousandth of noise, so low rank loses next to nothing and a mistake shows.
"""
import sys
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


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), *map(int, sys.argv[2:3])))
