"""Files that a plan made: they load where they say, agree between engines, hold exact codes, and are as large as was said."""
import json

import numpy as np
import onnx
import pytest
from conftest import relative_l2
from onnx import numpy_helper, version_converter

# f32 round-off of two orders of summation.
ROUND_OFF = 1e-5
# tract keeps the scales of packed matrices in half precision.
HALF_SCALES = 2e-3

DIGITS = ("examples/digits/model.onnx", "examples/digits/calib.npz", "examples/digits/test.npz")

CASES = {
    "digits 8x": (DIGITS, "--target-size 8x"),
    "digits 25x": (DIGITS, "--target-size 25x"),
    "digits loss": (DIGITS, "--max-loss 2%"),
    "digits low rank": (DIGITS, "--target-size 10x --format low-rank"),
    "digits tract 4 bits": (DIGITS, "--target-size 5x --target tract --format dense --bits 4"),
    "digits tract 2 bits": (DIGITS, "--target-size 8x --target tract --format dense --bits 2"),
    "digits ort 2 bits": (DIGITS, "--target-size 8x --target ort --format dense --bits 2"),
    "digits ort 4 bits": (DIGITS, "--target-size 5x --target ort --format dense --bits 4"),
    "digits ort 8 bits": (DIGITS, "--target-size 3x --target ort --format dense --bits 8"),
    "digits ort": (DIGITS, "--target-size 7x --target ort"),
    "digits ort opset 21": (DIGITS, "--target-size 5x --target ort --format dense --bits 4"),
}


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request, tnq, root, shared, tmp_path_factory):
    """A planned model: its name, its original, its path, the command's report, some inputs."""
    (model, calib, data), options = CASES[request.param]
    find = root.joinpath if model.startswith("examples") else shared
    model, calib, data = find(model), find(calib), find(data)
    folder = tmp_path_factory.mktemp("planned")
    if "opset 21" in request.param:
        newer = version_converter.convert_version(onnx.load(model), 21)
        newer.ir_version = 10
        model = folder / "opset21.onnx"
        onnx.save(newer, model)
    out = folder / "out.onnx"
    report = json.loads(tnq("compress", model, "-o", out, "--calib", calib, "--json", "--quiet", *options.split()))
    with np.load(data) as arrays:
        inputs = {key: arrays[key][:100] for key in arrays.files if key != "labels"}
    return request.param, model, out, report, inputs


def test_the_checker_passes_and_the_size_is_as_said(case):
    name, model, out, report, _ = case
    onnx.checker.check_model(str(out), full_check=True)
    size, said = out.stat().st_size, report["bytes"]["after"]
    print(f"{name}: {size} bytes, {said} said")
    assert abs(size - said) <= 0.01 * said
    assert report["goal"]["met"] is True
    most = report["goal"]["bytes"]
    assert most is None or size <= most


def test_every_weight_takes_the_bytes_that_were_said(case):
    _, model, out, report, _ = case
    names = {tensor.name for tensor in onnx.load(model).graph.initializer}
    added = [tensor for tensor in onnx.load(out).graph.initializer if tensor.name not in names]
    for weight in report["weights"]:
        if weight["format"] == "keep":
            continue
        prefix = f"{weight['name']}/q"
        own = [t for t in added if t.name == prefix or t.name.startswith(prefix + "/")]
        # The unit of a table's scales stands with the nodes that look up: a factor of what they found.
        if weight["op"] == "Gather":
            own += [t for t in added if t.name.startswith(f"{weight['name']}/y") and t.dims == [] and len(t.raw_data) == 4]
        assert sum(len(t.raw_data) for t in own) == weight["bytes_after"], weight["name"]


def test_no_layer_is_worse_than_dense_blocks(case):
    for weight in case[3]["weights"]:
        dense = weight["dense_output_error"]
        assert dense is None or weight["output_error"] <= dense, weight["name"]


