"""Rewritten convolutions: onnx's checker, ONNX Runtime against tract, and against the kernel that numpy finds in the file."""
import json

import numpy as np
import onnx
import pytest
from conftest import relative_l2
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# f32 round-off of two orders of summation.
ROUND_OFF = 1e-5

# Operator, kernel, input, attributes.
WINDOWS = {
    "plain": ("Conv", (24, 20, 3, 3), (20, 9, 8), {}),
    "window": (
        "Conv", (24, 20, 3, 5), (20, 13, 14),
        {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 2, 3]},
    ),
    "same-upper": ("Conv", (24, 20, 4, 3), (20, 9, 8), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same-lower": ("Conv", (24, 20, 2, 3), (20, 9, 8), {"auto_pad": "SAME_LOWER"}),
    "one-place": ("Conv", (24, 20, 1, 1), (20, 5, 6), {"strides": [2, 2], "pads": [1, 1, 0, 0]}),
    "one-axis": ("Conv", (24, 20, 5), (20, 17), {"pads": [2, 2]}),
    "three-axes": ("Conv", (16, 12, 3, 1, 2), (12, 5, 4, 5), {"strides": [1, 2, 2]}),
    "groups": ("Conv", (24, 10, 3, 3), (20, 6, 6), {"group": 2}),
    "depthwise": ("Conv", (64, 1, 3, 3), (64, 6, 6), {"group": 64}),
    "transposed": (
        "ConvTranspose", (24, 20, 3, 4), (24, 4, 5),
        {"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 0]},
    ),
}
FORMS = {
    "dense": "--format dense --bits 4 --granularity axis",
    "low-rank": "--format low-rank --ranks 6",
    "tucker": "--format tucker --ranks 6,8",
    "tt": "--format tt --ranks 6 --granularity axis",
}


def make(window, path):
    """A model of one convolution with open batch."""
    op, kernel, size, attributes = WINDOWS[window]
    random = np.random.default_rng(3)
    outputs = kernel[0] if op == "Conv" else kernel[1]
    weight = random.standard_normal(kernel).astype(np.float32)
    bias = random.standard_normal(outputs).astype(np.float32)
    node = helper.make_node(op, ["x", "w", "b"], ["y"], name="conv", **attributes)
    graph = helper.make_graph(
        [node], "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs] + [None] * (len(size) - 1))],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return {"x": random.standard_normal((3, *size)).astype(np.float32)}


def stored_kernels(model):
    """The weight of every convolution of a model: what its constants come to in numpy."""
    names = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    nodes = [node for node in model.graph.node if node.op_type not in ("Conv", "ConvTranspose")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "constants", [], outputs, list(model.graph.initializer))
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return ReferenceEvaluator(made).run(None, {})


def joined(kernels, op):
    """The kernel that a chain of channel maps and windows comes to."""
    def out_first(kernel):
        return np.swapaxes(kernel, 0, 1) if op == "ConvTranspose" and max(kernel.shape[2:]) > 1 else kernel

    first, *others = [out_first(kernel.astype(np.float64)) for kernel in kernels]
    for kernel in others:
        axes = len(kernel.shape) - 2
        shape = [max(a, b) for a, b in zip(first.shape[2:], kernel.shape[2:])]
        # At most one of the two is wider than one place along an axis, so the window of the pair is their outer product.
        assert all(1 in (a, b) for a, b in zip(first.shape[2:], kernel.shape[2:]))
        left = kernel.reshape(kernel.shape[0], kernel.shape[1], 1, *kernel.shape[2:])
        right = first.reshape(1, first.shape[0], first.shape[1], *first.shape[2:])
        first = (left * right).sum(1).reshape(kernel.shape[0], first.shape[1], *shape[:axes])
    return np.swapaxes(first, 0, 1) if op == "ConvTranspose" else first


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", WINDOWS)
def test_a_convolution(window, form, tnq, ort_run, tmp_path):
    op, _, size, attributes = WINDOWS[window]
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    inputs = make(window, before)
    report = json.loads(tnq("compress", before, "-o", after, "--json", "--quiet", *FORMS[form].split()))
    if not report["weights"]:
        reason = report["skipped"][0]["reason"]
        assert "group" in attributes or (form == "tt" and window in ("one-place", "one-axis")), reason
        return
    onnx.checker.check_model(str(after), full_check=True)
    rewritten = onnx.load(after)
    nodes = [node.op_type for node in rewritten.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    wide = sum(k > 1 for k in WINDOWS[window][1][2:])
    assert len(nodes) == {"dense": 1, "low-rank": 2, "tucker": 3, "tt": 2 + wide}[form], nodes

    np.savez(tmp_path / "in.npz", **inputs)
    tnq("run", after, "--input", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--quiet")
    want = ort_run(after, inputs)["y"]
    with np.load(tmp_path / "out.npz") as got:
        assert relative_l2(got["y"], want) < ROUND_OFF

    kernels = stored_kernels(rewritten)
    original = onnx.load(before)
    weight = next(tensor for tensor in original.graph.initializer if tensor.name == "w")
    whole = numpy_helper.to_array(weight)
    dense = joined(kernels, op) if form != "dense" else kernels[0]
    error = np.linalg.norm(dense - whole) / np.linalg.norm(whole)
    assert abs(error - report["weights"][0]["error"]) < 1e-4
    weight.CopyFrom(numpy_helper.from_array(dense.astype(np.float32), "w"))
    onnx.save(original, tmp_path / "dense.onnx")
    assert relative_l2(want, ort_run(tmp_path / "dense.onnx", inputs)["y"]) < ROUND_OFF
