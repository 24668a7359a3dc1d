"""The page of `--report` in headless Chromium: what it loads, what it complains about, and whether its plots hold the numbers
of the JSON. Skipped, visibly, where no Chromium is installed (Debian: `apt-get install chromium`; `CHROMIUM` names another).
"""
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from conftest import ROOT

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --hide-scrollbars"
).split()


def browser():
    names = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    return found or pytest.skip("no Chromium is installed")


class Server:
    """Serves one page on this machine and remembers every request, whatever for."""

    def __init__(self, page):
        requests = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                requests.append(self.path)
                self.send_response(200 if self.path == "/page.html" else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(page if self.path == "/page.html" else b"")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/page.html"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()


def opened(page, folder):
    """Open a page in Chromium: its DOM, what it asked for over the network, what its console says."""
    net = folder / "net.json"
    with Server(page) as server:
        done = subprocess.run(
            [
                browser(),
                *FLAGS,
                f"--user-data-dir={folder / 'profile'}",
                f"--log-net-log={net}",
                "--enable-logging=stderr",
                "--virtual-time-budget=2000",
                "--dump-dom",
                server.url,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        requests = list(server.requests)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    # Only what a page starts has an origin as its initiator; what the browser does for itself has none.
    started = re.findall(r'"initiator":"(https?:[^"]*)"[^{}]*"url":"([^"]*)"', net.read_text())
    return done.stdout, requests, [url for _, url in started], console


class Marks(HTMLParser):
    """The `data-` attributes of a page with the classes of their elements, by the weight whose card they stand in."""

    def __init__(self, dom):
        super().__init__()
        self.found, self.weight, self.text = [], None, []
        self.feed(dom)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.weight = attributes.get("data-weight", self.weight)
        if any(name.startswith("data-") for name in attributes):
            self.found.append((self.weight, tag, attributes))

    def of(self, name, weight=None):
        """Attributes of the elements of a class (or tag), of one weight's card or of any."""
        return [
            attributes
            for card, tag, attributes in self.found
            if name in [tag, *attributes.get("class", "").split()] and weight in (None, card)
        ]


def points(elements):
    return [(float(e["data-x"]), float(e["data-y"])) for e in elements]


def close(numbers):
    """Equal but for the last bit: decimals are read back by another program."""
    return pytest.approx(numbers, rel=1e-15)


def check_page(result, page, folder):
    dom, requests, started, console = opened(page, folder)
    assert "</html>" in dom
    assert console == []
    assert requests == ["/page.html"]
    assert started == []

    marks = Marks(dom)
    bars = {bar["data-name"]: (int(bar["data-before"]), int(bar["data-after"])) for bar in marks.of("bytes")}
    assert bars == {w["name"]: (w["bytes_before"], w["bytes_after"]) for w in result["weights"]}
    for weight in result["weights"]:
        assert all(text in dom.replace("<wbr>", "") for text in [weight["nodes"][0], weight["name"]])
        if "error_histogram" in weight:
            found = marks.of("bar", weight["name"])
            counts, edges = weight["error_histogram"]["counts"], weight["error_histogram"]["edges"]
            assert [int(bar["data-count"]) for bar in found] == counts
            assert [float(bar["data-from"]) for bar in found] == close(edges[:-1])
            assert [float(bar["data-to"]) for bar in found] == close(edges[1:])
        if "spectrum" in weight:
            (line,) = marks.of("spectrum", weight["name"])
            want = zip(weight["spectrum"]["index"], weight["spectrum"]["value"])
            got = [tuple(map(float, point.split(","))) for point in line["data-points"].split()]
            assert got == [close((index, max(value, 1e-8))) for index, value in want]
    seen = result.get("tradeoff")
    if seen:
        curve = [(p["bytes"], p["predicted_loss"]) for p in seen["curve"]]
        curve_marks = [mark for mark in marks.of("curve") if "data-x" in mark]
        assert points(curve_marks) == [close(point) for point in curve if point[1] > 0]
        baselines = [(p["bytes"], p["predicted_loss"]) for p in seen["baselines"]]
        assert points(marks.of("baseline")) == list(map(close, baselines))
        tried = [(p["bytes"], p["verified_loss"]) for p in seen["tried"]]
        assert points(marks.of("tried")) == list(map(close, tried))
        assert points(marks.of("chosen")) == [close((result["bytes"]["after"], result["goal"]["verified_loss"]))]
    if "finetune" in result:
        curve = [(e["step"], e["loss"]) for e in result["finetune"]["curve"]]
        evaluated = [mark for mark in marks.of("training") if "data-x" in mark]
        assert points(evaluated) == list(map(close, curve))


DIGITS = "examples/digits"


@pytest.mark.parametrize(
    "flags",
    [
        ["--target-size", "16x"],
        ["--format", "low-rank", "--layer", "fc3=keep"],
    ],
    ids=["goal", "rules"],
)
def test_compress(tnq, tmp_path, flags):
    page = tmp_path / "page.html"
    out = tnq(
        "compress", f"{DIGITS}/model.onnx", "-o", tmp_path / "small.onnx", "--calib", f"{DIGITS}/calib.npz",
        "--report", page, "--json", "--quiet", *flags,
    )
    result = json.loads(out)
    check_page(result, page.read_bytes(), tmp_path)
    # The page can be made again from the JSON alone.
    saved, again = tmp_path / "result.json", tmp_path / "again.html"
    saved.write_text(out)
    tnq("report", saved, "-o", again)
    assert again.read_bytes() == page.read_bytes()


def test_minilm(tnq, tmp_path):
    """The page of a transformer: 38 weights, of which most unfold. Its result is kept, as the run takes minutes:

    tnq compress ../shared/models/minilm-l6.onnx -o small.onnx --calib ../shared/data/stsb/calib.npz --target-size 8MB --report page.html --json
    """
    result, page = ROOT / "interop/data/minilm-8mb.json", tmp_path / "page.html"
    tnq("report", result, "-o", page)
    check_page(json.loads(result.read_text()), page.read_bytes(), tmp_path)


def test_finetune(tnq, tmp_path):
    page = tmp_path / "page.html"
    tnq("compress", f"{DIGITS}/model.onnx", "-o", tmp_path / "small.onnx", "--format", "low-rank", "--ranks", 4, "--quiet")
    result = tnq(
        "finetune", f"{DIGITS}/model.onnx", tmp_path / "small.onnx", "-o", tmp_path / "tuned.onnx",
        "--data", f"{DIGITS}/train.npz", "--steps", 60, "--report", page, "--json", "--quiet",
    )
    result = json.loads(result)
    assert len(result["finetune"]["curve"]) > 1
    check_page({"weights": [], **result}, page.read_bytes(), tmp_path)


def test_names_from_strangers_stay_text(tnq, tmp_path):
    """A weight whose name is markup: it must be read, and must not run, load or change the page."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    name = "<img src=/stolen onerror=alert(1)></title></svg><script>fetch('/stolen')</script>\"'"
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((64, 64)).astype(np.float32), name)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], ["y"], name=name + "node")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "evil.onnx")
    page = tmp_path / "page.html"
    tnq("compress", tmp_path / "evil.onnx", "-o", tmp_path / "o.onnx", "--format", "dense", "--report", page, "--quiet")
    dom, requests, started, console = opened(page.read_bytes(), tmp_path)
    assert (requests, started, console) == (["/page.html"], [], [])
    names = {bar["data-name"] for bar in Marks(dom).of("bytes")}
    assert names == {name}
