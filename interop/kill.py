"""`kill -9` at random moments of `tnq compress` on the digits example: the output is absent or whole, and the run that follows
makes the same bytes.

  python3 interop/kill.py [KILLS] [SEED]

`TNQ_BIN` names the binary, default target/debug/tnq.
"""
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TNQ = os.environ.get("TNQ_BIN", ROOT / "target/debug/tnq")
DIGITS = ROOT / "examples/digits"
JOBS = {
    "rules": ["--format", "low-rank", "--ranks", "8"],
    "goal": ["--calib", DIGITS / "calib.npz", "--target-size", "12x"],
    "external data": ["--format", "dense", "--external-data"],
}


def command(job, out):
    return [TNQ, "compress", DIGITS / "model.onnx", "-o", out, "--force", "--quiet", *JOBS[job]]


def files(folder):
    """Every file of a folder but temporary ones and kept jobs, by name."""
    paths = (path for path in folder.iterdir() if path.is_file() and not path.name.endswith(".partial"))
    return {path.name: path.read_bytes() for path in paths}


def main(kills=200, seed=0):
    pick = random.Random(seed)
    whole, took = {}, {}
    for job in JOBS:
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            subprocess.run(command(job, Path(folder) / "out.onnx"), check=True, stdout=subprocess.DEVNULL)
            took[job], whole[job] = time.monotonic() - start, files(Path(folder))
    killed = finished = left = 0
    for k in range(kills):
        job = list(JOBS)[k % len(JOBS)]
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            run = subprocess.Popen(command(job, folder / "out.onnx"), stdout=subprocess.DEVNULL)
            try:
                run.wait(timeout=pick.uniform(0, 1.05 * took[job]))
                finished += 1
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                killed += 1
            found = files(folder)
            left += len(list(folder.glob(".tnq-*.partial")))
            for name, data in found.items():
                assert whole[job].get(name) == data, f"{job}, kill {k}: {name} is partial"
            if "out.onnx" in found:
                assert found.keys() == whole[job].keys(), f"{job}, kill {k}: the model came before its data"
            if k % 10 == 0:
                subprocess.run(command(job, folder / "out.onnx"), check=True, stdout=subprocess.DEVNULL)
                assert files(folder) == whole[job], f"{job}, kill {k}: the next run made other bytes"
    print(f"{killed} killed, {finished} finished before; no partial output; {left} temporary files left behind")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
