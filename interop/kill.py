"""`kill -9` at random moments of `tnq compress` and `tnq finetune` on the digits example. After every kill each file is absent or
whole; the same command, given again in the same folder, goes on from what is kept and ends with the bytes of a run that nothing
disturbed.

  python3 interop/kill.py [--kills 200] [--seed 0] [--jobs goal,finetune,...]

`--kills` are those of every job. `TNQ_BIN` names the binary, default target/debug/tnq.
"""
import argparse
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TNQ = os.environ.get("TNQ_BIN", ROOT / "target/debug/tnq")
DIGITS = ROOT / "examples/digits"
MODEL, CALIB, TRAIN = (DIGITS / name for name in ("model.onnx", "calib.npz", "train.npz"))
TRAINING = ["--steps", "20", "--threads", "1", "--checkpoint", "run.safetensors"]
TT = ["--format", "tt", "--ranks", "4", "--bits", "4"]

# The arguments of each job, and what it keeps to go on from: a folder of finished jobs, a checkpoint, or nothing.
JOBS = {
    "format": (["compress", MODEL, "--format", "low-rank", "--ranks", "8"], None),
    "goal": (["compress", MODEL, "--calib", CALIB, "--target-size", "12x"], "out.onnx.jobs"),
    "external": (["compress", MODEL, "--format", "dense", "--external-data"], None),
    "finetune": (["finetune", MODEL, "student.onnx", "--data", TRAIN, *TRAINING], "run.safetensors"),
    "compress-finetune": (["compress", MODEL, *TT, "--finetune", TRAIN, *TRAINING], "run.safetensors"),
}

# Kills in one folder, one run after the other, before a run is left alone.
IN_A_ROW = 3


def command(job):
    return [TNQ, *JOBS[job][0], "-o", "out.onnx", "--force", "--quiet"]


def start(job, folder):
    return subprocess.Popen(command(job), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def to_the_end(job, folder):
    run = start(job, folder)
    _, said = run.communicate()
    assert run.returncode == 0, f"{job}: exit {run.returncode}\n{said.decode()}"


def written(folder):
    """The files that a job promises to write whole, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("out.onnx*") if path.is_file()}


class Folder(tempfile.TemporaryDirectory):
    """A folder with what a job reads from it."""

    def __init__(self, student):
        super().__init__()
        self.path = Path(self.name)
        (self.path / "student.onnx").write_bytes(student)


def check(job, kills, pick, student):
    with Folder(student) as name:
        folder = Path(name)
        began = time.monotonic()
        to_the_end(job, folder)
        took, whole = time.monotonic() - began, written(folder)
    state = JOBS[job][1]
    killed = finished = kept = ends = left = 0
    while killed < kills:
        with Folder(student) as name:
            folder = Path(name)
            for k in range(min(IN_A_ROW, kills - killed)):
                run, began = start(job, folder), time.monotonic()
                try:
                    _, said = run.communicate(timeout=pick.uniform(0, 1.05 * took))
                    assert run.returncode == 0, f"{job}, after {killed} kills: {said.decode()}"
                    finished += 1
                    # What a whole run takes now; the machine may have had more to do before.
                    took = time.monotonic() - began if k == 0 else took
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.communicate()
                    killed += 1
                    kept += state is not None and (folder / state).exists()
                found = written(folder)
                for file, data in found.items():
                    assert whole.get(file) == data, f"{job}, kill {killed}: {file} is partial or another"
                if "out.onnx" in found:
                    assert found.keys() == whole.keys(), f"{job}, kill {killed}: the model came before its data"
                    (folder / "out.onnx").unlink()
            left += len(list(folder.rglob(".tnq-*")))
            to_the_end(job, folder)
            ends += 1
            assert written(folder) == whole, f"{job}, kill {killed}: the run that followed made other bytes"
    print(
        f"{job}: {killed} killed at any moment of a run of {took:.1f} s, {finished} ended before; {kept} kills left something to go on from; "
        f"{ends} runs that followed ended, with the same bytes; {left} temporary files left behind",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default=",".join(JOBS))
    args = parser.parse_args()
    pick = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        student = Path(folder) / "student.onnx"
        subprocess.run([TNQ, "compress", MODEL, *TT, "-o", student, "--quiet"], check=True, stdout=subprocess.DEVNULL)
        student = student.read_bytes()
    for job in args.jobs.split(","):
        check(job, args.kills, pick, student)


if __name__ == "__main__":
    main()