def test_tract_and_onnx_runtime_agree(case, tnq, ort_run, tmp_path):
    name, _, out, _, inputs = case
    if " ort" in name:
        pytest.skip("written for ONNX Runtime alone")
    np.savez(tmp_path / "in.npz", **inputs)
    tnq("run", out, "--input", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--quiet")
    want = ort_run(out, inputs, batch=50)
    with np.load(tmp_path / "out.npz") as got:
        for output in want:
            error = relative_l2(got[output], want[output])
            print(f"{name}: {output}: relative L2 of tract against ONNX Runtime {error:.2e}")
            assert error < (HALF_SCALES if " tract" in name else ROUND_OFF)


def test_packed_matrices_hold_the_codes(case, ort_run, tmp_path):
    """ONNX Runtime on the packed operators against plain MatMul with matrices unpacked here."""
    name, _, out, report, inputs = case
    if " ort" not in name and " tract" not in name:
        pytest.skip("no packed operators asked for")
    model = onnx.load(out)
    count = unpack(model.graph)
    print(f"{name}: {count} packed matrices of {len(report['weights'])} weights")
    assert count > 0
    plain = tmp_path / "plain.onnx"
    onnx.save(model, plain)
    got, want = ort_run(out, inputs, batch=50), ort_run(plain, inputs, batch=50)
    for output in want:
        error = relative_l2(got[output], want[output])
        print(f"{name}: {output}: packed against plain {error:.2e}")
        assert error < ROUND_OFF


def test_onnx_runtime_gives_what_was_verified(case, ort_run):
    """The loss that was verified in tract is the loss in ONNX Runtime."""
    name, model, out, report, _ = case
    calib = CASES[name][0][1]
    if not calib.startswith("examples"):
        pytest.skip("the calibration data has positions that do not count")
    from conftest import ROOT

    with np.load(ROOT / calib) as arrays:
        inputs = {key: arrays[key] for key in arrays.files if key != "labels"}
    got, want = ort_run(out, inputs, batch=64), ort_run(model, inputs, batch=64)
    error = relative_l2(*(np.concatenate([a[o].ravel() for o in want]) for a in (got, want)))
    print(f"{name}: loss {error:.4e} in ONNX Runtime, {report['goal']['verified_loss']:.4e} verified")
    assert error == pytest.approx(report["goal"]["verified_loss"], rel=0.02, abs=HALF_SCALES if " tract" in name else 1e-5)


def test_a_plan_replays_byte_for_byte(case, tnq, root, shared, tmp_path):
    name, model, out, _, _ = case
    (_, calib, _), options = CASES[name]
    if not calib.startswith("examples"):
        pytest.skip("replayed on the small model")
    plan, again = tmp_path / "plan.json", tmp_path / "again.onnx"
    tnq("plan", model, "-o", plan, "--calib", root / calib, "--quiet", *options.split())
    tnq("compress", model, "-o", again, "--calib", root / calib, "--plan", plan, "--quiet")
    assert again.read_bytes() == out.read_bytes()


def unpack(graph):
    """Replace MatMulNBits and DequantizeLinear over blocks by matrices of floats; give how many there were."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    count = 0
    for node in graph.node:
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "MatMulNBits":
            words, scales = (numpy_helper.to_array(stored[n]) for n in node.input[1:3])
            bits, k, n = attributes["bits"], attributes["K"], attributes["N"]
            shifts = np.arange(0, 8, bits, dtype=np.uint8)
            codes = (words[..., None] >> shifts) & np.uint8((1 << bits) - 1)
            codes = codes.reshape(n, k // attributes["block_size"], -1).astype(np.float32) - (1 << (bits - 1))
            matrix = (codes * scales.reshape(n, -1, 1)).reshape(n, k).T
            node.op_type, node.domain = "MatMul", ""
            name = node.input[1] + "/plain"
            del node.input[1:], node.attribute[:]
            node.input.append(name)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix), name))
            count += 1
        elif node.op_type == "DequantizeLinear" and "block_size" in attributes:
            codes = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
            scales = numpy_helper.to_array(stored[node.input[1]])
            matrix = codes * np.repeat(scales, attributes["block_size"], axis=0)
            node.op_type = "Identity"
            name = node.input[0] + "/plain"
            del node.input[:], node.attribute[:]
            node.input.append(name)
            graph.initializer.append(numpy_helper.from_array(matrix, name))
            count += 1
    return count
