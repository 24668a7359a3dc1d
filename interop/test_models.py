"""Rewritten models, as others see them: onnx's checker, ONNX Runtime against tract, and against plain numpy."""
import json

import numpy as np
import onnx
import pytest
from conftest import relative_l2
from reconstruct import with_dense_layers

# f32 round-off of two orders of summation.
ROUND_OFF = 1e-5
SAMPLES = 500

DIGITS = ("digits", "examples/digits/model.onnx", "examples/digits/test.npz")
MNIST = ("mnist", "models/mnist-mlp.onnx", "data/mnist/dev.npz")
MINILM = ("minilm", "models/minilm-l6.onnx", "data/stsb/calib.npz")

TT = "--format tt --layout interleaved"
MNIST_TT = f"{TT} --modes 4x7x4x7:4x8x8x4 --layer b.weight=modes=4x8x8x4:4x8x8x4 --ranks 16 --bits 8"

CASES = {
    "digits default": (DIGITS, ""),
    "digits interleaved": (DIGITS, f"{TT} --modes 4x4x4:8x8x8 --layer fc2=modes=8x8x8:8x8x8 --ranks 32"),
    "digits split": (DIGITS, "--format tt --layout split --ranks eps=0.05"),
    "digits 4 bits": (DIGITS, "--bits 4"),
    "digits 2 bits affine": (DIGITS, "--bits 2 --scheme affine"),
    "digits 3 bits per axis": (DIGITS, "--bits 3 --granularity axis"),
    "mnist interleaved": (MNIST, MNIST_TT),
    "mnist default": (MNIST, ""),
    "minilm low rank": (MINILM, "--format low-rank --ranks eps=0.1 --bits 8"),
}


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request, tnq, root, shared, tmp_path_factory):
    """A compressed model: its original, its path, the command's report, some inputs, the options."""
    (name, model, data), options = CASES[request.param]
    model, data = (root / model, root / data) if name == "digits" else (shared(model), shared(data))
    out = tmp_path_factory.mktemp("case") / "out.onnx"
    report = json.loads(tnq("compress", model, "-o", out, "--json", "--quiet", *options.split()))
    with np.load(data) as arrays:
        inputs = {key: arrays[key][:SAMPLES] for key in arrays.files if key != "labels"}
    assert len(next(iter(inputs.values()))) == SAMPLES
    return model, out, report, inputs, options


def test_the_checker_passes(case):
    model, out, report, _, _ = case
    onnx.checker.check_model(str(out), full_check=True)
    before, after = onnx.load(model), onnx.load(out)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    rewritten = {weight["name"] for weight in report["weights"]}
    assert rewritten, "nothing was rewritten"
    kept = {tensor.name: tensor for tensor in after.graph.initializer}
    for tensor in before.graph.initializer:
        assert (tensor.name in rewritten) != (kept.get(tensor.name) == tensor), tensor.name


def test_the_report_is_about_the_files(case):
    model, out, report, _, _ = case
    assert report["schema"] == 1
    assert report["bytes"] == {"before": model.stat().st_size, "after": out.stat().st_size}
    assert report["bytes"]["after"] < report["bytes"]["before"]
    shapes = {tensor.name: list(tensor.dims) for tensor in onnx.load(model).graph.initializer}
    for weight in report["weights"]:
        assert weight["shape"] == shapes[weight["name"]]
        assert weight["bytes_after"] < weight["bytes_before"]


def test_tract_and_onnx_runtime_agree(case, tnq, ort_run, tmp_path):
    _, out, _, inputs, _ = case
    np.savez(tmp_path / "in.npz", **inputs)
    tnq("run", out, "--input", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--quiet")
    want = ort_run(out, inputs, batch=50)
    with np.load(tmp_path / "out.npz") as got:
        assert sorted(got.files) == sorted(want)
        for name in want:
            error = relative_l2(got[name], want[name])
            print(f"{name}: relative L2 of tract against ONNX Runtime {error:.2e}")
            assert error < ROUND_OFF


def test_the_chain_is_the_dense_reconstruction(case, ort_run, tmp_path):
    model, out, report, inputs, _ = case
    dense = tmp_path / "dense.onnx"
    onnx.save(with_dense_layers(onnx.load(model), onnx.load(out), report["weights"]), dense)
    got, want = ort_run(out, inputs, batch=50), ort_run(dense, inputs, batch=50)
    for name in want:
        error = relative_l2(got[name], want[name])
        print(f"{name}: relative L2 of the chain against the dense reconstruction {error:.2e}")
        assert error < ROUND_OFF


def test_batch_and_sequence_stay_symbolic(case, ort_run):
    model, out, _, inputs, _ = case
    whole = ort_run(out, inputs, batch=50)
    for batch in (1, 3, 50):
        some = ort_run(out, {name: array[:batch] for name, array in inputs.items()})
        for name in some:
            assert relative_l2(some[name], whole[name][:batch]) < ROUND_OFF
    if "input_ids" in inputs:
        for width in (1, 7, 31):
            short = {name: array[:2, :width] for name, array in inputs.items()}
            assert all(array.shape[:2] == (2, width) for array in ort_run(out, short).values())


def test_the_same_seed_gives_the_same_bytes(case, tnq, tmp_path):
    model, out, _, _, options = case
    again = tmp_path / "again.onnx"
    tnq("compress", model, "-o", again, "--quiet", *options.split())
    assert again.read_bytes() == out.read_bytes()
