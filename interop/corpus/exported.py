"""Models as exporters wrote them: see export.py, which made the files."""
from pathlib import Path

from .case import CASES, Case

FOLDER = Path(__file__).parent / "exported"
# What is known about some of them.
KNOWN = {
    # tf2onnx 1.17.0 leaves an operator in it that ONNX does not have.
    "keras-export": {"checker": "Erfc", "ort": "Erfc", "tract": "Erfc"},
    "skl2onnx-pipeline": {"tract": "Scaler"},
    "onnxmltools-lightgbm": {"engines_differ": "tract's TreeEnsembleClassifier gives other labels"},
    "onnxruntime-nbits": {"tolerance": 1e-3},
    "torchscript-recurrent": {"tract": "Clashing resolution"},
}
for _path in sorted(FOLDER.glob("*.onnx")):
    CASES[f"exported-{_path.stem}"] = Case(
        f"exported-{_path.stem}", lambda _, path=_path: path.read_bytes(), f"exporter: {_path.stem}", settings=("dense-8", "auto"),
        sizes={"sequence": 6}, **KNOWN.get(_path.stem, {}))
