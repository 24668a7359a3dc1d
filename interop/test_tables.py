"""Tables as trains refuse what tables refuse: an index that is no row is an error in ONNX Runtime before and after."""
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from corpus.case import INT32, INT64, info, model, node, weight

ROWS, SIZE = 211, 32


@pytest.mark.parametrize("dtype", [INT32, INT64], ids=["int32", "int64"])
def test_an_index_outside_a_table_is_an_error(dtype, tnq, tmp_path):
    table = weight(ROWS, SIZE)
    made = model([node("Gather", "table ids", "y")], [info("ids", "n", dtype=dtype)], [info("y", "n", SIZE)], {"table": table})
    before, after = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(made, before)
    tnq("compress", before, "-o", after, "--format", "tt", "--modes", "4x4x2:6x6x6", "--ranks", 6)
    assert len(onnx.load(after).graph.node) > 1
    kind = np.int32 if dtype == INT32 else np.int64

    def run(path, index):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"ids": np.array([index], kind)})[0]

    # 216 rows are stored; 211 to 215 are padding.
    outside = [ROWS, 215, 216, -ROWS - 1, -216, -217, 2**31 - 1, -(2**31)] + ([2**40, -(2**40), 2**63 - 1, -(2**63)] if dtype == INT64 else [])
    for index in outside:
        for path in (before, after):
            with pytest.raises(Exception, match="(?i)out of|bounds|range"):
                run(path, index)
    for index in (0, 100, ROWS - 1):
        assert np.array_equal(run(after, index), run(after, index - ROWS))
