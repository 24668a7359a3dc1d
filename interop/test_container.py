"""Containers of tn-formats against numpy and Python's safetensors, both ways.

The files in tn-formats/tests/data come from `cargo run -p tn-formats --example write_containers` (read here) and from
`make_python.py` beside them (read by tn-formats/tests/container.rs).
"""
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
