"""The corpus of small models through `tnq inspect` and `compress`: valid files, the same answers as the dense matrices that the
codes stand for in ONNX Runtime and in tract, and everything else of the file as it was.

A snapshot that is missing or differs is a failure. To accept what is written now, for all cases or some, then read what changed:

  TNQ_SNAPSHOTS=write .venv/bin/pytest -rs interop/test_corpus.py [-k CASE]
  git diff interop/corpus/snapshots
"""
import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import relative_l2
from corpus import CASES
from corpus.case import SETTINGS
from corpus.compare import changes, text
from onnx import numpy_helper

SNAPSHOTS = Path(__file__).parent / "corpus" / "snapshots"
# Two engines on one model add up in other orders, in models whose values are about 1.
ENGINES = 1e-4
RUNS = [(name, setting) for name, case in CASES.items() for setting in case.settings]


class Made:
    """A case's model as it was, in both engines: made once for all settings."""

    def __init__(self, case, folder, tnq):
        self.case, self.folder = case, folder
        self.path = case.write(folder)
        self.model = onnx.load(self.path)
        self.inputs = case.arrays(self.model)
        np.savez(folder / "in.npz", **self.inputs)
        self.inspection = json.loads(tnq("inspect", self.path, "--json"))
        self.checked = refusal(lambda: onnx.checker.check_model(str(self.path), full_check=True))
        self.ort = refusal(lambda: run_ort(self.path, self.inputs))


@pytest.fixture(scope="module")
def made(tnq, tmp_path_factory):
    """A function that makes a case's model, once."""
    known = {}

    def make(name):
        if name not in known:
            known[name] = Made(CASES[name], tmp_path_factory.mktemp(name), tnq)
        return known[name]

    return make


def refusal(work):
    """What went wrong, or None."""
    try:
        work()
    except Exception as error:  # noqa: BLE001: every refusal of an engine counts
        return str(error) or type(error).__name__
    return None


def run_ort(path, inputs):
    """A model's outputs in ONNX Runtime, its own int8 arithmetic off."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run_tract(tnq, path, folder, inputs):
    """A model's outputs in tract."""
    out = folder / f"{path.stem}.npz"
    tnq("run", path, "--input", inputs, "-o", out, "--quiet", "--force")
    with np.load(out) as arrays:
        return dict(arrays)


def distance(got, want):
    """The largest relative L2 over outputs, and where it is."""
    assert sorted(got) == sorted(want)
    worst = (0.0, "")
    for name in want:
        if np.asarray(want[name]).size:
            worst = max(worst, (relative_l2(got[name], want[name]), name))
    return worst


@pytest.mark.parametrize(("name", "setting"), RUNS, ids=[f"{name}-{setting}" for name, setting in RUNS])
def test_a_compressed_model_is_its_dense_reconstruction(name, setting, made, tnq, tmp_path):
    before = made(name)
    case, model = before.case, before.model
    assert (before.checked is None) == (case.checker is None), f"onnx.checker of the original: {before.checked}"
    assert (case.checker or "") in (before.checked or "")
    assert (before.ort is None) == (case.ort is None), f"ONNX Runtime on the original: {before.ort}"
    assert (case.ort or "") in (before.ort or "")

    out, reference = tmp_path / "out.onnx", tmp_path / "reference.onnx"
    options = [*SETTINGS[setting].split(), "--json", "--reference", reference]
    if (before.folder / "weights.bin").exists():
        options.append("--external-data")
    report = json.loads(tnq("compress", before.path, "-o", out, *options))
    dense = onnx.load(reference)
    after = onnx.load(out)

    check_report(case, setting, before, report, out)
    assert changes(model, after) == []
    refused = refusal(lambda: onnx.checker.check_model(str(out), full_check=True))
    assert (refused is None) == (case.checker is None), f"onnx.checker: {refused}"
    check_errors(model, dense, report)

    if case.ort is None:
        got, want = run_ort(out, before.inputs), run_ort(reference, before.inputs)
        error, where = distance(got, want)
        assert error <= case.tolerance, f"ONNX Runtime, `{where}`: {error:.2e} from the dense reconstruction"
    if case.tract is None:
        assert report["verification"] is not None, f"tract: {report['unverified']}"
        data = before.folder / "in.npz"
        tract = run_tract(tnq, out, tmp_path, data)
        error, where = distance(tract, run_tract(tnq, reference, tmp_path, data))
        assert error <= case.tolerance, f"tract, `{where}`: {error:.2e} from the dense reconstruction"
        if case.ort is None and case.engines_differ is None:
            error, where = distance(tract, got)
            assert error <= max(ENGINES, case.tolerance), f"`{where}`: tract is {error:.2e} from ONNX Runtime"
    else:
        assert report["verification"] is None, "tract runs it: take the note out of the case"
        assert case.tract in report["unverified"], report["unverified"]
    if setting == case.settings[0]:
        check_snapshot(case, report, after)


