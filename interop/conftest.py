"""What the interop tests share: the binary, the project's root, the shared models, a quiet ONNX Runtime.

  cargo build --bin tnq
  python3 -m venv .venv && .venv/bin/pip install -r interop/requirements.txt
  .venv/bin/pytest -rs interop

`TNQ_BIN` names another binary to test, `TNQ_SHARED` another place of the shared models (default: ../shared).
"""
import os
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TNQ_SHARED", ROOT.parent / "shared"))


def binary():
    """The `tnq` to test: TNQ_BIN, or the build in CARGO_TARGET_DIR or target/."""
    if "TNQ_BIN" in os.environ:
        return Path(os.environ["TNQ_BIN"])
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return ROOT / target / "debug" / "tnq"


@pytest.fixture(scope="session")
def root():
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def tnq():
    """Run `tnq` with arguments in the project's folder; give its stdout. Any exit code but `code` fails the test."""
    path = binary()
    if not path.exists():
        pytest.fail(f"{path} is missing: build it with `cargo build --bin tnq`")

    def run(*args, code=0):
        done = subprocess.run([path, *map(str, args)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, f"tnq {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def shared():
    """Path of something in ../shared; the test is skipped, visibly, where that is absent."""

    def find(relative):
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"{path} is absent")
        return path

    return find


@pytest.fixture(scope="session")
def ort_run():
    """Run a model in ONNX Runtime on a dict of arrays; give a dict of outputs.

    Its optimizer turns DequantizeLinear -> MatMul into int8 arithmetic of its own; accuracy level 1 keeps f32, so that
    what is compared is the file and not that choice.
    """

    def run(model, inputs, batch=None):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        samples = len(next(iter(inputs.values())))
        step = batch or samples
        parts = [
            session.run(names, {name: array[i : i + step] for name, array in inputs.items()})
            for i in range(0, samples, step)
        ]
        return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}

    return run


def relative_l2(got, want):
    """||got - want|| / ||want|| over all elements, in f64."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"expected {want.shape}, found {got.shape}"
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))
