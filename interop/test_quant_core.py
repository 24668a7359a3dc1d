"""quant-core against the node tests of the onnx package, and against ONNX's reference evaluator on half steps.

  cargo build -p quant-core --example onnx_node
  pytest -rs interop/test_quant_core.py

`QUANT_CORE_NODE` names another build of the example. The list of node tests run, and of those out of scope with the
reason, is printed.
"""
import json
import os
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).resolve().parent.parent
OPS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul"}
TYPES = {"int8": (8, True), "uint8": (8, False), "int4": (4, True), "uint4": (4, False), "int2": (2, True), "uint2": (2, False)}


def node_binary():
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return Path(os.environ.get("QUANT_CORE_NODE", ROOT / target / "debug" / "examples" / "onnx_node"))


def run_case(case):
    """The outputs of one case as arrays."""
    path = node_binary()
    if not path.exists():
        pytest.fail(f"{path} is missing: build it with `cargo build -p quant-core --example onnx_node`")
    done = subprocess.run([path], input=json.dumps(case) + "\n", capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer["error"]
    return [np.array(o["data"], np.int32 if "bits" in o else np.float32).reshape(o["shape"]) for o in answer["outputs"]]


def floats(array):
    array = np.asarray(array)
    return {"shape": list(array.shape), "data": array.astype(np.float32).ravel().tolist()}


def codes(array):
    array = np.asarray(array)
    bits, signed = TYPES[array.dtype.name]
    return {"shape": list(array.shape), "data": array.astype(np.int32).ravel().tolist(), "bits": bits, "signed": signed}


def zeros_like(scale, dtype):
    return codes(np.zeros(np.asarray(scale).shape, dtype))


def case_of(node, inputs):
    """The example's case for a node and its inputs in order (None where absent)."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = inputs + [None] * (8 - len(inputs))
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        x, scale, zero_point = inputs[:3]
        axis = attributes.get("axis", 1)
        axis = axis + np.ndim(x) if axis < 0 else axis
        shared = {"op": node.op_type, "scale": floats(scale), "axis": int(axis), "block_size": attributes.get("block_size", 0)}
        if node.op_type == "QuantizeLinear":
            output = helper.tensor_dtype_to_np_dtype(attributes.get("output_dtype") or TensorProto.UINT8)
            zero = zeros_like(scale, output) if zero_point is None else codes(zero_point)
            return shared | {"x": floats(x), "zero_point": zero}
        zero = zeros_like(scale, np.asarray(x).dtype) if zero_point is None else codes(zero_point)
        return shared | {"x": codes(x), "zero_point": zero}
    if node.op_type == "DynamicQuantizeLinear":
        return {"op": node.op_type, "x": floats(inputs[0])}
    point = lambda z: [0] if z is None else np.asarray(z).astype(np.int32).ravel().tolist()
    if node.op_type == "MatMulInteger":
        a, b, a_zero, b_zero = inputs[:4]
        return {"op": node.op_type, "a": codes(a), "b": codes(b), "a_zero_point": point(a_zero), "b_zero_point": point(b_zero)}
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    one = lambda s: float(np.asarray(s).reshape(()))
    return {
        "op": node.op_type, "a": codes(a), "b": codes(b), "a_zero_point": point(a_zero), "b_zero_point": point(b_zero),
        "a_scale": one(a_scale), "b_scale": one(b_scale), "y_scale": one(y_scale), "y_zero_point": codes(y_zero),
    }


def node_tests():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    wanted = re.compile("quantizelinear|matmulinteger|qlinearmatmul")
    return sorted((t for t in found if wanted.search(t.name)), key=lambda t: t.name)


def out_of_scope(test):
    """Why a node test is not run, or None."""
    nodes = test.model.graph.node
    if len(nodes) != 1:
        return "the same operator expanded into a function of plain operators: nothing of it is quant-core's"
    assert nodes[0].op_type in OPS, nodes[0].op_type
    infos = list(test.model.graph.input) + list(test.model.graph.output)
    types = {TensorProto.DataType.Name(i.type.tensor_type.elem_type).lower() for i in infos}
    for name in sorted(types):
        if name.startswith("float8") or name.startswith("float4"):
            return f"{name}: codes are integers here"
        if name in ("int16", "uint16"):
            return f"{name}: codes have 2 to 8 bits"
        if name == "float16":
            return "float16 scales: scales are f32 here"
    return None


NODE_TESTS = node_tests()


def check_equal(got, want, name):
    assert len(got) == len(want)
    for g, w in zip(got, want):
        w = np.asarray(w)
        assert g.shape == w.shape, name
        if w.dtype == np.float32:
            assert g.astype(np.float32).tobytes() == w.tobytes(), f"{name}: {g} for {w}"
        else:
            assert np.array_equal(g, w.astype(np.int32)), f"{name}: {g} for {w}"


@pytest.mark.parametrize("test", NODE_TESTS, ids=lambda t: t.name)
def test_node(test):
    reason = out_of_scope(test)
    if reason is not None:
        pytest.skip(reason)
    node = test.model.graph.node[0]
    names = [i.name for i in test.model.graph.input]
    for inputs, outputs in test.data_sets:
        array = lambda value: numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        by_name = dict(zip(names, map(array, inputs)))
        outputs = list(map(array, outputs))
        check_equal(run_case(case_of(node, [by_name.get(n) for n in node.input])), outputs, test.name)


def test_the_lists_of_node_tests(capsys):
    """Prints what ran and what did not; fails should an operator have no case left."""
    lines = ["", "node tests of the onnx package, run bit for bit:"]
    lines += [f"  {t.name}" for t in NODE_TESTS if out_of_scope(t) is None]
    lines += ["out of scope:"]
    lines += [f"  {t.name}: {out_of_scope(t)}" for t in NODE_TESTS if out_of_scope(t) is not None]
    with capsys.disabled():
        print("\n".join(lines))
    run = [t.name for t in NODE_TESTS if out_of_scope(t) is None]
    assert len(run) >= 20, run
    assert {t.model.graph.node[0].op_type for t in NODE_TESTS if out_of_scope(t) is None} == OPS


def reference(op, inputs, opset=25, **attributes):
    node = helper.make_node(op, [f"i{k}" for k in range(len(inputs))], ["y"], **attributes)
    infos = [helper.make_tensor_value_info(f"i{k}", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in enumerate(inputs)]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return node, ReferenceEvaluator(model).run(None, {f"i{k}": x for k, x in enumerate(inputs)})


DTYPES = ["int8", "uint8", "int4", "uint4", "int2", "uint2"]


def typed(values, name):
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name.upper()))
    return np.asarray(values).astype(dtype)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, 3.0, 0.0078125])
def test_half_steps(name, scale):
    """Halves go to the even step before the zero point is added, for every code and beyond both ends."""
    bits, signed = TYPES[name]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    for zero_point in sorted({low, high, 0, 1, (low + high) // 2}):
        steps = np.arange(low - high - 4, high - low + 4, dtype=np.float32)
        halves = ((steps + np.float32(0.5)) * np.float32(scale)).astype(np.float32)
        x = np.concatenate([halves, np.nextafter(halves, np.float32(np.inf)), np.nextafter(halves, np.float32(-np.inf)), steps * np.float32(scale)])
        inputs = [x.astype(np.float32), np.float32(scale).reshape(()), typed(zero_point, name).reshape(())]
        node, want = reference("QuantizeLinear", inputs)
        got = run_case(case_of(node, inputs))
        check_equal(got, want, f"{name} {scale} {zero_point}")
        inputs = [typed(want[0].astype(np.int32), name)] + inputs[1:]
        node, want = reference("DequantizeLinear", inputs)
        check_equal(run_case(case_of(node, inputs)), want, f"{name} {scale} {zero_point}")


@pytest.mark.parametrize("name", DTYPES)
def test_every_axis_and_block(name):
    """Scales and zero points per axis and per block, against the reference evaluator; the last block may be ragged."""
    rng = np.random.default_rng(3)
    bits, signed = TYPES[name]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    shape = (4, 6, 10)
    x = rng.normal(0, high, shape).astype(np.float32)
    for axis in range(3):
        for block in (0, 1, 2, shape[axis]):
            if block and shape[axis] % block:
                continue
            count = list(shape)
            if block:
                count[axis] = shape[axis] // block
            else:
                count = [shape[axis]]
            scale = rng.uniform(0.3, 2.0, count).astype(np.float32)
            zero = typed(rng.integers(low, high + 1, count), name)
            node, want = reference("QuantizeLinear", [x, scale, zero], axis=axis, block_size=block)
            check_equal(run_case(case_of(node, [x, scale, zero])), want, f"{name} {axis} {block}")
            q = typed(want[0].astype(np.int32), name)
            node, want = reference("DequantizeLinear", [q, scale, zero], axis=axis, block_size=block)
            check_equal(run_case(case_of(node, [q, scale, zero])), want, f"{name} {axis} {block}")


@pytest.mark.parametrize("a_name", ["int8", "uint8"])
@pytest.mark.parametrize("b_name", ["int8", "uint8"])
def test_matmul_integer(a_name, b_name):
    """Every pairing of types, the extreme codes, zero points per tensor and per column, against the reference evaluator."""
    rng = np.random.default_rng(4)
    for m, k, n in [(1, 1, 1), (3, 5, 7), (13, 33, 40), (2, 300, 65)]:
        ends = lambda name: (-128, 127) if name == "int8" else (0, 255)
        draw = lambda name, *shape: rng.choice([*ends(name), rng.integers(*ends(name))], shape).astype(name)
        a, b = draw(a_name, m, k), draw(b_name, k, n)
        for b_zero in (draw(b_name, 1).reshape(()), draw(b_name, n)):
            a_zero = draw(a_name, 1).reshape(())
            node, _ = reference("MatMulInteger", [a, b, a_zero, np.zeros((), b_name)], opset=10)
            # In i64 by numpy: the evaluator subtracts in 8 bits where the types differ.
            want = (a.astype(np.int64) - a_zero.astype(np.int64)) @ (b.astype(np.int64) - b_zero.astype(np.int64))
            got = run_case(case_of(node, [a, b, a_zero, b_zero]))
            assert np.array_equal(got[0], want), f"{a_name} {b_name} {m} {k} {n}"
