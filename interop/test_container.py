"""Containers of tn-formats against numpy and Python's safetensors, both ways.

The files in tn-formats/tests/data come from `cargo run -p tn-formats --example write_containers` (read here) and from
`make_python.py` beside them (read by tn-formats/tests/container.rs); others `tnq decompose` writes on the spot.
"""
import json
import subprocess
import sys

import numpy as np
import pytest
import tnq_container as container


@pytest.fixture
def data(root):
    return root / "tn-formats" / "tests" / "data"


@pytest.mark.parametrize("name", ["train_f32", "matrix_affine3", "matrix_blocks4", "tucker_int8"])
def test_rust_files_are_rebuilt_with_numpy(data, name):
    rebuilt = container.dense(*container.read(data / f"{name}.safetensors"))
    expected = np.load(data / f"{name}.npy")
    assert rebuilt.shape == expected.shape
    error = np.linalg.norm(rebuilt - expected) / np.linalg.norm(expected)
    assert error < 1e-6, error


@pytest.mark.parametrize(
    "flags",
    [
        "--ranks 6 --bits 4",
        "--layout split --modes 4x5:6x4 --bits 3 --scheme affine",
        "--format low-rank --granularity block:8",
        "--format tucker --granularity axis --bits 8",
        "--modes 8x3x20 --bits 5",
        "--bits float",
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_decompose_writes_is_rebuilt_with_numpy(tnq, tmp_path, flags, dtype):
    rows, cols = np.mgrid[:24, :20]
    np.save(tmp_path / "w.npy", (1 / (1 + rows + 0.5 * cols) + 0.1 * np.sin(rows * cols)).astype(dtype))
    cores, rebuilt = tmp_path / "w.safetensors", tmp_path / "rebuilt.npy"
    report = json.loads(tnq("decompose", tmp_path / "w.npy", "-o", cores, "--json", "--quiet", *flags.split()))
    tnq("reconstruct", cores, "-o", rebuilt, "--quiet")
    expected, here = np.load(rebuilt), container.dense(*container.read(cores))
    assert np.linalg.norm(here - expected) <= 1e-6 * np.linalg.norm(expected)
    w = np.load(tmp_path / "w.npy")
    error = np.linalg.norm(here.reshape(w.shape) - w) / np.linalg.norm(w)
    assert abs(error - report["errors"]["measured"]) <= 1e-5 * error + 1e-6


def test_python_files_are_reproduced(data, tmp_path):
    subprocess.run([sys.executable, data / "make_python.py", tmp_path], check=True)
    for made in sorted(tmp_path.iterdir()):
        assert made.read_bytes() == (data / made.name).read_bytes(), made.name


def test_a_changed_byte_is_noticed(data, tmp_path):
    file = bytearray((data / "matrix_affine3.safetensors").read_bytes())
    file[-1] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(file)
    with pytest.raises(AssertionError):
        container.read(tmp_path / "changed.safetensors")