def check_report(case, setting, before, report, out):
    """Every weight is accounted for, and the file is not larger."""
    written = sum(path.stat().st_size for path in out.parent.iterdir() if path.name.startswith(out.name))
    assert report["bytes"]["after"] == written
    assert report["bytes"]["after"] <= report["bytes"]["before"]
    rewritten = {weight["name"]: weight for weight in report["weights"]}
    skipped = {weight["name"]: weight["reason"] for weight in report["skipped"]}
    known = [weight["name"] for weight in before.inspection["weights"]]
    assert sorted(known) == sorted([*rewritten, *skipped])
    if case.becomes is not None and setting == "dense-8":
        assert set(rewritten) == case.becomes, skipped
    for weight, reason in case.stays.items():
        assert reason in skipped[weight], skipped[weight]


def check_errors(model, dense, report):
    """The reported errors are those of the matrices, found here again from the two files."""
    originals = {tensor.name: tensor for tensor in model.graph.initializer}
    for weight in report["weights"]:
        original = originals.get(weight["name"])
        found = [t for t in dense.graph.initializer if t.name in (weight["name"], f"{weight['name']}/reference")]
        if original is None or len(found) != 1:
            continue
        was = numpy_helper.to_array(original).astype(np.float64)
        became = numpy_helper.to_array(found[0]).astype(np.float64)
        if was.shape != became.shape:
            continue
        norm = np.linalg.norm(was)
        error = np.linalg.norm(became - was) / norm if norm else 0.0
        assert abs(error - weight["error"]) <= 1e-3 * error + 1e-6, f"{weight['name']}: {error}, reported {weight['error']}"


def check_snapshot(case, report, after):
    """The structure of what was written, and what became of each weight."""
    lines = [f"{case.covers}; {SETTINGS[case.settings[0]] or 'no options'}"]
    for weight in report["weights"]:
        lines.append(f"{weight['name']}: {weight['op']} {weight['shape']} becomes {weight['format']}")
    lines += [f"{weight['name']}: {weight['op']} {weight['shape']} stays: {weight['reason']}" for weight in report["skipped"]]
    if report["verification"] is None:
        lines.append(f"tract: {report['unverified'].replace(report['input'], 'the model')}")
    found = "\n".join(lines) + "\n\n" + text(after)
    path = SNAPSHOTS / f"{case.name}.txt"
    if os.environ.get("TNQ_SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert path.exists(), f"{path} is missing: see above how it is written"
    assert path.read_text() == found, f"{path} differs: see above how it is written anew"


def test_the_corpus_is_large_enough_and_has_no_stale_snapshots():
    assert len(CASES) >= 60
    assert {path.stem for path in SNAPSHOTS.iterdir()} <= set(CASES)


def test_what_an_engine_refuses_is_listed(capsys):
    """The list of models that one engine does not run, for the log."""
    with capsys.disabled():
        print()
        for case in CASES.values():
            for engine, problem in (("tract", case.tract), ("ONNX Runtime", case.ort), ("onnx.checker", case.checker)):
                if problem is not None:
                    print(f"  {engine} refuses {case.name} ({case.covers}): {problem or 'see its snapshot'}")
